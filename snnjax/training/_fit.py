"""Train a network: epochs, validation, best and final parameters, callbacks, and a clear stop when
something is not finite."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax._sparse import as_dense
from snnjax._timed import untimed
from snnjax.datasets import Batches, BatchSource, Splits, Stream
from snnjax.datasets._batches import Batch
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.losses import Target
from snnjax.nn import Layer
from snnjax.training._callbacks import Callback, FitState, OnRow, Plan, Row, quality_of
from snnjax.training._inputs import choose_form
from snnjax.training._objective import Metrics, Objective, Params
from snnjax.training._params import flatten_params
from snnjax.training._step import TrainState, batch_key, epoch_order, gradient_of
from snnjax.training._trainer import Trainer, check_source, columns, weighted_mean

Training = BatchSource | Stream | Batches
"""Training data."""


class FitResult(NamedTuple):
    """The result of training.

    Attributes:
        final: Parameters after the last epoch, a pytree (`nnx.State` of `nnx.Param`).
        best: Parameters after the best epoch.
        best_epoch: The first epoch with the highest validation accuracy, or with the lowest
            validation loss if targets are not classes. Without validation data, the last epoch.
        history: One dict per epoch, see `fit`.
        test: Test metrics by name, of "final" and of "best" parameters, where test data were given.
    """

    final: Any
    best: Any
    best_epoch: int
    history: list[Row]
    test: dict[str, Row]


class TrainingDivergedError(RuntimeError):
    """The objective, its gradient or the validation loss is not finite.

    Attributes:
        result: The last good parameters, the history so far, and test metrics of these parameters.
    """

    def __init__(self, message: str, result: FitResult) -> None:
        super().__init__(message)
        self.result = result


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, or "interrupt" in a notebook. Nothing that was trained is lost.

    Attributes:
        result: The parameters and the history so far. The network holds the parameters, too.
        steps: Updates that the parameters had after the last epoch of the history: 0, or those of
            an epoch that was under way or not yet validated.
    """

    def __init__(self, result: FitResult, steps: int = 0) -> None:
        more = f" and {steps} steps of the next, which are in the parameters" if steps else ""
        super().__init__(f"interrupted after {len(result.history) - 1} epochs{more}")
        self.result, self.steps = result, steps


