r"""Conversion of event data from tonic's format and back.

The package tonic is not needed, because its recordings are structured numpy arrays. A recording has
one entry per event, with these fields in any order:

    t   time, whole microseconds
    x   column, 0 to width - 1
    y   row, 0 to height - 1; optional if the sensor has one row
    p   polarity, 0 and 1 or false and true

A sensor is (width, height, polarities), or (channels, 1, 1) for sound. With one polarity, p is
optional and must be the same for all events. In snnjax an event belongs to

    unit = (y width + x) polarities + p

so that a raster (time, batch, num_units) reshapes to (time, batch, height, width, polarities), as
for DVS-Gesture.

Times in snnjax are float64 seconds. Whole microseconds up to 2^32 s convert back exactly, and each
event is in the same time step as with integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Literal, SupportsIndex, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike

from snnjax import _check
from snnjax.datasets import EventDataset
from snnjax.datasets._arrays import check_whole

_LARGEST = 2**31 - 1
_LATEST = 2**32 * 10**6 - 1  # us
Origin = Literal["first", "zero"]
T = TypeVar("T")


def from_tonic(
    samples: Iterable[tuple[np.ndarray, SupportsIndex]],
    *,
    sensor_size: Sequence[int] | None = None,
    duration: float | None = None,
    origin: Origin | None = None,
    num_classes: int | None = None,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
) -> EventDataset:
    """Convert a tonic data set, or any (events, label) pairs, to an `EventDataset` in memory.

    Args:
        samples: Pairs of a structured array, with the fields t (us), x, y and p, and an integer
            label. A tonic data set is such an iterable.
        sensor_size: (width, height, polarities). None: `samples.sensor_size`.
        duration: Length of a trial, s. None: just after the last event of all samples.
        origin: Time of the recording's clock at which a trial starts. `"zero"`: at 0. `"first"`: at
            the first event; event cameras need this, because their clocks run before a recording.
            None: `"first"` if more than half of the recordings have no event before `duration`,
            else `"zero"`.
        num_classes: Number of classes, as in `EventDataset.from_lists`.
        groups: Group of each sample, as in `EventDataset.from_lists`.
        class_names: Names of the classes, as in `EventDataset.from_lists`.

    Returns:
        The data set.

    Raises:
        ValueError: An option is out of range, or a recording does not have this form or does not
            fit the sensor. The message names the sample, the field and the value. An error raised
            by `samples` itself keeps its type, and its message begins with the sample.
        TypeError: An option, a recording or a field has a wrong type.

    Warns:
        UserWarning: `origin` is None, and recordings have no event before `duration`. The warning
            says what was done with them.

    >>> fields = [("t", int), ("x", np.int16), ("p", bool)]
    >>> events = np.array([(1500, 3, 0), (4000, 1, 1)], dtype=fields)
    >>> data = from_tonic([(events, 2)], sensor_size=(4, 1, 2), duration=5e-3)
    >>> data.times, data.units
    (array([0.0015, 0.004 ]), array([6, 3], dtype=int32))
    >>> data
    EventDataset(1 samples, 2 events, 8 units, 3 classes, 0.005 s)
    >>> from_tonic([(events, 2)], sensor_size=(4, 1, 2), duration=5e-3, origin="first").times
    array([0.    , 0.0025])
    """
    if duration is not None:
        _check.number("duration", duration, above=0, unit="s")
    if origin is not None:
        _check.one_of("origin", origin, get_args(Origin))
    sensor = _sensor(getattr(samples, "sensor_size", None) if sensor_size is None else sensor_size)
    times, units, labels = [], [], []
    for s, sample in _numbered(samples):
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            got = f"{type(sample).__name__} as sample {s}"
            raise TypeError(f"samples must be (events, label) pairs, got {got}")
        t, u = _read(s, sample[0], sensor)
        times.append(t)
        units.append(u)
        label = sample[1]
        label = label.item() if isinstance(label, np.ndarray) and label.ndim == 0 else label
        labels.append(_check.integer(f"label of sample {s}", label, at_least=0, at_most=_LARGEST))
    if origin == "first" or (origin is None and _runs_before(times, duration)):
        times = [t - t.min(initial=_LATEST) for t in times]
    if duration is None:
        duration = (max((int(t.max()) for t in times if t.size), default=0) + 1) * 1e-6
    return EventDataset.from_lists(
        [t / 1e6 for t in times],
        units,
        np.array(labels, np.int64),
        num_units=sensor[0] * sensor[1] * sensor[2],
        duration=duration,
        num_classes=num_classes,
        groups=groups,
        class_names=class_names,
    )


def _numbered(samples: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Enumerate the samples; the message of an error that a sample raises names its number."""
    iterator = iter(samples)
    for s in count():
        with _check.at(f"sample {s}"):
            try:
                sample = next(iterator)
            except StopIteration:
                return
        yield s, sample


