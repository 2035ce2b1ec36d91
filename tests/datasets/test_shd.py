import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from functools import partial

import h5py
import numpy as np
import pytest
from _support import data_path

from snnjax.datasets import load_shd
from snnjax.datasets._hdf5 import REFERENCE, unpack_chunk
from snnjax.datasets._shd import read_shd
from snnjax.experiments._tasks import SHD, find

KEYS = [b"zero", b"one", b"two"]  # stored with a fixed length, as in the real files


def make_rows(n=12, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest, n)
    sizes[n // 2] = 0  # a silent sample
    return [np.sort(rng.uniform(0, 0.8, k)).astype("f2") for k in sizes], [
        rng.integers(0, 700, k).astype("u2") for k in sizes
    ]


TIMES, UNITS = make_rows()
LABELS = np.arange(12, dtype="u2") % 3
SPEAKER = np.arange(12, dtype="u2") % 5


def ragged(f, name, rows, dtype, **options):
    dataset = f.create_dataset(name, (len(rows),), h5py.vlen_dtype(np.dtype(dtype)), **options)
    for s, row in enumerate(rows):
        dataset[s] = np.asarray(row, dtype)
    return dataset


def write(
    path,
    *,
    times=TIMES,
    units=UNITS,
    labels=LABELS,
    speaker=SPEAKER,
    keys=KEYS,
    t="f2",
    u="u2",
    spikes=None,
    flat=None,
):
    """Write a file of the layout.

    Fields that are None are left out. `spikes` and `flat` are options of the datasets with and
    without rows.
    """
    with h5py.File(path, "w") as f:
        for name, rows, dtype in (("spikes/times", times, t), ("spikes/units", units, u)):
            if rows is not None:
                ragged(f, name, rows, dtype, **(spikes or {}))
        for name, values in (("labels", labels), ("extra/speaker", speaker), ("extra/keys", keys)):
            if values is not None:
                f.create_dataset(name, data=np.asarray(values), **(flat or {}))
        f["extra/meta_info/gender"] = [b"unknown"]  # ignored, as in the real files
    return path


def assert_holds(data, times=TIMES, units=UNITS, labels=LABELS):
    np.testing.assert_array_equal(data.times, np.concatenate(times).astype(np.float32))
    np.testing.assert_array_equal(data.units, np.concatenate(units))
    np.testing.assert_array_equal(data.counts, [len(row) for row in times])
    np.testing.assert_array_equal(data.labels, labels)


def refuses(path, message, **options):
    """Assert that reading fails with one ValueError that names the file and the problem."""
    with pytest.raises(ValueError, match=message) as caught:
        read_shd(path, **options)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x_train.h5"


# --- valid files


def test_reads_what_was_written(path):
    data = read_shd(write(path))
    assert_holds(data)
    np.testing.assert_array_equal(data.groups, SPEAKER)
    assert (data.num_units, data.num_classes, data.class_names) == (700, 3, ("zero", "one", "two"))


@pytest.mark.parametrize("t", ["f2", ">f2", "f4", "f8", ">f8"])
@pytest.mark.parametrize("u", ["u2", "i8", ">i4"])
def test_dtypes(path, t, u):
    times = [np.asarray(row, t) * 1.0 for row in TIMES]
    data = read_shd(
        write(path, times=times, t=t, u=u, labels=LABELS.astype(u), speaker=SPEAKER.astype(u))
    )
    assert_holds(data)
    kept = "f8" if t.endswith("f8") else "f4"
    assert [a.dtype for a in (data.times, data.units, data.labels, data.groups)] == [
        kept,
        "i4",
        "i4",
        "i4",
    ]


@pytest.mark.parametrize(
    "spikes", [{"chunks": (5,), "maxshape": (None,)}, {"chunks": (1,)}, {"chunks": (12,)}]
)
@pytest.mark.parametrize(
    "flat",
    [
        {"chunks": (5,), "maxshape": (None,)},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
    ],
)
def test_storage(path, spikes, flat):
    data = read_shd(write(path, spikes=spikes, flat=flat, keys=None))
    assert_holds(data)
    np.testing.assert_array_equal(data.groups, SPEAKER)


@pytest.mark.parametrize("filters", [[], [1], [2], [2, 1]])
def test_chunks_of_references_unpack(filters):
    # this HDF5 no longer compresses references; older versions did
    rows = np.array([(3, 4096, 1), (2**31, 2**40 + 7, 65535), (0, 0, 0)], REFERENCE)
    stored = rows.tobytes()
    if 2 in filters:
        stored = np.frombuffer(stored, np.uint8).reshape(3, 16).T.tobytes()
    if 1 in filters:
        stored = zlib.compress(stored)
    np.testing.assert_array_equal(unpack_chunk("x", stored, filters, 3, REFERENCE), rows)


def test_optional_parts(path):
    data = read_shd(write(path, speaker=None, keys=None, labels=LABELS + 4))
    assert data.groups is None
    assert data.class_names is None
    assert data.num_classes == 7  # the largest label + 1


def test_names_of_variable_length(path):
    names = ["null", "zwölf", ""]
    write(path, keys=None)
    with h5py.File(path, "a") as f:
        f.create_dataset("extra/keys", data=names, dtype=h5py.string_dtype())
    assert read_shd(path).class_names == tuple(names)


def test_duration(path):
    last = max(float(row.max()) for row in TIMES if row.size)
    data = read_shd(write(path))
    assert last < data.duration <= last + 0.001
    assert data.duration * 1000 == pytest.approx(round(data.duration * 1000))
    assert data.to_dense(1e-3, dtype=np.int32).sum() == data.times.size  # nothing is lost
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file in seconds may have short trials
        assert read_shd(path, duration=0.1).duration == 0.1
    cut = read_shd(path, duration=0.3)
    assert cut.times.size == data.times.size
    assert cut.to_dense(1e-3, dtype=np.int32).sum() == sum(
        int((row.astype(float) < 0.3).sum()) for row in TIMES
    )
    # an event on a whole millisecond is inside too
    times = [np.float32([0.8])] * 12
    assert read_shd(write(path, times=times, units=[[0]] * 12, t="f4")).duration == 0.801


def test_silent_file(path):
    empty = [np.zeros(0)] * 12
    for spikes in ({}, {"chunks": (4,)}):
        data = read_shd(write(path, times=empty, units=empty, spikes=spikes))
        assert data.counts.tolist() == [0] * 12
        assert len(data) == 12


def test_h5py_is_imported_only_to_read():
    code = "import sys, snnjax.datasets; print('h5py' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


# --- the real files


@pytest.mark.parametrize(("split", "n", "per_class"), [("train", 2400, 240), ("test", 300, 30)])
def test_real_files(split, n, per_class):
    folder = data_path("shd_format")
    data = load_shd(folder, split)
    assert len(data) == n
    assert np.bincount(data.labels).tolist() == [per_class] * 10
    assert data.class_names == (
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    )
    assert np.bincount(data.groups).tolist() == [n // 6] * 6
    assert data.num_units == 700
    assert data.duration == pytest.approx(0.8)
    assert data.to_dense(0.8, 1, dtype=np.int32).sum() == data.times.size
    if split == "train":
        assert (data.counts.min(), data.counts.max()) == (764, 8600)
    # sample by sample as h5py reads it
    with h5py.File(folder / f"fsdd_{split}.h5") as f:
        for s in range(0, n, 37):
            rows = slice(data.offsets[s], data.offsets[s + 1])
            np.testing.assert_array_equal(data.times[rows], f["spikes/times"][s].astype(np.float32))
            np.testing.assert_array_equal(data.units[rows], f["spikes/units"][s])
        np.testing.assert_array_equal(data.labels, f["labels"][:])
        np.testing.assert_array_equal(data.groups, f["extra/speaker"][:])


def test_real_file_holds_speakers_out():
    data = load_shd(data_path("shd_format"), "test")
    rest, held = data.split_groups([4])
    assert len(rest) + len(held) == 300
    assert set(held.groups.tolist()) == {4}
    assert 4 not in rest.groups


# --- finding a file


def test_load_finds_the_file(tmp_path):
    write(tmp_path / "fsdd_train.h5")
    write(tmp_path / "fsdd_valid.h5", labels=LABELS[::-1])
    assert_holds(load_shd(tmp_path, "train"))
    assert_holds(load_shd(str(tmp_path), "valid", duration=0.5), labels=LABELS[::-1])
    with pytest.raises(
        FileNotFoundError,
        match=r"contains no file \*_test.h5; its .h5 files: \['fsdd_train.h5', 'fsdd_valid.h5'\]",
    ):
        load_shd(tmp_path, "test")
    write(tmp_path / "shd_train.h5")
    with pytest.raises(
        ValueError,
        match=r"must contain one file \*_train.h5, got \['fsdd_train.h5', 'shd_train.h5'\]; use a folder",
    ):
        load_shd(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_shd(tmp_path / "nowhere", "train")
    with pytest.raises(
        ValueError, match="split must be one of 'train', 'valid', 'test', got 'dev'"
    ):
        load_shd(tmp_path, "dev")  # type: ignore[arg-type]


def test_a_usual_subfolder_is_searched_as_by_the_command_line(tmp_path):
    (tmp_path / "shd_format").mkdir()
    write(tmp_path / "shd_format" / "fsdd_train.h5")
    assert_holds(load_shd(tmp_path, "train"))
    assert find(SHD, tmp_path) == tmp_path / "shd_format"
    # a folder with files of its own is not completed from another one
    write(tmp_path / "fsdd_test.h5")
    with pytest.raises(FileNotFoundError, match=r"give the folder .*: .*/shd_format$"):
        load_shd(tmp_path, "train")


def test_a_missing_file_says_where_it_is_and_what_to_do(tmp_path):
    (tmp_path / "words").mkdir()
    write(tmp_path / "words" / "fsdd_train.h5")
    with pytest.raises(FileNotFoundError, match=r"give the folder that contains it: .*/words$"):
        load_shd(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="for validation, split the training data"):
        load_shd(tmp_path / "words", "valid")
    assert load_shd(tmp_path / "words", "train", num_units=1000).num_units == 1000


# --- files that are not HDF5


def test_missing(path):
    with pytest.raises(FileNotFoundError, match=r"x_train\.h5: no such file"):
        read_shd(path)


def test_directory(tmp_path):
    refuses(tmp_path, "must be a regular file")


def test_fifo(path):
    os.mkfifo(path)  # opening it would wait forever
    refuses(path, "must be a regular file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, this is a text file\n" * 100, "is not an HDF5 file: it begins with b'hello"),
        (np.random.default_rng(0).bytes(5000), "is not an HDF5 file"),
        (
            gzip.compress(b"spikes" * 1000),
            "is a gzip archive; unpack it first|but a gzip archive; unpack it first",
        ),
        (b"PK\x03\x04" + bytes(500), "but a zip archive"),
        (b"\x89HDF\r\n\x1a\n", "truncated or damaged HDF5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(4000), "truncated or damaged HDF5 file"),
        (
            b"\x89HDF\r\n\x1a\n" + np.random.default_rng(1).bytes(4000),
            "truncated or damaged HDF5 file",
        ),
    ],
    # the bytes cannot be test names, because gzip writes the time: they would differ between the
    # workers of a parallel run
    ids=[
        "empty",
        "text",
        "noise",
        "gzip",
        "zip",
        "signature",
        "signature-zeros",
        "signature-noise",
    ],
)
def test_other_content(path, content, message):
    path.write_bytes(content)
    refuses(path, message)


@pytest.mark.parametrize("spikes", [{}, {"chunks": (4,)}])
def test_truncated_anywhere(path, spikes):
    whole = write(path, spikes=spikes).read_bytes()
    for keep in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:keep])
        refuses(path, "truncated or damaged|is not an HDF5 file")


