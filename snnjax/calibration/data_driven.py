r"""Put every layer of a network on target for the data it really gets, first to last, in one forward pass. Formulas: `snnjax.calibration.powers`.

Each layer's powers are measured on the spikes that the layer below emits once it is calibrated. A recurrent layer's own spikes depend on the weights they
set, so those are found as a fixed point in a few passes. Dalian layers: `snnjax.calibration.dalian`.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax.calibration.dalian import calibrate_dalian
from snnjax.calibration.gradient import LEVEL, GradientTarget, calibrate_gradient
from snnjax.calibration.powers import InputPowers, as_floats, free_membrane, input_powers, standard_weights, weights_from_powers
from snnjax.calibration.report import GradientReport, LayerReport, near
from snnjax.nn.network import check_sequential
from snnjax.theory import WeightStatistics

INFEASIBLE = (
    "the mean alone would move the membrane by more than sigma_u (raise sigma_u or lower |mu_u|), the weights to rescale are all equal, "
    "or the input is not finite"
)


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
    passes: int = 4,
    labels: Any = None,
    gradient: GradientTarget | None = LEVEL,
) -> tuple[Any, list[LayerReport]]:
    """Put every layer of `network` on target for the batch `x`, first to last, each on the spikes that the layers below really emit.

    Args:
      network: a `snnjax.nn.Sequential` of dense, convolutional or recurrent layers, Dalian ones among them. It is not changed. Time constants of its
        own for every neuron count with their mean.
      x: inputs (time, batch, ...features), typical of the data: a hundred samples are plenty.
      key: draw new normal (Dalian: exponential) weights with it; None rescales the weights that are there, which must not all be equal. Zeros stay zeros.
      sigma_u: target standard deviation of the membrane, one for all spiking layers or a sequence with one a layer.
      mu_u: target mean of the membrane.   alpha: feed-forward share of the variance in recurrent layers.
      balance: give every neuron weights of exactly zero sum in each connection, before the mean that mu_u asks for is added. Not for Dalian layers.
      readout_sigma: scale the readout's weights so that its traces have this standard deviation in time; None: as `gradient` says.
      passes: recurrent layers: how often the recurrent weights are set to the spikes that the layer emits with them (a fixed point). A layer that
        fires below 1 Hz gets the recurrent weights of one that fires at it, and its input carries more than alpha.
      labels: classes (batch,) of x, for the calibration of the gradient; random numbers take their place when None.
      gradient: then also give every layer this backward gain, through the steepness of its surrogate, and the readout its scale
        (`snnjax.calibration.gradient`); None: calibrate the membranes alone.

    Returns:
      `(calibrated network, one LayerReport a spiking layer)`. Pure: works under jit, and under vmap over keys.

    Raises:
      ValueError: sizes that do not fit, `passes` < 1, sigma_u not positive, or a layer for which there are no such weights (under jit and
        vmap its report says so instead).   TypeError: x is not an array, or the network not a `Sequential`.

    Warns:
      UserWarning: a layer is not within 5 % of its target, with the likely reason (not under jit; there `LayerReport.on_target` says so).

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

    check_sequential("calibrate", network)
    _check.integer("passes", passes, at_least=1)
    _check.number("alpha", alpha, above=0, below=1)
    if key is not None:
        _check.key("key", key)
    network = nnx.clone(network)
    spiking = [layer for layer in network.layers if layer.spiking]
    if isinstance(sigma_u, str) or np.ndim(sigma_u) > 1:
        raise TypeError(f"sigma_u must be a number or one for each spiking layer, got {sigma_u!r}")
    targets = list(sigma_u) if np.ndim(sigma_u) else [sigma_u] * len(spiking)
    if len(targets) != len(spiking):
        raise ValueError(f"sigma_u must be one number or one for each of the {len(spiking)} spiking layers, got {len(targets)}")
    inputs = x = as_floats(x)
    reports: list[LayerReport] = []
    spikes: list[jax.Array] = []
    for k, layer in enumerate(network.layers):
        x = network.input_of(k, x, spikes)
        layer_key = None if key is None else jax.random.fold_in(key, k)
        if hasattr(layer, "in_features"):
            _check.time_major("x", x, features=layer.in_features)
        if layer.spiking:
            report, x = _calibrate_layer(
                layer, x, layer_key, sigma_u=targets[len(reports)], mu_u=mu_u, alpha=alpha, balance=balance, passes=passes
            )
            refused = _check.concrete(report.silent) == 0 and _check.concrete(report.calibrated) == 0
            if refused:
                raise ValueError(f"layer {k} has no weights for mu_u = {mu_u}, sigma_u = {targets[len(reports)]}: {INFEASIBLE}")
            if _check.concrete(report.calibrated) == 1 and _check.concrete(report.on_target) == 0:
                warnings.warn(
                    f"layer {k} has sigma_u = {float(report.sigma_u):.3g} and mu_u = {float(report.mu_u):.3g} on these inputs; the targets are "
                    f"sigma_u = {targets[len(reports)]}, mu_u = {mu_u}: {_why_off(layer)}",
                    stacklevel=2,
                )
            reports.append(report)
            spikes.append(x)
        else:
            if readout_sigma is not None and hasattr(layer, "kernel"):
                powers = _powers(layer.project, layer.kernel, x, _shared_times(layer.neuron), balance)
                (weights,) = weights_from_powers([powers], [1.0], sigma_u=readout_sigma)
                _set(layer.kernel, _shape(layer.kernel[...], layer_key, balance), weights)
            x = layer(x).output
    if gradient is None:
        return network, reports
    if readout_sigma is not None:  # the readout has its scale
        gradient = dataclasses.replace(gradient, logit_spread=None)
    network, found = calibrate_gradient(network, inputs, labels, target=gradient, key=key)
    _warn_of_gains(found, gradient)
    return network, [report._replace(gradient=g) for report, g in zip(reports, found, strict=True)]


