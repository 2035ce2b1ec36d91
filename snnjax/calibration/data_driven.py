r"""Put every layer of a network on target for the data it really gets, first to last, in one forward pass. Formulas: `snnjax.calibration.powers`.

Each layer's powers are measured on the spikes that the layer below emits once it is calibrated. A recurrent layer's own spikes depend on the weights they
set, so those are found as a fixed point in a few passes.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.calibration.powers import InputPowers, centred, input_powers, standard_weights, weights_from_powers
from snnjax.theory import WeightStatistics


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
      network: a `snnjax.nn.Sequential` of dense, convolutional or recurrent layers. It is not changed. Time constants of its own for every
        neuron count with their mean.
      x: inputs (time, batch, ...features), typical of the data: a hundred samples are plenty.
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
            if readout_sigma is not None and hasattr(layer, "kernel"):
                powers = _powers(layer.project, layer.kernel, x, _shared_times(layer.neuron), balance)
                (weights,) = weights_from_powers([powers], [1.0], sigma_u=readout_sigma)
                _set(layer.kernel, _shape(layer.kernel[...], layer_key, balance), weights)
            x = layer(x).output
    return network, reports


def _calibrate_layer(
    layer: Any, x: jax.Array, key: jax.Array | None, *, sigma_u: Any, mu_u: Any, alpha: Any, balance: bool, passes: int
) -> tuple[LayerReport, jax.Array]:
    neuron = _shared_times(layer.neuron)
    below = _powers(layer.project, layer.kernel, x, neuron, balance)
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
        n = _fan_in(layer.recurrent_kernel)
        own = InputPowers(*(jnp.asarray(p) * n / below.n for p in below[:4]), n=n)
        powers = [below, own]
        for _ in range(passes):
            weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u)
            _set(layer.kernel, kernel_shape, weights[0])
            _set(layer.recurrent_kernel, recurrent_shape, weights[1])
            measured = _powers(layer.recur, layer.recurrent_kernel, layer(x).output, neuron, balance)
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


def _fan_in(kernel: Any) -> int:
    return math.prod(kernel.shape[:-1])


def _powers(connect: Any, kernel: Any, x: jax.Array, neuron: Any, balance: bool) -> InputPowers:
    """Powers of what a neuron of the layer gets of x through `connect`, the layer's linear map `(x, kernel)`."""
    ones = jnp.ones((*kernel.shape[:-1], 1), x.dtype)
    return input_powers(x, neuron, balance=balance, gather=lambda h: connect(h, ones), n=_fan_in(kernel))


def _shape(w: jax.Array, key: jax.Array | None, balance: bool) -> jax.Array:
    """Weights (..., in, out) of mean 0 and variance 1: drawn, or those that are there; with `balance` of zero sum for each neuron."""
    if key is not None:
        return standard_weights(key, w.shape, balance=balance, dtype=w.dtype)
    w = centred(w) if balance else w - w.mean()
    return w / jnp.sqrt(jnp.square(w).mean())


def _set(param: Any, shape: jax.Array, weights: WeightStatistics) -> None:
    """New weights, unless there are none for a silent input."""
    new = (weights.mu_w + weights.sigma_w * shape).astype(shape.dtype)
    param[...] = jnp.where(jnp.isfinite(weights.sigma_w), new, param[...])
