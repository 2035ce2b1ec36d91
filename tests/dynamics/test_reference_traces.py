"""Comparison with the numbers of the reference implementation (float64).

Spikes, readout, loss and surrogate gradients of two networks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, data_path, enable_x64
from flax import nnx

from snnjax.dynamics import LIF, LeakyIntegrator, simulate
from snnjax.initializers import kaiming_normal
from snnjax.nn import Readout, SameForAll, Sequential, SpikingDense

LIF_PARAMETERS = {"tau_mem": 20e-3, "tau_syn": 10e-3, "theta": 1.0, "dt": 2e-3}
READOUT = LeakyIntegrator(tau_mem=0.12, tau_syn=10e-3, initial=0.0, dt=2e-3)


@pytest.fixture(scope="module")
def reference():
    return np.load(data_path("reference/reference_traces.npz"))


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def precision(request):
    """(dtype, relative tolerance), in 64-bit mode if needed."""
    if request.param is np.float32:
        yield np.float32, 1e-4
    else:
        with enable_x64():
            yield np.float64, 1e-9


def loss_of(readout, labels):
    """Cross-entropy on the maximum over time; readout (T, B, classes).

    Of several equal maxima, the first gets the gradient.
    """
    first = jnp.argmax(readout, axis=0)
    logits = jnp.take_along_axis(readout, first[None], axis=0)[0]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def check(reference, name, loss, readout, spikes, gradients, rtol):
    """Compare all arrays with those of the reference, which are batch-first."""
    for k, z in enumerate(spikes):
        assert reference[f"{name}/spikes{k}"].mean() > 0.01
        np.testing.assert_array_equal(z, reference[f"{name}/spikes{k}"])
    assert_close(readout, reference[f"{name}/readout"], rtol)
    np.testing.assert_allclose(loss, reference[f"{name}/loss"], rtol=rtol)
    for k, gradient in enumerate(gradients):
        assert gradient.dtype == readout.dtype
        assert_close(gradient, reference[f"{name}/grad{k}"], rtol)


def batch_first(x):
    return np.moveaxis(np.asarray(x), 0, 1)


@pytest.mark.parametrize("fused", [True, False])
def test_dense_through_simulate(reference, precision, fused):
    dtype, rtol = precision
    x = jnp.asarray(np.moveaxis(reference["dense/x"], 1, 0), dtype)

    def run(weights):
        z0 = simulate(LIF(**LIF_PARAMETERS), x @ weights[0].T, fused=fused).output
        z1 = simulate(LIF(**LIF_PARAMETERS), z0 @ weights[1].T, fused=fused).output
        readout = simulate(READOUT, z1 @ weights[2].T).output
        return loss_of(readout, reference["dense/y"]), (readout, (z0, z1))

    weights = [jnp.asarray(reference[f"dense/w{k}"], dtype) for k in range(3)]
    (loss, (readout, spikes)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(weights)
    check(reference, "dense", loss, batch_first(readout), map(batch_first, spikes), gradients, rtol)


def test_dense_through_modules(reference, precision):
    dtype, rtol = precision
    options = {"dtype": dtype, "rngs": nnx.Rngs(0)}
    hidden = {"neuron": LIF(**LIF_PARAMETERS), "init": SameForAll(kaiming_normal()), **options}
    network = Sequential(
        SpikingDense(20, 32, **hidden),
        SpikingDense(32, 24, **hidden),
        Readout(24, 5, neuron=READOUT, **options),
    )
    for k, layer in enumerate(network.layers):
        layer.kernel[...] = jnp.asarray(reference[f"dense/w{k}"].T, dtype)
    x = jnp.asarray(np.moveaxis(reference["dense/x"], 1, 0), dtype)

    @nnx.jit
    @nnx.value_and_grad(has_aux=True)
    def run(network):
        readout, activity = network(x)
        return loss_of(readout, reference["dense/y"]), (readout, activity.spikes)

    (loss, (readout, spikes)), gradient = run(network)
    gradients = [gradient.layers[k].kernel[...].T for k in range(3)]
    check(reference, "dense", loss, batch_first(readout), map(batch_first, spikes), gradients, rtol)


@pytest.mark.parametrize("fused", [True, False])
def test_conv1d_through_simulate(reference, precision, fused):
    dtype, rtol = precision
    x = jnp.asarray(np.moveaxis(reference["conv1d/x"], 1, 0), dtype)
    steps, batch = x.shape[:2]

    def convolve(x, kernel, stride, padding):
        # all steps of all trials form one batch
        flat = x.reshape(-1, *x.shape[2:])
        out = jax.lax.conv_general_dilated(
            flat, kernel, (stride,), [(padding, padding)], dimension_numbers=("NCH", "OIH", "NCH")
        )
        return out.reshape(steps, batch, *out.shape[1:])

    def run(weights):
        z0 = simulate(LIF(**LIF_PARAMETERS), convolve(x, weights[0], 3, 0), fused=fused).output
        z1 = simulate(LIF(**LIF_PARAMETERS), convolve(z0, weights[1], 2, 2), fused=fused).output
        readout = simulate(READOUT, z1.reshape(steps, batch, -1) @ weights[2].T).output
        return loss_of(readout, reference["conv1d/y"]), (readout, (z0, z1))

    weights = [jnp.asarray(reference[f"conv1d/w{k}"], dtype) for k in range(3)]
    (loss, (readout, spikes)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(weights)
    check(
        reference, "conv1d", loss, batch_first(readout), map(batch_first, spikes), gradients, rtol
    )
