r"""Measured powers of a neuron's input, from which exact data-driven initialization follows.

The formulas of `snnjax.theory` assume stationary, independent Poisson input. For weights that are
drawn independently with mean mu_w and standard deviation sigma_w, no assumption on the input is
needed. Let h_j(t) be the spike train of input j, filtered by the neuron's own kernel. (This is the
membrane that the train drives through a weight of 1, without threshold.) <.> is the mean over
trials. The mean and the variance in time are taken within a trial, over its own steps.

    P     = < sum_j Var_t h_j >             temporal power
    Q     = < sum_j (mean_t h_j)^2 >        quenched power
    P_sum = < Var_t sum_j h_j >
    M     = < sum_j mean_t h_j >

    E_W[ Var_t U ]    = sigma_w^2 P + mu_w^2 P_sum
    Var_W[ mean_t U ] = sigma_w^2 Q
    mean U            = mu_w M

For connections c that share the variance (share_c, as in `snnjax.theory`), it follows that

    mu_w = mu_u / sum_c M_c
    sigma_w,c^2 = share_c (sigma_u^2 - mu_w^2 P_sum) / P_c

For Poisson input P tends to n nu ehat and Q to n (nu ebar)^2; this is the paper's formula.

Balance: each neuron's mean weight is subtracted. This removes the common part of its inputs, which
is most of the quenched spread. Such weights depend only on h_j - mean_j h_j, and a sample of n
weights loses one degree of freedom. P and Q are those of the centred h, times n / (n - 1):

    P <- n/(n-1) < sum_j Var_t h_j - Var_t(sum_j h_j) / n >
    Q <- n/(n-1) < sum_j (mean_t h_j)^2 - (mean_t sum_j h_j)^2 / n >

Convolution: the sums run over the inputs of one output position. <.> is also a mean over positions,
because they share the kernel. Inputs in the padding are silent.

Bias: a bias b_i of neuron i adds b_i s(t) to its membrane, where s(t) is the membrane that a drive
of 1 in every step gives. <.> is here also a mean over neurons.

    mean U         = mu_w M + <b> mean_t s
    E_W[ Var_t U ] = sigma_w^2 P + mu_w^2 P_sum + 2 mu_w <b> C + <b^2> Var_t s
    C              = < Cov_t(sum_j h_j, s) >

The calibration keeps the biases and solves these equations for mu_w and sigma_w. The covariance and
the variance are those of the onset only: later, s is constant.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._random import draw
from snnjax._sparse import as_dense
from snnjax._timed import over_steps, untimed, variance_over_steps
from snnjax.datasets import BatchSource, EventDataset
from snnjax.dynamics import Neuron, simulate
from snnjax.dynamics._neuron import NO_THRESHOLD
from snnjax.initializers import Initializer, fan_in
from snnjax.theory import WeightStatistics


class InputPowers(NamedTuple):
    """Powers of the input of a connection.

    Attributes:
        temporal: P, a scalar.
        quenched: Q, a scalar.
        mean: M, a scalar.
        summed: P_sum, a scalar.
        n: Number of inputs per neuron.
        balanced: Whether P and Q are those for weights that sum to zero.
    """

    temporal: jax.Array
    quenched: jax.Array
    mean: jax.Array
    summed: jax.Array
    n: int
    balanced: bool = False


class BiasMoments(NamedTuple):
    """What the biases of a layer add to its membranes; scalars.

    Attributes:
        mean: <b> mean_t s.
        power: <b^2> Var_t s.
        covariance: <b> C, summed over all connections.
        quenched: Variance of b_i mean_t s over neurons.
    """

    mean: jax.Array
    power: jax.Array
    covariance: jax.Array
    quenched: jax.Array


def free_membrane(neuron: Neuron, drive: jax.Array) -> jax.Array:
    """Compute the membrane of `neuron` without threshold, and therefore without reset.

    Args:
        neuron: A neuron model with the field `theta`.
        drive: Input current, (time, batch, ...units).

    Returns:
        The membrane, (time, batch, ...units).

    >>> from snnjax.dynamics import LIF
    >>> bool(free_membrane(LIF(), jnp.full((200, 1, 1), 1.0)).max() > 5)
    True
    """
    free = neuron.with_parameters(theta=NO_THRESHOLD)
    trace = simulate(free, drive, membrane=True).membrane
    assert trace is not None
    return trace


def filtered(x: jax.Array, neuron: Neuron) -> jax.Array:
    """h: every input train, filtered by the kernel of the neuron.

    This is the membrane that the train drives through a weight of 1 in a neuron without threshold.

    Args:
        x: Input trains, (time, batch, n).
        neuron: The neuron model.

    Returns:
        The filtered trains, (time, batch, n).

    >>> from snnjax.dynamics import LIF
    >>> h = filtered(jnp.zeros((100, 1, 2)).at[0, 0, 0].set(1.0), LIF())
    >>> h.shape, int(h[:, 0, 0].argmax()), float(h[:, 0, 1].max())
    ((100, 1, 2), 8, 0.0)
    """
    if "theta" in neuron.parameters():
        return free_membrane(neuron, x)
    # a readout never spikes: its output is its membrane
    return simulate(neuron.with_parameters(initial=0.0), x).output


def input_powers(
    x: jax.Array | BatchSource,
    neuron: Neuron,
    *,
    balance: bool = False,
    gather: Callable[[jax.Array], jax.Array] | None = None,
    n: int | None = None,
    num_steps: jax.Array | None = None,
    batch_size: int = 100,
) -> InputPowers:
    """Measure the powers of the input `x`, filtered by the kernel of `neuron`.

    Args:
        x: Spike counts or any other signal, (time, batch, ...features). Or a whole data set on the
            device, as the input of a dense layer: `DeviceEvents` or another `BatchSource` whose
            batches are (time, batch, n). Its powers are computed batch by batch.
        neuron: A neuron model with one synaptic current.
        balance: Whether the powers are for weights that sum to zero over the inputs of a neuron.
        gather: A linear map that sums over the inputs of each neuron, (..., batch, ...features) ->
            (..., batch, *positions, 1). For a convolution it is the convolution with a kernel of
            ones. None: all features are inputs of every neuron.
        n: Number of inputs per neuron; required with `gather`.
        num_steps: Number of steps of each trial, integers (batch,); later steps do not count. None:
            all steps. A data set has its own.
        batch_size: Samples per batch of a data set.

    Returns:
        The powers.

    Raises:
        ValueError: `balance` with fewer than 2 inputs per neuron, n < 1, or a data set has a time
            step that differs from the neuron's.
        TypeError: A data set is not on the device.

    >>> from snnjax.dynamics import LIF
    >>> from snnjax.datasets import poisson_raster
    >>> x = poisson_raster(jax.random.key(0), (2000, 1, 100), rate=10.0, dt=2e-3)
    >>> powers = input_powers(x, LIF(dt=2e-3))
    >>> 1.9 < float(powers.temporal) < 2.1      # n nu ehat = 2.04
    True
    >>> from snnjax.datasets import DeviceEvents, randman
    >>> data = DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    >>> whole = input_powers(data.batch(jnp.arange(200))[0], LIF())
    >>> parts = input_powers(data, LIF(), batch_size=64)
    >>> bool(jnp.allclose(parts.temporal, whole.temporal, rtol=1e-5)), parts.n
    (True, 20)
    """
    if isinstance(x, BatchSource | EventDataset):
        return _of_source(x, neuron, batch_size=batch_size, balance=balance)
    _check.time_major("x", x)
    if gather is None:
        gather, n = functools.partial(jnp.sum, axis=-1, keepdims=True), x.shape[-1]
    n = _check.integer("n", n, at_least=1)
    if balance and n < 2:
        needed = "balance needs at least 2 inputs per neuron"
        raise ValueError(f"{needed}, got {n} for x of shape {x.shape}")
    h = filtered(as_floats(x), neuron)
    mean, total = over_steps(h, num_steps), gather(h)
    temporal = gather(variance_over_steps(h, num_steps))
    quenched, summed = gather(jnp.square(mean)), variance_over_steps(total, num_steps)
    of_total = gather(mean)
    if balance:
        scale = n / (n - 1)
        temporal = scale * _difference(temporal, summed / n)
        quenched = scale * _difference(quenched, jnp.square(of_total) / n)
    powers = (temporal, quenched, of_total, summed)
    return InputPowers(*(p.mean() for p in powers), n=n, balanced=balance)


def bias_moments(
    bias: jax.Array, neuron: Neuron, summed: jax.Array, num_steps: jax.Array | None = None
) -> BiasMoments:
    """Measure what the biases of a layer add to its membranes.

    Args:
        bias: Biases (units,).
        neuron: The neuron model.
        summed: Number of input spikes of a neuron in each step, the mean over neurons,
            (time, batch).
        num_steps: As in `input_powers`.

    Returns:
        The moments.

    >>> from snnjax.dynamics import LIF
    >>> found = bias_moments(jnp.array([0.5, 1.5]), LIF(tau_syn=10e-3), jnp.zeros((2000, 1)))
    >>> f"{found.mean:.2f}"  # nearly <b> / (1 - ls) = 5.52
    '5.47'
    """
    drives = jnp.stack([jnp.ones_like(summed), summed], axis=-1)
    s, h = jnp.moveaxis(filtered(as_floats(drives), neuron), -1, 0)
    mean = over_steps(s, num_steps)
    return BiasMoments(
        mean=bias.mean() * mean.mean(),
        power=jnp.square(bias).mean() * variance_over_steps(s, num_steps).mean(),
        covariance=bias.mean() * over_steps((s - mean) * h, num_steps).mean(),
        quenched=bias.var() * jnp.square(mean).mean(),
    )


def as_floats(x: jax.Array) -> jax.Array:
    """Spikes of any type as an array of at least float32, also those of an `EventRaster`.

    16 bits are not precise enough for a membrane.
    """
    _check.time_major("x", x)
    return _check.as_wide(as_dense(x))


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b >= 0, and exactly 0 where the difference is only rounding error.

    Weights that sum to zero have exactly no effect on identical inputs.
    """
    return jnp.where(a - b > 100 * jnp.finfo(a.dtype).eps * a, a - b, 0)


