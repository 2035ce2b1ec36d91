"""The walk over the layers of a network that all calibrations of weights share."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from snnjax import _check
from snnjax.calibration._report import Of, Outcome, T
from snnjax.nn import Layer, Sequential
from snnjax.nn._synaptic import Synaptic


def each_layer(
    network: Sequential,
    x: jax.Array,
    key: jax.Array | None,
    one: Callable[[int, Layer, jax.Array, jax.Array | None], Outcome[T]],
) -> tuple[Sequential, list[T], list[Of]]:
    """Calibrate every spiking layer, first to last, for what the calibrated layers below emit.

    Args:
        network: The network. It is not changed.
        x: Inputs (time, batch, ...features).
        key: Random key, or None.
        one: Changes the weights of one layer: a function of the number of spiking layers below, the
            layer, its input, and its own key or None.

    Returns:
        The calibrated network, and the reports with the layers that they describe.
    """
    if key is not None:
        _check.key("key", key)
    network = nnx.clone(network)
    reports: list[T] = []
    of: list[Of] = []

    def visit(k: int, layer: Layer, x: jax.Array) -> jax.Array:
        if isinstance(layer, Synaptic):
            _check.time_major("x", x, features=layer.in_features)
        if not layer.spiking:
            return layer(x).output
        own = None if key is None else jax.random.fold_in(key, k)
        outcome = one(len(reports), layer, x, own)
        reports.append(outcome.report)
        of.append(Of(type(layer).__name__, outcome.reason))
        return outcome.output

    network.walk(x, visit)
    return network, reports, of
