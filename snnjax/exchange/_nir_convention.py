"""Constants of the same neuron in snnjax and in NIR. Formulas: docstring of `snnjax.exchange`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from snnjax import _check, _extras, surrogate

Scheme = Literal["exponential", "euler"]
SURROGATES: dict[str, Callable[[], surrogate.SpikeFunction]] = {
    name: getattr(surrogate, name) for name in surrogate.__all__ if name != "SpikeFunction"
}
NO_SYNAPSE = 1e-3  # tau_syn / dt of a neuron without synaptic current: exp(-1000) is 0
POOL_THRESHOLD = 0.5  # of a count of spikes: at least one


def import_nir() -> Any:
    """Return the optional package `nir`."""
    return _extras.package("nir", "nir", "NIR")


def check_scheme(scheme: object) -> Scheme:
    """Return the scheme, or raise a ValueError if it is none of `Scheme`."""
    return _check.one_of("scheme", str(scheme), get_args(Scheme))


def tau_to_nir(tau: ArrayLike, dt: float, scheme: Scheme) -> ArrayLike:
    """Convert a time constant to its value in a graph of this scheme.

    Args:
        tau: Time constants, s, of any shape.
        dt: Time step of the network, s.
        scheme: The graph's scheme.

    Returns:
        The time constants in the graph, s; in float64 for "euler".

    >>> f"{tau_to_nir(20e-3, 2e-3, 'euler'):.6f}"
    '0.021017'
    """
    return tau if scheme == "exponential" else dt / -np.expm1(-dt / np.asarray(tau, np.float64))


def tau_from_nir(tau: np.ndarray, dt: float, scheme: Scheme) -> np.ndarray:
    """Invert `tau_to_nir`.

    Args:
        tau: Time constants in the graph, s, of any shape.
        dt: Time step of the graph, s.
        scheme: The graph's scheme.

    Returns:
        The time constants, s. A current with a time constant of dt decays to 0 within one Euler
        step; for it the result is `NO_SYNAPSE` dt.

    Raises:
        ValueError: A time constant is less than dt under "euler".

    >>> f"{tau_from_nir(tau_to_nir(20e-3, 2e-3, 'euler'), 2e-3, 'euler'):.9f}"
    '0.020000000'
    """
    if scheme == "exponential":
        return tau
    ratio = dt / np.asarray(tau, np.float64)
    if (ratio > 1).any():
        needed = f"at least dt = {dt:g} s under Euler's scheme"
        raise ValueError(f"must be {needed}, got {np.min(tau):g} s")
    lasts = ratio < 1
    return np.where(lasts, -dt / np.log1p(-np.where(lasts, ratio, 0.5)), NO_SYNAPSE * dt)


def input_gain(tau_nir: ArrayLike, dt: float, scheme: Scheme) -> np.ndarray:
    """Return 1 - ls, the current after one step of unit input.

    Args:
        tau_nir: Synaptic time constants in the graph, s, of any shape.
        dt: Time step of the graph, s.
        scheme: The graph's scheme.
    """
    ratio = dt / np.asarray(tau_nir, np.float64)
    return -np.expm1(-ratio) if scheme == "exponential" else ratio
