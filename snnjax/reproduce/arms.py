"""Units of work: what a study computes, one after another, each leaving rows.

An `Arm` is a curve or a map of a figure: one configuration, trained for every product of seeds and swept values as a sweep (`snnjax.experiments.sweep`), in

    OUT/sweeps/TASK-MODEL-HASH/

where the hash is of everything that decides the numbers, so that arms which figures have in common are trained once. A `Measurement` is a function
without training.
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
from snnjax.training.fit import FitResult, TrainingDivergedError
from snnjax.training.run_folder import RunFolder

Row = dict[str, Any]
Watch = Callable[[str, int, int], Callable[..., None] | None]
"""From a unit's name, its networks and their epochs (0, 0: nothing is trained) to a callback for each epoch, as `run_sweep` has it, or None."""


def plain(value: Any) -> Any:
    """`value` as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Networks to train: a task, values to sweep, seeds.

    Attributes:
      name: of the line in the figure, and the column `arm`.   task: see `Task`.   varied: values by name.   seeds: of weights and sample order.
      facts: more columns for its rows.
    """

    name: str
    task: Task
    varied: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def members(self) -> list[dict[str, Any]]:
        """Hyper-parameters of every network."""
        return grid(self.seeds, self.varied)

    def size(self) -> tuple[int, int]:
        """Networks and epochs of each; epochs of streamed ones are not watched."""
        config = self.task.config
        return (0, 0) if getattr(config, "stream", False) else (len(self.members()), config.epochs + config.priming_epochs)

    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON gives it back; not where the data lie."""
        config = {name: value for name, value in as_dict(self.task.config).items() if name not in ("data", "out", "seed")}
        return plain({"config": config, "members": self.members(), "source": self.task.source})

    def folder(self, root: Path) -> Path:
        """Of its sweep."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:10]
        return root / "sweeps" / f"{task_name(self.task.config)}-{self.task.config.model}-{digest}"

    def trained(self, root: Path) -> bool:
        """Whether all of its networks are, in a sweep (streamed ones say nothing)."""
        file = self.folder(root) / "results.csv"
        return file.exists() and len(file.read_text().splitlines()) == 1 + len(self.members())

    def work(self, root: Path, on_epoch: Sequence[Callable[..., None]] = ()) -> list[Row]:
        """Train what is missing; a row a network. Errors as of `run_sweep`."""
        folder, config = self.folder(root), self.task.config
        facts = {"arm": self.name, **self.task.facts, **self.facts}
        if getattr(config, "stream", False):
            return [facts | self._one(folder, member) for member in self.members()]
        sets = SOURCES[self.task.source](config)
        finished = run_sweep(
            config, self.members(), folder, resume=True, datasets=sets, wave=self.task.wave, figure=False, on_epoch=list(on_epoch)
        )
        return [facts | row for row in finished.rows]

    def _one(self, parent: Path, member: Mapping[str, Any]) -> Row:
        """A network whose training data are a stream, which cannot be shared by a sweep.

        It is a run of its own, done again where it was cut off. One that stopped being finite
        counts as it ended, as in a sweep.
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
    """A run as a row of results.csv; what it did not get to is NaN, or absent."""
    history = result.history or [{}]  # none, where the untrained network was not finite
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
    """Something computed without training.

    Attributes:
      name: the column `arm`.   given: all that decides the numbers, JSON-ready.   measure: from nothing to rows.   facts: more columns for each.
    """

    name: str
    given: Mapping[str, Any]
    measure: Callable[[], list[Row]]
    facts: Mapping[str, Any]

    def size(self) -> tuple[int, int]:
        """As of `Arm`: nothing is trained."""
        return 0, 0

    def settings(self) -> dict[str, Any]:
        """As of `Arm`."""
        return plain(self.given)

    def work(self, root: Path, on_epoch: Sequence[Callable[..., None]] = ()) -> list[Row]:
        """Compute it."""
        return [{"arm": self.name, **self.facts, **row} for row in self.measure()]


Unit = Arm | Measurement
