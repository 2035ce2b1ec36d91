"""A NIR graph as a network with one layer per population.

`snnjax.exchange` explains the graph's values, `_graph` which graphs can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _check, nn
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._graph import SPIKING, Graph, Link, Stage, metadata_of, shape_of, stages_of
from snnjax.exchange._neurons import Clock, read_neurons, read_scale
from snnjax.exchange._nir_convention import Scheme

if TYPE_CHECKING:
    import nir

Shape = tuple[int, ...]  # here always (*spatial, channels)


def from_nir(
    graph: nir.NIRGraph, *, dt: float | None = None, scheme: Scheme | None = None
) -> nn.Sequential:
    """Convert a `nir.NIRGraph` to a network.

    Args:
        graph: A graph written by `to_nir`, or by another tool if snnjax supports its nodes.
        dt: Time step of the network, s. None: the graph's own, from its metadata. Another time step
            does not scale the input: each event changes a current by its weight at every dt.
        scheme: How the graph's writer steps through time, `"exponential"` or `"euler"`. None: the
            scheme in the metadata, or "exponential" without one.

    Returns:
        The network. Its inputs are (time, batch, *spatial, channels), or have the shape of the
        inputs of the exported network. Scales of neurons (w_in, r) and Scale nodes between weights
        and neurons become part of the weights. Neurons without a synaptic current (LIF, LI) get one
        that lasts one step. All options that are not in the graph are the defaults of `LIF` and
        `LeakyIntegrator`, except that a readout starts at 0.

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
    nodes, clock = Graph(graph), _clock(metadata_of(graph), dt, scheme)
    stages, skips = stages_of(nodes)
    layers, shape = _begin(nodes, nodes.end("Input"))
    spikes = False
    outputs: dict[str, Shape] = {}
    for stage in stages:
        before, shape, flat, spikes = _before(nodes, stage.link, shape, spikes)
        kernel = _kernel(nodes, stage.link.before[-1], flat)
        if skips and stage is stages[-1]:
            kernels = [_kernel(nodes, skip.before[-1], outputs[skip.source]) for skip in skips]
            parts = zip(skips, kernels, strict=True)
            kernel = np.concatenate([_rescaled(nodes, skip.scales, part) for skip, part in parts])
            stage, shape = stage._replace(link=stage.link._replace(scales=[])), (len(kernel),)
        layer, shape = _layer(nodes, stage, kernel, shape, clock)
        outputs[stage.name], spikes = shape, layer.spiking
        layers += [*before, layer]
    return nn.Sequential(*layers, skip=bool(skips))


def _clock(metadata: dict[str, object], dt: float | None, scheme: Scheme | None) -> Clock:
    """Return the time steps and the scheme, from the arguments of `from_nir` and the metadata."""
    written = _seconds("dt in the graph's metadata", metadata.get("dt"))
    step = written if dt is None else _seconds("dt", dt)
    if step is None:
        raise ValueError("dt (in seconds) must be given: the graph's metadata has none")
    named = metadata.get("scheme", "exponential") if scheme is None else scheme
    return Clock(step, step if written is None else written, convention.check_scheme(named))


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if shape := np.asarray(value).shape:
        raise ValueError(f"{name} must be one number, got shape {shape}")
    return float(np.asarray(_check.number(name, value, above=0, unit="s")))


def _begin(graph: Graph, name: str) -> tuple[list[nn.Layer], Shape]:
    """Return layers for the network's input, and the shape after them."""
    given = graph.field(name, "output_type")
    given = given.get("output") if isinstance(given, dict) else given
    first, features = shape_of(given), shape_of(graph.metadata(name).get("features"))
    if first is None:
        graph.fail(name, f"must have a shape (channels, *spatial), got {given}")
    shape = (*first[1:], first[0])
    other = features is not None and features != shape and math.prod(features) == math.prod(shape)
    return [nn.Reshape(*shape)] if other else [], shape


