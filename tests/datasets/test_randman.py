import numpy as np
import pytest
from _support import data_path

from snnjax.datasets._randman import draw_manifold, evaluate_manifold, n_modes, randman


@pytest.mark.parametrize("dim", [1, 2])
def test_reference_values(dim):
    data = np.load(data_path("reference/reference_traces.npz"))
    theta, x, y, alpha = (data[f"randman/d{dim}_{k}"] for k in ("theta", "x", "y", "alpha"))
    assert theta.shape[-1] == n_modes(float(alpha))
    # the reference sums in float32
    np.testing.assert_allclose(
        evaluate_manifold(x, theta, smoothness=float(alpha)), y, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dim", [1, 3])
def test_evaluation_equals_loops(dim, rng):
    theta = draw_manifold(rng, num_units=2, dim=dim, smoothness=1.7)
    x = rng.random((3, dim))
    expected = np.ones((3, 2))
    for s in range(3):
        for u in range(2):
            for d in range(dim):
                total = 0.0
                for i in range(theta.shape[-1]):
                    a, b, c = theta[u, d, :, i]
                    total += a / ((i + 1) ** 1.7 + 1) * np.sin(2 * np.pi * (i * x[s, d] * b + c))
                expected[s, u] *= total
    np.testing.assert_allclose(evaluate_manifold(x, theta, smoothness=1.7), expected, rtol=1e-10)


def test_every_unit_fires_once_in_the_active_part():
    data = randman(num_classes=3, num_units=7, samples_per_class=40, seed=3)
    dense = data.to_dense(2e-3)
    assert dense.shape == (100, 120, 7)
    np.testing.assert_array_equal(dense.sum(axis=0), 1)
    assert dense[50:].sum() == 0
    # scaled over the samples of a class: each unit reaches both ends
    times = data.times.reshape(3, 40, 7)
    np.testing.assert_allclose(times.min(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(times.max(axis=1), 0.1, rtol=2e-6)
    assert np.bincount(data.labels).tolist() == [40, 40, 40]


def test_nothing_is_lost_when_the_whole_trial_is_active():
    data = randman(
        num_classes=2, num_units=5, samples_per_class=30, active_duration=0.2, duration=0.2
    )
    np.testing.assert_array_equal(data.to_dense(2e-3).sum(axis=0), 1)


def test_seed_decides_everything():
    a, b, c = (randman(samples_per_class=5, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.times, b.times)
    assert not np.array_equal(a.times, c.times)


def test_samples_of_a_class_lie_on_a_curve():
    """Along the coordinate of a 1-d manifold, spike times change continuously.

    Neighbours in the order of one unit are close in the other units.
    """
    theta = draw_manifold(np.random.default_rng(0), num_units=3, dim=1, smoothness=2.0)
    f = evaluate_manifold(np.linspace(0, 1, 2001)[:, None], theta, smoothness=2.0)
    steps = np.abs(np.diff(f, axis=0)).max(axis=0) / np.ptp(f, axis=0)
    assert (steps < 0.02).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples_per_class": 1}, "samples_per_class must be >= 2, got 1"),
        ({"smoothness": 0.0}, "smoothness must be finite and > 0"),
        ({"active_duration": 0.3}, "active_duration must be .* <= 0.2 s, got 0.3"),
        ({"seed": -1}, "seed must be >= 0"),
    ],
)
def test_errors(options, match):
    with pytest.raises(ValueError, match=match):
        randman(**options)
