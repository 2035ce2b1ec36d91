"""What many seeds cost: `python -m benchmarks.ensemble [--seeds 8] [--epochs 40] [--placements shard map vmap]`.

The Randman job (the paper's network and batch) as a person runs it, whole processes from start to exit, import and compilation included:

    alone     `snnjax train randman`, one process a seed, one after another
    shard     `snnjax sweep`, members spread over one JAX device a core (what `auto` means on a CPU)
    map       the same, one member after another on one device
    vmap      the same, all members in one batched step

For each: wall time, its ratio to one seed alone and to all of them alone one after another, and the peak memory of the largest process. The order of
the works is as given; on a machine that is not quiet the figures mean little.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """The job."""

    seeds: int = 8
    """Members."""
    epochs: int = 40
    """Of each."""
    placements: tuple[Literal["shard", "map", "vmap"], ...] = ("shard", "map", "vmap")
    """Ways to train them together."""
    alone: int | None = None
    """Seeds to really run alone, the others counted at their mean; None: all."""


def timed(*arguments: str) -> tuple[float, float]:
    """Seconds from start to exit of `snnjax ARGUMENTS`, and its peak memory in MiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "snnjax", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(
            f"snnjax {' '.join(arguments)} ended with status {status}:\n{errors.decode()[-2000:]}"
        )
    return time.perf_counter() - begin, usage.ru_maxrss / 1024  # KiB on Linux


def main(options: Options) -> None:
    """Print a line for each way."""
    job = ("randman", "--start", "paper", "--epochs", str(options.epochs))
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(options.seeds if options.alone is None else options.alone):
            runs.append(
                timed(
                    "train", *job, "--seed", str(seed), "--out", str(Path(folder, f"alone{seed}"))
                )
            )
            print(f"seed {seed} alone: {runs[-1][0]:.1f} s, {runs[-1][1]:.0f} MiB", flush=True)
        one = sum(seconds for seconds, _ in runs) / len(runs)
        print(
            f"one seed alone, mean: {one:.1f} s; {options.seeds} one after another: {options.seeds * one:.1f} s",
            flush=True,
        )
        for placement in options.placements:
            out = str(Path(folder, placement))
            sweep = (
                "sweep",
                "--seeds",
                str(options.seeds),
                "--placement",
                placement,
                "--checkpoint-every",
                "10",
                *job,
                "--out",
                out,
            )
            seconds, peak = timed(*sweep)
            ratios = f"{seconds / one:.2f} times one seed, {seconds / one / options.seeds:.2f} of all one after another"
            print(
                f"{options.seeds} seeds, {placement}: {seconds:.1f} s, {ratios}, {peak:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
