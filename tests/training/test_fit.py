import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear import Given, Linear, inputs, noisy_map
from flax import nnx

from snnjax import losses, optimizers
from snnjax.datasets import DeviceArrays, DeviceEvents, Splits, randman
from snnjax.datasets._batches import Batch
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training import EarlyStopping, Objective, Trainer, TrainingDivergedError, fit
from snnjax.training._fit import TrainingInterrupted
from snnjax.training._objective import Problem


def network(seed=0, n_in=8):
    rngs = nnx.Rngs(seed)
    return Sequential(
        SpikingDense(n_in, 48, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(48, 4, rngs=rngs)
    )


@pytest.fixture(scope="module")
def sources():
    data = randman(num_classes=4, num_units=8, samples_per_class=100, smoothness=2.0, seed=0)
    return [
        DeviceEvents.from_dataset(part, dt=2e-3) for part in data.split((0.7, 0.15, 0.15), seed=0)
    ]


def run(sources, *, seed=0, epochs=25, optimizer=None, **options):
    net = network(seed)
    optimizer = optimizers.smorms3(2e-2) if optimizer is None else optimizer
    options = {"batch_size": 28, "key": jax.random.key(seed), "dt": 2e-3} | options
    return net, fit(net, Splits(*sources), Objective(), optimizer, epochs=epochs, **options)


def test_learns_a_separable_task(sources):
    rows = []
    net, result = run(sources, callbacks=[rows.append])
    assert result.history == rows
    assert [row["epoch"] for row in rows] == list(range(26))
    assert rows[-1]["train_accuracy"] > 0.7
    assert result.test["final"]["accuracy"] > 0.6  # chance is 0.25
    assert rows[-1]["train_loss"] < 0.65 * rows[0]["train_loss"]
    # the network has the final parameters
    for a, b in zip(
        jax.tree.leaves(nnx.state(net, nnx.Param)), jax.tree.leaves(result.final), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_same_key_same_numbers_and_best_is_the_first_maximum(sources):
    (_, a), (_, b) = (run(sources, epochs=4) for _ in range(2))
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert drop(a.history) == drop(b.history)
    accuracies = [row["valid_accuracy"] for row in a.history[1:]]
    assert a.best_epoch == 1 + int(np.argmax(accuracies))
    (_, c) = run(sources, epochs=4, key=jax.random.key(9))
    assert drop(a.history)[1:] != drop(c.history)[1:]


def test_rates_are_in_hertz(sources):
    _, result = run(sources, epochs=1)
    x, _ = sources[0].batch(jnp.arange(len(sources[0])))
    _, activity = network()(x)
    np.testing.assert_allclose(
        result.history[0]["rate_1"], activity.spikes[0].sum(axis=0).mean() / 0.2, rtol=1e-4
    )


def test_without_validation_and_test(sources):
    net = network()
    result = fit(
        net,
        Splits(sources[0]),
        Objective(),
        optax.adam(1e-3),
        epochs=2,
        batch_size=64,
        key=jax.random.key(0),
    )
    assert result.best_epoch == 2
    assert result.test == {}
    assert "valid_loss" not in result.history[0]


def test_stops_on_nan_input_and_keeps_the_last_good_parameters():
    x = np.zeros((40, 20, 8), np.float32)
    x[17, 5, 2] = np.nan
    net, bad = network(), Splits(DeviceArrays(x=jnp.asarray(x), labels=jnp.zeros(40, jnp.int32)))
    before = jax.tree.map(np.asarray, nnx.state(net, nnx.Param))
    with pytest.raises(
        TrainingDivergedError,
        match=r"not finite at epoch 1, step \d of 4 \(the input batch itself is not finite",
    ) as caught:
        fit(net, bad, Objective(), optax.sgd(0.0), epochs=3, batch_size=10, key=jax.random.key(0))
    assert [row["epoch"] for row in caught.value.result.history] == [0]
    for kept in (nnx.state(net, nnx.Param), caught.value.result.final):
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(before), strict=True):
            np.testing.assert_array_equal(a, b)


def test_stops_on_exploding_weights_and_names_the_gradient(sources):
    with pytest.raises(
        TrainingDivergedError,
        match=r"epoch \d+, step \d+ of 10.*(gradient|weights) of layers\.\d\.kernel not finite",
    ):
        run(sources, optimizer=optax.sgd(1e38), epochs=3)


def test_an_interrupt_keeps_what_was_trained(sources):
    def interrupt(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    net = network()
    with pytest.raises(TrainingInterrupted, match="interrupted after 2 epochs") as caught:
        fit(
            net, Splits(*sources[:2]), Objective(), optimizers.smorms3(2e-2), epochs=9, callbacks=[interrupt], batch_size=28,
            key=jax.random.key(0),
        )  # fmt: skip
    _, reference = run(sources, epochs=2)
    for kept in (nnx.state(net, nnx.Param), caught.value.result.final):
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(reference.final), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"epochs": 0}, ValueError, "epochs must be >= 1, got 0"),
        (
            {"batch_size": 1000},
            ValueError,
            "batch_size must be at most the number of training samples 280, got 1000",
        ),
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
        fit(
            network(),
            Splits(sources[0], bad),
            Objective(),
            optax.sgd(0.1),
            epochs=1,
            batch_size=28,
            key=jax.random.key(0),
        )


