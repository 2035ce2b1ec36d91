"""A NIR node of neurons as a model of `snnjax.dynamics`.

`snnjax.exchange` has the formulas and explains the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from snnjax.dynamics import IF, LIF, Leaky, LeakyIntegrator, Neuron
from snnjax.dynamics._neuron import Reset
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._graph import SPIKING, Graph, Signal
from snnjax.exchange._nir_convention import Scheme

_CUBA = {"tau_mem": "tau_mem", "tau_syn": "tau_syn"}
# time constants of each kind of node: our name and NIR's
_TAU = {"tau_mem": "tau"}
_TIMES = {"CubaLIF": _CUBA, "CubaLI": _CUBA, "LIF": _TAU, "LI": _TAU, "IF": {}}
_MODELS: dict[str, Callable[..., Neuron]] = {
    "CubaLIF": LIF,
    "LIF": LIF,
    "IF": IF,
    "CubaLI": LeakyIntegrator,
    "LI": LeakyIntegrator,
}
_SAME = 1e-6  # relative rounding error allowed between the values of a node and its metadata


class Reading(NamedTuple):
    """How a graph is read, where its nodes leave it open.

    Attributes:
        dt: Time step of the network, s.
        written: Time step for which the graph was written, s.
        scheme: How the graph's writer steps through time.
        reset: Reset of neurons whose v_reset is 0 and whose metadata name no other one.
    """

    dt: float
    written: float
    scheme: Scheme
    reset: Reset = "multiplicative"


class Read(NamedTuple):
    """A neuron model as read from a node.

    Attributes:
        neuron: The model.
        logs: Logarithms of the time constants that are trained, (units,) each.
        gain: Factor for the weights and biases onto each neuron, (units,).
        constant: Constant drive of each neuron, (units,).
    """

    neuron: Neuron
    logs: dict[str, np.ndarray]
    gain: np.ndarray
    constant: np.ndarray


def read_neurons(graph: Graph, name: str, signal: Signal, reading: Reading) -> Read:
    """Read the neurons of a node.

    Args:
        graph: The graph.
        name: The node.
        signal: The neurons' output.
        reading: How the graph is read.
    """
    kind, metadata = graph.kind(name), _Held(graph.metadata(name), signal.shape)
    field = lambda f: _per_unit(graph, name, f, signal)
    leak = np.zeros(1) if kind == "IF" else field("v_leak")
    if leak.any() and "tau_syn" in _TIMES[kind]:
        # a constant drive would charge the synaptic current first
        graph.fail(name, "must have v_leak = 0")
    tau, written = {}, {}
    for ours, theirs in _TIMES[kind].items():
        written[ours] = field(theirs)
        if not (written[ours] > 0).all():
            graph.fail(name, f"must have {theirs} > 0 s, got {written[ours].min()}")
        try:
            tau[ours] = convention.tau_from_nir(written[ours], reading.written, reading.scheme)
        except ValueError as error:
            graph.fail(name, f"has a {theirs} that {error}")
        # Rounding loses a time constant far below dt: the stored one then gives the same number.
        if (held := metadata.original(ours)) is not None:
            rewritten = convention.tau_to_nir(np.asarray(held), reading.written, reading.scheme)
            if _agree(rewritten, written[ours]):
                tau[ours] = np.broadcast_to(np.asarray(held), np.shape(written[ours]))
    gain = np.asarray(field("r"), np.float64)
    if "tau_syn" in written:
        per_step = convention.input_gain(written["tau_syn"], reading.written, reading.scheme)
        with np.errstate(over="ignore"):  # the caller refuses non-finite weights
            gain = gain * field("w_in") * per_step
    logs = {which: log for which in tau if (log := metadata.log(which, tau[which])) is not None}
    values = {
        which: metadata.original(which) if which in logs else metadata.agreed(which, value)
        for which, value in tau.items()
    }
    model = Leaky if kind == "LIF" and metadata.word("neuron") == "Leaky" else _MODELS[kind]
    if model in (LIF, LeakyIntegrator):
        values.setdefault("tau_syn", convention.NO_SYNAPSE * reading.dt)
    initial = metadata.original("initial")
    begin = {"initial": 0.0 if initial is None else initial}
    options: dict[str, Any] = begin
    if model is IF:
        values["duration"] = metadata.duration(reading.dt)
    if kind in SPIKING:
        options = _spiking(field, metadata, reading.reset)
        if (log := metadata.log("theta", field("v_threshold"))) is not None:
            logs["theta"], options["theta"] = log, metadata.original("theta")
    try:
        neuron = model(**values, **options, dt=reading.dt)
    except (ValueError, TypeError) as error:
        graph.fail(name, f"has a parameter out of range: {error}")
    one = one_a_unit(graph, name, "w_in, r and tau_syn", gain)
    constant = one_a_unit(graph, name, "v_leak", np.broadcast_to(leak, signal.shape))
    return Read(neuron, logs, np.where(np.abs(one - 1) < _SAME, 1.0, one), constant)


def read_values(graph: Graph, name: str, field: str, signal: Signal) -> np.ndarray:
    """Read a field with one number per value of a signal, as an array of the signal's `shape`.

    Args:
        graph: The graph.
        name: The node.
        field: The field. It broadcasts to the signal.
        signal: The signal.
    """
    value = graph.array(name, field)
    if not _broadcasts(value.shape, signal.first):
        sizes = "(features,)" if signal.flat else "(channels, *spatial)"
        needed = f"{field} of the shape {sizes} = {signal.first}"
        graph.fail(name, f"must have {needed}, got {value.shape}")
    return signal.channels_last(value)


def _spiking(field: Callable[[str], np.ndarray], metadata: _Held, reset: Reset) -> dict[str, Any]:
    """Return threshold, reset and surrogate derivative as arguments of `LIF`.

    Args:
        field: Function from a field of the node to its values.
        metadata: The node's metadata.
        reset: Reset if v_reset is 0 and the metadata name none.
    """
    v_reset, said = field("v_reset"), metadata.word("reset")
    options = {
        "theta": metadata.agreed("theta", field("v_threshold")),
        "reset_grad": metadata.word("reset_grad") == "True",
    }
    if v_reset.any():
        options |= {"reset": "to_value", "u_reset": metadata.agreed("u_reset", v_reset)}
    else:
        options["reset"] = said if said in get_args(Reset) else reset
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

    def duration(self, dt: float) -> float | None:
        """Return the duration of a trial that an `IF` has, or None."""
        value = self.array("duration")
        return float(value) if value is not None and value.ndim == 0 and value > dt else None

    def log(self, which: str, tau: np.ndarray) -> np.ndarray | None:
        """Return the logarithms of a trained time constant or threshold, (units,), or None.

        None also if they do not agree with the node's own value `tau`.
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


def _per_unit(graph: Graph, name: str, field: str, signal: Signal) -> np.ndarray:
    """Return a parameter of neurons (*spatial, units).

    The result is (units,) if the parameter is the same at all positions, else (*spatial, units).
    """
    whole = read_values(graph, name, field, signal)
    flat = whole.reshape(-1, whole.shape[-1])
    return flat[0] if (flat == flat[0]).all() else whole


def one_a_unit(graph: Graph, name: str, what: str, values: np.ndarray) -> np.ndarray:
    """Return values (*spatial, units) as (units,) in float64; they must agree at all positions.

    Args:
        graph: The graph.
        name: The node, for the error.
        what: What the values are, for the error.
        values: The values.
    """
    flat = values.astype(np.float64).reshape(-1, values.shape[-1])
    if (flat != flat[0]).any():
        graph.fail(name, f"must have the same {what} at all positions of a feature map")
    return flat[0]
