"""NIR graphs within a NIR graph, replaced by their own nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from snnjax.exchange import _nir_convention as convention

if TYPE_CHECKING:
    import nir

_DEEPEST = 8  # graphs within graphs
# one small graph that is used many times, at several depths, would have no bound
_MOST_NODES, _MOST_EDGES = 10_000, 100_000


class Flat(NamedTuple):
    """A graph whose nodes are no graphs.

    Attributes:
        nodes: Its nodes. The node `b` of the graph `a` is `a.b`.
        edges: Its edges, pairs of names.
    """

    nodes: dict[str, nir.NIRNode]
    edges: list[tuple[str, str]]


def inlined(graph: nir.NIRGraph, depth: int = 0) -> Flat:
    """Replace the graphs among the nodes of a graph by their nodes.

    An edge to such a graph becomes one to each node after its Input, an edge from it one from each
    node before its Output.

    Args:
        graph: The graph.
        depth: Number of graphs around it.

    Returns:
        The graph without inner graphs.

    Raises:
        ValueError: An edge joins no two nodes or is there twice, graphs are nested too deep, or an
            inner graph has not one Input and one Output.
        TypeError: A node is no node of the package nir.
    """
    nir = convention.import_nir()
    if depth > _DEEPEST:
        raise ValueError(f"graphs must be at most {_DEEPEST} deep within each other, got more")
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    ends: dict[str, tuple[list[str], list[str]]] = {}  # first and last nodes of inner graphs
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRNode):
            raise TypeError(f"nodes must be nodes of nir, got {node!r} as {name!r}")
        if isinstance(node, nir.NIRGraph):
            within = inlined(cast("nir.NIRGraph", node), depth + 1)
            inner, ends[name] = _renamed(name, within)
        else:
            inner = Flat({name: node}, [])
        if twice := sorted(nodes.keys() & inner.nodes.keys()):
            raise ValueError(f"nodes must have names of their own, got {twice[0]!r} twice")
        nodes |= inner.nodes
        edges += inner.edges
        if len(nodes) > _MOST_NODES:
            raise ValueError(f"the graph must have at most {_MOST_NODES:,} nodes, got more")
    for a, b in _checked_edges(graph):
        _, last = ends.get(a, ([], [a]))
        first, _ = ends.get(b, ([b], []))
        if len(edges) + len(last) * len(first) > _MOST_EDGES:
            raise ValueError(f"the graph must have at most {_MOST_EDGES:,} edges, got more")
        edges += itertools.product(last, first)
    return Flat(nodes, edges)


def _checked_edges(graph: nir.NIRGraph) -> Sequence[tuple[str, str]]:
    seen: dict[tuple[str, str], None] = {}
    for edge in graph.edges:
        if len(edge) != 2 or any(name not in graph.nodes for name in edge):
            raise ValueError(f"edges must join two of the graph's nodes, got {tuple(edge)}")
        if (pair := (edge[0], edge[1])) in seen:
            raise ValueError(f"edges must be given once, got {pair[0]!r} to {pair[1]!r} twice")
        seen[pair] = None
    return list(seen)


def _renamed(graph: str, inner: Flat) -> tuple[Flat, tuple[list[str], list[str]]]:
    """An inner graph without its Input and Output, and its first and last nodes.

    Args:
        graph: Name of the inner graph.
        inner: Its nodes and edges.
    """
    found: dict[str, str] = {}
    for kind in ("Input", "Output"):
        names = [name for name, node in inner.nodes.items() if type(node).__name__ == kind]
        if len(names) != 1:
            got = f"{len(names)}: {names[:10]}"
            raise ValueError(f"the graph {graph!r} must have one {kind}, got {got}")
        found[kind] = names[0]
    start, end = found["Input"], found["Output"]
    if (start, end) in inner.edges:
        raise ValueError(f"the graph {graph!r} must have a node between its Input and its Output")
    of = lambda name: f"{graph}.{name}"
    nodes = {of(name): node for name, node in inner.nodes.items() if name not in (start, end)}
    edges = [(of(a), of(b)) for a, b in inner.edges if a != start and b != end]
    first = [of(b) for a, b in inner.edges if a == start]
    last = [of(a) for a, b in inner.edges if b == end]
    return Flat(nodes, edges), (first, last)
