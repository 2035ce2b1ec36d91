"""Process settings that make JAX faster, most of all on a CPU. Nothing here runs unless called; the `snnjax` command line calls `tune_allocator` and
`use_compilation_cache`, to train also `use_cpu_devices`, and for smoke tests `compile_quickly`.

A training step allocates large temporaries anew each time. glibc gives each back to the kernel, which hands out zeroed pages one fault at a time:
up to half of a step's time, most where arrays are large, and nothing that can be measured where gradients are taken of parts of a batch that fit the cache
(W1 of `benchmarks.works`). With the settings below freed memory stays with the process and is used again.
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

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def tune_allocator(*, top_pad_mib: int = 256) -> bool:
    """Tell glibc to keep freed memory: no mmap for large blocks, no trimming, and growth in steps of `top_pad_mib`.

    The process keeps its peak memory until it ends. Safe to call at any time, best before the first JAX computation.

    Returns:
      True where the settings were applied; False, and nothing done, where the C library is not glibc.

    >>> tune_allocator() in (True, False)
    True
    """
    if not 0 < top_pad_mib < 2048:
        raise ValueError(f"top_pad_mib must be > 0 and < 2048, got {top_pad_mib}")
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has mallopt in no form; only glibc has this symbol
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
    """Keep compiled programs on disk, so that another process that needs the same ones starts faster. Safe to call anywhere, best before the first computation.

    Args:
      folder: where; when None `snnjax/compiled` below $XDG_CACHE_HOME or ~/.cache, or the folder that JAX has been told to use already
        (`JAX_COMPILATION_CACHE_DIR`).
      max_mib: what was not used for longest is removed now, down to this size; it may grow beyond until the next call.

    Returns:
      The folder; None, and nothing done, where it cannot be written to or JAX's cache is off (`JAX_ENABLE_COMPILATION_CACHE=false`).

    Raises:
      ValueError: max_mib is not at least 1.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> use_compilation_cache(folder) == Path(folder)
    True
    >>> import jax
    >>> jax.config.update("jax_compilation_cache_dir", None)         # and off again
    """
    import jax

    _check.integer("max_mib", max_mib, at_least=1)
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    told = config.jax_compilation_cache_dir
    if folder is None and told:
        return Path(told)
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
    # small programs, too: a training script compiles dozens before its first step
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path


def _prune(folder: Path, most: int) -> None:
    """Remove the files used longest ago beyond `most` bytes. JAX's own limit looks at all files each time it writes one: 70 ms beyond a thousand."""
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
    """Make several JAX devices of the CPU, one a core: an ensemble's members run side by side, and `fit` shares batches. Call it before the first computation.

    Args:
      number: of devices; as many as this process has cores when None.

    Returns:
      The number of CPU devices that JAX has: fewer than asked for where JAX had already started.

    Raises:
      ValueError: number is not at least 1.
    """
    import jax

    _check.integer("number", number := _cores() if number is None else number, at_least=1)
    with contextlib.suppress(RuntimeError):  # JAX has started and has its devices
        jax.config.update("jax_num_cpu_devices", number)
    return len(jax.devices("cpu"))


def compile_quickly() -> bool:
    """Ask XLA to compile fast rather than to make fast programs, for programs that run once on little data. Call it before the first JAX computation.

    Returns:
      True where the flag was set; False, and nothing done, where the environment's XLA_FLAGS already has one.

    Numbers differ by rounding from those of other settings.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" in flags:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    return True


def _cores() -> int:
    # not on macOS and Windows
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
