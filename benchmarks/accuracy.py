"""Accuracy over seeds.

    python -m benchmarks.accuracy RESULTS.jsonl [--data-seeds 0 1 2] [--seeds 5] TASK [FLAGS]

FLAGS are any flags of the task. Each run immediately appends one line to RESULTS.jsonl. Runs that
are already in the file are not repeated. Prints mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from snnjax._cli import Task
from snnjax._files import as_dict
from snnjax.experiments import run


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Train `task` for several seeds and report test accuracy."""

    results: tyro.conf.Positional[Path]
    """JSON lines, one per run."""
    task: Task
    seeds: int = 5
    """Seeds 0 ... seeds - 1 of weights and sample order."""
    data_seeds: tuple[int, ...] = (0,)
    """Seeds of the data: manifold draws, or the split."""


def key_of(config: dict[str, Any]) -> str:
    """Return the identity of a run: its settings without the folders of its data and its output.

    Args:
        config: The run's configuration.
    """
    return json.dumps(
        {
            k: str(v) if isinstance(v, Path) else v
            for k, v in config.items()
            if k not in ("out", "data")
        },
        sort_keys=True,
    )


def main(options: Accuracy) -> None:
    """Run what is missing, then print the table.

    Args:
        options: The task, the seeds and the file of results.
    """
    done = {}
    if options.results.exists():
        for line in options.results.read_text().splitlines():
            entry = json.loads(line)
            done[key_of(entry["config"])] = entry
    rows = []
    for data_seed in options.data_seeds:
        base = dataclasses.replace(options.task, data_seed=data_seed)
        datasets = None
        for seed in range(options.seeds):
            config = dataclasses.replace(base, seed=seed)
            settings = json.loads(key_of(as_dict(config)))
            entry = done.get(key_of(settings))
            if entry is None:
                datasets = config.datasets() if datasets is None else datasets
                entry = {"config": settings, "summary": run(config, datasets=datasets).summary}
                with options.results.open("a") as f:
                    f.write(json.dumps(entry) + "\n")
            rows.append((data_seed, seed, entry["summary"]))
            s = entry["summary"]
            print(
                f"data {data_seed} seed {seed}: test {100 * s['test_accuracy']:.2f} (best on validation {100 * s['test_accuracy_best']:.2f}), "
                f"train {100 * s['train_accuracy']:.2f}, rate {s['initial_rates_hz']} -> {s['final_rates_hz']}, {s['seconds']:.0f} s",
                flush=True,
            )
    for name in ("test_accuracy", "test_accuracy_best", "valid_accuracy", "train_accuracy"):
        values = 100 * np.array([s[name] for _, _, s in rows])
        by_draw = ", ".join(
            f"{100 * np.mean([s[name] for d, _, s in rows if d == draw]):.2f}"
            for draw in options.data_seeds
        )
        print(
            f"{name}: {values.mean():.2f} +- {values.std(ddof=1) if len(values) > 1 else 0:.2f} (n = {len(values)}; by data seed {by_draw})"
        )


if __name__ == "__main__":
    main(tyro.cli(Accuracy, config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)))
