"""Graphs have the same spikes as the networks from which they were written.

NIR's own equations are run node by node in numpy.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from _support import forward, require
from flax import nnx

from snnjax import models
from snnjax.dynamics import IF, LIF, Leaky, LeakyIntegrator
from snnjax.exchange import from_nir, to_nir
from snnjax.exchange._subgraphs import inlined
from snnjax.nn import Flatten, Pool, Readout, Sequential, SpikingConv2d, SpikingDense
from snnjax.nn._threshold import Threshold

require("nir")
import nir  # noqa: E402

SPIKING = ("CubaLIF", "LIF", "IF")


def run(graph, x, *, dt, scheme):
    """Outputs (time, *shape) of every population for inputs x (time, channels, *spatial).

    They are in float64, and computed only from the numbers of the graph. Each equation is solved
    with constant input between two steps. Order and reset are those of snnjax, as described in
    `snnjax.exchange`.
    """
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    kind = {name: type(node).__name__ for name, node in graph.nodes.items()}
    v, current, trains = {}, {}, {}
    for name, node in graph.nodes.items():
        if kind[name] in (*SPIKING, "CubaLI"):
            v[name] = np.array(node.metadata.get("initial", 0.0)) * np.ones(node.r.shape)
            current[name], trains[name] = np.zeros(node.r.shape), []
    decay = (
        (lambda tau: np.exp(-dt / tau)) if scheme == "exponential" else (lambda tau: 1 - dt / tau)
    )
    for step in x:
        spikes = {
            name: (u > graph.nodes[name].v_threshold).astype(float)
            for name, u in v.items()
            if kind[name] in SPIKING
        }

        def out(name, step=step, spikes=spikes):
            if name in spikes:
                return spikes[name]
            if kind[name] == "Input":
                return step
            return apply(graph.nodes[name], sum(out(s) for s in sources[name]))

        arriving = {name: sum(out(s) for s in sources[name]) for name in v}
        for name, s in arriving.items():
            node = graph.nodes[name]
            if kind[name] == "IF":
                free = v[name] + node.r * s
            elif kind[name] == "LIF":
                lm = decay(node.tau)
                free = lm * v[name] + (1 - lm) * (node.v_leak + node.r * s)
            else:
                lm, ls = decay(node.tau_mem), decay(node.tau_syn)
                free = lm * v[name] + (1 - lm) * (node.v_leak + node.r * current[name])
                current[name] = ls * current[name] + (1 - ls) * node.w_in * s
            if name in spikes:
                trains[name].append(spikes[name])
                lowered = node.v_reset
                if node.metadata.get("reset") == "subtractive":
                    lowered = free - node.v_threshold
                v[name] = np.where(spikes[name] == 1, lowered, free)
            else:
                trains[name].append(free)
                v[name] = free
    return {name: np.array(train) for name, train in trains.items()}


def apply(node, s):
    """A stateless node, by brute force."""
    kind = type(node).__name__
    if kind in ("Linear", "Affine"):
        return node.weight.astype(float) @ s + (node.bias if kind == "Affine" else 0.0)
    if kind == "Scale":
        return node.scale * s
    if kind == "Flatten":
        return s.reshape(-1)
    if kind == "Threshold":
        return (s > node.threshold).astype(float)
    if kind in ("SumPool2d", "AvgPool2d"):
        (kh, kw), (sh, sw) = node.kernel_size, node.stride
        rows, columns = range(0, s.shape[1] - kh + 1, sh), range(0, s.shape[2] - kw + 1, sw)
        total = np.array(
            [[s[:, i : i + kh, j : j + kw].sum((1, 2)) for j in columns] for i in rows]
        ).transpose(2, 0, 1)
        return total if kind == "SumPool2d" else total / (kh * kw)
    axes = node.weight.ndim - 2
    weight, stride = node.weight.astype(float), np.broadcast_to(node.stride, axes)
    before = (
        [(k - 1) // 2 for k in weight.shape[2:]]
        if node.padding == "same"
        else np.broadcast_to(node.padding, axes)
    )
    after = [k // 2 for k in weight.shape[2:]] if node.padding == "same" else before
    s = np.pad(s, [(0, 0), *zip(before, after, strict=True)])
    sizes = [
        (n - k) // j + 1 for n, k, j in zip(s.shape[1:], weight.shape[2:], stride, strict=True)
    ]
    result = np.zeros((len(weight), *sizes))
    for p in np.ndindex(*sizes):
        window = tuple(
            slice(i * j, i * j + k) for i, j, k in zip(p, stride, weight.shape[2:], strict=True)
        )
        result[(slice(None), *p)] = np.tensordot(weight, s[(slice(None), *window)], s.ndim)
    return result + node.bias.reshape(-1, *[1] * axes)


def draw(key, shape, dtype=jnp.float32):
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(0.8, 5.0, shape) / np.sqrt(np.prod(shape[:-1])), dtype)


def options(**kwargs):
    return {"init": draw, "rngs": nnx.Rngs(0), **kwargs}


NETWORKS = {
    "dense": lambda: (models.dense(12, 3, hidden=(16, 10), recurrent=True, **options()), (12,)),
    "skip": lambda: (models.dense(12, 3, hidden=(16, 10), skip=True, **options()), (12,)),
    "line": lambda: (models.build((models.Conv(4, 5, 2), models.Conv(5, 4, 1, "same")), (30, 1), 3, recurrent=True, **options()), (30,)),
    "image": lambda: (
        Sequential(
            SpikingConv2d(2, 4, kernel_size=3, padding=1, recurrent_kernel_size=3, **options()), Pool(2),
            SpikingConv2d(4, 5, kernel_size=2, **options(neuron=LIF(reset="to_value", u_reset=-0.5))), Pool(2, kind="average", stride=1), Flatten(),
            SpikingDense(10, 8, **options(neuron=LIF(tau_mem=np.linspace(5e-3, 40e-3, 8)))), Readout(8, 3, kernel_init=draw, rngs=nnx.Rngs(0)),
        ),
        (9, 7, 2),
    ),
    "biases": lambda: (biased(models.dense(12, 3, hidden=(16, 10), recurrent=True, bias=True, **options())), (12,)),
    "skip with biases": lambda: (biased(models.dense(12, 3, hidden=(16, 10), skip=True, bias=True, **options())), (12,)),
    "no synaptic current": lambda: (
        biased(Sequential(
            SpikingConv2d(2, 4, kernel_size=3, bias=True, **options(neuron=IF(reset="subtractive", duration=0.2))), Pool(2, kind="sum"),
            SpikingConv2d(4, 5, kernel_size=2, recurrent_kernel_size=1, bias=True, **options(neuron=Leaky(theta=0.5))), Flatten(), Threshold(0.5),
            SpikingDense(10, 8, recurrent=True, **options(neuron=IF(reset="to_value", u_reset=-0.3))), Readout(8, 3, bias=True, kernel_init=draw, rngs=nnx.Rngs(0)),
        )),
        (9, 7, 2),
    ),
}  # fmt: skip


def biased(network):
    """The network with biases of both signs."""
    for k, layer in enumerate(network.layers):
        if getattr(layer, "bias", None) is not None:
            values = 0.2 * np.random.default_rng(k).normal(size=layer.units)
            layer.bias[...] = jnp.asarray(values, layer.bias.dtype)
    return network


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_s_numbers_are_the_network_s_dynamics(name, scheme, x64):
    network, features = NETWORKS[name]()
    x = np.random.default_rng(1).poisson(0.1, (50, *features)).astype(float)
    graph = to_nir(network, features=features, scheme=scheme)
    for node in graph.nodes.values():
        if hasattr(node, "weight"):
            node.weight = node.weight.astype(np.float64)
    assert_equal_to_loops(graph, x, dt=graph.metadata["dt"], scheme=scheme)


def assert_equal_to_loops(graph, x, *, dt, scheme):
    """Compare a network that is read from a graph with the graph, for inputs x (time, *shape)."""
    readout, activity = forward(from_nir(graph, dt=dt, scheme=scheme), x[:, None])
    readout = np.asarray(readout)
    shape = tuple(graph.nodes["input"].output_type["output"])
    first = np.moveaxis(x.reshape(len(x), *shape[1:], shape[0]), -1, 1)
    trains = run(inlined(graph), first, dt=dt, scheme=scheme)
    *_, last = trains.values()
    spiking = list(trains.values())[: len(activity.spikes)]
    for z, expected in zip(activity.spikes, spiking, strict=True):
        assert 0.005 < expected.mean() < 0.5
        found = np.moveaxis(np.asarray(z)[:, 0], -1, 1)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    found = np.moveaxis(readout[:, 0], -1, 1).reshape(last.shape)
    np.testing.assert_allclose(found, last, rtol=0, atol=1e-12 * np.abs(last).max())


def neurons(kind, *shape, **fields):
    """Neurons with a threshold of their own each."""
    one = np.ones(shape)
    theta = one * 0.5 + 0.3 * np.random.default_rng(1).random(shape)
    if kind == "IF":
        return nir.IF(fields.get("r", 1.0) * one, theta, -0.1 * one)
    return nir.CubaLIF(
        tau_syn=4e-3 * one, tau_mem=8e-3 * one, r=2 * one, v_leak=0 * one, v_threshold=theta, v_reset=0 * one, w_in=4 * one
    )  # fmt: skip


def drawn(*shape):
    """Weights of a shape, and a bias per output."""
    rng = np.random.default_rng(shape)
    return rng.normal(0.15, 0.5, shape), rng.normal(0.02, 0.05, shape[0])


def conv(size, n_in, n_out, k):
    weight, bias = drawn(n_out, n_in, k, k)
    return nir.Conv2d((size, size), weight, 1, 0, 1, 1, bias)


def affine(n_in, n_out):
    return nir.Affine(*drawn(n_out, n_in))


def chain(*nodes, first, loop=None):
    names = [f"n{k}" for k in range(len(nodes))]
    ends = {
        "input": nir.Input({"input": np.array(first)}),
        "output": nir.Output({"output": np.ones(1)}),
    }
    edges = list(zip(["input", *names], [*names, "output"], strict=True))
    own = {} if loop is None else {"loop": loop}
    edges += [] if loop is None else [(names[-1], "loop"), ("loop", names[-1])]
    everything = {**ends, **dict(zip(names, nodes, strict=True)), **own}
    return nir.NIRGraph(everything, edges, type_check=False)


def pool(kind, window, stride):
    return getattr(nir, kind)(*(np.array([n, n]) for n in (window, stride, 0)))


def flat(*shape):
    return nir.Flatten({"input": np.array(shape)}, start_dim=0)


LI = nir.CubaLI(*(v * np.ones(3) for v in (4e-3, 9e-3, 1.0, 0.0)), w_in=3.0 * np.ones(3))
GRAPHS = {
    "counts, averaged, and scales before weights": lambda: chain(
        conv(8, 2, 3, 3), neurons("IF", 3, 6, 6), pool("SumPool2d", 2, 2), nir.Scale(np.array([1.0, 0.5, -2.0]).reshape(3, 1, 1)),
        pool("AvgPool2d", 2, 1), flat(3, 2, 2), nir.Scale(np.linspace(0.5, 2, 12)), affine(12, 5), nir.Scale(np.array(1.5)), neurons("IF", 5, r=0.7),
        affine(5, 3), LI, first=(2, 8, 8),
    ),
    "flattened before the neurons and before the output": lambda: chain(
        conv(5, 2, 3, 2), nir.Scale(np.array([2.0, 1.0, 0.5]).reshape(3, 1, 1)), flat(3, 4, 4), neurons("Cuba", 48), affine(48, 8), neurons("IF", 8),
        nir.Linear(drawn(4, 8)[0]), flat(4), neurons("Cuba", 4), flat(4), first=(2, 5, 5),
    ),
    "a convolution that is flattened at the end": lambda: chain(
        conv(5, 2, 3, 2), neurons("IF", 3, 4, 4), conv(4, 3, 4, 3), neurons("IF", 4, 2, 2), flat(4, 2, 2), first=(2, 5, 5)
    ),
    "thresholds of counts": lambda: chain(
        conv(8, 2, 3, 3), neurons("IF", 3, 6, 6), pool("SumPool2d", 2, 2), nir.Threshold(np.array([0.5, 1.5, 2.5]).reshape(3, 1, 1) * np.ones((3, 3, 3))),
        pool("SumPool2d", 2, 1), nir.Threshold(np.full((3, 2, 2), 0.5)), flat(3, 2, 2), nir.Threshold(np.full(12, 0.5)), affine(12, 5), neurons("Cuba", 5),
        first=(2, 8, 8),
    ),
    "biases in a loop": lambda: chain(affine(6, 5), neurons("Cuba", 5), first=(6,), loop=affine(5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_all_nodes_equal_loops(name, scheme, x64):
    graph = GRAPHS[name]()
    first = tuple(graph.nodes["input"].output_type["output"])
    x = np.random.default_rng(2).poisson(0.3, (60, *first[1:], first[0])).astype(float)
    assert_equal_to_loops(graph, x, dt=1e-3, scheme=scheme)


def test_graphs_in_graphs_are_read_as_one(x64):
    """A conv with its neurons, and a block of two populations that contains it, as own graphs."""
    parts = conv(6, 2, 3, 3), neurons("IF", 3, 4, 4), flat(3, 4, 4), affine(48, 5), neurons("IF", 5)
    whole = chain(*parts, first=(2, 6, 6))
    inner = chain(*parts[:2], first=(2, 6, 6))
    nested = chain(chain(inner, parts[2], first=(2, 6, 6)), *parts[3:], first=(2, 6, 6))
    x = jnp.asarray(np.random.default_rng(2).poisson(0.3, (60, 2, 6, 6, 2)).astype(float))
    assert list(inlined(nested).nodes) == [
        "input",
        "output",
        "n0.n0.n0",
        "n0.n0.n1",
        "n0.n1",
        "n1",
        "n2",
    ]
    expected, found = (from_nir(graph, dt=1e-3)(x)[0] for graph in (whole, nested))
    assert 0.01 < expected.mean() < 0.5
    np.testing.assert_array_equal(found, expected)


def test_numbers_of_a_node():
    network = Sequential(
        SpikingDense(3, 2, **options(neuron=LIF(tau_mem=20e-3, tau_syn=10e-3, theta=0.8, dt=2e-3)))
    )
    graph = to_nir(network)
    node, w_in = graph.nodes["layer0"], 1 / (1 - np.exp(-0.2))
    for field, value in {
        "tau_mem": 20e-3,
        "tau_syn": 10e-3,
        "r": 1.0,
        "v_leak": 0.0,
        "v_threshold": 0.8,
        "v_reset": 0.0,
        "w_in": w_in,
    }.items():
        np.testing.assert_allclose(
            getattr(node, field), [value] * 2, rtol=1e-15, atol=0, err_msg=field
        )
    np.testing.assert_array_equal(
        graph.nodes["layer0_kernel"].weight, np.asarray(network.layers[0].kernel[...]).T
    )
    assert graph.metadata == {"dt": 2e-3, "scheme": "exponential", "source": "snnjax"}
    euler = to_nir(network, scheme="euler").nodes["layer0"]
    np.testing.assert_allclose(1 - 2e-3 / euler.tau_mem, np.exp(-0.1), rtol=1e-14)
    np.testing.assert_allclose(1 - 2e-3 / euler.tau_syn, np.exp(-0.2), rtol=1e-14)
    np.testing.assert_allclose(euler.w_in * 2e-3 / euler.tau_syn, 1.0, rtol=1e-14)


def test_readout_begins_where_it_did():
    neuron = LeakyIntegrator(tau_mem=0.1, initial=-0.25)
    graph = to_nir(Sequential(Readout(3, 2, neuron=neuron, kernel_init=draw, rngs=nnx.Rngs(0))))
    assert from_nir(graph).layers[0].neuron == neuron
    graph.nodes["layer0"].metadata.clear()  # as from another tool
    assert from_nir(graph).layers[0].neuron.initial == 0.0
