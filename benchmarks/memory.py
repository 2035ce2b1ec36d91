"""Memory and time of a training step, with and without rematerialization.

    python -m benchmarks.memory [--depth 10] [--batch-size 16] [--duration 0.7]

The recurrent convolutional network of ten layers on 700 units and 350 steps, or others, on random
events with the density of a spoken digit. Memory is XLA's report of the compiled step
(`snnjax.training.step_memory`), and the largest resident size of a separate process that makes the
step.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from snnjax.datasets import DeviceEvents, poisson
from snnjax.experiments import SHDConfig
from snnjax.experiments.build import build_network, build_optimizer
from snnjax.training import Objective, Trainer, step_memory


@dataclasses.dataclass(frozen=True)
class Options:
    """Which step to measure."""

    depth: int = 10
    """Layers: 1, 3, 7 or 10."""
    batch_size: int = 16
    """Samples."""
    remat_steps: tuple[int, ...] = (0, 19)
    """Time steps whose traces are stored; 0: all."""
    duration: float = 0.7
    """Duration of a trial, s, in steps of 2 ms."""
    micro_batch: tuple[int, ...] = (16, 4)
    """Samples whose gradient is computed at a time."""
    repeats: int = 3
    """Timed steps."""
    alone: bool = False
    """Measure only the first of each in this process, and print it as JSON."""


def measure(options: Options) -> dict[str, float]:
    """Return MiB by XLA, MiB resident, and the median seconds of a step.

    Args:
        options: The step.
    """
    remat, micro = options.remat_steps[0], options.micro_batch[0]
    model: Any = f"csnn{options.depth}"
    config = SHDConfig(
        start="paper", data=Path(), model=model, recurrent=True, remat_steps=remat or None
    )
    network = build_network(
        config, in_features=700, num_classes=20, nu=10.0, duration=options.duration
    )
    source = DeviceEvents.from_dataset(
        poisson(
            num_samples=options.batch_size,
            num_units=700,
            rate=10.0,
            duration=options.duration,
            seed=0,
        ),
        dt=2e-3,
    )
    optimizer = build_optimizer(config)
    sizes: dict[str, Any] = {"batch_size": options.batch_size, "micro_batch": micro}
    said = step_memory(network, source, Objective(), optimizer, **sizes)
    trainer, indices = (
        Trainer(network, Objective(), optimizer, devices=1, **sizes),
        jnp.arange(options.batch_size),
    )
    state, times = trainer.init(), []
    for _ in range(options.repeats + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(trainer.step(state, (source, indices)))
        times.append(time.perf_counter() - begin)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "xla_mib": said.total / 2**20,
        "resident_mib": resident,
        "seconds": statistics.median(times[1:]),
    }


def main(options: Options) -> None:
    """Measure every combination in a separate process.

    Args:
        options: The steps.
    """
    if options.alone:
        print(json.dumps(measure(options)))
        return
    print(
        "| traces kept | samples at a time | step, MiB (XLA) | process, MiB | step, s |\n|---|---|---|---|---|"
    )
    for micro in options.micro_batch:
        for remat in options.remat_steps:
            flags = [
                "--depth",
                options.depth,
                "--batch-size",
                options.batch_size,
                "--remat-steps",
                remat,
                "--micro-batch",
                micro,
            ]
            flags += ["--duration", options.duration]
            command = [
                sys.executable,
                "-m",
                "benchmarks.memory",
                "--alone",
                "--repeats",
                options.repeats,
                *flags,
            ]
            done = subprocess.run(
                [str(part) for part in command], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            kept = f"of {remat} steps" if remat else "of all steps"
            print(
                f"| {kept} | {micro} | {found['xla_mib']:.0f} | {found['resident_mib']:.0f} | {found['seconds']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
