r"""Reader for the Spiking Heidelberg Digits and every file of their layout (HDF5):

    spikes/times    (S,) variable-length float16, 32 or 64, s         extra/speaker   (S,) integers, optional: the groups
    spikes/units    (S,) variable-length integers in [0, n_units)     extra/keys      names of the classes, optional
    labels          (S,) integers in [0, number of classes)           all else        ignored

Files come from the network, so nothing in them is trusted: shapes, types, links and compression are checked before anything is read, and
memory stays within a few times the file's own size. Variable-length data are never compressed in HDF5, so a file whose spikes
take more bytes than the file itself makes samples share them; it is refused.

Source: Cramer, Stradmann, Schemmel & Zenke (2020), doi 10.1109/TNNLS.2020.3044364.
"""

from __future__ import annotations

import math
import os
import zlib
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import _arrays
from snnjax.datasets.events import EDGE, EventDataset

Split = Literal["train", "valid", "test"]

_SIGNATURES = {b"\x1f\x8b": "a gzip archive", b"PK": "a zip archive", b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive"}
_GZIP, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # HDF5's numbers of the filters whose output size is fixed or can be checked
_BLOCK_BYTES = 2**28  # samples are read in blocks that cannot take more, except a single sample
_MAX_NAMES, _MAX_NAME = 10_000, 1_000


def read_shd(
    path: str | os.PathLike[str],
    *,
    n_units: int = 700,
    duration: float | None = None,
    max_samples: int = 1_000_000,
    max_events: int = 2_000_000_000,
) -> EventDataset:
    """Read one file.

    Args:
      path: the .h5 file.
      n_units: number of input channels.
      duration: length of a trial, s. Events at or after it stay in the data set, but are dropped on binning. When None, the first
        whole millisecond after the last event.
      max_samples, max_events: larger files are refused. Events take 8 bytes each in the result.

    Returns:
      `EventDataset` with the speakers as `groups` and as many classes as `extra/keys` has names; without, the largest label + 1.

    Raises:
      FileNotFoundError: there is no such file.   PermissionError: it may not be read.
      ValueError: it is damaged, not of this layout, or beyond the limits; the message names the file and what is wrong with it.

    >>> import tempfile, h5py
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/two_train.h5", "w") as f:
    ...         for name, dtype, rows in (("times", "f2", [[0.25, 0.5], [0.125]]), ("units", "u2", [[3, 699], [0]])):
    ...             spikes = f.create_dataset(f"spikes/{name}", (2,), h5py.vlen_dtype(dtype))
    ...             spikes[0], spikes[1] = rows
    ...         f["labels"] = np.array([0, 1], "u2")
    ...     read_shd(f"{folder}/two_train.h5")
    EventDataset(2 samples, 3 events, 700 units, 2 classes, 0.501 s)
    """
    _check.integer("n_units", n_units, at_least=1)
    if duration is not None:
        _check.number("duration", duration, above=0, unit="s")
    limits = {
        "max_samples": _check.integer("max_samples", max_samples, at_least=1),
        "max_events": _check.integer("max_events", max_events, at_least=1),
    }
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return _read(path, n_units=n_units, duration=duration, **limits)
    except PermissionError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError, TypeError, MemoryError, zlib.error) as error:  # whatever HDF5 says of a damaged file
        raise ValueError(f"{path}: truncated or damaged HDF5 file ({type(error).__name__}: {error})") from error


def load_shd(folder: str | os.PathLike[str], split: Split, **options: Any) -> EventDataset:
    """Read the one file `*_<split>.h5` of a folder, for example shd_train.h5.

    Args:
      folder: where the files lie.   split: `"train"`, `"valid"` or `"test"`.   options: as in `read_shd`.

    Raises:
      FileNotFoundError: there is no such folder or file.   ValueError: there are several, or as in `read_shd`.
    """
    _check.one_of("split", split, get_args(Split))
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = sorted(folder.glob(f"*_{split}.h5"))
    if not found:
        raise FileNotFoundError(f"{folder}: holds no file *_{split}.h5; its .h5 files: {sorted(p.name for p in folder.glob('*.h5'))[:20]}")
    if len(found) > 1:
        raise ValueError(f"{folder}: must hold one file *_{split}.h5, got {[p.name for p in found][:20]}; use read_shd")
    return read_shd(found[0], **options)


