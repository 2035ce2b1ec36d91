"""Units of work of a study. Each returns rows.

An `Arm` is a curve or a map of a figure: one configuration, trained for every combination of seeds
and swept values as a sweep (`snnjax.experiments.sweep`), in

    OUT/sweeps/TASK-MODEL-HASH/

The hash is of everything that determines the numbers, so that arms that several figures share are
trained once. A `Measurement` is a function without training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snnjax._files import as_dict
from snnjax.experiments._run import run
from snnjax.experiments.sweep import grid, run_sweep
from snnjax.experiments.sweep_folder import epochs_to
from snnjax.experiments.tasks import task_name
from snnjax.reproduce.data import SOURCES
from snnjax.reproduce.settings import Task
from snnjax.training._fit import FitResult, TrainingDivergedError
from snnjax.training._run_folder import RunFolder

Row = dict[str, Any]
Watch = Callable[[str, int, int], Callable[..., None] | None]
"""A function of a unit's name, its number of networks and their epochs (0, 0 without training). It
returns a callback for each epoch, as in `run_sweep`, or None."""


def plain(value: Any) -> Any:
    """Return `value` as JSON reads it back."""
    return json.loads(json.dumps(value, default=str))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Networks to train: a task, values to sweep, seeds.

    Attributes:
        name: Name of the line in the figure, and value of the column `arm`.
        task: The task.
        varied: Values of each swept parameter.
        seeds: Seeds of weights and sample order.
        facts: Additional columns for its rows.
    """

    name: str
    task: Task
    varied: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def members(self) -> list[dict[str, Any]]:
        """Return the hyper-parameters of every network."""
        return grid(self.seeds, self.varied)

    def size(self) -> tuple[int, int]:
        """Return the number of networks and of epochs; (0, 0) for streamed data."""
        config = self.task.config
        return (
            (0, 0)
            if config.streamed
            else (len(self.members()), config.epochs + config.priming_epochs)
        )

    def settings(self) -> dict[str, Any]:
        """Return everything that determines the numbers, as JSON reads it back.

        Folders of data are left out.
        """
        config = {
            name: value
            for name, value in as_dict(self.task.config).items()
            if name not in ("data", "out", "seed")
        }
        return plain({"config": config, "members": self.members(), "source": self.task.source})

    def folder(self, root: Path) -> Path:
        """Return the folder of its sweep."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[
            :10
        ]
        return root / "sweeps" / f"{task_name(self.task.config)}-{self.task.config.model}-{digest}"

    def trained(self, root: Path) -> bool:
        """Return whether its sweep has trained all networks; False for streamed data."""
        file = self.folder(root) / "results.csv"
        return file.exists() and len(file.read_text().splitlines()) == 1 + len(self.members())

    def work(self, root: Path, on_epoch: Sequence[Callable[..., None]] = ()) -> list[Row]:
        """Train what is missing and return one row per network. Errors are those of `run_sweep`."""
        folder, config = self.folder(root), self.task.config
        facts = {"arm": self.name, **self.task.facts, **self.facts}
        if config.streamed:
            return [facts | self._one(folder, member) for member in self.members()]
        sets = SOURCES[self.task.source](config)
        finished = run_sweep(
            config,
            self.members(),
            folder,
            resume=True,
            datasets=sets,
            wave=self.task.wave,
            figure=False,
            on_epoch=list(on_epoch),
        )
        return [facts | row for row in finished.rows]

    def _one(self, parent: Path, member: Mapping[str, Any]) -> Row:
        """Train a network with streamed training data, which members of a sweep cannot share.

        It is a separate run, repeated from the start after an interruption. A network that became
        not finite counts with its last results, as in a sweep.
        """
        config = dataclasses.replace(self.task.config, **member)
        folder = parent / ",".join(f"{name}={value:.10g}" for name, value in sorted(member.items()))
        file = folder / "row.json"
        if not file.exists():
            if folder.exists():
                shutil.rmtree(folder)
            out = RunFolder(folder)
            sets = SOURCES[self.task.source](config)
            try:
                result, finite = run(config, datasets=sets, folder=out).fit, True
            except TrainingDivergedError as error:
                result, finite = error.result, False
            out.write_json("row", {**member, "finite": finite, **_ended(result)})
        return json.loads(file.read_text())


def _ended(result: FitResult) -> Row:
    """Return a run as a row of results.csv. Missing results are NaN, or absent."""
    history = result.history or [{}]  # empty if the untrained network was not finite
    first, last, best = history[0], history[-1], history[result.best_epoch]
    final, chosen = (result.test.get(which, {}) for which in ("final", "best"))
    row: Row = {"epochs": len(history) - 1, "best_epoch": result.best_epoch}
    row |= {name: last.get(name, math.nan) for name in ("train_accuracy", "valid_accuracy")}
    row["best_valid_accuracy"] = best.get("valid_accuracy", math.nan)
    row["test_accuracy_final"] = final.get("accuracy", math.nan)
    row["test_accuracy_best"] = chosen.get("accuracy", math.nan)
    row["epochs_to_90"] = epochs_to(0.9, [r.get("train_accuracy", math.nan) for r in history])
    rates = [name for name in first if name.startswith("rate_")]
    return row | {f"initial_{n}": first[n] for n in rates} | {f"final_{n}": final[n] for n in rates}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A computation without training.

    Attributes:
        name: Value of the column `arm`.
        given: Everything that determines the numbers, ready for JSON.
        measure: A function without arguments that returns rows.
        facts: Additional columns for each row.
    """

    name: str
    given: Mapping[str, Any]
    measure: Callable[[], list[Row]]
    facts: Mapping[str, Any]

    def size(self) -> tuple[int, int]:
        """Return (0, 0), because nothing is trained."""
        return 0, 0

    def settings(self) -> dict[str, Any]:
        """Return everything that determines the numbers, as in `Arm`."""
        return plain(self.given)

    def work(self, root: Path, on_epoch: Sequence[Callable[..., None]] = ()) -> list[Row]:
        """Compute the rows."""
        return [{"arm": self.name, **self.facts, **row} for row in self.measure()]


Unit = Arm | Measurement
