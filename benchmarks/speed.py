"""Speed of snnjax beside other libraries and the lower limit of the machine.

    python -m benchmarks.speed all benchmarks/results/speed.jsonl --venvs FOLDER

    steps     a training step of each work (`benchmarks.works`) by each contestant, with its time
              to first step and its peak memory
    start     time to first step again, with JAX's compiled programs cached on disk
    growth    snnjax's step against time steps, batch, width, depth and seeds
    loader    samples per second that snnjax's data sets put on the device (`benchmarks.loader`)
    all       these one after another
    table     only the tables of existing results

Each contestant runs in separate processes, one per work and round. Contestants take turns, and each
round has another order, so that other load on the machine affects all equally. A figure is the
median over the steps of all rounds. A ratio is that of two medians, and its range is over rounds.
Each process uses all cores that this process may use. If other processes use the machine, pin the
benchmark (`taskset -c 0 python -m benchmarks.speed ...`), and do not rely on small differences.

The libraries are not requirements of snnjax. Create an environment for each in one folder, under
the name of the contestant:

    python -m venv FOLDER/spyx && FOLDER/spyx/bin/pip install spyx
    python -m venv FOLDER/snntorch && FOLDER/snntorch/bin/pip install torch snntorch
    python -m venv FOLDER/norse && FOLDER/norse/bin/pip install torch norse setuptools
    python -m venv FOLDER/spikingjelly && FOLDER/spikingjelly/bin/pip install torch spikingjelly

Contestants without an environment are left out and named. Plain PyTorch runs in the first
environment with torch.

Results are JSON lines, appended one by one. Existing runs are not repeated, so that a measurement
that was stopped can continue. A file has one setting: the same machine, commit, steps and so on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import speed_tables
from benchmarks.contest import BEGIN
from benchmarks.works import WORKS

REPOSITORY = Path(__file__).resolve().parents[1]


class Contestant(NamedTuple):
    """A contestant.

    Attributes:
        module: Module in `benchmarks.peers`.
        flags: Flags of its command line.
        package: Package that must be importable in one of the environments.
        venvs: Names of environments; none: the present one.
    """

    module: str
    flags: tuple[str, ...] = ()
    package: str = "snnjax"
    venvs: tuple[str, ...] = ()


PEERS = ("spyx", "snntorch", "norse", "spikingjelly")
CONTESTANTS = {
    "snnjax": Contestant("run_snnjax", ("--input", "events")),
    "snnjax-arrays": Contestant("run_snnjax", ("--input", "raster")),
    "spyx": Contestant("run_spyx", ("--mode", "loop"), "spyx", ("spyx",)),
    "spyx-hoisted": Contestant("run_spyx", ("--mode", "hoisted"), "spyx", ("spyx",)),
    "jaxpike": Contestant("run_jaxpike", (), "jaxpike", ("jaxpike",)),
    "torch": Contestant("run_torch", (), "torch", ("torch", *PEERS)),
    "snntorch": Contestant("run_snntorch", (), "snntorch", ("snntorch",)),
    "norse": Contestant("run_norse", ("--mode", "sequence"), "norse", ("norse",)),
    "norse-loop": Contestant("run_norse", ("--mode", "loop"), "norse", ("norse",)),
    "spikingjelly": Contestant(
        "run_spikingjelly", ("--mode", "sequence"), "spikingjelly", ("spikingjelly",)
    ),
    "spikingjelly-loop": Contestant(
        "run_spikingjelly", ("--mode", "loop"), "spikingjelly", ("spikingjelly",)
    ),
}
"""`spyx`, `norse` and `spikingjelly` are written as in their documentation. `-hoisted` and `-loop`
are other ways, faster on a CPU for some or all works.
"""
ON_JAX = ("snnjax", "snnjax-arrays", "spyx", "spyx-hoisted", "jaxpike")


def does(contestant: str, work: str) -> bool:
    """Whether a contestant can do a work: only snnjax has adaptive neurons with learned delays.

    >>> does("snnjax", "W6"), does("spyx", "W6"), does("spyx", "W5")
    (True, False, True)
    """
    return WORKS[work].max_delay is None or CONTESTANTS[contestant].package == "snnjax"


AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "steps": ("W1", ("100", "350", "1000", "3500", "10000")),
    "batch": ("W1", ("1", "4", "16", "64", "256")),
    "width": ("W1", ("32", "128", "512", "2048")),
    "depth": ("W1", ("1", "2", "4", "8")),
    "seeds": ("S1", ("1", "2", "4", "8", "16")),
}
"""Sizes to vary: for each a work and values."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what to measure, and how long.

    Args:
        argv: Arguments. None: those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=("all", "steps", "start", "growth", "loader", "table"))
    add("results", type=Path, help="JSON lines, one per process")
    add("--venvs", type=Path, help="folder of environments, each with the name of its library")
    add("--works", nargs="+", choices=WORKS, default=list(WORKS))
    add("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    add("--rounds", type=int, default=3, help="processes of each contestant and work")
    add("--steps", type=int, default=10, help="timed steps per process")
    add("--warmup", type=int, default=2, help="steps after the first that are not timed")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="a process makes no further step after this time (it makes at least three)",
    )
    add("--timeout", type=float, default=600.0, help="seconds after which a process is stopped")
    return parser.parse_args(argv)


