"""Fixtures for all tests."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Most of the suite's time is compilation. The workers share compiled programs, and a second run
# takes a fifth of the time. JAX reads this when it is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# by default, GPUs multiply float32 matrices in TF32, with 10 bits
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import hypothesis
import numpy as np
import pytest

# a shared machine is sometimes slow: a time limit per example would only make tests flaky
hypothesis.settings.register_profile("snnjax", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("snnjax")


def pytest_configure() -> None:
    """Reduce XLA's optimization, in this and in child processes, unless XLA_FLAGS is set.

    Without the fusion emitters, programs compile in a third of the time and run as fast. Level 1
    was slower over the whole suite. The optimizations were also slower for the slow tests, whose
    CPU time fell by a fifth to a half without them.
    """
    flags = ["--xla_cpu_parallel_codegen_split_count=1", "--xla_cpu_multi_thread_eigen=false"]
    flags += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (
        0,
        11,
    ):  # an unknown flag ends the process
        flags += ["--xla_cpu_use_fusion_emitters=false"]
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))


@pytest.hookimpl(tryfirst=True)  # before the selection by `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the examples in docstrings to `make more`: many compile a whole training.

    Long tests come first, so that at the end no worker waits for another one.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.more)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def x64() -> Iterator[None]:
    """Use float64 for one test."""
    from _support import enable_x64  # not at the top: it starts JAX, which then reads XLA_FLAGS

    with enable_x64():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
