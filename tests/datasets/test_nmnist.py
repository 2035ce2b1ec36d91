import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from _support import data_path

from snnjax.datasets import load_nmnist
from snnjax.datasets._nmnist import sensor_shape


def encode(events) -> bytes:
    """Bytes of a recording: rows of x, y, polarity and time in us."""
    rows = np.asarray(events).tolist()
    return b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, p, t in rows)


def draw(seed, n=50):
    rng = np.random.default_rng(seed)
    columns = *rng.integers(0, 34, (2, n)), rng.integers(0, 2, n), rng.integers(0, 300_000, n)
    return np.stack(columns, axis=1)


EVENTS = {
    "Train/5/00001.bin": draw(0),
    "Train/0/00002.bin": draw(1, 20),
    "Train/5/00010.bin": draw(2, 1),
    "Train/5/00009.bin": draw(3),
}
IN_ORDER = ("Train/0/00002.bin", "Train/5/00001.bin", "Train/5/00009.bin", "Train/5/00010.bin")


def unpacked(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encode(content))
    return folder


def zipped(folder, files, *, name="Train.zip", method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(folder / name, "w", method) as archive:
        for member, content in files.items():
            archive.writestr(member, content if isinstance(content, bytes) else encode(content))
    return folder


def same(a, b):
    for field in ("times", "units", "offsets", "labels", "groups"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert (a.num_units, a.num_classes, a.duration, a.class_names) == (
        b.num_units,
        b.num_classes,
        b.duration,
        b.class_names,
    )


@pytest.mark.parametrize("write", [zipped, unpacked])
def test_bytes_become_events(tmp_path, write):
    # x 3, y 33; polarity 1; time 0x01_02_03 us, then polarity 0 and all 23 bits
    content = bytes([3, 33, 0x81, 0x02, 0x03]) + bytes([33, 0, 0x7F, 0xFF, 0xFF])
    data = load_nmnist(write(tmp_path, {"Train/9/00007.bin": content}), "train", duration=9.0)
    np.testing.assert_array_equal(data.times, np.array([0x010203, 2**23 - 1]) / 1e6)
    np.testing.assert_array_equal(data.units, [(33 * 34 + 3) * 2 + 1, 33 * 2])
    assert (
        data.labels.tolist(),
        data.groups.tolist(),
        data.num_units,
        data.num_classes,
        data.duration,
    ) == ([9], [7], 2312, 10, 9.0)


@pytest.mark.parametrize("downsample", [1, 2, 4, 34])
def test_every_event_is_on_its_pixel(tmp_path, downsample):
    data = load_nmnist(zipped(tmp_path, EVENTS), "train", downsample=downsample)
    height, width, polarities = sensor_shape(downsample)
    assert data.num_units == height * width * polarities
    for s, name in enumerate(IN_ORDER):
        expected = np.zeros((height, width, 2))
        for x, y, p, _ in EVENTS[name]:
            expected[y // downsample, x // downsample, p] += 1
        counts = data.to_dense(5e-3)[:, s].sum(axis=0)
        np.testing.assert_array_equal(counts.reshape(height, width, 2), expected)
        assert data.labels[s] == int(name[6])
        own = data.times[slice(*data.offsets[s : s + 2])]
        np.testing.assert_array_equal(own, EVENTS[name][:, 3] / 1e6)  # in the order of the file


def test_order_is_by_digit_then_number(tmp_path):
    data = load_nmnist(zipped(tmp_path, EVENTS), "train")
    assert data.labels.tolist() == [0, 5, 5, 5]
    assert data.groups.tolist() == [2, 1, 9, 10]


def test_archive_equals_folder(tmp_path):
    for place in ("zip", "stored", "folder"):
        (tmp_path / place).mkdir()
    # files that are not recordings of the split are ignored
    more = {
        "Train/": b"",
        "Train/5/": b"",
        "ReadMe.txt": b"x",
        "Train/Thumbs.db": b"x",
        "__MACOSX/Train/5/._00001.bin": b"x",
    }
    more |= {"Train/5/._00001.bin": b"x", "Test/5/60001.bin": b"x"}
    from_zip = load_nmnist(zipped(tmp_path / "zip", more | EVENTS), "train", downsample=2)
    stored = zipped(tmp_path / "stored", EVENTS, method=zipfile.ZIP_STORED)
    same(from_zip, load_nmnist(stored, "train", downsample=2))
    same(from_zip, load_nmnist(unpacked(tmp_path / "folder", EVENTS), "train", downsample=2))
    assert [p.name for p in (tmp_path / "zip").iterdir()] == ["Train.zip"]  # nothing was unpacked
    unpacked(tmp_path / "zip", {"Train/5/00001.bin": draw(9)})
    same(from_zip, load_nmnist(tmp_path / "zip", "train", downsample=2))  # the archive is used


def test_test_split_is_a_file_of_its_own(tmp_path):
    zipped(tmp_path, EVENTS)
    zipped(tmp_path, {"Test/1/60003.bin": draw(4, 7)}, name="Test.zip")
    data = load_nmnist(tmp_path, "test")
    assert (data.labels.tolist(), data.groups.tolist(), data.counts.tolist()) == ([1], [60003], [7])


def test_marks_of_an_overrun_move_what_comes_later_in_their_own_recording(tmp_path):
    mark = [49, 240, 0, 0]
    first = [[1, 1, 0, 10], mark, [2, 1, 0, 20], mark, mark, [3, 1, 0, 5]]
    files = {
        "Train/0/1.bin": first,
        "Train/0/2.bin": [[4, 1, 0, 7]],
        "Train/0/3.bin": [mark, [5, 1, 0, 1]],
    }
    data = load_nmnist(zipped(tmp_path, files), "train")
    assert data.counts.tolist() == [3, 1, 1]
    expected = np.array([10, 20 + 2**13, 5 + 3 * 2**13, 7, 1 + 2**13]) / 1e6
    np.testing.assert_array_equal(data.times, expected)
    assert (data.units // 2 % 34).tolist() == [1, 2, 3, 4, 5]


def test_times_may_go_back_and_lie_beyond_the_trial(tmp_path):
    events = [[0, 0, 0, 200_000], [1, 0, 0, 100_000], [2, 0, 0, 300_000], [3, 0, 0, 0]]
    data = load_nmnist(zipped(tmp_path, {"Train/0/1.bin": events}), "train")
    np.testing.assert_array_equal(data.times, [0.2, 0.1, 0.3, 0.0])
    steps, _, units = np.nonzero(data.to_dense(5e-3))
    assert list(zip(steps.tolist(), units.tolist(), strict=True)) == [
        (0, 6),
        (20, 2),
        (40, 0),
    ]  # all except the one at 0.3 s


def test_recordings_of_several_blocks_are_in_order(tmp_path):
    files = {f"Train/{k % 10}/{k:05d}.bin": draw(k, 1 + k % 3) for k in range(1, 600)}
    data = load_nmnist(zipped(tmp_path, files), "train")
    names = sorted(files, key=lambda name: (int(name[6]), name))
    np.testing.assert_array_equal(data.counts, [len(files[name]) for name in names])
    microseconds = np.concatenate([files[name][:, 3] for name in names])
    np.testing.assert_array_equal(data.times, microseconds / 1e6)


FINE = [0] * 4
NAMED = r"must be named Train/DIGIT/NUMBER\.bin, with a digit from 0 to 9, got "
WHOLE = r"'Train/5/1\.bin' must contain whole events of 5 bytes, at least one, got "
OUTSIDE = r"'Train/5/1\.bin': x and y must be in \[0, 34\), got "
WRONG = [
    ({"Train/5/1.bin": bytes(7)}, WHOLE + "7 bytes; it is truncated"),
    ({"Train/5/1.bin": b""}, WHOLE + "0 bytes"),
    ({"Train/5/1.bin": bytes(2**18 + 5)}, r"1\.bin' must be at most 262144 bytes, got 262149"),
    (
        {"Train/0/1.bin": [FINE] * 3, "Train/5/1.bin": [FINE, [34, 0, 0, 0]]},
        OUTSIDE + "34 and 0 in event 1",
    ),
    ({"Train/5/1.bin": [FINE, [33, 239, 0, 0], [0, 99, 0, 0]]}, OUTSIDE + "33 and 239 in event 1"),
    ({"Train/10/1.bin": [FINE]}, NAMED + r"'Train/10/1\.bin'"),
    ({"Train/seven/1.bin": [FINE]}, NAMED + r"'Train/seven/1\.bin'"),
    ({"Train/7/one.bin": [FINE]}, NAMED),
    ({"Train/7/0000000001.bin": [FINE]}, NAMED),
    ({"Train/7/more/1.bin": [FINE]}, NAMED),
    ({"Train/1.bin": [FINE]}, NAMED),
    (
        {"Train/7/1.bin": [FINE], "Train/7/00001.bin": [FINE]},
        r"must contain each recording once, got 'Train/7/0*1\.bin' and 'Train/7/0*1\.bin'",
    ),
    ({"Train/7/1.txt": [FINE]}, r"must contain recordings such as Train/0/00002\.bin, got \["),
]


@pytest.mark.parametrize(("files", "match"), WRONG)
@pytest.mark.parametrize("write", [zipped, unpacked])
def test_recordings_that_are_wrong(tmp_path, write, files, match):
    place = re.escape(str(tmp_path / "Train.zip" if write is zipped else tmp_path))
    with pytest.raises(ValueError, match=f"^{place}: .*{match}"):
        load_nmnist(write(tmp_path, files), "train")


@pytest.mark.parametrize(
    "name",
    [
        "N-MNIST/Train/5/1.bin",
        "Test/5/1.bin",
        "/Train/5/1.bin",
        "../Train/5/1.bin",
        "Train\\5\\1.bin",
    ],
)
def test_archives_without_the_folder(tmp_path, name):
    match = r"Train\.zip: must contain recordings such as Train/0/00002\.bin, got \["
    with pytest.raises(ValueError, match=match):
        load_nmnist(zipped(tmp_path, {name: [FINE]}), "train")


def damage(path, change):
    path.write_bytes(change(bytearray(path.read_bytes())))


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    content[60] ^= 0xFF
    return content


def encrypt(content):
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return content


def claim(size):
    """A change of the size in the last directory entry, which then disagrees with the file."""

    def change(content):
        at = content.rindex(b"PK\x01\x02") + 24
        content[at : at + 4] = size.to_bytes(4, "little")
        return content

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (cut, "truncated or damaged zip archive"),
        (flip, "truncated or damaged zip archive"),
        (
            encrypt,
            r"9\.bin' must be stored or deflated and not encrypted, got method 8, flags 1",
        ),
        (lambda content: b"", "truncated or damaged zip archive"),
        (lambda content: b"not an archive at all", "truncated or damaged zip archive"),
        (claim(2**32 - 2), r"'Train/5/00009\.bin' must be at most 262144 bytes, got 4294967294"),
        (claim(500), r"'Train/5/00009\.bin' must have 500 bytes, got 250|truncated or damaged"),
        (claim(245), "truncated or damaged zip archive"),
    ],
)
def test_damaged_and_hostile_archives(tmp_path, change, match):
    damage(zipped(tmp_path, EVENTS) / "Train.zip", change)
    with pytest.raises(ValueError, match=rf"Train\.zip: .*{match}"):
        load_nmnist(tmp_path, "train")


def test_a_file_that_expands_beyond_its_size_takes_no_memory(tmp_path):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bomb.compress(bytes(2**25)) + bomb.flush()
    name = b"Train/5/00001.bin"
    crc = zlib.crc32(bytes(2**25))
    sizes = len(content), 500, len(name), 0
    shared = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, *sizes)
    local = b"PK\x03\x04" + shared + name + content
    directory = b"PK\x01\x02" + struct.pack("<H", 20) + shared + bytes(14) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    (tmp_path / "Train.zip").write_bytes(local + directory + end)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"Train\.zip: truncated or damaged zip archive"):
            load_nmnist(tmp_path, "train")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_limit_on_events(tmp_path):
    zipped(tmp_path, EVENTS)
    match = r"Train\.zip: must contain at most max_events = 120 events, got 121"
    with pytest.raises(ValueError, match=match):
        load_nmnist(tmp_path, "train", max_events=120)
    assert load_nmnist(tmp_path, "train", max_events=121).times.size == 121