class Job(NamedTuple):
    """One process: the subject of its result, and its round."""

    kind: str
    work: str
    contestant: str
    round: int
    change: str = ""

    @property
    def key(self) -> dict[str, Any]:
        """The fields that identify it in the results."""
        return self._asdict()


def jobs_of(
    what: str, works: Sequence[str], contestants: Sequence[str], rounds: int
) -> Iterator[Job]:
    """Yield the processes of a measurement in their order.

    The order is by round, then by work, then by contestant. Each round begins with another
    contestant.

    Args:
        what: Kind of measurement.
        works: Names of works.
        contestants: Names of contestants.
        rounds: Number of rounds.

    >>> [job.contestant for job in jobs_of("steps", ["W1"], ["snnjax", "spyx"], 2)]
    ['floor', 'snnjax', 'spyx', 'floor', 'spyx', 'snnjax']
    """
    for k in range(rounds):
        turn = k % max(len(contestants), 1)
        order = [*contestants[turn:], *contestants[:turn]]
        if what == "steps":
            yield Job("floor", "", "floor", k)
            yield from (
                Job("step", work, name, k) for work in works for name in order if does(name, work)
            )
        elif what == "start":
            yield from (
                Job("start", work, name, k)
                for work in works
                for name in order
                if name in ON_JAX and does(name, work)
            )
        elif what == "growth":
            yield from (
                Job("growth", work, name, k, change)
                for work, change in points()
                for name in contestants
                if name == "snnjax"
            )
        elif what == "loader" and "snnjax" in contestants:
            yield Job("loader", "", "snnjax", k)


def points() -> Iterator[tuple[str, str]]:
    """Yield work and change of every point of the growth measurement."""
    for axis, (work, values) in AXES.items():
        for value in values:
            yield (
                work,
                {
                    "width": f"hidden={value}",
                    "depth": "hidden=" + ",".join(["128"] * int(value)),
                }.get(axis, f"{axis}={value}"),
            )


def command_of(job: Job, python: str, options: argparse.Namespace) -> list[str]:
    """Return the command of a job.

    Args:
        job: The job.
        python: Path of the Python that runs it.
        options: Steps and time.
    """
    if job.kind in ("floor", "loader"):
        return [python, "-m", f"benchmarks.{job.kind}"]
    contestant = CONTESTANTS[job.contestant]
    timing = ["--steps", options.steps, "--warmup", options.warmup, "--seconds", options.seconds]
    if job.kind == "start":
        timing = ["--steps", 1, "--warmup", 0]
    change = ["--set", job.change] if job.change else []
    return [
        str(part)
        for part in (
            python,
            "-m",
            f"benchmarks.peers.{contestant.module}",
            job.work,
            *change,
            *timing,
            *contestant.flags,
        )
    ]


def python_of(contestant: Contestant, venvs: Path | None) -> str | None:
    """Return the Python of the first environment with the contestant's library, or None.

    Args:
        contestant: The contestant.
        venvs: Folder with the environments.
    """
    if not contestant.venvs:
        return sys.executable
    folders = [venvs / name for name in contestant.venvs] if venvs is not None else []
    for python in (
        str(folder / "bin" / "python") for folder in folders if (folder / "bin" / "python").exists()
    ):
        check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({contestant.package!r}) is None)"
        if (
            subprocess.run(
                [python, "-c", check], cwd=Path(python).parent, capture_output=True
            ).returncode
            == 0
        ):
            return python
    return None


