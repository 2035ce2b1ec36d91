"""A module that returns only the readout, and a source with any targets.

Their optimal parameters can be computed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

STEPS, INPUTS, OUTPUTS = 3, 4, 2


class Linear(nnx.Module):
    """The same linear map at each time step, without activity."""

    def __init__(self, inputs=INPUTS, outputs=OUTPUTS, seed=0):
        self.map = nnx.Linear(inputs, outputs, use_bias=False, rngs=nnx.Rngs(seed))

    def __call__(self, x):
        return self.map(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """Inputs (samples, time, features) and targets (samples, ...).

    Traces are (samples, time, k) and are returned time-major.
    """

    x: jax.Array
    y: jax.Array

    def __len__(self):
        return self.x.shape[0]

    def batch(self, indices, key=None):
        y = self.y[indices]
        return jnp.moveaxis(self.x[indices], 0, 1), jnp.moveaxis(y, 0, 1) if y.ndim == 3 else y


def inputs(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, STEPS, INPUTS)).astype(np.float32)


def noisy_map(x, seed=1):
    """A linear map of each row of x, and noise."""
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(2).normal(size=(INPUTS, OUTPUTS))
    return (x @ w + 0.3 * rng.normal(size=(*x.shape[:-1], OUTPUTS))).astype(np.float32)


def least_squares(features, values):
    """Smallest mean square error of a linear map, and the map."""
    features, values = (np.asarray(a, np.float64) for a in (features, values))
    w = np.linalg.lstsq(features, values, rcond=None)[0]
    return float(np.mean((features @ w - values) ** 2)), w
