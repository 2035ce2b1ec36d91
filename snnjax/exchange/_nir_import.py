"""A NIR graph as a network with one layer per population.

`snnjax.exchange` explains the graph's values, `_graph` which graphs can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _check, nn
from snnjax.dynamics._neuron import Reset
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._graph import (
    SPIKING,
    Graph,
    Link,
    Shape,
    Signal,
    Stage,
    metadata_of,
    shape_of,
    stages_of,
)
from snnjax.exchange._neurons import Reading, one_a_unit, read_neurons, read_values
from snnjax.exchange._nir_convention import Scheme
from snnjax.nn._shape import PoolKind
from snnjax.nn._synaptic import Synaptic
from snnjax.nn._threshold import Threshold

if TYPE_CHECKING:
    import nir


_MOST_DELAY = 100_000  # steps


class Pending(NamedTuple):
    """What the nodes before weights leave to the weights; arrays of the shape of their signal.

    Attributes:
        gain: Factors of the inputs, or None.
        delay: Delays of the inputs in steps, or None.
    """

    gain: np.ndarray | None = None
    delay: np.ndarray | None = None


class Weights(NamedTuple):
    """Weights and bias of the connections to a population.

    Attributes:
        kernel: Weights in our layout, (*sizes, in, out).
        bias: Bias (out,) in float64, or None.
    """

    kernel: np.ndarray
    bias: np.ndarray | None

    def scaled(self, gain: np.ndarray) -> Weights:
        """Return both times a factor per neuron, (out,); factors of 1 keep the exact bits."""
        if (gain == 1).all():
            return self
        with np.errstate(over="ignore"):  # weights that are not finite are refused
            kernel = (self.kernel.astype(np.float64) * gain).astype(self.kernel.dtype)
            return Weights(kernel, None if self.bias is None else self.bias * gain)

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite in float32."""
        parts = [self.kernel] if self.bias is None else [self.kernel, self.bias]
        with np.errstate(over="ignore"):
            return all(bool(np.isfinite(part.astype(np.float32)).all()) for part in parts)


