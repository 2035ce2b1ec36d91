"""The process of each contestant: build, step, time, and print one line of JSON.

    python -m benchmarks.peers.NAME WORK [--set FIELD=VALUE ...] [--steps 10] [--warmup 2]
        [--seconds 20]

The line has:

- the milliseconds of each timed step, and of the first step, which includes compilation;
- seconds from the start of the process to the end of its imports (`import_s`) and to the end of
  the first step (`ready_s`);
- peak resident memory, and the first and last loss;
- what was measured: neuron, form (recurrent or feed-forward), form of the input, versions.

If a contestant does not support a work, the line has `unsupported` with the reason. The module
needs only numpy and the standard library.
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
"""Environment variable with the start time of the process, by `time.monotonic`."""
FEWEST = 3
"""Minimum number of timed steps, for any duration."""


class Contest(NamedTuple):
    """What a contestant measures.

    Attributes:
        step: Makes one training step of all seeds, waits for its end and returns the (last) loss.
        neuron: The neuron model.
        form: Recurrent or feed-forward.
        input: Form of the input.
        note: Any further remark.
    """

    step: Callable[[], float]
    neuron: str
    form: str
    input: str = "dense float32 raster in memory"
    note: str = ""


class Unsupported(Exception):
    """The contestant does not support the work; the message gives the reason."""


def check_plain(work: Work) -> None:
    """Refuse a work with delays.

    Args:
        work: The work.

    Raises:
        Unsupported: The work has adaptive neurons and learned delays.
    """
    if work.max_delay is not None:
        raise Unsupported("no SE-adLIF neurons with learned delays")


def run(
    build: Callable[[Work, argparse.Namespace], Contest],
    packages: Sequence[str],
    *flags: tuple[str, dict[str, Any]],
) -> None:
    """Read the command line, measure, and print the line of JSON.

    Args:
        build: A function of the work and the options that returns the `Contest`.
        packages: Packages whose versions are reported.
        *flags: Further options of the command line.
    """
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
    """Time the first step, `warmup` more steps, and then `steps` timed steps.

    Args:
        step: The function to time.
        steps: Number of timed steps. No further step begins after `seconds`, but at least `FEWEST`
            steps are timed.
        warmup: Steps after the first that are not timed. None begins after `seconds`.
        seconds: Limit, s.
        begin: Start time of the process, s.
        clock: Returns the time, s.

    Raises:
        FloatingPointError: A loss is not finite, so the timed steps are not training.
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
    """Return the versions of Python, numpy and the packages that are installed.

    Args:
        packages: Names of packages.
    """
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
