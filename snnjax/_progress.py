"""Display of training: a progress bar with loss, accuracy and rates, and tables of results."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import Progress, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.spinner import SPINNERS
from rich.table import Table
from rich.text import Text

from snnjax.training._callbacks import Callback, FitState, Plan, Row
from snnjax.training._ensemble import Snapshot

_PERIOD = 3600.0
"""Period of rich's estimate of the speed, s. An epoch of a large ensemble takes minutes."""
_LONG = 10.0
"""Time until row 0 from which on the duration of an epoch is estimated, s."""
_DROPPED = ("rates", "speed", "train", "loss", "bar", "elapsed", "spin", "score", "valid", "phase")
"""Parts of a line that are left out on a narrow terminal, in this order."""
_BAR = 10, 40
"""Smallest and largest width of the bar."""


def _line(task: Task, width: int) -> Text:
    """Return one line: a spinner, the count, a bar, `parts`, the elapsed and the remaining time.

    Count and remaining time are always shown.

    Args:
        task: The task of the bar. Its description is the unit, its field `parts` the texts.
        width: Columns of the terminal.
    """
    total, frames = task.total or 1, SPINNERS["dots"]["frames"]
    shown = {
        "spin": Text(" " if task.finished else frames[int(10 * task.get_time()) % len(frames)]),
        "count": Text(f"{task.description} {task.completed:.0f}/{total:.0f}"),
        "bar": Text(" " * _BAR[0]),
        **{name: Text(text) for name, text in task.fields["parts"].items()},
        "elapsed": TimeElapsedColumn().render(task),
        "left": Text("left ") + TimeRemainingColumn().render(task),
    }
    free = lambda: width + 2 - sum(text.cell_len + 2 for text in shown.values())
    for name in _DROPPED:
        if free() < 0:
            shown.pop(name, None)
    if "bar" in shown:
        size = min(_BAR[1], _BAR[0] + free())
        done = int(size * task.completed / total)
        rest = Text("─" * (size - done), style="bar.back")
        shown["bar"] = Text("━" * done, style="bar.complete") + rest
    return Text("  ").join(shown.values())


class _Bar(Progress):
    """A progress bar whose tasks are one `_line` each."""

    def get_renderables(self) -> Iterator[Text]:
        return (_line(task, self.console.width) for task in self.tasks)


class _Live:
    """A context manager that shows a bar on a terminal, and nothing elsewhere.

    Args:
        unit: Name of the unit that the bar counts.
        total: Number of units.
        console: Console of the bar. None: standard error.
    """

    def __init__(self, unit: str, total: int, console: Console | None) -> None:
        self.console = console or Console(file=sys.stderr, force_jupyter=False)
        self.total, self._bar, self._calls, self._shown = total, None, 0, 0
        if self.console.is_terminal:
            self._bar = _Bar(console=self.console, speed_estimate_period=_PERIOD)
            self._task = self._bar.add_task(unit, total=total, parts={"phase": "compiling"})

    def show(self, completed: int, parts: Mapping[str, str], line: str) -> None:
        """Move the bar. Without one, print the first two lines, and about twenty over the whole.

        Args:
            completed: Number of completed units.
            parts: Texts beside the bar. Their names are those of `_DROPPED`.
            line: The line.
        """
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, parts=parts)
            return
        self._calls += 1
        if self._calls <= 2 or completed * 20 // self.total > self._shown:
            self._shown = completed * 20 // self.total
            self.console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()


class TrainingProgress(Callback):
    """The progress bar of `fit`.

    It is a live bar in a terminal, and one line that is updated in a notebook. In a file or in CI
    it is about twenty plain lines over the whole run.

    Args:
        console: Console of the bar. None: standard error.
    """

    def __init__(self, *, console: Console | None = None) -> None:
        self._console, self._last = console, 0
        self._live: _Live | None = None
        self._line: Any = None

    def start(self, plan: Plan) -> None:
        self._last, self._line, self._began = plan.last, None, time.perf_counter()
        # a notebook's standard error may look like a terminal
        if self._console is None and in_notebook():
            return
        self._live = _Live("epoch", plan.last, self._console)
        self._live.__enter__()

    def estimate(self, seconds: Callable[[], float]) -> None:
        # if row 0 took so long, the first epoch does, too
        if self._live is None or time.perf_counter() - self._began < _LONG:
            return
        epoch = seconds()
        whole = datetime.timedelta(seconds=round(epoch * self._last))
        text = f"about {epoch:.0f} s per epoch, {whole} in all"
        self._live.show(0, {"phase": text}, text)

    def epoch_end(self, row: Row, state: FitState) -> None:
        epoch = int(row["epoch"])
        line = f"epoch {epoch}/{self._last}  {describe(row)}  {row['seconds']:.1f} s"
        if self._live is None:
            self._line = _show_line(line, self._line)
        else:
            self._live.show(epoch, _texts_of(row), line)

    def finish(self) -> None:
        if self._live is not None:
            self._live.__exit__()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _show_line(line: str, shown: Any) -> Any:
    """Show a line in a notebook in place of the previous one.

    Args:
        line: The line.
        shown: What the previous call returned, or None.

    Returns:
        The display that the next call replaces.
    """
    from IPython.display import display

    data = {"text/plain": line}
    if shown is None:
        return display(data, raw=True, display_id=True)
    shown.update(data, raw=True)
    return shown


