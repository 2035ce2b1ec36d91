"""A NIR node of neurons as a model of `snnjax.dynamics`.

`snnjax.exchange` has the formulas and explains the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from snnjax.dynamics import LIF, LeakyIntegrator, Neuron
from snnjax.dynamics._neuron import Reset
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._graph import SPIKING, Graph
from snnjax.exchange._nir_convention import Scheme

_CUBA = {"tau_mem": "tau_mem", "tau_syn": "tau_syn"}
# time constants of each kind of node: our name and NIR's
_TIMES = {"CubaLIF": _CUBA, "CubaLI": _CUBA, "LIF": {"tau_mem": "tau"}, "LI": {"tau_mem": "tau"}}
_SAME = 1e-6  # relative rounding error allowed between the values of a node and its metadata


class Clock(NamedTuple):
    """Time steps of the network and of the graph.

    Attributes:
        dt: Time step of the network, s.
        written: Time step for which the graph was written, s.
        scheme: How the graph's writer steps through time.
    """

    dt: float
    written: float
    scheme: Scheme


class Read(NamedTuple):
    """A neuron model as read from a node.

    Attributes:
        neuron: The model.
        logs: Logarithms of the time constants that are trained, (units,) each.
        gain: Factor for the weights onto each neuron, (units,).
    """

    neuron: Neuron
    logs: dict[str, np.ndarray]
    gain: np.ndarray


def read_neurons(graph: Graph, name: str, shape: tuple[int, ...], clock: Clock) -> Read:
    """Read the neurons of a node.

    Args:
        graph: The graph.
        name: The node.
        shape: Shape (*spatial, units) of the neurons' output.
        clock: Time steps of the network and of the graph.
    """
    kind, metadata = graph.kind(name), _Held(graph.metadata(name), shape)
    field = lambda f: _per_unit(graph, name, f, shape)
    if field("v_leak").any():
        graph.fail(name, "must have v_leak = 0")
    tau, written = {}, {}
    for ours, theirs in _TIMES[kind].items():
        written[ours] = field(theirs)
        if not (written[ours] > 0).all():
            graph.fail(name, f"must have {theirs} > 0 s, got {written[ours].min()}")
        try:
            tau[ours] = convention.tau_from_nir(written[ours], clock.written, clock.scheme)
        except ValueError as error:
            graph.fail(name, f"has a {theirs} that {error}")
        # Rounding loses a time constant far below dt: the stored one then gives the same number.
        if (held := metadata.original(ours)) is not None:
            rewritten = convention.tau_to_nir(np.asarray(held), clock.written, clock.scheme)
            if _agree(rewritten, written[ours]):
                tau[ours] = np.broadcast_to(np.asarray(held), np.shape(written[ours]))
    gain = np.asarray(field("r"), np.float64)
    if "tau_syn" in written:
        per_step = convention.input_gain(written["tau_syn"], clock.written, clock.scheme)
        with np.errstate(over="ignore"):  # the caller refuses non-finite weights
            gain = gain * field("w_in") * per_step
    logs = {which: log for which in tau if (log := metadata.log(which, tau[which])) is not None}
    values = {
        which: metadata.original(which) if which in logs else metadata.agreed(which, value)
        for which, value in tau.items()
    }
    values.setdefault("tau_syn", convention.NO_SYNAPSE * clock.dt)
    initial = metadata.original("initial")
    begin = {"initial": 0.0 if initial is None else initial}
    options: dict[str, Any] = _spiking(field, metadata) if kind in SPIKING else begin
    try:
        model = LIF if kind in SPIKING else LeakyIntegrator
        neuron = model(**values, **options, dt=clock.dt)
    except (ValueError, TypeError) as error:
        graph.fail(name, f"has a parameter out of range: {error}")
    return Read(neuron, logs, _one_a_unit(graph, name, "w_in, r and tau_syn", gain))


def read_scale(graph: Graph, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read the factors of a Scale node, (units,) in float64.

    Args:
        graph: The graph.
        name: The Scale node.
        shape: Shape (*spatial, units) of the output that is scaled.
    """
    return _one_a_unit(graph, name, "scale", _per_unit(graph, name, "scale", shape))


