"""A network that is written as NIR and read back is the same network.

It has the same parameters, bit for bit, and the same spikes.
"""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import forward, require
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snnjax import models, surrogate
from snnjax.dynamics import IF, LIF, Leaky, LeakyIntegrator, Uniform
from snnjax.exchange import from_nir, to_nir
from snnjax.nn import (
    Delays,
    Dropout,
    Flatten,
    Pool,
    Readout,
    Reshape,
    Sequential,
    SpikingConv1d,
    SpikingConv2d,
    SpikingDense,
)
from snnjax.nn._threshold import Threshold
from snnjax.training._params import flatten_params

require("nir")
SCHEMES = ("exponential", "euler")


def INIT(key, shape, dtype=jnp.float32):
    """Weights of every connection, by numpy: no compilation for every new shape."""
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(0.8, 5.0, shape) / np.sqrt(np.prod(shape[:-1])), dtype)


def through_bytes(graph):
    """The graph after writing and reading a file."""
    import nir

    buffer = io.BytesIO()
    nir.write(buffer, graph)
    buffer.seek(0)
    return nir.read(buffer)


def events(*features, steps=40, seed=0):
    return jnp.asarray(np.random.default_rng(seed).poisson(0.1, (steps, 2, *features)), jnp.float32)


def add_noise(param, deviation):
    """Change a parameter as training might, by numpy: no compilation for every new shape."""
    noise = np.random.default_rng(1).normal(0, deviation, param.shape)
    param[...] = jnp.asarray(np.asarray(param[...]) + noise, param.dtype)


def parameters(network):
    return flatten_params(nnx.state(network, nnx.Param))


def assert_same_network(network, back, x, *, names=True):
    mine, theirs = parameters(network), parameters(back)
    if names:
        assert list(mine) == list(theirs)
    for a, b in zip(mine.values(), theirs.values(), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    (readout, activity), (readout_back, activity_back) = forward(network, x), forward(back, x)
    np.testing.assert_array_equal(readout, readout_back)
    assert len(activity.spikes) == len(activity_back.spikes)
    for z, z_back in zip(activity.spikes, activity_back.spikes, strict=True):
        assert 0.002 < np.asarray(z).mean() < 0.5
        np.testing.assert_array_equal(z, z_back)


def assert_round_trip(network, x, *, scheme="exponential", names=True, **options):
    back = from_nir(through_bytes(to_nir(network, scheme=scheme, **options)))
    assert_same_network(network, back, x, names=names)
    return back


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ({"hidden": (24,)}, "exponential"),
        ({"hidden": (24, 16, 12)}, "exponential"),
        ({"hidden": (24, 16), "recurrent": True}, "euler"),
        ({"hidden": (24, 16), "skip": True, "recurrent": True}, "exponential"),
        (
            {
                "hidden": (24,),
                "trainable": ("tau_mem", "tau_syn"),
                "readout_neuron": LeakyIntegrator(tau_mem=0.3, initial=-0.02),
            },
            "exponential",
        ),
        ({"hidden": (24,), "trainable": ("tau_mem", "tau_syn")}, "euler"),
    ],
    ids=[
        "dense",
        "deep",
        "recurrent",
        "skip",
        "trained time constants",
        "trained time constants, euler",
    ],
)
def test_dense(options, scheme):
    network = models.dense(20, 4, init=INIT, rngs=nnx.Rngs(0), **options)
    for layer in network.layers:
        for tau in layer.log_tau.values():  # as after training
            add_noise(tau, 0.3)
    assert_round_trip(network, events(20), scheme=scheme)


def test_convolutions_over_a_line():
    layers = (models.Conv(4, 5, 3), models.Conv(6, 3, 1, "same"))
    network = models.build(
        layers, (40, 1), 4, recurrent=True, trainable=("tau_mem",), init=INIT, rngs=nnx.Rngs(0)
    )
    back = assert_round_trip(network, events(40), scheme="euler")
    assert [type(layer) for layer in back.layers] == [
        Reshape,
        SpikingConv1d,
        SpikingConv1d,
        Flatten,
        Readout,
    ]


def test_convolutions_over_images_with_pooling():
    network = models.csnn2d(
        (12, 10, 2), 4, blocks=((4,), (5,)), recurrent=True, init=INIT, rngs=nnx.Rngs(0)
    )
    back = assert_round_trip(network, events(240))
    assert [layer.kind for layer in back.layers if isinstance(layer, Pool)] == ["max", "max"]


