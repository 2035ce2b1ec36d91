"""Training as an object: compiled steps, epochs and evaluations of one network.

`snnjax.training.fit` is a loop over `Trainer.epoch` with validation, callbacks and errors that
explain themselves. Write a loop of your own with a `Trainer` where `fit` does not suit.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.datasets import Batches, BatchSource, EventDataset
from snnjax.datasets._batches import Batch
from snnjax.optimizers import keep_nonnegative
from snnjax.training import _step
from snnjax.training._objective import Metrics, NetworkFn, Objective, Params, Problem
from snnjax.training._programs import program
from snnjax.training._step import Recipe, Sizes, TrainState

Pair = tuple[Any, Any]
"""(x, y), inputs and targets; or (source, indices), a `BatchSource` and samples of it."""
T = TypeVar("T")


class Trainer:
    """Trains the parameters of a network on an objective with an optimizer.

    Programs are compiled at the first call and kept: a second trainer that has equal arguments
    reuses them (`snnjax.training.fit` describes when). Weights of Dalian layers in an `nnx.Module`
    stay >= 0.

    Args:
        network: An `nnx.Module`, as `snnjax.training.fit` takes it. It is not changed. Or
            `(apply, params)`: a pure function `(params, x)` and its parameters, as in Flax Linen.
        objective: What is minimized.
        optimizer: An optax transformation.
        batch_size: Samples per batch of an epoch. None if all data come in batches.
        micro_batch: Number of samples whose gradient is computed at a time, a divisor of
            `batch_size`. None: chosen for this machine and the first data.
        devices: Number of CPU devices that share each batch. None: chosen for the first data.

    Attributes:
        problem: The objective as a function of parameters.
        params: Parameters of the network as it was given.
        optimizer: As given, followed by what keeps Dalian weights >= 0.

    Raises:
        ValueError: A size does not fit.
        TypeError: An argument has a wrong type.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> data = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(16, 2, rngs=rngs))
    >>> trainer = Trainer(network, Objective(), optax.adam(1e-2), batch_size=20)
    >>> state = trainer.init()
    >>> for epoch in range(2):
    ...     state, metrics = trainer.epoch(state, data, jax.random.key(epoch))
    >>> int(state.steps), trainer.evaluate(state.params, data).rates.shape
    (4, (1,))
    >>> nnx.update(network, state.params)
    """

    def __init__(
        self,
        network: nnx.Module | tuple[Callable[..., Any], Any],
        objective: Objective,
        optimizer: optax.GradientTransformation,
        *,
        batch_size: int | None,
        micro_batch: int | None = None,
        devices: int | None = None,
    ) -> None:
        if devices is not None:
            _check.integer("devices", devices, at_least=1, at_most=jax.local_device_count())
        if micro_batch is not None:
            _check.integer("micro_batch", micro_batch, at_least=1)
        if batch_size is not None:
            _check.integer("batch_size", batch_size, at_least=1)
            _step.check_divisor("micro_batch", micro_batch, batch_size)
            _step.check_divisor("devices", devices, batch_size)
            _step.check_divisor("micro_batch", micro_batch, batch_size // (devices or 1))
        _step.check_optimizer(optimizer)
        self.problem, self.params = Problem.from_objective(network, objective)
        if not isinstance(network, tuple):
            # does nothing to weights without the mark, or if the optimizer does it already
            optimizer = optax.chain(optimizer, keep_nonnegative())
        self.optimizer = optimizer
        self.batch_size, self.micro_batch, self.devices = batch_size, micro_batch, devices
        self._outputs = 0  # not known yet
        self._sizes: dict[Any, Sizes] = {}
        self._programs: dict[Any, Callable[..., Any]] = {}

    def priming(self) -> Trainer:
        """Return the same trainer on the activity bounds alone (homeostatic priming).

        Raises:
            ValueError: The objective has no lower bound.
        """
        other = copy.copy(self)
        other.problem, other._programs = self.problem.priming(), {}
        return other

    def init(self) -> TrainState:
        """Return the state before the first step, with copies of the network's parameters."""
        # all arrays are placed, as those that a step returns: otherwise the second step would
        # be compiled again, for its other placement
        return self.place(_step.init_state(jax.tree.map(jnp.copy, self.params), self.optimizer))

    def step(
        self, state: TrainState, batch: Batch | Pair, key: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        """Update the parameters once. The arrays of `state` are donated: use the returned state.

        Args:
            state: From `init`, or the step or epoch before.
            batch: `(x, y)`, inputs (time, batch, ...features) and targets as the loss takes them.
                Or `(source, indices)`, a `BatchSource` and samples of it, integers (batch,).
            key: Random key for the source and the network. None: they draw nothing.

        Returns:
            The state after the step, and the metrics of the batch before it. If the objective, its
            gradient or the update is not finite, now or in an earlier step, only `healthy` changes:
            it is then False.

        Raises:
            ValueError: The arrays of `state` were donated in an earlier call, or a label of (x, y)
                is out of range.
            TypeError: An argument has a wrong type.
        """
        _check_state(state)
        if key is not None:
            _check.key("key", key)
        source, indices = _as_source("batch", batch)
        self._check_labels(source)
        sizes = self.sizes(source, len(indices))
        source, indices = self.place((source, indices))
        run = self._compiled(_step.train_step, self.recipe(sizes), (state, source), donate=0)
        return run(state, source, indices, key)

    def epoch(
        self, state: TrainState, source: BatchSource, key: jax.Array, *, steps: int | None = None
    ) -> tuple[TrainState, Metrics]:
        """Train on all of `source` once, in random order: one compiled loop over batches.

        A last, incomplete batch is left out. The arrays of `state` are donated: use the returned
        state.

        Args:
            state: From `init`, or the step or epoch before.
            source: The samples, at least one batch.
            key: Random key for the order, the source and the network.
            steps: Number of batches, from the first one. Every number uses the same compiled
                program. None: all batches.

        Returns:
            The state after the epoch, and the means of the metrics over its steps. After a step
            that is not finite nothing changes any more, and `healthy` is False.

        Raises:
            ValueError: The source has fewer samples than a batch, `steps` is not from 1 to its
                number of batches, or the arrays of `state` were donated in an earlier call.
            TypeError: An argument has a wrong type. Batches of another library have their own
                order: train on each with `step`, or give `Batches` to `fit`.
        """
        _check_state(state)
        _check.key("key", key)
        check_source("source", source)
        most = len(source) // self.check_batch_size(source)
        steps = most if steps is None else _check.integer("steps", steps, at_least=1, at_most=most)
        sizes = self.sizes(source)
        source = self.place(source)
        run = self._compiled(_step.train_epoch, self.recipe(sizes), (state, source), donate=0)
        return run(state, source, key, steps)

    def evaluate(self, params: Params, source: BatchSource | Batches | Pair) -> Metrics:
        """Compute metrics over all samples of `source`. Every sample counts once.

        Args:
            params: Parameters of the network.
            source: The samples, or one batch (x, y). Of `Batches`, epoch 0.

        Returns:
            Means over samples; the loss is NaN where an input is not finite. `penalty` is a mean
            over batches.

        Raises:
            ValueError: A label of (x, y) is out of range.
            TypeError: An argument has a wrong type.
        """
        if params is None or isinstance(params, TrainState):
            got = "None" if params is None else "a TrainState"
            raise TypeError(f"params must be parameters, got {got}; give state.params")
        if isinstance(params, nnx.Module) and isinstance(self.problem.apply, NetworkFn):
            got = f"{type(params).__name__}; give nnx.state(network, nnx.Param)"
            raise TypeError(f"params must be parameters, got {got}")
        if isinstance(source, Batches):
            each = [(self.evaluate(params, b), float(len(b))) for b in source.epoch(0)]
            return weighted_mean(each)
        source = _as_source("source", source)[0] if isinstance(source, tuple) else source
        check_source("source", source)
        self._check_labels(source)
        n = self.sizes(source, len(source) if isinstance(source, Batch) else None).micro_batch
        # the same program whatever the optimizer
        recipe = Recipe(self.problem, optax.identity(), Sizes(n, n))
        source = self.place(source)
        return self._compiled(_step.evaluate, recipe, (params, source))(params, source)

    def sizes(self, source: BatchSource, n: int | None = None) -> Sizes:
        """Choose how a batch of `source` is computed. The first source sets the number of devices.

        Args:
            source: The samples.
            n: Samples of the batch; None: `batch_size`.

        Raises:
            ValueError: The trainer has no `batch_size`, and `n` is None.
        """
        n = self.check_batch_size() if n is None else n
        leaves, structure = jax.tree.flatten(source)
        known = structure, n, tuple(jnp.shape(a) for a in leaves)
        if known not in self._sizes:
            given = self.micro_batch if n % (self.micro_batch or 1) == 0 else None
            if self.devices is None:
                self.devices = _step.batch_devices(self.problem, source, n, given)
            devices = self.devices if n % (self.devices * (given or 1)) == 0 else 1
            most = n // devices
            micro = given or _step.micro_batch_size(self.problem, self.params, source, most)
            self._sizes[known] = Sizes(n, micro, devices)
        return self._sizes[known]

    def check_batch_size(self, source: BatchSource | None = None) -> int:
        """Return the batch size if it is given and `source` has as many samples.

        Raises:
            ValueError: It is not given, or too large.
        """
        n = self.batch_size
        if n is None:
            needed = "for data that do not come in batches"
            raise ValueError(f"batch_size must be given {needed}, got None")
        if source is not None and n > len(source):
            most = f"at most the number of training samples {len(source)}"
            raise ValueError(f"batch_size must be {most}, got {n}")
        return n

    def _check_labels(self, source: BatchSource) -> None:
        """Raise ValueError if a label of a batch of arrays is out of range, unless it is traced."""
        if not isinstance(source, Batch) or isinstance(source.y, Tracer):
            return
        if self._outputs == 0:
            readout, _ = jax.eval_shape(self.problem.outputs, self.params, source.x)
            self._outputs = readout.shape[-1]
        self.problem.loss.check("labels of a batch", source.y, self._outputs)

    def place(self, tree: T) -> T:
        """Return a pytree on all devices that share a batch; unchanged if there is one device."""
        devices = self.devices or 1
        if devices == 1:
            return tree
        return jax.device_put(tree, NamedSharding(_step.batch_mesh(devices), PartitionSpec()))

    def recipe(self, sizes: Sizes) -> Recipe:
        """Return the parts of a compiled step of these sizes."""
        return Recipe(self.problem, self.optimizer, sizes)

    def _compiled(
        self, body: Callable[..., Any], recipe: Recipe, given: PyTree, donate: int | None = None
    ) -> Callable[..., Any]:
        """Return `body` with a recipe, compiled unless `given` is part of a larger program."""
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((self.problem, given))):
            return functools.partial(body, recipe)  # as in an ensemble
        known = body, recipe.sizes
        if known not in self._programs:
            self._programs[known] = program(body, recipe, donate=donate)
        return self._programs[known]


