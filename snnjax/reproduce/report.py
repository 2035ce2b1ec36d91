"""The report pages, Markdown with PNG figures: one page per study, and one for all studies."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snnjax._files import write_whole
from snnjax.experiments.sweep_folder import SWEEPABLE
from snnjax.reproduce.arms import Arm, Unit
from snnjax.reproduce.statements import RULES, Row, Statement, Verdict, spread, values

if TYPE_CHECKING:
    from snnjax.reproduce.study import Finished

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
ACCURACY: dict[str, tuple[str, str]] = {
    "test %, final": ("test_accuracy_final", "%"),
    "test %, selected": ("test_accuracy_best", "%"),
    "validation %": ("valid_accuracy", "%"),
    "training %": ("train_accuracy", "%"),
    "epochs to 90 %": ("epochs_to_90", ""),
    "rate 1 before": ("initial_rate_1", "Hz"),
    "rate 1 after": ("final_rate_1", "Hz"),
}
"""Columns of a table of trained networks: heading -> (column of the rows, unit)."""


def write(finished: Finished, root: Path) -> None:
    """Write report.md and the figures to the folder of a study. `root` contains its networks."""
    from snnjax import plotting
    from snnjax.reproduce.snapshots import snapshot

    study, folder = finished.study, finished.folder
    pictures = []
    for name, figure in study.draw(finished.rows).items():
        buffer = io.BytesIO()
        plotting.save(figure, buffer)
        write_whole(folder / f"{name}.png", buffer.getvalue())
        pictures.append((name, name))
    for arm, member in study.snapshots:
        title = ", ".join(
            (arm.name, *(f"{name} {value:g}" for name, value in member.items() if name != "seed"))
        )
        name = "snapshot-" + "-".join(
            f"{value:g}" for key, value in sorted(member.items()) if key != "seed"
        )
        if not (folder / f"{name}.png").exists():
            buffer = io.BytesIO()
            plotting.save(snapshot(arm, member, root), buffer)
            write_whole(folder / f"{name}.png", buffer.getvalue())
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
        parts.append(
            "Trained before for another figure, and not included in this time: "
            f"{', '.join(finished.shared)}."
        )
    if study.preset == "smoke":
        parts.append(WARNING)
    parts += ["## Statements", verdict_table(finished.verdicts), f"({SOURCES}.)", RULES]
    if study.table is not None:
        parts += ["## Table", study.table(finished.rows)]
    parts += [
        "## Figures",
        *(
            f"![{caption}]({name}.png)" + (f"\n\n*{caption}*" if caption != name else "")
            for name, caption in pictures
        ),
    ]
    parts += [
        "## Numbers",
        "Mean and standard deviation over runs."
        + STOPPED * any(row.get("finite") is False for row in finished.rows),
        number_table(finished.rows, study.columns),
        "All rows: `results.csv`.",
    ]
    if study.notes:
        parts += [
            "## Choices, and what differs from the paper",
            "\n".join(f"- {note}" for note in study.notes),
        ]
    parts += ["## Settings", "\n".join(_settings(unit) for unit in study.units)]
    parts += [
        "To repeat or continue this study: "
        f"`snnjax reproduce {study.name} --preset {study.preset} --out {finished.folder.parent}`"
    ]
    return "\n\n".join(parts) + "\n"


def verdict_table(verdicts: Sequence[tuple[Statement, Verdict]]) -> str:
    """Return a Markdown table with one row per statement."""
    lines = ["| statement | source | verdict | here |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(s.text)} | {s.source} | {v.status} | {_cell(v.found)} |" for s, v in verdicts
    ]
    return "\n".join(lines)


def number_table(rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """Return a Markdown table with one row for each arm and combination of swept values.

    Args:
        rows: Rows of the study.
        columns: For each heading, the column and its unit. Columns that occur in no row are left
            out.

    >>> rows = [{"arm": "a", "sigma_u": 1.0, "seed": k, "r": r} for k, r in enumerate((2.0, 4.0))]
    >>> print(number_table(rows, {"rate": ("r", "Hz")}))
    | arm | sigma_u | runs | rate |
    |---|---|---|---|
    | a | 1 | 2 | 3.00 +- 1.41 Hz |
    """
    keys = [name for name in (*SWEEPABLE, *GROUPED) if any(name in row for row in rows)]
    columns = {
        heading: what
        for heading, what in columns.items()
        if any(row.get(what[0]) is not None for row in rows)
    }
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], *(row.get(name) for name in keys)), []).append(row)
    head = ["arm", *keys, "runs", *columns]
    stopped = any(row.get("finite") is False for row in rows)
    head += ["not finite"] * stopped
    lines = ["| " + " | ".join(map(_cell, head)) + " |", "|" + "---|" * len(head)]
    for (arm, *group), own in groups.items():
        cells = ["" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in group]
        numbers = [_number(own, column, unit) for column, unit in columns.values()]
        if stopped:
            failed = [row for row in own if row.get("finite") is False]
            numbers.append(
                f"{len(failed)}, by epoch {max(row['epochs'] for row in failed)}" if failed else ""
            )
        lines.append("| " + " | ".join([_cell(str(arm)), *cells, str(len(own)), *numbers]) + " |")
    return "\n".join(lines)


def _number(rows: Sequence[Row], column: str, unit: str) -> str:
    """Return mean and standard deviation as text; for lists over layers, the means."""
    lists = [row[column] for row in rows if isinstance(row.get(column), list)]
    if lists:
        return (
            " ".join(f"{v:.2g}" if v < 10 else f"{v:.0f}" for v in np.mean(lists, axis=0))
            + f" {unit}".rstrip()
        )
    return spread(found, unit) if (found := values(rows, column)).size else ""


GROUPED = ("xi", "reset", "layer", "method", "setting")
"""Columns that distinguish rows of measurements, like swept parameters for trained networks."""


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
    counts = {
        s: sum(v.status == s for f in finished for _, v in f.verdicts)
        for s in ("holds", "does not hold", "not tested at this scale")
    }
    parts.append(", ".join(f"{status}: {n}" for status, n in counts.items()) + f". ({SOURCES}.)")
    for f in finished:
        parts += [f"## [{f.study.title}]({f.study.name}/report.md)", verdict_table(f.verdicts)]
    if skipped:
        parts += [
            "## Not run",
            "\n".join(f"- {name}: not run: {reason}" for name, reason in skipped.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _settings(unit: Unit) -> str:
    if not isinstance(unit, Arm):
        return f"- {unit.name}: {', '.join(f'{k} {_words(v)}' for k, v in unit.given.items())}"
    config = unit.task.config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    ignored = {"data", "out"} | ({"hidden"} if "csnn" in config.model else set())
    own = {f: getattr(config, f) for f in vars(config) if f not in ignored}
    changed = {k: v for k, v in own.items() if k in ALWAYS or v != defaults.get(k)}
    swept = "; ".join(f"{k} {', '.join(f'{v:g}' for v in vs)}" for k, vs in unit.varied.items())
    given = ", ".join(f"{k} {_words(v)}" for k, v in changed.items())
    swept = f"swept: {swept}; " if swept else ""
    seeds = f"{len(unit.seeds)} seed{'s' * (len(unit.seeds) > 1)}"
    head = f"- {unit.name}: {unit.task.facts['task']}, {given}"
    return f"{head}; {swept}{seeds}; data: {unit.task.source}"


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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
