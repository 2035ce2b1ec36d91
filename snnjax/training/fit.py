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
from snnjax.regularizers import ActivityBound
from snnjax.sparse import as_dense
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
    epoch_order,
    evaluate,
    init_state,
    micro_batch_size,
    train_epoch,
)

Row = dict[str, float]


class FitResult(NamedTuple):
    """What training leaves.

    `final` and `best` are the parameters (a pytree, `nnx.State` of `nnx.Param`) after the last epoch and after the epoch with the highest
    validation accuracy (the earliest such; `final` without validation data). `history` has one dict an epoch. `test` maps
    "final" and "best" to test metrics, where test data were given.
    """

    final: Any
    best: Any
    best_epoch: int
    history: list[Row]
    test: dict[str, Row]


class TrainingDivergedError(RuntimeError):
    """The objective or its gradient became non-finite. `result` holds the last good parameters and the history so far."""

    def __init__(self, message: str, result: FitResult) -> None:
        super().__init__(message)
        self.result = result


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, or "interrupt" in a notebook. `result` holds the parameters and the history so far; the network holds the parameters, too."""

    def __init__(self, result: FitResult) -> None:
        super().__init__(f"interrupted after {len(result.history) - 1} epochs")
        self.result = result


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
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    regularizers: Sequence[ActivityBound] = (),
    priming_epochs: int = 0,
    micro_batch: int | None = None,
    events: bool | None = None,
    on_epoch: Sequence[Callable[[Row], None]] = (),
) -> FitResult:
    """Train every `nnx.Param` of `network` and leave the network at the final parameters.

    Args:
      network: `snnjax.nn.Sequential`, or any module without other state that changes (batch statistics), called with
        x (time, batch, ...features), and in training with `key` too where its attribute `stochastic` is True (dropout); returns
        (readout (time, batch, classes), activity with `.spikes`).
      train, valid, test: `DeviceEvents`, `DeviceArrays` or your own `BatchSource`, a pytree. Validation runs after each epoch, test at the end.
        `train` may also be a `Stream`: an epoch runs over its shards one after another, and row 0 is the first shard of epoch 0, which is not trained on.
      optimizer: an optax transformation, for example `snnjax.optimizers.smorms3(5e-3)`. Weights of Dalian layers are kept >= 0 with any.
      epochs, batch_size: at least 1; the batch at most the training set or the shard. A last, incomplete batch of its random order is left out.
      key: decides the order of the samples; the same key gives the same run.
      dt: time step, s; rates are reported in Hz with it.
      logits: how a trace becomes class scores (`snnjax.losses`).   loss: `(readout, labels) -> (batch,)`, for example
        `snnjax.losses.mean_square`; None: the cross-entropy of the scores.   regularizers: penalties on every spiking layer.
      micro_batch: samples whose gradient is computed at a time, a divisor of `batch_size`; None: what suits the machine
        (`snnjax.training.step.micro_batch_size`). Several CPU devices (`snnjax.runtime.use_cpu_devices`) share each batch where it divides.
      events: give the network the spikes of `DeviceEvents` and `Stream` as lists of events: True, False, or None: where that is faster
        (`snnjax.training.inputs.choose_form`). The results are the same to rounding.
      priming_epochs: first so many epochs on the lower bounds among `regularizers` alone (homeostatic priming). They come before `epochs` and count
        in the history; the best epoch is never one of them.
      on_epoch: called with each epoch's row: epoch, train_loss, train_accuracy, penalty, rate_1 ... (Hz, a layer each), valid_loss,
        valid_accuracy, seconds. Row 0 is the untrained network.

    Returns:
      `FitResult`.

    Raises:
      ValueError, TypeError: sizes, labels or time steps that do not fit, a source that cannot be passed to jit.
      TrainingInterrupted: at a keyboard interrupt; nothing that was trained is lost.
      TrainingDivergedError: a non-finite loss or gradient; says epoch, step and where it first shows. The network then holds the last good parameters.

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
    form = functools.partial(choose_form, network, events=events)
    first = _first(train, dt) if isinstance(train, Stream) else train
    for name, source in (("train", first), ("valid", valid), ("test", test)):
        if source is not None:
            _check_source(name, source, network, train.labels if source is first and isinstance(train, Stream) else None)
    if batch_size > len(first):
        raise ValueError(f"batch_size must be at most the number of training samples {len(first)}, got {batch_size}")
    _check_dt(network, dt, train=first, valid=valid, test=test)
    first = form(first)
    valid, test = (source if source is None else form(source) for source in (valid, test))
    # all shards of a stream as the first, so that they share their compilation
    train = dataclasses.replace(train, events=isinstance(first, SparseEvents)) if isinstance(train, Stream) else first
    objective, params = Objective.of(network, logits=logits, regularizers=tuple(regularizers), loss=loss)
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
    run_phase = [
        jax.jit(
            functools.partial(train_epoch, phase, optimizer, batch_size=batch_size, micro_batch=size, devices=devices), donate_argnums=0
        )
        for phase in phases
    ]
    run_eval = jax.jit(functools.partial(evaluate, objective, batch_size=size))

    def report(epoch: int, metrics: Metrics, seconds: float) -> Row:
        row: Row = {"epoch": epoch, "train_loss": float(metrics.loss), "train_accuracy": float(metrics.accuracy)}
        row["penalty"] = float(metrics.penalty)
        row |= {f"rate_{k}": float(r) / dt for k, r in enumerate(metrics.rates, start=1)}
        if valid is not None:
            held = run_eval(state.params, valid)
            row |= {"valid_loss": float(held.loss), "valid_accuracy": float(held.accuracy)}
            if not np.isfinite(row["valid_loss"]):
                leave()
                result = FitResult(_host(state.params), best, best_epoch, history, {})
                raise TrainingDivergedError(
                    f"validation loss is {row['valid_loss']} at epoch {epoch}: its data or its membranes are not finite", result
                )
        row["seconds"] = seconds
        history.append(row)
        for callback in on_epoch:
            callback(row)
        return row

    def leave() -> None:
        """The network with the parameters so far, on one device as they came."""
        nnx.update(network, state.params if devices == 1 else jax.tree.map(jnp.asarray, _host(state.params)))

    state = init_state(params, optimizer)
    history: list[Row] = []
    best, best_epoch, best_accuracy = _host(params), 0, -1.0
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
                        leave()
                        result = FitResult(_host(state.params), best, best_epoch, history, {})
                        where = f"epoch {epoch}" + (f", shard {len(found)}" if isinstance(train, Stream) else "")
                        raise TrainingDivergedError(_explain(phases[supervised], state, part, part_key, where, batch_size, size), result)
                    found.append(metrics)
            metrics = found[0] if len(found) == 1 else jax.tree.map(lambda *m: sum(m) / len(m), *found)
            row = report(epoch, jax.block_until_ready(metrics), time.perf_counter() - begin)
            if supervised and (valid is None or row["valid_accuracy"] > best_accuracy):
                best, best_epoch, best_accuracy = _host(state.params), epoch, row.get("valid_accuracy", -1.0)
    except KeyboardInterrupt:
        leave()
        raise TrainingInterrupted(FitResult(_host(state.params), best, best_epoch, history, {})) from None
    leave()
    result = FitResult(_host(state.params), best, best_epoch, history, {})
    if test is not None:
        for name, chosen in (("final", result.final), ("best", best)):
            m = run_eval(chosen, test)
            rates = {f"rate_{k}": float(r) / dt for k, r in enumerate(m.rates, start=1)}
            result.test[name] = {"loss": float(m.loss), "accuracy": float(m.accuracy)} | rates
    return result


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


