r"""Reader for the Spiking Heidelberg Digits and all HDF5 files of the same layout:

    spikes/times    (S,) variable-length float16, 32 or 64, s
    spikes/units    (S,) variable-length integers in [0, num_units)
    labels          (S,) integers in [0, number of classes)
    extra/speaker   (S,) integers, optional: the groups
    extra/keys      names of the classes, optional

Everything else in a file is ignored.

Files come from the network and are not trusted: shapes, types, links and compression are checked
before anything is read (`snnjax/datasets/_hdf5.py`), and memory stays within a few times the size
of the file. HDF5 never compresses variable-length data. So if the spikes take more bytes than the
file, several samples share the same spikes, and the file is refused.

Source: Cramer, Stradmann, Schemmel & Zenke (2020), doi 10.1109/TNNLS.2020.3044364.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from snnjax import _check
from snnjax._files import SHD_FOLDERS, PathLike, folder_with
from snnjax.datasets import _arrays, _fetch, _hdf5
from snnjax.datasets._events import EventDataset

Split = Literal["train", "valid", "test"]

_SIGNATURES = {
    b"\x1f\x8b": "a gzip archive",
    b"PK": "a zip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
}
_MAX_NAMES, _MAX_NAME = 10_000, 1_000


def read_shd(
    path: PathLike,
    *,
    num_units: int = 700,
    duration: float | None = None,
    max_samples: int = 1_000_000,
    max_events: int = 2_000_000_000,
) -> EventDataset:
    """Read one file.

    Args:
        path: The .h5 file.
        num_units: Number of input channels.
        duration: Length of a trial, s. Later events stay in the data set, but are dropped on
            binning. None: the first whole millisecond after the last event.
        max_samples: Files with more samples are refused.
        max_events: Files with more events are refused. Events take 8 bytes each in the result, or
            12 if the file has 64-bit times.

    Returns:
        An `EventDataset` with the speakers as `groups`. The number of classes is the number of
        names in `extra/keys`; without names, the largest label + 1.

    Raises:
        FileNotFoundError: The file does not exist.
        PermissionError: The file may not be read.
        ValueError: The file is damaged, has another layout, or exceeds the limits. The message
            names the file and the defect.

    >>> import tempfile, h5py
    >>> rows = {"times": ("f2", [0.25, 0.5], [0.125]), "units": ("u2", [3, 699], [0])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/two_train.h5", "w") as f:
    ...         for name, (dtype, first, second) in rows.items():
    ...             spikes = f.create_dataset(f"spikes/{name}", (2,), h5py.vlen_dtype(dtype))
    ...             spikes[0], spikes[1] = first, second
    ...         f["labels"] = np.array([0, 1], "u2")
    ...     read_shd(f"{folder}/two_train.h5")
    EventDataset(2 samples, 3 events, 700 units, 2 classes, 0.501 s)
    """
    _check.integer("num_units", num_units, at_least=1)
    if duration is not None:
        _check.number("duration", duration, above=0, unit="s")
    _check.integer("max_samples", max_samples, at_least=1)
    _check.integer("max_events", max_events, at_least=1)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        data = _read(path, num_units, max_samples, max_events)
    except PermissionError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError, TypeError, MemoryError) as error:
        # all these types occur when HDF5 reads damaged files
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: truncated or damaged HDF5 file ({reason})") from error
    # a shorter trial cuts on purpose
    return data if duration is None else data._with(duration=float(duration))


def load_shd(
    folder: PathLike,
    split: Split,
    *,
    num_units: int = 700,
    duration: float | None = None,
    max_samples: int = 1_000_000,
    max_events: int = 2_000_000_000,
) -> EventDataset:
    """Read the single file `*_<split>.h5` of a folder, for example shd_train.h5.

    Args:
        folder: Folder with the files, or with a folder `shd` or `shd_format` that has them.
        split: `"train"`, `"valid"` or `"test"`. SHD itself has no file for validation: split its
            training data with `EventDataset.split` or `EventDataset.split_groups`.
        num_units: Number of input channels. `EventDataset.join_units` makes them fewer.
        duration: Length of a trial, s. Later events stay in the data set, but are dropped on
            binning. None: the first whole millisecond after the last event.
        max_samples: Files with more samples are refused.
        max_events: Files with more events are refused. Events take 8 bytes each in the result, or
            12 if the file has 64-bit times.

    Returns:
        An `EventDataset` with the speakers as `groups`, and the names of the classes, if the file
        has them.

    Raises:
        FileNotFoundError: The folder or the file does not exist. If a folder inside has the file,
            the message names it.
        PermissionError: The file may not be read.
        ValueError: There are several such files, or the file is damaged, has another layout, or
            exceeds the limits.
    """
    _check.one_of("split", split, get_args(Split))
    folder, pattern = _fetch.check_folder(folder), f"*_{split}.h5"
    folder = (
        folder_with([f"*_{name}.h5" for name in get_args(Split)], folder, SHD_FOLDERS) or folder
    )
    found = _fetch.names_in(folder, pattern)
    if not found:
        raise FileNotFoundError(f"{folder}: contains no file {pattern}; {_advice(folder, split)}")
    if len(found) > 1:
        raise ValueError(
            f"{folder}: must contain one file {pattern}, got {found}; use a folder with one of them"
        )
    return read_shd(
        folder / found[0],
        num_units=num_units,
        duration=duration,
        max_samples=max_samples,
        max_events=max_events,
    )


def _advice(folder: Path, split: Split) -> str:
    """Return what to do if a folder has no file of a split."""
    inside = sorted(path.parent for path in folder.glob(f"*/*_{split}.h5"))
    if inside:
        return f"give the folder that contains it: {inside[0]}"
    others = f"its .h5 files: {_fetch.names_in(folder, '*.h5')}"
    if split == "valid":
        return f"{others}; for validation, split the training data: EventDataset.split"
    return others


def _read(path: Path, num_units: int, max_samples: int, max_events: int) -> EventDataset:
    import h5py  # here, so that snnjax.datasets comes without it

    if not path.is_file():
        raise ValueError("must be a regular file")
    if path.stat().st_size == 0:
        raise ValueError("is empty (0 bytes)")
    if not h5py.is_hdf5(path):
        with path.open("rb") as f:
            head = f.read(8)
        for magic, kind in _SIGNATURES.items():
            if head.startswith(magic):
                raise ValueError(f"is not an HDF5 file but {kind}; unpack it first")
        raise ValueError(f"is not an HDF5 file: it begins with {head!r}")

    with h5py.File(path, "r") as f, path.open("rb") as file:
        find = partial(_hdf5.find_dataset, f, max_length=max_samples)
        labels = find("labels")
        find = partial(find, entries=labels.shape[0])
        times, units = find("spikes/times"), find("spikes/units")
        speaker = find("extra/speaker", optional=True)
        keys = _hdf5.find_dataset(f, "extra/keys", max_length=_MAX_NAMES, optional=True)
        classes = _hdf5.read_integers(file, "labels", labels)
        groups = class_names = None
        if speaker is not None:
            groups = _hdf5.read_integers(file, "extra/speaker", speaker)
        if keys is not None:
            class_names = _hdf5.read_strings(file, "extra/keys", keys, max_bytes=_MAX_NAME)
        time_rows, time_dtype = _hdf5.read_references(file, "spikes/times", times, "f")
        unit_rows, unit_dtype = _hdf5.read_references(file, "spikes/units", units, "iu")
        lengths = time_rows["length"].astype(np.int64)
        differ = lengths != unit_rows["length"]
        if differ.any():
            s = int(differ.argmax())
            got = f"{lengths[s]} and {unit_rows['length'][s]} in sample {s}"
            raise ValueError(f"times and units must have the same length in each sample, got {got}")
        if (n := lengths.sum()) > max_events:
            limit = f"at most max_events = {max_events} events"
            raise ValueError(f"spikes/times must contain {limit}, got {n}")
        all_times = _hdf5.read_heap(file, "spikes/times", time_rows, time_dtype)
        all_units = _hdf5.read_heap(file, "spikes/units", unit_rows, unit_dtype)

    times = _arrays.as_times(all_times)
    last = float(_arrays.not_before_edge(times.max(initial=0.0, keepdims=True))[0]) * 1000
    return EventDataset(
        times=times,
        units=all_units,
        offsets=_arrays.offsets_of(lengths),
        labels=classes,
        num_units=num_units,
        num_classes=_arrays.count_classes(classes, None, class_names),
        # the constructor refuses times that are not finite
        duration=(math.floor(last) + 1) / 1000 if math.isfinite(last) else 1.0,
        groups=groups,
        class_names=class_names,
    )
