"""NIR files are written completely or not at all, never replace a file, and give clear errors."""

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from _support import forward, require
from flax import nnx

from snnjax.exchange import load_nir, save_nir
from snnjax.nn import Readout, Sequential, SpikingDense

require("nir")


def draw(key, shape, dtype=jnp.float32):
    return jnp.asarray(
        np.random.default_rng(shape).normal(0.8, 5.0, shape) / np.sqrt(shape[0]), dtype
    )


@pytest.fixture
def network():
    return Sequential(
        SpikingDense(6, 5, recurrent=True, init=draw, rngs=nnx.Rngs(0)),
        Readout(5, 2, kernel_init=draw, rngs=nnx.Rngs(0)),
    )


@pytest.fixture
def file(tmp_path, network):
    save_nir(tmp_path / "network.nir", network)
    return tmp_path / "network.nir"


def test_round_trip(file, network):
    x = jnp.asarray(np.random.default_rng(1).poisson(0.2, (40, 2, 6)), float)
    (readout, activity), (readout_back, activity_back) = (
        forward(network, x),
        forward(load_nir(file), x),
    )
    assert activity.spikes[0].any()
    np.testing.assert_array_equal(readout, readout_back)
    np.testing.assert_array_equal(activity.spikes[0], activity_back.spikes[0])
    assert [p.name for p in file.parent.iterdir()] == ["network.nir"]


def test_any_reader_of_nir_reads_it(file):
    import nir

    graph = nir.read(file)  # with its type check
    assert graph.metadata["dt"] == 2e-3
    assert {type(node).__name__ for node in graph.nodes.values()} == {
        "Input",
        "Output",
        "Linear",
        "CubaLIF",
        "CubaLI",
    }


def test_scheme_and_time_step_pass_through(tmp_path, network):
    save_nir(tmp_path / "a.nir", network, scheme="euler")
    assert load_nir(tmp_path / "a.nir", dt=1e-3).layers[0].neuron.dt == 1e-3
    with pytest.raises(ValueError, match=r"a\.nir: dt must be finite and > 0 s, got -1"):
        load_nir(tmp_path / "a.nir", dt=-1.0)


def test_a_file_is_not_overwritten_unasked(file, network):
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match=r"network\.nir exists; overwrite=True replaces it"):
        save_nir(file, network)
    assert file.read_bytes() == before
    network.layers[0].kernel[...] *= 2
    save_nir(file, network, overwrite=True)
    np.testing.assert_array_equal(
        load_nir(file).layers[0].kernel[...], network.layers[0].kernel[...]
    )


def test_what_is_not_a_file_of_nir(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nir: no such file"):
        load_nir(tmp_path / "none.nir")
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:600]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"network\.nir: not a readable NIR file"):
            load_nir(file)
    with h5py.File(file, "w") as f:
        f["other"] = 1
    with pytest.raises(ValueError, match=r"network\.nir: not a readable NIR file"):
        load_nir(file)


def test_a_file_that_provokes_an_error_without_words_names_its_kind(file, monkeypatch):
    def mute(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr("nir.read", mute)
    with pytest.raises(ValueError, match="not a readable NIR file: AssertionError"):
        load_nir(file)


@pytest.mark.parametrize(
    "how", ["unknown", "soft link", "cycle", "outside", "enormous", "missing field"]
)
def test_hostile_files(file, tmp_path, how):
    with h5py.File(file, "a") as f:
        nodes = f["node/nodes"]
        if how == "unknown":
            del nodes["layer0/type"]
            nodes["layer0/type"] = "Mystery"
        elif how == "soft link":
            nodes["again"] = h5py.SoftLink("/node")
        elif how == "cycle":
            nodes["again"] = f["node"]
        elif how == "outside":
            (tmp_path / "secret").write_bytes(b"x" * 64)
            nodes["layer0"].create_dataset(
                "more", (64,), "u1", external=[(str(tmp_path / "secret"), 0, 64)]
            )
        elif how == "enormous":
            nodes["layer0"].create_dataset("more", (10**6, 10**7), "f8", chunks=(100, 100))
        else:
            del nodes["layer0/tau_mem"]
    named = {
        "unknown": r"node 'layer0' \(Mystery\): ",
        "missing field": r"node 'layer0' \(CubaLIF\): .*tau_mem",
    }.get(how, "")
    with pytest.raises(ValueError, match=r"network\.nir: not a readable NIR file: " + named):
        load_nir(file)


def test_a_node_that_cannot_be_read_is_named_with_the_file(file):
    with h5py.File(file, "a") as f:
        f["node/nodes/layer0/v_leak"][...] = 0.5
    with pytest.raises(
        ValueError, match=r"network\.nir: node 'layer0' \(CubaLIF\) must have v_leak = 0"
    ):
        load_nir(file)
