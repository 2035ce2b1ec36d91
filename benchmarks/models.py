"""The model zoo: trains configurations, and saves the rows and the parameters of its networks.

    python -m benchmarks.models FOLDER randman delays      # 5 seeds each
    python -m benchmarks.pages                             # the tables of docs/models.md

SNNJAX_DATA names the folder with the data. The first command trains what is missing in FOLDER/NAME
(`benchmarks.studies.compute`). Then it writes, for these configurations,

    benchmarks/results/models.csv    one row per network; rows of other configurations stay
    docs/models/NAME                 options and parameters of seed 0: `load_run` reads the folder

The settings must be chosen on held-out training recordings, because the rows have the accuracy on
the test recordings.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.studies import Row, compute, read, spread
from snnjax._files import write_whole
from snnjax.datasets import BatchSource, Splits
from snnjax.experiments import Experiment, Sweep, load_run
from snnjax.experiments._build import LOSSES
from snnjax.experiments._rows import pick
from snnjax.experiments._sweep_folder import member_folder, open_folder, write_csv
from snnjax.nn import Sequential
from snnjax.nn._neuron_layer import Fixed
from snnjax.nn._norm import Statistics
from snnjax.reproduce._report import markdown_table
from snnjax.training._params import flatten_params, unflatten_params

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "benchmarks/results/models.csv"
FILES = ROOT / "docs/models"
KEPT = (
    *("finite", "epochs", "best_epoch", "train_accuracy", "valid_accuracy"),
    *("test_accuracy_final", "test_accuracy_best", "spikes", "operations", "macs"),
)
"""Columns of a sweep that the rows of the zoo keep."""


class Model(NamedTuple):
    """A configuration.

    Attributes:
        options: Options of the experiment.
        data: The data.
        published: The best comparable result of others that we know.
        of: Name of the configuration that this one is an ablation of. Its parameters are not saved.
    """

    options: dict[str, Any]
    data: str
    published: str = ""
    of: str = ""


_DIGITS = "spoken digits: 2,160 training, 240 validation and 300 test recordings"
_ALL_DIGITS = "spoken digits: 2,376 training and 300 test recordings"
_NMNIST = "N-MNIST: 900 training, 100 validation and 100 test recordings"
_FEWEST = 0.01
"""Held-out fraction that leaves nearly all recordings to training; it measures nothing."""
_SHD = {"task": "shd", "downsample": 5, "dt": 0.01, "batch_size": 32, "upper_rate": 30.0}
_CHANGED = {"augment_shift": 4, "augment_blend": 0.3}
# chosen with a quarter of the training recordings held out; then trained on nearly all of them
_DELAYS = (
    _SHD
    | {"hidden": (256, 256), "max_delay": 0.25, "epochs": 100, "dropout": 0.1, "augment_shift": 4}
    | {"loss": "sum_over_time", "learn_tau": True, "valid_fraction": _FEWEST}
)
_ADLIF = (
    _SHD
    | _CHANGED
    | {"hidden": (128, 128), "recurrent": True, "epochs": 40, "dropout": 0.1}
    | {"neuron": "adlif", "a": 0.3, "spread": 0.3, "learn_tau": True, "learn_adaptation": True}
    | {"dt": 0.005, "learning_rate": 0.01, "loss": "sum_over_time"}
)
_RECURRENT = {"task": "shd", "recurrent": True, "epochs": 60}
_NOT_CALIBRATED = {"init": "kaiming", "gradient": "none"}
_NOT_CHANGED = {"augment_shift": 0, "augment_blend": 0.0}
_HAMMOUAMRI = "SHD: 95.1 +- 0.2, Hammouamri et al. (2024), arXiv 2306.17670"
_BARONIG = "SHD: 95.8 +- 0.6, Baronig et al. (2024), arXiv 2408.07517"
_ROSSBROICH = "97.3 +- 0.2, Rossbroich, Gygax & Zenke (2022)"


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


_LIF = _without(_ADLIF, "neuron", "a", "learn_adaptation")
MODELS: dict[str, Model] = {
    "randman": Model({"task": "randman"}, "Randman: 8,000, 1,000 and 1,000 samples", _ROSSBROICH),
    "digits": Model(
        {"task": "digits", "model": "csnn2", "epochs": 10, "batch_size": 50},
        "images of digits (scikit-learn): 1,294, 143 and 360 images",
    ),
    "recurrent": Model(_RECURRENT | {"augment_shift": 20, "augment_stretch": 0.1}, _DIGITS),
    "delays": Model(_DELAYS, _ALL_DIGITS, _HAMMOUAMRI),
    "delays, no delays": Model(_without(_DELAYS, "max_delay"), _ALL_DIGITS, of="delays"),
    "delays, Kaiming start": Model(_DELAYS | _NOT_CALIBRATED, _ALL_DIGITS, of="delays"),
    "delays, no augmentation": Model(_DELAYS | _NOT_CHANGED, _ALL_DIGITS, of="delays"),
    "adlif": Model(_ADLIF, _DIGITS, _BARONIG),
    "adlif, no adaptation": Model(_LIF, _DIGITS, of="adlif"),
    "adlif, Kaiming start": Model(_ADLIF | _NOT_CALIBRATED, _DIGITS, of="adlif"),
    "adlif, no augmentation": Model(_ADLIF | _NOT_CHANGED, _DIGITS, of="adlif"),
    "nmnist": Model(
        {"task": "nmnist", "model": "csnn2", "downsample": 2, "batch_size": 10, "epochs": 6},
        _NMNIST,
        "on the same test recordings: 98, the network of sinabs (trained on 60,000)",
    ),
}


def train(name: str, place: Path, seeds: int) -> list[Row]:
    """Train what is missing of a configuration, save the parameters of seed 0, and return its rows.

    Args:
        name: Name of the configuration.
        place: Folder of all sweeps.
        seeds: Number of seeds.
    """
    base, folder = Experiment.from_options(**MODELS[name].options), place / name
    splits = base.datasets()
    clock = _Clock()
    rows = compute(Sweep(base=base, seeds=seeds), folder, splits, on_epoch=[clock])
    seconds = clock.seconds(folder / "seconds.json")
    return [
        {"model": name, "seed": row["seed"]}
        | {column: row[column] for column in KEPT}
        | saved(name, member_folder(folder, {"seed": row["seed"]}), splits)
        | {"seconds": seconds}
        for row in rows
    ]


class _Clock:
    """Measures the time of an epoch, divided by the number of networks that train at once."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []

    def __call__(self, snapshot: object, finished: int, size: int) -> None:
        self.times.append((time.perf_counter(), size))

    def seconds(self, file: Path) -> float:
        """Return the median, in seconds. `file` keeps it for a call that trains nothing."""
        # the first epoch also compiles
        pairs = zip(self.times[1:], self.times[2:], strict=False)
        if own := [(after - before) / size for (before, _), (after, size) in pairs]:
            write_whole(file, json.dumps(statistics.median(own)).encode())
        return json.loads(file.read_text()) if file.exists() else math.nan