def test_skip_connections_past_convolutions():
    network = models.csnn2d(
        (12, 10, 2), 4, blocks=((4,), (5,)), skip=True, padding=2, init=INIT, rngs=nnx.Rngs(0)
    )
    back = assert_round_trip(
        network, events(240), names=False
    )  # a node before the readout that has no effect is left out
    assert back.skip


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"kernel_size": 4, "padding": "same"}, (9, 8, 2)),
        ({"kernel_size": (3, 2), "padding": "same"}, (9, 8, 2)),
        ({"kernel_size": 3, "padding": "same", "stride": 2}, (9, 11, 2)),
        ({"kernel_size": 3, "padding": (2, 0), "stride": (1, 3)}, (9, 8, 2)),
        ({"kernel_size": 3, "recurrent_kernel_size": (3, 1)}, (9, 8, 2)),
    ],
    ids=["same, even", "same, oblong", "same, strided", "numbers", "oblong recurrence"],
)
def test_geometry_of_convolutions(options, features):
    layer = SpikingConv2d(2, 3, init=INIT, rngs=nnx.Rngs(0), **options)
    pool = Pool(2, kind="average", stride=1)
    size = int(np.prod(pool.feature_shape(layer.feature_shape(features))))
    network = Sequential(layer, pool, Flatten(), SpikingDense(size, 5, init=INIT, rngs=nnx.Rngs(1)))
    assert_round_trip(network, events(*features), features=features)


PER_NEURON = np.linspace(0.5, 2.0, 24)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "kind", [np.float64, np.float32, jnp.float32], ids=["float64", "float32", "jax"]
)
def test_one_time_constant_a_neuron(scheme, kind):
    value = (
        (lambda base: jnp.asarray(base * PER_NEURON, kind))
        if kind is jnp.float32
        else lambda base: (base * PER_NEURON).astype(kind)
    )
    neuron = LIF(tau_mem=value(20e-3), tau_syn=value(8e-3), theta=value(1.0))
    network = models.dense(20, 4, hidden=(24,), neuron=neuron, init=INIT, rngs=nnx.Rngs(0))
    graph = to_nir(network, scheme=scheme)
    if scheme == "exponential":
        np.testing.assert_array_equal(graph.nodes["layer0"].tau_mem, np.asarray(neuron.tau_mem))
    back = assert_round_trip(network, events(20), scheme=scheme)
    for name in ("tau_mem", "tau_syn", "theta"):
        held = getattr(back.layers[0].neuron, name)
        assert type(held) is type(getattr(neuron, name))
        assert held.dtype == getattr(neuron, name).dtype


def test_one_time_constant_a_position():
    tau = np.linspace(5e-3, 30e-3, 6 * 5 * 3).reshape(6, 5, 3)
    layer = SpikingConv2d(2, 3, kernel_size=3, neuron=LIF(tau_mem=tau), init=INIT, rngs=nnx.Rngs(0))
    back = assert_round_trip(Sequential(layer), events(8, 7, 2), features=(8, 7, 2))
    np.testing.assert_array_equal(back.layers[0].neuron.tau_mem, tau)


def test_plain_numbers_stay_plain():
    neuron = LIF(tau_mem=17e-3, tau_syn=3e-3, theta=0.9, dt=1e-3)
    back = assert_round_trip(
        models.dense(
            20,
            4,
            hidden=(24,),
            neuron=neuron,
            readout_neuron=LeakyIntegrator(dt=1e-3),
            init=INIT,
            rngs=nnx.Rngs(0),
        ),
        events(20),
    )
    assert back.layers[0].neuron == neuron
    assert back.layers[1].neuron == LeakyIntegrator(dt=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"reset": "subtractive"},
        {"reset": "to_value", "u_reset": -0.4},
        {"reset_grad": True},
        {"spike": surrogate.atan(3.0)},
        {"spike": surrogate.superspike(5.0).scaled(2.0)},
    ],
)
def test_reset_and_surrogate(options):
    neuron = LIF(**options)
    back = assert_round_trip(
        models.dense(20, 4, hidden=(24,), neuron=neuron, init=INIT, rngs=nnx.Rngs(0)), events(20)
    )
    assert back.layers[0].neuron == neuron


def test_biases_come_back():
    for bias in (0.3, 0.0):
        network = models.dense(
            20, 4, hidden=(24, 16), recurrent=True, bias=True, init=INIT, rngs=nnx.Rngs(0)
        )
        for layer in network.layers:
            add_noise(layer.bias, bias)
        back = assert_round_trip(network, events(20))
        assert all(layer.bias is not None for layer in back.layers)
    graph = to_nir(network)
    assert type(graph.nodes["layer0_kernel"]).__name__ == "Affine"
    assert type(graph.nodes["layer0_recurrent_kernel"]).__name__ == "Linear"
    graph.nodes["layer0_kernel"].metadata.clear()  # as a bias of 0 of another tool
    assert from_nir(graph).layers[0].bias is None