def from_nir(
    graph: nir.NIRGraph,
    *,
    dt: float | None = None,
    scheme: Scheme | None = None,
    reset: Reset | None = None,
) -> nn.Sequential:
    """Convert a `nir.NIRGraph` to a network.

    Args:
        graph: A graph written by `to_nir`, or by another tool if snnjax supports its nodes.
        dt: Time step of the network, s. None: the graph's own, from its metadata. Another time step
            does not scale the input: each event changes a current by its weight at every dt.
        scheme: How the graph's writer steps through time, `"exponential"` or `"euler"`. None: the
            scheme in the metadata, or "exponential" without one.
        reset: Reset of neurons whose v_reset is 0 and whose metadata name no other one, as in
            `LIF`. NIR has no word for a reset by subtraction: give "subtractive" for networks that
            were trained with it, such as those of sinabs. None: "multiplicative", to 0.

    Returns:
        The network. Its inputs are (time, batch, *spatial, channels), or have the shape of the
        inputs of the exported network; its outputs are (time, batch, *spatial, channels), also if
        the graph flattens them. Scales of neurons (w_in, r) and Scale nodes become part of the
        weights. A bias, or a v_leak of LIF and LI, becomes the bias of a layer, a Delay before
        weights its `Delays`, rounded to whole steps. Biases of 0 are left out if snnjax did not
        write them. NIR's LIF and LI, which have no synaptic current, get one that lasts one step.
        A LIF that was written for a `Leaky` becomes a `Leaky` again. All options that are not in
        the graph are the defaults of `LIF` and `LeakyIntegrator`, except that a readout starts at
        0.

    Raises:
        ValueError: The graph cannot be read. The message names the node, the error and what can be
            read.
        TypeError: An argument or a value in the graph has a wrong type.
        ImportError: The package nir is not installed.

    >>> import nir
    >>> n = np.ones(3)
    >>> neurons = nir.CubaLIF(
    ...     tau_syn=0.01 * n, tau_mem=0.02 * n, r=n, v_leak=0 * n, v_threshold=n, w_in=10 * n
    ... )
    >>> graph = nir.NIRGraph.from_list(nir.Linear(np.ones((3, 5), np.float32)), neurons)
    >>> network = from_nir(graph, dt=1e-3, scheme="euler")
    >>> network(jnp.ones((20, 2, 5)))[0].shape, round(network.layers[0].neuron.tau_mem, 5)
    ((20, 2, 3), 0.0195)
    """
    if not isinstance(graph, convention.import_nir().NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph, got {type(graph).__name__}")
    reading = _reading(metadata_of(graph), dt, scheme, reset)
    nodes = Graph(graph)
    stages, skips = stages_of(nodes)
    layers, signal = _begin(nodes, nodes.end("Input"))
    outputs: dict[str, Signal] = {}
    for stage in stages:
        before, signal, pending = _before(nodes, stage.link, signal, reading.dt)
        weights = _weights(nodes, stage.link.before[-1], signal, pending.gain)
        if skips and stage is stages[-1]:
            weights = _joined(nodes, skips, outputs)
            stage = stage._replace(link=stage.link._replace(after=[]))
            signal = Signal((len(weights.kernel),))
        delay = _of_inputs(nodes, stage.link.before[-1], signal, pending.delay)
        own, signal = _layers(nodes, stage._replace(delay=delay), weights, signal, reading)
        outputs[stage.name] = signal
        layers += [*before, *own]
    # the output is not flattened, so that it has the order of the input: channels last
    if isinstance(layers[-1], nn.Flatten):
        layers.pop()
    return nn.Sequential(*layers, skip=bool(skips))


def _joined(graph: Graph, skips: Sequence[Link], outputs: dict[str, Signal]) -> Weights:
    """Return the weights from the concatenated outputs of all spiking populations to the last."""
    parts: list[Weights] = []
    for skip in skips:
        signal = outputs[skip.source]._replace(flat=True)
        part = _weights(graph, skip.before[-1], signal, None)
        parts.append(_after(graph, skip.after, part, Signal((part.kernel.shape[-1],)))[0])
    if len({part.kernel.shape[-1] for part in parts}) > 1:
        graph.fail(skips[-1].before[-1], "must have as many outputs as other weights to its target")
    biases = [part.bias for part in parts if part.bias is not None]
    kernel = np.concatenate([part.kernel for part in parts])
    return Weights(kernel, np.sum(biases, axis=0) if biases else None)


def _reading(
    metadata: dict[str, object], dt: float | None, scheme: Scheme | None, reset: Reset | None
) -> Reading:
    """Return how a graph is read, from the arguments of `from_nir` and the metadata."""
    written = _seconds("dt in the graph's metadata", metadata.get("dt"))
    step = written if dt is None else _seconds("dt", dt)
    if step is None:
        raise ValueError("dt (in seconds) must be given: the graph's metadata has none")
    named = metadata.get("scheme", "exponential") if scheme is None else scheme
    kind: Reset = "multiplicative" if reset is None else reset
    _check.one_of("reset", kind, ("multiplicative", "subtractive"))
    last = step if written is None else written
    return Reading(step, last, convention.check_scheme(named), kind)


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if shape := np.asarray(value).shape:
        raise ValueError(f"{name} must be one number, got shape {shape}")
    return float(np.asarray(_check.number(name, value, above=0, unit="s")))


def _begin(graph: Graph, name: str) -> tuple[list[nn.Layer], Signal]:
    """Return layers for the network's input, and the signal after them."""
    given = graph.field(name, "output_type")
    given = given.get("output") if isinstance(given, dict) else given
    first, features = shape_of(given), shape_of(graph.metadata(name).get("features"))
    if first is None:
        graph.fail(name, f"must have a shape (channels, *spatial), got {given}")
    shape = (*first[1:], first[0])
    other = features is not None and features != shape and math.prod(features) == math.prod(shape)
    return [nn.Reshape(*shape)] if other else [], Signal(shape)


def _before(
    graph: Graph, link: Link, signal: Signal, dt: float
) -> tuple[list[nn.Layer], Signal, Pending]:
    """Read the nodes before the weights of a link.

    Args:
        graph: The graph.
        link: The link.
        signal: The output of its source.
        dt: Time step of the network, s.

    Returns:
        The layers; the signal after them; and what is left for the weights.
    """
    layers: list[nn.Layer] = []
    gain: np.ndarray | None = None
    delay: np.ndarray | None = None
    *names, weights = link.before
    rest = iter(names)
    for name in rest:
        kind = graph.kind(name)
        if delay is not None and kind not in ("Flatten", "Scale", "Delay"):
            graph.fail(name, "must not have a Delay before it")
        if kind == "Flatten":
            layers += _flatten(graph, name, signal)
            signal = signal._replace(flat=len(signal.shape) > 1)
        elif kind == "Scale":
            scale = _scale(graph, name, signal)
            gain = scale if gain is None else gain * scale
            signal = signal._replace(binary=False)
        elif kind in ("AvgPool2d", "SumPool2d"):
            following = names[names.index(name) + 1 :]
            largest = kind == "SumPool2d" and _is_maximum(graph, following, signal)
            if largest:
                next(rest)
            how = "max" if largest else "sum" if kind == "SumPool2d" else "average"
            pool = _pool(graph, name, signal, how)
            if gain is not None:
                gain = one_a_unit(graph, name, "scale before it", gain)
            layers.append(pool)
            shape: Shape = pool.feature_shape(signal.shape)  # type: ignore[assignment]
            signal = Signal(shape, binary=largest)
            gain = None if gain is None else np.broadcast_to(gain, shape)
        elif kind == "Delay":
            steps = _delay(graph, name, signal, dt)
            delay = steps if delay is None else delay + steps
        elif kind == "Threshold":
            if gain is not None:
                graph.fail(name, "must not have a Scale before it")
            layers += _threshold(graph, name, signal)
            signal = signal._replace(binary=True)
        else:
            graph.fail(name, f"cannot be before {weights!r}")
    return layers, signal, Pending(gain, delay)


def _delay(graph: Graph, name: str, signal: Signal, dt: float) -> np.ndarray:
    """Return the delays of a node in steps, rounded, of the signal's `shape`."""
    steps = np.round(read_values(graph, name, "delay", signal).astype(np.float64) / dt)
    if (steps < 0).any() or (steps > _MOST_DELAY).any():
        needed = f"delays from 0 to {_MOST_DELAY:,} steps of {dt:g} s"
        graph.fail(name, f"must have {needed}, got {steps.min() * dt:g} to {steps.max() * dt:g} s")
    return steps


def _of_inputs(
    graph: Graph, name: str, signal: Signal, delay: np.ndarray | None
) -> np.ndarray | None:
    """Return the delays of the inputs or input channels of weights in steps, (in,), or None."""
    if delay is None or not delay.any():
        return None
    if signal.flat:
        return delay.reshape(-1)
    return one_a_unit(graph, name, "delay before it", delay)


def _flatten(graph: Graph, name: str, signal: Signal) -> list[nn.Layer]:
    dims = (graph.sizes(name, f"{which}_dim", 1, at_least=-1) for which in ("start", "end"))
    (start,), (end,) = dims
    if start != 0 or end not in (-1, len(signal.first) - 1):
        graph.fail(name, f"must flatten all axes, from 0 to -1, got {start} and {end}")
    return [nn.Flatten()] if len(signal.features) > 1 else []


def _scale(graph: Graph, name: str, signal: Signal) -> np.ndarray:
    return read_values(graph, name, "scale", signal).astype(np.float64)


def _is_maximum(graph: Graph, following: Sequence[str], signal: Signal) -> bool:
    """Return whether a sum of spikes is followed by a threshold for at least one spike."""
    if not signal.binary or not following or graph.kind(following[0]) != "Threshold":
        return False
    threshold = graph.array(following[0], "threshold")
    return bool(((threshold >= 0) & (threshold < 1)).all())


def _threshold(graph: Graph, name: str, signal: Signal) -> list[nn.Layer]:
    theta = read_values(graph, name, "threshold", signal).astype(np.float32)
    if signal.binary and ((theta >= 0) & (theta < 1)).all():
        return []
    same = (theta == theta.flat[0]).all()
    return [Threshold(float(theta.flat[0]) if same else theta.reshape(signal.features))]


def _pool(graph: Graph, name: str, signal: Signal, kind: PoolKind) -> nn.Pool:
    shape = signal.features
    window, stride = (graph.sizes(name, key, 2, at_least=1) for key in ("kernel_size", "stride"))
    if any(graph.sizes(name, "padding", 2, at_least=0)):
        graph.fail(name, "must not pad")
    if len(shape) != 3 or any(n < w for n, w in zip(shape, window, strict=False)):
        graph.fail(name, f"must get (height, width) of at least its window {window}, got {shape}")
    return nn.Pool(window, kind=kind, stride=stride)


def _weights(graph: Graph, name: str, signal: Signal, gain: np.ndarray | None) -> Weights:
    """Return the weights of a node.

    Args:
        graph: The graph.
        name: The node.
        signal: Its input.
        gain: Factors of the input, of the signal's `shape`, or None.
    """
    kind, weight = graph.kind(name), graph.array(name, "weight")
    axes = {"Conv1d": 1, "Conv2d": 2}.get(kind, 0)
    if weight.ndim != 2 + axes or 0 in weight.shape:
        needed = f"(out, in{', *sizes' if axes else ''})"
        graph.fail(name, f"must have weights of the shape {needed}, got {weight.shape}")
    bias: np.ndarray | None = None
    if kind != "Linear" and graph.field(name, "bias") is not None:
        bias = graph.array(name, "bias").astype(np.float64)
        if bias.shape != weight.shape[:1]:
            needed = f"bias of the shape (out,) = {weight.shape[:1]}"
            graph.fail(name, f"must have {needed}, got {bias.shape}")
        if not bias.any() and graph.metadata(name).get("bias") != "trained":
            bias = None
    if str(graph.metadata(name).get("dtype")) == "bfloat16":
        weight = weight.astype(jnp.bfloat16)
    elif weight.dtype.kind != "f" or weight.dtype != jax.dtypes.canonicalize_dtype(weight.dtype):
        weight = weight.astype(np.float32)
    kernel = np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)))
    if signal.flat:
        if len(kernel) != math.prod(signal.shape):
            graph.fail(name, f"must have {math.prod(signal.shape)} inputs, got {len(kernel)}")
        *spatial, channels = signal.shape
        whole = kernel.reshape(channels, *spatial, -1)
        kernel = np.moveaxis(whole, 0, -2).reshape(kernel.shape)
    if gain is None:
        return Weights(kernel, bias)
    _check_input(graph, name, kernel, signal)
    each = gain.reshape(-1) if signal.flat else one_a_unit(graph, name, "scale before it", gain)
    with np.errstate(over="ignore"):
        kernel = (kernel.astype(np.float64) * each[:, None]).astype(kernel.dtype)
    weights = Weights(kernel, bias)
    if not weights.finite:
        graph.fail(name, "must have a scale before it that leaves the weights finite")
    return weights


