r"""An absolute refractory period for any spiking neuron.

After a spike at step t, the neuron cannot spike in the n steps t + 1 ... t + n, and its membrane
keeps the value u[t+1] that the reset gave it. Currents and adaptation go on. With r the number of
steps that are left,

    theta' = theta where r[t] = 0, else infinite                    no spike
    u[t+1] = that of the neuron where r[t] = 0, else u[t]           the membrane is held
    r[t+1] = n where the neuron spikes, else max(r[t] - 1, 0)       n = ceil(period / dt)

Below the threshold it is the neuron itself, with the same kernel. Source: Gerstner, Kistler, Naud &
Paninski (2014), Neuronal Dynamics, section 1.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpy.typing import DTypeLike

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, replaced, static
from snnjax.dynamics._neuron import NO_THRESHOLD, Drive, Interval, Neuron, check_neuron
from snnjax.psp import PSP, ExcInhKernels
from snnjax.surrogate import SpikeFunction


class RefractoryState(NamedTuple):
    """State of a `Refractory` population.

    Attributes:
        inner: State of the neuron, a NamedTuple of arrays (batch, ...features) with `u`.
        left: Number of steps in which it cannot spike, (batch, ...features).
    """

    inner: Any
    left: jax.Array

    @property
    def u(self) -> jax.Array:
        """Membrane potential."""
        return self.inner.u


@pytree_dataclass
class Refractory(Neuron):
    """A spiking neuron with an absolute refractory period.

    Its other parameters are those of the neuron: layers train, draw and calibrate them by the same
    names. NIR has no refractory period, so such a network cannot be exported to it.

    Attributes:
        neuron: The neuron. It must have a threshold `theta` and a state with the membrane `u`.
        period: Refractory period, s, >= 0: a neuron is silent for ceil(period / dt) steps after
            each of its spikes.

    Raises:
        ValueError: The period is negative or not finite.
        TypeError: The neuron has no threshold, or is a `Refractory` itself; or the period is not a
            plain number.

    >>> from snnjax.dynamics import Leaky, simulate
    >>> for period in (0.0, 6e-3):
    ...     neuron = Refractory(neuron=Leaky(dt=2e-3), period=period)
    ...     z = simulate(neuron, jnp.full((40, 1, 1), 50.0)).output[:, 0, 0]
    ...     print(jnp.diff(jnp.flatnonzero(z))[:5])
    [2 2 2 2 2]
    [5 5 5 5 5]
    """

    neuron: Neuron
    period: float = static(default=2e-3)

    def __post_init__(self) -> None:
        check_neuron(self.neuron)
        if isinstance(self.neuron, Refractory) or "theta" not in self.neuron.parameters():
            got = type(self.neuron).__name__
            raise TypeError(f"neuron must be a spiking neuron with a threshold theta, got {got}")
        _check.number("period", self.period, at_least=0, unit="s")
        _check.hint_seconds("period", self.period)
        if not isinstance(self.period, int | float):
            got = type(self.period).__name__
            raise TypeError(f"period must be a plain number of seconds (it is static), got {got}")

    @property
    def dt(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Time step, s."""
        return self.neuron.dt

    @property
    def theta(self) -> Scalar:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Firing threshold outside the refractory period."""
        return self.neuron.theta

    @property
    def spike(self) -> SpikeFunction | None:
        """Spike function of the neuron, if it has one."""
        return self.neuron.parameters().get("spike")

    @property
    def n_currents(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of synaptic currents."""
        return self.neuron.n_currents

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential of the neuron."""
        return self.neuron.kernel

    @property
    def kernels(self) -> ExcInhKernels:
        """The post-synaptic potentials of the neuron, if it has two currents."""
        return self.neuron.kernels

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the neuron."""
        return self.neuron.parameters()

    def with_parameters(self, **values: Any) -> Refractory:
        """Return a copy in which the neuron has other values of some parameters."""
        return replaced(self, neuron=self.neuron.with_parameters(**values))

    def trained_ranges(self) -> dict[str, Interval]:
        """Return those of the neuron."""
        return self.neuron.trained_ranges()

    def population(self, drive: Drive) -> tuple[int, ...]:
        """Return the shape (batch, ...features) of the population that a drive is for."""
        return self.neuron.population(drive)

    def initial_state(
        self, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> RefractoryState:
        """Return the neuron's initial state; no neuron of the population is refractory."""
        left = jnp.zeros(shape, _check.wide(dtype))
        return RefractoryState(self.neuron.initial_state(shape, dtype), left)

    def step(self, state: RefractoryState, drive: Any) -> tuple[RefractoryState, jax.Array]:
        """Return the next state and the spikes z[t]."""
        inner, left = state
        held = left > 0
        theta = jnp.where(held, NO_THRESHOLD, self.theta)
        after, z = self.neuron.with_parameters(theta=theta).step(inner, drive)
        after = after._replace(u=jnp.where(held, inner.u, after.u))
        n = _time.num_steps(self.period, self.dt) if self.period else 0
        # 1/2, so that smooth spike functions of tests and studies work, too
        left = jnp.where(z > 0.5, n, jnp.maximum(left - 1, 0)).astype(left.dtype)
        return RefractoryState(after, left), z
