"""The model zoo: what the script writes, and what the repository has."""

import jax.numpy as jnp
import numpy as np
import pytest
from _support import data_path

from benchmarks import models
from benchmarks.studies import read
from snnjax.exchange import load_parameters
from snnjax.experiments import Experiment, load_run
from snnjax.experiments._build import build_network
from snnjax.experiments._data import load, spread
from snnjax.experiments._rows import pick
from snnjax.experiments._sweep import load_sweep

ROWS = read(models.ROWS)
SAVED = sorted(path.parent for path in models.FILES.rglob("final.npz"))
DATA = {"shd": "shd_format/fsdd_test.h5", "nmnist": "nmnist/Test.zip"}
TINY = {
    "task": "randman",
    **{"classes": 2, "samples": 20, "hidden": (8,), "batch_size": 16, "epochs": 2, "dt": 4e-3},
}


def test_every_model_of_the_rows_has_a_file_and_all_files_together_are_small():
    whole = {row["model"] for row in ROWS if not models.MODELS[row["model"]].of}
    assert {path.name for path in SAVED} == whole
    assert sum(path.stat().st_size for path in models.FILES.rglob("*")) <= 1_000_000


@pytest.mark.parametrize("name", models.MODELS)
def test_every_configuration_is_allowed(name):
    model = models.MODELS[name]
    assert Experiment.from_options(**model.options).task.name == model.options["task"]
    assert model.of in ("", *models.MODELS)


@pytest.mark.parametrize("folder", SAVED, ids=lambda path: path.name)
def test_a_saved_model_has_the_options_of_its_configuration(folder):
    saved = load_sweep(folder).base.options()
    own = Experiment.from_options(**models.MODELS[folder.name].options).options()
    assert {**saved, "data": None} == {**own, "data": None}


@pytest.mark.more
@pytest.mark.parametrize("folder", SAVED, ids=lambda path: path.name)
def test_a_saved_model_classifies_test_samples_as_its_row_says(folder, monkeypatch):
    experiment = load_sweep(folder).base
    if experiment.task.name in DATA:
        file = data_path(DATA[experiment.task.name])
        monkeypatch.setenv("SNNJAX_DATA", str(file.parent))
    data = load(experiment)
    network = build_network(experiment, data.inputs)
    load_parameters(folder / "final.npz", network)
    test, (row,) = data.splits.test, pick(ROWS, model=folder.name, seed=0)
    x, labels = test.batch(spread(test, 100))
    readout_fn = models.LOSSES[experiment.objective.loss].readout_fn
    right = float((readout_fn(network(x)[0]).argmax(axis=-1) == labels).mean())
    # four standard errors of a share of 100 samples
    share = row["test_accuracy_saved"]
    assert abs(right - share) <= 4 * np.sqrt(max(share * (1 - share), 0.01) / 100)


@pytest.mark.more
def test_the_script_trains_and_writes_rows_parameters_and_page(tmp_path, monkeypatch):
    """The saved network has the accuracy and the costs of its row. A second call trains nothing."""
    tiny = {
        "tiny": models.Model(TINY | {"max_delay": 0.02}, "two classes", "nothing"),
        "tiny, no delays": models.Model(TINY, "two classes", of="tiny"),
    }
    for name, value in {
        "MODELS": tiny,
        "FILES": tmp_path / "files",
    }.items():
        monkeypatch.setattr(models, name, value)
    rows = [row for name in tiny for row in models.train(name, tmp_path / "sweeps", 2)]
    assert [(row["model"], row["seed"]) for row in rows] == [(n, k) for n in tiny for k in (0, 1)]
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["tiny"]
    weights = 20 * 8 + 8 * 2
    assert [row["parameters"] for row in rows] == [weights + 20, weights + 20, weights, weights]
    assert all(row["seconds"] > 0 for row in rows)

    _, network, data = load_run(tmp_path / "files" / "tiny")
    x, labels = data.splits.test.batch(jnp.arange(len(data.splits.test)))
    readout, activity = network(x)
    right = (readout.max(axis=0).argmax(axis=-1) == labels).mean()
    assert rows[0]["test_accuracy_saved"] == pytest.approx(float(right))
    assert rows[0]["spikes"] == pytest.approx(float(activity.spikes[0].sum() / len(labels)))
    whole = network.layers[0].delay[...] * 5
    np.testing.assert_allclose(whole, jnp.round(whole), atol=1e-6)

    assert "| `tiny` | two classes | 2 |" in models.tables(rows)
    assert "| tiny, no delays | 2 |" in models.tables(rows)
    assert "\nsnnjax train randman --classes 2 " in models.commands()
    assert models.train("tiny", tmp_path / "sweeps", 2) == rows[:2]
