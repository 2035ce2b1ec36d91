r"""Leaky integrator: a LIF neuron without threshold, read out as a continuous trace.

    o[t+1] = lr o[t] + (1 - lr) i[t]                                lr = exp(-dt/tau_mem)
    i[t+1] = ls i[t] + drive[t]                                     ls = exp(-dt/tau_syn)

In the paper tau_mem is the duration of a trial. The trace of T steps is o[1] ... o[T], as in the
reference implementation. o[0] is slightly negative, so that a class whose trace never rises does
not tie at exactly 0 with the others under max-over-time.

On a GPU, with constant coefficients, one kernel runs the filter, and another one its backward pass,
with g. the cotangents, from t = T - 1 down to 0:

    g[t]      = go[t+1] + gtrace[t]
    gdrive[t] = gi[t+1]
    go[t]     = lr g[t],   gi[t] = ls gi[t+1] + (1 - lr) g[t]

Source: Rossbroich, Gygax & Zenke (2022),
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


Pair = tuple[jax.Array, jax.Array]
"""(o, i), or the cotangents of both."""
Coefficients = tuple[jax.Array, jax.Array, jax.Array]
"""(lr, 1 - lr, ls)."""


@jax.custom_vjp
def leaky_scan(coefficients: Coefficients, state: Pair, drive: jax.Array) -> tuple[Pair, jax.Array]:
    """Run the filter. Its backward pass is the same filter, run from the end.

    Args:
        coefficients: (lr, 1 - lr, ls), constants: their gradient is zero.
        state: (o, i) before the first step.
        drive: (time, batch, ...features).

    Returns:
        The final state, and the trace of the drive's shape.
    """

    def body(constants: Coefficients, carry: Pair, d: jax.Array) -> tuple[Pair, jax.Array]:
        lr, gain, ls = constants
        o, i = carry
        o_next = lr * o + gain * i
        return (o_next, ls * i + d), o_next

    return _over_time.elementwise(body, coefficients, state, drive)


def _backward(
    coefficients: Coefficients, cotangents: tuple[Pair, jax.Array]
) -> tuple[Coefficients, Pair, jax.Array]:
    def body(constants: Coefficients, carry: Pair, gtrace: jax.Array) -> tuple[Pair, jax.Array]:
        lr, gain, ls = constants
        go, gi = carry
        g = go + gtrace
        return (lr * g, ls * gi + gain * g), gi

    g_state, g_drive = _over_time.elementwise(body, coefficients, *cotangents, reverse=True)
    return jax.tree.map(jnp.zeros_like, coefficients), g_state, g_drive


leaky_scan.defvjp(lambda *given: (leaky_scan(*given), given[0]), _backward)
jitted_leaky_scan = jax.jit(leaky_scan)
