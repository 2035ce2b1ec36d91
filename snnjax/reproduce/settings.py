"""The tasks and networks of the paper at three presets. Each figure changes what it sweeps.

    smoke     tiny networks and generated data, one epoch: tests that the program runs from start to
              end, and says nothing about the paper
    laptop    two cores, seconds to 45 minutes per figure, on available data: Randman, spoken
              digits, a part of CIFAR-10
    paper     the data, sizes, epochs and seeds of the paper; for an accelerator

`paper` settings are those of the paper or of its reference implementation (doi
10.1088/2634-4386/ac97bb); comments mark our own choices. Other settings are those of
`TrainConfig(start="paper")`: time constants, surrogate, SMORMS3 at 5e-3, 200 epochs, upper bound
0.1 at 10 Hz.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from snnjax import _check
from snnjax.experiments import CIFAR10Config, DVSGestureConfig, RandmanConfig, SHDConfig
from snnjax.reproduce import data as _data

Preset = Literal["smoke", "laptop", "paper"]
"""Size of a study; see the module."""
SIGMAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0)
"""Targets of the `paper` preset: the values in the statements of the paper, and more (our
choice)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the user.

    Attributes:
        preset: The preset.
        data: Folder with the data (`snnjax.reproduce.data`). None: that of the environment
            variable.
        seeds: Number of seeds. None: that of the preset.
    """

    preset: Preset = "laptop"
    data: Path | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        _check.one_of("preset", self.preset, ("smoke", "laptop", "paper"))
        if self.data is not None and not self.data.is_dir():
            raise ValueError(f"data must be an existing folder, got {str(self.data)!r}")
        if self.seeds is not None:
            _check.integer("seeds", self.seeds, at_least=1)

    @property
    def smoke(self) -> bool:
        """Whether data are generated."""
        return self.preset == "smoke"

    def choose(self, *, smoke: Any, laptop: Any, paper: Any) -> Any:
        """Return the value for the preset.

        >>> Options("laptop").choose(smoke=1, laptop=2, paper=3)
        2
        """
        return {"smoke": smoke, "laptop": laptop, "paper": paper}[self.preset]

    def seeds_of(self, laptop: int) -> tuple[int, ...]:
        """Return the seeds: as many as requested, or one in smoke and five in paper.

        Args:
            laptop: Number of seeds in the laptop preset.
        """
        return tuple(
            range(
                self.choose(smoke=1, laptop=laptop, paper=5) if self.seeds is None else self.seeds
            )
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """A configuration and its data.

    Attributes:
        config: The configuration.
        source: Source of the data, a name in `snnjax.reproduce.data.SOURCES`.
        facts: Additional columns for every row.
        wave: Number of members that train at once.
    """

    config: Any
    source: str
    facts: Mapping[str, Any]
    wave: int = 16

    def change(self, **changes: Any) -> Task:
        """Return the task with other settings of the configuration."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))


def _facts(task: str, chance: float, options: Options) -> dict[str, Any]:
    return {"task": task, "chance": chance, "as_published": options.preset == "paper"}


def randman(options: Options) -> Task:
    """Randman, 20-128-10."""
    config = options.choose(
        smoke=RandmanConfig(
            start="paper", classes=3, samples=40, batch_size=24, hidden=(16,), epochs=1, dt=5e-3
        ),
        # updates per epoch as in five epochs of the paper; 0.5 s per member and epoch on one core
        laptop=RandmanConfig(start="paper", batch_size=50, epochs=20),
        paper=RandmanConfig(start="paper"),
    )
    return Task(config, "own", _facts("Randman", 1 / config.classes, options))


def _spoken(options: Options) -> tuple[Path, dict[str, Any]]:
    if options.smoke:
        return Path("generated"), _facts("generated spikes", 1 / 3, options)
    folder = _data.shd_folder(options.data, real=options.preset == "paper")
    real = _data.is_shd(folder)
    return folder, _facts("SHD" if real else "spoken digits", 0.05 if real else 0.1, options)


def _tiny(folder: Path, **changes: Any) -> SHDConfig:
    return SHDConfig(
        start="paper",
        data=folder,
        duration=0.06,
        dt=5e-3,
        batch_size=12,
        hidden=(16,),
        epochs=1,
        lower_strength=0.0,
        **changes,
    )


