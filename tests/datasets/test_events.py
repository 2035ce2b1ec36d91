import itertools
import warnings
from fractions import Fraction
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnjax.datasets import EventDataset
from snnjax.datasets import _events as module

# many of the trials here are cut on purpose
pytestmark = pytest.mark.filterwarnings("ignore:.*of the events are at or after duration")
# the last is rounded down to float32 by half a unit, and its multiples are rounded again
STEPS = [1e-3, 2e-3, 5e-4, 3e-3, 1 / 128, 7e-5, (1 + 1.49 * 2.0**-23) / 1024]


@st.composite
def samples(draw, min_samples=0):
    """The contents of a data set: (times, units) on a grid of unknown step, labels, groups."""
    num_units = draw(st.integers(1, 5))
    # an event k + f steps after the start: on the edge of step k (f = 0), or well inside it
    place = st.tuples(
        st.integers(0, 12),
        st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
        st.integers(0, num_units - 1),
    )
    events = draw(st.lists(st.lists(place, max_size=8), min_size=min_samples, max_size=7))
    labels = draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    return num_units, events, labels


def build(made, dt, num_steps):
    num_units, events, labels = made
    return EventDataset.from_lists(
        [[(k + f) * dt for k, f, _ in sample] for sample in events], [[u for _, _, u in sample] for sample in events], labels,
        num_units=num_units, num_classes=3, duration=num_steps * dt, groups=np.arange(len(labels)) % 2,
    )  # fmt: skip


def rows(data):
    """The data set as plain lists, one tuple per sample."""
    out = []
    for s in range(len(data)):
        a, b = data.offsets[s], data.offsets[s + 1]
        group = None if data.groups is None else int(data.groups[s])
        out.append((data.times[a:b].tolist(), data.units[a:b].tolist(), int(data.labels[s]), group))
    return out


def numbered(labels, groups=None, num_classes=None):
    """One event per sample, on a separate unit, so that every sample can be recognized."""
    n = len(labels)
    return EventDataset(
        times=np.arange(n) / n if n else [], units=np.arange(n), offsets=np.arange(n + 1), labels=labels,
        num_units=max(n, 1), num_classes=num_classes or int(np.max(labels)) + 1, duration=1.0, groups=groups,
    )  # fmt: skip


def dense_by_loops(made, num_steps, window):
    num_units, events, _ = made
    dense = np.zeros((num_steps, len(events), num_units), int)
    for s, sample in enumerate(events):
        for k, _, u in sample:
            if k < min(num_steps, window):
                dense[k, s, u] += 1
    return dense


# --- time grid


@given(samples(), st.sampled_from(STEPS), st.integers(1, 14), st.integers(1, 14))
def test_dense_equals_loops(made, dt, window, num_steps):
    data = build(made, dt, window)
    for steps, given_steps in ((window, None), (num_steps, num_steps)):
        dense = data.to_dense(dt, given_steps, dtype=np.int32)
        assert dense.dtype == np.int32
        np.testing.assert_array_equal(dense, dense_by_loops(made, steps, window))
        np.testing.assert_array_equal(data.to_dense(dt, given_steps, binary=True), dense > 0)


