"""A network as a NIR graph; `snnjax.exchange` explains the graph's values.

Nodes are named after the network's layers: `layer2_kernel`, `layer2` and, with recurrence,
`layer2_recurrent_kernel` in a loop with `layer2`. `nir_writer` registers the function that writes
a type of layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jax
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from snnjax import _check, nn
from snnjax.dynamics import IF, LIF, Leaky, LeakyIntegrator
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._nir_convention import Scheme
from snnjax.nn import Sequential
from snnjax.nn._conv import SpikingConv
from snnjax.nn._layer import Shape
from snnjax.nn._neuron_layer import NeuronLayer
from snnjax.nn._per_step import layer_name
from snnjax.nn._synaptic import Synaptic
from snnjax.nn._threshold import Threshold
from snnjax.surrogate import SpikeFunction

if TYPE_CHECKING:
    import nir

EXPORTED = (
    "to_nir writes SpikingDense and SpikingConv over one or two axes with LIF, Leaky or IF "
    "neurons, Readout with LeakyIntegrator, Pool over two axes, Flatten, Dropout (which does "
    "nothing outside training), a Reshape as the first layer, and custom layers with a "
    "snnjax.exchange.nir_writer"
)

L = TypeVar("L", bound=nn.Layer)
_WRITERS: dict[type[nn.Layer], Callable[[NirWriter, Any], None]] = {}


def nir_writer(
    *types: type[L],
) -> Callable[[Callable[[NirWriter, L], None]], Callable[[NirWriter, L], None]]:
    """Register the function that writes layers of the given types for `to_nir`.

    A type that is derived from a registered one is not written by its function, because it may
    compute something else.

    Args:
        *types: Types of layers.

    Returns:
        A decorator of a function `(writer, layer)` that adds the layer's nodes through the writer.

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> class Masked(SpikingDense):
    ...     '''A custom layer.'''
    >>> @nir_writer(Masked)
    ... def write(writer, layer):
    ...     kernel = np.asarray(layer.kernel[...])
    ...     writer.neurons(layer, writer.linear(kernel))
    >>> rngs, init = nnx.Rngs(0), FluctuationDriven(nu=5.0)
    >>> graph = to_nir(Sequential(Masked(20, 8, init=init, rngs=rngs), Readout(8, 3, rngs=rngs)))
    >>> type(graph.nodes["layer0"]).__name__
    'CubaLIF'
    """

    def register(write: Callable[[NirWriter, L], None]) -> Callable[[NirWriter, L], None]:
        _WRITERS.update(dict.fromkeys(types, write))
        return write

    return register


def to_nir(
    network: Sequential, *, features: Sequence[int] | None = None, scheme: Scheme = "exponential"
) -> nir.NIRGraph:
    """Convert a network to a `nir.NIRGraph`.

    `from_nir` converts the graph back to a network with exactly the same parameters and spikes.

    Args:
        network: Dense, convolutional (one or two axes) or recurrent layers of LIF, Leaky or IF
            neurons, with or without biases, a readout of leaky integrators, pooling and skip
            connections; custom layers with a `nir_writer`.
        features: Shape of the network's input, (*spatial, channels). It is needed if the layers do
            not determine the size of a convolution's input.
        scheme: How a reader will step through time. "exponential": the true time constants.
            "euler": time constants for which an Euler step of this network's dt has the same
            decays. `snnjax.exchange` has the formulas and further differences
            between readers.

    Returns:
        The graph. Its `Input` has channels first, (channels, *spatial); `metadata` has `dt` (s) and
        `scheme`. Dropout is left out. A surrogate derivative that is none of `snnjax.surrogate`
        becomes the default when the graph is read.

    Raises:
        ValueError: The network has something that NIR cannot represent. The message names the
            layer.
        TypeError: An argument has another type.
        ImportError: The package nir is not installed.

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 8, init=FluctuationDriven(nu=5.0), recurrent=True, rngs=rngs)
    >>> graph = to_nir(Sequential(hidden, Readout(8, 3, rngs=rngs)))
    >>> nodes = [f"{name}: {type(node).__name__}" for name, node in graph.nodes.items()]
    >>> nodes[1:4]
    ['layer0_kernel: Linear', 'layer0: CubaLIF', 'layer0_recurrent_kernel: Linear']
    >>> graph.metadata["dt"], graph.nodes["layer0_kernel"].weight.shape
    (0.002, (8, 20))
    """
    convention.check_scheme(scheme)
    if not isinstance(network, Sequential):
        raise TypeError(f"network must be a snnjax.nn.Sequential, got {type(network).__name__}")
    if features is not None:
        features = tuple(_check.integer("features", n, at_least=1) for n in features)
    return NirWriter(network, features, scheme).graph()


class NirWriter:
    """A NIR graph under construction, layer by layer. It is the argument of `nir_writer` functions.

    Attributes:
        nir: The package nir.
        name: Name of the node for the present layer.
        dt: The network's time step, s.
        shape: Shape of the last node's output, (*spatial, channels).
        flattened: Shape of this output before a Flatten, or None.
        binary: Whether this output is spikes.
    """

    def __init__(self, network: Sequential, features: Shape | None, scheme: Scheme) -> None:
        self.nir = convention.import_nir()
        self.network = network
        self.scheme: Scheme = scheme
        self._layers = list(network.layers)
        self._k = len(self._layers) - 1
        last, first = self._layers[-1], self._layers[0]
        if not isinstance(last, NeuronLayer):
            self.fail("the last layer must be a layer of neurons")
        self.dt, self._k = last.dt, 0
        shape = first.in_shape if features is None else features
        if shape is None or None in shape:
            hint = f"the layers do not determine {'it' if shape is None else f'all sizes, {shape}'}"
            raise ValueError(f"features must be given, the input's (*spatial, channels); {hint}")
        metadata = {}
        if isinstance(first, nn.Reshape):
            # NIR has no Reshape: the graph's input has the shape after the Reshape
            given, shape = shape, self.shape_after(first, shape)
            metadata = {"features": np.array(given)} if given != shape else {}
        self.shape: tuple[int, ...] = shape  # type: ignore[assignment]
        self.flattened: tuple[int, ...] | None = None
        self.binary = False
        self._last: str | None = None
        self._nodes: dict[str, nir.NIRNode] = {}
        self._edges: list[tuple[str, str]] = []
        self._outputs: dict[int, tuple[int, ...]] = {}  # shape of each spiking layer's output
        self.append("input", self.nir.Input({"input": self.first(shape)}, metadata=metadata))

    def graph(self) -> nir.NIRGraph:
        """Return the graph of the whole network."""
        layers = self._layers
        for self._k, layer in enumerate(layers):
            # with skip connections the last layer gets only spikes
            between = layers[self._k : -1]
            ignored = self.network.skip and between and not any(la.spiking for la in between)
            if ignored or (self._k == 0 and isinstance(layer, nn.Reshape)):
                continue
            if type(layer) not in _WRITERS:
                self.fail("NIR has no such layer")
            _WRITERS[type(layer)](self, layer)
        self.append("output", self.nir.Output({"output": self.first(self.shape)}))
        metadata = {"dt": float(self.dt), "scheme": self.scheme, "source": "snnjax"}
        return self.nir.NIRGraph(self._nodes, self._edges, metadata=metadata)

    @property
    def name(self) -> str:
        return f"layer{self._k}"

    def append(self, name: str, node: nir.NIRNode) -> None:
        """Add a node after the last one."""
        self._nodes[name] = node
        if self._last is not None:
            self._edges.append((self._last, name))
        self._last = name

    def neurons(
        self, layer: Synaptic, weights: nir.NIRNode, recurrent: nir.NIRNode | None = None
    ) -> None:
        """Add a layer of neurons.

        Args:
            layer: The layer, with `LIF`, `Leaky` or `IF` neurons if it spikes, else with
                `LeakyIntegrator`. Its bias or normalization is added to the weights.
            weights: The node of its weights, from `linear` or `convolution`.
            recurrent: The node of its recurrent weights, or None without recurrence.
        """
        got = type(layer.neuron)
        if layer.spiking and got not in (LIF, Leaky, IF):
            self.fail(f"its neuron must be a LIF, a Leaky or an IF, got {got.__name__}")
        if not layer.spiking and got is not LeakyIntegrator:
            self.fail(f"its neuron must be a LeakyIntegrator, got {got.__name__}")
        delays = self._delays(layer)
        if self.network.skip and self._k == len(self._layers) - 1:
            if delays:
                self.fail("NIR has no delays in skip connections here")
            self._connect_all(layer)
            self.shape, self._last = (layer.out_features,), None
        else:
            if "delay" in delays:
                node = self._delay(layer, delays["delay"], self.shape, self.flattened)
                self.append(f"{self.name}_delay", node)
            self.append(f"{self.name}_kernel", self._adjusted(weights, layer))
            self.shape = self.shape_after(layer, self.shape)
        self.append(self.name, self._node(layer))
        if recurrent is not None:
            loop = f"{self.name}_recurrent_kernel"
            self._nodes[loop] = recurrent
            start = self.name
            if "recurrent_delay" in delays:
                start = f"{self.name}_recurrent_delay"
                self._nodes[start] = self._delay(layer, delays["recurrent_delay"], self.shape)
                self._edges.append((self.name, start))
            self._edges += [(start, loop), (loop, self.name)]
        self.flattened, self.binary = None, layer.spiking
        if layer.spiking:
            self._outputs[self._k] = self.shape

    def kernel(self, param: nnx.Param, axes: int = 0) -> np.ndarray:
        """Return weights with the given number of spatial axes as an array (*sizes, in, out)."""
        kernel = _array(param)
        if kernel.ndim != 2 + axes:
            self.fail(f"its kernel of shape {kernel.shape} is that of an ensemble, not of a layer")
        return kernel

    def _delays(self, layer: Synaptic) -> dict[str, np.ndarray]:
        """Return the delays of a layer in seconds, by the names of their parameters."""
        if layer.delays is None or layer.delay_width is None:
            return {}
        if layer.delays.per != "unit":
            self.fail("NIR has delays of units, not of connections")
        exact, found = layer.delay_times(rounded=False), layer.delay_times()
        same = all(np.allclose(exact[n], found[n], rtol=0, atol=1e-3 * self.dt) for n in found)
        if not same or float(layer.delay_width[...]) != 0:
            most = f"it has learned delays, up to {layer.delays.max_delay:g} s"
            self.fail(f"{most}, that are not whole time steps; call its round_delays() first")
        return {name: np.asarray(seconds, np.float64) for name, seconds in found.items()}

    def _delay(
        self,
        layer: Synaptic,
        seconds: np.ndarray,
        shape: tuple[int, ...],
        flattened: tuple[int, ...] | None = None,
    ) -> nir.NIRNode:
        """Return a node of delays.

        Args:
            layer: The layer.
            seconds: One delay per unit or channel, (n,).
            shape: Shape (*spatial, channels) of the signal.
            flattened: Its shape before a Flatten, or None.
        """
        whole = np.broadcast_to(seconds, shape) if flattened is None else seconds.reshape(flattened)
        first = np.ascontiguousarray(np.moveaxis(whole, -1, 0))
        assert layer.delays is not None
        largest = layer.delays.kernel(self.dt).largest * float(self.dt)
        metadata = {"max_delay": largest}
        return self.nir.Delay(first if flattened is None else first.ravel(), metadata=metadata)

    def _adjusted(self, weights: nir.NIRNode, layer: Synaptic, *, bias: bool = True) -> nir.NIRNode:
        """Return a node of weights with the bias of the layer, or with its normalization.

        Args:
            weights: The node.
            layer: The layer. A normalization becomes part of the weights, and a bias.
            bias: Whether to add the bias.
        """
        weight, constant = vars(weights)["weight"], layer.bias
        if layer.norm is not None:
            if layer.norm.options.num_steps is not None:
                self.fail("its normalization differs between time steps")
            factor, added = map(np.asarray, layer.norm.linear())
            weight = (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
        elif constant is not None:
            added = _array(constant)
        else:
            return weights
        fields, metadata = vars(weights), dict(weights.metadata)
        fields["weight"] = weight
        if not bias:
            return weights
        metadata["bias"] = "trained"  # also if it is 0
        if isinstance(weights, self.nir.Linear):
            return self.nir.Affine(weight, added, metadata=metadata)
        fields.update(bias=added, metadata=metadata)
        return weights

    def _connect_all(self, layer: Synaptic) -> None:
        """Connect every spiking layer to the last one, each through its own rows of the kernel.

        NIR adds up the inputs of a node. The bias is in the first one.
        """
        kernel = _array(layer.kernel)
        ends = itertools.accumulate(math.prod(shape) for shape in self._outputs.values())
        parts = np.split(kernel, list(ends)[:-1])
        for (k, shape), part in zip(self._outputs.items(), parts, strict=True):
            self._last = f"layer{k}"
            if len(shape) > 1:
                self.append(f"{self._last}_flat", self.flatten(shape))
            first = k == min(self._outputs)
            weights = self._adjusted(self.linear(part, shape), layer, bias=first)
            self.append(f"{self.name}_kernel{k}", weights)
            self._edges.append((self._last, self.name))

    def linear(self, kernel: np.ndarray, flattened: tuple[int, ...] | None = None) -> nir.Linear:
        """Return a node of dense weights.

        Args:
            kernel: The weights (in, out).
            flattened: Shape (*spatial, channels) of their inputs before a Flatten, or None without
                one. NIR flattens in another order.
        """
        if flattened is not None:
            kernel = np.moveaxis(kernel.reshape(*flattened, -1), -2, 0).reshape(kernel.shape)
        weight, metadata = _weights(kernel)
        return self.nir.Linear(weight, metadata=metadata)

    def convolution(self, layer: nn.Layer, map: nn.ConvMap, kernel: np.ndarray) -> nir.NIRNode:
        """Return a node of convolution weights.

        Args:
            layer: The layer.
            map: The layer's convolution.
            kernel: The weights (*sizes, in, out).
        """
        spatial, axes = self.shape[:-1], len(map.kernel_size)
        if axes > 2:
            self.fail(f"NIR has convolutions over one or two axes, got {axes}")
        expected = self.shape_after(layer, self.shape)
        padding = map.padding
        if padding == "valid":
            padding = (0,) * axes
        elif padding == "same" and any(s > 1 for s in map.stride):
            pads = jax.lax.padtype_to_pads(spatial, map.kernel_size, map.stride, "SAME")
            if any(low != high for low, high in pads):
                given = f"padding 'same' with stride {map.stride} is {pads}"
                self.fail(f"{given} here (before, after), but NIR pads both ends equally")
            padding = tuple(low for low, _ in pads)
        node = self.conv_node(kernel, spatial, map.stride, padding)
        found = tuple(int(n) for n in node.output_type["output"])
        if found != (expected[-1], *expected[:-1]):  # nir 1.0 would then refuse the graph
            got = f"{found[1:]} positions instead of {expected[:-1]}"
            self.fail(f"the package nir computes {got}; it needs one kernel size for both axes")
        return node

    def conv_node(
        self, kernel: np.ndarray, spatial: Shape, stride: Shape, padding: Shape | str
    ) -> nir.NIRNode:
        """Return a node of convolution weights, from numbers per axis and a kernel as stored."""
        line = kernel.ndim == 3
        weight, metadata = _weights(kernel)
        bias = np.zeros(len(weight), weight.dtype)
        one = lambda v: v[0] if line and not isinstance(v, str) else v
        make = self.nir.Conv1d if line else self.nir.Conv2d
        return make(one(spatial), weight, one(stride), one(padding), 1, 1, bias, metadata=metadata)

    def _node(self, layer: Synaptic) -> nir.NIRNode:
        """Return a node of neurons.

        The node has every parameter once per neuron. Its metadata has the parameters as stored.
        """
        neuron, kind = layer.neuron, type(layer.neuron)
        times = {IF: (), Leaky: ("tau_mem",)}.get(kind, ("tau_mem", "tau_syn"))
        names = (*times, *(("theta", "u_reset") if layer.spiking else ("initial",)))
        held = {name: getattr(layer.given_neuron, name) for name in names}
        metadata: dict[str, Any] = {name: _as_numpy(value)[()] for name, value in held.items()}
        # a trained threshold is a logarithm, too; NIR has no other parameter that a layer trains
        logs = layer.log_tau | {name: p for name, p in layer.free.items() if name == "theta"}
        metadata |= {f"log_{name}": _array(param) for name, param in logs.items()}
        arrays = [name for name, value in held.items() if isinstance(value, jax.Array)]
        lists = {"jax": arrays, "trainable": list(logs)}
        metadata |= {which: " ".join(of) for which, of in lists.items() if of}

        def whole(value: ArrayLike) -> np.ndarray:
            value = np.broadcast_to(_as_numpy(value), self.shape)
            return np.ascontiguousarray(np.moveaxis(value, -1, 0))  # channels first

        written = lambda tau: convention.tau_to_nir(_as_numpy(tau), self.dt, self.scheme)
        taus = {name: whole(written(getattr(neuron, name))) for name in times}
        ones = np.ones_like(taus["tau_mem"] if taus else whole(neuron.theta))
        fields = {**taus, "r": ones, "v_leak": 0 * ones}
        if "tau_syn" in taus:
            fields["w_in"] = 1 / convention.input_gain(taus["tau_syn"], self.dt, self.scheme)
        if not layer.spiking:
            return self.nir.CubaLI(**fields, metadata=metadata)
        spike = neuron.spike
        if not isinstance(spike, SpikeFunction):
            self.fail(f"its spike must be a SpikeFunction, got {spike!r}")
        if spike.name in convention.SURROGATES:
            steepness = np.array([float(v) for v in spike.steepness])
            metadata |= {"surrogate": spike.name, "steepness": steepness}
        metadata |= {"reset": neuron.reset, "reset_grad": str(neuron.reset_grad)}
        v_reset = whole(neuron.u_reset if neuron.reset == "to_value" else 0.0)
        fields |= {"v_threshold": whole(neuron.theta), "v_reset": v_reset}
        if kind is LIF:
            return self.nir.CubaLIF(**fields, metadata=metadata)
        if kind is IF:
            metadata |= {} if neuron.duration is None else {"duration": float(neuron.duration)}
            return self.nir.IF(ones, fields["v_threshold"], v_reset, metadata=metadata)
        tau = fields.pop("tau_mem")
        return self.nir.LIF(tau=tau, **fields, metadata=metadata | {"neuron": "Leaky"})

    def flatten(self, shape: tuple[int, ...]) -> nir.Flatten:
        """Return a node that flattens an input (*spatial, channels) of the given shape."""
        return self.nir.Flatten({"input": self.first(shape)}, start_dim=0, end_dim=-1)

    def first(self, shape: Sequence[int | None]) -> np.ndarray:
        """Return a shape (*spatial, channels) with the channels first, as in NIR."""
        return np.array([shape[-1], *shape[:-1]])

    def shape_after(self, layer: nn.Layer, shape: Shape) -> tuple[int, ...]:
        """Return the shape of the features after the layer."""
        try:
            return layer.feature_shape(shape)  # type: ignore[return-value]  # all sizes are known
        except ValueError as error:
            self.fail(str(error))

    def fail(self, what: str) -> NoReturn:
        """Raise a ValueError that names the present layer."""
        name = layer_name(self._layers[self._k])
        raise ValueError(f"layers[{self._k}] ({name}) cannot be written as NIR: {what}. {EXPORTED}")


@nir_writer(nn.SpikingDense, nn.Readout)
def _write_dense(writer: NirWriter, layer: nn.SpikingDense | nn.Readout) -> None:
    weights = writer.linear(writer.kernel(layer.kernel), writer.flattened)
    own = layer.recurrent_kernel
    writer.neurons(layer, weights, None if own is None else writer.linear(_array(own)))


@nir_writer(SpikingConv, nn.SpikingConv1d, nn.SpikingConv2d)
def _write_conv(writer: NirWriter, layer: SpikingConv) -> None:
    map, own = layer.map, layer.recurrent_kernel
    assert isinstance(map, nn.ConvMap)
    kernel = writer.kernel(layer.kernel, len(map.window))
    recurrent = None
    if own is not None:
        spatial = writer.shape_after(layer, writer.shape)[:-1]
        recurrent = writer.conv_node(_array(own), spatial, (1,) * len(spatial), "same")
    writer.neurons(layer, writer.convolution(layer, map, kernel), recurrent)


@nir_writer(nn.Pool)
def _write_pool(writer: NirWriter, layer: nn.Pool) -> None:
    if len(writer.shape) != 3:
        writer.fail(f"NIR pools over two axes, got {len(writer.shape) - 1}")
    largest, counts = layer.kind == "max", layer.kind in ("max", "sum")
    if largest and not writer.binary:
        writer.fail("NIR has no maximum; it is written as a sum and a threshold only for spikes")
    sizes = (np.array(v * 2 if len(v) == 1 else v) for v in (layer.window, layer.stride))
    make = writer.nir.SumPool2d if counts else writer.nir.AvgPool2d
    writer.append(writer.name, make(*sizes, np.zeros(2, int)))
    writer.shape = writer.shape_after(layer, writer.shape)
    if largest:
        shape = tuple(writer.first(writer.shape))
        threshold = np.full(shape, convention.POOL_THRESHOLD, np.float32)
        writer.append(f"{writer.name}_threshold", writer.nir.Threshold(threshold))
    writer.binary = largest


@nir_writer(Threshold)
def _write_threshold(writer: NirWriter, layer: Threshold) -> None:
    theta = np.broadcast_to(layer.thresholds, writer.shape)
    if writer.flattened is None:
        theta = np.moveaxis(theta, -1, 0)
    else:
        *spatial, channels = writer.flattened
        theta = np.moveaxis(theta.reshape(*spatial, channels), -1, 0).ravel()
    writer.append(writer.name, writer.nir.Threshold(np.ascontiguousarray(theta)))
    writer.binary = True


@nir_writer(nn.Flatten)
def _write_flatten(writer: NirWriter, layer: nn.Flatten) -> None:
    if len(writer.shape) > 1:
        writer.append(writer.name, writer.flatten(writer.shape))
        writer.flattened = writer.shape
        writer.shape = writer.shape_after(layer, writer.shape)


@nir_writer(nn.Dropout)
def _write_dropout(writer: NirWriter, layer: nn.Dropout) -> None:
    """Write nothing, because dropout has no effect outside training."""


def _as_numpy(value: ArrayLike) -> np.ndarray:
    """Return a neuron's parameter as an array; plain numbers become float64."""
    return np.asarray(value, np.float64 if isinstance(value, int | float) else None)


def _array(param: nnx.Param) -> np.ndarray:
    return np.asarray(param[...])


def _weights(kernel: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Return a kernel (*sizes, in, out) as NIR stores it, (out, in, *sizes), and its metadata.

    bfloat16 becomes float32, which every reader supports and which has all its values.
    """
    metadata = {"dtype": kernel.dtype.name} if kernel.dtype.kind == "V" else {}
    stored = kernel.astype(np.float32) if metadata else kernel
    return np.ascontiguousarray(np.moveaxis(stored, (-1, -2), (0, 1))), metadata
