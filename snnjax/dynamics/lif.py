r"""Current-based leaky integrate-and-fire neuron.

    z[t]   = spike(u[t] - theta)                                    1 if u[t] > theta
    u[t+1] = reset(lm u[t] + (1 - lm) i[t], z[t])                   lm = exp(-dt/tau_mem)
    i[t+1] = ls i[t] + drive[t]                                     ls = exp(-dt/tau_syn)

with u[0] = i[0] = 0. A spike that arrives at step t moves u at t + 2. Resets: `snnjax.dynamics.apply_reset`.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics._neuron import Reset, apply_reset, check_reset
from snnjax.surrogate import SpikeFunction, superspike


class LIFState(NamedTuple):
    """Membrane potential and synaptic current, each (batch, ...features)."""

    u: jax.Array
    i: jax.Array


@pytree_dataclass
class LIF:
    """Parameters of a LIF population.

    Attributes:
      tau_mem, tau_syn: time constants, s; scalars or arrays that broadcast against the features (one value a neuron). Differentiable
        where they are JAX arrays.
      theta: firing threshold.   u_reset: used by `reset="to_value"`.
      spike: a function of u - theta, normally a `snnjax.surrogate.SpikeFunction`.
      dt: time step, s.
      reset: `"multiplicative"`, `"to_value"` or `"subtractive"`.   reset_grad: differentiate through the reset.
      trace_dtype: in which u - theta is kept for the gradient, for example `"bfloat16"`: half the bytes, the same spikes, and a surrogate derivative
        within 1 %. None: that of the membrane. Used by the hand-written backward pass alone (`simulate`). Whether a step needs less memory is the
        compiler's affair: on a CPU it did not (`snnjax.training.step_memory`).

    Raises:
      ValueError, TypeError: a value out of range, by name, when the object is built.

    >>> import jax.numpy as jnp
    >>> neuron = LIF(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> state = neuron.initial_state((1, 1))
    >>> spikes = []
    >>> for t in range(12):
    ...     state, z = neuron.step(state, jnp.full((1, 1), 5.0 * (t == 0)))
    ...     spikes.append(int(z[0, 0]))
    >>> spikes
    [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    """

    tau_mem: Any = 20e-3
    tau_syn: Any = 10e-3
    theta: Any = 1.0
    u_reset: Any = 0.0
    spike: SpikeFunction = superspike(20.0)
    dt: float = static(default=2e-3)
    reset: Reset = static(default="multiplicative")
    reset_grad: bool = static(default=False)
    trace_dtype: Any = static(default=None)

    def __post_init__(self) -> None:
        check_lif(self)
        check_trace_dtype(self.trace_dtype)

    def initial_state(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> LIFState:
        """u = i = 0 for a population of `shape` (batch, ...features), in at least float32."""
        return LIFState(*(jnp.zeros(shape, _check.wide(dtype)) for _ in range(2)))

    def step(self, state: LIFState, drive: jax.Array) -> tuple[LIFState, jax.Array]:
        """One time step: the next state and the spikes z[t], both of the state's shape and dtype."""
        u, i = state
        z = self.spike(u - self.theta)
        lm, ls = _check.decay(self.dt, self.tau_mem), _check.decay(self.dt, self.tau_syn)
        u_free = lm * u + (1 - lm) * i
        u_next = apply_reset(u_free, z, reset=self.reset, reset_grad=self.reset_grad, theta=self.theta, u_reset=self.u_reset)
        return LIFState(u_next.astype(u.dtype), (ls * i + drive).astype(i.dtype)), z


def check_trace_dtype(dtype: Any) -> None:
    """A trace may be rounded as long as its sign stays: float16 has no numbers small enough."""
    if dtype not in (None, "bfloat16", "float32"):
        raise ValueError(f"trace_dtype must be None, 'bfloat16' or 'float32', got {dtype!r}")


def check_tau(name: str, tau: Any) -> None:
    """A time constant is positive; one above 1 s is unusual enough for a hint at units."""
    _check.number(name, tau, above=0, unit="s")
    _check.hint_seconds(name, tau)


def check_dt(dt: Any) -> None:
    """dt is part of a model's structure and so a plain number."""
    check_tau("dt", dt)
    if not isinstance(dt, int | float):
        raise TypeError(f"dt must be a plain number of seconds (it is static), got {type(dt).__name__}")


def check_lif(p: Any, *, tau_syn: tuple[str, ...] = ("tau_syn",)) -> None:
    """The checks that every LIF-like parameter set shares."""
    for name in ("tau_mem", *tau_syn):
        check_tau(name, getattr(p, name))
    check_dt(p.dt)
    _check.number("theta", p.theta, above=0)
    _check.number("u_reset", p.u_reset)
    if not callable(p.spike):
        raise TypeError(f"spike must be a function of u - theta, for example snnjax.surrogate.superspike(20.0), got {p.spike!r}")
    check_reset(p.reset)
    if not isinstance(p.reset_grad, bool):
        raise TypeError(f"reset_grad must be True or False, got {p.reset_grad!r}")