def _check_input(graph: Graph, name: str, kernel: np.ndarray, signal: Signal) -> None:
    """Raise unless a signal is an input of the weights (*sizes, in, out) of a node."""
    axes, in_features = kernel.ndim - 2, kernel.shape[-2]
    shape = signal.features
    if len(shape) != 1 + axes or shape[-1] != in_features:
        given = f"its input (*spatial, channels) has the shape {shape}"
        graph.fail(name, f"has {in_features} inputs and {axes} spatial axes, but {given}")


def _layers(
    graph: Graph, stage: Stage, weights: Weights, signal: Signal, reading: Reading
) -> tuple[list[nn.Layer], Signal]:
    """Return the layers of a stage whose weights get the given signal, and their output."""
    name, node, kernel = stage.name, stage.link.before[-1], weights.kernel
    _check_input(graph, node, kernel, signal)
    axes, (in_features, out_features) = kernel.ndim - 2, kernel.shape[-2:]
    spiking = graph.kind(name) in SPIKING
    if not spiking and (axes or stage.loop):
        graph.fail(name, "does not spike; such neurons must have Linear weights and no recurrence")
    map = _conv_map(graph, node, kernel) if axes else None
    loop = _recurrent(graph, stage.loop[-1], axes, out_features) if stage.loop else None
    try:
        positions = () if map is None else map.out_shape(signal.features[:-1])
    except ValueError as error:
        graph.fail(node, f"must not be larger than its input: {error}")
    out = Signal((*positions, out_features), binary=spiking)  # type: ignore[arg-type]  # known
    weights, out = _after(graph, stage.link.after, weights, out)
    read = read_neurons(graph, name, out, reading)
    parts = [part.scaled(read.gain) for part in (weights, loop) if part is not None]
    if not all(part.finite for part in parts):
        graph.fail(name, "must have w_in and r that leave the weights finite")
    own_delay = None
    if len(stage.loop) > 1:
        given_delay = _delay(graph, stage.loop[0], out, reading.dt)
        own_delay = _of_inputs(graph, stage.loop[0], out._replace(flat=False), given_delay)
    given = iter([part.kernel for part in parts])
    init = lambda key, shape, dtype=jnp.float32: jnp.asarray(next(given))
    biases = [part.bias for part in parts if part.bias is not None]
    biases += [read.constant] if read.constant.any() else []
    options: dict[str, Any] = {"neuron": read.neuron, "trainable": tuple(read.logs)}
    options |= {"dtype": kernel.dtype, "bias": bool(biases), "rngs": nnx.Rngs(0)}
    delays = {"delay": stage.delay, "recurrent_delay": own_delay}
    held = [graph.metadata(n) for n in (*stage.link.before, *stage.loop)]
    options["delays"] = _delays_option(delays, held, reading.dt)
    if map is not None:
        make = (nn.SpikingConv1d, nn.SpikingConv2d)[axes - 1]
        options |= {"kernel_size": map.kernel_size, "stride": map.stride, "padding": map.padding}
        size = None if loop is None else loop.kernel.shape[:-2]
        layer = make(in_features, out_features, init=init, recurrent_kernel_size=size, **options)
    elif spiking:
        recurs = loop is not None
        layer = nn.SpikingDense(in_features, out_features, init=init, recurrent=recurs, **options)
    else:
        layer = nn.Readout(in_features, out_features, kernel_init=init, **options)
    for which, log in read.logs.items():
        (layer.free if which == "theta" else layer.log_tau)[which][...] = jnp.asarray(log)
    _set_delays(layer, delays)
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(np.sum(biases, axis=0), layer.bias.dtype)
    return [layer, nn.Flatten()] if out.flat else [layer], out


