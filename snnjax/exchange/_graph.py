"""A NIR graph as a chain of neuron populations, each with what stands before it; and its nodes' values, checked.

The graph is walked from its output back to its input. On the way to a population stand its weights, after them scales, and before them pooling and
flattening; weights from a population to itself are its recurrence. Only the last population may get input from several: from all that spike, as skip
connections are.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, NoReturn

import numpy as np

IMPORTED = (
    "from_nir reads one chain from Input to Output of Linear, Affine, Conv1d or Conv2d without bias, each followed by CubaLIF, LIF, CubaLI or LI "
    "with v_leak = 0, a Scale in between; weights from neurons to themselves, AvgPool2d, SumPool2d of spikes with a Threshold in [0, 1), Flatten, "
    "and weights from all to the last"
)
SPIKING, NEURONS = ("CubaLIF", "LIF"), ("CubaLIF", "LIF", "CubaLI", "LI")
_LINEAR = ("Linear", "Affine")
_WEIGHTS = (*_LINEAR, "Conv1d", "Conv2d")


class Stage(NamedTuple):
    """A population of neurons and what leads to it.

    Attributes:
      name: its node.
      before: the nodes before it, of which the last are weights.
      scales: the Scale nodes between those weights and it.
      loop: with recurrence, the weights in its loop.
    """

    name: str
    before: list[str]
    scales: list[str]
    loop: str | None


class Skip(NamedTuple):
    """A connection past other neurons.

    Attributes:
      source: the population that sends.
      weights: their node.
      scales: the Scale nodes after the weights.
    """

    source: str
    weights: str
    scales: list[str]


class Graph:
    """The nodes by name, and who sends to whom."""

    def __init__(self, graph: Any) -> None:
        self.nodes: dict[str, Any] = dict(graph.nodes)
        self.sources: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.targets: dict[str, list[str]] = {name: [] for name in self.nodes}
        for edge in graph.edges:
            if len(edge) != 2 or any(name not in self.nodes for name in edge):
                raise ValueError(f"edges must join two of the graph's nodes, got {tuple(edge)}")
            a, b = edge
            if b in self.targets[a]:
                raise ValueError(f"edges must be given once, got {a!r} to {b!r} twice")
            self.targets[a].append(b)
            self.sources[b].append(a)

    def end(self, kind: str) -> str:
        """The one node of the given kind."""
        found = [name for name in self.nodes if self.kind(name) == kind]
        if len(found) != 1:
            raise ValueError(
                f"the graph must have one {kind}, got {len(found)}: {found[:10]}. {IMPORTED}"
            )
        return found[0]

    def kind(self, name: str) -> str:
        return type(self.nodes[name]).__name__

    def metadata(self, name: str) -> dict[str, Any]:
        return metadata_of(self.nodes[name])

    def fail(self, name: str, what: str) -> NoReturn:
        raise ValueError(f"node {name!r}, a {self.kind(name)}, {what}. {IMPORTED}")

    def array(self, name: str, field: str) -> np.ndarray:
        """A field of a node, of finite real numbers."""
        given = getattr(self.nodes[name], field, None)
        try:
            value = np.asarray(given)
        except (TypeError, ValueError):
            value = np.asarray(None)
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            self.fail(name, f"must have {field} of finite real numbers, got {str(given)[:100]}")
        return value

    def sizes(self, name: str, field: str, axes: int, *, at_least: int) -> tuple[int, ...]:
        """A field with one whole number for all spatial axes or one an axis."""
        value = self.array(name, field)
        if (
            value.dtype.kind not in "iu"
            or value.shape not in ((), (1,), (axes,))
            or (value < at_least).any()
        ):
            self.fail(
                name,
                f"must have {field} of one whole number >= {at_least}, or {axes}, got {str(value)[:100]}",
            )
        return tuple(int(v) for v in np.broadcast_to(value, (axes,)))

    def only(self, name: str, others: list[str], verb: str) -> str:
        if len(others) != 1:
            self.fail(name, f"must {verb} one node, got {others[:10]}")
        return others[0]


def metadata_of(node: Any) -> dict[str, Any]:
    return node.metadata if isinstance(getattr(node, "metadata", None), dict) else {}


def shape_of(value: Any) -> tuple[int, ...] | None:
    """At most four sizes >= 1, or None where `value` is not that."""
    a = np.asarray(value)
    fits = a.dtype.kind in "iu" and a.ndim == 1 and 1 <= a.size <= 4 and bool((a > 0).all())
    return tuple(int(n) for n in a) if fits else None


def stages_of(graph: Graph) -> tuple[list[Stage], list[Skip]]:
    """The populations from input to output, and all skip connections to the last one, if any."""
    start, end = graph.end("Input"), graph.end("Output")
    name, used = graph.only(end, graph.sources[end], "come from"), {start, end}
    if graph.kind(name) not in NEURONS:
        graph.fail(name, "stands before the Output, where there must be neurons")
    stages: list[Stage] = []
    skips: list[Skip] = []
    while name != start:
        if name in used:
            graph.fail(name, "is in a loop with other neurons")
        loops, forward = _incoming(graph, name)
        for node in itertools.chain(*loops):
            if graph.kind(node) not in _WEIGHTS:
                graph.fail(
                    node,
                    f"cannot stand in the loop of the neurons {name!r}, where there must be weights alone",
                )
        if len(loops) > 1 or any(len(chain) != 1 for chain in loops):
            graph.fail(
                name, "must have one set of weights to itself, with nothing else in the loop"
            )
        if not forward:
            graph.fail(name, "must get its input through weights")
        parts = [(*_split_scales(graph, name, chain), source) for chain, source in forward]
        if len(parts) > 1:
            if stages:
                sources = [source for *_, source in parts]
                graph.fail(
                    name,
                    f"gets input from {sources[:10]}; only the last neurons may have several sources",
                )
            skips = [Skip(source, chain[-1], scales) for chain, scales, source in parts]
        chain, scales, source = (
            max(parts, key=lambda part: _depth(graph, part[2], start))
            if len(parts) > 1
            else parts[0]
        )
        stages.insert(0, Stage(name, chain, scales, loops[0][0] if loops else None))
        used |= {name, *itertools.chain(*loops), *(node for chain, _ in forward for node in chain)}
        name = source
    if left := [name for name in graph.nodes if name not in used]:
        graph.fail(left[0], "is on no path from the Input to the Output")
    return stages, _in_order(graph, stages, skips)


def _incoming(graph: Graph, name: str) -> tuple[list[list[str]], list[tuple[list[str], str]]]:
    """What leads to a population: chains from itself, and chains from others with their sources."""
    chains = [_chain(graph, source) for source in graph.sources[name]]
    return [chain for chain, source in chains if source == name], [
        (chain, source) for chain, source in chains if source != name
    ]


def _split_scales(graph: Graph, name: str, chain: list[str]) -> tuple[list[str], list[str]]:
    """What leads to the population `name`: nodes up to its weights, and scales after these."""
    n = len(chain)
    while n and graph.kind(chain[n - 1]) == "Scale":
        n -= 1
    if n == 0:
        graph.fail(name, "must get its input through weights")
    if graph.kind(chain[n - 1]) not in _WEIGHTS:
        graph.fail(
            chain[n - 1],
            f"cannot stand right before the neurons {name!r}, which must get their input through weights",
        )
    return chain[:n], chain[n:]


def _chain(graph: Graph, name: str) -> tuple[list[str], str]:
    """The nodes without state that end with `name`, and the population, or the Input, before them."""
    chain: list[str] = []
    while graph.kind(name) not in (*NEURONS, "Input"):
        if name in chain:
            graph.fail(name, "is in a loop without neurons")
        chain.insert(0, name)
        graph.only(name, graph.targets[name], "go to")
        name = graph.only(name, graph.sources[name], "come from")
    return chain, name


def _depth(graph: Graph, name: str, start: str) -> int:
    """Populations from here to the Input."""
    seen: set[str] = set()
    while name != start and name not in seen:
        seen.add(name)
        _, forward = _incoming(graph, name)
        name = forward[0][1] if forward else start
    return len(seen)


def _in_order(graph: Graph, stages: list[Stage], skips: list[Skip]) -> list[Skip]:
    if not skips:
        return []
    last, by_source = stages[-1].name, {skip.source: skip for skip in skips}
    spiking = [stage.name for stage in stages[:-1] if graph.kind(stage.name) in SPIKING]
    if len(by_source) != len(skips) or set(by_source) != set(spiking):
        sources = [skip.source for skip in skips]
        graph.fail(
            last,
            f"must get input from one population, or once from each that spikes, {spiking}; got {sources}",
        )
    for _, name, _ in skips:
        chain, _ = _chain(graph, name)
        if [graph.kind(n) for n in chain[:-1]] not in ([], ["Flatten"]) or graph.kind(
            name
        ) not in _LINEAR:
            graph.fail(
                name,
                f"must be Linear, with a Flatten before it at most, in a connection past other neurons, got {chain}",
            )
    return [by_source[source] for source in spiking]