def fit(
    network: nnx.Module,
    splits: Splits,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    key: jax.Array,
    batch_size: int | None = None,
    dt: float | None = None,
    priming_epochs: int = 0,
    callbacks: Sequence[Callback | Callable[[Row], Any]] = (),
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
    micro_batch: int | None = None,
    events: bool | None = None,
) -> FitResult:
    """Train every `nnx.Param` of `network` and leave the network at the final parameters.

    A second call with equal arguments of the same shapes reuses the programs that the first
    compiled. So the loss, the regularizers and what `optimizer` calls must be pure, as under
    `jax.jit`. If the numbers that they read from outside or their code change, the next call
    compiles anew.

    Args:
        network: `snnjax.nn.Sequential`, or any module without other state that changes (batch
            statistics). It is called with x (time, batch, ...features), and in training also with
            `key` where its attribute `stochastic` is True (dropout). It returns the readout
            (time, batch, k), or (readout, activity with `.spikes`).
        splits: `Splits(train, valid, test)`; the last two may be left out. Each is `DeviceEvents`,
            `DeviceArrays`, your own `BatchSource` (a pytree), or `Batches` of another library.
            Training data may also be a `Stream`: an epoch runs over its shards one after another.
            For `Stream` and `Batches`, row 0 is measured on the first part of epoch 0. Training
            starts at epoch 1.
        objective: The loss and the regularizers. With regularizers the network must return its
            activity.
        optimizer: An optax transformation, for example `snnjax.optimizers.smorms3(5e-3)`. With
            every optimizer, Dalian weights stay >= 0. An optimizer that needs the loss
            (`optax.contrib.reduce_on_plateau`) gets the objective of the batch as `value`.
            Optimizers with a line search (`optax.lbfgs`) are not supported.
        epochs: At least 1.
        key: Random key, decides the order of the samples; the same key gives the same run.
        batch_size: At most the training set or the shard. A last, incomplete batch of the random
            order is left out. None for `Batches`.
        dt: Time step, s; rates are reported in Hz with it. None: that of the network's neurons, or
            of the data.
        priming_epochs: Number of epochs at the beginning on the activity bounds among the
            regularizers alone (homeostatic priming). They come before `epochs` and count in the
            history; the best epoch is never one of them.
        callbacks: Each a `Callback`, such as `EarlyStopping`, `Checkpoints` or `TensorBoard`, or a
            function of the row. A row is a dict: epoch, train_loss, train_accuracy, penalty, rate_1
            ... (Hz, one per layer), valid_loss, valid_accuracy, seconds. Row 0 is the untrained
            network. There is an accuracy where targets are classes. Otherwise there is what the
            loss reports (`snnjax.losses.Metric`), such as train_label_accuracy, or nothing.
        progress: Whether a progress bar is shown; None: in a terminal and in a notebook.
        resume: Folder of `Checkpoints`. Training continues from the last one, with the same
            numbers as if it had never stopped. Without a checkpoint in it, it starts anew.
        micro_batch: Number of samples whose gradient is computed at a time, a divisor of
            `batch_size`. None: chosen for this machine. Several CPU devices
            (`snnjax.runtime.use_cpu_devices`) share each batch: as many as divide its size.
        events: Whether the network gets the spikes of `DeviceEvents` and `Stream` as lists of
            events. None chooses the faster form. The results are equal up to rounding.

    Returns:
        `FitResult`.

    Raises:
        ValueError, TypeError: Sizes, targets or time steps that do not fit; a source that cannot be
            passed to jit; a checkpoint of another run; an argument of a wrong type.
        TrainingInterrupted: At a keyboard interrupt; nothing that was trained is lost.
        TrainingDivergedError: The loss or the gradient is not finite. The message gives the epoch,
            the step and the arrays that are not finite. The network then holds the last good
            parameters.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> from snnjax.optimizers import smorms3
    >>> train = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(16, 2, rngs=rngs))
    >>> options = dict(epochs=2, batch_size=20, key=jax.random.key(0))
    >>> result = fit(network, Splits(train), Objective(), smorms3(5e-3), **options)
    >>> [row["epoch"] for row in result.history], sorted(result.history[0])[:2]
    ([0, 1, 2], ['epoch', 'penalty'])
    """
    _check.integer("epochs", epochs, at_least=1)
    _check.integer("priming_epochs", priming_epochs, at_least=0)
    _check.key("key", key)
    if resume is not None and not isinstance(resume, str | os.PathLike):
        raise TypeError(f"resume must be the folder of Checkpoints, or None, got {resume!r}")
    called = _as_callbacks(callbacks, progress)
    if isinstance(network, tuple):
        hint = "a Trainer takes (apply, params)"
        raise TypeError(f"network must be a flax.nnx.Module, got a tuple; {hint}")
    trainer = Trainer(network, objective, optimizer, batch_size=batch_size, micro_batch=micro_batch)
    prepared = _prepare(network, trainer, splits, dt, events)
    run = _Run(network, trainer, prepared, priming_epochs, key, called)
    del prepared  # it would keep the first shard of a stream alive
    if resume is not None:
        run.restore(Path(resume))
    return run.until(priming_epochs + epochs)


class _Data(NamedTuple):
    """Data that have been checked and placed; `first` is a part of the training data."""

    splits: Splits
    first: BatchSource
    dt: float | None
    outputs: int


