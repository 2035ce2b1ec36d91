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
import functools
import itertools
import json
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
from snnjax.experiments._hosts import wait
from snnjax.experiments._load import as_json, differences, load_experiment, read_json
from snnjax.experiments._options import options_of
from snnjax.experiments._rows import Member, Row, of_one
from snnjax.experiments._run import CHECKPOINTS, prepare, train_alone
from snnjax.experiments._sweep_folder import (
    alone,
    claimed,
    close_wave,
    finished,
    has_sweep,
    member_file,
    members_of,
    open_folder,
    plan_waves,
    planned,
    waves_in,
    write_member,
    write_results,
)
from snnjax.nn import Sequential
from snnjax.training._callbacks import Callback, FitState
from snnjax.training._callbacks import Row as EpochRow
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

    def options(self, member: Member) -> dict[str, Any]:
        """Return the options of a member and of the sweep, as JSON reads them back."""
        own = {"patience": self.patience, "order": self.order}
        return json.loads(json.dumps(self.experiment(member).options() | own, default=str))

    def identity(self) -> dict[str, Any]:
        """Return the options that all members share, as JSON reads them back."""
        left_out = {"seed", *self.over}
        options = as_json(self.base) | {"patience": self.patience, "order": self.order}
        shared = {name: value for name, value in options.items() if name not in left_out}
        return json.loads(json.dumps(shared, default=str))

    def config(self) -> dict[str, Any]:
        """Return the content of config.json: the shared options, and apart those of `base` that
        every member replaces. Without them, others may have no effect, or belong to another
        choice."""
        own = self.base.options()
        replaced = {name: _plain(own[name]) for name in self.over if name in own}
        return self.identity() | {"base": replaced}


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
    first = jax.process_index() == 0
    if first:
        check(sweep, folder, resume=resume)
    members = sweep.members()
    # load first, so that a task that cannot be loaded leaves no folder
    loaded = _Loaded(datasets)
    loaded.data(sweep.experiment(members[0]))
    wait("loaded")
    with contextlib.ExitStack() as stack:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder))
            check(sweep, folder, resume=resume)
            members = open_folder(folder, sweep.config(), members)
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
        while waves := waves_in(folder):
            for place, waiting in waves:
                with claimed(place) as own:
                    if own:
                        others = finished(folder, [m for m in members if m not in waiting])
                        counted = functools.partial(_counted, len(others), len(waiting))
                        wave = _Wave(sweep, waiting, place, execution, [*map(counted, on_epoch)])
                        _complete(wave, folder, loaded)
                        if first:
                            write_results(folder, members, figure=figure)
            if jax.process_count() > 1 and waves_in(folder):  # other processes are training
                time.sleep(1)
        rows = write_results(folder, members, figure=figure and first, write=first)
        return SweepResult(rows, folder)


def check(sweep: Sweep, folder: Path, *, resume: bool) -> None:
    """Check that a folder is new or has the same sweep. Nothing is written.

    Two sweeps are the same if they give the same experiment for every member of both, whatever
    the values in their bases that all members replace.

    Args:
        sweep: The sweep.
        folder: The folder.
        resume: Whether the sweep in the folder is to be continued.

    Raises:
        FileExistsError: The folder is not empty and has no sweep, or it has one and `resume` is
            False.
        ValueError: The folder has a sweep of other experiments or over other options.
    """
    if not has_sweep(folder, resume=resume):
        return
    saved, plan, members = load_sweep(folder), planned(folder), sweep.members()
    if plan[0].keys() != members[0].keys():
        raise ValueError(
            f"{folder} has a sweep over {sorted(plan[0])}, got one over {sorted(members[0])}; name "
            "the same options, or another folder"
        )
    # a number other than 0 decides neither which options there are nor which have an effect
    kind = lambda one: tuple(bool(v) if isinstance(v, float) else v for v in one.values())
    kinds = {kind(m | {"seed": 0}): m for m in members_of(folder, members)}
    for member in kinds.values():
        one, other = saved.options(member), sweep.options(member)
        if different := differences(one, dict.fromkeys(one) | other):
            raise ValueError(
                f"{folder} has a sweep of another experiment; it differs in {different}. Name "
                "another folder"
            )


