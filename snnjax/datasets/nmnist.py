r"""Reader for N-MNIST: the digits of MNIST, moved before an event camera, on 34 x 34 pixels.

Two layouts. The archive is taken where both are there:

    FOLDER/Train.zip, Test.zip          the official archives, read as they are; nothing is unpacked
    FOLDER/Train/, Test/                the same, unpacked

Each holds `Train/5/00001.bin` and so on: a folder per digit, and one recording per file, named by
its number. Other files are left alone. A recording has 5 bytes per event, big endian:

    byte 0, 1        x from the left, y from the top, pixels
    bytes 2 to 4     1 bit of polarity (1: brighter), 23 bits of time, us

Some readers of this format take an event with y = 240 for a mark: the clock of the camera has run
over, and the later events of the file come 2^13 us later. This one does, too, so that it gives
what they give. The archives need no marks: 23 bits last for 8.4 s, a recording for about 0.31 s.

With d = `downsample` a pixel is d x d of the camera's, and an event is one on unit

    unit = (floor(y / d) width + floor(x / d)) 2 + polarity             width = ceil(34 / d)

so that a raster (time, batch, n_units) reshapes to (time, batch, height, width, polarity), as that
of DVS-Gesture does. No event is lost: counts add up. Where d does not divide 34, the last row and
the last column join fewer pixels.

Files come from the network, so nothing in them is trusted: names, sizes and values are checked,
and no more is read of a file than it says that it holds.

Source: Orchard, Jayawant, Cohen & Thakor (2015), doi 10.3389/fnins.2015.00437.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import _arrays, _fetch
from snnjax.datasets.events import EventDataset

Split = Literal["train", "test"]

CLASS_NAMES = tuple("0123456789")
SOURCE = "https://www.garrickorchard.com/datasets/n-mnist"
"""Where the archives are."""

_PIXELS = 34
_EVENT = 5  # bytes
_MARK, _OVERRUN = 240, 2**13  # y, us
_MOST_BYTES = 2**18  # of a recording: 52,428 events; 7,152 are the most in a thousand of them
_BLOCK = 256  # recordings decoded at once


class _File(NamedTuple):
    """A file of either layout: its name from the top folder on, size in bytes, how to read it."""

    name: str
    size: int
    read: Callable[[], bytes]


class _Recording(NamedTuple):
    """A file that holds a recording. In the order of labels and numbers."""

    label: int
    number: int
    file: _File


def sensor_shape(downsample: int = 1) -> tuple[int, int, int]:
    """Height, width and polarities of the recordings, as `snnjax.models.csnn2d` takes them.

    Args:
      downsample: join squares of so many pixels to one, 1 to 34.

    Raises:
      ValueError: `downsample` is out of range.

    >>> sensor_shape(), sensor_shape(2)
    ((34, 34, 2), (17, 17, 2))
    """
    side = -(-_PIXELS // _check.integer("downsample", downsample, at_least=1, at_most=_PIXELS))
    return side, side, 2


def load_nmnist(
    folder: str | os.PathLike[str],
    split: Split,
    *,
    downsample: int = 1,
    duration: float = 0.3,
    max_events: int = 500_000_000,
) -> EventDataset:
    """Read the recordings of a split, ordered by digit and then by number.

    Args:
      folder: that holds Train.zip and Test.zip, or their contents; see the module.
      split: `"train"` or `"test"`.
      downsample: join squares of so many pixels to one, 1 to 34; 2 gives 17 x 17 pixels.
      duration: length of a trial, s. Events at or after it stay in the data set, but are dropped
        on binning.
      max_events: larger splits are refused; the official ones have about 250 and 40 million, going
        by a part of them. Events take 12 bytes each, and twice that while they are read.

    Returns:
      `EventDataset` with the numbers of the recordings as `groups`. Times are float64, s, in the
      order of the file.

    Raises:
      FileNotFoundError: there is no such folder, or no archive in it; says where to get it.
      ValueError: an archive or a recording is damaged, or not of the layout. Names it and what is
        wrong.

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
    _check.one_of("split", split, get_args(Split))
    shape = sensor_shape(downsample)
    _check.number("duration", duration, above=0, unit="s")
    _check.integer("max_events", max_events, at_least=1)
    parts: list[_Events] = []
    with _open(Path(folder), split.capitalize()) as files:
        recordings = _find(files, split.capitalize())
        total = sum(recording.file.size for recording in recordings) // _EVENT
        if total > max_events:
            raise ValueError(f"must hold at most max_events = {max_events} events, got {total}")
        for start in range(0, len(recordings), _BLOCK):
            parts.append(_read(recordings[start : start + _BLOCK], downsample, shape[1]))
    return EventDataset(
        times=np.concatenate([part.times for part in parts]),
        units=np.concatenate([part.units for part in parts]),
        offsets=_arrays.offsets_of(np.concatenate([part.counts for part in parts])),
        labels=np.array([recording.label for recording in recordings]),
        n_units=int(np.prod(shape)),
        n_classes=len(CLASS_NAMES),
        duration=duration,
        groups=np.array([recording.number for recording in recordings]),
        class_names=CLASS_NAMES,
    )


