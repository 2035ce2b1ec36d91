import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close
from flax import nnx

from snnjax.datasets import DeviceArrays, Splits
from snnjax.nn import Dropout, Flatten, FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training import Objective, fit
from snnjax.training._objective import Problem
from snnjax.training._step import Recipe, Sizes, gradient_of

pytestmark = pytest.mark.more

T, B, N = 20, 4, 30


def make(rate=0.5, remat_steps=None):
    init, rngs = FluctuationDriven(nu=80.0, sigma_u=1.5), nnx.Rngs(0)
    return Sequential(
        Dropout(0.25), SpikingDense(N, 16, init=init, rngs=rngs), Dropout(rate), Readout(16, 3, rngs=rngs), remat_steps=remat_steps
    )  # fmt: skip


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.poisson(0.2, (T, B, N)), jnp.float32)


def test_share_mean_and_one_mask_a_trial():
    x = jnp.ones((5, 400, 50))
    y = Dropout(0.3)(x, key=jax.random.key(0)).output
    # 20,000 masks: the standard deviation of the fraction is 0.0032
    assert abs(float((y[0] == 0).mean()) - 0.3) < 0.015
    assert abs(float(y[0].mean()) - 1) < 0.02
    np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-6)
    assert (y == y[:1]).all()
    shares = (y[0] == 0).mean(axis=0)  # trials draw independently
    assert float(shares.min()) > 0.1
    assert float(shares.max()) < 0.5


def test_without_a_key_nothing_happens(x):
    network = make()
    plain = Sequential(*[layer for layer in network.layers if not isinstance(layer, Dropout)])
    assert network.stochastic
    assert not plain.stochastic
    assert_close(network(x)[0], plain(x)[0], 0)


def test_a_key_gives_the_same_network_whole_streamed_and_rematerialized(x):
    network, key = make(), jax.random.key(3)
    readout, activity = network(x, key=key)
    assert not np.allclose(readout, network(x)[0])
    assert not np.allclose(readout, network(x, key=jax.random.key(4))[0])
    parts, _ = make(remat_steps=7)(x, key=key)
    assert_close(parts, readout, 1e-6)
    state, streamed, step = network.initial_state(B), [], jax.jit(network.step)
    for x_t in np.asarray(x):
        state, (out, _) = step(state, x_t, key=key)
        streamed.append(out)
    assert_close(np.stack(streamed), readout, 1e-6)
    # written out: the layers one after another, each with its own mask
    masked = network.layers[0](x, key=jax.random.fold_in(key, 0)).output
    assert_close(activity.spikes[0], network.layers[1](masked).output, 0)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_training_draws_and_evaluation_does_not(x, micro_batch):
    objective, params = Problem.from_objective(make(), Objective())
    source = DeviceArrays(x=jnp.moveaxis(x, 1, 0), labels=jnp.arange(B) % 3)
    value_of = lambda o, key: gradient_of(Recipe(o, None, Sizes(B, micro_batch)))(
        params, source, jnp.arange(B), key
    )[0][0]
    at = jax.jit(lambda key: value_of(objective, key))
    first, again, other, none = (
        at(jax.random.key(0)),
        at(jax.random.key(0)),
        at(jax.random.key(1)),
        at(None),
    )
    assert first == again
    assert len({float(first), float(other), float(none)}) == 3
    value = jax.jit(lambda key: value_of(objective._replace(noisy=False), key))(jax.random.key(0))
    assert_close(value, none, 1e-6)


def test_fit_learns_with_dropout_and_repeats(rng):
    labels = jnp.arange(60) % 3
    x = rng.poisson(0.05, (60, T, N)) + (
        np.arange(N) % 3 == np.asarray(labels)[:, None, None]
    ) * rng.poisson(0.5, (60, T, N))
    data = DeviceArrays(x=jnp.asarray(x, jnp.float32), labels=labels)
    runs = [
        fit(
            make(),
            Splits(data),
            Objective(),
            optax.adam(1e-2),
            epochs=20,
            batch_size=20,
            key=jax.random.key(0),
        ).history
        for _ in range(2)
    ]
    assert runs[0][-1]["train_loss"] == runs[1][-1]["train_loss"]
    assert runs[0][-1]["train_loss"] < 0.8 * runs[0][0]["train_loss"]


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="rate must be"):
        Dropout(rate)


def test_shapes_pass():
    assert Dropout(0.1).feature_shape((None, 4)) == (None, 4)
    network = Sequential(Dropout(0.1), Flatten(), Readout(8, 2, rngs=nnx.Rngs(0)))
    assert network(jnp.ones((3, 2, 4, 2)), key=jax.random.key(0))[0].shape == (3, 2, 2)


def test_skip_connections_carry_what_dropout_leaves(x):
    init, rngs = FluctuationDriven(nu=80.0, sigma_u=1.5), nnx.Rngs(0)
    layers = [
        SpikingDense(N, 16, init=init, rngs=rngs),
        Dropout(0.5),
        SpikingDense(16, 8, init=init, rngs=rngs),
        Dropout(0.5),
    ]
    network, key = Sequential(*layers, Readout(24, 3, rngs=rngs), skip=True), jax.random.key(0)
    readout, activity = network(x, key=key)
    first = layers[0](x).output
    left = layers[1](first, key=jax.random.fold_in(key, 1)).output
    second = layers[2](left).output
    both = jnp.concatenate(
        [left, layers[3](second, key=jax.random.fold_in(key, 3)).output], axis=-1
    )
    assert_close(readout, network.layers[-1](both).output, 1e-6)
    assert_close(activity.spikes[0], first, 0)  # the spikes before dropout
    assert_close(activity.spikes[1], second, 0)
    state, streamed, step = network.initial_state(B), [], jax.jit(network.step)
    for x_t in np.asarray(x):
        state, (out, _) = step(state, x_t, key=key)
        streamed.append(out)
    assert_close(np.stack(streamed), readout, 1e-6)
    with pytest.raises(ValueError, match="skip needs a spiking layer"):
        Sequential(Flatten(), Readout(8, 2, rngs=rngs), skip=True)