@given(samples(), st.sampled_from(STEPS), st.integers(1, 14), st.integers(1, 14), st.integers(1, 9))
def test_bins_equal_loops(made, dt, window, num_steps, at_once):
    data = build(made, dt, window)
    whole, rate, class_rate = data.bins(dt, num_steps), data.rate(), data.rate(per_class=True)
    with mock.patch.object(module, "_EVENTS_AT_ONCE", at_once):  # in blocks, as for large data sets
        address, offsets = data.bins(dt, num_steps)
        np.testing.assert_array_equal(data.rate(), rate)
        np.testing.assert_array_equal(data.rate(per_class=True), class_rate)
    np.testing.assert_array_equal(whole[0], address)
    np.testing.assert_array_equal(whole[1], offsets)
    assert address.dtype == np.int32
    assert offsets.dtype == np.int64
    expected = [
        sorted(k * data.num_units + u for k, _, u in sample if k < min(num_steps, window))
        for sample in made[1]
    ]
    assert [address[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected
    assert len(address) == offsets[-1] == sum(map(len, expected))


@pytest.mark.parametrize("dt", STEPS)
def test_a_time_on_an_edge_is_in_the_step_that_begins_there(dt):
    k = np.arange(6000)
    for t in ((k * dt).astype(np.float32), k.astype(np.float32) * np.float32(dt)):
        data = EventDataset(
            times=t,
            units=np.zeros(k.size, int),
            offsets=[0, k.size],
            labels=[0],
            num_units=1,
            num_classes=1,
            duration=1.01 * k.size * dt,
        )
        np.testing.assert_array_equal(data.bins(dt, k.size)[0], k)
        # the tolerance is a few units in the last place: 2^-20 below the edge is the step before
        below = EventDataset(
            times=(t[1:].astype(np.float64) * (1 - 2.0**-20)), units=np.zeros(k.size - 1, int), offsets=[0, k.size - 1], labels=[0],
            num_units=1, num_classes=1, duration=data.duration,
        )  # fmt: skip
        np.testing.assert_array_equal(below.bins(dt, k.size)[0], k[:-1])


@st.composite
def microseconds(draw):
    """A step of d us, a trial of `end` us, and times in us: on edges, near edges, anywhere."""
    d = draw(st.sampled_from([1, 7, 100, 125, 1000, 2000, 3333, 10_000]))
    steps = draw(st.integers(1, 2**20))
    offset = st.one_of(st.sampled_from([-1, 0, 1]), st.integers(0, d - 1))
    place = st.builds(lambda k, r: max(k * d + r, 0), st.integers(0, steps + 2), offset)
    return d, steps, draw(st.integers(1, steps * d)), draw(st.lists(place, min_size=1, max_size=40))


@given(microseconds())
def test_whole_microseconds_are_in_the_bin_that_whole_numbers_give(drawn):
    d, steps, end, times = drawn
    expected = sorted(t // d for t in times if t < end)
    seconds = {"divided": np.array(times) / 1e6, "multiplied": np.array(times) * 1e-6}
    if max(times) < 6_000_000:  # float32 represents them within 0.24 us
        seconds["float32"] = (np.array(times) * 1e-6).astype(np.float32)
    for how, t in seconds.items():
        data = EventDataset(
            times=t,
            units=np.zeros(t.size, int),
            offsets=[0, t.size],
            labels=[0],
            num_units=1,
            num_classes=1,
            duration=end * 1e-6,
        )
        address, _ = data.bins(d * 1e-6, steps)
        assert address.tolist() == expected, how
        np.testing.assert_allclose(data.rate(), len(expected) / (end * 1e-6))


@given(
    st.floats(1e-6, 1e-2),
    st.lists(st.tuples(st.floats(0, 2**20 - 1), st.floats(-1e-6, 1e-6)), min_size=1, max_size=40),
    st.booleans(),
)
def test_bins_are_floors_of_times_that_are_hardly_later(dt, places, narrow):
    """bin(t) = floor(t' / dt) with t <= t' <= t + 2^-23 t, in exact arithmetic.

    In float64, t' is at most 0.5 us later than t.
    """
    places = [round(k) + f if f < 0 or round(k) == 0 else k for k, f in places]
    t = np.abs(np.array(places) * dt).astype(np.float32 if narrow else np.float64)
    one = EventDataset(
        times=t,
        units=np.arange(t.size),
        offsets=[0, t.size],
        labels=[0],
        num_units=t.size,
        num_classes=1,
        duration=1e6,
    )
    found = np.full(t.size, -1)
    dense = one.to_dense(dt, int(t.max() / dt) + 2) if t.max() / dt < 64 else None
    address, _ = one.bins(dt, min(int(t.max() / dt) + 2, 2**20))
    found[address % t.size] = address // t.size
    rounding = 1 + Fraction(1, 2**50)
    for e, k in enumerate(found.tolist()):
        exact = Fraction(float(t[e]))
        later = exact * Fraction(1, 2**23) * (1 + Fraction(1, 2**20))
        later = exact + (later if narrow else min(later, Fraction(1, 2_000_000)))
        if k < 0:  # beyond the largest grid
            assert later * rounding >= 2**20 * Fraction(dt)
            continue
        assert Fraction(dt) * k <= later * rounding
        assert later <= Fraction(dt) * (k + 1) * rounding
        assert dense is None or dense[k, 0, e] == 1


def test_late_times_keep_their_precision():
    """Clocks that started in 1970, in us: float64 is exact, float32 would be wrong by minutes."""
    us = 1_600_000_000_000_000 + np.arange(5) * 7
    data = EventDataset.from_lists([us / 1e6], [[0] * 5], [0], num_units=1, duration=2e9)
    assert data.times.dtype == np.float64
    np.testing.assert_array_equal(np.rint(data.times * 1e6).astype(np.int64), us)
    with pytest.raises(
        ValueError,
        match=r"times must be below 4294967296 s, .* got 4294967296\.0 at position 1 \(sample 0\)",
    ):
        EventDataset.from_lists([[0.0, 2.0**32]], [[0, 0]], [0], num_units=1, duration=1.0)


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        ("f2", "f4"),
        ("f4", "f4"),
        (">f4", "f4"),
        ("f8", "f8"),
        (">f8", "f8"),
        ("i8", "f8"),
        ("u1", "f8"),
    ],
)
def test_times_are_kept_in_their_own_precision(given_dtype, kept):
    times = np.array([0, 1, 3], given_dtype)
    data = EventDataset.from_lists([times], [[0, 0, 0]], [0], num_units=1, duration=4.0)
    assert data.times.dtype == kept
    assert data.subset([0, 0]).times.dtype == kept
    assert data.times.tolist() == [0, 1, 3]


def late(fraction, unit=1.0):
    n = 1000
    times = np.where(np.arange(n) < fraction * n, 0.1, 0.05) * unit
    return {
        "times": [times],
        "units": [np.zeros(n, int)],
        "labels": [0],
        "num_units": 1,
        "duration": 0.1,
    }


def test_events_after_the_trial_are_taken_for_another_unit():
    with pytest.warns(
        UserWarning,
        match=r"^51\.0 % of the events are at or after duration = 0\.1 s .*are the times in seconds",
    ) as caught:
        data = EventDataset.from_lists(**late(0.51))
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(UserWarning, match=r"^100\.0 % of the events"):
        EventDataset.from_lists(**late(0.0, unit=1000.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EventDataset.from_lists(**late(0.5))
        EventDataset.from_lists([[]], [[]], [0], num_units=1, duration=0.1)
        # after a data set is built, there are no further warnings about it or its parts
        data.split([0.5], seed=0)
        data.subset([0, 0]).shuffle(0)
        list(data.batches(1))
        data.bins(1e-3)


def test_steps_above_a_second_may_have_another_unit():
    data = EventDataset.from_lists([[0.1]], [[0]], [0], num_units=1, duration=1.0)
    for call in (
        lambda: data.bins(2),
        lambda: data.to_dense(2.0),
        lambda: EventDataset.from_dense(np.ones((1, 1, 1)), [0], 2),
    ):
        with pytest.warns(
            UserWarning,
            match=r"^dt = 2 s is longer than 1 s; times are in seconds: did you mean 0\.002\?",
        ) as caught:
            call()
        assert [w.filename for w in caught] == [__file__]


def test_nothing_is_clipped_into_the_last_step():
    t = [0.0, 0.0059, 0.006, 0.0061, 5.0]
    data = EventDataset.from_lists([t], [[0] * 5], [0], num_units=1, duration=0.006)
    assert data.times.size == 5
    np.testing.assert_array_equal(data.to_dense(2e-3).ravel(), [1, 0, 1])
    # a longer grid is empty after the duration, a shorter one cuts
    np.testing.assert_array_equal(data.to_dense(2e-3, 5).ravel(), [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(data.to_dense(2e-3, 2).ravel(), [1, 0])
    # a duration inside a step cuts there
    cut = EventDataset.from_lists([[0.0045, 0.0052]], [[0, 0]], [0], num_units=1, duration=0.005)
    np.testing.assert_array_equal(cut.to_dense(2e-3).ravel(), [0, 0, 1])


@given(samples(), st.sampled_from(STEPS))
def test_from_dense_inverts_to_dense(made, dt):
    dense = build(made, dt, 13).to_dense(dt)
    data = EventDataset.from_dense(dense, made[2], dt, num_classes=3)
    np.testing.assert_array_equal(data.to_dense(dt), dense)
    assert data.duration == pytest.approx(13 * dt)
    assert np.all(
        np.diff(data.times)[np.diff(np.repeat(np.arange(len(data)), data.counts)) == 0] >= 0
    )
    # events on the edges are preserved exactly
    on_grid = (made[0], [sorted((k, 0.0, u) for k, _, u in sample) for sample in made[1]], made[2])
    for (times, units, label, _), sample in zip(rows(data), on_grid[1], strict=True):
        assert (times, units) == ([k * dt for k, _, _ in sample], [u for _, _, u in sample])
        assert 0 <= label < 3


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, jnp.bfloat16])
def test_from_dense_takes_any_real_dtype(dtype):
    x = np.zeros((3, 2, 2), dtype)
    x[1, 0, 1] = x[2, 1, 0] = 1
    data = EventDataset.from_dense(x, [0, 1], 1e-3)
    assert rows(data) == [([0.001], [1], 0, None), ([0.002], [0], 1, None)]
    np.testing.assert_array_equal(data.to_dense(1e-3, dtype=dtype), x)


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        (bool, 1),
        (np.uint8, 255),
        (np.int8, 127),
        (np.float16, 2048),
        (jnp.bfloat16, 256),
        (np.uint16, 65535),
    ],
)
def test_counts_never_wrap_around(dtype, limit):
    def crowd(n):
        return EventDataset.from_lists(
            [[], [0.001] * n], [[], [1] * n], [0, 0], num_units=2, duration=0.004
        )

    fits = crowd(limit).to_dense(1e-3, dtype=dtype)
    assert fits.dtype == dtype
    assert int(fits[1, 1, 1]) == limit
    with pytest.raises(
        ValueError,
        match=rf"dtype must represent .* for {limit + 1} events at \(time, sample, unit\) = \(1, 1, 1\)",
    ):
        crowd(limit + 1).to_dense(1e-3, dtype=dtype)
    assert crowd(limit + 1).to_dense(1e-3, dtype=dtype, binary=True).sum() == 1


def test_grids_too_large():
    data = EventDataset.from_lists([[0.5]], [[0]], [0], num_units=2**12, duration=1.0)
    address, _ = data.bins(1.0, 2**19 - 1)  # (2^19 - 1) 2^12 < 2^31
    assert address.tolist() == [0]
    with pytest.raises(
        ValueError, match=r"num_steps \* num_units must be < 2\*\*31, got 524288 \* 4096"
    ):
        data.bins(1.0, 2**19)
    with pytest.raises(ValueError, match="num_steps must be <= 2"):
        data.bins(1e-7)
    for bad in (0.0, -1e-3, np.nan):
        with pytest.raises(ValueError, match="dt must be"):
            data.bins(bad)
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        data.to_dense(1e-3, 0)
    with pytest.raises(TypeError, match="dtype must be"):
        data.to_dense(0.1, dtype=complex)


@given(samples(min_samples=1), st.sampled_from(STEPS), st.integers(1, 12))
def test_rate_equals_loops(made, dt, window):
    data = build(made, dt, window)
    num_units, events, labels = made
    total = np.zeros((3, num_units))
    for sample, label in zip(events, labels, strict=True):
        for k, _, u in sample:
            total[label, u] += k < window
    np.testing.assert_allclose(data.rate(), total.sum(0) / (len(events) * window * dt))
    per_class = data.rate(per_class=True)
    for c in range(3):
        n = labels.count(c)
        if n:
            np.testing.assert_allclose(per_class[c], total[c] / (n * window * dt))
        else:
            assert np.isnan(per_class[c]).all()


# --- choosing samples


@given(samples(min_samples=1), st.data())
def test_subset_equals_loops(made, draw):
    data = build(made, 1e-3, 13)
    n, all_rows = len(data), rows(data)
    index = draw.draw(st.lists(st.integers(-n, n - 1), max_size=10))
    assert rows(data.subset(index)) == [all_rows[i] for i in index]
    assert rows(data.subset(np.array(index, np.int8))) == [all_rows[i] for i in index]
    mask = draw.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    assert rows(data.subset(mask)) == [
        row for row, keep in zip(all_rows, mask, strict=True) if keep
    ]
    cut = draw.draw(st.slices(n))
    assert rows(data.subset(cut)) == all_rows[cut]
    kept = data.subset(index)
    assert (kept.num_units, kept.num_classes, kept.duration) == (
        data.num_units,
        data.num_classes,
        data.duration,
    )


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0, 3], ValueError, r"indices must be in \[-3, 3\), got 3 at position 1"),
        ([0, 1, -4], ValueError, "got -4 at position 2"),
        (
            [True, False],
            ValueError,
            "boolean mask, must have one entry per sample, got 2 for 3 samples",
        ),
        ([0.0, 1.0], TypeError, "sequence of integers.*float64"),
        (1, TypeError, r"indices must be .* shape \(\)"),
        ([[0, 1]], TypeError, r"shape \(1, 2\)"),
        (["a"], TypeError, "indices must be"),
    ],
)
def test_subset_refuses(indices, error, message):
    with pytest.raises(error, match=message):
        numbered([0, 1, 2]).subset(indices)


