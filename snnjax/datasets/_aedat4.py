"""Reader for the events of AEDAT 4.0 files, without trust in the file.

    file      the line '#!AER-DAT4.0\r\n'; a header (flatbuffer); packets; a table of packets
    header    compression i4 (0 none, 1 and 2 LZ4, 3 and 4 Zstandard), start of the table i8 (-1 if
              there is none), description
    packet    number of the stream i4, size i4, then the content, which may be compressed
    content   a flatbuffer; that of events has the name 'EVTS' and one vector of events
    event     time i8, us; x i2, y i2, polarity u1, 3 unused bytes

All numbers are little-endian. A flatbuffer begins with its size, u4. Every position is checked
before it is used, and a packet may have at most `MOST` bytes after decompression. Only the events
are decoded; packets of other kinds (frames, motion, triggers) are skipped.

Source: iniVation, AEDAT 4.0 file format; FlatBuffers, internals.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from snnjax import _check, _extras

_LINE = b"#!AER-DAT4.0\r\n"
_EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("unused", "V3")])
MOST = 2**28
"""Largest size of the content of a packet, bytes: 16 million events."""


def read_events(path: Path, *, stream: int | None = None) -> tuple[np.ndarray, ...]:
    """Read the events of a stream.

    Args:
        path: The file.
        stream: Number of the stream. None: the only stream with events.

    Returns:
        Times, int64 (events,), us; columns, rows, and polarity, 0 or 1.

    Raises:
        ValueError: The file is truncated or damaged, or has several streams of events.
        ImportError: The file is compressed, and the package for it is not installed.
    """
    content = path.read_bytes()
    try:
        found = _streams(content)
    except (struct.error, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged AEDAT 4.0 file: {error}") from error
    if stream is None and len(found) > 1:
        hint = "pass stream to choose one"
        raise ValueError(f"{path}: has several streams of events, {sorted(found)}; {hint}")
    if stream is not None:
        _check.one_of("stream", stream, sorted(found))
        found = {stream: found[stream]}
    events = np.concatenate([np.zeros(0, _EVENT), *(part for p in found.values() for part in p)])
    return events["t"], events["x"], events["y"], events["p"]


def _streams(content: bytes) -> dict[int, list[np.ndarray]]:
    """Return the packets with events of each stream."""
    head = _Flatbuffer(content, len(_LINE))
    compression, table = head.number(0, "<i"), head.number(1, "<q", -1)
    at, stop = head.stop, len(content) if table < 0 else table
    if not head.stop <= stop <= len(content):
        raise ValueError(f"the header names byte {table} of {len(content)} as start of its table")
    found: dict[int, list[np.ndarray]] = {}
    while at < stop:
        stream, size = struct.unpack_from("<ii", content, at)
        at += 8
        if not 0 <= size <= stop - at:
            raise ValueError(f"a packet at byte {at} claims {size} of {stop - at} bytes")
        packet = _decompressed(content[at : at + size], compression)
        at += size
        if packet[8:12] == b"EVTS":
            events = _Flatbuffer(packet, 0).vector(0, _EVENT)
            if events.size and (
                events["p"].max() > 1 or min(events["x"].min(), events["y"].min()) < 0
            ):
                raise ValueError(f"stream {stream} has an event with invalid values")
            found.setdefault(stream, []).append(events)
    return found


def _decompressed(packet: bytes, compression: int) -> bytes:
    if compression == 0:
        return packet
    user, error = "a compressed AEDAT 4.0 file", Exception
    if compression in (1, 2):
        lz4: Any = _extras.package("lz4.frame", "aedat", user)
        decompressor = lz4.LZ4FrameDecompressor()
        unpack = lambda: decompressor.decompress(packet, max_length=MOST)
        error = RuntimeError
    elif compression in (3, 4):
        zstandard: Any = _extras.package("zstandard", "aedat", user)
        reader = zstandard.ZstdDecompressor().stream_reader(packet)
        unpack = lambda: reader.read(MOST)
        error = zstandard.ZstdError
    else:
        raise ValueError(f"compression must be 0 to 4, got {compression}")
    try:
        return unpack()
    except error as reason:
        raise ValueError(f"a packet cannot be decompressed: {reason}") from reason


class _Flatbuffer:
    """The root table of a flatbuffer that begins with its size at byte `start`."""

    def __init__(self, content: bytes, start: int) -> None:
        self.content = content
        (size, root) = struct.unpack_from("<II", content, start)
        self.stop = start + 4 + size
        if self.stop > len(content):
            raise ValueError(f"a flatbuffer claims {size} of {len(content) - start - 4} bytes")
        self.table = start + 4 + root
        (back,) = struct.unpack_from("<i", content, self.table)
        self.offsets = self.table - back
        if self.offsets < 0:
            raise ValueError(f"a flatbuffer has its table of fields at byte {self.offsets}")

    def _field(self, index: int) -> int | None:
        """Return the position of a field; None if it has its default."""
        (size,) = struct.unpack_from("<H", self.content, self.offsets)
        if 4 + 2 * index + 2 > size:
            return None
        (offset,) = struct.unpack_from("<H", self.content, self.offsets + 4 + 2 * index)
        return self.table + offset if offset else None

    def number(self, index: int, kind: str, default: int = 0) -> int:
        """Return a field that is a whole number."""
        at = self._field(index)
        return default if at is None else struct.unpack_from(kind, self.content, at)[0]

    def vector(self, index: int, dtype: np.dtype) -> np.ndarray:
        """Return a field that is a vector of structs."""
        at = self._field(index)
        if at is None:
            return np.zeros(0, dtype)
        (offset,) = struct.unpack_from("<I", self.content, at)
        (count,) = struct.unpack_from("<I", self.content, at + offset)
        first, size = at + offset + 4, count * dtype.itemsize
        if first + size > len(self.content):
            raise ValueError(f"a vector claims {count} entries of {dtype.itemsize} bytes")
        return np.frombuffer(self.content, dtype, count, first)
