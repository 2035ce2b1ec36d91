import json

import numpy as np
import pytest
from _support import data_path

from snnjax.datasets import ImageDataset, Splits
from snnjax.experiments import Experiment, load_run, run
from snnjax.experiments._data import sensory_spikes
from snnjax.experiments._run import prepare
from snnjax.experiments._tasks import Digits


@pytest.fixture
def sets(rng):
    """Two classes: a bright left or a bright right half."""
    labels = np.arange(60) % 2
    images = (
        rng.normal(size=(60, 8, 8, 1))
        + 2 * (labels[:, None] == (np.arange(8) >= 4))[:, None, :, None]
    )
    data = ImageDataset(images=images.astype(np.float32), labels=labels, num_classes=2)
    return data.split((0.6, 0.2, 0.2), seed=0)


@pytest.mark.more
def test_nu_is_the_measured_rate_of_the_sensory_neurons(sets):
    prepared = prepare(Experiment.from_options("digits", duration=0.1, batch_size=12), sets)
    x, _ = prepared.data.splits.train.batch(np.arange(36))
    spikes = sensory_spikes(prepared.network, x)
    np.testing.assert_allclose(prepared.data.inputs.nu, float(spikes.mean()) / 2e-3, rtol=1e-6)
    assert 5 < prepared.data.inputs.nu < 60
    assert spikes.shape == (50, 36, 8, 8, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "csnn2"},
        {"model": "dense", "hidden": (40,), "init": "data_driven_balanced", "dropout": 0.1},
    ],
)
@pytest.mark.slow
def test_training_learns_and_comes_back_from_its_folder(options, sets, tmp_path, monkeypatch):
    experiment = Experiment.from_options(
        "digits", start="paper", duration=0.1, epochs=8, batch_size=6, learning_rate=0.01, **options
    )
    folder = tmp_path / "run"
    finished = run(experiment, folder, datasets=sets)
    assert finished.summary["test_accuracy_final"] >= 0.75  # 12 images, chance 1/2
    monkeypatch.setattr(Digits, "datasets", lambda self, experiment: Splits(*sets))
    again = load_run(folder)
    x, _ = again.data.splits.test.batch(np.arange(4))
    np.testing.assert_allclose(again.network(x)[0], finished.network(x)[0], rtol=1e-5)
    assert json.loads((folder / "config.json").read_text())["task"] == "digits"
    assert (folder / "activity.png").exists()


def test_digits_are_split_without_overlap():
    train, valid, test = Experiment.from_options("digits").datasets()
    assert (len(train), len(valid), len(test)) == (1294, 144, 359)
    train, valid, test = Experiment.from_options("digits", fraction=0.5).datasets()
    assert (len(train), len(valid), len(test)) == (647, 72, 359)


@pytest.mark.more  # it decodes 12,000 images
def test_cifar10_takes_a_fraction_and_downsamples():
    train, valid, test = Experiment.from_options(
        "cifar10", data=data_path("tfds"), fraction=0.1, downsample=2
    ).datasets()
    assert (len(train), len(valid), len(test), train.images.shape[1:]) == (
        900,
        100,
        2000,
        (16, 16, 3),
    )
    assert np.bincount(train.labels).tolist() == [90] * 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"model": "csnn3"},
            "depth must be one of 2, 4, 6, 8, got 3",
        ),
        (
            {"augment_drop": 0.1},
            "augment_drop is an option of task 'randman' or 'shd' or .*, got task 'digits'",
        ),
        ({"downsample": 0}, "downsample must be"),
        ({"test_fraction": 1.0}, "test_fraction must be"),
        ({"dropout": 1.0}, "dropout must be"),
    ],
)
def test_wrong_settings(options, match):
    with pytest.raises(ValueError, match=match):
        Experiment.from_options("digits", **options)


def test_a_target_that_is_feasible_at_the_measured_rate_is_not_refused_before_it_is_measured(sets):
    """At 1 Hz, no weights of the first layer give mu_u = 0.5 with sigma_u = 0.5.

    At the rate of these images, such weights exist.
    """
    prepared = prepare(
        Experiment.from_options(
            "digits", start="paper", batch_size=12, duration=0.1, sigma_u=0.5, mu_u=0.5
        ),
        sets,
    )
    with pytest.raises(ValueError, match="mu_u"):
        prepare(prepared.experiment.replace(nu=1.0), sets)
