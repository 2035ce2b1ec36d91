import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax import models
from snnjax.experiments import RandmanConfig, build_network
from snnjax.nn import FluctuationDriven

INIT = FluctuationDriven(nu=15.8)


@pytest.mark.parametrize(("depth", "maps"), [(1, 1088), (3, 320), (7, 320), (10, 320)])
@pytest.mark.parametrize("recurrent", [True, False])
def test_csnn_has_the_layers_of_the_paper(depth, maps, recurrent):
    network = models.csnn(700, 20, depth=depth, init=INIT, recurrent=recurrent, rngs=nnx.Rngs(0))
    convs = [layer for layer in network.layers if layer.spiking]
    assert len(convs) == depth
    assert all(layer.recurrent is recurrent for layer in convs)
    strided = [(layer.kernel.shape, layer.stride) for layer in convs if layer.stride != (1,)]
    assert strided == [((21, 1, 16), (10,)), ((7, 16, 32), (3,)), ((7, 32, 64), (3,))][: len(strided)]
    assert len(strided) == min(depth, 3)
    assert network.layers[-1].in_features == maps
    readout, activity = nnx.eval_shape(lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 700), jnp.float32))
    assert readout.shape == (5, 2, 20)
    assert len(activity.spikes) == depth


def test_skip_connects_every_layer_to_the_readout():
    network = models.csnn(700, 20, depth=3, init=INIT, skip=True, rngs=nnx.Rngs(0))
    assert network.layers[-1].in_features == 68 * 16 + 21 * 32 + 5 * 64
    dense = models.dense(30, 4, hidden=(8, 6), init=INIT, skip=True, rngs=nnx.Rngs(0))
    assert dense.layers[-1].in_features == 14


def test_command_line_names_build_these():
    for model, depth in (("csnn1", 1), ("csnn7", 7)):
        config = RandmanConfig(model=model, recurrent=True, skip=True, remat_steps=20, learn_tau=True)
        network = build_network(config, n_inputs=700, n_classes=20, nu=15.8, duration=0.7)
        hidden = [layer for layer in network.layers if layer.spiking]
        assert len(hidden) == depth
        assert network.skip
        assert network.remat_steps == 20
        assert all(layer.recurrent and set(layer.log_tau) == {"tau_mem", "tau_syn"} for layer in hidden)
        np.testing.assert_allclose(network.layers[-1].neuron.tau_mem, 0.7)


def test_errors():
    with pytest.raises(ValueError, match="depth must be one of 1, 3, 7, 10, got 5"):
        models.csnn(700, 20, depth=5, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="n_inputs must be enough for layer 0, whose kernel is 21, got 20: 20 positions are left"):
        models.csnn(20, 10, depth=3, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="hidden must name at least one layer"):
        models.dense(20, 10, hidden=(), init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="layers must hold at least one layer"):
        models.csnn(20, 10, layers=(), init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="model must be one of 'dense', 'csnn1', 'csnn3', 'csnn7', 'csnn10', got 'csnn2'"):
        RandmanConfig(model="csnn2")


@pytest.mark.parametrize(("depth", "inputs"), [(2, 4096), (4, 2048), (6, 1024), (8, 256)])
def test_csnn2d_is_blocks_of_two_with_pooling(depth, inputs):
    network = models.csnn2d((32, 32, 3), 10, depth=depth, init=INIT, dropout=0.1, sensory=True, rngs=nnx.Rngs(0))
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["SpikingConv2d", "Dropout"] * 2 + ["Pool"]
    assert kinds == ["Reshape", "Sensory", *block * (depth // 2), "Flatten", "Readout"]
    assert network.layers[-1].in_features == inputs
    readout, activity = nnx.eval_shape(lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 32, 32, 3), jnp.float32))
    assert readout.shape == (5, 2, 10)
    assert len(activity.spikes) == depth


def test_csnn2d_of_an_event_camera_with_recurrence_and_skip():
    network = models.csnn2d((32, 32, 2), 11, blocks=((4, 4), (8,)), padding=2, recurrent=True, skip=True, init=INIT, rngs=nnx.Rngs(0))
    assert network.layers[-1].in_features == 34 * 34 * 4 + 36 * 36 * 4 + 20 * 20 * 8
    assert all(layer.recurrent_kernel.shape[:2] == (3, 3) for layer in network.layers if layer.spiking)
    out, _ = nnx.eval_shape(lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 2048), jnp.float32))
    assert out.shape == (5, 2, 11)


def test_csnn2d_errors():
    with pytest.raises(ValueError, match="depth must be one of 2, 4, 6, 8, got 3"):
        models.csnn2d((8, 8, 1), 10, depth=3, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"image must be large enough to be pooled 4 times, got \(8, 8, 1\)"):
        models.csnn2d((8, 8, 1), 10, depth=8, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="image must be"):
        models.csnn2d((8, 8), 10, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="blocks must hold at least one block"):
        models.csnn2d((8, 8, 1), 10, blocks=((4,), ()), init=INIT, rngs=nnx.Rngs(0))