def columns(metrics: Metrics, dt: float | None, prefix: str = "") -> dict[str, Any]:
    """Return metrics of one network, or of all members, by their names in a row.

    Args:
        metrics: Numbers, or arrays (members,).
        dt: Time step, s, for rates in Hz.
        prefix: Prefix of the names of loss and scores. "train_" adds the penalty.
    """
    rates = np.moveaxis(np.asarray(metrics.rates), -1, 0)
    if dt is None and len(rates):
        needs = "dt must be given for rates in Hz, because neither network nor data define it"
        raise ValueError(f"{needs}; dt=1e-3 is a time step of 1 ms")
    row = metrics.named(prefix) | ({"penalty": metrics.penalty} if prefix == "train_" else {})
    return row | {f"rate_{k}": rate / (dt or 1.0) for k, rate in enumerate(rates, start=1)}


def weighted_mean(each: list[tuple[Metrics, float]]) -> Metrics:
    """Return the mean of metrics, each with its weight."""
    if len(each) == 1:
        return each[0][0]
    total = sum(weight for _, weight in each)
    scaled = [jax.tree.map(lambda a, w=weight: a * w, m) for m, weight in each]
    return jax.tree.map(lambda *m: sum(m) / total, *scaled)


def check_source(name: str, source: object) -> BatchSource:
    """Return `source` if it is one that compiled programs can read.

    Args:
        name: Name of the argument, for the message.
        source: The source.

    Raises:
        TypeError: It is something else. The text says what to do.
    """
    if isinstance(source, EventDataset):
        put = "use DeviceEvents.from_dataset(data, dt=...)"
        raise TypeError(f"{name} must be on the device, got an EventDataset; {put}")
    if isinstance(source, BatchSource) and not any(x is source for x in jax.tree.leaves(source)):
        return source
    pytree = "a JAX pytree with len(...) and batch(indices, key) (see BatchSource)"
    hint = ""
    # a function may return an iterable
    if isinstance(source, Iterable) or callable(source):
        hint = "; snnjax.datasets.Batches takes an iterable of (x, y)"
    if isinstance(source, Batches | Iterator):
        hint = "; train on each batch (x, y) with Trainer.step, or give Batches to fit"
    raise TypeError(f"{name} must be {pytree}, got {type(source).__name__}{hint}")


