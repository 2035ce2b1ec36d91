"""What calibration says of a layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class GradientReport(NamedTuple):
    """What the calibration of the gradient did to one layer; scalars.

    Attributes:
      before: Backward gain of the layer with the surrogate that it had.
      gain: Backward gain with the one that it has now.
      steepness: The first parameter of its surrogate (beta, ...), or the scale of h where that was
        adjusted. NaN: the layer's neuron has no surrogate that could be adjusted.
      reached: Whether `gain` is within 10 % of the target.
    """

    before: jax.Array
    gain: jax.Array
    steepness: jax.Array
    reached: jax.Array


class LayerReport(NamedTuple):
    """What calibration did to one layer.

    Attributes:
      sigma_w: standard deviation of each connection's weights.
      quenched_spread: predicted root mean square, over neurons and trials, of the membrane's time mean within a trial.
      sigma_u: the standard deviation that the membrane without reset then has on the batch, with the layer's own spikes.
      silent: the input is silent.   calibrated: False where there are no such weights: the input is silent, mu_u asks for too much, or the
        weights to rescale are all equal. The layer then kept its weights.
      mu_u: the mean that the membrane without reset then has on the batch.
      on_target: `sigma_u` is within 5 % of what was asked for, and in a Dalian layer, whose mean is measured, too, `mu_u` within 5 % of that sigma_u. Off
        are small layers, whose few weights scatter, neurons of different time constants, which share one scale, and layers that are so quiet that their
        own spikes say little.
      gradient: what was done for the layer's gradient; None where only the membranes were calibrated.
    """

    sigma_w: tuple[jax.Array, ...]
    quenched_spread: jax.Array
    sigma_u: jax.Array
    silent: jax.Array
    calibrated: jax.Array
    mu_u: jax.Array
    on_target: jax.Array
    gradient: GradientReport | None = None


TOLERANCE = 0.05
"""How far from its target a layer may be to count as on it, relative to sigma_u."""


def near(found: jax.Array, target: Any, sigma_u: Any) -> jax.Array:
    """Whether `found` is `target` within `TOLERANCE` of sigma_u."""
    return jnp.abs(found - target) <= TOLERANCE * sigma_u