def _delays_option(
    delays: dict[str, np.ndarray | None], held: Sequence[dict[str, object]], dt: float
) -> nn.Delays | None:
    """Return the argument `delays` of a layer with these delays in steps, or None.

    Args:
        delays: The delays by the names of the layer's parameters.
        held: Metadata of the nodes, which may have the largest delay that the layer had.
        dt: Time step, s.
    """
    given = {name: steps for name, steps in delays.items() if steps is not None}
    if not given:
        return None
    on = "all" if len(given) > 1 else "input" if "delay" in given else "recurrent"
    largest = max(steps.max() for steps in given.values())
    for metadata in held:
        value = np.asarray(metadata.get("max_delay"))
        if value.dtype.kind == "f" and value.ndim == 0 and value <= _MOST_DELAY * dt:
            largest = max(largest, np.round(value / dt))
    return nn.Delays(max_delay=float(largest * dt), on=on, initial=0.0)


def _set_delays(layer: Synaptic, delays: dict[str, np.ndarray | None]) -> None:
    if layer.delays is None:
        return
    largest = layer.delays.kernel(layer.dt).largest
    for name, param in (("delay", layer.delay), ("recurrent_delay", layer.recurrent_delay)):
        if param is not None and (steps := delays[name]) is not None:
            param[...] = jnp.asarray(steps, param.dtype) / largest


