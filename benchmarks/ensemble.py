"""The cost of many seeds.

    python -m benchmarks.ensemble [--seeds 8] [--epochs 40] [--placements shard map vmap]

The Randman job (the paper's network and batch), measured as whole processes from start to exit,
including imports and compilation:

    alone     `snnjax train randman`, one process per seed, one after another
    shard     `snnjax sweep`, members distributed over one JAX device per core (`auto` on a CPU)
    map       the same, one member after another on one device
    vmap      the same, all members in one batched step

For each: wall time, its ratio to one separate seed and to all separate seeds one after another, and
the peak memory of the largest process. The order of the works is as given. If other processes use
the machine, the figures are not reliable.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(*arguments: str) -> tuple[float, float]:
    """Return seconds from start to exit of `snnjax ARGUMENTS`, and its peak memory in MiB.

    Args:
        *arguments: Arguments of the command line.
    """
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


def main() -> None:
    """Print one line per placement."""
    kinds = ("shard", "map", "vmap")
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=8, help="members")
    add("--epochs", type=int, default=40, help="epochs of each")
    add("--placements", nargs="+", choices=kinds, default=kinds, help="ways to train together")
    add("--alone", type=int, help="seeds to run separately; others count as their mean")
    options = parser.parse_args()
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
    main()