def test_folders_and_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_nmnist(tmp_path / "nowhere", "train")
    (tmp_path / "something").touch()
    with pytest.raises(FileNotFoundError, match="something: not a folder"):
        load_nmnist(tmp_path / "something", "test")
    missing = (
        r"must contain Test\.zip or the folder Test of N-MNIST, got \['something'\]; "
        r"get the archives from https://www\.garrickorchard\.com"
    )
    with pytest.raises(FileNotFoundError, match=missing):
        load_nmnist(tmp_path, "test")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test', got 'valid'"):
        load_nmnist(tmp_path, "valid")
    for options, match in (
        ({"downsample": 0}, "downsample must be >= 1 and <= 34, got 0"),
        ({"downsample": 35}, "downsample must be >= 1 and <= 34, got 35"),
        ({"duration": 0.0}, "duration must be finite and > 0 s"),
        ({"max_events": 0}, "max_events must be >= 1"),
    ):
        with pytest.raises(ValueError, match=match):
            load_nmnist(tmp_path, "train", **options)


def test_real_recordings():
    folder = data_path("nmnist")
    train, test = (load_nmnist(folder, split) for split in ("train", "test"))
    assert (len(train), len(test), train.times.size) == (1000, 100, 4_133_231)
    assert train.labels[np.argsort(train.groups)][:10].tolist() == [
        5,
        0,
        4,
        1,
        9,
        2,
        1,
        3,
        1,
        4,
    ]  # those of MNIST
    assert test.labels[np.argsort(test.groups)][:4].tolist() == [7, 2, 1, 0]
    assert (np.diff(train.labels) >= 0).all()
    assert np.mean(train.times < 0.3) > 0.997
    assert all((np.diff(t) >= 0).all() for t in np.split(train.times, train.offsets[1:-1]))
    # pixels: digits are in the middle, and the picture of the ones is higher than it is wide
    ones = train.subset(train.labels == 1).rate().reshape(34, 34, 2).sum(axis=2)
    away = np.square(np.arange(34) - 16.5)
    high, wide = (np.average(away, weights=ones.sum(axis=axis)) for axis in (1, 0))
    assert high > 1.5 * wide


def test_a_single_file_of_another_suite(tmp_path):
    content = data_path("event_files/sample_nmnist.bin").read_bytes()
    data = load_nmnist(unpacked(tmp_path, {"Train/0/1.bin": content}), "train")
    assert data.counts.tolist() == [4325]
