"""A sweep: every product of seeds and values of hyper-parameters, trained as ensembles that survive being killed.

Members train in waves of a few, so that results come early and memory stays bounded. What is in the folder, and why it can be gone on with after any
interruption: `snnjax.experiments.sweep_folder`. A finished member is never trained again, also when more seeds or values are asked for later: the plan
grows, and results.csv covers all of it.
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
from snnjax.experiments._run import Data, calibrate_on, load, needs_data, plain, spread, train_source
from snnjax.experiments.build import build_network, build_objective, build_optimizer, updates_of
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
from snnjax.training.checkpoint import Checkpoints
from snnjax.training.ensemble import Hyper, Order, Program, Snapshot, fit_ensemble
from snnjax.training.inputs import choose_form
from snnjax.training.objective import Objective
from snnjax.training.placement import Placement, resolve

PROBED = 64
"""Training samples that the probe looks at."""
_SEEN = ("sigma_u", "grad_z", "grad_w", "update")


class Sweep(NamedTuple):
    """A finished sweep: one dict a member in the order of `grid`, and the folder with everything else."""

    rows: list[dict[str, Any]]
    folder: Path


def grid(seeds: Sequence[int], varied: Mapping[str, Sequence[float]]) -> list[Member]:
    """Every member of a sweep, the seed running fastest.

    Raises:
      ValueError: no seed, a value twice, or a name that cannot be swept: it must leave all shapes alone.

    >>> grid([0, 1], {"sigma_u": [0.5, 1.0]})[:3]
    [{'sigma_u': 0.5, 'seed': 0}, {'sigma_u': 0.5, 'seed': 1}, {'sigma_u': 1.0, 'seed': 0}]
    """
    for name, values in varied.items():
        _check.one_of("swept parameter", name, SWEEPABLE)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must have at least one value and none twice, got {list(values)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be at least one and none twice, got {list(seeds)}")
    for seed in seeds:
        _check.integer("seed", seed, at_least=0, at_most=2**31 - 1)
    axes = [[(name, float(v)) for v in values] for name, values in varied.items()] + [[("seed", int(s)) for s in seeds]]
    return [dict(choice) for choice in itertools.product(*axes)]


def parse_values(text: str) -> list[float]:
    """Values as the command line writes them: "0.1,0.3,1" or "low:high:number" or "low:high:log:number".

    >>> parse_values("0.5,1"), parse_values("0:1:3"), [round(v, 3) for v in parse_values("0.01:100:log:5")]
    ([0.5, 1.0], [0.0, 0.5, 1.0], [0.01, 0.1, 1.0, 10.0, 100.0])
    """
    try:
        if ":" not in text:
            return [float(v) for v in text.split(",")]
        low, high, *scale, number = text.split(":")
        ends, count = (float(low), float(high)), int(number)
        if count < 1 or scale not in ([], ["log"], ["lin"]) or (scale == ["log"] and min(ends) <= 0):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"values must be like 0.1,0.3,1 or 0:1:5 or 0.01:100:log:13 (low:high:log:number, low > 0), got {text!r}"
        ) from None
    values = np.geomspace(*ends, count) if scale == ["log"] else np.linspace(*ends, count)
    # ten digits: a value must be the same number when it is read back from a file's name
    return [float(f"{v:.10g}") for v in values]


def program_of(config: Any, data: Data) -> Program:
    """What a member of a sweep of `config` (from `load`, so with its `nu` known) does on `data`."""
    train = data.splits.train

    def of(hyper: Hyper) -> Any:
        varied = {name: value for name, value in hyper.items() if name != "seed"}
        return dataclasses.replace(config, **varied)

    def network(hyper: Hyper) -> Any:
        # weights that are drawn here and not used cost nothing: XLA leaves them out
        return build_network(of(hyper), nu=config.nu, seed=hyper["seed"], **data.needs)

    def start(hyper: Hyper, network: Any, splits: Splits) -> Any:
        # a target out of reach leaves what was drawn
        return calibrate_on(network, plain(splits.train), of(hyper), seed=hyper["seed"])[0]

    def objective(hyper: Hyper) -> Objective:
        return build_objective(of(hyper), duration=train.steps * config.dt)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        return build_optimizer(of(hyper), steps=updates_of(config, len(train)))

    def look(hyper: Hyper, network: Any, splits: Splits) -> dict[str, jax.Array]:
        from snnjax.diagnostics import probe

        source = plain(splits.train)
        x, labels = source.batch(spread(source, PROBED))
        # the loss alone: the gradients of bounds on a layer that is silent or too active would hide
        # that of the loss
        loss = Objective(objective(hyper).loss)
        layers = probe(network, x, labels, loss, optimizer=optimizer(hyper)).layers
        numbered = list(enumerate(layers, start=1))
        return {f"{name}_{k}": getattr(p, name) for name in _SEEN for k, p in numbered}

    return Program(network, objective, optimizer, start if needs_data(config) else None, look)


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
    """Train every member that `folder` does not hold yet.

    Args:
      config: a `RandmanConfig`, `SHDConfig`, ...; what `members` name replaces its values.   members: from `grid`.
      folder: new or empty; with `resume` that of the same sweep, for the same configuration and with the same names swept. Members may be added.
      datasets: train, validation and test set to use instead of `config.datasets()`.
      wave: members trained at once.   placement, patience, order: as in `fit_ensemble`.
      checkpoint_every: epochs.   figure: whether to draw sweep.png.
      on_epoch: called with each wave's `Snapshot`, the number of members finished before it and of those in it.

    Returns:
      `Sweep`; its rows are what results.csv holds: all members that were ever asked for.

    Raises:
      FileExistsError: the folder holds something and `resume` is False.   BlockingIOError: another process trains in it.
      ValueError: it is of another configuration or other names are swept, a file in it is damaged, an option is out of range, or a swept parameter has
        no effect.
    """
    for name, value in (("wave", wave), ("checkpoint_every", checkpoint_every), *([] if patience is None else [("patience", patience)])):
        _check.integer(name, value, at_least=1)
    _check.one_of("order", order, get_args(Order))
    resolve(placement)
    if not members:
        raise ValueError("members must hold at least one, got none")
    for member in members:  # each checked as a whole configuration, before anything is computed
        dataclasses.replace(config, **member)
    _check_effects(config, members[0])
    content = content_of(config, {"patience": patience, "order": order}, swept=members[0])
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    check_folder(folder, content, defaults, resume=resume)
    if getattr(config, "stream", False):
        raise ValueError("stream must be False (--no-stream) in a sweep, whose members share the training data on the device")
    config, data = load(config, datasets)  # before anything is written: a task that cannot be loaded leaves no folder behind
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        check_folder(folder, content, defaults, resume=resume)
        members = open_folder(folder, content, members)
        return _train(config, data, members, folder, wave, placement, patience, order, checkpoint_every, figure, on_epoch)


def _train(
    config: Any,
    data: Data,
    members: Sequence[Member],
    folder: Path,
    wave: int,
    placement: Placement,
    patience: int | None,
    order: Order,
    checkpoint_every: int,
    figure: bool,
    on_epoch: Sequence[Callable[[Snapshot, int, int], None]],
) -> Sweep:
    # reads every finished member: a damaged one is found before others are trained
    rows = write_results(folder, members, figure=figure)
    epochs = config.epochs + config.priming_epochs
    program = program_of(config, data)
    # members in one batch would walk along lists of their own, each as long as the longest of all
    events = False if config.events is None and resolve(placement) == "vmap" else config.events
    network = nnx.eval_shape(lambda: build_network(config, nu=config.nu, **data.needs))  # only what kind of input it takes is asked
    splits = data.splits._replace(train=train_source(config, data.splits.train))
    splits = Splits(*(choose_form(network, source, events=events) for source in splits))
    while waiting := next_wave(folder, members, wave):
        finished = sum(member_file(folder, m).exists() for m in members if m not in waiting)
        checkpoints = Checkpoints(folder / "wave" / "checkpoints")

        def save(snapshot: Snapshot, checkpoints: Checkpoints = checkpoints) -> None:
            # the last one always: a member's file may still have to be written
            if snapshot.epoch % checkpoint_every == 0 or snapshot.epoch == epochs or not snapshot.state.active.any():
                checkpoints.save(snapshot)

        def announce(snapshot: Snapshot, finished: int = finished, size: int = len(waiting)) -> None:
            for callback in on_epoch:
                callback(snapshot, finished, size)

        result = fit_ensemble(
            program, {name: np.array([m[name] for m in waiting]) for name in waiting[0]}, splits, epochs=config.epochs,
            priming_epochs=config.priming_epochs, batch_size=config.batch_size, dt=config.dt, patience=patience, order=order, placement=placement,
            resume=checkpoints.restore, on_epoch=[save, announce],
        )  # fmt: skip
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
    "beta": lambda c: c.gradient != "steepness" or c.depth == 1,  # a single layer keeps its own
}
"""Whether a configuration looks at the parameter at all; those not named here are always used."""


def _check_effects(config: Any, member: Member) -> None:
    """A sweep over what nothing depends on is a mistake."""
    config = dataclasses.replace(config, **member)
    for name in member:
        if not _USED.get(name, lambda _: True)(config):
            settings = f"init = {config.init}, recurrent = {config.recurrent}, upper_strength = {config.upper_strength}"
            raise ValueError(
                f"{name} must have an effect to be swept, and has none with {settings}, lower_strength = {config.lower_strength}, "
                f"gradient = {config.gradient}"
            )
