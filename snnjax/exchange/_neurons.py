"""A NIR node of neurons as a model of `snnjax.dynamics`; `snnjax.exchange.nir_convention` has the formulas, and what its metadata is for."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from snnjax.dynamics import LIF, LeakyIntegrator, Reset
from snnjax.exchange import nir_convention as convention
from snnjax.exchange._graph import SPIKING, Graph
from snnjax.exchange.nir_convention import Scheme

_SAME = 1e-6  # relative: the rounding between what a node and its metadata say


class Clock(NamedTuple):
    """Time step of the network, s; the one that the graph's numbers are for, s; and how its writer steps."""

    dt: float
    written: float
    scheme: Scheme


class Read(NamedTuple):
    """The model; logarithms of its time constants that are trained; what weights onto the neurons are multiplied with, (units,)."""

    neuron: Any
    logs: dict[str, np.ndarray]
    gain: np.ndarray


def read_neurons(graph: Graph, name: str, shape: tuple[int, ...], clock: Clock) -> Read:
    """The neurons of a node, for an output (*spatial, units) of the given shape."""
    kind, metadata = graph.kind(name), _Held(graph.metadata(name), shape)
    field = lambda f: _per_unit(graph, name, f, shape)
    if field("v_leak").any():
        graph.fail(name, "must have v_leak = 0")
    times = (
        {"tau_mem": "tau_mem", "tau_syn": "tau_syn"}
        if kind.startswith("Cuba")
        else {"tau_mem": "tau"}
    )
    tau, written = {}, {}
    for ours, theirs in times.items():
        written[ours] = field(theirs)
        if not (written[ours] > 0).all():
            graph.fail(name, f"must have {theirs} > 0 s, got {written[ours].min()}")
        try:
            tau[ours] = convention.tau_from_nir(written[ours], clock.written, clock.scheme)
        except ValueError as error:
            graph.fail(name, f"has a {theirs} that {error}")
    gain = np.asarray(field("r"), np.float64)
    if "tau_syn" in written:
        with np.errstate(over="ignore"):  # weights that are not finite are refused
            gain = (
                gain
                * field("w_in")
                * convention.input_gain(written["tau_syn"], clock.written, clock.scheme)
            )
    logs = {which: log for which in tau if (log := metadata.log(which, tau[which])) is not None}
    values = {
        which: metadata.original(which) if which in logs else metadata.agreed(which, value)
        for which, value in tau.items()
    }
    values.setdefault("tau_syn", convention.NO_SYNAPSE * clock.dt)
    spiking = _spiking(field, metadata) if kind in SPIKING else {}
    try:
        if kind in SPIKING:
            neuron: Any = LIF(**values, **spiking, dt=clock.dt)
        else:
            initial = metadata.original("initial")
            neuron = LeakyIntegrator(
                **values, initial=0.0 if initial is None else initial, dt=clock.dt
            )
    except (ValueError, TypeError) as error:
        graph.fail(name, f"has a parameter out of range: {error}")
    return Read(neuron, logs, _one_a_unit(graph, name, "w_in, r and tau_syn", gain))


def read_scale(graph: Graph, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The factors of a Scale on an output (*spatial, units) of the given shape: (units,), float64."""
    return _one_a_unit(
        graph, name, "scale", np.asarray(_per_unit(graph, name, "scale", shape), np.float64)
    )


def _spiking(field: Any, metadata: _Held) -> dict[str, Any]:
    """Threshold, reset and surrogate derivative."""
    v_reset, said = field("v_reset"), metadata.word("reset")
    options = {
        "theta": metadata.agreed("theta", field("v_threshold")),
        "reset_grad": metadata.word("reset_grad") == "True",
    }
    if v_reset.any():
        options |= {"reset": "to_value", "u_reset": metadata.agreed("u_reset", v_reset)}
    elif said in get_args(Reset):
        options["reset"] = said
    make, steepness = (
        convention.SURROGATES.get(metadata.word("surrogate")),
        metadata.array("steepness"),
    )
    if make is not None and steepness is not None and steepness.ndim == 1 and (steepness > 0).all():
        # calibration may have added a scale of the derivative as one more number
        for spike in (make(), make().scaled()):
            if len(steepness) == len(spike.steepness):
                options["spike"] = spike.with_steepness(steepness.tolist())
    return options


class _Held:
    """A node's metadata: parameters as snnjax holds them. Nothing in it is trusted: what is not of the right type and shape is not there."""

    def __init__(self, metadata: dict[str, Any], shape: tuple[int, ...]) -> None:
        self._metadata, self._shape = metadata, shape

    def word(self, name: str) -> str:
        value = self._metadata.get(name)
        return value if isinstance(value, str) else ""

    def array(self, name: str) -> np.ndarray | None:
        """Finite floating numbers."""
        value = self._metadata.get(name)
        if not isinstance(value, np.ndarray | np.generic | float):
            return None
        a = np.asarray(value)
        return a if a.dtype.kind == "f" and np.isfinite(a).all() else None

    def original(self, name: str) -> Any:
        """A parameter as it was held, or None."""
        value = self.array(name)
        try:
            if value is None or np.broadcast_shapes(value.shape, self._shape) != self._shape:
                return None
        except ValueError:
            return None
        if name in self.word("jax").split():
            return jnp.asarray(value)
        return value if value.ndim else value.item() if value.dtype == np.float64 else value[()]

    def agreed(self, name: str, value: np.ndarray) -> Any:
        """As it was held, where that agrees with the node's own `value`; else the value, as one number where all are equal."""
        held = self.original(name)
        if held is not None and _agree(held, value):
            return held
        return float(value.flat[0]) if (value == value.flat[0]).all() else value

    def log(self, which: str, tau: np.ndarray) -> np.ndarray | None:
        """The logarithm of a time constant that is trained, one a unit, where it agrees with the node's own."""
        log = self.array(f"log_{which}")
        trained = (
            which in self.word("trainable").split()
            and log is not None
            and log.shape == self._shape[-1:]
        )
        return (
            log
            if trained and self.original(which) is not None and _agree(np.exp(np.asarray(log)), tau)
            else None
        )


def _agree(a: Any, b: np.ndarray) -> bool:
    return bool(np.allclose(np.asarray(a), b, rtol=_SAME, atol=0))


def _per_unit(graph: Graph, name: str, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of neurons (*spatial, units): (units,) where it is the same at all positions, else all."""
    value = graph.array(name, field)
    first = (shape[-1], *shape[:-1])
    try:
        whole = convention.channels_last(np.broadcast_to(value, first))
    except ValueError:
        graph.fail(
            name,
            f"must have {field} of the shape (channels, *spatial) = {first}, got {value.shape}",
        )
    flat = whole.reshape(-1, shape[-1])
    return flat[0] if (flat == flat[0]).all() else whole


def _one_a_unit(graph: Graph, name: str, what: str, gain: np.ndarray) -> np.ndarray:
    flat = gain.reshape(-1, gain.shape[-1])
    if (flat != flat[0]).any():
        graph.fail(name, f"must have the same {what} at all positions of a feature map")
    return np.where(np.abs(flat[0] - 1) < _SAME, 1.0, flat[0])
