"""Process settings that make JAX faster, mainly on a CPU.

Nothing here runs unless called. The `snnjax` command line calls `use_compilation_cache`, for
training also `use_cpu_devices`, and for smoke tests `compile_quickly`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from snnjax import _check

__all__ = ["use_compilation_cache", "use_cpu_devices"]


def use_compilation_cache(folder: str | Path | None = None, *, max_mib: int = 1024) -> Path | None:
    """Keep compiled programs on disk, so that other processes with the same programs start faster.

    The call is safe at any time, and best before the first computation.

    Args:
        folder: Folder of the cache. None: the folder that JAX is already configured to use
            (`JAX_COMPILATION_CACHE_DIR`), otherwise `snnjax/compiled` below $XDG_CACHE_HOME or
            ~/.cache.
        max_mib: Remove the least recently used files now, down to this size. The cache may grow
            beyond it until the next call.

    Returns:
        The folder. None, without any change, if it is not writable or JAX's cache is off
        (`JAX_ENABLE_COMPILATION_CACHE=false`).

    Raises:
        ValueError: `max_mib` is less than 1.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> use_compilation_cache(folder) == Path(folder)
    True
    >>> import jax
    >>> jax.config.update("jax_compilation_cache_dir", None)  # switch it off again
    """
    import jax

    _check.integer("max_mib", max_mib, at_least=1)
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    configured = config.jax_compilation_cache_dir
    if folder is None and configured:
        return Path(configured)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = caches / "snnjax" / "compiled" if folder is None else Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError:
        return None
    _prune(path, max_mib * 2**20)
    # also cache small programs: a training script compiles dozens before its first step
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path


def _prune(folder: Path, most: int) -> None:
    """Remove the least recently used files, down to `most` bytes.

    JAX's own limit checks all files on each write: 70 ms for a thousand files.
    """
    files = []
    for file in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process may remove it
            found = file.stat()
            files.append((max(found.st_atime, found.st_mtime), found.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            file.unlink()
        total -= size


def use_cpu_devices(number: int | None = None) -> int:
    """Divide the CPU into several JAX devices, for ensembles and for `fit`.

    Members of an ensemble run in parallel on them, and `fit` divides batches among them. Call it
    before the first computation.

    Args:
        number: Number of devices. None: the number of cores of this process.

    Returns:
        The number of CPU devices that JAX has. It is smaller than requested if JAX had already
        started.

    Raises:
        ValueError: `number` is less than 1.
    """
    import jax

    _check.integer("number", number := _cores() if number is None else number, at_least=1)
    with contextlib.suppress(RuntimeError):  # JAX has started and has its devices
        jax.config.update("jax_num_cpu_devices", number)
    return len(jax.devices("cpu"))


def compile_quickly() -> bool:
    """Make XLA compile fast instead of optimizing, for programs that run once on little data.

    Call it before the first JAX computation. Results differ by rounding from those of other
    settings.

    Returns:
        True if the flag was set. False, without any change, if XLA_FLAGS already has this flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" in flags:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    return True


def _cores() -> int:
    """Return the number of cores of this process, or of the machine where it is not known."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
