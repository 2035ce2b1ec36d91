"""A study is a figure or table of the paper: units of work, figures, and statements to judge.

    OUT/sweeps/...          networks, shared by all studies in OUT (`snnjax.reproduce._units`)
    OUT/NAME/study.json     what is computed: name, preset and settings of every unit; and what is
                            finished: for each unit its seconds and rows
    OUT/NAME/results.csv    all rows, numbers and strings
    OUT/NAME/*.png          figures
    OUT/NAME/report.md      our numbers and the published ones, one verdict per statement

Files are written completely or not at all, in an order that allows a study to continue after an
interruption at any point. It computes what is missing. Finished units are never computed again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from snnjax import __version__
from snnjax._files import write_whole
from snnjax.experiments._engine import Watch
from snnjax.experiments._rows import Member
from snnjax.experiments._sweep_folder import write_csv
from snnjax.reproduce import _report
from snnjax.reproduce._settings import Preset
from snnjax.reproduce._statements import Row, Rows, Statement, Verdict, judged
from snnjax.reproduce._units import Arm, Content, Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Announce = Callable[[str, int, int], Watch | None]
"""A function of a unit's name, its number of networks and their epochs (0, 0 without training). It
returns a callback for each epoch, as in `run_sweep`, or None."""
ACCURACY: dict[str, tuple[str, str]] = {
    "test, final": ("test_accuracy_final", "%"),
    "test, selected": ("test_accuracy_best", "%"),
    "validation": ("valid_accuracy", "%"),
    "training": ("train_accuracy", "%"),
    "epochs to 90 %": ("epochs_to_90", ""),
    "rate 1 before": ("initial_rate_1", "Hz"),
    "rate 1 after": ("final_rate_1", "Hz"),
}
"""Columns of a table of trained networks: heading -> (column of the rows, unit)."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A figure or table at one preset.

    Attributes:
        name: Name, such as `figure3`.
        title: What it shows.
        preset: The preset (`snnjax.reproduce._settings`).
        units: Units of work, with unique names.
        figures: Functions from all rows to a figure, by its name.
        statements: Statements to judge.
        columns: Columns of the report's table (`snnjax.reproduce._report`).
        notes: Differences from the paper and our choices, as sentences.
        snapshots: Networks whose activity is plotted, (arm, seed and swept values).
        table: A function from all rows to Markdown, if the paper has a table.
        captions: Captions of the figures, by their names.
    """

    name: str
    title: str
    preset: Preset
    units: Sequence[Unit]
    figures: Mapping[str, Callable[[Rows], Figure]]
    statements: Sequence[Statement]
    columns: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=lambda: ACCURACY)
    notes: Sequence[str] = ()
    snapshots: Sequence[tuple[Arm, Member]] = ()
    table: Callable[[Rows], str] | None = None
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def settings(self) -> Content:
        """Return what identifies a study: name, preset, and the settings of every unit."""
        units: Content = {unit.name: unit.settings() for unit in self.units}
        return {"name": self.name, "preset": self.preset, **units}


BANDS = "Lines: means over seeds. Bands: smallest to largest. Dotted: chance."
"""What the captions of curves say."""
ZEROS = "Triangles at the foot of a logarithmic axis: exactly 0."
CURVES = (
    "Accuracy, epochs until the training accuracy is 90 %, and rate of the first layer after "
    f"training, over the target sigma_U. {BANDS} Panels with fewer than three points are left out."
)
"""The caption of a figure with the usual panels."""


class Finished(NamedTuple):
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
    rows: Rows
    verdicts: Sequence[tuple[Statement, Verdict]]
    folder: Path
    seconds: float
    shared: Sequence[str]


class Computed(TypedDict):
    """A finished unit: computing time (s), whether another study had trained it, its rows."""

    seconds: float
    shared: bool
    rows: list[Row]


def run_study(study: Study, root: Path, *, watch: Announce | None = None) -> Finished:
    """Compute what is missing of a study, and write its report.

    Errors are those of `check` and of the units.

    Args:
        study: The study.
        root: OUT in the module: a new folder, or one with such studies.
        watch: A function that is called with each unit that is computed.
    """
    folder, done = root / study.name, check(study, root)
    for unit in study.units:
        if unit.name in done:
            continue
        begin, shared = time.perf_counter(), unit.trained(root)
        callback = watch(unit.name, *unit.size()) if watch is not None else None
        rows = unit.work(root, [callback] if callback else [])
        seconds = round(time.perf_counter() - begin, 1)
        done[unit.name] = Computed(seconds=seconds, shared=shared, rows=rows)
        content = {"snnjax": __version__, "settings": study.settings(), "done": done}
        # only now, so that a study whose data cannot be loaded leaves no folder
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "study.json", (json.dumps(content, default=str) + "\n").encode())
    units = [done[unit.name] for unit in study.units]
    rows = [row for unit in units for row in unit["rows"]]
    write_csv([_flat(row) for row in rows], folder / "results.csv")
    finished = Finished(
        study,
        rows,
        judged(study.statements, rows, generated=study.preset == "smoke"),
        folder,
        seconds=sum(unit["seconds"] for unit in units),
        shared=[unit.name for unit in study.units if done[unit.name]["shared"]],
    )
    _report.write(finished, root)
    return finished


def check(study: Study, root: Path) -> dict[str, Computed]:
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
    folder, own = root / study.name, study.settings()
    if not (file := folder / "study.json").exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} is not an empty folder and has no study; name another folder by --out"
            )
        return {}
    try:
        saved = json.loads(file.read_text())
        settings, done = dict(saved["settings"]), dict(saved["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged: {error}; remove {folder} to compute the study again from its "
            "sweeps, or name another folder by --out"
        ) from None
    different = sorted(k for k in settings.keys() | own.keys() if settings.get(k) != own.get(k))
    if different:
        raise ValueError(
            f"{folder} has this study with other settings; these differ: "
            f"{', '.join(map(repr, different))}. Name another folder by --out"
        )
    return done


def _flat(row: Row) -> Content:
    """Return a row without numbers that are not finite.

    Lists over layers become columns NAME_1, NAME_2, ...; longer lists are left out.
    """
    out: Content = {}
    for name, value in row.items():
        if not isinstance(value, list):
            missing = isinstance(value, float) and not math.isfinite(value)
            out[name] = None if missing else value
        elif len(value) <= 16:
            out |= {f"{name}_{k}": v for k, v in enumerate(value, start=1)}
    return out
