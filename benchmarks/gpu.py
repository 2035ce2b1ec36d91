"""All checks of a machine with a GPU in one command, within a limit of time.

    python -m benchmarks.gpu FOLDER [--minutes 8] [--data FOLDER_OF_SHD_FILES]

The parts, in this order:

    kernels      every elementwise neuron by each backend of the kernel, forward and backward,
                 compared with the scan on the CPU in float32, with the time of the kernel
    W1 ... W6    the works of `benchmarks.speed`, one file for each contestant that is installed
    memory       memory of one training step of ten layers, with and without rematerialization
    reproduce    `snnjax reproduce figure4 --preset paper`, as much as fits into the rest; needs
                 --data

Each part is a process of its own and writes one file to FOLDER/CARD_DATE: what it printed, its
command and its seconds. A part that has a file is not run again, unless it failed; so the same
command continues after an interrupt. `--tiny` uses small sizes, for tests on a CPU.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import CONTESTANTS, does

WORKS = ("W1", "W2", "W3", "W4", "S1", "W5", "W6")
TOLERANCE = 1e-4
"""Largest difference between kernel and CPU, relative to the largest value of an array."""


class Part(NamedTuple):
    """One process.

    Attributes:
        name: Name of its file.
        command: Its arguments after `python -m`.
        seconds: Largest duration, s.
    """

    name: str
    command: tuple[str, ...]
    seconds: float


def parts(options: argparse.Namespace, folder: Path) -> Iterator[Part]:
    """The parts in their order; those that need a contestant that is not installed are left out.

    Args:
        options: Of the command line.
        folder: Folder of the results.
    """
    tiny = ("--tiny",) if options.tiny else ()
    yield Part("kernels", ("benchmarks.gpu", str(options.folder), "--kernels", *tiny), 120)
    small = ("--set", "steps=20", "batch=4", "--seconds", "0.1") if options.tiny else ()
    for work, (name, one) in itertools.product(WORKS, CONTESTANTS.items()):
        if does(name, work) and importlib.util.find_spec(one.package) is not None:
            run = (f"benchmarks.peers.{one.module}", work, *one.flags, "--seconds", "3", *small)
            yield Part(f"{work}_{name}", run, 60)
    size = ("--depth", "1", "--duration", "0.05", "--repeats", "1") if options.tiny else ()
    yield Part("memory", ("benchmarks.memory", *size), 120)
    if options.data is not None:
        preset = "smoke" if options.tiny else "paper"
        out = str(folder / "reproduce")
        run = ("snnjax", "reproduce", "figure4", "--preset", preset, "--data", str(options.data))
        yield Part("reproduce", (*run, "--out", out), float("inf"))


def run(part: Part, folder: Path, left: float) -> dict[str, Any]:
    """Run a part and write its file.

    Args:
        part: The part.
        folder: Folder of the results.
        left: Seconds that are left for all parts.

    Returns:
        What was written.
    """
    begin, limit = time.monotonic(), min(part.seconds, left)
    command = [sys.executable, "-m", *part.command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        status, out, error = str(done.returncode), done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        status = "out of time"
        out, error = (_text(late.stdout), _text(late.stderr))
    found = {
        "command": " ".join(("python", "-m", *part.command)),
        "status": status,
        "seconds": round(time.monotonic() - begin, 1),
        "printed": out.splitlines(),
        "errors": error.splitlines()[-30:] if status != "0" else [],
    }
    (folder / f"{part.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def finished(part: Part, folder: Path) -> bool:
    """Whether a part has run to its end in an earlier call."""
    try:
        return json.loads((folder / f"{part.name}.json").read_text())["status"] == "0"
    except (OSError, ValueError, KeyError):
        return False


def check_kernels(tiny: bool) -> bool:
    """Compare the kernels with scans on the CPU, print one line of JSON each; whether all agree.

    Args:
        tiny: Small arrays, and on a CPU Pallas' interpreter in place of a GPU.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from snnjax.dynamics import IF, LIF, ExcInhLIF, Leaky, LeakyIntegrator, Neuron, simulate
    from snnjax.dynamics import _over_time as over_time
    from snnjax.dynamics._exc_inh import ExcInhDrive

    cpu, on_gpu = jax.devices("cpu")[0], over_time.on_gpu()
    shape = (20, 2, 65) if tiny else (350, 64, 128)
    drive = np.random.default_rng(0).normal(0.3, 1.5, shape).astype(np.float32)
    kernel, good = over_time.gpu_kernel, True

    def gradient(neuron: Neuron) -> Any:
        def loss(d: jax.Array) -> tuple[jax.Array, jax.Array]:
            given = (
                ExcInhDrive(jnp.abs(d), jnp.abs(d[::-1])) if isinstance(neuron, ExcInhLIF) else d
            )
            output = simulate(neuron, given).output
            return (output * drive).sum(), output

        return jax.jit(lambda d: jax.grad(loss, has_aux=True)(d))

    def timed(run: Any, d: jax.Array) -> tuple[Any, float]:
        found, times = jax.block_until_ready(run(d)), []
        for _ in range(2 if tiny else 20):
            begin = time.perf_counter()
            jax.block_until_ready(run(d))
            times.append(time.perf_counter() - begin)
        return found, float(np.median(times))

    neurons = LIF(), Leaky(), IF(), ExcInhLIF(), LeakyIntegrator()
    for name, neuron in itertools.product(over_time.BACKENDS, neurons):
        line: dict[str, Any] = {"backend": name, "neuron": type(neuron).__name__}
        try:
            wanted = gradient(neuron)(jax.device_put(drive, cpu))

            def by_kernel(*given: Any, name: over_time.Backend = name, **flags: Any) -> Any:
                return kernel(*given, backend=name, interpret=not on_gpu, **flags)

            plain, over_time.elementwise = over_time.elementwise, by_kernel
            jax.clear_caches()  # programs that were compiled with the loop
            try:
                found, line["kernel_ms"] = timed(gradient(neuron), jnp.asarray(drive))
            finally:
                over_time.elementwise = plain
                jax.clear_caches()
            line["difference"] = max(
                float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
                for a, b in zip(found, wanted, strict=True)
            )
            line["kernel_ms"] *= 1e3
            line["same"] = line["difference"] < TOLERANCE
        except Exception as error:  # a report, not a program that goes on
            line |= {"same": False, "error": f"{type(error).__name__}: {str(error)[:500]}"}
        good &= bool(line["same"])
        print(json.dumps(line), flush=True)
    return good