def _warn_of_gains(found: list[GradientReport], target: GradientTarget) -> None:
    """Say which layers are not at the target of the gradient."""
    for k, report in enumerate(found, start=1):
        if _check.concrete(report.reached) == 0:
            warnings.warn(
                f"spiking layer {k} has the backward gain {float(report.gain):.3g} with the steepness {float(report.steepness):.3g}; the "
                f"target is {target.gain}: no steepness within a factor of 50 of the surrogate's own reaches it. Another surrogate, or "
                "GradientTarget(adjust='scale'), may",
                stacklevel=3,
            )


def _why_off(layer: Any) -> str:
    """The likely reason why a layer is off its target, and what to do."""
    if hasattr(layer, "inhibitory_kernel"):
        return "its inhibitory spikes are too few to be relied on; a larger sigma_u makes it spike more"
    if any(jnp.ndim(leaf) for leaf in jax.tree.leaves(layer.neuron)):
        return "its neurons differ in their parameters, and share one scale of the weights"
    if layer.recurrent:
        return "its own spikes are too few to carry their share of the variance; a larger sigma_u makes it spike more"
    return f"its {layer.units} neurons have too few weights for an exact average; more neurons, or another key, come closer"


def _calibrate_layer(
    layer: Any, x: jax.Array, key: jax.Array | None, *, sigma_u: Any, mu_u: Any, alpha: Any, balance: bool, passes: int
) -> tuple[LayerReport, jax.Array]:
    if hasattr(layer, "inhibitory_kernel"):
        if balance:
            raise ValueError(
                "balance must be False for Dalian layers, whose weights have one sign: their inhibition balances the layer as a whole"
            )
        return calibrate_dalian(layer, x, key, sigma_u=sigma_u, mu_u=mu_u, alpha=alpha, passes=_DALIAN_PASSES * passes)
    neuron = _shared_times(layer.neuron)
    below = _powers(layer.project, layer.kernel, x, neuron, balance)
    keys = (None, None) if key is None else jax.random.split(key)
    kernels = [layer.kernel] if layer.recurrent_kernel is None else [layer.kernel, layer.recurrent_kernel]
    shapes = [_shape(kernel[...], k, balance) for kernel, k in zip(kernels, keys, strict=False)]
    shares: list[Any] = [1.0] if layer.recurrent_kernel is None else [alpha, 1 - alpha]

    def put(powers: list[InputPowers]) -> tuple[list[WeightStatistics], jax.Array]:
        weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u)
        there = jnp.asarray([_set(*part) for part in zip(kernels, shapes, weights, strict=True)])
        return weights, there.all()

    powers = [below]
    if layer.recurrent_kernel is not None:
        n = _fan_in(layer.recurrent_kernel)
        lowest = _poisson_powers(neuron, n, _FLOOR_HZ, balance, below.temporal.dtype)
        # before the layer has spoken, its spikes are taken to be like its input's, spread over its own number of neurons
        own = _at_least(lowest, [jnp.abs(p) * n / below.n for p in below[:4]])
        for _ in range(passes):
            put([below, own])
            measured = _powers(layer.recur, layer.recurrent_kernel, layer(x).output, neuron, balance)
            # the geometric mean with the last estimate: what was too much last time would else be too little this time, and so on
            own = _at_least(lowest, [jnp.sqrt(a * b) for a, b in zip(measured[:4], own[:4], strict=True)])
            # what a layer that fires too little leaves of the recurrent share is its input's to carry; half way each time, for the same reason
            shares[0] = (shares[0] + 1 - (1 - alpha) * jnp.minimum(measured.temporal / own.temporal, 1.0)) / 2
        powers = [below, own]
    weights, there = put(powers)
    output = layer(x).output
    u = free_membrane(layer.neuron, layer.whole_drive(x, output))
    measured_sigma_u = jnp.sqrt(u.var(axis=0).mean())
    quenched = jnp.sqrt(sum(w.sigma_w**2 * p.quenched for w, p in zip(weights, powers, strict=True)))
    on_target = near(measured_sigma_u, sigma_u, sigma_u)
    report = LayerReport(tuple(w.sigma_w for w in weights), quenched, measured_sigma_u, below.temporal == 0, there, u.mean(), on_target)
    return report, output


