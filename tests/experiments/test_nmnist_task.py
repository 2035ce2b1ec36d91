import zipfile

import jax
import numpy as np
import pytest
from _support import data_path

from snnjax.experiments import Experiment, MissingDataError, run
from snnjax.experiments._build import Inputs, build_network
from snnjax.experiments._run import prepare


@pytest.fixture
def folder(tmp_path, rng):
    """Zeros in the upper half of the image, ones in the lower half: 200 events each, over 0.1 s."""
    for name, per_digit, first in (("Train", 20, 1), ("Test", 6, 60_001)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for k in range(2 * per_digit):
                digit, n = k % 2, 200
                x, y, p = (
                    rng.integers(0, 34, n),
                    rng.integers(0, 17, n) + 17 * digit,
                    rng.integers(0, 2, n),
                )
                t = np.sort(rng.integers(0, 100_000, n))
                events = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1)
                content = events.astype(np.uint8).tobytes()
                archive.writestr(f"{name}/{digit}/{first + k:05d}.bin", content)
    return tmp_path


@pytest.mark.more
def test_sets_and_the_plane_that_the_network_sees(folder):
    experiment = Experiment.from_options(
        "nmnist",
        data=folder,
        model="csnn2",
        downsample=4,
        duration=0.1,
        valid_fraction=0.25,
        init="data_driven",
        batch_size=30,
    )
    train, valid, test = experiment.datasets()
    assert [np.bincount(part.labels).tolist() for part in (train, valid, test)] == [
        [15, 15],
        [5, 5],
        [6, 6],
    ]
    assert not set(train.groups) & set(valid.groups)
    assert (test.groups > 60_000).all()
    other, _, _ = experiment.replace(data_seed=1).datasets()
    assert set(other.groups) != set(train.groups)

    prepared = prepare(experiment, (train, valid, test))
    np.testing.assert_allclose(prepared.data.inputs.nu, 200 / 0.1 / (9 * 9 * 2), rtol=1e-6)
    x, labels = prepared.data.splits.train.batch(np.arange(30))
    assert x.shape == (20, 30, 162)
    # zeros are in rows 0 to 16, ones in 17 to 33
    rows = np.asarray(x).sum(axis=0).reshape(30, 9, 9, 2).sum(axis=(2, 3))
    np.testing.assert_array_equal(rows[:, :4].sum(axis=1) > rows[:, 5:].sum(axis=1), labels == 0)
    readout, activity = jax.jit(lambda n, x: n(x))(prepared.network, x[:, :2])
    assert [z.shape[2:] for z in activity.spikes] == [
        (9, 9, 16),
        (9, 9, 16),
    ]  # padding keeps the size
    assert readout.shape == (20, 2, 10)


@pytest.mark.more
def test_training_learns_real_recordings(tmp_path):
    """A part of the archives, to limit the time: zeros and ones, which are easy to distinguish."""
    source, part = data_path("nmnist"), tmp_path / "part"
    part.mkdir()
    for name, n in (("Train", 32), ("Test", 10)):
        with (
            zipfile.ZipFile(source / f"{name}.zip") as whole,
            zipfile.ZipFile(part / f"{name}.zip", "w") as some,
        ):
            digits = f"{name}/0/", f"{name}/1/"
            for member in [member for member in whole.namelist() if member.startswith(digits)][:n]:
                some.writestr(member, whole.read(member))
    experiment = Experiment.from_options(
        "nmnist",
        start="paper",
        data=part,
        model="csnn2",
        downsample=4,
        dt=0.01,
        epochs=4,
        batch_size=8,
        learning_rate=0.02,
        valid_fraction=0.25,
    )
    finished = run(experiment)
    losses = [row["train_loss"] for row in finished.fit.history]
    assert losses[-1] < 0.6 * losses[0]


DEPTHS = [("csnn4", 1), ("csnn6", 2), ("csnn8", 1), ("csnn8", 2)]


@pytest.mark.parametrize(("model", "downsample"), DEPTHS)
def test_every_depth_fits_on_the_plane(folder, model, downsample):
    experiment = Experiment.from_options("nmnist", data=folder, model=model, downsample=downsample)
    image = experiment.task.sensor
    inputs = Inputs(int(np.prod(image)), num_classes=10, nu=6.0, duration=0.3, image=image)
    network = build_network(experiment, inputs)
    assert sum(layer.spiking for layer in network.layers) == int(model[-1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "csnn3"}, "depth must be one of 2, 4, 6, 8, got 3"),
        ({"downsample": 0}, "downsample must be >= 1 and <= 34, got 0"),
        ({"duration": 0.005}, "half of duration 0.005 s"),
        ({"padding": -1}, "padding must be >= 0, got -1"),
        ({"valid_fraction": 1.0}, "valid_fraction must be finite and > 0 and < 1"),
        ({"data_seed": -1}, "data_seed must be >= 0"),
        (
            {"augment_shift": 2},
            "augment_shift is an option of task 'randman' or 'shd' or 'ssc', got task",
        ),
        ({"augment_unit_jitter": 1.0}, "augment_unit_jitter is an option of task 'randman' or"),
    ],
)
def test_wrong_settings(options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        Experiment.from_options("nmnist", data=tmp_path, **options)


def test_archives_that_are_not_there(tmp_path):
    with pytest.raises(MissingDataError, match=r"needs Train\.zip or Train in the folder data"):
        run(Experiment.from_options("nmnist", data=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
