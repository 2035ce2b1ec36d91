import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, spikes
from flax import nnx

from snnjax.calibration import calibrate, free_membrane
from snnjax.datasets import DeviceArrays, Splits
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF
from snnjax.nn import (
    Flatten,
    FluctuationDriven,
    Readout,
    Reshape,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.nn._per_step import PerStep
from snnjax.training import Objective, fit

T, B, N = 60, 6, 12
INIT = FluctuationDriven(nu=20.0)


@pytest.fixture
def x():
    return spikes(0, (T, B, N), rate=40.0)


def make():
    rngs = nnx.Rngs(0)
    return Sequential(
        SpikingDense(N, 16, init=INIT, rngs=rngs), nnx.Linear(16, 10, rngs=rngs), nnx.LayerNorm(10, rngs=rngs),
        SpikingDense(10, 8, init=INIT, rngs=rngs), Readout(8, 3, rngs=rngs),
    )  # fmt: skip


def test_a_linear_layer_and_a_norm_are_applied_at_each_step(x):
    net = make()
    first, linear, norm, second, _ = net.layers
    z = np.asarray(first(x).output)
    w, b = (np.asarray(p[...]) for p in (linear.module.kernel, linear.module.bias))
    y = z @ w + b
    y = (y - y.mean(axis=-1, keepdims=True)) / np.sqrt(
        y.var(axis=-1, keepdims=True) + norm.module.epsilon
    )
    assert_close(norm(linear(z).output).output, y, 1e-4)
    out, activity = net(x)
    assert_close(activity.spikes[1], second(norm(linear(z).output).output).output, 0)
    state, step = net.initial_state(B), jax.jit(net.step)
    for x_t in x:
        state, (last, _) = step(state, x_t)
    assert_close(last, out[-1], 1e-4)


@pytest.mark.more
def test_the_layer_above_is_calibrated_on_what_it_gets_and_all_of_it_is_trained(x):
    with pytest.warns(UserWarning, match="^off target: .*layer 2"):
        calibrated, reports = calibrate(make(), x, key=jax.random.key(0))
    first, linear, norm, second, _ = calibrated.layers
    u = free_membrane(LIF(), norm(linear(first(x).output).output).output @ second.kernel[...])
    np.testing.assert_allclose(reports[1].sigma_u, np.sqrt(u.var(axis=0).mean()), rtol=1e-3)
    # the norm multiplies the gradient by more than any steepness can compensate; the report says so
    assert not reports[1].gradient.reached
    assert "layer 2 has the backward gain" in str(reports)
    labels = jnp.arange(B) % 3
    report = probe(calibrated, x, labels)
    # the first layer gets spikes; the second gets numbers below 0, for which there is no formula
    assert [bool(np.isnan(p.predicted_sigma_u)) for p in report.layers] == [False, True]
    assert "nan" not in str(report)
    assert "Poisson" not in str(report)
    before = np.asarray(linear.module.kernel[...])
    data = DeviceArrays(x=jnp.moveaxis(x, 1, 0), labels=labels)
    fit(
        calibrated,
        Splits(data),
        Objective(),
        optax.sgd(0.1),
        epochs=1,
        batch_size=B,
        key=jax.random.key(0),
        dt=2e-3,
    )
    assert np.abs(np.asarray(linear.module.kernel[...]) - before).max() > 0


def test_convolutions_of_flax_and_sizes_that_follow_from_them():
    rngs = nnx.Rngs(0)
    conv = nnx.Conv(1, 4, kernel_size=(3,), strides=2, padding="VALID", rngs=rngs)
    net = Sequential(
        Reshape(N, 1),
        conv,
        SpikingConv1d(4, 5, kernel_size=2, init=INIT, rngs=rngs),
        Flatten(),
        Readout(20, 3, rngs=rngs),
    )
    x = spikes(1, (4, B, N), rate=40.0)
    expected = np.asarray(conv(x.reshape(-1, N, 1))).reshape(4, B, 5, 4)
    assert_close(net.layers[1](x[..., None]).output, expected, 1e-6)
    assert net(x).readout.shape == (4, B, 3)
    assert_close(
        PerStep(conv)((x > 0)[..., None]).output,
        PerStep(conv)(jnp.minimum(x, 1)[..., None]).output,
        1e-6,
    )


def test_what_does_not_fit_or_carries_something_is_refused():
    rngs = nnx.Rngs(0)
    hidden, readout = SpikingDense(N, 16, init=INIT, rngs=rngs), Readout(8, 3, rngs=rngs)
    linear = nnx.Linear(16, 10, rngs=rngs)
    for layers, match in (
        (
            (hidden, nnx.Linear(15, 8, rngs=rngs), readout),
            r"layers\[1\] \(Linear\) .* expects 15 inputs but gets 16",
        ),
        (
            (hidden, linear, readout),
            r"layers\[2\] \(Readout\) .* expects 8 inputs but gets 10",
        ),
        (
            (hidden, nnx.Conv(16, 8, (3, 3), rngs=rngs), readout),
            r"layers\[1\] \(Conv\) .* Conv cannot take features of shape",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            Sequential(*layers)
    for module, match in (
        (
            nnx.BatchNorm(16, rngs=rngs),
            r"layers\[1\]: BatchNorm has variables that are no parameters \(BatchStat\), .* nnx.LayerNorm",
        ),
        (nnx.Dropout(0.1, rngs=rngs), "Dropout has variables .*Rng.*snnjax.nn.Dropout"),
        (
            nnx.LSTMCell(16, 16, rngs=rngs),
            "LSTMCell has its own state over time, .* derive a layer from snnjax.nn.Layer",
        ),
        (nnx.Dict(a=nnx.Param(jnp.ones(3))), "module must be a callable flax.nnx module, got Dict"),
        (Sequential(hidden), "layers are given one by one"),
        (jax.nn.relu, "layers are given one by one.* wrap a function in a module"),
        (nnx.Linear, "layers are given one by one.* got the class Linear; create an object"),
    ):
        with pytest.raises(TypeError, match=match):
            Sequential(hidden, module, readout)