def test_tail_lost_but_length_kept(path):
    whole = write(path).read_bytes()
    first, last = (
        whole.index(b"GCOL"),
        whole.rindex(UNITS[-1].tobytes()) - 16,
    )  # the last object's header
    for keep in np.linspace(first, last, 20).astype(int):
        path.write_bytes(whole[:keep] + bytes(len(whole) - keep))
        refuses(path, "damaged|does not contain")


# --- HDF5 of another layout


def test_missing_parts(path):
    for part in ("times", "units", "labels"):
        refuses(
            write(path, **{part: None}),
            f"has no {'labels' if part == 'labels' else 'spikes/' + part}; / ?.*contains",
        )
    with h5py.File(path, "w") as f:
        f["data"] = np.zeros(3)
    refuses(path, r"has no labels; / contains \['data'\]")


def replace(path, name, make):
    write(path)
    with h5py.File(path, "a") as f:
        del f[name]
        make(f)
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "spikes/times",
            lambda f: f.create_group("spikes/times"),
            "spikes/times must be a dataset, got a group",
        ),
        ("labels", lambda f: f.create_group("labels"), "labels must be a dataset, got a group"),
        (
            "spikes",
            lambda f: f.create_dataset("spikes", data=np.zeros(3)),
            "spikes must be a group, got a dataset",
        ),
        (
            "extra",
            lambda f: f.create_dataset("extra", data=np.zeros(3)),
            "extra must be a group, got a dataset",
        ),
        (
            "labels",
            lambda f: f.__setitem__("labels", np.dtype("f4")),
            "labels must be a dataset, got a datatype",
        ),
        (
            "spikes/times",
            lambda f: f.create_dataset("spikes/times", data=np.zeros((12, 5), "f2")),
            r"one-dimensional, got shape \(12, 5\)",
        ),
        (
            "spikes/times",
            lambda f: f.create_dataset("spikes/times", data=np.zeros(12, "f2")),
            "variable-length arrays of float16.*dtype float16",
        ),
        (
            "spikes/times",
            lambda f: f.create_dataset("spikes/times", data=h5py.Empty("f2")),
            "one-dimensional, got shape None",
        ),
        (
            "spikes/times",
            lambda f: f.create_dataset("spikes/times", data=1.0),
            r"one-dimensional, got shape \(\)",
        ),
        (
            "spikes/times",
            lambda f: f.create_dataset("spikes/times", data=["a"] * 12, dtype=h5py.string_dtype()),
            "spikes/times must contain variable",
        ),
        (
            "spikes/times",
            lambda f: ragged(f, "spikes/times", UNITS, "u2"),
            "float16, float32 or float64, got variable-length arrays of uint16",
        ),
        (
            "spikes/times",
            lambda f: ragged(f, "spikes/times", TIMES, "c8"),
            "got variable-length arrays of complex64",
        ),
        (
            "spikes/times",
            lambda f: ragged(f, "spikes/times", TIMES, "g"),
            "got variable-length arrays of float128",
        ),
        (
            "spikes/units",
            lambda f: ragged(f, "spikes/units", TIMES, "f2"),
            "arrays of integers, got variable-length arrays of float16",
        ),
        (
            "spikes/units",
            lambda f: ragged(f, "spikes/units", [x > 9 for x in UNITS], "?"),
            "integers, got variable-length arrays of bool",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=LABELS.astype("f4")),
            "labels must contain integers, got dtype float32",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=LABELS > 1),
            "labels must contain integers, got dtype bool",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=[b"one"] * 12),
            "labels must contain integers, got dtype",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=LABELS[:, None]),
            r"labels must be one-dimensional, got shape \(12, 1\)",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=LABELS[:11]),
            "must have one entry per sample, got 12 for 11 labels",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", (12,), "u2", fillvalue=1),
            "labels must not have both unwritten rows",
        ),
        (
            "labels",
            lambda f: f.create_dataset("labels", data=LABELS, chunks=(4,), compression="lzf"),
            "compressed with gzip .*filters",
        ),
        (
            "extra/speaker",
            lambda f: f.create_dataset("extra/speaker", data=SPEAKER[:3]),
            "extra/speaker must have one entry per sample, got 3",
        ),
        (
            "extra/speaker",
            lambda f: f.create_dataset("extra/speaker", data=[b"x"] * 12),
            "extra/speaker must contain integers",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", data=np.arange(3)),
            "extra/keys must contain strings, got dtype int64",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", data=[b"\xff", b"\xfe"]),
            "extra/keys must contain UTF-8 strings",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", data=[b"a" * 2000]),
            "strings of at most 1000 bytes, got 2000",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", data=["a" * 2000], dtype=h5py.string_dtype()),
            "at most 1000 bytes, got 2000",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", (0,), "S3"),
            "extra/keys must contain at least one entry, got none",
        ),
        (
            "extra/keys",
            lambda f: f.create_dataset("extra/keys", (20_000,), "S3"),
            "extra/keys must have at most 10000 entries, got 20000",
        ),
    ],
)
def test_wrong_layout(path, name, make, message):
    refuses(replace(path, name, make), message)