def shallow(
    options: Options, *, recurrent: bool = False, model: Literal["dense", "dalian"] = "dense"
) -> Task:
    """SHD, 700-128-20. Only Randman has the lower bound (our interpretation).

    Args:
        options: The options of the user.
        recurrent: Add recurrent connections.
        model: The model. The `dalian` network obeys Dale's law.
    """
    folder, facts = _spoken(options)
    network: dict[str, Any] = {"recurrent": recurrent, "model": model}
    config = options.choose(
        smoke=_tiny(folder, **network),
        # all speakers; about 2 s per member and epoch on one core
        laptop=SHDConfig(
            start="paper",
            data=folder,
            dt=4e-3,
            batch_size=50,
            learning_rate=0.01,
            epochs=15,
            lower_strength=0.0,
            **network,
        ),
        paper=SHDConfig(start="paper", data=folder, batch_size=400, lower_strength=0.0, **network),
    )
    return Task(config, options.choose(smoke="generated", laptop="own", paper="own"), facts)


def conv(options: Options, depth: int) -> Task:
    """SHD, recurrent convolutional network with 1, 3, 7 or 10 layers; in smoke always one layer."""
    folder, facts = _spoken(options)
    model: Any = f"csnn{depth}"
    config = options.choose(
        smoke=_tiny(folder, model="csnn1", recurrent=True),
        # Two speakers. On one core 3, 4.4 and 11 s per member and epoch for 1, 3 and 7 layers.
        # Adam, because SMORMS3 is still at chance after so few updates.
        laptop=SHDConfig(
            start="paper",
            data=folder,
            model=model,
            recurrent=True,
            duration=0.4,
            dt=5e-3,
            valid_fraction=0.25,
            batch_size=10,
            optimizer="adam",
            learning_rate=5e-3,
            epochs=18,
            lower_strength=0.0,
        ),
        # Store traces of 19 steps: for ten layers, all traces of an update take 40 GiB. Bound 0.01
        # at 7 spikes (R).
        paper=SHDConfig(
            start="paper",
            data=folder,
            model=model,
            recurrent=True,
            batch_size=400,
            upper_strength=0.01,
            lower_strength=0.0,
            remat_steps=19,
        ),
    )
    source = options.choose(smoke="generated", laptop="two speakers", paper="own")
    return Task(
        config, source, {**facts, "depth": depth}, wave=options.choose(smoke=16, laptop=16, paper=5)
    )


def cifar10(options: Options, depth: int) -> Task:
    """CIFAR-10 through sensory neurons, 2 or 4 convolutions.

    Trial, batch and bounds are our choice.
    """
    model: Any = f"csnn{depth}"
    if options.smoke:
        config = CIFAR10Config(
            start="paper",
            downsample=4,
            duration=0.06,
            dt=5e-3,
            batch_size=12,
            model="csnn2",
            epochs=1,
            lower_strength=0.0,
        )
        return Task(
            config, "generated", {**_facts("generated images", 1 / 3, options), "depth": depth}
        )
    folder = _data.cifar10_folder(options.data)
    config = options.choose(
        smoke=None,
        # 900 training images of 16 x 16; 22 s per member and epoch on one core for 4 layers. With
        # shorter trials no spikes reach the readout of four layers, and with larger learning rates
        # these stay at chance (README, "Measured").
        laptop=CIFAR10Config(
            start="paper",
            data=folder,
            model=model,
            fraction=0.1,
            batch_size=25,
            downsample=2,
            flip=True,
            duration=0.2,
            dt=5e-3,
            learning_rate=0.01 if depth == 2 else 1e-3,
            epochs=8 if depth == 2 else 12,
            lower_strength=0.0,
        ),
        paper=CIFAR10Config(
            start="paper",
            data=folder,
            model=model,
            flip=True,
            batch_size=250,
            upper_strength=0.01,
            upper_pool="feature_map",
            lower_strength=0.0,
        ),
    )
    return Task(config, "own", {**_facts("CIFAR-10", 0.1, options), "depth": depth}, wave=5)


def dvs_gesture(options: Options, depth: int) -> Task:
    """DVS-Gesture, 6 or 8 convolutions, for the `paper` preset only: we lack the data.

    Data are streamed, so that members train one after another.
    """
    model: Any = f"csnn{depth}"
    config = DVSGestureConfig(start="paper", data=_data.dvs_folder(options.data), model=model)
    return Task(config, "own", {**_facts("DVS-Gesture", 1 / 11, options), "depth": depth})
