"""The tasks and networks of the paper at the three presets; each figure changes what it sweeps.

    smoke     tiny networks and made-up data, one epoch: the program runs from end to end, and says nothing about the paper
    laptop    two cores, seconds to three quarters of an hour a figure, on data at hand: Randman, spoken digits, a part of CIFAR-10
    paper     the paper's own data, sizes, epochs and seeds; for an accelerator

`paper` settings are those of the paper or its reference implementation (doi 10.1088/2634-4386/ac97bb); what is our choice says so. They are
those of `TrainConfig(start="paper")`: time constants, surrogate, SMORMS3 at 5e-3, 200 epochs, upper bound 0.1 at 10 Hz.
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
"""See the module."""
SIGMAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0)
"""Of the `paper` preset: the values that its statements name, and some beyond (our choice)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a person asked for.

    Attributes:
      preset: see the module.   data: folder, see `snnjax.reproduce.data`; None: the environment's.   seeds: instead of the preset's number, or None.
    """

    preset: Preset = "laptop"
    data: Path | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        _check.one_of("preset", self.preset, ("smoke", "laptop", "paper"))
        if self.data is not None and not self.data.is_dir():
            raise ValueError(f"data must be a folder that exists, got {str(self.data)!r}")
        if self.seeds is not None:
            _check.integer("seeds", self.seeds, at_least=1)

    @property
    def smoke(self) -> bool:
        """Whether data are made up."""
        return self.preset == "smoke"

    def choose(self, *, smoke: Any, laptop: Any, paper: Any) -> Any:
        """The one of the preset.

        >>> Options("laptop").choose(smoke=1, laptop=2, paper=3)
        2
        """
        return {"smoke": smoke, "laptop": laptop, "paper": paper}[self.preset]

    def seeds_of(self, laptop: int) -> tuple[int, ...]:
        """One seed in smoke, five as in the paper, or as many as were asked for."""
        return tuple(range(self.choose(smoke=1, laptop=laptop, paper=5) if self.seeds is None else self.seeds))


@dataclasses.dataclass(frozen=True)
class Task:
    """A configuration, where its data come from (a name in `snnjax.reproduce.data.SOURCES`), members trained at once, and facts for every row."""

    config: Any
    source: str
    facts: Mapping[str, Any]
    wave: int = 16

    def change(self, **changes: Any) -> Task:
        """The same with other settings of the configuration."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))


def _facts(task: str, chance: float, options: Options) -> dict[str, Any]:
    return {"task": task, "chance": chance, "as_published": options.preset == "paper"}


def randman(options: Options) -> Task:
    """Randman, 20-128-10."""
    config = options.choose(
        smoke=RandmanConfig(start="paper", classes=3, samples=40, batch_size=24, hidden=(16,), epochs=1, dt=5e-3),
        # as many updates an epoch as five of the paper's; 0.5 s a member and epoch on one core
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
        start="paper", data=folder, duration=0.06, dt=5e-3, batch_size=12, hidden=(16,), epochs=1, lower_strength=0.0, **changes
    )


def shallow(options: Options, *, recurrent: bool = False, model: Literal["dense", "dalian"] = "dense") -> Task:
    """SHD, 700-128-20. The lower bound is Randman's alone (our reading)."""
    folder, facts = _spoken(options)
    network: dict[str, Any] = {"recurrent": recurrent, "model": model}
    config = options.choose(
        smoke=_tiny(folder, **network),
        # all speakers; about 2 s a member and epoch on one core
        laptop=SHDConfig(start="paper", data=folder, dt=4e-3, batch_size=50, learning_rate=0.01, epochs=15, lower_strength=0.0, **network),
        paper=SHDConfig(start="paper", data=folder, batch_size=400, lower_strength=0.0, **network),
    )
    return Task(config, options.choose(smoke="generated", laptop="own", paper="own"), facts)


def conv(options: Options, depth: int) -> Task:
    """SHD, recurrent convolutional network of 1, 3, 7 or 10 layers. In smoke one layer stands for all of them."""
    folder, facts = _spoken(options)
    model: Any = f"csnn{depth}"
    config = options.choose(
        smoke=_tiny(folder, model="csnn1", recurrent=True),
        # two speakers; on one core 3, 4.4 and 11 s a member and epoch for 1, 3 and 7 layers. Adam: SMORMS3 has not left chance after as few updates
        laptop=SHDConfig(start="paper",
            data=folder, model=model, recurrent=True, duration=0.4, dt=5e-3, valid_fraction=0.25, batch_size=10, optimizer="adam",
            learning_rate=5e-3, epochs=18, lower_strength=0.0,
        ),
        # traces of 19 steps: a step of ten layers would keep 40 GiB of them. Bound 0.01 @ 7 spikes (R)
        paper=SHDConfig(start="paper",
            data=folder, model=model, recurrent=True, batch_size=400, upper_strength=0.01, lower_strength=0.0, remat_steps=19,
        ),
    )  # fmt: skip
    source = options.choose(smoke="generated", laptop="two speakers", paper="own")
    return Task(config, source, {**facts, "depth": depth}, wave=options.choose(smoke=16, laptop=16, paper=5))


def cifar10(options: Options, depth: int) -> Task:
    """CIFAR-10 through sensory neurons, 2 or 4 convolutions. Trial, batch and bounds are our choice."""
    model: Any = f"csnn{depth}"
    if options.smoke:
        config = CIFAR10Config(
            start="paper", downsample=4, duration=0.06, dt=5e-3, batch_size=12, model="csnn2", epochs=1, lower_strength=0.0
        )
        return Task(config, "generated", {**_facts("generated images", 1 / 3, options), "depth": depth})
    folder = _data.cifar10_folder(options.data)
    config = options.choose(
        smoke=None,
        # 900 training images of 16 x 16; 22 s a member and epoch on one core for 4 layers. Shorter trials leave four layers silent at the readout, and they
        # stay at chance at larger learning rates (README, "Measured")
        laptop=CIFAR10Config(start="paper",
            data=folder, model=model, fraction=0.1, batch_size=25, downsample=2, flip=True, duration=0.2, dt=5e-3, learning_rate=0.01 if depth == 2 else 1e-3,
            epochs=8 if depth == 2 else 12, lower_strength=0.0,
        ),
        paper=CIFAR10Config(start="paper", data=folder, model=model, flip=True, batch_size=250, upper_strength=0.01, upper_pool="feature_map",
            lower_strength=0.0),
    )  # fmt: skip
    return Task(config, "own", {**_facts("CIFAR-10", 0.1, options), "depth": depth}, wave=5)


def dvs_gesture(options: Options, depth: int) -> Task:
    """DVS-Gesture, 6 or 8 convolutions; streamed, so one member after another. `paper` only: there are no such data at hand."""
    model: Any = f"csnn{depth}"
    config = DVSGestureConfig(start="paper", data=_data.dvs_folder(options.data), model=model)
    return Task(config, "own", {**_facts("DVS-Gesture", 1 / 11, options), "depth": depth})