def _before(
    graph: Graph, link: Link, shape: Shape, spikes: bool
) -> tuple[list[nn.Layer], Shape, Shape | None, bool]:
    """Read the pooling and flattening before the weights of a link.

    Args:
        graph: The graph.
        link: The link.
        shape: Shape (*spatial, channels) of its source's output.
        spikes: Whether this output is spikes.

    Returns:
        The layers; the shape after them; the shape before a Flatten, or None; and whether the
        values after them are spikes.
    """
    layers: list[nn.Layer] = []
    flat: Shape | None = None
    *names, weights = link.before
    rest = iter(names)
    for name in rest:
        kind = graph.kind(name)
        if kind == "Flatten":
            dims = (graph.sizes(name, f"{which}_dim", 1, at_least=-1) for which in ("start", "end"))
            (start,), (end,) = dims
            if start != 0 or end not in (-1, len(shape) - 1):
                graph.fail(name, f"must flatten all axes, from 0 to -1, got {start} and {end}")
            if len(shape) > 1:
                layers.append(nn.Flatten())
                flat, shape = shape, (math.prod(shape),)
        elif kind in ("AvgPool2d", "SumPool2d"):
            if kind == "SumPool2d":
                after = next(rest, weights)
                found = spikes and graph.kind(after) == "Threshold"
                threshold = graph.array(after, "threshold") if found else np.array(-1)
                if not ((threshold >= 0) & (threshold < 1)).all():
                    graph.fail(name, "must count spikes, with a Threshold in [0, 1) after it")
            pool = _pool(graph, name, shape, "max" if kind == "SumPool2d" else "average")
            layers.append(pool)
            shape = pool.feature_shape(shape)  # type: ignore[assignment]
            spikes = spikes and pool.kind == "max"
        else:
            graph.fail(name, f"cannot be before {weights!r}")
    return layers, shape, flat, spikes


def _pool(graph: Graph, name: str, shape: Shape, kind: Literal["average", "max"]) -> nn.Pool:
    window, stride = (graph.sizes(name, key, 2, at_least=1) for key in ("kernel_size", "stride"))
    if any(graph.sizes(name, "padding", 2, at_least=0)):
        graph.fail(name, "must not pad")
    if len(shape) != 3 or any(n < w for n, w in zip(shape, window, strict=False)):
        graph.fail(name, f"must get (height, width) of at least its window {window}, got {shape}")
    return nn.Pool(window, kind=kind, stride=stride)


def _kernel(graph: Graph, name: str, flat: Shape | None) -> np.ndarray:
    """Return weights in our layout, (*sizes, in, out).

    `flat` is the shape (*spatial, channels) of the inputs before they were flattened, or None.
    """
    kind, weight = graph.kind(name), graph.array(name, "weight")
    axes = {"Conv1d": 1, "Conv2d": 2}.get(kind, 0)
    if weight.ndim != 2 + axes or 0 in weight.shape:
        needed = f"(out, in{', *sizes' if axes else ''})"
        graph.fail(name, f"must have weights of the shape {needed}, got {weight.shape}")
    biased = kind != "Linear" and graph.field(name, "bias") is not None
    if biased and graph.array(name, "bias").any():
        graph.fail(name, "must have a bias of 0: layers of snnjax have none")
    if str(graph.metadata(name).get("dtype")) == "bfloat16":
        weight = weight.astype(jnp.bfloat16)
    elif weight.dtype.kind != "f" or weight.dtype != jax.dtypes.canonicalize_dtype(weight.dtype):
        weight = weight.astype(np.float32)
    kernel = np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)))
    if flat is None:
        return kernel
    if len(kernel) != math.prod(flat):
        graph.fail(name, f"must have {math.prod(flat)} inputs, got {len(kernel)}")
    return np.moveaxis(kernel.reshape(flat[-1], *flat[:-1], -1), 0, -2).reshape(kernel.shape)


