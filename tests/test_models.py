import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax import models
from snnjax.experiments import Experiment
from snnjax.experiments._build import Inputs, build_network
from snnjax.nn import DalianFluctuationDriven, FluctuationDriven

INIT = FluctuationDriven(nu=15.8)


@pytest.mark.parametrize(("depth", "maps"), [(1, 1088), (3, 320), (7, 320), (10, 320)])
@pytest.mark.parametrize("recurrent", [True, False])
def test_csnn_has_the_layers_of_the_paper(depth, maps, recurrent):
    network = models.csnn(700, 20, depth=depth, init=INIT, recurrent=recurrent, rngs=nnx.Rngs(0))
    convs = [layer for layer in network.layers if layer.spiking]
    assert len(convs) == depth
    assert all(layer.recurrent is recurrent for layer in convs)
    strided = [
        (layer.kernel.shape, layer.map.stride) for layer in convs if layer.map.stride != (1,)
    ]
    assert (
        strided == [((21, 1, 16), (10,)), ((7, 16, 32), (3,)), ((7, 32, 64), (3,))][: len(strided)]
    )
    assert len(strided) == min(depth, 3)
    assert network.layers[-1].in_features == maps
    readout, activity = nnx.eval_shape(
        lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 700), jnp.float32)
    )
    assert readout.shape == (5, 2, 20)
    assert len(activity.spikes) == depth


def test_skip_connects_every_layer_to_the_readout():
    network = models.csnn(700, 20, depth=3, init=INIT, skip=True, rngs=nnx.Rngs(0))
    assert network.layers[-1].in_features == 68 * 16 + 21 * 32 + 5 * 64
    dense = models.dense(30, 4, hidden=(8, 6), init=INIT, skip=True, rngs=nnx.Rngs(0))
    assert dense.layers[-1].in_features == 14


def test_command_line_names_build_these():
    for model, depth in (("csnn1", 1), ("csnn7", 7)):
        experiment = Experiment.from_options(
            "randman", model=model, recurrent=True, skip=True, remat_steps=20, learn_tau=True
        )
        network = build_network(experiment, Inputs(700, num_classes=20, nu=15.8, duration=0.7))
        hidden = [layer for layer in network.layers if layer.spiking]
        assert len(hidden) == depth
        assert network.skip
        assert network.remat_steps == 20
        assert all(
            layer.recurrent and set(layer.log_tau) == {"tau_mem", "tau_syn"} for layer in hidden
        )
        np.testing.assert_allclose(network.layers[-1].neuron.tau_mem, 0.7)


def test_errors():
    with pytest.raises(ValueError, match="depth must be one of 1, 3, 7, 10, got 5"):
        models.csnn(700, 20, depth=5, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError,
        match="in_features must be enough for layer 1, whose kernel is 21, got 20: 20 positions are left",
    ):
        models.csnn(20, 10, depth=3, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="hidden must name at least one layer"):
        models.dense(20, 10, hidden=(), init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="layers must hold at least one layer"):
        models.build((), (20, 1), 10, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError,
        match="depth must be one of 1, 3, 7, 10, got 2",
    ):
        Experiment.from_options("randman", model="csnn2")


@pytest.mark.parametrize(("depth", "inputs"), [(2, 4096), (4, 2048), (6, 1024), (8, 256)])
def test_csnn2d_is_blocks_of_two_with_pooling(depth, inputs):
    network = models.csnn2d(
        (32, 32, 3), 10, depth=depth, init=INIT, dropout=0.1, sensory=True, rngs=nnx.Rngs(0)
    )
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["SpikingConv2d", "Dropout"] * 2 + ["Pool"]
    assert kinds == ["Reshape", "Sensory", *block * (depth // 2), "Flatten", "Readout"]
    assert network.layers[-1].in_features == inputs
    readout, activity = nnx.eval_shape(
        lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 32, 32, 3), jnp.float32)
    )
    assert readout.shape == (5, 2, 10)
    assert len(activity.spikes) == depth


def test_csnn2d_of_an_event_camera_with_recurrence_and_skip():
    network = models.csnn2d(
        (32, 32, 2),
        11,
        blocks=((4, 4), (8,)),
        padding=2,
        recurrent=True,
        skip=True,
        init=INIT,
        rngs=nnx.Rngs(0),
    )
    assert network.layers[-1].in_features == 34 * 34 * 4 + 36 * 36 * 4 + 20 * 20 * 8
    assert all(
        layer.recurrent_kernel.shape[:2] == (3, 3) for layer in network.layers if layer.spiking
    )
    out, _ = nnx.eval_shape(
        lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 2048), jnp.float32)
    )
    assert out.shape == (5, 2, 11)


