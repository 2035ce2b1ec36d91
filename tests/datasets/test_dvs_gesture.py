import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnjax.datasets import DeviceEvents, load_dvs_gesture
from snnjax.datasets._aedat3 import find_spans, read_events
from snnjax.datasets._dvs_gesture import DVSGesture

HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 0: DVS128\r\n#Start-Time: 2016-01-01 10:00:00 (TZ+0100)\r\n#!END-HEADER\r\n"
LABELS = "class,startTime_usec,endTime_usec\n"


def draw(rng, n, *, start=0, stop=3_000_000):
    """Columns x, y, polarity and time (us), in order of time."""
    return np.stack(
        [
            *rng.integers(0, 128, (2, n)),
            rng.integers(0, 2, n),
            np.sort(rng.integers(start, stop, n)),
        ],
        axis=1,
    )


def packet(
    events,
    *,
    overflow=0,
    kind=1,
    valid=None,
    width=8,
    offset=4,
    number=None,
    capacity=None,
    claimed_valid=None,
) -> bytes:
    """The bytes of one packet of events (n, 4); `valid` (n,) marks events, by default all."""
    valid = np.ones(len(events), int) if valid is None else np.asarray(valid)
    number = len(events) if number is None else number
    head = struct.pack(
        "<hhiiiiii", kind, 0, width, offset, overflow, number if capacity is None else capacity, number,
        int(valid.sum()) if claimed_valid is None else claimed_valid,
    )  # fmt: skip
    return head + b"".join(
        struct.pack(
            "<II", int(v) | int(p) << 1 | int(y) << 2 | int(x) << 17, int(t) - (overflow << 31)
        )
        for (x, y, p, t), v in zip(events, valid, strict=True)
    )


def write_recording(path, events, *, size=50, labels="", header=HEADER, between=b"") -> Path:
    """Write the file and its labels; `between` comes before every packet of `size` events."""
    parts = [between + packet(events[i : i + size]) for i in range(0, len(events), size)]
    path.write_bytes(header + b"".join(parts))
    path.with_name(f"{path.stem}_labels.csv").write_text(LABELS + labels)
    return path


def original(folder, *, names=("user01_led.aedat",), split="train", **options) -> Path:
    (folder / f"trials_to_{split}.txt").write_text("\n".join(names) + "\n\n")
    for k, name in enumerate(names):
        options = {
            "labels": "1,0,1000000\n11,1500000,2500000\n",
            "events": draw(np.random.default_rng(k), 400),
        } | options
        write_recording(folder / name, **options)
    return folder


def prepared(folder, arrays, *, split="Train", save=np.save) -> Path:
    for name, events in arrays.items():
        path = folder / f"ibmGesture{split}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, events)
    return folder