def _of_source(
    source: BatchSource | EventDataset, neuron: Neuron, *, batch_size: int, balance: bool
) -> InputPowers:
    """`input_powers` of a whole data set."""
    if isinstance(source, EventDataset):
        hint = "use DeviceEvents.from_dataset(data, dt=...)"
        raise TypeError(f"x must be on the device, got an EventDataset; {hint}")
    _check.same_dt("x", source, neuron.dt)
    size = min(_check.integer("batch_size", batch_size, at_least=1), len(source))
    n = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))[0].shape[-1]
    whole = len(source) // size

    def measure(source: BatchSource, indices: jax.Array) -> jax.Array:
        x, labels = source.batch(indices)
        steps = untimed(labels)[1]
        return jnp.stack(input_powers(x, neuron, balance=balance, num_steps=steps)[:4])

    @jax.jit
    def over_batches(source: BatchSource) -> jax.Array:
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
    powers: Sequence[InputPowers],
    shares: Sequence[Scalar],
    *,
    sigma_u: Scalar,
    mu_u: Scalar = 0.0,
    bias: BiasMoments | None = None,
) -> list[WeightStatistics]:
    """Mean and standard deviation of the weights of all connections of a layer.

    Args:
        powers: Powers of the input, one per connection.
        shares: Share of the variance that each connection carries; the shares sum to 1.
        sigma_u: Target standard deviation of the membrane in time, within a trial.
        mu_u: Target mean of the membrane.
        bias: What the biases of the layer add; None if it has none.

    Returns:
        One `WeightStatistics` per connection. NaN if no such weights exist: the input is silent, or
        the mean weight alone moves the membrane by more than sigma_u.

    Raises:
        ValueError: sigma_u <= 0, or the number of shares is not that of the connections.

    >>> one = InputPowers(*(jnp.asarray(v) for v in (4.0, 1.0, 10.0, 50.0)), n=100)
    >>> (w,) = weights_from_powers([one], [1.0], sigma_u=1.0)
    >>> float(w.mu_w), float(w.sigma_w)
    (0.0, 0.5)
    """
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("mu_u", mu_u)
    if len(powers) != len(shares):
        needed = "shares must be one per connection"
        raise ValueError(f"{needed}, got {len(shares)} for {len(powers)} connections")
    if bias is None:
        mu_w = mu_u / sum(p.mean for p in powers) if _nonzero(mu_u) else 0.0 * powers[0].mean
    else:
        missing = mu_u - bias.mean
        mu_w = jnp.where(missing == 0, 0.0, missing / sum(p.mean for p in powers))
    # assumes that the summed inputs of two connections are uncorrelated; this is exact for one
    # connection, and for mu_u = 0
    left = sigma_u**2 - mu_w**2 * sum(p.summed for p in powers)
    if bias is not None:
        left -= 2 * mu_w * bias.covariance + bias.power
    power = lambda p: jnp.where(p.temporal > 0, p.temporal, jnp.nan)
    pairs = zip(powers, shares, strict=True)
    return [WeightStatistics(mu_w, jnp.sqrt(share * left / power(p))) for p, share in pairs]


