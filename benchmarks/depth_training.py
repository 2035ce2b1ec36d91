"""Which start trains deep networks?

    python -m benchmarks.depth_training FOLDER [--tasks ...] [--figure FILE]
    python -m benchmarks.depth_training benchmarks/results/depth_starts.csv

Every arm is one start of a network. Its learning rate is the best of four on seed 0, by validation
accuracy; the other seeds then run at this rate. The arm `calibrated` has the defaults of
`snnjax train`, with one learning rate for all depths and tasks. SNNJAX_DATA names the folder with
shd_format and nmnist; test files are not read. The second command shows the tables of rows that
exist (`benchmarks.studies`).

Each row also has the measurements of the probe before training, to find out which of them predicts
the accuracy after training.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.studies import Row, compute, numbered, spread, study
from snnjax import _style, plotting
from snnjax.datasets import Splits
from snnjax.experiments import Experiment, Sweep
from snnjax.experiments._data import at
from snnjax.experiments._rows import pick
from snnjax.gradient_theory import steepness_for_gain
from snnjax.reproduce._report import markdown_table
from snnjax.reproduce._units import datasets
from snnjax.surrogate import superspike


class Task(NamedTuple):
    """A data set, a kind of network, and its depths.

    Attributes:
        options: Options of the experiment.
        sizes: Numbers of training and validation samples, drawn from the training file. None: the
            training and validation set of figure 4's laptop preset, two speakers.
        depths: Numbers of hidden layers.
    """

    options: dict[str, Any]
    sizes: tuple[int, int] | None
    depths: tuple[int, ...]


class Arm(NamedTuple):
    """A start of a network.

    Attributes:
        options: Options of the experiment.
        rates: Learning rates to choose from.
        theory: Whether the steepness of all surrogates is that of `steepness_for_gain` for the
            input's rate.
    """

    options: dict[str, Any]
    rates: tuple[float, ...]
    theory: bool = False


_WORDS = {"task": "shd", "dt": 4e-3, "batch_size": 25, "epochs": 12}
_CONV = _WORDS | {"recurrent": True, "model": "csnn"}
_FIGURE4 = {"duration": 0.4, "dt": 5e-3, "valid_fraction": 0.25, "batch_size": 10, "epochs": 18}
_NMNIST = {"task": "nmnist", "downsample": 2, "batch_size": 10, "epochs": 6}
_RANDMAN = {"task": "randman", "dim": 2, "batch_size": 50, "epochs": 12}
TASKS = {
    "dense": Task(_WORDS, (1000, 600), (1, 3, 7, 10, 15)),
    # as many inputs of the readout as seven layers of `dense` with skip connections
    "wide": Task(_WORDS | {"hidden": (896,)}, (1000, 600), (1,)),
    "recurrent": Task(_WORDS | {"recurrent": True}, (1000, 600), (1, 3, 7)),
    "convolutional": Task(_CONV, (500, 300), (1, 3, 7)),
    "figure 4": Task(_CONV | _FIGURE4, None, (1, 3, 7)),
    "nmnist": Task(_NMNIST, (500, 450), (2, 6)),
    "randman": Task(_RANDMAN, (2000, 1000), (1, 3, 7)),
}
OF_MUON, OF_OTHERS = (0.003, 0.0075, 0.015, 0.03), (0.0003, 0.001, 0.003, 0.01)
_FORMULA, _BOUNDS = {"init": "fluctuation_driven"}, {"lower_strength": 100.0}
_PLAIN = {"gradient": "none"}
ARMS: dict[str, Arm] = {
    "calibrated": Arm({}, (0.015,)),
    "calibrated, bounds not limited": Arm({"bound_share": 0.0}, (0.015,)),
    "calibrated, both bounds": Arm(_BOUNDS, (0.015,)),
    "calibrated, both bounds, not limited": Arm(_BOUNDS | {"bound_share": 0.0}, (0.015,)),
    "calibrated, no bounds": Arm({"upper_strength": 0.0}, (0.015,)),
    "calibrated, skip": Arm({"skip": True}, (0.015,)),
    "formula, skip": Arm(_FORMULA | _PLAIN | {"skip": True}, OF_MUON),
    "formula + gradient": Arm(_FORMULA, OF_MUON),
    "data-driven + gradient": Arm({"init": "data_driven"}, OF_MUON),
    "balanced + gradient": Arm({"init": "data_driven_balanced"}, OF_MUON),
    "formula + gradient, scale of h": Arm(_FORMULA | {"gradient": "scale"}, OF_MUON),
    "formula": Arm(_FORMULA | _PLAIN, OF_MUON),
    "formula, surrogate from theory": Arm(_FORMULA | _PLAIN, OF_MUON, theory=True),
    "formula + gradient, Adam": Arm(_FORMULA | {"optimizer": "adam"}, OF_OTHERS),
    "paper": Arm({"start": "paper"}, OF_OTHERS),
    "IKUN": Arm({"init": "ikun"} | _PLAIN, OF_MUON),
    "Micheli": Arm({"init": "micheli"} | _PLAIN, OF_MUON),
    "Kaiming": Arm({"init": "kaiming"} | _PLAIN, OF_MUON),
    "LeCun": Arm({"init": "lecun"} | _PLAIN, OF_MUON),
    "LSUV": Arm({"init": "lsuv"} | _PLAIN, OF_MUON),
}
"""Starts by name. All except `paper` train as `calibrated` does, apart from their options."""


def few(experiment: Experiment, sizes: tuple[int, int] | None) -> Splits:
    """Return training and validation data, drawn only from the training file.

    Args:
        experiment: An experiment of the task.
        sizes: Numbers of training and validation samples; see `Task`.

    Returns:
        The data. The validation data also replace the test data.
    """
    if sizes is None:
        two: Any = datasets(experiment, "two speakers")
        return two._replace(test=two.valid)
    data: Any = at(experiment, {"valid_fraction": 0.01}).datasets().train
    shares = [size / len(data) for size in sizes]
    train, valid, *_ = data.split((*shares, 1 - sum(shares)), seed=0)
    return Splits(train, valid, valid)


def train(place: Path, options: argparse.Namespace) -> None:
    """Train what is missing: all learning rates for seed 0, then the best one for other seeds.

    Args:
        place: Folder of the study.
        options: Tasks, arms, depths, number of seeds, and epochs.
    """
    for name in options.tasks:
        task = TASKS[name]
        sets = few(Experiment.from_options(**task.options), task.sizes)
        for arm in options.arms:
            changes, rates, theory = ARMS[arm]
            base = Experiment.from_options(**task.options, **changes)
            base = base.replace(epochs=options.epochs or base.training.epochs)
            if theory:
                base = base.replace(beta=_from_theory(base, sets))
            folder = place / f"{name}, {base.training.epochs} epochs" / arm
            for depth in options.depths or task.depths:
                train_arm(base, depth, rates, options.seeds, folder, sets)


def train_arm(
    base: Experiment,
    depth: int,
    rates: Sequence[float],
    seeds: int,
    folder: Path,
    sets: Splits,
) -> None:
    """Train one arm and depth. The sweep in `folder` has all depths."""
    over = {"depth": (depth,), "learning_rate": rates}
    rows = compute(Sweep(base=base, over=over, seeds=1), folder, sets)
    best = at_best_rate(pick(rows, depth=depth))[0]["learning_rate"]
    compute(Sweep(base=base, over=over | {"learning_rate": (best,)}, seeds=seeds), folder, sets)


def _from_theory(experiment: Experiment, sets: Splits) -> float:
    nu, dt = float(sets.train.rate().mean()), experiment.neuron.dt  # type: ignore[union-attr]
    return float(steepness_for_gain(superspike(), nu=nu, mu_u=0.0, sigma_u=1.0, dt=dt))


def at_best_rate(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose learning rate is the best one on seed 0.

    Args:
        rows: Rows of one study, arm and depth.
    """
    first = pick(rows, seed=0)
    if not first:
        return []
    best = max(first, key=lambda row: row["valid_accuracy"])
    return pick(rows, learning_rate=best["learning_rate"])


