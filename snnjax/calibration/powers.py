r"""What a neuron's input does to its membrane, measured: the powers that exact data-driven initialization needs.

The formulas of `snnjax.theory` assume stationary, independent Poisson input. For weights drawn independently with mean mu_w and standard deviation
sigma_w no assumption on the input is needed. Let h_j(t) be the spike train of input j filtered by the neuron's own kernel (the membrane that one
spike train moves through a weight of 1, without threshold). Over trials, <.>, and with time mean and variance taken within a trial,

    P     = < sum_j Var_t h_j >             temporal power          E_W[ Var_t U ]  = sigma_w^2 P + mu_w^2 P_sum
    Q     = < sum_j (mean_t h_j)^2 >        quenched power          Var_W[ mean_t U ] = sigma_w^2 Q
    P_sum = < Var_t sum_j h_j >                                     mean U          = mu_w M
    M     = < sum_j mean_t h_j >

so that, for connections c that share the variance (share_c, as in `snnjax.theory`),

    mu_w = mu_u / sum_c M_c         sigma_w,c^2 = share_c (sigma_u^2 - mu_w^2 P_sum) / P_c

For Poisson input P tends to n nu ehat, Q to n (nu ebar)^2, and this is the paper's formula.

Balance: subtracting each neuron's mean weight removes what all its inputs have in common, most of the quenched spread. Such weights see
h_j - mean_j h_j alone, and a sample of n weights loses one degree of freedom: P and Q are those of the centred h, times n / (n - 1),

    P <- n/(n-1) < sum_j Var_t h_j - Var_t(sum_j h_j) / n >         Q <- n/(n-1) < sum_j (mean_t h_j)^2 - (mean_t sum_j h_j)^2 / n >

Convolution: the sums run over the inputs of one output position, <.> also over positions (the kernel is shared); inputs in the padding are silent.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.datasets import BatchSource, EventDataset
from snnjax.dynamics import simulate
from snnjax.initializers import Initializer, fan_in
from snnjax.sparse import as_dense
from snnjax.theory import WeightStatistics

_NO_THRESHOLD = 1e30


class InputPowers(NamedTuple):
    """P, Q, M and P_sum of a connection's input, scalars; `n` inputs of one neuron; `balanced`: P and Q are those that zero-sum weights see."""

    temporal: jax.Array
    quenched: jax.Array
    mean: jax.Array
    summed: jax.Array
    n: int
    balanced: bool = False


def free_membrane(neuron: Any, drive: jax.Array) -> jax.Array:
    """The membrane (time, batch, units) of `neuron` without threshold and so without reset, under `drive` of that shape.

    >>> from snnjax.dynamics import LIF
    >>> bool(free_membrane(LIF(), jnp.full((200, 1, 1), 1.0)).max() > 5)
    True
    """
    trace = simulate(
        dataclasses.replace(neuron, theta=_NO_THRESHOLD), drive, membrane=True
    ).membrane
    assert trace is not None
    return trace


def filtered(x: jax.Array, neuron: Any) -> jax.Array:
    """h: every input train (time, batch, n) as the membrane it moves through a weight of 1 in a neuron without threshold; the same shape.

    >>> from snnjax.dynamics import LIF
    >>> h = filtered(jnp.zeros((100, 1, 2)).at[0, 0, 0].set(1.0), LIF())
    >>> h.shape, int(h[:, 0, 0].argmax()), float(h[:, 0, 1].max())
    ((100, 1, 2), 8, 0.0)
    """
    if not hasattr(neuron, "theta"):  # a readout never spikes: its output is its membrane
        return simulate(dataclasses.replace(neuron, initial=0.0), x).output
    return free_membrane(neuron, x)


