import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close
from flax import nnx

from snnjax import models
from snnjax.calibration import Target, calibrate
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF
from snnjax.nn import FluctuationDriven, Sensory

T, B = 60, 3
INIT = FluctuationDriven(nu=15.0)


def loop(x, gain, bias, lm, ls):
    """The module's equations, step by step."""
    u, i, out = np.zeros(x.shape[1:]), np.zeros(x.shape[1:]), []
    for t in range(len(x)):
        z = u > 1
        out.append(z)
        u, i = np.where(z, 0, lm * u + (1 - lm) * i), ls * i + (1 - ls) * (gain * x[t] + bias)
    return np.array(out, float)


def test_equals_a_loop(rng, x64):
    x = np.broadcast_to(rng.normal(size=(B, 4, 5, 2)), (T, B, 4, 5, 2))
    gain, bias = np.array([1.5, 0.7]), np.array([0.2, 1.1])
    layer = Sensory(2, gain=gain, bias=bias, neuron=LIF(dt=2e-3))
    z = layer(x).output
    expected = loop(x, layer.gain[...], layer.bias[...], np.exp(-0.1), np.exp(-0.2))
    np.testing.assert_array_equal(z, expected)
    state, streamed = layer.initial_state(B, (4, 5, 2)), []
    for t in range(T):
        state, out = layer.step(state, x[t])
        streamed.append(out)
    np.testing.assert_array_equal(jnp.stack(streamed), expected)


def test_rate_of_a_constant_current(x64):
    """Charging from 0 to theta takes tau_mem ln(i / (i - theta)).

    The spike is one step later, and the membrane stays at rest for that step.
    """
    dt, i = 1e-4, np.array([1.2, 2.0, 4.0])
    x = np.broadcast_to(i - 1, (20000, 1, 3))
    counts = Sensory(3, neuron=LIF(dt=dt))(x).output[10000:].sum(axis=0)[0]
    period = 20e-3 * np.log(i / (i - 1))
    np.testing.assert_allclose(counts, 1.0 / (period + dt), rtol=0.02)


@pytest.mark.slow
def test_stands_before_hidden_layers(rng):
    network = models.csnn2d((8, 8, 1), 10, depth=2, sensory=True, init=INIT, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.broadcast_to(rng.normal(size=(B, 8, 8, 1)), (T, B, 8, 8, 1)), jnp.float32)
    readout, activity = network(x)
    assert readout.shape == (T, B, 10)
    assert len(activity.spikes) == 2  # the sensory neurons are the input
    sensory = network.layers[1]
    ours, reports = calibrate(network, x, key=jax.random.key(0), target=Target(balance=True))
    assert all(bool(r.calibrated) for r in reports)
    np.testing.assert_allclose(
        [float(r.sigma_u) for r in reports], 1, rtol=0.15
    )  # weights of 9 and 144 inputs
    assert_close(ours.layers[1].gain[...], sensory.gain[...], 0)
    found = probe(ours, x, jnp.arange(B))
    np.testing.assert_allclose(
        found.layers[0].input_rate, float(sensory(x).output.mean()) / 2e-3, rtol=1e-5
    )
    # gain and bias are trained
    grads = nnx.grad(lambda n: jnp.sum(n(x)[0] ** 2))(network)
    for name in ("gain", "bias"):
        assert float(jnp.abs(grads["layers"][1][name][...]).sum()) > 0
    # step by step
    state, streamed = network.initial_state(B, features=(8, 8, 1)), []
    for t in range(T):
        state, (out, _) = network.step(state, x[t])
        streamed.append(out)
    assert_close(jnp.stack(streamed), readout, 1e-5)


def test_dense_network_has_one_gain_a_pixel(rng):
    network = models.dense(64, 10, hidden=(20,), sensory=True, init=INIT, rngs=nnx.Rngs(0))
    assert network.layers[1].gain.shape == (64,)
    assert network(jnp.asarray(rng.normal(size=(T, B, 8, 8, 1)), jnp.float32))[0].shape == (
        T,
        B,
        10,
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"channels": 0}, ValueError, "channels must be"),
        (
            {"gain": np.array([1.0, 2.0])},
            ValueError,
            r"gain must be one number or one for each of 3 channels, got shape \(2,\)",
        ),
        ({"bias": np.nan}, ValueError, "bias must be finite"),
        ({"neuron": "LIF"}, TypeError, "neuron must be a LIF, got 'LIF'"),
    ],
)
def test_options_out_of_range(options, error, match):
    with pytest.raises(error, match=match):
        Sensory(**({"channels": 3} | options))


def test_wrong_channels():
    with pytest.raises(ValueError, match="x must have"):
        Sensory(3)(jnp.zeros((T, B, 4, 4, 2)))
    with pytest.raises(ValueError, match="features must have 3 channels"):
        Sensory(3).feature_shape((4, 4, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(3, 4, 4, 3\), one time step"):
        Sensory(3).step(Sensory(3).initial_state(B, (4, 4, 3)), jnp.zeros((B, 4, 4, 2)))


@pytest.mark.more
def test_float64_pixels_and_rematerialization(rng, x64):
    """Neurons have the dtype of gain and bias, for any dtype of the pixels."""
    make = lambda c: models.csnn2d(
        (4, 4, 1), 3, blocks=((2,),), sensory=True, remat_steps=c, init=INIT, rngs=nnx.Rngs(0)
    )
    x = np.broadcast_to(rng.normal(size=(B, 4, 4, 1)), (20, B, 4, 4, 1))
    assert_close(make(7)(x)[0], make(None)(x)[0], 1e-6)
    assert Sensory(1)(x).output.dtype == jnp.float32