def card() -> str:
    """The name of the card, or "cpu", for the name of a folder."""
    import jax

    device = jax.devices()[0]
    return re.sub(r"\W+", "-", device.device_kind if device.platform == "gpu" else "cpu").strip("-")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts that have no file yet, and print one line for each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="folder of the results")
    add("--minutes", type=float, default=8.0, help="limit for all parts")
    add("--data", type=Path, help="folder of the spoken digits in the layout of SHD")
    add("--tiny", action="store_true", help="small sizes, for tests on a CPU")
    add("--kernels", action="store_true", help="only the part `kernels`, in this process")
    options = parser.parse_args(argv)
    if options.kernels:
        sys.exit(not check_kernels(options.tiny))
    end = time.monotonic() + 60 * options.minutes
    # in another process: JAX reserves most of the card's memory for one that uses it
    which = [sys.executable, "-c", "from benchmarks.gpu import card; print(card())"]
    name = subprocess.run(which, capture_output=True, text=True, check=True).stdout.split()[-1]
    earlier = sorted(options.folder.glob(f"{name}_*"))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    folder = earlier[-1] if earlier else options.folder / f"{name}_{today}"
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts(options, folder):
        if finished(part, folder):
            print(f"{part.name}: there already")
        elif (left := end - time.monotonic()) < 1:
            print(f"{part.name}: no time left; the same command continues")
        else:
            found = run(part, folder, left)
            print(f"{part.name}: status {found['status']}, {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
