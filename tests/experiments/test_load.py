import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from snnjax.experiments import Experiment, Sweep, load_run, run, run_sweep
from snnjax.experiments._run import prepare
from snnjax.experiments._sweep import load_sweep
from snnjax.experiments._sweep_folder import member_folder, open_folder

SMALL = Experiment.from_options(
    "randman",
    classes=3,
    inputs=6,
    samples=40,
    hidden=(24, 12),
    epochs=2,
    batch_size=16,
    learning_rate=1e-2,
    learn_tau=True,
)


@pytest.mark.parametrize(
    "experiment",
    [
        SMALL,
        SMALL.replace(init="lsuv", lsuv_rate=5.0, gradient="none", beta=3.0),
        SMALL.replace(model="dalian_csnn7", recurrent=True, init="lognormal", alpha=0.5),
        Experiment.from_options(
            "shd", data=Path("some/folder"), valid_speakers=(1, 2), tau_readout=0.3
        ),
    ],
)
def test_options_come_back_from_json(experiment, tmp_path):
    sweep = Sweep(base=experiment, seeds=None)
    open_folder(tmp_path, sweep.options(), sweep.members())
    assert load_sweep(tmp_path) == sweep


@pytest.mark.slow
def test_saved_run_comes_back(tmp_path):
    folder = tmp_path / "run"
    finished = run(SMALL, folder)
    assert load_sweep(folder).base == SMALL
    assert json.loads((folder / "results.json").read_text())["nu"] == pytest.approx(5.0)
    for which, expected in (
        ("final", finished.fit.final), ("best", finished.fit.best), ("initial", nnx.state(prepare(SMALL).network, nnx.Param)),
    ):  # fmt: skip
        loaded = nnx.state(load_run(folder, parameters=which).network, nnx.Param)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_run(tmp_path)
    saved = SMALL.options() | {"members": [{}]}
    for content, error, match in (
        (saved, FileNotFoundError, r"final\.npz"),
        (saved | {"tau_mem": "long"}, ValueError, r"config\.json: tau_mem must be a real number"),
        (saved | {"members": {}}, ValueError, r"no list of members: .* an earlier version"),
        (SMALL.options(), ValueError, r"no list of members: .* an earlier version"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(error, match=match):
            load_run(tmp_path)
    with pytest.raises(ValueError, match="parameters must be one of 'final', 'best', 'initial'"):
        load_run(tmp_path, parameters="last")


def test_the_folder_of_a_run_may_lie_in_one_called_members(tmp_path):
    folder = tmp_path / "members" / "run"
    folder.mkdir(parents=True)
    sweep = Sweep(base=SMALL, seeds=None)
    open_folder(folder, sweep.options(), sweep.members())
    with pytest.raises(FileNotFoundError, match=r"members/run/final\.npz"):
        load_run(folder)


@pytest.mark.slow
def test_a_member_of_a_sweep_comes_back_like_a_run(tmp_path):
    sweep = Sweep(base=SMALL.replace(epochs=1), over={"sigma_u": (0.5, 1.0)}, seeds=(3,))
    rows = run_sweep(sweep, tmp_path, figure=False).rows
    for member, row in zip(sweep.members(), rows, strict=True):
        loaded = load_run(member_folder(tmp_path, member))
        assert loaded.experiment == SMALL.replace(epochs=1, **member)
        test = loaded.data.splits.test
        x, labels = test.batch(np.arange(len(test)))
        right = loaded.network(x)[0].max(axis=0).argmax(axis=-1) == labels
        assert float(right.mean()) == pytest.approx(row["test_accuracy_final"])
    with pytest.raises(ValueError, match=r"name one, for example .*members/seed=3,sigma_u=0\.5"):
        load_run(tmp_path)
