"""Depth before training: the paper's figure 4d-f, with the numbers behind each statement.

    python -m benchmarks.depth FOLDER FIGURE.png
    python -m benchmarks.depth benchmarks/results/depth.csv FIGURE.png

The measurements of `snnjax reproduce figure4` (`snnjax.reproduce._layers`), as sweeps: 32 recordings
in 2 ms steps, 5 seeds. SNNJAX_DATA names the folder with the data; test files are not read. The
second command shows the table and the figure of rows that exist (`benchmarks.studies`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.studies import Row, compute, numbered, study, table
from snnjax import plotting
from snnjax.datasets import Splits
from snnjax.experiments import Experiment, Sweep
from snnjax.reproduce._layers import NUMBERS, OTHERS, SIGMAS, STATEMENTS, few, figure, setting

SAMPLES = 32


def train(place: Path) -> None:
    """Measure the networks that are missing, and train them for one step."""
    base = Experiment.from_options(
        "shd", start="paper", model="csnn", recurrent=True, epochs=1, batch_size=SAMPLES
    )
    data = few(base.datasets(), SAMPLES).train
    depths = {"depth": (1, 3, 7)}
    for init, over in (
        ("fluctuation_driven", {"sigma_u": SIGMAS}),
        *((init, {}) for init in OTHERS),
    ):
        sweep = Sweep(base=base.replace(init=init), over=over | depths)
        compute(sweep, place / init, Splits(data, data, data))


def seen(row: Row) -> Row:
    """Return a row as the statements of figure 4 read it, with a list over layers per number."""
    given = {"depth": int(row["depth"]), "seed": int(row["seed"])}
    name = setting(row["init"], row.get("sigma_u", 1.0))
    by_layer = {ours: numbered(row, f"initial_{theirs}") for ours, theirs in NUMBERS.items()}
    return given | {"setting": name} | by_layer


def main() -> None:
    """Measure what is missing, draw, and show each statement and the means over seeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("place", type=Path, help="folder of the sweeps, or a file with rows")
    parser.add_argument("figure", type=Path, help="PNG file to write")
    options = parser.parse_args()
    rows = [seen(row) for row in study(options.place, train, ("init",))]
    plotting.save(figure(rows), options.figure)
    judged = [(s.text, *s.judge(rows)) for s in STATEMENTS]
    print(table(["statement", "holds here", "measured"], judged))
    for depth, name in dict.fromkeys((row["depth"], row["setting"]) for row in rows):
        own = [row for row in rows if (row["depth"], row["setting"]) == (depth, name)]
        means = (
            np.mean([row[key] for row in own], axis=0).round(2) for key in ("rate", "membrane")
        )
        print(depth, name, "rates {}, sigma_u {}".format(*means))


if __name__ == "__main__":
    main()
