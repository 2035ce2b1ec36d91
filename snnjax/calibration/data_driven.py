r"""Exact data-driven initialization: the weights that put the membrane on target for the input a layer really gets.

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
h_j - mean_j h_j alone, and a sample of n weights loses one degree of freedom: P and Q are those of the centred h, times n / (n - 1).

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.dynamics import simulate
from snnjax.theory import WeightStatistics

_NO_THRESHOLD = 1e30


class InputPowers(NamedTuple):
    """P, Q, M and P_sum of a layer's input, scalars; `n` is the number of inputs of one neuron."""

    temporal: jax.Array
    quenched: jax.Array
    mean: jax.Array
    summed: jax.Array
    n: int


def free_membrane(neuron: Any, drive: jax.Array) -> jax.Array:
    """The membrane (time, batch, units) of `neuron` without threshold and so without reset, under `drive` of that shape.

    >>> from snnjax.dynamics import LIF
    >>> bool(free_membrane(LIF(), jnp.full((200, 1, 1), 1.0)).max() > 5)
    True
    """
    trace = simulate(dataclasses.replace(neuron, theta=_NO_THRESHOLD), drive, membrane=True).membrane
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


def input_powers(x: jax.Array, neuron: Any, *, balance: bool = False) -> InputPowers:
    """Powers of the input x (time, batch, n) as seen by `neuron`.

    Args:
      x: spike counts, or any signal, time-major.   neuron: a model with `theta` and one synaptic current.
      balance: powers for weights whose sum over the inputs of a neuron is zero.

    >>> from snnjax.dynamics import LIF
    >>> from snnjax.datasets import poisson_raster
    >>> x = poisson_raster(jax.random.key(0), (2000, 1, 100), rate=10.0, dt=2e-3)
    >>> powers = input_powers(x, LIF(dt=2e-3))
    >>> 1.9 < float(powers.temporal) < 2.1      # n nu ehat = 2.04
    True
    """
    _check.time_major("x", x)
    h, n = filtered(x, neuron), x.shape[-1]
    if balance:
        if n < 2:
            raise ValueError(f"balance needs at least 2 inputs, got x of shape {x.shape}")
        total = h.sum(axis=-1)
        h = h - total[..., None] / n
        scale = n / (n - 1)
    else:
        total, scale = h.sum(axis=-1), 1.0
    temporal = scale * h.var(axis=0).sum(axis=-1).mean()
    quenched = scale * jnp.square(h.mean(axis=0)).sum(axis=-1).mean()
    return InputPowers(temporal, quenched, total.mean(), total.var(axis=0).mean(), n)


def weights_from_powers(powers: Sequence[InputPowers], shares: Sequence[Any], *, sigma_u: Any, mu_u: Any = 0.0) -> list[WeightStatistics]:
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
        raise ValueError(f"shares must be one a connection, got {len(shares)} for {len(powers)} connections")
    mu_w = mu_u / sum(p.mean for p in powers) if _nonzero(mu_u) else 0.0 * powers[0].mean
    # the summed inputs of two connections are taken as uncorrelated; exact for one connection, and for mu_u = 0
    left = sigma_u**2 - mu_w**2 * sum(p.summed for p in powers)
    return [
        WeightStatistics(mu_w, jnp.sqrt(share * left / jnp.where(p.temporal > 0, p.temporal, jnp.nan)))
        for p, share in zip(powers, shares, strict=True)
    ]


def _nonzero(value: Any) -> bool:
    known = _check.concrete(value)
    return known is None or bool((known != 0).any())


class LayerReport(NamedTuple):
    """What calibration did to one layer: standard deviation of each connection's weights, and the predicted spread of mean U across neurons.

    `calibrated` is False where the input was silent; the layer then kept its weights.
    """

    sigma_w: tuple[jax.Array, ...]
    quenched_spread: jax.Array
    calibrated: jax.Array


