r"""Leaky integrator: a LIF neuron without threshold, read out as a continuous trace.

    o[t+1] = lr o[t] + (1 - lr) i[t]                                lr = exp(-dt/tau_mem)
    i[t+1] = ls i[t] + drive[t]                                     ls = exp(-dt/tau_syn)

In the paper tau_mem is the duration of a trial. The trace of T steps is o[1] ... o[T], as in the
reference implementation. o[0] is slightly negative, so that a class whose trace never rises does
not tie at exactly 0 with the others under max-over-time. Source: Rossbroich, Gygax & Zenke (2022),
doi 10.1088/2634-4386/ac97bb, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics import _over_time
from snnjax.dynamics._leaky_vjp import jitted_leaky_scan
from snnjax.dynamics._lif import CONSTANT, check_dt, check_tau
from snnjax.dynamics._neuron import Neuron, Run, Simulation
from snnjax.psp import PSP, Kernel


class LeakyIntegratorState(NamedTuple):
    """State of a readout population, arrays (batch, ...features).

    Attributes:
        o: Readout potential.
        i: Synaptic current.
    """

    o: jax.Array
    i: jax.Array


@pytree_dataclass
class LeakyIntegrator(Neuron):
    """Parameters of a readout population.

    Attributes:
        tau_mem: Time constant of the readout, s. A number, or one per unit. Differentiable if it is
            a JAX array.
        tau_syn: Synaptic time constant, s, likewise.
        initial: o[0].
        dt: Time step, s.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> neuron = LeakyIntegrator(tau_mem=0.2, tau_syn=10e-3, dt=2e-3)
    >>> state = neuron.initial_state((1, 1))
    >>> state, o = neuron.step(state, jnp.ones((1, 1)))
    >>> round(float(o[0, 0]), 6)
    -0.00099
    """

    tau_mem: Scalar = 200e-3
    tau_syn: Scalar = 10e-3
    initial: Scalar = -1e-3
    dt: float = static(default=2e-3)

    def __post_init__(self) -> None:
        _check.number("tau_mem", self.tau_mem, above=0, unit="s")  # a trial may be longer than 1 s
        check_tau("tau_syn", self.tau_syn)
        _check.number("initial", self.initial)
        check_dt(self.dt)

    @property
    def kernel(self) -> PSP:
        """That of a `LIF`; the trace is one step ahead, which its integrals do not show."""
        if type(self).step is not LeakyIntegrator.step:
            return super().kernel
        return Kernel(tau_mem=self.tau_mem, tau_syn=self.tau_syn, dt=self.dt)

    def initial_state(
        self, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> LeakyIntegratorState:
        """Return o = `initial` and i = 0 for a population of `shape`, in at least float32."""
        dtype = _check.wide(dtype)
        return LeakyIntegratorState(jnp.full(shape, self.initial, dtype), jnp.zeros(shape, dtype))

    def step(
        self, state: LeakyIntegratorState, drive: jax.Array
    ) -> tuple[LeakyIntegratorState, jax.Array]:
        """Return the next state and the trace o[t+1]."""
        o, i = state
        lr, ls = _time.decay(self.dt, self.tau_mem), _time.decay(self.dt, self.tau_syn)
        o_next = (lr * o + (1 - lr) * i).astype(o.dtype)
        return LeakyIntegratorState(o_next, (ls * i + drive).astype(i.dtype)), o_next

    def scan(self, run: Run) -> Simulation:
        """`Neuron.scan`, on a GPU by the kernel of `_over_time` where it applies.

        Elsewhere autodiff is as fast, and has derivatives of all kinds.
        """
        drive, state = run.drive, run.state
        if not (
            isinstance(drive, jax.Array)
            and _over_time.on_gpu()
            and type(self).step is LeakyIntegrator.step
            and run.recurrent is None
            and all(isinstance(tau, CONSTANT) for tau in (self.tau_mem, self.tau_syn))
            and all(s.shape == drive.shape[1:] and s.dtype == drive.dtype for s in state)
        ):
            return super().scan(run)
        lr, ls = (_time.decay(self.dt, tau) for tau in (self.tau_mem, self.tau_syn))
        coefficients = tuple(np.asarray(c, drive.dtype) for c in (lr, 1 - lr, ls))
        final, output = jitted_leaky_scan(coefficients, tuple(state), drive)
        return Simulation(LeakyIntegratorState(*final), output)
