import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import batch, require

from snnjax.datasets import DeviceEvents, Stream
from snnjax.datasets._crop import crop, drop_events, random_crop
from snnjax.datasets._sparse_events import SparseEvents

OPTIONS = {"duration": 0.5, "dt": 0.01, "shard_size": 8, "seed": 3}


class Fake:
    """Recordings of 0.3 to 2 s that are generated on request; it records the requests."""

    def __init__(self, n=29, num_units=7, scale=1):
        self.labels, self.num_units, self.num_classes, self.scale = (
            np.arange(n) % 3,
            num_units,
            3,
            scale,
        )
        self.reads, self.threads = [], set()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        self.reads.append(i)
        self.threads.add(threading.current_thread())
        rng = np.random.default_rng(i)
        n = self.scale * int(rng.integers(20, 200))
        return rng.uniform(0, rng.uniform(0.3, 2.0), n), rng.integers(0, self.num_units, n)


def brute_force(stream, epoch):
    """Rasters (shards, steps, shard_size, num_units) and labels by loops.

    The loops follow the definition at the top of the module.
    """
    rasters, labels = [], []
    order = np.random.default_rng([0, stream.seed, epoch]).permutation(len(stream.recordings))
    for k in range(len(order) // stream.shard_size):
        raster = np.zeros((50, stream.shard_size, 7))
        indices = order[k * stream.shard_size : (k + 1) * stream.shard_size]
        for s, i in enumerate(indices.tolist()):
            rng = np.random.default_rng([1, stream.seed, epoch, i])
            times, units = Fake()[i]
            if stream.crop == "random":
                times, units = random_crop(rng, times, units, duration=0.5)
            else:
                times, units = crop(times, units, duration=0.5)
            if stream.drop:
                times, units = drop_events(rng, times, units, stream.drop)
            for t, u in zip(times, units, strict=True):
                if t < 0.5:
                    raster[int(t / 0.01), s, u] += 1
        rasters.append(raster)
        labels.append(indices % 3)
    return np.array(rasters), np.array(labels)


def read(stream, epoch):
    shards = [batch(shard, np.arange(len(shard))) for shard in stream.shards(epoch)]
    return np.array([np.asarray(x) for x, _ in shards]), np.array(
        [np.asarray(y) for _, y in shards]
    )


@pytest.mark.more
@pytest.mark.parametrize(
    "options",
    [{}, {"crop": "start"}, {"drop": 0.4, "workers": 3}, {"shard_size": 29, "workers": 1}],
)
def test_an_epoch_is_the_loop_over_the_same_windows(options):
    require("grain")
    stream = Stream(Fake(), **OPTIONS | options)
    for epoch in (0, 5):
        for got, expected in zip(read(stream, epoch), brute_force(stream, epoch), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_epoch_depends_on_seed_and_epoch_alone():
    require("grain")
    x, labels = read(Stream(Fake(), **OPTIONS), 1)
    again, _ = read(Stream(Fake(), **OPTIONS, workers=4), 1)
    np.testing.assert_array_equal(x, again)
    for other in (
        read(Stream(Fake(), **OPTIONS), 2),
        read(Stream(Fake(), **OPTIONS | {"seed": 4}), 1),
    ):
        assert not np.array_equal(labels, other[1])
    # in another epoch, a recording is cut at another place
    stream = Stream(Fake(1), **OPTIONS | {"shard_size": 1})
    assert not np.array_equal(read(stream, 0)[0], read(stream, 1)[0])


def test_recordings_that_fill_no_shard_are_left_out_and_differ_by_epoch():
    stream = Stream(Fake(), **OPTIONS)
    assert (stream.n_shards, stream.order(0).shape, stream.steps) == (3, (3, 8), 50)
    shown = [set(stream.order(epoch).ravel().tolist()) for epoch in range(20)]
    assert {len(some) for some in shown} == {24}
    assert set.union(*shown) == set(range(29))
    assert len({frozenset(some) for some in shown}) > 1


def test_reads_ahead_in_threads_but_never_more_than_a_shard():
    require("grain")
    fake = Fake(80)
    stream = Stream(fake, **OPTIONS, workers=2)
    expected = stream.order(0).ravel().tolist()
    for k, _ in enumerate(stream.shards(0), start=1):
        deadline = time.monotonic() + 60  # reached only if something is wrong
        while len(fake.reads) < min((k + 1) * 8, 80) and time.monotonic() < deadline:
            time.sleep(0.01)  # the threads continue while a shard is in use
        assert len(fake.reads) == min((k + 1) * 8, 80)
        assert sorted(fake.reads) == sorted(expected[: len(fake.reads)])
    assert len(fake.threads) == 2
    assert threading.main_thread() not in fake.threads


def test_a_closed_epoch_leaves_no_thread():
    require("grain")
    fake = Fake(80)
    shards = Stream(fake, **OPTIONS).shards(0)
    next(shards)
    shards.close()
    deadline = time.monotonic() + 60  # reached only if something is wrong
    while any(thread.is_alive() for thread in fake.threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in fake.threads)
    assert len(fake.reads) <= 17


def test_few_shapes_are_compiled():
    require("grain")
    stream = Stream(Fake(200, scale=5), **OPTIONS)
    shards = [shard for epoch in range(4) for shard in stream.shards(epoch)]
    true_shapes = {
        (int(shard.offsets[-1]), int(np.diff(np.asarray(shard.offsets)).max())) for shard in shards
    }
    f = jax.jit(lambda shard: shard.batch(jnp.arange(8))[0].sum())
    for shard in shards:
        assert int(f(shard)) == int(shard.offsets[-1])
    assert len(true_shapes) > 90
    assert f._cache_size() <= 6


@pytest.mark.more
def test_padding_changes_no_batch():
    addresses, offsets = np.array([0, 3, 3, 11], np.int32), np.array([0, 3, 3, 4])
    plain, padded = (
        DeviceEvents.from_bins(
            addresses, offsets, np.array([2, 0, 1]), num_steps=4, num_units=3, pad=pad
        )
        for pad in (False, True)
    )
    assert (plain.longest, plain.addresses.shape, padded.longest, padded.addresses.shape) == (
        3,
        (7,),
        4,
        (8,),
    )
    np.testing.assert_array_equal(batch(padded, np.arange(3))[0], batch(plain, np.arange(3))[0])
    silent = DeviceEvents.from_bins(
        addresses[:0], np.zeros(3, int), np.zeros(2), num_steps=4, num_units=3, pad=True
    )
    assert (silent.longest, float(silent.batch(jnp.arange(2))[0].sum())) == (1, 0.0)


class Bad(Fake):
    def __init__(self, times, units, **changes):
        super().__init__()
        self.sample = np.asarray(times), np.asarray(units)
        vars(self).update(changes)

    def __getitem__(self, i):
        return self.sample


@pytest.mark.parametrize(
    ("times", "units", "match"),
    [
        ([0.1, 0.2], [0, 7], r"recording \d+: units must be in \[0, 6\], got 7"),
        ([0.1, -0.2], [0, 1], r"recording \d+: times must be finite and >= 0 s, got -0.2"),
        ([0.1, np.nan], [0, 1], r"recording \d+: "),
        ([0.1], [0, 1], r"recording \d+: units must have one entry per event"),
    ],
)
@pytest.mark.parametrize("crop", ["random", "start"])
def test_recordings_that_are_wrong_are_named(times, units, match, crop):
    require("grain")
    with pytest.raises(ValueError, match=match):
        next(Stream(Bad(times, units), crop=crop, **OPTIONS).shards(0))


class Raises(Fake):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, i):
        raise self.error


class OwnError(RuntimeError):
    def __init__(self, code, reason):
        super().__init__(f"{reason}, code {code}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (TypeError("no"), TypeError, "no"),
        (ZeroDivisionError(), ZeroDivisionError, "ZeroDivisionError"),
        (
            FileNotFoundError(2, "No such file or directory", "a.h5"),
            FileNotFoundError,
            "[Errno 2] No such file or directory: 'a.h5'",
        ),
        (KeyError("x"), LookupError, "KeyError: 'x'"),  # its own message would be in quotes
        (
            UnicodeDecodeError("ascii", b"a", 0, 1, "bad"),
            UnicodeError,
            "UnicodeDecodeError: 'ascii' codec can't decode byte 0x61",
        ),
        (
            OwnError(3, "broken"),
            RuntimeError,
            "OwnError: broken, code 3",
        ),  # its constructor needs more than a message
    ],
)
def test_any_error_of_a_recording_names_it(error, kind, message):
    stream = Stream(Raises(error), **OPTIONS)
    with pytest.raises(kind) as caught:
        stream._read(0, 3)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"recording 3: {message}")
    assert caught.value.__cause__ is error
    require("grain")
    with pytest.raises(kind, match=r"recording \d+: "):
        next(stream.shards(0))


