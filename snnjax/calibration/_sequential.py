r"""Calibrate every layer of a network on data, first to last, in one forward pass.

The input of each layer is measured after the layer below has been calibrated.
Formulas: `snnjax/calibration/_powers.py`. Calibration of one layer: `calibrate_layer`.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax.calibration._connection import powers_of, set_weights, shared_times, standardized
from snnjax.calibration._gradient import LEVEL, GradientTarget, calibrate_gradient
from snnjax.calibration._layer import Target, calibrate_layer
from snnjax.calibration._powers import as_floats, weights_from_powers
from snnjax.calibration._report import LayerReport, LayerReports, Of, infeasible
from snnjax.nn import Layer, Sequential
from snnjax.nn._network import check_sequential
from snnjax.nn._synaptic import Synaptic


def calibrate(
    network: Sequential,
    x: jax.Array,
    *,
    key: jax.Array | None = None,
    sigma_u: Scalar | Sequence[Scalar] = 1.0,
    mu_u: Scalar = 0.0,
    alpha: Scalar = 0.9,
    balance: bool = False,
    readout_sigma: Scalar | None = None,
    passes: int = 4,
    labels: ArrayLike | None = None,
    gradient: GradientTarget | None = LEVEL,
) -> tuple[Sequential, LayerReports]:
    """Calibrate every layer of `network` on the batch `x`, first to last.

    The weights of each layer are set for the spikes that the calibrated layers below emit.

    Args:
        network: A `snnjax.nn.Sequential` of dense, convolutional, recurrent or Dalian layers. It is
            not changed. If the neurons of a layer have different time constants, their mean is
            used.
        x: Inputs (time, batch, ...features), typical of the data. A hundred samples are enough.
        key: Draws new normal (Dalian: exponential) weights. None rescales the present weights,
            which must not all be equal. Zeros stay zeros.
        sigma_u: Target standard deviation of the membrane: one number for all spiking layers, or a
            sequence with one number per layer.
        mu_u: Target mean of the membrane.
        alpha: Feed-forward share of the variance in recurrent layers, in (0, 1).
        balance: Whether the weights of every neuron sum to exactly zero in each connection, before
            the mean weight that gives mu_u is added. Not for Dalian layers.
        readout_sigma: Target standard deviation in time of the readout's traces; its weights are
            scaled to reach it. None leaves the readout's scale to `gradient`.
        passes: Number of fixed-point iterations in recurrent layers. Each one sets the recurrent
            weights for the spikes that the layer emits with the last ones. A layer that fires below
            1 Hz gets the recurrent weights of one that fires at 1 Hz; then its input carries a
            larger share than alpha.
        labels: Classes (batch,) of x, used to calibrate the gradient. None uses random numbers.
        gradient: Also calibrates the backward gain of every layer, through the steepness of its
            surrogate, and the scale of the readout (`snnjax/calibration/_gradient.py`). None
            calibrates only the membranes.

    Returns:
        The calibrated network, and `LayerReports` with one `LayerReport` per spiking layer. When
        printed, the reports name each layer that is off target. The function is pure: it works
        under jit, and under vmap over keys.

    Raises:
        ValueError: Sizes do not fit, `passes` < 1, sigma_u is not positive, or no weights give a
            layer its targets (under jit and vmap its report has `calibrated` False instead).
        TypeError: x is not an array, or `network` is not a `Sequential`.

    Warns:
        UserWarning: A layer is not within 5 % of its target; the text gives the likely reason.
            There is no warning under jit; see `LayerReport.on_target` instead.

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
        if readout_sigma is not None:  # the scale of the readout is already set
            gradient = dataclasses.replace(gradient, logit_spread=None)
        network, found = calibrate_gradient(network, inputs, labels, target=gradient, key=key)
        pairs = zip(reports, found, strict=True)
        reports = [report._replace(gradient=g) for report, g in pairs]
    result = LayerReports(reports, of)
    for problem in result.problems():
        _check.warn(problem)
    return network, result


def _targets(network: Sequential, sigma_u: Any) -> Sequence[Scalar]:
    """The target sigma_u of each spiking layer."""
    spiking = sum(layer.spiking for layer in network.layers)
    if isinstance(sigma_u, str) or np.ndim(sigma_u) > 1:
        raise TypeError(f"sigma_u must be one number or one per spiking layer, got {sigma_u!r}")
    targets = list(sigma_u) if np.ndim(sigma_u) else [sigma_u] * spiking
    if len(targets) != spiking:
        raise ValueError(
            f"sigma_u must be one number or {spiking}, one per spiking layer, got {len(targets)}"
        )
    return targets
