r"""What snnjax and NIR, the Neuromorphic Intermediate Representation, mean by the same neuron.

NIR's CubaLIF (CubaLI: without threshold and reset) is continuous, and snnjax's LIF is on a grid of dt:

    tau_syn dI/dt = -I + w_in S                         i[t+1] = ls i[t] + drive[t]                       ls = exp(-dt/tau_syn)
    tau_mem dv/dt = v_leak - v + r I                    u[t+1] = reset(lm u[t] + (1 - lm) i[t], z[t])     lm = exp(-dt/tau_mem)
    z = 1 and v = v_reset where v > v_threshold         z[t]   = 1 if u[t] > theta

A NIR graph has no time step: whoever reads it chooses one, and how to step. Where each equation is solved over a step with its input held at the value it had
at the step's start, and S is 1 during the step of a spike,

    I[t+1] = ls I[t] + (1 - ls) w_in S[t]               v[t+1] = lm v[t] + (1 - lm)(v_leak + r I[t])

These are our equations, exactly, for drive = W S and

    w_in = 1 / (1 - ls)    r = 1    v_leak = 0    v_threshold = theta    v_reset = 0 or u_reset    tau_syn, tau_mem unchanged

the scheme "exponential". A reader that takes Euler's step has 1 - dt/tau in place of exp(-dt/tau). The scheme "euler" writes, with w_in and r as above,

    tau_nir = dt / (1 - exp(-dt/tau))                   so that 1 - dt/tau_nir = exp(-dt/tau), at this dt and no other

Time step and scheme stand in the graph's metadata, `dt` (s) and `scheme`. What neither scheme decides, and readers do differently:

    order    We use i[t] for u[t+1] and u[t+1] for z[t+1]: a spike that arrives at step t is answered at t + 2 at the earliest. A reader that updates I, v and z
             one after the other in the same step answers at t. Without recurrence that is a shift of two steps a layer, and the spikes are the same.
    reset    We reset the membrane that the step after the spike would have reached: u[t+1] = 0 whatever i[t] is. A reader that sets v to v_reset at once
             and adds the current in its next step is one step earlier after each spike, which is no mere shift. In continuous time subtracting theta is the
             same as a reset to 0, and is written as that; the metadata knows which it was.
    charge   w_in counts on spikes that last a step. A reader for which they are Dirac pulses must give them the area dt; one that adds w_in itself to I, as
             some do, gives them w_in times as much as we.

Arrays: NIR has features before positions, (C, *spatial) where ours are (*spatial, C), and weights (out, in, *sizes) where ours are (*sizes, in, out). Weights
after a Flatten have their inputs reordered, so that both flattenings mean the same.

For an exact round trip a neuron's metadata holds what NIR has no place for: the parameters as snnjax holds them (one number or one a neuron, logarithms where
they are trained), the surrogate derivative, the readout's initial value. They count only where they agree with the node's own values.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation, doi 10.1038/s41467-024-52259-9.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

import numpy as np

from snnjax import _check, surrogate

Scheme = Literal["exponential", "euler"]
SURROGATES = {
    make().name: make
    for make in (
        surrogate.superspike, surrogate.superspike_rescaled, surrogate.superspike_asymptotic, surrogate.fast_sigmoid, surrogate.atan,
        surrogate.triangular, surrogate.sigmoid,
    )
}  # fmt: skip
NO_SYNAPSE = 1e-3  # tau_syn / dt of a neuron without synaptic current: exp(-1000) is 0
POOL_THRESHOLD = 0.5  # of a count of spikes: at least one


def import_nir() -> Any:
    """The `nir` package, which nothing else needs."""
    try:
        return importlib.import_module("nir")
    except ImportError:
        raise ImportError(
            "exchange through NIR needs the package nir: pip install 'snnjax[nir]'"
        ) from None


def check_scheme(scheme: Any) -> Scheme:
    """One of the schemes, or a ValueError."""
    return _check.one_of("scheme", str(scheme), get_args(Scheme))


def tau_to_nir(tau: Any, dt: float, scheme: Scheme) -> Any:
    """A time constant as a graph of this scheme has it, both in s; in float64 for "euler".

    >>> f"{tau_to_nir(20e-3, 2e-3, 'euler'):.6f}"
    '0.021017'
    """
    return tau if scheme == "exponential" else dt / -np.expm1(-dt / np.asarray(tau, np.float64))


def tau_from_nir(tau: Any, dt: float, scheme: Scheme) -> Any:
    """The inverse of `tau_to_nir`; for a decay to 0 within one step of Euler, a time constant that is short against it.

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


def input_gain(tau_nir: Any, dt: float, scheme: Scheme) -> np.ndarray:
    """1 - ls, what a step of input adds to a current of the time constant `tau_nir`."""
    ratio = dt / np.asarray(tau_nir, np.float64)
    return -np.expm1(-ratio) if scheme == "exponential" else ratio


def channels_first(a: np.ndarray) -> np.ndarray:
    """(*spatial, channels) to (channels, *spatial).

    >>> channels_first(np.zeros((5, 6, 2))).shape
    (2, 5, 6)
    """
    return np.ascontiguousarray(np.moveaxis(a, -1, 0))


def channels_last(a: np.ndarray) -> np.ndarray:
    """The inverse of `channels_first`."""
    return np.ascontiguousarray(np.moveaxis(a, 0, -1))
