import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from snnjax.experiments import Experiment, load_run, run
from snnjax.experiments._load import as_json, load_experiment
from snnjax.experiments._run import prepare
from snnjax.training._run_folder import RunFolder

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
    RunFolder(tmp_path / "run").write_json("config", as_json(experiment))
    assert load_experiment(tmp_path / "run") == experiment


@pytest.mark.slow
def test_saved_run_comes_back(tmp_path):
    folder = tmp_path / "run"
    finished = run(SMALL, folder)
    assert load_experiment(folder) == SMALL
    assert json.loads((folder / "results.json").read_text())["nu"] == pytest.approx(5.0)
    for which, expected in (
        ("final", finished.fit.final), ("best", finished.fit.best), ("initial", nnx.state(prepare(SMALL).network, nnx.Param)),
    ):  # fmt: skip
        loaded = nnx.state(load_run(folder, parameters=which).network, nnx.Param)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_experiment(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_json(SMALL)))
    with pytest.raises(FileNotFoundError, match=r"final\.npz"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_json(SMALL) | {"tau_mem": "long"}))
    with pytest.raises(ValueError, match=r"config\.json: tau_mem must be a real number"):
        load_experiment(tmp_path)
    with pytest.raises(ValueError, match="parameters must be one of 'final', 'best', 'initial'"):
        load_run(tmp_path, parameters="last")
