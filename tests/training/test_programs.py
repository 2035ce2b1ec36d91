"""Programs are compiled again if something changed, and only then."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear import Given, Linear, inputs
from flax import nnx

from snnjax import losses, optimizers
from snnjax.datasets import Splits
from snnjax.dynamics import LIF
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training import Objective, Program, Trainer, _programs, fit, fit_ensemble
from snnjax.training._programs import fingerprint, program

COMPILED = [0]
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.__setitem__(
        0, COMPILED[0] + name.endswith("backend_compile_duration")
    )
)
OPTIONS = {"epochs": 1, "batch_size": 4, "key": jax.random.key(0), "dt": 2e-3}
FACTOR = 1.0


def compilations(call):
    before = COMPILED[0]
    call()
    return COMPILED[0] - before


def source(n=8, seed=0):
    return Given(jnp.asarray(inputs(n, seed)), jnp.zeros(n, jnp.int32))


def spiking(seed=0, tau_mem=20e-3):
    rngs, neuron = nnx.Rngs(seed), LIF(tau_mem=tau_mem)
    hidden = SpikingDense(
        4, 5, init=FluctuationDriven(nu=5.0), neuron=neuron, trainable=("tau_syn",), rngs=rngs
    )
    return Sequential(hidden, Readout(5, 2, rngs=rngs))


@pytest.mark.more
def test_fit_evaluate_and_ensembles_compile_once():
    """Covers networks of one structure with other numbers, arrays of neurons, and priming.

    Optimizers and programs are built again.
    """
    bounds = [lower_bound(1.0, 1.0), upper_bound(1.0, 2.0)]

    def train(seed):
        net, data = spiking(seed, tau_mem=jnp.full(5, 0.02 + 0.01 * seed)), source(seed=seed)
        objective = Objective(regularizers=bounds)
        return fit(
            net,
            Splits(data, data, data),
            objective,
            optimizers.smorms3(5e-3),
            priming_epochs=1,
            **OPTIONS,
        )

    def score():
        trainer = Trainer(
            Linear(),
            Objective(losses.CrossEntropy(losses.sum_over_time)),
            optax.sgd(0.1),
            batch_size=3,
        )
        return trainer.evaluate(trainer.params, source())

    def ensemble():
        made = Program(
            lambda hyper: Linear(),
            lambda hyper: Objective(),
            lambda hyper: optax.sgd(0.1),
            batch_size=4,
        )
        data = source()
        return fit_ensemble(
            made, {"seed": np.arange(2)}, Splits(data, data, data), epochs=1, dt=2e-3
        )

    for call in (lambda: train(1), score, ensemble):
        assert compilations(call) > 0
        assert compilations(call) == 0
    again = []
    assert compilations(lambda: again.append(train(2))) == 0
    # its arrays are arguments: another network has other numbers
    x, labels = source(seed=2).batch(jnp.arange(8))
    readout, _ = spiking(2, tau_mem=jnp.full(5, 0.04))(x)
    np.testing.assert_allclose(
        again[0].history[0]["train_loss"], losses.CrossEntropy()(readout, labels).mean(), rtol=1e-5
    )


def scaled(factor):
    return lambda readout, target: factor * losses.CrossEntropy()(readout, target)


def of_a_global(readout, target):
    return FACTOR * losses.CrossEntropy()(readout, target)


def test_a_change_is_seen(monkeypatch):
    def loss_of(loss):
        trainer = Trainer(Linear(), Objective(loss), optax.sgd(0.1), batch_size=8)
        return float(trainer.evaluate(trainer.params, source()).loss)

    one = loss_of(of_a_global)
    assert (
        compilations(lambda: np.testing.assert_allclose(loss_of(scaled(2.0)), 2 * one, rtol=1e-6))
        > 0
    )
    assert (
        compilations(lambda: np.testing.assert_allclose(loss_of(scaled(2.0)), 2 * one, rtol=1e-6))
        == 0
    )
    np.testing.assert_allclose(loss_of(scaled(3.0)), 3 * one, rtol=1e-6)
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    np.testing.assert_allclose(loss_of(of_a_global), 4 * one, rtol=1e-6)


class Box:
    def __init__(self, value):
        self.value = value


def test_what_may_change_in_place_is_never_kept():
    box, net = Box(1.0), Linear()
    for captured in (box, net, np.zeros(2**18, np.float64)):
        with pytest.raises(TypeError, match="may change in place"):
            fingerprint(lambda o, y, c=captured: c)

    def loss(readout, target):
        return box.value * losses.CrossEntropy()(readout, target)

    results = []
    for value in (1.0, 2.0):
        box.value = value
        results.append(
            fit(Linear(), Splits(source()), Objective(loss), optax.sgd(0.0), **OPTIONS).history[1][
                "train_loss"
            ]
        )
    np.testing.assert_allclose(results[1], 2 * results[0], rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: float = 1.0


def repeats(n):
    return repeats(n - 1) if n else 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(1e-3),
        lambda: optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10))),
        lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
        lambda: optax.multi_transform({"a": optax.sgd(0.1), "b": optax.lion(1.0)}, {"x": "a"}),
        lambda: optax.chain(optimizers.smorms3(1e-3), optimizers.keep_nonnegative()),
        lambda: functools.partial(losses.correct, readout_fn=losses.last_step),
        lambda: losses.SigmoidCrossEntropy(losses.mean_over_time),
        lambda: (Frozen(2.0), np.arange(3), np.float32(1), None, "x", repeats),
    ],
)
def test_equal_things_have_equal_fingerprints(make):
    assert fingerprint(make()) == fingerprint(make())
    assert hash(fingerprint(make())) == hash(fingerprint(make()))


def test_unequal_things_have_unequal_fingerprints():
    things = [
        1, 1.0, True, 0.0, -0.0, "1", None, (1,), [1], Frozen(), Frozen(2.0), np.arange(2), np.arange(2.0), jnp.ones(2), jnp.ones(2), {"a": 1},
        optax.adam(1e-3), optax.adam(2e-3), optax.sgd(1e-3), scaled(1.0), scaled(2.0), losses.SquaredError(), losses.SigmoidCrossEntropy(),
    ]  # fmt: skip
    found = [fingerprint(thing) for thing in things]
    assert len(set(found)) == len(things)


def add(given, x):
    return x + given["a"] + (given["b"](0.0) if "b" in given else 0)


@pytest.mark.more
def test_the_last_programs_are_kept_and_a_dropped_one_is_freed(monkeypatch):
    monkeypatch.setattr(_programs, "KEPT", 3)
    _programs._kept.clear()
    first = program(add, {"a": 0})
    alive = weakref.ref(first.func)
    assert first(1.0) == 1.0
    for k in range(1, 3):
        assert program(add, {"a": k})(1.0) == 1.0 + k
    assert program(add, {"a": 0}).func is first.func  # used again, so it is no longer the oldest
    oldest = weakref.ref(program(add, {"a": 1}).func)
    program(add, {"a": 2}), program(add, {"a": 0}), program(add, {"a": 3})
    del first
    gc.collect()
    assert len(_programs._kept) == 3
    assert alive() is not None
    assert oldest() is None


def test_functions_that_cannot_be_compared_are_equal_to_themselves_where_asked_for():
    box = Box(2.0)
    given = {"a": 1.0, "b": lambda x: x + box.value}
    assert program(add, given)(1.0) == 4.0
    assert program(add, given).func is not program(add, given).func
    assert program(add, given, identity=True).func is program(add, given, identity=True).func


def test_traced_numbers_are_arguments_or_part_of_their_own_trace():
    def through(a, b):
        return program(add, {"a": a, "b": lambda x: x + b})(jnp.float32(1))

    kept = len(_programs._kept)
    for k in range(2):
        assert jax.jit(through)(1.0 + k, 2.0) == 4.0 + k
        np.testing.assert_array_equal(
            jax.vmap(through)(jnp.arange(2.0), jnp.arange(2.0) + k), [1 + k, 3 + k]
        )
    assert len(_programs._kept) == kept
