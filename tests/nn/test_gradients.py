"""Gradients of whole networks, from the loss to every weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, lif_backward, lif_loop
from flax import nnx

from snnjax.dynamics import LIF, LeakyIntegrator
from snnjax.losses import CrossEntropy
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense

T, B, WIDTHS, CLASSES = 60, 3, (12, 10, 8), 4
LR, LS = np.exp(-2 / 120), np.exp(-2 / 10)
LABELS = np.array([0, 3, 1])


def network(neuron=None):
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=50.0, sigma_u=1.5, alpha=0.7)
    hidden = [
        SpikingDense(a, b, init=init, neuron=neuron, recurrent=True, dtype=jnp.float64, rngs=rngs)
        for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)  # noqa: RUF007
    ]
    return Sequential(
        *hidden,
        Readout(
            WIDTHS[-1], CLASSES, neuron=LeakyIntegrator(tau_mem=0.12), dtype=jnp.float64, rngs=rngs
        ),
    )


def loss_and_gradients(net, x):
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    f = lambda p: CrossEntropy()(nnx.merge(graphdef, p, rest)(x)[0], jnp.asarray(LABELS)).mean()
    return f, params, jax.jit(jax.value_and_grad(f))(params)


def loop(x, hidden, out):
    """Loss and gradients by Python loops over layers and steps, forward and backward.

    `hidden` has (W, V) of each layer.
    """
    inputs, drives = [x], []
    for w, v in hidden:
        drives.append(inputs[-1] @ w)
        inputs.append(lif_loop(drives[-1], v=v).z)
    o, i, trace = np.full((B, CLASSES), -1e-3), np.zeros((B, CLASSES)), []
    for z in inputs[-1]:
        o, i = LR * o + (1 - LR) * i, LS * i + z @ out
        trace.append(o)
    trace = np.array(trace)
    first = trace.argmax(axis=0)
    logits = trace.max(axis=0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(B), LABELS]).mean()
    g_logits = (p - np.eye(CLASSES)[LABELS]) / B

    g_trace = np.zeros_like(trace)
    np.put_along_axis(g_trace, first[None], g_logits[None], axis=0)
    g_drive, g_o, g_i = np.zeros_like(trace), np.zeros((B, CLASSES)), np.zeros((B, CLASSES))
    for t in reversed(range(T)):
        g_drive[t] = g_i
        g_o = g_o + g_trace[t]  # of o[t+1]
        g_i, g_o = LS * g_i + (1 - LR) * g_o, LR * g_o
    gradients = [np.einsum("tbi,tbj->ij", inputs[-1], g_drive)]
    g_z = g_drive @ out.T
    zero = np.zeros
    for (w, v), h, drive in reversed(list(zip(hidden, inputs[:-1], drives, strict=True))):
        g = lif_backward(
            drive,
            g_z,
            np.zeros_like(drive),
            zero(drive.shape[1:]),
            zero(drive.shape[1:]),
            v=v,
            u0=0.0,
            i0=0.0,
        )
        gradients = [np.einsum("tbi,tbj->ij", h, g.drive), g.recurrent, *gradients]
        g_z = g.drive @ w.T
    return loss, gradients


def test_whole_network_equals_python_loops(rng, x64):
    net, x = network(), rng.poisson(0.1, (T, B, WIDTHS[0])).astype(np.float64)
    _, _, (loss, grads) = loss_and_gradients(net, x)
    hidden = [
        (np.asarray(layer.kernel[...]), np.asarray(layer.recurrent_kernel[...]))
        for layer in list(net.layers)[:-1]
    ]
    expected_loss, expected = loop(x, hidden, np.asarray(net.layers[-1].kernel[...]))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    layers = grads["layers"]
    got = [layers[k][name][...] for k in (0, 1) for name in ("kernel", "recurrent_kernel")] + [
        layers[2]["kernel"][...]
    ]
    for a, b in zip(got, expected, strict=True):
        assert np.abs(b).max() > 0
        assert_close(a, b, 1e-9)


def smooth(v):
    return jax.nn.sigmoid(5 * v)


@pytest.mark.parametrize("reset", ["multiplicative", "subtractive"])
def test_whole_network_with_smooth_spikes_equals_finite_differences(reset, rng, x64):
    net = network(LIF(spike=smooth, reset=reset, reset_grad=True))
    f, params, (_, grads) = loss_and_gradients(
        net, rng.poisson(0.1, (T, B, WIDTHS[0])).astype(np.float64)
    )
    leaves, treedef = jax.tree.flatten(params)
    for k, g in enumerate(jax.tree.leaves(grads)):
        direction = rng.normal(size=g.shape)
        along = [
            f(treedef.unflatten([w + s * direction if j == k else w for j, w in enumerate(leaves)]))
            for s in (1e-5, -1e-5)
        ]
        np.testing.assert_allclose(
            np.sum(np.asarray(g) * direction), (along[0] - along[1]) / 2e-5, rtol=1e-6, atol=1e-10
        )