class SweepProgress(_Live):
    """Progress of a sweep: completed member-epochs, throughput and remaining time.

    Its instance is a context manager and an `on_epoch` callback of `run_sweep`. It is a live bar on
    a terminal, and elsewhere about twenty plain lines over the whole sweep.

    Args:
        members: Number of members of the sweep.
        epochs: Number of epochs of each member.
        console: Console of the bar. None: standard error.
    """

    def __init__(self, members: int, epochs: int, *, console: Console | None = None) -> None:
        super().__init__("member-epoch", members * epochs, console)
        self.epochs = epochs
        self._began: tuple[float, int] | None = None

    def __call__(self, snapshot: Snapshot, finished: int, size: int) -> None:
        done, now = finished * self.epochs + size * snapshot.epoch, time.perf_counter()
        # member-epochs from before this process are not part of its speed
        self._began = self._began or (now, done)
        speed = (done - self._began[1]) / max(now - self._began[0], 1e-9)
        accuracy = 100 * snapshot.history["valid_accuracy"][:, -1]
        accuracy = accuracy[np.isfinite(accuracy)]  # stopped members have NaN
        parts: dict[str, str] = {}
        if accuracy.size:
            parts["valid"] = f"valid {accuracy.min():.1f} to {accuracy.max():.1f} %"
        left: list[str] = []
        if speed > 0:
            parts["speed"] = f"{speed:.2f} member-epochs/s"
            left = [f"{(self.total - done) / speed:.0f} s left"]
        line = "  ".join([f"member-epoch {done}/{self.total}", *parts.values(), *left])
        # until the first epoch has been trained, its program is compiled
        self.show(done, parts if speed > 0 else parts | {"phase": "compiling"}, line)


class UnitProgress(contextlib.ExitStack):
    """A context manager that shows the progress of many sweeps, one after another.

    `unit(name, members, epochs)` starts the next sweep and returns its `on_epoch` callback. It
    prints the name of each sweep, and then the output of `SweepProgress` if it has members to
    train.

    Args:
        console: Console of the output. None: standard error.
    """

    def __init__(self, *, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(file=sys.stderr)

    def unit(self, name: str, members: int, epochs: int) -> SweepProgress | None:
        """End the current sweep and start the next.

        Args:
            name: Name of the sweep.
            members: Number of members to train; 0 for a unit without training.
            epochs: Number of epochs of each member.

        Returns:
            The `on_epoch` callback of the sweep, or None without members.
        """
        self.close()
        self.console.print(name, highlight=False, soft_wrap=True, markup=False)
        bar = SweepProgress(members, epochs, console=self.console) if members else None
        return bar and self.enter_context(bar)


def describe(row: Row) -> str:
    """Return one line on an epoch: losses, scores and rates, as far as the row has them.

    >>> scores = {"train_accuracy": 0.1, "rate_1": 5.0, "valid_accuracy": 0.2}
    >>> describe({"epoch": 1, "train_loss": 2.3, **scores})
    'loss 2.300  train 10.0 %  valid 20.0 %  rates 5.0 Hz'
    >>> describe({"epoch": 1, "train_loss": 2.3, "valid_loss": 2.5})
    'loss 2.300  valid 2.500'
    """
    return "  ".join(_texts_of(row).values())


def _texts_of(row: Row) -> dict[str, str]:
    """Return the parts of `describe` by name."""
    name = score_of(row)
    parts = {"loss": f"loss {row['train_loss']:.3f}"}
    if name != "loss" and not name.endswith("accuracy"):
        parts["score"] = name.replace("_", " ")
    for split in ("train", "valid"):
        if f"{split}_{name}" in row and (split, name) != ("train", "loss"):
            value, share = row[f"{split}_{name}"], name.endswith("accuracy")
            parts[split] = f"{split} " + (f"{100 * value:.1f} %" if share else f"{value:.3f}")
    rates = [v for k, v in row.items() if k.startswith("rate_")]
    if rates:
        parts["rates"] = "rates " + " ".join(f"{r:.1f}" for r in rates) + " Hz"
    return parts


def score_of(row: Row) -> str:
    """Return the name of a row's score, such as "accuracy", or "loss" if the row has no other.

    >>> score_of({"train_loss": 1.0, "train_label_accuracy": 0.5}), score_of({"train_loss": 1.0})
    ('label_accuracy', 'loss')
    """
    names = [name.removeprefix("train_") for name in row if name.startswith("train_")]
    return next((name for name in names if name != "loss"), "loss")


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the summary of a run (`snnjax.experiments.Run`) as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rates = lambda when: [v for n, v in summary.items() if n.startswith(f"{when}_rate_")]
    hertz = lambda when: ", ".join(f"{rate:.1f}" for rate in rates(when)) + " Hz"
    table.add_row("test accuracy, final network", f"{100 * summary['test_accuracy_final']:.2f} %")
    table.add_row(
        f"test accuracy, network of epoch {summary['best_epoch']} (best on validation)",
        f"{100 * summary['test_accuracy_best']:.2f} %",
    )
    table.add_row(
        "validation / training accuracy, final",
        f"{100 * summary['valid_accuracy']:.2f} / {100 * summary['train_accuracy']:.2f} %",
    )
    table.add_row("rates of the hidden layers before training", hertz("initial"))
    table.add_row("rates after training, test set", hertz("final"))
    table.add_row(
        "time, with compilation", f"{summary['seconds']:.0f} s for {summary['epochs']} epochs"
    )
    return table
