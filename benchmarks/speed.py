"""snnjax beside other libraries and the machine's floor: `python -m benchmarks.speed all benchmarks/results/speed.jsonl --venvs FOLDER`.

    steps     a training step of each work (`benchmarks.works`) by each contestant, with its time to first step and its peak memory
    start     time to first step again, with JAX's compilations kept on the disk
    growth    snnjax's step against time steps, batch, width, depth and seeds
    loader    samples a second that snnjax's data sets put on the device (`benchmarks.loader`)
    all       these one after another
    table     nothing but the tables of what has been measured

Contestants are processes of their own, one for each work and round, in turn and each round in another order; so what the machine does besides hits all alike.
A figure is the median over the steps of all rounds, a ratio that of two medians, its range that over rounds. Each process runs on all cores that this one may
use: to measure on a machine that is not quiet, pin it (`taskset -c 0 python -m benchmarks.speed ...`), and believe little.

The libraries are not requirements of snnjax. Make an environment for each, with the name of the contestant, in one folder:

    python -m venv FOLDER/spyx && FOLDER/spyx/bin/pip install spyx
    python -m venv FOLDER/snntorch && FOLDER/snntorch/bin/pip install torch snntorch
    python -m venv FOLDER/norse && FOLDER/norse/bin/pip install torch norse setuptools
    python -m venv FOLDER/spikingjelly && FOLDER/spikingjelly/bin/pip install torch spikingjelly

What is not there is left out and named. Plain PyTorch runs in the first of them that has torch.

Results are JSON lines, appended as they come; a run that is there already is not made again, so that a measurement that was stopped goes on. A file holds one
setting: the same machine, commit, steps and so on.
"""

from __future__ import annotations

import dataclasses
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
from typing import Any, Literal, NamedTuple

import tyro

from benchmarks import speed_tables
from benchmarks.contest import BEGIN
from benchmarks.works import WORKS

REPOSITORY = Path(__file__).resolve().parents[1]


class Contestant(NamedTuple):
    """A module of `benchmarks.peers` and its flags; `package` must be importable in one of the environments `venvs`; none: this one."""

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
"""`spyx`, `norse` and `spikingjelly` are as their documentation has them; `-hoisted` and `-loop` are other ways, faster on a CPU at some works or all."""
ON_JAX = ("snnjax", "snnjax-arrays", "spyx", "spyx-hoisted")

AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "steps": ("W1", ("100", "350", "1000", "3500", "10000")),
    "batch": ("W1", ("1", "4", "16", "64", "256")),
    "width": ("W1", ("32", "128", "512", "2048")),
    "depth": ("W1", ("1", "2", "4", "8")),
    "seeds": ("S1", ("1", "2", "4", "8", "16")),
}
"""What the step is measured against: a work and values."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how long."""

    what: tyro.conf.Positional[Literal["all", "steps", "start", "growth", "loader", "table"]]
    """See `python -m benchmarks.speed`'s module."""
    results: tyro.conf.Positional[Path]
    """JSON lines, one a process."""
    venvs: Path | None = None
    """Folder with the other libraries' environments, each with the name of the library."""
    works: tuple[str, ...] = tuple(WORKS)
    """Works, by name."""
    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    """Contestants, by name."""
    rounds: int = 3
    """Processes of each contestant and work."""
    steps: int = 10
    """Timed steps of a process."""
    warmup: int = 2
    """Steps after the first that are not timed."""
    seconds: float = 10.0
    """Time after which a process makes no further step (it makes at least three)."""
    timeout: float = 600.0
    """Seconds after which a process is given up."""


class Job(NamedTuple):
    """One process: what the result is of, and its round."""

    kind: str
    work: str
    contestant: str
    round: int
    change: str = ""

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from others, as the results have it."""
        return self._asdict()


def jobs_of(
    what: str, works: Sequence[str], contestants: Sequence[str], rounds: int
) -> Iterator[Job]:
    """The processes of a measurement in their order: rounds, within them works, within them contestants, each round beginning with another.

    >>> [job.contestant for job in jobs_of("steps", ["W1"], ["a", "b"], 2)]
    ['floor', 'a', 'b', 'floor', 'b', 'a']
    """
    for k in range(rounds):
        turn = k % max(len(contestants), 1)
        order = [*contestants[turn:], *contestants[:turn]]
        if what == "steps":
            yield Job("floor", "", "floor", k)
            yield from (Job("step", work, name, k) for work in works for name in order)
        elif what == "start":
            yield from (
                Job("start", work, name, k) for work in works for name in order if name in ON_JAX
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
    """Work and change of everything that growth is measured at."""
    for axis, (work, values) in AXES.items():
        for value in values:
            yield (
                work,
                {
                    "width": f"hidden={value}",
                    "depth": "hidden=" + ",".join(["128"] * int(value)),
                }.get(axis, f"{axis}={value}"),
            )


def command_of(job: Job, python: str, options: Options) -> list[str]:
    """The process of a job."""
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
    """The Python that has the contestant's library, or None."""
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
    """The JSON of the last line that a process prints, or what went wrong, as `error`; never raises."""
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
    """What a process said.

    >>> read_outcome(1, "", "Traceback ...\\nValueError: no such thing\\n")
    {'error': 'status 1: ValueError: no such thing'}
    """
    last = lambda text: (text.strip().splitlines() or [""])[-1].strip()
    if status:  # a message may have several lines, of which the first names the error
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


def settings_of(options: Options) -> dict[str, Any]:
    """What all results in a file have in common."""
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
    """Results of two settings in one table would be compared.

    Raises:
      ValueError: names what differs.
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
    """Those that have no result yet; one that failed is tried again."""
    done = [{k: line.get(k) for k in Job._fields} for line in lines if "error" not in line]
    return [job for job in jobs if job.key not in done]


def measure(options: Options, what: str, pythons: Mapping[str, str]) -> None:
    """Make every process of a measurement whose result is not there, and append its line."""
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
    """The results so far.

    Raises:
      ValueError: a line is no JSON object with settings.
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


def main(options: Options) -> None:
    """Measure and print."""
    for name, values, known in (
        ("works", options.works, WORKS),
        ("contestants", options.contestants, CONTESTANTS),
    ):
        if wrong := [value for value in values if value not in known]:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(wrong)}")
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
    main(tyro.cli(Options))
