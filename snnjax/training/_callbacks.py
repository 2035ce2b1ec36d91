"""Objects that `snnjax.training.fit` calls during training: early stopping, loggers, and your own.

A logger of your own is a `Callback` that writes each row in `epoch_end`. Checkpoints are in
`snnjax/training/_checkpoint.py`, the progress bar in `snnjax/_progress.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snnjax import _check, _extras
from snnjax.training._step import TrainState

Row = dict[str, float]


class Plan(NamedTuple):
    """Which epochs a call of `fit` trains.

    Attributes:
        first: The first epoch to train: 1, or the one after the checkpoint.
        priming: Epochs of priming, at the beginning.
        last: The last epoch. Epochs of priming are counted.
        history: Rows of the epochs before `first`; empty if training starts anew.
    """

    first: int
    priming: int
    last: int
    history: Sequence[Row]


class FitState(NamedTuple):
    """The state of a run after an epoch.

    Attributes:
        train: State of training. Its arrays are donated to the next epoch: copy what you keep.
        best: The best parameters so far, numpy arrays.
        best_epoch: Their epoch.
        best_quality: Their validation accuracy, or minus their validation loss.
        history: One row per epoch so far.
        seed: Key, batch size, priming epochs and number of samples, which identify the run of a
            checkpoint.
    """

    train: TrainState
    best: Any
    best_epoch: int
    best_quality: float
    history: list[Row]
    seed: Mapping[str, np.ndarray]


class Callback:
    """Base class of callbacks of `snnjax.training.fit`. All methods are optional.

    >>> class Print(Callback):
    ...     def epoch_end(self, row, state):
    ...         print(row["epoch"], len(state.history))
    >>> state = FitState(None, None, 0, 0.0, [{"epoch": 0}], {})
    >>> Print().epoch_end(state.history[-1], state)
    0 1
    """

    def start(self, plan: Plan) -> bool | None:
        """Called once before training. Return True if there is nothing left to train.

        Args:
            plan: Which epochs are trained: `plan.first` to `plan.last`, of which the first
                `plan.priming` of the run are priming; and `plan.history`, the rows before `first`.
        """

    def estimate(self, seconds: Callable[[], float]) -> None:
        """Called once after row 0, unless training resumes or data come as `Batches`.

        Args:
            seconds: A function that trains a copy of the network for a few steps, and returns how
                long an epoch takes, s. It compiles a program, so call it only for long training.
        """

    def epoch_end(self, row: Row, state: FitState) -> bool | None:
        """Called after every epoch, and with row 0 before the first. Return True to stop."""

    def finish(self) -> None:
        """Called once at the end, also after an error or an interrupt."""


class OnRow(Callback):
    """A plain function of the row as a callback. Its return value is ignored."""

    def __init__(self, function: Callable[[Row], Any]) -> None:
        self.function = function

    def epoch_end(self, row: Row, state: FitState) -> None:
        self.function(row)


class EarlyStopping(Callback):
    """Stop training if the validation accuracy has not improved for some epochs.

    If the targets are not classes, the validation loss is used. Epochs of priming do not count.
    The best parameters are in `FitResult.best`.

    Args:
        patience: Number of epochs.

    Raises:
        ValueError: `patience` is below 1; or, in training, there are no validation data.

    >>> stopping = EarlyStopping(patience=2)
    >>> _ = stopping.start(Plan(1, 0, 10, []))
    >>> losses = 3.0, 2.0, 1.0, 1.5, 1.5
    >>> rows = [{"epoch": k, "valid_loss": loss} for k, loss in enumerate(losses)]
    >>> until = lambda k: FitState(None, None, 0, 0.0, rows[: k + 1], {})
    >>> [stopping.epoch_end(rows[k], until(k)) for k in range(5)]
    [False, False, False, False, True]
    """

    def __init__(self, patience: int) -> None:
        self.patience = _check.integer("patience", patience, at_least=1)
        self._priming = 0

    def start(self, plan: Plan) -> bool:
        self._priming = plan.priming
        return self._over(plan.history)

    def epoch_end(self, row: Row, state: FitState) -> bool:
        return self._over(state.history)

    def _over(self, history: Sequence[Row]) -> bool:
        quality = [quality_of(row) for row in history]
        if None in quality:
            needs = "EarlyStopping needs validation data"
            raise ValueError(f"{needs}; give Splits(train, valid), or leave it out")
        known = [value for value in quality[1 + self._priming :] if value is not None]
        return bool(known) and len(known) - 1 - known.index(max(known)) >= self.patience


def quality_of(row: Row) -> float | None:
    """What selects the best parameters; None without validation data.

    >>> quality_of({"valid_loss": 0.5}), quality_of({"valid_loss": 0.5, "valid_accuracy": 0.75})
    (-0.5, 0.75)
    """
    loss = row.get("valid_loss")
    return row.get("valid_accuracy", None if loss is None else -loss)


class TensorBoard(Callback):
    """Write every column of the rows as a scalar, for TensorBoard. Needs the extra `tensorboard`.

    Args:
        folder: Where the event file goes.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        tensorboard = _extras.package("tensorboardX", "tensorboard", "this logger")
        self._writer = tensorboard.SummaryWriter(os.fspath(folder))

    def epoch_end(self, row: Row, state: FitState) -> None:
        step = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases(Callback):
    """Log the rows to Weights & Biases. Needs the extra `wandb`.

    Args:
        project: Name of the project.
        config: Settings of the run that are shown beside it, or None.
        **options: Further arguments of `wandb.init`, such as `name` or `mode="offline"`.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self, project: str, *, config: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        wandb = _extras.package("wandb", "wandb", "this logger")
        self._run = wandb.init(project=project, config=dict(config or {}), **options)

    def epoch_end(self, row: Row, state: FitState) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def finish(self) -> None:
        self._run.finish()
