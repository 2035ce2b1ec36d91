r"""Dropout of spike trains: a unit is silent for a whole sample or active for a whole sample.

    out[t] = m x[t] / (1 - rate),       m ~ Bernoulli(1 - rate)

There is one m per sample and feature, and it is the same at all t. A mask that changes at every
step would be noise, which a membrane averages over its time constant. A constant mask removes the
unit, as in a network without time. The factor preserves the mean input of the next layer. Dropout
is active only if the network is called with a key, as in training.

Source: Srivastava et al. (2014), Journal of Machine Learning Research 15, 1929.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.dynamics import Simulation
from snnjax.nn._layer import State, unlisted
from snnjax.nn._shape import Stateless


class Dropout(Stateless):
    """Set random whole spike trains to zero in training. The module gives the formula.

    Args:
        rate: Probability that a train is set to zero, in [0, 1).

    >>> x = jnp.ones((50, 2, 100))
    >>> y = Dropout(0.25)(x, key=jax.random.key(0)).output
    >>> round(float(y.max()), 3), 120 < int((y[0] > 0).sum()) < 180, bool((y == y[0]).all())
    (1.333, True, True)
    >>> bool((Dropout(0.25)(x).output == x).all())
    True
    """

    stochastic = True
    masks = True

    def __init__(self, rate: float) -> None:
        self.rate = float(_check.number("rate", rate, at_least=0, below=1))

    def _map(self, x: jax.Array) -> jax.Array:
        return x

    def _run(self, x: jax.Array, state: State | None, key: jax.Array | None) -> Simulation:
        """Run a whole sequence x (time, batch, ...features). Without a key the output is x."""
        out = super()._run(x, state, key)
        return out._replace(output=self._drop(out.output, key, x.shape[1:]))

    @unlisted
    def step(
        self, state: State, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        """Run one time step x (batch, ...features).

        With the same key, the same trains are set to zero as in a whole sequence.
        """
        state, out = super().step(state, x)
        return state, self._drop(out, key, jnp.shape(x))

    def _drop(self, x: jax.Array, key: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
        if key is None:
            return x
        kept = jax.random.bernoulli(key, 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))
