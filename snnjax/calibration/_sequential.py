r"""Calibrate every layer of a network on data, first to last, in one forward pass.

The input of each layer is measured after the layer below has been calibrated.
Formulas: `snnjax/calibration/_powers.py`. Calibration of one layer: `calibrate_layer`.

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._timed import Timed, called, untimed
from snnjax.calibration import _dalian as _dalian  # registers its type of layer
from snnjax.calibration._connection import each_layer
from snnjax.calibration._gradient import (
    LEVEL,
    GradientTarget,
    calibrate_gradient,
    check_target,
)
from snnjax.calibration._layer import Target, calibrate_layer, check_outcome
from snnjax.calibration._powers import as_floats
from snnjax.calibration._report import LayerReport, LayerReports, Outcome, infeasible
from snnjax.nn import Layer, Sequential
from snnjax.nn._network import check_sequential


def calibrate(
    network: Sequential,
    x: jax.Array,
    labels: ArrayLike | Timed | None = None,
    *,
    key: jax.Array | None = None,
    target: Target | Sequence[Target] = Target(),
    gradient: GradientTarget | None = LEVEL,
) -> tuple[Sequential, LayerReports]:
    """Calibrate every layer of `network` on the batch `x`, first to last.

    The weights of each layer are set for the spikes that the calibrated layers below emit.

    Args:
        network: A `snnjax.nn.Sequential` of dense, convolutional, recurrent or Dalian layers. It is
            not changed. If the neurons of a layer have different parameters, the input is
            measured for their mean, and the weights of each are scaled for its own kernel.
        x: Inputs (time, batch, ...features), typical of the data. A hundred samples are enough.
        labels: Classes (batch,) of x, used to calibrate the gradient. None uses random numbers. If
            they are `snnjax.losses.Timed`, only the steps of each trial count, in all measurements.
        key: Draws new normal (Dalian: exponential) weights. None rescales the present weights,
            which must not all be equal. Zeros stay zeros.
        target: Targets for the membranes: one `Target` for all spiking layers, or a sequence with
            one per layer.
        gradient: Also calibrates the backward gain of every layer, through the steepness of its
            surrogate, and the scale of the readout, as `calibrate_gradient` does. None calibrates
            only the membranes.

    Returns:
        The calibrated network, and `LayerReports` with one `LayerReport` per spiking layer. When
        printed, the reports name each layer that is off target. The function is pure: it works
        under jit, and under vmap over keys.

    Raises:
        ValueError: Sizes do not fit, or no weights give a layer its targets (under jit and vmap its
            report has `calibrated` False instead).
        TypeError: `network` is not a `Sequential`, or another argument has a wrong type.

    Warns:
        UserWarning: Layers are not within 5 % of their targets, whose reports give the likely
            reasons. There is no warning under jit; see `LayerReport.on_target` instead.

    >>> from flax import nnx
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
    spiking = sum(layer.spiking for layer in network.layers)
    targets = [target] * spiking if isinstance(target, Target) else target
    needed = f"target must be one Target or {spiking}, one per spiking layer"
    if not isinstance(targets, Sequence) or not all(isinstance(t, Target) for t in targets):
        raise TypeError(f"{needed}, got {target!r}")
    if len(targets) != spiking:
        raise ValueError(f"{needed}, got {len(targets)}")
    if gradient is not None:
        check_target("gradient", gradient)
    inputs = as_floats(x)
    _, num_steps = untimed(labels, inputs, of="x")

    def one(n: int, layer: Layer, x: jax.Array, key: jax.Array | None) -> Outcome[LayerReport]:
        function = calibrate_layer.dispatch(type(layer))
        name = f"the function of calibrate_layer for {type(layer).__name__}"
        found = called(name, function, (layer, x, key, targets[n]), num_steps)
        outcome = check_outcome(layer, found)
        report = outcome.report
        silent, there = _check.concrete(report.silent), _check.concrete(report.calibrated)
        if silent == 0 and there == 0:
            raise ValueError(infeasible(f"layer {n + 1}", report.targets))
        return outcome

    network, reports, of = each_layer(network, inputs, key, one, num_steps)
    if gradient is not None:
        network, found = calibrate_gradient(network, inputs, labels, target=gradient, key=key)
        pairs = zip(reports, found, strict=True)
        reports = [report._replace(gradient=g) for report, g in pairs]
    result = LayerReports(reports, of)
    if problems := result.problems():
        names = dict.fromkeys(" ".join(problem.split()[:2]) for problem in problems)
        advice = "print the reports, which calibrate also returns, for numbers and reasons"
        _check.warn(f"off target: {', '.join(names)}; {advice}")
    return network, result