@dataclasses.dataclass
class _Run:
    """Training under way: everything that changes from epoch to epoch."""

    network: nnx.Module
    trainer: Trainer
    data: _Data
    priming: int
    key: jax.Array
    callbacks: Sequence[Callback]
    history: list[Row] = dataclasses.field(default_factory=list)
    reported: int = 0
    """Steps before the last row of the history."""

    def __post_init__(self) -> None:
        self.phases = [self.trainer.priming() if self.priming else self.trainer, self.trainer]
        self.state = self.trainer.init()
        self.best, self.best_epoch, self.best_quality = _host(self.state.params), 0, -np.inf

    def until(self, last: int) -> FitResult:
        """Train the epochs that are missing up to epoch `last`, and test."""
        with contextlib.ExitStack() as stack:
            plan = Plan(len(self.history) or 1, self.priming, last, [*self.history])
            stop = False
            for callback in self.callbacks:
                stack.callback(callback.finish)
                stop = bool(callback.start(plan)) or stop
            try:
                if not self.history:
                    stop = self.untrained() or stop
                for epoch in range(plan.first, plan.last + 1):
                    if stop:
                        break
                    stop = self.train(epoch)
            except KeyboardInterrupt:
                self.leave()
                steps = int(self.state.steps) - self.reported
                raise TrainingInterrupted(self.result(), steps) from None
        return self.finish()

    def untrained(self) -> bool:
        """Report row 0. Return whether training should stop."""
        first = self.data.first
        self.data = self.data._replace(first=None)  # a shard takes memory
        stop = self.report(0, self.trainer.evaluate(self.state.params, first), 0.0)
        if not isinstance(self.data.splits.train, Batches):  # how many there are is not known
            for callback in self.callbacks:
                callback.estimate(functools.partial(self.seconds_of_epoch, first))
        return stop

    def seconds_of_epoch(self, source: BatchSource) -> float:
        """Estimate how long an epoch takes, s, from the faster of two steps after a first one.

        The program is that of an epoch, so that it is compiled only once.

        Args:
            source: The training data or a part of them.
        """
        train: Any = self.data.splits.train
        size, times = self.trainer.check_batch_size(), []
        state = self.trainer.place(jax.tree.map(jnp.copy, self.state))
        for _ in range(3):
            begin = time.perf_counter()
            state, _metrics = self.trainer.epoch(state, source, self.key, steps=1)
            jax.block_until_ready(state)
            times.append(time.perf_counter() - begin)
        return min(times[1:]) * (len(train) // size)

    def train(self, epoch: int) -> bool:
        """Train one epoch and report it. Return whether training should stop."""
        trainer, begin = self.phases[epoch > self.priming], time.perf_counter()
        found: list[tuple[Metrics, float]] = []
        key = jax.random.fold_in(self.key, epoch)
        with contextlib.closing(_parts(self.data.splits.train, epoch, key)) as parts:
            for part, part_key in parts:
                if isinstance(part, Batch):
                    trainer.problem.loss.check("labels of train", part.y, self.data.outputs)
                    self.state, metrics = trainer.step(self.state, part, part_key)
                else:
                    self.state, metrics = trainer.epoch(self.state, part, part_key)
                # waits, so that shards do not pile up on the device; the next one is read meanwhile
                if not bool(self.state.healthy):
                    what = "batch" if isinstance(part, Batch) else "shard"
                    whole = part is self.data.splits.train
                    where = f"epoch {epoch}" + ("" if whole else f", {what} {len(found)}")
                    why = _explain(trainer, self.state, part, part_key, where)
                    raise TrainingDivergedError(why, self.finish())
                found.append((metrics, float(len(part)) if isinstance(part, Batch) else 1.0))
        metrics = jax.block_until_ready(weighted_mean(found))
        return self.report(epoch, metrics, time.perf_counter() - begin)

    def report(self, epoch: int, metrics: Metrics, seconds: float) -> bool:
        """Validate, append a row, and call the callbacks. Return whether one asks to stop."""
        row: Row = {"epoch": epoch, **self.columns(metrics, "train_")}
        valid = self.data.splits.valid
        if valid is not None:
            held = self.trainer.evaluate(self.state.params, valid).named("valid_")
            row |= {name: float(value) for name, value in held.items()}
            if not np.isfinite(row["valid_loss"]):
                what = f"validation loss is {row['valid_loss']} at epoch {epoch}"
                why = "its data or its membranes are not finite"
                raise TrainingDivergedError(f"{what}: {why}", self.finish())
        row["seconds"] = seconds
        self.history.append(row)
        self.reported = int(self.state.steps)
        quality = quality_of(row)
        if epoch > self.priming and (quality is None or quality > self.best_quality):
            self.best, self.best_epoch = _host(self.state.params), epoch
            self.best_quality = -np.inf if quality is None else quality
        state = self.snapshot()
        return any([bool(callback.epoch_end(row, state)) for callback in self.callbacks])

    def columns(self, metrics: Metrics, prefix: str = "") -> Row:
        """Return metrics as columns of a row, in double precision."""
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), metrics)
        named = columns(wide, self.data.dt, prefix)
        return {name: float(value) for name, value in named.items()}

    def snapshot(self) -> FitState:
        """What callbacks see."""
        seed = {"key": jax.random.key_data(self.key), "batch_size": self.trainer.batch_size}
        seed["priming_epochs"] = self.priming
        if isinstance(train := self.data.splits.train, BatchSource):
            seed["number of training samples"] = len(train)
        best = self.best, self.best_epoch, self.best_quality
        return FitState(self.state, *best, self.history, jax.tree.map(np.asarray, seed))

    def restore(self, folder: Path) -> None:
        """Continue from the last checkpoint in a folder, if there is one."""
        from snnjax.training._checkpoint import Checkpoints  # orbax is slow to import

        saved = Checkpoints(folder).restore_fit(self.snapshot())
        if saved is not None:
            self.state = self.trainer.place(jax.tree.map(jnp.asarray, saved.train))
            self.best, self.best_epoch, self.best_quality = saved[1:4]
            self.history, self.reported = saved.history, int(saved.train.steps)

    def leave(self) -> None:
        """Put the present parameters into the network, on one device as at the start."""
        params = self.state.params
        shared = (self.trainer.devices or 1) > 1
        nnx.update(self.network, jax.tree.map(jnp.asarray, _host(params)) if shared else params)

    def result(self) -> FitResult:
        """Return the parameters and the history so far, without tests."""
        return FitResult(_host(self.state.params), self.best, self.best_epoch, self.history, {})

    def finish(self) -> FitResult:
        """Test the final and the best parameters, and return the result of training."""
        self.leave()
        result, test = self.result(), self.data.splits.test
        if test is not None:
            for name, chosen in (("final", result.final), ("best", self.best)):
                result.test[name] = self.columns(self.trainer.evaluate(chosen, test))
        return result