class NoPytree:
    def __len__(self):
        return 3

    def batch(self, indices, key=None):
        return jnp.zeros((5, indices.shape[0], 8)), jnp.zeros(indices.shape[0], jnp.int32)


@pytest.mark.parametrize(
    ("train", "error", "match"),
    [
        (NoPytree(), TypeError, "train must be a JAX pytree with .*got NoPytree"),
        (
            randman(num_classes=2, num_units=8, samples_per_class=5),
            TypeError,
            r"got an EventDataset; use DeviceEvents\.from_dataset",
        ),
        (
            DeviceArrays(x=jnp.zeros((0, 5, 8)), labels=jnp.zeros(0, jnp.int32)),
            ValueError,
            "train must hold at least one sample",
        ),
        (
            DeviceArrays(x=jnp.zeros((3, 5, 8)), labels=jnp.array([0, 4, 1])),
            ValueError,
            r"labels of train must be in \[0, 4\).*got 4",
        ),
        (None, TypeError, "train must be a JAX pytree .*, got NoneType"),
        (DeviceArrays(x=jnp.zeros((3, 5, 8)), labels=jnp.array([0, -1, 1])), ValueError, "got -1"),
        (
            DeviceArrays(x=jnp.zeros((3, 5, 9)), labels=jnp.zeros(3, jnp.int32)),
            ValueError,
            "x must have 8 features",
        ),
    ],
)
def test_unusable_sources(train, error, match):
    with pytest.raises(error, match=match):
        fit(
            network(),
            Splits(train),
            Objective(),
            optax.sgd(0.1),
            epochs=1,
            batch_size=3,
            key=jax.random.key(0),
        )


def test_another_time_step_than_the_network_s(sources):
    with pytest.raises(
        ValueError,
        match=r"dt must be the time step of the network's neurons, \[0\.002\] s, got 0\.001",
    ):
        run(sources, dt=1e-3)


PLAIN = {"epochs": 1, "batch_size": 4, "key": jax.random.key(0), "dt": 2e-3}


def plain_fit(net, train, *, valid=None, test=None, objective=None, optimizer=None, **options):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    objective = Objective() if objective is None else objective
    return fit(net, Splits(train, valid, test), objective, optimizer, **PLAIN | options)


def classes(n=8):
    return Given(jnp.asarray(inputs(n)), jnp.arange(n) % 2)


