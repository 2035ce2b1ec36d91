"""A NIR graph as a chain of neuron populations, and access to its nodes with checks of the values.

The graph is walked from its output back to its input. The path to a population consists of
pooling, flattening, scales, thresholds and delays, then weights, then scales and flattening.
Weights from a population to itself are its recurrence. Only the last population may get input from
several populations. It then gets input from all that spike, as with skip connections.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from snnjax.exchange._subgraphs import inlined

if TYPE_CHECKING:
    import nir

IMPORTED = (
    "from_nir reads one chain from Input to Output of Linear, Affine, Conv1d or Conv2d, each "
    "followed by CubaLIF, LIF, IF, CubaLI or LI. It also reads AvgPool2d, SumPool2d, Threshold, "
    "Scale, Delay and Flatten before weights, Scale and Flatten after weights, Flatten before the "
    "Output, weights from neurons to themselves, weights from all spiking neurons to the last, and "
    "graphs that consist of such nodes"
)
SPIKING = ("CubaLIF", "LIF", "IF")
NEURONS = (*SPIKING, "CubaLI", "LI")
Shape = tuple[int, ...]  # here always (*spatial, channels)
_LINEAR = ("Linear", "Affine")
_WEIGHTS = (*_LINEAR, "Conv1d", "Conv2d")


class Signal(NamedTuple):
    """What a node gets or gives.

    Attributes:
        shape: Its shape (*spatial, channels), before any Flatten.
        flat: Whether it was flattened: in snnjax in the order (*spatial, channels), in NIR in the
            order (channels, *spatial).
        binary: Whether its values are spikes.
    """

    shape: Shape
    flat: bool = False
    binary: bool = False

    @property
    def features(self) -> Shape:
        """Shape of the features in snnjax."""
        return (math.prod(self.shape),) if self.flat else self.shape

    @property
    def first(self) -> Shape:
        """Shape in NIR, channels first."""
        return self.features if self.flat else (self.shape[-1], *self.shape[:-1])

    def channels_last(self, value: np.ndarray) -> np.ndarray:
        """Return values that broadcast to `first` as an array of the shape `shape`."""
        whole = np.broadcast_to(value, self.first).reshape(self.shape[-1], *self.shape[:-1])
        return np.ascontiguousarray(np.moveaxis(whole, 0, -1))


class Link(NamedTuple):
    """The nodes from a population, or from the Input, to another population.

    Attributes:
        source: Node of the presynaptic population, or the Input.
        before: Pooling, flattening, scales, thresholds, delays, and last the weights.
        after: Scale and Flatten nodes after the weights.
    """

    source: str
    before: list[str]
    after: list[str]


class Stage(NamedTuple):
    """A population of neurons and the nodes that lead to it.

    Attributes:
        name: Node of the population.
        link: The nodes from the population below.
        loop: A Delay, if there is one, and the recurrent weights; empty without recurrence.
        delay: Delays of the inputs of its weights in steps, (in,), or None.
    """

    name: str
    link: Link
    loop: list[str]
    delay: np.ndarray | None = None


class Graph:
    """The nodes by name, and the sources and targets of each node."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        self.nodes, edges = inlined(graph)
        self.sources: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.targets: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in edges:
            self.targets[a].append(b)
            self.sources[b].append(a)

    def end(self, kind: str) -> str:
        """Return the name of the only node of the given kind."""
        found = [name for name in self.nodes if self.kind(name) == kind]
        if len(found) != 1:
            got = f"{len(found)}: {found[:10]}"
            raise ValueError(f"the graph must have one {kind}, got {got}. {IMPORTED}")
        return found[0]

    def kind(self, name: str) -> str:
        return type(self.nodes[name]).__name__

    def field(self, name: str, field: str) -> object:
        """Return a field of a node, unchecked, or None if the node does not have it."""
        return vars(self.nodes[name]).get(field)

    def metadata(self, name: str) -> dict[str, object]:
        return metadata_of(self.nodes[name])

    def fail(self, name: str, what: str) -> NoReturn:
        raise ValueError(f"node {name!r} ({self.kind(name)}) {what}. {IMPORTED}")

    def array(self, name: str, field: str) -> np.ndarray:
        """Return a field of a node after a check that it holds finite real numbers."""
        given, value = self.field(name, field), np.asarray(None)
        with contextlib.suppress(TypeError, ValueError):
            value = np.asarray(given)
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            self.fail(name, f"must have {field} of finite real numbers, got {str(given)[:100]}")
        return value

    def sizes(self, name: str, field: str, axes: int, *, at_least: int) -> tuple[int, ...]:
        """Return a field of a node with one whole number per spatial axis.

        Args:
            name: The node.
            field: The field. It has one number per axis, or one for all axes.
            axes: Number of spatial axes.
            at_least: Smallest number allowed.
        """
        value = self.array(name, field)
        fits = value.dtype.kind in "iu" and value.shape in ((), (1,), (axes,))
        if not fits or (value < at_least).any():
            needed = f"{field} of one whole number >= {at_least}, or {axes}"
            self.fail(name, f"must have {needed}, got {str(value)[:100]}")
        return tuple(int(v) for v in np.broadcast_to(value, (axes,)))

    def only(self, name: str, others: list[str], verb: str) -> str:
        if len(others) != 1:
            self.fail(name, f"must {verb} one node, got {others[:10]}")
        return others[0]


