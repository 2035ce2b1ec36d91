import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from snnjax.datasets import poisson, poisson_raster


def test_counts_are_poisson():
    data = poisson(
        num_samples=2000, num_units=5, rate=[0.0, 2.0, 10.0, 40.0, 5.0], duration=0.5, seed=1
    )
    counts = data.to_dense(0.5, dtype=np.int64)[0]
    mean = np.array([0.0, 1.0, 5.0, 20.0, 2.5])
    assert counts[:, 0].sum() == 0
    # within five standard errors of the mean and of the variance of a Poisson variable
    assert np.all(np.abs(counts.mean(0) - mean) <= 5 * np.sqrt(mean / 2000))
    assert np.all(np.abs(counts.var(0) - mean) <= 5 * np.sqrt((mean + 2 * mean**2) / 2000))
    # units are independent
    correlation = np.corrcoef(counts[:, 1:].T)
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < 5 / np.sqrt(2000)


def test_times_are_uniform_and_continuous():
    data = poisson(num_samples=50, num_units=4, rate=100.0, duration=0.7, seed=2)
    assert stats.kstest(data.times, "uniform", (0, 0.7)).pvalue > 1e-3
    for unit in range(4):
        assert stats.kstest(data.times[data.units == unit], "uniform", (0, 0.7)).pvalue > 1e-4
    assert np.unique(data.times).size > 0.99 * data.times.size
    sample = np.repeat(np.arange(50), data.counts)
    assert np.all(np.diff(data.times)[np.diff(sample) == 0] >= 0)


@pytest.mark.parametrize("duration", [0.1, 0.7, 1.0, 1 / 3, 100.0])
def test_every_event_survives_binning(duration):
    # with this seed, one of the 598089 events is within 2e-7 of the end of its trial
    data = poisson(num_samples=10, num_units=3, rate=20_000 / duration, duration=duration, seed=8)
    assert data.times.size > 500_000
    address, _ = data.bins(min(duration / 10, 1.0))
    assert address.size == data.times.size


def test_rates_by_class():
    rate = np.array([[5.0, 50.0], [80.0, 0.0], [20.0, 20.0]])
    data = poisson(num_samples=3000, num_units=2, rate=rate, duration=0.5, seed=4)
    assert np.bincount(data.labels).tolist() == [1000, 1000, 1000]
    assert np.any(np.diff(data.labels) < 0)  # in random order
    assert np.all(np.abs(data.rate(per_class=True) - rate) <= 5 * np.sqrt(rate / (1000 * 0.5)))
    chosen = poisson(
        num_samples=4, num_units=2, rate=rate, duration=0.5, seed=4, labels=[1, 1, 1, 0]
    )
    assert chosen.labels.tolist() == [1, 1, 1, 0]
    assert chosen.num_classes == 3
    assert not np.any(chosen.subset([0, 1, 2]).units == 1)


def test_seeds_and_labels():
    def make(seed, **options):
        return poisson(num_samples=5, num_units=3, rate=30.0, duration=0.4, seed=seed, **options)

    a, b, c = make(0), make(0), make(1)
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_array_equal(a.units, b.units)
    assert a.times.tolist() != c.times.tolist()
    assert a.labels.tolist() == [0] * 5
    assert a.num_classes == 1
    assert make(0, labels=[0, 3, 1, 0, 0]).num_classes == 4


def test_no_samples_no_events():
    assert len(poisson(num_samples=0, num_units=3, rate=5.0, duration=1.0, seed=0)) == 0
    silent = poisson(num_samples=4, num_units=3, rate=0.0, duration=1.0, seed=0)
    assert silent.counts.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rate": -1.0}, ValueError, "rate must be finite and >= 0 Hz, got -1.0"),
        ({"rate": [1.0, -2.0]}, ValueError, "rate must be .* got -2.0"),
        ({"rate": np.nan}, ValueError, "rate must be"),
        ({"rate": np.inf}, ValueError, "rate must be"),
        ({"rate": "fast"}, TypeError, "rate must be"),
        (
            {"rate": [1.0, 2.0, 3.0]},
            ValueError,
            r"rate must be a scalar, \(num_units,\) .* num_units = 2, got shape \(3,\)",
        ),
        ({"rate": np.ones((2, 2, 2))}, ValueError, r"got shape \(2, 2, 2\)"),
        ({"rate": np.ones((0, 2))}, ValueError, r"got shape \(0, 2\)"),
        ({"rate": 1e12}, ValueError, "at most 2e[+]09 events, got 6e[+]12"),
        ({"duration": 0.0}, ValueError, "duration must be"),
        ({"num_samples": -1}, ValueError, "num_samples must be >= 0"),
        ({"num_units": 0}, ValueError, "num_units must be >= 1"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"labels": [0, 1]}, ValueError, "labels must have num_samples = 3 entries, got 2"),
        (
            {"rate": np.ones((2, 2)), "labels": [0, 1, 2]},
            ValueError,
            r"labels must be in \[0, 1\], got 2 at position 2",
        ),
    ],
)
def test_poisson_refuses(change, error, message):
    with pytest.raises(error, match=message):
        poisson(
            **{"num_samples": 3, "num_units": 2, "rate": 5.0, "duration": 1.0, "seed": 0, **change}
        )


@pytest.mark.parametrize("jit", [False, True])
def test_raster_is_poisson_not_bernoulli(jit):
    rate, dt, shape = jnp.array([0.0, 10.0, 100.0, 400.0]), 2e-3, (400, 20, 4)

    def make(rate):
        return poisson_raster(jax.random.key(0), shape, rate=rate, dt=dt)

    x = (jax.jit(make) if jit else make)(rate)
    assert x.shape == shape
    assert x.dtype == jnp.float32
    mean = np.asarray(rate, np.float64) * dt
    flat = np.asarray(x, np.float64).reshape(-1, 4)
    n = len(flat)
    assert np.all(flat == np.floor(flat))
    assert np.all(np.abs(flat.mean(0) - mean) <= 5 * np.sqrt(mean / n))
    assert np.all(np.abs(flat.var(0) - mean) <= 5 * np.sqrt((mean + 2 * mean**2) / n))
    above_one = 1 - np.exp(-mean) * (1 + mean)  # Bernoulli: never
    assert np.all(np.abs((flat > 1).mean(0) - above_one) <= 5 * np.sqrt(above_one / n))
    steps = flat.reshape(400, -1)[:, 3]
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 5 / np.sqrt(400)


def test_raster_refuses():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"rate must be finite and >= 0 Hz, got -1\.0"):
        poisson_raster(key, (2, 3, 4), rate=-1.0, dt=1e-3)
    with pytest.raises(ValueError, match="dt must be finite and > 0 s"):
        poisson_raster(key, (2, 3, 4), rate=1.0, dt=0.0)
    for rate in (np.ones(3), np.ones((5, 2, 3, 4))):
        with pytest.raises(ValueError, match=r"rate must broadcast against shape = \(2, 3, 4\)"):
            poisson_raster(key, (2, 3, 4), rate=rate, dt=1e-3)
    with pytest.raises(ValueError, match="shape must be >= 0, got -2"):
        poisson_raster(key, (-2, 3, 4), rate=1.0, dt=1e-3)
