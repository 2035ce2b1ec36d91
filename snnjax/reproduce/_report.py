"""The report pages, Markdown with PNG figures: one page per study, and one for all studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from rich.markup import escape
from rich.table import Table

from snnjax import plotting
from snnjax._files import write_whole
from snnjax.experiments import Experiment
from snnjax.experiments._rows import shown
from snnjax.reproduce._statements import (
    RULES,
    Row,
    Rows,
    Statement,
    Status,
    Verdict,
    spread,
    values,
)
from snnjax.reproduce._units import Arm, Unit

if TYPE_CHECKING:
    from snnjax.reproduce._study import Finished

_DOI = "10.1088/2634-4386/ac97bb"
PAPER = f"Rossbroich, Gygax & Zenke (2022), [doi {_DOI}](https://doi.org/{_DOI})"
SOURCES = (
    "P: printed in the paper; R: read in the published examples of its reference implementation; "
    "ours: not in the paper"
)
WARNING = (
    "**Smoke test on generated data and tiny networks (one convolutional layer in place of three "
    "and seven). It shows that the program runs, and says nothing about the paper. No statement "
    "is tested.**"
)
STOPPED = (
    " A network whose numbers are no longer finite stops, and counts with its last finite results."
)
NUMBERS = "Means over runs with different seeds; ± is the standard deviation, from three runs on."
Verdicts = Sequence[tuple[Statement, Verdict]]


def write(finished: Finished, root: Path) -> None:
    """Write report.md and the figures to the folder of a study. `root` contains its networks."""
    study, folder = finished.study, finished.folder
    pictures = [(name, study.captions.get(name, name)) for name in study.figures]
    for name, draw in study.figures.items():
        plotting.save(draw(finished.rows), folder / f"{name}.png")
    for arm, member in study.snapshots:
        swept = {name: value for name, value in sorted(member.items()) if name != "seed"}
        name = "-".join(("snapshot", *map(shown, swept.values())))
        title = ", ".join((arm.name, *(f"{n} {shown(value)}" for n, value in swept.items())))
        if not (file := folder / f"{name}.png").exists():
            plotting.save(arm.snapshot(member, root), file)
        pictures.append((name, f"activity after training: {title}"))
    write_whole(folder / "report.md", page(finished, pictures).encode())


def page(finished: Finished, pictures: Sequence[tuple[str, str]]) -> str:
    """Return the Markdown of a report.

    Args:
        finished: The study.
        pictures: Names of figures without .png, and captions.
    """
    study = finished.study
    parts = [
        f"# {study.title}",
        f"After {PAPER}. Preset `{study.preset}`; {_time(finished.seconds)} of computing.",
    ]
    if finished.shared:
        names = ", ".join(finished.shared)
        before = "Trained before for another figure, and not included in this time"
        parts.append(f"{before}: {names}.")
    if study.preset == "smoke":
        parts.append(WARNING)
    parts += ["## Statements", verdict_table(finished.verdicts), f"({SOURCES}.)", RULES]
    if study.table is not None:
        parts += ["## Table", study.table(finished.rows)]
    parts.append("## Figures")
    for name, caption in pictures:
        parts.append(f"![{caption.partition('. ')[0]}]({name}.png)")
        if caption != name:
            parts.append(f"*{caption}*")
    stopped = STOPPED if any(row.get("finite") is False for row in finished.rows) else ""
    parts += ["## Numbers", f"{NUMBERS}{stopped}"]
    parts += [number_table(finished.rows, study.columns), "All rows: `results.csv`."]
    if study.notes:
        parts.append("## Choices, and what differs from the paper")
        parts.append("\n".join(f"- {note}" for note in study.notes))
    parts += ["## Settings", "\n".join(map(_settings, study.units))]
    command = f"snnjax reproduce {study.name} --preset {study.preset}"
    again = f"{command} --out {finished.folder.parent}"
    parts.append(f"To repeat or continue this study: `{again}`")
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    cells = lambda row: " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row)
    lines = [f"| {cells(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {cells(row)} |" for row in rows])


def verdict_table(verdicts: Verdicts) -> str:
    """Return a Markdown table with one row per statement."""
    head = ("statement", "source", "verdict", "here")
    return markdown_table(head, [(s.text, s.source, v.status, v.found) for s, v in verdicts])


def screen_table(title: str, verdicts: Verdicts) -> Table:
    """Return a table for the terminal with one line per statement and its verdict."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("statement", "verdict", "here"):
        table.add_column(name, overflow="fold")
    for statement, verdict in verdicts:
        table.add_row(escape(statement.text), verdict.status, escape(verdict.found))
    return table