def _runs_before(times: Sequence[np.ndarray], duration: float | None) -> bool:
    """Whether most recordings (times in us) have no event before `duration` (s).

    Their clocks then cannot start with the trial.
    """
    if duration is None:
        return False
    begins = {s: int(t.min()) for s, t in enumerate(times) if t.size}
    late = [s for s, begin in begins.items() if begin >= duration * 1e6]
    most = 2 * len(late) > len(begins)
    if late:
        shifted = "times are counted from the first event of each recording"
        what = shifted if most else "these samples have no event"
        first = f"sample {late[0]} begins at {begins[late[0]] * 1e-6:g} s"
        _check.warn(
            f"{len(late)} of {len(begins)} recordings have no event before duration = "
            f"{duration:g} s ({first}): {what}; set origin='first' or origin='zero' to choose"
        )
    return most


def to_tonic(
    data: EventDataset, *, sensor_size: Sequence[int] | None = None
) -> list[tuple[np.ndarray, int]]:
    """Convert a data set to (events, label) pairs for tonic's transforms and loaders.

    Args:
        data: Data set from `from_tonic`, or any other with one unit per unit of the sensor.
        sensor_size: (width, height, polarities). None: (num_units, 1, 1).

    Returns:
        One pair per sample: a structured array with the fields t (int64, microseconds, ascending),
        x and y (int16 if they fit, else int32) and p (bool); and the label.

    Raises:
        ValueError: The sensor does not have the data's number of units.

    >>> data = EventDataset.from_lists([[0.004, 0.0015]], [[3, 6]], [2], num_units=8, duration=5e-3)
    >>> (events, label), = to_tonic(data, sensor_size=(4, 1, 2))
    >>> events.tolist(), label
    ([(1500, 3, 0, False), (4000, 1, 0, True)], 2)
    """
    sensor = _sensor((data.num_units, 1, 1) if sensor_size is None else sensor_size)
    width, height, polarities = sensor
    n = data.num_units
    if width * height * polarities != n:
        raise ValueError(f"sensor_size must have as many units as the data, {n}, got {sensor}")
    position = np.int16 if max(width, height) <= 2**15 else np.int32
    dtype = np.dtype([("t", np.int64), ("x", position), ("y", position), ("p", bool)])
    pairs = []
    for s, label in enumerate(data.labels):
        part = slice(data.offsets[s], data.offsets[s + 1])
        pixel, polarity = np.divmod(data.units[part], polarities)
        events = np.empty(pixel.size, dtype)
        events["t"] = np.rint(data.times[part].astype(np.float64) * 1e6)
        events["y"], events["x"] = np.divmod(pixel, width)
        events["p"] = polarity
        pairs.append((events[np.argsort(events["t"], kind="stable")], int(label)))
    return pairs


def _sensor(size: Sequence[int] | np.ndarray | None) -> tuple[int, int, int]:
    wanted = "(width, height, polarities)"
    if size is None:
        raise ValueError(f"sensor_size must be given, {wanted}: the samples have none")
    size = size.tolist() if isinstance(size, np.ndarray) else size
    if not isinstance(size, Sequence) or len(size) != 3:
        raise ValueError(f"sensor_size must be {wanted}, got {size!r}")
    width, height, polarities = (_check.integer("sensor_size", n, at_least=1) for n in size)
    if polarities > 2:
        raise ValueError(f"sensor_size must have 1 or 2 polarities, got {polarities}")
    if width * height * polarities > _LARGEST:
        raise ValueError(f"sensor_size must have fewer than 2**31 units, got {size}")
    return width, height, polarities


def _read(s: int, events: object, sensor: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (us) and units of a recording."""
    if not isinstance(events, np.ndarray) or events.dtype.names is None or events.ndim != 1:
        needed = "a one-dimensional structured array with the fields t, x and p"
        got = f"a {type(events).__name__}"
        if isinstance(events, np.ndarray):
            got = f"an array of dtype {events.dtype}, shape {events.shape}"
        raise TypeError(f"events of sample {s} must be {needed}, got {got}")
    names, (width, height, polarities) = events.dtype.names, sensor
    limits = {"t": _LATEST, "x": width - 1}
    limits |= {"y": height - 1} if height > 1 or "y" in names else {}
    limits |= {"p": 1} if polarities > 1 else {}
    if missing := limits.keys() - set(names):
        needed = f"{', '.join(limits)} for a sensor {sensor}, {min(missing)} is not among {names}"
        raise ValueError(f"events of sample {s} must have the fields {needed}")
    fields: dict[str, np.ndarray] = {}
    for name, limit in limits.items():
        if events[name].dtype.kind not in "biuf":
            got = f"dtype {events[name].dtype}"
            raise TypeError(f"{name} of sample {s} must hold numbers, got {got}")
        check_whole(f"{name} of sample {s}", events[name], limit)
        fields[name] = events[name].astype(np.int64)
    if polarities == 1 and "p" in names and events.size and (events["p"] != events["p"][0]).any():
        needed = f"one polarity, as the sensor {sensor} has"
        raise ValueError(f"events of sample {s} must have {needed}, got several")
    pixel = fields.get("y", 0) * width + fields["x"]
    return fields["t"], pixel * polarities + fields.get("p", 0)