def metadata_of(node: nir.NIRNode) -> dict[str, object]:
    """Return the metadata of a node or a graph, which may have none, or another type of it."""
    metadata = vars(node).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def shape_of(value: object) -> Shape | None:
    """Return `value` as a shape of one to four sizes >= 1, or None if it is not one."""
    a = np.asarray(value)
    fits = a.dtype.kind in "iu" and a.ndim == 1 and 1 <= a.size <= 4 and bool((a > 0).all())
    return tuple(int(n) for n in a) if fits else None


def stages_of(graph: Graph) -> tuple[list[Stage], list[Link]]:
    """Return the populations from input to output, and the skip connections to the last one.

    The skip connections are in the order of their sources. The link of the last stage is among
    them. Without skip connections, the list is empty.
    """
    start, end = graph.end("Input"), graph.end("Output")
    name, used = graph.only(end, graph.sources[end], "come from"), {start, end}
    while graph.kind(name) == "Flatten" and name not in used:
        # our outputs have the shape (*spatial, channels), as our inputs
        used.add(name)
        graph.only(name, graph.targets[name], "go to")
        name = graph.only(name, graph.sources[name], "come from")
    if graph.kind(name) not in NEURONS:
        graph.fail(name, "is before the Output; the node before the Output must be neurons")
    stages: list[Stage] = []
    skips: list[Link] = []
    while name != start:
        if name in used:
            graph.fail(name, "is in a loop with other neurons")
        loops, forward = _incoming(graph, name)
        delayed = {chain[0] for chain in loops if graph.kind(chain[0]) == "Delay"}
        for node in itertools.chain(*loops):
            if node in delayed:
                continue
            if graph.kind(node) not in _WEIGHTS:
                graph.fail(node, f"cannot be in the loop of the neurons {name!r}; only weights can")
        if len(loops) > 1 or any(len(set(chain) - delayed) != 1 for chain in loops):
            graph.fail(name, "must have one set of weights to itself, and nothing else in the loop")
        links = [_link(graph, name, chain, source) for chain, source in forward]
        if not links:
            graph.fail(name, "must get its input through weights")
        if len(links) > 1:
            if stages:
                got = [link.source for link in links[:10]]
                graph.fail(name, f"gets input from {got}; only the last neurons may have several")
            skips = list(links)
            # the source that feeds no other source is the population below
            below = {source for link in links for _, source in _incoming(graph, link.source)[1]}
            links.sort(key=lambda link: link.source in below)
        stages.insert(0, Stage(name, links[0], loops[0] if loops else []))
        used |= {name, *itertools.chain(*loops), *(node for chain, _ in forward for node in chain)}
        name = links[0].source
    if left := [name for name in graph.nodes if name not in used]:
        graph.fail(left[0], "is on no path from the Input to the Output")
    return stages, _in_order(graph, stages, skips)


def _incoming(graph: Graph, name: str) -> tuple[list[list[str]], list[tuple[list[str], str]]]:
    """Return the chains from a population to itself, and those from others with their sources."""
    chains = [_chain(graph, source) for source in graph.sources[name]]
    own = [chain for chain, source in chains if source == name]
    return own, [(chain, source) for chain, source in chains if source != name]


def _link(graph: Graph, name: str, chain: list[str], source: str) -> Link:
    """Return the chain from `source` to the population `name`, split after its weights."""
    n = len(chain)
    while n and graph.kind(chain[n - 1]) in ("Scale", "Flatten"):
        n -= 1
    if n == 0:
        graph.fail(name, "must get its input through weights")
    if graph.kind(chain[n - 1]) not in _WEIGHTS:
        graph.fail(chain[n - 1], f"cannot be directly before the neurons {name!r}; weights must be")
    return Link(source, chain[:n], chain[n:])


def _chain(graph: Graph, name: str) -> tuple[list[str], str]:
    """Return the stateless nodes up to `name`, and the population or the Input before them."""
    chain: list[str] = []
    while graph.kind(name) not in (*NEURONS, "Input"):
        if name in chain:
            graph.fail(name, "is in a loop without neurons")
        chain.insert(0, name)
        graph.only(name, graph.targets[name], "go to")
        name = graph.only(name, graph.sources[name], "come from")
    return chain, name


def _in_order(graph: Graph, stages: list[Stage], skips: list[Link]) -> list[Link]:
    if not skips:
        return []
    last, by_source = stages[-1].name, {skip.source: skip for skip in skips}
    spiking = [stage.name for stage in stages[:-1] if graph.kind(stage.name) in SPIKING]
    if len(by_source) != len(skips) or set(by_source) != set(spiking):
        needed = f"one population, or once from each spiking population, {spiking}"
        graph.fail(last, f"must get input from {needed}; got {[skip.source for skip in skips]}")
    for link in skips:
        *before, kind = map(graph.kind, link.before)
        if before not in ([], ["Flatten"]) or kind not in _LINEAR:
            needed = "Linear, with nothing but a Flatten before it, in a skip connection"
            graph.fail(link.before[-1], f"must be {needed}, got {link.before}")
    return [by_source[source] for source in spiking]
