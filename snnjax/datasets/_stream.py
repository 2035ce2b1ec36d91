r"""Training data larger than memory: an epoch is a sequence of shards, each a `DeviceEvents`.

    order(epoch)    = permutation of the recordings by default_rng([0, seed, epoch]);
                      shard k has the entries k shard_size : (k + 1) shard_size
    recording i     : read, cut to a window of `duration`, thinned, binned;
                      window, then thinning, drawn from default_rng([1, seed, epoch, i])

Order and windows depend only on (seed, epoch). Recordings that do not fill a last shard are left
out of the epoch; these differ between epochs. Threads (grain) read, cut, thin and bin up to one
shard ahead, while the device trains on the shard before. Shards are padded to powers of two
(`DeviceEvents.from_bins`), so that a jitted function compiles only for a few shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from snnjax import _check, _time
from snnjax.datasets import _arrays
from snnjax.datasets._crop import crop, drop_events, random_crop, start_of
from snnjax.datasets._device import DeviceEvents
from snnjax.datasets._events import EventDataset
from snnjax.datasets._sparse_events import SparseEvents, order_by_unit

if TYPE_CHECKING:
    import grain


class Recordings(Protocol):
    """The recordings of a stream, for example `DVSGesture`.

    `recordings[i]` is (times (events,), s, and units (events,)). Several threads read it at once.
    """

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def num_units(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]: ...


Crop = Literal["random", "start"]
Binned = tuple[np.ndarray, np.ndarray | None]
"""Addresses of a recording's events, and their steps in order of units for `SparseEvents`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Shards of `recordings`, new ones in each epoch; `snnjax.training.fit` takes it as `train`.

    It needs grain: `pip install snnjax[stream]`.

    Attributes:
        recordings: The data.
        duration: Length of a window, s.
        dt: Time step, s.
        shard_size: Recordings per shard, at most their number. Memory: about four shards on the
            host during the preparation of a shard, and two on the device.
        seed: Whole number >= 0.
        crop: `"random"`: a window at a random position in the recording; `"start"`: its beginning.
            A shorter recording is shown whole, followed by silence. A recording begins at time 0.
            If it has no event before `duration`, it begins at its first event: its clock started
            earlier, as in an event camera.
        drop: Probability that an event is removed, in [0, 1).
        events: If True, shards are `SparseEvents`, sorted by the threads; otherwise `DeviceEvents`.
            `fit` sets it if that is faster.
        workers: Number of threads.

    Raises:
        ValueError: An argument is invalid, or a recording when it is read. The message names it.
        TypeError: An argument has the wrong type, or a recording when it is read.

    >>> class Ticks:
    ...     labels, num_units, num_classes = np.arange(10) % 2, 3, 2
    ...     def __len__(self): return 10
    ...     def __getitem__(self, i): return 0.1 * np.arange(5 + i), np.full(5 + i, i % 3)
    >>> stream = Stream(Ticks(), duration=0.3, dt=0.01, shard_size=4, seed=0)
    >>> stream.n_shards, stream.steps, stream.order(epoch=1).shape
    (2, 30, (2, 4))

    `for shard in stream.shards(epoch=1)` then gives two `DeviceEvents` of four windows each.
    """

    recordings: Recordings
    _: dataclasses.KW_ONLY
    duration: float
    dt: float
    shard_size: int
    seed: int
    crop: Crop = "random"
    drop: float = 0.0
    events: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        _check.number("duration", self.duration, above=0, unit="s")
        _arrays.check_dt(self.dt)
        _check.integer("shard_size", self.shard_size, at_least=1)
        _check.integer("seed", self.seed, at_least=0)
        _check.one_of("crop", self.crop, get_args(Crop))
        _check.number("drop", self.drop, at_least=0, below=1)
        if not isinstance(self.events, bool):
            raise TypeError(f"events must be True or False, got {self.events!r}")
        _check.integer("workers", self.workers, at_least=1)
        n, size, name = len(self.recordings), self.shard_size, "labels of recordings"
        if size > n:
            raise ValueError(f"shard_size must be at most the number of recordings {n}, got {size}")
        most = self.recordings.num_classes - 1
        labels = _arrays.integers(name, self.recordings.labels, 0, most)
        _arrays.check_size(name, labels.size, n, "recordings", per="recording")
        # raises if int32 addresses cannot represent the units and steps
        self._bin(np.zeros(0), np.zeros(0, np.int32))

    @property
    def labels(self) -> np.ndarray:
        """Classes, int32 (recordings,)."""
        return np.asarray(self.recordings.labels, np.int32)

    @property
    def steps(self) -> int:
        """Number of time steps of a window."""
        return _time.num_steps(self.duration, self.dt)

    @property
    def n_shards(self) -> int:
        """Number of shards per epoch."""
        return len(self.recordings) // self.shard_size

    def __len__(self) -> int:
        """The number of recordings per epoch."""
        return self.n_shards * self.shard_size

    def order(self, epoch: int) -> np.ndarray:
        """Return the recordings of each shard of an epoch.

        Args:
            epoch: Number of the epoch, >= 0.

        Returns:
            Indices of recordings, (n_shards, shard_size).
        """
        epoch = _check.integer("epoch", epoch, at_least=0)
        order = np.random.default_rng([0, self.seed, epoch]).permutation(len(self.recordings))
        return order[: self.n_shards * self.shard_size].reshape(self.n_shards, self.shard_size)

    def shards(self, epoch: int) -> Generator[DeviceEvents | SparseEvents, None, None]:
        """Yield the shards of an epoch on the default device.

        Closing the generator stops the threads.

        Args:
            epoch: Number of the epoch, >= 0.

        Raises:
            ImportError: grain is not installed.
            Exception: A recording cannot be read or binned. The error keeps its type, and its
                message begins with the recording.
        """
        order = self.order(epoch)
        try:
            import grain  # here, so that snnjax.datasets comes without it
        except ImportError as error:
            raise ImportError("Stream needs grain: pip install 'snnjax[stream]'") from error
        ahead = max(self.shard_size, self.workers)
        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=ahead)
        recordings = grain.MapDataset.source(order.ravel().tolist())
        elements = recordings.map(lambda i: self._read(epoch, i)).to_iter_dataset(options)
        return self._collect(iter(elements), order)

    def _collect(
        self, elements: grain.DatasetIterator[Binned], order: np.ndarray
    ) -> Generator[DeviceEvents | SparseEvents, None, None]:
        try:
            for indices in order:
                yield self._put([next(elements) for _ in indices], indices)
        finally:
            elements.close()

    def _put(self, parts: list[Binned], indices: np.ndarray) -> DeviceEvents | SparseEvents:
        """Copy a shard to the device.

        This is a separate function, so that no host copy of a shard survives while the shard is in
        use.
        """
        addresses, by_unit = zip(*parts, strict=True)
        offsets = _arrays.offsets_of(np.array([len(part) for part in addresses]))
        bins = np.concatenate(addresses), offsets, self.labels[indices]
        num_units = self.recordings.num_units
        grid: dict[str, Any] = {"num_steps": self.steps, "num_units": num_units, "dt": self.dt}
        shard = DeviceEvents.from_bins(*bins, **grid, pad=True)
        if not self.events:
            return shard
        return SparseEvents.from_events(shard, steps_by_unit=np.concatenate(by_unit))

    def _read(self, epoch: int, i: int) -> Binned:
        """Return the addresses of recording i, and its steps in order of units if `events`."""
        rng = np.random.default_rng([1, self.seed, epoch, i])
        with _check.at(f"recording {i}"):
            times, units = self.recordings[i]
            if self.crop == "random":
                times, units = random_crop(rng, times, units, duration=self.duration)
            else:
                start = start_of(times, duration=self.duration)
                times, units = crop(times, units, duration=self.duration, start=start)
            if self.drop:
                times, units = drop_events(rng, times, units, self.drop)
            addresses = self._bin(times, units)
        if not self.events:
            return addresses, None
        num_units, sample = self.recordings.num_units, np.zeros(1, np.int64)
        step, unit = np.divmod(addresses.astype(np.int64), num_units)
        return addresses, order_by_unit(sample, step, unit, steps=self.steps, num_units=num_units)

    def _bin(self, times: np.ndarray, units: np.ndarray) -> np.ndarray:
        one = EventDataset.from_lists(
            [times], [units], [0], num_units=self.recordings.num_units, duration=self.duration
        )
        return one._bins(self.dt, _arrays.check_steps(self.steps))[0]