def _as_callbacks(
    callbacks: Sequence[Callback | Callable[[Row], Any]], progress: bool | None
) -> list[Callback]:
    """Return all callbacks, and the progress bar if it is to be shown."""
    expected = "callbacks must be a sequence of callbacks and functions of a row"
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, Callback):
        raise TypeError(f"{expected}, got {callbacks!r}; write [it]")
    for one in callbacks:
        if isinstance(one, type) or not (isinstance(one, Callback) or callable(one)):
            raise TypeError(f"{expected}, got {one!r} among them")
    called = [one if isinstance(one, Callback) else OnRow(one) for one in callbacks]
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, got {progress!r}")
    if progress is False:
        return called
    from snnjax import _progress as bars  # it depends on this package

    if progress or sys.stdout.isatty() or bars.in_notebook():
        called.append(bars.TrainingProgress())
    return called


def _prepare(
    network: nnx.Module, trainer: Trainer, splits: Splits, dt: float | None, events: bool | None
) -> _Data:
    """Check the data, choose their form and place them."""
    if not isinstance(splits, Splits):
        expected = "splits must be a snnjax.datasets.Splits, Splits(train, valid, test)"
        raise TypeError(f"{expected}, got {type(splits).__name__}")
    train, valid, test = splits
    dt = _time_step(network, dt, splits)
    first: Any = _first(train)
    outputs = 0
    for name, source in (("train", first), ("valid", valid), ("test", test)):
        if source is not None or name == "train":
            of_all = train.labels if source is first and isinstance(train, Stream) else None
            outputs = _check_source(name, source, trainer, of_all)
            _check.same_dt(name, source, dt)
    if isinstance(train, Batches):
        if trainer.batch_size is not None:
            needed = "batch_size must be None for Batches, which have their own"
            raise ValueError(f"{needed}, got {trainer.batch_size}")
        trainer.batch_size = len(first)
    trainer.check_batch_size(first)
    form = lambda source: choose_form(network, source, events=events)
    place = lambda source: (
        trainer.place(form(source)) if isinstance(source, BatchSource) else source
    )
    trainer.sizes(form(first))  # chooses the devices
    first, valid, test = place(first), place(valid), place(test)
    if isinstance(train, Stream):  # all shards like the first, so that they share programs
        train = dataclasses.replace(train, events=isinstance(first, SparseEvents))
    elif not isinstance(train, Batches):
        train = first
    return _Data(Splits(train, valid, test), first, dt, outputs)


def _time_step(network: nnx.Module, dt: float | None, splits: Splits) -> float | None:
    """Return `dt` if it is given, else that of the network's neurons or of the data, s; or None.

    A value other than that of the neurons is an error, because all rates would be wrong.
    """
    if dt is not None:
        _check.number("dt", dt, above=0, unit="s")
    layers = [layer for layer in vars(network).get("layers", ()) if isinstance(layer, Layer)]
    steps = {layer.dt for layer in layers if layer.dt is not None}
    if dt is None:
        dt = min(steps, default=getattr(splits.train, "dt", None))
    if dt is not None and isinstance(splits.train, Stream | Batches):
        name = "the stream" if isinstance(splits.train, Stream) else "train"
        _check.same_dt(name, splits.train, dt)
    if dt is not None and any(abs(step - dt) > 1e-9 for step in steps):
        expected = f"dt must be the time step of the network's neurons, {sorted(steps)} s"
        raise ValueError(f"{expected}, got {dt}")
    return dt


