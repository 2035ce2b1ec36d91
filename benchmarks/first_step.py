"""Seconds from a process' start to the end of Randman's first training step: `python -m benchmarks.first_step [--rounds 3]`.

The steps of `snnjax train randman`: imports, data, network, and one step of a batch shared by all cores, compiled. Each round in two processes with a new
folder for compiled programs: in the first it is empty, in the second not.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 3
    """Pairs of processes."""


def child(folder: str) -> dict[str, float]:
    """Seconds of imports, of data and network, of the first step, and of all."""
    begin = time.monotonic()
    from snnjax.runtime import tune_allocator, use_compilation_cache, use_cpu_devices

    tune_allocator()
    use_cpu_devices()
    use_compilation_cache(folder)
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from snnjax.experiments import RandmanConfig, build_optimizer
    from snnjax.experiments._run import prepare
    from snnjax.training import Objective, init_state
    from snnjax.training.inputs import choose_form
    from snnjax.training.step import batch_devices, batch_gradient, batch_mesh, micro_batch_size, update

    imported = time.monotonic()
    ready = prepare(RandmanConfig(start="paper"))
    config, source = ready.config, choose_form(ready.network, ready.train)
    made = time.monotonic()
    objective, params = Objective.of(ready.network)
    optimizer = build_optimizer(config, steps=1)
    devices = batch_devices(objective, source, config.batch_size)
    size = micro_batch_size(objective, params, source, config.batch_size // devices)
    everywhere = NamedSharding(batch_mesh(devices), PartitionSpec())
    start = jax.device_put((init_state(params, optimizer), source, jax.numpy.arange(config.batch_size)), everywhere)

    def step(state, source, indices):  # type: ignore[no-untyped-def]
        return update(optimizer, state, *batch_gradient(objective, state.params, source, indices, None, micro_batch=size, devices=devices))

    jax.block_until_ready(jax.jit(step)(*start))
    end = time.monotonic()
    return {"imports": imported - begin, "data and network": made - imported, "step": end - made, "all": end - begin}


def main(options: Options) -> int:
    """A line a process."""
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "kept"):
                run = subprocess.run(
                    [sys.executable, "-m", "benchmarks.first_step", "child", folder], capture_output=True, text=True, check=True
                )
                print(name, run.stdout.strip().splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps({name: round(seconds, 2) for name, seconds in child(sys.argv[2]).items()}))
    else:
        sys.exit(main(tyro.cli(Options)))
