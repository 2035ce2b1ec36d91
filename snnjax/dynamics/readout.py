r"""Leaky integrator: a LIF neuron without threshold, read out as a continuous trace.

    o[t+1] = lr o[t] + (1 - lr) i[t]                                lr = exp(-dt/tau_mem), tau_mem = the trial's duration in the paper
    i[t+1] = ls i[t] + drive[t]                                     ls = exp(-dt/tau_syn)

The trace of T steps is o[1] ... o[T], as in the reference implementation.
o[0] is slightly negative, so that a class whose trace never rises does not tie at exactly 0 with the others under max-over-time.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics.lif import check_dt, check_tau


class LeakyIntegratorState(NamedTuple):
    """Readout potential and synaptic current, each (batch, ...features)."""

    o: jax.Array
    i: jax.Array


@pytree_dataclass
class LeakyIntegrator:
    """Parameters of a readout population.

    Attributes:
      tau_mem, tau_syn: time constants, s; scalars or one value a unit; differentiable where they are JAX arrays.
      initial: o[0].   dt: time step, s.

    >>> neuron = LeakyIntegrator(tau_mem=0.2, tau_syn=10e-3, dt=2e-3)
    >>> state = neuron.initial_state((1, 1))
    >>> state, o = neuron.step(state, jnp.ones((1, 1)))
    >>> round(float(o[0, 0]), 6)
    -0.00099
    """

    tau_mem: Any = 200e-3
    tau_syn: Any = 10e-3
    initial: Any = -1e-3
    dt: float = static(default=2e-3)

    def __post_init__(self) -> None:
        _check.number("tau_mem", self.tau_mem, above=0, unit="s")  # a trial may be longer than 1 s
        check_tau("tau_syn", self.tau_syn)
        _check.number("initial", self.initial)
        check_dt(self.dt)

    def initial_state(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> LeakyIntegratorState:
        """o = `initial`, i = 0 for a population of `shape` (batch, ...features), in at least float32."""
        dtype = _check.wide(dtype)
        return LeakyIntegratorState(jnp.full(shape, self.initial, dtype), jnp.zeros(shape, dtype))

    def step(self, state: LeakyIntegratorState, drive: jax.Array) -> tuple[LeakyIntegratorState, jax.Array]:
        """One time step: the next state and the trace o[t+1]."""
        o, i = state
        lr, ls = _check.decay(self.dt, self.tau_mem), _check.decay(self.dt, self.tau_syn)
        o_next = (lr * o + (1 - lr) * i).astype(o.dtype)
        return LeakyIntegratorState(o_next, (ls * i + drive).astype(i.dtype)), o_next
