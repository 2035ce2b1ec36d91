"""Process settings that make JAX faster, mainly on a CPU.

Nothing here runs unless called. The `snnjax` command line calls `tune_allocator` and
`use_compilation_cache`, for training also `use_cpu_devices`, and for smoke tests `compile_quickly`.

A training step allocates large temporary arrays again each time. glibc returns each to the kernel,
which supplies zeroed pages, one page fault at a time. This can take half of the time of a step,
most for large arrays. It is not measurable if gradients are computed on parts of a batch that fit
in the cache (W1 of `benchmarks.works`). With the settings below the process keeps freed memory and
uses it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from snnjax import _check

__all__ = ["use_compilation_cache", "use_cpu_devices"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def tune_allocator(*, top_pad_mib: int = 256) -> bool:
    """Make glibc keep freed memory: no mmap for large blocks, no trimming, growth in large steps.

    The process keeps its peak memory until it ends. The call is safe at any time, and best before
    the first JAX computation.

    Args:
        top_pad_mib: Step by which the heap grows, MiB.

    Returns:
        True if the settings were applied. False, without any change, if the C library is not glibc.

    Raises:
        ValueError: `top_pad_mib` is not between 0 and 2048.

    >>> tune_allocator() in (True, False)
    True
    """
    if not 0 < top_pad_mib < 2048:
        raise ValueError(f"top_pad_mib must be > 0 and < 2048, got {top_pad_mib}")
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        # only glibc has this symbol; musl has no form of mallopt
        libc.gnu_get_libc_version  # noqa: B018
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    applied = [
        mallopt(_M_MMAP_MAX, 0),
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
        mallopt(_M_TOP_PAD, top_pad_mib * 2**20),
    ]
    return all(applied)


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
    path = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnjax" / "compiled"
        if folder is None
        else Path(folder)
    )
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
    # not on macOS and Windows
    """Return the number of cores of this process, or of the machine if the former is unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