def input_powers(
    x: jax.Array,
    neuron: Any,
    *,
    balance: bool = False,
    gather: Callable[[jax.Array], jax.Array] | None = None,
    n: int | None = None,
) -> InputPowers:
    """Powers of the input x (time, batch, ...features) as seen by `neuron`.

    Args:
      x: spike counts, or any signal, time-major.   neuron: a model with `theta` and one synaptic current.
      balance: powers for weights whose sum over the inputs of a neuron is zero.
      gather: sums over the inputs of each neuron, (..., batch, ...features) -> (..., batch, *positions, 1), linear: for a convolution the one
        with a kernel of ones. None: all features are inputs of every neuron.   n: inputs of one neuron; needed with `gather`.

    >>> from snnjax.dynamics import LIF
    >>> from snnjax.datasets import poisson_raster
    >>> x = poisson_raster(jax.random.key(0), (2000, 1, 100), rate=10.0, dt=2e-3)
    >>> powers = input_powers(x, LIF(dt=2e-3))
    >>> 1.9 < float(powers.temporal) < 2.1      # n nu ehat = 2.04
    True
    """
    _check.time_major("x", x)
    if gather is None:
        gather, n = functools.partial(jnp.sum, axis=-1, keepdims=True), x.shape[-1]
    n = _check.integer("n", n, at_least=1)
    if balance and n < 2:
        raise ValueError(
            f"balance needs at least 2 inputs a neuron, got {n} for x of shape {x.shape}"
        )
    h = filtered(as_floats(x), neuron)
    total = gather(h)
    temporal, quenched = gather(h.var(axis=0)), gather(jnp.square(h.mean(axis=0)))
    summed = total.var(axis=0)
    if balance:
        scale = n / (n - 1)
        temporal = scale * _difference(temporal, summed / n)
        quenched = scale * _difference(quenched, jnp.square(total.mean(axis=0)) / n)
    return InputPowers(temporal.mean(), quenched.mean(), total.mean(), summed.mean(), n, balance)


