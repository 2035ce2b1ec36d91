"""Draw the committed figures again, from the committed rows: `python -m benchmarks.figures [NAME ...]`.

Nothing is trained: only the membranes of figure 1 are simulated again, in seconds. SNNJAX_DATA
names the folder of the data, as for `snnjax reproduce`. `benchmarks.picture` and `benchmarks.gradient` draw the two other figures of the
documentation, which they compute. The snapshots of figure 3 need trained networks
(`snnjax reproduce figure3`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.depth_training import picture
from benchmarks.studies import Row, numbered, read
from snnjax import plotting
from snnjax.experiments._rows import pick
from snnjax.reproduce import _layers
from snnjax.reproduce._settings import Options
from snnjax.reproduce._targets import TARGETS, study_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS, ROWS = Path("docs"), Path("benchmarks/results")
Draw = Callable[[list[Row]], "Figure"]


def _layer_rows(rows: list[Row]) -> list[Row]:
    """Return rows of layers before training as `snnjax.reproduce._layers` has them."""
    lists = lambda row: {name: numbered(row, f"initial_{name}") for name in ("rate", "grad_z")}
    return [
        {"setting": _layers.setting(row["init"], row.get("sigma_u", 1.0)), "depth": row["depth"]}
        | lists(row)
        | {"update": numbered(row, "initial_update")}
        for row in rows
    ]


PAGES: dict[str, tuple[str, Draw]] = {
    "depth.png": (
        "depth_starts.csv",
        lambda rows: picture(pick(rows, study="dense, 12 epochs")),
    ),
    "figure4_depth.png": ("depth.csv", lambda rows: _layers.figure(_layer_rows(rows))),
    **{
        f"figure3_{data}.png": (
            f"figure3_{data}.csv",
            lambda rows: plotting.sweep_curves([{**r, "chance": 0.1} for r in rows], "sigma_u"),
        )
        for data in ("randman", "digits")
    },
    **{
        f"figure3_{data}_map.png": (
            f"figure3_{data}_map.csv",
            lambda rows: plotting.sweep_maps(rows, "mu_w", "sigma_w"),
        )
        for data in ("randman", "digits")
    },
}
"""Figures of pages: file in docs, file in benchmarks/results, and how to draw its rows."""


def draw_page(name: str, draw: Draw, rows: list[Row]) -> None:
    """Draw one figure.

    Args:
        name: File in docs.
        draw: How to draw it.
        rows: Its rows.
    """
    plotting.save(draw(rows), DOCS / name)
    print(DOCS / name, flush=True)


def draw_study(name: str) -> None:
    """Draw the figures of a study of `snnjax reproduce` from its published rows.

    Args:
        name: Name of the study.
    """
    study, folder = TARGETS[name](Options("laptop")), f"results/{name}"
    if name == "figure1":  # the file has no distributions
        rows = [dict(row) for unit in study.units for row in unit.work(Path(), [])]
    else:
        rows = [_with_lists(row) for row in read(DOCS / folder / "results.csv")]
    for figure, draw in study.figures.items():
        draw_page(f"{folder}/{figure}.png", draw, rows)


def _with_lists(row: Row) -> Row:
    """Return a row of results.csv; one of layers before training has lists over layers again."""
    lists = {name: numbered(row, name) for name in _layers.NUMBERS} if "setting" in row else {}
    return row | lists


def main(names: list[str]) -> None:
    """Draw.

    Args:
        names: Files in docs, and names of studies. Empty: all.
    """
    for name in names or [*PAGES, *dict.fromkeys(map(study_name, TARGETS))]:
        if name in PAGES:
            rows, draw = PAGES[name]
            draw_page(name, draw, read(ROWS / rows))
        else:
            draw_study(name)


if __name__ == "__main__":
    main(sys.argv[1:])
