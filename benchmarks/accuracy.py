"""Test accuracy over seeds: the numbers of the README.

    python -m benchmarks.accuracy FOLDER --sweeps randman "digits, calibrated"
    python -m benchmarks.accuracy benchmarks/results/randman.csv

SNNJAX_DATA names the folder with the data. The second command shows the table of rows that exist
(`benchmarks.studies`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies import Row, compute, spread, study
from snnjax.experiments import Experiment, Sweep
from snnjax.experiments._results import swept
from snnjax.experiments._rows import pick, shown
from snnjax.reproduce._report import markdown_table

_of = Experiment.from_options
_WORDS = {"epochs": 60, "augment_shift": 20, "augment_stretch": 0.1}
_IMAGES = {"start": "paper", "epochs": 10}
_CIFAR = _IMAGES | {"fraction": 0.3, "downsample": 2, "dt": 4e-3, "flip": True}
SWEEPS = {
    "randman": Sweep(base=_of("randman", start="paper"), over={"data_seed": (0, 1, 2)}),
    "randman, calibrated": Sweep(base=_of("randman"), over={"data_seed": (0, 1, 2)}),
    "digits": Sweep(
        base=_of("shd", start="paper", learning_rate=0.01, **_WORDS),
        over={"recurrent": (True, False)},
    ),
    "digits, calibrated": Sweep(base=_of("shd", recurrent=True, **_WORDS)),
    "images": Sweep(base=_of("digits", duration=0.1, learning_rate=0.01, **_IMAGES), seeds=3),
    "cifar10": Sweep(
        base=_of("cifar10", depth=4, duration=0.2, learning_rate=0.001, **_CIFAR), seeds=1
    ),
}
ACCURACIES = ("test_accuracy_final", "test_accuracy_best", "valid_accuracy", "train_accuracy")


def accuracy_table(rows: Sequence[Row]) -> str:
    """Return accuracies in per cent, mean and standard deviation over the seeds of each network."""
    names = [name for name in swept(rows) if name not in ("sweep", "task", "data_seed")]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        label = [row["sweep"], *(f"{name} {shown(row[name])}" for name in names if name in row)]
        groups.setdefault(", ".join(label), []).append(row)
    lines = []
    for name, own in groups.items():
        cells = [spread([row[column] for row in own], 2) for column in ACCURACIES]
        draws = [pick(own, data_seed=k) for k in sorted({row.get("data_seed", 0) for row in own})]
        by_draw = [spread([row[ACCURACIES[0]] for row in d], 2, least=99) for d in draws if d]
        lines.append([name, str(len(own)), *cells, ", ".join(by_draw)])
    return markdown_table(["networks", "n", *ACCURACIES, f"{ACCURACIES[0]} by data_seed"], lines)


def main() -> None:
    """Train what is missing, and show mean and standard deviation over all rows of each sweep."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("place", type=Path, help="folder of the sweeps, or a file with rows")
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=["randman"])
    options = parser.parse_args()

    def train(place: Path) -> None:
        for name in options.sweeps:
            compute(SWEEPS[name], place / name)

    rows = study(options.place, train, ("sweep",))
    print(accuracy_table(rows))


if __name__ == "__main__":
    main()