def accuracies(rows: Sequence[Row]) -> list[float]:
    """Return the accuracy after the last epoch, which the study compares, of every row."""
    return [row["valid_accuracy"] for row in rows]


def values_of(rows: Sequence[Row], name: str) -> list[Any]:
    """Return the values of a column, each once. Arms have the order of `ARMS`."""
    values = {row[name] for row in rows}
    return [arm for arm in ARMS if arm in values] if name == "arm" else sorted(values)


def accuracy_tables(rows: Sequence[Row]) -> str:
    """Return validation accuracies in per cent by start and depth, one table per study.

    Args:
        rows: The results. With at least 3 runs there is a standard deviation.
    """
    tables = []
    for name in dict.fromkeys(row["study"] for row in rows):
        own = pick(rows, study=name)
        depths = values_of(own, "depth")
        lines = [
            [arm, *(_cell(pick(own, depth=d, arm=arm)) for d in depths)]
            for arm in values_of(own, "arm")
        ]
        head = [f"{d:g} layer{'s' * (d > 1)}" for d in depths]
        tables.append(markdown_table([name, *head], lines))
    return "\n\n".join(tables)


def rates_table(rows: Sequence[Row]) -> str:
    """Return a table of starts: accuracy of seed 0 at each rate, and of all seeds at the best one.

    Args:
        rows: Rows of one study and depth.
    """
    lines = []
    for arm in values_of(rows, "arm"):
        own = pick(rows, arm=arm)
        first = sorted(pick(own, seed=0), key=lambda row: row["learning_rate"])
        tried = [f"{row['learning_rate']:g}: {100 * row['valid_accuracy']:.1f}" for row in first]
        lines.append([arm, ", ".join(tried), _cell(own)])
    title = f"{rows[0]['study']}, {rows[0]['depth']:g} layers"
    return markdown_table([title, "learning rate: accuracy of seed 0 (%)", "best rate (%)"], lines)


