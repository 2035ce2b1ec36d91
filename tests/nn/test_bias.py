"""Biases: a constant drive of every neuron, in layers of all kinds and in the calibration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import CONVOLVED, assert_close, batch, forward, lif_backward, lif_loop, spikes
from flax import nnx

from snnjax import models
from snnjax._sparse import EventRaster
from snnjax.calibration import GradientTarget, Target, calibrate, free_membrane
from snnjax.calibration._dalian import current_membrane, moments, scales_from_moments
from snnjax.calibration._powers import bias_moments, filtered
from snnjax.datasets import DeviceEvents, EventDataset
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF, ExcInhLIF, simulate
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.nn import (
    BatchNorm,
    DalianDense,
    DalianFluctuationDriven,
    FluctuationDriven,
    Readout,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)

pytestmark = pytest.mark.more

T, B, IN, OUT = 60, 3, 20, 12
INIT = FluctuationDriven(nu=50.0, sigma_u=1.5)
BIAS = np.linspace(-0.2, 0.4, OUT)


@nnx.jit
def whole_drive(layer, x, z):
    return layer.whole_drive(x, z)


free_membrane = jax.jit(free_membrane)


def biased(layer, bias):
    layer.bias[...] = jnp.asarray(bias, layer.bias.dtype)
    return layer


def dense(*, bias=True, recurrent=True, dtype=None):
    dtype = jnp.result_type(float) if dtype is None else dtype  # float64 with x64
    return SpikingDense(
        IN, OUT, init=INIT, recurrent=recurrent, bias=bias, dtype=dtype, rngs=nnx.Rngs(0)
    )


def conv(*, bias=True):
    options = {"kernel_size": 5, "recurrent_kernel_size": 3, "dtype": jnp.result_type(float)}
    return SpikingConv1d(2, OUT, init=INIT, bias=bias, **options, rngs=nnx.Rngs(0))


def dalian(*, bias=True):
    init, options = (
        DalianFluctuationDriven(nu=50.0),
        {"recurrent": True, "dtype": jnp.result_type(float)},
    )
    return DalianDense(IN, OUT - 2, n_inh=2, init=init, bias=bias, **options, rngs=nnx.Rngs(0))


def readout(*, bias=True):
    return Readout(IN, OUT, bias=bias, dtype=jnp.result_type(float), rngs=nnx.Rngs(0))


KINDS = {"dense": dense, "conv": conv, "dalian": dalian, "readout": readout}


def inputs(name, rng):
    features = (30, 2) if name == "conv" else (IN,)
    return jnp.asarray(rng.poisson(0.1, (T, B, *features)).astype(np.float64))


@pytest.mark.parametrize("name", KINDS)
def test_a_bias_is_a_constant_drive_in_sequences_and_steps(name, rng, x64):
    """It starts at 0, where it changes nothing. Then it equals a drive that is added by hand."""
    x, plain, layer = inputs(name, rng), KINDS[name](bias=False), KINDS[name]()
    assert plain.bias is None
    assert layer.bias.shape == (OUT,)
    without_bias = np.asarray(forward(plain, x).output)
    np.testing.assert_array_equal(forward(layer, x).output, without_bias)
    biased(layer, BIAS)
    exc, *inh = plain.drive(x) if name == "dalian" else (plain.drive(x),)
    drive = ExcInhDrive(exc + BIAS, *inh) if inh else exc + BIAS
    recurrent, weights = plain._own
    expected = simulate(plain.neuron, drive, recurrent=recurrent, weights=weights).output
    expected = np.asarray(expected)
    assert 0.001 < np.abs(expected).mean() < 0.5
    assert np.abs(expected - without_bias).max() > 0.1 * np.abs(expected).max()
    out = forward(layer, x).output
    np.testing.assert_array_equal(out, expected)
    state, outputs = layer.initial_state(B, x.shape[2:]), []
    step = jax.jit(layer.step)
    for x_t in x:
        state, output = step(state, x_t)
        outputs.append(np.asarray(output))
    assert_close(np.stack(outputs), out, CONVOLVED)
    given, without = (jax.tree.map(np.asarray, whole_drive(one, x, out)) for one in (layer, plain))
    difference = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, given, without))
    assert_close(difference[0], np.broadcast_to(BIAS, difference[0].shape), 1e-12)
    assert all(np.abs(leaf).max() == 0 for leaf in difference[1:])


def test_a_layer_and_its_gradients_equal_python_loops(rng, x64):
    layer, x = biased(dense(), BIAS), inputs("dense", rng)
    w, v = np.asarray(layer.kernel[...]), np.asarray(layer.recurrent_kernel[...])
    drive = np.asarray(x) @ w + BIAS
    np.testing.assert_array_equal(forward(layer, x).output, lif_loop(drive, v=v).z)
    g = rng.normal(size=drive.shape)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    loss = lambda p: (g * nnx.merge(graphdef, p, rest)(x).output).sum()
    zero = np.zeros((B, OUT))
    expected = lif_backward(drive, g, 0 * drive, zero, zero, v=v, u0=0.0, i0=0.0)
    gradient = jax.jit(jax.grad(loss))(params)
    assert_close(gradient["bias"][...], expected.drive.sum(axis=(0, 1)), 1e-10)


def test_lists_of_events_and_16_bits():
    layer = biased(dense(dtype=jnp.float32), BIAS)
    counts = np.asarray(spikes(0, (T, B, IN), rate=50.0))
    data = EventDataset.from_dense(counts.astype(np.uint8), np.zeros(B, int), 2e-3)
    lists = SparseEvents.from_events(DeviceEvents.from_dataset(data, dt=2e-3))
    events, _ = batch(lists, np.arange(B))
    assert isinstance(events, EventRaster)
    membrane = nnx.jit(lambda layer, x: layer(x, membrane=True).membrane)
    np.testing.assert_allclose(membrane(layer, events), membrane(layer, counts), atol=1e-5)
    half = dense(dtype=jnp.bfloat16)
    assert (half.kernel.dtype, half.bias.dtype) == (jnp.bfloat16, jnp.float32)
    with pytest.raises(TypeError, match="bias must be True or False, got 1"):
        dense(bias=1)


def test_models_have_biases_everywhere():
    network = models.dense(20, 3, hidden=(8, 6), bias=True, init=INIT, rngs=nnx.Rngs(0))
    assert [layer.bias.shape for layer in network.layers] == [(8,), (6,), (3,)]


# --- calibration


def test_the_moments_of_a_bias_are_those_of_its_membrane(x64, rng):
    neuron, bias = LIF(), jnp.asarray(rng.normal(0.05, 0.1, 7))
    x = jnp.asarray(rng.poisson(0.3 + 0.2 * np.sin(np.arange(200) / 9)[:, None, None], (200, 2, 5)))
    u = filtered(jnp.broadcast_to(bias, (200, 1, 7)), neuron)
    h = filtered(x.astype(float), neuron).sum(axis=-1, keepdims=True)
    found = bias_moments(bias, neuron, x.sum(axis=-1).astype(float))
    cov = ((u - u.mean(axis=0)) * (h - h.mean(axis=0))).mean()
    expected = u.mean(), u.var(axis=0).mean(), cov, u.mean(axis=0).var()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    # far from the onset: <b> / (1 - ls), the drive times the sum of the kernel
    late = bias_moments(bias, neuron, jnp.zeros((100_000, 1))).mean
    np.testing.assert_allclose(late, bias.mean() * neuron.kernel.mean() / neuron.dt, rtol=1e-3)


@functools.cache
def _calibrated(recurrent, mu_u):
    x = spikes(0, (300, 6, 200), rate=10.0)
    rngs = nnx.Rngs(0)
    options = {"init": INIT, "recurrent": recurrent, "bias": True, "rngs": rngs}
    hidden = biased(SpikingDense(200, 400, **options), np.linspace(-0.05, 0.25, 400))
    network = Sequential(hidden, Readout(400, 3, rngs=rngs))
    target = Target(0.8, mu_u=mu_u, balance=True)
    calibrated, (report,) = calibrate(
        network, x, key=jax.random.key(1), target=target, gradient=None
    )
    return x, hidden, calibrated.layers[0], report


@pytest.mark.parametrize(("recurrent", "mu_u"), [(False, 0.0), (False, 0.3), (True, 0.2)])
def test_calibration_takes_biases_into_account(recurrent, mu_u):
    """The biases alone would move the mean membrane to 0.55. They stay as they are."""
    x, before, layer, report = _calibrated(recurrent, mu_u)
    np.testing.assert_array_equal(layer.bias[...], before.bias[...])
    u = np.asarray(free_membrane(layer.neuron, whole_drive(layer, x, forward(layer, x).output)))
    alone = free_membrane(layer.neuron, np.broadcast_to(layer.bias[...], (300, 1, 400)))
    assert abs(np.asarray(alone).mean() - 0.53) < 0.02
    np.testing.assert_allclose(u.mean(), mu_u, atol=0.03)
    np.testing.assert_allclose(np.sqrt(u.var(axis=0).mean()), 0.8, rtol=0.03)
    assert bool(report.on_target)
    if not recurrent:
        spread = float(u.mean(axis=0).std())
        np.testing.assert_allclose(report.quenched_spread, spread, rtol=0.05)


@pytest.mark.parametrize("recurrent", [False, True])
def test_scales_of_a_dalian_layer_with_biases_are_exact(recurrent, rng, x64):
    neuron = ExcInhLIF()
    drives = [jnp.asarray(rng.poisson(0.5, (200, 4, 9)) * 1.0) for _ in range(3)]
    bias = jnp.broadcast_to(jnp.asarray(rng.normal(0.02, 0.05, 9)), (200, 1, 9))
    taus = neuron.tau_exc, neuron.tau_exc, neuron.tau_inh, neuron.tau_exc
    u_e, u_r, u_i, u_b = (
        current_membrane(neuron, d, tau) for d, tau in zip((*drives, bias), taus, strict=True)
    )
    p = moments(u_e, u_r if recurrent else None, u_i, u_b)
    s = scales_from_moments(p, sigma_u=0.4, mu_u=0.1, alpha=0.8)
    exc = s.exc * drives[0] + s.rec * drives[1] + bias
    u = free_membrane(neuron, ExcInhDrive(exc, s.inh * drives[2]))
    np.testing.assert_allclose(u.mean(), 0.1, atol=1e-9)
    np.testing.assert_allclose(jnp.sqrt(u.var(axis=0).mean()), 0.4, rtol=1e-9)


def test_a_dalian_layer_with_biases_is_put_on_target():
    x = spikes(0, (300, 10, 200), rate=10.0)
    rngs, init = nnx.Rngs(0), DalianFluctuationDriven(nu=5.0)
    hidden = DalianDense(200, 96, init=init, bias=True, rngs=rngs)
    network = Sequential(biased(hidden, np.full(120, 0.05)), Readout(96, 3, rngs=rngs))
    calibrated, (report,) = calibrate(network, x, key=jax.random.key(1), gradient=None)
    layer = calibrated.layers[0]
    u = free_membrane(layer.neuron, layer.whole_drive(x, layer(x).output))
    np.testing.assert_allclose(u.mean(), 0.0, atol=0.05)
    np.testing.assert_allclose(jnp.sqrt(u.var(axis=0).mean()), 1.0, rtol=0.05)
    assert bool(report.on_target)
    np.testing.assert_array_equal(layer.bias[...], hidden.bias[...])


def test_the_readout_s_bias_is_scaled_with_its_weights():
    x = spikes(0, (100, 8, 30), rate=20.0)
    network = models.dense(30, 3, hidden=(20,), bias=True, init=INIT, rngs=nnx.Rngs(0))
    biased(network.layers[1], [0.1, -0.2, 0.3])
    target = GradientTarget(logit_spread=0.3)
    calibrated, _ = calibrate(network, x, key=jax.random.key(0), gradient=target)
    before, after = network.layers[-1], calibrated.layers[-1]
    factor = np.asarray(after.kernel[...]) / before.kernel[...]
    np.testing.assert_allclose(factor, factor[0, 0], rtol=1e-5)
    np.testing.assert_allclose(after.bias[...] / before.bias[...], factor[0, 0], rtol=1e-5)
    scores = np.asarray(forward(calibrated, x)[0]).max(axis=0)
    spread = np.sqrt(np.square(scores - scores.mean(axis=-1, keepdims=True)).mean())
    np.testing.assert_allclose(spread, 0.3, rtol=1e-3)  # o[0] is not scaled


@pytest.mark.parametrize("norm", [None, BatchNorm()])
def test_the_probe_predicts_the_mean_with_biases(norm):
    """Constant drives move the mean membrane by 0.4; a normalization also scales the weights."""
    rngs, x = nnx.Rngs(0), spikes(0, (600, 6, 200), rate=10.0)
    options = {"init": FluctuationDriven(nu=10.0, sigma_u=0.5), "norm": norm, "rngs": rngs}
    hidden = SpikingDense(200, 100, bias=norm is None, **options)
    if norm is None:
        biased(hidden, np.linspace(-0.1, 0.25, 100))
    else:
        hidden.norm.shift[...] += 0.075
        hidden.norm.scale[...] *= 1.5
    report = probe(Sequential(hidden, Readout(100, 3, rngs=rngs)), x, jnp.arange(6) % 3)
    (layer,) = report.layers
    assert layer.mu_u > 0.3
    np.testing.assert_allclose(layer.predicted_mu_u, layer.mu_u, atol=0.05)
    np.testing.assert_allclose(layer.predicted_sigma_u, layer.sigma_u, rtol=0.05)
