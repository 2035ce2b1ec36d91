"""A network as a NIR graph; `snnjax.exchange.nir_convention` says what its numbers mean.

Nodes are named after the network's layers: `layer2_kernel`, `layer2` and, with recurrence, `layer2_recurrent_kernel` in a loop with `layer2`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from snnjax import _check
from snnjax.dynamics import LIF, LeakyIntegrator
from snnjax.exchange import nir_convention as convention
from snnjax.exchange.nir_convention import Scheme
from snnjax.nn import Dropout, Flatten, Pool, Readout, Reshape, Sequential, SpikingConv, SpikingConv1d, SpikingConv2d, SpikingDense
from snnjax.surrogate import SpikeFunction

EXPORTED = (
    "to_nir writes SpikingDense and SpikingConv over one or two axes with LIF neurons, Readout with LeakyIntegrator, Pool over two axes, Flatten, Dropout "
    "(which does nothing outside training) and a Reshape in front"
)
_CONVOLUTIONS = (SpikingConv, SpikingConv1d, SpikingConv2d)


def to_nir(network: Sequential, *, features: Sequence[int] | None = None, scheme: Scheme = "exponential") -> Any:
    """A network as a `nir.NIRGraph`. `from_nir` gives it back with the same parameters, bit for bit, and the same spikes.

    Args:
      network: dense, convolutional (one or two axes) or recurrent layers of LIF neurons, with or without a readout of leaky integrators, pooling and skip
        connections.
      features: shape of the network's input, (*spatial, channels); needed where a convolution's input size is not known without.
      scheme: how a reader will step through time: `"exponential"`, with the true time constants, or `"euler"`, with time constants that give Euler's step of
        this network's dt the same decays; `snnjax.exchange.nir_convention` has the formulas, and what else readers do differently.

    Returns:
      The graph. Its `Input` has channels first, (channels, *spatial); `metadata` has `dt` (s) and `scheme`. Dropout is left out, and a surrogate
      derivative that is not one of `snnjax.surrogate` comes back as the default.

    Raises:
      ValueError, TypeError: the network has what NIR cannot say; names the layer, or the argument.   ImportError: the package nir is not installed.

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 8, init=FluctuationDriven(nu=5.0), recurrent=True, rngs=rngs)
    >>> graph = to_nir(Sequential(hidden, Readout(8, 3, rngs=rngs)))
    >>> [f"{name}: {type(node).__name__}" for name, node in graph.nodes.items()]  # doctest: +NORMALIZE_WHITESPACE
    ['input: Input', 'layer0_kernel: Linear', 'layer0: CubaLIF', 'layer0_recurrent_kernel: Linear', 'layer1_kernel: Linear', 'layer1: CubaLI', 'output: Output']
    >>> graph.metadata["dt"], graph.nodes["layer0_kernel"].weight.shape, float(graph.nodes["layer0"].tau_mem[0])
    (0.002, (8, 20), 0.02)
    """
    convention.check_scheme(scheme)
    if not isinstance(network, Sequential):
        raise TypeError(f"network must be a snnjax.nn.Sequential, got {type(network).__name__}")
    if features is not None:
        features = tuple(_check.integer("features", n, at_least=1) for n in features)
    writer = _Writer(network, features, scheme)
    for k in range(len(network.layers)):
        writer.add(k)
    return writer.graph()


class _Writer:
    """The graph so far, and what leaves its last node."""

    def __init__(self, network: Sequential, features: tuple[int | None, ...] | None, scheme: Scheme) -> None:
        self.nir = convention.import_nir()
        layers = list(network.layers)
        self.network = network
        self.scheme: Scheme = scheme
        if not hasattr(layers[-1], "neuron"):
            self._fail(len(layers) - 1, "the last layer must be one of neurons")
        self.dt = layers[-1].neuron.dt
        self.spiking = [k for k, layer in enumerate(layers) if layer.spiking]
        shape = layers[0].in_shape if features is None else features
        if shape is None or None in shape:
            raise ValueError(
                f"features must be given, the shape (*spatial, channels) of the network's input; from the layers it is {shape}"
            )
        metadata = {}
        if isinstance(layers[0], Reshape):  # NIR knows none: the input comes in the shape that it would give
            given, shape = shape, self._shape_after(0, shape)
            metadata = {"features": np.array(given)} if given != shape else {}
        self.shape: tuple[int, ...] = shape  # type: ignore[assignment]  # of what leaves the last node, (*spatial, channels)
        self.flattened: tuple[int, ...] | None = None  # its shape before a Flatten
        self.binary = False  # whether it is spikes
        self.last = "input"
        self.nodes: dict[str, Any] = {"input": self.nir.Input({"input": self._first(shape)}, metadata=metadata)}
        self.edges: list[tuple[str, str]] = []
        self.outputs: dict[int, tuple[int, ...]] = {}  # shape of each spiking layer's output

    def graph(self) -> Any:
        self._append("output", self.nir.Output({"output": self._first(self.shape)}))
        metadata = {"dt": float(self.dt), "scheme": self.scheme, "source": "snnjax"}
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    def add(self, k: int) -> None:
        """Layer k, as nodes and edges."""
        layer = self.network.layers[k]
        if isinstance(layer, Dropout) or (k == 0 and isinstance(layer, Reshape)):
            return
        if self.network.skip and self.spiking[-1] < k < len(self.network.layers) - 1:
            return  # the last layer gets spikes alone
        if type(layer) is Flatten:
            if len(self.shape) > 1:
                self._append(f"layer{k}", self._flatten(self.shape))
                self.flattened, self.shape = self.shape, (math.prod(self.shape),)
        elif type(layer) is Pool:
            self._pool(k, layer)
        elif type(layer) in (SpikingDense, Readout, *_CONVOLUTIONS):
            self._neurons(k, layer)
        else:
            self._fail(k, "NIR has no such layer")

    def _neurons(self, k: int, layer: Any) -> None:
        neuron, name = layer.neuron, f"layer{k}"
        expected = LIF if layer.spiking else LeakyIntegrator
        if type(neuron) is not expected:
            self._fail(k, f"its neuron must be a {expected.__name__}, got {type(neuron).__name__}, which NIR has not")
        kernel, recurrent = _array(layer.kernel), None if layer.recurrent_kernel is None else _array(layer.recurrent_kernel)
        convolution = type(layer) in _CONVOLUTIONS
        if kernel.ndim != 2 + (len(layer.kernel_size) if convolution else 0):
            self._fail(k, f"it must be one layer, and its kernel of shape {kernel.shape} is that of an ensemble; pick a member")
        skip = self.network.skip and k == len(self.network.layers) - 1
        if skip:
            self._connect_all(name, kernel)
        elif convolution:
            self._append(f"{name}_kernel", self._convolution(k, layer, kernel))
        else:
            self._append(f"{name}_kernel", self._linear(kernel, self.flattened))
        self.shape = (layer.out_features,) if skip else self._shape_after(k, self.shape)
        node = self._node(k, layer, neuron)
        if skip:
            self.nodes[name], self.last = node, name
        else:
            self._append(name, node)
        if recurrent is not None:
            loop = f"{name}_recurrent_kernel"
            self.nodes[loop] = self._conv_node(recurrent, self.shape[:-1], 1, "same") if convolution else self._linear(recurrent, None)
            self.edges += [(name, loop), (loop, name)]
        self.flattened, self.binary = None, layer.spiking
        if layer.spiking:
            self.outputs[k] = self.shape

    def _connect_all(self, name: str, kernel: np.ndarray) -> None:
        """Every spiking layer to the last one, each through its own rows of the kernel; NIR adds up what comes in."""
        ends = itertools.accumulate(math.prod(shape) for shape in self.outputs.values())
        for (k, shape), part in zip(self.outputs.items(), np.split(kernel, list(ends)[:-1]), strict=True):
            source, weights = f"layer{k}", f"{name}_kernel{k}"
            if len(shape) > 1:
                self.nodes[f"{source}_flat"] = self._flatten(shape)
                self.edges.append((source, f"{source}_flat"))
                source = f"{source}_flat"
            self.nodes[weights] = self._linear(part, shape)
            self.edges += [(source, weights), (weights, name)]

    def _linear(self, kernel: np.ndarray, inputs: tuple[int, ...] | None) -> Any:
        """Weights (out, in), their inputs in NIR's order where they were of the shape `inputs` before they were flattened."""
        if inputs is not None:
            kernel = np.moveaxis(kernel.reshape(*inputs, -1), -2, 0).reshape(kernel.shape)
        return self.nir.Linear(np.ascontiguousarray(_storable(kernel).T), metadata=_kind(kernel))

    def _convolution(self, k: int, layer: Any, kernel: np.ndarray) -> Any:
        spatial, axes = self.shape[:-1], len(layer.kernel_size)
        if axes > 2:
            self._fail(k, f"NIR has convolutions over one or two axes, got {axes}")
        padding: Any = layer.padding
        if padding == "valid":
            padding = (0,) * axes
        elif padding == "same" and any(s > 1 for s in layer.stride):
            pads = jax.lax.padtype_to_pads(spatial, layer.kernel_size, layer.stride, "SAME")
            if any(low != high for low, high in pads):
                self._fail(k, f"padding 'same' with stride {layer.stride} is {pads} (before, after) here, and NIR pads both ends alike")
            padding = tuple(low for low, _ in pads)
        node = self._conv_node(kernel, spatial, layer.stride, padding)
        found, expected = tuple(int(n) for n in node.output_type["output"]), self._shape_after(k, self.shape)
        if found != (expected[-1], *expected[:-1]):  # as nir 1.0 does, and then refuses the graph
            self._fail(k, f"the package nir takes {expected[:-1]} positions for {found[1:]}; it wants one kernel size for both axes")
        return node

    def _conv_node(self, kernel: np.ndarray, spatial: tuple[int, ...], stride: Any, padding: Any) -> Any:
        axes = kernel.ndim - 2
        weight = np.ascontiguousarray(np.moveaxis(_storable(kernel), (-1, -2), (0, 1)))
        one = (lambda v: v if isinstance(v, str | int) else v[0]) if axes == 1 else lambda v: v
        make = self.nir.Conv1d if axes == 1 else self.nir.Conv2d
        bias = np.zeros(len(weight), weight.dtype)
        return make(one(spatial), weight, one(stride), one(padding), 1, 1, bias, metadata=_kind(kernel))

    def _pool(self, k: int, layer: Pool) -> None:
        if len(self.shape) != 3:
            self._fail(k, f"NIR pools over two axes, got {len(self.shape) - 1}")
        if layer.kind == "max" and not self.binary:
            self._fail(k, "NIR has no maximum; of spikes it is a sum and a threshold, and what comes here is not spikes")
        window, stride = (np.array(v * 2 if len(v) == 1 else v) for v in (layer.window, layer.stride))
        make = self.nir.SumPool2d if layer.kind == "max" else self.nir.AvgPool2d
        self._append(f"layer{k}", make(window, stride, np.zeros(2, int)))
        self.shape = self._shape_after(k, self.shape)
        if layer.kind == "max":
            shape = tuple(self._first(self.shape))
            self._append(f"layer{k}_threshold", self.nir.Threshold(np.full(shape, convention.POOL_THRESHOLD, np.float32)))
        self.binary = layer.kind == "max"

    def _node(self, k: int, layer: Any, neuron: Any) -> Any:
        """The neurons, every parameter once a neuron, and in the metadata as it is held."""
        spiking = layer.spiking
        names = ("tau_mem", "tau_syn", *(("theta", "u_reset") if spiking else ("initial",)))
        held = {name: getattr(layer._neuron, name) for name in names}
        metadata: dict[str, Any] = {name: _as_numpy(value)[()] for name, value in held.items()}
        metadata |= {f"log_{name}": _array(param) for name, param in layer.log_tau.items()}
        lists = {"jax": [name for name, value in held.items() if isinstance(value, jax.Array)], "trainable": list(layer.log_tau)}
        metadata |= {which: " ".join(of) for which, of in lists.items() if of}
        whole = lambda v: convention.channels_first(np.broadcast_to(_as_numpy(v), self.shape))  # noqa: E731
        tau = {
            name: whole(convention.tau_to_nir(_as_numpy(getattr(neuron, name)), self.dt, self.scheme)) for name in ("tau_mem", "tau_syn")
        }
        w_in, ones = 1 / convention.input_gain(tau["tau_syn"], self.dt, self.scheme), np.ones_like(tau["tau_mem"])
        if not spiking:
            return self.nir.CubaLI(**tau, r=ones, v_leak=0 * ones, w_in=w_in, metadata=metadata)
        if not isinstance(neuron.spike, SpikeFunction):
            self._fail(k, f"its spike must be a SpikeFunction, whose forward value is a step, got {neuron.spike!r}")
        if neuron.spike.name in convention.SURROGATES:
            metadata |= {"surrogate": neuron.spike.name, "steepness": np.array([float(v) for v in neuron.spike.steepness])}
        metadata |= {"reset": neuron.reset, "reset_grad": str(neuron.reset_grad)}
        levels = {
            "v_leak": 0 * ones,
            "v_threshold": whole(neuron.theta),
            "v_reset": whole(neuron.u_reset if neuron.reset == "to_value" else 0.0),
        }
        return self.nir.CubaLIF(**tau, r=ones, **levels, w_in=w_in, metadata=metadata)

    def _flatten(self, shape: tuple[int, ...]) -> Any:
        return self.nir.Flatten({"input": self._first(shape)}, start_dim=0, end_dim=-1)

    def _append(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges.append((self.last, name))
        self.last = name

    def _first(self, shape: Sequence[int | None]) -> np.ndarray:
        return np.array([shape[-1], *shape[:-1]])

    def _shape_after(self, k: int, shape: Any) -> tuple[int, ...]:
        try:
            return self.network.layers[k].feature_shape(shape)
        except ValueError as error:
            self._fail(k, str(error))

    def _fail(self, k: int, what: str) -> NoReturn:
        raise ValueError(f"layer {k}, a {type(self.network.layers[k]).__name__}, cannot be written as NIR: {what}. {EXPORTED}")


def _as_numpy(value: Any) -> np.ndarray:
    """A parameter of a neuron; plain numbers in float64."""
    return np.asarray(value, np.float64 if isinstance(value, int | float) else None)


def _array(param: Any) -> np.ndarray:
    return np.asarray(param[...])


def _storable(a: np.ndarray) -> np.ndarray:
    """As a type that every reader knows: bfloat16 as float32, which holds all its values."""
    return a.astype(np.float32) if a.dtype.kind == "V" else a


def _kind(a: np.ndarray) -> dict[str, Any]:
    return {"dtype": a.dtype.name} if a.dtype.kind == "V" else {}
