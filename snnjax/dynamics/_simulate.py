"""A neuron model over a whole sequence: one `jax.lax.scan`, with everything that does not depend on the neuron's past left outside it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax.dynamics import _over_time
from snnjax.dynamics._leaky_vjp import leaky_scan
from snnjax.dynamics._lif_vjp import lif_scan
from snnjax.dynamics._neuron import Neuron
from snnjax.dynamics.exc_inh import ExcInhLIF
from snnjax.dynamics.lif import LIF
from snnjax.dynamics.readout import LeakyIntegrator
from snnjax.surrogate import SpikeFunction


class Simulation(NamedTuple):
    """`output` (T, B, ...) of the neurons, `membrane` (T, B, ...) or None, and the `state` after the last step."""

    output: jax.Array
    membrane: jax.Array | None
    state: Any


def simulate(
    neuron: Neuron,
    drive: Any,
    *,
    recurrent: Callable[[jax.Array, Any], Any] | None = None,
    weights: Any = None,
    state: Any = None,
    membrane: bool = False,
    fused: bool | None = None,
) -> Simulation:
    """Run `neuron` over `drive`.

    Args:
      neuron: any `Neuron`.
      drive: what the synaptic current receives in each step, (T, B, ...features): the input product, done for all steps at once. A pytree of
        such arrays for neurons with several currents.
      recurrent: `(z, weights) -> drive` for one step's output z (B, ...features), linear in z; None without recurrence.
      weights: second argument of `recurrent`, or None where it brings its own.
      state: where to start, `neuron.initial_state` when None. It must have the structure and the shapes of that one.
      membrane: also return the trace of `state.u` (T, B, ...).
      fused: use the hand-written backward pass of `LIF` and `ExcInhLIF` (forward stores u - theta alone, in their `trace_dtype`). None: wherever it
        applies, that is for a multiplicative, undifferentiated reset, a `SpikeFunction`, and time constants and threshold that are plain numbers or
        numpy arrays. JAX arrays take the autodiff path, so that their gradients are right. True raises where it does not apply. It supports neither
        forward-mode derivatives (`jax.jvp`) nor, on a GPU, second derivatives; the same is true of the one that a `LeakyIntegrator` has on a GPU.
        False disables both: forward mode, reverse mode and mixtures of them then work.

    Returns:
      `Simulation(output, membrane, state)`. Running two halves of a sequence, the second from the first's state, equals running the whole.
      All are in at least float32, whatever the type of the drive.

    Raises:
      TypeError: a drive that is not floating point.   ValueError: a drive without time steps, or of fewer than two axes, or of arrays that do not
        broadcast; a state of another population; `fused=True` where it does not apply.

    >>> import jax.numpy as jnp
    >>> from snnjax.dynamics import LIF
    >>> sim = simulate(LIF(), jnp.full((50, 1, 2), 0.4), membrane=True)
    >>> sim.output.shape, sim.output.sum(0).tolist()
    ((50, 1, 2), [[5.0, 5.0]])
    """
    leaves = jax.tree.leaves(drive)
    for leaf in leaves:
        if not hasattr(leaf, "shape"):
            raise TypeError(f"drive must hold arrays (time, batch, ...features), got {type(leaf).__name__}")
        if leaf.ndim < 2 or leaf.shape[0] == 0:
            raise ValueError(f"drive must have shape (time, batch, ...features) with at least one time step, got {leaf.shape}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"drive must be floating point, got {leaf.dtype}")
    # what neurons other than ours make of their drives is theirs to know
    shape = _population(leaves) if type(neuron) in CURRENTS else leaves[0].shape[1:]
    drive = jax.tree.map(_check.as_wide, drive)
    state = _start(neuron, state, shape, _check.wide(leaves[0].dtype))
    if membrane and not hasattr(state, "u"):
        raise ValueError(f"membrane=True needs a state with a membrane u, which {type(state).__name__} has not")
    applies = is_plain_lif(neuron)
    if fused and not applies:
        raise ValueError(
            "fused=True needs a LIF or ExcInhLIF with reset='multiplicative', reset_grad=False, a SpikeFunction, and time constants and theta "
            f"that are plain numbers or numpy arrays, got {neuron!r}"
        )
    if applies and fused is not False:
        if recurrent is not None and weights is None:
            # weights that the function closes over may be traced, which a custom_vjp cannot see: make arguments of them
            closed, weights = jax.closure_convert(recurrent, jnp.zeros(jnp.shape(state[0]), state[0].dtype), None)
            recurrent = lambda z, w: closed(z, None, *w)  # noqa: E731
        return _fused(neuron, drive, recurrent, weights, state, membrane)
    if fused is not False and _is_plain_leaky(neuron, drive, state, recurrent):
        return _leaky(neuron, drive, state)
    known = _split(neuron)
    if known is None:
        return _scan(neuron, drive, recurrent, weights, state, membrane)
    return _jitted_scan(*known, drive, recurrent, weights, state, membrane)


def _start(neuron: Any, state: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The initial state of a population of `shape`, or `state` after a check that it is one of such a population."""
    if state is None:
        return neuron.initial_state(shape, dtype)
    expected = jax.eval_shape(lambda: neuron.initial_state(shape, dtype))
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    if jax.tree.structure(state) != jax.tree.structure(expected) or shapes(state) != shapes(expected):
        raise ValueError(
            f"state must be a {type(expected).__name__} with arrays of shape {', '.join(map(str, shapes(expected)))}, as for this input, "
            f"got a {type(state).__name__} with {', '.join(map(str, shapes(state))) or 'no arrays'}; a state fits the batch size and the "
            "layer that it comes from"
        )
    return jax.tree.map(lambda s, e: jnp.asarray(s, jnp.promote_types(jnp.result_type(s), e.dtype)), state, expected)


