"""Which start trains deep networks?

    python -m benchmarks.depth_training RESULTS.jsonl --data FOLDER [--tasks ...]

Every arm is one start of a network. Its learning rate is the best of four on seed 0, by validation
accuracy; the other seeds then run at this rate. The arm `calibrated` has the defaults of
`snnjax train`, with one learning rate for all depths and tasks. Rows are appended one by one, so
that a study that was stopped can continue. Test files are not read.

Each row also has the measurements of the probe before training, to find out which of them predicts
the accuracy after training.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from matplotlib import colormaps
from matplotlib.figure import Figure

from snnjax import plotting
from snnjax.datasets import EventDataset, Splits
from snnjax.diagnostics import probe
from snnjax.experiments import RandmanConfig, SHDConfig
from snnjax.experiments._run import prepare, spread, train_source
from snnjax.experiments.build import build_optimizer
from snnjax.experiments.nmnist import NMNISTConfig
from snnjax.gradient_theory import steepness_for_gain
from snnjax.reproduce.data import SOURCES
from snnjax.surrogate import superspike
from snnjax.training import fit

PROBED = 200


class Task(NamedTuple):
    """A data set, a kind of network, and its depths.

    Attributes:
        config: The configuration.
        sizes: Numbers of training and validation samples, drawn from the training file. None: the
            training and validation set of figure 4's laptop preset, two speakers.
        depths: Numbers of hidden layers.
    """

    config: Any
    sizes: tuple[int, int] | None
    depths: tuple[int, ...]


class Arm(NamedTuple):
    """A start of a network.

    Attributes:
        changes: Changes to the configuration.
        rates: Learning rates to choose from.
        theory: Whether the steepness of all surrogates is that of `steepness_for_gain` for the
            input's rate.
    """

    changes: dict[str, Any]
    rates: tuple[float, ...]
    theory: bool = False


OF_MUON, OF_OTHERS = (0.003, 0.0075, 0.015, 0.03), (0.0003, 0.001, 0.003, 0.01)
_FORMULA = {"init": "fluctuation_driven"}
ARMS: dict[str, Arm] = {
    "calibrated": Arm({}, (0.015,)),
    "calibrated, bounds not limited": Arm({"bound_share": 0.0}, (0.015,)),
    "calibrated, both bounds": Arm({"lower_strength": 100.0}, (0.015,)),
    "calibrated, both bounds, not limited": Arm(
        {"lower_strength": 100.0, "bound_share": 0.0}, (0.015,)
    ),
    "calibrated, no bounds": Arm({"upper_strength": 0.0}, (0.015,)),
    "formula + gradient": Arm(_FORMULA, OF_MUON),
    "data-driven + gradient": Arm({"init": "data_driven"}, OF_MUON),
    "balanced + gradient": Arm({"init": "data_driven_balanced"}, OF_MUON),
    "formula + gradient, scale of h": Arm(_FORMULA | {"gradient": "scale"}, OF_MUON),
    "formula": Arm(_FORMULA | {"gradient": "none"}, OF_MUON),
    "formula, surrogate from theory": Arm(_FORMULA | {"gradient": "none"}, OF_MUON, theory=True),
    "formula + gradient, Adam": Arm(_FORMULA | {"optimizer": "adam"}, OF_OTHERS),
    "paper": Arm({"start": "paper"}, OF_OTHERS),
    "IKUN": Arm({"init": "ikun", "gradient": "none"}, OF_MUON),
    "Micheli": Arm({"init": "micheli", "gradient": "none"}, OF_MUON),
    "Kaiming": Arm({"init": "kaiming", "gradient": "none"}, OF_MUON),
    "LeCun": Arm({"init": "lecun", "gradient": "none"}, OF_MUON),
    "LSUV": Arm({"init": "lsuv", "gradient": "none"}, OF_MUON),
}
"""Starts by name. All except `paper` train as `calibrated` does, apart from their changes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    results: tyro.conf.Positional[Path]
    """JSON lines, one per run; existing runs are not repeated."""
    data: Path = Path()
    """Folder with shd_format and nmnist."""
    tasks: tuple[str, ...] = ("dense",)
    """Some of dense, recurrent, convolutional, figure 4, nmnist, randman."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Starts, by name."""
    depths: tuple[int, ...] = ()
    """Numbers of layers; none: those of each task."""
    seeds: int = 5
    """Seeds 0 ... seeds - 1."""
    epochs: int | None = None
    """Passes over the training data; None: those of each task."""
    figure: Path | None = None
    """File for the figure of the first of `tasks`."""