def _read(path: Path, *, n_units: int, duration: float | None, max_samples: int, max_events: int) -> EventDataset:
    import h5py  # here, so that snnjax.datasets comes without it

    if not path.is_file():
        raise ValueError("must be a regular file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    if not h5py.is_hdf5(path):
        with path.open("rb") as f:
            head = f.read(8)
        kind = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic)), None)
        raise ValueError(f"is not an HDF5 file but {kind}; unpack it first" if kind else f"is not an HDF5 file: it begins with {head!r}")

    # the chunk cache holds the largest chunk allowed: a smaller one would make HDF5 unpack a chunk again for every block
    with h5py.File(path, "r", rdcc_nbytes=16 * max_samples + 2**20) as f:
        times, units, labels = (_dataset(f, name, max_samples) for name in ("spikes/times", "spikes/units", "labels"))
        speaker, keys = (_dataset(f, name, limit, True) for name, limit in (("extra/speaker", max_samples), ("extra/keys", _MAX_NAMES)))
        n = labels.shape[0]
        for dataset in (times, units, speaker):
            if dataset is not None and dataset.shape[0] != n:
                raise ValueError(f"{dataset.name[1:]} must have one entry a sample, got {dataset.shape[0]} for {n} labels")
        if n == 0:
            raise ValueError("labels must hold at least one sample, got none")
        label_array = _read_integers(labels)
        groups = None if speaker is None else _read_integers(speaker)
        names = None if keys is None else _read_names(keys)
        time_parts, unit_parts, lengths = _read_spikes(times, units, size, max_events)

    all_times = _arrays.join(time_parts)
    all_units = _arrays.join(unit_parts)
    del time_parts, unit_parts
    if duration is None:
        last = float(all_times.max(initial=0.0)) * EDGE * 1000
        duration = (math.floor(last) + 1) / 1000 if math.isfinite(last) else 1.0  # the constructor refuses such times
    return EventDataset(
        times=all_times,
        units=all_units,
        offsets=_arrays.offsets_of(lengths),
        labels=label_array,
        n_units=n_units,
        n_classes=_arrays.count_classes(label_array, None, names),
        duration=duration,
        groups=groups,
        class_names=names,
    )


def _dataset(f: Any, name: str, max_length: int, optional: bool = False) -> Any:
    """The dataset `name`, if it is one-dimensional, its bytes lie in this file, and unpacking it takes bounded memory."""
    import h5py

    node, parts = f, name.split("/")
    for i, part in enumerate(parts):
        here = "/".join(parts[: i + 1])
        if not isinstance(node, h5py.Group):
            raise ValueError(f"{'/'.join(parts[:i])} must be a group, got a {type(node).__name__.lower()}")
        link = node.get(part, getlink=True)
        if link is None:
            if optional:
                return None
            raise ValueError(
                f"has no {here}; it needs spikes/times, spikes/units and labels, and has {list(islice(node, 20))} in {node.name}"
            )
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{here} must not be a link, got {type(link).__name__} to {getattr(link, 'path', None)!r}")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise ValueError(f"{name} must be a dataset, got a {type(node).__name__.lower()}")
    if node.is_virtual or node.external:
        raise ValueError(
            f"{name} must have its data in this file, got a dataset with {'virtual' if node.is_virtual else 'external'} storage"
        )
    if node.shape is None or len(node.shape) != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {node.shape}")
    for what, length in (("entries", node.shape[0]), ("entries a chunk", (node.chunks or (0,))[0])):
        if length > max_length:
            raise ValueError(f"{name} must have at most {max_length} {what}, got {length}")
    _check_compression(node, name)
    return node


