"""What a neuron model is: frozen parameters with a pure `step`. Any pytree that has these two methods works everywhere in snnjax."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp

from snnjax import _check

Reset = Literal["multiplicative", "to_value", "subtractive"]


@runtime_checkable
class Neuron(Protocol):
    """Parameters of a neuron model, a pytree.

    `initial_state(shape, dtype)` gives the state of a population of `shape` (batch, ...features), a NamedTuple of arrays.
    `step(state, drive)` advances it by dt: it returns the next state and what the neuron emits at the present step. `drive` is what
    the synaptic current receives during the step, x[t] @ W plus any recurrent part; an array, or a pytree where there are several currents.
    """

    def initial_state(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any: ...

    def step(self, state: Any, drive: Any) -> tuple[Any, jax.Array]: ...


def check_reset(reset: str) -> None:
    _check.one_of("reset", reset, get_args(Reset))


def apply_reset(u: jax.Array, z: jax.Array, *, reset: Reset, reset_grad: bool, theta: Any, u_reset: Any) -> jax.Array:
    """The membrane `u` that would be reached without a reset, reset where the neuron spiked (z = 1).

    multiplicative: u (1 - z);  to_value: u (1 - z) + u_reset z;  subtractive: u - theta z.
    `reset_grad=False` takes z as a constant here (BPTT ignores the reset, as in the paper), True differentiates it.
    """
    z = z if reset_grad else jax.lax.stop_gradient(z)
    if reset == "subtractive":
        return u - theta * z
    kept = u * (1 - z)
    return kept if reset == "multiplicative" else kept + u_reset * z
