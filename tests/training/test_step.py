import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import ON_CPU
from flax import nnx

from snnjax import losses, models, optimizers
from snnjax.datasets import Augmented, DeviceEvents, randman
from snnjax.datasets._batches import Batch
from snnjax.datasets._device import DeviceArrays
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training import Objective, Trainer
from snnjax.training import _step as step_module
from snnjax.training._objective import Problem
from snnjax.training._step import (
    Recipe,
    Sizes,
    epoch_order,
    evaluate,
    gradient_of,
    init_state,
    micro_batch_size,
    train_epoch,
    train_step,
)


class Activity(NamedTuple):
    spikes: tuple


def network(seed=0):
    rngs = nnx.Rngs(seed)
    return Sequential(
        SpikingDense(6, 16, init=FluctuationDriven(nu=50.0), rngs=rngs), Readout(16, 3, rngs=rngs)
    )


def data(n=22, steps=30):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.random((n, steps, 6)) < 0.1, jnp.uint8)
    return DeviceArrays(x=x, labels=jnp.asarray(rng.integers(0, 3, n)))


@pytest.fixture
def parts():
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)
    return Problem(
        lambda p, x: nnx.merge(graphdef, p, rest)(x), regularizers=(upper_bound(0.3, 1.0),)
    ), params


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def recipe(problem, batch_size, micro_batch=None, optimizer=None):
    return Recipe(problem, optimizer, Sizes(batch_size, micro_batch or batch_size))


def step_on(problem, optimizer, state, x, labels):
    """`train_step` on a whole batch."""
    n = x.shape[1]
    return train_step(
        recipe(problem, n, optimizer=optimizer), state, Batch(x=x, y=labels), jnp.arange(n), None
    )


def step_of(problem, optimizer):
    """`step_on` as one program."""
    return jax.jit(functools.partial(step_on, problem, optimizer))


def test_step_is_gradient_descent_on_loss_plus_penalty(parts):
    objective, params = parts
    x, labels = data().batch(jnp.arange(8))
    optimizer = optax.sgd(0.1)
    state, metrics = step_of(objective, optimizer)(init_state(params, optimizer), x, labels)

    def value(p):
        readout, activity = objective.apply(p, x)
        return losses.CrossEntropy()(readout, labels).mean() + upper_bound(0.3, 1.0)(
            activity.spikes[0]
        )

    v, g = jax.jit(jax.value_and_grad(value))(params)
    np.testing.assert_allclose(metrics.loss + metrics.penalty, v, rtol=1e-6)
    for new, old, grad in zip(leaves(state.params), leaves(params), leaves(g), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * grad, rtol=1e-5, atol=1e-7)
    assert float(metrics.penalty) > 0


@pytest.mark.slow
def test_epoch_equals_a_loop_of_steps(parts):
    objective, params = parts
    optimizer, key, source = optimizers.smorms3(), jax.random.key(5), data()
    run = jax.jit(lambda s, k: train_epoch(recipe(objective, 5, optimizer=optimizer), s, source, k))
    state, metrics = run(init_state(params, optimizer), key)
    looped, total = init_state(params, optimizer), []
    for indices in epoch_order(key, 22, 5):
        looped, m = step_on(objective, optimizer, looped, *source.batch(indices))
        total.append(m.loss)
    for a, b in zip(leaves(state), leaves(looped), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, np.mean(total), rtol=1e-4)
    assert int(state.steps) == 4


