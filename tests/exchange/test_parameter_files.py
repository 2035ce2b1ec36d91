"""Parameters in .npz and .safetensors files: the same bits, and an error that names a mismatch."""

import importlib
import io
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from _support import require
from flax import nnx

from snnjax.exchange import load_parameters, save_parameters
from snnjax.nn import Readout, Sequential, SpikingConv1d, SpikingDense
from snnjax.training._params import encode_params, flatten_params

require("safetensors")
SUFFIXES = (".npz", ".safetensors")


def draw(key, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(SEED[0]).normal(size=shape), dtype)


SEED = [0]


def make(seed=0, hidden=4, dtype=jnp.float32, trainable=("tau_mem",), recurrent=True):
    SEED[0] = seed
    first = SpikingDense(
        3,
        hidden,
        init=draw,
        recurrent=recurrent,
        trainable=trainable,
        dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    return Sequential(first, Readout(hidden, 2, kernel_init=draw, rngs=nnx.Rngs(0)))


def bits(network):
    return {
        name: (a.dtype, a.shape, a.tobytes())
        for name, a in flatten_params(nnx.state(network, nnx.Param)).items()
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_round_trip(tmp_path, suffix, dtype):
    network, other = make(0, dtype=dtype), make(1, dtype=dtype)
    network.layers[0].kernel[0, 0] = -0.0
    path = tmp_path / f"network{suffix}"
    save_parameters(path, network)
    assert bits(other) != bits(network)
    load_parameters(path, other)
    assert bits(other) == bits(network)
    x = jnp.ones((20, 1, 3))
    np.testing.assert_array_equal(network(x)[0], other(x)[0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_numbers_of_the_other_byte_order(tmp_path):
    network, other = make(0), make(1)
    swapped = {
        name: a.astype(a.dtype.newbyteorder(">"))
        for name, a in flatten_params(nnx.state(network, nnx.Param)).items()
    }
    np.savez(tmp_path / "big.npz", **swapped)
    load_parameters(tmp_path / "big.npz", other)
    assert bits(other) == bits(network)


def test_double_precision(tmp_path, x64):
    network, other = make(0, dtype=jnp.float64), make(1, dtype=jnp.float64)
    for suffix in SUFFIXES:
        save_parameters(tmp_path / f"a{suffix}", network)
        load_parameters(tmp_path / f"a{suffix}", other)
        assert bits(other) == bits(network)


def test_names_are_those_that_other_tools_see(tmp_path):
    import safetensors.numpy

    for suffix in SUFFIXES:
        save_parameters(tmp_path / f"a{suffix}", make())
    names = [
        "layers.0.kernel",
        "layers.0.log_tau.tau_mem",
        "layers.0.recurrent_kernel",
        "layers.1.kernel",
    ]
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive.files) == names
        np.testing.assert_array_equal(archive["layers.0.kernel"], make().layers[0].kernel[...])
    tensors = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert sorted(tensors) == names
    np.testing.assert_array_equal(tensors["layers.0.kernel"], make().layers[0].kernel[...])


def test_a_run_s_parameters_are_such_a_file(tmp_path):
    file, other = tmp_path / "final.npz", make(1)
    file.write_bytes(encode_params(nnx.state(make(0), nnx.Param), ".npz"))
    load_parameters(file, other)
    assert bits(other) == bits(make(0))


def test_any_module(tmp_path):
    SEED[0] = 0
    layer, other = (
        SpikingConv1d(2, 3, kernel_size=4, init=draw, rngs=nnx.Rngs(0)) for _ in range(2)
    )
    other.kernel[...] = 0 * other.kernel[...]
    save_parameters(tmp_path / "layer.npz", layer)
    load_parameters(tmp_path / "layer.npz", other)
    assert bits(other) == bits(layer)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_mismatch_is_named_and_changes_nothing(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_parameters(path, make(0))
    for options, match in [
        ({"hidden": 5}, r"parameter layers\.0\.kernel must have shape \(3, 5\), got \(3, 4\)"),
        (
            {"dtype": jnp.float16},
            r"parameter layers\.0\.kernel must have dtype float16, got float32",
        ),
        (
            {"dtype": jnp.bfloat16},
            r"parameter layers\.0\.kernel must have dtype bfloat16, got float32",
        ),
        (
            {"recurrent": False},
            r"the network has no layers\.0\.recurrent_kernel; build its layers with recurrent=True",
        ),
        (
            {"trainable": ("tau_syn",)},
            r"the file has no layers\.0\.log_tau\.tau_syn; the network has no layers\.0\.log_tau\.tau_mem$",
        ),
    ]:
        network = make(1, **options)
        before = bits(network)
        with pytest.raises(ValueError, match=rf"a{suffix}: .*{match}"):
            load_parameters(path, network)
        assert bits(network) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_takes_the_numbers_of_16_bits(tmp_path, suffix):
    half, network = make(0, dtype=jnp.float16, trainable=()), make(1, trainable=())
    save_parameters(tmp_path / f"a{suffix}", half)
    load_parameters(tmp_path / f"a{suffix}", network)
    for a, b in zip(network.layers, half.layers, strict=True):
        assert a.kernel.dtype == jnp.float32
        np.testing.assert_array_equal(a.kernel[...], b.kernel[...])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_overwritten_unasked(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists; overwrite=True replaces it"):
        save_parameters(path, make())
    assert path.read_bytes() == b"precious"
    save_parameters(path, make(), overwrite=True)
    load_parameters(path, make(1))


def test_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.npz or \.safetensors, got .*a\.pt"):
        save_parameters(tmp_path / "a.pt", make())
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"suffix of the file must be one of '\.npz', '\.safetensors', got '\.pt'"
    ):
        load_parameters(tmp_path / "a.pt", make())
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError):
            load_parameters(tmp_path / f"none{suffix}", make())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_parameters(path, make())
    whole = path.read_bytes()
    for content in (
        b"",
        b"hello",
        whole[: len(whole) // 2],
        whole[:-1] if suffix == ".safetensors" else whole[:-30],
        b"\xff" * 100,
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a{suffix} is not a readable parameter file"):
            load_parameters(path, make())


def head(shape, dtype="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return buffer.getvalue()


def test_an_archive_is_not_believed(tmp_path):
    """Wrong sizes, Python objects and a repeated name are refused before anything is loaded."""
    path = tmp_path / "a.npz"
    save_parameters(path, make())
    with np.load(path) as archive:
        arrays = dict(archive)
    for content, match in [
        (
            head((10**9, 10**9)),
            r"parameter layers\.0\.kernel must have shape \(3, 4\), got \(1000000000, 1000000000\)",
        ),
        (head((3, 4)), "is not a readable parameter file"),
        (head((3, 4), "|O"), r"layers\.0\.kernel contains Python objects"),
        (b"\x93NUMPY\x09\x00", "truncated or not a .npy file"),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            for name, a in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, a)
                archive.writestr(
                    f"{name}.npy", content if name == "layers.0.kernel" else buffer.getvalue()
                )
        with pytest.raises(ValueError, match=match):
            load_parameters(path, make())
    save_parameters(path, make(), overwrite=True)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("layers.0.kernel.npy", head((3, 4)) + b"\0" * 48)
    with pytest.raises(ValueError, match="a parameter occurs twice"):
        load_parameters(path, make())


def test_other_numbers_in_safetensors(tmp_path):
    import safetensors.numpy

    arrays = flatten_params(nnx.state(make(), nnx.Param))
    arrays["layers.0.kernel"] = arrays["layers.0.kernel"].astype(np.int32)
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"it contains numbers of the types \['I32'\]"):
        load_parameters(tmp_path / "a.safetensors", make())


def test_without_safetensors(monkeypatch, tmp_path):
    real = importlib.import_module

    def without(name, *args):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args)

    save_parameters(tmp_path / "a.safetensors", make())
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"pip install 'snnjax\[safetensors\]'"):
        save_parameters(tmp_path / "b.safetensors", make())
    with pytest.raises(ImportError, match=r"pip install 'snnjax\[safetensors\]'"):
        load_parameters(tmp_path / "a.safetensors", make())
    save_parameters(tmp_path / "a.npz", make())
    load_parameters(tmp_path / "a.npz", make(1))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_that_are_not_finite_are_named(tmp_path, suffix, dtype):
    network, other = make(0, dtype=dtype), make(1, dtype=dtype)
    path = tmp_path / f"network{suffix}"
    save_parameters(path, network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_parameters(path, other)
    network.layers[0].kernel[0, 0] = jnp.nan
    network.layers[1].kernel[1, 0] = jnp.inf
    save_parameters(path, network, overwrite=True)
    with pytest.warns(
        UserWarning,
        match="some loaded parameters are not finite: layers.0.kernel, layers.1.kernel$",
    ) as caught:
        load_parameters(path, other)
    assert [w.filename for w in caught] == [__file__]
    assert bits(other) == bits(network)
