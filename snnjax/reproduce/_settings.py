"""The tasks and networks of the paper at three presets. Each figure changes what it sweeps.

    smoke     tiny networks and generated data, one epoch: tests that the program runs from start to
              end, and says nothing about the paper
    laptop    two cores, seconds to 45 minutes per figure, on available data: Randman, spoken
              digits, a part of CIFAR-10
    paper     the data, sizes, epochs and seeds of the paper; for an accelerator

`paper` settings are those of the paper or of its reference implementation (doi
10.1088/2634-4386/ac97bb); comments mark our own choices. Other settings are those of
`Experiment.from_options(task, start="paper")`: time constants, surrogate, SMORMS3 at 5e-3, 200
epochs, upper bound 0.1 at 10 Hz.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args

from snnjax import _check
from snnjax.experiments import Experiment, Sweep
from snnjax.experiments._tasks import CIFAR10, SHD, DVSGesture, Randman, Task, find
from snnjax.reproduce._units import Arm, RealSHD, Source

Preset = Literal["smoke", "laptop", "paper"]
"""Size of a study; see the module."""
Settings = Mapping[str, object]
"""Options of an experiment, by name."""
UNCHANGED: Settings = {}
T = TypeVar("T")

SIGMAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0)
"""Targets sigma_u of the `paper` preset: the values in the statements of the paper, and more (our
choice)."""
SHALLOW_SIGMAS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)
CONV_SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Targets of the `laptop` preset. Convolutional networks with fewer than seven layers begin at
0.01, because they train at 0.05."""
TWO_SPEAKERS: Settings = {"duration": 0.4, "dt": 5e-3, "valid_fraction": 0.25}
_ADAM: Settings = {"optimizer": "adam", "learning_rate": 5e-3}
_TINY: Settings = {"duration": 0.06, "dt": 5e-3, "batch_size": 12, "epochs": 1}
_TINY_DENSE: Settings = {**_TINY, "hidden": (16,)}


class Network(NamedTuple):
    """A network of the paper and its task.

    Attributes:
        task: The task.
        label: Name of the data in the reports.
        chance: Accuracy at chance.
        always: Settings at every preset.
        presets: Settings at each preset.
    """

    task: type[Task]
    label: str
    chance: float
    always: Settings
    presets: Mapping[Preset, Settings]