def as_floats(x: jax.Array) -> jax.Array:
    """Spikes of any type as at least float32: 16 bits cannot hold a membrane. An `EventRaster` becomes an array."""
    _check.time_major("x", x)
    return _check.as_wide(as_dense(x))


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b >= 0, and exactly 0 where rounding is all that is left: inputs that are all the same give zero-sum weights nothing."""
    return jnp.where(a - b > 100 * jnp.finfo(a.dtype).eps * a, a - b, 0)


def source_powers(
    source: BatchSource, neuron: Any, *, batch_size: int = 100, balance: bool = False
) -> InputPowers:
    """Powers of a whole data set as the input of a dense layer, batch by batch on the device: no raster larger than one batch is made.

    Args:
      source: `DeviceEvents` or another `BatchSource` whose batches are (time, batch, n).   neuron, balance: as in `input_powers`.
      batch_size: samples at a time.

    Raises:
      ValueError: the time step of `source` is known and is not the neuron's.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.dynamics import LIF
    >>> data = DeviceEvents.put(randman(n_samples=20), dt=2e-3)
    >>> whole = input_powers(data.batch(jnp.arange(200))[0], LIF())
    >>> parts = source_powers(data, LIF(), batch_size=64)
    >>> bool(jnp.allclose(parts.temporal, whole.temporal, rtol=1e-5)), parts.n
    (True, 20)
    """
    if isinstance(source, EventDataset):
        raise TypeError(
            "source must be on the device, got an EventDataset; use DeviceEvents.put(data, dt=...)"
        )
    if (dt := getattr(neuron, "dt", None)) is not None:
        _check.same_dt("source", source, dt)
    size = min(_check.integer("batch_size", batch_size, at_least=1), len(source))
    n = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))[0].shape[-1]
    whole = len(source) // size

    def measure(source: Any, indices: jax.Array) -> jax.Array:
        return jnp.stack(input_powers(source.batch(indices)[0], neuron, balance=balance)[:4])

    @jax.jit
    def over_batches(source: Any) -> jax.Array:
        means = jax.lax.map(
            lambda i: measure(source, i), jnp.arange(whole * size).reshape(whole, size)
        )
        total = size * means.sum(axis=0)
        if rest := len(source) - whole * size:
            total += rest * measure(source, jnp.arange(whole * size, len(source)))
        return total / len(source)

    temporal, quenched, mean, summed = over_batches(source)
    return InputPowers(temporal, quenched, mean, summed, n, balance)


def weights_from_powers(
    powers: Sequence[InputPowers], shares: Sequence[Any], *, sigma_u: Any, mu_u: Any = 0.0
) -> list[WeightStatistics]:
    """Mean and standard deviation of the weights of all the connections of a layer.

    Args:
      powers: of each connection's input.   shares: fraction of the variance that each carries; together 1.
      sigma_u, mu_u: target standard deviation (in time, within a trial) and mean of the membrane.

    Returns:
      One `WeightStatistics` a connection. NaN where no weights exist: the input is silent, or mu_u alone moves the membrane by more than sigma_u.

    >>> one = InputPowers(*(jnp.asarray(v) for v in (4.0, 1.0, 10.0, 50.0)), n=100)
    >>> (w,) = weights_from_powers([one], [1.0], sigma_u=1.0)
    >>> float(w.mu_w), float(w.sigma_w)
    (0.0, 0.5)
    """
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("mu_u", mu_u)
    if len(powers) != len(shares):
        raise ValueError(
            f"shares must be one a connection, got {len(shares)} for {len(powers)} connections"
        )
    mu_w = mu_u / sum(p.mean for p in powers) if _nonzero(mu_u) else 0.0 * powers[0].mean
    # the summed inputs of two connections are taken as uncorrelated; exact for one connection, and for mu_u = 0
    left = sigma_u**2 - mu_w**2 * sum(p.summed for p in powers)
    return [
        WeightStatistics(
            mu_w, jnp.sqrt(share * left / jnp.where(p.temporal > 0, p.temporal, jnp.nan))
        )
        for p, share in zip(powers, shares, strict=True)
    ]


def _nonzero(value: Any) -> bool:
    known = _check.concrete(value)
    return known is None or bool((known != 0).any())


def data_driven(
    powers: InputPowers, *, sigma_u: Any = 1.0, mu_u: Any = 0.0, share: Any = 1.0
) -> Initializer:
    """Initializer `(key, shape, dtype)` of one connection whose input has the given powers: for Linen or plain JAX code.

    Args:
      powers: from `input_powers` or `source_powers`; `balanced` ones draw weights whose sum over the inputs of each neuron is zero.
      sigma_u, mu_u: target standard deviation (in time, within a trial) and mean of the membrane, to which this connection contributes
        the fraction `share` of the variance; mu_u other than 0 is for neurons with this one connection.

    Raises:
      ValueError: the input is silent, sigma_u is too small for mu_u, or (when called) the shape's fan-in is not that of the powers.

    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.dynamics import LIF
    >>> x = poisson_raster(jax.random.key(0), (500, 4, 100), rate=10.0, dt=2e-3)
    >>> w = data_driven(input_powers(x, LIF(), balance=True), sigma_u=1.0)(jax.random.key(1), (100, 64))
    >>> u = free_membrane(LIF(), x @ w)
    >>> f"{float(jnp.sqrt(u.var(axis=0).mean())):.1f}", bool(abs(w.sum(axis=0)).max() < 1e-4)
    ('1.0', True)
    """
    _check.number("share", share, above=0, at_most=1)
    (weights,) = weights_from_powers([powers], [share], sigma_u=sigma_u, mu_u=mu_u)
    known = _check.concrete(weights.sigma_w)
    if known is not None and not jnp.isfinite(known).all():
        if _check.concrete(powers.temporal) == 0:
            raise ValueError(
                "powers must be those of an input that spikes, got a temporal power of 0"
            )
        raise ValueError(
            f"sigma_u = {sigma_u} has no weights at mu_u = {mu_u}: the mean alone moves the membrane by more. Raise sigma_u or lower |mu_u|"
        )

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if fan_in(shape) != powers.n:
            raise ValueError(
                f"shape must have {powers.n} inputs, as many as the powers were measured for, got {tuple(shape)}"
            )
        return (
            weights.mu_w + weights.sigma_w * standard_weights(key, shape, balance=powers.balanced)
        ).astype(dtype)

    return init


def standard_weights(
    key: jax.Array, shape: Sequence[int], *, balance: bool, dtype: Any = jnp.float32
) -> jax.Array:
    """Normal weights of mean 0 and variance 1, drawn in at least float32.

    Args:
      key: A random key.
      shape: (..., in, out).
      balance: Whether the weights of each neuron, over all axes but the last, have zero sum.
      dtype: The type of the parameter that they are for; 16 bits give float32.

    Returns:
      The weights, of the given shape.
    """
    g = jax.random.normal(key, tuple(shape), _check.wide(dtype))
    n = g.size // g.shape[-1]
    # a sample's mean takes one degree of freedom
    return (g - g.mean(axis=tuple(range(g.ndim - 1)))) * (n / (n - 1)) ** 0.5 if balance else g
