"""The tables of docs/depth.md, from the rows of `benchmarks.depth_training` and earlier studies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.depth_training import (
    ARMS,
    accuracies,
    at_best_rate,
    level,
    predictors,
)
from benchmarks.studies import Row, read, spread
from snnjax.experiments._rows import pick
from snnjax.reproduce._report import markdown_table

RESULTS = Path(__file__).parent / "results"
DENSE = "dense, 12 epochs"
STUDIES = {
    DENSE: "dense, 12 epochs",
    "dense, 36 epochs": "dense, 36 epochs",
    "wide, 12 epochs": "dense, 896 neurons per layer",
    "recurrent, 12 epochs": "recurrent",
    "randman, 12 epochs": "Randman",
    "figure 4, 18 epochs": "figure 4",
    "convolutional, 12 epochs": "convolutional",
    "nmnist, 6 epochs": "N-MNIST",
}
"""Studies and their names on the page."""
DEPTHS = (1, 2, 3, 6, 7, 10, 15)
STARTS = {
    "calibrated": "`calibrated`, weights from data",
    "formula + gradient": "the paper's formula, gradient calibrated",
    "data-driven + gradient": "weights from data, gradient calibrated (`calibrated` at other rates)",
    "balanced + gradient": "weights from data, balanced, gradient calibrated",
    "formula + gradient, scale of h": "the paper's formula, gradient calibrated by a scale of h in place of the steepness",
    "formula": "the paper's formula, gradient not calibrated",
    "formula, surrogate from theory": "the paper's formula, steepness from theory (`steepness_for_gain`)",
    "formula + gradient, Adam": "the paper's formula, gradient calibrated, Adam",
    "paper": "the paper's settings",
    "IKUN": "IKUN, gradient not calibrated",
    "Micheli": "Micheli, gradient not calibrated",
    "Kaiming": "Kaiming, gradient not calibrated",
    "LeCun": "LeCun, gradient not calibrated",
    "LSUV": "LSUV, gradient not calibrated",
}
"""Starts and their names on the page."""
BOUNDS = {
    "calibrated": "upper bound, limited with share 1 (the default)",
    "calibrated, bounds not limited": "upper bound, not limited",
    "calibrated, both bounds": "upper and lower bound, limited",
    "calibrated, both bounds, not limited": "upper and lower bound, not limited",
    "calibrated, no bounds": "none",
}
"""Starts that differ by their bounds, and their names on the page."""
SKIPS = {
    "calibrated, skip": "`calibrated`, every layer connected to the readout",
    "formula, skip": "the paper's formula, gradient not calibrated, every layer connected",
}
"""Starts of networks with skip connections, and their names on the page."""


@functools.cache
def _rows(name: str) -> list[Row]:
    return read(RESULTS / f"{name}.csv")


def _starts() -> list[Row]:
    return _rows("depth_starts")


def _calibrated(study: str, depth: float) -> tuple[list[Row], str]:
    """Return the rows of the default start, and a star if they are from before its last change."""
    where = {"study": study, "arm": "calibrated", "depth": depth}
    new, old = pick(_rows("depth_calibrated"), **where), pick(_starts(), **where)
    return (new, "") if len(new) >= 3 else (old, " *")


def _title(depth: float) -> str:
    return f"{depth} layer{'s' * (depth > 1)}"


def _best(rows: Sequence[Row]) -> str:
    best = at_best_rate(rows)
    return spread(accuracies(best), least=3) if best else ""


def _by_task(depths: Sequence[int], cell: Callable[[list[Row]], str]) -> str:
    """Return a table of the default start: one row per task, one column per depth.

    Args:
        depths: The depths.
        cell: What is shown of the rows of a task and a depth.
    """
    lines = []
    for study, title in STUDIES.items():
        found = [_calibrated(study, depth) for depth in depths]
        cells = [f"{cell(rows)}{star}" if rows else "" for rows, star in found]
        if any(cells):
            lines.append([title, *cells])
    return markdown_table(["task", *map(_title, depths)], lines)


def recipe() -> str:
    """Return accuracies of the default start by task and depth."""
    return _by_task(DEPTHS, lambda rows: spread(accuracies(rows), least=3))


def levels() -> str:
    """Return the largest over the smallest gradient of the layers, for the worst network."""
    deep = [depth for depth in DEPTHS if depth > 2]
    return _by_task(deep, lambda rows: f"{max(map(level, rows)):.2f}")


def starts() -> str:
    """Return starts of seven dense layers: seed 0 at each learning rate, all at the best one."""
    lines = []
    for arm, title in STARTS.items():
        own = pick(_starts(), study=DENSE, arm=arm, depth=7)
        first = sorted(pick(own, seed=0), key=lambda row: row["learning_rate"])
        tried = [f"{row['learning_rate']:g}: {100 * row['valid_accuracy']:.1f}" for row in first]
        best = at_best_rate(own)
        at = f"at {best[0]['learning_rate']:g}, {len(best)} seeds"
        lines.append([title, ", ".join(tried), f"{_best(own)} ({at})"])
    return markdown_table(
        ["start", "learning rate: accuracy of seed 0 (%)", "best rate (%)"], lines
    )


def depths() -> str:
    """Return starts of dense networks at other depths, each at its best rate."""
    lines = []
    for arm in ("calibrated", "formula + gradient", "formula", "paper"):
        own = pick(_starts(), study=DENSE, arm=arm)
        lines.append([STARTS[arm], *(_best(pick(own, depth=depth)) for depth in (1, 3, 7, 15))])
    return markdown_table(["start", *map(_title, (1, 3, 7, 15))], lines)


def bounds() -> str:
    """Return accuracies of the default start with other bounds on activity."""
    places = {"dense, 7 layers": (DENSE, 7), "dense, 15 layers": (DENSE, 15)}
    places |= {"recurrent, 7 layers": ("recurrent, 12 epochs", 7)}
    lines = []
    for arm, title in BOUNDS.items():
        chosen = [pick(_starts(), study=s, depth=d, arm=arm) for s, d in places.values()]
        lines.append([title, *map(_best, chosen)])
    return markdown_table(["bounds", *places], lines)


def skips() -> str:
    """Return accuracies with skip connections, and of the default start without them."""
    lines = []
    for study in dict.fromkeys(row["study"] for row in _rows("depth_skip")):
        without = [_calibrated(study, depth) for depth in DEPTHS]
        cells = [f"{_best(rows)}{star}" if rows else "" for rows, star in without]
        lines.append([STUDIES[study], STARTS["calibrated"], *cells])
        for arm, title in SKIPS.items():
            own = pick(_rows("depth_skip"), study=study, arm=arm)
            if own:
                cells = [_best(pick(own, depth=depth)) for depth in DEPTHS]
                lines.append([STUDIES[study], title, *cells])
    return markdown_table(["task", "network", *map(_title, DEPTHS)], lines)


def correlations() -> str:
    """Return rank correlations of numbers from before training with the accuracy after it."""
    rows = _starts()
    seven = predictors(pick(rows, study=DENSE, depth=7))
    every = predictors(rows)
    order = sorted(seven, key=lambda name: -seven[name][1])
    lines = [[name, *(f"{r:.2f}" for r in (seven[name][1], *every[name][1:]))] for name in order]
    head = ["number before training", "dense, 7 layers", "all runs", "all, relative to the best"]
    return markdown_table(head, lines)


INITS = {
    "fluctuation_driven": "paper's formula",
    "data_driven": "data-driven",
    "data_driven_balanced": "data-driven, balanced",
    "lsuv": "LSUV (10 Hz)",
    "kaiming": "Kaiming",
    "lecun": "LeCun",
    "micheli": "Micheli",
    "ikun": "IKUN",
}
"""Initial weights and their names on the page."""


def weights() -> str:
    """Return accuracies of the earlier study of initial weights, after 3 epochs and after 12."""
    rows = _rows("initialization")
    networks = [("d1", "dense", 1), ("r1", "recurrent", 1), ("d3", "dense", 3)]
    networks += [("r3", "recurrent", 3), ("d7", "dense", 7)]
    lines = []
    for init, title in INITS.items():
        own = pick(rows, init=init)
        for target in sorted({row.get("sigma_u", 0.0) for row in own}):
            line = [title, f"{target:g}" if target else ""]
            for _, network, depth in networks:
                runs = pick(own, network=network, depth=depth)
                runs = [row for row in runs if row.get("sigma_u", 0.0) == target]
                after = [spread([row[f"valid_accuracy_{k}"] for row in runs], 0) for k in (3, 12)]
                line.append(", ".join(after))
            lines.append(line)
    return markdown_table(["weights", "sigma_u", *(name for name, *_ in networks)], lines)


def figure4() -> str:
    """Return accuracies in figure 4's setting without a calibrated gradient, epochs 5 and 25."""
    rows = _rows("depth_training")
    lines = []
    for init, bound, target in dict.fromkeys(
        (row["init"], row["lower_strength"], row.get("sigma_u")) for row in rows
    ):
        own = pick(rows, init=init, lower_strength=bound, sigma_u=target)
        title = INITS[init] + (" + homeostasis" if bound else "")
        line = [title, "" if target is None else f"{target:g}"]
        for depth in (3, 7):
            runs = pick(own, depth=depth)
            after = [
                spread([row[f"valid_accuracy_{k}"] for row in runs], 0, least=3)
                for k in (5, 25)
                if runs
            ]
            line.append(", ".join(after))
        lines.append(line)
    return markdown_table(
        ["weights", "sigma_u", "3 layers (3 seeds)", "7 layers (2 seeds)"], sorted(lines)
    )


TABLES = {
    "depth-recipe": recipe,
    "depth-levels": levels,
    "depth-starts": starts,
    "depth-depths": depths,
    "depth-bounds": bounds,
    "depth-skip": skips,
    "depth-correlations": correlations,
    "depth-weights": weights,
    "depth-figure4": figure4,
}
"""The tables by name."""

assert set(STARTS) | set(BOUNDS) | set(SKIPS) == set(ARMS)
