r"""Dropout of spike trains: a unit is silent for a whole trial, or is not.

    out[t] = m x[t] / (1 - rate),       m ~ Bernoulli(1 - rate), one for each trial and feature, the same at all t

A mask that changed at every step would be noise that a membrane averages over its time constant; one that stays takes the unit out, as in a network without
time. The factor keeps the mean of what the next layer gets. Active where the network is called with a key, as training does, and nowhere else.
Source: Srivastava et al. (2014), Journal of Machine Learning Research 15, 1929.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.dynamics import Simulation
from snnjax.nn._synaptic import Shape
from snnjax.nn.shape import Stateless


class Dropout(Stateless):
    """Leave out whole spike trains at random in training. Stands in `Sequential` between layers; the module has the formula.

    Args:
      rate: probability that a train is left out, in [0, 1).

    >>> x = jnp.ones((50, 2, 100))
    >>> y = Dropout(0.25)(x, key=jax.random.key(0)).output
    >>> round(float(y.max()), 3), 120 < int((y[0] > 0).sum()) < 180, bool((y == y[0]).all()), bool((Dropout(0.25)(x).output == x).all())
    (1.333, True, True, True)
    """

    stochastic = True

    def __init__(self, rate: float) -> None:
        self.rate = float(_check.number("rate", rate, at_least=0, below=1))

    def _feature_shape(self, features: Shape) -> Shape:
        """That of the input."""
        return features

    def _map(self, x: jax.Array) -> jax.Array:
        return x

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False, key: jax.Array | None = None) -> Simulation:
        """A whole sequence x (time, batch, ...features): `Simulation(output, None, ())`; x itself without a key."""
        out = super().__call__(x, state=state, membrane=membrane)
        return out if key is None else out._replace(output=self._drop(out.output, key, x.shape[1:]))

    def step(self, state: Any, x: jax.Array, *, key: jax.Array | None = None) -> tuple[Any, jax.Array]:
        """One time step x (batch, ...features); with the key of the sequence the same trains are left out."""
        state, out = super().step(state, x)
        return state, out if key is None else self._drop(out, key, jnp.shape(x))

    def _drop(self, x: jax.Array, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        kept = jax.random.bernoulli(key, 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))
