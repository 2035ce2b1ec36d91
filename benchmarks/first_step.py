"""Seconds from the start of a process to the end of Randman's first training step.

    python -m benchmarks.first_step [--rounds 3]

The steps of `snnjax train randman`: imports, data, network, and one compiled step of a batch shared
by all cores. Each round has two processes with a new folder for compiled programs: it is empty for
the first process, and filled for the second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time


def child(folder: str) -> dict[str, float]:
    """Return the seconds of imports, of data and network, of the first step, and of all.

    Args:
        folder: Folder for compiled programs.
    """
    begin = time.monotonic()
    from snnjax.runtime import use_compilation_cache, use_cpu_devices

    use_cpu_devices()
    use_compilation_cache(folder)
    import jax

    from snnjax.experiments import Experiment
    from snnjax.experiments._build import build_optimizer
    from snnjax.experiments._run import prepare
    from snnjax.training import Objective, Trainer
    from snnjax.training._inputs import choose_form

    imported = time.monotonic()
    ready = prepare(Experiment.from_options("randman", start="paper"))
    source = choose_form(ready.network, ready.data.splits.train)
    made = time.monotonic()
    size, optimizer = ready.experiment.training.batch_size, build_optimizer(ready.experiment)
    trainer = Trainer(ready.network, Objective(), optimizer, batch_size=size)
    jax.block_until_ready(trainer.step(trainer.init(), (source, jax.numpy.arange(size))))
    end = time.monotonic()
    return {
        "imports": imported - begin,
        "data and network": made - imported,
        "step": end - made,
        "all": end - begin,
    }


def main() -> None:
    """Print one line per process."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes")
    options = parser.parse_args()
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "kept"):
                run = subprocess.run(
                    [sys.executable, "-m", "benchmarks.first_step", "child", folder],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                print(name, run.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps({name: round(seconds, 2) for name, seconds in child(sys.argv[2]).items()}))
    else:
        main()