NEURONS = [
    IF(theta=2.0, reset="subtractive", duration=0.08),
    IF(reset="to_value", u_reset=-0.4, spike=surrogate.atan(3.0)),
    Leaky(tau_mem=8e-3, theta=0.7),
    Leaky(tau_mem=np.linspace(5e-3, 20e-3, 24), reset="subtractive"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("neuron", NEURONS, ids=["IF", "IF to value", "Leaky", "Leaky, tau each"])
def test_neurons_without_a_synaptic_current(neuron, scheme):
    options = {"init": INIT, "neuron": neuron, "bias": True, "rngs": nnx.Rngs(0)}
    network = models.dense(20, 4, hidden=(24,), recurrent=True, **options)
    back = assert_round_trip(network, events(20), scheme=scheme)
    held = back.layers[0].neuron
    assert (type(held), held.reset, held.spike) == (type(neuron), neuron.reset, neuron.spike)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), held, neuron)
    assert all(jax.tree.leaves(same))


def test_trained_time_constants_of_leaky_neurons():
    options = {"init": INIT, "neuron": Leaky(), "trainable": ("tau_mem",), "rngs": nnx.Rngs(0)}
    network = models.dense(20, 4, hidden=(24,), **options)
    network.layers[0].log_tau["tau_mem"][...] += 0.3
    assert_round_trip(network, events(20))


@pytest.mark.parametrize("on", ["input", "recurrent", "all"])
def test_delays_come_back(on):
    delays = Delays(max_delay=15e-3, on=on)
    options = {"recurrent": True, "init": INIT, "delays": delays, "rngs": nnx.Rngs(0)}
    conv = SpikingConv2d(
        2, 3, kernel_size=3, init=INIT, delays=Delays(max_delay=0.02, on="input"), rngs=nnx.Rngs(1)
    )
    network = Sequential(conv, Flatten(), SpikingDense(36, 5, **options))
    with pytest.raises(ValueError, match=r"not whole time steps; call its round_delays\(\)"):
        to_nir(network, features=(5, 6, 2))
    for layer in (network.layers[0], network.layers[2]):
        layer.round_delays()
    back = assert_round_trip(network, events(5, 6, 2), features=(5, 6, 2), names=False)
    assert back.layers[2].delays.on == on
    assert back.layers[2].delays.max_delay == pytest.approx(14e-3)  # whole steps


def test_delays_of_connections_have_no_node():
    layer = SpikingDense(
        6, 5, init=INIT, delays=Delays(max_delay=0.02, per="connection"), rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="NIR has delays of units, not of connections"):
        to_nir(Sequential(layer))


def test_counts_and_thresholds():
    conv = SpikingConv2d(2, 3, kernel_size=3, bias=True, init=INIT, rngs=nnx.Rngs(0))
    conv.bias[...] += 0.1
    theta = np.float64([0.5, 1.5, 1.5]) * np.ones((4, 3, 3))
    last = SpikingDense(36, 5, init=INIT, rngs=nnx.Rngs(1))
    layers = conv, Pool(2, kind="sum"), Threshold(theta), Flatten(), Threshold(0.25), last
    back = assert_round_trip(
        Sequential(*layers), events(10, 8, 2), features=(10, 8, 2), names=False
    )
    # spikes are above 0.25 anyway
    assert [type(layer).__name__ for layer in back.layers[1:-1]] == ["Pool", "Threshold", "Flatten"]
    np.testing.assert_array_equal(back.layers[2].thresholds, theta)
    assert back.layers[1].kind == "sum"


def test_gradients_come_back():
    network = Sequential(
        SpikingDense(20, 4, recurrent=True, trainable=("tau_syn",), init=INIT, rngs=nnx.Rngs(0))
    )
    back = from_nir(through_bytes(to_nir(network)))
    x = events(20)
    gradient = nnx.jit(nnx.grad(lambda n: jnp.sum(jnp.sin(n(x)[0]))))
    gradients = [gradient(n) for n in (network, back)]
    mine, theirs = (flatten_params(g) for g in gradients)
    assert list(mine) == list(theirs)
    for name, g in mine.items():
        assert np.abs(g).max() > 0
        np.testing.assert_array_equal(g, theirs[name])