def saved(name: str, folder: Path, splits: Splits) -> Row:
    """Return size and accuracy of a trained network as it is saved, and save it if its seed is 0.

    Its delays are rounded to whole time steps, and its weights to 16 bits.

    Args:
        name: Name of the configuration.
        folder: The folder of the network in its sweep.
        splits: Its data.
    """
    experiment, network, data = load_run(folder, datasets=splits)
    network.round_delays()
    params = nnx.state(network, nnx.Param)
    small = {n: _half(a) for n, a in flatten_params(params).items()}
    if experiment.seed == 0 and not MODELS[name].of:
        place = FILES / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        one = Sweep(base=experiment, seeds=None)
        open_folder(place, one.options(), one.members())
        np.savez_compressed(place / "final.npz", **small)  # pyright: ignore[reportArgumentType]
    nnx.update(network, unflatten_params(params, small))
    correct = accuracy(network, data.splits.test, experiment)
    return {"parameters": size(network), "test_accuracy_saved": correct}


def _half(a: np.ndarray) -> np.ndarray:
    """Return weights in 16 bits; other parameters, such as delays, as they are."""
    return a.astype(np.float16) if a.ndim > 1 else a


def size(network: Sequential) -> int:
    """Return the number of trained parameters."""
    fixed = (Fixed, Statistics)
    leaves = jax.tree.leaves(nnx.state(network, nnx.Param), is_leaf=_is_variable)
    return sum(int(a[...].size) for a in leaves if not isinstance(a, fixed))


