import dataclasses

import jax
import numpy as np
import pytest
from _support import require

from benchmarks import kill_sweep
from snnjax.datasets import Stream
from snnjax.datasets._dvs_gesture import DVSGesture
from snnjax.experiments import Experiment, Sweep, load_run, run, run_sweep
from snnjax.experiments._run import prepare

SMALL = {
    "start": "paper",
    "model": "csnn", "depth": 2, "downsample": 16, "duration": 0.1, "batch_size": 4, "shard_size": 8, "valid_users": (3,), "epochs": 3, "learning_rate": 0.01,
    "augment_drop": 0.1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, rng):
    """Two classes in the layout of the prepared arrays: hands on the left or right, 0.3 s."""
    for split, users in (("Train", range(1, 8)), ("Test", range(24, 27))):
        for user in users:
            where = tmp_path / f"ibmGesture{split}" / f"user{user:02d}_led"
            where.mkdir(parents=True)
            for label in (0, 1):
                n = 3000
                columns = (
                    rng.integers(0, 64, n) + 64 * label,
                    rng.integers(0, 128, n),
                    rng.integers(0, 2, n),
                    np.sort(rng.uniform(0, 300, n)),
                )
                np.save(where / f"{label}.npy", np.stack(columns, axis=1))
    return tmp_path


def test_sets_are_split_by_user(folder):
    train, valid, test = Experiment.from_options("dvs-gesture", data=folder, **SMALL).datasets()
    assert isinstance(train, Stream)
    assert sorted(set(train.recordings.users)) == [1, 2, 4, 5, 6, 7]
    assert set(valid.groups) == {3}
    assert set(test.groups) == {24, 25, 26}
    assert (train.shard_size, train.n_shards, len(train)) == (4, 3, 12)  # and not 8 of 12
    assert (valid.num_units, valid.duration) == (128, 0.1)
    streamed = Experiment.from_options("dvs-gesture", data=folder, **SMALL)
    held, _, _ = streamed.replace(stream=False).datasets()
    whole = DVSGesture(folder, "train", downsample=16)
    expected = whole.subset(whole.users != 3).load(duration=0.1)
    np.testing.assert_array_equal(held.times, expected.times)
    np.testing.assert_array_equal(held.units, expected.units)


@pytest.mark.more
def test_network_sees_the_sensor(folder):
    require("grain")
    prepared = prepare(
        Experiment.from_options("dvs-gesture", data=folder, init="data_driven_balanced", **SMALL)
    )
    x, _ = prepared.data.sample.batch(np.arange(4))
    readout, activity = jax.jit(lambda n, x: n(x))(prepared.network, x)
    # 3 x 3 with padding 2: two more positions per layer
    assert [z.shape[2:] for z in activity.spikes] == [(10, 10, 16), (12, 12, 16)]
    assert readout.shape == (50, 4, 11)
    np.testing.assert_allclose(
        prepared.data.inputs.nu, 3000 / 0.3 / 128, rtol=0.05
    )  # before a tenth is dropped


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_training_learns_the_side(folder, tmp_path, stream):
    if stream:
        require("grain")
    options = SMALL | {"epochs": 6}
    if not stream:
        del options["shard_size"]
    experiment = Experiment.from_options("dvs-gesture", data=folder, stream=stream, **options)
    finished = run(experiment, tmp_path / "run")
    assert (
        finished.summary["test_accuracy_final"] >= 5 / 6
    )  # six gestures of people who are not in the training data; chance 1/11
    again = load_run(tmp_path / "run")
    x, _ = again.data.splits.test.batch(np.arange(4))
    np.testing.assert_allclose(again.network(x)[0], finished.network(x)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "csnn3"}, "depth must be one of 2, 4, 6, 8, got 3"),
        ({"model": "dalian"}, "model must be 'dense' or 'csnn' for inputs on a plane"),
        (
            {"augment_shift": 2},
            "augment_shift is an option of task 'randman' or 'shd' or 'ssc', got task",
        ),
        ({"downsample": 3}, "downsample must be one of"),
        ({"augment_insert": 0.1}, "augment_insert must be 0 for streamed data"),
        ({"valid_users": ()}, "valid_users must have at least one user"),
        ({"crop": "end"}, "crop must be one of 'random', 'start'"),
        ({"padding": -1}, "padding must be"),
        (
            {"shard_size": 9, "batch_size": 4},
            "shard_size must be a multiple of batch_size 4, got 9",
        ),
    ],
)
def test_wrong_settings(options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        Experiment.from_options("dvs-gesture", data=tmp_path, **options)


def test_users_that_are_not_there(folder):
    experiment = Experiment.from_options("dvs-gesture", data=folder, **SMALL)
    with pytest.raises(ValueError, match="valid_users must be some but not all of the users"):
        experiment.replace(valid_users=(99,)).datasets()


@pytest.mark.slow
def test_streamed_members_of_a_sweep_train_one_by_one(folder, tmp_path):
    """Interrupted in the second member and resumed, the numbers are those without interruption."""
    require("grain")
    options = SMALL | {"epochs": 2, "duration": 0.05}
    base = Experiment.from_options("dvs-gesture", data=folder, **options)
    sweep = Sweep(base=base, over={"learning_rate": (0.01, 0.02)}, seeds=1)
    whole = run_sweep(sweep, tmp_path / "whole", figure=False)
    assert [row["epochs"] for row in whole.rows] == [2, 2]
    alone = run(base.replace(learning_rate=0.02)).summary
    assert whole.rows[1]["test_accuracy_final"] == alone["test_accuracy_final"]

    calls = []

    def interrupt(snapshot, finished, size):
        calls.append(snapshot.epoch)
        assert snapshot.history["valid_accuracy"].shape == (1, snapshot.epoch + 1)
        assert (finished, size) == (len(calls) > 3, 1)
        # after the first epoch of the second member
        if len(calls) == 5:
            raise KeyboardInterrupt

    options = {"figure": False, "on_epoch": [interrupt]}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "cut", **options)
    cut = run_sweep(sweep, tmp_path / "cut", resume=True, **options)
    assert kill_sweep.differences(tmp_path / "whole", tmp_path / "cut") == []
    # the first member is not trained again, and the second one continues after its first epoch
    assert calls == [0, 1, 2, 0, 1, 2]
    assert cut.rows == whole.rows
    with pytest.raises(ValueError, match="patience and order have no effect on streamed data"):
        run_sweep(dataclasses.replace(sweep, patience=1), tmp_path / "new")