def test_drawn_parameters_come_back_as_numbers_and_trained_ones_as_trained():
    neuron = LIF(tau_mem=Uniform(5e-3, 25e-3))
    options = {"neuron": neuron, "trainable": ("tau_syn", "theta"), "recurrent": True}
    layer = SpikingDense(20, 24, init=INIT, rngs=nnx.Rngs(0), **options)
    add_noise(layer.free["theta"], 0.3)
    network = Sequential(layer)
    back = from_nir(through_bytes(to_nir(network)))
    again = back.layers[0]
    assert (set(again.log_tau), set(again.free), set(again.drawn)) == (
        {"tau_syn"},
        {"theta"},
        set(),
    )
    for name in ("tau_mem", "tau_syn", "theta"):
        mine, theirs = (of.neuron.parameters()[name] for of in (layer, again))
        np.testing.assert_array_equal(mine, theirs)
    z, z_again = (np.asarray(forward(one, events(20)).output) for one in (layer, again))
    assert 0 < z.mean() < 0.5
    np.testing.assert_array_equal(z, z_again)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_of_16_bits(dtype):
    assert_round_trip(
        Sequential(SpikingDense(20, 24, init=INIT, recurrent=True, dtype=dtype, rngs=nnx.Rngs(0))),
        events(20),
    )


def test_double_precision(x64):
    network = Sequential(SpikingDense(20, 24, init=INIT, dtype=jnp.float64, rngs=nnx.Rngs(0)))
    assert network.layers[0].kernel.dtype == jnp.float64
    assert_round_trip(network, events(20))


def test_dropout_is_left_out():
    layers = [
        SpikingDense(20, 24, init=INIT, rngs=nnx.Rngs(0)),
        Dropout(0.5),
        Readout(24, 3, rngs=nnx.Rngs(1)),
    ]
    network = Sequential(*layers)
    back = from_nir(through_bytes(to_nir(network)))
    assert_same_network(network, back, events(20), names=False)
    assert not back.stochastic


def test_a_second_round_trip_changes_nothing():
    network = models.build(
        (models.Conv(4, 5, 3),),
        (40, 1),
        4,
        recurrent=True,
        trainable=("tau_mem",),
        init=INIT,
        rngs=nnx.Rngs(0),
    )
    first = to_nir(network, scheme="euler")
    second = to_nir(from_nir(through_bytes(first)), scheme="euler")
    assert first.edges == second.edges
    assert list(first.nodes) == list(second.nodes)
    for name, node in first.nodes.items():
        for field, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(
                    value, getattr(second.nodes[name], field), err_msg=f"{name}.{field}"
                )


def test_another_time_step():
    """Time constants are those of continuous time.

    For any step, an event moves a current by its weight.
    """
    network = Sequential(SpikingDense(20, 24, init=INIT, recurrent=True, rngs=nnx.Rngs(0)))
    for scheme in SCHEMES:
        back = from_nir(to_nir(network, scheme=scheme), dt=0.5e-3)
        assert back.layers[0].neuron == LIF(dt=0.5e-3)
        np.testing.assert_array_equal(back.layers[0].kernel[...], network.layers[0].kernel[...])


# Euler's decay is 0 in float64 if tau_syn is far below dt
@example([1], False, False, "euler", 0.5, 1e-4, 7.8125e-3)
@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans(), st.booleans(), st.sampled_from(SCHEMES),
    st.floats(1e-4, 0.5), st.floats(1e-4, 0.5), st.floats(1e-5, 1e-2),
)  # fmt: skip
def test_any_dense_network(hidden, recurrent, skip, scheme, tau_mem, tau_syn, dt):
    neuron = LIF(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt)
    layers = [
        SpikingDense(n, m, recurrent=recurrent, neuron=neuron, init=INIT, rngs=nnx.Rngs(0))
        for n, m in itertools.pairwise([3, *hidden])
    ]
    n_last = sum(hidden) if skip else hidden[-1]
    network = Sequential(
        *layers,
        Readout(n_last, 2, neuron=LeakyIntegrator(dt=dt), kernel_init=INIT, rngs=nnx.Rngs(0)),
        skip=skip,
    )
    back = from_nir(through_bytes(to_nir(network, scheme=scheme)))
    assert back.skip == (skip and len(hidden) > 1)
    assert all(layer.neuron == neuron for layer in back.layers[:-1])
    mine, theirs = parameters(network), parameters(back)
    assert list(mine) == list(theirs)
    for name, a in mine.items():
        np.testing.assert_array_equal(a, theirs[name])
