"""Train a network: epochs, validation, best and final parameters, and a clear stop when something is not finite."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snnjax import _check, losses
from snnjax.datasets.device import BatchSource
from snnjax.regularizers import ActivityBound
from snnjax.training.params import flatten_params
from snnjax.training.step import Metrics, Objective, TrainState, batch_key, epoch_order, evaluate, init_state, objective_value, train_epoch

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
    train: BatchSource,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    dt: float,
    valid: BatchSource | None = None,
    test: BatchSource | None = None,
    logits: losses.Logits = losses.max_over_time,
    regularizers: Sequence[ActivityBound] = (),
    on_epoch: Sequence[Callable[[Row], None]] = (),
) -> FitResult:
    """Train every `nnx.Param` of `network` and leave the network at the final parameters.

    Args:
      network: called with x (time, batch, ...features); returns (readout (time, batch, classes), activity with `.spikes`).
      train, valid, test: `DeviceEvents`, `DeviceArrays` or your own `BatchSource`. Validation runs after each epoch, test at the end.
      optimizer: an optax transformation, for example `snnjax.optimizers.smorms3(5e-3)`.
      epochs, batch_size: at least 1; the batch at most the training set. A last, incomplete batch of an epoch's random order is left out.
      key: decides the order of the samples; the same key gives the same run.
      dt: time step, s; rates are reported in Hz with it.
      logits: how a trace becomes class scores (`snnjax.losses`).   regularizers: penalties on every spiking layer.
      on_epoch: called with each epoch's row: epoch, train_loss, train_accuracy, penalty, rate_0 ... (Hz, a layer each), valid_loss,
        valid_accuracy, seconds. Row 0 is the untrained network.

    Returns:
      `FitResult`.

    Raises:
      ValueError: sizes that do not fit.
      TrainingInterrupted: at a keyboard interrupt; nothing that was trained is lost.
      TrainingDivergedError: a non-finite loss or gradient; says epoch, step and where it first shows. The network then holds the last good parameters.
    """
    _check.integer("epochs", epochs, at_least=1)
    _check.integer("batch_size", batch_size, at_least=1)
    _check.number("dt", dt, above=0, unit="s")
    if batch_size > len(train):
        raise ValueError(f"batch_size must be at most the number of training samples {len(train)}, got {batch_size}")
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    # the parameters are donated to each epoch; copies keep the caller's arrays alive
    params = jax.tree.map(jnp.copy, params)
    objective = Objective(lambda p, x: nnx.merge(graphdef, p, rest)(x), logits, tuple(regularizers))
    run_epoch = jax.jit(functools.partial(train_epoch, objective, optimizer, batch_size=batch_size), donate_argnums=0)
    run_eval = jax.jit(functools.partial(evaluate, objective, batch_size=batch_size))

    def report(epoch: int, metrics: Metrics, seconds: float) -> Row:
        row: Row = {"epoch": epoch, "train_loss": float(metrics.loss), "train_accuracy": float(metrics.accuracy)}
        row["penalty"] = float(metrics.penalty)
        row |= {f"rate_{k}": float(r) / dt for k, r in enumerate(metrics.rates)}
        if valid is not None:
            held = run_eval(state.params, valid)
            row |= {"valid_loss": float(held.loss), "valid_accuracy": float(held.accuracy)}
        row["seconds"] = seconds
        history.append(row)
        for callback in on_epoch:
            callback(row)
        return row

    state = init_state(params, optimizer)
    history: list[Row] = []
    best, best_epoch, best_accuracy = _host(params), 0, -1.0
    report(0, run_eval(state.params, train), 0.0)
    try:
        for epoch in range(1, epochs + 1):
            begin = time.perf_counter()
            epoch_key = jax.random.fold_in(key, epoch)
            state, metrics = run_epoch(state, train, epoch_key)
            if not bool(state.healthy):
                nnx.update(network, state.params)
                result = FitResult(_host(state.params), best, best_epoch, history, {})
                raise TrainingDivergedError(_explain(objective, state, train, epoch_key, epoch, batch_size), result)
            row = report(epoch, jax.block_until_ready(metrics), time.perf_counter() - begin)
            if valid is None or row["valid_accuracy"] > best_accuracy:
                best, best_epoch, best_accuracy = _host(state.params), epoch, row.get("valid_accuracy", -1.0)
    except KeyboardInterrupt:
        nnx.update(network, state.params)
        raise TrainingInterrupted(FitResult(_host(state.params), best, best_epoch, history, {})) from None
    nnx.update(network, state.params)
    result = FitResult(_host(state.params), best, best_epoch, history, {})
    if test is not None:
        for name, chosen in (("final", result.final), ("best", best)):
            m = run_eval(chosen, test)
            rates = {f"rate_{k}": float(r) / dt for k, r in enumerate(m.rates)}
            result.test[name] = {"loss": float(m.loss), "accuracy": float(m.accuracy)} | rates
    return result


def _host(params: Any) -> Any:
    """A copy in host memory, safe from donation."""
    return jax.tree.map(np.asarray, jax.device_get(params))


def _explain(objective: Objective, state: TrainState, source: BatchSource, key: jax.Array, epoch: int, batch_size: int) -> str:
    """Run the step that failed once more, from the last good parameters, and say where it first is not finite."""
    order = epoch_order(key, len(source), batch_size)
    step = int(state.steps) - (epoch - 1) * len(order)
    x, labels = source.batch(order[step], batch_key(key, step))
    (_, metrics), grads = jax.jit(
        jax.value_and_grad(lambda p: objective_value(objective, p, x, labels), has_aux=True)
    )(state.params)  # fmt: skip
    facts = [f"loss {float(metrics.loss):g}, penalty {float(metrics.penalty):g}"]
    for what, tree in (("weights", state.params), ("gradient", grads)):
        facts += [f"{what} of {name} not finite" for name, leaf in flatten_params(tree).items() if not np.isfinite(leaf).all()]
    if not np.isfinite(np.asarray(x)).all():
        facts.insert(0, "the input batch itself is not finite")
    largest = ", ".join(f"{name} {np.abs(leaf).max():.3g}" for name, leaf in flatten_params(state.params).items())
    facts.append(f"largest weights {largest}")
    return (
        f"training stopped: not finite at epoch {epoch}, step {step} of {len(order)} ({'; '.join(facts)}). "
        "The parameters from before that step are kept. Lower the learning rate or the regularizers' strengths, or check the input."
    )