def test_no_samples(path):
    refuses(
        write(path, times=[], units=[], labels=LABELS[:0], speaker=None),
        "labels must contain at least one entry, got none",
    )


def test_user_block(path):
    with h5py.File(path, "w", userblock_size=512) as f:
        ragged(f, "spikes/times", TIMES, "f2")
        ragged(f, "spikes/units", UNITS, "u2")
        f["labels"] = LABELS
    refuses(path, "no user block")


# --- wrong values


def changed(rows, sample, position, value):
    rows = [np.array(row) for row in rows]
    rows[sample] = rows[sample].astype(np.result_type(rows[sample].dtype, type(value)))
    rows[sample][position] = value
    return rows


@pytest.mark.parametrize("t", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (-0.25, "-0.25")]
)
def test_bad_times(path, value, shown, t):
    position = sum(map(len, TIMES[:4]))
    write(path, times=changed(TIMES, 4, 0, value), t=t)
    refuses(
        path, rf"times must be finite and >= 0 s, got {shown} at position {position} \(sample 4\)"
    )


def test_time_beyond_a_century(path):
    write(path, times=changed(TIMES, 0, 0, 1e308), t="f8")
    refuses(path, r"times must be below 4294967296 s, .* got 1e\+308 at position 0 \(sample 0\)")


