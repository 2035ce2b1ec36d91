"""What a person sees while training runs: a progress bar with loss, accuracy and rates, and a table at the end."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from snnjax.training.fit import Row


class TrainingProgress:
    """A context manager whose instance is an `on_epoch` callback of `fit`.

    On a terminal a live bar; elsewhere (a file, CI) about twenty plain lines over the whole run.
    """

    def __init__(self, epochs: int, *, console: Console | None = None) -> None:
        self.epochs = epochs
        self.console = console or Console(file=sys.stderr)
        columns = (
            TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=self.console) if self.console.is_terminal else None
        self._task = self._bar.add_task("compiling", total=epochs) if self._bar else None

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, row: Row) -> None:
        epoch, text = int(row["epoch"]), describe(row)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=epoch, description=text)
        elif epoch % max(1, self.epochs // 20) == 0 or epoch in (1, self.epochs):
            self.console.print(f"epoch {epoch}/{self.epochs}  {text}  {row['seconds']:.1f} s", highlight=False, soft_wrap=True)


def describe(row: Row) -> str:
    """One line on an epoch.

    >>> describe({"epoch": 1, "train_loss": 2.3, "train_accuracy": 0.1, "rate_1": 5.0, "valid_accuracy": 0.2})
    'loss 2.300  train 10.0 %  valid 20.0 %  rates 5.0 Hz'
    """
    parts = [f"loss {row['train_loss']:.3f}", f"train {100 * row['train_accuracy']:.1f} %"]
    if "valid_accuracy" in row:
        parts.append(f"valid {100 * row['valid_accuracy']:.1f} %")
    rates = [v for k, v in row.items() if k.startswith("rate_")]
    parts.append("rates " + " ".join(f"{r:.1f}" for r in rates) + " Hz")
    return "  ".join(parts)


def summary_table(summary: dict[str, Any]) -> Table:
    """The numbers of `snnjax.experiments._run` as a rich table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    hertz = lambda rates: ", ".join(f"{r:.1f}" for r in rates) + " Hz"  # noqa: E731
    table.add_row("test accuracy, final network", f"{100 * summary['test_accuracy']:.2f} %")
    table.add_row(
        f"test accuracy, network of epoch {summary['best_epoch']} (best on validation)", f"{100 * summary['test_accuracy_best']:.2f} %"
    )
    table.add_row(
        "validation / training accuracy, final", f"{100 * summary['valid_accuracy']:.2f} / {100 * summary['train_accuracy']:.2f} %"
    )
    table.add_row("rates of the hidden layers before training", hertz(summary["initial_rates_hz"]))
    table.add_row("rates after training, test set", hertz(summary["final_rates_hz"]))
    table.add_row("time", f"{summary['seconds']:.0f} s for {summary['epochs']} epochs")
    return table
