r"""Reader for the polarity events of AEDAT 3.1 files, without trust in the file.

    file      text lines that begin with '#': the first '#!AER-DAT3.1\r\n', the last
              '#!END-HEADER\r\n'; then packets to the end of the file
    packet    type i2, source i2, size i4, offset i4, overflow i4, capacity i4, number i4,
              valid i4; then `number` events of `size` bytes
    event     in a packet of type 1, polarity: data u4, timestamp i4, us; packets of other types
              are skipped
    data      bit 0 valid, bit 1 polarity, bits 2 to 16 y, bits 17 to 31 x; events that are not
              valid are left out

All numbers are little-endian; time = overflow 2^31 + timestamp. Every length is checked before it
is used: memory stays within a few times the size of the part that is read.

Source: iniVation, AEDAT 3.1 file format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_PACKET = struct.Struct("<hhiiiiii")
_EVENT = np.dtype([("data", "<u4"), ("time", "<i4")])
_FIRST, _LAST, _LONGEST_LINE = b"#!AER-DAT3.1\r\n", b"#!END-HEADER\r\n", 10_000
_POLARITY = 1

Span = tuple[int, int]
"""First byte of the first packet of a part of the file, and first byte after its last packet."""


def read_events(
    path: Path, *, span: Span | None = None, window: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the valid events of a file.

    Args:
        path: The file.
        span: The packets to read, from `find_spans`. None reads all packets.
        window: Return only events with window[0] <= time < window[1], us. None returns all events.

    Returns:
        The events in the order of the file: times, int64 (events,), us; x, the columns, y, the
        rows, and the polarity, 0 or 1, int32 (events,).

    Raises:
        ValueError: The file is not AEDAT 3.1, truncated, or damaged. The message names the file,
            the packet and the defect.
    """
    times, data = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    for _, overflow, events in _packets(path, span):
        events = events[events["data"] & 1 == 1]
        time = events["time"].astype(np.int64) + (overflow << 31)
        if window is not None:
            kept = (time >= window[0]) & (time < window[1])
            time, events = time[kept], events[kept]
        times.append(time)
        data.append(events["data"])
    words = np.concatenate(data)
    bits = ((17, 0x7FFF), (2, 0x7FFF), (1, 1))
    x, y, polarity = ((words >> shift & mask).astype(np.int32) for shift, mask in bits)
    return np.concatenate(times), x, y, polarity


def find_spans(path: Path, windows: Sequence[tuple[int, int]]) -> list[Span]:
    """Find the packets that contain the events of each window.

    Events may be in any order. The result lets `read_events` read only a part of the file.

    Args:
        path: The file.
        windows: Pairs (start, stop) with start <= time < stop, us.

    Returns:
        For each window, the span from the first to the last packet with an event in the window. The
        span is empty, (0, 0), if there is no such event.

    Raises:
        ValueError: As `read_events`.
    """
    rows = []
    for span, overflow, events in _packets(path, None):
        if events.size:
            low, high = int(events["time"].min()), int(events["time"].max())
            rows.append((*span, (overflow << 31) + low, (overflow << 31) + high))
    begin, end, low, high = np.array(rows, np.int64).reshape(-1, 4).T
    found = []
    for start, stop in windows:
        packets = np.flatnonzero((low < stop) & (high >= start))
        found.append((int(begin[packets[0]]), int(end[packets[-1]])) if packets.size else (0, 0))
    return found


def _packets(path: Path, span: Span | None) -> Iterator[tuple[Span, int, np.ndarray]]:
    """Yield the span, the overflow counter and the events of each polarity packet."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        at, stop = (_skip_header(path, file), size) if span is None else span
        if stop > size:
            raise ValueError(f"{path}: was shortened while in use: {size} of {stop} bytes")
        file.seek(at)
        while at < stop:
            head = file.read(_PACKET.size)
            if len(head) < _PACKET.size:
                raise ValueError(f"{path}: truncated in the head of the packet at byte {at}")
            kind, _, width, offset, overflow, capacity, number, valid = _PACKET.unpack(head)
            damaged = f"{path}: damaged packet at byte {at}"
            negative = min(width, capacity, number, valid, overflow) < 0
            if negative or not valid <= number <= capacity or (number and not width):
                got = f"events of {width} bytes, {number} of them, {valid} valid"
                raise ValueError(f"{damaged}: {got}, capacity {capacity}, overflow {overflow}")
            end = at + _PACKET.size + number * width
            if end > stop:
                got = f"claims {number} events of {width} bytes, {end - stop} bytes more than"
                raise ValueError(f"{damaged} or truncated: {got} the file contains")
            if kind == _POLARITY:
                if (width, offset) != (8, 4) and number:
                    needed = "polarity events have 8 bytes and their time at byte 4"
                    raise ValueError(f"{damaged}: {needed}, got {width} and {offset}")
                events = np.frombuffer(file.read(number * 8), _EVENT)
                first = events["time"].min(initial=0)
                if first < 0:
                    raise ValueError(f"{damaged}: contains the negative time {first} us")
                yield (at, end), overflow, events
            file.seek(end)
            at = end


def _skip_header(path: Path, file: BinaryIO) -> int:
    """Read the text lines and return the position of the first packet."""
    line = file.readline(len(_FIRST))
    if line != _FIRST:
        raise ValueError(f"{path}: must begin with {_FIRST!r} (AEDAT 3.1), got {line!r}")
    while line != _LAST:
        line = file.readline(_LONGEST_LINE)
        if not line.startswith(b"#") or not line.endswith(b"\n"):
            where = f"no line {_LAST!r} before {line[:20]!r} at byte {file.tell() - len(line)}"
            raise ValueError(f"{path}: damaged or truncated header: {where}")
    return file.tell()
