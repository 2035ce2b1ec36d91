"""A threshold for values that no neuron integrates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from snnjax import _check
from snnjax.nn._layer import Shape, unlisted
from snnjax.nn._shape import Stateless
from snnjax.surrogate import SpikeFunction, superspike

_SPIKE = superspike(20.0)


class Threshold(Stateless):
    """Spikes where the input of the step is above a threshold.

        z[t] = spike(x[t] - theta)

    For example, after `Pool(2, kind="sum")` it gives a spike where a window has more than theta
    spikes.

    Args:
        theta: Threshold, one number or an array of the shape of the features.
        spike: The spike function, with its surrogate derivative.

    Raises:
        ValueError: A threshold is not finite, or does not fit the features of an input.
        TypeError: A threshold is not a real number.

    >>> Threshold(1.5)(jnp.arange(4.0).reshape(1, 1, 4)).output.ravel().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, theta: ArrayLike, *, spike: SpikeFunction = _SPIKE) -> None:
        self.theta = tuple(np.asarray(_check.number("theta", theta)).ravel().tolist())
        self._shape = np.shape(theta)
        self.spike = spike

    @property
    def thresholds(self) -> np.ndarray:
        """The thresholds, float64, of the shape in which they were given."""
        return np.reshape(self.theta, self._shape)

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        same = len(features) == len(self._shape) and all(
            n in (None, size) for n, size in zip(features, self._shape, strict=True)
        )
        if self._shape and not same:
            raise ValueError(f"features must have the shape of theta {self._shape}, got {features}")
        return features

    def _map(self, x: jax.Array) -> jax.Array:
        x = _check.as_wide(x)
        return self.spike(x - jnp.asarray(self.thresholds, x.dtype))
