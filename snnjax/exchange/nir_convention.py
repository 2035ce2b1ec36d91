r"""The same neuron in snnjax and in NIR, the Neuromorphic Intermediate Representation.

NIR's CubaLIF (CubaLI: without threshold and reset) is continuous in time:

    tau_syn dI/dt = -I + w_in S
    tau_mem dv/dt = v_leak - v + r I
    z = 1 and v = v_reset where v > v_threshold

snnjax's LIF is on a grid of dt, with ls = exp(-dt/tau_syn) and lm = exp(-dt/tau_mem):

    i[t+1] = ls i[t] + drive[t]
    u[t+1] = reset(lm u[t] + (1 - lm) i[t], z[t])
    z[t]   = 1 if u[t] > theta

A NIR graph has no time step. Its reader chooses the time step and the integration scheme. Suppose
that each equation is solved over a step with its input fixed at the value from the start of the
step, and that S is 1 during the step of a spike. Then

    I[t+1] = ls I[t] + (1 - ls) w_in S[t]
    v[t+1] = lm v[t] + (1 - lm)(v_leak + r I[t])

These are exactly our equations for drive = W S and

    w_in = 1 / (1 - ls)    r = 1    v_leak = 0    v_threshold = theta    v_reset = 0 or u_reset
    tau_syn, tau_mem unchanged

This is the scheme "exponential". A reader that takes Euler steps has 1 - dt/tau in place of
exp(-dt/tau). For it, the scheme "euler" writes, with w_in and r as above,

    tau_nir = dt / (1 - exp(-dt/tau))

so that 1 - dt/tau_nir = exp(-dt/tau), at this dt only.

Time step and scheme are in the graph's metadata, `dt` (s) and `scheme`. Neither scheme decides the
following points, and readers differ in them:

    order    We use i[t] for u[t+1] and u[t+1] for z[t+1]. The response to a spike that arrives at
             step t is at t + 2 at the earliest. A reader that updates I, v and z one after the
             other in the same step responds at t. Without recurrence this is a shift of two steps
             per layer, and the spikes are the same.
    reset    We reset the membrane that the step after the spike would have reached: u[t+1] = 0 for
             any i[t]. A reader that sets v to v_reset at once and adds the current in its next step
             is one step earlier after each spike. This is more than a shift. In continuous time
             subtracting theta is the same as a reset to 0, and it is written as a reset to 0. The
             metadata has the original reset.
    charge   w_in is for spikes that last one step. A reader that treats spikes as Dirac pulses must
             give them the area dt. Some readers add w_in itself to I. For them spikes count w_in
             times as much as for us.

Arrays: NIR has features before positions, (C, *spatial), and weights (out, in, *sizes). Ours are
(*spatial, C) and (*sizes, in, out). The inputs of weights after a Flatten are reordered, so that
both flattenings mean the same.

For an exact round trip a neuron's metadata holds what NIR cannot represent: the parameters as
snnjax stores them (one number or one per neuron, logarithms if they are trained), the surrogate
derivative, and the initial value of the readout. The metadata is used only if it agrees with the
node's own values.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation, doi
10.1038/s41467-024-52259-9.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from snnjax import _check, surrogate

Scheme = Literal["exponential", "euler"]
SURROGATES = {
    make().name: make
    for make in (
        surrogate.superspike,
        surrogate.superspike_rescaled,
        surrogate.superspike_asymptotic,
        surrogate.fast_sigmoid,
        surrogate.atan,
        surrogate.triangular,
        surrogate.sigmoid,
    )
}
NO_SYNAPSE = 1e-3  # tau_syn / dt of a neuron without synaptic current: exp(-1000) is 0
POOL_THRESHOLD = 0.5  # of a count of spikes: at least one


def import_nir() -> Any:
    """Return the optional package `nir`."""
    try:
        return importlib.import_module("nir")
    except ImportError:
        raise ImportError(
            "exchange through NIR needs the package nir: pip install 'snnjax[nir]'"
        ) from None


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
        raise ValueError(
            f"must be at least dt = {dt:g} s under Euler's scheme, got {np.min(tau):g} s"
        )
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


def channels_first(a: np.ndarray) -> np.ndarray:
    """Move the channels to the front: (*spatial, channels) to (channels, *spatial).

    >>> channels_first(np.zeros((5, 6, 2))).shape
    (2, 5, 6)
    """
    return np.ascontiguousarray(np.moveaxis(a, -1, 0))


def channels_last(a: np.ndarray) -> np.ndarray:
    """Invert `channels_first`."""
    return np.ascontiguousarray(np.moveaxis(a, 0, -1))
