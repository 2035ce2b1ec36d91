import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax.datasets import Augmented, DeviceEvents, EventDataset, poisson


@pytest.fixture(scope="module")
def source():
    return DeviceEvents.put(poisson(n_samples=12, n_units=40, rate=30.0, duration=0.2, seed=0), dt=2e-3)


EVERYTHING = jnp.arange(12)


def test_without_a_key_and_without_any_change_batches_are_the_source_s(source):
    plain, labels = source.batch(EVERYTHING)
    changed = Augmented(source=source, unit_shift=9, time_stretch=0.3, drop=0.3)
    for x, y in (changed.batch(EVERYTHING), Augmented(source=source).batch(EVERYTHING, jax.random.key(3))):
        np.testing.assert_array_equal(x, plain)
        np.testing.assert_array_equal(y, labels)


def test_shift_moves_a_whole_sample_by_units(source):
    plain = np.asarray(source.batch(EVERYTHING)[0])
    moved = np.asarray(Augmented(source=source, unit_shift=4).batch(EVERYTHING, jax.random.key(0))[0])
    shifts = []
    for b in range(12):
        for shift in range(-4, 5):
            expected = np.zeros_like(plain[:, b])
            expected[:, max(0, shift) : 40 + min(0, shift)] = plain[:, b, max(0, -shift) : 40 - max(0, shift)]
            if np.array_equal(expected, moved[:, b]):
                shifts.append(shift)
    assert len(shifts) == 12
    assert len(set(shifts)) > 3


def test_stretch_moves_times_by_one_factor_a_sample():
    steps = np.array([0, 10, 20, 40, 60])
    data = EventDataset.from_lists([steps * 2e-3 + 1e-3] * 30, [np.zeros(5, int)] * 30, [0] * 30, n_units=1, duration=0.2)
    augmented = Augmented(source=DeviceEvents.put(data, dt=2e-3), time_stretch=0.3)
    x = np.asarray(augmented.batch(jnp.arange(30), jax.random.key(1))[0])[:, :, 0]
    factors = []
    for b in range(30):
        got = np.flatnonzero(x[:, b])
        assert len(got) == 5
        factors.append((got[-1] - got[0]) / 60)
        np.testing.assert_allclose(got, (steps + 0.5) * factors[-1] - 0.5, atol=1.1)
    assert 0.68 < min(factors) < 0.85
    assert 1.15 < max(factors) < 1.32


def test_drop_keeps_the_expected_share_and_adds_nothing(source):
    plain = np.asarray(source.batch(EVERYTHING)[0])
    kept = np.asarray(Augmented(source=source, drop=0.25).batch(EVERYTHING, jax.random.key(2))[0])
    assert (kept <= plain).all()
    n = plain.sum()
    assert abs(kept.sum() / n - 0.75) < 4 * np.sqrt(0.25 * 0.75 / n)


def test_every_key_draws_anew_and_jit_agrees(source):
    augmented = Augmented(source=source, unit_shift=5, drop=0.2)
    a, b = (augmented.batch(EVERYTHING, jax.random.key(k))[0] for k in (0, 1))
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(jax.jit(lambda s, k: s.batch(EVERYTHING, k)[0])(augmented, jax.random.key(0)), a)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"unit_shift": -1}, "unit_shift must be >= 0"),
        ({"time_stretch": 1.0}, "time_stretch must be .* < 1"),
        ({"drop": 1.0}, "drop must be"),
    ],
)
def test_errors(source, options, match):
    with pytest.raises(ValueError, match=match):
        Augmented(source=source, **options)
