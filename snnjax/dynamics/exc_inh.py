r"""LIF neuron with separate excitatory and inhibitory currents, for networks that obey Dale's law.

    z[t]       = spike(u[t] - theta)
    u[t+1]     = reset(lm u[t] + (1 - lm) (i_exc[t] - i_inh[t]), z[t])
    i_exc[t+1] = exp(-dt/tau_exc) i_exc[t] + drive.exc[t]
    i_inh[t+1] = exp(-dt/tau_inh) i_inh[t] + drive.inh[t]

Both drives are >= 0 where the weights are. Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics._neuron import Reset, apply_reset
from snnjax.dynamics.lif import check_lif, check_trace_dtype
from snnjax.surrogate import SpikeFunction, superspike


class ExcInhState(NamedTuple):
    """Membrane potential and the two synaptic currents, each (batch, ...features)."""

    u: jax.Array
    i_exc: jax.Array
    i_inh: jax.Array


class ExcInhDrive(NamedTuple):
    """What each current receives, the same shape for both."""

    exc: jax.Array
    inh: jax.Array


@pytree_dataclass
class ExcInhLIF:
    """Parameters of an E/I-driven LIF population: those of `LIF`, with `tau_exc` and `tau_inh` (s) in place of tau_syn.

    >>> neuron = ExcInhLIF(tau_exc=10e-3, tau_inh=20e-3)
    >>> drive = ExcInhDrive(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    >>> state, z = neuron.step(neuron.initial_state((2, 3)), drive)
    >>> float(state.i_exc.sum()), float(state.i_inh.sum())
    (6.0, 0.0)
    """

    tau_mem: Any = 20e-3
    tau_exc: Any = 10e-3
    tau_inh: Any = 20e-3
    theta: Any = 1.0
    u_reset: Any = 0.0
    spike: SpikeFunction = superspike(20.0)
    dt: float = static(default=2e-3)
    reset: Reset = static(default="multiplicative")
    reset_grad: bool = static(default=False)
    trace_dtype: Any = static(default=None)

    def __post_init__(self) -> None:
        check_lif(self, tau_syn=("tau_exc", "tau_inh"))
        check_trace_dtype(self.trace_dtype)

    def initial_state(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> ExcInhState:
        """u = i_exc = i_inh = 0 for a population of `shape` (batch, ...features), in at least float32."""
        return ExcInhState(*(jnp.zeros(shape, _check.wide(dtype)) for _ in range(3)))

    def step(self, state: ExcInhState, drive: ExcInhDrive) -> tuple[ExcInhState, jax.Array]:
        """One time step: the next state and the spikes z[t]."""
        u, i_exc, i_inh = state
        z = self.spike(u - self.theta)
        lm, le, li = (_check.decay(self.dt, tau) for tau in (self.tau_mem, self.tau_exc, self.tau_inh))
        u_free = lm * u + (1 - lm) * (i_exc - i_inh)
        u_next = apply_reset(u_free, z, reset=self.reset, reset_grad=self.reset_grad, theta=self.theta, u_reset=self.u_reset)
        return ExcInhState(
            u_next.astype(u.dtype), (le * i_exc + drive.exc).astype(i_exc.dtype), (li * i_inh + drive.inh).astype(i_inh.dtype)
        ), z
