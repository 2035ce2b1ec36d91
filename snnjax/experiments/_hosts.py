"""A sweep on several processes, which may be on several hosts (`jax.distributed`).

The processes share one folder. Process 0 writes the plan and the waves; then each process trains
one wave after another on its own devices, and process 0 writes the results when all have finished.
If a process ends with an error, another takes its wave. If a process is killed, the others end with
an error, and the sweep is resumed by any number of processes: an unfinished wave continues from its
checkpoint.
"""

from __future__ import annotations

import jax


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the cluster of this process, before JAX computes anything.

    Args:
        coordinator: Address and port of process 0. None: found by JAX.
        processes: Number of processes. None: found by JAX.
        process: Number of this process. None: found by JAX.

    Raises:
        ValueError: JAX knows no cluster here, and the arguments are missing.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed found no cluster of processes: {str(error).splitlines()[0]}; give "
            "--coordinator HOST:PORT --processes N --process I"
        ) from None


def wait(name: str) -> None:
    """Wait until all processes have reached this point.

    Args:
        name: Name of the point, the same for all processes.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
