import io
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from snnjax._progress import (
    SweepProgress,
    TrainingProgress,
    UnitProgress,
    summary_table,
)
from snnjax.datasets import DeviceArrays, Splits
from snnjax.experiments._results import sweep_table
from snnjax.nn import Readout, Sequential
from snnjax.training import Objective, TrainingInterrupted, fit
from snnjax.training._callbacks import Plan
from snnjax.training._ensemble import Snapshot


def row(epoch):
    return {
        "epoch": epoch,
        "train_loss": 1.25,
        "train_accuracy": 0.5,
        "valid_accuracy": 0.25,
        "rate_1": 7.0,
        "rate_2": 3.5,
        "seconds": 2.0,
    }


def text_of(epochs, *, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    progress = TrainingProgress(console=console)
    progress.start(Plan(1, 0, epochs, []))
    for k in range(epochs + 1):
        progress.epoch_end(row(k), None)
    progress.finish()
    return console.file.getvalue()


def test_a_file_gets_about_twenty_plain_lines():
    lines = text_of(200, terminal=False).splitlines()
    assert 20 <= len(lines) <= 23
    assert (
        lines[0] == "epoch 0/200  loss 1.250  train 50.0 %  valid 25.0 %  rates 7.0 3.5 Hz  2.0 s"
    )
    assert lines[-1].startswith("epoch 200/200")
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_bar_that_reaches_the_end():
    text = text_of(5, terminal=True)
    assert "5/5" in text
    assert "loss 1.250  train 50.0 %  valid 25.0 %  rates 7.0 3.5 Hz" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_long_training_has_an_estimate_before_its_first_epoch_ends(terminal, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    progress = TrainingProgress(console=console)
    now = [0.0]
    monkeypatch.setattr("snnjax._progress.time.perf_counter", lambda: now[0])
    for now[0], passed in ((0.0, 5.0), (100.0, 115.0)):
        progress.start(Plan(1, 0, 200, []))
        progress.epoch_end(row(0), None)
        now[0] = passed
        progress.estimate(lambda: 90.0)
        progress.finish()
    # only the second training took more than 10 s until row 0
    assert console.file.getvalue().count("about 90 s per epoch, 5:00:00 in all") >= 1
    assert "about" in without_codes(console).splitlines()[-1]
    assert "about" not in without_codes(console).splitlines()[0]


def last_line(width, epochs=200, at=13, minutes=3):
    """The line of a terminal after epoch `at`, `minutes` before the end."""
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    progress = TrainingProgress(console=console)
    progress.start(Plan(1, 0, epochs, []))
    progress._live._bar.get_time = lambda: now[0]
    for k in range(at + 1):
        now[0] = k * 60.0 * minutes / (epochs - at)
        progress.epoch_end(row(k), None)
    progress._live._bar.refresh()
    text = without_codes(console)
    progress.finish()
    return text.splitlines()[-1].split("\r")[-1]


def without_codes(console):
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue())


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (120, ("loss 1.250", "train 50.0 %", "valid 25.0 %", "rates 7.0 3.5 Hz", "━", "─"), ()),
        (80, ("loss 1.250", "valid 25.0 %", "─"), ("rates", "train")),
        (50, ("valid 25.0 %",), ("rates", "train", "loss", "─")),
        (30, (), ("rates", "train", "loss", "─", "valid")),
    ],
)
def test_epoch_and_remaining_time_are_never_cut_off(width, shown, hidden):
    line = last_line(width)
    assert "epoch 13/200" in line
    assert re.search(r"left 0:0[23]:\d\d$", line.rstrip())
    assert len(line) <= width
    assert all(part in line for part in shown)
    assert not any(part in line for part in hidden)


def test_a_message_after_an_interrupt_is_below_the_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)

    def interrupt(row):
        raise KeyboardInterrupt

    one = DeviceArrays(x=jnp.ones((4, 5, 4)), labels=jnp.arange(4) % 2)
    with pytest.raises(TrainingInterrupted):
        fit(
            Sequential(Readout(4, 2, rngs=nnx.Rngs(0))),
            Splits(one),
            Objective(),
            optax.sgd(0.1),
            epochs=2,
            batch_size=4,
            key=jax.random.key(0),
            callbacks=[interrupt, TrainingProgress(console=console)],
            progress=False,
        )
    console.print("interrupted")
    text = without_codes(console)
    assert text.endswith("\ninterrupted\n")
    assert "epoch 0/2" in text


