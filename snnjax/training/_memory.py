"""The memory that a training step needs, from its compiled program. Nothing is run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from snnjax import _check
from snnjax.datasets import BatchSource
from snnjax.training._inputs import choose_form
from snnjax.training._objective import Objective
from snnjax.training._trainer import Trainer


class StepMemory(NamedTuple):
    """Memory of a compiled step as reported by XLA, bytes.

    Attributes:
        arguments: State and data.
        outputs: The new state.
        temporaries: All other arrays that exist at the same time.
    """

    arguments: int
    outputs: int
    temporaries: int

    @property
    def total(self) -> int:
        """The sum, bytes. It is an upper bound, because outputs may reuse memory of arguments."""
        return self.arguments + self.outputs + self.temporaries

    def __str__(self) -> str:
        """In MiB."""
        parts = ", ".join(f"{name} {value / 2**20:.1f}" for name, value in self._asdict().items())
        return f"{self.total / 2**20:.1f} MiB per step ({parts})"


def step_memory(
    network: nnx.Module,
    source: BatchSource,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    micro_batch: int | None = None,
    events: bool | None = None,
) -> StepMemory:
    """Measure the memory of one training step on one device. The step is compiled, not run.

    Args:
        network: As in `fit`.
        source: The training data.
        objective: The objective, as in `fit`.
        optimizer: An optax transformation.
        batch_size: Samples per batch, at most the number of samples of `source`.
        micro_batch: Samples whose gradient is computed at a time, a divisor of `batch_size`. None
            means the number that training uses on this machine.
        events: As in `fit`.

    Returns:
        The memory of the step.

    Raises:
        ValueError: A size is out of range.
        TypeError: A size is not an integer.
        NotImplementedError: The backend does not report memory.

    >>> from flax import nnx
    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> data = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 64, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> task = Sequential(hidden, Readout(64, 2, rngs=rngs)), data, Objective(), optax.adam(1e-3)
    >>> small, large = (step_memory(*task, batch_size=n, micro_batch=n) for n in (8, 16))
    >>> 1.5 < large.temporaries / small.temporaries < 2.5
    True
    """
    _check.integer("batch_size", batch_size, at_least=1, at_most=len(source))
    sizes = {"batch_size": batch_size, "micro_batch": micro_batch, "devices": 1}
    trainer = Trainer(network, objective, optimizer, **sizes)
    source = choose_form(network, source, events=events)
    state, key = jax.eval_shape(trainer.init), jax.eval_shape(lambda: jax.random.key(0))
    indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    lowered = jax.jit(trainer.step).lower(state, (source, indices), key)
    stats: Any = lowered.compile().memory_analysis()
    if stats is None:
        backend = jax.default_backend()
        raise NotImplementedError(f"the backend {backend} reports no memory of compiled programs")
    sizes_of = stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes
    return StepMemory(*sizes_of)