def tasks(data: Path) -> dict[str, Task]:
    """Return every task by its name.

    Args:
        data: Folder with shd_format and nmnist.
    """
    digits = SHDConfig(data=data / "shd_format", dt=4e-3, batch_size=25, epochs=12)
    replace: Any = dataclasses.replace
    return {
        "dense": Task(digits, (1000, 600), (1, 3, 7, 10, 15)),
        "recurrent": Task(replace(digits, recurrent=True), (1000, 600), (1, 3, 7)),
        "convolutional": Task(
            replace(digits, recurrent=True, model="csnn3"), (500, 300), (1, 3, 7)
        ),
        "figure 4": Task(
            replace(
                digits,
                recurrent=True,
                model="csnn3",
                duration=0.4,
                dt=5e-3,
                valid_fraction=0.25,
                batch_size=10,
                epochs=18,
            ),
            None,
            (1, 3, 7),
        ),
        "nmnist": Task(
            NMNISTConfig(
                data=data / "nmnist", downsample=2, batch_size=10, epochs=6, model="csnn2"
            ),
            (500, 450),
            (2, 6),
        ),
        "randman": Task(RandmanConfig(dim=2, batch_size=50, epochs=12), (2000, 1000), (1, 3, 7)),
    }


def of_depth(config: Any, depth: int) -> Any:
    """Return the configuration with `depth` layers.

    Args:
        config: A configuration.
        depth: Number of hidden layers.
    """
    if config.model == "dense":
        return dataclasses.replace(config, hidden=(128,) * depth)
    return dataclasses.replace(config, model=f"csnn{depth}")


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """Return the configuration with the changes of an arm.

    Args:
        config: A configuration.
        changes: Fields and values. Fields that an arm may change and does not name have the default
            of their start.
    """
    own = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
    opened = dict.fromkeys(
        (
            "gradient",
            "init",
            "optimizer",
            "learning_rate",
            "schedule",
            "lower_strength",
            "bound_share",
        )
    )
    return type(config)(**(own | opened | changes))


def few(config: Any, sizes: tuple[int, int] | None) -> Splits:
    """Return training and validation data, drawn only from the training file.

    Args:
        config: A configuration.
        sizes: Numbers of training and validation samples; see `Task`.

    Returns:
        The data. The validation data also replace the test data.
    """
    if sizes is None:
        train, valid, _ = SOURCES["two speakers"](config)
        return Splits(train, valid, valid)
    if hasattr(config, "valid_fraction"):
        config = dataclasses.replace(config, valid_fraction=0.01)
    data, _, _ = config.datasets()
    shares = [size / len(data) for size in sizes]
    train, valid, *_ = data.split((*shares, 1 - sum(shares)), seed=0)
    return Splits(train, valid, valid)


def seen(prepared: Any) -> dict[str, list[float]]:
    """Return the measurements of the probe before training, by layer.

    Args:
        prepared: A prepared run.
    """
    config = prepared.config
    x, labels = prepared.sample.batch(
        spread(prepared.sample, min(PROBED, config.calibration_samples))
    )
    optimizer = build_optimizer(config)
    report = probe(prepared.network, x, labels, prepared.objective(), optimizer=optimizer)
    names = ("rate", "sigma_u", "gain", "agreement", "step", "memory", "grad_z")
    numbers = {name: [float(f"{getattr(p, name):.4g}") for p in report.layers] for name in names}
    return numbers | {"bounds": [float(f"{max(p.bounds, default=0.0):.4g}") for p in report.layers]}