@given(
    st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans(), st.booleans(),
    st.integers(0, 5),
)  # fmt: skip
def test_split_is_a_partition(labels, weights, whole, stratify, seed):
    data = numbered(labels, num_classes=4)
    fractions = [w / (sum(weights) + (0 if whole else 1)) for w in weights]
    parts = data.split(fractions, seed=seed, stratify=stratify)
    where = [part.units.tolist() for part in parts]
    assert all(w == sorted(w) for w in where)  # the original order is kept
    together = list(itertools.chain(*where))
    assert len(set(together)) == len(together)
    if whole:
        assert sorted(together) == list(range(len(labels)))
    edges = np.cumsum([len(w) for w in where])
    np.testing.assert_allclose(edges, np.cumsum(fractions) * len(labels), atol=0.5 + 1e-6)
    for part, w in zip(parts, where, strict=True):
        assert part.labels.tolist() == [labels[i] for i in w]
    again = data.split(fractions, seed=seed, stratify=stratify)
    assert [part.units.tolist() for part in again] == where


@pytest.mark.parametrize("seed", range(5))
def test_split_stratifies(seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 24))
    parts = numbered(labels).split([0.5, 0.25, 0.25], seed=seed)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[12] * 10, [6] * 10, [6] * 10]
    # unequal classes: each within one or two samples of its share
    labels = np.repeat([0, 1, 2], [97, 31, 5])
    small, _ = numbered(labels).split([0.3, 0.7], seed=seed)
    np.testing.assert_allclose(np.bincount(small.labels, minlength=3), [29.1, 9.3, 1.5], atol=1.6)
    # a class with a single sample goes to either part with equal probability
    labels = np.concatenate([np.zeros(40, int), np.arange(1, 21)])
    assert [
        np.bincount(part.labels > 0).tolist()
        for part in numbered(labels).split([0.5, 0.5], seed=seed)
    ] == [[20, 10]] * 2
    unstratified = [
        np.bincount(
            numbered(np.repeat([0, 1], 50)).split([0.5], seed=s, stratify=False)[0].labels
        ).tolist()
        for s in range(8)
    ]
    assert len(set(map(tuple, unstratified))) > 1


