r"""A sweep: every product of seeds and values of hyper-parameters, trained as ensembles that survive being killed.

    FOLDER/config.json      what is trained: the task's configuration and nothing that is swept
    FOLDER/plan.json        every member that was ever asked for
    FOLDER/members/ID.npz   a finished member: its history, results and parameters. ID is its hyper-parameters, "seed=0,sigma_u=0.5"
    FOLDER/wave/            the ensemble in training: its members (wave.json) and a checkpoint of it after every few epochs, written by orbax
    FOLDER/results.csv      a row a member: hyper-parameters, accuracies, rates, and what the probe sees before training
    FOLDER/sweep.png        one swept parameter: curves, mean and range over seeds; two: heat maps, mean over seeds

Members train in waves of a few, so that results come early and memory stays bounded. Each file is written whole or not at all, and in an order that
leaves a state from which the same numbers follow: a sweep that was killed anywhere goes on where it was and ends bit for bit as if it had not
been. A finished member is never trained again, also when more seeds or values are asked for later: the plan grows, and results.csv covers all of it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax
from flax import nnx

import snnjax
from snnjax import _check
from snnjax.datasets import EventDataset
from snnjax.experiments._run import Data, calibrate_on, load, spread, train_source
from snnjax.experiments.build import FROM_DATA, LOGITS, build_network, build_optimizer, build_regularizers, updates_of
from snnjax.losses import mean_square
from snnjax.training.checkpoint import Checkpoints
from snnjax.training.ensemble import EnsembleResult, Hyper, Order, Program, Snapshot, Sources, fit_ensemble
from snnjax.training.inputs import choose_form
from snnjax.training.params import flatten_params
from snnjax.training.placement import Placement, resolve
from snnjax.training.run_folder import as_dict, write_whole
from snnjax.training.step import Objective

SWEEPABLE = (
    "sigma_u",
    "mu_u",
    "mu_w",
    "sigma_w",
    "alpha",
    "learning_rate",
    "upper_strength",
    "upper_rate",
    "lower_strength",
    "lower_threshold",
    "beta",
    "lsuv_rate",
)
FIGURE = "sweep.png"
PROBED = 64
"""Training samples that the probe looks at."""
_SEEN = ("sigma_u", "grad_z", "grad_w", "update")
_Member = dict[str, Any]


class Sweep(NamedTuple):
    """A finished sweep: one dict a member in the order of `grid`, and the folder with everything else."""

    rows: list[dict[str, Any]]
    folder: Path


def grid(seeds: Sequence[int], varied: Mapping[str, Sequence[float]]) -> list[_Member]:
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
    trial = data.train.steps * config.dt

    def of(hyper: Hyper) -> Any:
        return dataclasses.replace(config, **{name: value for name, value in hyper.items() if name != "seed"})

    def build(hyper: Hyper) -> Any:
        return build_network(of(hyper), nu=config.nu, seed=hyper["seed"], **data.needs)

    def init(hyper: Hyper, sources: Sources) -> Any:
        network = build(hyper)
        if config.init in FROM_DATA:
            train: Any = getattr(sources.train, "source", sources.train)  # as it is, without augmentation
            network, _ = calibrate_on(network, train, of(hyper), seed=hyper["seed"])  # a target out of reach leaves what was drawn
        return nnx.state(network, nnx.Param)

    def objective(hyper: Hyper, priming: bool) -> Objective:
        # the weights drawn here are not used and cost nothing: XLA leaves out what nobody reads
        out, _ = Objective.of(
            build(hyper),
            logits=LOGITS[config.loss],
            regularizers=tuple(build_regularizers(of(hyper), duration=trial)),
            loss=mean_square if config.loss == "mean_square" else None,
        )
        return out.priming() if priming else out

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        return build_optimizer(of(hyper), steps=updates_of(config, len(data.train)))

    def look(hyper: Hyper, params: Any, sources: Sources) -> dict[str, jax.Array]:
        from snnjax.diagnostics import probe

        network, goal = build(hyper), objective(hyper, False)
        nnx.update(network, params)
        train: Any = getattr(sources.train, "source", sources.train)
        x, labels = train.batch(spread(train, PROBED))
        # of the loss alone: what the bounds say to a layer that is silent or too loud would hide what the loss can reach
        options: Any = {"logits": goal.logits, "loss": goal.loss, "optimizer": optimizer(hyper)}
        layers = probe(network, x, labels, **options).layers
        return {f"{name}_{k}": getattr(p, name) for name in _SEEN for k, p in enumerate(layers, start=1)}

    return Program(init, objective, optimizer, look)


def run_sweep(
    config: Any,
    members: Sequence[_Member],
    folder: Path,
    *,
    resume: bool = False,
    datasets: tuple[EventDataset, EventDataset, EventDataset] | None = None,
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
    content = _content(config, {"patience": patience, "order": order})
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    _check_folder(folder, content, defaults, resume=resume)
    if getattr(config, "stream", False):
        raise ValueError("stream must be False (--no-stream) in a sweep, whose members share the training data on the device")
    config, data = load(config, datasets)  # before anything is written: a task that cannot be loaded leaves no folder behind
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _check_folder(folder, content, defaults, resume=resume)
        members = _open(folder, content, members)
        return _train(config, data, members, folder, wave, placement, patience, order, checkpoint_every, figure, on_epoch)


def _train(
    config: Any,
    data: Data,
    members: Sequence[_Member],
    folder: Path,
    wave: int,
    placement: Placement,
    patience: int | None,
    order: Order,
    checkpoint_every: int,
    figure: bool,
    on_epoch: Sequence[Callable[[Snapshot, int, int], None]],
) -> Sweep:
    write_results(folder, members, figure=figure)  # reads every finished member: a damaged one is found before others are trained
    epochs = config.epochs + config.priming_epochs
    program = program_of(config, data)
    # members in one batch would walk along lists of their own, each as long as the longest of all
    events = False if config.events is None and resolve(placement) == "vmap" else config.events
    network = nnx.eval_shape(lambda: build_network(config, nu=config.nu, **data.needs))  # only what kind of input it takes is asked
    sources = Sources(
        *(choose_form(network, source, events=events) for source in (train_source(config, data.train), data.valid, data.test))
    )
    while waiting := _next_wave(folder, members, wave):
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
            program, {name: np.array([m[name] for m in waiting]) for name in waiting[0]}, sources, epochs=config.epochs,
            priming_epochs=config.priming_epochs, batch_size=config.batch_size, dt=config.dt, patience=patience, order=order, placement=placement,
            resume=checkpoints.restore, on_epoch=[save, announce],
        )  # fmt: skip
        for k, member in enumerate(waiting):
            _write_member(member_file(folder, member), member, result, k)
        _close_wave(folder)
        write_results(folder, members, figure=figure)
    return Sweep(write_results(folder, members, figure=figure), folder)


def _name(member: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value:.10g}" for name, value in sorted(member.items()))


def member_file(folder: Path, member: Mapping[str, Any]) -> Path:
    """Where a finished member of the sweep in `folder` lies."""
    return folder / "members" / f"{_name(member)}.npz"


_USED: dict[str, Callable[[Any], bool]] = {
    "sigma_u": lambda c: c.init in ("fluctuation_driven", "data_driven", "data_driven_balanced"),
    "mu_u": lambda c: c.init in ("fluctuation_driven", "data_driven", "data_driven_balanced"),
    "mu_w": lambda c: c.init == "normal",
    "sigma_w": lambda c: c.init == "normal",
    "alpha": lambda c: c.recurrent and c.init in ("fluctuation_driven", "data_driven", "data_driven_balanced"),
    "lsuv_rate": lambda c: c.init == "lsuv",
    "upper_rate": lambda c: c.upper_strength > 0,
    "lower_threshold": lambda c: c.lower_strength > 0,
}
"""Whether a configuration looks at the parameter at all; those not named here are always used."""


def _check_effects(config: Any, member: _Member) -> None:
    """A sweep over what nothing depends on is a mistake."""
    config = dataclasses.replace(config, **member)
    for name in member:
        if not _USED.get(name, lambda _: True)(config):
            settings = f"init = {config.init}, recurrent = {config.recurrent}, upper_strength = {config.upper_strength}"
            raise ValueError(
                f"{name} must have an effect to be swept, and has none with {settings}, lower_strength = {config.lower_strength}"
            )


def _content(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What makes two sweeps the same, as JSON gives it back."""
    content = {name: value for name, value in as_dict(config).items() if name not in ("out", "seed")} | options
    return json.loads(json.dumps(content, default=str))


