"""Batch normalization in `fit`, in ensembles, and after a resumed run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax.calibration import Target, calibrate
from snnjax.datasets import DeviceEvents, Splits, randman
from snnjax.experiments import Experiment, run
from snnjax.experiments._data import load
from snnjax.experiments._group import program_of
from snnjax.nn import BatchNorm, FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.nn._norm import Statistics
from snnjax.training import Checkpoints, Objective, fit, fit_ensemble

EXPERIMENT = Experiment.from_options(
    "randman", classes=3, samples=40, batch_size=24, hidden=(20, 16), epochs=3, norm=True, dt=4e-3
)


@pytest.mark.more
def test_a_member_of_an_ensemble_is_the_run_it_would_be_alone():
    data = load(EXPERIMENT)
    members = {"seed": np.array([0, 1]), "learning_rate": np.float32([0.015, 0.01])}
    options = {"epochs": 3, "dt": 4e-3, "placement": "vmap"}
    result = fit_ensemble(program_of(EXPERIMENT, data), members, data.splits, **options)
    member = {"seed": 1, "learning_rate": 0.01}
    alone = run(EXPERIMENT.replace(**member)).fit
    for name in ("train_loss", "valid_loss"):
        expected = [row[name] for row in alone.history]
        np.testing.assert_allclose(result.history[name][1], expected, rtol=1e-3)
    for k in (0, 1):
        norm, same = (tree["layers"][k]["norm"] for tree in (result.final, alone.final))
        assert isinstance(same["mean"], Statistics)
        np.testing.assert_allclose(norm["mean"][...][1], same["mean"][...], rtol=0.02, atol=0.01)


def splits():
    parts = randman(num_classes=3, samples_per_class=60).split((0.8, 0.2), seed=0)
    return Splits(*(DeviceEvents.from_dataset(part, dt=2e-3) for part in parts))


def network(data):
    rngs, options = nnx.Rngs(0), {"init": FluctuationDriven(nu=5.0), "norm": BatchNorm()}
    hidden = [SpikingDense(n, 32, **options, rngs=rngs) for n in (20, 32)]
    net = Sequential(*hidden, Readout(32, 3, rngs=rngs))
    x, y = data.train.batch(jnp.arange(0, len(data.train), 2))
    return calibrate(net, x, y, key=jax.random.key(0), target=Target(balance=True))[0]


@pytest.mark.more
def test_a_network_learns_and_a_resumed_run_is_the_same(tmp_path):
    data = splits()
    options = {"key": jax.random.key(1), "batch_size": 24, "progress": False}
    setup = Objective(), optax.adam(5e-3)
    whole, part = network(data), network(data)
    result = fit(whole, data, *setup, epochs=20, **options)
    fit(part, data, *setup, epochs=10, callbacks=[Checkpoints(tmp_path)], **options)
    resumed = fit(part, data, *setup, epochs=20, resume=tmp_path, **options)
    for a, b in zip(jax.tree.leaves(result.final), jax.tree.leaves(resumed.final), strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.history[-1]["train_accuracy"] > 0.7  # 0.71 without normalization
    # evaluation with running statistics is close to that with the statistics of a batch
    x, _ = data.train.batch(jnp.arange(len(data.train)))
    layer = whole.layers[0]
    spread = x @ layer.kernel[...]
    np.testing.assert_allclose(layer.norm.variance[...], spread.var((0, 1)), rtol=0.15)
    assert np.abs(layer.norm.mean[...] - spread.mean((0, 1))).max() < 0.1 * spread.std()
