"""Training on values, traces, several labels and classes: the loss determines the targets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _linear import INPUTS, OUTPUTS, Given, Linear, inputs, least_squares, noisy_map

from snnjax import losses
from snnjax._progress import describe
from snnjax.datasets import Splits
from snnjax.plotting import learning_curves
from snnjax.training import Objective, Program, Trainer, fit, fit_ensemble

OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.1, 240))
OPTIONS = {"batch_size": 16, "key": jax.random.key(0), "dt": 2e-3}
COLUMNS = ["epoch", "train_loss", "penalty", "valid_loss", "seconds"]


def values_and_traces():
    x = inputs(64)
    mean = x.mean(axis=1)
    yield (
        "values",
        losses.SquaredError(losses.mean_over_time),
        noisy_map(mean),
        least_squares(mean, noisy_map(mean)),
    )
    flat = x.reshape(-1, INPUTS)
    yield (
        "traces",
        losses.MeanSquare(),
        noisy_map(x),
        least_squares(flat, noisy_map(x).reshape(-1, OUTPUTS)),
    )


@pytest.mark.parametrize(
    ("loss", "y", "best"), [pytest.param(*rest, id=name) for name, *rest in values_and_traces()]
)
def test_regression_reaches_the_least_squares_error(loss, y, best):
    smallest, w = best
    net, source = Linear(), Given(jnp.asarray(inputs(64)), jnp.asarray(y))
    held = Given(source.x[:16], source.y[:16])
    result = fit(
        net, Splits(source, held, source), Objective(loss), OPTIMIZER, epochs=60, **OPTIONS
    )
    # the loss of an epoch is a mean over its steps; that of the test set is from the end
    np.testing.assert_allclose(result.test["final"]["loss"], smallest, rtol=2e-3)
    np.testing.assert_allclose(net.map.kernel[...], w, atol=0.02)
    assert [list(row) for row in result.history[:2]] == [COLUMNS] * 2
    assert list(result.test["best"]) == ["loss"]
    assert result.best_epoch == 1 + int(
        np.argmin([row["valid_loss"] for row in result.history[1:]])
    )
    assert describe(result.history[-1]) == "loss {train_loss:.3f}  valid {valid_loss:.3f}".format(
        **result.history[-1]
    )
    assert [ax.get_ylabel() for ax in learning_curves(result.history).axes] == ["loss"]


def test_several_labels_per_sample_against_optax():
    x = inputs(64)
    labels = (x.mean(axis=1) @ np.random.default_rng(2).normal(size=(INPUTS, OUTPUTS)) > 0).astype(
        np.int32
    )
    net, loss = Linear(), losses.SigmoidCrossEntropy(losses.mean_over_time)
    logits = x.mean(axis=1) @ np.asarray(net.map.kernel[...])
    source = Given(jnp.asarray(x), jnp.asarray(labels))
    result = fit(net, Splits(source, source), Objective(loss), OPTIMIZER, epochs=60, **OPTIONS)
    first, last = result.history[0], result.history[-1]
    np.testing.assert_allclose(
        first["train_loss"], optax.sigmoid_binary_cross_entropy(logits, labels).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        first["valid_label_accuracy"], np.mean((logits > 0) == labels), rtol=1e-6
    )
    assert not any(name.endswith("_accuracy") and "label" not in name for name in first)
    assert last["valid_label_accuracy"] > 0.95  # separable, without noise
    assert result.best_epoch == 1 + int(
        np.argmin([row["valid_loss"] for row in result.history[1:]])
    )
    assert "train {:.1f} %  valid".format(100 * last["train_label_accuracy"]) in describe(last)
    assert [ax.get_ylabel() for ax in learning_curves(result.history).axes] == [
        "loss",
        "label accuracy (%)",
    ]


def test_a_loss_of_ones_own_names_what_is_reported():
    """Integer targets do not count as classes if the loss sets `metric`."""

    def absolute(readout, target):
        return jnp.abs(readout.mean(axis=0)[:, 0] - target)

    x, y = inputs(20), np.arange(20) % 7
    source = Given(jnp.asarray(x), jnp.asarray(y))
    error = np.abs((x.mean(axis=1) @ np.asarray(Linear().map.kernel[...]))[:, 0] - y)
    absolute.metric = None
    trainer = Trainer(Linear(), Objective(absolute), optax.sgd(0.1), batch_size=8)
    m = trainer.evaluate(trainer.params, source)
    np.testing.assert_allclose(m.loss, error.mean(), rtol=1e-5)
    assert m.scores == {}
    with pytest.raises(
        AttributeError, match="there is no accuracy, because the targets are not classes"
    ):
        _ = m.accuracy
    absolute.metric = losses.Metric("near", lambda readout, target: absolute(readout, target) < 3)
    trainer = Trainer(Linear(), Objective(absolute), optax.sgd(0.1), batch_size=20)
    _, m = trainer.step(trainer.init(), (source, jnp.arange(20)))
    np.testing.assert_allclose(m.scores["near"], np.mean(error < 3), rtol=1e-6)
    assert (
        describe({"epoch": 1, "train_loss": 1.0, "train_near": 0.5})
        == "loss 1.000  near  train 0.500"
    )


def test_parts_of_a_batch_give_the_same():
    """A user's source gets whole batches, unless the size of a part is given."""
    source = Given(jnp.asarray(inputs(16)), jnp.asarray(noisy_map(inputs(16).mean(axis=1))))
    objective = Objective(losses.SquaredError(losses.mean_over_time))
    whole, parts = (
        fit(Linear(), Splits(source), objective, optax.sgd(0.1), epochs=2, micro_batch=m, **OPTIONS)
        for m in (None, 4)
    )
    for a, b in zip(jax.tree.leaves(whole.final), jax.tree.leaves(parts.final), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_ensemble_on_values_takes_the_smallest_validation_loss():
    x = inputs(64)
    y = noisy_map(x.mean(axis=1))
    smallest, _ = least_squares(x.mean(axis=1), y)
    source, held = (
        Given(jnp.asarray(x), jnp.asarray(y)),
        Given(jnp.asarray(x[:16]), jnp.asarray(y[:16])),
    )

    program = Program(
        network=lambda hyper: Linear(),
        objective=lambda hyper: Objective(losses.SquaredError(losses.mean_over_time)),
        # the optimizer gets the loss, and reduces the step at its plateaus
        optimizer=lambda hyper: optax.chain(
            optax.adam(hyper["rate"]),
            optax.contrib.reduce_on_plateau(patience=8, accumulation_size=4),
        ),
        batch_size=16,
    )
    members = {"seed": np.array([0, 1]), "rate": np.array([0.1, 1e-4])}
    result = fit_ensemble(
        program,
        members,
        Splits(source, held, source),
        epochs=60,
        dt=2e-3,
        placement="map",
    )
    assert sorted(result.history) == ["penalty", "train_loss", "valid_loss"]
    np.testing.assert_allclose(result.test["final"]["loss"][0], smallest, rtol=0.01)
    assert result.test["final"]["loss"][1] > 2 * smallest
    for k in range(2):
        assert result.best_epoch[k] == 1 + np.argmin(result.history["valid_loss"][k, 1:])


@pytest.mark.parametrize(
    ("y", "options", "match"),
    [
        (
            np.array([0, 2, 1]),
            {},
            r"labels of train must be in \[0, 2\), one class per output of the readout, got 2",
        ),
        (
            np.full((3, 2), 3),
            {"loss": losses.SigmoidCrossEntropy()},
            "labels of train must be finite and >= 0 and <= 1, got 3",
        ),
        (
            np.zeros((3, 3)),
            {"loss": losses.SquaredError()},
            r"target must have shape \(batch, k\) = \(1, 2\)",
        ),
        (
            np.zeros((3, 4, 2)),
            {"loss": losses.MeanSquare()},
            r"target must have the readout's shape \(3, 1, 2\).*got \(4, 1, 2\)",
        ),
    ],
)
def test_targets_that_do_not_fit_are_found_before_training(y, options, match):
    class Labelled(Given):
        labels = property(lambda self: self.y)

    jax.tree_util.register_dataclass(Labelled, ["x", "y"], [])
    source = Labelled(jnp.asarray(inputs(3)), jnp.asarray(y))
    with pytest.raises(ValueError, match=match):
        fit(
            Linear(),
            Splits(source),
            Objective(**options),
            OPTIMIZER,
            epochs=1,
            **OPTIONS | {"batch_size": 3},
        )