def test_csnn2d_errors():
    with pytest.raises(ValueError, match="depth must be one of 2, 4, 6, 8, got 3"):
        models.csnn2d((8, 8, 1), 10, depth=3, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError,
        match=r"image must be enough for the pooling after layer 8, whose window is \(2,\), got \(8, 8, 1\): \(1, 1\) positions are left",
    ):
        models.csnn2d((8, 8, 1), 10, depth=8, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="image must be"):
        models.csnn2d((8, 8), 10, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="blocks must hold at least one block"):
        models.csnn2d((8, 8, 1), 10, blocks=((4,), ()), init=INIT, rngs=nnx.Rngs(0))


# --- Dale's law

DALIAN = DalianFluctuationDriven(nu=15.8)


@pytest.mark.parametrize("skip", [False, True])
def test_dalian_has_the_populations_of_the_paper(skip):
    network = models.dense(
        700,
        20,
        hidden=(128, 64),
        ei_ratio=4.0,
        recurrent=True,
        skip=skip,
        init=DALIAN,
        rngs=nnx.Rngs(0),
    )
    first, second, readout = network.layers
    assert [(layer.n_exc, layer.n_inh, layer.recurrent) for layer in (first, second)] == [
        (128, 32, True),
        (64, 16, True),
    ]
    assert readout.in_features == (192 if skip else 64)
    out, activity = nnx.eval_shape(
        lambda n, x: n(x), network, jax.ShapeDtypeStruct((5, 2, 700), jnp.float32)
    )
    assert out.shape == (5, 2, 20)
    assert [z.shape[2:] for z in activity.spikes] == [(160,), (80,)]


def test_dalian_csnn_is_the_csnn_with_inhibitory_maps_besides():
    network = models.csnn(
        700, 20, depth=3, ei_ratio=4.0, dropout=0.1, init=DALIAN, rngs=nnx.Rngs(0)
    )
    convs = [layer for layer in network.layers if layer.spiking]
    shapes = [
        (
            layer.kernel.shape,
            layer.inhibitory_kernel.shape,
            layer.recurrent_kernel.shape,
            layer.map.stride,
        )
        for layer in convs
    ]
    assert shapes == [
        ((21, 1, 20), (5, 4, 20), (5, 16, 20), (10,)),
        ((7, 16, 40), (5, 8, 40), (5, 32, 40), (3,)),
        ((7, 32, 80), (5, 16, 80), (5, 64, 80), (3,)),
    ]
    assert network.layers[-1].in_features == 320
    with pytest.raises(ValueError, match="in_features must be enough for layer 1"):
        models.csnn(20, 10, ei_ratio=4.0, init=DALIAN, rngs=nnx.Rngs(0))


@pytest.mark.more
@pytest.mark.parametrize("model", ["dalian", "dalian_csnn3"])
def test_command_line_names_build_dalian_networks(model):
    experiment = Experiment.from_options(
        "randman",
        model=model,
        recurrent=True,
        learn_tau=True,
        init="lognormal",
        tau_inh=15e-3,
        ei_ratio=8.0,
        sigma_u=0.5,
    )
    network = build_network(experiment, Inputs(700, num_classes=20, nu=15.8, duration=0.7))
    hidden = [layer for layer in network.layers if layer.spiking]
    assert [layer.n_inh for layer in hidden] == ([16] if model == "dalian" else [2, 4, 8])
    for layer in hidden:
        assert layer.recurrent
        assert set(layer.log_tau) == {"tau_mem", "tau_exc", "tau_inh"}
        np.testing.assert_allclose(layer.neuron.tau_inh, 15e-3, rtol=1e-6)
        w = np.log(np.asarray(layer.recurrent_kernel[...]))
        np.testing.assert_allclose(
            w.std(), np.sqrt(np.log(2)), rtol=0.15
        )  # cv = 1; 1,600 weights and more
    with pytest.raises(ValueError, match=r"init of model '.*' must be one of .*, got 'kaiming'"):
        Experiment.from_options("randman", model=model, init="kaiming")
    with pytest.raises(
        ValueError, match=r"init of model 'dense' must be one of .*, got 'lognormal'"
    ):
        Experiment.from_options("randman", init="lognormal")
