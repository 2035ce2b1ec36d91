r"""Events as tonic has them, and back. tonic itself is not needed: its recordings are numpy's structured arrays.

A recording has one entry an event, with the fields, in any order,

    t   time, whole microseconds        x   column, 0 to width - 1        y   row, where the sensor has several        p   polarity, 0 and 1 or false and true

and a sensor is (width, height, polarities), or (channels, 1, 1) for sound; with one polarity p says nothing, and is the same everywhere. Here an event is
one on

    unit = (y width + x) polarities + p

so that a raster (time, batch, n_units) reshapes to (time, batch, height, width, polarities), as DVS-Gesture's does.

Times are float64 seconds here. Whole microseconds come back exactly, up to 2^32 s, and fall into the
time step that whole numbers give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Literal, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import EventDataset

_LARGEST = 2**31 - 1
_LATEST = 2**32 * 10**6 - 1  # us
Origin = Literal["first", "zero"]


def from_tonic(
    samples: Iterable[tuple[Any, Any]],
    *,
    sensor_size: Sequence[int] | None = None,
    duration: float | None = None,
    origin: Origin | None = None,
    n_classes: int | None = None,
    groups: Any = None,
    class_names: Sequence[str] | None = None,
) -> EventDataset:
    """A data set of tonic's, or any (events, label) pairs, in memory.

    Args:
      samples: pairs of a structured array (see the module) and a whole number. A data set of tonic's is such an iterable.
      sensor_size: (width, height, polarities); `samples.sensor_size` when None.
      duration: length of a trial, s; just after the last event of all when None.
      origin: where a trial starts on the clock of its recording. `"zero"`: at 0. `"first"`: at the
        first event; event cameras need this, because their clocks run before a recording. None:
        `"first"` if more than half of the recordings have no event before `duration`, else `"zero"`.
      n_classes, groups, class_names: as in `EventDataset.from_lists`.

    Raises:
      ValueError, TypeError: an option out of range, or a recording that is not of this form or not of this sensor; names the sample, the field and the value.
        An error of `samples` itself keeps its type, and its message begins with the sample.

    Warns:
      UserWarning: `origin` is None, and recordings have no event before `duration`. Says what
        became of them.

    >>> events = np.array([(1500, 3, 0), (4000, 1, 1)], dtype=[("t", int), ("x", np.int16), ("p", bool)])
    >>> data = from_tonic([(events, 2)], sensor_size=(4, 1, 2), duration=5e-3)
    >>> data.times, data.units, data
    (array([0.0015, 0.004 ]), array([6, 3], dtype=int32), EventDataset(1 samples, 2 events, 8 units, 3 classes, 0.005 s))
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
            raise TypeError(
                f"samples must be (events, label) pairs, got {type(sample).__name__} as sample {s}"
            )
        t, u = _read(s, sample[0], sensor)
        times.append(t)
        units.append(u)
        label = (
            sample[1].item()
            if isinstance(sample[1], np.ndarray) and sample[1].ndim == 0
            else sample[1]
        )
        labels.append(_check.integer(f"label of sample {s}", label, at_least=0, at_most=_LARGEST))
    if origin == "first" or (origin is None and _runs_before(times, duration)):
        times = [t - t.min(initial=_LATEST) for t in times]
    if duration is None:
        duration = (max((int(t.max()) for t in times if t.size), default=0) + 1) * 1e-6
    return EventDataset.from_lists(
        [t / 1e6 for t in times], units, np.array(labels, np.int64), n_units=sensor[0] * sensor[1] * sensor[2], duration=duration,
        n_classes=n_classes, groups=groups, class_names=class_names,
    )  # fmt: skip


