import csv
import functools
import json
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from _support import data_path
from flax import nnx

from snnjax import surrogate
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF, AdLIF, Leaky, simulate
from snnjax.experiments import Experiment, _run, load_run, run
from snnjax.experiments._build import (
    Inputs,
    build_network,
    build_objective,
    build_optimizer,
    build_spike,
    learning_rate,
)
from snnjax.experiments._data import spread
from snnjax.experiments._parts import Surrogate
from snnjax.experiments._run import prepare
from snnjax.training import TrainingDivergedError
from snnjax.training._params import load_params

SMALL = Experiment.from_options(
    "randman",
    start="paper",
    classes=3,
    inputs=6,
    samples=40,
    hidden=(24,),
    epochs=3,
    batch_size=16,
    learning_rate=1e-2,
)


def test_network_follows_the_experiment():
    experiment = Experiment.from_options(
        "randman",
        hidden=(64, 32),
        recurrent=True,
        tau_mem=15e-3,
        learn_tau=True,
        sigma_u=0.5,
        beta=10.0,
        init="fluctuation_driven",
        gradient="scale",
    )
    network = build_network(experiment, Inputs(20, num_classes=7, nu=5.0, duration=0.3))
    assert [(layer.in_features, layer.out_features, layer.recurrent) for layer in network.layers] == [
        (20, 64, True), (64, 32, True), (32, 7, False),
    ]  # fmt: skip
    np.testing.assert_allclose(network.layers[0].neuron.tau_mem, 15e-3, rtol=1e-6)
    # the scale is 1 until it is calibrated
    np.testing.assert_array_equal(network.layers[0].steepness[...], [10.0, 1.0])
    assert network.layers[-1].neuron.tau_mem == 0.3
    # sigma_w = sigma_u sqrt(alpha / (n nu ehat)), ehat for tau_mem = 15 ms, tau_syn = 10 ms, dt = 2 ms
    lm, ls = np.exp(-2 / 15), np.exp(-2 / 10)
    ehat = 2e-3 * (1 - lm) * (1 + lm * ls) / ((1 + lm) * (1 - ls**2) * (1 - lm * ls))
    np.testing.assert_allclose(
        network.layers[0].kernel[...].std(), 0.5 * np.sqrt(0.9 / (20 * 5.0 * ehat)), rtol=0.05
    )


@pytest.mark.parametrize(
    ("init", "expected"),
    # 1 / sqrt(100); micheli 1 / sqrt(100 inputs * 5 Hz * 2 ms); ikun sqrt((beta + 1) / 100), beta 20 by default
    [("kaiming", 0.1), ("lecun", 0.1), ("micheli", 1.0), ("ikun", 0.21**0.5)],
)
def test_other_initializations(init, expected):
    experiment = Experiment.from_options("randman", init=init, hidden=(400,))
    network = build_network(experiment, Inputs(100, num_classes=7, nu=5.0, duration=0.3))
    np.testing.assert_allclose(network.layers[0].kernel[...].std(), expected, rtol=0.03)