def _group(sweep: Sweep, member: Member) -> Experiment:
    """Return what is equal for members that can train together: seed and traced values are those
    of `base`, or of the first values of the sweep."""
    experiment = sweep.experiment(member)
    traced = [o.name for o in options_of(experiment) if o.name in o.part.traced]
    same = {name: sweep.over[name][0] for name in member if name in traced}
    return at(experiment, same | {"seed": sweep.base.seed})


def _counted(finished: int, size: int, callback: Watch) -> Callable[[Snapshot], None]:
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
        members: The members.
        folder: The folder of the wave.
        execution: How it is computed.
        watch: Functions of the snapshot of each epoch.
    """

    sweep: Sweep
    members: Sequence[Member]
    folder: Path
    execution: Execution
    watch: Sequence[Callable[[Snapshot], None]]


def _complete(wave: _Wave, folder: Path, loaded: _Loaded) -> None:
    """Train a wave, write its members, and remove it."""
    train = _train_alone if wave.sweep.base.task.streamed else _train_together
    result = train(wave, loaded)
    for k, member in enumerate(wave.members):
        write_member(member_file(folder, member), member, result, k)
    close_wave(wave.folder)


def _train_together(wave: _Wave, loaded: _Loaded) -> EnsembleResult:
    """Train the members of a wave as one ensemble, from its last checkpoint."""
    sweep, members, folder, execution, watch = wave
    experiment = _group(sweep, members[0])
    data, training = loaded.data(experiment), experiment.training
    program = program_of(experiment, data)._replace(patience=sweep.patience, order=sweep.order)
    placement, events = execution.placement, training.events
    if jax.process_count() > 1 and placement in ("auto", "shard"):
        placement = "local"
    if events is None and resolve(placement) == "vmap":
        # members in one batch have separate lists of events, each as long as the longest of all
        events = False
    # an abstract network is sufficient to choose the form of the input
    network = nnx.eval_shape(lambda: build_network(experiment, data.inputs))
    splits = data.splits._replace(train=train_source(experiment, data))
    splits = Splits(*(choose_form(network, source, events=events) for source in splits))
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    last = training.epochs + training.priming_epochs

    def save(snapshot: Snapshot) -> None:
        # always save the last epoch, because the files of the members are not written yet
        due = snapshot.epoch % execution.checkpoint_every == 0 or snapshot.epoch == last
        if due or not snapshot.state.active.any():
            checkpoints.save(snapshot)

    traced = [o.name for o in options_of(experiment) if o.name in o.part.traced]
    varied = [name for name in members[0] if name in traced or name == "seed"]
    return fit_ensemble(
        program,
        {name: np.array([m[name] for m in members]) for name in varied},
        splits,
        epochs=training.epochs,
        dt=experiment.neuron.dt,
        placement=placement,
        resume=checkpoints.restore,
        on_epoch=[save, *watch],
    )


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


def _train_alone(wave: _Wave, loaded: _Loaded) -> EnsembleResult:
    """Train the only member of a wave, whose streamed data no other member can share.

    A network that became not finite counts with its last results, as in an ensemble.
    """
    (member,) = wave.members
    prepared = prepare(wave.sweep.experiment(member), loaded.given)
    every = wave.execution.checkpoint_every
    watch = [_Watched(wave.watch)]
    try:
        folder = wave.folder / CHECKPOINTS
        return of_one(train_alone(prepared, watch, checkpoints=folder, every=every))
    except TrainingDivergedError as error:
        return of_one(error.result, finite=False)


class _Watched(Callback):
    """Calls the functions of a wave after each epoch of `fit`."""

    def __init__(self, watch: Sequence[Callable[[Snapshot], None]]) -> None:
        self.watch = watch

    def epoch_end(self, row: EpochRow, state: FitState) -> None:
        history = {name: np.array([[one[name] for one in state.history]]) for name in row}
        for callback in self.watch:
            callback(Snapshot(int(row["epoch"]), None, history, {}))


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
    base = load_experiment(
        folder, besides=("patience", "order", "base"), replaced=saved.get("base", first)
    )
    over = {name: (value,) for name, value in first.items()}
    own = {"patience": saved.get("patience"), "order": saved.get("order", "member")}
    return Sweep(base=base, over=over, seeds=(seed,), **own)