def test_an_interrupt_within_an_epoch_says_what_the_parameters_hold(monkeypatch):
    """The interrupt is after the steps of epoch 2 and before its row."""

    def cut_off(train, epoch, key):
        yield train, key
        if epoch == 2:
            raise KeyboardInterrupt

    whole = plain_fit(Linear(), classes(), epochs=2)
    monkeypatch.setitem(fit.__globals__, "_parts", cut_off)
    with pytest.raises(
        TrainingInterrupted,
        match="interrupted after 1 epochs and 2 steps of the next, which are in the parameters",
    ) as caught:
        plain_fit(Linear(), classes(), epochs=2)
    assert caught.value.steps == 2
    assert len(caught.value.result.history) == 2
    for a, b in zip(
        jax.tree.leaves(caught.value.result.final), jax.tree.leaves(whole.final), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_what_diverged_is_tested_as_it_ended():
    """One step overflows: test metrics are those of the last good parameters."""
    source, net = classes(), Linear()
    late = optax.sgd(lambda step: jnp.where(step < 2, 0.1, jnp.inf))
    with pytest.raises(TrainingDivergedError, match="not finite at epoch 2, step 0 of 2") as caught:
        plain_fit(net, source, test=source, optimizer=late, epochs=3)
    x, labels = source.batch(jnp.arange(8))
    expected = losses.CrossEntropy()(net(x), labels).mean()
    np.testing.assert_allclose(caught.value.result.test["final"]["loss"], expected, rtol=1e-5)


@pytest.mark.more
@pytest.mark.parametrize("old_key", [False, True])
def test_optimizers_that_look_at_the_loss_get_that_of_each_batch(old_key):
    """Compared with a loop that computes the gradient of the mean square error explicitly.

    The step is halved at each plateau.
    """
    source = Given(jnp.asarray(inputs(8)), jnp.asarray(noisy_map(inputs(8))))

    def make(accumulation):
        plateau = optax.contrib.reduce_on_plateau(
            factor=0.5, patience=1, rtol=0.1, accumulation_size=accumulation
        )
        return optax.chain(optax.sgd(0.3), plateau)

    steps = 30
    for accumulation in (1, 3):  # with 3, the optimizer's state contains an infinity for two steps
        optimizer, net = make(accumulation), Linear()
        w = np.asarray(net.map.kernel[...], np.float64)
        key = jax.random.PRNGKey(0) if old_key else jax.random.key(0)
        plain_fit(
            net,
            source,
            objective=Objective(losses.MeanSquare()),
            optimizer=optimizer,
            epochs=steps,
            batch_size=8,
            key=key,
        )
        x, y = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (source.x, source.y))
        state = optimizer.init(jnp.asarray(w, jnp.float32))
        for _ in range(steps):
            value, gradient = np.mean((x @ w - y) ** 2), 2 * x.T @ (x @ w - y) / y.size
            step, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, value=value)
            w = w + np.asarray(step)
        assert float(state[1].scale) < 0.6
        np.testing.assert_allclose(net.map.kernel[...], w, rtol=1e-4, atol=1e-6)


class Ends(nnx.Module):
    """Returns any value that it is given."""

    def __init__(self, out):
        self.out, self.w = out, nnx.Param(jnp.ones(()))

    def __call__(self, x):
        return self.out(x * self.w[...])


@pytest.mark.parametrize(
    ("network", "options", "error", "match"),
    [
        (Linear(), {"optimizer": "adam"}, TypeError, r"optimizer must be an optax transformation such as optax\.adam\(1e-3\), got str 'adam'"),
        (Linear(), {"optimizer": optax.adam}, TypeError, r"got the function adam itself; call it, adam\(\.\.\.\)"),
        (Linear(), {"optimizer": nnx.Optimizer(Linear(), optax.sgd(0.1), wrt=nnx.Param)}, TypeError, "got an nnx.Optimizer; pass its attribute `tx`"),
        (Linear(), {"optimizer": optax.lbfgs()}, TypeError, r"optimizer must not need value_fn.*\(optax\.lbfgs\)"),
        (Linear(), {"key": 0}, TypeError, r"key must be a random key such as jax\.random\.key\(0\), got int 0"),
        (Linear(), {"objective": ["mse"]}, TypeError, "loss must be a function, got str 'mse'"),
        (Linear(), {"objective": [losses.SquaredError]}, TypeError, r"loss must be a function, got the class SquaredError; make one, SquaredError\(\)"),
        (Linear(), {"objective": losses.SquaredError()}, TypeError, "objective must be a snnjax.training.Objective, .* got SquaredError"),
        (Linear(), {"callbacks": print}, TypeError, "callbacks must be a sequence of callbacks and functions of a row, got <built-in function print>"),
        (Linear(), {"callbacks": 3}, TypeError, "callbacks must be a sequence of callbacks .*, got 3; write"),
        (Linear(), {"callbacks": [EarlyStopping]}, TypeError, "callbacks must be a sequence .* got <class .*EarlyStopping'> among them"),
        (Linear(), {"progress": 1}, TypeError, "progress must be True, False or None, got 1"),
        (Linear(), {"resume": 3}, TypeError, "resume must be the folder of Checkpoints, or None, got 3"),
        (Linear(), {"batch_size": None}, ValueError, "batch_size must be given for data that do not come in batches"),
        (Linear(), {"objective": [losses.CrossEntropy(), upper_bound(1.0, 1.0)]}, TypeError, "regularizers must be a sequence of functions of spikes"),
        (Linear(), {"objective": [losses.CrossEntropy(), [upper_bound(1.0, 1.0)]]}, ValueError, "regularizers need the spikes of every layer: network"),
        (Linear(), {"objective": [losses.CrossEntropy(), [lambda z: z.sum()]], "priming_epochs": 1}, ValueError, "regularizers need the spikes"),
        (Linear, {}, TypeError, "network must be a flax.nnx.Module such as nn.Sequential, got the class Linear"),
        (lambda x: x, {}, TypeError, "got an object of type function"),
        (Ends(lambda x: (x, x)), {}, TypeError, r"network must return the readout \(time, batch, k\), or .*, got tuple \['\w+', '\w+'\]"),
        (Ends(lambda x: {"readout": x}), {}, TypeError, "got dict"),
        (Ends(lambda x: x.mean(axis=0)), {}, ValueError, r"got a readout of shape \(1, 4\)"),
        (Ends(lambda x: x), {"train": "batch-major"}, ValueError, r"train must give time-major inputs .*, got \(1, 3, 4\) for a batch of one"),
    ],
)  # fmt: skip
def test_what_is_not_what_it_should_be_is_named(network, options, error, match):
    class BatchMajor(Given):
        def batch(self, indices, key=None):
            return self.x[indices], self.y[indices]

    jax.tree_util.register_dataclass(BatchMajor, ["x", "y"], [])
    source = classes()
    options = dict(options)
    if options.pop("train", None):
        source = BatchMajor(source.x, source.y)
    made = options.pop("objective", [])
    with pytest.raises(error, match=match):
        plain_fit(
            network,
            source,
            objective=Objective(*made) if isinstance(made, list) else made,
            **options,
        )


