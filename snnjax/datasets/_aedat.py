r"""Polarity events of an AEDAT 3.1 file that nobody vouches for.

    file      text lines that begin with '#': the first '#!AER-DAT3.1\r\n', the last '#!END-HEADER\r\n'; then packets to the end of the file
    packet    type i2, source i2, size i4, offset i4, overflow i4, capacity i4, number i4, valid i4; then `number` events of `size` bytes
    event     of a packet of type 1, polarity: data u4, timestamp i4, us; packets of other types are passed over
    data      bit 0 valid, bit 1 polarity, bits 2 to 16 y, bits 17 to 31 x; events that are not valid are left out

All little-endian; time = overflow 2^31 + timestamp. Every length is checked before it is used: memory stays within a few times what is read.

Source: iniVation, AEDAT 3.1 file format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_PACKET = struct.Struct("<hhiiiiii")
_EVENT = np.dtype([("data", "<u4"), ("time", "<i4")])
_FIRST, _LAST, _LONGEST_LINE = b"#!AER-DAT3.1\r\n", b"#!END-HEADER\r\n", 10_000
_POLARITY = 1

Span = tuple[int, int]
"""First byte of a packet, and the byte after the last of another, or the same."""


class PolarityEvents(NamedTuple):
    """In the order of the file: times (E,) int64, us; x, y and polarity (0 or 1), each (E,) int32."""

    times: np.ndarray
    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray


def read_events(
    path: Path, *, span: Span | None = None, window: tuple[int, int] | None = None
) -> PolarityEvents:
    """The valid events with window[0] <= time < window[1] (us), or all.

    Args:
      path: the file.   span: the packets to read, from `find_spans`; None: all.

    Raises:
      ValueError: the file is not AEDAT 3.1, truncated, or damaged; names the file, the packet and what is wrong.
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
    x, y, polarity = (
        (words >> shift & mask).astype(np.int32)
        for shift, mask in ((17, 0x7FFF), (2, 0x7FFF), (1, 1))
    )
    return PolarityEvents(np.concatenate(times), x, y, polarity)


def find_spans(path: Path, windows: Sequence[tuple[int, int]]) -> list[Span]:
    """For each window (start, stop), us, the packets from the first to the last that hold an event of it; an empty span where none does.

    Nothing is assumed about the order of events. Raises as `read_events`, which then reads only this part of the file.
    """
    rows = [
        (
            *span,
            (overflow << 31) + int(events["time"].min()),
            (overflow << 31) + int(events["time"].max()),
        )
        for span, overflow, events in _packets(path, None)
        if events.size
    ]
    begin, end, low, high = np.array(rows, np.int64).reshape(-1, 4).T
    found = []
    for start, stop in windows:
        packets = np.flatnonzero((low < stop) & (high >= start))
        found.append((int(begin[packets[0]]), int(end[packets[-1]])) if packets.size else (0, 0))
    return found


def _packets(path: Path, span: Span | None) -> Iterator[tuple[Span, int, np.ndarray]]:
    """Place, overflow and events of each polarity packet."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        at, stop = (_skip_header(path, file), size) if span is None else span
        if stop > size:
            raise ValueError(
                f"{path}: has become shorter than {stop} bytes while it was in use, got {size}"
            )
        file.seek(at)
        while at < stop:
            head = file.read(_PACKET.size)
            if len(head) < _PACKET.size:
                raise ValueError(f"{path}: truncated in the head of the packet at byte {at}")
            kind, _, width, offset, overflow, capacity, number, valid = _PACKET.unpack(head)
            if (
                min(width, capacity, number, valid, overflow) < 0
                or not valid <= number <= capacity
                or (number and not width)
            ):
                raise ValueError(
                    f"{path}: damaged packet at byte {at}: events of {width} bytes, {number} of them, {valid} valid, "
                    f"capacity {capacity}, overflow {overflow}"
                )
            end = at + _PACKET.size + number * width
            if end > stop:
                raise ValueError(
                    f"{path}: truncated, or a damaged packet at byte {at}: claims {number} events of {width} bytes, {end - stop} bytes "
                    "more than the file holds"
                )
            if kind == _POLARITY:
                if (width, offset) != (8, 4) and number:
                    raise ValueError(
                        f"{path}: damaged packet at byte {at}: polarity events have 8 bytes and their time at byte 4, got {width} and {offset}"
                    )
                events = np.frombuffer(file.read(number * 8), _EVENT)
                if events.size and events["time"].min() < 0:
                    raise ValueError(
                        f"{path}: damaged packet at byte {at}: holds the negative time {events['time'].min()} us"
                    )
                yield (at, end), overflow, events
            file.seek(end)
            at = end


def _skip_header(path: Path, file: BinaryIO) -> int:
    """Read the text lines; where the packets begin."""
    line = file.readline(len(_FIRST))
    if line != _FIRST:
        raise ValueError(f"{path}: must begin with {_FIRST!r} (AEDAT 3.1), got {line!r}")
    while line != _LAST:
        line = file.readline(_LONGEST_LINE)
        if not line.startswith(b"#") or not line.endswith(b"\n"):
            raise ValueError(
                f"{path}: damaged or truncated header: no line {_LAST!r} before {line[:20]!r} at byte {file.tell() - len(line)}"
            )
    return file.tell()