def unit_of(x, y, p, d):
    return (int(y) // d * (128 // d) + int(x) // d) * 2 + int(p)


@pytest.mark.parametrize("d", [1, 4, 128])
@pytest.mark.parametrize("dtype", ["u2", "i8", "f4", ">f8"])
def test_prepared_arrays(tmp_path, rng, d, dtype):
    """Order by user, light and class; every event is kept, on the unit of its pixel.

    Times in ms become s from the first event.
    """
    arrays = {
        f"{name}.npy": draw(rng, 60, start=20, stop=5000)
        for name in ("user02_led/3", "user01_natural/10", "user01_led/0", "user02_led/1")
    }
    prepared(
        tmp_path,
        {name: events.astype(dtype) for name, events in arrays.items()},
        save=lambda p, e: np.save(p, np.asfortranarray(e)),
    )
    (tmp_path / "ibmGestureTrain/user01_led/._0.npy").write_bytes(b"left by a system")
    found = DVSGesture(tmp_path, "train", downsample=d)
    assert found.labels.tolist() == [0, 10, 1, 3]
    assert found.users.tolist() == [1, 1, 2, 2]
    assert found.lighting == ("led", "natural", "led", "led")
    assert (found.sensor, found.num_units, len(found.class_names)) == (
        (128 // d, 128 // d, 2),
        (128 // d) ** 2 * 2,
        11,
    )
    for i, name in enumerate(("user01_led/0", "user01_natural/10", "user02_led/1", "user02_led/3")):
        events = arrays[f"{name}.npy"]
        times, units = found[i]
        assert (times.dtype, units.dtype) == (np.float64, np.int32)
        np.testing.assert_allclose(times, (events[:, 3] - events[0, 3]) / 1000, atol=1e-12)
        np.testing.assert_array_equal(units, [unit_of(x, y, p, d) for x, y, p, _ in events])
    assert len(list(found)) == 4  # it is a sequence: iteration ends


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_original_recordings_are_cut_by_their_labels(tmp_path, rng, size):
    """Compared with a loop over the events; other packets are skipped, labels count from 0."""
    events = draw(rng, 300)
    other = struct.pack("<hhiiiiii", 2, 0, 5, 0, 0, 4, 4, 4) + bytes(
        20
    )  # special events of five bytes
    rows = [(8, 100_000, 900_000), (8, 900_001, 1_400_000), (11, 2_000_000, 3_000_000)]
    original(
        tmp_path, names=["user07_fluorescent_led.aedat"], split="test", events=events, size=size, between=other,
        labels="".join("{},{},{}\r\n".format(*row) for row in rows),
    )  # fmt: skip
    found = DVSGesture(tmp_path, "test", downsample=8)
    assert found.labels.tolist() == [7, 7, 10]
    assert (found.users.tolist(), set(found.lighting)) == ([7, 7, 7], {"fluorescent_led"})
    for i in (2, 0, 1, 0):
        _, start, stop = rows[i]
        expected = [e for e in events.tolist() if start <= e[3] < stop]
        times, units = found[i]
        np.testing.assert_allclose(times, [(e[3] - start) / 1e6 for e in expected], atol=1e-12)
        np.testing.assert_array_equal(units, [unit_of(*e[:3], 8) for e in expected])


def test_a_gesture_is_read_from_its_own_part_of_the_file(tmp_path, rng):
    path = write_recording(tmp_path / "user01_led.aedat", draw(rng, 1000), size=10)
    windows = [(0, 300_000), (2_900_000, 3_000_000), (5_000_000, 6_000_000)]
    spans = find_spans(path, windows)
    assert spans[2] == (0, 0)
    for span, window in zip(spans, windows, strict=True):
        assert span[1] - span[0] < 0.2 * path.stat().st_size
        for a, b in zip(
            read_events(path, span=span, window=window),
            read_events(path, window=window),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_overflow_order_and_valid_marks(tmp_path):
    """time = overflow 2^31 + timestamp; packets may have any order; invalid events are left out."""
    late, early = (np.array([[1, 2, 1, t], [3, 4, 0, t + 5]]) for t in ((1 << 31) + 7, 100))
    path = tmp_path / "a.aedat"
    path.write_bytes(HEADER + packet(late, overflow=1) + packet(early, valid=[0, 1], capacity=9))
    times, x, y, polarity = read_events(path)
    np.testing.assert_array_equal(np.stack([x, y, polarity, times], axis=1), [*late, early[1]])
    spans = find_spans(path, [(0, 1000), ((1 << 31) + 12, (1 << 31) + 13)])
    assert [read_events(path, span=span)[0].size for span in spans] == [1, 2]


def test_is_what_another_reader_reads(tmp_path, rng):
    """Compared with tonic 1.7.0, which supports neither marks nor overflow.

    The two functions of tonic that are needed work, although `read_dvs_ibm`, which calls them, does
    not.
    """
    io = pytest.importorskip("tonic.io")
    path = write_recording(tmp_path / "user01_led.aedat", draw(rng, 500), size=37)
    version, start, _ = io.read_aedat_header_from_file(str(path))
    other = io.get_aer_events_from_file(str(path), version, start)
    times, x, y, polarity = read_events(path)
    np.testing.assert_array_equal(times, other["timeStamp"])
    for ours, shift, mask in ((x, 17, 0x1FFF), (y, 2, 0x1FFF), (polarity, 1, 1)):
        np.testing.assert_array_equal(ours, other["address"] >> shift & mask)


def test_both_layouts_give_the_same(tmp_path, rng):
    """One gesture in both layouts.

    Its first event is at the start of its window, and its times are whole milliseconds.
    """
    events = draw(rng, 200, stop=900)
    events[0, 3] = 0
    a, b = tmp_path / "a", tmp_path / "b"
    b.mkdir()
    prepared(a, {"user03_lab/4.npy": events})
    original(b, names=["user03_lab.aedat"], events=events * [1, 1, 1, 1000], labels="5,0,1000000\n")
    (one,), (two,) = DVSGesture(a, "train"), DVSGesture(b, "train")
    np.testing.assert_allclose(one[0], two[0], atol=1e-12)
    np.testing.assert_array_equal(one[1], two[1])


def test_load(tmp_path, rng):
    """One window per gesture; rasters fold into (time, batch, height, width, polarity)."""
    arrays = {f"user{u:02}_led/{c}.npy": draw(rng, 80, stop=2000) for u in (1, 2) for c in (0, 9)}
    prepared(tmp_path, arrays, split="Test")
    data = load_dvs_gesture(tmp_path, "test", downsample=16, duration=0.5, start=0.25)
    assert (data.labels.tolist(), data.groups.tolist(), data.num_classes) == (
        [0, 9, 0, 9],
        [1, 1, 2, 2],
        11,
    )
    assert (data.class_names[9], data.duration) == ("air guitar", 0.5)
    expected = np.zeros((50, 4, 8, 8, 2))
    for s, events in enumerate(arrays.values()):
        for x, y, p, t in events:
            since = int(t - events[0, 3]) - 250  # ms
            if 0 <= since < 500:
                expected[since // 10, s, y // 16, x // 16, p] += 1
    assert expected.max() >= 1
    raster, _ = DeviceEvents.from_dataset(data, dt=0.01).batch(np.arange(4))
    np.testing.assert_array_equal(np.asarray(raster).reshape(expected.shape), expected)


EVENTS = draw(np.random.default_rng(3), 60, stop=3000)


def changed(row, column, value, dtype=float):
    events = EVENTS.astype(dtype)
    events[row, column] = value
    return events


@pytest.mark.parametrize(
    ("events", "match"),
    [
        (changed(7, 0, 128), r"x must be a whole number from 0 to 127, got 128.0 in event 7"),
        (changed(7, 1, -1, int), r"y must be a whole number from 0 to 127, got -1 in event 7"),
        (changed(2, 1, 0.5), r"y must be a whole number"),
        (changed(2, 0, np.nan), r"x must be a whole number from 0 to 127, got nan"),
        (changed(0, 2, 2), r"polarity must be a whole number from 0 to 1, got 2"),
        (changed(9, 3, -1), r"times must be finite and >= 0 ms, got -1.0 in event 9"),
        (changed(9, 3, np.nan), r"times must be finite and >= 0 ms, got nan"),
        (changed(9, 3, np.inf), r"times must be finite and >= 0 ms, got inf"),
        (EVENTS[:, :3], r"must contain an array \(events, 4\), got shape \(60, 3\)"),
        (EVENTS[0], r"must contain an array \(events, 4\), got shape \(4,\)"),
        (EVENTS[:0], r"contains no event"),
        (EVENTS.astype(complex), r"must contain integers or floats, got dtype complex128"),
        (EVENTS.astype(str), r"must contain integers or floats, got dtype <U"),
    ],
)
def test_prepared_arrays_that_are_wrong(tmp_path, events, match):
    found = DVSGesture(prepared(tmp_path, {"user01_led/5.npy": events}), "train")
    with pytest.raises(ValueError, match=rf"user01_led.5\.npy: {match}"):
        found[0]


def test_nothing_is_unpickled(tmp_path):
    prepared(
        tmp_path,
        {"user01_led/5.npy": np.array([[object] * 4])},
        save=lambda p, e: np.save(p, e, allow_pickle=True),
    )
    with pytest.raises(
        ValueError, match=r"5\.npy: must contain integers or floats, got dtype object"
    ):
        DVSGesture(tmp_path, "train")[0]


@pytest.mark.parametrize(
    "shape",
    ["(60, 4)", "(10000000000000, 4)", "(9223372036854775808, 4)", "(-1, 4)", "(0, 4, 100000)"],
)
def test_an_array_that_claims_more_than_the_file_holds(tmp_path, shape):
    path = tmp_path / "ibmGestureTrain/user01_led/5.npy"
    path.parent.mkdir(parents=True)
    head = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(60 * 32 - 1)
    )
    with pytest.raises(ValueError, match=r"5\.npy: (truncated or|must contain an array)"):
        DVSGesture(tmp_path, "train")[0]


POLARITY = packet(EVENTS)
LATER = np.array([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"must begin with b'#!AER-DAT3.1"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"must begin with b'#!AER-DAT3.1"),
        (HEADER.replace(b"3.1", b"2.0") + POLARITY, r"must begin with .* got b'#!AER-DAT2.0"),
        (HEADER[:60], r"damaged or truncated header"),
        (
            HEADER.replace(b"#!END-HEADER\r\n", b"") + POLARITY,
            r"damaged or truncated header: no line .*END-HEADER",
        ),
        (HEADER + POLARITY[:20], r"truncated in the head of the packet at byte 105"),
        (
            HEADER + POLARITY[:-1],
            r"claims 60 events of 8 bytes, 1 bytes more than the file contains",
        ),
        (HEADER + packet(EVENTS, number=2**31 - 1), r"claims 2147483647 events"),
        (
            HEADER + packet(EVENTS, kind=7, number=2**31 - 1, width=2**31 - 1),
            r"claims 2147483647 events of 2147483647 bytes",
        ),
        (
            HEADER + packet(EVENTS, number=-1),
            r"damaged packet at byte 105: events of 8 bytes, -1 of them",
        ),
        (HEADER + packet(EVENTS, width=-8), r"damaged packet"),
        (HEADER + packet(EVENTS, width=0), r"damaged packet"),
        (HEADER + packet(EVENTS, capacity=59), r"capacity 59"),
        (HEADER + packet(EVENTS, claimed_valid=61), r"61 valid"),
        (
            HEADER + packet(EVENTS, width=4),
            r"polarity events have 8 bytes and their time at byte 4, got 4 and 4",
        ),
        (
            HEADER + packet(EVENTS, offset=0),
            r"polarity events have 8 bytes and their time at byte 4, got 8 and 0",
        ),
        (HEADER + packet(EVENTS + (LATER << 31)), r"contains the negative time -21474"),
        (
            HEADER + packet(np.array([[128, 0, 0, 5]])),
            r"x must be a whole number from 0 to 127, got 128",
        ),
        (
            HEADER + packet(np.array([[0, 128, 0, 5]])),
            r"y must be a whole number from 0 to 127, got 128",
        ),
        (HEADER, r"contains no event from 0 to 1000000 us"),
        (HEADER + packet(EVENTS + (LATER << 30)), r"contains no event from 0 to 1000000 us"),
    ],
)
def test_recordings_that_are_wrong(tmp_path, content, match):
    path = original(tmp_path) / "user01_led.aedat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"user01_led\.aedat: .*{match}"):
        DVSGesture(tmp_path, "train")[0]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ("", r"must begin with the line 'class,startTime_usec,endTime_usec', got ''"),
        ("class,start,end\n1,0,5\n", r"must begin with the line"),
        (
            LABELS + "1,0,5\nclap,5,10\n",
            r"line 3 must contain three whole numbers >= 0, got 'clap,5,10'",
        ),
        (LABELS + "1,0\n", r"line 2 must contain three whole numbers"),
        (LABELS + "1,-5,3\n", r"line 2 must contain three whole numbers"),
        (LABELS + "1,0," + "9" * 400 + "\n", r"line 2 must contain three whole numbers"),
        (LABELS + "0,0,5\n", r"line 2 must have a class from 1 to 11, got 0"),
        (LABELS + "12,0,5\n", r"line 2 must have a class from 1 to 11, got 12"),
        (
            LABELS + "1,10,20\n2,5,9\n",
            r"line 3 must be a gesture that starts at or after the one before it \(10 us\) and ends later, got '2,5,9'",
        ),
        (LABELS + "1,20,20\n", r"line 2 must be a gesture that starts"),
        (LABELS + "1,0,5\n" * 10_001, r"must have at most 10000 lines"),
        (b"\xff\xfe1", r"must be plain text, got the byte 0xff at 0"),
        (None, r"no such file; every recording needs one"),
    ],
)
def test_labels_that_are_wrong(tmp_path, labels, match):
    path = original(tmp_path) / "user01_led_labels.csv"
    path.unlink()
    if labels is not None:
        path.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    with pytest.raises(ValueError, match=rf"user01_led_labels\.csv: {match}"):
        DVSGesture(tmp_path, "train")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ("", r"trials_to_train\.txt: must name at least one recording"),
        (
            "../user01_led.aedat\n",
            r"trials_to_train\.txt: a recording must be named userNN_LIGHTING, got '\.\./user01_led'",
        ),
        (
            "user01_led.aedat\nuser01_led.aedat",
            r"trials_to_train\.txt: must name each \.aedat file once",
        ),
        ("user01_led\n", r"trials_to_train\.txt: must name each \.aedat file once"),
        (
            "user02_led.aedat\n",
            r"user02_led\.aedat: no such file, but trials_to_train\.txt names it",
        ),
    ],
)
def test_lists_that_are_wrong(tmp_path, names, match):
    (original(tmp_path) / "trials_to_train.txt").write_text(names)
    with pytest.raises(ValueError, match=match):
        DVSGesture(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("user01_led/11.npy", r"11\.npy: must be named by its class, 0 to 10"),
        ("user01_led/clap.npy", r"clap\.npy: must be named by its class"),
        ("led/1.npy", r"1\.npy: a recording must be named userNN_LIGHTING, got 'led'"),
        (
            "user01_led/1.txt",
            r"ibmGestureTrain: must contain files such as user01_led/0\.npy, got none",
        ),
    ],
)
def test_names_that_are_wrong(tmp_path, name, match):
    prepared(tmp_path, {name: EVENTS}, save=lambda path, _: path.write_bytes(b""))
    with pytest.raises(ValueError, match=match):
        DVSGesture(tmp_path, "train")


