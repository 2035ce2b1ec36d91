"""`--max-delay`, `--delays` and `--delay-width`: single runs, resumed runs, ensembles."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from snnjax.experiments import Experiment
from snnjax.experiments._build import Inputs, build_network, build_optimizer
from snnjax.experiments._data import load
from snnjax.experiments._group import program_of
from snnjax.experiments._run import prepare
from snnjax.training import fit, fit_ensemble
from snnjax.training._checkpoint import Checkpoints

EXPERIMENT = Experiment.from_options(
    "randman",
    start="paper",
    classes=3,
    samples=40,
    batch_size=24,
    hidden=(16,),
    recurrent=True,
    epochs=4,
    optimizer="adam",
    learning_rate=0.02,
    dt=4e-3,
    max_delay=0.04,
    delays="connection",
)


def layer_of(params):
    return nnx.to_pure_dict(params)["layers"][0]


def train(prepared, epochs, **options):
    return fit(
        nnx.clone(prepared.network),
        prepared.data.splits,
        prepared.objective(),
        build_optimizer(EXPERIMENT, samples=len(prepared.data.splits.train)),
        epochs=epochs,
        batch_size=24,
        key=jax.random.key(EXPERIMENT.seed),
        progress=False,
        **options,
    )


@pytest.mark.more
def test_runs_narrow_their_kernels_resume_and_train_as_members(tmp_path):
    data = load(EXPERIMENT)
    assert data.inputs.samples == len(data.splits.train) == 96
    prepared = prepare(EXPERIMENT)
    layer = prepared.network.layers[0]
    assert (layer.delay.shape, layer.recurrent_delay.shape) == ((20, 16), (16, 16))
    np.testing.assert_allclose(layer.delay_width[...], 0.02)
    # 4 updates in each of 4 epochs; the width is 0 from the middle on
    whole = train(prepared, 4)
    one = train(prepared, 1, callbacks=[Checkpoints(tmp_path)])
    np.testing.assert_allclose(layer_of(one.final)["delay_width"], 0.01, rtol=1e-5)
    resumed = train(prepared, 4, resume=tmp_path)
    assert layer_of(whole.final)["delay_width"] == 0
    jax.tree.map(np.testing.assert_array_equal, whole.final, resumed.final)
    moved = layer_of(whole.final)["delay"] - layer.delay[...]
    assert np.abs(moved).mean() > 0.01

    program = program_of(EXPERIMENT, data)
    members = {"seed": np.array([0, 1])}
    result = fit_ensemble(program, members, data.splits, epochs=4, dt=4e-3, placement="vmap")
    ensemble = layer_of(result.final)
    np.testing.assert_array_equal(ensemble["delay_width"], [0, 0])
    assert np.abs(ensemble["delay"][0] - ensemble["delay"][1]).mean() > 0.1
    for name in ("delay", "recurrent_delay", "kernel"):
        alone = layer_of(whole.final)[name]
        np.testing.assert_allclose(ensemble[name][0], alone, rtol=1e-2, atol=1e-3)


def test_options_become_delays_of_the_hidden_layers():
    inputs = Inputs(20, num_classes=3, nu=5.0, duration=0.2, samples=240)
    network = build_network(EXPERIMENT.replace(hidden=(16, 8), delay_width=0.012), inputs)
    for layer in network.layers[:2]:
        delays = layer.delays
        assert (delays.max_delay, delays.per, round(float(delays.width(0)), 6)) == (
            0.04,
            "connection",
            0.012,
        )
        assert [round(float(delays.width(k)), 6) for k in (10, 20, 30)] == [0.006, 0, 0]
    assert network.layers[2].delays is None
    plain = EXPERIMENT.replace(max_delay=None)
    assert build_network(plain, inputs).layers[0].delays is None
    assert not {"delays", "delay_width"} & plain.options().keys()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"max_delay must be finite and > 0 s, got -1.0"):
        EXPERIMENT.replace(max_delay=-1.0)
    with pytest.raises(ValueError, match=r"max_delay must be at most the duration .* got 10 s"):
        EXPERIMENT.replace(max_delay=10.0)
    with pytest.raises(ValueError, match="delay_width has no effect, because max_delay is None"):
        EXPERIMENT.replace(max_delay=None, delay_width=0.1)
    with pytest.raises(ValueError, match="delays must be 'unit' with Dale's law"):
        EXPERIMENT.replace(model="dalian")
    short = dataclasses.replace(EXPERIMENT.network, max_delay=1e-3)
    with pytest.raises(ValueError, match=r"max_delay must be at least the time step dt = 0.004 s"):
        build_network(
            dataclasses.replace(EXPERIMENT, network=short),
            Inputs(20, num_classes=3, nu=5.0, duration=0.2),
        )
