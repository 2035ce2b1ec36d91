"""Train a network: epochs, validation, best and final parameters, and a clear stop when something is not finite."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from snnjax import _check, losses
from snnjax.datasets import BatchSource, EventDataset, SparseEvents, Stream
from snnjax.optimizers import keep_nonnegative
from snnjax.sparse import as_dense
from snnjax.training._programs import program
from snnjax.training.inputs import choose_form
from snnjax.training.params import flatten_params
from snnjax.training.step import (
    Metrics,
    Objective,
    TrainState,
    batch_devices,
    batch_gradient,
    batch_key,
    batch_mesh,
    check_micro_batch,
    check_optimizer,
    epoch_order,
    evaluate,
    init_state,
    micro_batch_size,
    train_epoch,
)

Row = dict[str, float]


class FitResult(NamedTuple):
    """What training leaves.

    Attributes:
        final: Parameters after the last epoch, a pytree (`nnx.State` of `nnx.Param`).
        best: Parameters after the best epoch.
        best_epoch: The epoch with the highest validation accuracy, or where targets are no classes
            with the lowest validation loss; the earliest such. The last one without validation
            data.
        history: One dict per epoch, see `fit`.
        test: Test metrics by name, of "final" and of "best" parameters, where test data were given.
    """

    final: Any
    best: Any
    best_epoch: int
    history: list[Row]
    test: dict[str, Row]


class TrainingDivergedError(RuntimeError):
    """The objective or its gradient became non-finite.

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
    train: BatchSource | Stream,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    dt: float,
    valid: BatchSource | None = None,
    test: BatchSource | None = None,
    logits: losses.Logits = losses.max_over_time,
    loss: Callable[[jax.Array, Any], jax.Array] | None = None,
    regularizers: Sequence[Callable[[jax.Array], jax.Array]] = (),
    priming_epochs: int = 0,
    micro_batch: int | None = None,
    events: bool | None = None,
    on_epoch: Sequence[Callable[[Row], None]] = (),
) -> FitResult:
    """Train every `nnx.Param` of `network` and leave the network at the final parameters.

    A second call with equal arguments of the same shapes reuses the programs that the first
    compiled. So `loss`, `logits`, `regularizers` and what `optimizer` calls must be pure, as under
    `jax.jit`. A change of the numbers that they read from outside, or of their code, is seen and
    compiles anew.

    Args:
        network: `snnjax.nn.Sequential`, or any module without other state that changes (batch
            statistics). It is called with x (time, batch, ...features), and in training also with
            `key` where its attribute `stochastic` is True (dropout). It returns the readout
            (time, batch, k), or (readout, activity with `.spikes`).
        train: `DeviceEvents`, `DeviceArrays` or your own `BatchSource`, a pytree. Or a `Stream`: an
            epoch runs over its shards one after another, and row 0 is the first shard of epoch 0,
            which is not trained on.
        optimizer: An optax transformation, for example `snnjax.optimizers.smorms3(5e-3)`. Weights
            of Dalian layers are kept >= 0 with any. Those that look at the loss get the objective
            of the batch as `value` (`optax.contrib.reduce_on_plateau`); those that search along a
            line (`optax.lbfgs`) are refused.
        epochs: At least 1.
        batch_size: At most the training set or the shard. A last, incomplete batch of the random
            order is left out.
        key: Random key, decides the order of the samples; the same key gives the same run.
        dt: Time step, s; rates are reported in Hz with it.
        valid: A source that is evaluated after each epoch, or None.
        test: A source that is evaluated at the end, or None.
        logits: How a trace becomes class scores (`snnjax.losses`), for the cross-entropy and the
            accuracy.
        loss: `(readout, target) -> (batch,)`. It decides what the targets are: None, the
            cross-entropy of `logits`, takes classes; `snnjax.losses.mean_square` traces or classes;
            `snnjax.losses.SquaredError()` values (batch, k); `snnjax.losses.SigmoidCrossEntropy()`
            several labels per sample; a function of your own whatever your source gives.
        regularizers: Penalties on every spiking layer; the network must return its activity.
        priming_epochs: Number of epochs at the beginning on the activity bounds among `regularizers`
            alone (homeostatic priming). They come before `epochs` and count in the history; the
            best epoch is never one of them.
        micro_batch: Samples whose gradient is computed at a time, a divisor of `batch_size`; None:
            what suits the machine (`snnjax.training.step.micro_batch_size`). Several CPU devices
            (`snnjax.runtime.use_cpu_devices`) share each batch where it divides.
        events: Give the network the spikes of `DeviceEvents` and `Stream` as lists of events: True,
            False, or None: where that is faster (`snnjax.training.inputs.choose_form`). The results
            are the same to rounding.
        on_epoch: Functions that are called with each epoch's row: epoch, train_loss,
            train_accuracy, penalty, rate_1 ... (Hz, one per layer), valid_loss, valid_accuracy,
            seconds. Row 0 is the untrained network. There is an accuracy where targets are classes.
            Else there is what the loss names (`snnjax.losses.Metric`), such as
            train_label_accuracy, or nothing.

    Returns:
        `FitResult`.

    Raises:
        ValueError, TypeError: Sizes, targets or time steps that do not fit; a source that cannot be
            passed to jit; an argument of another kind.
        TrainingInterrupted: At a keyboard interrupt; nothing that was trained is lost.
        TrainingDivergedError: A non-finite loss or gradient; says epoch, step and where it first
            shows. The network then holds the last good parameters.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> from snnjax.optimizers import smorms3
    >>> data = DeviceEvents.put(randman(n_classes=2, n_samples=20), dt=2e-3)
    >>> rngs = nnx.Rngs(0)
    >>> network = Sequential(SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(16, 2, rngs=rngs))
    >>> result = fit(network, data, optimizer=smorms3(5e-3), epochs=2, batch_size=20, key=jax.random.key(0), dt=2e-3)
    >>> [row["epoch"] for row in result.history], sorted(result.history[0])[:2]
    ([0, 1, 2], ['epoch', 'penalty'])
    """
    _check.integer("epochs", epochs, at_least=1)
    _check.integer("priming_epochs", priming_epochs, at_least=0)
    _check.integer("batch_size", batch_size, at_least=1)
    check_micro_batch(micro_batch, batch_size)
    _check.number("dt", dt, above=0, unit="s")
    _check.key("key", key)
    check_optimizer(optimizer)
    if callable(on_epoch):
        raise TypeError(f"on_epoch must be a sequence of functions, got {on_epoch!r}; write [it]")
    objective, params = Objective.of(network, logits=logits, regularizers=regularizers, loss=loss)
    form = functools.partial(choose_form, network, events=events)
    first = _first(train, dt) if isinstance(train, Stream) else train
    for name, source in (("train", first), ("valid", valid), ("test", test)):
        if source is not None:
            of_all = train.labels if source is first and isinstance(train, Stream) else None
            _check_source(name, source, objective, params, of_all)
    if batch_size > len(first):
        raise ValueError(f"batch_size must be at most the number of training samples {len(first)}, got {batch_size}")
    _check_dt(network, dt, train=first, valid=valid, test=test)
    first = form(first)
    valid, test = (source if source is None else form(source) for source in (valid, test))
    # all shards of a stream as the first, so that they share their compilation
    train = dataclasses.replace(train, events=isinstance(first, SparseEvents)) if isinstance(train, Stream) else first
    optimizer = optax.chain(optimizer, keep_nonnegative())  # nothing where it has been done, and to weights that are not marked
    # the parameters are donated to each epoch; copies keep the caller's arrays alive
    params = jax.tree.map(jnp.copy, params)
    phases = [objective.priming() if priming_epochs else objective, objective]
    devices = batch_devices(objective, first, batch_size, micro_batch)
    if devices > 1:
        put = functools.partial(jax.device_put, device=NamedSharding(batch_mesh(devices), PartitionSpec()))
        params, valid, test = put(params), put(valid), put(test)
        first = first if isinstance(train, Stream) else put(first)
        train = train if isinstance(train, Stream) else first
    size = micro_batch or micro_batch_size(objective, params, first, batch_size // devices)
    sizes = _Sizes(batch_size, size, devices)
    run_phase = [program(_epoch, (phase, optimizer, sizes), donate=0) for phase in phases]
    run_eval = functools.partial(evaluate, objective, batch_size=size)

    def report(epoch: int, metrics: Metrics, seconds: float) -> float:
        """Append the epoch's row; returns what the best parameters have most of."""
        row: Row = {"epoch": epoch, **_columns("train_", metrics)}
        row |= {"penalty": float(metrics.penalty), **_rates(metrics, dt)}
        quality = -np.inf
        if valid is not None:
            held = run_eval(state.params, valid)
            row |= _columns("valid_", held)
            quality = float(held.quality)
            if not np.isfinite(row["valid_loss"]):
                what = f"validation loss is {row['valid_loss']} at epoch {epoch}"
                why = "its data or its membranes are not finite"
                raise TrainingDivergedError(f"{what}: {why}", finish())
        row["seconds"] = seconds
        history.append(row)
        reported[0] = int(state.steps)
        for callback in on_epoch:
            callback(row)
        return quality

    def finish() -> FitResult:
        """What training leaves, tested."""
        leave()
        result = FitResult(_host(state.params), best, best_epoch, history, {})
        if test is not None:
            for name, chosen in (("final", result.final), ("best", best)):
                m = run_eval(chosen, test)
                result.test[name] = _columns("", m) | _rates(m, dt)
        return result

    def leave() -> None:
        """The network with the parameters so far, on one device as they came."""
        nnx.update(network, state.params if devices == 1 else jax.tree.map(jnp.asarray, _host(state.params)))

    state = init_state(params, optimizer)
    history: list[Row] = []
    reported = [0]  # steps before the history's last row
    best, best_epoch, best_quality = _host(params), 0, -np.inf
    report(0, run_eval(state.params, first), 0.0)
    del first  # a shard takes memory
    try:
        for epoch in range(1, priming_epochs + epochs + 1):
            supervised = epoch > priming_epochs
            begin = time.perf_counter()
            found = []
            with contextlib.closing(_parts(train, epoch, jax.random.fold_in(key, epoch))) as parts:
                for part, part_key in parts:
                    state, metrics = run_phase[supervised](state, part, part_key)
                    # waits, so that shards do not pile up on the device; the next one is read meanwhile
                    if not bool(state.healthy):
                        where = f"epoch {epoch}" + (f", shard {len(found)}" if isinstance(train, Stream) else "")
                        why = _explain(phases[supervised], state, part, part_key, where, sizes)
                        raise TrainingDivergedError(why, finish())
                    found.append(metrics)
            metrics = found[0] if len(found) == 1 else jax.tree.map(lambda *m: sum(m) / len(m), *found)
            quality = report(epoch, jax.block_until_ready(metrics), time.perf_counter() - begin)
            if supervised and (valid is None or quality > best_quality):
                best, best_epoch, best_quality = _host(state.params), epoch, quality
    except KeyboardInterrupt:
        leave()
        result = FitResult(_host(state.params), best, best_epoch, history, {})
        raise TrainingInterrupted(result, int(state.steps) - reported[0]) from None
    return finish()


class _Sizes(NamedTuple):
    """What is part of the program: samples per batch, and at a time on each of `devices`."""

    batch_size: int
    micro_batch: int
    devices: int


def _epoch(
    given: Any,
    state: TrainState,
    source: BatchSource,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    objective, optimizer, sizes = given
    return train_epoch(objective, optimizer, state, source, key, **sizes._asdict())


def _columns(prefix: str, metrics: Metrics) -> Row:
    """Loss and scores as columns of a row."""
    return {name: float(value) for name, value in metrics.named(prefix).items()}


def _rates(metrics: Metrics, dt: float) -> Row:
    """Rates of all layers as columns of a row, Hz."""
    return {f"rate_{k}": float(r) / dt for k, r in enumerate(metrics.rates, start=1)}


def _first(train: Stream, dt: float) -> BatchSource:
    """The first shard of epoch 0."""
    _check.same_dt("the stream", train, dt)
    with contextlib.closing(train.shards(0)) as shards:
        return next(shards)


def _parts(train: BatchSource | Stream, epoch: int, key: jax.Array) -> Generator[tuple[BatchSource, jax.Array], None, None]:
    """What an epoch runs over, with a key each: the source itself, or the shards of a stream."""
    if not isinstance(train, Stream):
        yield train, key
        return
    with contextlib.closing(train.shards(epoch)) as shards:
        for k, shard in enumerate(shards):
            yield shard, jax.random.fold_in(key, k)


def _check_source(
    name: str,
    source: Any,
    objective: Objective,
    params: Any,
    labels_of_all: Any = None,
) -> None:
    """Everything about a source that would otherwise surface deep inside jit, or not at all. `labels_of_all`: where it is a part of a larger set."""
    if isinstance(source, EventDataset):
        raise TypeError(f"{name} must be on the device, got an EventDataset; use DeviceEvents.put(data, dt=...)")
    leaves = jax.tree.leaves(source)
    if not callable(getattr(source, "batch", None)) or any(leaf is source for leaf in leaves):
        raise TypeError(f"{name} must be a JAX pytree with len(...) and batch(indices, key) (see BatchSource), got {type(source).__name__}")
    if len(source) == 0:
        raise ValueError(f"{name} must hold at least one sample, got none")
    # shapes only: nothing is computed here
    x, target = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))
    if len(x.shape) > 1 and x.shape[0] == 1 != x.shape[1]:
        expected = f"{name} must give time-major inputs (time, batch, ...)"
        hint = "move the axis of time first in batch(...), jnp.moveaxis(x, 1, 0)"
        raise ValueError(f"{expected}, got {x.shape} for a batch of one sample; {hint}")
    readout, _ = jax.eval_shape(objective.outputs, params, x)
    for measure in (objective.sample_losses, objective.sample_scores):
        jax.eval_shape(measure, readout, target)
    values = getattr(source, "labels", None) if labels_of_all is None else labels_of_all
    if values is not None and np.ndim(values) == len(target.shape):  # what the batches hold
        objective.check_targets(f"labels of {name}", values, readout.shape[-1])


