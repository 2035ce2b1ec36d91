"""A study is a figure or table of the paper: units of work, a plot, and statements to judge.

    OUT/sweeps/...            networks, shared by all studies in OUT (`snnjax.reproduce.arms`)
    OUT/NAME/study.json       what is computed: name, preset and settings of every unit
    OUT/NAME/results.jsonl    finished units, one per line: settings, seconds, rows
    OUT/NAME/results.csv      all rows, numbers and strings
    OUT/NAME/*.png            figures
    OUT/NAME/report.md        our numbers and the published ones, one verdict per statement

Files are written completely or not at all, in an order that allows a study to continue after an
interruption at any point. It computes what is missing. Units in results.jsonl are never computed
again.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import snnjax
from snnjax._files import write_whole
from snnjax.reproduce.arms import Arm, Row, Unit, Watch
from snnjax.reproduce.settings import Preset
from snnjax.reproduce.statements import Statement, Verdict, judged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Sequence[Row]], Mapping[str, "Figure"]]


@dataclasses.dataclass(frozen=True)
class Study:
    """A figure or table at one preset.

    Attributes:
        name: Name, such as `figure3`.
        title: What it shows.
        preset: The preset (`snnjax.reproduce.settings`).
        units: Units of work, with unique names.
        draw: A function from all rows to figures by name.
        statements: Statements to judge.
        columns: Columns of the report's table (`snnjax.reproduce.report`).
        notes: Differences from the paper and our choices, as sentences.
        snapshots: Networks whose activity is plotted, (arm, hyper-parameters).
        table: A function from all rows to Markdown, if the paper has a table.
    """

    name: str
    title: str
    preset: Preset
    units: Sequence[Unit]
    draw: Draw
    statements: Sequence[Statement]
    columns: Mapping[str, tuple[str, str]]
    notes: Sequence[str] = ()
    snapshots: Sequence[tuple[Arm, Mapping[str, Any]]] = ()
    table: Callable[[Sequence[Row]], str] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what identifies a study."""
        return {
            "name": self.name,
            "preset": self.preset,
            "units": {unit.name: unit.settings() for unit in self.units},
        }


@dataclasses.dataclass(frozen=True)
class Finished:
    """The results of a study.

    Attributes:
        study: The study.
        rows: Rows of all units.
        verdicts: Statements and verdicts.
        folder: Folder of the study.
        seconds: Computing time of all its units, s.
        shared: Names of units that another study had trained before.
    """

    study: Study
    rows: Sequence[Row]
    verdicts: Sequence[tuple[Statement, Verdict]]
    folder: Path
    seconds: float
    shared: Sequence[str] = ()


def run_study(study: Study, root: Path, *, watch: Watch | None = None) -> Finished:
    """Compute what is missing of a study, and write its report.

    Errors are those of `check` and of the units.

    Args:
        study: The study.
        root: OUT in the module: a new folder, or one with such studies.
        watch: A function that is called with each unit that is computed.
    """
    from snnjax.reproduce import report

    folder, done = root / study.name, check(study, root)
    for unit in study.units:
        if unit.name in done:
            continue
        begin, shared = time.perf_counter(), isinstance(unit, Arm) and unit.trained(root)
        callback = watch(unit.name, *unit.size()) if watch is not None else None
        rows = _finite(unit.work(root, [callback] if callback else []))
        if not done:  # only now, so that a study whose data cannot be loaded leaves no folder
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(
                folder / "study.json",
                _json(study.settings() | {"snnjax": snnjax.__version__}, indent=1),
            )
        seconds = round(time.perf_counter() - begin, 1)
        done[unit.name] = {
            "unit": unit.name,
            "settings": unit.settings(),
            "seconds": seconds,
            "shared": shared,
            "rows": rows,
        }
        write_whole(folder / "results.jsonl", b"".join(_json(entry) for entry in done.values()))
    rows = [row for unit in study.units for row in done[unit.name]["rows"]]
    write_whole(folder / "results.csv", _table(rows))
    finished = Finished(
        study,
        rows,
        judged(study.statements, rows, generated=study.preset == "smoke"),
        folder,
        sum(done[unit.name]["seconds"] for unit in study.units),
        [unit.name for unit in study.units if done[unit.name].get("shared")],
    )
    report.write(finished, root)
    return finished


def check(study: Study, root: Path) -> dict[str, dict[str, Any]]:
    """Return the finished units of a study by name, without computing or writing.

    Args:
        study: The study.
        root: Folder of the studies.

    Raises:
        ValueError: OUT/NAME has the study with other settings, or is damaged.
        FileExistsError: OUT/NAME has other content, or `root` is a file.
    """
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is not a folder; name another by --out")
    names = [unit.name for unit in study.units]
    if len(set(names)) < len(names):
        raise ValueError(f"units of {study.name} must have unique names, got {names}")
    _check_folder(root / study.name, study)
    return _read(root / study.name / "results.jsonl")


def _check_folder(folder: Path, study: Study) -> None:
    file = folder / "study.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} is not an empty folder and has no study; name another folder by --out"
            )
        return
    try:
        saved = json.loads(file.read_text())
        units, own = saved["units"], study.settings()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged: {error}; remove {folder}, or name another folder by --out"
        ) from None
    different = [name for name in ("name", "preset") if saved.get(name) != own[name]]
    different += sorted(
        name
        for name in units.keys() | own["units"].keys()
        if units.get(name) != own["units"].get(name)
    )
    if different:
        raise ValueError(
            f"{folder} has this study with other settings; these differ: "
            f"{', '.join(map(repr, different))}. Name another folder by --out"
        )


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        return {entry["unit"]: entry for entry in map(json.loads, file.read_text().splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged: {error}; remove it to compute the study again from its sweeps"
        ) from None


def _finite(rows: Sequence[Row]) -> list[Row]:
    """Replace numbers that are not finite by None, because JSON has no NaN."""
    return [
        {
            name: None if isinstance(v, float) and not math.isfinite(v) else v
            for name, v in row.items()
        }
        for row in rows
    ]


def _json(content: object, *, indent: int | None = None) -> bytes:
    return (json.dumps(content, default=str, indent=indent, allow_nan=False) + "\n").encode()


def _table(rows: Sequence[Row]) -> bytes:
    """Return a CSV of all columns, in the order of their first occurrence."""
    rows = [_flat(row) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _flat(row: Row) -> Row:
    """Turn lists over layers into columns NAME_1, NAME_2, ...; leave out longer lists."""
    out: Row = {}
    for name, value in row.items():
        if not isinstance(value, list):
            out[name] = value
        elif len(value) <= 16:
            out |= {f"{name}_{k}": v for k, v in enumerate(value, start=1)}
    return out
