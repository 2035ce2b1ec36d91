"""Targets of trials of different length."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from snnjax._pytree import pytree_dataclass


@pytree_dataclass
class Timed:
    """Targets of trials of different length, in place of the targets themselves.

    Sources of data with such trials return them (`snnjax.datasets.EventDataset.durations`). All
    losses take them.

    Attributes:
        target: The targets, as without lengths.
        num_steps: Number of time steps of each trial, integers (batch,), from 1.

    >>> from snnjax.losses import CrossEntropy
    >>> readout = jnp.array([[[0.0, 1.0]], [[2.0, 0.0]], [[9.0, 9.0]]])
    >>> losses = [CrossEntropy()(readout, y) for y in (jnp.array([0]), jnp.array([1]))]
    >>> timed = CrossEntropy()(readout, Timed(target=jnp.array([0]), num_steps=jnp.array([2])))
    >>> [round(float(v[0]), 3) for v in (*losses, timed)]
    [0.693, 0.693, 0.313]
    """

    target: Any
    num_steps: jax.Array

    def after(self, steps: int) -> jax.Array:
        """Whether a step is after the end of the trial, (steps, batch)."""
        return jnp.arange(steps)[:, None] >= self.num_steps

    def silenced(self, z: jax.Array) -> jax.Array:
        """Return spikes (time, batch, ...features) with 0 after the end of each trial."""
        after = self.after(len(z))
        return jnp.where(after.reshape(*after.shape, *(1,) * (z.ndim - 2)), 0, z)


def untimed(target: Any) -> tuple[Any, jax.Array | None]:
    """Return the targets themselves, and the numbers of steps, or None."""
    return (target.target, target.num_steps) if isinstance(target, Timed) else (target, None)