def _check_state(state: object) -> None:
    if not isinstance(state, TrainState):
        made = "state must be the TrainState of trainer.init() or of the step or epoch before"
        raise TypeError(f"{made}, got {type(state).__name__}")
    steps = state.steps
    if isinstance(steps, jax.Array) and not isinstance(steps, Tracer) and steps.is_deleted():
        raise ValueError("state was used before, and its arrays were donated: use the returned one")


def _as_source(name: str, batch: object) -> tuple[BatchSource, jax.Array]:
    """Return a source and the indices of its samples that make the batch."""
    if isinstance(batch, Batch):
        return batch, jnp.arange(len(batch))
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{type(batch).__name__}{f' of {len(batch)}' if isinstance(batch, Sized) else ''}"
        raise TypeError(f"{name} must be (x, y) or (source, indices), got {got}")
    first, second = batch
    if isinstance(first, BatchSource):
        indices = second if isinstance(second, jax.Array) else np.asarray(second)
        if indices.ndim != 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
            got = f"{type(second).__name__} {second!r}"
            raise TypeError(f"indices of a {name} must be integers (batch,), got {got}")
        return first, jnp.asarray(indices)
    second = jnp.asarray(second) if isinstance(second, list) else second
    x, y = jax.tree.map(jnp.asarray, (first, second))  # a loader may give numpy arrays
    _check.time_major("x", x)
    batch = Batch(x=x, y=y)
    return batch, jnp.arange(len(batch))