@pytest.mark.parametrize("init", ["data_driven", "data_driven_balanced"])
def test_data_driven_initialization_is_on_target_before_training(init, monkeypatch):
    seen = {}

    def stop(network, splits, *_, **__):
        x, _ = splits.train.batch(jax.numpy.arange(len(splits.train)))
        seen["u"] = simulate(
            LIF(theta=1e30), x @ network.layers[0].kernel[...], membrane=True
        ).membrane
        seen["w"] = np.asarray(network.layers[0].kernel[...])
        raise KeyboardInterrupt

    monkeypatch.setattr("snnjax.experiments._run.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL.replace(init=init, hidden=(2000,), sigma_u=0.6))
    np.testing.assert_allclose(np.sqrt(seen["u"].var(axis=0).mean()), 0.6, rtol=0.05)
    assert (np.abs(seen["w"].sum(axis=0)).max() < 1e-4) == (init == "data_driven_balanced")


@pytest.mark.slow
def test_lsuv_fires_at_its_rate_before_training():
    history = run(
        SMALL.replace(init="lsuv", lsuv_rate=20.0, hidden=(100, 100), epochs=1)
    ).fit.history
    np.testing.assert_allclose([history[0][f"rate_{k}"] for k in (1, 2)], 20.0, rtol=0.1)


def test_regularizers_are_rates_times_duration():
    upper, lower = build_objective(SMALL.replace(lower_strength=100.0), duration=0.7).regularizers
    assert (upper.side, upper.threshold) == ("upper", 7.0)
    assert (lower.side, lower.threshold, lower.strength) == ("lower", 1e-3, 100.0)
    assert (
        build_objective(
            SMALL.replace(upper_strength=0.0, lower_strength=0.0), duration=0.7
        ).regularizers
        == ()
    )


@pytest.mark.parametrize("name", ["smorms3", "adam", "sgd", "muon"])
def test_learning_rate_reaches_the_optimizer(name):
    optimizer = build_optimizer(SMALL.replace(optimizer=name, learning_rate=1e-3))
    w = np.ones(2, np.float32)
    updates, _ = optimizer.update(np.array([1e-3, -1e-3], np.float32), optimizer.init(w))
    # at the first step, SMORMS3's effective step is lr |g| / sqrt(g2) = lr sqrt(2)
    expected = {"sgd": 1e-6, "adam": 1e-3, "smorms3": np.sqrt(2) * 1e-3, "muon": 1e-3}[name]
    np.testing.assert_allclose(updates, [-expected, expected], rtol=1e-3)


@pytest.mark.more
def test_run_folder_is_complete_and_consistent(tmp_path, monkeypatch):
    folder, draw = tmp_path / "run", _run._draw

    def draws(place, *others):  # an error here must not lose the parameters
        load_params(others[1].final, place / "final.npz")
        draw(place, *others)

    monkeypatch.setattr(_run, "_draw", draws)
    finished = run(SMALL, folder)
    names = {p.name for p in folder.iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "metrics.csv",
        "results.csv",
        "results.json",
        "final.npz",
        "best.npz",
        "learning_curves.png",
        "activity.png",
    }
    saved = json.loads((folder / "config.json").read_text())
    assert saved.pop("versions").keys() == {"snnjax", "jax"}
    of_sweep = {"members": [{}], "patience": None, "order": "member"}
    assert saved == SMALL.options() | {"hidden": [24]} | of_sweep
    assert (saved["task"], saved["epochs"], saved["nu"]) == ("randman", 3, None)
    with (folder / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [int(r["epoch"]) for r in rows] == [0, 1, 2, 3]
    assert float(rows[-1]["valid_accuracy"]) == finished.summary["valid_accuracy"]
    results = json.loads((folder / "results.json").read_text())
    np.testing.assert_allclose(results["nu"], 5.0)  # one spike per unit in 0.2 s, measured
    assert results["test_accuracy_final"] == finished.summary["test_accuracy_final"]
    loaded = load_params(nnx.state(finished.network, nnx.Param), folder / "final.npz")
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(finished.fit.final), strict=True):
        np.testing.assert_array_equal(a, b)
    for figure in ("learning_curves.png", "activity.png"):
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")


def test_same_experiment_same_numbers():
    first, second = (run(SMALL).summary for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_mean_square_is_trained_on():
    summary = run(SMALL.replace(loss="mean_square")).fit.history
    # a readout near 0 is 1/3 away from the one-hot target in the mean square
    assert summary[0]["train_loss"] == pytest.approx(1 / 3, rel=0.3)
    assert summary[-1]["train_loss"] < summary[0]["train_loss"]


def test_divergence_is_written_down(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match="not finite at epoch 1"):
        run(SMALL.replace(upper_strength=3e38, upper_rate=0.0), folder)
    results = json.loads((folder / "results.json").read_text())
    assert "not finite at epoch 1" in results["stopped"]
    assert (results["finite"], results["epochs"]) == (False, 0)
    with np.load(folder / "final.npz") as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)


def test_spoken_digits_split_is_stratified_and_by_speaker():
    folder = data_path("shd_format")
    train, valid, test = Experiment.from_options("shd", data=folder).datasets()
    assert (len(train), len(valid), len(test)) == (2160, 240, 300)
    assert np.bincount(valid.labels).tolist() == [24] * 10
    train, valid, _ = Experiment.from_options("shd", data=folder, valid_speakers=(2, 5)).datasets()
    assert set(valid.groups.tolist()) == {2, 5}
    assert set(train.groups.tolist()) == {0, 1, 3, 4}
    with pytest.raises(ValueError, match=r"valid_speakers must be among the speakers \[0, 1, 2"):
        Experiment.from_options("shd", data=folder, valid_speakers=(9,)).datasets()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"hidden": ()}, ValueError, "hidden must have at least one layer"),
        ({"hidden": (0,)}, ValueError, "hidden must be >= 1, got 0"),
        ({"sigma_u": -1.0}, ValueError, "sigma_u must be finite and > 0, got -1.0"),
        ({"mu_u": 1.5}, ValueError, "mu_u must be finite and < 1, got 1.5"),
        ({"alpha": 1.0}, ValueError, "alpha must be"),
        ({"samples": 3}, ValueError, "samples must be >= 10, got 3"),
        ({"dt": float("nan")}, ValueError, "dt must be finite"),
        ({"dt": 0.5}, ValueError, "dt must be at most half of duration 0.2 s, got 0.5 s"),
        ({"init": "Kaiming"}, ValueError, "init must be one of 'data_driven'"),
        ({"loss": "mse"}, ValueError, "loss must be one of"),
        ({"surrogate": "x"}, ValueError, "surrogate must be one of"),
        ({"optimizer": "x"}, ValueError, "optimizer must be one of"),
        ({"recurrent": "no"}, TypeError, "recurrent must be True or False"),
    ],
)
def test_wrong_options(options, error, match):
    with pytest.raises(error, match=match):
        Experiment.from_options("randman", **options)


