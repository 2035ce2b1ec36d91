"""Time steps: how many cover a duration, and how much of a variable is left after one."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from snnjax import _check
from snnjax._check import Scalar


def num_steps(duration: float, dt: float) -> int:
    """Return the number of time steps that cover a duration.

    That is ceil(duration / dt). A multiple of dt is taken as exact in spite of rounding.

    Args:
        duration: Duration, s.
        dt: Time step, s.

    Returns:
        The number of steps.

    Raises:
        ValueError: One of the two is not finite and positive.

    >>> num_steps(0.7, 2e-3), num_steps(0.2, 3e-3)
    (350, 67)
    """
    _check.number("duration", duration, above=0, unit="s")
    _check.number("dt", dt, above=0, unit="s")
    return math.ceil(round(duration / dt, 9))


def decay(dt: Scalar, tau: Scalar) -> Any:
    """Return exp(-dt/tau), the factor by which a variable decays in one time step.

    Args:
        dt: Time step, s.
        tau: Time constant, s.

    Returns:
        A Python float if `tau` is a Python number (it is rounded once, when it is used). Otherwise
        an array in at least float32.
    """
    if isinstance(tau, int | float):
        return math.exp(-dt / tau)
    if isinstance(tau, np.ndarray | np.generic):
        return np.exp(-dt / np.asarray(tau, _check.wide(tau.dtype)))
    return jax.numpy.exp(-dt / _check.as_wide(tau))