def _cell(rows: Sequence[Row]) -> str:
    best = at_best_rate(rows)
    if not best:
        return ""
    return f"{spread(accuracies(best), least=3)} ({best[0]['learning_rate']:g}, {len(best)})"


def level(row: Row) -> float:
    """Return the largest over the smallest gradient of the layers of one network before training.

    The gradient is that of the loss with respect to the spikes, as a root mean square per layer.

    Args:
        row: A row of the results.
    """
    at_layer = np.cumprod([1.0, *numbered(row, "initial_gain")[:0:-1]])
    return float(at_layer.max() / at_layer.min())


def levels(rows: Sequence[Row]) -> str:
    """Report the ratio of gradients for `calibrated`: the worst network of each task and depth.

    Args:
        rows: The results.
    """
    worst: dict[tuple[str, float], float] = {}
    for row in pick(rows, arm="calibrated"):
        where = row["study"].partition(",")[0], row["depth"]
        worst[where] = max(worst.get(where, 1.0), level(row))
    lines = ["largest over smallest gradient of the layers, calibrated, worst network:"]
    lines += [f"{task}, depth {depth:g}: {worst[task, depth]:.2f}" for task, depth in sorted(worst)]
    return "\n".join(lines)


STARTS = 4
"""Least number of starts that are compared."""


def _farthest(values: Sequence[float], good: float, least: float = 1e-30) -> float:
    """Return minus the largest distance from `good`, as a logarithm, of the finite values."""
    finite = [max(value, least) for value in values if math.isfinite(value)]
    return -max((abs(math.log(value / good)) for value in finite), default=0.0)


def _or(values: Sequence[float], instead: float) -> list[float]:
    """Return the values, with another one for those that a silent layer does not have."""
    return [value if math.isfinite(value) else instead for value in values]


_UPDATE = "first update over weights, farthest layer from"
PREDICTORS: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "gain farthest from 1, on a logarithm": ("gain", lambda v: _farthest(v, 1.0)),
    "agreement, mean over layers": ("agreement", lambda v: sum(_or(v, 0.0)) / len(v)),
    "agreement of the first layer": ("agreement", lambda v: _or(v, 0.0)[0]),
    "agreement of the last layer": ("agreement", lambda v: _or(v, 0.0)[-1]),
    "smallest agreement": ("agreement", lambda v: min(_or(v, 0.0))),
    "memory of the last layer": ("memory", lambda v: _or(v, 0.0)[-1]),
    "largest share of a bound": ("bounds", lambda v: -max(_or(v, math.inf))),
    "gradient of the first layer over the last": (
        "grad_z",
        lambda v: _farthest([max(v[0], 1e-30) / max(v[-1], 1e-30)], 1.0),
    ),
    "smallest rate": ("rate", min),
    f"{_UPDATE} 1 %": ("step", lambda v: _farthest(v, 0.01, 1e-6)),
    f"{_UPDATE} 1.5 %": ("step", lambda v: _farthest(v, 0.015, 1e-6)),
}
"""Numbers from before training that may predict the accuracy: a measurement of the layers, and a
function of it. Larger is better."""


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their ranks.

    Args:
        a: Values.
        b: As many values.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    0.8
    """
    if 1 in (len(set(a)), len(set(b))):  # a constant has no correlation
        return 0.0
    found: Any = stats.spearmanr(a, b)
    return round(float(found.statistic), 10)


def predictors(rows: Sequence[Row]) -> dict[str, tuple[float, float, float]]:
    """Return the rank correlation of each number from before training with the accuracy.

    Args:
        rows: Rows of all studies.

    Returns:
        For each number three correlations. The first is over the runs of one study and depth,
        averaged over those in which at least `STARTS` starts were tried: there the starts make the
        difference. The second is over all runs. The third as well, but with the accuracy divided by
        the best one of its task, because tasks differ in what can be reached. Numbers that a row
        does not have are left out (sweeps do not measure `memory` and `bounds`).
    """
    compared = compared_starts(rows)
    best: dict[str, float] = {}
    for row in rows:
        best[row["study"]] = max(best.get(row["study"], 0.0), row["valid_accuracy"])
    relative = [row["valid_accuracy"] / best[row["study"]] for row in rows]

    def before(name: str, of: Callable[[list[float]], float], own: Sequence[Row]) -> list[float]:
        return [of(numbered(row, f"initial_{name}")) for row in own]

    def correlations(name: str, of: Callable[[list[float]], float]) -> tuple[float, float, float]:
        each = [rank_correlation(before(name, of, own), accuracies(own)) for own in compared]
        every = before(name, of, rows)
        over_all = [rank_correlation(every, values) for values in (accuracies(rows), relative)]
        return round(float(np.mean(each or [0.0])), 2), round(over_all[0], 2), round(over_all[1], 2)

    return {
        text: correlations(*how)
        for text, how in PREDICTORS.items()
        if all(f"initial_{how[0]}_1" in row for row in rows)
    }


def compared_starts(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each study and depth with at least `STARTS` starts."""
    places = sorted({(row["study"], row["depth"]) for row in rows})
    groups = [pick(rows, study=name, depth=depth) for name, depth in places]
    return [own for own in groups if len(values_of(own, "arm")) >= STARTS]