def test_split_depends_on_the_seed():
    data = numbered([0] * 40)
    first = {tuple(data.split([0.5], seed=s)[0].units) for s in (0, 1, 2, (0, 1), (0, 2))}
    assert len(first) == 5


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ([0.6, 0.5], "add up to at most 1"),
        ([0.0, 0.5], "fractions must be finite and > 0"),
        ([-0.1], "fractions must be"),
        ([1.1], "fractions must be"),
        ([np.nan], "fractions must be"),
        ([], "at least one number"),
    ],
)
def test_split_refuses(fractions, message):
    with pytest.raises(ValueError, match=message):
        numbered([0, 1]).split(fractions, seed=0)


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (-1, ValueError),
        (1.5, TypeError),
        (None, TypeError),
        ("1", TypeError),
        ((0, -2), ValueError),
    ],
)
def test_seeds(seed, error):
    with pytest.raises(error, match="seed must be"):
        numbered([0, 1]).shuffle(seed)


def test_split_groups():
    data = numbered([0, 1, 0, 1, 0], groups=[3, 4, 5, 3, 4])
    rest, held = data.split_groups([3, 5])
    assert (rest.units.tolist(), held.units.tolist()) == ([1, 4], [0, 2, 3])
    rest, held = data.split_groups(4)
    assert (set(rest.groups.tolist()), set(held.groups.tolist())) == ({3, 5}, {4})
    with pytest.raises(
        ValueError, match=r"held_out must be among the groups \[3, 4, 5\], got \[6\]"
    ):
        data.split_groups([3, 6])
    with pytest.raises(ValueError, match="groups = None"):
        numbered([0, 1]).split_groups(0)