def _layer(
    graph: Graph, stage: Stage, kernel: np.ndarray, shape: Shape, clock: Clock
) -> tuple[nn.Layer, Shape]:
    """Return the layer of a stage whose weights get the given shape, and its output's shape."""
    name, weights = stage.name, stage.link.before[-1]
    axes, (in_features, out_features) = kernel.ndim - 2, kernel.shape[-2:]
    if len(shape) != 1 + axes or shape[-1] != in_features:
        given = f"its input (*spatial, channels) has the shape {shape}"
        graph.fail(weights, f"has {in_features} inputs and {axes} spatial axes, but {given}")
    spiking = graph.kind(name) in SPIKING
    if not spiking and (axes or stage.loop):
        graph.fail(name, "does not spike; such neurons must have Linear weights and no recurrence")
    map = _conv_map(graph, weights, kernel) if axes else None
    recurrent = None if stage.loop is None else _recurrent(graph, stage.loop, axes, out_features)
    try:
        positions = () if map is None else map.out_shape(shape[:-1])
    except ValueError as error:
        graph.fail(weights, f"must not be larger than its input: {error}")
    out: Shape = (*positions, out_features)  # type: ignore[assignment]  # all sizes are known
    kernel = _rescaled(graph, stage.link.scales, kernel, out[:-1])
    read = read_neurons(graph, name, out, clock)
    drawn = [_scaled(w, read.gain) for w in (kernel, recurrent) if w is not None]
    if not all(np.isfinite(w.astype(np.float32)).all() for w in drawn):
        graph.fail(name, "must have w_in and r that leave the weights finite")
    given = iter(drawn)
    init = lambda key, shape, dtype=jnp.float32: jnp.asarray(next(given))
    options: dict[str, Any] = {"neuron": read.neuron, "trainable": tuple(read.logs)}
    options |= {"dtype": kernel.dtype, "rngs": nnx.Rngs(0)}
    if map is not None:
        make = (nn.SpikingConv1d, nn.SpikingConv2d)[axes - 1]
        options |= {"kernel_size": map.kernel_size, "stride": map.stride, "padding": map.padding}
        size = None if recurrent is None else recurrent.shape[:-2]
        layer = make(in_features, out_features, init=init, recurrent_kernel_size=size, **options)
    elif spiking:
        recurs = recurrent is not None
        layer = nn.SpikingDense(in_features, out_features, init=init, recurrent=recurs, **options)
    else:
        layer = nn.Readout(in_features, out_features, kernel_init=init, **options)
    for which, log in read.logs.items():
        layer.log_tau[which][...] = jnp.asarray(log)
    return layer, out


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


def _recurrent(graph: Graph, name: str, axes: int, n: int) -> np.ndarray:
    """Return the weights in a population's loop."""
    kernel = _kernel(graph, name, None)
    if kernel.ndim != 2 + axes or kernel.shape[-2:] != (n, n):
        needed = f"weights (*sizes, {n}, {n}) with {axes} sizes"
        graph.fail(name, f"must have {needed}, got {kernel.shape}")
    if axes:
        map = _conv_map(graph, name, kernel)
        same = map.padding in ("same", tuple(size // 2 for size in map.kernel_size))
        odd = all(size % 2 for size in map.kernel_size)
        if not same or not odd or any(s != 1 for s in map.stride):
            graph.fail(name, f"must keep the positions, with odd sizes and stride 1, got {map}")
    return kernel


def _rescaled(
    graph: Graph, scales: Sequence[str], kernel: np.ndarray, positions: Shape = ()
) -> np.ndarray:
    """Multiply weights onto neurons at `positions` with the Scale nodes between them."""
    for name in scales:
        with np.errstate(over="ignore"):
            kernel = _scaled(kernel, read_scale(graph, name, (*positions, kernel.shape[-1])))
        if not np.isfinite(kernel.astype(np.float32)).all():
            graph.fail(name, "must have a scale that leaves the weights finite")
    return kernel


def _scaled(kernel: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Multiply weights with the gain of their target neurons; all gains 1 keep the exact bits."""
    return kernel if (gain == 1).all() else (kernel.astype(np.float64) * gain).astype(kernel.dtype)