def _population(leaves: list[Any]) -> tuple[int, ...]:
    """The shape (B, ...features) of neurons with a drive for each current."""
    shapes = ", ".join(str(leaf.shape) for leaf in leaves)
    if len({(leaf.shape[0], leaf.ndim) for leaf in leaves}) > 1:
        raise ValueError(f"drive must hold arrays of the same number of steps and axes, got {shapes}")
    try:
        return np.broadcast_shapes(*(leaf.shape[1:] for leaf in leaves))
    except ValueError:
        raise ValueError(f"drive must hold arrays (time, batch, ...features) that broadcast against each other, got {shapes}") from None


# Outside jit, a scan over a new function is compiled at each call. These functions are the same at each call, and everything that they are compiled
# for is in their static arguments; the neuron's arrays are not, so that a trained time constant costs no compilation. Under jit they are inlined.
@functools.partial(jax.jit, static_argnums=(0, 3, 6))
def _jitted_scan(static: _Static, arrays: Any, drive: Any, recurrent: Any, weights: Any, state: Any, membrane: bool) -> Simulation:
    return _scan(static.neuron(arrays), drive, recurrent, weights, state, membrane)


_jitted_lif = jax.jit(lif_scan, static_argnums=(0, 1, 2, 3, 4))
_jitted_leaky = jax.jit(leaky_scan)


class _Static(NamedTuple):
    """The part of a neuron that a program is compiled for: its structure, and its plain numbers with None in place of arrays."""

    structure: Any
    numbers: tuple[Any, ...]

    def neuron(self, arrays: Sequence[Any]) -> Any:
        """The neuron with these arrays, one for each None."""
        rest = iter(arrays)
        return self.structure.unflatten([next(rest) if number is None else number for number in self.numbers])


def _split(neuron: Any) -> tuple[_Static, list[Any]] | None:
    """The static part of a neuron, and its arrays; None if equal neurons may act differently, so that none can stand for another in jit's cache."""
    leaves, structure = jax.tree.flatten(neuron)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    if len(leaves) == 1 and leaves[0] is neuron and not _is_value(neuron):
        return None
    static = _Static(structure, tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True)))
    try:
        hash(static)
    except TypeError:
        return None
    return static, [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]


def _is_value(neuron: Any) -> bool:
    """Whether equal objects are interchangeable: frozen dataclasses. A subclass that is not one itself inherits an equality that does not know its
    attributes."""
    params = vars(type(neuron)).get("__dataclass_params__")
    return params is not None and params.frozen and params.eq


