import struct

import numpy as np
import pytest
from _support import data_path
from hypothesis import given, settings
from hypothesis import strategies as st

from snnjax.datasets import read_aedat
from snnjax.exchange import from_tonic

EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("unused", "V3")])


def prefixed(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def header_4(*, compression, table):
    """A flatbuffer with the fields compression (i4) and start of the table (i8)."""
    fields = struct.pack("<HHHH", 8, 20, 4, 8)  # sizes, then the places of both fields
    root = struct.pack("<iiq", len(fields), compression, table)
    return prefixed(struct.pack("<I", 4 + len(fields)) + fields + root + b"\0" * 4)


def packet_4(rows, *, name=b"EVTS", compress=bytes):
    events = np.zeros(len(rows), EVENT)
    for field, column in zip(("t", "x", "y", "p"), zip(*rows, strict=True), strict=False):
        events[field] = column
    fields = struct.pack("<HHHxx", 6, 8, 4)
    root = struct.pack("<iI", len(fields), 4)
    vector = struct.pack("<I", len(events)) + events.tobytes()
    content = struct.pack("<I", 8 + len(fields)) + name + fields + root + vector
    return compress(prefixed(content))


def file_4(path, packets, *, compression=0, table=-1, more=b""):
    body = b"".join(struct.pack("<ii", k, len(packet)) + packet for k, packet in packets)
    head = b"#!AER-DAT4.0\r\n" + header_4(compression=compression, table=table)
    path.write_bytes(head + body + more)
    return path


def file_2(path, rows, *, header=b"#!AER-DAT2.0\r\n# AEChip: eu.ini.Davis346red\r\n"):
    path.write_bytes(header + np.array(rows, ">u4").tobytes())
    return path


def compressors():
    lz4, zstandard = pytest.importorskip("lz4.frame"), pytest.importorskip("zstandard")
    zstd = zstandard.ZstdCompressor().compress
    return {0: bytes, 1: lz4.compress, 2: lz4.compress, 3: zstd, 4: zstd}


ROWS = [(10**15, 0, 3, 1), (10**15 + 7, 319, 239, 0), (10**15 + 7, 5, 0, 1)]


def test_a_recording_of_another_program_is_read():
    # numbers and sums of an independent reader (the package aedat 2.3.0)
    events = read_aedat(data_path("event_files/sample.aedat4"))
    assert events.size == 111954
    assert events[0].tolist() == (1605537493718345, 154, 204, 0)
    assert events[-1].tolist() == (1605537494308262, 88, 237, 1)
    sums = [int(events[name].astype(np.uint64).sum()) for name in ("t", "x", "y", "p")]
    assert sums == [13725647940043317084, 18342405, 15105898, 55023]
    data = from_tonic([(events, 0)], sensor_size=(320, 240, 2), origin="first")
    assert data.times.size == 111954
    assert data.times[-1] == pytest.approx(0.589917)


@pytest.mark.parametrize("compression", range(5))
def test_events_of_format_4_are_those_that_were_written(tmp_path, compression):
    compress = compressors()[compression]
    other = packet_4(ROWS, name=b"IMUS", compress=compress)
    halves = (packet_4(part, compress=compress) for part in (ROWS[:1], ROWS[1:]))
    packets = [(0, next(halves)), (2, other), (0, next(halves))]
    path = file_4(tmp_path / "a.aedat4", packets, compression=compression)
    assert read_aedat(path).tolist() == ROWS
    start = path.stat().st_size
    packets = [(0, packet_4(ROWS, compress=compress))]
    size = file_4(path, packets, compression=compression).stat().st_size
    path = file_4(path, packets, compression=compression, table=size, more=b"table")
    assert read_aedat(path).tolist() == ROWS
    assert start > size


def test_one_of_several_streams_is_chosen(tmp_path):
    path = file_4(tmp_path / "a.aedat4", [(0, packet_4(ROWS[:1])), (4, packet_4(ROWS[1:]))])
    assert read_aedat(path, stream=4).tolist() == ROWS[1:]
    with pytest.raises(ValueError, match=r"several streams of events, \[0, 4\]; pass stream"):
        read_aedat(path)
    with pytest.raises(ValueError, match=r"stream must be one of 0, 4, got 1"):
        read_aedat(path, stream=1)


def test_addresses_of_format_2_follow_the_camera(tmp_path):
    davis = lambda x, y, p: y << 22 | x << 12 | p << 11
    rows = [
        (davis(0, 259, 1), 5),
        (1 << 31, 6),
        (davis(3, 2, 0) | 1 << 10, 6),
        (davis(345, 0, 0), 9),
    ]
    path = file_2(tmp_path / "a.aedat", rows)
    assert read_aedat(path).tolist() == [(5, 0, 0, 1), (9, 345, 259, 0)]
    dvs = lambda x, y, p: y << 8 | x << 1 | p
    rows = [(dvs(0, 0, 1), 1), (1 << 15, 2), (dvs(127, 127, 0), 3)]
    path = file_2(path, rows, header=b"#!AER-DAT2.0\r\n# HardwareInterface: DVS128\r\n")
    assert read_aedat(path).tolist() == [(1, 127, 127, 0), (3, 0, 0, 1)]


def test_times_of_format_2_continue_after_an_overflow(tmp_path):
    rows = [(0, 2**32 - 1), (0, 4), (0, 2), (0, 2**32 - 1), (0, 0)]  # one step back within a stream
    times = [2**32 - 1, 2**32 + 4, 2**32 + 2, 2**33 - 1, 2**33]
    assert read_aedat(file_2(tmp_path / "a.aedat", rows))["t"].tolist() == times


def test_an_event_that_looks_like_a_header_line_is_an_event(tmp_path):
    rows = [(int.from_bytes(b"#\x01\x00\x00"), 5), (0, int.from_bytes(b"\x00\x00\x00\n"))]
    for end in (b"", b"#End Of ASCII Header\r\n"):
        header = b"#!AER-DAT2.0\r\n# AEChip: Davis346\r\n" + end
        events = read_aedat(file_2(tmp_path / "a.aedat", rows, header=header))
        assert events["t"].tolist() == [5, 10]


def test_a_header_without_events_is_a_recording_without_events():
    assert read_aedat(data_path("event_files/sample_aedat_header.aedat")).size == 0


@pytest.mark.parametrize(
    ("header", "rows", "camera", "text"),
    [
        (b"#!AER-DAT2.0\r\n", [(0, 1)], None, r"must name one known camera, got \[\]; pass camera"),
        (b"#!AER-DAT2.0\r\n", [(400 << 12, 1)], "davis346", r"x must be below 346.*got 400"),
        (
            b"#!AER-DAT2.0\r\n",
            [(0, 1, 2)],
            "dvs128",
            "events have 8 bytes, got 12 bytes.*4 too many",
        ),
        (b"#!AER-DAT2.0\r\n", [(0, 1)], "dvs", "camera must be one of 'dvs128'"),
        (b"#!AER-DAT1.0\r\n", [(0, 1)], None, r"must begin with #!AER-DAT2.0.*AER-DAT1.0"),
        (b"", [], None, "must begin with"),
    ],
)
def test_a_wrong_file_of_format_2_is_refused(tmp_path, header, rows, camera, text):
    path = file_2(tmp_path / "a.aedat", rows, header=header)
    with pytest.raises(ValueError, match=text):
        read_aedat(path, camera=camera)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.aedat: no such file"):
        read_aedat(tmp_path / "none.aedat")


def test_a_packet_that_inflates_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("snnjax.datasets._aedat4.MOST", 10_000)
    bomb = [(0, 0, 0, 0)] * 1000
    for compression, compress in compressors().items():
        packets = [(0, packet_4(bomb, compress=compress))]
        path = file_4(tmp_path / "a.aedat4", packets, compression=compression)
        if compression == 0:
            assert read_aedat(path).size == 1000
            continue
        with pytest.raises(ValueError, match="a flatbuffer claims 160"):
            read_aedat(path)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(14, 260), st.integers(0, 255)), max_size=6), st.integers(0, 300)
)
def test_a_damaged_file_of_format_4_gives_events_or_a_clear_error(tmp_path_factory, changes, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.aedat4"
    file_4(path, [(0, packet_4(ROWS)), (0, packet_4(ROWS))])
    content = bytearray(path.read_bytes())
    for at, value in changes:
        if at < len(content):
            content[at] = value
    path.write_bytes(content if cut > 200 else content[: max(cut, 14)])
    said, events = "", np.zeros(0)
    try:
        events = read_aedat(path)
    except ValueError as error:
        said = str(error)
    assert said.startswith(str(path)) or (not said and events.size <= 6)