@pytest.mark.parametrize(
    ("value", "u"), [(700, "u2"), (-1, "i2"), (2**40, "i8"), (2**32 + 5, "u8"), (2**63 + 1, "u8")]
)
def test_bad_units(path, value, u):
    units = [np.array(row, u) for row in UNITS]
    units[3][1] = value
    write(path, units=units, u=u)
    refuses(path, rf"units must be in \[0, 699\], got {value} at position \d+ \(sample 3\)")
    if value == 700:
        assert read_shd(path, num_units=701).num_units == 701


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [(KEYS, 3, r"\[0, 2\], got 3"), (None, -1, "got -1"), (None, 2**40, "got 1099511627776")],
)
def test_bad_labels(path, keys, value, message):
    labels = LABELS.astype("i8")
    labels[5] = value
    refuses(write(path, labels=labels, keys=keys), rf"labels must be in .*{message} at position 5")


def test_rows_of_different_length(path):
    units = list(UNITS)
    units[7] = units[7][:-1]
    k = len(TIMES[7])
    refuses(
        write(path, units=units),
        f"must have the same length in each sample, got {k} and {k - 1} in sample 7",
    )


# --- links and data elsewhere


def test_links(path, tmp_path):
    other = write(tmp_path / "other.h5")
    for link, kind in (
        (h5py.ExternalLink(str(other), "labels"), "ExternalLink"),
        (h5py.SoftLink("/extra/speaker"), "SoftLink"),
    ):
        refuses(
            replace(path, "labels", lambda f, link=link: f.__setitem__("labels", link)),
            f"labels must not be a link, got {kind}",
        )
    link = h5py.ExternalLink(str(other), "spikes")
    refuses(
        replace(path, "spikes", lambda f: f.__setitem__("spikes", link)),
        "spikes must not be a link, got ExternalLink",
    )
    refuses(
        replace(path, "extra", lambda f: f.__setitem__("extra", h5py.SoftLink("/spikes"))),
        "extra must not be a link, got SoftLink",
    )


