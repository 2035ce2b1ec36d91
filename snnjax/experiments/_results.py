"""Tables, files and figures from the rows of finished sweeps and runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from snnjax import _check
from snnjax.experiments._load import read_json
from snnjax.experiments._rows import Row, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {
    "valid %": "valid_accuracy",
    "test %, final": "test_accuracy_final",
    "test %, best": "test_accuracy_best",
    "layer 1, Hz": "final_rate_1",
}
COLUMNS_NOTE = (
    "test %, final: after the last epoch; best: after the epoch with the best validation accuracy"
)


def read(folders: Sequence[Path]) -> list[Row]:
    """Return the rows of the networks in each folder; of several folders, with their names.

    Args:
        folders: Folders of sweeps (results.csv) or of single runs (results.json).

    Raises:
        ValueError: A folder has no results, or the file is damaged.
    """
    rows: list[Row] = []
    for folder in folders:
        many, one = folder / "results.csv", folder / "results.json"
        if not many.exists() and not one.exists():
            needed = "name a folder of snnjax sweep or train"
            raise ValueError(f"{folder} has no results.csv and no results.json; {needed}")
        own: list[Row] = read_csv(many) if many.exists() else [read_json(one)]
        if not own or "finite" not in own[0]:
            raise ValueError(f"{folder} has no results of a finished sweep or run")
        named = {"folder": folder.name} if len(folders) > 1 else {}
        rows += [named | row for row in own]
    return rows


def read_csv(file: Path) -> list[Row]:
    """Return the rows of a CSV file. Numbers are numbers, and empty cells are None."""
    with file.open(newline="") as text:
        return [{n: _number(v) for n, v in row.items()} for row in csv.DictReader(text)]


def _number(text: str | None) -> Any:
    if text in (None, ""):
        return None
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def swept(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of swept options, which come first in each row, without the seed."""
    names = dict.fromkeys(n for row in rows for n in list(row)[: list(row).index("finite")])
    return [name for name in names if name != "seed"]


def groups_of(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each combination of swept values: those of its seeds."""
    names = swept(rows)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return groups


def sweep_table(rows: Sequence[Row], *, sort: str | None = None) -> Table:
    """Return a table with one line per combination of swept values.

    Args:
        rows: Rows of results.csv. The table has their means and standard deviations over seeds.
        sort: Column of the rows to sort by, the largest mean first.

    Raises:
        ValueError: The rows do not have the column `sort`.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in (*swept(rows), "n", "not finite", *COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    groups = list(groups_of(rows).items())
    if sort is not None:
        if sort not in rows[0]:
            # without the columns of each layer, which are many
            names = [name for name in rows[0] if not name.startswith(("initial_", "final_"))]
            _check.one_of("sort", sort, names)
        groups.sort(key=lambda item: -_mean(item[1], sort))
    for values, group in groups:
        lost = sum(not row["finite"] for row in group)
        cells = [_spread(group, key, 100 if "%" in name else 1) for name, key in COLUMNS.items()]
        shown = ["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values]
        table.add_row(*shown, str(len(group)), str(lost), *cells)
    return table


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows if is_number(row.get(key))], float)


def _mean(rows: Sequence[Row], key: str) -> float:
    values = _values(rows, key)
    return float(values.mean()) if values.size else -np.inf


def _spread(rows: Sequence[Row], key: str, factor: float) -> str:
    """Return mean and standard deviation; the latter needs three runs to say something."""
    values = factor * _values(rows, key)
    if not values.size:
        return ""
    return f"{values.mean():.1f}" + (f" +- {values.std(ddof=1):.1f}" if values.size > 2 else "")


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the test accuracy over the swept number, one line per combination of other values.

    Args:
        rows: The rows.
        file: The file to write.

    Raises:
        ValueError: No number is swept, or the file has another ending than png, svg or pdf.
    """
    from matplotlib.figure import Figure

    from snnjax import plotting

    _check.one_of("figure", file.suffix, (".png", ".svg", ".pdf"))

    names = swept(rows)
    numeric = [name for name in names if all(is_number(row.get(name)) for row in rows)]
    if not numeric:
        raise ValueError("a figure needs a swept number, and these sweeps have none")
    # the number with most values is the axis
    axis = max(numeric, key=lambda n: len({row[n] for row in rows}))
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    others = [name for name in names if name != axis]
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(name) for name in others), []).append(row)
    for values, own in lines.items():
        at = sorted({row[axis] for row in own})
        found = [100 * _values([r for r in own if r[axis] == v], "test_accuracy_final") for v in at]
        label = ", ".join(f"{n} {v}" for n, v in zip(others, values, strict=True)) or None
        (line,) = axes.plot(at, [f.mean() for f in found], "o-", ms=4, label=label)
        low, high = [f.min() for f in found], [f.max() for f in found]
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, lw=0)
    positions = [row[axis] for row in rows]
    if min(positions) > 0 and max(positions) >= 5 * min(positions):
        axes.set_xscale("log")
    axes.set(xlabel=axis.replace("_", " "), ylabel="test accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    if others:
        axes.legend(frameon=False, fontsize=8)
    plotting.save(figure, file)
