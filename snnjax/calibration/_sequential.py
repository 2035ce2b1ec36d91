r"""Put every layer of a network on target for the data it gets, first to last, in one forward pass.

Each layer's input is measured on the spikes that the layer below emits once it is calibrated.
Formulas: `snnjax.calibration.powers`. What is done to a layer: `calibrate_layer`.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from snnjax import _check
from snnjax.calibration import dalian as dalian  # registers its kind of layer
from snnjax.calibration._connection import powers_of, set_weights, shared_times, standardized
from snnjax.calibration.gradient import LEVEL, GradientTarget, calibrate_gradient
from snnjax.calibration.layer import Target, calibrate_layer
from snnjax.calibration.powers import as_floats, weights_from_powers
from snnjax.calibration.report import LayerReport, LayerReports, Of, infeasible
from snnjax.nn import Layer, Sequential, Synaptic
from snnjax.nn.network import check_sequential


def calibrate(
    network: Sequential,
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
) -> tuple[Sequential, LayerReports]:
    """Put every layer of `network` on target for the batch `x`, first to last.

    Each layer is set for the spikes that the layers below really emit.

    Args:
        network: A `snnjax.nn.Sequential` of dense, convolutional or recurrent layers, Dalian ones
            among them. It is not changed. Time constants of its own for every neuron count with
            their mean.
        x: Inputs (time, batch, ...features), typical of the data: a hundred samples are plenty.
        key: Draw new normal (Dalian: exponential) weights with it. None rescales the weights that
            are there, which must not all be equal. Zeros stay zeros.
        sigma_u: Target standard deviation of the membrane, one for all spiking layers or a sequence
            with one per layer.
        mu_u: Target mean of the membrane.
        alpha: Feed-forward share of the variance in recurrent layers.
        balance: Whether to give every neuron weights of exactly zero sum in each connection, before
            the mean that mu_u asks for is added. Not for Dalian layers.
        readout_sigma: Scale the readout's weights so that its traces have this standard deviation
            in time. None: as `gradient` says.
        passes: In recurrent layers, how often the recurrent weights are set to the spikes that the
            layer emits with them (a fixed point). A layer that fires below 1 Hz gets the recurrent
            weights of one that fires at 1 Hz, and its input carries more than alpha.
        labels: Classes (batch,) of x, for the calibration of the gradient; random numbers if None.
        gradient: Also give every layer this backward gain, through the steepness of its surrogate,
            and the readout its scale (`snnjax.calibration.gradient`). None: calibrate the membranes
            alone.

    Returns:
        The calibrated network, and `LayerReports`: one `LayerReport` per spiking layer, and what is
        not on target in words when it is printed. Pure: works under jit, and under vmap over keys.

    Raises:
        ValueError: Sizes do not fit, `passes` < 1, sigma_u is not positive, or there are no such
            weights for a layer (under jit and vmap its report says so instead).
        TypeError: x is not an array, or the network not a `Sequential`.

    Warns:
        UserWarning: A layer is not within 5 % of its target, with the likely reason (not under jit;
            there `LayerReport.on_target` says so).

    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(50, 64, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(64, 3, rngs=rngs))
    >>> # 16 times the rate that the initialization assumed
    >>> x = poisson_raster(jax.random.key(0), (400, 8, 50), rate=80.0, dt=2e-3)
    >>> calibrated, (report,) = calibrate(network, x, key=jax.random.key(1))
    >>> round(float(network.layers[0].kernel[...].std() / report.sigma_w[0]))
    4
    """
    check_sequential("calibrate", network)
    _check.integer("passes", passes, at_least=1)
    _check.number("alpha", alpha, above=0, below=1)
    if key is not None:
        _check.key("key", key)
    network = nnx.clone(network)
    targets = iter(_targets(network, sigma_u))
    inputs = as_floats(x)
    reports: list[LayerReport] = []
    of: list[Of] = []

    def visit(k: int, layer: Layer, x: jax.Array) -> jax.Array:
        layer_key = None if key is None else jax.random.fold_in(key, k)
        if isinstance(layer, Synaptic):
            _check.time_major("x", x, features=layer.in_features)
        if layer.spiking:
            target = Target(next(targets), mu_u, alpha, balance, passes)
            report, output, reason = calibrate_layer(layer, x, layer_key, target)
            silent, there = _check.concrete(report.silent), _check.concrete(report.calibrated)
            if silent == 0 and there == 0:
                raise ValueError(infeasible(k, report.targets))
            reports.append(report)
            of.append(Of(k, type(layer).__name__, reason))
            return output
        if readout_sigma is not None and isinstance(layer, Synaptic):
            connection, neuron = layer.connections()[0], shared_times(layer.neuron)
            powers = powers_of(connection, x, neuron, balance)
            (w,) = weights_from_powers([powers], [1.0], sigma_u=readout_sigma)
            shape = standardized(connection.weights, layer_key, balance)
            set_weights(connection.param, w.mu_w + w.sigma_w * shape)
        return layer(x).output

    network.walk(inputs, visit)
    if gradient is not None:
        if readout_sigma is not None:  # the readout has its scale
            gradient = dataclasses.replace(gradient, logit_spread=None)
        network, found = calibrate_gradient(network, inputs, labels, target=gradient, key=key)
        pairs = zip(reports, found, strict=True)
        reports = [report._replace(gradient=g) for report, g in pairs]
    result = LayerReports(reports, of)
    for problem in result.problems():
        _check.warn(problem)
    return network, result


def _targets(network: Sequential, sigma_u: Any) -> Sequence[Any]:
    """A target for each spiking layer."""
    spiking = sum(layer.spiking for layer in network.layers)
    if isinstance(sigma_u, str) or np.ndim(sigma_u) > 1:
        raise TypeError(f"sigma_u must be a number or one for each spiking layer, got {sigma_u!r}")
    targets = list(sigma_u) if np.ndim(sigma_u) else [sigma_u] * spiking
    if len(targets) != spiking:
        raise ValueError(
            f"sigma_u must be one number or one for each of the {spiking} spiking layers, got "
            f"{len(targets)}"
        )
    return targets
