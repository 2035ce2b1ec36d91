import numpy as np
import pytest

from snnjax.datasets import crop, drop_events, random_crop


def recording(rng, n=500, length=3.0):
    return rng.uniform(0, length, n), rng.integers(0, 9, n)


def test_crop_is_the_events_of_a_loop(rng):
    times, units = recording(rng)
    expected = [(t - 0.5, u) for t, u in zip(times, units, strict=True) if 0.5 <= t < 1.75]
    got_times, got_units = crop(times, units, duration=1.25, start=0.5)
    np.testing.assert_allclose(got_times, [t for t, _ in expected], atol=1e-12)
    np.testing.assert_array_equal(got_units, [u for _, u in expected])
    assert len(crop(times, units, duration=1.0, start=9.0)[0]) == 0


def test_random_crop_starts_uniformly_over_what_fits(rng):
    """Of a recording of one event every ms and 3 s, windows of 1 s start between 0 and 2 s: mean 1, standard deviation 2 / sqrt(12)."""
    times, units = np.arange(3001) / 1000, np.arange(3001)
    starts = []
    for _ in range(600):
        t, u = random_crop(rng, times, units, duration=1.0)
        assert 999 <= len(t) <= 1001
        start = times[u[0]] - t[0]
        np.testing.assert_allclose(t, times[u] - start, atol=1e-12)
        starts.append(start)
    assert min(starts) >= 0
    assert max(starts) <= 2.0
    assert abs(np.mean(starts) - 1) < 4 * 2 / np.sqrt(12 * 600)
    assert abs(np.std(starts) - 2 / np.sqrt(12)) < 0.05


def test_a_short_recording_stays_whole_and_draws_as_much():
    times, units = np.array([0.0, 0.4]), np.array([1, 2])
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    for got, expected in zip(random_crop(a, times, units, duration=0.4), (times, units), strict=True):
        np.testing.assert_array_equal(got, expected)
    random_crop(b, times, units, duration=0.1)
    assert a.random() == b.random()
    assert len(random_crop(a, times[:0], units[:0], duration=1.0)[0]) == 0


def test_drop_leaves_a_share_of_the_events_and_no_others(rng):
    times, units = np.arange(10_000) / 10, np.arange(10_000)
    t, u = drop_events(rng, times, units, 0.3)
    np.testing.assert_array_equal(t, times[u])
    assert abs(len(t) - 7000) < 4 * np.sqrt(10_000 * 0.3 * 0.7)
    assert len(drop_events(rng, times, units, 0.0)[0]) == 10_000


def test_errors(rng):
    times, units = recording(rng)
    with pytest.raises(ValueError, match="duration must be finite and > 0 s, got 0"):
        crop(times, units, duration=0)
    with pytest.raises(ValueError, match="start must be finite and >= 0 s, got -1"):
        crop(times, units, duration=1.0, start=-1)
    with pytest.raises(ValueError, match="duration must be finite and > 0 s, got nan"):
        random_crop(rng, times, units, duration=float("nan"))
    with pytest.raises(ValueError, match="p must be finite and >= 0 and < 1, got 1"):
        drop_events(rng, times, units, 1)
