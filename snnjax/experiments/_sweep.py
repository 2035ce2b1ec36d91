"""A sweep trains every combination of seeds and values of options, as resumable ensembles.

Members that differ only in numbers that keep shapes (`Part.traced`) and in the seed form a group,
which is one compiled program. Members of a group train in waves of a few, so that results come
early and memory is bounded. `snnjax.experiments._sweep_folder` describes the files, and why a sweep
can be resumed after any interruption. A finished member is never trained again, also if more seeds
or values are added later: the plan grows, and results.csv covers all of it.

In a cluster of `jax.distributed` each process trains its share of the waves, in one folder that all
of them see. Waves depend only on the plan, so that every number of processes writes the same files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax.datasets import Splits
from snnjax.experiments._build import build_network, build_objective, build_optimizer
from snnjax.experiments._data import Data, at, calibrate_on, load, plain, spread, train_source
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._hosts import here, wait
from snnjax.experiments._load import as_json, load_experiment, read_json
from snnjax.experiments._options import options_of
from snnjax.experiments._rows import Member, Row, of_one
from snnjax.experiments._run import CHECKPOINTS, run
from snnjax.experiments._sweep_folder import (
    alone,
    check_folder,
    claim,
    close_wave,
    member_file,
    open_folder,
    plan_waves,
    planned,
    waves_in,
    write_member,
    write_results,
)
from snnjax.nn import Sequential
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import (
    EnsembleResult,
    Hyper,
    Order,
    Program,
    Snapshot,
    fit_ensemble,
)
from snnjax.training._fit import TrainingDivergedError
from snnjax.training._inputs import choose_form
from snnjax.training._objective import Objective
from snnjax.training._placement import Placement, resolve

PROBED = 64
"""Number of training samples of the probe."""
_SEEN = ("sigma_u", "grad_z", "grad_w", "update", "gain", "agreement", "step")
"""Columns `initial_NAME_K`. `memory` would need a second forward pass, and `bounds` a second
probe."""
Watch = Callable[[Snapshot, int, int], None]
"""A function of the snapshot of an epoch, the number of finished members, and the members of the
wave."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """An experiment, values for some of its options, and seeds.

    Attributes:
        base: The experiment.
        over: The values of each swept option, by its name. The last one varies fastest.
        seeds: The seeds, or their number, counted from the seed of `base`. Seeds vary fastest.
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
    seeds: int | Sequence[int] = 5
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
        elif not (seeds := list(self.seeds)) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must have at least one seed and none twice, got {seeds}")
        if self.patience is not None:
            _check.integer("patience", self.patience, at_least=1)
        _check.one_of("order", self.order, get_args(Order))
        if self.base.task.streamed and (self.patience is not None or self.order != "member"):
            raise ValueError("patience and order have no effect on streamed data; leave them out")
        for member in self.members():  # check every experiment before anything is computed
            self.experiment(member)

    def members(self) -> list[Member]:
        """Return the values and the seed of every member."""
        first = self.base.seed
        seeds = range(first, first + self.seeds) if isinstance(self.seeds, int) else self.seeds
        axes = [[(name, v) for v in values] for name, values in self.over.items()]
        return [dict(c) for c in itertools.product(*axes, [("seed", int(s)) for s in seeds])]

    def experiment(self, member: Member) -> Experiment:
        """Return the experiment of a member."""
        return self.base.replace(**member)

    def identity(self) -> dict[str, Any]:
        """Return the options that all members share, as JSON reads them back."""
        left_out = {"seed", *self.over}
        options = as_json(self.base) | {"patience": self.patience, "order": self.order}
        shared = {name: value for name, value in options.items() if name not in left_out}
        return json.loads(json.dumps(shared, default=str))

    def replaced(self) -> dict[str, Any]:
        """Return the options of `base` that every member replaces, for `load_sweep`."""
        own = self.base.options()
        return {name: _plain(own[name]) for name in self.over if name in own}