@pytest.mark.more
@pytest.mark.parametrize("pool", ["population", "feature_map", "neuron"])
def test_gradient_of_parts_is_that_of_the_batch(parts, pool):
    objective = parts[0]._replace(
        regularizers=(upper_bound(0.3, 1.0, pool=pool), lower_bound(2.0, 3.0, pool=pool, p=1))
    )
    params, source, indices = parts[1], data(), jnp.arange(20)[::-1]
    of_batch = jax.jit(
        jax.value_and_grad(lambda p: objective.value(p, source, indices), has_aux=True)
    )
    (value, metrics), grads = of_batch(params)
    for micro_batch in (1, 4, 10, 20):
        found = jax.jit(
            lambda p, m=micro_batch: gradient_of(recipe(objective, 20, m))(p, source, indices, None)
        )(params)
        for a, b in zip(leaves(found), leaves((value, metrics, grads)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=str(micro_batch))


def test_epoch_in_parts_is_the_epoch(parts):
    objective, params = parts
    optimizer, source = optax.sgd(0.1), data()
    run = jax.jit(
        lambda s, m: train_epoch(recipe(objective, 10, m, optimizer), s, source, jax.random.key(5)),
        static_argnums=1,
    )
    whole, parts_of_it = (run(init_state(params, optimizer), m) for m in (10, 2))
    for a, b in zip(leaves(whole), leaves(parts_of_it), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="micro_batch must be a divisor of batch_size 10, got 3"):
        Trainer(network(), Objective(), optimizer, batch_size=10, micro_batch=3)


def test_parts_of_a_batch_draw_augmentations_of_their_own(parts):
    objective = Problem(lambda p, x: (x[..., :3] * p, Activity((x,))))
    events = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    source, key, sample = (
        Augmented(source=events, drop=0.5),
        jax.random.key(3),
        jnp.zeros(1, jnp.int32),
    )
    mean = jax.jit(lambda k: source.batch(sample, jax.random.fold_in(key, k))[0].mean())
    each = [float(mean(k)) for k in range(4)]
    (_, metrics), _ = jax.jit(
        lambda p: gradient_of(recipe(objective, 4, 1))(p, source, jnp.zeros(4, jnp.int32), key)
    )(jnp.ones(3))
    assert len(set(each)) > 1
    np.testing.assert_allclose(metrics.rates, [np.mean(each)], rtol=1e-6)


@ON_CPU
def test_parts_fit_the_cache(parts, monkeypatch):
    """A layer of 16 neurons over 30 steps has 1920 bytes per sample."""
    size = lambda batch: micro_batch_size(*parts, data(), batch)
    assert size(22) == 22
    monkeypatch.setattr(step_module, "CACHE_BYTES", 5 * 1920)
    assert (size(20), size(12), size(4)) == (5, 4, 4)
    assert size(23) == 23  # a prime: parts of one sample would be too small, compared with 5
    monkeypatch.setattr(step_module, "CACHE_BYTES", 1)
    assert size(20) == 4
    recurrent = Problem.from_objective(
        models.dense(
            6, 3, hidden=(16,), recurrent=True, init=FluctuationDriven(nu=50.0), rngs=nnx.Rngs(0)
        ),
        Objective(),
    )
    assert micro_batch_size(*recurrent, data(), 64) == 16
    assert micro_batch_size(*recurrent, data(), 20) == 10
    strange = parts[0]._replace(loss=losses.OwnLoss(lambda readout, labels: readout.sum((0, 2))))
    assert micro_batch_size(strange, parts[1], data(), 20) == 20  # it may need the whole batch
    assert (
        micro_batch_size(
            parts[0]._replace(regularizers=(lambda z: z.mean() ** 2,)), parts[1], data(), 20
        )
        == 20
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert size(20) == 20


def test_loss_must_be_one_value_a_sample(parts):
    objective = parts[0]._replace(loss=losses.OwnLoss(lambda readout, labels: readout.sum(axis=2)))
    with pytest.raises(
        ValueError, match=r"loss must return one value per sample, \(8,\), got \(30, 8\)"
    ):
        step_on(
            objective,
            optax.sgd(0.1),
            init_state(parts[1], optax.sgd(0.1)),
            *data().batch(jnp.arange(8)),
        )


def test_sums_of_16_bits_are_taken_in_32(parts):
    """256 gradients of 1: a sum in bfloat16 stops at 256.

    There, each further gradient is less than half a unit.
    """
    total = losses.OwnLoss(lambda o, y: o.astype(jnp.float32).sum((0, 2)))
    objective = Problem(lambda p, x: (jnp.ones((1, x.shape[1], 3)) * p, Activity((x,))), total)
    source = DeviceArrays(x=jnp.zeros((600, 2, 1)), labels=jnp.zeros(600, jnp.int32))
    _, grads = gradient_of(recipe(objective, 600, 1))(
        jnp.ones(3, jnp.bfloat16), source, jnp.arange(600), None
    )
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads.astype(np.float32), np.ones(3))


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
    m = jax.jit(lambda p: evaluate(recipe(objective, batch_size), p, source))(params)
    np.testing.assert_allclose(m.loss, losses.CrossEntropy()(readout, labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(m.accuracy, losses.correct(readout, labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(m.rates[0], activity.spikes[0].mean(), rtol=1e-5)


def test_non_finite_step_freezes_the_state(parts):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    start, step = init_state(params, optimizer), step_of(objective, optimizer)
    broken, _ = step(start, x.at[3, 0, 0].set(jnp.nan), labels)
    assert not bool(broken.healthy)
    after, _ = step(broken, x, labels)
    for state in (broken, after):
        assert int(state.steps) == 0
        for a, b in zip(
            leaves((state.params, state.opt_state)),
            leaves((start.params, start.opt_state)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_vmap_over_members_equals_each_alone(parts):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    members = [params, jax.tree.map(lambda w: 0.5 * w, params)]
    stacked = jax.tree.map(lambda *ws: jnp.stack(ws), *members)
    states = jax.vmap(
        lambda p: step_on(objective, optimizer, init_state(p, optimizer), x, labels)[0]
    )(stacked)
    for k, member in enumerate(members):
        alone, _ = step_on(objective, optimizer, init_state(member, optimizer), x, labels)
        for a, b in zip(leaves(states.params), leaves(alone.params), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-6)


def test_an_update_that_overflows_is_not_taken(parts):
    """A finite gradient of 1e30 squares to inf inside SMORMS3."""
    objective, params = parts
    objective = objective._replace(regularizers=(upper_bound(1e30, 0.0),))
    x, labels = data().batch(jnp.arange(8))
    optimizer = optimizers.smorms3()
    state, metrics = step_of(objective, optimizer)(init_state(params, optimizer), x, labels)
    assert np.isfinite(metrics.penalty)
    assert not bool(state.healthy)
    for a, b in zip(leaves(state.params), leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_finite_compares_with_before_and_skips_none():
    finite = step_module._all_finite
    good, bad = jnp.ones((2, 3)), jnp.ones((2, 3)).at[1, 2].set(jnp.inf)
    assert finite({"a": good, "b": None, "c": jnp.arange(3)})
    for tree in ([good, bad], [bad, good], [bad, None]):
        assert not finite(tree)
    assert finite([bad, None, good], [bad, None, None])
    assert not finite([bad, None, bad], [bad, None, None])
    assert not finite([bad], [good])


def test_evaluation_of_input_that_is_not_finite_is_nan(parts):
    objective, params = parts
    good = data()
    bad = DeviceArrays(x=jnp.full(good.x.shape, jnp.nan), labels=good.labels)
    loss = jax.jit(lambda source: evaluate(recipe(objective, 8), params, source).loss)
    assert np.isnan(loss(bad))
    assert np.isfinite(loss(good))


def test_state_shares_no_buffer_with_the_parameters(parts):
    """An optimizer may keep the parameters in its state.

    An epoch that donates its argument must not donate one buffer twice.
    """
    objective, params = parts
    keeps = optax.GradientTransformation(
        lambda p: p, lambda g, s, p=None: (jax.tree.map(lambda a: -0.1 * a, g), s)
    )
    run = jax.jit(
        lambda s: train_epoch(recipe(objective, 5, optimizer=keeps), s, data(), jax.random.key(0)),
        donate_argnums=0,
    )
    state, _ = run(init_state(jax.tree.map(jnp.copy, params), keeps))
    assert int(state.steps) == 4


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_step_lowers_for_accelerators(parts, platform):
    objective, params = parts
    optimizer = optimizers.smorms3()
    x, labels = data().batch(jnp.arange(8))
    step = jax.jit(lambda state, x, y: step_on(objective, optimizer, state, x, y))
    exported = jax.export.export(step, platforms=[platform])(
        init_state(params, optimizer), x, labels
    )
    assert exported.platforms == (platform,)
    assert "stablehlo.while" in exported.mlir_module()


def test_any_loss(parts):
    objective, params = parts
    objective = Problem(objective.apply, losses.MeanSquare(losses.sum_over_time))
    x, labels = data().batch(jnp.arange(8))
    readout, _ = objective.apply(params, x)
    _, metrics = step_of(objective, optax.sgd(0.1))(init_state(params, optax.sgd(0.1)), x, labels)
    np.testing.assert_allclose(metrics.loss, losses.MeanSquare()(readout, labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.accuracy, losses.correct(readout, labels, readout_fn=losses.sum_over_time).mean()
    )