def _spiking(field: Callable[[str], np.ndarray], metadata: _Held) -> dict[str, Any]:
    """Return threshold, reset and surrogate derivative as arguments of `LIF`."""
    v_reset, said = field("v_reset"), metadata.word("reset")
    options = {
        "theta": metadata.agreed("theta", field("v_threshold")),
        "reset_grad": metadata.word("reset_grad") == "True",
    }
    if v_reset.any():
        options |= {"reset": "to_value", "u_reset": metadata.agreed("u_reset", v_reset)}
    elif said in get_args(Reset):
        options["reset"] = said
    make = convention.SURROGATES.get(metadata.word("surrogate"))
    steepness = metadata.array("steepness")
    if make is not None and steepness is not None and steepness.ndim == 1 and (steepness > 0).all():
        # calibration may have added a scale of the derivative; then there is one more number
        for spike in (make(), make().scaled()):
            if len(steepness) == len(spike.steepness):
                options["spike"] = spike.with_steepness(steepness.tolist())
    return options


class _Held:
    """A node's metadata: the parameters as snnjax stores them.

    The metadata is not trusted. An entry of a wrong type or shape counts as missing.
    """

    def __init__(self, metadata: Mapping[str, object], shape: tuple[int, ...]) -> None:
        self._metadata, self._shape = metadata, shape

    def word(self, name: str) -> str:
        value = self._metadata.get(name)
        return value if isinstance(value, str) else ""

    def array(self, name: str) -> np.ndarray | None:
        """Return an entry of finite floating-point numbers, or None."""
        value = self._metadata.get(name)
        if not isinstance(value, np.ndarray | np.generic | float):
            return None
        a = np.asarray(value)
        return a if a.dtype.kind == "f" and np.isfinite(a).all() else None

    def original(self, name: str) -> Any:
        """Return a parameter as snnjax stored it, or None."""
        value = self.array(name)
        if value is None or not _broadcasts(value.shape, self._shape):
            return None
        if name in self.word("jax").split():
            return jnp.asarray(value)
        return value if value.ndim else value.item() if value.dtype == np.float64 else value[()]

    def agreed(self, name: str, value: np.ndarray) -> Any:
        """Return the stored parameter if it agrees with the node's own `value`, else the value.

        A value that is the same for all neurons is returned as one number.
        """
        held = self.original(name)
        if held is not None and _agree(held, value):
            return held
        return float(value.flat[0]) if (value == value.flat[0]).all() else value

    def log(self, which: str, tau: np.ndarray) -> np.ndarray | None:
        """Return the logarithms of a trained time constant, (units,), or None.

        None also if they do not agree with the node's own time constant `tau`.
        """
        log = self.array(f"log_{which}")
        trained = which in self.word("trainable").split() and self.original(which) is not None
        if not trained or log is None or log.shape != self._shape[-1:]:
            return None
        return log if _agree(np.exp(log), tau) else None


def _broadcasts(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether an array of the shape `given` broadcasts to `shape`."""
    pairs = zip(reversed(given), reversed(shape), strict=False)
    return len(given) <= len(shape) and all(n in (1, size) for n, size in pairs)


def _agree(a: ArrayLike, b: np.ndarray) -> bool:
    return bool(np.allclose(np.asarray(a), b, rtol=_SAME, atol=0))


def _per_unit(graph: Graph, name: str, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a parameter of neurons (*spatial, units).

    The result is (units,) if the parameter is the same at all positions, else (*spatial, units).
    """
    value = graph.array(name, field)
    first = (shape[-1], *shape[:-1])
    if not _broadcasts(value.shape, first):
        needed = f"{field} of the shape (channels, *spatial) = {first}"
        graph.fail(name, f"must have {needed}, got {value.shape}")
    whole = np.ascontiguousarray(np.moveaxis(np.broadcast_to(value, first), 0, -1))
    flat = whole.reshape(-1, shape[-1])
    return flat[0] if (flat == flat[0]).all() else whole


def _one_a_unit(graph: Graph, name: str, what: str, gain: np.ndarray) -> np.ndarray:
    flat = gain.astype(np.float64).reshape(-1, gain.shape[-1])
    if (flat != flat[0]).any():
        graph.fail(name, f"must have the same {what} at all positions of a feature map")
    return np.where(np.abs(flat[0] - 1) < _SAME, 1.0, flat[0])
