r"""LIF neuron whose threshold rises with each of its own spikes.

    z[t]   = spike(u[t] - theta - b a[t])
    a[t+1] = la a[t] + (1 - la) z[t]                                la = exp(-dt/tau_adapt)
    u, i   as in `snnjax.dynamics.LIF` (a subtractive reset subtracts the momentary threshold theta + b a[t])

Source: Bellec et al. (2018), arXiv 1803.09574, equations 1 and 2, on the current-based dynamics of Rossbroich et al. (2022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics._neuron import Reset, apply_reset
from snnjax.dynamics.lif import check_lif
from snnjax.surrogate import SpikeFunction, superspike


class AdaptiveLIFState(NamedTuple):
    """Membrane potential, synaptic current and adaptation variable, each (batch, ...features)."""

    u: jax.Array
    i: jax.Array
    a: jax.Array


@pytree_dataclass
class AdaptiveLIF:
    """Parameters of an adaptive LIF population: those of `LIF`, with `tau_adapt` (s) and the strength `b` (membrane units).

    >>> neuron = AdaptiveLIF(tau_adapt=0.2, b=1.8)
    >>> state, z = neuron.step(neuron.initial_state((2, 3)), jnp.ones((2, 3)))
    >>> z.shape, state.a.shape
    ((2, 3), (2, 3))
    """

    tau_mem: Any = 20e-3
    tau_syn: Any = 10e-3
    tau_adapt: Any = 200e-3
    b: Any = 1.0
    theta: Any = 1.0
    u_reset: Any = 0.0
    spike: SpikeFunction = superspike(20.0)
    dt: float = static(default=2e-3)
    reset: Reset = static(default="multiplicative")
    reset_grad: bool = static(default=False)

    def __post_init__(self) -> None:
        check_lif(self)
        _check.number("tau_adapt", self.tau_adapt, above=0, unit="s")
        _check.number("b", self.b, at_least=0)

    def initial_state(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> AdaptiveLIFState:
        """u = i = a = 0 for a population of `shape` (batch, ...features), in at least float32."""
        return AdaptiveLIFState(*(jnp.zeros(shape, _check.wide(dtype)) for _ in range(3)))

    def step(self, state: AdaptiveLIFState, drive: jax.Array) -> tuple[AdaptiveLIFState, jax.Array]:
        """One time step: the next state and the spikes z[t]."""
        u, i, a = state
        threshold = self.theta + self.b * a
        z = self.spike(u - threshold)
        lm, ls, la = (_check.decay(self.dt, tau) for tau in (self.tau_mem, self.tau_syn, self.tau_adapt))
        u_free = lm * u + (1 - lm) * i
        u_next = apply_reset(u_free, z, reset=self.reset, reset_grad=self.reset_grad, theta=threshold, u_reset=self.u_reset)
        return AdaptiveLIFState(u_next.astype(u.dtype), (ls * i + drive).astype(i.dtype), (la * a + (1 - la) * z).astype(a.dtype)), z
