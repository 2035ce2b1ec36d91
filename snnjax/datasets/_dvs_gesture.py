r"""Reader for DVS-Gesture: 11 hand and arm gestures of 29 subjects, from an event camera.

The camera has 128 x 128 pixels. Subjects were recorded under five lighting conditions. There are
two layouts, and the first that is found is read. Prepared files:

    FOLDER/ibmGestureTrain/user01_fluorescent/0.npy
    FOLDER/ibmGestureTest/...

One file per gesture, named by its class, 0 to 10: an array (events, 4) of x, y, polarity and time
in ms. The unit of time is not checked. Time counts from the first event. Original files:

    FOLDER/trials_to_train.txt, trials_to_test.txt      names of the recordings, one per line
    FOLDER/user01_fluorescent.aedat                     AEDAT 3.1 (`snnjax/datasets/_aedat3.py`)
    FOLDER/user01_fluorescent_labels.csv                class,startTime_usec,endTime_usec

The labels have one gesture per row, with classes 1 to 11, in the order of time:
start <= time < end, in us. Time counts from the start.

With d = `downsample`, squares of d x d pixels of the camera are joined. An event falls on unit

    unit = (floor(y / d) width + floor(x / d)) 2 + polarity             width = 128 / d

so that a raster (time, batch, num_units) reshapes to (time, batch, height, width, polarity). No
event is lost: counts add up.

Files come from the network and are not trusted: sizes, types and values are checked, nothing is
unpickled, and memory stays within a few times the size of a file.

Source: Amir, Taba, Berg, Melano, McKinstry, Di Nolfo, ... Modha (2017), A low power, fully
event-based gesture recognition system, CVPR.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snnjax import _check
from snnjax._files import PathLike
from snnjax._npy import read_head
from snnjax.datasets import _aedat3, _arrays, _fetch
from snnjax.datasets._crop import crop
from snnjax.datasets._events import EventDataset
from snnjax.datasets._labelled import Split, check_split

CLASS_NAMES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other",
)
_PIXELS = 128
_NAME = re.compile(r"user(\d{1,6})_([A-Za-z0-9_]{1,100})", re.ASCII)
_COLUMNS = "class,startTime_usec,endTime_usec"
_ROW = re.compile(r"\s*(\d{1,18})\s*,\s*(\d{1,18})\s*,\s*(\d{1,18})\s*")
_MOST_ROWS = 10_000  # a recording of this data set has 12


class _Sample(NamedTuple):
    """File of a gesture. `window` (us) is its part of a recording of the original layout."""

    path: Path
    user: int
    lighting: str
    label: int
    window: tuple[int, int] | None = None


class DVSGesture:
    """The gestures of a split, read from the disk on access.

    This is a sequence: `recordings[i]` is `(times, units)` with one entry per event in the order of
    the file: float64 times from the start of the gesture, s, and int32 units. The object stores no
    events, and several threads may read it at once. See the module for the layouts of the folder.

    Args:
        folder: Folder with the files.
        split: `"train"` or `"test"`.
        downsample: Join squares of `downsample` x `downsample` pixels, a power of two up to 128.

    Attributes:
        labels: Classes, int32 (S,), in [0, num_classes).
        users: Numbers of the subjects, int32 (S,).
        lighting: Names of the lighting conditions, S strings.
        class_names: Names of the classes.
        num_classes: Number of classes, 11.
        sensor: (height, width, 2).
        num_units: height * width * 2.

    Raises:
        FileNotFoundError: The folder does not exist, or has neither layout.
        ValueError: A file is absent, truncated, damaged or has another layout. It is raised here or
            when a gesture is read, and the message names the file and the defect.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "ibmGestureTrain", "user01_led")
    ...     path.mkdir(parents=True)
    ...     np.save(path / "7.npy", np.array([[0, 0, 1, 20], [127, 4, 0, 1520]]))
    ...     recordings = DVSGesture(folder, "train")
    ...     recordings, recordings.sensor
    ...     recordings[0]
    (DVSGesture(1 gestures of 1 users, 2048 units), (32, 32, 2))
    (array([0. , 1.5]), array([  1, 126], dtype=int32))
    """

    def __init__(self, folder: PathLike, split: Split, *, downsample: int = 4) -> None:
        check_split(split)
        _check.integer("downsample", downsample, at_least=1)
        self.downsample = _check.one_of("downsample", downsample, [2**k for k in range(8)])
        self._samples = _find(_fetch.check_folder(folder), split)
        self._spans: dict[Path, dict[tuple[int, int], _aedat3.Span]] = {}
        side = _PIXELS // downsample
        self.sensor = (side, side, 2)
        self.num_units = side * side * 2
        self.class_names, self.num_classes = CLASS_NAMES, len(CLASS_NAMES)
        self._describe()

    def _describe(self) -> None:
        self.labels = np.array([sample.label for sample in self._samples], np.int32)
        self.users = np.array([sample.user for sample in self._samples], np.int32)
        self.lighting = tuple(sample.lighting for sample in self._samples)

    def subset(self, indices: _arrays.Indices) -> DVSGesture:
        """Return the gestures `indices` in that order.

        Args:
            indices: Whole numbers, a boolean mask or a slice.
        """
        part = copy.copy(self)
        part._samples = [self._samples[i] for i in _arrays.as_indices(indices, len(self))]
        part._describe()
        return part

    def load(self, *, duration: float = 1.0, start: float = 0.0) -> EventDataset:
        """Load the same window of every gesture; see `load_dvs_gesture`.

        Args:
            duration: Length of the window, s.
            start: Start of the window, s from the start of the gesture.
        """
        windows = [crop(*recording, duration=duration, start=start) for recording in self]
        return EventDataset.from_lists(
            [times for times, _ in windows],
            [units for _, units in windows],
            self.labels,
            num_units=self.num_units,
            duration=duration,
            groups=self.users,
            class_names=self.class_names,
        )

    def __len__(self) -> int:
        return len(self._samples)

    def __repr__(self) -> str:
        users = np.unique(self.users).size
        return f"DVSGesture({len(self)} gestures of {users} users, {self.num_units} units)"

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(index, slice | list | np.ndarray):
            hint = "subset(indices) takes several"
            raise TypeError(f"index must be one whole number, got {index!r}; {hint}")
        path, _, _, _, window = self._samples[index]
        where = ""
        if window is None:
            *places, times = _read_rows(path).T
            times = times.astype(np.float64)
            value = lambda e: f"{times[e]} in event {e}"
            good = (times >= 0) & np.isfinite(times)
            _arrays.all_good(good, f"{path}: times must be finite and >= 0 ms", value)
            times = (times - times.min(initial=np.inf)) * 1e-3
        else:
            span = self._span(path, window)
            times, *places = _aedat3.read_events(path, span=span, window=window)
            times = (times - window[0]) * 1e-6
            where = f" from {window[0]} to {window[1]} us, where its labels have a gesture"
        if times.size == 0:
            raise ValueError(f"{path}: contains no event{where}")
        for name, values in zip(("x", "y", "polarity"), places, strict=True):
            largest = 1 if name == "polarity" else _PIXELS - 1
            _arrays.check_whole(f"{path}: {name}", values, largest)
        x, y, polarity = (values.astype(np.int32) for values in places)
        return times, (y // self.downsample * self.sensor[1] + x // self.downsample) * 2 + polarity

    def _span(self, path: Path, window: tuple[int, int]) -> _aedat3.Span:
        """Return the part of a recording that contains a gesture.

        The first call for a recording reads the whole file and finds the parts of all its gestures.
        """
        if path not in self._spans:
            windows = [w for other, *_, w in self._samples if other == path and w is not None]
            self._spans[path] = dict(zip(windows, _aedat3.find_spans(path, windows), strict=True))
        return self._spans[path][window]


def load_dvs_gesture(
    folder: PathLike,
    split: Split,
    *,
    downsample: int = 4,
    duration: float = 1.0,
    start: float = 0.0,
) -> EventDataset:
    """Load the same window of every gesture, for validation, or for training without `Stream`.

    Args:
        folder: As in `DVSGesture`.
        split: As in `DVSGesture`.
        downsample: As in `DVSGesture`.
        duration: Length of the window, s. Events outside the window are left out. The others take
            12 bytes each.
        start: Start of the window, s from the start of the gesture.

    Returns:
        An `EventDataset` with the users as `groups`. A gesture that ends before `start` is a sample
        without events.

    Raises:
        FileNotFoundError: As in `DVSGesture`.
        ValueError: As in `DVSGesture`.
    """
    return DVSGesture(folder, split, downsample=downsample).load(duration=duration, start=start)


def _find(folder: Path, split: Split) -> list[_Sample]:
    prepared = folder / f"ibmGesture{split.capitalize()}"
    original = folder / f"trials_to_{split}.txt"
    if prepared.is_dir():
        return _find_arrays(prepared)
    if original.is_file():
        return _find_recordings(original)
    got = f"{original.name}; it contains {_fetch.names_in(folder)}"
    raise FileNotFoundError(f"{folder}: contains neither {prepared.name} nor {got}")


def _find_arrays(folder: Path) -> list[_Sample]:
    """Return the gestures of the prepared layout, sorted by user, lighting and class."""
    samples = []
    for path in folder.glob("*/*.npy"):
        if path.name.startswith("."):  # metadata files that some systems add
            continue
        user, lighting = _parse_name(path, path.parent.name)
        if not re.fullmatch("[0-9]|10", path.stem, re.ASCII):
            raise ValueError(f"{path}: must be named by its class, 0 to {len(CLASS_NAMES) - 1}")
        samples.append(_Sample(path, user, lighting, int(path.stem)))
    if not samples:
        raise ValueError(f"{folder}: must contain files such as user01_led/0.npy, got none")
    return sorted(samples, key=lambda sample: sample[1:4])


def _find_recordings(trials: Path) -> list[_Sample]:
    """Return the gestures of the original layout, in the order of the list and of the labels."""
    samples, seen = [], set()
    for name in filter(None, map(str.strip, _read_text(trials).splitlines())):
        # this check also prevents names that point outside the folder
        user, lighting = _parse_name(trials, name.removesuffix(".aedat"))
        path = trials.with_name(name)
        if path.suffix != ".aedat" or name in seen:
            raise ValueError(f"{trials}: must name each .aedat file once, got {name!r}")
        if not path.is_file():
            raise ValueError(f"{path}: no such file, but {trials.name} names it")
        seen.add(name)
        labels = _read_labels(path.with_name(f"{path.stem}_labels.csv"))
        samples += [_Sample(path, user, lighting, label, window) for label, window in labels]
    if not samples:
        raise ValueError(f"{trials}: must name at least one recording with a gesture, got none")
    return samples


def _parse_name(path: Path, name: str) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{path}: a recording must be named userNN_LIGHTING, got {name[:100]!r}")
    return int(match[1]), match[2]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; every recording needs one")
    try:
        return path.read_text("ascii")
    except UnicodeDecodeError as error:
        got = f"the byte {error.object[error.start]:#x} at {error.start}"
        raise ValueError(f"{path}: must be plain text, got {got}") from None


def _read_labels(path: Path) -> list[tuple[int, tuple[int, int]]]:
    """Return the class, from 0, and the window (us) of each gesture of a recording."""
    head, *rows = _read_text(path).splitlines() or [""]
    if head.strip() != _COLUMNS:
        raise ValueError(f"{path}: must begin with the line {_COLUMNS!r}, got {head[:100]!r}")
    if len(rows) > _MOST_ROWS:
        raise ValueError(f"{path}: must have at most {_MOST_ROWS} lines, got {len(rows)}")
    found, last = [], 0
    for number, row in enumerate(rows, start=2):
        if not row.strip():
            continue
        match, line = _ROW.fullmatch(row), f"{path}: line {number}"
        if match is None:
            raise ValueError(f"{line} must contain three whole numbers >= 0, got {row[:100]!r}")
        label, start, stop = map(int, match.groups())
        if not 1 <= label <= len(CLASS_NAMES):
            raise ValueError(f"{line} must have a class from 1 to {len(CLASS_NAMES)}, got {label}")
        if not last <= start < stop:
            needed = f"starts at or after the one before it ({last} us) and ends later"
            raise ValueError(f"{line} must be a gesture that {needed}, got {row[:100]!r}")
        found.append((label - 1, (start, stop)))
        last = start
    return found


def _read_rows(path: Path) -> np.ndarray:
    """Read a numeric .npy array (events, 4).

    numpy's own reader allocates the size that the header declares. Here the size of the file is
    checked first.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        with _check.at(str(path)):
            shape, fortran, dtype = read_head(file)
        if dtype.kind not in "iuf" or dtype.shape:
            raise ValueError(f"{path}: must contain integers or floats, got dtype {dtype}")
        if len(shape) != 2 or shape[1] != 4 or shape[0] < 0:
            raise ValueError(f"{path}: must contain an array (events, 4), got shape {shape}")
        n_bytes = shape[0] * 4 * dtype.itemsize
        if file.tell() + n_bytes > size:
            raise ValueError(f"{path}: truncated or damaged: {shape[0]} events in {size} bytes")
        events = np.frombuffer(file.read(n_bytes), dtype)
        return events.reshape(shape, order="F" if fortran else "C")