def _check_compression(dataset: Any, name: str) -> None:
    """Unpack each filtered chunk into bounded memory first: HDF5 takes whatever the stream expands to, and trusts its length."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= {_GZIP, _SHUFFLE, _FLETCHER32}:
        raise ValueError(f"{name} must be compressed with gzip, shuffle, fletcher32 or not at all, got HDF5 filters {filters}")
    if not filters:
        return
    raw_bytes = dataset.chunks[0] * dataset.id.get_type().get_size()
    for i in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(i)
        active = [number for k, number in enumerate(filters) if not info.filter_mask >> k & 1]  # a chunk may skip filters
        checksum = 4 * (_FLETCHER32 in active)
        if _GZIP in active and info.size <= 2 * raw_bytes + 1024:
            before = checksum if checksum and active.index(_FLETCHER32) < active.index(_GZIP) else 0
            size = len(zlib.decompressobj().decompress(dataset.id.read_direct_chunk(info.chunk_offset)[1], raw_bytes + before + 1)) - before
        else:
            size = info.size - checksum
        if size != raw_bytes:
            raise ValueError(f"{name} has a chunk of {info.size} stored bytes that does not unpack to {raw_bytes}")


def _read_integers(dataset: Any) -> np.ndarray:
    if dataset.dtype.kind not in "iu":
        raise ValueError(f"{dataset.name[1:]} must hold integers, got dtype {dataset.dtype}")
    return dataset[:]


def _read_names(dataset: Any) -> tuple[str, ...]:
    import h5py

    info = h5py.check_string_dtype(dataset.dtype)
    if info is None or dataset.shape[0] == 0:
        raise ValueError(f"extra/keys must hold at least one string, got {dataset.shape[0]} of dtype {dataset.dtype}")
    if info.length is not None and info.length > _MAX_NAME:
        raise ValueError(f"extra/keys must hold strings of at most {_MAX_NAME} bytes, got {info.length}")
    names = []
    for i in range(dataset.shape[0]):
        raw = dataset[i]
        if len(raw) > _MAX_NAME:
            raise ValueError(f"extra/keys must hold strings of at most {_MAX_NAME} bytes, got {len(raw)} at position {i}")
        try:
            names.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"extra/keys must hold UTF-8 strings, got {raw!r} at position {i}") from None
    return tuple(names)


def _read_spikes(times: Any, units: Any, size: int, max_events: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    import h5py

    wide = []
    for dataset, kinds, what in ((times, "f", "float16, 32 or 64"), (units, "iu", "integers")):
        base = h5py.check_vlen_dtype(dataset.dtype)
        if not isinstance(base, np.dtype) or base.kind not in kinds or base.itemsize > 8:
            got = dataset.dtype if base is None else f"variable-length {base}"
            raise ValueError(f"{dataset.name[1:]} must hold variable-length arrays of {what}, got {got}")
        wide.append(base.itemsize)
    n = times.shape[0]
    block = min(max(_BLOCK_BYTES // size, 1), 64)  # one sample holds at most the file's bytes
    time_parts: list[np.ndarray] = []
    unit_parts: list[np.ndarray] = []
    lengths = np.zeros(n, np.int64)
    total = 0
    for start in range(0, n, block):
        t, u = times[start : start + block], units[start : start + block]
        for s, (a, b) in enumerate(zip(t, u, strict=True), start):
            if a.size != b.size:
                raise ValueError(
                    f"spikes/times and spikes/units must have one length in each sample, got {a.size} and {b.size} in sample {s}"
                )
            lengths[s] = a.size
            total += a.size
            if total > max_events:
                raise ValueError(f"spikes/times must hold at most max_events = {max_events} events, got more by sample {s}")
            if total * sum(wide) > size:
                raise ValueError(f"spikes/times and units claim more bytes by sample {s} than the file has ({size})")
        time_parts.extend(t)
        unit_parts.extend(u)
    return time_parts, unit_parts, lengths
