r"""The post-synaptic potential of a current-based LIF neuron and its integrals.

One input spike of weight 1 moves the membrane by eps(t). In continuous time

    eps(t) = tau_syn / (tau_mem - tau_syn) * (exp(-t/tau_mem) - exp(-t/tau_syn))         t/tau exp(-t/tau) where the two are equal
    ebar   = int eps(t) dt   = tau_syn
    ehat   = int eps(t)^2 dt = tau_syn^2 / (2 (tau_syn + tau_mem))

and for the discrete dynamics of `snnjax.dynamics.LIF`, with lm = exp(-dt/tau_mem), ls = exp(-dt/tau_syn),

    eps[k] = (1 - lm) sum_{j=0}^{k-2} lm^(k-2-j) ls^j                                    k = 0, 1, 2, ...; eps[0] = eps[1] = 0
    ebar   = dt sum_k eps[k]   = dt / (1 - ls)
    ehat   = dt sum_k eps[k]^2 = dt (1 - lm) (1 + lm ls) / ((1 + lm) (1 - ls^2) (1 - lm ls))

Closed forms, exact and regular at tau_mem = tau_syn. The reference implementation sums the kernel over 10 tau instead.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb; the discrete closed form is ours.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check

KernelMode = Literal["discrete", "continuous"]


class PSPIntegrals(NamedTuple):
    """ebar = int eps (s) and ehat = int eps^2 (s) of the kernel of one input spike of weight 1."""

    ebar: Any
    ehat: Any


def _namespace(*values: Any) -> Any:
    """numpy (float64) for plain numbers, jax.numpy as soon as one value is a JAX array or traced."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def _check_times(tau_mem: Any, tau_syn: Any, dt: Any) -> None:
    _check.number("tau_mem", tau_mem, above=0, unit="s")
    _check.number("tau_syn", tau_syn, above=0, unit="s")
    if dt is not None:
        _check.number("dt", dt, above=0, unit="s")


def psp_integrals(*, tau_mem: Any, tau_syn: Any, dt: Any = None, mode: KernelMode = "discrete") -> PSPIntegrals:
    """Integrals of the PSP kernel and of its square.

    Args:
      tau_mem, tau_syn: membrane and synaptic time constant, s; scalars or arrays that broadcast (one value a neuron).
      dt: time step, s. Needed in the discrete mode, not used in the continuous one.
      mode: `"discrete"`, the kernel that the simulation has, or `"continuous"`, its limit for dt -> 0.

    Returns:
      `PSPIntegrals(ebar, ehat)`, both in s. float64 for plain numbers and numpy arrays, else the dtype of the JAX arrays.

    Raises:
      ValueError: a time is not finite and positive, or dt is missing in the discrete mode.

    >>> ebar, ehat = psp_integrals(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{ebar:.7f} {ehat:.8f}"
    '0.0110333 0.00203561'
    >>> psp_integrals(tau_mem=20e-3, tau_syn=10e-3, mode="continuous").ebar
    0.01
    """
    _check.one_of("mode", mode, get_args(KernelMode))
    if mode == "discrete" and dt is None:
        raise ValueError("dt must be given in mode='discrete', got None; it is the simulation's time step in seconds")
    _check_times(tau_mem, tau_syn, dt)
    if mode == "continuous":
        return PSPIntegrals(tau_syn, tau_syn**2 / (2 * (tau_syn + tau_mem)))
    xp = _namespace(tau_mem, tau_syn, dt)
    # 16 bits keep too few digits of 1 - exp(-dt/tau)
    tau_mem, tau_syn = (_check.as_wide(tau) if isinstance(tau, jax.Array) else tau for tau in (tau_mem, tau_syn))
    lm, ls = xp.exp(-dt / tau_mem), xp.exp(-dt / tau_syn)
    # 1 - exp(-x) through expm1: no digits are lost when dt is much shorter than tau
    one_minus_lm, one_minus_ls = -xp.expm1(-dt / tau_mem), -xp.expm1(-dt / tau_syn)
    one_minus_ls2, one_minus_lmls = -xp.expm1(-2 * dt / tau_syn), -xp.expm1(-dt / tau_mem - dt / tau_syn)
    ebar = dt / one_minus_ls
    ehat = dt * one_minus_lm * (1 + lm * ls) / ((1 + lm) * one_minus_ls2 * one_minus_lmls)
    return PSPIntegrals(ebar, ehat)


def psp_kernel(*, duration: float, dt: float, tau_mem: float, tau_syn: float, mode: KernelMode = "discrete") -> np.ndarray:
    """The kernel eps at the time steps 0, dt, 2 dt, ... below `duration`: float64, shape (ceil(duration / dt),).

    >>> kernel = psp_kernel(duration=0.4, dt=2e-3, tau_mem=20e-3, tau_syn=10e-3)
    >>> kernel.shape, int(kernel.argmax())
    ((200,), 8)
    """
    _check.one_of("mode", mode, get_args(KernelMode))
    _check_times(tau_mem, tau_syn, dt)
    _check.number("duration", duration, above=0, unit="s")
    k = np.arange(int(np.ceil(duration / dt - 1e-9)), dtype=np.float64)
    # (exp(-a t) - exp(-b t)) / (b - a) written with the slower exponential in front and expm1: no digits are lost where a is close to b
    slow, gap = min(1 / tau_mem, 1 / tau_syn), abs(1 / tau_mem - 1 / tau_syn)
    if mode == "continuous":
        t = k * dt
        return np.exp(-slow * t) / tau_mem * (-np.expm1(-gap * t) / gap if gap else t)
    m = np.maximum(k - 1, 0)
    geometric = np.exp(-slow * dt * (m - 1)) * (np.expm1(-gap * dt * m) / np.expm1(-gap * dt) if gap else m)
    return -np.expm1(-dt / tau_mem) * geometric
