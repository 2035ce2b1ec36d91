"""Tables, files and figures from the rows of finished sweeps and runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from snnjax import _check
from snnjax.experiments._rows import Row, is_number, values

COLUMNS = {
    "valid %": "valid_accuracy",
    "test %, final": "test_accuracy_final",
    "test %, best": "test_accuracy_best",
    "layer 1, Hz": "final_rate_1",
    "10^3 synops": "operations",
}
COLUMNS_NOTE = (
    "test %, final: after the last epoch; best: after the epoch with the best validation accuracy; "
    "synops: synaptic operations of an inference"
)


def read_csv(file: Path) -> list[Row]:
    """Return the rows of a CSV file. Numbers are numbers, and empty cells are None."""
    with file.open(newline="") as text:
        return [{n: _number(v) for n, v in row.items()} for row in csv.DictReader(text)]


def _number(text: str | None) -> Any:
    words = {None: "null", "": "null", "True": "true", "False": "false"}
    words |= {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    try:
        return json.loads(words.get(text, str(text)))
    except json.JSONDecodeError:
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
    columns = {name: key for name, key in COLUMNS.items() if any(key in row for row in rows)}
    for name in (*swept(rows), "n", "not finite", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    groups = list(groups_of(rows).items())
    if sort is not None:
        known = dict.fromkeys(name for row in rows for name in row)
        if sort not in known:
            # without the columns of each layer, which are many
            few = [name for name in known if not name.startswith(("initial_", "final_"))]
            _check.one_of("sort", sort, few)
        groups.sort(key=lambda item: -_mean(item[1], sort))
    for at, group in groups:
        lost = sum(not row["finite"] for row in group)
        factor = lambda name: 100 if "%" in name else 1e-3 if "10^3" in name else 1
        cells = [_spread(group, key, factor(name)) for name, key in columns.items()]
        shown = ["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in at]
        table.add_row(*shown, str(len(group)), str(lost), *cells)
    return table


def _mean(rows: Sequence[Row], key: str) -> float:
    found = values(rows, key)
    return float(found.mean()) if found.size else -np.inf


def _spread(rows: Sequence[Row], key: str, factor: float) -> str:
    """Return mean and standard deviation; the latter needs three runs to say something."""
    found = factor * values(rows, key)
    if not found.size:
        return ""
    return f"{found.mean():.1f}" + (f" +- {found.std(ddof=1):.1f}" if found.size > 2 else "")


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the test accuracy over the swept number, one line per combination of other values.

    Args:
        rows: The rows.
        file: The file to write.

    Raises:
        ValueError: No number is swept, or the file has another ending than png, svg or pdf.
    """
    from snnjax import plotting
    from snnjax.experiments._curves import curves

    _check.one_of("figure", file.suffix, (".png", ".svg", ".pdf"))
    names = swept(rows)
    numeric = [name for name in names if all(is_number(row.get(name)) for row in rows)]
    if not numeric:
        raise ValueError("a figure needs a swept number, and these sweeps have none")
    # the number with most values is the axis
    axis = max(numeric, key=lambda n: len({row[n] for row in rows}))
    others = [name for name in names if name != axis]
    label = lambda row: ", ".join(f"{name} {row.get(name)}" for name in others)
    named = [{**row, "arm": label(row)} for row in rows]
    plotting.save(curves(named, {"test accuracy (%)": "test_accuracy_final"}, x=axis), file)