# A layer that fires below this rate is taken to fire at it when its recurrent weights are set: weights so large that a few spikes a trial made their whole
# share of the variance would keep the layer firing by itself once anything starts it.
_FLOOR_HZ = 1.0
_DALIAN_PASSES = 5  # inhibition answers to what it does, so that its fixed point takes longer


def _poisson_powers(neuron: Any, n: int, rate: float, balance: bool, dtype: Any) -> InputPowers:
    """Powers of n Poisson inputs at `rate`, Hz."""
    ebar, ehat = neuron.kernel.mean(), neuron.kernel.power()
    quenched = 0.0 if balance else n * (rate * ebar) ** 2
    values = (n * rate * ehat, quenched, n * rate * ebar, n * rate * ehat)
    return InputPowers(*(jnp.asarray(v, dtype) for v in values), n=n, balanced=balance)


def _at_least(lowest: InputPowers, powers: Sequence[jax.Array]) -> InputPowers:
    """`powers` (P, Q, M, P_sum), or `lowest` where P is below that."""
    enough = powers[0] >= lowest.temporal
    return lowest._replace(**{name: jnp.where(enough, p, low) for name, p, low in zip(lowest._fields, powers, lowest[:4], strict=False)})


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
    """Weights (..., in, out) of mean 0 and variance 1: drawn, or those that are there; with `balance` of zero sum for each neuron.

    Weights of exactly 0, of a sparse layer, stay 0. NaN where all that are there are equal, and so have no shape.
    """
    if key is not None:
        return standard_weights(key, w.shape, balance=balance, dtype=w.dtype)
    w = _check.as_wide(w)
    kept = w != 0
    axes = tuple(range(w.ndim - 1)) if balance else None
    mean = w.sum(axis=axes, keepdims=True) / jnp.maximum(kept.sum(axis=axes, keepdims=True), 1)
    g = jnp.where(kept, w - mean, 0)
    power, before = jnp.square(g).mean(), jnp.square(w).mean()
    return g / jnp.sqrt(jnp.where(power > 100 * jnp.finfo(w.dtype).eps ** 2 * before, power, jnp.nan))


def _set(param: Any, shape: jax.Array, weights: WeightStatistics) -> jax.Array:
    """New weights, unless there are none (silent input, infeasible target); whether there are."""
    new = (weights.mu_w + weights.sigma_w * shape).astype(param[...].dtype)
    there = jnp.isfinite(new).all()
    param[...] = jnp.where(there, new, param[...])
    return there
