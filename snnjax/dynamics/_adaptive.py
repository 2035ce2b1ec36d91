r"""LIF neuron whose threshold rises with each of its own spikes.

    z[t]   = spike(u[t] - theta - b a[t])
    a[t+1] = la a[t] + (1 - la) z[t]                                la = exp(-dt/tau_adapt)
    u, i   as in `snnjax.dynamics.LIF`

A subtractive reset subtracts the present threshold, theta + b a[t]. Source: Bellec et al. (2018),
arXiv 1803.09574, equations 1 and 2, on the current-based dynamics of Rossbroich et al. (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass
from snnjax.dynamics._lif import LeakyIntegrateAndFire
from snnjax.dynamics._neuron import Interval
from snnjax.psp import PSP, Kernel


class AdaptiveLIFState(NamedTuple):
    """State of an `AdaptiveLIF` population, arrays (batch, ...features).

    Attributes:
        u: Membrane potential.
        i: Synaptic current.
        a: Adaptation variable.
    """

    u: jax.Array
    i: jax.Array
    a: jax.Array


@pytree_dataclass
class AdaptiveLIF(LeakyIntegrateAndFire):
    """Parameters of an adaptive LIF population: those of `LIF` without `trace_dtype`, and two more.

    Attributes:
        tau_syn: Synaptic time constant, s.
        tau_adapt: Time constant of the adaptation, s.
        b: Strength of the adaptation, in membrane units, >= 0.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> import jax.numpy as jnp
    >>> neuron = AdaptiveLIF(tau_adapt=0.2, b=1.8)
    >>> state, z = neuron.step(neuron.initial_state((2, 3)), jnp.ones((2, 3)))
    >>> z.shape, state.a.shape
    ((2, 3), (2, 3))
    """

    tau_syn: Scalar = 10e-3
    tau_adapt: Scalar = 200e-3
    b: Scalar = 1.0

    state_type = AdaptiveLIFState
    currents: ClassVar[Mapping[str, int]] = {"tau_syn": 1}
    ranges: ClassVar[Mapping[str, Interval]] = {
        **LeakyIntegrateAndFire.ranges,
        "b": (0.0, math.inf),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("tau_adapt", self.tau_adapt, above=0, unit="s")
        _check.number("b", self.b, at_least=0)

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential below the threshold, where the neuron is a `LIF`."""
        if type(self).step is not AdaptiveLIF.step:
            return super().kernel
        return Kernel(tau_mem=self.tau_mem, tau_syn=self.tau_syn, dt=self.dt)

    def step(self, state: AdaptiveLIFState, drive: jax.Array) -> tuple[AdaptiveLIFState, jax.Array]:
        """Return the next state and the spikes z[t]."""
        u, i, a = state
        threshold = self.theta + self.b * a
        z = self.spike(u - threshold)
        taus = (self.tau_mem, self.tau_syn, self.tau_adapt)
        lm, ls, la = (_time.decay(self.dt, tau) for tau in taus)
        u_next = self.reset_where(z, lm * u + (1 - lm) * i, threshold)
        i_next, a_next = ls * i + drive, la * a + (1 - la) * z
        values = (u_next, i_next, a_next)
        return AdaptiveLIFState(*(v.astype(s.dtype) for v, s in zip(values, state, strict=True))), z
