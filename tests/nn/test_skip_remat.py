"""`Sequential(skip=..., remat_steps=...)`: skip connections, and traces that are recomputed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import ON_CPU, assert_close
from flax import nnx

from snnjax import models
from snnjax.calibration import calibrate
from snnjax.datasets import DeviceArrays
from snnjax.datasets._batches import Batch
from snnjax.diagnostics import probe
from snnjax.nn import Flatten, FluctuationDriven, Readout, Sequential, SpikingConv1d, SpikingDense
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training import Objective, step_memory
from snnjax.training._objective import Problem
from snnjax.training._step import Recipe, Sizes, evaluate, micro_batch_size

pytestmark = pytest.mark.more

T, B = 33, 3


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.poisson(0.2, (T, B, 20, 1)), float)


def make(*, skip=True, remat_steps=None, dtype=jnp.float64):
    init, rngs = FluctuationDriven(nu=80.0, sigma_u=1.5), nnx.Rngs(0)
    return Sequential(
        SpikingConv1d(
            1,
            4,
            kernel_size=5,
            stride=3,
            init=init,
            recurrent_kernel_size=3,
            dtype=dtype,
            rngs=rngs,
        ),
        Flatten(),
        SpikingDense(24, 7, init=init, dtype=dtype, rngs=rngs),
        Readout(31 if skip else 7, 4, dtype=dtype, rngs=rngs),
        skip=skip,
        remat_steps=remat_steps,
    )


def test_readout_gets_every_layer_s_spikes(x, x64):
    network = make()
    readout, activity = network(x)
    conv, _, dense, last = network.layers
    z1 = conv(x).output
    z2 = dense(z1.reshape(T, B, -1)).output
    w = last.kernel[...]
    # one connection per layer: the sum of two products
    drive = z1.reshape(T, B, -1) @ w[:24] + z2 @ w[24:]
    from snnjax.dynamics import simulate

    assert_close(readout, simulate(last.neuron, drive).output, 1e-12)
    assert_close(activity.spikes[1], z2, 0)
    assert float(z1.sum()) > 10


def test_gradient_reaches_the_first_layer_past_a_silent_one(x, x64):
    """Without skip connections, a silent layer passes only the surrogate's tail, about 1/400."""

    def size(skip):
        network = make(skip=skip)
        network.layers[2].kernel[...] = 0.0 * network.layers[2].kernel[...]
        grads = nnx.jit(nnx.grad(lambda n: jnp.sum(n(x)[0] ** 2)))(network)
        return float(jnp.abs(grads["layers"][0]["kernel"][...]).mean())

    assert size(skip=False) == 0
    assert size(skip=True) > 1e-3


def test_streamed_steps_equal_the_sequence(x, x64):
    network = make()
    final, (readout, activity) = network.run(x)
    state, step = network.initial_state(B, features=(20, 1)), jax.jit(network.step)
    readout, spikes_of = np.asarray(readout), [np.asarray(z) for z in activity.spikes]
    for t, x_t in enumerate(np.asarray(x)):
        state, (o, spikes) = step(state, x_t)
        assert_close(o, readout[t], 1e-12)
        for a, b in zip(spikes, spikes_of, strict=True):
            np.testing.assert_array_equal(a, b[t])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
        assert_close(a, b, 1e-12)


# 33 = 4 * 8 + 1 = 3 * 11
@pytest.mark.parametrize("steps", [8, pytest.param(11, marks=pytest.mark.slow)])
def test_remat_changes_neither_values_nor_gradients(x, x64, steps):
    plain, parts = make(), make(remat_steps=steps)

    def value(n):
        final, (readout, activity) = n.run(x, membranes=True)
        return jnp.sum(readout**2) + sum(z.mean() for z in activity.spikes), (
            activity.membranes,
            final,
        )

    ((a, of_a), ga), ((b, of_b), gb) = (
        nnx.jit(nnx.value_and_grad(value, has_aux=True))(n) for n in (plain, parts)
    )
    assert_close(a, b, 1e-12)
    for u, v in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
        assert_close(u, v, 1e-9)
    for u, v in zip(jax.tree.leaves(of_a), jax.tree.leaves(of_b), strict=True):
        assert_close(u, v, 1e-12)


