"""Does the initialization help training?

    python -m benchmarks.initialization RESULTS.jsonl --data FOLDER [--architectures d1 d3 ...]
    python -m benchmarks.initialization RESULTS.jsonl --table

Networks have 128 LIF neurons per layer, or are the paper's convolutional ones, on files in the SHD
layout, with the same budget for each initialization. Formulas with a target for the membrane (the
paper's, data-driven, data-driven and balanced) start at every sigma_u. Kaiming, LeCun, Micheli and
IKUN have no target; the target of LSUV is a rate. A name with "+homeostasis" uses the paper's lower
bound on activity, 100 at 1e-3 spikes per trial, instead of `--lower-strength`.

Each finished run appends one JSON line; existing runs are not repeated. Seeds are the outer loop,
so that a study that is stopped early is balanced. One process compiles each architecture only once,
because the weights are arguments of the program.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from snnjax.datasets import Splits
from snnjax.experiments import SHDConfig
from snnjax.experiments._run import prepare
from snnjax.experiments.build import build_optimizer
from snnjax.experiments.config import OptimizerName
from snnjax.training import Trainer

TARGETED = ("fluctuation_driven", "data_driven", "data_driven_balanced")
PLAIN = ("lsuv", "kaiming", "lecun", "micheli", "ikun")
HOMEOSTASIS = "+homeostasis"
NAMES = {
    "fluctuation_driven": "paper's formula", "data_driven": "data-driven", "data_driven_balanced": "data-driven, balanced", "lsuv": "LSUV (10 Hz)",
    "kaiming": "Kaiming", "lecun": "LeCun", "micheli": "Micheli", "ikun": "IKUN",
}  # fmt: skip


SETTINGS = (
    "lower_strength",
    "samples",
    "speakers",
    "epochs",
    "batch_size",
    "learning_rate",
    "optimizer",
    "dt",
    "duration",
)
"""What all runs in a file have in common."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train."""

    results: tyro.conf.Positional[Path]
    """JSON lines, one per run."""
    data: Path | None = None
    """Folder with NAME_train.h5 and NAME_test.h5."""
    architectures: tuple[str, ...] = ("d1", "r1", "d3", "r3", "d7")
    """d, r or c (dense, recurrent, recurrent and convolutional) and the number of layers."""
    inits: tuple[str, ...] = (*TARGETED, *PLAIN)
    """Initializations, by name, perhaps with "+homeostasis"."""
    lower_strength: float = 100.0
    """Strength of the lower bound on activity, for initializations without "+homeostasis"."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and sample order."""
    sigma_u: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Targets."""
    samples: int = 1000
    """Recordings for training; another 600 are for validation."""
    speakers: tuple[int, ...] = ()
    """Use only the recordings of these speakers; none: of all."""
    epochs: int = 12
    """Passes over them."""
    few: int = 3
    """The table also shows the accuracy after this number of epochs, the validation interval."""
    batch_size: int = 25
    """Recordings per step."""
    learning_rate: float = 1e-2
    """Chosen on other runs; the same for all."""
    optimizer: OptimizerName = "smorms3"
    """The same for all."""
    dt: float = 4e-3
    """Time step, s."""
    duration: float = 0.7
    """Duration of a trial, s; later spikes are dropped."""
    table: bool = False
    """Only print the table."""


def members(options: Options) -> list[tuple[str, int, str, float]]:
    """Return every run of the study.

    Args:
        options: What to train.

    Returns:
        Architecture, seed, initialization and sigma_u (1 if it has none) of each run.
    """
    inits = [
        (i, s) for i in options.inits for s in (options.sigma_u if plain(i) in TARGETED else (1.0,))
    ]
    return [
        (a, seed, i, s) for seed in options.seeds for a in options.architectures for i, s in inits
    ]


def plain(init: str) -> str:
    """Return the name without "+homeostasis".

    Args:
        init: Name of the initialization.
    """
    return init.removesuffix(HOMEOSTASIS)


def config_of(options: Options, member: tuple[str, int, str, float]) -> SHDConfig:
    """Return the configuration of a run.

    The readout, the regularizers and the optimizer are the same for all.

    Args:
        options: What to train.
        member: Architecture, seed, initialization and sigma_u.
    """
    architecture, seed, init, sigma_u = member
    kind, depth = architecture[0], int(architecture[1:])
    network: dict[str, Any] = (
        {"model": f"csnn{depth}"} if kind == "c" else {"hidden": (128,) * depth}
    )
    return SHDConfig(start="paper",
        data=options.data or Path(), **network, recurrent=kind != "d", init=plain(init), sigma_u=sigma_u,  # type: ignore[arg-type]
        lower_strength=100.0 if plain(init) != init else options.lower_strength, dt=options.dt, batch_size=options.batch_size,
        epochs=options.epochs, learning_rate=options.learning_rate, optimizer=options.optimizer, seed=seed,
        valid_fraction=0.25, duration=options.duration,
    )  # fmt: skip


def train(options: Options, config: SHDConfig, datasets: Splits) -> dict[str, Any]:
    """Train one run, and return its curves and rates.

    Args:
        options: What to train.
        config: The run's configuration.
        datasets: Training, validation and test data.

    Returns:
        Validation accuracy by epoch, training accuracy and loss of every epoch, and rates. If
            training is not finite, the curves end.
    """
    prepared = prepare(config, datasets)
    splits = prepared.splits
    trainer = Trainer(
        prepared.network,
        prepared.objective(),
        build_optimizer(config),
        batch_size=config.batch_size,
    )
    state = trainer.init()
    first = trainer.evaluate(state.params, splits.valid)
    valid, trained, losses = {0: float(first.accuracy)}, [], []
    for epoch in range(1, config.epochs + 1):
        state, metrics = trainer.epoch(
            state, splits.train, jax.random.fold_in(jax.random.key(config.seed), epoch)
        )
        if not bool(state.healthy):
            break
        if epoch % options.few == 0 or epoch == config.epochs:
            valid[epoch] = float(trainer.evaluate(state.params, splits.valid).accuracy)
        trained.append(float(metrics.accuracy))
        losses.append(float(metrics.loss))
    last = trainer.evaluate(state.params, splits.valid)
    hertz = lambda m: [round(float(r) / config.dt, 3) for r in m.rates]
    return {
        "valid": valid,
        "train": trained,
        "loss": losses,
        "initial_rates_hz": hertz(first),
        "final_rates_hz": hertz(last),
    }


def main(options: Options) -> None:
    """Run what is missing, then print the table.

    Args:
        options: What to train.
    """
    done = {}
    settings = {name: getattr(options, name) for name in SETTINGS}
    settings["speakers"] = list(settings["speakers"])  # JSON has lists
    if options.results.exists():
        for line in options.results.read_text().splitlines():
            entry = json.loads(line)
            if entry.get("settings", settings) != settings:
                raise ValueError(
                    f"{options.results} holds runs with other settings, {entry['settings']}, got {settings}; name another file"
                )
            done[tuple(entry["member"])] = entry
    if not options.table:
        if options.data is None:
            raise ValueError("data must name the folder with the two files")
        train_set, valid_set, test_set = config_of(options, members(options)[0]).datasets()
        if options.speakers:
            _, train_set = train_set.split_groups(options.speakers)
            _, valid_set = valid_set.split_groups(options.speakers)
        if options.samples < len(train_set):
            train_set, _ = train_set.split(
                (options.samples / len(train_set), 1 - options.samples / len(train_set)), seed=0
            )
        for member in members(options):
            if member in done:
                continue
            begin = time.perf_counter()
            # no setting is chosen here, and the test file is never evaluated
            curves = train(
                options, config_of(options, member), Splits(train_set, valid_set, test_set)
            )
            entry = {
                "member": member,
                "settings": settings,
                "seconds": round(time.perf_counter() - begin, 1),
                **curves,
            }
            line = json.dumps(entry)
            done[member] = json.loads(line)
            with options.results.open("a") as f:
                f.write(line + "\n")
            print(
                member,
                f"valid {100 * curves['valid'][max(curves['valid'])]:.1f} %, {done[member]['seconds']} s",
                flush=True,
            )
    print_table(done, options)


def print_table(done: dict[Any, Any], options: Options) -> None:
    """Print one Markdown row per initialization and sigma_u.

    The columns have accuracies after few and after all epochs, mean and spread over seeds.

    Args:
        done: Results by member.
        options: What was trained.
    """
    print(
        f"| initialization | sigma_u | {' | '.join(options.architectures)} |\n|---|---|{'---|' * len(options.architectures)}"
    )
    for init in options.inits:
        for sigma_u in options.sigma_u if plain(init) in TARGETED else (1.0,):
            cells = []
            for architecture in options.architectures:
                curves = [
                    done[m]["valid"]
                    for s in options.seeds
                    if (m := (architecture, s, init, sigma_u)) in done
                ]
                # a run that ended early keeps its last accuracy
                at = lambda epoch, curves=curves: np.array(
                    [100 * c[str(max(int(e) for e in c if int(e) <= epoch))] for c in curves]
                )
                spread = lambda v: (
                    f"{v.mean():.0f} +- {v.std(ddof=1):.0f}"
                    if len(v) > 1
                    else "".join(f"{x:.0f}" for x in v)
                )
                cells.append(
                    f"{spread(at(options.few))}, {spread(at(options.epochs))}" if curves else ""
                )
            name = NAMES[plain(init)] + (" + homeostasis" if plain(init) != init else "")
            print(
                f"| {name} | {f'{sigma_u:g} ' if plain(init) in TARGETED else ''}| "
                + " | ".join(cells)
                + " |"
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
