"""A study: one figure or table of the paper as units of work, a figure, and statements to judge; and its folder.

    OUT/sweeps/...            networks, shared by all studies in OUT (`snnjax.reproduce.arms`)
    OUT/NAME/study.json       what is computed: name, preset and every unit's settings
    OUT/NAME/results.jsonl    finished units, one a line: settings, seconds, rows
    OUT/NAME/results.csv      all rows, numbers and strings
    OUT/NAME/*.png            figures
    OUT/NAME/report.md        our numbers beside the published ones, a verdict a statement

Files are written whole, in an order that leaves a state to go on from: a study that was killed anywhere computes what is missing, and a unit that is in
results.jsonl is never computed again.
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
    """What a figure or table is at one preset.

    Attributes:
      name, title: `figure3`, and what it shows.   preset: see `snnjax.reproduce.settings`.   units: of work, names unique.
      draw: from all rows to figures by name.   statements: to judge.   columns: of the report's table, see `snnjax.reproduce.report`.
      notes: what differs from the paper, and choices of ours; sentences.   snapshots: networks whose activity is drawn, (arm, hyper-parameters).
      table: from all rows to Markdown, where the paper has a table.
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
        """What makes two studies the same."""
        return {"name": self.name, "preset": self.preset, "units": {unit.name: unit.settings() for unit in self.units}}


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a study left: rows, verdicts, the folder, seconds of all its units, and the units that another study had trained before."""

    study: Study
    rows: Sequence[Row]
    verdicts: Sequence[tuple[Statement, Verdict]]
    folder: Path
    seconds: float
    shared: Sequence[str] = ()


def run_study(study: Study, root: Path, *, watch: Watch | None = None) -> Finished:
    """Compute what is missing of `study` below `root`, and write its report.

    Args:
      study: see `Study`.   root: OUT of the module; new, or one that such studies were run in.   watch: called with each unit that is computed; see `Watch`.

    Raises:
      As of `check`, and of the units.
    """
    from snnjax.reproduce import report

    folder, done = root / study.name, check(study, root)
    for unit in study.units:
        if unit.name in done:
            continue
        begin, shared = time.perf_counter(), isinstance(unit, Arm) and unit.trained(root)
        callback = watch(unit.name, *unit.size()) if watch is not None else None
        rows = _finite(unit.work(root, [callback] if callback else []))
        if not done:  # not before: a study whose data cannot be loaded leaves no folder behind
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "study.json", _json(study.settings() | {"snnjax": snnjax.__version__}, indent=1))
        seconds = round(time.perf_counter() - begin, 1)
        done[unit.name] = {"unit": unit.name, "settings": unit.settings(), "seconds": seconds, "shared": shared, "rows": rows}
        write_whole(folder / "results.jsonl", b"".join(_json(entry) for entry in done.values()))
    rows = [row for unit in study.units for row in done[unit.name]["rows"]]
    write_whole(folder / "results.csv", _table(rows))
    finished = Finished(
        study, rows, judged(study.statements, rows, generated=study.preset == "smoke"), folder,
        sum(done[unit.name]["seconds"] for unit in study.units), [unit.name for unit in study.units if done[unit.name].get("shared")],
    )  # fmt: skip
    report.write(finished, root)
    return finished


def check(study: Study, root: Path) -> dict[str, dict[str, Any]]:
    """What is finished of `study` below `root`, by unit; nothing is computed or written.

    Raises:
      ValueError: OUT/NAME holds the study with other settings, or is damaged.   FileExistsError: it holds something else, or `root` is a file.
    """
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is not a folder; name another by --out")
    names = [unit.name for unit in study.units]
    if len(set(names)) < len(names):
        raise ValueError(f"units of {study.name} must have names of their own, got {names}")
    _check_folder(root / study.name, study)
    return _read(root / study.name / "results.jsonl")


def _check_folder(folder: Path, study: Study) -> None:
    file = folder / "study.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} is not an empty folder and holds no study; name another folder by --out")
        return
    try:
        saved = json.loads(file.read_text())
        units, own = saved["units"], study.settings()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; remove {folder}, or name another folder by --out") from None
    different = [name for name in ("name", "preset") if saved.get(name) != own[name]]
    different += sorted(name for name in units.keys() | own["units"].keys() if units.get(name) != own["units"].get(name))
    if different:
        raise ValueError(
            f"{folder} holds this study with other settings; what differs: {', '.join(map(repr, different))}. Name another folder by --out"
        )


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        return {entry["unit"]: entry for entry in map(json.loads, file.read_text().splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; remove it to compute the study again from its sweeps") from None


def _finite(rows: Sequence[Row]) -> list[Row]:
    """JSON has no NaN: None."""
    return [{name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()} for row in rows]


def _json(content: Any, *, indent: int | None = None) -> bytes:
    return (json.dumps(content, default=str, indent=indent, allow_nan=False) + "\n").encode()


def _table(rows: Sequence[Row]) -> bytes:
    """CSV of all columns, in the order in which they first come."""
    rows = [_flat(row) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _flat(row: Row) -> Row:
    """Lists over layers as columns NAME_1, NAME_2, ...; longer ones (histograms) are left to results.jsonl."""
    out: Row = {}
    for name, value in row.items():
        if not isinstance(value, list):
            out[name] = value
        elif len(value) <= 16:
            out |= {f"{name}_{k}": v for k, v in enumerate(value, start=1)}
    return out
