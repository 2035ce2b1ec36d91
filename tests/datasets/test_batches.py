"""Batches of other libraries: which are accepted, which are refused, and training on them."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from _linear import INPUTS, OUTPUTS, STEPS, Given, Linear, inputs, noisy_map

from snnjax.datasets import Batches, Splits
from snnjax.datasets._batches import Batch
from snnjax.losses import CrossEntropy, SquaredError, mean_over_time
from snnjax.training import Objective, Trainer, TrainingDivergedError, fit, fit_ensemble
from snnjax.training._objective import Problem

KEY = jax.random.key(0)


class Tensor:
    """The interface of another library's tensor."""

    def __init__(self, a):
        self.a = np.asarray(a)

    def __array__(self, dtype=None, copy=None):
        return self.a if dtype is None else self.a.astype(dtype)


class Loader:
    """A DataLoader: batch-first tensors, in the same order in each epoch."""

    def __init__(self, x, y, size):
        self.parts = [
            (Tensor(x[k : k + size]), Tensor(y[k : k + size])) for k in range(0, len(x), size)
        ]

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        return iter(self.parts)


def data(n=10):
    return inputs(n), np.arange(n) % OUTPUTS


def pairs(x, y, size):
    return [(np.moveaxis(x[k : k + size], 0, 1), y[k : k + size]) for k in range(0, len(x), size)]


def kinds(size):
    x, y = data()
    return {
        "list": Batches(pairs(x, y, size)),
        "generator": Batches(lambda epoch: iter(pairs(x, y, size))),
        "loader": Batches(Loader(x, y, size), batch_first=True),
    }


@pytest.mark.parametrize("kind", ["list", "generator", "loader"])
def test_training_is_gradient_descent_over_the_batches_in_order(kind):
    """Batches of 4, 4 and 2 samples, two epochs, compared with a loop of jax.grad.

    Every sample counts once in the metrics.
    """
    x, y = data()
    net, loss, rate = Linear(), CrossEntropy(), 0.1
    problem, params = Problem.from_objective(Linear(), Objective())
    value = jax.jit(jax.value_and_grad(lambda p, x, y: loss(problem.outputs(p, x)[0], y).mean()))
    expected = []
    for _ in range(2):
        found = []
        for batch, labels in pairs(x, y, 4):
            now, grads = value(params, batch, labels)
            params = jax.tree.map(lambda w, g: w - rate * g, params, grads)
            found.append((float(now), len(labels)))
        expected.append(np.average([loss for loss, _ in found], weights=[n for _, n in found]))
    held = kinds(3)[kind]
    result = fit(
        net, Splits(kinds(4)[kind], held, held), Objective(), optax.sgd(rate), epochs=2, key=KEY
    )
    for a, b in zip(jax.tree.leaves(result.final), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        [row["train_loss"] for row in result.history[1:]], expected, rtol=1e-5
    )
    # validation and test in batches of 3, 3, 3 and 1
    trainer = Trainer(Linear(), Objective(), optax.sgd(rate), batch_size=5)
    whole = trainer.evaluate(result.final, Given(jnp.asarray(x), jnp.asarray(y)))
    for name, found in (("loss", whole.loss), ("accuracy", whole.accuracy)):
        np.testing.assert_allclose(result.history[-1][f"valid_{name}"], found, rtol=1e-5)
        np.testing.assert_allclose(result.test["final"][name], found, rtol=1e-5)


def test_batches_of_one_shape_share_a_program():
    compiled = [0]
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.__setitem__(
            0, compiled[0] + name.endswith("backend_compile_duration")
        )
    )
    x, y = data(16)
    trainer = Trainer(Linear(), Objective(), optax.sgd(0.1), batch_size=None)
    state, first = trainer.init(), []
    for batch in Batches(pairs(x, y, 4)).epoch(0):
        state, _ = trainer.step(state, batch)
        first.append(compiled[0])
    assert first[1] == first[2] == first[3]
    assert int(state.steps) == 4


def test_a_function_gets_the_number_of_the_epoch_and_zero_for_evaluation():
    asked = []

    def batches(epoch):
        asked.append(epoch)
        return pairs(*data(4), 2)

    fit(Linear(), Splits(Batches(batches)), Objective(), optax.sgd(0.1), epochs=2, key=KEY)
    assert asked == [0, 1, 2]
    trainer = Trainer(Linear(), Objective(), optax.sgd(0.1), batch_size=None)
    trainer.evaluate(trainer.params, Batches(batches))
    assert asked[-1] == 0