def number_table(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """Return a Markdown table with one row for each arm and combination of swept values.

    Args:
        rows: Rows of the study.
        columns: For each heading, the column and its unit. Columns that occur in no row are left
            out.

    >>> rows = [{"arm": "a", "sigma_u": 1.0, "seed": k, "r": float(k)} for k in range(3)]
    >>> print(number_table(rows, {"rate": ("r", "Hz")}))
    | arm | sigma_u | runs | rate (Hz) |
    |---|---|---|---|
    | a | 1 | 3 | 1.00 ± 1.00 |
    """
    keys = [name for name in GROUPED if any(name in row for row in rows)]
    filled = lambda column: any(_number([row], column, "") for row in rows)
    columns = {heading: what for heading, what in columns.items() if filled(what[0])}
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], *(row.get(name) for name in keys)), []).append(row)
    stopped = any(row.get("finite") is False for row in rows)
    lines = []
    for group, own in groups.items():
        line = ["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in group]
        line += [str(len(own)), *(_number(own, column, unit) for column, unit in columns.values())]
        if stopped:
            ends = [row["epochs"] for row in own if row.get("finite") is False]
            line.append(f"{len(ends)}, by epoch {max(ends)}" if ends else "")
        lines.append(line)
    named = lambda heading, unit: f"{heading} ({unit})" if unit else heading
    heads = [named(heading, unit) for heading, (_, unit) in columns.items()]
    return markdown_table(["arm", *keys, "runs", *heads, *["not finite"] * stopped], lines)


def _number(rows: Rows, column: str, unit: str) -> str:
    """Return mean and standard deviation without unit; for lists over layers, the means."""
    lists = [row[column] for row in rows if isinstance(row.get(column), list)]
    if lists:
        means = (f"{v:.2g}" if v < 10 else f"{v:.0f}" for v in np.mean(lists, axis=0))
        return " ".join(means)
    found = values(rows, column)
    return spread(found, unit).removesuffix(f" {unit}") if found.size else ""


GROUPED = ("sigma_u", "mu_w", "sigma_w", "xi", "reset", "layer", "method", "setting")
"""Columns that distinguish the rows of an arm, apart from the seed."""


def index(finished: Sequence[Finished], skipped: Mapping[str, str], preset: str) -> str:
    """Return the Markdown page of all studies.

    Args:
        finished: The studies that were run.
        skipped: Names of the studies that were not run, and the reasons.
        preset: The preset.
    """
    parts = ["# The paper's figures and tables", f"{PAPER}. Preset `{preset}`."]
    if preset == "smoke":
        parts.append(WARNING)
    every = [verdict.status for f in finished for _, verdict in f.verdicts]
    counts = ", ".join(f"{status}: {every.count(status)}" for status in get_args(Status))
    parts.append(f"{counts}. ({SOURCES}.)")
    for f in finished:
        parts += [f"## [{f.study.title}]({f.study.name}/report.md)", verdict_table(f.verdicts)]
    if skipped:
        reasons = [f"- {name}: not run: {reason}" for name, reason in skipped.items()]
        parts += ["## Not run", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


ALWAYS = (
    "model",
    "hidden",
    "dt",
    "duration",
    "batch_size",
    "optimizer",
    "learning_rate",
    "epochs",
    "init",
)
"""Settings that a report lists even if they have their default values."""


def _settings(unit: Unit) -> str:
    if not isinstance(unit, Arm):
        return f"- {unit.name}: {', '.join(f'{k} {_words(v)}' for k, v in unit.given.items())}"
    base, over = unit.sweep.base, unit.sweep.over
    usual = Experiment.from_options(base.task.name, start="paper").options()
    own = {k: v for k, v in base.options().items() if k not in ("task", "data", "seed", *over)}
    listed = [f"{k} {_words(v)}" for k, v in own.items() if k in ALWAYS or v != usual.get(k)]
    head = f"{unit.name}: {unit.columns['task']}, start paper, {', '.join(listed)}"
    swept = "; ".join(f"{k} {', '.join(map(shown, values))}" for k, values in over.items())
    seeds = len({member["seed"] for member in unit.sweep.members()})
    runs = f"swept: {swept}; " * bool(swept) + f"{seeds} seed{'s' * (seeds > 1)}"
    return f"- {head}; {runs}; data: {unit.source}"


def _words(value: object) -> str:
    """Return a setting as text, lists without brackets.

    >>> _words(((0.2, "a"), (1.0, "b"))), _words(0.5)
    ('0.2 a, 1.0 b', '0.5')
    """
    if not isinstance(value, list | tuple):
        return str(value)
    return ", ".join(
        " ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in value
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
