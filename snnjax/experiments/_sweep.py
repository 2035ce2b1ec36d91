"""A sweep as a value: an experiment, values for some of its options, and seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from snnjax import _check
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._rows import Member, Row
from snnjax.experiments._sweep_folder import read_config
from snnjax.training._ensemble import Order
from snnjax.training._placement import Placement, resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """An experiment, values for some of its options, and seeds.

    Attributes:
        base: The experiment.
        over: The values of each swept option, by its name. The last one varies fastest.
        seeds: The seeds, or their number, counted from the seed of `base`. Seeds vary fastest.
            None: only the seed of `base`, and each network trains alone, as in `run`.
        patience: As in `snnjax.training.Program`.
        order: As in `snnjax.training.Program`.

    Raises:
        ValueError: There is no seed, a value occurs twice, or an experiment is not allowed.

    >>> base = Experiment.from_options("randman")
    >>> sweep = Sweep(base=base, over={"sigma_u": (0.5, 1.0), "depth": (1, 3)}, seeds=2)
    >>> sweep.members()[1]
    {'sigma_u': 0.5, 'depth': 1, 'seed': 1}
    """

    base: Experiment
    over: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    seeds: int | Sequence[int] | None = 5
    patience: int | None = None
    order: Order = "member"

    def __post_init__(self) -> None:
        over = {name: tuple(map(_plain, values)) for name, values in self.over.items()}
        object.__setattr__(self, "over", over)
        for name, values in over.items():
            if not values or len(set(values)) < len(values):
                got = list(values)
                raise ValueError(f"{name} must have at least one value and none twice, got {got}")
        if isinstance(self.seeds, int):
            _check.integer("seeds", self.seeds, at_least=1)
        elif self.seeds is not None and len({*self.seeds}) < max(1, len(self.seeds)):
            seeds = list(self.seeds)
            raise ValueError(f"seeds must have at least one seed and none twice, got {seeds}")
        if self.patience is not None:
            _check.integer("patience", self.patience, at_least=1)
        _check.one_of("order", self.order, get_args(Order))
        if self.alone and (self.patience is not None or self.order != "member"):
            what = "streamed data" if self.base.task.streamed else "a network that trains alone"
            raise ValueError(f"patience and order have no effect on {what}; leave them out")
        for member in self.members():  # check every experiment before anything is computed
            self.experiment(member)

    def members(self) -> list[Member]:
        """Return the values and the seed of every member."""
        first = self.base.seed
        seeds = range(first, first + self.seeds) if isinstance(self.seeds, int) else self.seeds
        axes = [[(name, v) for v in values] for name, values in self.over.items()]
        if seeds is not None:
            axes.append([("seed", int(seed)) for seed in seeds])
        return [dict(values) for values in itertools.product(*axes)]

    @property
    def alone(self) -> bool:
        """Whether each network trains alone: that of a run, or on streamed data, which no other
        network can share."""
        return self.seeds is None or self.base.task.streamed

    def experiment(self, member: Member) -> Experiment:
        """Return the experiment of a member."""
        return self.base.replace(**member)

    def options(self, member: Member | None = None) -> dict[str, Any]:
        """Return the options of a member, or of `base`, and of the sweep, as JSON has them."""
        own = {"patience": self.patience, "order": self.order}
        options = self.experiment(member or {}).options()
        return json.loads(json.dumps(options | own, default=str))


def _plain(value: Any) -> Any:
    """Return a value that is equal to what config.json gives back for it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return tuple(value)
    return str(value) if isinstance(value, Path) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a sweep is computed. It does not change the numbers beyond rounding.

    Attributes:
        wave: Number of members that train at once.
        placement: As in `snnjax.training.fit_ensemble`.
        checkpoint_every: Epochs between checkpoints.
    """

    wave: int = 16
    placement: Placement = "auto"
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        for name in ("wave", "checkpoint_every"):
            _check.integer(name, getattr(self, name), at_least=1)
        resolve(self.placement)


class SweepResult(NamedTuple):
    """A finished sweep.

    Attributes:
        rows: One dict per member, those of results.csv.
        folder: The folder with all files.
    """

    rows: list[Row]
    folder: Path


def load_sweep(folder: Path) -> Sweep:
    """Return a sweep that continues the one in `folder` without adding members.

    Args:
        folder: The folder of a run or of a sweep.

    Raises:
        FileNotFoundError: The folder has no run or sweep.
        ValueError: Its config.json is damaged, or this version does not know one of its options.
    """
    saved = read_config(folder)
    first = saved.pop("members")[0]
    seed = first.pop("seed", None)
    own = {name: saved.pop(name) for name in ("patience", "order") if name in saved}
    saved.pop("versions", None)
    try:
        base = Experiment.from_options(**saved)
        over = {name: (value,) for name, value in first.items()}
        return Sweep(base=base, over=over, seeds=None if seed is None else (seed,), **own)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}/config.json: {error}") from None