_NO_LOWER = {"lower_strength": 0.0}
"""Only Randman has the lower bound (our interpretation)."""
NETWORKS: Mapping[str, Network] = {
    # 20-128-10. A laptop has as many updates per epoch as five epochs of the paper: 0.5 s per
    # member and epoch on one core
    "randman": Network(
        Randman,
        "Randman",
        0.1,
        {},
        {
            "smoke": {
                **_TINY_DENSE,
                "duration": 0.2,
                "classes": 3,
                "samples": 40,
                "batch_size": 24,
            },
            "laptop": {"batch_size": 50, "epochs": 20},
            "paper": {},
        },
    ),
    # 700-128-20. Laptop: all speakers, about 2 s per member and epoch on one core
    "shallow": Network(
        SHD,
        "SHD",
        0.05,
        _NO_LOWER,
        {
            "smoke": _TINY_DENSE,
            "laptop": {"dt": 4e-3, "batch_size": 50, "learning_rate": 0.01, "epochs": 10},
            "paper": {"batch_size": 400},
        },
    ),
    # In smoke always one layer. Laptop: two speakers; on one core 3, 4.4 and 11 s per member and
    # epoch for 1, 3 and 7 layers; Adam, because SMORMS3 is still at chance after so few updates.
    # Paper: store traces of 19 steps, because for ten layers all traces of an update take 40 GiB;
    # bound 0.01 at 7 spikes (R)
    "conv": Network(
        SHD,
        "SHD",
        0.05,
        {**_NO_LOWER, "model": "csnn", "recurrent": True},
        {
            "smoke": {**_TINY, "depth": 1},
            "laptop": {**TWO_SPEAKERS, **_ADAM, "batch_size": 10, "epochs": 18},
            "paper": {"batch_size": 400, "upper_strength": 0.01, "remat_steps": 19},
        },
    ),
    # Through sensory neurons. Trial, batch and bounds are our choice. Laptop: 900 training images
    # of 16 x 16, 22 s per member and epoch on one core for 4 layers; with shorter trials no spikes
    # reach the readout of four layers
    "cifar10": Network(
        CIFAR10,
        "CIFAR-10",
        0.1,
        _NO_LOWER,
        {
            "smoke": {**_TINY, "downsample": 4},
            "laptop": {
                "fraction": 0.1,
                "batch_size": 25,
                "downsample": 2,
                "flip": True,
                "dt": 5e-3,
                "learning_rate": 0.01,
                "epochs": 8,
            },
            "paper": {
                "flip": True,
                "batch_size": 250,
                "upper_strength": 0.01,
                "upper_pool": "feature_map",
            },
        },
    ),
    # Only for the `paper` preset, because we lack the data
    "dvs-gesture": Network(DVSGesture, "DVS-Gesture", 1 / 11, {}, {"paper": {}}),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the user.

    Attributes:
        preset: The preset.
        data: Folder with the data, or with a folder for each task. None: that of the environment
            variable SNNJAX_DATA.
        seeds: Number of seeds. None: that of the preset.
    """

    preset: Preset = "laptop"
    data: Path | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        _check.one_of("preset", self.preset, get_args(Preset))
        if self.data is not None and not self.data.is_dir():
            raise ValueError(f"data must be an existing folder, got {str(self.data)!r}")
        if self.seeds is not None:
            _check.integer("seeds", self.seeds, at_least=1)

    @property
    def smoke(self) -> bool:
        """Whether data are generated."""
        return self.preset == "smoke"

    @property
    def laptop(self) -> bool:
        """Whether settings are those for two cores."""
        return self.preset == "laptop"

    def choose(self, smoke: T, laptop: T, paper: T) -> T:
        """Return the value for the preset.

        >>> Options("laptop").choose(1, 2, 3)
        2
        """
        return {"smoke": smoke, "laptop": laptop, "paper": paper}[self.preset]

    def seeds_of(self, laptop: int) -> tuple[int, ...]:
        """Return the seeds: as many as requested, or one in smoke and five in paper.

        Args:
            laptop: Number of seeds in the laptop preset.
        """
        return tuple(range(self.seeds or self.choose(1, laptop, 5)))

    def sigmas(self, laptop: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return the targets of a curve over sigma_u.

        Args:
            laptop: The targets in the laptop preset.
        """
        return {"sigma_u": self.choose((0.5, 1.0), laptop, SIGMAS)}

    def arm(
        self,
        name: str,
        network: str,
        over: Mapping[str, Sequence[float]],
        seeds: int,
        changes: Settings = UNCHANGED,
        *,
        depth: int | None = None,
        source: Source | None = None,
    ) -> Arm:
        """Return networks to train on the data of the user.

        Args:
            name: Name of the arm.
            network: Name of the network in `NETWORKS`.
            over: The swept options.
            seeds: Number of seeds in the laptop preset.
            changes: Options that differ from those of the preset.
            depth: Number of convolutional layers.
            source: The data. None: those of the preset.

        Raises:
            MissingDataError: The folder of the data is missing.
        """
        task, label, chance, always, presets = NETWORKS[network]
        settings = {**always, **presets[self.preset]}
        columns: dict[str, object] = {} if depth is None else {"depth": depth}
        if depth is not None and not self.smoke:
            settings["depth"] = depth
        if self.smoke:
            chance = 1 / 3
            if task is not Randman:
                source = "generated"
                label = f"generated {'spikes' if task is SHD else 'images'}"
        elif task.holds:
            kind = RealSHD if task is SHD and self.preset == "paper" else task
            settings["data"] = folder = find(kind, self.data)
            if task is SHD and not (folder / "shd_train.h5").exists():
                label, chance = "spoken digits", 0.1
        if self.laptop and network == "conv":
            source = source or "two speakers"
        columns |= {"task": label, "chance": chance, "as_published": self.preset == "paper"}
        base = Experiment.from_options(task.name, start="paper", **settings).replace(**changes)
        heavy = not self.smoke and (network == "cifar10" or (depth and not self.laptop))
        sweep = Sweep(base=base, over=over, seeds=self.seeds_of(seeds))
        return Arm(name, sweep, columns, source or "own", wave=5 if heavy else 16)

    def shallow_curve(self, name: str, changes: Settings = UNCHANGED) -> Arm:
        """Return one hidden layer on spoken words over sigma_u.

        Laptop, both cores: 3 to 4 min, or 6 min with recurrence (measured while other programs
        ran).

        Args:
            name: Name of the arm.
            changes: Options that differ from those of the preset.
        """
        return self.arm(name, "shallow", self.sigmas(SHALLOW_SIGMAS), 3, changes)

    def conv_curve(
        self,
        name: str,
        depth: int,
        changes: Settings = UNCHANGED,
        *,
        laptop: Sequence[float] | None = None,
        seeds: int = 2,
    ) -> Arm:
        """Return a convolutional network over sigma_u.

        Laptop, both cores: 1 layer 3 min, 3 layers 8 min, 7 layers 21 min.

        Args:
            name: Name of the arm.
            depth: Number of hidden layers.
            changes: Options that differ from those of the preset.
            laptop: Values of sigma_u in the laptop preset. None: `CONV_SIGMAS`.
            seeds: Number of seeds in the laptop preset.
        """
        if laptop is None:
            laptop = CONV_SIGMAS if depth >= 7 else (0.01, *CONV_SIGMAS)
        return self.arm(name, "conv", self.sigmas(laptop), seeds, changes, depth=depth)