def _plain(value: Any) -> Any:
    """Return a value that is equal to what plan.json gives back for it."""
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


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    resume: bool = False,
    datasets: Splits | None = None,
    execution: Execution | None = None,
    figure: bool = True,
    on_epoch: Sequence[Watch] = (),
) -> SweepResult:
    """Train every member that is not finished in `folder`.

    Args:
        sweep: The sweep.
        folder: A new or empty folder. With `resume`, the folder of the same sweep, over the same
            options. Values and seeds may be added.
        resume: Continue the sweep in `folder`.
        datasets: Training, validation and test set of all members. None: those of the task.
        execution: How it is computed. None: the defaults.
        figure: If True, draw sweep.png.
        on_epoch: Functions that are called with the `Snapshot` of each epoch, the number of members
            finished before this wave, and the number of members in the wave.

    Returns:
        The sweep. Its rows are those of results.csv, for all members of the plan.

    Raises:
        FileExistsError: The folder is not empty, and `resume` is False.
        BlockingIOError: Another process trains in the folder.
        ValueError: The folder has another sweep, or a file is damaged.
    """
    execution = execution or Execution()
    identity = sweep.identity()
    versions = identity.pop("versions")
    new = options_of(Experiment.from_options(sweep.base.task.name))
    defaults = {option.name: option.value for option in new}
    first = here().process == 0
    if first:
        check_folder(folder, identity, defaults, resume=resume)
    members = sweep.members()
    # load first, so that a task that cannot be loaded leaves no folder
    loaded = _Loaded(datasets)
    loaded.data(sweep.experiment(members[0]))
    wait("loaded")
    with contextlib.ExitStack() as stack:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder))
            check_folder(folder, identity, defaults, resume=resume)
            config = identity | {"versions": versions, "base": sweep.replaced()}
            members = open_folder(folder, config, members)
            # this reads every finished member, so that a damaged file is found before training
            write_results(folder, members, figure=figure)
            groups: dict[Experiment, list[Member]] = {}
            for member in members:
                groups.setdefault(_group(sweep, member), []).append(member)
            # a streamed member is a wave of its own: its file is written when it is finished
            size = 1 if sweep.base.task.streamed else execution.wave
            plan_waves(folder, list(groups.values()), size)
        wait("planned")
        members = planned(folder)
        for place, waiting in waves_in(folder):
            if not claim(place):
                continue
            finished = sum(member_file(folder, m).exists() for m in members if m not in waiting)
            watch = [_counted(callback, finished, len(waiting)) for callback in on_epoch]
            experiment = _group(sweep, waiting[0])
            train = _train_one_by_one if experiment.task.streamed else _train_together
            wave = _Wave(sweep, experiment, waiting, place, execution, watch)
            results = train(wave, loaded)
            for k, member in enumerate(waiting):
                write_member(member_file(folder, member), member, *results[k])
            close_wave(place)
            if first:
                write_results(folder, members, figure=figure)
        while waves_in(folder):  # other processes are training
            time.sleep(1)
        rows = write_results(folder, members, figure=figure and first, write=first)
        return SweepResult(rows, folder)


def _group(sweep: Sweep, member: Member) -> Experiment:
    """Return what is equal for members that can train together: seed and traced values are those
    of `base`, or of the first values of the sweep."""
    experiment = sweep.experiment(member)
    traced = [o.name for o in options_of(experiment) if o.name in o.part.traced]
    same = {name: sweep.over[name][0] for name in member if name in traced}
    return at(experiment, same | {"seed": sweep.base.seed})


def _counted(callback: Watch, finished: int, size: int) -> Callable[[Snapshot], None]:
    return lambda snapshot: callback(snapshot, finished, size)


class _Loaded:
    """The data of the last experiment. Experiments of one task share what was read."""

    def __init__(self, datasets: Splits | None) -> None:
        self.given, self.task, self.read = datasets, None, datasets
        self.experiment: Experiment | None = None

    def data(self, experiment: Experiment) -> Data:
        if self.experiment != experiment:
            if self.given is None and (self.task != experiment.task or experiment.task.streamed):
                self.task, self.read = experiment.task, experiment.datasets()
            self.experiment, self.last = experiment, load(experiment, self.read)
        return self.last


class _Wave(NamedTuple):
    """Members that train together.

    Attributes:
        sweep: The sweep.
        experiment: What is equal for the members (`_group`).
        members: The members.
        folder: The folder of the wave.
        execution: How it is computed.
        watch: Functions of the snapshot of each epoch.
    """

    sweep: Sweep
    experiment: Experiment
    members: Sequence[Member]
    folder: Path
    execution: Execution
    watch: Sequence[Callable[[Snapshot], None]]


Trained = list[tuple[EnsembleResult, int]]
"""For each member of a wave the result that it is in, and its index there."""


