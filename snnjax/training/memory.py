"""What memory a training step needs, from its compiled program, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnjax import _check, losses
from snnjax.datasets import BatchSource
from snnjax.training.inputs import choose_form
from snnjax.training.step import Objective, batch_gradient, check_micro_batch, init_state, micro_batch_size, update


class StepMemory(NamedTuple):
    """Bytes that a compiled step holds at once, by XLA's account: `arguments` (state and data), `outputs` (the new state) and `temporaries`."""

    arguments: int
    outputs: int
    temporaries: int

    @property
    def total(self) -> int:
        """Their sum, bytes; an upper bound, for outputs may take the place of arguments."""
        return self.arguments + self.outputs + self.temporaries

    def __str__(self) -> str:
        """In MiB."""
        parts = ", ".join(f"{name} {value / 2**20:.1f}" for name, value in self._asdict().items())
        return f"{self.total / 2**20:.1f} MiB a step ({parts})"


def step_memory(
    network: Any,
    source: BatchSource,
    *,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    micro_batch: int | None = None,
    events: bool | None = None,
    logits: losses.Logits = losses.max_over_time,
    loss: Callable[[jax.Array, Any], jax.Array] | None = None,
    regularizers: Sequence[Callable[[jax.Array], jax.Array]] = (),
) -> StepMemory:
    """Compile one training step of `network` on batches of `source`, on one device, and say what memory it needs. Nothing is run.

    Args:
      network, source, optimizer, batch_size, events, logits, loss, regularizers: as in `fit`.
      micro_batch: samples whose gradient is computed at a time, a divisor of `batch_size`; None: as training does it on this machine.

    Raises:
      ValueError, TypeError: a size that does not fit.   NotImplementedError: the backend does not tell.

    >>> from flax import nnx
    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> data = DeviceEvents.put(randman(n_classes=2, n_samples=20), dt=2e-3)
    >>> rngs = nnx.Rngs(0)
    >>> network = Sequential(SpikingDense(20, 64, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(64, 2, rngs=rngs))
    >>> small, large = (step_memory(network, data, optimizer=optax.adam(1e-3), batch_size=n, micro_batch=n) for n in (8, 16))
    >>> 1.5 < large.temporaries / small.temporaries < 2.5
    True
    """
    _check.integer("batch_size", batch_size, at_least=1, at_most=len(source))
    source = choose_form(network, source, events=events)
    objective, params = Objective.of(network, logits=logits, regularizers=regularizers, loss=loss)
    check_micro_batch(micro_batch, batch_size)
    size = micro_batch or micro_batch_size(objective, params, source, batch_size)

    def step(state: Any, source: Any, indices: jax.Array, key: jax.Array) -> Any:
        return update(optimizer, state, *batch_gradient(objective, state.params, source, indices, key, micro_batch=size))

    state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
    indices, key = jax.ShapeDtypeStruct((batch_size,), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    stats: Any = jax.jit(step).lower(state, source, indices, key).compile().memory_analysis()
    if stats is None:
        raise NotImplementedError(f"the backend {jax.default_backend()} does not tell the memory of a compiled program")
    return StepMemory(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes)
