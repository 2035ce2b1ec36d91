"""Trials of different length: their targets, and means over the steps of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snnjax import _check
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


def over_steps(a: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Mean over the steps of each trial, (time, batch, ...features) -> (batch, ...features).

    Args:
        a: The values of all steps.
        num_steps: Number of steps of each trial, integers (batch,); None: all.

    >>> over_steps(jnp.array([[1.0], [2.0], [9.0]]), jnp.array([2])).tolist()
    [1.5]
    """
    if num_steps is None:
        return a.mean(axis=0)
    total = Timed(target=None, num_steps=num_steps).silenced(a).sum(axis=0)
    return total / num_steps.reshape(-1, *(1,) * (total.ndim - 1))


def variance_over_steps(a: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Variance over the steps of each trial; arguments and shapes as for `over_steps`."""
    return over_steps(jnp.square(a - over_steps(a, num_steps)), num_steps)


def called(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], num_steps: jax.Array | None
) -> Any:
    """Call a function of the user, with the numbers of steps if there are any.

    Args:
        name: What the function is, for the error.
        function: The function.
        args: Its arguments.
        num_steps: Its last argument; None: it gets none.

    Raises:
        TypeError: The function does not take them.
    """
    if num_steps is None:
        return function(*args)
    try:
        inspect.signature(function).bind(*args, num_steps)
    except TypeError:
        needed = "num_steps (batch,) as its last argument, for trials of different length"
        raise TypeError(f"{name} must take {needed}, got {function!r}") from None
    return function(*args, num_steps)


def untimed(
    target: Any, trace: jax.Array | None = None, *, of: str = "readout"
) -> tuple[Any, jax.Array | None]:
    """Return the targets themselves, and the numbers of steps, or None.

    Args:
        target: Targets, `Timed` or not.
        trace: Trace (time, batch, ...) for which the numbers of steps are. None: they are not
            checked.
        of: Name of the trace in errors.

    Raises:
        TypeError: The numbers of steps are not integers.
        ValueError: They have another shape than (batch,), or one is not from 1 to the steps of the
            trace (unless they are traced).
    """
    if not isinstance(target, Timed):
        return target, None
    if trace is not None:
        _check_steps(target.num_steps, trace, of)
    return target.target, target.num_steps


def _check_steps(num_steps: jax.Array, trace: jax.Array, of: str) -> None:
    # a mean over more steps than the trace has would be a wrong loss, and one over none NaN
    _check.time_major(of, trace)
    steps, batch = trace.shape[:2]
    if not jnp.issubdtype(jnp.result_type(num_steps), jnp.integer):
        raise TypeError(f"num_steps must be integers, got {jnp.result_type(num_steps)}")
    if jnp.shape(num_steps) != (batch,):
        expected = f"num_steps must have shape ({batch},) for {of} of shape {trace.shape}"
        raise ValueError(f"{expected}, got {jnp.shape(num_steps)}")
    known = _check.concrete(num_steps)
    if known is not None and (bad := known[(known < 1) | (known > steps)]).size:
        expected = f"num_steps must be from 1 to {steps}, the steps of {of}"
        raise ValueError(f"{expected}, got {bad[0]:g}")
