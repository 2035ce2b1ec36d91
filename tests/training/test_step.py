import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax import losses, optimizers
from snnjax.datasets.device import DeviceArrays
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.regularizers import upper_bound
from snnjax.training.step import Objective, epoch_order, evaluate, init_state, train_epoch, train_step


def network(seed=0):
    rngs = nnx.Rngs(seed)
    return Sequential(SpikingDense(6, 16, init=FluctuationDriven(nu=50.0), rngs=rngs), Readout(16, 3, rngs=rngs))


def data(n=22, steps=30):
    x = jax.random.bernoulli(jax.random.key(1), 0.1, (n, steps, 6)).astype(jnp.uint8)
    return DeviceArrays(x=x, labels=jax.random.randint(jax.random.key(2), (n,), 0, 3))


@pytest.fixture
def parts():
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)
    return Objective(lambda p, x: nnx.merge(graphdef, p, rest)(x), regularizers=(upper_bound(0.3, 1.0),)), params


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_step_is_gradient_descent_on_loss_plus_penalty(parts):
    objective, params = parts
    x, labels = data().batch(jnp.arange(8))
    optimizer = optax.sgd(0.1)
    state, metrics = train_step(objective, optimizer, init_state(params, optimizer), x, labels)

    def value(p):
        readout, activity = objective.apply(p, x)
        return losses.cross_entropy(readout, labels).mean() + upper_bound(0.3, 1.0)(activity.spikes[0])

    v, g = jax.value_and_grad(value)(params)
    np.testing.assert_allclose(metrics.loss + metrics.penalty, v, rtol=1e-6)
    for new, old, grad in zip(leaves(state.params), leaves(params), leaves(g), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * grad, rtol=1e-5, atol=1e-7)
    assert float(metrics.penalty) > 0


def test_epoch_equals_a_loop_of_steps(parts):
    objective, params = parts
    optimizer, key, source = optimizers.smorms3(), jax.random.key(5), data()
    run = jax.jit(lambda s, k: train_epoch(objective, optimizer, s, source, k, batch_size=5))
    state, metrics = run(init_state(params, optimizer), key)
    looped, total = init_state(params, optimizer), []
    for indices in epoch_order(key, 22, 5):
        looped, m = train_step(objective, optimizer, looped, *source.batch(indices))
        total.append(m.loss)
    for a, b in zip(leaves(state), leaves(looped), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, np.mean(total), rtol=1e-4)
    assert int(state.steps) == 4


def test_epoch_order_visits_no_sample_twice():
    order = np.asarray(epoch_order(jax.random.key(0), 22, 5))
    assert order.shape == (4, 5)
    assert len(set(order.ravel())) == 20
    assert order.min() >= 0
    assert order.max() < 22
    assert not np.array_equal(order, epoch_order(jax.random.key(1), 22, 5))


@pytest.mark.parametrize("batch_size", [1, 5, 22, 30])
def test_evaluate_counts_every_sample_once(parts, batch_size):
    objective, params = parts
    source = data()
    x, labels = source.batch(jnp.arange(22))
    readout, activity = objective.apply(params, x)
    m = evaluate(objective, params, source, batch_size=batch_size)
    np.testing.assert_allclose(m.loss, losses.cross_entropy(readout, labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(m.accuracy, losses.correct(readout, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(m.rates[0], activity.spikes[0].mean(), rtol=1e-5)


def test_non_finite_step_freezes_the_state(parts):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    start = init_state(params, optimizer)
    broken, _ = train_step(objective, optimizer, start, x.at[3, 0, 0].set(jnp.nan), labels)
    assert not bool(broken.healthy)
    after, _ = train_step(objective, optimizer, broken, x, labels)
    for state in (broken, after):
        assert int(state.steps) == 0
        for a, b in zip(leaves((state.params, state.opt_state)), leaves((start.params, start.opt_state)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_vmap_over_members_equals_each_alone(parts):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    members = [params, jax.tree.map(lambda w: 0.5 * w, params)]
    stacked = jax.tree.map(lambda *ws: jnp.stack(ws), *members)
    states = jax.vmap(lambda p: train_step(objective, optimizer, init_state(p, optimizer), x, labels)[0])(stacked)
    for k, member in enumerate(members):
        alone, _ = train_step(objective, optimizer, init_state(member, optimizer), x, labels)
        for a, b in zip(leaves(states.params), leaves(alone.params), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-6)


def test_an_update_that_overflows_is_not_taken(parts):
    """A finite gradient of 1e30 squares to inf inside SMORMS3."""
    objective, params = parts
    objective = objective._replace(regularizers=(upper_bound(1e30, 0.0),))
    x, labels = data().batch(jnp.arange(8))
    optimizer = optimizers.smorms3()
    state, metrics = train_step(objective, optimizer, init_state(params, optimizer), x, labels)
    assert np.isfinite(metrics.penalty)
    assert not bool(state.healthy)
    for a, b in zip(leaves(state.params), leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_of_input_that_is_not_finite_is_nan(parts):
    objective, params = parts
    good = data()
    bad = DeviceArrays(x=jnp.full(good.x.shape, jnp.nan), labels=good.labels)
    assert np.isnan(evaluate(objective, params, bad, batch_size=8).loss)
    assert np.isfinite(evaluate(objective, params, good, batch_size=8).loss)


def test_state_shares_no_buffer_with_the_parameters(parts):
    """An optimizer that keeps the parameters in its state: an epoch that donates its argument must not donate one buffer twice."""
    objective, params = parts
    keeps = optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (jax.tree.map(lambda a: -0.1 * a, g), s))
    run = jax.jit(lambda s: train_epoch(objective, keeps, s, data(), jax.random.key(0), batch_size=5), donate_argnums=0)
    state, _ = run(init_state(jax.tree.map(jnp.copy, params), keeps))
    assert int(state.steps) == 4


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_step_lowers_for_accelerators(parts, platform):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    step = jax.jit(lambda state, x, y: train_step(objective, optimizer, state, x, y))
    exported = jax.export.export(step, platforms=[platform])(init_state(params, optimizer), x, labels)
    assert exported.platforms == (platform,)
    assert "stablehlo.while" in exported.mlir_module()


def test_any_loss(parts):
    objective, params = parts
    objective = Objective(objective.apply, logits=losses.sum_over_time, loss=losses.mean_square)
    x, labels = data().batch(jnp.arange(8))
    readout, _ = objective.apply(params, x)
    _, metrics = train_step(objective, optax.sgd(0.1), init_state(params, optax.sgd(0.1)), x, labels)
    np.testing.assert_allclose(metrics.loss, losses.mean_square(readout, labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.accuracy, losses.correct(readout, labels, logits=losses.sum_over_time).mean())
