import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training._params import load_params
from snnjax.training._run_folder import RunFolder


def params(seed=0, hidden=4):
    rngs = nnx.Rngs(seed)
    layer = SpikingDense(
        3,
        hidden,
        init=FluctuationDriven(nu=50.0),
        recurrent=True,
        trainable=("tau_mem",),
        rngs=rngs,
    )
    return nnx.state(Sequential(layer, Readout(hidden, 2, rngs=rngs)), nnx.Param)


def test_parameters_round_trip(tmp_path):
    folder = RunFolder(tmp_path / "run")
    saved = params(0)
    folder.write_params("final", saved)
    with np.load(folder.path / "final.npz") as archive:
        assert sorted(archive.files) == [
            "layers.0.kernel", "layers.0.log_tau.tau_mem", "layers.0.recurrent_kernel", "layers.1.kernel",
        ]  # fmt: skip
    loaded = load_params(params(1), folder.path / "final.npz")
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_and_json(tmp_path):
    folder = RunFolder(tmp_path / "run")
    rows = [{"epoch": 0, "train_loss": 1.5}, {"epoch": 1, "train_loss": 0.25}]
    for row in rows:
        folder.append(row)
    with (folder.path / "metrics.csv").open() as f:
        assert [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)] == rows
    folder.write_json(
        "results", {"accuracy": jnp.float32(0.5), "rates": np.array([1.0, 2.0]), "path": tmp_path}
    )
    assert json.loads((folder.path / "results.json").read_text()) == {
        "accuracy": 0.5,
        "rates": [1.0, 2.0],
        "path": str(tmp_path),
    }


def test_never_overwrites(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is not empty"):
        RunFolder(tmp_path / "run")
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunFolder(tmp_path / "run" / "mine.txt")
    assert (tmp_path / "run" / "mine.txt").read_text() == "precious"
    first, second = (RunFolder.new("x", under=tmp_path / "runs") for _ in range(2))
    assert first.path != second.path


def test_failed_write_leaves_the_old_file_whole(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_json("results", {"a": 1})
    with pytest.raises(TypeError, match="cannot write object as JSON"):
        folder.write_json("results", {"a": object()})
    assert json.loads((folder.path / "results.json").read_text()) == {"a": 1}


def damage(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "text":
        path.write_text("hello")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        np.savez(path, **{"layers.0.kernel": np.array([{}], dtype=object)})


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "pickle"])
def test_damaged_parameter_files_name_the_file(tmp_path, how):
    folder = RunFolder(tmp_path / "run")
    folder.write_params("final", params())
    damage(folder.path / "final.npz", how)
    with pytest.raises(ValueError, match=r"final\.npz is not a readable parameter file"):
        load_params(params(), folder.path / "final.npz")


def test_parameters_of_another_network(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_params("final", params())
    with pytest.raises(
        ValueError,
        match=r"final\.npz: parameter layers\.0\.kernel must have shape \(3, 5\), got \(3, 4\)",
    ):
        load_params(params(hidden=5), folder.path / "final.npz")
    with pytest.raises(
        ValueError, match=r"parameters do not fit the network; the file has no extra"
    ):
        load_params({"extra": np.zeros(1)}, folder.path / "final.npz")
    with pytest.raises(FileNotFoundError):
        load_params(params(), folder.path / "none.npz")
