"""Events from and to tonic's structured arrays, compared with plain loops.

tonic itself is not needed.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnjax.datasets import EventDataset
from snnjax.exchange import from_tonic, to_tonic

# the fields of tonic's data sets, with their orders and types
DVS = np.dtype([("x", np.int16), ("y", np.int16), ("p", bool), ("t", np.int64)])
NMNIST = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
SHD = np.dtype([("t", int), ("x", int), ("p", int)])


def recording(rows, dtype=NMNIST):
    events = np.zeros(len(rows), dtype)
    for e, row in enumerate(rows):
        for name in events.dtype.names:
            events[name][e] = row[name]
    return events


@st.composite
def recordings(draw):
    width, height, polarities = (draw(st.integers(1, n)) for n in (6, 5, 2))
    row = st.fixed_dictionaries(
        {
            "t": st.one_of(st.integers(0, 8_000_000), st.integers(0, 2**32 * 10**6 - 1)),
            "x": st.integers(0, width - 1),
            "y": st.integers(0, height - 1),
            "p": st.integers(0, polarities - 1),
        }
    )
    samples = draw(st.lists(st.lists(row, max_size=8), min_size=1, max_size=4))
    return (width, height, polarities), [sorted(rows, key=lambda r: r["t"]) for rows in samples]


@given(recordings(), st.sampled_from([DVS, NMNIST]))
def test_there_and_back(drawn, dtype):
    sensor, samples = drawn
    pairs = [(recording(rows, dtype), label) for label, rows in enumerate(samples)]
    data = from_tonic(pairs, sensor_size=sensor)
    assert data.num_units == sensor[0] * sensor[1] * sensor[2]
    assert data.labels.tolist() == list(range(len(samples)))
    e = 0
    for rows in samples:
        for row in rows:
            assert data.units[e] == (row["y"] * sensor[0] + row["x"]) * sensor[2] + row["p"]
            assert data.times[e] == row["t"] / 1e6
            assert data.times[e] < data.duration
            e += 1
    for (events, label), (given_events, given_label) in zip(
        to_tonic(data, sensor_size=sensor), pairs, strict=True
    ):
        assert label == given_label
        assert type(label) is int
        for name in ("t", "x", "y", "p"):
            np.testing.assert_array_equal(events[name], given_events[name], err_msg=name)


def test_a_raster_is_the_sensor_s_frame():
    """The number of events per pixel and polarity, on tonic's axes (polarity, height, width)."""
    rng = np.random.default_rng(0)
    events = np.zeros(500, DVS)
    for name, n in (("x", 5), ("y", 4), ("p", 2), ("t", 10_000)):
        events[name] = rng.integers(0, n, 500)
    data = from_tonic([(events, 0)], sensor_size=(5, 4, 2), duration=10e-3)
    frames = data.to_dense(dt=1e-3)[:, 0].reshape(10, 4, 5, 2)
    expected = np.zeros((10, 2, 4, 5))
    for e in events:
        expected[e["t"] // 1000, int(e["p"]), e["y"], e["x"]] += 1
    np.testing.assert_array_equal(frames.transpose(0, 3, 1, 2), expected)


def test_a_long_recording_is_binned_as_whole_numbers_are():
    rng = np.random.default_rng(0)
    events = np.zeros(20_000, SHD)
    events["t"] = np.sort(
        np.concatenate(
            [
                rng.integers(0, 100_000_000, 18_000),
                100 * rng.integers(0, 10**6, 1000),
                [99_999_999] * 1000,
            ]
        )
    )
    address, _ = from_tonic([(events, 0)], sensor_size=(1, 1, 1), duration=100.0).bins(1e-4)
    np.testing.assert_array_equal(address, events["t"] // 100)


def shifted(begins, n=100):
    """Recordings with one event per ms; each begins at a different time, us."""
    pairs = []
    for begin in begins:
        events = np.zeros(n, SHD)
        events["t"] = begin + 1000 * np.arange(n)
        pairs.append((events, 0))
    return pairs


def counts(data):
    return data.to_dense(1e-3).sum(axis=(0, 2)).tolist()


def test_recordings_on_a_clock_that_ran_before_are_counted_from_their_first_event():
    options = {"sensor_size": (1, 1, 1), "duration": 0.1}
    begins = [1_000_000_000, 100_000, 99_000, 1_600_000_000_000_000]
    message = r"3 of 4 recordings have no event before duration = 0\.1 s \(sample 0 begins at 1000 s\): times are counted from the first"
    with pytest.warns(UserWarning, match=message) as caught:
        data = from_tonic(shifted(begins), **options)
    assert [w.filename for w in caught] == [__file__]
    assert counts(data) == [100] * 4
    np.testing.assert_allclose(
        data.times.reshape(4, 100), np.tile(np.arange(100) / 1000, (4, 1)), atol=1e-15
    )
    with pytest.warns(
        UserWarning, match=r"1 of 3 .*sample 1 begins at 0\.1 s\): these samples have no event"
    ):
        assert counts(from_tonic(shifted([0, 100_000, 50_000]), **options)) == [100, 0, 50]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counts(from_tonic(shifted(begins), origin="first", **options)) == [100] * 4
        assert counts(from_tonic(shifted([0, 50_000]), **options)) == [100, 50]
        assert counts(from_tonic(shifted([0, 0, 100_000]), origin="zero", **options)) == [
            100,
            100,
            0,
        ]
        assert counts(
            from_tonic([*shifted([10]), (np.zeros(0, SHD), 0)], origin="first", **options)
        ) == [100, 0]
    whole = from_tonic(shifted(begins), sensor_size=(1, 1, 1))  # without a window, no event is lost
    assert [events["t"][0] for events, _ in to_tonic(whole)] == begins
    assert from_tonic(
        shifted(begins), sensor_size=(1, 1, 1), origin="first"
    ).duration == pytest.approx(0.099001)
    with pytest.raises(ValueError, match="origin must be one of 'first', 'zero', got 'last'"):
        from_tonic([], origin="last", **options)


def test_an_error_of_a_sample_names_it():
    class Dataset:
        def __getitem__(self, index):
            if index == 2:
                raise OSError("unreadable")
            return recording([GOOD]), 0

    with pytest.raises(OSError, match=r"^sample 2: unreadable"):
        from_tonic(Dataset(), sensor_size=(2, 2, 2))  # pyright: ignore


def test_sound_has_channels_and_a_polarity_that_says_nothing():
    events = recording([{"t": 10, "x": 699, "p": 1}, {"t": 1_000_000, "x": 3, "p": 1}], SHD)
    data = from_tonic([(events, 7)], sensor_size=(700, 1, 1), num_classes=20)
    assert data.units.tolist() == [699, 3]
    assert data.duration == pytest.approx(1.000001)
    (back, label), = to_tonic(data)  # fmt: skip
    assert (
        back["t"].tolist(),
        back["x"].tolist(),
        back["y"].tolist(),
        back["p"].tolist(),
        label,
    ) == (
        [10, 1_000_000],
        [699, 3],
        [0, 0],
        [0, 0],
        7,
    )


def test_a_data_set_of_tonic_s_form_brings_its_sensor():
    class Dataset:
        sensor_size = (3, 2, 2)

        def __getitem__(self, index):
            if index >= 2:
                raise IndexError
            return recording([{"t": 5, "x": 2, "y": 1, "p": 1}] * index), index

    data = from_tonic(Dataset(), duration=0.1, groups=[3, 4], class_names=["a", "b"])
    assert (data.num_units, data.counts.tolist(), data.units.tolist(), data.groups.tolist()) == (
        12,
        [0, 1],
        [11],
        [3, 4],
    )  # pyright: ignore
    assert to_tonic(data, sensor_size=(3, 2, 2))[0][0].size == 0
    pairs = [(events, np.array(label)) for events, label in to_tonic(data, sensor_size=(3, 2, 2))]
    again = from_tonic(
        pairs, sensor_size=np.array([3, 2, 2]), duration=0.1
    )  # the types that loaders of arrays return
    assert again.labels.tolist() == data.labels.tolist()
    assert again.units.tolist() == data.units.tolist()


def test_wide_sensors_get_wider_integers():
    data = EventDataset.from_lists([[0.0]], [[99_999]], [0], num_units=100_000, duration=1.0)
    (events, _), = to_tonic(data)  # fmt: skip
    assert events["x"].tolist() == [99_999]


GOOD = {"t": 5, "x": 1, "y": 1, "p": 1}


@pytest.mark.parametrize(
    ("samples", "sensor", "error", "match"),
    [
        ([(recording([GOOD]), 0)], None, ValueError, "sensor_size must be given"),
        ([(recording([GOOD]), 0)], (2, 2), ValueError, r"sensor_size must be \(width, height, polarities\), got \(2, 2\)"),
        ([(recording([GOOD]), 0)], (2, 2, 3), ValueError, "sensor_size must have 1 or 2 polarities, got 3"),
        ([(recording([GOOD]), 0)], (2, 0, 2), ValueError, "sensor_size must be >= 1, got 0"),
        ([(recording([GOOD]), 0)], (2**20, 2**20, 2), ValueError, r"fewer than 2\*\*31 units"),
        ([(recording([GOOD]), 0), (recording([GOOD, GOOD | {"x": 2}]), 0)], (2, 2, 2), ValueError, "x of sample 1 must be .* from 0 to 1, got 2 in event 1"),
        ([(recording([GOOD | {"t": -1}]), 0)], (2, 2, 2), ValueError, "t of sample 0 must be a whole number from 0"),
        ([(recording([GOOD | {"p": -1}]), 0)], (2, 2, 2), ValueError, "p of sample 0 must be a whole number from 0 to 1, got -1 in event 0"),
        ([(recording([GOOD]), 0)], (2, 1, 2), ValueError, "y of sample 0 must be a whole number from 0 to 0, got 1"),
        ([(recording([GOOD, GOOD | {"p": 0}]), 0)], (2, 2, 1), ValueError, "events of sample 0 must have one polarity"),
        ([(recording([GOOD], SHD), 0)], (2, 2, 2), ValueError, r"events of sample 0 must have the fields t, x, y, p .* y is not among \('t', 'x', 'p'\)"),
        ([(np.zeros((3, 4)), 0)], (2, 2, 2), TypeError, r"events of sample 0 .* got an array of dtype float64, shape \(3, 4\)"),
        ([([1, 2], 0)], (2, 2, 2), TypeError, "events of sample 0 .* got a list"),
        ([recording([GOOD])], (2, 2, 2), TypeError, r"samples must be \(events, label\) pairs, got ndarray as sample 0"),
        ([(recording([GOOD]), "cat")], (2, 2, 2), TypeError, "label of sample 0 must be an integer, got str 'cat'"),
        ([(recording([GOOD]), -1)], (2, 2, 2), ValueError, "label of sample 0 must be >= 0"),
        ([(np.array([(0.5, 0, 0, 0)], [("t", float), ("x", int), ("y", int), ("p", int)]), 0)], (2, 2, 2), ValueError, "t of sample 0 must be a whole number"),
        ([(np.array([("a", 0)], [("t", "U1"), ("x", int)]), 0)], (2, 1, 1), TypeError, "t of sample 0 must hold numbers, got dtype <U1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(samples, sensor, error, match):
    with pytest.raises(error, match=match):
        from_tonic(samples, sensor_size=sensor)


def test_the_sensor_must_have_the_data_s_units():
    data = EventDataset.from_lists([[0.0]], [[3]], [0], num_units=10, duration=1.0)
    with pytest.raises(
        ValueError, match=r"sensor_size must have as many units as the data, 10, got \(3, 2, 2\)"
    ):
        to_tonic(data, sensor_size=(3, 2, 2))


def test_no_samples():
    data = from_tonic([], sensor_size=(3, 2, 2), num_classes=4)
    assert len(data) == 0
    assert to_tonic(data, sensor_size=(3, 2, 2)) == []
