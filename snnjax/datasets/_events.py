r"""Labelled spike trains as events: the container for all event data sets.

Sample s contains the events e = offsets[s] ... offsets[s+1] - 1, each at times[e] (s) on units[e].
On a grid of step dt an event falls in

    bin(t) = floor(t' / dt)           kept where bin(t) < num_steps and t' < duration
    t'     = t + 2^-23 t              float64 times: at most 0.5 us later

Times keep their type, float32 or float64. A float32 product k * dt may be up to 2^-23 t smaller
than k dt; t' puts it in bin k. A grid has at most 2^20 steps, so t' is later than t by at most an
eighth of a step. Whole microseconds in float64 always fall in the bin that integer arithmetic
gives. Events at or beyond the end of the window are dropped, never clipped into the last bin.

The container uses numpy on the host and is not a JAX pytree. `EventDataset.bins` returns the
arrays that a loader sends to the device.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from snnjax import _check, _time
from snnjax.datasets import _arrays
from snnjax.datasets._labelled import LabelledDataset

_EVENTS_AT_ONCE = 2**22  # events binned together, which takes about 60 bytes of memory per event


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EventDataset(LabelledDataset):
    """S labelled samples of spike events on `num_units` channels.

    Arrays of another real dtype are converted: times of 16 bits to float32, all other times to
    float64. The fields are read-only views. S = 0 and samples without events are allowed.

    Attributes:
        times: Times from the start of the trial, float32 or float64 (E,), s. Finite, >= 0 and <
            2**32, in any order within a sample. Times at or after `duration` are allowed, but
            `bins`, `to_dense` and `rate` leave them out.
        units: Units, int32 (E,), in [0, num_units).
        offsets: int64 (S + 1,). Sample s contains the events offsets[s]:offsets[s + 1].
        labels: Classes, int32 (S,), in [0, num_classes).
        num_units: Number of channels, >= 1.
        num_classes: Number of classes, >= 1.
        duration: Length of a trial, s.
        groups: For example the speakers, int32 (S,), or None.
        class_names: `num_classes` names, or None.
        durations: Length of each trial, float64 (S,), s, in (0, duration]. What is later does not
            count in training: not in the loss, in bounds on activity and in rates. None: all
            trials have `duration`.

    Raises:
        ValueError: A field is invalid. The message names the field, its first invalid value and the
            position.
        TypeError: A field has the wrong type.

    Warns:
        UserWarning: More than half of the events are at or after `duration`. Their times may not be
            in seconds.

    >>> data = EventDataset(
    ...     times=[0.001, 0.004, 0.002], units=[0, 2, 1], offsets=[0, 2, 3], labels=[0, 1],
    ...     num_units=3, num_classes=2, duration=0.006)
    >>> data
    EventDataset(2 samples, 3 events, 3 units, 2 classes, 0.006 s)
    >>> data.to_dense(dt=2e-3)[:, 0]
    array([[1, 0, 0],
           [0, 0, 0],
           [0, 0, 1]], dtype=uint8)
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    num_units: int
    num_classes: int
    duration: float
    groups: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    durations: np.ndarray | None = None

    def __post_init__(self) -> None:
        num_units = _check.integer("num_units", self.num_units, at_least=1, at_most=2**31 - 1)
        duration = float(_check.number("duration", self.duration, above=0, unit="s"))
        self._set_classes()
        times = _arrays.vector("times", self.times, "fiu")
        offsets = _arrays.check_offsets(self.offsets, num_samples=len(self), n_events=times.size)
        times = _arrays.check_times(times, offsets)
        units = _arrays.integers("units", self.units, 0, num_units - 1, offsets)
        _arrays.check_size("units", units.size, times.size, "times", per="event")
        groups = self.groups
        if groups is not None:
            groups = _arrays.integers("groups", groups, -(2**31), 2**31 - 1)
            _arrays.check_size("groups", groups.size, len(self), "labels")
        durations = self.durations
        if durations is not None:
            durations = _arrays.vector("durations", durations, "fiu").astype(np.float64)
            _arrays.check_size("durations", durations.size, len(self), "labels")
            _check.number("durations", durations, above=0, at_most=duration, unit="s")
        self._set(times=times, units=units, offsets=offsets, groups=groups, durations=durations)
        self._set(num_units=num_units, duration=duration)
        late = np.count_nonzero(times >= duration)
        if 2 * late > times.size:
            share = f"{100 * late / times.size:.1f} % of the events"
            _check.warn(
                f"{share} are at or after duration = {duration:g} s and are left out; "
                "are the times in seconds, counted from the start of each trial?"
            )

    def _with(self, **fields: object) -> EventDataset:
        """Return a copy with other values of some fields, without checks or warnings."""
        other = copy.copy(self)
        other._set(**fields)
        return other

    @classmethod
    def from_lists(
        cls,
        times: Sequence[ArrayLike],
        units: Sequence[ArrayLike],
        labels: ArrayLike,
        *,
        num_units: int,
        duration: float,
        num_classes: int | None = None,
        groups: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ) -> EventDataset:
        """Build a data set from one array of times and one array of units per sample.

        Args:
            times: S arrays of times, s.
            units: S arrays of units. `times[s]` and `units[s]` have the same length.
            labels: Classes (S,).
            num_units: Number of channels.
            duration: Length of a trial, s.
            num_classes: Number of classes. None: the number of `class_names`, or the largest label
                + 1.
            groups: For example the speakers (S,), or None.
            class_names: Names of the classes, or None.

        Raises:
            ValueError: Lengths differ (the message names the sample), or as in the constructor.

        >>> EventDataset.from_lists(
        ...     [[0.1, 0.2], []], [[3, 4], []], [1, 0], num_units=5, duration=0.5
        ... )
        EventDataset(2 samples, 2 events, 5 units, 2 classes, 0.5 s)
        """
        labels = _arrays.vector("labels", labels, "iu")
        if not len(times) == len(units) == len(labels):
            got = f"{len(times)} times, {len(units)} units, {len(labels)} labels"
            raise ValueError(f"times, units and labels must have one entry per sample, got {got}")
        all_times, all_units = [], []
        for s, (t, u) in enumerate(zip(times, units, strict=True)):
            with _check.at(f"sample {s}"):
                t, u = _arrays.vector("times", t, "fiu"), _arrays.vector("units", u, "iu")
            if t.shape != u.shape:
                needed, got = "one-dimensional and equally long", f"shapes {t.shape} and {u.shape}"
                raise ValueError(f"times[{s}] and units[{s}] must be {needed}, got {got}")
            all_times.append(t)
            all_units.append(u)

        return cls(
            times=_arrays.join(all_times),
            units=_arrays.join(all_units),
            offsets=_arrays.offsets_of(np.array([t.size for t in all_times], np.int64)),
            labels=labels,
            num_units=num_units,
            num_classes=_arrays.count_classes(labels, num_classes, class_names),
            duration=duration,
            groups=None if groups is None else np.asarray(groups),
            class_names=None if class_names is None else tuple(class_names),
        )

    @classmethod
    def from_dense(
        cls,
        x: ArrayLike,
        labels: ArrayLike,
        dt: float,
        *,
        num_classes: int | None = None,
        groups: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ) -> EventDataset:
        """Build a data set from spike counts, the inverse of `to_dense`.

        Each count in step k becomes an event at t = k dt. The duration is T dt.

        Args:
            x: Spike counts (T, S, num_units), time-major: whole numbers >= 0 of any real dtype.
            labels: Classes (S,).
            dt: Time step, s.
            num_classes: As in `from_lists`.
            groups: As in `from_lists`.
            class_names: As in `from_lists`.

        Raises:
            ValueError: x has the wrong shape, or a count is negative, fractional or not finite.

        >>> EventDataset.from_dense(np.array([[[0, 2]], [[1, 0]]]), [0], dt=1e-3).times
        array([0.   , 0.   , 0.001])
        """
        _arrays.check_dt(dt)
        labels = _arrays.vector("labels", labels, "iu")
        x = np.asarray(x)
        if x.dtype.kind not in "biu" and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"x must contain real numbers, got dtype {x.dtype}")
        if x.ndim != 3 or x.shape[0] == 0 or x.shape[2] == 0:
            needed = "(time, samples, units) with at least one step and one unit"
            raise ValueError(f"x must have shape {needed}, got {x.shape}")
        _arrays.check_steps(x.shape[0])
        _arrays.check_size("labels", len(labels), x.shape[1], f"samples in x of shape {x.shape}")
        by_sample = x.swapaxes(0, 1)
        sample, step, unit = np.nonzero(by_sample)
        found = by_sample[sample, step, unit].astype(np.float64)  # a NaN is nonzero
        good = (found > 0) & (found == np.floor(found)) & np.isfinite(found)
        place = lambda e: f"(time, sample, unit) = ({step[e]}, {sample[e]}, {unit[e]})"
        value = lambda e: f"{found[e]} at {place(e)}"
        _arrays.all_good(good, "x must contain whole numbers >= 0", value)
        repeats = found.astype(np.int64)
        lengths = np.bincount(np.repeat(sample, repeats), minlength=x.shape[1])
        return cls(
            times=np.repeat(step * float(dt), repeats),
            units=np.repeat(unit, repeats),
            offsets=_arrays.offsets_of(lengths),
            labels=labels,
            num_units=x.shape[2],
            num_classes=_arrays.count_classes(labels, num_classes, class_names),
            duration=x.shape[0] * float(dt),
            groups=None if groups is None else np.asarray(groups),
            class_names=None if class_names is None else tuple(class_names),
        )

    def __repr__(self) -> str:
        sizes = f"{len(self)} samples, {self.times.size} events, {self.num_units} units"
        return f"EventDataset({sizes}, {self.num_classes} classes, {self.duration:g} s)"

    @property
    def counts(self) -> np.ndarray:
        """Number of events of each sample, int64 (S,). Events after `duration` count, too."""
        return np.diff(self.offsets)

    def subset(self, indices: _arrays.Indices) -> EventDataset:
        """Return the samples `indices` in that order. Repeats are allowed.

        Args:
            indices: Whole numbers in [-S, S) (negative numbers count from the end), a boolean mask
                (S,), or a slice.

        Raises:
            ValueError: An index is out of range, or a mask has another length.
            TypeError: `indices` has another type.

        >>> data = EventDataset.from_lists(
        ...     [[0.1], [], [0.2]], [[0], [], [1]], [0, 1, 2], num_units=2, duration=1.0)
        >>> data.subset([2, 0]).labels, len(data.subset(data.counts > 0))
        (array([2, 0], dtype=int32), 2)
        """
        index = _arrays.as_indices(indices, len(self))
        lengths = self.counts[index]
        offsets = _arrays.offsets_of(lengths)
        # ragged gather: event e of the result is event e - offsets[s] + self.offsets[index[s]] here
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], lengths)
        of = lambda values: None if values is None else values[index]
        part = self._with(offsets=offsets, labels=self.labels[index], groups=of(self.groups))
        part._set(durations=of(self.durations))
        return part._with(times=self.times[source], units=self.units[source])

    def split_groups(self, held_out: int | Sequence[int]) -> tuple[EventDataset, EventDataset]:
        """Return all other samples, and the samples of the groups `held_out`.

        Args:
            held_out: One group or several, for example speakers.

        Returns:
            `(rest, held)`.

        Raises:
            ValueError: The data set has no groups, or no sample belongs to one of `held_out`.

        >>> data = EventDataset.from_lists(
        ...     [[]] * 4, [[]] * 4, [0, 1, 0, 1], num_units=1, duration=1.0, groups=[5, 5, 7, 7])
        >>> rest, held = data.split_groups(7)
        >>> rest.groups, held.groups
        (array([5, 5], dtype=int32), array([7, 7], dtype=int32))
        """
        if self.groups is None:
            raise ValueError("held_out needs a data set with groups, got one with groups = None")
        wanted = _arrays.integers("held_out", np.atleast_1d(held_out), -(2**31), 2**31 - 1)
        missing = np.setdiff1d(wanted, self.groups)
        if missing.size:
            known = np.unique(self.groups).tolist()
            raise ValueError(f"held_out must be among the groups {known}, got {missing.tolist()}")
        mask = np.isin(self.groups, wanted)
        return self.subset(~mask), self.subset(mask)

    def join_units(self, number: int) -> EventDataset:
        """Return the data set with `number` neighbouring units joined to one. No event is lost.

        Args:
            number: Number of units that become one; the last group may be smaller.

        >>> data = EventDataset.from_lists([[0.1] * 3], [[0, 4, 5]], [0], num_units=7, duration=1.0)
        >>> joined = data.join_units(5)
        >>> joined.units, joined.num_units
        (array([0, 0, 1], dtype=int32), 2)
        """
        _check.integer("number", number, at_least=1, at_most=self.num_units)
        joined = self._with(num_units=-(-self.num_units // number))
        joined._set(units=self.units // np.int32(number))
        return joined

    def until_last_event(self) -> EventDataset:
        """Return the data set with trials that end with their last event before `duration`.

        A trial ends at the first whole millisecond after this event. A trial without events keeps
        `duration`.

        >>> data = EventDataset.from_lists(
        ...     [[0.1, 0.2], [0.4]], [[0, 0], [1]], [0, 1], num_units=2, duration=0.5)
        >>> data.until_last_event().durations
        array([0.201, 0.401])
        """
        sample = np.repeat(np.arange(len(self)), self.counts)
        kept = _arrays.not_before_edge(self.times) < self.duration
        last = np.full(len(self), self.duration)
        last[sample[kept]] = 0.0
        np.maximum.at(last, sample[kept], self.times[kept].astype(np.float64))
        ends = (np.floor(last * 1000) + 1) / 1000
        return self._with(durations=np.minimum(ends, self.duration))

    def shuffle(self, seed: int | Sequence[int]) -> EventDataset:
        """Return the samples in a random order.

        Args:
            seed: Whole number >= 0, or several.
        """
        return self.subset(_arrays.rng_of(seed).permutation(len(self)))

    def batches(
        self, batch_size: int, *, seed: int | Sequence[int] | None = None, drop_last: bool = False
    ) -> Iterator[EventDataset]:
        """Yield batches of `batch_size` samples, one pass over the data.

        Args:
            batch_size: Number of samples per batch, >= 1.
            seed: Shuffles the samples first. None keeps their order. For a new order in each epoch,
                use `seed=(seed, epoch)`.
            drop_last: Leave out the last batch if it is not full, so that all batches have one
                shape.

        >>> data = EventDataset.from_lists(
        ...     [[]] * 5, [[]] * 5, [0, 1, 2, 3, 4], num_units=1, duration=1.0)
        >>> [batch.labels.tolist() for batch in data.batches(2)]
        [[0, 1], [2, 3], [4]]
        """
        size, n = _check.integer("batch_size", batch_size, at_least=1), len(self)
        order = np.arange(n) if seed is None else _arrays.rng_of(seed).permutation(n)
        stop = n - n % size if drop_last else n
        return (self.subset(order[i : i + size]) for i in range(0, stop, size))

    def bins(self, dt: float, num_steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Put the events on a time grid and return flat addresses, for a scatter on the device.

        Events outside the window are dropped. The window is the shorter of T dt and `duration`.

        Args:
            dt: Time step, s.
            num_steps: Number of steps T. None: as many as cover `duration`.

        Returns:
            `(address, offsets)`. `address`, int32 (E',), is bin * num_units + unit, ascending
            within each sample, with one entry per event: equal entries are counts above 1.
            `offsets` is int64 (S + 1,).

        Raises:
            ValueError: num_steps * num_units >= 2**31, which int32 addresses cannot represent, or
                more steps than float32 times resolve (2**20).

        >>> data = EventDataset.from_lists(
        ...     [[0.004, 0.001], [0.9]], [[2, 0], [1]], [0, 1], num_units=3, duration=0.006)
        >>> data.bins(dt=2e-3)
        (array([0, 8], dtype=int32), array([0, 2, 2]))
        """
        return self._bins(dt, self._steps(dt, num_steps))

    def _bins(self, dt: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
        stride = steps * self.num_units
        if stride >= 2**31:
            got = f"{steps} * {self.num_units} = {stride}; take a longer dt or fewer units"
            raise ValueError(f"num_steps * num_units must be < 2**31, got {got}")
        addresses, counts = [], []
        for part in self._blocks(_EVENTS_AT_ONCE):
            sample, step, unit = part._on_grid(dt, steps)
            key = (sample * steps + step) * self.num_units + unit
            key.sort()  # samples stay where they are: `sample` ascends already
            addresses.append((key - sample * stride).astype(np.int32))
            counts.append(np.bincount(sample, minlength=len(part)))
        return np.concatenate(addresses), _arrays.offsets_of(np.concatenate(counts))

    def _blocks(self, n_events: int) -> Iterator[EventDataset]:
        """Yield parts of consecutive samples as views, at least one part.

        Args:
            n_events: Largest number of events per part. A larger sample is a part of its own.
        """
        start = 0
        while True:
            most = self.offsets[start] + n_events
            stop = int(np.searchsorted(self.offsets, most, side="right")) - 1
            stop = min(max(stop, start + 1), len(self))
            own = slice(self.offsets[start], self.offsets[stop])
            offsets = self.offsets[start : stop + 1] - self.offsets[start]
            part = self._with(offsets=offsets, labels=self.labels[start:stop], groups=None)
            if self.durations is not None:
                part._set(durations=self.durations[start:stop])
            yield part._with(times=self.times[own], units=self.units[own])
            start = stop
            if start == len(self):
                return

    def to_dense(
        self,
        dt: float,
        num_steps: int | None = None,
        *,
        dtype: DTypeLike = np.uint8,
        binary: bool = False,
    ) -> np.ndarray:
        """Return spike counts on a time grid, time-major (T, S, num_units).

        Args:
            dt: Time step, s.
            num_steps: Number of steps T. None: as many as cover `duration`.
            dtype: Dtype of the result.
            binary: If True, return 1 for one event or more, instead of the count.

        Raises:
            ValueError: `dtype` cannot represent a count exactly. Counts never wrap around.

        >>> data = EventDataset.from_lists(
        ...     [[0.0, 0.0005]], [[0, 0]], [0], num_units=1, duration=2e-3
        ... )
        >>> data.to_dense(1e-3).ravel(), data.to_dense(1e-3, binary=True).ravel()
        (array([2, 0], dtype=uint8), array([1, 0], dtype=uint8))
        """
        steps = self._steps(dt, num_steps)
        sample, step, unit = self._on_grid(dt, steps)
        shape = (steps, len(self), self.num_units)
        address = (step * len(self) + sample) * self.num_units + unit
        place, count = np.unique(address, return_counts=True)
        limit = _arrays.largest_count(dtype)
        if not binary and count.max(initial=0) > limit:
            at = tuple(map(int, np.unravel_index(place[count.argmax()], shape)))
            got = f"{np.dtype(dtype)} (up to {limit}) for {count.max()} events"
            hint = f"(time, sample, unit) = {at}; take a wider dtype, a shorter dt or binary=True"
            raise ValueError(f"dtype must represent every count exactly, got {got} at {hint}")
        dense = np.zeros(shape, dtype)
        dense.reshape(-1)[place] = 1 if binary else count.astype(dtype)
        return dense

    def rate(self, *, per_class: bool = False) -> np.ndarray:
        """Return mean rates over the trials of all samples, Hz.

        Args:
            per_class: If True, average over the samples of each class.

        Returns:
            float64 (num_units,), or (num_classes, num_units) with `per_class`. NaN if there are no
            samples to average.

        >>> data = EventDataset.from_lists(
        ...     [[0.1, 0.2], [0.3]], [[0, 0], [1]], [0, 1], num_units=2, duration=0.5)
        >>> data.rate()
        array([2., 1.])
        >>> data.rate(per_class=True)
        array([[4., 0.],
               [0., 2.]])
        """
        rows = self.num_classes if per_class else 1
        row_of = lambda labels: labels.astype(np.int64) if per_class else np.zeros_like(labels)
        events = np.zeros((rows, self.num_units), np.int64)
        for part in self._blocks(_EVENTS_AT_ONCE):
            ends: ArrayLike = self.duration
            if part.durations is not None:
                ends = np.repeat(part.durations, part.counts)
            kept = _arrays.not_before_edge(part.times) < ends
            row = np.repeat(row_of(part.labels), part.counts)[kept]
            place = row * self.num_units + part.units[kept]
            events += np.bincount(place, minlength=events.size).reshape(events.shape)
        row = row_of(self.labels)
        if self.durations is None:
            seconds = np.bincount(row, minlength=rows)[:, None] * self.duration
        else:
            seconds = np.bincount(row, self.durations, minlength=rows)[:, None]
        rate = np.full(events.shape, np.nan)
        np.divide(events, seconds, out=rate, where=seconds > 0)
        return rate if per_class else rate[0]

    def _steps(self, dt: float, num_steps: int | None) -> int:
        _arrays.check_dt(dt)
        if num_steps is None:
            num_steps = _time.num_steps(self.duration, dt)
        return _arrays.check_steps(_check.integer("num_steps", num_steps, at_least=1))

    def _on_grid(self, dt: float, num_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sample, step and unit, int64, of each event inside the window."""
        t = _arrays.not_before_edge(self.times)
        step = t / dt
        kept = (step < num_steps) & (t < self.duration)
        sample = np.repeat(np.arange(len(self)), self.counts)[kept]
        return sample, step[kept].astype(np.int64), self.units[kept].astype(np.int64)