def _train_together(wave: _Wave, loaded: _Loaded) -> Trained:
    """Train the members of a wave as one ensemble, from its last checkpoint."""
    sweep, experiment, members, folder, execution, watch = wave
    data, training = loaded.data(experiment), experiment.training
    program = program_of(experiment, data)._replace(patience=sweep.patience, order=sweep.order)
    placement, events = execution.placement, training.events
    if here().processes > 1 and placement in ("auto", "shard"):
        placement = "local"
    if events is None and resolve(placement) == "vmap":
        # members in one batch have separate lists of events, each as long as the longest of all
        events = False
    # an abstract network is sufficient to choose the form of the input
    network = nnx.eval_shape(lambda: build_network(experiment, data.inputs))
    splits = data.splits._replace(train=train_source(experiment, data))
    splits = Splits(*(choose_form(network, source, events=events) for source in splits))
    checkpoints = Checkpoints(folder / "checkpoints")
    last = training.epochs + training.priming_epochs

    def save(snapshot: Snapshot) -> None:
        # always save the last epoch, because the files of the members are not written yet
        due = snapshot.epoch % execution.checkpoint_every == 0 or snapshot.epoch == last
        if due or not snapshot.state.active.any():
            checkpoints.save(snapshot)

    traced = [o.name for o in options_of(experiment) if o.name in o.part.traced]
    varied = [name for name in members[0] if name in traced or name == "seed"]
    result = fit_ensemble(
        program,
        {name: np.array([m[name] for m in members]) for name in varied},
        splits,
        epochs=training.epochs,
        dt=experiment.neuron.dt,
        placement=placement,
        resume=checkpoints.restore,
        on_epoch=[save, *watch],
    )
    return [(result, k) for k in range(len(members))]


def program_of(experiment: Experiment, data: Data) -> Program:
    """Return the program of a group: network, objective, optimizer, start and probe of a member.

    Args:
        experiment: The experiment. Seed and traced values are those of each member.
        data: The data.
    """

    def of(hyper: Hyper) -> Experiment:
        return at(experiment, {name: v for name, v in hyper.items() if name != "seed"})

    def network(hyper: Hyper) -> Sequential:
        # weights that are drawn here and not used cost nothing, because XLA removes unused values
        return build_network(of(hyper), data.inputs, seed=hyper["seed"])

    def start(hyper: Hyper, network: Sequential, splits: Splits) -> Sequential:
        # a target that cannot be reached leaves the drawn weights unchanged
        return calibrate_on(network, plain(splits.train), of(hyper), seed=hyper["seed"])[0]

    def objective(hyper: Hyper) -> Objective:
        duration = data.splits.train.steps * experiment.neuron.dt
        return build_objective(of(hyper), duration=duration)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        return build_optimizer(of(hyper), samples=len(data.splits.train))

    def look(hyper: Hyper, network: Sequential, splits: Splits) -> dict[str, jax.Array]:
        from snnjax.diagnostics import probe

        source = plain(splits.train)
        x, labels = source.batch(spread(source, PROBED))
        # Only the loss, without bounds: the gradient of a bound in a silent or overactive layer
        # would hide that of the loss.
        loss = Objective(objective(hyper).loss)
        # The largest learning rate, without schedule: the first step of a warmup is always small.
        largest = build_optimizer(of(hyper))
        layers = probe(network, x, labels, loss, optimizer=largest).layers
        numbered = list(enumerate(layers, start=1))
        return {f"{name}_{k}": getattr(p, name) for name in _SEEN for k, p in numbered}

    training = experiment.training
    program = Program(network, objective, optimizer, training.batch_size, look=look)
    return program._replace(
        start=start if experiment.start.from_data else None,
        priming_epochs=training.priming_epochs,
    )


def _train_one_by_one(wave: _Wave, loaded: _Loaded) -> Trained:
    """Train the members of a wave with streamed data, which they cannot share.

    Each is a run of its own in the folder of the wave, and continues from its checkpoint. A network
    that became not finite counts with its last results, as in an ensemble.
    """
    trained = []
    for k, member in enumerate(wave.members):
        folder = wave.folder / f"{k:04d}"
        one = wave.sweep.experiment(member)
        resume = (folder / CHECKPOINTS).exists()
        if not resume:  # it stopped before its first checkpoint, or after its last epoch
            shutil.rmtree(folder, ignore_errors=True)
        try:
            found, finite = run(one, folder, resume=resume, datasets=loaded.given).fit, True
        except TrainingDivergedError as error:
            found, finite = error.result, False
        trained.append((of_one(found, finite=finite), 0))
    return trained


def load_sweep(folder: Path) -> Sweep:
    """Return a sweep that continues the one in `folder` without adding members.

    Args:
        folder: The folder of the sweep.

    Raises:
        ValueError: The folder has no sweep, or a file is damaged.
    """
    if not (folder / "plan.json").exists():
        raise ValueError(f"{folder} has no sweep; name a folder of snnjax sweep")
    first = planned(folder)[0]
    saved = read_json(folder / "config.json")
    seed = first.pop("seed")
    # without the values of `base`, other options may have no effect, or belong to another choice
    base = load_experiment(
        folder, besides=("patience", "order", "base"), replaced=saved.get("base", first)
    )
    over = {name: (value,) for name, value in first.items()}
    own = {"patience": saved.get("patience"), "order": saved.get("order", "member")}
    return Sweep(base=base, over=over, seeds=(seed,), **own)