def test_surrogates_keep_their_own_default():
    build = lambda **options: build_spike(Experiment.from_options("randman", **options).neuron)
    assert build(surrogate="triangular") == surrogate.triangular()
    assert build(surrogate="triangular", beta=0.5) == surrogate.triangular(0.5)
    assert build() == surrogate.superspike(20.0)
    for name in get_args(Surrogate):
        assert isinstance(build(surrogate=name), surrogate.SpikeFunction)


def test_missing_data_folder():
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        run(Experiment.from_options("shd", data=Path("nowhere")))


def test_the_start_says_what_flags_leave_open():
    build = functools.partial(Experiment.from_options, "randman", hidden=(8, 8))
    ours, papers = build(), build(start="paper")
    names = ("gradient", "init", "optimizer", "learning_rate", "schedule", "lower_strength")
    seen = lambda experiment: tuple(experiment.options()[name] for name in names)
    assert seen(ours) == ("steepness", "data_driven", "muon", 0.015, "warmup_cosine", 0.0)
    assert seen(papers) == ("none", "fluctuation_driven", "smorms3", 0.005, "constant", 100.0)
    assert build(start="paper", gradient="scale", learning_rate=1.0).optimizer.learning_rate == 1.0
    with pytest.raises(ValueError, match="start must be one of"):
        build(start="kaiming")