def test_folders_and_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        DVSGesture(tmp_path / "nowhere", "train")
    (tmp_path / "something").touch()
    with pytest.raises(
        FileNotFoundError,
        match=r"contains neither ibmGestureTest nor trials_to_test\.txt; it contains \['something'\]",
    ):
        DVSGesture(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="something: not a folder"):
        DVSGesture(tmp_path / "something", "test")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test', got 'valid'"):
        DVSGesture(tmp_path, "valid")
    with pytest.raises(ValueError, match=r"downsample must be one of 1, 2, 4, .* got 3"):
        DVSGesture(tmp_path, "train", downsample=3)
    with pytest.raises(IndexError):
        DVSGesture(prepared(tmp_path, {"user01_led/0.npy": EVENTS}), "train")[1]


@given(
    st.binary(max_size=12),
    st.integers(0, 2**16),
    st.integers(0, 2**16),
    st.sampled_from(["npy", "aedat"]),
)
def test_damaged_files_raise_value_errors_or_are_read(tmp_path_factory, put, at, cut, kind):
    """For any change of bytes and any cut: a ValueError that names the file, or valid events."""
    folder = tmp_path_factory.mktemp("damaged")
    if kind == "npy":
        path = prepared(folder, {"user01_led/3.npy": EVENTS}) / "ibmGestureTrain/user01_led/3.npy"
    else:
        path = original(folder, events=EVENTS, size=9, labels="1,0,3000\n") / "user01_led.aedat"
    content = path.read_bytes()
    at %= 300
    path.write_bytes(
        (content[:at] + put + content[at + len(put) :])[
            : len(content) - max(cut - 2**15, 0) % len(content)
        ]
    )
    message = None
    try:
        times, units = DVSGesture(folder, "train")[0]
    except ValueError as error:
        message = str(error)
    if message is None:
        assert (times >= 0).all()
        assert ((units >= 0) & (units < 2048)).all()
    else:
        assert str(path) in message
