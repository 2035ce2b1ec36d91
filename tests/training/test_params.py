import jax
import numpy as np
import pytest
from flax import nnx

from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training._params import encode_params, load_params


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
    file, saved = tmp_path / "final.npz", params(0)
    file.write_bytes(encode_params(saved, ".npz"))
    with np.load(file) as archive:
        assert sorted(archive.files) == [
            "layers.0.kernel", "layers.0.log_tau.tau_mem", "layers.0.recurrent_kernel", "layers.1.kernel",
        ]  # fmt: skip
    loaded = load_params(params(1), file)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(a, b)


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
    file = tmp_path / "final.npz"
    file.write_bytes(encode_params(params(), ".npz"))
    damage(file, how)
    with pytest.raises(ValueError, match=r"final\.npz is not a readable parameter file"):
        load_params(params(), file)


def test_parameters_of_another_network(tmp_path):
    file = tmp_path / "final.npz"
    file.write_bytes(encode_params(params(), ".npz"))
    with pytest.raises(
        ValueError,
        match=r"final\.npz: parameter layers\.0\.kernel must have shape \(3, 5\), got \(3, 4\)",
    ):
        load_params(params(hidden=5), file)
    with pytest.raises(
        ValueError, match=r"parameters do not fit the network; the file has no extra"
    ):
        load_params({"extra": np.zeros(1)}, file)
    with pytest.raises(FileNotFoundError):
        load_params(params(), tmp_path / "none.npz")