@contextlib.contextmanager
def _open(folder: Path, name: str) -> Iterator[Iterable[_File]]:
    """The files of the archive, else of the folder `name`. Errors inside the block name it."""
    if not folder.is_dir():
        wrong = "not a folder; name the one that holds it" if folder.exists() else "no such folder"
        raise FileNotFoundError(f"{folder}: {wrong}")
    archive, unpacked = folder / f"{name}.zip", folder / name
    if archive.is_file():
        with _fetch.open_zip(archive) as z:
            yield [
                _File(
                    info.filename,
                    info.file_size,
                    partial(_fetch.read_member, z, info, max_bytes=_MOST_BYTES),
                )
                for info in z.infolist()
            ]
    elif unpacked.is_dir():
        with _check.at(str(folder)):
            paths = {path.relative_to(folder).as_posix(): path for path in unpacked.rglob("*.bin")}
            yield [_File(key, path.stat().st_size, path.read_bytes) for key, path in paths.items()]
    else:
        got = sorted(path.name for path in folder.iterdir())[:20]
        wanted = f"must hold {archive.name} or the folder {name} of N-MNIST"
        raise FileNotFoundError(f"{folder}: {wanted}, got {got}; get the archives from {SOURCE}")


def _find(files: Iterable[_File], name: str) -> list[_Recording]:
    """The recordings among `files`, in order."""
    found: list[_Recording] = []
    others: list[str] = []
    for file in files:
        parts = file.name.split("/")
        # what some systems leave beside a file begins with a dot
        if parts[0] != name or not parts[-1].endswith(".bin") or parts[-1].startswith("."):
            others.append(file.name)
            continue
        match = re.fullmatch(r"[^/]+/([0-9])/([0-9]{1,9})\.bin", file.name, re.ASCII)
        if match is None:
            wanted = f"{name}/DIGIT/NUMBER.bin, with a digit from 0 to 9"
            raise ValueError(f"a recording must be named {wanted}, got {file.name[:100]!r}")
        if file.size > _MOST_BYTES:
            raise ValueError(f"{file.name!r} must be at most {_MOST_BYTES} bytes, got {file.size}")
        if file.size % _EVENT or file.size == 0:
            wanted = f"must hold whole events of {_EVENT} bytes, at least one"
            raise ValueError(f"{file.name!r} {wanted}, got {file.size} bytes; it is cut off")
        found.append(_Recording(int(match[1]), int(match[2]), file))
    if not found:
        raise ValueError(f"must hold recordings such as {name}/0/00002.bin, got {others[:20]}")
    found.sort(key=lambda recording: recording[:2])
    for one, other in itertools.pairwise(found):
        if one[:2] == other[:2]:
            names = f"{one.file.name!r} and {other.file.name!r}"
            raise ValueError(f"must hold each recording once, got {names}")
    return found


class _Events(NamedTuple):
    """Of several recordings, one after another: times (s) and units (E,), and how many each has."""

    times: np.ndarray
    units: np.ndarray
    counts: np.ndarray


def _read(recordings: Sequence[_Recording], downsample: int, width: int) -> _Events:
    raw = [recording.file.read() for recording in recordings]
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
        name = recordings[s].file.name
        raise ValueError(f"{name!r}: {wanted}, got {x[e]} and {y[e]} in {where}")
    units = (y // np.uint8(downsample)).astype(np.int32)
    units *= width
    units += x // np.uint8(downsample)
    units *= 2
    units += high >> 7
    if marks.any():
        sample = np.repeat(np.arange(counts.size), counts)
        passed = np.cumsum(marks)  # over all the recordings: those before one's own do not count
        before = np.concatenate([[0], passed])[np.cumsum(counts) - counts]
        microseconds = microseconds + (passed - before[sample]) * _OVERRUN
        microseconds, units = microseconds[~marks], units[~marks]
        counts = np.bincount(sample[~marks], minlength=counts.size)
    return _Events(microseconds / 1e6, units, counts)
