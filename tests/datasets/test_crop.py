import functools

import numpy as np
import pytest

from snnjax.datasets._crop import crop, drop_events, random_crop, start_of


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
    """The recording has one event per ms and 3 s; windows of 1 s start between 0 and 2 s.

    Their mean is 1 s, and their standard deviation 2 / sqrt(12) s.
    """
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
    times, units = np.array([0.0, 0.39]), np.array([1, 2])
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    for got, expected in zip(
        random_crop(a, times, units, duration=0.4), (times, units), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    random_crop(b, times, units, duration=0.1)
    assert a.random() == b.random()
    assert len(random_crop(a, times[:0], units[:0], duration=1.0)[0]) == 0


def test_edges_of_a_window_are_those_of_bins():
    """Windows of whole microseconds, although 0.3 and 1e-6 are not exact in binary.

    The first microsecond is inside, the first of the next window is outside.
    """
    us = np.array([299_999, 300_000, 300_001, 599_999, 600_000, 600_001])
    for times in (us * 1e-6, us / 1e6, (us * 1e-6).astype(np.float32)):
        got, units = crop(times, us, duration=0.3, start=0.3)
        assert units.tolist() == [300_000, 300_001, 599_999]
        assert got.dtype == times.dtype
        np.testing.assert_allclose(got, (units - 300_000) * 1e-6, atol=1e-7)
        assert got.min() >= 0


def test_a_recording_on_a_clock_that_ran_before_starts_at_its_first_event(rng):
    times, units = 1000.0 + np.arange(3001) / 1000, np.arange(3001)
    assert start_of(times, duration=1.0) == 1000.0
    assert start_of(times, duration=1000.0) == 1000.0
    assert start_of(times, duration=1000.001) == start_of(times[:0], duration=1.0) == 0.0
    assert start_of(np.array([3, 2]), duration=1.0) == 2.0
    starts = []
    for _ in range(200):
        t, u = random_crop(rng, times, units, duration=1.0)
        assert 999 <= len(t) <= 1001
        np.testing.assert_allclose(t, times[u] - times[u[0]] + t[0], atol=1e-9)
        starts.append(times[u[0]] - t[0] - 1000)
    assert 0 <= min(starts) < 0.1
    assert 1.9 < max(starts) <= 2.0
    # shorter than the window: the whole recording, from its first event
    t, u = random_crop(rng, times[:500], units[:500], duration=1.0)
    np.testing.assert_allclose(t, np.arange(500) / 1000, atol=1e-9)
    assert len(u) == 500


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
    for cut in (crop, functools.partial(random_crop, rng)):
        with pytest.raises(ValueError, match="times must be finite and >= 0 s, got -1"):
            cut(np.array([0.1, -1.0]), np.array([0, 0]), duration=1.0)
        with pytest.raises(
            ValueError, match=r"units must have one entry per event, got \(1,\) for \(2,\) times"
        ):
            cut(np.array([0.1, 0.2]), np.array([0]), duration=1.0)
    with pytest.raises(ValueError, match="p must be finite and >= 0 and < 1, got 1"):
        drop_events(rng, times, units, 1)