def _first(train: Training) -> BatchSource:
    """Return the training data, or their first part in epoch 0."""
    if isinstance(train, Stream | Batches):
        with contextlib.closing(_parts(train, 0, jax.random.key(0))) as parts:
            return next(parts)[0]
    return train


def _parts(
    train: Training, epoch: int, key: jax.Array
) -> Generator[tuple[BatchSource, jax.Array], None, None]:
    """Yield the parts of an epoch, each with a key: the source itself, shards, or batches."""
    if not isinstance(train, Stream | Batches):
        yield train, key
        return
    made: Any = train.epoch(epoch) if isinstance(train, Batches) else train.shards(epoch)
    with contextlib.closing(made) as parts:
        for k, part in enumerate(parts):
            yield part, jax.random.fold_in(key, k)


def _check_source(
    name: str, source: object, trainer: Trainer, labels_of_all: Target | None = None
) -> int:
    """Raise errors that would otherwise occur deep inside jit, or not at all.

    Args:
        name: Name of the source in errors.
        source: The source.
        trainer: The trainer that will use it.
        labels_of_all: The labels of the whole set, if the source is a part of it.

    Returns:
        Number of outputs of the readout.
    """
    source = check_source(name, _first(source) if isinstance(source, Batches) else source)
    if len(source) == 0:
        raise ValueError(f"{name} must hold at least one sample, got none")
    # shapes only: nothing is computed here
    n = len(source) if isinstance(source, Batch) else 1
    x, target = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((n,), jnp.int32))
    if n == 1 and len(x.shape) > 1 and x.shape[0] == 1 != x.shape[1]:
        expected = f"{name} must give time-major inputs (time, batch, ...)"
        hint = "move the axis of time first in batch(...), jnp.moveaxis(x, 1, 0)"
        raise ValueError(f"{expected}, got {x.shape} for a batch of one sample; {hint}")
    problem = trainer.problem
    readout, _ = jax.eval_shape(problem.outputs, trainer.params, x, target)
    for measure in (problem.loss, problem.sample_scores):
        jax.eval_shape(measure, readout, target)
    values: Any = labels_of_all
    if values is None:
        values = source.y if isinstance(source, Batch) else getattr(source, "labels", None)
    target, _ = untimed(target)
    array = isinstance(target, jax.ShapeDtypeStruct)
    if values is not None and array and np.ndim(values) == len(target.shape):
        problem.loss.check(f"labels of {name}", values, readout.shape[-1])
    return readout.shape[-1]


def _host(params: Params) -> Any:
    """Return a copy in host memory, which donation does not delete."""
    return jax.tree.map(np.asarray, jax.device_get(params))


def _explain(
    trainer: Trainer, state: TrainState, source: BatchSource, key: jax.Array, where: str
) -> str:
    """Run the failed step again from the last good parameters. Describe what is not finite."""
    if isinstance(source, Batch):
        sizes, indices = trainer.sizes(source, len(source)), jnp.arange(len(source))
    else:
        sizes = trainer.sizes(source)
        order = epoch_order(key, len(source), sizes.batch_size)
        step = int(state.steps) % len(order)  # all steps before this pass over the source were good
        indices, key = order[step], batch_key(key, step)
        where += f", step {step} of {len(order)}"
    recipe = trainer.recipe(sizes._replace(devices=1))
    again = jax.jit(lambda p: gradient_of(recipe)(p, source, indices, key))
    x, _ = source.batch(indices, key)
    (_, metrics), grads = again(state.params)
    facts = [f"loss {float(metrics.loss):g}, penalty {float(metrics.penalty):g}"]
    for what, tree in (("weights", state.params), ("gradient", grads)):
        bad = [n for n, leaf in flatten_params(tree).items() if not np.isfinite(leaf).all()]
        facts += [f"{what} of {name} not finite" for name in bad]
    if not np.isfinite(np.asarray(as_dense(x))).all():
        facts.insert(0, "the input batch itself is not finite")
    sizes_of = {name: np.abs(leaf).max() for name, leaf in flatten_params(state.params).items()}
    largest = ", ".join(f"{name} {size:.3g}" for name, size in sizes_of.items())
    facts.append(f"largest weights {largest}")
    return (
        f"training stopped: not finite at {where} ({'; '.join(facts)}). "
        "The parameters from before that step are kept. Lower the learning rate or the "
        "regularizers' strengths, or check the input."
    )