def _check_source(name: str, source: Any, network: Any, labels_of_all: Any = None) -> None:
    """Everything about a source that would otherwise surface deep inside jit, or not at all. `labels_of_all`: where it is a part of a larger set."""
    if isinstance(source, EventDataset):
        raise TypeError(f"{name} must be on the device, got an EventDataset; use DeviceEvents.put(data, dt=...)")
    leaves = jax.tree.leaves(source)
    if not callable(getattr(source, "batch", None)) or any(leaf is source for leaf in leaves):
        raise TypeError(f"{name} must be a JAX pytree with len(...) and batch(indices, key) (see BatchSource), got {type(source).__name__}")
    if len(source) == 0:
        raise ValueError(f"{name} must hold at least one sample, got none")
    # shapes only: nothing is computed here
    x, labels = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))
    readout, activity = nnx.eval_shape(lambda network, x: network(x), network, x)
    if readout.ndim != 3 or not hasattr(activity, "spikes"):
        raise ValueError(
            f"network must return (readout (time, batch, classes), activity with .spikes), got a readout of shape {readout.shape}"
        )
    values = getattr(source, "labels", None) if labels_of_all is None else labels_of_all
    if values is not None and labels.shape == (1,):
        values = np.asarray(values)
        if values.min() < 0 or values.max() >= readout.shape[-1]:
            bad = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"labels of {name} must be in [0, {readout.shape[-1]}), one a class of the readout, got {bad}")


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


def _explain(
    objective: Objective, state: TrainState, source: BatchSource, key: jax.Array, where: str, batch_size: int, micro_batch: int
) -> str:
    """Run the step that failed once more, from the last good parameters, and say where it first is not finite."""
    order = epoch_order(key, len(source), batch_size)
    step = int(state.steps) % len(order)  # all steps before this pass over the source were good
    x, _ = source.batch(order[step], batch_key(key, step))
    again = jax.jit(lambda p: batch_gradient(objective, p, source, order[step], batch_key(key, step), micro_batch=micro_batch))
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