def test_a_network_that_shows_no_spikes_has_no_rates():
    result = plain_fit(Linear(), classes(), valid=classes())
    assert list(result.history[0]) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "penalty",
        "valid_loss",
        "valid_accuracy",
        "seconds",
    ]
    x, labels = classes().batch(jnp.arange(8))
    np.testing.assert_allclose(
        result.history[0]["valid_accuracy"], losses.correct(Linear()(x), labels).mean()
    )


@pytest.mark.more
def test_penalties_of_ones_own_are_trained_on_and_left_out_of_priming():
    """For silent layers, the gradient of a bound on 0 spikes is 0.

    The user's penalty would change the weights.
    """
    rngs = nnx.Rngs(0)
    net = Sequential(
        SpikingDense(4, 3, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(3, 2, rngs=rngs)
    )
    bounds = [lambda z: 7.0 * z.mean() + 1.0, lower_bound(1.0, 0.0)]
    trainer = Trainer(net, Objective(regularizers=bounds), optax.sgd(0.1), batch_size=8)
    _, whole = trainer.step(trainer.init(), classes().batch(jnp.arange(8)))
    np.testing.assert_allclose(whole.penalty, 7 * whole.rates[0] + 1, rtol=1e-5)
    assert trainer.priming().problem.regularizers == (bounds[1],)
    both = [upper_bound(1.0, 2.0), bounds[1]]
    assert Problem.from_objective(net, Objective(regularizers=[bounds[0], *both]))[
        0
    ].priming().regularizers == tuple(both)
    with pytest.raises(
        ValueError, match="regularizers must have a lower bound for homeostatic priming"
    ):
        Problem.from_objective(net, Objective(regularizers=bounds[:1]))[0].priming()


def test_rates_of_16_bit_spikes_are_of_float32():
    """In 16 bits, a mean of 10,000 spikes has only three digits."""

    class Activity(tuple):
        spikes = (jnp.asarray(np.arange(10_000).reshape(100, 2, 50) % 7 == 0, jnp.bfloat16),)

    problem = Problem(lambda p, x: (x * p, Activity()), losses.SquaredError())
    x, y = jnp.ones((100, 2, 3)), jnp.zeros((2, 3))
    _, m = problem.value(jnp.ones(()), Batch(x=x, y=y), jnp.arange(2))
    np.testing.assert_allclose(m.rates, [np.mean(np.arange(10_000) % 7 == 0)], rtol=1e-6)
