"""`Trainer` gives the results of the pure functions, and a user's loop gives those of `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear import Given, Linear, inputs
from flax import nnx

from snnjax.datasets import Batches, DeviceArrays, Splits
from snnjax.losses import MeanSquare, OwnLoss
from snnjax.nn import NonNegative
from snnjax.regularizers import upper_bound
from snnjax.training import Objective, Trainer, fit
from snnjax.training._objective import is_separable
from snnjax.training._step import batch_key, epoch_order

KEY = jax.random.key(0)


def source(n=10):
    return Given(jnp.asarray(inputs(n)), jnp.arange(n) % 2)


def trainer(network=None, **options):
    network = Linear() if network is None else network
    return Trainer(network, Objective(), optax.adam(0.1), **{"batch_size": 4} | options)


def same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_a_loop_of_ones_own_is_fit():
    made, key, data = trainer(), jax.random.key(2), source()
    state = made.init()
    for epoch in range(1, 4):
        state, metrics = made.epoch(state, data, jax.random.fold_in(key, epoch))
    net = Linear()
    result = fit(
        net, Splits(data, data), Objective(), optax.adam(0.1), epochs=3, batch_size=4, key=key
    )
    same(state.params, result.final, rtol=0)
    same(nnx.state(net, nnx.Param), result.final, rtol=0)
    assert float(metrics.loss) == result.history[-1]["train_loss"]
    held = made.evaluate(state.params, data)
    assert (float(held.loss), float(held.accuracy)) == (
        result.history[-1]["valid_loss"],
        result.history[-1]["valid_accuracy"],
    )


def test_an_epoch_is_its_steps_and_a_step_takes_a_batch_or_samples_of_a_source():
    made, key, data = trainer(), jax.random.key(1), source()
    whole, _ = made.epoch(made.init(), data, key)
    by_source, by_batch = made.init(), made.init()
    for k, indices in enumerate(epoch_order(key, 10, 4)):
        by_source, _ = made.step(by_source, (data, indices), batch_key(key, k))
        # as a loader of numpy arrays gives it
        by_batch, _ = made.step(by_batch, tuple(map(np.asarray, data.batch(indices))))
    assert int(whole.steps) == int(by_source.steps) == 2
    same(by_source.params, whole.params, rtol=1e-6)
    same(by_batch.params, whole.params, rtol=1e-6)


def test_a_state_is_donated_and_the_network_is_left_alone():
    net = Linear()
    before = np.asarray(net.map.kernel[...])
    made = trainer(net)
    old = made.init()
    made.step(old, source().batch(jnp.arange(4)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    np.testing.assert_array_equal(net.map.kernel[...], before)
    with pytest.raises(ValueError, match="state was used before, and its arrays were donated"):
        made.step(old, source().batch(jnp.arange(4)))
    same(
        made.init().params, nnx.state(net, nnx.Param), rtol=0
    )  # a second start from the same parameters


def test_a_pure_function_and_its_parameters():
    net, data = Linear(), source()
    kernel = jnp.asarray(net.map.kernel[...])
    pure = trainer((lambda params, x: x @ params["w"], {"w": kernel}))
    state, metrics = pure.step(pure.init(), data.batch(jnp.arange(10)))
    module = trainer(net)
    expected, same_metrics = module.step(module.init(), data.batch(jnp.arange(10)))
    same(state.params, expected.params, rtol=1e-6)
    same(metrics, same_metrics, rtol=1e-6)
    with pytest.raises(
        TypeError,
        match=r"network must be a flax\.nnx\.Module, got a tuple; a Trainer takes \(apply, params\)",
    ):
        fit(
            (lambda params, x: x, {}),
            Splits(data),
            Objective(),
            optax.sgd(0.1),
            epochs=1,
            batch_size=4,
            key=jax.random.key(0),
        )


def test_marked_weights_stay_nonnegative():
    class Marked(nnx.Module):
        def __init__(self):
            self.w = NonNegative(jnp.full((4, 2), 1e-3))

        def __call__(self, x):
            return x @ self.w[...]

    made = Trainer(Marked(), Objective(), optax.sgd(10.0), batch_size=10)
    state, _ = made.step(made.init(), source().batch(jnp.arange(10)))
    (w,) = jax.tree.leaves(state.params)
    assert float(w.min()) == 0.0
    assert float(w.max()) > 0


def test_sizes():
    assert trainer().sizes(source())[:2] == (
        4,
        4,
    )  # a source that is not marked as separable
    arrays = DeviceArrays(x=jnp.asarray(inputs(8)), labels=jnp.arange(8) % 2)
    assert trainer(batch_size=8, micro_batch=2).sizes(arrays)[:2] == (8, 2)
    made = trainer(batch_size=8, micro_batch=2)
    assert made.sizes(arrays, 5)[:2] == (5, 5)  # a last batch that is not a multiple of the parts


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"micro_batch": 3}, ValueError, "micro_batch must be a divisor of batch_size 4, got 3"),
        ({"devices": 0}, ValueError, "devices must be >= 1"),
        (
            {"network": 3},
            TypeError,
            "network must be a flax.nnx.Module .*, got an object of type int",
        ),
    ],
)
def test_errors(options, error, match):
    with pytest.raises(error, match=match):
        trainer(**options)


def test_errors_of_calls():
    made, data = trainer(batch_size=11), source()
    state = made.init()
    with pytest.raises(
        ValueError, match="batch_size must be at most the number of training samples 10, got 11"
    ):
        made.epoch(state, data, jax.random.key(0))
    with pytest.raises(TypeError, match="key must be a random key"):
        made.step(state, data.batch(jnp.arange(4)), 3)
    with pytest.raises(
        ValueError, match="batch_size must be given for data that do not come in batches"
    ):
        trainer(batch_size=None).epoch(state, data, jax.random.key(0))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda made, state, data: made.epoch(state, [data.batch(jnp.arange(4))], KEY),
            r"source must be a JAX pytree .* got list; snnjax\.datasets\.Batches takes",
        ),
        (
            lambda made, state, data: made.epoch(state, iter([data.batch(jnp.arange(4))]), KEY),
            r"source must be .* got list_iterator; train on each batch \(x, y\) with Trainer\.step",
        ),
        (
            lambda made, state, data: made.epoch(state, Batches([data.batch(jnp.arange(4))]), KEY),
            r"source must be .* got Batches; .* Trainer\.step, or give Batches to fit",
        ),
        (lambda made, state, data: made.epoch(state, (3, 4), KEY), "source must be .* got tuple"),
        (
            lambda made, state, data: made.epoch(state.params, data, KEY),
            r"state must be the TrainState of trainer\.init\(\) .*, got State",
        ),
        (lambda made, state, data: made.step(None, data.batch(jnp.arange(4))), "state must be"),
        (
            lambda made, state, data: made.step(state, jnp.zeros((5, 4, 4))),
            r"batch must be \(x, y\) or \(source, indices\), got ArrayImpl of 5",
        ),
        (lambda made, state, data: made.step(state, (1, 2, 3)), "batch must be .* got tuple of 3"),
        (lambda made, state, data: made.evaluate(state.params, None), "source must be .* NoneType"),
        (
            lambda made, state, data: made.evaluate(state.params, 3),
            "source must be a JAX pytree .*, got int$",
        ),
        (
            lambda made, state, data: made.evaluate(state, data),
            r"params must be parameters, got a TrainState; give state\.params",
        ),
        (
            lambda made, state, data: made.evaluate(None, data),
            r"params must be parameters, got None; give state\.params",
        ),
        (
            lambda made, state, data: made.evaluate(Linear(), data),
            r"params must be parameters, got Linear; give nnx\.state\(network, nnx\.Param\)",
        ),
        (
            lambda made, state, data: made.step(state, (data, slice(3))),
            r"indices of a batch must be integers \(batch,\), got slice",
        ),
        (
            lambda made, state, data: made.step(state, (data, 3)),
            r"indices of a batch must be integers \(batch,\), got int 3",
        ),
        (
            lambda made, state, data: trainer((1, 2, 3)),
            r"network must be .* \(apply, params\), got tuple \['int', 'int', 'int'\]",
        ),
        (
            lambda made, state, data: trainer(batch_size=None, micro_batch="2"),
            "micro_batch must be an integer, got str '2'",
        ),
    ],
)
def test_arguments_of_another_kind_are_named(call, match):
    made = trainer()
    with pytest.raises(TypeError, match=match):
        call(made, made.init(), source())


def test_labels_of_a_batch_are_in_the_range_of_the_readout():
    made = trainer()
    x, y = source().batch(jnp.arange(4))
    outputs = made.problem.outputs(made.params, x)[0].shape[-1]
    for wrong in (outputs, -1):
        match = rf"labels of a batch must be in \[0, {outputs}\).*got {wrong}"
        with pytest.raises(ValueError, match=match):
            made.step(made.init(), (x, [*np.asarray(y).tolist()[:-1], wrong]))
        with pytest.raises(ValueError, match=match):
            made.evaluate(made.params, (x, y.at[0].set(wrong)))


def test_a_batch_of_arrays_is_evaluated_like_a_source():
    made, data = trainer(), source()
    x, y = map(np.asarray, data.batch(jnp.arange(10)))
    same(made.evaluate(made.params, (x, y)), made.evaluate(made.params, data), rtol=1e-6)
    state, _ = made.step(made.init(), [x, y.tolist()])  # as a loader gives it
    state, _ = made.step(state, (data, [0, 3, 4]))
    assert int(state.steps) == 2


def test_what_is_separable():
    def own(readout, target):
        return readout.sum((0, 2))

    assert is_separable(MeanSquare())
    assert is_separable(upper_bound(1.0, 1.0))
    assert not is_separable(own)
    assert not is_separable(OwnLoss(own))
    own.separable = True
    assert is_separable(OwnLoss(own))
    assert not is_separable(source())
    assert is_separable(DeviceArrays(x=jnp.zeros((2, 3, 4)), labels=jnp.zeros(2, int)))
