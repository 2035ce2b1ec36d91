"""Units of work of a study. Each returns rows.

An `Arm` is a curve or a map of a figure: a sweep (`snnjax.experiments.Sweep`), trained in

    OUT/sweeps/TASK-MODEL-HASH/

The hash is of everything that determines the numbers, so that arms that several figures share are
trained once. A `Measurement` is a function without training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from snnjax.datasets import Splits
from snnjax.experiments import Execution, Sweep, load_run, run_sweep
from snnjax.experiments._engine import Watch
from snnjax.experiments._generated import generated
from snnjax.experiments._rows import Member
from snnjax.experiments._run import activity_figure
from snnjax.experiments._sweep_folder import finished, member_folder
from snnjax.experiments._tasks import SHD
from snnjax.reproduce._statements import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snnjax.experiments import Experiment

Content = dict[str, object]
"""Names and values, as JSON reads them back."""
Source = Literal["own", "two speakers", "generated"]
"""The data of the task, the recordings of two speakers, or generated data with three classes."""
SPEAKERS = (3, 5)


class RealSHD(SHD):
    """The Spiking Heidelberg Digits, and not other files in their layout."""

    holds = ("shd_train.h5",)


def datasets(experiment: Experiment, source: Source) -> Splits | None:
    """Return the three sets of an experiment, or None if its task loads them.

    Args:
        experiment: The experiment.
        source: The source of the data. With two speakers, each set has both of them, so that no
            test speaker is new.
    """
    if source == "own":
        return None
    if source == "generated":
        return generated(experiment, num_classes=3)
    return Splits(*(part.split_groups(SPEAKERS)[1] for part in experiment.datasets()))


def _plain(value: Mapping[str, object]) -> Content:
    return json.loads(json.dumps(value, default=str))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Networks to train.

    Attributes:
        name: Name of the line in the figure, and value of the column `arm`.
        sweep: The networks.
        columns: Additional columns for its rows.
        source: The data.
        wave: Number of members that train at once.
    """

    name: str
    sweep: Sweep
    columns: Mapping[str, object]
    source: Source = "own"
    wave: int = 16

    def size(self) -> tuple[int, int]:
        """Return the number of networks and of epochs."""
        training = self.sweep.base.training
        return len(self.sweep.members()), training.epochs + training.priming_epochs

    def settings(self) -> Content:
        """Return everything that determines the numbers. Folders of data are left out."""
        ignored = ("data", "seed", *self.sweep.over)
        options = {k: v for k, v in self.sweep.options().items() if k not in ignored}
        own = {"experiment": options, "members": self.sweep.members(), "source": self.source}
        return _plain(own)

    def folder(self, root: Path) -> Path:
        """Return the folder of its sweep."""
        base, text = self.sweep.base, json.dumps(self.settings(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return root / "sweeps" / f"{base.task.name}-{base.network.name}-{digest}"

    def trained(self, root: Path) -> bool:
        """Return whether its sweep has trained all networks."""
        members = self.sweep.members()
        return finished(self.folder(root), members) == members

    def datasets(self) -> Splits:
        """Return its three sets."""
        base = self.sweep.base
        return datasets(base, self.source) or base.datasets()

    def work(self, root: Path, on_epoch: Sequence[Watch] = ()) -> list[Row]:
        """Train what is missing and return one row per network. Errors are those of `run_sweep`."""
        finished = run_sweep(
            self.sweep,
            self.folder(root),
            resume=True,
            datasets=datasets(self.sweep.base, self.source),
            execution=Execution(wave=self.wave),
            figure=False,
            on_epoch=on_epoch,
        )
        return [{"arm": self.name, **self.columns, **row} for row in finished.rows]

    def snapshot(self, member: Member, root: Path) -> Figure:
        """Plot spikes and readout of a network after training, for two test samples.

        Args:
            member: Seed and swept values of the network.
            root: Folder of the studies.

        Raises:
            FileNotFoundError: The network has not been trained.
        """
        sets = datasets(self.sweep.experiment(member), self.source)
        experiment, network, data = load_run(
            member_folder(self.folder(root), member), datasets=sets
        )
        return activity_figure(experiment, network, data.splits.test, samples=2)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A computation without training.

    Attributes:
        name: Value of the column `arm`.
        given: Everything that determines the numbers, ready for JSON.
        measure: A function without arguments that returns rows.
        columns: Additional columns for each row.
    """

    name: str
    given: Mapping[str, object]
    measure: Callable[[], Sequence[Row]]
    columns: Mapping[str, object]

    def size(self) -> tuple[int, int]:
        """Return (0, 0), because nothing is trained."""
        return 0, 0

    def settings(self) -> Content:
        """Return everything that determines the numbers, as in `Arm`."""
        return _plain(self.given)

    def trained(self, root: Path) -> bool:
        """Return False, because nothing is trained."""
        return False

    def work(self, root: Path, on_epoch: Sequence[Watch] = ()) -> list[Row]:
        """Compute the rows."""
        return [{"arm": self.name, **self.columns, **row} for row in self.measure()]


Unit = Arm | Measurement