def test_values_and_traces_in_parts_of_a_batch():
    """One of our losses on a batch can be computed in parts, with the same gradient."""
    x = np.moveaxis(inputs(8), 0, 1)
    objective = Objective(SquaredError(mean_over_time))
    steps = {}
    for micro in (8, 2):
        trainer = Trainer(Linear(), objective, optax.sgd(0.1), batch_size=8, micro_batch=micro)
        steps[micro], _ = trainer.step(trainer.init(), (x, noisy_map(x.mean(axis=0))))
    for a, b in zip(*(jax.tree.leaves(state.params) for state in steps.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    traces = Batch(x=jnp.asarray(x), y=jnp.arange(3 * 8 * 2).reshape(3, 8, 2))
    np.testing.assert_array_equal(traces.batch(jnp.array([5, 1]))[1], traces.y[:, [5, 1]])


def test_a_batch_that_is_not_finite_is_named():
    x, y = data(8)
    x[5] = np.nan
    with pytest.raises(
        TrainingDivergedError,
        match=r"not finite at epoch 1, batch 2 \(the input batch itself is not finite",
    ):
        fit(
            Linear(),
            Splits(Batches(pairs(x, y, 2))),
            Objective(),
            optax.sgd(0.1),
            epochs=1,
            key=KEY,
        )


X, Y = np.zeros((STEPS, 5, INPUTS)), np.zeros(5, int)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: Batches(iter([(X, Y)])),
            ValueError,
            "lambda epoch: ...; a list_iterator can be iterated only once",
        ),
        (
            lambda: Batches(3),
            TypeError,
            "batches must be an iterable of .x, y., or a function of the epoch's number, got int 3",
        ),
        (
            lambda: Batches(lambda: [(X, Y)]),
            TypeError,
            "a function of the epoch's number, lambda epoch",
        ),
        (lambda: Batches([(X, Y)], dt=-1.0), ValueError, "dt must be finite and > 0 s"),
        (
            lambda: [*Batches([]).epoch(2)],
            ValueError,
            "batches must give at least one batch per epoch, got none in 2",
        ),
        (
            lambda: [*Batches([(X, Y), X]).epoch(0)],
            TypeError,
            r"batch 1: a batch must be a pair \(x, y\), got ndarray",
        ),
        (
            lambda: [*Batches([(Y, Y)]).epoch(0)],
            ValueError,
            r"x must have shape \(time, batch, ...features\), got \(5,\)",
        ),
        (
            lambda: [*Batches([(X[:, :0], Y[:0])]).epoch(0)],
            ValueError,
            "x must hold at least one sample",
        ),
        (
            lambda: [*Batches([(np.moveaxis(X, 0, 1), Y)]).epoch(0)],
            ValueError,
            r"batch 0: x must be time-major, with as many samples as y \(5,\), got \(time, batch, ...\) = \(5, 3, 4\); Batches\(..., batch_first=True",
        ),
        (
            lambda: [*Batches([(X, Y)], batch_first=True).epoch(0)],
            ValueError,
            r"got \(time, batch, ...\) = \(5, 3, 4\)$",
        ),
    ],
)
def test_what_cannot_be_batches(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("splits", "options", "error", "match"),
    [
        (
            Splits(Batches([(X, Y)])),
            {"batch_size": 5},
            ValueError,
            "batch_size must be None for Batches, which have their own, got 5",
        ),
        (Splits(Batches([(X, Y + 2)])), {}, ValueError, r"labels of train must be in \[0, 2\)"),
        (
            Splits(Batches([(X, Y), (X, Y + 2)])),
            {},
            ValueError,
            r"labels of train must be in \[0, 2\)",
        ),
        (
            Splits(Batches([(X, Y)], dt=2e-3)),
            {"dt": 1e-3},
            ValueError,
            "dt must be the time step of train, 0.002 s, got 0.001 s",
        ),
        (
            Splits([(X, Y)]),
            {"batch_size": 5},
            TypeError,
            r"train must be a JAX pytree .* got list; snnjax\.datasets\.Batches takes an iterable",
        ),
        (
            Batches([(X, Y)]),
            {},
            TypeError,
            r"splits must be a snnjax\.datasets\.Splits, Splits\(train, valid, test\), got Batches",
        ),
    ],
)
def test_what_fit_does_not_take(splits, options, error, match):
    with pytest.raises(error, match=match):
        fit(Linear(), splits, Objective(), optax.sgd(0.1), epochs=1, key=KEY, **options)


def test_ensembles_want_data_on_the_device():
    splits = Splits(Batches([(X, Y)]), None, None)
    with pytest.raises(
        TypeError,
        match="train must be on the device, for all members, got Batches; use DeviceEvents",
    ):
        fit_ensemble(None, {"seed": [0]}, splits, epochs=1, dt=1e-3)