@given(samples(), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 3)), st.booleans())
def test_batches_cover_the_data(made, size, seed, drop_last):
    data = build(made, 1e-3, 13)
    batches = list(data.batches(size, seed=seed, drop_last=drop_last))
    order = data if seed is None else data.shuffle(seed)
    n = len(data) // size * size if drop_last else len(data)
    assert [len(b) for b in batches] == [min(size, n - i) for i in range(0, n, size)]
    assert [row for b in batches for row in rows(b)] == rows(order)[:n]
    assert sorted(rows(order)) == sorted(rows(data))


def test_batches_checks_at_once():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        numbered([0]).batches(0)  # not only at the first batch


# --- construction

GOOD = {
    "times": [0.1, 0.2, 0.3, 0.4], "units": [0, 1, 2, 0], "offsets": [0, 2, 2, 4], "labels": [0, 1, 1],
    "num_units": 3, "num_classes": 2, "duration": 0.5, "groups": [7, 7, 8], "class_names": ("a", "b"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        (
            "times",
            [0.1, 0.2, np.nan, np.nan],
            ValueError,
            r"times must be finite and >= 0 s, got nan at position 2 \(sample 2\)",
        ),
        (
            "times",
            [0.1, np.inf, 0.3, 0.4],
            ValueError,
            r"times .* got inf at position 1 \(sample 0\)",
        ),
        (
            "times",
            [0.1, 0.2, 0.3, -1e-60],
            ValueError,
            r"times .* got -1e-60 at position 3 \(sample 2\)",
        ),
        (
            "times",
            np.array([1e300, 0, 0, 0]),
            ValueError,
            r"times must be below 4294967296 s, .* got 1e\+300 at position 0 \(sample 0\)",
        ),
        (
            "times",
            [[0.1, 0.2, 0.3, 0.4]],
            ValueError,
            r"times must be one-dimensional, got shape \(1, 4\)",
        ),
        (
            "times",
            np.array([1j, 0, 0, 0]),
            TypeError,
            "times must contain real numbers, got dtype complex128",
        ),
        ("times", ["a", "b", "c", "d"], TypeError, "times must contain real numbers"),
        (
            "times",
            [0.1, 0.2, 0.3],
            ValueError,
            "offsets must run from 0 to the 3 events, got 0 to 4",
        ),
        (
            "units",
            [0, 1, 3, -1],
            ValueError,
            r"units must be in \[0, 2\], got 3 at position 2 \(sample 2\)",
        ),
        (
            "units",
            np.array([0, 2**40, 0, 0]),
            ValueError,
            "units .* got 1099511627776 at position 1",
        ),
        (
            "units",
            np.array([0, 2**64 - 1, 0, 0], np.uint64),
            ValueError,
            "units .* got 18446744073709551615 at position 1",
        ),
        (
            "units",
            [0.0, 1.0, 2.0, 0.0],
            TypeError,
            "units must contain integers, got dtype float64",
        ),
        (
            "units",
            [True, False, True, True],
            TypeError,
            "units must contain integers, got dtype bool",
        ),
        (
            "units",
            [0, 1, 2],
            ValueError,
            "units must have one entry per event, got 3 for 4 times",
        ),
        (
            "offsets",
            [0, 3, 2, 4],
            ValueError,
            "offsets must not decrease, got 3 then 2 at position 1",
        ),
        ("offsets", np.array([0, 3, 2, 4], np.uint32), ValueError, "offsets must not decrease"),
        (
            "offsets",
            [1, 2, 2, 4],
            ValueError,
            "offsets must run from 0 to the 4 events, got 1 to 4",
        ),
        ("offsets", [0, 2, 2, 5], ValueError, "got 0 to 5"),
        (
            "offsets",
            [0, 2, 4],
            ValueError,
            "offsets must have one entry more than labels, got 3 for 3 labels",
        ),
        ("labels", [0, 1, 2], ValueError, r"labels must be in \[0, 1\], got 2 at position 2"),
        ("labels", [0, -1, 2], ValueError, "labels .* got -1 at position 1"),
        ("groups", [1, 2], ValueError, "groups must have one entry per sample, got 2 for 3 labels"),
        ("groups", [1.0, 2.0, 3.0], TypeError, "groups must contain integers"),
        (
            "class_names",
            ("a",),
            ValueError,
            "class_names must contain num_classes = 2 names, got 1",
        ),
        ("num_units", 0, ValueError, "num_units must be >= 1"),
        ("num_units", 2.0, TypeError, "num_units must be an integer"),
        ("num_classes", 0, ValueError, "num_classes must be >= 1"),
        ("duration", 0.0, ValueError, "duration must be finite and > 0 s, got 0.0"),
        ("duration", np.inf, ValueError, "duration must be"),
    ],
)
def test_construction_refuses(field, value, error, message):
    with pytest.raises(error, match=message):
        EventDataset(**{**GOOD, field: value})