def test_data_in_other_files(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    external = [(str(secret), 0, 24)]
    refuses(
        replace(
            path, "labels", lambda f: f.create_dataset("labels", (12,), "u2", external=external)
        ),
        "labels must have its data in this file, got one with external storage",
    )
    layout = h5py.VirtualLayout((12,), "u2")
    layout[:] = h5py.VirtualSource(str(write(tmp_path / "other.h5")), "labels", (12,))
    refuses(
        replace(path, "labels", lambda f: f.create_virtual_dataset("labels", layout)),
        "labels must have .* with virtual storage",
    )


# --- more than the size of the file allows


def traced(path, message, limit, **options):
    """Assert that the file is refused with less than `limit` bytes of memory."""
    refuses(path, message, **options)  # so that imports and caches are not counted
    tracemalloc.start()
    try:
        refuses(path, message, **options)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_limits(path):
    write(path)
    total = sum(map(len, TIMES))
    refuses(path, "labels must have at most 11 entries, got 12", max_samples=11)
    refuses(path, f"at most max_events = {total - 1} events, got {total}", max_events=total - 1)
    assert len(read_shd(path, max_samples=12, max_events=total)) == 12
    for name in ("max_samples", "max_events", "num_units"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            read_shd(path, **{name: 0})
    with pytest.raises(ValueError, match="duration must be finite and > 0 s, got -1"):
        read_shd(path, duration=-1)


def test_huge_logical_shapes(path):
    def huge(name, dtype, n):
        return lambda f: f.create_dataset(
            name, (n,), dtype, chunks=(1000,), compression="gzip" if dtype == "u2" else None
        )

    vlen = h5py.vlen_dtype(np.dtype("f2"))
    traced(
        replace(path, "labels", huge("labels", "u2", 10**11)),
        "labels must have at most 1000000 entries, got 100000000000",
        2**20,
    )
    traced(
        replace(path, "spikes/times", huge("spikes/times", vlen, 10**9)),
        "spikes/times must have at most 1000000 entries",
        2**20,
    )
    chunk = replace(
        path,
        "labels",
        lambda f: f.create_dataset("labels", (12,), "u2", maxshape=(None,), chunks=(10**8,)),
    )
    traced(chunk, "labels must have at most 1000000 entries per chunk, got 100000000", 2**20)


def test_compressed_chunk_that_expands(path):
    def bomb(f, stream):
        f.create_dataset(
            "labels", (12,), "u2", chunks=(12,), compression="gzip"
        ).id.write_direct_chunk((0,), stream)

    for stream, message, limit in (
        (
            zlib.compress(bytes(10**6)),
            "labels has a chunk that does not unpack to its 24 bytes, but to more",
            2**20,
        ),
        (
            zlib.compress(bytes(10**8)),
            "labels has a chunk of .* bytes for 12 entries of 2",
            2**20,
        ),  # 100 kB on disk
        (zlib.compress(bytes(10)), "does not unpack to its 24 bytes, but to 10", 2**20),
        (b"not a zlib stream", "labels has a damaged compressed chunk", 2**20),
    ):
        traced(replace(path, "labels", partial(bomb, stream=stream)), message, limit)


def test_samples_that_share_their_spikes(path):
    n, long = 1000, np.zeros(50_000)
    rows = [long] + [[0.0]] * (n - 1)
    write(path, times=rows, units=rows, labels=np.zeros(n, int), speaker=None, keys=None)
    with h5py.File(path) as f:
        places = [f[f"spikes/{name}"].id.get_offset() for name in ("times", "units")]
    content = bytearray(path.read_bytes())
    for at in places:
        content[at : at + 16 * n] = (
            content[at : at + 16] * n
        )  # every sample refers to the spikes of the first
    path.write_bytes(content)
    traced(
        path, "spikes/times claims 50000000 elements of 2 bytes, more than the file contains", 2**20
    )
    refuses(
        path,
        "spikes/times must contain at most max_events = 1000 events, got 50000000",
        max_events=1000,
    )


# --- damaged heaps of rows: HDF5's own reader loops forever on some of these


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**62, 2**64 - 16, 2**64 - 1])
def test_damaged_object_size(path, size):
    content = bytearray(write(path).read_bytes())
    at = content.index(b"GCOL") + 16
    content[at + 8 : at + 16] = struct.pack("<Q", size)
    path.write_bytes(content)
    refuses(
        path,
        r"spikes/times refers in sample 0 to an object that the heap at byte \d+ does not contain",
    )


