"""Graphs have the same spikes as the networks from which they were written.

NIR's own equations are run node by node in numpy.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from _support import require
from flax import nnx

from snnjax import models
from snnjax.dynamics import LIF, LeakyIntegrator
from snnjax.exchange import from_nir, to_nir
from snnjax.nn import Flatten, Pool, Readout, Sequential, SpikingConv2d, SpikingDense

require("nir")


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
        if kind[name].startswith("Cuba"):
            v[name] = np.array(
                node.metadata["initial"] if kind[name] == "CubaLI" else 0.0
            ) * np.ones(node.v_leak.shape)
            current[name], trains[name] = np.zeros(node.v_leak.shape), []
    decay = (
        (lambda tau: np.exp(-dt / tau)) if scheme == "exponential" else (lambda tau: 1 - dt / tau)
    )
    for step in x:
        spikes = {
            name: (u > graph.nodes[name].v_threshold).astype(float)
            for name, u in v.items()
            if kind[name] == "CubaLIF"
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
            lm, ls = decay(node.tau_mem), decay(node.tau_syn)
            free = lm * v[name] + (1 - lm) * (node.v_leak + node.r * current[name])
            if name in spikes:
                trains[name].append(spikes[name])
                v[name] = np.where(spikes[name] == 1, node.v_reset, free)
            else:
                trains[name].append(free)
                v[name] = free
            current[name] = ls * current[name] + (1 - ls) * node.w_in * s
    return {name: np.array(train) for name, train in trains.items()}


def apply(node, s):
    """A stateless node, by brute force."""
    kind = type(node).__name__
    if kind == "Linear":
        return node.weight.astype(float) @ s
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
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["exponential", "euler"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_s_numbers_are_the_network_s_dynamics(name, scheme, x64):
    network, features = NETWORKS[name]()
    x = np.random.default_rng(1).poisson(0.1, (50, *features)).astype(float)
    graph = to_nir(network, features=features, scheme=scheme)
    for node in graph.nodes.values():
        if hasattr(node, "weight"):
            node.weight = node.weight.astype(np.float64)
    readout, activity = from_nir(graph)(jnp.asarray(x)[:, None])
    shape = tuple(graph.nodes["input"].output_type["output"])
    first = np.moveaxis(x.reshape(50, *shape[1:], shape[0]), -1, 1)
    trains = run(graph, first, dt=graph.metadata["dt"], scheme=scheme)
    *spiking, last = trains.values()
    for z, expected in zip(activity.spikes, spiking, strict=True):
        assert 0.005 < expected.mean() < 0.5
        np.testing.assert_array_equal(np.moveaxis(z[:, 0], -1, 1), expected)
    np.testing.assert_allclose(readout[:, 0], last, rtol=0, atol=1e-12 * np.abs(last).max())


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
