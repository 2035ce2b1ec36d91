r"""Reader for one-dimensional HDF5 datasets, also with variable-length rows, from untrusted files.

The loader of SHD needs this reader, because files from the network must not stop a program. The
HDF5 library (h5py) parses only the metadata here. Its own functions that read data are not safe
with a hostile or damaged file. Measured with HDF5 2.0 and h5py 3.16: they never return from a heap
with an object of 2^64 - 16 bytes; a row that claims 10^9 elements takes 1.9 GB for a file of 12 kB;
a compressed chunk of 24 bytes in a file of 2 MB is inflated to 2 GB. So this module reads the
bytes. It checks each length before use, and memory stays within the size of the file plus
`max_length` rows. Reading 9.8 million events takes 0.3 s; the library alone takes 0.2 s.

    contiguous   n rows at one address
    chunked      rows in blocks of equal length, optionally shuffled, then compressed by gzip
    row          the value itself; for variable length (length u4, address u8, index u4): object
                 `index` of the heap at `address`
    heap         "GCOL", version u1, 3 bytes, size u8; then objects (index u2, 6 bytes, size u8,
                 the bytes padded to a multiple of 8) up to index 0, the free space

Source: HDF5 File Format Specification 3.0, sections III.E (global heap), IV.A.2.d (datatype),
IV.A.2.i (data layout).
"""

from __future__ import annotations

import struct
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from snnjax.datasets._arrays import check_size

if TYPE_CHECKING:
    import h5py

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_GZIP, _SHUFFLE = 1, 2  # HDF5's numbers of these filters


def find_dataset(
    f: h5py.File, name: str, *, max_length: int, entries: int | None = None, optional: bool = False
) -> Any:
    """Return the dataset `name` of an open file after a check of its metadata.

    Args:
        f: The open file, an `h5py.File`.
        name: Path of the dataset in the file.
        max_length: Largest number of rows, and of rows per chunk.
        entries: Number of rows that it must have, that of the labels. None: at least one.
        optional: Return None if the file has no such dataset.

    Returns:
        The `h5py.Dataset`, or None.

    Raises:
        ValueError: The dataset is missing, a link, not one-dimensional, empty, too long, or its
            data are in another file.
    """
    import h5py

    node, here = f, ""
    for part in name.split("/"):
        if not isinstance(node, h5py.Group):
            raise ValueError(f"{here} must be a group, got a {type(node).__name__.lower()}")
        here = f"{here}/{part}".lstrip("/")
        link = node.get(part, getlink=True)
        if link is None:
            if optional:
                return None
            raise ValueError(f"has no {here}; {node.name} contains {list(islice(node, 20))}")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{here} must not be a link, got {type(link).__name__}")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise ValueError(f"{name} must be a dataset, got a {type(node).__name__.lower()}")
    if node.is_virtual or node.external:
        kind = "virtual" if node.is_virtual else "external"
        raise ValueError(f"{name} must have its data in this file, got one with {kind} storage")
    if node.shape is None or len(node.shape) != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {node.shape}")
    chunk = (node.chunks or (0,))[0]
    for what, length in (("entries", node.shape[0]), ("entries per chunk", chunk)):
        if length > max_length:
            raise ValueError(f"{name} must have at most {max_length} {what}, got {length}")
    if entries is not None:
        check_size(name, node.shape[0], entries, "labels")
    elif node.shape[0] == 0:
        raise ValueError(f"{name} must contain at least one entry, got none")
    return node


def read_integers(file: BinaryIO, name: str, dataset: h5py.Dataset) -> np.ndarray:
    """Return the rows of a dataset of integers, in its own dtype."""
    dtype = dataset.dtype
    if dtype.kind not in "iu" or not _is_plain(dataset.id.get_type(), dtype):
        raise ValueError(f"{name} must contain integers, got dtype {dtype}")
    return _read_rows(file, name, dataset, dtype)


