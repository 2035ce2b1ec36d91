"""Graphs of other tools, and graphs from unknown sources."""

import contextlib
import copy
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import data_path, forward, lif_loop, require
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from snnjax.datasets import DeviceEvents, load_nmnist
from snnjax.dynamics import LIF
from snnjax.exchange import from_nir, load_nir, to_nir
from snnjax.nn import Flatten, Pool, Readout, Sequential, SpikingConv2d, SpikingDense

require("nir")
import nir  # noqa: E402

N, M, DT = 6, 4, 1e-3
RNG = np.random.default_rng(0)
W, V, L = RNG.normal(0.3, 0.5, (M, N)), RNG.normal(0, 0.3, (M, M)), RNG.normal(0, 0.5, (2, M))


def cuba(n=M, **fields):
    one = np.ones(n)
    values = {
        "tau_syn": 5e-3 * one,
        "tau_mem": 10e-3 * one,
        "r": one,
        "v_leak": 0 * one,
        "v_threshold": one,
        "w_in": 5 * one,
    }
    return nir.CubaLIF(**values | {name: np.asarray(value) * one for name, value in fields.items()})


def chain(*nodes, first=N, **metadata):
    names = [f"n{k}" for k in range(len(nodes))]
    everything = {
        "in": nir.Input({"input": np.atleast_1d(first)}),
        **dict(zip(names, nodes, strict=True)),
        "out": nir.Output({"output": np.array([M])}),
    }
    edges = list(zip(["in", *names], [*names, "out"], strict=True))
    return nir.NIRGraph(everything, edges, metadata=metadata, type_check=False)


def x(*features, steps=80):
    return np.random.default_rng(1).poisson(0.1, (steps, 2, *features)).astype(float)


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
def test_scales_become_part_of_the_weights(scheme, x64):
    """w_in, r, and one threshold and time constant per neuron, compared with numpy."""
    r, w_in, tau_syn, tau_mem = (
        2 + np.arange(M),
        np.array([3.0, -4.0, 5.0, 6.0]),
        np.linspace(4e-3, 9e-3, M),
        np.linspace(8e-3, 20e-3, M),
    )
    neurons = cuba(
        r=r, w_in=w_in, tau_syn=tau_syn, tau_mem=tau_mem, v_threshold=1.5 + 0.1 * np.arange(M)
    )
    graph = chain(nir.Linear(W), neurons)
    graph.nodes["loop"] = nir.Affine(V, np.zeros(M))
    graph.edges += [("n1", "loop"), ("loop", "n1")]
    spikes = x(N)
    if scheme == "exponential":
        ls, lm = np.exp(-DT / tau_syn), np.exp(-DT / tau_mem)
    else:
        ls, lm = 1 - DT / tau_syn, 1 - DT / tau_mem
    gain = (1 - ls) * w_in * r
    expected = lif_loop(
        spikes @ (W.T * gain),
        v=V.T * gain,
        tau_mem=-DT / np.log(lm),
        tau_syn=-DT / np.log(ls),
        theta=1.5 + 0.1 * np.arange(M),
        dt=DT,
    ).z
    network = from_nir(graph, dt=DT, scheme=scheme)
    z, _ = forward(network, spikes)
    assert 0.01 < expected.mean() < 0.5
    np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
