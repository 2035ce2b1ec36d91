import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax import optimizers
from snnjax.datasets import DeviceArrays, DeviceEvents, randman
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training import TrainingDivergedError, TrainingInterrupted, fit


def network(seed=0, n_in=8):
    rngs = nnx.Rngs(seed)
    return Sequential(SpikingDense(n_in, 48, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(48, 4, rngs=rngs))


@pytest.fixture(scope="module")
def sources():
    data = randman(n_classes=4, n_units=8, n_samples=100, alpha=2.0, seed=0)
    return [DeviceEvents.put(part, dt=2e-3) for part in data.split((0.7, 0.15, 0.15), seed=0)]


def run(sources, *, seed=0, epochs=25, **options):
    net = network(seed)
    options = {"optimizer": optimizers.smorms3(2e-2), "batch_size": 28, "key": jax.random.key(seed), "dt": 2e-3} | options
    return net, fit(net, sources[0], valid=sources[1], test=sources[2], epochs=epochs, **options)


def test_learns_a_separable_task(sources):
    rows = []
    net, result = run(sources, on_epoch=[rows.append])
    assert result.history == rows
    assert [row["epoch"] for row in rows] == list(range(26))
    assert rows[-1]["train_accuracy"] > 0.7
    assert result.test["final"]["accuracy"] > 0.6  # chance is 0.25
    assert rows[-1]["train_loss"] < 0.65 * rows[0]["train_loss"]
    # the network holds the final parameters
    for a, b in zip(jax.tree.leaves(nnx.state(net, nnx.Param)), jax.tree.leaves(result.final), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_key_same_numbers_and_best_is_the_first_maximum(sources):
    (_, a), (_, b) = (run(sources, epochs=4) for _ in range(2))
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert drop(a.history) == drop(b.history)
    accuracies = [row["valid_accuracy"] for row in a.history[1:]]
    assert a.best_epoch == 1 + int(np.argmax(accuracies))
    (_, c) = run(sources, epochs=4, key=jax.random.key(9))
    assert drop(a.history)[1:] != drop(c.history)[1:]


def test_rates_are_in_hertz(sources):
    _, result = run(sources, epochs=1)
    x, _ = sources[0].batch(jnp.arange(len(sources[0])))
    _, activity = network()(x)
    np.testing.assert_allclose(result.history[0]["rate_1"], activity.spikes[0].sum(axis=0).mean() / 0.2, rtol=1e-4)


def test_without_validation_and_test(sources):
    net = network()
    result = fit(net, sources[0], optimizer=optax.adam(1e-3), epochs=2, batch_size=64, key=jax.random.key(0), dt=2e-3)
    assert result.best_epoch == 2
    assert result.test == {}
    assert "valid_loss" not in result.history[0]


def test_stops_on_nan_input_and_keeps_the_last_good_parameters():
    x = np.zeros((40, 20, 8), np.float32)
    x[17, 5, 2] = np.nan
    net = network()
    before = jax.tree.map(np.asarray, nnx.state(net, nnx.Param))
    with pytest.raises(
        TrainingDivergedError, match=r"not finite at epoch 1, step \d of 4 \(the input batch itself is not finite"
    ) as caught:
        fit(
            net, DeviceArrays(x=jnp.asarray(x), labels=jnp.zeros(40, jnp.int32)), optimizer=optax.sgd(0.0), epochs=3, batch_size=10,
            key=jax.random.key(0), dt=2e-3,
        )  # fmt: skip
    assert [row["epoch"] for row in caught.value.result.history] == [0]
    for kept in (nnx.state(net, nnx.Param), caught.value.result.final):
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(before), strict=True):
            np.testing.assert_array_equal(a, b)


def test_stops_on_exploding_weights_and_names_the_gradient(sources):
    with pytest.raises(TrainingDivergedError, match=r"epoch \d+, step \d+ of 10.*(gradient|weights) of layers\.\d\.kernel not finite"):
        run(sources, optimizer=optax.sgd(1e38), epochs=3)


def test_an_interrupt_keeps_what_was_trained(sources):
    def interrupt(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    net = network()
    options = {"optimizer": optimizers.smorms3(2e-2), "batch_size": 28, "key": jax.random.key(0), "dt": 2e-3}
    with pytest.raises(TrainingInterrupted, match="interrupted after 2 epochs") as caught:
        fit(net, sources[0], valid=sources[1], epochs=9, on_epoch=[interrupt], **options)
    _, reference = run(sources, epochs=2)
    for kept in (nnx.state(net, nnx.Param), caught.value.result.final):
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(reference.final), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"epochs": 0}, ValueError, "epochs must be >= 1, got 0"),
        ({"batch_size": 1000}, ValueError, "batch_size must be at most the number of training samples 280, got 1000"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer"),
        ({"dt": -1.0}, ValueError, "dt must be finite and > 0 s"),
    ],
)
def test_errors(sources, options, error, match):
    with pytest.raises(error, match=match):
        run(sources, **options)


def test_validation_data_that_are_not_finite_stop_training(sources):
    bad = DeviceArrays(x=jnp.full((10, 100, 8), jnp.nan), labels=jnp.zeros(10, jnp.int32))
    with pytest.raises(TrainingDivergedError, match="validation loss is nan at epoch 0"):
        fit(network(), sources[0], valid=bad, optimizer=optax.sgd(0.1), epochs=1, batch_size=28, key=jax.random.key(0), dt=2e-3)


class NoPytree:
    def __len__(self):
        return 3

    def batch(self, indices, key=None):
        return jnp.zeros((5, indices.shape[0], 8)), jnp.zeros(indices.shape[0], jnp.int32)


@pytest.mark.parametrize(
    ("train", "error", "match"),
    [
        (NoPytree(), TypeError, "train must be a JAX pytree with .*got NoPytree"),
        (randman(n_classes=2, n_units=8, n_samples=5), TypeError, r"got an EventDataset; use DeviceEvents\.put"),
        (DeviceArrays(x=jnp.zeros((0, 5, 8)), labels=jnp.zeros(0, jnp.int32)), ValueError, "train must hold at least one sample"),
        (DeviceArrays(x=jnp.zeros((3, 5, 8)), labels=jnp.array([0, 4, 1])), ValueError, r"labels of train must be in \[0, 4\).*got 4"),
        (DeviceArrays(x=jnp.zeros((3, 5, 8)), labels=jnp.array([0, -1, 1])), ValueError, "got -1"),
        (DeviceArrays(x=jnp.zeros((3, 5, 9)), labels=jnp.zeros(3, jnp.int32)), ValueError, "x must have 8 features"),
    ],
)
def test_unusable_sources(train, error, match):
    with pytest.raises(error, match=match):
        fit(network(), train, optimizer=optax.sgd(0.1), epochs=1, batch_size=3, key=jax.random.key(0), dt=2e-3)


def test_another_time_step_than_the_network_s(sources):
    with pytest.raises(ValueError, match=r"dt must be the time step of the network's neurons, \[0\.002\] s, got 0\.001"):
        run(sources, dt=1e-3)