def test_fields():
    times = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    data = EventDataset(**{**GOOD, "times": times})
    assert [a.dtype for a in (data.times, data.units, data.offsets, data.labels, data.groups)] == [
        "f4",
        "i4",
        "i8",
        "i4",
        "i4",
    ]
    assert np.shares_memory(data.times, times)  # no copy if none is needed
    assert times.flags.writeable
    for array in (data.times, data.units, data.offsets, data.labels, data.groups):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        data.duration = 1.0
    assert data.class_names == ("a", "b")
    assert data.counts.tolist() == [2, 0, 2]
    assert jax.tree.leaves(data) == [data]  # not a pytree
    assert rows(data.subset([1, 0])) == [([], [], 1, 7), (times[:2].tolist(), [0, 1], 0, 7)]


def test_from_lists_refuses():
    options = {"num_units": 4, "duration": 1.0}
    with pytest.raises(
        ValueError,
        match=r"times\[1\] and units\[1\] must be .* equally long, got shapes \(2,\) and \(1,\)",
    ):
        EventDataset.from_lists([[0.1], [0.1, 0.2]], [[0], [1]], [0, 0], **options)
    with pytest.raises(ValueError, match="got 2 times, 1 units, 2 labels"):
        EventDataset.from_lists([[0.1], [0.2]], [[0]], [0, 0], **options)
    with pytest.raises(
        ValueError, match=r"units must be in \[0, 3\], got 4 at position 1 \(sample 1\)"
    ):
        EventDataset.from_lists([[0.1], [0.2]], [[0], [4]], [0, 0], **options)
    with pytest.raises(
        ValueError, match=r"sample 1: times must be one-dimensional, got shape \(1, 1\)"
    ):
        EventDataset.from_lists([[0.1], [[0.2]]], [[0], [0]], [0, 0], **options)
    with pytest.raises(TypeError, match="sample 1: units must contain integers, got dtype float64"):
        EventDataset.from_lists([[0.1], [0.2]], [[0], [1.0]], [0, 0], **options)
    with pytest.raises(ValueError, match=r"sample 0: .*inhomogeneous"):
        EventDataset.from_lists([[0.1, [0.2]]], [[0, 1]], [0], **options)
    with pytest.raises(ValueError, match="num_classes must be given"):
        EventDataset.from_lists([], [], [], **options)
    for labels, error, message in [
        ([0.0], TypeError, "labels must contain integers, got dtype float64"),
        (["cat"], TypeError, "labels must contain integers, got dtype <U3"),
        ([True], TypeError, "labels must contain integers, got dtype bool"),
        ([[0, 1]], ValueError, r"labels must be one-dimensional, got shape \(1, 2\)"),
        (0, ValueError, r"labels must be one-dimensional, got shape \(\)"),
        ([-1], ValueError, r"labels must be in \[0, .*got -1 at position 0"),
    ]:
        with pytest.raises(error, match=message):
            EventDataset.from_lists([[0.1]], [[0]], labels, **options)
        with pytest.raises(error, match=message):
            EventDataset.from_dense(np.ones((1, 1, 1)), labels, 1e-3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\], got 2 at position 0"):
        EventDataset.from_lists([[0.1]], [[0]], [2], num_classes=2, **options)
    named = EventDataset.from_lists([[]], [[]], [0], class_names=["a", "b", "c"], **options)
    assert named.num_classes == 3


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.array([[[0.0, 0.5]]]), ValueError, r"got 0.5 at \(time, sample, unit\) = \(0, 0, 1\)"),
        (
            np.array([[[0]], [[-1]]]),
            ValueError,
            r"got -1.0 at \(time, sample, unit\) = \(1, 0, 0\)",
        ),
        (np.array([[[np.nan]]]), ValueError, "x must contain whole numbers >= 0, got nan"),
        (np.array([[[np.inf]]]), ValueError, "got inf"),
        (
            np.zeros((2, 1)),
            ValueError,
            r"x must have shape \(time, samples, units\).* got \(2, 1\)",
        ),
        (np.zeros((0, 1, 1)), ValueError, "at least one step"),
        (np.zeros((2, 3, 1)), ValueError, "labels must have one entry per sample, got 1"),
        (np.zeros((2, 1, 1), complex), TypeError, "x must contain real numbers"),
    ],
)
def test_from_dense_refuses(x, error, message):
    with pytest.raises(error, match=message):
        EventDataset.from_dense(x, [0], 1e-3)


def test_without_samples_or_events():
    empty = EventDataset(
        times=[],
        units=[],
        offsets=[0],
        labels=[],
        num_units=3,
        num_classes=2,
        duration=0.01,
        groups=[],
    )
    assert len(empty) == 0
    assert empty.to_dense(1e-3).shape == (10, 0, 3)
    assert [a.tolist() for a in empty.bins(1e-3)] == [[], [0]]
    assert list(empty.batches(4)) == []
    assert [len(part) for part in empty.split([0.5, 0.5], seed=0)] == [0, 0]
    assert len(empty.subset([])) == len(empty.subset(slice(None))) == len(empty.shuffle(0)) == 0
    assert np.isnan(empty.rate()).all()
    assert np.isnan(empty.rate(per_class=True)).all()
    silent = EventDataset(
        times=[],
        units=[],
        offsets=[0, 0, 0],
        labels=[0, 1],
        num_units=3,
        num_classes=2,
        duration=0.01,
    )
    assert silent.to_dense(1e-3).sum() == 0
    assert [a.tolist() for a in silent.bins(1e-3)] == [[], [0, 0, 0]]
    assert silent.rate().tolist() == [0, 0, 0]
    assert len(silent.subset([1, 1, 0])) == 3
