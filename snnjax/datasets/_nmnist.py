r"""Reader for N-MNIST: the MNIST digits, moved in front of an event camera with 34 x 34 pixels.

There are two layouts. If both are present, the archive is read:

    FOLDER/Train.zip, Test.zip          the official archives; nothing is unpacked
    FOLDER/Train/, Test/                the same files, unpacked

Each contains `Train/5/00001.bin` and so on: one folder per digit, and one file per recording, named
by its number. Other files are ignored. A recording has 5 bytes per event, big endian:

    byte 0, 1        x from the left, y from the top, pixels
    bytes 2 to 4     1 bit of polarity (1: brighter), 23 bits of time, us

Some readers of this format take an event with y = 240 as an overflow mark of the camera's clock:
later events of the file are 2^13 us later. This reader does so, too, to give equal results. The
official archives need no marks: 23 bits last for 8.4 s, and a recording takes about 0.31 s.

With d = `downsample`, squares of d x d pixels of the camera are joined. An event falls on unit

    unit = (floor(y / d) width + floor(x / d)) 2 + polarity             width = ceil(34 / d)

so that a raster (time, batch, num_units) reshapes to (time, batch, height, width, polarity), as for
DVS-Gesture. No event is lost: counts add up. If d does not divide 34, the last row and the last
column join fewer pixels.

Files come from the network and are not trusted: names, sizes and values are checked, and the
reader reads at most the size that a file declares.

Source: Orchard, Jayawant, Cohen & Thakor (2015), doi 10.3389/fnins.2015.00437.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snnjax import _check
from snnjax._files import PathLike
from snnjax.datasets import _arrays, _fetch
from snnjax.datasets._events import EventDataset
from snnjax.datasets._labelled import Split, check_split

CLASS_NAMES = tuple("0123456789")
SOURCE = "https://www.garrickorchard.com/datasets/n-mnist"
"""Web page of the archives."""

_PIXELS = 34
_EVENT = 5  # bytes
_MARK, _OVERRUN = 240, 2**13  # y, us
_MOST_BYTES = 2**18  # per recording, 52,428 events; among 1,000 recordings, 7,152 is the maximum
_BLOCK = 256  # recordings decoded at once


_File = tuple[str, int, Callable[[], bytes]]
"""A file of either layout: its name relative to the top folder, its size in bytes, a reader."""


class _Recording(NamedTuple):
    """A file with a recording. Recordings sort by label, then by number."""

    label: int
    number: int
    name: str
    size: int
    read: Callable[[], bytes]


def sensor_shape(downsample: int = 1) -> tuple[int, int, int]:
    """Return height, width and number of polarities, as `snnjax.models.csnn2d` takes them.

    Args:
        downsample: Join squares of `downsample` x `downsample` pixels to one, 1 to 34.

    Raises:
        ValueError: `downsample` is out of range.

    >>> sensor_shape(), sensor_shape(2)
    ((34, 34, 2), (17, 17, 2))
    """
    side = -(-_PIXELS // _check.integer("downsample", downsample, at_least=1, at_most=_PIXELS))
    return side, side, 2


def load_nmnist(
    folder: PathLike,
    split: Split,
    *,
    downsample: int = 1,
    duration: float = 0.3,
    max_events: int = 500_000_000,
) -> EventDataset:
    """Read the recordings of a split, ordered by digit and then by number.

    Args:
        folder: Folder with Train.zip and Test.zip, or with the folders Train and Test.
        split: `"train"` or `"test"`.
        downsample: Join squares of `downsample` x `downsample` pixels to one, 1 to 34. 2 gives 17 x
            17 pixels.
        duration: Length of a trial, s. Later events stay in the data set, but are dropped on
            binning.
        max_events: Larger splits are refused. The official splits have about 250 and 40 million
            events, estimated from a part of them. Events take 12 bytes each, and twice that during
            reading.

    Returns:
        An `EventDataset` with the numbers of the recordings as `groups`. Times are float64, s, in
        the order of the file.

    Raises:
        FileNotFoundError: The folder or the archive does not exist. The message says where to get
            it.
        ValueError: An archive or a recording is damaged, or has another layout. The message names
            the file and the defect.

    >>> import tempfile, zipfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/Train.zip", "w") as archive:
    ...         archive.writestr("Train/7/00042.bin", bytes([33, 2, 0b1000_0000, 0, 250]))
    ...     data = load_nmnist(folder, "train", downsample=2)
    >>> data
    EventDataset(1 samples, 1 events, 578 units, 10 classes, 0.3 s)
    >>> data.labels, data.groups, data.times
    (array([7], dtype=int32), array([42], dtype=int32), array([0.00025]))
    >>> np.unravel_index(data.units[0], sensor_shape(2))  # row, column, polarity
    (np.int64(1), np.int64(16), np.int64(1))
    """
    check_split(split)
    shape = sensor_shape(downsample)
    _check.number("duration", duration, above=0, unit="s")
    _check.integer("max_events", max_events, at_least=1)
    with _open(_fetch.check_folder(folder), split.capitalize()) as files:
        recordings = _find(files, split.capitalize())
        total = sum(recording.size for recording in recordings) // _EVENT
        if total > max_events:
            raise ValueError(f"must contain at most max_events = {max_events} events, got {total}")
        blocks = [recordings[k : k + _BLOCK] for k in range(0, len(recordings), _BLOCK)]
        parts = zip(*(_read(block, downsample, shape[1]) for block in blocks), strict=True)
        times, units, counts = map(np.concatenate, parts)
    return EventDataset(
        times=times,
        units=units,
        offsets=_arrays.offsets_of(counts),
        labels=np.array([recording.label for recording in recordings]),
        num_units=int(np.prod(shape)),
        num_classes=len(CLASS_NAMES),
        duration=duration,
        groups=np.array([recording.number for recording in recordings]),
        class_names=CLASS_NAMES,
    )


@contextlib.contextmanager
def _open(folder: Path, name: str) -> Iterator[Iterable[_File]]:
    """Yield the files of the archive, or of the folder `name`. Error messages give the file."""
    archive, unpacked = folder / f"{name}.zip", folder / name
    if archive.is_file():
        with _fetch.open_zip(archive) as z:
            read = partial(_fetch.read_member, z, max_bytes=_MOST_BYTES)
            members = z.infolist()
            yield [(m.filename, m.file_size, partial(read, m)) for m in members]
    elif unpacked.is_dir():
        with _check.at(str(folder)):
            name_of = lambda path: path.relative_to(folder).as_posix()
            paths = unpacked.rglob("*.bin")
            yield [(name_of(path), path.stat().st_size, path.read_bytes) for path in paths]
    else:
        wanted = f"must contain {archive.name} or the folder {name} of N-MNIST"
        got = f"{_fetch.names_in(folder)}; get the archives from {SOURCE}"
        raise FileNotFoundError(f"{folder}: {wanted}, got {got}")


def _find(files: Iterable[_File], name: str) -> list[_Recording]:
    """Return the recordings among `files`, in order."""
    found: list[_Recording] = []
    others: list[str] = []
    for file, size, read in files:
        parts = file.split("/")
        # names of metadata files that some systems add begin with a dot
        if parts[0] != name or not parts[-1].endswith(".bin") or parts[-1].startswith("."):
            others.append(file)
            continue
        match = re.fullmatch(r"[^/]+/([0-9])/([0-9]{1,9})\.bin", file, re.ASCII)
        if match is None:
            wanted = f"{name}/DIGIT/NUMBER.bin, with a digit from 0 to 9"
            raise ValueError(f"a recording must be named {wanted}, got {file[:100]!r}")
        if size > _MOST_BYTES:
            raise ValueError(f"{file!r} must be at most {_MOST_BYTES} bytes, got {size}")
        if size % _EVENT or size == 0:
            wanted = f"must contain whole events of {_EVENT} bytes, at least one"
            raise ValueError(f"{file!r} {wanted}, got {size} bytes; it is truncated")
        found.append(_Recording(int(match[1]), int(match[2]), file, size, read))
    if not found:
        raise ValueError(f"must contain recordings such as {name}/0/00002.bin, got {others[:20]}")
    found.sort(key=lambda recording: recording[:2])
    for one, other in itertools.pairwise(found):
        if one[:2] == other[:2]:
            got = f"{one.name!r} and {other.name!r}"
            raise ValueError(f"must contain each recording once, got {got}")
    return found


def _read(
    recordings: Sequence[_Recording], downsample: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode recordings, at most `_BLOCK` at once.

    Returns:
        Times (events,), s; units (events,); and the number of events of each recording.
    """
    raw = [recording.read() for recording in recordings]
    counts = np.array([len(part) // _EVENT for part in raw])
    x, y, high, middle, low = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, _EVENT).T
    microseconds = (high & 127).astype(np.int32) << 16 | middle.astype(np.int32) << 8 | low
    marks = y == _MARK
    bad = ~marks & ((x >= _PIXELS) | (y >= _PIXELS))
    if bad.any():
        e = int(bad.argmax())
        ends = np.cumsum(counts)
        s = int(np.searchsorted(ends, e, side="right"))
        where = f"event {e - ends[s] + counts[s]}"
        wanted = f"x and y must be in [0, {_PIXELS})"
        name = recordings[s].name
        raise ValueError(f"{name!r}: {wanted}, got {x[e]} and {y[e]} in {where}")
    units = (y // np.uint8(downsample)).astype(np.int32)
    units *= width
    units += x // np.uint8(downsample)
    units *= 2
    units += high >> 7
    if marks.any():
        sample = np.repeat(np.arange(counts.size), counts)
        passed = np.cumsum(marks)  # over all recordings: those of earlier recordings are subtracted
        before = np.concatenate([[0], passed])[np.cumsum(counts) - counts]
        microseconds = microseconds + (passed - before[sample]) * _OVERRUN
        microseconds, units = microseconds[~marks], units[~marks]
        counts = np.bincount(sample[~marks], minlength=counts.size)
    return microseconds / 1e6, units, counts
