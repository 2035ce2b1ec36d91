import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import spikes
from flax import nnx

from snnjax.calibration import scale_to_rate
from snnjax.nn import (
    Flatten,
    FluctuationDriven,
    Readout,
    Reshape,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)


def network(*, recurrent=False, sigma_u=1.0, seed=0):
    rngs, init = nnx.Rngs(seed), FluctuationDriven(nu=15.0, sigma_u=sigma_u)
    return Sequential(
        *[SpikingDense(n, 80, init=init, recurrent=recurrent, rngs=rngs) for n in (60, 80, 80)],
        Readout(80, 4, rngs=rngs),
    )


@pytest.fixture(scope="module")
def x():
    return spikes(0, (250, 8, 60), rate=15.0)


@pytest.mark.more
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("rate", [3.0, 25.0])
def test_every_layer_fires_at_the_target(x, rate, recurrent):
    """Within 5 %, from a start that is ten times too weak; measured in another run."""
    scaled, reports = scale_to_rate(network(recurrent=recurrent, sigma_u=0.1), x, rate=rate)
    _, activity = scaled(x)
    measured = [float(z.mean()) / 2e-3 for z in activity.spikes]
    np.testing.assert_allclose(measured, rate, rtol=0.05)
    np.testing.assert_allclose([r.rate for r in reports], measured, rtol=1e-5)
    assert all(bool(r.reached) for r in reports)


def test_gain_is_what_the_weights_were_multiplied_by_and_the_network_given_is_unchanged(x):
    given = network(recurrent=True)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(given, nnx.Param))]
    scaled, reports = scale_to_rate(given, x, rate=10.0)
    for layer, old, report in zip(scaled.layers, given.layers, reports, strict=False):
        for name in ("kernel", "recurrent_kernel"):
            np.testing.assert_allclose(
                getattr(layer, name)[...], report.gain * getattr(old, name)[...], rtol=1e-5
            )
    np.testing.assert_array_equal(scaled.layers[-1].kernel[...], given.layers[-1].kernel[...])
    for leaf, old in zip(jax.tree.leaves(nnx.state(given, nnx.Param)), before, strict=True):
        np.testing.assert_array_equal(leaf, old)


def test_a_key_draws_orthogonal_weights(x):
    scaled, _ = scale_to_rate(network(), x, rate=10.0, key=jax.random.key(4))
    w = np.asarray(scaled.layers[1].kernel[...])
    w = w / np.linalg.norm(w[:, 0])
    np.testing.assert_allclose(w.T @ w, np.eye(80), atol=1e-4)


@pytest.mark.more
def test_convolutions_and_what_lies_between_them(x):
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=15.0, sigma_u=0.2)
    given = Sequential(
        Reshape(60, 1), SpikingConv1d(1, 6, kernel_size=5, stride=2, recurrent_kernel_size=3, init=init, rngs=rngs), Flatten(),
        SpikingDense(168, 30, init=init, rngs=rngs), Readout(30, 4, rngs=rngs),
    )  # fmt: skip
    scaled, reports = scale_to_rate(given, x, rate=12.0, key=jax.random.key(0))
    _, activity = scaled(x)
    np.testing.assert_allclose([float(z.mean()) / 2e-3 for z in activity.spikes], 12.0, rtol=0.05)
    assert len(reports) == 2


def test_silent_input_keeps_the_weights_and_an_unreachable_rate_is_said():
    given = network()
    scaled, reports = scale_to_rate(given, jnp.zeros((100, 2, 60)), rate=10.0)
    for layer, old in zip(scaled.layers, given.layers, strict=True):
        np.testing.assert_array_equal(layer.kernel[...], old.kernel[...])
    assert not any(bool(r.reached) for r in reports)
    one_spike = (
        jnp.zeros((100, 2, 60)).at[50].set(1.0)
    )  # no weights turn one volley into a train of 200 Hz
    _, reports = scale_to_rate(given, one_spike, rate=200.0)
    assert not bool(reports[0].reached)


@pytest.mark.more
def test_the_same_under_jit_and_vmap(x):
    keys = jax.random.split(jax.random.key(0), 2)
    gains = lambda key: jnp.stack(
        [r.gain for r in scale_to_rate(network(), x, rate=8.0, key=key)[1]]
    )
    batched = jax.jit(jax.vmap(gains))(keys)
    for k in range(2):
        np.testing.assert_allclose(batched[k], gains(keys[k]), rtol=0.01)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rate": 0.0}, "rate must be finite and > 0 Hz and < 250 Hz, got 0.0"),
        ({"rate": 300.0}, "rate must be finite and > 0 Hz and < 250 Hz, got 300"),
        ({"rate": 10.0, "steps": 0}, "steps must be >= 1, got 0"),
    ],
)
def test_errors(x, options, match):
    with pytest.raises(ValueError, match=match):
        scale_to_rate(network(), x, **options)