def read_strings(
    file: BinaryIO, name: str, dataset: h5py.Dataset, *, max_bytes: int
) -> tuple[str, ...]:
    """Return the rows of a dataset of UTF-8 strings.

    Args:
        file: The same file, opened for reading bytes.
        name: Name of the dataset, for the messages.
        dataset: The `h5py.Dataset`, of strings of fixed or variable length.
        max_bytes: Longer strings are refused.

    Raises:
        ValueError: The dataset does not contain strings, or a string is too long or not UTF-8.
    """
    import h5py

    info = h5py.check_string_dtype(dataset.dtype)
    if info is None:
        raise ValueError(f"{name} must contain strings, got dtype {dataset.dtype}")
    if info.length is not None:
        _check_longest(name, info.length, max_bytes)
        rows = _read_rows(file, name, dataset, np.dtype(f"S{info.length}")).tolist()
    else:
        references = _read_rows(file, name, dataset, REFERENCE)
        _check_longest(name, int(references["length"].max(initial=0)), max_bytes)
        flat = read_heap(file, name, references, np.dtype("u1")).tobytes()
        ends = np.cumsum(references["length"], dtype=np.int64).tolist()
        rows = [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    try:
        return tuple(row.rstrip(b"\0").decode("utf-8") for row in rows)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must contain UTF-8 strings, got {error.object!r}") from None


def read_references(
    file: BinaryIO, name: str, dataset: h5py.Dataset, kinds: str
) -> tuple[np.ndarray, np.dtype]:
    """Return where the rows of a variable-length dataset are stored.

    Args:
        file: The same file, opened for reading bytes.
        name: Name of the dataset, for the messages.
        dataset: The `h5py.Dataset`.
        kinds: Allowed kinds of the elements' dtype (`numpy.dtype.kind`): "f" or "iu".

    Returns:
        The lengths and addresses of the rows, (samples,) of dtype `REFERENCE`, and the elements'
        dtype.

    Raises:
        ValueError: The dataset does not have variable-length rows of these kinds.
    """
    import h5py

    base = h5py.check_vlen_dtype(dataset.dtype)
    right = isinstance(base, np.dtype) and base.kind in kinds and base.itemsize <= 8
    if not right or not _is_plain(dataset.id.get_type().get_super(), base):
        what = "integers" if "i" in kinds else "float16, float32 or float64"
        got = f"dtype {dataset.dtype}" if base is None else f"variable-length arrays of {base}"
        raise ValueError(f"{name} must contain variable-length arrays of {what}, got {got}")
    return _read_rows(file, name, dataset, REFERENCE), base


def read_heap(file: BinaryIO, name: str, references: np.ndarray, base: np.dtype) -> np.ndarray:
    """Return the elements of all rows, concatenated.

    Args:
        file: The file, opened for reading bytes.
        name: Name of the dataset, for the messages.
        references: Lengths and addresses of the rows, from `read_references`.
        base: Dtype of the elements.

    Raises:
        ValueError: The rows are longer than the file, or a heap or an object is missing or damaged.
    """
    lengths = references["length"].astype(np.int64)
    ends, total, size = np.cumsum(lengths), int(lengths.sum()), file.seek(0, 2)
    if total * base.itemsize > size:
        claim = f"{total} elements of {base.itemsize} bytes, more than the file contains"
        raise ValueError(f"{name} claims {claim} ({size} bytes)")
    out = np.empty(total, base)
    left = size  # heaps do not overlap: together they cannot be longer than the file
    last, heap, objects = -1, b"", {}
    for s in np.argsort(references["address"], kind="stable").tolist():
        n, address = int(lengths[s]), int(references["address"][s])
        if n == 0:
            continue
        if address != last:
            magic, version, heap_size = struct.unpack("<4sB3xQ", _read_at(file, name, address, 16))
            left -= heap_size
            if magic != b"GCOL" or version != 1 or heap_size < 16 or left < 0:
                what = f"a heap at byte {address}, which is missing or damaged"
                raise ValueError(f"{name} refers to {what}")
            heap = _read_at(file, name, address, heap_size)
            last, objects = address, _objects(heap)
        start, stored = objects.get(int(references["index"][s]), (0, -1))
        if stored != n * base.itemsize:
            missing = f"an object that the heap at byte {address} does not contain"
            raise ValueError(f"{name} refers in sample {s} to {missing}")
        out[ends[s] - n : ends[s]] = np.frombuffer(heap, base, n, start)
    return out


def _objects(heap: bytes) -> dict[int, tuple[int, int]]:
    """Return the start and the size in bytes of each object of a heap, by index."""
    objects, at = {}, 16
    while at + 16 <= len(heap):
        index, size = struct.unpack_from("<H6xQ", heap, at)
        if index == 0 or at + 16 + size > len(heap):
            break
        objects[index] = (at + 16, size)
        at += 16 + (size + 7) // 8 * 8
    return objects


def _is_plain(type_id: h5py.h5t.TypeID, dtype: np.dtype) -> bool:
    """Return whether the file stores the type exactly as numpy does, without padding bits."""
    import h5py

    return bool(h5py.h5t.py_create(dtype, logical=True).equal(type_id))


def _read_rows(file: BinaryIO, name: str, dataset: h5py.Dataset, dtype: np.dtype) -> np.ndarray:
    """Return the rows of a dataset, which are stored in the layout `dtype`."""
    n, plist = dataset.shape[0], dataset.id.get_create_plist()
    if dataset.file.id.get_create_plist().get_sizes() != (8, 8) or dataset.file.userblock_size:
        raise ValueError("must have addresses of 8 bytes and no user block")
    rows = np.zeros(n, dtype)
    if dataset.chunks is None:
        if (address := dataset.id.get_offset()) is not None:
            return np.frombuffer(_read_at(file, name, address, rows.nbytes), dtype)
        if dataset.id.get_storage_size():
            raise ValueError(f"{name} must be stored contiguously or in chunks, not compactly")
        _check_fill(name, plist)
        return rows
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if filters not in ([], [_GZIP], [_SHUFFLE], [_SHUFFLE, _GZIP]):
        needed = "compressed with gzip (and shuffle) or not at all"
        raise ValueError(f"{name} must be {needed}, got HDF5 filters {filters}")
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    if len(chunks) > n:
        raise ValueError(f"{name} must have at most one chunk per row, got {len(chunks)} for {n}")
    size = dataset.chunks[0]
    if len(chunks) * size < n:
        _check_fill(name, plist)
    for chunk in chunks:
        if chunk.size > 2 * size * dtype.itemsize + 1024:
            entries = f"{size} entries of {dtype.itemsize}"
            raise ValueError(f"{name} has a chunk of {chunk.size} bytes for {entries}")
        stored = _read_at(file, name, chunk.byte_offset, chunk.size)
        active = [number for k, number in enumerate(filters) if not chunk.filter_mask >> k & 1]
        part = unpack_chunk(name, stored, active, size, dtype)
        start = chunk.chunk_offset[0]
        rows[start : start + len(part)] = part[: max(n - start, 0)]
    return rows


def unpack_chunk(
    name: str, stored: bytes, filters: list[int], n: int, dtype: np.dtype
) -> np.ndarray:
    """Return the n rows of a chunk; `filters` are numbers in the order of writing."""
    size = n * dtype.itemsize
    if _GZIP in filters:
        try:
            stored = zlib.decompressobj().decompress(stored, size + 1)
        except zlib.error as error:
            raise ValueError(f"{name} has a damaged compressed chunk ({error})") from None
    if len(stored) != size:
        got = f"{size} bytes, but to {'more' if len(stored) > size else len(stored)}"
        raise ValueError(f"{name} has a chunk that does not unpack to its {got}")
    if _SHUFFLE in filters:  # first byte of every row, second byte of every row, ...
        stored = np.frombuffer(stored, np.uint8).reshape(dtype.itemsize, n).T.tobytes()
    return np.frombuffer(stored, dtype)


def _check_fill(name: str, plist: h5py.h5p.PropDCID) -> None:
    """Raise if unwritten rows have a fill value: here they are read as zeros, or empty."""
    if plist.fill_value_defined() == 2:
        raise ValueError(f"{name} must not have both unwritten rows and its own fill value")


def _check_longest(name: str, longest: int, max_bytes: int) -> None:
    if longest > max_bytes:
        raise ValueError(f"{name} must contain strings of at most {max_bytes} bytes, got {longest}")


def _read_at(file: BinaryIO, name: str, address: int, n: int) -> bytes:
    size = file.seek(0, 2)
    if address + n > size:
        place = f"bytes {address} to {address + n}, beyond the end of the file ({size})"
        raise ValueError(f"{name} has data at {place}: truncated or damaged")
    file.seek(address)
    return file.read(n)
