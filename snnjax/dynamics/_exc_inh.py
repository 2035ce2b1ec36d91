r"""LIF neuron with separate excitatory and inhibitory currents, for networks that obey Dale's law.

    z[t]       = spike(u[t] - theta)
    u[t+1]     = reset(lm u[t] + (1 - lm) (i_exc[t] - i_inh[t]), z[t])
    i_exc[t+1] = exp(-dt/tau_exc) i_exc[t] + drive.exc[t]
    i_inh[t+1] = exp(-dt/tau_inh) i_inh[t] + drive.inh[t]

Both drives are >= 0 where the weights are. Source: Rossbroich, Gygax & Zenke (2022),
doi 10.1088/2634-4386/ac97bb, section 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from snnjax import _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass
from snnjax.dynamics._lif import FusedScan, LeakyIntegrateAndFire
from snnjax.dynamics._neuron import measured
from snnjax.psp import ExcInhKernels, Kernel


class ExcInhState(NamedTuple):
    """State of an `ExcInhLIF` population, arrays (batch, ...features).

    Attributes:
        u: Membrane potential.
        i_exc: Excitatory current.
        i_inh: Inhibitory current.
    """

    u: jax.Array
    i_exc: jax.Array
    i_inh: jax.Array


class ExcInhDrive(NamedTuple):
    """What each current receives.

    Attributes:
        exc: Drive of the excitatory current.
        inh: Drive of the inhibitory current; the two broadcast against each other.
    """

    exc: jax.Array
    inh: jax.Array


@pytree_dataclass
class ExcInhLIF(FusedScan, LeakyIntegrateAndFire):
    """Parameters of a LIF population with two currents: as `LIF`, with `tau_exc`
    and `tau_inh` instead of `tau_syn`.

    Attributes:
        tau_exc: Time constant of the excitatory current, s.
        tau_inh: Time constant of the inhibitory current, s.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> neuron = ExcInhLIF(tau_exc=10e-3, tau_inh=20e-3)
    >>> drive = ExcInhDrive(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    >>> state, z = neuron.step(neuron.initial_state((2, 3)), drive)
    >>> float(state.i_exc.sum()), float(state.i_inh.sum())
    (6.0, 0.0)
    """

    tau_exc: Scalar = 10e-3
    tau_inh: Scalar = 20e-3

    state_type = ExcInhState
    n_currents: ClassVar[int] = 2
    currents: ClassVar[Mapping[str, int]] = {"tau_exc": 1, "tau_inh": -1}

    @property
    def kernel(self) -> NoReturn:
        """Not defined: see `kernels`."""
        raise TypeError(
            f"neuron must have one synaptic current, got {type(self).__name__}, whose kernels are "
            "neuron.kernels; Dalian layers need DalianFluctuationDriven"
        )

    @property
    def kernels(self) -> ExcInhKernels:
        """The post-synaptic potentials of both currents, in closed form and without their signs."""
        if type(self).step is not ExcInhLIF.step:
            return ExcInhKernels(measured(self, _to_exc), measured(self, _to_inh))
        kernel = lambda tau_syn: Kernel(tau_mem=self.tau_mem, tau_syn=tau_syn, dt=self.dt)
        return ExcInhKernels(kernel(self.tau_exc), kernel(self.tau_inh))

    def step(self, state: ExcInhState, drive: ExcInhDrive) -> tuple[ExcInhState, jax.Array]:
        """Return the next state and the spikes z[t]."""
        u, i_exc, i_inh = state
        z = self.spike(u - self.theta)
        taus = (self.tau_mem, self.tau_exc, self.tau_inh)
        lm, le, li = (_time.decay(self.dt, tau) for tau in taus)
        u_next = self.reset_where(z, lm * u + (1 - lm) * (i_exc - i_inh), self.theta)
        values = (u_next, le * i_exc + drive.exc, li * i_inh + drive.inh)
        return ExcInhState(*(v.astype(s.dtype) for v, s in zip(values, state, strict=True))), z

    plain_step = step


def _to_exc(drive: jax.Array) -> ExcInhDrive:
    return ExcInhDrive(drive, jnp.zeros_like(drive))


def _to_inh(drive: jax.Array) -> ExcInhDrive:
    return ExcInhDrive(jnp.zeros_like(drive), -drive)