@pytest.mark.more
def test_the_calibrated_start_levels_the_gradient_and_the_run_folder_keeps_it(tmp_path):
    experiment = Experiment.from_options(
        "randman", classes=3, inputs=6, samples=40, hidden=(32,), depth=3, epochs=1, batch_size=16
    )
    folder = tmp_path / "run"
    finished = run(experiment, folder)
    steepness = [float(layer.steepness[0]) for layer in finished.network.layers[:-1]]
    for parameters in ("initial", "final"):
        back = load_run(folder, parameters=parameters)
        np.testing.assert_allclose(
            [float(layer.steepness[0]) for layer in back.network.layers[:-1]], steepness, rtol=1e-3
        )
    start = load_run(folder, parameters="initial")
    x, labels = start.data.sample.batch(spread(start.data.sample, 64))
    gains = [p.gain for p in probe(start.network, x, labels).layers[1:]]
    np.testing.assert_allclose(gains, 1.0, atol=0.15)


def test_schedules():
    experiment = SMALL.replace(learning_rate=0.1)
    assert learning_rate(experiment, 100) == 0.1
    cosine = learning_rate(experiment.replace(schedule="cosine"), 100)
    expected = [0.05 * (1 + np.cos(np.pi * t / 101)) for t in range(100)]
    np.testing.assert_allclose([cosine(t) for t in range(100)], expected, rtol=1e-5)
    warm = learning_rate(experiment.replace(schedule="warmup_cosine"), 100)
    values = np.array([warm(t) for t in range(100)])
    assert values.argmax() == 10
    assert values[10] == pytest.approx(0.1)
    assert (np.diff(values[:11]) > 0).all()
    assert values[0] > 0
    assert (np.diff(values[10:]) < 0).all()


def test_a_target_out_of_reach_is_an_error():
    with pytest.raises(
        ValueError,
        match=r"data_driven cannot bring layer 1 to mu_u = 0\.9, sigma_u = 0\.01 on these data",
    ):
        run(SMALL.replace(init="data_driven", mu_u=0.9, sigma_u=0.01))
    with pytest.raises(ValueError, match=r"lower_strength must be > 0 for priming_epochs"):
        SMALL.replace(priming_epochs=2, lower_strength=0.0)


@pytest.mark.parametrize(
    ("task", "splits", "sizes"),
    [("shd", ("train", "test"), [270, 30, 300]), ("ssc", ("train", "valid", "test"), [300] * 3)],
)
def test_spoken_words_are_fetched_once_if_missing(tmp_path, monkeypatch, task, splits, sizes):
    source, calls = data_path("shd_format"), []

    def fetch(folder, *, collection):
        calls.append(collection)
        for split in splits:
            (folder / f"{task}_{split}.h5").symlink_to(source / "fsdd_test.h5")

    monkeypatch.setattr("snnjax.datasets.download_shd", fetch)
    experiment = Experiment.from_options(task, data=tmp_path, download=True)
    assert [len(part) for part in experiment.datasets()] == sizes
    experiment.datasets()
    assert calls == [task]
    with pytest.raises(TypeError, match="download must be True or False, got 1"):
        Experiment.from_options(task, data=tmp_path, download=1)


def test_a_batch_above_the_training_set_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="batch_size must be at most the size of the training set, 96, got 97"
    ):
        run(SMALL.replace(batch_size=97), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_run_without_interruption(tmp_path):
    experiment = SMALL.replace(epochs=41)  # checkpoints after every second epoch, and the last one

    def interrupt(row):
        if row["epoch"] == 7:
            raise KeyboardInterrupt

    whole = run(experiment, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run(experiment, folder, callbacks=[interrupt])
    assert "stopped" in json.loads((folder / "results.json").read_text())
    with pytest.raises(FileExistsError, match="has a run or a sweep; continue it with resume"):
        run(experiment, folder)
    match = r"has another experiment; it differs in tau_mem \(0.02, got 0.03\), epochs"
    with pytest.raises(ValueError, match=match):
        run(experiment.replace(epochs=3, tau_mem=0.03), folder, resume=True)
    resumed = run(experiment, folder, resume=True)
    for which in ("final", "best"):
        leaves = [jax.tree.leaves(getattr(done.fit, which)) for done in (resumed, whole)]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "whole").iterdir())
    files = {}
    for name in ("cut", "whole"):
        with (tmp_path / name / "metrics.csv").open() as f:
            rows = list(csv.DictReader(f))
        results = json.loads((tmp_path / name / "results.json").read_text())
        with (tmp_path / name / "results.csv").open() as f:
            assert [row.keys() for row in csv.DictReader(f)] == [results.keys()]
        for content in (results, *rows):
            del content["seconds"]
        files[name] = ((tmp_path / name / "config.json").read_text(), results, rows)
    assert files["cut"] == files["whole"]
    assert len(rows) == 42  # with epoch 0, before training
    with pytest.raises(ValueError, match="is finished; name another folder for a new run"):
        run(experiment, folder, resume=True, datasets=())  # which are not read