def outcome(
    command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a process, and return the JSON of the last line that it prints. Never raises.

    Args:
        command: The command.
        timeout: Limit, s.
        environment: Further environment variables.

    Returns:
        The JSON object, or `error` with the reason.
    """
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
    }
    env |= dict(environment or {}) | {BEGIN: repr(time.monotonic())}
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout:g} s"}
    except OSError as error:
        return {"error": str(error)}
    return read_outcome(done.returncode, done.stdout, done.stderr)


def read_outcome(status: int, out: str, err: str) -> dict[str, Any]:
    """Return the JSON object that a process printed, or `error` with the reason.

    Args:
        status: Its exit status.
        out: Its standard output.
        err: Its standard error.

    >>> read_outcome(1, "", "Traceback ...\\nValueError: no such thing\\n")
    {'error': 'status 1: ValueError: no such thing'}
    """
    last = lambda text: (text.strip().splitlines() or [""])[-1].strip()
    if status:  # a message may have several lines; the first names the error
        named = [
            line.strip()
            for line in err.splitlines()
            if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)
        ]
        return {"error": f"status {status}: {named[-1] if named else last(err) or last(out)}"[:300]}
    try:
        found = json.loads(last(out))
    except json.JSONDecodeError:
        return {"error": f"printed no JSON but {last(out)!r}"[:300]}
    return (
        found
        if isinstance(found, dict)
        else {"error": f"printed no JSON object but {found!r}"[:300]}
    )


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that all results in a file share.

    Args:
        options: What to measure.
    """
    git = ["git", "-C", str(REPOSITORY)]
    commit, changed = (
        subprocess.run([*git, *ask], capture_output=True, text=True, check=False).stdout.strip()
        for ask in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "snnjax"))
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
    }
    timing = {"steps": options.steps, "warmup": options.warmup, "seconds": options.seconds}
    return (
        machine | timing | {"commit": f"{commit or 'unknown'}{' with changes' if changed else ''}"}
    )


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def check_settings(
    lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], file: Path
) -> None:
    """Check that all results have the same settings, because one table compares them.

    Args:
        lines: Existing results.
        settings: The present settings.
        file: File of the results.

    Raises:
        ValueError: The settings differ; the message names the differences.
    """
    for line in lines:
        different = {
            k: (line["settings"].get(k), v)
            for k, v in settings.items()
            if line["settings"].get(k) != v
        }
        if different:
            said = ", ".join(f"{k} {old!r}, now {new!r}" for k, (old, new) in different.items())
            raise ValueError(f"{file} holds results of other settings: {said}; name another file")


def missing(jobs: Iterator[Job], lines: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Return the jobs that have no result yet. Failed jobs are repeated.

    Args:
        jobs: All jobs.
        lines: Existing results.
    """
    done = [{k: line.get(k) for k in Job._fields} for line in lines if "error" not in line]
    return [job for job in jobs if job.key not in done]


def measure(options: argparse.Namespace, what: str, pythons: Mapping[str, str]) -> None:
    """Run every process of a measurement that has no result, and append its line.

    Args:
        options: What to measure.
        what: Kind of measurement.
        pythons: Path of the Python of each contestant.
    """
    settings, lines = settings_of(options), read(options.results)
    check_settings(lines, settings, options.results)
    waiting = missing(jobs_of(what, options.works, list(pythons), options.rounds), lines)
    with tempfile.TemporaryDirectory() as folder:
        for k, job in enumerate(waiting, start=1):
            command, environment = (
                command_of(job, pythons.get(job.contestant, sys.executable), options),
                {},
            )
            if job.kind == "start":
                environment = {
                    "JAX_COMPILATION_CACHE_DIR": str(Path(folder, job.contestant, job.work))
                }
                environment |= {
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }
                if not Path(environment["JAX_COMPILATION_CACHE_DIR"]).exists():
                    outcome(command, timeout=options.timeout, environment=environment)  # fills it
            found = (
                job.key
                | outcome(command, timeout=options.timeout, environment=environment)
                | {"settings": settings}
            )
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with options.results.open("a") as f:
                f.write(json.dumps(found) + "\n")
            print(f"{what} {k}/{len(waiting)}: {speed_tables.said(found)}", flush=True)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the results in a file.

    Args:
        file: The file, which need not exist.

    Raises:
        ValueError: A line is not a JSON object with settings.
    """
    lines = []
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        try:
            line = json.loads(text)
            if not isinstance(line["settings"], dict):
                raise TypeError
        except (json.JSONDecodeError, TypeError, KeyError):
            raise ValueError(
                f"line {number} of {file} must be a result of benchmarks.speed, got {text[:80]!r}"
            ) from None
        lines.append(line)
    return lines


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.what != "table":
        found = {name: python_of(CONTESTANTS[name], options.venvs) for name in options.contestants}
        for name in (name for name, python in found.items() if python is None):
            print(
                f"{name} is left out: no environment {' or '.join(CONTESTANTS[name].venvs)} that has it in --venvs",
                flush=True,
            )
        pythons = {name: python for name, python in found.items() if python is not None}
        for what in (
            ("steps", "start", "growth", "loader") if options.what == "all" else (options.what,)
        ):
            measure(options, what, pythons)
    print(speed_tables.tables(read(options.results)))


if __name__ == "__main__":
    main()
