"""Samples per second that snnjax puts on the device, as one line of JSON.

    python -m benchmarks.loader

Random events of the size of a spoken digit (700 units, 0.7 s, 3 % of the bins of 2 ms have a
spike), in batches of 64:

    host           `EventDataset` to the device as binned events, a whole data set at once
                   (`DeviceEvents.from_dataset`)
    device         events to a raster on the device, as in every step of training
                   (`DeviceEvents.batch`)
    augmented      the same with random shift, stretch, jitter, drop and insert
                   (`Augmented.batch`)
    stream         recordings read ahead in threads, binned, shard by shard to the device
                   (`Stream.shards`); left out if grain is not installed
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.contest import versions
from benchmarks.works import DT
from snnjax.datasets import Augmented, DeviceEvents, EventDataset, Stream, poisson

SAMPLES, BATCH, UNITS, DURATION, RATE, REPEATS = 512, 64, 700, 0.7, 15.0, 5


class Recordings:
    """A data set in the form that a `Stream` reads."""

    def __init__(self, data: EventDataset) -> None:
        self._data, self.labels, self.num_units, self.num_classes = (
            data,
            data.labels,
            data.num_units,
            data.num_classes,
        )

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self._data.offsets[index], self._data.offsets[index + 1])
        return self._data.times[part], self._data.units[part]


def rate(work: Callable[[], int]) -> float:
    """Return samples per second: the median over `REPEATS` calls, after one that compiles.

    Args:
        work: Returns the number of samples that it processed.
    """
    work()
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        samples = work()
        found.append(samples / (time.perf_counter() - begin))
    return statistics.median(found)


def batches(source: Any) -> Callable[[], int]:
    """Return a function that reads every sample of `source` once, in random order.

    Args:
        source: A batch source.
    """
    one = jax.jit(lambda source, indices, key: source.batch(indices, key))
    order = jax.random.permutation(jax.random.key(0), len(source)).reshape(-1, BATCH)

    def work() -> int:
        for k, indices in enumerate(order):
            jax.block_until_ready(one(source, indices, jax.random.key(k)))
        return order.size

    return work


def measure() -> dict[str, float]:
    """Return samples per second by name."""
    data = poisson(num_samples=SAMPLES, num_units=UNITS, rate=RATE, duration=DURATION, seed=0)
    held = DeviceEvents.from_dataset(data, dt=DT)

    def host() -> int:
        jax.block_until_ready(DeviceEvents.from_dataset(data, dt=DT).addresses)
        return len(data)

    changed = Augmented(
        source=held,
        unit_shift=20,
        time_stretch=0.1,
        drop=0.1,
        time_jitter=1.0,
        unit_jitter=1.0,
        insert=0.1,
    )
    found = {"host": rate(host), "device": rate(batches(held)), "augmented": rate(batches(changed))}
    if importlib.util.find_spec("grain") is not None:
        stream = Stream(Recordings(data), duration=DURATION, dt=DT, shard_size=BATCH, seed=0)
        epochs: Iterator[int] = iter(range(1, REPEATS + 2))

        def shards() -> int:
            for shard in stream.shards(next(epochs)):
                jax.block_until_ready(shard)
            return len(stream)

        found["stream"] = rate(shards)
    return found


if __name__ == "__main__":
    print(
        json.dumps(
            {"samples_per_s": measure(), "versions": versions(("snnjax", "jax", "jaxlib", "grain"))}
        )
    )
