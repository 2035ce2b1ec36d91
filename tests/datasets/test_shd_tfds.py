import contextlib
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile

import h5py
import numpy as np
import pytest
from _support import data_path

from snnjax.datasets import _shd_tfds as module
from snnjax.datasets import download_shd, load_shd_tfds
from snnjax.datasets._fetch import unpack
from snnjax.datasets._shd import read_shd
from snnjax.datasets._shd_tfds import prepare_shd, shd_builder

KEYS = ("zero", "one", "zwölf")


def write(path, *, n=12, seed=0, keys=KEYS, speaker=True, longest=40):
    """Write a file of the SHD layout, with float16 times and a silent sample as in real files."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest, n)
    sizes[n // 2] = 0
    with h5py.File(path, "w") as f:
        for name, dtype, draw in (
            ("times", "f2", lambda k: rng.uniform(0, 0.8, k)),
            ("units", "u2", lambda k: rng.integers(0, 700, k)),
        ):
            rows = f.create_dataset(f"spikes/{name}", (n,), h5py.vlen_dtype(dtype))
            for s, k in enumerate(sizes):
                rows[s] = draw(k).astype(dtype)
        f["labels"] = (np.arange(n) % 3).astype("u2")
        if speaker:
            f["extra/speaker"] = np.arange(n) % 5 - 1
        if keys is not None:
            f.create_dataset("extra/keys", data=list(keys), dtype=h5py.string_dtype())
    return path


def assert_same(a, b):
    for name in ("times", "units", "offsets", "labels", "groups"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, name)
    assert (a.num_units, a.num_classes, a.class_names, a.duration) == (
        b.num_units,
        b.num_classes,
        b.class_names,
        b.duration,
    )


def contents(folder):
    """Every file below a folder, including hidden ones, and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def files(tmp_path):
    return {
        split: write(tmp_path / f"small_{split}.h5", seed=k)
        for k, split in enumerate(("train", "test"))
    }


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# --- from files to the cache and back


def test_round_trip_is_exact(files, cache):
    folder = prepare_shd(cache, files=files)
    assert folder == cache / "spiking_heidelberg_digits" / "1.0.0"
    for split, path in files.items():
        assert_same(load_shd_tfds(split, cache), read_shd(path))
    assert load_shd_tfds("test", cache, duration=0.3).duration == 0.3


def test_round_trip_of_spoken_digits_is_exact(cache):
    path = data_path("shd_format/fsdd_test.h5")
    prepare_shd(cache, files={"test": path}, name="spoken_digits")
    assert_same(load_shd_tfds("test", cache, name="spoken_digits"), read_shd(path))


@pytest.mark.parametrize(
    ("keys", "speaker"),
    [
        (None, True),
        (KEYS, False),
        (("a", "a", "b"), True),
        (("", "b ", "c\nd"), True),
        (None, False),
    ],
)
def test_optional_parts_and_names_that_tfds_cannot_hold(tmp_path, cache, keys, speaker):
    path = write(tmp_path / "x.h5", keys=keys, speaker=speaker)
    prepare_shd(cache, files={"valid": path})
    assert_same(load_shd_tfds("valid", cache), read_shd(path))


def test_order_is_kept_over_shards(tmp_path, cache):
    path = write(tmp_path / "x.h5", n=25)
    import tensorflow_datasets as tfds

    shd_builder({"train": path}, cache).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=4)
    )
    assert len(list(cache.rglob("*.array_record-*-of-00004"))) == 4
    assert_same(load_shd_tfds("train", cache), read_shd(path))


def test_times_of_64_bits_keep_them(tmp_path, cache):
    path = write(tmp_path / "x.h5", n=3)
    with h5py.File(path, "a") as f:
        del f["spikes/times"]
        rows = f.create_dataset("spikes/times", (3,), h5py.vlen_dtype("f8"))
        for s in range(3):
            rows[s] = 1e6 + 1e-6 * np.arange(len(f["spikes/units"][s]))
    prepare_shd(cache, files={"train": path})
    data = load_shd_tfds("train", cache)
    assert data.times.dtype == np.float64
    assert_same(data, read_shd(path))
    assert load_shd_tfds("train", cache, duration=0.5).duration == 0.5


