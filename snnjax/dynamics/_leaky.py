r"""Neurons without a synaptic current: the drive itself moves the membrane.

    z[t]   = spike(u[t] - theta)                                    1 if u[t] > theta
    u[t+1] = reset(lm u[t] + (1 - lm) drive[t], z[t])               `Leaky`, lm = exp(-dt/tau_mem)
    u[t+1] = reset(u[t] + drive[t], z[t])                           `IF`

with u[0] = 0. A spike that arrives at step t moves u at t + 1. Resets:
`snnjax.dynamics.apply_reset`. The kernel of `Leaky` is eps[k] = (1 - lm) lm^(k-1) for k >= 1:

    ebar = dt sum_k eps[k]   = dt
    ehat = dt sum_k eps[k]^2 = dt (1 - lm) / (1 + lm) = dt tanh(dt / (2 tau_mem))

An `IF` does not forget: eps[k] = 1 for k >= 1, and both sums are infinite. In a trial of K steps
from u = 0, n Poisson inputs at rate nu give the membrane of step k the mean n mu_w nu k dt and the
variance n E[W^2] nu k dt. Their means over the steps 0 ... K - 1 are those of a kernel with

    ebar = ehat = dt (K - 1) / 2

Source: Gerstner, Kistler, Naud & Paninski (2014), Neuronal Dynamics, section 1.3. The kernel over a
trial is ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from snnjax import _check, _time
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics._lif import FusedScan, LeakyIntegrateAndFire
from snnjax.psp import PSP, Integrals, namespace


class MembraneState(NamedTuple):
    """State of neurons without a synaptic current, an array (batch, ...features).

    Attributes:
        u: Membrane potential.
    """

    u: jax.Array


@pytree_dataclass
class _Driven(FusedScan):
    """What `Leaky` and `IF` share: one variable, which the drive moves."""

    state_type = MembraneState

    def step(self, state: MembraneState, drive: jax.Array) -> tuple[MembraneState, jax.Array]:
        """Return the next state and the spikes z[t]; see `LIF.step` for its second program."""
        (u,) = state
        z = self.spike(u - self.theta)
        lm, gain = self.leak
        u_next = self.reset_where(z, lm * u + gain * drive, self.theta)
        return MembraneState(u_next.astype(u.dtype)), z

    plain_step = step


@pytree_dataclass
class Leaky(_Driven, LeakyIntegrateAndFire):
    """Parameters of a LIF population without synaptic current: those of `LIF` without `tau_syn`.

    snnTorch's `Leaky` and Norse's `LIFBoxCell` are of this kind. snnTorch does not multiply the
    drive by 1 - lm: its weights are 1 - lm times ours, and its beta is our lm.

    Attributes:
        tau_mem: Membrane time constant, s. A number, or an array that broadcasts against the
            features (one value per neuron). Differentiable if it is a JAX array.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> import jax.numpy as jnp
    >>> neuron = Leaky(tau_mem=20e-3, dt=2e-3)
    >>> state, z = neuron.step(neuron.initial_state((1, 1)), jnp.ones((1, 1)))
    >>> f"{state.u[0, 0]:.5f}"                          # 1 - exp(-dt/tau_mem)
    '0.09516'
    """

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential, in closed form."""
        if type(self).step is not Leaky.step:
            return super().kernel
        tau = _check.as_wide(self.tau_mem) if isinstance(self.tau_mem, jax.Array) else self.tau_mem
        return Integrals(self.dt, self.dt, self.dt * namespace(tau).tanh(self.dt / (2 * tau)))


@pytree_dataclass
class IF(_Driven):
    """Parameters of an integrate-and-fire population without leak, the `IF` of NIR.

    A spike through the weight w raises the membrane by w. Below its threshold, the membrane is the
    sum of the input since the last spike. With `reset="subtractive"` a neuron spikes about once per
    theta of input. Its weights should be balanced (`snnjax.calibration.Target`): a neuron whose
    weights have a negative sum drifts away from its threshold for the whole trial.

    Attributes:
        duration: Duration of a trial, s. Only `kernel` uses it. It is needed for weights from a
            formula, such as `snnjax.nn.FluctuationDriven`, and to calibrate recurrent layers.
            Other weights from data need none: they are measured over the trials of the data.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> import jax.numpy as jnp
    >>> neuron = IF(reset="subtractive")
    >>> state = neuron.initial_state((1, 1))
    >>> for _ in range(3):
    ...     state, z = neuron.step(state, jnp.full((1, 1), 0.75))
    >>> f"{state.u[0, 0]:.2f} {z[0, 0]:.0f}"            # 3 x 0.75 less one threshold
    '1.25 1'
    """

    duration: float | None = static(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.duration is not None:
            _check.number("duration", self.duration, above=self.dt, unit="s")

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential over a trial; without `duration`, its integrals are infinite.

        mean() gives the membrane's mean over the steps of a trial, and power() the mean of its
        variance from trial to trial. The quenched spread of `snnjax.theory` holds, too.
        """
        if type(self).step is not IF.step:
            return super().kernel
        if self.duration is None:
            return Integrals(self.dt, math.inf, math.inf)
        over_trial = self.dt * (_time.num_steps(self.duration, self.dt) - 1) / 2
        return Integrals(self.dt, over_trial, over_trial)