@pytest.mark.parametrize("size", [0, 15, 2**40, 2**64 - 1])
def test_damaged_heap_size(path, size):
    content = bytearray(write(path).read_bytes())
    at = content.index(b"GCOL")
    content[at + 8 : at + 16] = struct.pack("<Q", size)
    path.write_bytes(content)
    refuses(path, f"spikes/times refers to a heap at byte {at}, which is missing or damaged")


def test_heaps_that_overlap(path):
    # nested heaps would need the square of the file's size to read
    write(path, times=[[0.5]] * 12, units=[[1]] * 12)
    with h5py.File(path) as f:
        refs = f["spikes/times"].id.get_offset()
    content = bytearray(path.read_bytes())
    base = len(content)
    for s in range(12):
        content += struct.pack("<4sB3xQHH4xQ8x", b"GCOL", 1, 4096, 1, 1, 2)
        content[refs + 16 * s : refs + 16 * s + 16] = struct.pack("<IQI", 1, base + 40 * s, 1)
    path.write_bytes(bytes(content) + bytes(4096))
    refuses(path, "which is missing or damaged")


@pytest.mark.parametrize("chunks", [None, (4,)])
def test_random_damage_to_the_rows(path, chunks):
    """For any bytes in references and heaps: another valid data set, or one ValueError."""
    rng = np.random.default_rng(3)
    content = write(path, spikes={"chunks": chunks}).read_bytes()
    first = content.index(b"GCOL")
    last = content.rindex(b"GCOL") + 4096
    spots = list(range(first, min(last, len(content))))
    if chunks is None:
        with h5py.File(path) as f:
            for name in ("times", "units"):
                at = f[f"spikes/{name}"].id.get_offset()
                spots += list(range(at, at + 16 * 12)) * 8
    outcomes = set()
    for _ in range(250):
        damaged = bytearray(content)
        for at in rng.choice(spots, rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            data = read_shd(path)
        except ValueError as error:
            outcomes.add(str(error).startswith(f"{path}: "))
        else:
            np.testing.assert_array_equal(data.labels, LABELS)
            np.testing.assert_array_equal(data.counts, [len(row) for row in TIMES])
            outcomes.add("read")
    assert outcomes == {"read", True}