def _is_variable(a: object) -> bool:
    return isinstance(a, nnx.Variable)


def accuracy(network: Sequential, source: BatchSource, experiment: Experiment) -> float:
    """Return the share of samples that a network classifies correctly, over batches of 100."""
    readout_fn = LOSSES[experiment.objective.loss].readout_fn
    classify = nnx.jit(lambda n, x: readout_fn(n(x)[0]).argmax(axis=-1))
    right = 0
    for first in range(0, len(source), 100):
        x, labels = source.batch(jnp.arange(first, min(first + 100, len(source))))
        right += int((classify(network, x) == labels).sum())
    return right / len(source)


def tables(rows: Sequence[Row]) -> str:
    """Return the table of the models, and that of the ablations."""
    models, parts = [], []
    for name, model in MODELS.items():
        own = pick(rows, model=name)
        if not own:
            continue
        mean = lambda column, own=own: statistics.fmean(row[column] for row in own)
        shares = [
            ""
            if model.options.get("valid_fraction") == _FEWEST and c == "valid_accuracy"
            else spread([row[c] for row in own])
            for c in ("valid_accuracy", "test_accuracy_final")
        ]
        costs_of = [f"{mean('parameters'):,.0f}", f"{mean('operations'):,.0f}"]
        costs_of += [f"{mean('spikes'):,.0f}", f"{mean('seconds'):.1f}"]
        if model.of:
            parts.append([name, str(len(own)), *shares, *costs_of])
        else:
            saved = f"{100 * pick(own, seed=0)[0]['test_accuracy_saved']:.1f}"
            cells = [model.data, str(len(own)), *shares, model.published, *costs_of, saved]
            models.append([f"`{name}`", *cells])
    if not models:
        return "No configuration has been trained with the script yet."
    head = ["parameters", "synaptic operations", "spikes", "s per epoch"]
    accuracies = ["seeds", "validation, %", "test, %"]
    first = ["model", "data", *accuracies, "published, %", *head, "test of the file, %"]
    found = [markdown_table(first, models)]
    if parts:
        found.append(markdown_table(["ablation", *accuracies, *head], parts))
    return "\n\n".join(found)


def commands() -> str:
    """Return a code block with the command of each model."""
    names = [name for name, model in MODELS.items() if not model.of]
    lines = [f"# {name}\n{_command(MODELS[name].options)}" for name in names]
    return "\n".join(["```console", *lines, "```"])


def _command(options: dict[str, Any]) -> str:
    """Return the command that trains one network, in lines of at most 88 columns."""
    words = ["snnjax train", str(options["task"])]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        values = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if name != "task":
            words.append(flag if value is True else f"{flag} {values}")
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 84:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}".removeprefix(" " if len(lines) == 1 else "")
    return " \\\n".join(lines)


def main() -> None:
    """Train what is missing, and write rows and parameters."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("place", type=Path, help="folder of the sweeps")
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rows = read(ROWS)
    for name in options.models:
        new = train(name, options.place, options.seeds)
        rows = [row for row in rows if row["model"] != name] + new
        order = list(MODELS)
        rows.sort(key=lambda row: (order.index(row["model"]), row["seed"]))
        write_csv(rows, ROWS)
    print(tables(rows))


if __name__ == "__main__":
    main()
