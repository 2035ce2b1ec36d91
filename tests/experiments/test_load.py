import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from snnjax._files import as_dict
from snnjax.experiments import RandmanConfig, SHDConfig, load_run, run
from snnjax.experiments._run import prepare
from snnjax.experiments.load import load_config
from snnjax.training._run_folder import RunFolder

SMALL = RandmanConfig(
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
    "config",
    [
        SMALL,
        SHDConfig(
            data=Path("some/folder"), valid_speakers=(1, 2), out=Path("there"), tau_readout=0.3
        ),
    ],
)
def test_configuration_round_trip(config, tmp_path):
    RunFolder(tmp_path / "run").write_json("config", as_dict(config))
    assert load_config(tmp_path / "run") == config


@pytest.mark.slow
def test_saved_run_comes_back(tmp_path):
    folder = RunFolder(tmp_path / "run")
    finished = run(SMALL, folder=folder)
    loaded = load_config(folder.path)
    assert loaded.nu == pytest.approx(5.0)
    assert loaded == dataclasses.replace(SMALL, nu=loaded.nu)
    for which, expected in (
        ("final", finished.fit.final), ("best", finished.fit.best), ("initial", nnx.state(prepare(SMALL).network, nnx.Param)),
    ):  # fmt: skip
        loaded = nnx.state(load_run(folder.path, parameters=which).network, nnx.Param)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_dict(SMALL)))
    with pytest.raises(FileNotFoundError, match=r"final\.npz"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_dict(SMALL) | {"tau_mem": "long"}))
    with pytest.raises(ValueError, match=r"config\.json: tau_mem must be a real number"):
        load_config(tmp_path)
    with pytest.raises(ValueError, match="parameters must be one of 'final', 'best', 'initial'"):
        load_run(tmp_path, parameters="last")
