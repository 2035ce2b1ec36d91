"""What every contestant's process does: build, step, time, and print one line of JSON. Numpy and the standard library alone.

    python -m benchmarks.peers.NAME WORK [--set FIELD=VALUE ...] [--steps 10] [--warmup 2] [--seconds 20]

The line holds the milliseconds of each timed step; of the first step, which compiles what there is to compile; seconds from the process' start until its
imports were done (`import_s`) and until the first step was done (`ready_s`); peak resident memory; first and last loss; and what was measured: neuron, form
(recurrent or feed-forward), form of the input, versions. A work that a contestant cannot do gives `unsupported` and the reason.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

from benchmarks.works import Work, parse

BEGIN = "SNNJAX_BENCHMARK_BEGIN"
"""Environment variable with the moment at which the process was started, by `time.monotonic`."""
FEWEST = 3
"""Timed steps, however long they take."""


class Contest(NamedTuple):
    """`step()` makes one training step of all seeds, waits until it is done and returns the (last) loss."""

    step: Callable[[], float]
    neuron: str
    form: str
    input: str = "dense float32 raster in memory"
    note: str = ""


class Unsupported(Exception):
    """The contestant cannot do the work; the message says why."""


def run(
    build: Callable[[Work, argparse.Namespace], Contest],
    packages: Sequence[str],
    *flags: tuple[str, dict[str, Any]],
) -> None:
    """Do what the command line says with what `build(work, options)` gives. `packages`: whose versions count. `flags`: further options."""
    imported = time.monotonic()
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    for name, settings in flags:
        parser.add_argument(name, **settings)
    options = parser.parse_args()
    begin = float(os.environ.get(BEGIN, imported))
    line: dict[str, Any] = {"versions": versions(packages)}
    try:
        contest = build(parse(options.work, options.set), options)
        line |= measure(
            contest.step,
            steps=options.steps,
            warmup=options.warmup,
            seconds=options.seconds,
            begin=begin,
        )
        line |= {name: getattr(contest, name) for name in ("neuron", "form", "input", "note")}
        line |= {
            "import_s": imported - begin,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        }
    except Unsupported as reason:
        line["unsupported"] = str(reason)
    print(json.dumps(line))
    sys.stdout.flush()


def measure(
    step: Callable[[], float],
    *,
    steps: int,
    warmup: int,
    seconds: float,
    begin: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Time `step`: the first one, `warmup` more, then `steps`; of both as many as begin within `seconds`, but at least `FEWEST` that are timed.

    Raises:
      FloatingPointError: a loss that is not finite: what was timed is no training.
    """
    before = clock()
    losses = [step()]
    ready = clock()
    while len(losses) <= warmup and clock() - ready < seconds:
        losses.append(step())
    times: list[float] = []
    while len(times) < steps and (len(times) < FEWEST or sum(times) < seconds):
        start = clock()
        losses.append(step())
        times.append(clock() - start)
    if not all(math.isfinite(loss) for loss in losses):
        raise FloatingPointError(f"losses must be finite, got {losses}")
    return {
        "ms": [round(1e3 * t, 3) for t in times], "first_ms": round(1e3 * (ready - before), 3), "ready_s": round(ready - begin, 3),
        "loss": [losses[0], losses[-1]],
    }  # fmt: skip


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's and theirs; those that are not installed are left out."""
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