def _nonzero(value: Scalar) -> bool:
    known = _check.concrete(value)
    return known is None or bool((known != 0).any())


def data_driven(
    powers: InputPowers, *, sigma_u: Scalar = 1.0, mu_u: Scalar = 0.0, share: Scalar = 1.0
) -> Initializer:
    """Return an initializer of one connection, for Linen or plain JAX code, from measured powers.

    Args:
        powers: From `input_powers`. With `balanced` powers, the weights of each
            neuron sum to zero.
        sigma_u: Target standard deviation of the membrane in time, within a trial.
        mu_u: Target mean of the membrane. A value other than 0 is only for neurons with this one
            connection.
        share: Share of the variance that this connection carries, in (0, 1].

    Returns:
        The initializer `(key, shape, dtype)`.

    Raises:
        ValueError: The input is silent, or sigma_u is too small for mu_u. The initializer raises it
            if the fan-in of the shape is not that of the powers.

    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.dynamics import LIF
    >>> x = poisson_raster(jax.random.key(0), (500, 4, 100), rate=10.0, dt=2e-3)
    >>> init = data_driven(input_powers(x, LIF(), balance=True), sigma_u=1.0)
    >>> w = init(jax.random.key(1), (100, 64))
    >>> u = free_membrane(LIF(), x @ w)
    >>> f"{float(jnp.sqrt(u.var(axis=0).mean())):.1f}", bool(abs(w.sum(axis=0)).max() < 1e-4)
    ('1.0', True)
    """
    _check.number("share", share, above=0, at_most=1)
    (weights,) = weights_from_powers([powers], [share], sigma_u=sigma_u, mu_u=mu_u)
    known = _check.concrete(weights.sigma_w)
    if known is not None and not jnp.isfinite(known).all():
        if _check.concrete(powers.temporal) == 0:
            needed = "powers must be those of an input that spikes"
            raise ValueError(f"{needed}, got a temporal power of 0; measure them on other inputs")
        raise ValueError(
            f"sigma_u = {sigma_u} has no weights at mu_u = {mu_u}: the mean weight alone moves the "
            "membrane by more than sigma_u; raise sigma_u or lower |mu_u|"
        )

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        if fan_in(shape) != powers.n:
            needed = f"shape must have {powers.n} inputs, as the powers were measured for"
            raise ValueError(f"{needed}, got {tuple(shape)}")
        return (
            weights.mu_w + weights.sigma_w * standard_weights(key, shape, balance=powers.balanced)
        ).astype(dtype)

    return init


def standard_weights(
    key: jax.Array, shape: Sequence[int], *, balance: bool, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Normal weights of mean 0 and variance 1, drawn in at least float32.

    Args:
        key: A random key.
        shape: (..., in, out).
        balance: Whether the weights of each neuron, over all axes but the last, sum to zero.
        dtype: Data type of the parameter. For 16 bits the weights are float32.

    Returns:
        The weights, (..., in, out).
    """
    g = draw(jax.random.normal, key, shape, _check.wide(dtype))
    n = g.size // g.shape[-1]
    # subtracting the sample mean removes one degree of freedom
    return (g - g.mean(axis=tuple(range(g.ndim - 1)))) * (n / (n - 1)) ** 0.5 if balance else g