def test_neurons_without_a_synaptic_current(scheme, x64):
    """In LIF and LI, the input moves the membrane directly.

    Here this is one step later than it would be without a step in between.
    """
    one = np.ones(M)
    lif = nir.LIF(tau=10e-3 * one, r=12 * one, v_leak=0 * one, v_threshold=one, v_reset=-0.2 * one)
    li = nir.LI(tau=np.array([20e-3, 30e-3]), r=np.array([2.0, 3.0]), v_leak=np.zeros(2))
    network = from_nir(chain(nir.Linear(W), lif, nir.Linear(L), li), dt=DT, scheme=scheme)
    spikes = x(N)
    decay = (
        (lambda tau: np.exp(-DT / tau)) if scheme == "exponential" else (lambda tau: 1 - DT / tau)
    )
    lm, lo = decay(10e-3), decay(np.array([20e-3, 30e-3]))
    v, o, drive, out = np.zeros((2, M)), np.zeros((2, 2)), np.zeros((2, M)), np.zeros((2, 2))
    zs, os = [], []
    for step in spikes:
        z = (v > 1.0).astype(float)
        o = lo * o + (1 - lo) * np.array([2.0, 3.0]) * out
        v = np.where(z == 1, -0.2, lm * v + (1 - lm) * 12 * drive)
        drive, out = step @ W.T, z @ L.T
        zs.append(z)
        os.append(o)
    readout, activity = forward(network, spikes)
    assert 0.01 < np.mean(zs) < 0.5
    np.testing.assert_array_equal(activity.spikes[0], zs)
    np.testing.assert_allclose(readout, os, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
def test_a_leak_potential_is_a_bias(scheme, x64):
    """v_leak is a constant drive. It begins, as all input, one step later than in a plain loop."""
    one = np.ones(M)
    lif = nir.LIF(tau=10e-3 * one, r=5 * one, v_leak=0.3 * np.arange(M), v_threshold=one)
    network = from_nir(chain(nir.Affine(W, 0.1 * one), lif), dt=DT, scheme=scheme)
    lm = np.exp(-DT / 10e-3) if scheme == "exponential" else 1 - DT / 10e-3
    v, zs, drive, spikes = np.zeros((2, M)), [], None, x(N)
    for step in spikes:
        z = (v > 1.0).astype(float)
        zs.append(z)
        free = 0 * v if drive is None else lm * v + (1 - lm) * (0.3 * np.arange(M) + 5 * drive)
        v, drive = np.where(z == 1, 0, free), step @ W.T + 0.1
    assert 0.01 < np.mean(zs) < 0.5
    np.testing.assert_array_equal(forward(network, spikes)[0], zs)
    np.testing.assert_allclose(network.layers[0].bias[...], 0.5 + 0.3 * np.arange(M), rtol=1e-12)


def test_the_reset_is_as_the_node_says_or_as_given():
    one = np.ones(M)
    for node, reset in [
        (nir.IF(one, one), "multiplicative"),
        (nir.IF(one, one, -0.5 * one), "to_value"),
        (cuba(), "multiplicative"),
        (cuba(v_reset=0.2), "to_value"),
    ]:
        assert from_nir(chain(nir.Linear(W), node), dt=DT).layers[0].neuron.reset == reset
        given = from_nir(chain(nir.Linear(W), node), dt=DT, reset="subtractive").layers[0].neuron
        assert given.reset == ("to_value" if reset == "to_value" else "subtractive")
        node.metadata = {"reset": "multiplicative"}
        said = from_nir(chain(nir.Linear(W), node), dt=DT, reset="subtractive").layers[0].neuron
        assert said.reset == reset
    with pytest.raises(ValueError, match="reset must be one of 'multiplicative', 'subtractive'"):
        from_nir(chain(nir.Linear(W), cuba()), dt=DT, reset="to_value")


def test_graphs_within_graphs_are_bounded_and_have_ends():
    inner = chain(nir.Linear(V), cuba(), first=M)
    twice = chain(nir.Linear(W), cuba(), inner)
    assert len(from_nir(twice, dt=DT).layers) == 2
    inner.nodes["more"] = nir.Input({"input": np.array([M])})
    with pytest.raises(ValueError, match=r"the graph 'n2' must have one Input, got 2"):
        from_nir(twice, dt=DT)
    del inner.nodes["more"]
    inner.edges.append(("in", "out"))
    with pytest.raises(ValueError, match=r"the graph 'n2' must have a node between its Input"):
        from_nir(twice, dt=DT)
    inner.edges.pop()
    twice.nodes["n2.n0"] = cuba()
    with pytest.raises(ValueError, match=r"names of their own, got 'n2\.n0' twice"):
        from_nir(twice, dt=DT)
    endless = chain(nir.Linear(W), cuba())
    endless.nodes["self"] = endless
    with pytest.raises(ValueError, match="graphs must be at most 8 deep within each other"):
        from_nir(endless, dt=DT)
    many = chain(nir.Linear(V), cuba())
    for _ in range(6):  # 8^6 copies of one graph
        many = chain(*[many] * 8, first=M)
    with pytest.raises(ValueError, match="the graph must have at most 10,000 nodes, got more"):
        from_nir(many, dt=DT)


def test_delays_of_inputs_and_of_own_spikes_are_rounded_to_steps(x64):
    """Before weights: the network without delays gets the shifted input. In a loop: numpy."""
    steps, own = np.array([0, 3, 1, 7, 2, 2]), np.array([1, 0, 4, 2])
    graph = chain(nir.Delay(steps * DT + 0.3e-3), nir.Affine(W, 0.1 * np.ones(M)), cuba())
    plain = chain(nir.Affine(W, 0.1 * np.ones(M)), cuba())
    spikes = x(N)
    shifted = np.stack(
        [np.pad(spikes[..., j], ((n, 0), (0, 0)))[: len(spikes)] for j, n in enumerate(steps)], -1
    )
    network = from_nir(graph, dt=DT)
    expected = forward(from_nir(plain, dt=DT), shifted)[0]
    assert 0.01 < expected.mean() < 0.5
    np.testing.assert_array_equal(forward(network, spikes)[0], expected)
    assert network.layers[0].recurrent_delay is None
    for g in (graph, plain):
        g.nodes |= {"wait": nir.Delay(own * DT), "loop": nir.Linear(V)}
        last = "n2" if g is graph else "n1"
        g.edges += [(last, "wait"), ("wait", "loop"), ("loop", last)]
    layer = from_nir(graph, dt=DT).layers[0]
    z = np.asarray(forward(layer, spikes).output)
    delayed = np.stack(
        [np.pad(z[..., j], ((n, 0), (0, 0)))[: len(z)] for j, n in enumerate(own)], -1
    )
    gain = 5 * (1 - np.exp(-DT / 5e-3))
    drive = (shifted @ W.T + 0.1 + delayed @ V.T) * gain
    np.testing.assert_array_equal(lif_loop(drive, tau_mem=10e-3, tau_syn=5e-3, dt=DT).z, z)
    only = from_nir(plain, dt=DT).layers[0]
    assert only.delay is None
    assert only.recurrent_delay is not None


def test_a_leak_potential_above_the_threshold_makes_a_neuron_fire_alone():
    """Without input, the interval between spikes is tau log(v_leak / (v_leak - theta))."""
    dt = 1e-4
    network = load_nir(data_path("nir/two_lif_neurons.nir"), dt=dt)
    _, activity = forward(network, np.zeros((5000, 1, 1), np.float32))
    first, second = activity.spikes
    intervals = np.diff(np.flatnonzero(first[:, 0, 0])) * dt
    assert len(intervals) > 20
    np.testing.assert_allclose(intervals, 10e-3 * np.log(1.2 / 0.2), atol=2 * dt)
    assert not second.any()  # its threshold is 20


@pytest.mark.parametrize("name", ["braille_noDelay_bias_zero", "nirtorch_braille"])
def test_recurrent_networks_with_biases_of_another_tool(name):
    """Trained at steps of 0.1 ms with Euler's scheme.

    The membrane of the first layer, in numpy, and the round trip.
    """
    path, dt = data_path(f"nir/{name}.nir"), 1e-4
    network, graph = load_nir(path, dt=dt, scheme="euler"), nir.read(path)
    x = np.random.default_rng(0).poisson(0.02, (256, 4, 12)).astype(np.float32)
    fc1, loop, lif = (graph.nodes[n] for n in ("fc1", "lif1.w_rec", "lif1.lif"))
    ls, lm = 1 - dt / lif.tau_syn, 1 - dt / lif.tau_mem
    gain = (1 - ls) * lif.w_in * lif.r
    expected = lif_loop(
        (x @ fc1.weight.T + fc1.bias + loop.bias) * gain,
        v=loop.weight.T * gain,
        tau_mem=-dt / np.log(lm),
        tau_syn=-dt / np.log(ls),
        dt=dt,
    )
    readout, activity = forward(network, x)
    assert 0.005 < expected.z.mean() < 0.5
    assert 0.005 < readout.mean() < 0.5
    assert (activity.spikes[0] == expected.z).mean() > 0.9999  # single and double precision
    back = from_nir(to_nir(network, scheme="euler"))
    assert_same(network, back, x)


def assert_same(network, back, x):
    for a, b in zip(*(jax.tree.leaves(nnx.state(n)) for n in (network, back)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(forward(back, x)[0], forward(network, x)[0])


def test_convolutions_and_counts_of_another_tool_come_back():
    network = load_nir(data_path("nir/cnn_sinabs.nir"), dt=1e-3, reset="subtractive")
    back = from_nir(to_nir(network, features=(34, 34, 2)))
    assert_same(network, back, np.random.default_rng(0).poisson(0.02, (30, 1, 34, 34, 2)) * 1.0)
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in network.layers]


@pytest.mark.slow
def test_a_trained_network_of_another_tool_recognizes_digits():
    """Convolutions, IF neurons and sums over windows on N-MNIST.

    Its publication reports 97 to 98 %, with several spikes in a step. Here, with steps of 1 ms, at
    most one spike in a step and a reset by subtraction, 98 of the 100 test recordings are right.
    """
    network = load_nir(data_path("nir/cnn_sinabs.nir"), dt=1e-3, reset="subtractive")
    data = load_nmnist(data_path("nmnist"), "test")
    # the response to a spike comes one step later in each of five layers
    source = DeviceEvents.from_dataset(data, dt=1e-3, num_steps=306)

    @nnx.jit
    def counts(network, x):
        return network(x.reshape(*x.shape[:2], 34, 34, 2))[0].sum(axis=0)

    batches = [source.batch(jnp.arange(k, k + 20))[0] for k in range(0, 100, 20)]
    found = np.concatenate([counts(network, x) for x in batches])
    assert (found.argmax(axis=1) == data.labels).mean() >= 0.95


def test_a_scale_after_weights_becomes_part_of_them(x64):
    """One or two scales, without an effect on the recurrence.

    Also in convolutions, and in connections that skip neurons.
    """
    s, c = np.array([2.0, -1.0, 0.5, 3.0]), np.array(1.5)
    graph = chain(nir.Linear(W), nir.Scale(s), nir.Scale(c), cuba())
    graph.nodes["loop"] = nir.Linear(V)
    graph.edges += [("n3", "loop"), ("loop", "n3")]
    layer = from_nir(graph, dt=DT).layers[0]
    gain = 5 * (1 - np.exp(-DT / 5e-3))
    np.testing.assert_allclose(layer.kernel[...], W.T * s * 1.5 * gain, rtol=1e-12)
    np.testing.assert_allclose(layer.recurrent_kernel[...], V.T * gain, rtol=1e-12)
    weight = np.random.default_rng(0).normal(size=(3, 2, 2, 2))
    of_channels = nir.Scale(np.array([2.0, 3.0, -1.0]).reshape(3, 1, 1))
    conv_graph = chain(
        nir.Conv2d((6, 5), weight, 1, 0, 1, 1, np.zeros(3)),
        of_channels,
        cuba((3, 5, 4)),
        first=(2, 6, 5),
    )
    kernel = from_nir(conv_graph, dt=DT).layers[0].kernel[...]
    np.testing.assert_allclose(
        kernel, np.moveaxis(weight, (0, 1), (3, 2)) * [2, 3, -1] * gain, rtol=1e-12
    )
    skipping = chain(nir.Linear(W), cuba(), nir.Linear(V), cuba(), nir.Linear(L), cuba(2))
    skipping.nodes |= {"past": nir.Linear(2 * L), "scale": nir.Scale(np.array([3.0, 4.0]))}
    skipping.edges += [("n1", "past"), ("past", "scale"), ("scale", "n5")]
    kernel = from_nir(skipping, dt=DT).layers[2].kernel[...]
    np.testing.assert_allclose(kernel, np.concatenate([2 * L.T * [3, 4], L.T]) * gain, rtol=1e-12)


def test_shapes_of_all_sizes_of_one_are_given():
    neurons = cuba((3, 5, 4))
    weight = np.random.default_rng(0).normal(size=(3, 2, 2, 2))
    conv = nir.Conv2d((6, 5), weight, 1, 0, 1, 1, np.zeros(3))
    network = from_nir(chain(conv, neurons, first=(2, 6, 5)), dt=DT)
    assert network(jnp.ones((5, 1, 6, 5, 2)))[0].shape == (5, 1, 5, 4, 3)
    layer = network.layers[0]
    assert isinstance(layer.neuron.tau_mem, float)  # not one per neuron: all are equal
    np.testing.assert_allclose(
        layer.kernel[...], np.moveaxis(weight, (0, 1), (3, 2)) * (1 - np.exp(-0.2)) * 5, rtol=1e-6
    )


def test_time_step_must_be_known():
    graph = chain(nir.Linear(W), cuba())
    with pytest.raises(ValueError, match=r"dt \(in seconds\) must be given"):
        from_nir(graph)
    with pytest.raises(ValueError, match="dt must be finite and > 0 s, got 0"):
        from_nir(graph, dt=0.0)
    with pytest.raises(ValueError, match=r"dt must be one number, got shape \(2,\)"):
        from_nir(graph, dt=np.array([1e-3, 2e-3]))  # pyright: ignore
    with pytest.raises(
        ValueError, match="scheme must be one of 'exponential', 'euler', got 'exact'"
    ):
        from_nir(graph, dt=DT, scheme="exact")
    with pytest.raises(TypeError, match=r"graph must be a nir\.NIRGraph, got dict"):
        from_nir({}, dt=DT)
    for bad in ("x", np.ones(2), -1.0, np.nan):
        with pytest.raises((ValueError, TypeError), match="dt in the graph's metadata must be"):
            from_nir(chain(nir.Linear(W), cuba(), dt=bad))


CONV = nir.Conv2d((4, 4), np.ones((M, 2, 3, 3)), 1, 0, 1, 1, np.zeros(M))


def conv(**fields):
    node = copy.copy(CONV)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def bad(*nodes, match, first=N):
    return pytest.param(chain(*nodes, first=first), match, id=match[:40])


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        bad(nir.Affine(W, np.ones(3)), cuba(), match=r"node 'n0' \(Affine\) must have bias of the shape \(out,\) = \(4,\), got \(3,\)"),
        bad(nir.Affine(W, np.full(M, 1e39)), cuba(), match=r"node 'n1' \(CubaLIF\) must have w_in and r that leave the weights finite"),
        bad(nir.Affine(W, np.full(M, np.inf)), cuba(), match=r"node 'n0' \(Affine\) must have bias of finite real numbers"),
        bad(nir.Linear(W), cuba(v_leak=0.1), match=r"node 'n1' \(CubaLIF\) must have v_leak = 0"),
        bad(nir.Linear(W), cuba(tau_mem=-1.0), match=r"node 'n1' \(CubaLIF\) must have tau_mem > 0 s, got -1.0"),
        bad(nir.Linear(W), cuba(v_threshold=0.0), match=r"node 'n1' \(CubaLIF\) has a parameter out of range: theta must be finite and > 0"),
        bad(nir.Linear(W), cuba(w_in=np.nan), match=r"node 'n1' \(CubaLIF\) must have w_in of finite real numbers"),
        bad(nir.Linear(W), cuba(w_in=1e300, r=1e300), match=r"node 'n1' \(CubaLIF\) must have w_in and r that leave the weights finite"),
        bad(nir.Linear(W), cuba(3), match=r"node 'n1' \(CubaLIF\) must have v_leak of the shape \(channels, \*spatial\) = \(4,\), got \(3,\)"),
        bad(nir.Linear(W), nir.IF(np.ones(M), -np.ones(M)), match=r"node 'n1' \(IF\) has a parameter out of range: theta must be finite and > 0"),
        bad(conv(), nir.LIF(*np.ones((2, M, 2, 2)), np.arange(16.0).reshape(M, 2, 2), np.ones((M, 2, 2))), first=(2, 4, 4),
            match=r"node 'n1' \(LIF\) must have the same v_leak at all positions of a feature map"),
        bad(nir.Linear(W), nir.Linear(V), match=r"node 'n1' \(Linear\) is before the Output"),
        bad(nir.Linear(W), nir.Linear(V), cuba(), match=r"node 'n0' \(Linear\) cannot be before 'n1'"),
        bad(cuba(), match=r"node 'n0' \(CubaLIF\) must get its input through weights"),
        *[
            bad(nir.Linear(W), node, cuba(), match=rf"node 'n1' \({type(node).__name__}\) cannot be directly before the neurons 'n2'")
            for node in (nir.Delay(np.ones(M)), nir.Threshold(np.ones(M)), nir.SumPool2d(2, 2, 0), nir.AvgPool2d(2, 2, 0), nir.I(np.ones(M)))
        ],
        bad(nir.Linear(W), nir.IF(np.ones(M), np.ones(M)), cuba(), match=r"node 'n2' \(CubaLIF\) must get its input through weights"),
        bad(nir.Linear(W), chain(nir.Linear(V), cuba()), cuba(), match=r"node 'n2' \(CubaLIF\) must get its input through weights"),
        bad(nir.Linear(W), nir.Flatten(np.array([M]), 1), cuba(), match=r"node 'n1' \(Flatten\) must flatten all axes"),
        bad(nir.Linear(W), nir.Delay(np.ones(M)), nir.Scale(np.ones(M)), cuba(), match=r"node 'n1' \(Delay\) cannot be directly before the neurons 'n3'"),
        bad(nir.Scale(np.ones(M)), cuba(), match=r"node 'n1' \(CubaLIF\) must get its input through weights"),
        bad(nir.Scale(np.ones(3)), nir.Linear(W), cuba(), match=r"node 'n0' \(Scale\) must have scale of the shape .* = \(6,\), got \(3,\)"),
        bad(nir.Scale(np.full(N, 1e300)), nir.Linear(W), cuba(), match=r"node 'n1' \(Linear\) must have a scale before it that leaves the weights finite"),
        bad(nir.Scale(np.ones(N)), nir.Threshold(np.ones(N)), nir.Linear(W), cuba(), match=r"node 'n1' \(Threshold\) must not have a Scale before it"),
        bad(nir.Scale(np.arange(32.0).reshape(2, 4, 4)), conv(), cuba((M, 2, 2)), first=(2, 4, 4),
            match=r"node 'n1' \(Conv2d\) must have the same scale before it at all positions"),
        bad(nir.Delay(-np.ones(N)), nir.Linear(W), cuba(), match=r"node 'n0' \(Delay\) must have delays from 0 to 100,000 steps of 0.001 s, got -1 to -1 s"),
        bad(nir.Delay(np.full(N, 1e9)), nir.Linear(W), cuba(), match=r"node 'n0' \(Delay\) must have delays from 0 to 100,000 steps"),
        bad(nir.Delay(np.ones(N)), nir.Threshold(np.ones(N)), nir.Linear(W), cuba(), match=r"node 'n1' \(Threshold\) must not have a Delay before it"),
        bad(nir.Delay(np.arange(32.0).reshape(2, 4, 4)), conv(), cuba((M, 2, 2)), first=(2, 4, 4),
            match=r"node 'n1' \(Conv2d\) must have the same delay before it at all positions"),
        bad(nir.Linear(W), nir.Scale(np.ones(3)), cuba(), match=r"node 'n1' \(Scale\) must have scale of the shape .* = \(4,\), got \(3,\)"),
        bad(nir.Linear(W), nir.Scale(np.array([1, np.nan, 1, 1])), cuba(), match=r"node 'n1' \(Scale\) must have scale of finite real numbers"),
        bad(nir.Linear(W), nir.Scale(np.full(M, 1e300)), cuba(), match=r"node 'n1' \(Scale\) must have a scale that leaves the weights finite"),
        bad(
            conv(), nir.Scale(np.arange(16.0).reshape(M, 2, 2)), cuba((M, 2, 2)), first=(2, 4, 4),
            match=r"node 'n1' \(Scale\) must have the same scale at all positions of a feature map",
        ),
        bad(
            conv(), nir.AvgPool2d(2, 2, 0), cuba((M, 1, 1)), first=(2, 4, 4),
            match=r"node 'n1' \(AvgPool2d\) cannot be directly before the neurons 'n2'",
        ),
        bad(nir.Linear(W), chain(nir.Linear(W), cuba()), match=r"node 'n0' \(Linear\) cannot be before 'n1\.n0'"),
        bad(nir.Linear(W), cuba(), first=(2, 3), match=r"node 'n0' \(Linear\) has 6 inputs and 0 spatial axes"),
        bad(nir.Linear(W), cuba(), first=7, match=r"node 'n0' \(Linear\) has 6 inputs and 0 spatial axes, but its input \(\*spatial, channels\) has the shape \(7,\)"),
        bad(nir.Linear(np.ones((2, M, N))), cuba(), match=r"node 'n0' \(Linear\) must have weights of the shape \(out, in\), got \(2, 4, 6\)"),
        bad(conv(), cuba((M, 2, 2)), first=(3, 4, 4), match=r"node 'n0' \(Conv2d\) has 2 inputs and 2 spatial axes"),
        bad(conv(), cuba((M, 2, 2)), first=(2, 2, 4), match=r"node 'n0' \(Conv2d\) must not be larger than its input"),
        bad(conv(groups=2), cuba((M, 2, 2)), first=(2, 4, 4), match=r"node 'n0' \(Conv2d\) must have groups of 1, got 2"),
        bad(conv(dilation=np.array([1, 2])), cuba((M, 2, 2)), first=(2, 4, 4), match=r"node 'n0' \(Conv2d\) must have dilation of 1"),
        bad(conv(stride=0), cuba((M, 2, 2)), first=(2, 4, 4), match=r"node 'n0' \(Conv2d\) must have stride of one whole number >= 1"),
        bad(conv(padding="same", stride=2), cuba((M, 2, 2)), first=(2, 4, 4), match=r"node 'n0' \(Conv2d\) must have padding of numbers"),
        bad(conv(), nir.CubaLI(*np.ones((4, M, 2, 2))), first=(2, 4, 4), match=r"node 'n1' \(CubaLI\) .*does not spike"),
        bad(nir.Threshold(np.ones(3)), nir.Linear(W), cuba(), match=r"node 'n0' \(Threshold\) must have threshold of the shape .* = \(6,\), got \(3,\)"),
        bad(
            nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 0])), conv(weight=np.ones((M, 2, 1, 1))), cuba((M, 2, 2)), first=(2, 4, 4),
            match=r"node 'n0' \(AvgPool2d\) must not pad",
        ),
        bad(
            nir.AvgPool2d(np.array([5, 2]), np.array([2, 2]), np.array([0, 0])), conv(), cuba((M, 2, 2)), first=(2, 4, 4),
            match=r"node 'n0' \(AvgPool2d\) must get .* at least its window",
        ),
        bad(nir.Flatten(np.array([2, 3]), 1), nir.Linear(W), cuba(), first=(2, 3), match=r"node 'n0' \(Flatten\) must flatten all axes"),
        bad(nir.Flatten(np.array([2, 2]), 0), nir.Linear(W), cuba(), first=(2, 2), match=r"node 'n1' \(Linear\) must have 4 inputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(graph, match):
    with pytest.raises(ValueError, match=match) as error:
        from_nir(graph, dt=DT)
    assert "from_nir reads" in str(error.value)


@pytest.mark.parametrize("first", ["n0", "n1", "in"])
def test_a_field_that_is_missing_is_named_with_its_node(first):
    """Each field of a convolution, of its neurons and of the input."""
    whole = chain(conv(), cuba((M, 2, 2)), first=(2, 4, 4))
    optional = {"bias", "input_shape", "metadata", "input_type", "v_reset", "w_in"} | (
        {"output_type"} if first != "in" else set()
    )
    for field in sorted(vars(whole.nodes[first]).keys() - optional):
        graph = copy.deepcopy(whole)
        vars(graph.nodes[first]).pop(field)
        with pytest.raises(ValueError, match=rf"^node '{first}' \(\w+\) must have "):
            from_nir(graph, dt=DT)


def test_euler_s_step_must_be_shorter_than_its_time_constants():
    with pytest.raises(
        ValueError,
        match=r"node 'n1' \(CubaLIF\) has a tau_mem that must be at least dt = 0\.02 s under Euler's scheme, got 0\.01 s",
    ):
        from_nir(chain(nir.Linear(W), cuba()), dt=20e-3, scheme="euler")
    network = from_nir(
        chain(nir.Linear(W), cuba(tau_syn=DT)), dt=DT, scheme="euler"
    )  # a current that lasts for one step
    assert np.exp(-DT / network.layers[0].neuron.tau_syn) == 0


def test_edges_are_checked():
    def broken(edit):
        graph = chain(nir.Linear(W), cuba(), nir.Linear(V), cuba())
        edit(graph)
        return graph

    more = lambda *edges: lambda g: g.edges.extend(edges)

    def loops(*paths):
        """Further weights, each between two of the nodes that a path names."""

        def edit(g):
            for name in {name for path in paths for name in path[1:-1]}:
                g.nodes[name] = nir.Linear(V if paths[0][0] != "in" else W)
            g.edges.extend(edge for path in paths for edge in itertools.pairwise(path))

        return edit

    def delayed_loop(g):
        g.nodes |= {"a": nir.Linear(V), "d": nir.Delay(np.ones(M))}
        g.edges += [("n3", "a"), ("a", "d"), ("d", "n3")]

    for edit, match in [
        (
            more(("n1", "nowhere")),
            r"edges must join two of the graph's nodes, got \('n1', 'nowhere'\)",
        ),
        (more(("n0", "n1")), "edges must be given once, got 'n0' to 'n1' twice"),
        (
            lambda g: g.edges.remove(("in", "n0")),
            r"node 'n0' \(Linear\) must come from one node, got \[\]",
        ),
        (
            lambda g: g.edges.remove(("n1", "n2")),
            r"node 'n2' \(Linear\) must come from one node, got \[\]",
        ),
        (
            lambda g: g.edges.remove(("n3", "out")),
            r"node 'out' \(Output\) must come from one node, got \[\]",
        ),
        (lambda g: g.nodes.pop("n2"), "edges must join"),
        (
            lambda g: g.nodes.update(second=nir.Input({"input": np.array([N])})),
            r"must have one Input, got 2: \['in', 'second'\]",
        ),
        (
            lambda g: g.nodes.update(alone=nir.Linear(V)),
            r"node 'alone' \(Linear\) is on no path from the Input to the Output",
        ),
        (
            loops(("n3", "a", "n1")),
            r"node 'n1' \(CubaLIF\) gets input from \['in', 'n3'\]; only the last neurons may have several",
        ),
        (
            loops(("in", "a", "n3")),
            r"node 'n3' \(CubaLIF\) must get input from one population, or once from each spiking population, \['n1'\]",
        ),
        (
            loops(("n3", "a", "n3"), ("n3", "b", "n3")),
            r"node 'n3' \(CubaLIF\) must have one set of weights to itself",
        ),
        (loops(("n3", "a", "b", "n3")), r"node 'n3' \(CubaLIF\) .*nothing else in the loop"),
        (delayed_loop, r"node 'd' \(Delay\) cannot be in the loop of the neurons 'n3'"),
        (loops(("n1", "a", "n3"), ("a", "n1")), r"node 'a' \(Linear\) must go to one node"),
    ]:
        with pytest.raises(ValueError, match=match):
            from_nir(broken(edit), dt=DT)


def test_neurons_in_a_circle():
    graph = nir.NIRGraph(
        {
            "in": nir.Input({"input": np.array([M])}), "out": nir.Output({"output": np.array([M])}),
            "w": nir.Linear(V), "a": cuba(), "v": nir.Linear(V), "b": cuba(),
        },
        [("in", "out"), ("a", "w"), ("w", "b"), ("b", "v"), ("v", "a")],
        type_check=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"node 'in' \(Input\) is before the Output"):
        from_nir(graph, dt=DT)
    graph.edges[0] = ("b", "out")
    with pytest.raises(ValueError, match=r"node 'b' \(CubaLIF\) is in a loop with other neurons"):
        from_nir(graph, dt=DT)


def test_metadata_counts_only_where_it_agrees():
    """The values of an edited node count; its metadata are not trusted."""
    network = Sequential(SpikingDense(N, M, init=weights, trainable=("tau_mem",), rngs=nnx.Rngs(0)))
    graph = to_nir(network)
    graph.nodes["layer0"].tau_mem = graph.nodes["layer0"].tau_mem * 2
    graph.nodes["layer0"].v_threshold = graph.nodes["layer0"].v_threshold * 3
    layer = from_nir(graph).layers[0]
    np.testing.assert_allclose(layer.neuron.tau_mem, 40e-3, rtol=1e-6)
    assert layer.neuron.theta == 3.0
    assert not layer.log_tau
    for junk in (
        None,
        "x",
        3,
        np.array([object()]),
        np.ones((7, 7)),
        np.full(M, np.nan),
        b"x",
        {},
        [1.0],
    ):
        graph = to_nir(network)
        graph.nodes["layer0"].metadata |= dict.fromkeys(graph.nodes["layer0"].metadata, junk)
        neuron = from_nir(graph).layers[0].neuron
        np.testing.assert_allclose(neuron.tau_mem, 20e-3, rtol=1e-6)  # its logarithm was in float32
        assert dataclasses.replace(neuron, tau_mem=20e-3) == LIF()
        graph.nodes["input"].metadata["features"] = graph.nodes["layer0_kernel"].metadata[
            "dtype"
        ] = junk
        assert len(from_nir(graph).layers) == 1


def weights(key, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


BASE = to_nir(
    Sequential(
        SpikingConv2d(2, 3, kernel_size=3, recurrent_kernel_size=3, init=weights, rngs=nnx.Rngs(0)), Pool(2), Flatten(),
        SpikingDense(6, 4, recurrent=True, init=weights, rngs=nnx.Rngs(0)), Readout(4, 2, kernel_init=weights, rngs=nnx.Rngs(0)),
    ),
    features=(6, 4, 2),
)  # fmt: skip
JUNK = st.sampled_from(
    [None, "same", "x", 0, -1, 2, 1.5, 10**30, np.nan, np.inf, (), [], np.zeros(0), np.ones((2, 3)), np.ones(3), np.array([object()]), np.full(4, np.nan),
     np.array("x"), np.ones((1,) * 40), object(), {}, True]
)  # fmt: skip


@settings(max_examples=100)
@given(st.data())
def test_any_broken_graph_is_a_value_error(data):
    graph = copy.deepcopy(BASE)
    names = list(graph.nodes)
    others = [nir.Threshold(np.ones(3)), nir.Scale(np.ones(3)), *BASE.nodes.values(), None]
    for _ in range(data.draw(st.integers(1, 3))):
        what = data.draw(
            st.sampled_from(["field", "field", "field", "no field", "edge", "no edge", "node"])
        )
        name = data.draw(st.sampled_from(names))
        if what == "field" and (node := graph.nodes[name]) is not None:
            setattr(node, data.draw(st.sampled_from(sorted(vars(node)))), data.draw(JUNK))
        elif what == "no field" and (node := graph.nodes[name]) is not None:
            vars(node).pop(data.draw(st.sampled_from(sorted(vars(node)))))
        elif what == "edge":
            graph.edges.append((name, data.draw(st.sampled_from([*names, "nowhere"]))))
        elif what == "no edge" and graph.edges:
            graph.edges.pop(data.draw(st.integers(0, len(graph.edges) - 1)))
        elif what == "node":
            graph.nodes[name] = copy.deepcopy(data.draw(st.sampled_from(others)))
    with contextlib.suppress(ValueError, TypeError):  # and no other error
        assert isinstance(from_nir(graph), Sequential)