def _conv_map(graph: Graph, name: str, kernel: np.ndarray) -> nn.ConvMap:
    """Return the convolution of a node with weights (*sizes, in, out)."""
    *sizes, in_features, out_features = kernel.shape
    axes, padding = len(sizes), graph.field(name, "padding")
    stride = graph.sizes(name, "stride", axes, at_least=1)
    for field, numbers in (("dilation", axes), ("groups", 1)):
        if any(n != 1 for n in graph.sizes(name, field, numbers, at_least=0)):
            graph.fail(name, f"must have {field} of 1, got {graph.array(name, field)}")
    if not isinstance(padding, str):
        padding = graph.sizes(name, "padding", axes, at_least=0)
    elif padding != "valid" and (padding != "same" or any(s != 1 for s in stride)):
        needed = "padding of numbers, 'valid', or 'same' with stride 1"
        graph.fail(name, f"must have {needed}, got {padding!r} and {stride}")
    return nn.ConvMap(in_features, out_features, tuple(sizes), stride, padding)


def _recurrent(graph: Graph, name: str, axes: int, n: int) -> Weights:
    """Return the weights in a population's loop."""
    weights = _weights(graph, name, Signal((n,)), None)
    kernel = weights.kernel
    if kernel.ndim != 2 + axes or kernel.shape[-2:] != (n, n):
        needed = f"weights (*sizes, {n}, {n}) with {axes} sizes"
        graph.fail(name, f"must have {needed}, got {kernel.shape}")
    if axes:
        map = _conv_map(graph, name, kernel)
        same = map.padding in ("same", tuple(size // 2 for size in map.kernel_size))
        odd = all(size % 2 for size in map.kernel_size)
        if not same or not odd or any(s != 1 for s in map.stride):
            graph.fail(name, f"must keep the positions, with odd sizes and stride 1, got {map}")
    return weights


def _after(
    graph: Graph, names: Sequence[str], weights: Weights, signal: Signal
) -> tuple[Weights, Signal]:
    """Read the Scale and Flatten nodes between weights and their neurons.

    Args:
        graph: The graph.
        names: The nodes.
        weights: The weights.
        signal: The output of the weights.

    Returns:
        The weights times the scales, and the signal that the neurons get.
    """
    for name in names:
        if graph.kind(name) == "Flatten":
            _flatten(graph, name, signal)
            signal = signal._replace(flat=len(signal.shape) > 1)
            continue
        weights = weights.scaled(one_a_unit(graph, name, "scale", _scale(graph, name, signal)))
        if not weights.finite:
            graph.fail(name, "must have a scale that leaves the weights finite")
    return weights, signal