def _numbered(samples: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """`enumerate(samples)`, with the number in the message of an error that a sample raises."""
    iterator, end = iter(samples), object()
    for s in count():
        with _check.at(f"sample {s}"):
            sample = next(iterator, end)
        if sample is end:
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
        what = (
            "all times are counted from the first event of their recording"
            if most
            else "these samples have no event"
        )
        _check.warn(
            f"{len(late)} of {len(begins)} recordings have no event before duration = {duration:g} s (sample {late[0]} begins at "
            f"{begins[late[0]] * 1e-6:g} s): {what}; origin='first' or origin='zero' says which is meant"
        )
    return most


def to_tonic(
    data: EventDataset, *, sensor_size: Sequence[int] | None = None
) -> list[tuple[np.ndarray, int]]:
    """The samples of a data set as (events, label) pairs, which tonic's transforms and loaders take.

    Args:
      data: as `from_tonic` makes it, or any of as many units as the sensor has.
      sensor_size: (width, height, polarities); (n_units, 1, 1) when None.

    Returns:
      A pair a sample: a structured array with the fields t (int64, microseconds, ascending), x and y (int16 where they fit, else int32) and p (bool); and
      the label.

    >>> data = EventDataset.from_lists([[0.004, 0.0015]], [[3, 6]], [2], n_units=8, duration=5e-3)
    >>> (events, label), = to_tonic(data, sensor_size=(4, 1, 2))
    >>> events.tolist(), label
    ([(1500, 3, 0, False), (4000, 1, 0, True)], 2)
    """
    sensor = _sensor((data.n_units, 1, 1) if sensor_size is None else sensor_size)
    width, height, polarities = sensor
    if width * height * polarities != data.n_units:
        raise ValueError(
            f"sensor_size must have as many units as the data, {data.n_units}, got {sensor}"
        )
    position = np.int16 if max(width, height) <= 2**15 else np.int32
    dtype = np.dtype([("t", np.int64), ("x", position), ("y", position), ("p", bool)])
    pairs = []
    for s, label in enumerate(data.labels):
        part = slice(data.offsets[s], data.offsets[s + 1])
        t, pixel = (
            np.rint(data.times[part].astype(np.float64) * 1e6),
            data.units[part] // polarities,
        )
        events = np.empty(t.size, dtype)
        events["t"], events["x"], events["y"], events["p"] = (
            t,
            pixel % width,
            pixel // width,
            data.units[part] % polarities,
        )
        pairs.append((events[np.argsort(events["t"], kind="stable")], int(label)))
    return pairs


def _sensor(size: Any) -> tuple[int, int, int]:
    if size is None:
        raise ValueError(
            "sensor_size must be given, (width, height, polarities): the samples have none"
        )
    size = size.tolist() if isinstance(size, np.ndarray) else size
    if not isinstance(size, Sequence) or len(size) != 3:
        raise ValueError(f"sensor_size must be (width, height, polarities), got {size!r}")
    width, height, polarities = (_check.integer("sensor_size", n, at_least=1) for n in size)
    if polarities > 2:
        raise ValueError(f"sensor_size must have 1 or 2 polarities, got {polarities}")
    if width * height * polarities > _LARGEST:
        raise ValueError(
            f"sensor_size must have fewer than 2**31 units, got {width} x {height} x {polarities}"
        )
    return width, height, polarities


def _read(s: int, events: Any, sensor: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Times (us) and units of a recording."""
    names = getattr(getattr(events, "dtype", None), "names", None)
    if not isinstance(events, np.ndarray) or names is None or events.ndim != 1:
        raise TypeError(
            f"events of sample {s} must be a one-dimensional structured array with the fields t, x and p, got {_what(events)}"
        )
    needed = [
        "t",
        "x",
        *(["y"] if sensor[1] > 1 or "y" in names else []),
        *(["p"] if sensor[2] > 1 else []),
    ]
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"events of sample {s} must have the fields {', '.join(needed)} for a sensor {sensor}, {missing[0]} is not among {names}"
        )
    limits = {"t": _LATEST, "x": sensor[0] - 1, "y": sensor[1] - 1, "p": sensor[2] - 1}
    fields = {name: _field(s, name, events[name], limits[name]) for name in needed}
    if sensor[2] == 1 and "p" in names and events.size and (events["p"] != events["p"][0]).any():
        raise ValueError(
            f"events of sample {s} must have one polarity, as the sensor {sensor} does, got several"
        )
    pixel = fields.get("y", 0) * sensor[0] + fields["x"]
    return fields["t"], pixel * sensor[2] + fields.get("p", 0)


def _field(s: int, name: str, values: np.ndarray, limit: int) -> np.ndarray:
    """A field as int64 after a check of its values."""
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} of sample {s} must hold numbers, got dtype {values.dtype}")
    bad = ~((values >= 0) & (values <= limit))  # a NaN is bad
    if values.dtype.kind == "f":
        bad |= values != np.floor(values)
    if bad.any():
        e = int(bad.argmax())
        raise ValueError(
            f"{name} of sample {s} must be a whole number from 0 to {limit}, got {values[e]} in event {e}"
        )
    return values.astype(np.int64)


def _what(value: Any) -> str:
    return (
        f"an array of dtype {value.dtype}, shape {value.shape}"
        if isinstance(value, np.ndarray)
        else f"a {type(value).__name__}"
    )