def calibrate(
    network: Any,
    x: jax.Array,
    *,
    key: jax.Array | None = None,
    sigma_u: Any = 1.0,
    mu_u: Any = 0.0,
    alpha: Any = 0.9,
    balance: bool = False,
    readout_sigma: Any = None,
    passes: int = 3,
) -> tuple[Any, list[LayerReport]]:
    """Put every layer of `network` on target for the batch `x`, first to last, each on the spikes that the layers below really emit.

    Args:
      network: a `snnjax.nn.Sequential` of dense layers. It is not changed. Time constants of its own for every neuron count with their mean.
      x: inputs (time, batch, units), typical of the data: a hundred samples are plenty.
      key: draw new normal weights with it; None rescales the weights that are there (which must not all be equal).
      sigma_u: target standard deviation of the membrane, one for all spiking layers or a sequence with one a layer.
      mu_u: target mean of the membrane.   alpha: feed-forward share of the variance in recurrent layers.
      balance: give every neuron weights of exactly zero sum in each connection, before the mean that mu_u asks for is added.
      readout_sigma: also scale the readout's weights so that its traces have this standard deviation in time; None leaves the readout alone.
      passes: recurrent layers: how often the recurrent weights are set to the spikes that the layer emits with them (a fixed point).

    Returns:
      `(calibrated network, one LayerReport a spiking layer)`. Pure: works under jit, and under vmap over keys.

    Raises:
      ValueError: sizes that do not fit, `passes` < 1, or sigma_u not positive.

    >>> from flax import nnx
    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> network = Sequential(SpikingDense(50, 64, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(64, 3, rngs=rngs))
    >>> x = poisson_raster(jax.random.key(0), (400, 8, 50), rate=80.0, dt=2e-3)       # 16 times what the initialization assumed
    >>> calibrated, (report,) = calibrate(network, x, key=jax.random.key(1))
    >>> round(float(network.layers[0].kernel[...].std() / report.sigma_w[0]))
    4
    """
    from flax import nnx

    _check.integer("passes", passes, at_least=1)
    _check.number("alpha", alpha, above=0, below=1)
    network = nnx.clone(network)
    spiking = [layer for layer in network.layers if layer.spiking]
    targets = list(sigma_u) if isinstance(sigma_u, Sequence) else [sigma_u] * len(spiking)
    if len(targets) != len(spiking):
        raise ValueError(f"sigma_u must be one number or one for each of the {len(spiking)} spiking layers, got {len(targets)}")
    reports: list[LayerReport] = []
    for k, layer in enumerate(network.layers):
        layer_key = None if key is None else jax.random.fold_in(key, k)
        if layer.spiking:
            report, x = _calibrate_layer(
                layer, x, layer_key, sigma_u=targets[len(reports)], mu_u=mu_u, alpha=alpha, balance=balance, passes=passes
            )
            reports.append(report)
        else:
            if readout_sigma is not None:
                powers = input_powers(x, _shared_times(layer.neuron), balance=balance)
                (weights,) = weights_from_powers([powers], [1.0], sigma_u=readout_sigma)
                _set(layer.kernel, _shape(layer.kernel[...], layer_key, balance), weights)
            x = layer(x).output
    return network, reports


def _calibrate_layer(
    layer: Any, x: jax.Array, key: jax.Array | None, *, sigma_u: Any, mu_u: Any, alpha: Any, balance: bool, passes: int
) -> tuple[LayerReport, jax.Array]:
    neuron = _shared_times(layer.neuron)
    below = input_powers(x, neuron, balance=balance)
    keys = (None, None) if key is None else jax.random.split(key)
    kernel_shape = _shape(layer.kernel[...], keys[0], balance)
    if layer.recurrent_kernel is None:
        powers, shares = [below], [1.0]
        weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u)
        _set(layer.kernel, kernel_shape, weights[0])
    else:
        recurrent_shape = _shape(layer.recurrent_kernel[...], keys[1], balance)
        shares = [alpha, 1 - alpha]
        # before the layer has spoken, its spikes are taken to be like its input's, spread over its own number of neurons
        own = InputPowers(*(jnp.asarray(p) * layer.out_features / below.n for p in below[:4]), n=layer.out_features)
        powers = [below, own]
        for _ in range(passes):
            weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u)
            _set(layer.kernel, kernel_shape, weights[0])
            _set(layer.recurrent_kernel, recurrent_shape, weights[1])
            measured = input_powers(layer(x).output, neuron, balance=balance)
            spoke = measured.temporal > 0  # a silent layer has no recurrent drive to measure: keep the last estimate
            powers = [below, InputPowers(*(jnp.where(spoke, m, p) for m, p in zip(measured[:4], powers[1][:4], strict=True)), n=measured.n)]
        weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u)
        _set(layer.kernel, kernel_shape, weights[0])
        _set(layer.recurrent_kernel, recurrent_shape, weights[1])
    quenched = sum(w.sigma_w**2 * p.quenched for w, p in zip(weights, powers, strict=True))
    report = LayerReport(tuple(w.sigma_w for w in weights), jnp.sqrt(quenched), below.temporal > 0)
    return report, layer(x).output


def _shared_times(neuron: Any) -> Any:
    """The neuron with one time constant for all: each input train is filtered once, not once for every target neuron."""
    if not dataclasses.is_dataclass(neuron):
        return neuron
    times = {f.name: getattr(neuron, f.name) for f in dataclasses.fields(neuron) if f.name.startswith("tau_")}
    return dataclasses.replace(neuron, **{name: jnp.mean(tau) for name, tau in times.items() if jnp.ndim(tau)})  # type: ignore[type-var]


def _shape(w: jax.Array, key: jax.Array | None, balance: bool) -> jax.Array:
    """Weights (in, out) of mean 0 and variance 1: drawn, or those that are there; with `balance` of zero sum for each neuron."""
    g = w if key is None else jax.random.normal(key, w.shape, w.dtype)
    if balance:
        g = g - g.mean(axis=0)
        g = g * jnp.sqrt(w.shape[0] / (w.shape[0] - 1)) if key is not None else g / jnp.sqrt(jnp.square(g).sum() / (g.size - g.shape[1]))
        return g
    return g if key is not None else (g - g.mean()) / g.std()


def _set(param: Any, shape: jax.Array, weights: WeightStatistics) -> None:
    """New weights, unless there are none for a silent input."""
    new = (weights.mu_w + weights.sigma_w * shape).astype(shape.dtype)
    param[...] = jnp.where(jnp.isfinite(weights.sigma_w), new, param[...])
