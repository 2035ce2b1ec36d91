"""Lower limit for the time of a training step with dense products on this machine.

    python -m benchmarks.floor

measures two rates and prints them as JSON.

    floor = flops / (rate of a large float32 product) + bytes / (bandwidth of a copy)

    flops   2 m k n for each product over all steps and samples (m rows): x @ W and its gradient
            with respect to W; for every layer except the first also the gradient with respect to
            x; and the same three for recurrent weights. Convolutions count as products over
            their windows.
    bytes   4 (2 |input| + 6 sum |layer|): the input, read forward and backward; for every layer
            including the readout, for each step and sample: the drive, the trace that the
            gradient needs, and the gradient of the drive, each written once and read once.

A step can be faster than this limit if it keeps parts of these arrays in the caches, or if its
input is a list of events without zeros. Recurrent products are small, one per step: no machine
computes them at the rate of a large product.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.works import RECURRENT_KERNEL, Work, layers_of

SIZE, COPY_MIB, REPEATS = 2048, 256, 8
"""Rows and columns of the product; MiB to copy, more than the caches; runs, the fastest counts."""


class Rates(NamedTuple):
    """Floating-point operations per second, and bytes (read and written) per second."""

    flops: float
    bytes: float


def flops(work: Work) -> float:
    """Return the floating-point operations in the products of a step of all seeds.

    Args:
        work: The work.
    """
    total, rows, layers = 0, work.steps * work.batch, layers_of(work)
    for k, layer in enumerate(layers):
        window = layer.kernel * layer.maps_in
        total += 2 * rows * layer.positions * window * layer.maps * (3 if k else 2)
        if work.recurrent:
            own = (RECURRENT_KERNEL if work.conv else 1) * layer.maps
            total += 2 * rows * layer.positions * own * layer.maps * 3
    if work.classes:
        total += 2 * rows * layers[-1].size * work.classes * 3
    return float(total * work.seeds)


def traffic(work: Work) -> float:
    """Return the bytes that a step of all seeds reads and writes.

    Args:
        work: The work.
    """
    rows, units = (
        work.steps * work.batch,
        sum(layer.size for layer in layers_of(work)) + (work.classes or 0),
    )
    return float(4 * rows * (2 * work.units + 6 * units) * work.seeds)


def seconds(work: Work, rates: Rates) -> float:
    """Return the lower limit, s.

    Args:
        work: The work.
        rates: Rates of the machine.

    >>> from benchmarks.works import Work
    >>> seconds(Work("", units=10, hidden=(5,), classes=None, steps=2, batch=1), Rates(400.0, 400.0))  # 400 flops, 400 bytes
    2.0
    """
    return flops(work) / rates.flops + traffic(work) / rates.bytes


def measure() -> Rates:
    """Return the faster of numpy's and XLA's product, and numpy's copy on all cores at once."""
    return Rates(max(_numpy_flops(), _jax_flops()), _copy_bytes())


def _fastest(call, repeats: int = REPEATS) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _matrices() -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((2, SIZE, SIZE), np.float32))


def _numpy_flops() -> float:
    a, b = _matrices()
    out = np.empty_like(a)
    return 2 * SIZE**3 / _fastest(lambda: np.matmul(a, b, out=out))


def _jax_flops() -> float:
    import jax

    a, b = (jax.numpy.asarray(m) for m in _matrices())
    product = jax.jit(lambda a, b: a @ b)
    return 2 * SIZE**3 / _fastest(lambda: product(a, b).block_until_ready())


def _copy_bytes() -> float:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    n = COPY_MIB * 2**20 // 4
    source, target = np.ones(n, np.float32), np.zeros(n, np.float32)
    parts = list(zip(np.array_split(source, cores), np.array_split(target, cores), strict=True))
    with ThreadPoolExecutor(cores) as pool:  # numpy releases the interpreter's lock during a copy
        return (
            2
            * source.nbytes
            / _fastest(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))
        )


if __name__ == "__main__":
    print(json.dumps(measure()._asdict()))