def _scan(neuron: Any, drive: Any, recurrent: Any, weights: Any, state: Any, membrane: bool) -> Simulation:
    def body(_: None, s: Any, d: Any) -> tuple[Any, tuple[jax.Array, Any]]:
        u = s.u if membrane else None
        if recurrent is None:
            s, z = neuron.step(s, d)
            return s, (z, u)
        # z[t] depends on the state alone, so a step without drive yields it; the unused half of that step is dead code to XLA
        _, z = neuron.step(s, jax.tree.map(jnp.zeros_like, d))
        s, z = neuron.step(s, jax.tree.map(jnp.add, d, recurrent(z, weights)))
        return s, (z, u)

    state, (output, trace) = _over_time.loop(body, None, state, drive)
    return Simulation(output, trace, state)


CONSTANT = (int, float, np.ndarray, np.generic)
"""Types of numbers that are not trained."""

# time constant and sign of each current of the neurons with a hand-written backward pass
CURRENTS: dict[type, dict[str, int]] = {LIF: {"tau_syn": 1}, ExcInhLIF: {"tau_exc": 1, "tau_inh": -1}}


def is_plain_lif(neuron: Any) -> bool:
    """Whether the hand-written backward pass gives this neuron's gradients."""
    return (
        type(neuron) in CURRENTS  # a subclass may have a step of its own
        and neuron.reset == "multiplicative"
        and not neuron.reset_grad
        and type(neuron.spike) is SpikeFunction
        and all(isinstance(getattr(neuron, name), CONSTANT) for name in ("tau_mem", "theta", *CURRENTS[type(neuron)]))
    )


def _fused(neuron: Any, drive: Any, recurrent: Any, weights: Any, state: Any, membrane: bool) -> Simulation:
    currents = CURRENTS[type(neuron)]
    drive = tuple(jax.tree.leaves(drive))
    dtype = drive[0].dtype
    lm, *ls = (_check.decay(neuron.dt, getattr(neuron, tau)) for tau in ("tau_mem", *currents))
    in_dtype = functools.partial(jax.tree.map, lambda v: (np if isinstance(v, CONSTANT) else jnp).asarray(v, dtype))
    kept = jnp.dtype(neuron.trace_dtype or dtype)
    own = None if recurrent is None else Leaves(recurrent)
    out: Any = _jitted_lif(
        neuron.spike.function, own, tuple(currents.values()), membrane, kept, drive, in_dtype(tuple(state)), weights,
        in_dtype((lm, 1 - lm, ls, neuron.theta)), in_dtype(neuron.spike.steepness),
    )  # fmt: skip
    output, trace, final = out
    return Simulation(output, trace, type(state)(*final))


def _is_plain_leaky(neuron: Any, drive: Any, state: Any, recurrent: Any) -> bool:
    return (
        _over_time.on_gpu()  # elsewhere autodiff is as fast, and does derivatives of all kinds
        and type(neuron) is LeakyIntegrator
        and recurrent is None
        and all(isinstance(getattr(neuron, name), CONSTANT) for name in ("tau_mem", "tau_syn"))
        and all(s.shape == drive.shape[1:] and s.dtype == drive.dtype for s in state)
    )


def _leaky(neuron: Any, drive: jax.Array, state: Any) -> Simulation:
    lr, ls = (_check.decay(neuron.dt, tau) for tau in (neuron.tau_mem, neuron.tau_syn))
    final, output = _jitted_leaky(tuple(np.asarray(c, drive.dtype) for c in (lr, 1 - lr, ls)), tuple(state), drive)
    return Simulation(output, None, type(state)(*final))


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A recurrence whose drive is a tuple of arrays; equal for equal functions, so that jit knows it again."""

    recurrent: Callable[[jax.Array, Any], Any]

    def __call__(self, z: jax.Array, weights: Any) -> tuple[jax.Array, ...]:
        """What spikes z bring to each current."""
        return tuple(jax.tree.leaves(self.recurrent(z, weights)))


def dense_recurrence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """z @ V for spikes z (B, n) and weights V (n, n), sender by receiver."""
    return z @ weights


def n_steps(duration: float, dt: float) -> int:
    """The number of time steps that covers `duration` (s): ceil(duration / dt), with a multiple of dt taken as exact.

    >>> n_steps(0.7, 2e-3), n_steps(0.2, 3e-3)
    (350, 67)
    """
    _check.number("duration", duration, above=0, unit="s")
    _check.number("dt", dt, above=0, unit="s")
    return math.ceil(round(duration / dt, 9))
