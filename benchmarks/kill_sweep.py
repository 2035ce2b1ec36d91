"""Kill a sweep at random moments, and check that its result does not change.

    python -m benchmarks.kill_sweep [--kills 20] [--seed 0]

A small sweep first runs without interruption. In another folder, it is then started repeatedly and
killed (SIGKILL) after a random time: during an import, compilation, a step, or the write of a
checkpoint, a member or a figure. When this sweep has finished, a new one begins, until there were
`--kills` kills; the last sweep then runs to its end. Every file must be the same as in the first
sweep, byte for byte. Otherwise the exit status is 1, with one line per difference.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARGUMENTS = (
    "--seeds", "3", "--wave", "4", "randman", "--classes", "3", "--samples", "40", "--batch-size", "24", "--epochs", "6", "--hidden", "20",
    "--optimizer", "adam", "--dt", "0.004", "--sigma-u", "0.5,1",
)  # fmt: skip


def start(folder: Path, *, log: Path) -> subprocess.Popen[bytes]:
    """Start the sweep in its own process group, with --resume if there is something to continue.

    Args:
        folder: Folder of the sweep.
        log: File for its output.
    """
    flag = "--resume" if (folder / "config.json").exists() else "--out"
    command = [sys.executable, "-m", "snnjax", "sweep", *ARGUMENTS, flag, str(folder)]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def differences(a: Path, b: Path) -> list[str]:
    """Return one line per difference between two folders.

    Args:
        a: Folder of a sweep.
        b: Folder of another sweep.
    """
    one, two = ({p.relative_to(x): p for p in x.rglob("*") if p.is_file()} for x in (a, b))
    lone = [f"{name} is in only one of the folders" for name in sorted(one.keys() ^ two.keys())]
    both = sorted(one.keys() & two.keys())
    return lone + [f"{n} differs" for n in both if one[n].read_bytes() != two[n].read_bytes()]


def compare(number: int, *, seed: int) -> int:
    """Print the moment of each kill, and the differences of every sweep that finished.

    Args:
        number: Number of kills.
        seed: Seed of the moments.

    Returns:
        0 if there are no differences.
    """
    rng = random.Random(seed)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as parent:
        whole, killed, log = Path(parent, "whole"), Path(parent, "killed"), Path(parent, "log")
        begin = time.perf_counter()
        if start(whole, log=log).wait() != 0:
            print(log.read_text()[-4000:])
            return 1
        seconds = time.perf_counter() - begin
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        kills, ended = 0, 0
        while kills < number or killed.exists():
            process = start(killed, log=log)
            moment = (
                rng.uniform(0.0, seconds) if kills < number else None
            )  # the last start is not killed
            try:
                code = process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                print(f"kill {kills}, {moment:.1f} s after its start: {where(killed)}", flush=True)
                continue
            if code != 0:
                print(log.read_text()[-4000:])
                print(f"a resumed sweep ended with status {code}")
                return 1
            ended += 1
            found += [f"sweep {ended}: {line}" for line in differences(whole, killed)]
            print(f"sweep {ended} came to its end", flush=True)
            shutil.rmtree(killed)
    print(
        "\n".join(found)
        or f"{kills} kills, {ended} sweeps came to their end, and every file is the same"
    )
    return bool(found)


def where(folder: Path) -> str:
    """Describe how far the sweep in `folder` had come.

    Args:
        folder: Folder of the sweep.
    """
    if not folder.exists():
        return "before its folder was there"
    members = len(list((folder / "members").glob("*/results.json")))
    checkpoints = sorted(p.name for p in folder.glob("waves/*/checkpoints/*"))
    writing = sorted(str(p.relative_to(folder)) for p in folder.rglob(".*.tmp"))
    return f"members finished {members}, checkpoints {checkpoints}" + (
        f", writing {writing}" if writing else ""
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=compare.__doc__)
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    sys.exit(compare(options.kills, seed=options.seed))