def one(config: Any, sets: Any) -> dict[str, Any]:
    """Train once, and return accuracies by epoch, rates, and the measurements before training.

    Args:
        config: A configuration.
        sets: Training, validation and test data.
    """
    begin = time.perf_counter()
    prepared = prepare(config, sets)
    config, network, splits, _ = prepared
    before = seen(prepared)
    steepness = [
        float(layer.steepness[...][0]) if layer.steepness is not None else None
        for layer in network.layers
        if layer.spiking
    ]
    splits = Splits(train_source(config, splits.train), splits.valid)
    history = fit(
        network, splits, prepared.objective(), prepared.optimizer(), epochs=config.epochs, batch_size=config.batch_size,
        key=jax.random.key(config.seed), dt=config.dt, progress=False,
    ).history  # fmt: skip
    last = history[-1]
    return {
        "valid": [round(row["valid_accuracy"], 4) for row in history],
        "train": round(last["train_accuracy"], 4),
        "rates": [round(last[name], 2) for name in last if name.startswith("rate_")],
        "steepness": steepness,
        "before": before,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def final(row: dict[str, Any]) -> float:
    """Return the accuracy after the last epoch, which the study compares.

    Args:
        row: A row of the results.
    """
    return row["valid"][-1]


def runs(options: Options, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every run, in an order in which the rate of each arm is known before its further seeds.

    Args:
        options: What to run.
        rows: The results so far. The caller appends to them.
    """
    known = tasks(options.data)
    for name in options.tasks:
        task = known[name]
        for depth, arm in itertools.product(options.depths or task.depths, options.arms):
            which = {
                "task": name,
                "depth": depth,
                "arm": arm,
                "epochs": options.epochs or task.config.epochs,
            }
            rates = ARMS[arm].rates
            for rate in rates:
                yield which | {"rate": rate, "seed": 0}
            tried = [row for row in rows if (which | {"seed": 0}).items() <= row.items()]
            best = max(tried, key=final)["rate"]
            for seed in range(1, options.seeds):
                yield which | {"rate": best, "seed": seed}


def main(options: Options) -> None:
    """Run what is missing.

    Args:
        options: What to run.
    """
    rows = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    known = tasks(options.data)
    sets: dict[str, Any] = {}
    for which in runs(options, rows):
        if any(which.items() <= row.items() for row in rows):
            continue
        task = known[which["task"]]
        if which["task"] not in sets:
            sets[which["task"]] = few(task.config, task.sizes)
        config = changed(of_depth(task.config, which["depth"]), ARMS[which["arm"]].changes)
        if ARMS[which["arm"]].theory:
            config = dataclasses.replace(config, beta=_from_theory(config, sets[which["task"]][0]))
        config = dataclasses.replace(
            config, learning_rate=which["rate"], seed=which["seed"], epochs=which["epochs"]
        )
        row = which | one(config, sets[which["task"]])
        rows.append(row)
        with options.results.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(
            which,
            f"{100 * final(row):.1f} % (training {100 * row['train']:.1f}), {row['seconds']:.0f} s",
            flush=True,
        )
    print(table(rows))
    for name, own in studies(rows).items():
        for depth in sorted({row["depth"] for row in own}):
            if len({row["arm"] for row in own if row["depth"] == depth}) >= STARTS:
                print(rates_table(rows, name, depth))
    print(levels(rows))
    if options.figure is not None:
        plotting.save(
            picture(
                rows,
                f"{options.tasks[0]}, {options.epochs or known[options.tasks[0]].config.epochs} epochs",
            ),
            options.figure,
        )
    for name, (within, over_all) in predictors(rows).items():
        print(f"{within:+.2f} {over_all:+.2f} {name}")


STARTS = 4

PREDICTORS: dict[str, Any] = {
    "gain farthest from 1, on a logarithm": lambda b: (
        -max((abs(math.log(max(g, 1e-30))) for g in b["gain"] if math.isfinite(g)), default=0.0)
    ),
    "agreement, mean over layers": lambda b: (
        sum(map(_or_nothing, b["agreement"])) / len(b["agreement"])
    ),
    "agreement of the first layer": lambda b: _or_nothing(b["agreement"][0]),
    "agreement of the last layer": lambda b: _or_nothing(b["agreement"][-1]),
    "smallest agreement": lambda b: min(map(_or_nothing, b["agreement"])),
    "memory of the last layer": lambda b: _or_nothing(b["memory"][-1]),
    "largest share of a bound": lambda b: -max(map(_or_inf, b["bounds"])),
    "gradient of the first layer over the last": lambda b: (
        -abs(math.log(max(b["grad_z"][0], 1e-30) / max(b["grad_z"][-1], 1e-30)))
    ),
    "smallest rate": lambda b: min(b["rate"]),
    "first update over weights, farthest layer from 1 %": lambda b: _from_step(b, 0.01),
    "first update over weights, farthest layer from 1.5 %": lambda b: _from_step(b, 0.015),
}
"""Numbers from before training that may predict the accuracy: larger is better."""


def _or_nothing(value: float) -> float:
    """Return the number, or 0 if it is not finite, as for a silent layer."""
    return value if math.isfinite(value) else 0.0


def _or_inf(value: float) -> float:
    """Return a number, or infinity where a silent layer has none."""
    return value if math.isfinite(value) else math.inf


def _from_step(before: dict[str, list[float]], good: float) -> float:
    """Return minus the largest distance of a layer's first update from `good`, as a logarithm."""
    return -max(abs(math.log(max(step, 1e-6) / good)) for step in before["step"])


def _mean(values: list[float]) -> float:
    """Return the mean of the finite values, or 0 if there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else 0.0


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their ranks.

    Args:
        a: Values.
        b: As many values.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    0.8
    """
    ranks = [
        (np.searchsorted(np.sort(v), v, "left") + np.searchsorted(np.sort(v), v, "right")) / 2
        for v in map(np.asarray, (a, b))
    ]
    if min(np.ptp(r) for r in ranks) == 0:  # a constant has no correlation
        return 0.0
    matrix: Any = np.corrcoef(ranks)
    return float(np.round(matrix[0, 1], 10))


def studies(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each task and number of epochs, by a name for both.

    Args:
        rows: The results.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(f"{row['task']}, {row['epochs']} epochs", []).append(row)
    return found


def chosen(rows: list[dict[str, Any]], depth: int, arm: str) -> list[dict[str, Any]]:
    """Return the runs of an arm at its best rate.

    Args:
        rows: Rows of one study.
        depth: Number of hidden layers.
        arm: Name of the arm.
    """
    own = [row for row in rows if (row["depth"], row["arm"]) == (depth, arm)]
    first = [row for row in own if row["seed"] == 0]
    return [row for row in own if row["rate"] == max(first, key=final)["rate"]] if first else []


def table(rows: list[dict[str, Any]]) -> str:
    """Return validation accuracies in per cent by start and depth, one table per task.

    Args:
        rows: The results. With at least 3 runs there is a standard deviation.
    """
    lines = []
    for name, own in studies(rows).items():
        depths = sorted({row["depth"] for row in own})
        lines += [
            "",
            f"| {name} | "
            + " | ".join(f"{d} layers" if d > 1 else "1 layer" for d in depths)
            + " |",
            "|---" * (1 + len(depths)) + "|",
        ]
        for arm in (name for name in ARMS if any(row["arm"] == name for row in own)):
            cells = [_cell(chosen(own, depth, arm)) for depth in depths]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def rates_table(rows: list[dict[str, Any]], study: str, depth: int) -> str:
    """Return a table of starts: accuracy of seed 0 at each rate, and of all seeds at the best one.

    Args:
        rows: The results.
        study: Name of the study.
        depth: Number of hidden layers.
    """
    own = [row for row in studies(rows)[study] if row["depth"] == depth]
    lines = [
        f"| {study}, {depth} layers | learning rate: accuracy of seed 0 (%) | best rate (%) |",
        "|---|---|---|",
    ]
    for arm in (name for name in ARMS if any(row["arm"] == name for row in own)):
        first = [row for row in own if (row["arm"], row["seed"]) == (arm, 0)]
        tried = ", ".join(
            f"{row['rate']:g}: {100 * final(row):.1f}" for row in sorted(first, key=_rate)
        )
        lines.append(f"| {arm} | {tried} | {_cell(chosen(own, depth, arm))} |")
    return "\n".join(lines)


def _rate(row: dict[str, Any]) -> float:
    return row["rate"]


def _cell(runs: list[dict[str, Any]]) -> str:
    values = [100 * final(row) for row in runs]
    if not values:
        return ""
    spread = f" +- {np.std(values, ddof=1):.1f}" if len(values) >= 3 else ""
    return f"{np.mean(values):.1f}{spread} ({runs[0]['rate']:g}, {len(values)})"


def level(row: dict[str, Any]) -> float:
    """Return the largest over the smallest gradient of the layers of one network before training.

    The gradient is that of the loss with respect to the spikes, as a root mean square per layer.

    Args:
        row: A row of the results.
    """
    at_layer = np.cumprod([1.0, *row["before"]["gain"][:0:-1]])
    return float(at_layer.max() / at_layer.min())


def levels(rows: list[dict[str, Any]]) -> str:
    """Report the ratio of gradients for `calibrated`: the worst network of each task and depth.

    Args:
        rows: The results.
    """
    worst: dict[tuple[str, int], float] = {}
    for row in rows:
        if row["arm"] == "calibrated":
            where = row["task"], row["depth"]
            worst[where] = max(worst.get(where, 1.0), level(row))
    lines = ["largest over smallest gradient of the layers, calibrated, worst network:"]
    return "\n".join(
        lines
        + [f"{task}, depth {depth}: {ratio:.2f}" for (task, depth), ratio in sorted(worst.items())]
    )


def predictors(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the rank correlation of each number from before training with the accuracy.

    Args:
        rows: Rows of all studies.

    Returns:
        For each number two correlations. The first is over the runs of one task, depth and number
        of epochs, averaged over those in which at least `STARTS` starts were tried: there the
        starts make the difference. The second is over all runs.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["epochs"], row["depth"]), []).append(row)
    compared = [own for own in groups.values() if len({row["arm"] for row in own}) >= STARTS]

    def correlation(of: Any, own: list[dict[str, Any]]) -> float:
        return rank_correlation([of(row["before"]) for row in own], [final(row) for row in own])

    return {
        name: (
            round(_mean([correlation(of, own) for own in compared]), 2),
            round(correlation(of, rows), 2),
        )
        for name, of in PREDICTORS.items()
    }


def picture(rows: list[dict[str, Any]], study: str) -> Figure:
    """Draw accuracies by depth with one line per start, and learning curves of `calibrated`.

    Args:
        rows: The results.
        study: Name of the study.
    """
    own = studies(rows)[study]
    depths = sorted({row["depth"] for row in own})
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_depth, by_epoch = figure.subplots(1, 2, sharey=True)
    for arm in (
        name for name in ARMS if len({row["depth"] for row in own if row["arm"] == name}) > 1
    ):
        runs = {depth: [100 * final(row) for row in chosen(own, depth, arm)] for depth in depths}
        runs = {depth: values for depth, values in runs.items() if values}
        (line,) = by_depth.plot(
            list(runs), [np.mean(values) for values in runs.values()], label=arm
        )
        for depth, values in runs.items():
            by_depth.plot([depth] * len(values), values, "o", color=line.get_color(), markersize=4)
    learned = {
        depth: [row["valid"] for row in chosen(own, depth, "calibrated")] for depth in depths
    }
    for k, (depth, rows_of) in enumerate(learned.items()):
        if not rows_of:
            continue
        curves = 100 * np.array(rows_of)
        by_epoch.plot(
            curves.mean(axis=0),
            color=colormaps["viridis"](k / len(depths)),
            label=f"{depth} layer{'s' * (depth > 1)}",
        )
    by_depth.set(
        xlabel="hidden layers", ylabel="validation accuracy (%)", xticks=depths, ylim=(0, None)
    )
    by_epoch.set(xlabel="epoch", title="calibrated")
    by_epoch.legend(frameon=False)
    by_depth.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    for ax in (by_depth, by_epoch):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _from_theory(config: Any, train: EventDataset) -> float:
    nu = float(train.rate().mean())
    return float(steepness_for_gain(superspike(), nu=nu, mu_u=0.0, sigma_u=1.0, dt=config.dt))


if __name__ == "__main__":
    main(tyro.cli(Options))
