import functools
import weakref
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import require
from flax import nnx

from snnjax import optimizers
from snnjax.datasets import DeviceEvents, Splits, Stream, randman
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.regularizers import lower_bound
from snnjax.training import Objective, TrainingDivergedError, fit
from snnjax.training._fit import TrainingInterrupted
from snnjax.training._objective import Problem
from snnjax.training._step import Recipe, Sizes, evaluate, init_state, train_epoch

KEY = jax.random.key(5)
OPTIMIZER = optimizers.smorms3(2e-2)
OPTIONS = {"epochs": 2, "batch_size": 7, "key": KEY, "dt": 2e-3}


class Recordings:
    """The samples of a Randman data set, 0.2 s each."""

    def __init__(self, num_classes=4):
        data = randman(
            num_classes=num_classes,
            num_units=8,
            samples_per_class=60 // num_classes,
            smoothness=2.0,
            seed=0,
        ).shuffle(0)
        self.data, self.labels, self.num_units, self.num_classes = data, data.labels, 8, num_classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        one = self.data.subset([i])
        return one.times, one.units


class Counted(Stream):
    """Counts how many shards of all such streams exist."""

    alive: ClassVar = []
    most: ClassVar = [0]

    def shards(self, epoch):
        for shard in super().shards(epoch):
            self.alive.append(weakref.ref(shard.steps_by_unit))
            self.most[0] = max(self.most[0], sum(ref() is not None for ref in self.alive))
            yield shard


def stream(recordings=None, kind=Stream, **options):
    return kind(
        recordings or Recordings(),
        **{"duration": 0.15, "dt": 2e-3, "shard_size": 16, "seed": 1} | options,
    )


def network(n_out=4):
    rngs = nnx.Rngs(0)
    return Sequential(
        SpikingDense(8, 32, init=FluctuationDriven(nu=5.0), rngs=rngs),
        Readout(32, n_out, rngs=rngs),
    )


def same(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def objective_and_params(bounds=()):
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)
    return Problem(lambda p, x: nnx.merge(graphdef, p, rest)(x), regularizers=bounds), params


def by_hand(data, params, phases):
    """The state after an epoch for each objective of `phases`, and the metrics of every shard."""
    state, found = init_state(params, OPTIMIZER), []
    for epoch, objective in enumerate(phases, start=1):
        run = jax.jit(functools.partial(train_epoch, Recipe(objective, OPTIMIZER, Sizes(7, 7))))
        found.append([])
        for k, shard in enumerate(data.shards(epoch)):
            state, metrics = run(
                state, shard, jax.random.fold_in(jax.random.fold_in(KEY, epoch), k)
            )
            found[-1].append(metrics)
    return state, found


@pytest.mark.slow
def test_is_train_epoch_over_the_shards():
    """Parameters are equal to the bit, metrics to rounding.

    Metrics are means over the shards; the first row is from the first shard of epoch 0.
    """
    require("grain")
    data, net, rows = stream(drop=0.1, events=True), network(), []  # the choice of `fit`
    result = fit(net, Splits(data), Objective(), OPTIMIZER, callbacks=[rows.append], **OPTIONS)
    objective, params = objective_and_params()
    untrained = jax.jit(functools.partial(evaluate, Recipe(objective, OPTIMIZER, Sizes(7, 7))))(
        params, next(data.shards(0))
    )
    np.testing.assert_allclose(rows[0]["train_loss"], untrained.loss, rtol=1e-6)
    state, found = by_hand(data, params, [objective] * 2)
    for row, metrics in zip(rows[1:], found, strict=True):
        assert len(metrics) == 3
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(
                row[f"train_{name}"], np.mean([getattr(m, name) for m in metrics]), rtol=1e-6
            )
        np.testing.assert_allclose(
            row["rate_1"], np.mean([m.rates[0] for m in metrics]) / 2e-3, rtol=1e-6
        )
    assert int(state.steps) == 2 * 3 * 2
    same(result.final, state.params)
    same(nnx.state(net, nnx.Param), state.params)


@pytest.mark.slow
def test_priming_comes_first():
    require("grain")
    bounds = (lower_bound(10.0, 2.0),)
    goal = Objective(regularizers=bounds)
    result = fit(
        network(),
        Splits(stream()),
        goal,
        OPTIMIZER,
        priming_epochs=1,
        events=False,
        **OPTIONS | {"epochs": 1},
    )
    objective, params = objective_and_params(bounds)
    same(result.final, by_hand(stream(), params, [objective.priming(), objective])[0].params)
    assert ([row["epoch"] for row in result.history], result.best_epoch) == ([0, 1, 2], 2)


