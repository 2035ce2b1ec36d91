"""Batch normalization of the drive: values, gradients, statistics in training, and the start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, lif_loop, require, spikes
from flax import nnx

from snnjax import models
from snnjax.calibration import Target, calibrate, free_membrane, scale_to_rate
from snnjax.dynamics import LIF
from snnjax.exchange import from_nir, load_parameters, save_parameters, to_nir
from snnjax.initializers import kaiming_normal
from snnjax.losses import Timed
from snnjax.nn import (
    BatchNorm,
    DalianDense,
    DalianFluctuationDriven,
    FluctuationDriven,
    Readout,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.nn._norm import Statistics
from snnjax.training import Objective, Trainer

T, B, IN, OUT = 50, 4, 20, 12
INIT = FluctuationDriven(nu=50.0, sigma_u=1.5)
KEY = jax.random.key(0)


def dense(*, dtype=None, recurrent=True, norm=BatchNorm(momentum=0.3), **options):
    dtype = jnp.result_type(float) if dtype is None else dtype  # float64 with x64
    return SpikingDense(
        IN, OUT, init=INIT, recurrent=recurrent, norm=norm, dtype=dtype, rngs=nnx.Rngs(0), **options
    )


def changed(layer, rng):
    """The layer with other parameters of the normalization than at the start."""
    for name, low, high in [("scale", 0.3, 1), ("shift", -0.1, 0.2), ("mean", 0, 0.3)]:
        getattr(layer.norm, name)[...] = jnp.asarray(rng.uniform(low, high, OUT))
    layer.norm.variance[...] = jnp.asarray(rng.uniform(0.3, 1.0, OUT))
    return layer


def normalized(d, norm, mean, variance):
    """In numpy, for a drive d (..., units)."""
    scale, shift = np.asarray(norm.scale[...]), np.asarray(norm.shift[...])
    return scale * (d - mean) / np.sqrt(variance + norm.options.eps) + shift


def inputs(rng, *features):
    return jnp.asarray(rng.poisson(0.1, (T, B, *features)).astype(np.float64))


def test_a_layer_equals_a_loop_in_training_and_outside(rng, x64):
    layer, x = changed(dense(), rng), inputs(rng, IN)
    v, raw = np.asarray(layer.recurrent_kernel[...]), np.asarray(x @ layer.kernel[...])
    outside = normalized(raw, layer.norm, layer.norm.mean[...], layer.norm.variance[...])
    inside = normalized(raw, layer.norm, raw.mean((0, 1)), raw.var((0, 1)))
    for drive, key in ((outside, None), (inside, KEY)):
        expected = lif_loop(drive, v=v)
        sim = layer(x, key=key, membrane=True)
        assert 0.01 < expected.z.mean() < 0.5
        np.testing.assert_array_equal(sim.output, expected.z)
        assert_close(sim.membrane, expected.u, 1e-12)
    state, step, z = layer.initial_state(B), jax.jit(layer.step), []
    for x_t in x:
        state, z_t = step(state, x_t)
        z.append(z_t)
    np.testing.assert_array_equal(jnp.stack(z), layer(x).output)


def test_statistics_of_a_convolution_are_over_positions(rng, x64):
    options = {
        "kernel_size": 5,
        "dtype": jnp.result_type(float),
        "norm": BatchNorm(),
        "rngs": nnx.Rngs(0),
    }
    layer, x = SpikingConv1d(2, OUT, init=INIT, **options), inputs(rng, 30, 2)
    raw = np.asarray(layer.map.project(x, layer.kernel[...]))
    expected = normalized(raw, layer.norm, raw.mean((0, 1, 2)), raw.var((0, 1, 2)))
    assert_close(layer._training_drive(x), expected, 1e-12)


def test_gradients_are_finite_differences_and_those_of_statistics_their_change(rng, x64):
    smooth = LIF(spike=lambda v: jax.nn.sigmoid(5 * v), reset_grad=True)
    layer, x = changed(dense(neuron=smooth), rng), inputs(rng, IN)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    weights = rng.normal(size=(T, B, OUT))
    loss = lambda p: (weights * nnx.merge(graphdef, p, rest)(x, key=KEY).output).sum()
    gradient, value = jax.jit(jax.grad(loss))(params), jax.jit(loss)
    raw = np.asarray(x @ layer.kernel[...])
    for name, found in (("mean", raw.mean((0, 1))), ("variance", raw.var((0, 1)))):
        old = np.asarray(params["norm"][name][...])
        assert_close(gradient["norm"][name][...], 0.3 * (old - found), 1e-10)
    leaves, treedef = jax.tree.flatten(params)
    for k, (path, g) in enumerate(jax.tree_util.tree_leaves_with_path(gradient)):
        if any(name in jax.tree_util.keystr(path) for name in ("mean", "variance")):
            continue
        direction = rng.normal(size=g.shape)
        along = [
            value(treedef.unflatten([*leaves[:k], leaves[k] + s * direction, *leaves[k + 1 :]]))
            for s in (1e-5, -1e-5)
        ]
        np.testing.assert_allclose(
            float((g * direction).sum()), (along[0] - along[1]) / 2e-5, rtol=1e-5
        )


PER_STEP = BatchNorm(momentum=0.3, num_steps=T)


@pytest.mark.parametrize("features", [(IN,), (30, 2)])
def test_statistics_per_time_step_equal_a_loop(rng, x64, features):
    """Dense layers and convolutions, in training and outside; gradients are those changes."""
    if len(features) == 1:
        layer = dense(norm=PER_STEP)
    else:
        options = {
            "kernel_size": 5,
            "dtype": jnp.result_type(float),
            "norm": PER_STEP,
            "rngs": nnx.Rngs(0),
        }
        layer = SpikingConv1d(2, OUT, init=INIT, **options)
    for name, low, high in [("scale", 0.3, 1), ("shift", -0.1, 0.2), ("mean", 0, 0.3)]:
        getattr(layer.norm, name)[...] = jnp.asarray(rng.uniform(low, high, (T, OUT)))
    layer.norm.variance[...] = jnp.asarray(rng.uniform(0.3, 1.0, (T, OUT)))
    x = inputs(rng, *features)
    raw = np.asarray(layer.map.project(x, layer.kernel[...]))
    scale, shift = np.asarray(layer.norm.scale[...]), np.asarray(layer.norm.shift[...])
    running = np.asarray(layer.norm.mean[...]), np.asarray(layer.norm.variance[...])
    means, variances = [], []
    for t in range(T):
        axes = tuple(range(raw[t].ndim - 1))
        means.append(raw[t].mean(axes))
        variances.append(raw[t].var(axes))
        for training, (m, v) in (
            (True, (means[t], variances[t])),
            (False, (running[0][t], running[1][t])),
        ):
            expected = scale[t] * (raw[t] - m) / np.sqrt(v + layer.norm.options.eps) + shift[t]
            found = layer._training_drive(x) if training else layer.drive(x)
            assert_close(found[t], expected, 1e-10)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    loss = lambda p: nnx.merge(graphdef, p, rest)._training_drive(x).sum()
    gradient = jax.grad(loss)(params)["norm"]
    for name, old, new in zip(("mean", "variance"), running, (means, variances), strict=True):
        assert_close(gradient[name][...], 0.3 * (old - np.array(new)), 1e-10)


def test_statistics_per_time_step_need_whole_trials():
    layer = dense(dtype=jnp.float32, norm=PER_STEP)
    message = r"trials must have 50 steps with BatchNorm\(num_steps=50\), got 40"
    with pytest.raises(ValueError, match=message):
        layer(X[:40])
    with pytest.raises(ValueError, match=r"got a single step; leave num_steps out"):
        layer.step(layer.initial_state(B), X[0])


def test_calibration_starts_the_statistics_of_every_time_step():
    """The network stays the calibrated one without normalization, also in training."""
    net, _ = calibrate(network(norm=PER_STEP), X, key=KEY, gradient=None)
    layer = net.layers[0]
    raw = np.asarray(layer.map.project(X, layer.kernel[...]))
    np.testing.assert_allclose(layer.norm.mean[...], raw.mean(axis=1), rtol=1e-4, atol=1e-5)
    for found in (layer.drive(X), layer._training_drive(X)):
        np.testing.assert_allclose(found, raw, rtol=0, atol=2e-4)


# --- training


def network(*, norm=BatchNorm(momentum=0.3), width=OUT, init=INIT, seed=0, **options):
    rngs = nnx.Rngs(seed)
    return models.dense(IN, 3, hidden=(width, width), init=init, norm=norm, rngs=rngs, **options)


X, Y = spikes(0, (T, B, IN), rate=50.0), jnp.array([0, 2, 1, 0])


def norms(tree):
    """The normalizations of the two hidden layers of parameters."""
    return [tree["layers"][k]["norm"] for k in (0, 1)]


def batch_statistics(net, x):
    """Mean and variance of the drive of each hidden layer in training, layer by layer."""
    found = []
    for layer in list(net.layers)[:2]:
        raw = layer.map.project(x, layer.kernel[...])
        found.append((raw.mean((0, 1)), raw.var((0, 1))))
        x = layer(x, key=KEY).output
    return found


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_moves_the_statistics_and_the_optimizer_does_not_see_them(micro_batch):
    """With parts of a batch, the statistics move towards the mean of those of the parts.

    The optimizer clips the norm of all gradients, and decays all parameters.
    """
    net = network()
    optimizer = optax.chain(
        optax.clip_by_global_norm(1e-3), optax.add_decayed_weights(0.5), optax.sgd(0.1)
    )
    trainer = Trainer(net, Objective(), optimizer, batch_size=B, micro_batch=micro_batch)
    state, _ = trainer.step(trainer.init(), (X, Y), jax.random.key(1))
    parts = [X] if micro_batch is None else [X[:, :2], X[:, 2:]]
    each = [batch_statistics(net, part) for part in parts]
    for k, (old, new) in enumerate(zip(norms(trainer.params), norms(state.params), strict=True)):
        for j, name in enumerate(("mean", "variance")):
            assert isinstance(new[name], Statistics)
            m = np.mean([found[k][j] for found in each], axis=0)
            np.testing.assert_allclose(
                new[name][...], 0.7 * old[name][...] + 0.3 * m, rtol=2e-5, atol=1e-6
            )
        decayed = 0.95 * old["scale"][...]  # and a gradient of a norm of at most 1e-3
        assert 0 < np.abs(new["scale"][...] - decayed).max() < 1e-3
    assert trainer.problem.separable is False  # so that a batch is not split without being asked


def test_without_a_key_the_running_statistics_are_used_and_stay():
    trainer = Trainer(network(), Objective(), optax.sgd(0.1), batch_size=B)
    state, _ = trainer.step(trainer.init(), (X, Y))
    for old, new in zip(norms(trainer.params), norms(state.params), strict=True):
        np.testing.assert_array_equal(new["mean"][...], old["mean"][...])
        assert np.abs(new["shift"][...] - old["shift"][...]).max() > 0


def test_a_batch_of_one_is_refused():
    message = "batch_size .* must be at least 2 in training with batch normalization, got 1"
    with pytest.raises(ValueError, match=message):
        dense(dtype=jnp.float32)(X[:, :1], key=KEY)
    for sizes in ({"batch_size": 1}, {"batch_size": 4, "micro_batch": 1}):
        trainer = Trainer(network(), Objective(), optax.sgd(0.1), **sizes)
        n = sizes["batch_size"]
        with pytest.raises(ValueError, match=message):
            trainer.step(trainer.init(), (X[:, :n], Y[:n]), KEY)
        assert trainer.evaluate(trainer.params, (X[:, :1], Y[:1])).rates.shape == (2,)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: dense(norm=True), TypeError, r"norm must be a snnjax\.nn\.BatchNorm or None"),
        (lambda: dense(bias=True), ValueError, "bias must be False with norm"),
        (lambda: Readout(4, 2, norm=BatchNorm(), rngs=nnx.Rngs(0)), ValueError, "norm must be None for readouts"),
        (
            lambda: DalianDense(4, 4, init=DalianFluctuationDriven(nu=5.0), norm=BatchNorm(), rngs=nnx.Rngs(0)),
            ValueError, "norm must be None for readouts and for layers with Dale's law, got .* for DalianDense",
        ),
        (lambda: network(remat_steps=10), ValueError, "remat_steps must be None with batch normalization"),
        (lambda: BatchNorm(momentum=0.0), ValueError, "momentum must be finite and > 0"),
        (lambda: BatchNorm(momentum=1.5), ValueError, "momentum must be"),
        (lambda: BatchNorm(eps=0.0), ValueError, "eps must be finite and > 0"),
        (lambda: BatchNorm(num_steps=0), ValueError, "num_steps must be >= 1, got 0"),
    ],
)  # fmt: skip
def test_wrong_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


# --- the start


def test_the_first_statistics_are_those_of_poisson_input_and_change_nothing():
    rates = np.linspace(5.0, 60.0, IN)
    layer = SpikingDense(
        IN, 64, init=FluctuationDriven(nu=rates), norm=BatchNorm(), rngs=nnx.Rngs(0)
    )
    x = spikes(1, (4000, 10, IN), rate=rates)
    raw = np.asarray(x @ layer.kernel[...])
    spread = raw.std((0, 1))
    np.testing.assert_allclose(layer.norm.variance[...], spread**2, rtol=0.04)
    assert np.abs((layer.norm.mean[...] - raw.mean((0, 1))) / spread).max() < 0.03
    np.testing.assert_allclose(layer.drive(x), raw, rtol=0, atol=1e-5)
    unknown = SpikingDense(IN, 4, init=kaiming_normal(), norm=BatchNorm(), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(unknown.drive(x), x @ unknown.kernel[...], rtol=0, atol=1e-5)


@functools.cache
def _calibrated(norm):
    x = spikes(2, (200, 10, IN), rate=np.linspace(5.0, 60.0, IN))
    net = network(norm=norm, width=128)
    for layer in list(net.layers)[:2]:
        if layer.norm is not None:  # as after training
            layer.norm.shift[...] += 0.3
    targets = [Target(0.8, balance=True), Target(1.2, mu_u=0.2)]
    return x, *calibrate(net, x, key=jax.random.key(3), target=targets, gradient=None)


def test_calibration_starts_the_normalization_with_its_statistics():
    """The network is the calibrated one without normalization, also in training on this batch."""
    x, net, reports = _calibrated(BatchNorm())
    _, plain, _ = _calibrated(None)
    assert all(bool(report.on_target) for report in reports)
    below = x
    for layer, other in list(zip(net.layers, plain.layers, strict=True))[:2]:
        np.testing.assert_array_equal(layer.kernel[...], other.kernel[...])
        drive = other.drive(below)
        for key in (None, KEY):
            found = layer.drive(below) if key is None else layer._training_drive(below)
            np.testing.assert_allclose(found, drive, rtol=0, atol=2e-5)
        below = layer(below).output
    u = free_membrane(net.layers[0].neuron, net.layers[0]._training_drive(x))
    np.testing.assert_allclose(jnp.sqrt(u.var(axis=0).mean()), 0.8, rtol=0.05)


def test_scaling_to_a_rate_keeps_the_normalization_the_identity():
    x = spikes(2, (200, 10, IN), rate=30.0)
    net, reports = scale_to_rate(network(width=64), x, rate=10.0)
    layer = net.layers[0]
    np.testing.assert_allclose(layer.drive(x), x @ layer.kernel[...], rtol=0, atol=2e-5)
    np.testing.assert_allclose([float(r.rate) for r in reports], 10.0, rtol=0.05)


# --- files


def test_statistics_are_saved_and_loaded(tmp_path):
    trainer = Trainer(network(), Objective(), optax.sgd(0.1), batch_size=B)
    state, _ = trainer.step(trainer.init(), (X, Y), KEY)
    trained, other = network(), network(seed=1)
    nnx.update(trained, state.params)
    save_parameters(tmp_path / "network.npz", trained)
    load_parameters(tmp_path / "network.npz", other)
    np.testing.assert_array_equal(other(X)[0], trained(X)[0])
    assert "layers.0.norm.mean" in np.load(tmp_path / "network.npz")


def test_nir_has_the_normalization_in_weights_and_biases(rng):
    require("nir")
    net = network(recurrent=True)
    for layer in list(net.layers)[:2]:
        changed(layer, rng)
    back = from_nir(to_nir(net))
    assert back.layers[0].norm is None
    with pytest.raises(ValueError, match="its normalization differs between time steps"):
        to_nir(network(norm=PER_STEP))
    found, expected = back(X), net(X)
    for a, b in zip(found.activity.spikes, expected.activity.spikes, strict=True):
        assert 0.01 < b.mean() < 0.5
        assert (a == b).mean() > 0.995  # rounding moves a few spikes
    assert_close(
        back.layers[0].drive(X),
        net.layers[0].drive(X),
        1e-5,
    )


def test_trials_of_different_length_are_refused_in_training():
    trainer = Trainer(network(), Objective(), optax.sgd(0.1), batch_size=B)
    timed = Timed(target=Y, num_steps=jnp.array([50, 40, 30, 20]))
    with pytest.raises(ValueError, match="need a network without batch normalization"):
        trainer.step(trainer.init(), (X, timed), KEY)
    assert trainer.evaluate(trainer.params, (X, timed)).rates.shape == (2,)
