"""A study is a folder of sweeps, and tables and figures of their rows.

    FOLDER/LABEL/.../       the files of one sweep (`snnjax.experiments.run_sweep`)
    FOLDER/results.csv      one row per network of all sweeps: the labels of its sweep (the names of
                            the folders), the columns of results.csv of a sweep, and the validation
                            accuracy by epoch (`valid_accuracy_0`: before training)

A study that was stopped continues: finished networks are not trained again. `benchmarks/results`
has the rows of the studies that the documentation shows; some of these were computed before there
were sweeps, by scripts that later studies have replaced, and have other measurements too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnjax.datasets import Splits
from snnjax.experiments import Sweep, run_sweep
from snnjax.experiments._engine import Watch
from snnjax.experiments._results import Row, read_csv
from snnjax.experiments._sweep_folder import member_folder, write_csv


def study(place: Path, train: Callable[[Path], None], labels: Sequence[str]) -> list[Row]:
    """Train what is missing, and return the rows of the study.

    Args:
        place: Folder of the study. A file RESULTS.csv: the rows are read, and nothing is trained.
        train: A function that trains the sweeps in the folder.
        labels: Names of the columns for the folders of a sweep.
    """
    if place.suffix == ".csv":
        return read(place)
    train(place)
    rows = []
    for file in sorted(place.glob("*/" * len(labels) + "results.csv")):
        own = dict(zip(labels, file.relative_to(place).parts, strict=False))
        rows += [own | row | _curve(file.parent, row) for row in read(file)]
    write_csv(rows, place / "results.csv")
    return rows


def compute(
    sweep: Sweep,
    folder: Path,
    datasets: Splits | None = None,
    *,
    on_epoch: Sequence[Watch] = (),
) -> list[Row]:
    """Train what is missing of a sweep, and return the rows of all its networks.

    Args:
        sweep: The sweep.
        folder: Its folder.
        datasets: Training, validation and test set. None: those of the task.
        on_epoch: As in `run_sweep`.
    """
    options: dict[str, Any] = {"datasets": datasets, "figure": False, "on_epoch": on_epoch}
    rows = run_sweep(sweep, folder, resume=True, **options).rows
    print(f"{folder}: {len(rows)} networks", flush=True)
    return rows


def _curve(folder: Path, row: Row) -> Row:
    member = {name: row[name] for name in itertools.takewhile(lambda n: n != "finite", row)}
    history = read_csv(member_folder(folder, member) / "metrics.csv")
    return {f"valid_accuracy_{epoch['epoch']}": epoch["valid_accuracy"] for epoch in history}


def read(file: Path) -> list[Row]:
    """Return the rows of a CSV file, without the columns that a row does not have."""
    return [{n: v for n, v in row.items() if v is not None} for row in read_csv(file)]


def numbered(row: Row, name: str, first: int = 1) -> list[float]:
    """Return the values of the columns NAME_1, NAME_2 and so on, one per layer.

    Args:
        row: A row.
        name: The name.
        first: Number of the first column: 0 for a column per epoch.

    >>> numbered({"initial_gain_1": 0.9, "initial_gain_2": 1.1}, "initial_gain")
    [0.9, 1.1]
    """
    names = (f"{name}_{k}" for k in itertools.count(first))
    return [row[name] for name in itertools.takewhile(lambda name: name in row, names)]


def spread(values: Sequence[float], digits: int = 1, *, least: int = 2) -> str:
    """Return mean and standard deviation of fractions, in per cent.

    Args:
        values: The fractions.
        digits: Number of decimal places.
        least: Number of values from which on there is a standard deviation.

    >>> spread([0.5, 0.6, 0.7]), spread([0.5])
    ('60.0 +- 10.0', '50.0')
    """
    percent = 100 * np.asarray(values)
    mean = f"{percent.mean():.{digits}f}"
    return f"{mean} +- {percent.std(ddof=1):.{digits}f}" if len(values) >= least else mean