def test_a_shard_of_everything_is_the_data_set():
    """One shard with all recordings, cut at the start.

    It has the samples of `DeviceEvents.from_dataset` in the stream's order.
    """
    require("grain")
    data = stream(shard_size=60, crop="start")
    (shard,) = data.shards(1)
    whole = DeviceEvents.from_dataset(Recordings().data, dt=2e-3, num_steps=75)
    indices = jnp.asarray(data.order(1)[0])
    for a, b in zip(shard.batch(jnp.arange(60)), whole.batch(indices), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.more
def test_learns_and_validates():
    require("grain")
    held = DeviceEvents.from_dataset(Recordings().data, dt=2e-3, num_steps=75)
    result = fit(
        network(),
        Splits(stream(crop="start"), held, held),
        Objective(),
        OPTIMIZER,
        **OPTIONS | {"epochs": 40},
    )
    assert result.history[-1]["train_loss"] < 0.85 * result.history[0]["train_loss"]
    assert result.test["best"]["accuracy"] > 0.5  # chance is 0.25
    assert result.best_epoch == 1 + int(
        np.argmax([row["valid_accuracy"] for row in result.history[1:]])
    )


def test_at_most_two_shards_are_on_the_device():
    require("grain")
    data = stream(kind=Counted, shard_size=10, events=True)
    fit(network(), Splits(data), Objective(), OPTIMIZER, **OPTIONS)
    assert len(data.alive) == 1 + 2 * 6
    assert data.most[0] <= 2


@pytest.mark.more
def test_says_in_which_shard_training_went_wrong():
    """Two steps per shard, three shards per epoch: steps 0 to 8 are good.

    So the bad step is step 1 of shard 1 of epoch 2.
    """
    require("grain")
    late = optax.sgd(lambda step: jnp.where(step < 9, 0.0, jnp.inf))
    with pytest.raises(
        TrainingDivergedError, match=r"not finite at epoch 2, shard 1, step 1 of 2 \("
    ) as caught:
        fit(network(), Splits(stream()), Objective(), late, **OPTIONS)
    assert len(caught.value.result.history) == 2
    same(caught.value.result.final, nnx.state(network(), nnx.Param))


def test_an_interrupt_keeps_what_was_trained():
    require("grain")

    def interrupt(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    net = network()
    with pytest.raises(TrainingInterrupted, match="interrupted after 1 epochs") as caught:
        fit(net, Splits(stream()), Objective(), OPTIMIZER, callbacks=[interrupt], **OPTIONS)
    same(caught.value.result.final, nnx.state(net, nnx.Param))
    assert [row["epoch"] for row in caught.value.result.history] == [0, 1]
    before, after = (jax.tree.leaves(nnx.state(n, nnx.Param)) for n in (network(), net))
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"batch_size": 17},
            ValueError,
            "batch_size must be at most the number of training samples 16, got 17",
        ),
        ({"dt": 1e-3}, ValueError, "dt must be the time step of the stream, 0.002 s, got 0.001"),
        ({"valid": "stream"}, TypeError, r"valid must be a JAX pytree .* got Stream"),
        (
            {"network": network(2)},
            ValueError,
            r"labels of train must be in \[0, 2\), one class per output of the readout, got 3",
        ),
    ],
)
def test_errors(changes, error, match):
    require("grain")
    options = OPTIONS | changes
    splits = Splits(stream(), stream() if options.pop("valid", None) else None)
    with pytest.raises(error, match=match):
        fit(options.pop("network", network()), splits, Objective(), OPTIMIZER, **options)


def test_labels_of_every_shard_are_checked():
    """The first shard may have no sample of the class for which the readout has no unit."""
    require("grain")
    recordings = Recordings()
    first = stream(recordings, shard_size=2).order(0)[0]
    recordings.labels = np.where(np.isin(np.arange(60), first), 0, 3)
    with pytest.raises(ValueError, match=r"labels of train must be in \[0, 2\)"):
        fit(
            network(2),
            Splits(stream(recordings, shard_size=2)),
            Objective(),
            OPTIMIZER,
            **OPTIONS | {"batch_size": 2},
        )