def test_a_sweep_that_compiles_shows_a_sign_of_life():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with SweepProgress(4, 5, console=console) as progress:
        bar, now = progress._bar, [0.0]
        bar.tasks[0].start_time, bar.tasks[0]._get_time = 0.0, lambda: now[0]
        for snapshot in (None, Snapshot(0, None, {"valid_accuracy": np.full((2, 1), 0.5)}, {})):
            if snapshot is not None:
                progress(snapshot, 0, 2)
            lines = []
            for now[0] in (10.1, 23.4):
                (line,) = bar.get_renderables()
                lines.append(line.plain)
            assert all("member-epoch 0/20" in line and "compiling" in line for line in lines)
            assert lines[0][0] != lines[1][0]  # the spinner turns
            assert "0:00:23" in lines[1]


def test_summary_table():
    summary = {
        "initial_rate_1": 6.5, "final_rate_1": 10.25, "train_accuracy": 1.0, "valid_accuracy": 0.97, "best_epoch": 12,
        "best_valid_accuracy": 0.98, "test_accuracy_final": 0.9765, "test_accuracy_best": 0.975, "epochs": 200, "seconds": 61.0,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=160)
    console.print(summary_table(summary))
    text = console.file.getvalue()
    for part in (
        "97.65 %",
        "network of epoch 12",
        "97.50 %",
        "6.5 Hz",
        "10.2 Hz",
        "61 s for 200 epochs",
    ):
        assert part in text


def test_a_sweep_prints_how_far_it_is_and_how_long_it_takes():
    console = Console(file=io.StringIO(), width=200)
    with SweepProgress(4, 5, console=console) as progress:
        for epoch in range(6):
            accuracy = np.full((2, epoch + 1), 0.5)
            accuracy[0, -1] = 0.25
            accuracy[1, -1] = np.nan if epoch == 5 else 0.75  # it has stopped
            progress(Snapshot(epoch, None, {"valid_accuracy": accuracy}, {}), 2, 2)
    lines = console.file.getvalue().splitlines()
    assert (
        lines[0].rstrip() == "member-epoch 10/20  valid 25.0 to 75.0 %"
    )  # the speed is not known yet
    assert re.fullmatch(
        r"member-epoch 20/20  valid 25.0 to 25.0 %  [\d.]+ member-epochs/s  0 s left", lines[-1]
    )


def test_sweep_table_has_mean_and_spread_over_seeds():
    row = {
        "seed": 0,
        "finite": True,
        "valid_accuracy": 0.5,
        "test_accuracy_final": 0.4,
        "test_accuracy_best": 0.6,
        "final_rate_1": 8.0,
    }
    rows = [
        {"sigma_u": s, **row, "seed": k, "valid_accuracy": 0.5 + 0.1 * k, "finite": k < 2}
        for s in (0.5, 1.0)
        for k in range(3)
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(sweep_table(rows))
    header, *lines = console.file.getvalue().splitlines()
    assert header.split()[:2] == ["sigma_u", "n"]
    assert [line.split() for line in lines] == [
        [
            s,
            "3",
            "1",
            "60.0",
            "+-",
            "10.0",
            "40.0",
            "+-",
            "0.0",
            "60.0",
            "+-",
            "0.0",
            "8.0",
            "+-",
            "0.0",
        ]
        for s in ("0.5", "1")
    ]


def test_units_are_named_and_those_that_train_have_a_bar_of_their_own():
    text = io.StringIO()
    with UnitProgress(console=Console(file=text)) as progress:
        assert progress.unit("membranes [1]", 0, 0) is None
        first = progress.unit("three layers", 4, 10)
        second = progress.unit("seven layers", 2, 5)
    assert text.getvalue().split("\n") == ["membranes [1]", "three layers", "seven layers", ""]
    assert (first.total, second.total) == (40, 10)


def test_a_notebook_gets_one_line_that_is_replaced(monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr("snnjax._progress.in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    progress = TrainingProgress()
    progress.start(Plan(1, 0, 2, []))
    for k in range(3):
        progress.epoch_end(row(k), None)
    progress.finish()
    assert shown == [
        f"epoch {k}/2  loss 1.250  train 50.0 %  valid 25.0 %  rates 7.0 3.5 Hz  2.0 s"
        for k in range(3)
    ]