def test_classes_are_counted_over_all_files(tmp_path, cache):
    paths = {
        split: write(tmp_path / f"{split}.h5", n=n, keys=None)
        for split, n in (("train", 2), ("test", 9))
    }
    assert [read_shd(p).num_classes for p in paths.values()] == [2, 3]
    prepare_shd(cache, files=paths)
    assert [load_shd_tfds(split, cache).num_classes for split in paths] == [3, 3]


@pytest.mark.more
def test_tfds_reads_it_without_this_package_and_without_tensorflow(files, cache):
    """In a separate process, which never imports tensorflow; the cache is the default one."""
    code = """if True:
        import sys
        import snnjax.datasets
        assert not {"tensorflow_datasets", "h5py"} & set(sys.modules)
        snnjax.datasets.prepare_shd(files={"train": sys.argv[1]})
        print(snnjax.datasets.load_shd_tfds("train").duration)
        import tensorflow_datasets as tfds
        for e in tfds.data_source("spiking_heidelberg_digits", split="train", download=False):
            print(e["times"].dtype, e["units"].dtype, len(e["times"]), int(e["units"].sum()), e["label"], e["speaker"])
        print(tfds.builder("spiking_heidelberg_digits").info.features["label"].names)
        assert "tensorflow" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(files["train"])],
        env=os.environ | {"TFDS_DATA_DIR": str(cache)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    data = read_shd(files["train"])
    expected = [
        f"float32 int32 {b - a} {data.units[a:b].sum()} {label} {group}"
        for a, b, label, group in zip(
            data.offsets[:-1], data.offsets[1:], data.labels, data.groups, strict=True
        )
    ]
    # and nothing else on standard output
    assert done.stdout.splitlines() == [str(data.duration), *expected, str(list(KEYS))]


def test_prepared_once_and_never_taken_for_other_files(files, cache, monkeypatch):
    folder = prepare_shd(cache, files=files)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    monkeypatch.setattr(module, "read_shd", None)  # no file is read again
    assert prepare_shd(cache, files=files) == folder
    assert prepare_shd(cache, files={"test": files["test"]}) == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    for other in ({"train": files["test"]}, {**files, "valid": files["test"]}):
        with pytest.raises(
            ValueError,
            match=r"1\.0\.0: contains a data set made of other files \(sha256 .*; name another data_dir or name",
        ):
            prepare_shd(cache, files=other)
    with pytest.raises(ValueError, match=r"made of other files \(md5 \{\}, not"):
        prepare_shd(cache)
    with pytest.raises(ValueError, match="contains a data set of 700 units, not num_units = 800"):
        prepare_shd(cache, files=files, num_units=800)
    (folder / "metadata.json").write_text("[1]")
    with pytest.raises(ValueError, match=f"^{folder}: metadata.json is damaged"):
        prepare_shd(cache, files=files)


def test_nothing_is_left_of_what_could_not_be_prepared(tmp_path, files, cache, monkeypatch):
    (tmp_path / "bad.h5").write_bytes(files["test"].read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"bad\.h5: "):
        prepare_shd(cache, files={"train": files["train"], "test": tmp_path / "bad.h5"})
    assert not cache.exists()
    builder = shd_builder(files, cache)
    whole = builder._generate_examples

    def broken(data):
        yield from list(whole(data))[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "_generate_examples", broken)
    with pytest.raises(KeyboardInterrupt):
        builder.download_and_prepare()
    assert contents(cache) == {}
    assert not list(cache.rglob("*incomplete*"))
    with pytest.raises(
        FileNotFoundError, match=r"1\.0\.0: no prepared data set; make it with prepare_shd"
    ):
        load_shd_tfds("train", cache)
    prepare_shd(cache, files=files)
    assert_same(load_shd_tfds("train", cache), read_shd(files["train"]))


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "metadata"])
def test_a_damaged_cache_is_named(files, cache, damage):
    folder = prepare_shd(cache, files=files)
    record = next(folder.glob("*train.array_record*"))
    content = record.read_bytes()
    if damage == "metadata":
        (folder / "metadata.json").write_text("{")
    elif damage == "gone":
        record.unlink()
    else:
        record.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ValueError, match=f"^{folder}: "):
        load_shd_tfds("train", cache)


def test_errors(tmp_path, files, cache):
    with pytest.raises(ValueError, match="files must name at least one split, got none"):
        prepare_shd(cache, files={})
    with pytest.raises(
        ValueError, match="files' split must be one of 'train', 'valid', 'test', got 'validation'"
    ):
        prepare_shd(cache, files={"validation": files["train"]})
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: no such file"):
        prepare_shd(cache, files={"train": tmp_path / "nowhere.h5"})
    for name in ("", "../up", "Name", "a/b"):
        with pytest.raises(ValueError, match="name must be lower-case letters, digits and _"):
            prepare_shd(cache, files=files, name=name)
    other = write(tmp_path / "other.h5", keys=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"files must have the same class names.*other\.h5"):
        prepare_shd(cache, files={**files, "test": other})
    with pytest.raises(ValueError, match=r"speakers \[True, False\]"):
        prepare_shd(cache, files={**files, "test": write(tmp_path / "mute.h5", speaker=False)})
    with pytest.raises(ValueError, match=r"spikes/units|units must be in \[0, 99\]"):
        prepare_shd(cache, files=files, num_units=100)
    assert not cache.exists()
    prepare_shd(cache, files=files)
    with pytest.raises(ValueError, match="split must be one of 'test', 'train', got 'valid'"):
        load_shd_tfds("valid", cache)


# --- the download, from a server on this machine


def zipped(path, content, member=None, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr(member or path.name.removesuffix(".zip"), content)
    return path


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def site(tmp_path, files):
    """The folder of a server: archives as for SHD, and their MD5."""
    root = tmp_path / "site"
    root.mkdir()
    archives = {
        split: zipped(root / f"shd_{split}.h5.zip", path.read_bytes())
        for split, path in files.items()
    }
    return root, {split: md5_of(path) for split, path in archives.items()}


@contextlib.contextmanager
def serve(root, *, cut=0, wait=0.0):
    """Return `(url, requests)`.

    The last `cut` bytes of a file are announced but never sent; answers come after `wait` s.
    """
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            time.sleep(wait)
            path = root / self.path.removeprefix("/datasets/")
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - cut])

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):  # clients close the connection, as they should
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/datasets/", requests
    finally:
        server.shutdown()
        server.server_close()


def test_download(site, files, tmp_path):
    root, md5 = site
    folder = tmp_path / "new" / "data"
    with serve(root) as (url, requests):
        paths = download_shd(folder, url=url, md5=md5)
        assert paths == {split: folder / f"shd_{split}.h5" for split in files}
        assert {split: path.read_bytes() for split, path in paths.items()} == {
            s: p.read_bytes() for s, p in files.items()
        }
        assert sorted(requests) == ["/datasets/shd_test.h5.zip", "/datasets/shd_train.h5.zip"]
        assert sorted(contents(folder)) == [
            "shd_test.h5",
            "shd_test.h5.zip",
            "shd_train.h5",
            "shd_train.h5.zip",
        ]
        # complete files are not downloaded again, damaged ones are
        paths["train"].write_bytes(b"rotten")
        (folder / "shd_test.h5.zip").write_bytes((root / "shd_test.h5.zip").read_bytes()[:-1])
        download_shd(folder, url=url, md5=md5)
        assert sorted(requests[2:]) == ["/datasets/shd_test.h5.zip"]
        assert paths["train"].read_bytes() == files["train"].read_bytes()
        assert md5_of(folder / "shd_test.h5.zip") == md5["test"]


def test_download_to_the_cache(site, files, cache):
    root, md5 = site
    with serve(root) as (url, requests):
        folder = prepare_shd(cache, url=url, md5=md5)
    for split, path in files.items():
        assert_same(load_shd_tfds(split, cache), read_shd(path))
    assert json.loads((folder / "metadata.json").read_text())["md5"] == md5
    # the server has stopped: there are no more requests
    assert prepare_shd(cache, url=url, md5=md5) == folder
    assert prepare_shd(cache, files=files) == folder  # the same files
    assert len(requests) == 2
    with pytest.raises(ValueError, match="made of other files"):
        prepare_shd(cache)


def test_download_from_a_file_url(site, files, tmp_path):
    root, md5 = site
    paths = download_shd(tmp_path / "data", url=root.as_uri(), md5=md5)
    assert paths["test"].read_bytes() == files["test"].read_bytes()


def refuses(folder, error, message, **options):
    """Assert one error that states the problem, and no files left on disk."""
    before = contents(folder)
    with pytest.raises(error, match=message):
        download_shd(folder, **options)
    assert contents(folder) == before


def test_what_goes_wrong_on_the_way(site, tmp_path):
    root, md5 = site
    train = {"train": md5["train"]}
    folder = tmp_path / "data"
    with serve(root) as (url, _):
        name = f"{url}shd_train.h5.zip"
        refuses(
            folder,
            ValueError,
            rf"^{name}: MD5 must be 0{{32}}, got {md5['train']} .*not kept",
            url=url,
            md5={"train": "0" * 32},
        )
        refuses(
            folder,
            ValueError,
            rf"^{name}: must be at most 100 bytes",
            url=url,
            md5=train,
            max_bytes=100,
        )
        refuses(
            folder,
            OSError,
            rf"^{url}more/shd_train.h5.zip: cannot be downloaded \(HTTPError: .*404",
            url=f"{url}more",
            md5=train,
        )
    refuses(
        folder, OSError, rf"^{name}: cannot be downloaded \(URLError: .*refused", url=url, md5=train
    )
    with serve(root, cut=1) as (url, _):
        refuses(
            folder,
            OSError,
            r"(the connection ended after \d+ of \d+ bytes|IncompleteRead)",
            url=url,
            md5=train,
        )
    with serve(root, wait=0.5) as (url, _):
        refuses(
            folder, OSError, "cannot be downloaded .*timed out", url=url, md5=train, timeout=0.1
        )
    refuses(folder, OSError, "cannot be downloaded", url=(tmp_path / "nowhere").as_uri(), md5=train)
    refuses(
        folder,
        ValueError,
        "url must begin with https://, http:// or file://, got 'ftp://x/shd_train.h5.zip'",
        url="ftp://x",
        md5=train,
    )
    refuses(folder, ValueError, "md5's split must be one of", url=url, md5={"../x": ""})


def test_defaults_are_those_of_the_data_set(monkeypatch, tmp_path):
    """The tests cannot reach the real server; only the requests are checked."""
    asked = []
    monkeypatch.setattr(
        module._fetch,
        "fetch",
        lambda url, path, **options: asked.append((url, options["md5"])) or path,
    )
    monkeypatch.setattr(module._fetch, "unpack", lambda archive, member, path, **options: path)
    assert sorted(download_shd(tmp_path)) == ["test", "train"]
    assert asked == [
        ("https://zenkelab.org/datasets/shd_train.h5.zip", "f3252aeb598ac776c1b526422d90eecb"),
        ("https://zenkelab.org/datasets/shd_test.h5.zip", "1503a5064faa34311c398fb0a1ed0a6f"),
    ]
    asked.clear()
    paths = download_shd(tmp_path, collection="ssc")
    assert {split: path.name for split, path in paths.items()} == {
        "train": "ssc_train.h5",
        "valid": "ssc_valid.h5",
        "test": "ssc_test.h5",
    }
    assert asked == [
        ("https://zenkelab.org/datasets/ssc_train.h5.zip", "d102be95e7144fcc0553d1f45ba94170"),
        ("https://zenkelab.org/datasets/ssc_valid.h5.zip", "b4eee3516a4a90dd0c71a6ac23a8ae43"),
        ("https://zenkelab.org/datasets/ssc_test.h5.zip", "a35ff1e9cffdd02a20eb850c17c37748"),
    ]
    with pytest.raises(ValueError, match="collection must be one of 'shd', 'ssc', got 'shc'"):
        download_shd(tmp_path, collection="shc")


def test_speech_commands_are_prepared_under_their_own_name(tmp_path, files, cache):
    root = tmp_path / "site"
    root.mkdir()
    parts = {"train": files["train"], "valid": files["test"], "test": files["test"]}
    md5 = {
        split: md5_of(zipped(root / f"ssc_{split}.h5.zip", path.read_bytes()))
        for split, path in parts.items()
    }
    folder = prepare_shd(cache, collection="ssc", url=root.as_uri(), md5=md5)
    assert folder == cache / "spiking_speech_commands" / "1.0.0"
    for split, path in parts.items():
        found = load_shd_tfds(split, cache, name="spiking_speech_commands")
        assert_same(found, read_shd(path))


# --- wrong archives with a valid checksum


def bomb(path):
    return zipped(path, bytes(10**7))


def liar(path):
    """An archive that declares 1000 bytes, and unpacks to more."""
    content = bytearray(zipped(path, bytes(10**6)).read_bytes())
    size = (10**6).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(bytes(content).replace(size, (1000).to_bytes(4, "little")))


def outside(name):
    def make(path):
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("shd_train.h5", b"good")
            z.writestr(name, b"evil")

    return make


def encrypted(path):
    content = bytearray(zipped(path, b"good").read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)


def twice(path):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("shd_train.h5", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            z.writestr("shd_train.h5", b"two")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "'shd_train.h5' must be at most 1000000 bytes, got 10000000"),
        (liar, "truncated or damaged zip archive .*CRC|must have 1000 bytes"),
        (outside("../evil.h5"), r"must contain no path outside the archive, got '\.\./evil\.h5'"),
        (outside("/tmp/evil.h5"), "must contain no path outside"),
        (outside("a\\..\\..\\evil.h5"), "must contain no path outside"),
        (outside("C:evil.h5"), "must contain no path outside"),
        (
            lambda path: zipped(path, b"good", "shd_test.h5"),
            r"must contain one file 'shd_train\.h5', got \['shd_test\.h5'\]",
        ),
        (lambda path: zipped(path, b"good", "folder/shd_train.h5"), "must contain one file"),
        (twice, "must contain one file"),
        (encrypted, "must be stored or deflated and not encrypted"),
        (lambda path: zipped(path, b"good", method=zipfile.ZIP_LZMA), "must be stored or deflated"),
        (lambda path: path.write_bytes(b"<html>moved</html>"), "truncated or damaged zip archive"),
        (lambda path: path.write_bytes(b""), "truncated or damaged zip archive"),
    ],
)
def test_hostile_archives(tmp_path, make, message):
    root, folder = tmp_path / "site", tmp_path / "data"
    root.mkdir()
    archive = root / "shd_train.h5.zip"
    make(archive)
    everything = set(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        download_shd(folder, url=root.as_uri(), md5={"train": md5_of(archive)}, max_bytes=10**6)
    assert str(caught.value).startswith(f"{folder / 'shd_train.h5.zip'}: ")
    # the archive is the right one and is kept, but none of its content
    assert {p for p in tmp_path.parent.rglob("*") if p not in everything} <= {
        folder,
        folder / "shd_train.h5.zip",
    }


def test_damaged_archives_give_an_error_or_the_file(tmp_path):
    """The archive is cut anywhere, or any byte is changed."""
    content = np.random.default_rng(0).integers(0, 4, 300).astype("u1").tobytes()
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("x.h5", content)
        whole = buffer.getvalue()
    archive, path = tmp_path / "x.zip", tmp_path / "out" / "x.h5"
    path.parent.mkdir()
    variants = [whole[:k] for k in range(len(whole))]
    variants += [
        whole[:k] + bytes([whole[k] ^ flip]) + whole[k + 1 :]
        for k in range(len(whole))
        for flip in (1, 0x80, 0xFF)
    ]
    refused = 0
    for variant in variants:
        archive.write_bytes(variant)
        try:
            unpack(archive, "x.h5", path, max_bytes=10**6)
        except ValueError as error:
            message = str(error)
        else:
            message = ""
            assert path.read_bytes() == content
            path.unlink()
        assert list(path.parent.iterdir()) == []
        if message:
            assert message.startswith(f"{archive}: ")
            refused += 1
    assert refused > len(whole)


def test_a_hostile_file_in_a_good_archive_leaves_no_data_set(tmp_path, cache):
    root = tmp_path / "site"
    root.mkdir()
    md5 = {"train": md5_of(zipped(root / "shd_train.h5.zip", b"\x89HDF\r\n\x1a\n" + bytes(500)))}
    with pytest.raises(ValueError, match=r"shd_train\.h5: "):
        prepare_shd(cache, url=root.as_uri(), md5=md5)
    assert not (cache / "spiking_heidelberg_digits").exists()
