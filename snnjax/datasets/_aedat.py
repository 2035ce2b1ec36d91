"""Reader for recordings of event cameras in the AEDAT formats 2.0, 3.1 and 4.0.

The first line of a file names the format, for example `#!AER-DAT4.0`. Formats 3.1 and 4.0 are in
`_aedat3.py` and `_aedat4.py`. A file of format 2.0 has

    header    text lines that begin with '#'; in newer files the last is '#End Of ASCII Header\r\n'
    event     address u4, timestamp u4, us, big-endian

The bits of an address depend on the camera:

    DVS128    bit 0 polarity (0 is ON), bits 1 to 7 x, bits 8 to 14 y; with a higher bit set it is
              no event of a pixel
    DAVIS     bit 11 polarity (1 is ON), bits 12 to 21 x, bits 22 to 30 y; with bit 10 or 31 set it
              is no event of a pixel (triggers, images, motion)

y counts from the bottom of the picture there, and x of a DVS128 from the right. The result always
counts from the top left corner. Timestamps have 32 bits: a step back by more than 2^31 us is an
overflow.

Sources: iniVation, AEDAT 2.0 file format; jAER, DVS128.java and DavisBaseCamera.java. For the
polarity of the DVS128, which iniVation's page states the other way round, this follows jAER and
dv-processing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from snnjax import _check
from snnjax._files import PathLike
from snnjax.datasets import _aedat3, _aedat4

Camera = Literal["dvs128", "davis240", "davis346"]
EVENTS = np.dtype([("t", "<i8"), ("x", "<i4"), ("y", "<i4"), ("p", "<i4")])
"""One event: time, us; column and row from the top left corner; polarity, 1 is ON."""

_END, _LONGEST_HEADER = b"#End Of ASCII Header\r\n", 2**24
_RAW = np.dtype([("address", ">u4"), ("time", ">u4")])


class _Layout(NamedTuple):
    """Addresses of a camera: position of each number, and the bits of other kinds of events."""

    x: tuple[int, int]
    y: tuple[int, int]
    polarity: int
    other: int
    size: tuple[int, int]
    turned: bool = False


_LAYOUTS: Mapping[Camera, _Layout] = {
    "dvs128": _Layout((1, 0x7F), (8, 0x7F), 0, 0xFFFF8000, (128, 128), turned=True),
    "davis240": _Layout((12, 0x3FF), (22, 0x1FF), 11, 0x80000400, (240, 180)),
    "davis346": _Layout((12, 0x3FF), (22, 0x1FF), 11, 0x80000400, (346, 260)),
}


def read_aedat(
    path: PathLike, *, camera: Camera | None = None, stream: int | None = None
) -> np.ndarray:
    """Read the events of a recording. The result is a recording in the format of tonic.

    `snnjax.exchange.from_tonic` makes a data set of recordings with labels. For format 4.0 with
    compression, install the extra `aedat`.

    Args:
        path: The file, in format 2.0, 3.1 or 4.0.
        camera: Camera of a file in format 2.0: `"dvs128"`, `"davis240"` or `"davis346"`. None: the
            camera that the header names.
        stream: Number of the stream of events, for files in format 4.0 with several.

    Returns:
        A structured array (events,) in the order of the file: `t`, us; `x` and `y` from the top
        left corner; `p`, 1 for ON.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or damaged, has another format, or names no camera.
        ImportError: The file is compressed, and the package for it is not installed.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".aedat") as file:
    ...     _ = file.write(b"#!AER-DAT2.0\\r\\n#End Of ASCII Header\\r\\n")
    ...     _ = file.write(np.array([127 << 8 | 127 << 1, 20], ">u4").tobytes())
    ...     file.flush()
    ...     read_aedat(file.name, camera="dvs128").tolist()
    [(20, 0, 0, 1)]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if camera is not None:
        _check.one_of("camera", camera, get_args(Camera))
    if stream is not None:
        _check.integer("stream", stream, at_least=0)
    with path.open("rb") as file:
        version = file.readline(20).rstrip(b"\r\n")
    if version == b"#!AER-DAT2.0":
        return _structured(*_read_2(path, camera))
    if version == b"#!AER-DAT3.1":
        return _structured(*_aedat3.read_events(path))
    if version == b"#!AER-DAT4.0":
        return _structured(*_aedat4.read_events(path, stream=stream))
    needed = "#!AER-DAT2.0, #!AER-DAT3.1 or #!AER-DAT4.0"
    raise ValueError(f"{path}: must begin with {needed}, got {version!r}")


def _structured(*columns: np.ndarray) -> np.ndarray:
    events = np.empty(columns[0].size, EVENTS)
    for name, column in zip(("t", "x", "y", "p"), columns, strict=True):
        events[name] = column
    return events


def _read_2(path: Path, camera: Camera | None) -> tuple[np.ndarray, ...]:
    """Read times, columns, rows and polarities of a file in format 2.0."""
    content = path.read_bytes()
    header = _header(content)
    if camera is None:
        camera = _camera(path, header)
    if (rest := (len(content) - len(header)) % _RAW.itemsize) != 0:
        got = f"{len(content) - len(header)} bytes after the header, {rest} too many"
        raise ValueError(f"{path}: truncated or damaged: events have 8 bytes, got {got}")
    raw = np.frombuffer(content, _RAW, offset=len(header))
    layout = _LAYOUTS[camera]
    back = np.diff(raw["time"].astype(np.int64), prepend=0) < -(2**31)
    times = raw["time"] + (np.cumsum(back) << 32)
    kept = (raw["address"] & layout.other) == 0
    address, times = raw["address"][kept], times[kept]
    take = lambda shift, mask: (address >> shift & mask).astype(np.int32)
    x, y, polarity = take(*layout.x), take(*layout.y), take(layout.polarity, 1)
    width, height = layout.size
    for name, values, size in (("x", x, width), ("y", y, height)):
        if values.size and values.max() >= size:
            needed = f"{name} must be below {size} for camera {camera}"
            raise ValueError(f"{path}: {needed}, got {values.max()}; is it another camera?")
    if layout.turned:
        x, polarity = width - 1 - x, 1 - polarity
    return times, x, height - 1 - y, polarity


def _header(content: bytes) -> bytes:
    end = content.find(_END, 0, _LONGEST_HEADER)
    if end >= 0:
        return content[: end + len(_END)]
    at = 0
    while content[at : at + 1] == b"#":
        stop = content.find(b"\n", at, _LONGEST_HEADER)
        line = content[at:stop]
        # the first event may begin with the byte of '#', too, but it is not text
        if stop < 0 or any(byte < 9 or byte > 126 for byte in line):
            break
        at = stop + 1
    return content[:at]


def _camera(path: Path, header: bytes) -> Camera:
    lines = [
        line.lower() for line in header.splitlines() if b"AEChip" in line or b"HardwareI" in line
    ]
    named = [
        camera for camera in get_args(Camera) if any(camera.encode() in line for line in lines)
    ]
    if len(named) != 1:
        hint = f"pass camera, one of {list(_LAYOUTS)}"
        raise ValueError(f"{path}: the header must name one known camera, got {named}; {hint}")
    return named[0]
