"""Callbacks of `fit`: order of calls, early stopping, loggers, progress, and resumed runs."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear import Given, Linear, inputs
from flax import nnx

from snnjax import _progress as bars
from snnjax.datasets import Batches, Splits
from snnjax.nn import Activity
from snnjax.regularizers import lower_bound
from snnjax.training import (
    Callback,
    Checkpoints,
    EarlyStopping,
    Objective,
    TensorBoard,
    Trainer,
    WeightsAndBiases,
    fit,
)
from snnjax.training._fit import TrainingInterrupted

OPTIONS = {"batch_size": 4, "key": jax.random.key(3)}


def source(n=8):
    return Given(jnp.asarray(inputs(n)), jnp.arange(n) % 2)


def train(*callbacks, epochs=4, splits=None, optimizer=None, **options):
    splits = Splits(source(), source(4)) if splits is None else splits
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    return fit(
        Linear(),
        splits,
        Objective(),
        optimizer,
        epochs=epochs,
        callbacks=callbacks,
        **OPTIONS | options,
    )


class Calls(Callback):
    """Records the calls; stops after `last`."""

    def __init__(self, last=None):
        self.calls, self.last = [], last

    def start(self, plan):
        self.calls.append(("start", plan.first, plan.priming, plan.last, len(plan.history)))

    def epoch_end(self, row, state):
        self.calls.append(
            (int(row["epoch"]), int(state.train.steps), state.history[-1] is row, state.best_epoch)
        )
        return row["epoch"] == self.last

    def finish(self):
        self.calls.append("finish")


def test_calls_in_order_and_one_that_asks_to_stop():
    calls, rows = Calls(last=2), []
    result = train(calls, rows.append)
    quality = [row["valid_accuracy"] for row in result.history]
    best = [0, 1, 1 + int(quality[2] > quality[1])]
    steps = [(k, 2 * k, True, best[k]) for k in range(3)]
    assert calls.calls == [("start", 1, 0, 4, 0), *steps, "finish"]
    assert rows == result.history
    assert result.best_epoch == best[2]


def test_finish_comes_after_an_interrupt_too():
    def interrupt(row):
        raise KeyboardInterrupt

    calls = Calls()
    with pytest.raises(TrainingInterrupted, match="interrupted after 0 epochs"):
        train(calls, interrupt)
    assert calls.calls[-1] == "finish"


def test_early_stopping_counts_epochs_without_a_better_validation():
    """Without learning, the first epoch remains the best."""
    rows = []
    assert [
        row["epoch"] for row in train(EarlyStopping(2), optimizer=optax.sgd(0.0), epochs=9).history
    ] == [0, 1, 2, 3]
    with pytest.raises(
        ValueError, match=r"EarlyStopping needs validation data; give Splits\(train, valid\)"
    ):
        train(rows.append, EarlyStopping(2), splits=Splits(source()))
    assert [row["epoch"] for row in rows] == [0]  # before an epoch is trained
    with pytest.raises(ValueError, match="patience must be >= 1, got 0"):
        EarlyStopping(0)


def test_early_stopping_does_not_count_priming():
    stopping = EarlyStopping(1)
    history = [{"epoch": k, "valid_accuracy": a} for k, a in enumerate((0.9, 0.8, 0.7, 0.5, 0.5))]
    assert not stopping.start(types.SimpleNamespace(priming=2, history=[]))
    over = [
        stopping.epoch_end(history[k], types.SimpleNamespace(history=history[: k + 1]))
        for k in range(5)
    ]
    assert over == [False] * 4 + [True]
    assert stopping.start(
        types.SimpleNamespace(priming=2, history=history)
    )  # no epochs remain after a resume


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def without_time(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize("batches", [False, True])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, batches):
    """Bit by bit, including the optimizer's state: its step falls with the number of steps."""
    x, y = np.moveaxis(inputs(8), 0, 1), np.arange(8) % 2

    def shuffled(epoch):
        order = np.random.default_rng(epoch).permutation(8)
        return [(x[:, part], y[part]) for part in np.split(order, 2)]

    options = {"optimizer": optax.adam(optax.cosine_decay_schedule(0.1, 10))}
    if batches:
        options |= {"splits": Splits(Batches(shuffled), source(4)), "batch_size": None}
    whole = train(epochs=5, **options)

    def kill(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted):
        train(Checkpoints(tmp_path, every=2), kill, epochs=5, resume=tmp_path, **options)
    rows = []
    again = train(Checkpoints(tmp_path, every=2), rows.append, epochs=5, resume=tmp_path, **options)
    assert [row["epoch"] for row in rows] == [3, 4, 5]
    same(again.final, whole.final)
    same(again.best, whole.best)
    assert again.best_epoch == whole.best_epoch
    assert without_time(again.history) == without_time(whole.history)
    # the last epoch has a checkpoint, so that no epochs remain
    calls = Calls()
    same(train(calls, epochs=5, resume=tmp_path, **options).final, whole.final)
    assert [call[0] for call in calls.calls] == ["start", "f"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(Checkpoints(tmp_path), epochs=1)
    with pytest.raises(ValueError, match="key must be that of the checkpoint"):
        train(epochs=2, resume=tmp_path, key=jax.random.key(4))
    with pytest.raises(ValueError, match="batch_size must be that of the checkpoint, 4, got 2"):
        train(epochs=2, resume=tmp_path, batch_size=2)
    with pytest.raises(ValueError, match="the checkpoint of epoch 1 is of another"):
        train(epochs=2, resume=tmp_path, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"number of training samples must be that .* 8, got 12"):
        train(epochs=2, resume=tmp_path, splits=Splits(source(12), source(4)))
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        Checkpoints(tmp_path, every=0)


def test_a_new_run_does_not_write_into_the_folder_of_another(tmp_path):
    """The checkpoints of the former run stay, and nothing is trained before the error."""
    train(Checkpoints(tmp_path), epochs=2)
    rows = []
    with pytest.raises(ValueError, match=r"of another run, got .* epoch 2; continue .*resume="):
        train(Checkpoints(tmp_path), rows.append, epochs=1)
    assert rows == []
    assert len(train(Checkpoints(tmp_path), epochs=3, resume=tmp_path).history) == 4


def test_tensorboard_gets_every_column(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, *arguments):
            written.append(arguments)

        def flush(self):
            pass

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    result = train(TensorBoard(tmp_path), epochs=1)
    columns = [
        (name, row[name], row["epoch"]) for row in result.history for name in row if name != "epoch"
    ]
    assert written == [str(tmp_path), *columns, "closed"]


def test_weights_and_biases_gets_every_row(monkeypatch):
    logged = []

    class Run:
        def log(self, row, step):
            logged.append((row, step))

        def finish(self):
            logged.append("finished")

    def init(**options):
        logged.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    result = train(WeightsAndBiases("spikes", config={"lr": 0.1}, mode="offline"), epochs=1)
    assert logged[0] == {"project": "spikes", "config": {"lr": 0.1}, "mode": "offline"}
    assert logged[1:] == [*((row, row["epoch"]) for row in result.history), "finished"]


@pytest.mark.parametrize(
    ("make", "extra"),
    [(lambda: TensorBoard("x"), "tensorboard"), (lambda: WeightsAndBiases("x"), "wandb")],
)
def test_a_missing_logger_names_the_extra(monkeypatch, make, extra):
    for module in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'snnjax\[{extra}\]'"):
        make()


def test_progress_is_shown_in_a_terminal_and_in_a_notebook_alone(monkeypatch):
    shown = []

    class Bar(Callback):
        def epoch_end(self, row, state):
            shown.append(row["epoch"])

    monkeypatch.setattr(bars, "TrainingProgress", Bar)
    terminal, notebook = (
        (lambda value: monkeypatch.setattr(sys.stdout, "isatty", lambda: value, raising=False)),
        bars.in_notebook,
    )
    for tty, kernel, progress, expected in (
        (False, False, None, False), (True, False, None, True), (False, True, None, True), (True, True, False, False), (False, False, True, True),
    ):  # fmt: skip
        shown.clear()
        terminal(tty)
        monkeypatch.setattr(bars, "in_notebook", lambda kernel=kernel: kernel)
        train(epochs=1, progress=progress)
        assert shown == ([0, 1] if expected else [])
    assert not notebook()


def test_priming_is_part_of_the_plan():
    class Two(nnx.Module):
        def __init__(self):
            self.map = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.map(x), Activity((self.map(x),))

    calls = Calls()
    objective = Objective(regularizers=[lower_bound(1.0, 1.0)])
    options = {"epochs": 1, "priming_epochs": 2, "callbacks": [calls], "dt": 1e-3}
    result = fit(Two(), Splits(source()), objective, optax.sgd(0.1), **options, **OPTIONS)
    assert calls.calls[0] == ("start", 1, 2, 3, 0)
    assert [call[3] for call in calls.calls[1:-1]] == [0, 0, 0, 3]
    assert result.best_epoch == 3


def test_an_estimate_is_that_of_the_steps_of_an_epoch_and_changes_nothing(monkeypatch):
    found, epoch, now = [], Trainer.epoch, [0.0]

    class Estimate(Callback):
        def estimate(self, seconds):
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "epoch", slow)
                patch.setattr("snnjax.training._fit.time.perf_counter", lambda: now[0])
                found.append(seconds())

    def slow(self, *args, steps):
        assert steps == 1
        now[0] += 0.1
        return epoch(self, *args, steps=steps)

    results = [train(callback) for callback in (Estimate(), Callback())]
    # two steps per epoch
    assert found == [pytest.approx(0.2)]
    for a, b in zip(*(jax.tree.leaves(r.final) for r in results), strict=True):
        np.testing.assert_array_equal(a, b)
