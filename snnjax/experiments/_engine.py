"""The engine of runs and sweeps: every combination of seeds and values, in a folder.

Members that differ only in numbers that keep shapes (`Part.traced`) and in the seed form a group,
which is one compiled program. Members of a group train in waves of a few, so that results come
early and memory is bounded. A run is a sweep with one member, which trains alone.
`snnjax.experiments._sweep_folder` describes the files, and why a sweep can be resumed after any
interruption. A finished member is never trained again, also if more seeds or values are added
later: the plan grows, and results.csv covers all of it.

In a cluster of `jax.distributed` each process trains its share of the waves, in one folder that all
of them see. Waves depend only on the plan, so that every number of processes writes the same files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnjax.datasets import Splits
from snnjax.experiments._data import Data, at, load
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._group import traced_in, train_together
from snnjax.experiments._hosts import wait
from snnjax.experiments._rows import Member
from snnjax.experiments._run import Prepared, Run, initialized, prepare, run_alone
from snnjax.experiments._sweep import Execution, Sweep, SweepResult, load_sweep
from snnjax.experiments._sweep_folder import (
    alone,
    claimed,
    close_wave,
    finished,
    has_sweep,
    member_folder,
    members_of,
    open_folder,
    plan_waves,
    planned,
    rows_in,
    waves_in,
    write_member,
    write_results,
)
from snnjax.training._callbacks import Callback, FitState
from snnjax.training._callbacks import Row as EpochRow
from snnjax.training._ensemble import Snapshot
from snnjax.training._fit import TrainingDivergedError

Watch = Callable[[Snapshot, int, int], None]
"""A function of the snapshot of an epoch, the number of finished members, and the members of the
wave."""


def run(
    experiment: Experiment,
    folder: Path | None = None,
    *,
    resume: bool = False,
    datasets: Splits | None = None,
    callbacks: Sequence[Callback | Callable[[EpochRow], Any]] = (),
) -> Run:
    """Train the network of an experiment.

    Args:
        experiment: The experiment.
        folder: A new or empty folder for config.json, metrics.csv, results.json, parameters,
            checkpoints and figures. None: write nothing.
        resume: Continue the run in `folder` from its last checkpoint, if there is one.
        datasets: Training, validation and test set: three `EventDataset`s or `ImageDataset`s, the
            first may be a `Stream`. None: those of the task. Pass them to load the data only once
            for many seeds.
        callbacks: As in `snnjax.training.fit`. There is no progress bar unless it is one of them.

    Returns:
        The trained network, the result of training, and a summary.

    Raises:
        FileExistsError: `folder` is not empty, and `resume` is False.
        BlockingIOError: Another process trains in `folder`.
        ValueError: The data or an option cannot be used, or `folder` has another experiment.
        TrainingDivergedError: As in `fit`. The available results are written to the folder first.
        TrainingInterrupted: As in `fit`. The available results are written to the folder first.
    """
    if folder is None:
        return run_alone(prepare(experiment, datasets), {}, callbacks)
    execution = Execution(checkpoint_every=max(1, experiment.training.epochs // 20))
    sweep, options = Sweep(base=experiment, seeds=None), {"resume": resume, "datasets": datasets}
    ends = _execute(sweep, Path(folder), execution, callbacks=callbacks, **options)
    if not ends:
        raise ValueError(f"the run in {folder} is finished; name another folder for a new run")
    if isinstance(ends[0], TrainingDivergedError):
        raise ends[0]
    return ends[0]


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
        figure: If True, draw sweep.png, and the figures of networks that train alone.
        on_epoch: Functions that are called with the `Snapshot` of each epoch, the number of members
            finished before this wave, and the number of members in the wave.

    Returns:
        The sweep. Its rows are those of results.csv, for all members of the plan.

    Raises:
        FileExistsError: The folder is not empty, and `resume` is False.
        BlockingIOError: Another process trains in the folder.
        ValueError: The folder has another sweep, or a file is damaged.
    """
    options = {"resume": resume, "datasets": datasets, "figure": figure, "on_epoch": on_epoch}
    _execute(sweep, Path(folder), execution or Execution(), **options)
    return SweepResult(rows_in(folder, planned(folder)), Path(folder))