STYLES: dict[str, tuple[str, str]] = {
    "calibrated": (_style.DATA, "-"),
    "calibrated, skip": (_style.DATA, "-."),
    "formula + gradient": (_style.FORMULA, "--"),
    "formula": (_style.FORMULA, "-"),
    "paper": (_style.SKY, "-"),
}
"""Colour and line style of the starts that are drawn."""


@_style.styled
def picture(rows: Sequence[Row]) -> Figure:
    """Draw accuracies by depth with one line per start, and learning curves of `calibrated`.

    Args:
        rows: Rows of one study.
    """
    depths = values_of(rows, "depth")
    figure, (by_depth, by_epoch) = _style.panels(2, height=3.4, sharey=True)
    for arm, (color, ls) in STYLES.items():
        best = [at_best_rate(pick(rows, arm=arm, depth=depth)) for depth in depths]
        runs = {runs[0]["depth"]: 100 * np.array(accuracies(runs)) for runs in best if runs}
        if len(runs) > 1:
            means = [values.mean() for values in runs.values()]
            by_depth.plot(list(runs), means, color=color, ls=ls, label=arm)
            for depth, values in runs.items():
                by_depth.plot([depth] * len(values), values, "o", color=color, mfc="white", ms=3.5)
    for k, depth in enumerate(depths):
        own = at_best_rate(pick(rows, arm="calibrated", depth=depth))
        if own:
            curves = 100 * np.array([numbered(row, "valid_accuracy", 0) for row in own])
            style = {
                "color": colormaps["viridis"](0.9 * k / max(len(depths) - 1, 1)),
                "label": f"{depth:g} layer{'s' * (depth > 1)}",
            }
            by_epoch.plot(curves.mean(axis=0), **style)
    by_depth.set(
        xlabel="hidden layers", ylabel="validation accuracy (%)", xticks=depths, ylim=(0, 102)
    )
    by_epoch.set(xlabel="epoch", title="calibrated")
    _style.whole_numbers(by_epoch.xaxis)
    by_epoch.legend(loc="upper right", ncols=2)
    by_depth.legend(loc="upper right", ncols=2)
    for axes in (by_depth, by_epoch):
        _style.chance(axes, 10.0)
    return figure


def main() -> None:
    """Train what is missing, and show all tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("place", type=Path, help="folder of the study, or a file with its rows")
    add("--tasks", nargs="+", choices=TASKS, default=["dense"])
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="starts")
    add("--depths", nargs="+", type=int, help="numbers of layers; default: those of each task")
    add("--seeds", type=int, default=5, help="seeds 0 ... SEEDS - 1")
    add("--epochs", type=int, help="passes over the training data; default: those of each task")
    add("--figure", type=Path, help="file for the figure of the first of TASKS")
    options = parser.parse_args()
    rows = study(options.place, lambda place: train(place, options), ("study", "arm"))
    print(accuracy_tables(rows))
    for own in compared_starts(rows):
        print(rates_table(own))
    print(levels(rows))
    if options.figure is not None:
        task = options.tasks[0]
        epochs = options.epochs or TASKS[task].options["epochs"]
        plotting.save(picture(pick(rows, study=f"{task}, {epochs} epochs")), options.figure)
    for name, found in predictors(rows).items():
        print(*(f"{r:+.2f}" for r in found), name)


if __name__ == "__main__":
    main()
