"""A sweep trains every combination of seeds and hyper-parameter values, as resumable ensembles.

Members train in waves of a few, so that results come early and memory is bounded.
`snnjax.experiments.sweep_folder` describes the files, and why a sweep can be resumed after any
interruption. A finished member is never trained again, also if more seeds or values are added
later: the plan grows, and results.csv covers all of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax.datasets import Splits
from snnjax.experiments._run import (
    Data,
    calibrate_on,
    load,
    needs_data,
    plain,
    spread,
    train_source,
)
from snnjax.experiments.build import build_network, build_objective, build_optimizer, updates_of
from snnjax.experiments.config import TrainConfig
from snnjax.experiments.sweep_folder import (
    SWEEPABLE,
    Member,
    alone,
    check_folder,
    close_wave,
    content_of,
    member_file,
    next_wave,
    open_folder,
    write_member,
    write_results,
)
from snnjax.nn import Sequential
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import Hyper, Order, Program, Snapshot, fit_ensemble
from snnjax.training._inputs import choose_form
from snnjax.training._objective import Objective
from snnjax.training._placement import Placement, resolve

PROBED = 64
"""Number of training samples of the probe."""
_SEEN = ("sigma_u", "grad_z", "grad_w", "update")


class Sweep(NamedTuple):
    """A finished sweep.

    Attributes:
        rows: One dict per member, in the order of `grid`.
        folder: The folder with all files.
    """

    rows: list[dict[str, Any]]
    folder: Path


def grid(seeds: Sequence[int], varied: Mapping[str, Sequence[float]]) -> list[Member]:
    """Return every member of a sweep. The seed varies fastest.

    Args:
        seeds: The seeds.
        varied: The values of each swept parameter.

    Raises:
        ValueError: There is no seed, a value occurs twice, or a parameter cannot be swept because
            it changes shapes.

    >>> grid([0, 1], {"sigma_u": [0.5, 1.0]})[:3]
    [{'sigma_u': 0.5, 'seed': 0}, {'sigma_u': 0.5, 'seed': 1}, {'sigma_u': 1.0, 'seed': 0}]
    """
    for name, values in varied.items():
        _check.one_of("swept parameter", name, SWEEPABLE)
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"{name} must have at least one value and none twice, got {list(values)}"
            )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must have at least one seed and none twice, got {list(seeds)}")
    for seed in seeds:
        _check.integer("seed", seed, at_least=0, at_most=2**31 - 1)
    axes = [[(name, float(v)) for v in values] for name, values in varied.items()] + [
        [("seed", int(s)) for s in seeds]
    ]
    return [dict(choice) for choice in itertools.product(*axes)]


def parse_values(text: str) -> list[float]:
    """Parse values of the command line.

    Args:
        text: "0.1,0.3,1" or "low:high:number" or "low:high:log:number".

    Raises:
        ValueError: The text has another form.

    >>> parse_values("0.5,1"), parse_values("0:1:3")
    ([0.5, 1.0], [0.0, 0.5, 1.0])
    >>> [round(v, 3) for v in parse_values("0.01:100:log:5")]
    [0.01, 0.1, 1.0, 10.0, 100.0]
    """
    try:
        if ":" not in text:
            return [float(v) for v in text.split(",")]
        low, high, *scale, number = text.split(":")
        ends, count = (float(low), float(high)), int(number)
        if (
            count < 1
            or scale not in ([], ["log"], ["lin"])
            or (scale == ["log"] and min(ends) <= 0)
        ):
            raise ValueError
    except ValueError:
        raise ValueError(
            "values must be like 0.1,0.3,1 or 0:1:5 or 0.01:100:log:13 "
            f"(low:high:log:number, low > 0), got {text!r}"
        ) from None
    values = np.geomspace(*ends, count) if scale == ["log"] else np.linspace(*ends, count)
    # ten digits, so that a value read from a file name is the same number
    return [float(f"{v:.10g}") for v in values]


def program_of(config: Any, data: Data) -> Program:
    """Return the program of a member: its network, objective, optimizer, start and probe.

    Args:
        config: The configuration, from `load`, so that its `nu` is known.
        data: The data.
    """
    train = data.splits.train

    def of(hyper: Hyper) -> Any:
        varied = {name: value for name, value in hyper.items() if name != "seed"}
        return dataclasses.replace(config, **varied)

    def network(hyper: Hyper) -> Sequential:
        # weights that are drawn here and not used cost nothing, because XLA removes unused values
        return build_network(of(hyper), nu=config.nu, seed=hyper["seed"], **data.needs)

    def start(hyper: Hyper, network: Sequential, splits: Splits) -> Sequential:
        # a target that cannot be reached leaves the drawn weights unchanged
        return calibrate_on(network, plain(splits.train), of(hyper), seed=hyper["seed"])[0]

    def objective(hyper: Hyper) -> Objective:
        return build_objective(of(hyper), duration=train.steps * config.dt)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        return build_optimizer(of(hyper), steps=updates_of(config, len(train)))

    def look(hyper: Hyper, network: Sequential, splits: Splits) -> dict[str, jax.Array]:
        from snnjax.diagnostics import probe

        source = plain(splits.train)
        x, labels = source.batch(spread(source, PROBED))
        # Only the loss, without bounds: the gradient of a bound in a silent or overactive layer
        # would hide that of the loss.
        loss = Objective(objective(hyper).loss)
        layers = probe(network, x, labels, loss, optimizer=optimizer(hyper)).layers
        numbered = list(enumerate(layers, start=1))
        return {f"{name}_{k}": getattr(p, name) for name in _SEEN for k, p in numbered}

    program = Program(network, objective, optimizer, config.batch_size, look=look)
    start_from_data = start if needs_data(config) else None
    return program._replace(start=start_from_data, priming_epochs=config.priming_epochs)


def run_sweep(
    config: Any,
    members: Sequence[Member],
    folder: Path,
    *,
    resume: bool = False,
    datasets: Splits | None = None,
    wave: int = 16,
    placement: Placement = "auto",
    patience: int | None = None,
    order: Order = "member",
    checkpoint_every: int = 1,
    figure: bool = True,
    on_epoch: Sequence[Callable[[Snapshot, int, int], None]] = (),
) -> Sweep:
    """Train every member that is not finished in `folder`.

    Args:
        config: The configuration, such as a `RandmanConfig`. The values in `members` replace its
            own.
        members: The members, from `grid`.
        folder: A new or empty folder. With `resume`, the folder of the same sweep, with the same
            configuration and the same swept parameters. Members may be added.
        resume: Continue the sweep in `folder`.
        datasets: Training, validation and test set. None: `config.datasets()`.
        wave: Number of members that train at once.
        placement: As in `fit_ensemble`.
        patience: As in `snnjax.training.Program`.
        order: As in `snnjax.training.Program`.
        checkpoint_every: Epochs between checkpoints.
        figure: If True, draw sweep.png.
        on_epoch: Functions that are called with the `Snapshot` of each epoch, the number of members
            finished before this wave, and the number of members in the wave.

    Returns:
        The sweep. Its rows are those of results.csv, for all members of the plan.

    Raises:
        FileExistsError: The folder is not empty, and `resume` is False.
        BlockingIOError: Another process trains in the folder.
        ValueError: The folder has another configuration or other swept parameters, a file is
            damaged, an option is out of range, or a swept parameter has no effect.
    """
    for name, value in (
        ("wave", wave),
        ("checkpoint_every", checkpoint_every),
        *([] if patience is None else [("patience", patience)]),
    ):
        _check.integer(name, value, at_least=1)
    _check.one_of("order", order, get_args(Order))
    resolve(placement)
    if not members:
        raise ValueError("members must have at least one member, got none")
    for member in members:  # check every configuration before anything is computed
        dataclasses.replace(config, **member)
    _check_effects(config, members[0])
    content = content_of(config, {"patience": patience, "order": order}, swept=members[0])
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    check_folder(folder, content, defaults, resume=resume)
    if config.streamed:
        raise ValueError(
            "stream must be False (--no-stream) in a sweep, because its members share the training "
            "data on the device"
        )
    # load first, so that a task that cannot be loaded leaves no folder
    config, data = load(config, datasets)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        check_folder(folder, content, defaults, resume=resume)
        members = open_folder(folder, content, members)
        # this reads every finished member, so that a damaged file is found before training
        rows = write_results(folder, members, figure=figure)
        epochs = config.epochs + config.priming_epochs
        program = program_of(config, data)._replace(patience=patience, order=order)
        # members in one batch have separate lists of events, each as long as the longest of all
        events = False if config.events is None and resolve(placement) == "vmap" else config.events
        # an abstract network is sufficient to choose the form of the input
        network = nnx.eval_shape(lambda: build_network(config, nu=config.nu, **data.needs))
        splits = data.splits._replace(train=train_source(config, data.splits.train))
        splits = Splits(*(choose_form(network, source, events=events) for source in splits))
        while waiting := next_wave(folder, members, wave):
            finished = sum(member_file(folder, m).exists() for m in members if m not in waiting)
            checkpoints = Checkpoints(folder / "wave" / "checkpoints")

            def save(snapshot: Snapshot, checkpoints: Checkpoints = checkpoints) -> None:
                # always save the last epoch, because the files of the members are not written yet
                if (
                    snapshot.epoch % checkpoint_every == 0
                    or snapshot.epoch == epochs
                    or not snapshot.state.active.any()
                ):
                    checkpoints.save(snapshot)

            def announce(
                snapshot: Snapshot, finished: int = finished, size: int = len(waiting)
            ) -> None:
                for callback in on_epoch:
                    callback(snapshot, finished, size)

            result = fit_ensemble(
                program,
                {name: np.array([m[name] for m in waiting]) for name in waiting[0]},
                splits,
                epochs=config.epochs,
                dt=config.dt,
                placement=placement,
                resume=checkpoints.restore,
                on_epoch=[save, announce],
            )
            for k, member in enumerate(waiting):
                write_member(member_file(folder, member), member, result, k)
            close_wave(folder)
            rows = write_results(folder, members, figure=figure)
        return Sweep(rows, folder)


_ON_TARGET = ("fluctuation_driven", "lognormal", "data_driven", "data_driven_balanced")
"""Initializations with a target for the membrane."""
_USED: dict[str, Callable[[Any], bool]] = {
    "sigma_u": lambda c: c.init in _ON_TARGET,
    "mu_u": lambda c: c.init in _ON_TARGET,
    "mu_w": lambda c: c.init == "normal",
    "sigma_w": lambda c: c.init == "normal",
    "alpha": lambda c: c.recurrent and c.init in _ON_TARGET,
    "lsuv_rate": lambda c: c.init == "lsuv",
    "upper_rate": lambda c: c.upper_strength > 0,
    "lower_threshold": lambda c: c.lower_strength > 0,
    "beta": lambda c: c.gradient != "steepness" or c.depth == 1,  # a single layer keeps its beta
}
"""Whether a configuration uses a parameter. Parameters that are not listed are always used."""


def _check_effects(config: TrainConfig, member: Member) -> None:
    """Raise if a swept parameter has no effect."""
    config = dataclasses.replace(config, **member)
    for name in member:
        if not _USED.get(name, lambda _: True)(config):
            settings = ("init", "recurrent", "upper_strength", "lower_strength", "gradient")
            given = ", ".join(f"{setting} = {getattr(config, setting)}" for setting in settings)
            raise ValueError(
                f"{name} must have an effect to be swept, but has none with {given}; "
                "change these settings, or do not sweep it"
            )