def test_neurons_follow_the_experiment():
    options = {"tau_mem": 15e-3, "spread": 0.6, "dt": 1e-3}
    inputs = Inputs(20, num_classes=7, nu=5.0, duration=0.3)
    build = lambda **more: build_network(
        Experiment.from_options("randman", **options, **more), inputs
    )
    leaky = build(neuron="leaky").layers[0]
    assert type(leaky.neuron) is Leaky
    adaptive = build(neuron="adlif", tau_w=0.2, a=0.5, learn_tau=True, learn_adaptation=True)
    layer, names = adaptive.layers[0], ("tau_mem", "tau_w", "a", "b")
    assert type(layer.neuron) is AdLIF
    assert (set(layer.log_tau), set(layer.free), set(layer.drawn)) == (
        {"tau_mem", "tau_w"}, {"a", "b"}, set()
    )  # fmt: skip
    for name, value in zip(names, (15e-3, 0.2, 0.5, 1.0), strict=True):
        found = np.asarray(layer.neuron.parameters()[name])
        assert (found >= 0.4 * value * (1 - 1e-5)).all()
        assert (found <= 1.6 * value * (1 + 1e-5)).all()
        assert found.std() > 0.2 * value  # 1.2 / sqrt(12) = 0.35
    image = inputs._replace(sensory=True)
    experiment = Experiment.from_options(
        "digits", neuron="adlif", spread=0.6, model="dense", dt=1e-3
    )
    sensory = build_network(experiment, image).layers[1]
    assert sensory.neuron == LIF(dt=1e-3, spike=sensory.neuron.spike)
    with pytest.raises(ValueError, match="neuron of model 'dalian' must be one of 'lif', got 'le"):
        Experiment.from_options("randman", model="dalian", neuron="leaky")


@pytest.mark.more
def test_a_run_of_adaptive_neurons_is_saved_and_learns_within_the_ranges(tmp_path):
    options = {"neuron": "adlif", "spread": 0.6, "learn_tau": True, "learn_adaptation": True}
    experiment = Experiment.from_options(
        "randman", classes=3, samples=60, hidden=(32,), recurrent=True, epochs=30, batch_size=16,
        learning_rate=0.05, dt=2e-3, tau_mem=20e-3, tau_w=0.2, a=0.3, b=0.3, optimizer="adam", **options
    )  # fmt: skip
    finished = run(experiment, tmp_path / "run")
    assert finished.fit.history[-1]["train_accuracy"] > 0.8  # chance is 1/3
    layer = finished.network.layers[0]
    start = prepare(experiment).network.layers[0]
    for name in ("tau_mem", "tau_w", "a", "b"):
        low, high = layer.neuron.trained_ranges()[name]
        value, before = (np.asarray(of.neuron.parameters()[name]) for of in (layer, start))
        assert ((value > low) & (value < high) & (value != before)).all()
    loaded = load_run(tmp_path / "run", parameters="final").network.layers[0]
    for name in ("tau_mem", "a"):
        values = (of.neuron.parameters()[name] for of in (loaded, layer))
        np.testing.assert_array_equal(*values)
