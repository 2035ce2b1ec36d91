"""Memory and time of a training step, with and without rematerialization.

    python -m benchmarks.memory [--depth 10] [--batch-size 16] [--duration 0.7]

The recurrent convolutional network of ten layers on 700 units and 350 steps, or others, on random
events with the density of a spoken digit. Memory is XLA's report of the compiled step
(`snnjax.training.step_memory`), and the largest resident size of a separate process that makes the
step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from snnjax.datasets import DeviceEvents, poisson
from snnjax.experiments import Experiment
from snnjax.experiments._build import Inputs, build_network, build_optimizer
from snnjax.training import Objective, Trainer, step_memory


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return MiB by XLA, MiB resident, and the median seconds of a step.

    Args:
        options: The step.
    """
    remat, micro = options.remat_steps[0], options.micro_batch[0]
    experiment = Experiment.from_options(
        "shd",
        start="paper",
        model="csnn",
        depth=options.depth,
        recurrent=True,
        remat_steps=remat or None,
    )
    inputs = Inputs(700, 20, duration=options.duration, nu=10.0)
    network = build_network(experiment, inputs)
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
    optimizer = build_optimizer(experiment)
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


def main() -> None:
    """Measure every combination in a separate process."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--depth", type=int, default=10, help="layers: 1, 3, 7 or 10")
    add("--batch-size", type=int, default=16, help="samples")
    add("--remat-steps", type=int, nargs="+", default=(0, 19), help="steps stored; 0: all")
    add("--duration", type=float, default=0.7, help="duration of a trial, s, in steps of 2 ms")
    add("--micro-batch", type=int, nargs="+", default=(16, 4), help="samples at a time")
    add("--repeats", type=int, default=3, help="timed steps")
    add("--alone", action="store_true", help="measure the first of each, and print it as JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options)))
        return
    print(
        "| traces kept | samples at a time | step, MiB (XLA) | process, MiB | step, s |\n|---|---|---|---|---|"
    )
    for micro in options.micro_batch:
        for remat in options.remat_steps:
            flags = {
                "--depth": options.depth,
                "--batch-size": options.batch_size,
                "--duration": options.duration,
                "--repeats": options.repeats,
                "--remat-steps": remat,
                "--micro-batch": micro,
            }
            command = [sys.executable, "-m", "benchmarks.memory", "--alone"]
            command += [str(word) for flag in flags.items() for word in flag]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            kept = f"of {remat} steps" if remat else "of all steps"
            print(
                f"| {kept} | {micro} | {found['xla_mib']:.0f} | {found['resident_mib']:.0f} | {found['seconds']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