_OWN = (".lock", ".config.json.tmp")
"""Files that a sweep may leave which was killed before its first file was whole: it has nothing to lose."""


def _check_folder(folder: Path, content: dict[str, Any], defaults: dict[str, Any], *, resume: bool) -> None:
    """The folder is new, or one of the same sweep; what an older version did not know yet had the value of `defaults`. Writes nothing."""
    file = folder / "config.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(p.name not in _OWN for p in folder.iterdir())):
            raise FileExistsError(f"sweep folder {folder} is not an empty folder and holds no sweep; name another one")
        return
    if not resume:
        raise FileExistsError(f"sweep folder {folder} holds a sweep; go on with it by resume (--resume), or name another folder")
    saved = _read_json(file)
    # where the data lie may change
    different = (
        [k for k in content if k != "data" and saved.get(k, defaults.get(k)) != content[k]] if isinstance(saved, dict) else ["all of it"]
    )
    if different:
        raise ValueError(f"{folder} holds a sweep of another configuration; it differs in {different}. Name another folder")


def _open(folder: Path, content: dict[str, Any], members: Sequence[_Member]) -> list[_Member]:
    """Write what is new of the configuration and the plan; all members of the plan."""
    if not (folder / "config.json").exists():
        versions = {"snnjax": snnjax.__version__, "jax": jax.__version__}
        write_whole(folder / "config.json", (json.dumps(content | versions, indent=2) + "\n").encode())
    file = folder / "plan.json"
    plan: list[_Member] = _read_json(file) if file.exists() else []
    if plan and plan[0].keys() != members[0].keys():
        raise ValueError(
            f"{folder} holds a sweep over {sorted(plan[0])}, got one over {sorted(members[0])}; name the same parameters, or another folder"
        )
    union = plan + [m for m in members if m not in plan]
    if union != plan:
        write_whole(file, json.dumps(union).encode())
    return union


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the system lifts the lock of one that was killed."""
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process trains in the sweep folder {folder}; wait for it, or name another folder") from None
        yield


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from None


def _next_wave(folder: Path, members: Sequence[_Member], size: int) -> list[_Member]:
    """The members to train next: those of a wave that was begun, else the first `size` that are not finished; none when all are."""
    (folder / "members").mkdir(exist_ok=True)
    if (folder / "wave.done").exists():  # killed while it was being removed
        shutil.rmtree(folder / "wave.done")
    file = folder / "wave" / "wave.json"
    if file.exists():
        return _read_json(file)
    waiting = [m for m in members if not member_file(folder, m).exists()][:size]
    if waiting:
        file.parent.mkdir(exist_ok=True)
        write_whole(file, json.dumps(waiting).encode())
    return waiting


def _close_wave(folder: Path) -> None:
    """From one moment to the next there is no wave any more."""
    os.replace(folder / "wave", folder / "wave.done")
    shutil.rmtree(folder / "wave.done")


def _write_member(file: Path, member: _Member, result: EnsembleResult, k: int) -> None:
    """All of one member: hyper-parameters, history, results and parameters, in one file."""
    test = {f"test_{name}_{which}": values[k] for which, metrics in result.test.items() for name, values in metrics.items()}
    facts = {"best_epoch": result.best_epoch[k], "epochs": result.epochs[k], "finite": result.finite[k]}
    arrays = {f"hyper.{name}": value for name, value in member.items()} | {f"result.{name}": v for name, v in (facts | test).items()}
    arrays |= {f"history.{name}": values[k] for name, values in result.history.items()}
    arrays |= {f"initial.{name}": values[k] for name, values in result.initial.items()}
    for which, params in (("final", result.final), ("best", result.best)):
        arrays |= {f"{which}.{name}": a[k] for name, a in flatten_params(params).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(file, buffer.getvalue())


def row_of(file: Path) -> dict[str, Any]:
    """A finished member as a row of results.csv, plain numbers: hyper-parameters, accuracies (fractions), the first epoch with 90 % training accuracy (NaN:
    none), rates (Hz) before and after training, and for each layer before training the membrane's sigma_u and the magnitudes of gradients and first
    update of the loss alone, without bounds (`snnjax.diagnostics`).

    Raises:
      ValueError: the file is damaged; names it.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            part = lambda prefix: {n.removeprefix(prefix): archive[n] for n in archive.files if n.startswith(prefix)}  # noqa: E731
            hyper, result, history, initial = part("hyper."), part("result."), part("history."), part("initial.")
            done, best = int(result["epochs"]), int(result["best_epoch"])
            row = {name: value.item() for name, value in hyper.items()}
            row |= {name: result[name].item() for name in ("finite", "epochs", "best_epoch")}
            row |= {"train_accuracy": history["train_accuracy"][done].item(), "valid_accuracy": history["valid_accuracy"][done].item()}
            row |= {"best_valid_accuracy": history["valid_accuracy"][best].item()}
            row |= {f"test_accuracy_{which}": result[f"test_accuracy_{which}"].item() for which in ("final", "best")}
            row |= {"epochs_to_90": epochs_to(0.9, history["train_accuracy"][: done + 1])}
            layers = sorted((n for n in history if n.startswith("rate_")), key=lambda n: int(n.removeprefix("rate_")))
            row |= {f"initial_{n}": history[n][0].item() for n in layers} | {f"final_{n}": result[f"test_{n}_final"].item() for n in layers}
            return row | {f"initial_{name}": value.item() for name, value in initial.items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is not a readable member of a sweep: {error}; remove it to train that member again") from None


def epochs_to(accuracy: float, by_epoch: Sequence[float] | np.ndarray) -> float:
    """The first epoch with a training accuracy of at least `accuracy`, or NaN; `by_epoch` begins with the untrained network.

    >>> epochs_to(0.9, [0.1, 0.8, 0.92, 0.85]), epochs_to(0.9, [0.1, 0.8])
    (2.0, nan)
    """
    # the one object math.nan, so that rows read twice are equal
    return next((float(k) for k, value in enumerate(by_epoch) if value >= accuracy), math.nan)


def write_results(folder: Path, members: Sequence[_Member], *, figure: bool = True) -> list[dict[str, Any]]:
    """results.csv with the members that are finished, in the order of `members`, and the figure where asked for; returns the rows."""
    rows = [row_of(member_file(folder, m)) for m in members if member_file(folder, m).exists()]
    if not rows:
        return rows
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "results.csv", text.getvalue().encode())
    if figure:
        draw(rows, folder / FIGURE)
    return rows


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """The figure of a sweep over one or two parameters, written whole; False, and no file, where there are none or more than two."""
    from snnjax import plotting

    varied = varied_in(rows)
    if len(varied) not in (1, 2):
        return False
    figure = plotting.sweep_curves(rows, *varied) if len(varied) == 1 else plotting.sweep_maps(rows, *varied)
    buffer = io.BytesIO()
    plotting.save(figure, buffer)
    write_whole(file, buffer.getvalue())
    return True


def varied_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The hyper-parameters that are not the same in all rows of results.csv, without the seed.

    >>> varied_in([{"seed": 0, "sigma_u": 1.0, "mu_u": 0.0, "finite": True}, {"seed": 0, "sigma_u": 2.0, "mu_u": 0.0, "finite": True}])
    ['sigma_u']
    """
    return [name for name in SWEEPABLE if len({row.get(name) for row in rows}) > 1]