def _check_dt(network: Any, dt: float, **sources: Any) -> None:
    """Rates would be wrong in silence."""
    steps = {layer.neuron.dt for layer in getattr(network, "layers", ()) if hasattr(getattr(layer, "neuron", None), "dt")}
    if steps and any(abs(step - dt) > 1e-9 for step in steps):
        raise ValueError(f"dt must be the time step of the network's neurons, {sorted(steps)} s, got {dt}")
    for name, source in sources.items():
        _check.same_dt(name, source, dt)


def _host(params: Any) -> Any:
    """A copy in host memory, safe from donation."""
    return jax.tree.map(np.asarray, jax.device_get(params))


def _explain(objective: Objective, state: TrainState, source: BatchSource, key: jax.Array, where: str, sizes: _Sizes) -> str:
    """Run the step that failed once more, from the last good parameters, and say where it first is not finite."""
    order = epoch_order(key, len(source), sizes.batch_size)
    step = int(state.steps) % len(order)  # all steps before this pass over the source were good
    x, _ = source.batch(order[step], batch_key(key, step))
    again = jax.jit(lambda p: batch_gradient(objective, p, source, order[step], batch_key(key, step), micro_batch=sizes.micro_batch))
    _, metrics, grads = again(state.params)
    facts = [f"loss {float(metrics.loss):g}, penalty {float(metrics.penalty):g}"]
    for what, tree in (("weights", state.params), ("gradient", grads)):
        facts += [f"{what} of {name} not finite" for name, leaf in flatten_params(tree).items() if not np.isfinite(leaf).all()]
    if not np.isfinite(np.asarray(as_dense(x))).all():
        facts.insert(0, "the input batch itself is not finite")
    largest = ", ".join(f"{name} {np.abs(leaf).max():.3g}" for name, leaf in flatten_params(state.params).items())
    facts.append(f"largest weights {largest}")
    return (
        f"training stopped: not finite at {where}, step {step} of {len(order)} ({'; '.join(facts)}). "
        "The parameters from before that step are kept. Lower the learning rate or the regularizers' strengths, or check the input."
    )