def test_a_shard_knows_its_time_step():
    require("grain")
    for events in (False, True):
        assert next(Stream(Fake(), events=events, **OPTIONS).shards(0)).dt == 0.01
    with pytest.warns(UserWarning, match="dt = 10 s is longer than 1 s"):
        Stream(Fake(), **OPTIONS | {"dt": 10.0, "duration": 100.0})


class Shifted(Fake):
    """The same recordings with a clock that started years ago."""

    def __getitem__(self, i):
        times, units = super().__getitem__(i)
        return times - times.min() + 1e9, units


def test_recordings_on_a_clock_that_ran_before_are_shown_from_their_first_event():
    require("grain")
    stream = Stream(Shifted(), crop="start", **OPTIONS)
    x, _ = read(stream, 0)
    for k, indices in enumerate(stream.order(0)):
        for s, i in enumerate(indices.tolist()):
            times, units = Fake()[i]
            expected = np.zeros((50, 7))
            for t, u in zip(times - times.min(), units, strict=True):
                # a clock of 1e9 s has steps of 0.12 us: no time here is so near to an edge
                assert abs(t - 0.01 * round(t / 0.01)) > 0.2e-6 or t == 0
                if t < 0.5:
                    expected[int(t / 0.01), u] += 1
            np.testing.assert_array_equal(x[k, :, s], expected)
    random, _ = read(Stream(Shifted(), **OPTIONS), 0)
    assert random.any(axis=(1, 3)).all()  # a window of each recording


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"shard_size": 30},
            ValueError,
            "shard_size must be at most the number of recordings 29, got 30",
        ),
        ({"shard_size": 0}, ValueError, "shard_size must be >= 1, got 0"),
        ({"duration": 0.0}, ValueError, "duration must be finite and > 0 s"),
        ({"dt": float("nan")}, ValueError, "dt must be finite and > 0 s"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"crop": "end"}, ValueError, "crop must be one of 'random', 'start', got 'end'"),
        ({"drop": 1.0}, ValueError, "drop must be finite and >= 0 and < 1"),
        ({"workers": 0}, ValueError, "workers must be >= 1"),
        ({"workers": 1.5}, TypeError, "workers must be an integer"),
        (
            {"recordings": Bad([], [], num_classes=2)},
            ValueError,
            r"labels of recordings must be in \[0, 1\], got 2",
        ),
        (
            {"recordings": Bad([], [], labels=[0.5] * 29)},
            (ValueError, TypeError),
            r"labels of recordings must contain integers|shard_size",
        ),
        (
            {"recordings": Bad([], [], num_units=2**27)},
            ValueError,
            r"num_steps \* num_units must be < 2\*\*31",
        ),
    ],
)
def test_errors(options, error, match):
    options = {"recordings": Fake()} | OPTIONS | options
    with pytest.raises(error, match=match):
        Stream(options.pop("recordings"), **options)


def test_epochs_are_whole_numbers():
    with pytest.raises(ValueError, match="epoch must be >= 0, got -1"):
        Stream(Fake(), **OPTIONS).shards(-1)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(
        ImportError,
        match=r"Stream needs grain: pip install 'snnjax\[stream\]'",
    ):
        Stream(Fake(), **OPTIONS).shards(0)


@pytest.mark.more
def test_data_sets_come_without_grain():
    code = "import sys, snnjax.datasets, snnjax.training; sys.exit('grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shards_as_events_are_the_same_spikes():
    require("grain")
    for shard, plain in zip(
        Stream(Fake(), events=True, **OPTIONS).shards(2),
        Stream(Fake(), **OPTIONS).shards(2),
        strict=True,
    ):
        assert isinstance(shard, SparseEvents)
        again = SparseEvents.from_events(plain)
        for a, b in zip(jax.tree.leaves(shard), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match="events must be True or False, got None"):
        Stream(Fake(), events=None, **OPTIONS)