@ON_CPU
def test_remat_saves_memory():
    data = DeviceArrays(x=np.zeros((8, 400, 30), np.uint8), labels=np.zeros(8, np.int32))

    def temporaries(steps):
        network = models.dense(
            30,
            3,
            hidden=(64,) * 4,
            init=FluctuationDriven(nu=20.0),
            remat_steps=steps,
            rngs=nnx.Rngs(0),
        )
        return step_memory(
            network, data, Objective(), optax.sgd(0.1), batch_size=8, micro_batch=8
        ).temporaries

    whole, parts = temporaries(None), temporaries(20)
    # at least the membranes and spikes of 400 steps of 4 layers; in parts, the input, states,
    # counts and traces of 20 steps
    assert whole > 4 * 400 * 8 * 64 * 4 * 2
    assert parts < 400 * 8 * 30 * 4 + 0.25 * whole


def test_memory_grows_with_the_square_root_of_time():
    """Memory apart from the input, for four times as many steps.

    With parts that are twice as large it doubles; without parts it is four times as large.
    """

    def beside_the_input(steps, remat_steps):
        data = DeviceArrays(x=np.zeros((4, steps, 6), np.uint8), labels=np.zeros(4, np.int32))
        network = models.dense(
            6,
            3,
            hidden=(64,) * 3,
            init=FluctuationDriven(nu=20.0),
            remat_steps=remat_steps,
            rngs=nnx.Rngs(0),
        )
        needed = step_memory(
            network, data, Objective(), optax.sgd(0.1), batch_size=4, micro_batch=4
        ).temporaries
        return needed - 4 * steps * (6 + 3) * 4  # without the readout's trace

    assert beside_the_input(1600, 40) < 2.6 * beside_the_input(400, 20)
    assert beside_the_input(1600, None) > 3.5 * beside_the_input(400, None)


@pytest.mark.parametrize("steps", [8, 11, 40])
def test_counts_of_parts_in_place_of_spikes(x, x64, steps):
    """33 steps in parts of 8 and one of 1, in three parts, and in one, which has no rest."""
    network = make(remat_steps=steps)
    _, whole = make()(x)
    readout, parts = network(x, counts=True)
    assert whole.steps is None
    assert parts.steps == (T if steps < T else None)
    for a, b in zip(parts.spikes, whole.spikes, strict=True):
        assert len(a) == (-(-T // steps) if steps < T else T)
        np.testing.assert_array_equal(a.sum(axis=0), b.sum(axis=0))
    assert_close(readout, make()(x)[0], 1e-12)


def test_penalties_of_other_kinds_get_spikes(x):
    network = make(remat_steps=8, dtype=jnp.float32)
    for bounds, rows in (((upper_bound(0.1, 1.0),), 5), ((lambda s: s.mean(),), T)):
        objective, params = Problem.from_objective(network, Objective(regularizers=bounds))
        assert len(objective.outputs(params, x.astype(jnp.float32))[1].spikes[0]) == rows


@pytest.mark.slow
def test_training_in_parts_has_the_same_penalty_rates_and_gradient(x, x64):
    bounds = (upper_bound(0.1, 1.0), lower_bound(1.0, 3.0))
    found = []
    for steps in (None, 8):
        objective, params = Problem.from_objective(
            make(remat_steps=steps), Objective(regularizers=bounds)
        )
        labels = jnp.arange(B)
        batch = Batch(x=x, y=labels), jnp.arange(len(labels))
        (_, metrics), grads = jax.value_and_grad(
            lambda p, o=objective, b=batch: o.value(p, *b), has_aux=True
        )(params)
        source = DeviceArrays(x=x.swapaxes(0, 1), labels=labels)
        found.append(
            (
                metrics,
                grads,
                evaluate(Recipe(objective, None, Sizes(2, 2)), params, source),
                micro_batch_size(objective, params, source, B),
            )
        )
    assert found[0][0].penalty > 0
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert_close(b, a, 1e-10)


@pytest.mark.slow
def test_calibration_and_probe_know_skip_connections(x):
    network = make(dtype=jnp.float32)
    x = x.astype(jnp.float32)
    calibrated, reports = calibrate(network, x, key=jax.random.key(0))
    assert len(reports) == 2
    report = probe(calibrated, x, jnp.zeros(B, int))
    assert len(report.layers) == 2
    assert report.layers[0].grad_z > 0


def test_errors():
    init, rngs = FluctuationDriven(nu=80.0), nnx.Rngs(0)
    layer = SpikingDense(6, 5, init=init, rngs=rngs)
    with pytest.raises(ValueError, match="expects 7 inputs but gets 5"):
        Sequential(layer, Readout(7, 2, rngs=rngs), skip=True)
    with pytest.raises(TypeError, match="skip must be True or False, got 3"):
        Sequential(layer, Readout(5, 2, rngs=rngs), skip=3)
    with pytest.raises(ValueError, match="remat_steps must be >= 1, got 0"):
        Sequential(layer, Readout(5, 2, rngs=rngs), remat_steps=0)