def _execute(
    sweep: Sweep,
    folder: Path,
    execution: Execution,
    *,
    resume: bool,
    datasets: Splits | None,
    figure: bool = True,
    on_epoch: Sequence[Watch] = (),
    callbacks: Sequence[Callback | Callable[[EpochRow], Any]] = (),
) -> list[Run | TrainingDivergedError]:
    """Train what is missing of a sweep, and return the ends of networks that trained alone.

    The arguments are those of `run` and `run_sweep`.
    """
    loaded, wanted = _Loaded(datasets), sweep.members()
    ends: list[Run | TrainingDivergedError] = []
    first, several = jax.process_index() == 0, jax.process_count() > 1
    if first:
        check(sweep, folder, resume=resume)
    if finished(folder, wanted) != wanted:
        # what cannot be loaded or reach its target leaves no folder
        (loaded.prepared if sweep.alone else loaded.data)(sweep.experiment(wanted[0]))
    wait("loaded")
    with contextlib.ExitStack() as stack:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder))
            check(sweep, folder, resume=resume)
            _plan(sweep, folder, execution, figure=figure)
        wait("planned")
        members = planned(folder)
        while waves := waves_in(folder):
            for place, waiting in waves:
                with claimed(place) as own:
                    if not own:
                        continue
                    others = len(finished(folder, [m for m in members if m not in waiting]))
                    count = (others, len(waiting))
                    watch = [lambda s, f=f, count=count: f(s, *count) for f in on_epoch]
                    options = {"checkpoints": place / "checkpoints", "execution": execution}
                    member = waiting[0]
                    if sweep.alone:
                        prepared = loaded.prepared(sweep.experiment(member))
                        options |= {"place": member_folder(folder, member), "figures": figure}
                        try:
                            each = [_Watched(watch), *callbacks]
                            ends.append(run_alone(prepared, member, each, **options))
                        except TrainingDivergedError as error:  # counts with its last results
                            ends.append(error)
                    else:
                        group = _group(sweep, member)
                        data, options["watch"] = loaded.data(group), watch
                        trained = train_together(sweep, group, waiting, data, **options)
                        for member, (result, row) in zip(waiting, trained, strict=True):
                            write_member(member_folder(folder, member), result, row)
                    close_wave(place)
                    if first:
                        write_results(folder, members, figure=figure)
            if several and waves_in(folder):  # other processes are training
                time.sleep(1)
        if first:
            write_results(folder, members, figure=figure)
        if not several:
            with contextlib.suppress(OSError):
                (folder / "waves").rmdir()
    return ends


def _plan(sweep: Sweep, folder: Path, execution: Execution, *, figure: bool) -> None:
    """Write the members of a sweep, and the waves of those that are not finished."""
    members = open_folder(folder, sweep.options(), sweep.members())
    # this reads every finished member, so that a damaged file is found before training
    write_results(folder, members, figure=figure)
    # the files of a network that trains alone are written when it is finished
    plan_waves(folder, groups_of(sweep, members), 1 if sweep.alone else execution.wave)


def groups_of(sweep: Sweep, members: Sequence[Member]) -> list[list[Member]]:
    """Return the members of a sweep in groups that can train together, each in one program."""
    groups: dict[Experiment, list[Member]] = {}
    for member in members:
        groups.setdefault(_group(sweep, member), []).append(member)
    return list(groups.values())


def check(sweep: Sweep, folder: Path, *, resume: bool) -> None:
    """Check that a folder is new or has the same sweep. Nothing is written. Data may have moved.

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
        has, got = (f"a sweep over {sorted(m)}" if m else "a run" for m in (plan[0], members[0]))
        raise ValueError(f"{folder} has {has}, got {got}; name the same options, or another folder")
    # a number other than 0 decides neither which options there are nor which have an effect
    kind = lambda one: tuple(bool(v) if isinstance(v, float) else v for v in one.values())
    kinds = {kind(m | {"seed": 0}): m for m in members_of(folder, members)}
    for member in kinds.values():
        one, other = saved.options(member), sweep.options(member)
        names = [n for n in {**one, **other} if n != "data" and one.get(n) != other.get(n)]
        if names:
            shown = (f"{name} ({one.get(name)!r}, got {other.get(name)!r})" for name in names)
            raise ValueError(
                f"{folder} has another experiment; it differs in {', '.join(shown)}. Name another "
                "folder"
            )


def _group(sweep: Sweep, member: Member) -> Experiment:
    """Return what is equal for members that can train together: seed and traced values are those
    of `base`, or of the first values of the sweep."""
    experiment = sweep.experiment(member)
    same = {name: sweep.over[name][0] for name in member if name in traced_in(experiment)}
    return at(experiment, same | {"seed": sweep.base.seed})


class _Loaded:
    """The data of the last experiment. Experiments of one task share what was read."""

    def __init__(self, datasets: Splits | None) -> None:
        self.given, self.task, self.read = datasets, None, datasets
        self.experiment: Experiment | None = None
        self.made: Prepared | None = None

    def data(self, experiment: Experiment) -> Data:
        if self.experiment != experiment:
            if self.given is None and (self.task != experiment.task or experiment.task.streamed):
                self.task, self.read = experiment.task, experiment.datasets()
            self.experiment, self.last = experiment, load(experiment, self.read)
        return self.last

    def prepared(self, experiment: Experiment) -> Prepared:
        if self.made is None or self.made.experiment != experiment:
            self.made = initialized(experiment, self.data(experiment))
        return self.made


class _Watched(Callback):
    """Calls the functions of a wave after each epoch of `fit`."""

    def __init__(self, watch: Sequence[Callable[[Snapshot], None]]) -> None:
        self.watch = watch

    def epoch_end(self, row: EpochRow, state: FitState) -> None:
        history = {name: np.array([[one[name] for one in state.history]]) for name in row}
        for callback in self.watch:
            callback(Snapshot(int(row["epoch"]), None, history, {}))
