"""Do initial weights help training? Sweeps with the settings of the paper, on spoken words.

    python -m benchmarks.initialization FOLDER [--study words]
    python -m benchmarks.initialization benchmarks/results/initialization.csv

`words` has dense and recurrent networks of 128 neurons per layer: formulas with a target for the
membrane (the paper's, data-driven, data-driven and balanced) at every sigma_u, and others. "figure
4" has the paper's convolutional networks on two speakers, with and without its lower bound on
activity ("homeostasis"). The budget is the same for all networks of a study. SNNJAX_DATA names the
folder with the data; test files are not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.studies import Row, accuracy_after, compute, pick, spread, study, table
from snnjax.datasets import Splits
from snnjax.experiments import Experiment, Sweep
from snnjax.reproduce._data import Source, datasets

NAMES = {
    "fluctuation_driven": "paper's formula",
    "data_driven": "data-driven",
    "data_driven_balanced": "data-driven, balanced",
    "lsuv": "LSUV (10 Hz)",
    "kaiming": "Kaiming",
    "lecun": "LeCun",
    "micheli": "Micheli",
    "ikun": "IKUN",
}
TARGETED, OTHERS = tuple(NAMES)[:3], tuple(NAMES)[3:]


class Study(NamedTuple):
    """Sweeps with one budget.

    Attributes:
        options: Options of all experiments.
        sweeps: Swept options by the kind of network and a name.
        seeds: Number of seeds.
        samples: Number of training recordings. None: all.
        source: The recordings of all speakers, or of two.
        few: The table also has the accuracy after this number of epochs.
    """

    options: Mapping[str, Any]
    sweeps: Mapping[tuple[str, str], Mapping[str, Sequence[Any]]]
    seeds: int = 3
    samples: int | None = None
    source: Source = "own"
    few: int = 3

    def datasets(self, experiment: Experiment) -> Splits:
        """Return the data."""
        sets: Any = datasets(experiment, self.source) or experiment.datasets()
        if self.samples is None:
            return sets
        share = self.samples / len(sets.train)
        return sets._replace(train=sets.train.split((share, 1 - share), seed=0)[0])


_SHD = {"task": "shd", "start": "paper", "valid_fraction": 0.25}
STUDIES = {
    "words": Study(
        _SHD | {"dt": 4e-3, "batch_size": 25, "epochs": 12, "learning_rate": 0.01},
        {
            (kind, name): {"init": inits, **targets, "depth": depths}
            for kind, depths in (("dense", (1, 3, 7)), ("recurrent", (1, 3)))
            for name, inits, targets in (
                ("with a target", TARGETED, {"sigma_u": (0.1, 0.3, 1.0, 3.0)}),
                ("others", OTHERS, {}),
            )
        },
        samples=1000,
    ),
    "figure 4": Study(
        _SHD
        | {"duration": 0.4, "dt": 5e-3, "batch_size": 10, "epochs": 25}
        | {"optimizer": "adam", "learning_rate": 0.005},
        {
            ("convolutional", "Kaiming"): {
                "init": ("kaiming",),
                "lower_strength": (0.0, 100.0),
                "depth": (3, 7),
            },
            ("convolutional", "with a target"): {
                "init": ("fluctuation_driven", "data_driven_balanced"),
                "lower_strength": (0.0,),
                "sigma_u": (1.0, 2.0),
                "depth": (3, 7),
            },
        },
        source="two speakers",
        few=5,
    ),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "recurrent": {"recurrent": True},
    "convolutional": {"recurrent": True, "model": "csnn"},
}


def train(place: Path, name: str) -> None:
    """Train what is missing of a study."""
    own, sets = STUDIES[name], None
    for (network, part), over in own.sweeps.items():
        base = Experiment.from_options(**own.options, **NETWORKS[network])
        sets = own.datasets(base) if sets is None else sets
        sweep = Sweep(base=base, over=over, seeds=own.seeds)
        compute(sweep, place / name / network / part, sets)


def accuracy_table(rows: Sequence[Row], few: int) -> str:
    """Return a table with one line per initialization and sigma_u.

    The columns have accuracies after few and after all epochs, mean and spread over seeds.

    Args:
        rows: Rows of one study.
        few: Number of epochs.
    """
    starts = sorted({_start(row) for row in rows})
    networks = sorted({(row["depth"], row["network"]) for row in rows})
    varied = len({strength for _, strength, _ in starts}) > 1
    lines = []
    for start in starts:
        k, strength, sigma_u = start
        own = [row for row in rows if _start(row) == start]
        cells = [_cell(pick(own, network=name, depth=depth), few) for depth, name in networks]
        text = list(NAMES.values())[k] + " + homeostasis" * (varied and strength > 0)
        lines.append([text, f"{sigma_u:g}" if sigma_u else "", *cells])
    return table(["initialization", "sigma_u", *(f"{n}, {d:g}" for d, n in networks)], lines)


def _start(row: Row) -> tuple[int, float, float]:
    """Return the place of the initialization in `NAMES`, the lower bound, and sigma_u."""
    return list(NAMES).index(row["init"]), row.get("lower_strength", 0.0), row.get("sigma_u", 0.0)


def _cell(rows: Sequence[Row], few: int) -> str:
    if not rows:
        return ""
    after = few, int(rows[0]["epochs"])
    return ", ".join(spread([accuracy_after(row, n) for row in rows], 0) for n in after)


def main() -> None:
    """Train what is missing, and show the table of each study."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("place", type=Path, help="folder of the studies, or a file with their rows")
    parser.add_argument("--study", choices=STUDIES, default="words")
    options = parser.parse_args()
    labels = ("study", "network", "sweep")
    rows = study(options.place, lambda place: train(place, options.study), labels)
    for name, own in STUDIES.items():
        if chosen := pick(rows, study=name):
            print(f"{name}\n\n{accuracy_table(chosen, own.few)}\n")


if __name__ == "__main__":
    main()
