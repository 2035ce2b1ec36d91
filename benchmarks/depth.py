"""Depth before training: the paper's figure 4d-f on files in the SHD layout.

    python -m benchmarks.depth RESULTS.jsonl FIGURE.png --data FOLDER

The same measurements as `snnjax reproduce figure4` before training (`snnjax.reproduce.layers`), for
any depths, seeds and time step: recurrent convolutional networks of 1, 3 and 7 layers, layer by
layer. Then prints each statement of the paper with the numbers for or against it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from snnjax import plotting
from snnjax.experiments import SHDConfig
from snnjax.reproduce.layers import NUMBERS, SETTINGS, STATEMENTS, few, figure, look, setting


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    results: tyro.conf.Positional[Path]
    """JSON lines, one per network; existing ones are not measured again."""
    figure: tyro.conf.Positional[Path]
    """PNG file to write."""
    data: Path = Path()
    """Folder with NAME_train.h5 and NAME_test.h5."""
    depths: tuple[int, ...] = (1, 3, 7)
    """Layers."""
    seeds: int = 5
    """Draws of the weights."""
    samples: int = 32
    """Training recordings."""
    dt: float = 2e-3
    """Time step, s."""


def measure(options: Options, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict per depth, setting and seed, with numbers by layer.

    Args:
        options: What to measure.
        done: Existing rows. Missing rows are measured and appended to the results, one line each.
    """
    base = SHDConfig(
        start="paper",
        data=options.data,
        recurrent=True,
        dt=options.dt,
        calibration_samples=options.samples,
    )
    rows, sets = [], None
    for depth, (init, sigma_u), seed in itertools.product(
        options.depths, SETTINGS, range(options.seeds)
    ):
        which = {
            "depth": depth,
            "setting": setting(init, sigma_u),
            "seed": seed,
            "samples": options.samples,
            "dt": options.dt,
        }
        row = next((row for row in done if which.items() <= row.items()), None)
        if row is None:
            sets = few(base.datasets(), options.samples) if sets is None else sets
            network = dataclasses.replace(base, model=f"csnn{depth}")  # type: ignore[arg-type]
            found = look(network, sets, init, sigma_u, seed)
            # the names of LayerProbe
            row = which | {NUMBERS[name]: values for name, values in found.items()}
            with options.results.open("a") as f:
                f.write(json.dumps(row) + "\n")
            print(depth, row["setting"], seed, np.round(row["rate"], 2).tolist(), flush=True)
        rows.append(row)
    return rows


def main(options: Options) -> None:
    """Measure, write, draw, judge.

    Args:
        options: What to measure.
    """
    done = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    rows = measure(options, done)
    plotting.save(figure(rows), options.figure)
    print("| statement | holds here | measured |\n|---|---|---|")
    for statement in STATEMENTS:
        status, found = statement.judge(rows)
        print(f"| {statement.text} | {status} | {found} |")
    for depth, name in dict.fromkeys((row["depth"], row["setting"]) for row in rows):
        own = [row for row in rows if (row["depth"], row["setting"]) == (depth, name)]
        rate, sigma_u = (
            np.round(np.mean([row[key] for row in own], axis=0), 2) for key in ("rate", "sigma_u")
        )
        print(depth, name, "rates", rate, "sigma_u", sigma_u)


if __name__ == "__main__":
    main(tyro.cli(Options))
