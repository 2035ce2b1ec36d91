"""The base class of all neuron models: frozen parameters with a pure `step`; and `simulate`."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from numpy.typing import DTypeLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._pytree import PyTree, pytree_dataclass, replaced, static
from snnjax.dynamics import _over_time
from snnjax.dynamics._draw import Uniform
from snnjax.dynamics._response import HasMembrane, Response, arrays_of, integrals_of, response
from snnjax.psp import PSP, ExcInhKernels, Integrals

Reset = Literal["multiplicative", "to_value", "subtractive"]
Interval = tuple[float, float]
"""The open interval that a trained parameter stays in."""
State = tuple[jax.Array, ...]
"""State of a population: a NamedTuple of arrays (batch, ...features)."""
Drive = PyTree
"""What the synaptic currents receive: an array (time, batch, ...features), or several of them."""
Weights = PyTree
"""Weights of a recurrence: an array, or a pytree of arrays."""
Recurrent = Callable[[jax.Array, Any], Any]
"""`(z, weights) -> drive` for the output z (batch, ...features) of one step, linear in z."""
NO_THRESHOLD = 1e30
"""A threshold that no membrane reaches."""


class Memory(abc.ABC):
    """A recurrence that also depends on earlier outputs, such as delayed spikes.

    What is still to arrive is its queue, a pytree of arrays. Both methods are linear in z and the
    queue, and give the same drive. Objects are values: equal ones share their programs.
    """

    @abc.abstractmethod
    def step(self, z: jax.Array, weights: Any, queue: Any) -> tuple[Any, Any]:
        """Return the next queue and the drive, for the output z (batch, ...features) of a step."""

    @abc.abstractmethod
    def sequence(self, z: jax.Array, weights: Any, queue: Any) -> tuple[Any, Any]:
        """Return the last queue and the drive, for the output z (time, ...) of all steps."""


def own_drive(
    recurrent: Recurrent | Memory, z: jax.Array, weights: Weights, queue: PyTree
) -> tuple[PyTree, Drive]:
    """Return the next queue, and what the output z (batch, ...features) of a step brings.

    Args:
        recurrent: The recurrence.
        z: The output of the step.
        weights: Its weights.
        queue: Its queue; None without a `Memory`, and it stays None.
    """
    if isinstance(recurrent, Memory):
        return recurrent.step(z, weights, queue)
    return queue, recurrent(z, weights)


class Simulation(NamedTuple):
    """What a population did.

    Attributes:
        state: State after the last step.
        output: Output of the neurons, (time, batch, ...features).
        membrane: Membrane potential before each step, of the same shape, or None.
        queue: Queue of a recurrence with a `Memory` after the last step, or None.
    """

    state: Any
    output: jax.Array
    membrane: jax.Array | None = None
    queue: PyTree = None

    def __jax_array__(self) -> jax.Array:
        # JAX calls this where it needs an array, and not in its functions of trees
        raise TypeError(
            "a layer returns an object with state and output, and no array: use .output, for "
            "example layer(x).output"
        )


@pytree_dataclass
class Run:
    """The arguments of `Neuron.scan`.

    Attributes:
        drive: Drive of all steps, arrays (time, batch, ...features).
        weights: Second argument of `recurrent`.
        state: State before the first step.
        queue: Queue of a `Memory` before the first step; else None.
        recurrent: What the output of a step adds to the drive of that step; None for nothing. A
            `Memory` also depends on the output of earlier steps.
        membrane: Whether the trace of `state.u` is returned, too.
    """

    drive: Drive
    weights: Weights = None
    state: State
    queue: PyTree = None
    recurrent: Recurrent | Memory | None = static(default=None)
    membrane: bool = static(default=False)


class Neuron(abc.ABC):
    """Parameters of a neuron model. Derive your own models from this class.

    A model must be a frozen dataclass, and should be a registered pytree, so that models of the
    same structure share their compiled programs.

    Attributes:
        dt: Time step, s.
        theta: Firing threshold. Readouts have none.
        n_currents: Number of synaptic currents, 1 or 2 (excitatory and inhibitory).
        ranges: Open intervals of the parameters, other than time constants, that layers can train.
    """

    dt: float
    theta: Scalar
    n_currents: ClassVar[int] = 1
    ranges: ClassVar[Mapping[str, Interval]] = {}

    @abc.abstractmethod
    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Any:
        """Return the state before the first step.

        Args:
            shape: Shape of the population, (batch, ...features).
            dtype: Type of the state; at least float32 is used.

        Returns:
            A NamedTuple of arrays. If it has a field `u`, that is the membrane potential.
        """

    @abc.abstractmethod
    def step(self, state: Any, drive: Any) -> tuple[Any, jax.Array]:
        """Advance the state by dt.

        Args:
            state: The present state.
            drive: What the synaptic current receives during the step: `x[t] @ W` plus any
                recurrent part. An array, or a pytree of arrays if there are several currents.

        Returns:
            The next state, and the output at the present step. The output must depend on the state
            alone and not on the drive.
        """

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name: the fields of the dataclass."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def with_parameters(self, **values: Any) -> Self:
        """Return a copy with other values of some parameters, which are not checked."""
        return replaced(self, **values) if values else self

    def trained_ranges(self) -> dict[str, Interval]:
        """Return the parameters that a layer can train, and the open interval of each.

        Those are all time constants, `tau_...`, and the names in `ranges`.
        """
        taus = [name for name in self.parameters() if name.startswith("tau_")]
        return {**dict.fromkeys(taus, (0.0, math.inf)), **self.ranges}

    def distributions(self) -> list[str]:
        """Return the names of the parameters that are a distribution (`Uniform`)."""
        return [name for name, value in self.parameters().items() if isinstance(value, Uniform)]

    def drawn(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Self:
        """Return the neuron with values in place of distributions (`Uniform`).

        Args:
            key: A random key.
            shape: Shape of the values, (units,).
            dtype: Type of the values.
        """
        given, names = self.parameters(), self.distributions()
        keys = jax.random.split(key, len(names)) if names else []
        pairs = zip(names, keys, strict=True)
        return self.with_parameters(**{name: given[name](k, shape, dtype) for name, k in pairs})

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential below the threshold, for one synaptic current.

        The default is measured from `step`: it exists if the neuron is linear below its threshold.
        A model may override it with a closed form.
        """
        return measured(self)

    @property
    def kernels(self) -> ExcInhKernels:
        """The post-synaptic potentials of an excitatory and an inhibitory current."""
        needed = "neuron must have an excitatory and an inhibitory current"
        hint = "use ExcInhLIF, or define the property kernels"
        raise TypeError(f"{needed}, got {type(self).__name__}; {hint}")

    @property
    def fused(self) -> bool:
        """Whether `scan` has a backward pass written by hand for these parameters."""
        return False

    def population(self, drive: Drive) -> tuple[int, ...]:
        """Return the shape (batch, ...features) of the population that a drive is for.

        Args:
            drive: Drive of all steps, arrays (time, batch, ...features).
        """
        return jax.tree.leaves(drive)[0].shape[1:]

    def scan(self, run: Run) -> Simulation:
        """Run the neurons over a sequence; `simulate` without its checks.

        The default is a `jax.lax.scan` over `step`, which JAX differentiates. A model may override
        it with a faster program that gives the same values and gradients.

        Args:
            run: The drive, the state before the first step, and the recurrence.
        """
        known = split(self)
        return _scan(self, run) if known is None else _jitted_scan(*known, run)


def check_neuron(neuron: object) -> None:
    """Raise unless `neuron` is a `Neuron`."""
    if isinstance(neuron, Neuron):
        return
    got = f"the class {neuron.__name__} itself" if isinstance(neuron, type) else repr(neuron)
    raise TypeError(
        f"neuron must be a snnjax.dynamics.Neuron such as LIF(), got {got}; for a model of your "
        "own derive a frozen dataclass from Neuron, with initial_state, step and dt"
    )


def simulate(
    neuron: Neuron,
    drive: Drive,
    *,
    recurrent: Recurrent | Memory | None = None,
    weights: Weights = None,
    state: State | None = None,
    queue: PyTree = None,
    membrane: bool = False,
    fused: bool | None = None,
) -> Simulation:
    """Run a population of neurons over a sequence.

    A sequence may be run in two parts, the second one from the final state of the first. The
    result is that of the whole sequence. All results are in at least float32, for every type of the
    drive.

    Args:
        neuron: The neuron model.
        drive: Input of the synaptic current in each step, (time, batch, ...features): the
            product of inputs and weights for all steps. A pytree of such arrays for neurons with
            several currents.
        recurrent: `(z, weights) -> drive` for the output z (batch, ...features) of one step, linear
            in z. None without recurrence.
        weights: Second argument of `recurrent`, or None if it has its own.
        state: State before the first step, of the structure and shapes of `neuron.initial_state`.
            None: the initial state.
        queue: Queue before the first step of a recurrence that remembers earlier spikes, as that of
            layers with delays does; else None.
        membrane: Whether to return the trace of `state.u` (time, batch, ...features), too.
        fused: Whether to use the backward pass of `LIF`, `ExcInhLIF`, `Leaky` and `IF` that is
            written by hand. It stores only u - theta, in their `trace_dtype`. None uses it if it
            applies: the reset must be multiplicative and not differentiated, the spike function a
            `SpikeFunction`, and time constants and threshold plain numbers or numpy arrays (JAX
            arrays get their gradients from autodiff). True raises an error if it does not apply. It
            supports neither forward-mode derivatives (`jax.jvp`) nor, on a GPU, second derivatives.
            On a GPU, the same is true of the backward pass of `LeakyIntegrator`. False uses neither
            of the two, so that forward mode, reverse mode and mixtures of them work.

    Returns:
        `Simulation(state, output, membrane, queue)`.

    Raises:
        TypeError: `neuron` is no `Neuron`, or the drive is not floating point.
        ValueError: The drive has no time steps, fewer than two axes, or arrays that do not
            broadcast; the state is that of another population; or `fused=True` does not apply.

    >>> from snnjax.dynamics import LIF
    >>> sim = simulate(LIF(), jnp.full((50, 1, 2), 0.4), membrane=True)
    >>> sim.output.shape, sim.output.sum(0).tolist()
    ((50, 1, 2), [[5.0, 5.0]])
    """
    check_neuron(neuron)
    for name in neuron.distributions():
        got, hint = neuron.parameters()[name], "or use a layer, which draws its values"
        raise ValueError(
            f"{name} must be drawn first, got {got}; neuron.drawn(key, (units,)), {hint}"
        )
    for leaf in jax.tree.leaves(drive):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            got = type(leaf).__name__
            raise TypeError(f"drive must hold arrays (time, batch, ...features), got {got}")
        if leaf.ndim < 2 or 0 in leaf.shape[:1]:
            needed = "shape (time, batch, ...features) with at least one time step"
            raise ValueError(f"drive must have {needed}, got {leaf.shape}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"drive must be floating point, got {leaf.dtype}")
    drive = jax.tree.map(_check.as_wide, drive)
    state = _start(neuron, state, neuron.population(drive), jax.tree.leaves(drive)[0].dtype)
    if membrane and not isinstance(state, HasMembrane):
        got = type(state).__name__
        raise ValueError(f"membrane=True needs a neuron whose state has a membrane u, got {got}")
    if fused and not neuron.fused:
        raise ValueError(
            "fused=True needs a LIF, ExcInhLIF, Leaky or IF with reset='multiplicative', "
            "reset_grad=False, a SpikeFunction, and time constants and theta that are plain "
            f"numbers or numpy arrays, got {neuron!r}"
        )
    own = {"weights": weights, "recurrent": recurrent, "queue": queue}
    run = Run(drive=drive, state=state, membrane=membrane, **own)
    return Neuron.scan(neuron, run) if fused is False else neuron.scan(run)


def _start(neuron: Neuron, state: State | None, shape: tuple[int, ...], dtype: DTypeLike) -> State:
    """Return the initial state, or `state` after a check that it is one of such a population."""
    if state is None:
        return neuron.initial_state(shape, dtype)
    expected = jax.eval_shape(lambda: neuron.initial_state(shape, dtype))
    same_structure = jax.tree.structure(state) == jax.tree.structure(expected)
    if not same_structure or _shapes(state) != _shapes(expected):
        needed = f"{type(expected).__name__} with arrays of shape {', '.join(_shapes(expected))}"
        got = f"{type(state).__name__} with {', '.join(_shapes(state)) or 'no arrays'}"
        hint = "a state fits the batch size and the layer that it comes from"
        raise ValueError(f"state must be {needed}, as for this input, got {got}; {hint}")

    converted = lambda s, e: jnp.asarray(s, jnp.promote_types(jnp.result_type(s), e.dtype))
    return jax.tree.map(converted, state, expected)


def _shapes(tree: PyTree) -> list[str]:
    return [str(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)]


class Static(NamedTuple):
    """The part of a neuron that a program is compiled for.

    Attributes:
        types: Types of the neuron and of its fields. JAX compares structures of pytrees by their
            fields, so a class that was changed in a notebook and run again would equal its former
            version.
        structure: Structure of the pytree.
        numbers: Its leaves, with None in place of arrays.
    """

    types: tuple[type, ...]
    structure: Any
    numbers: tuple[object, ...]

    def neuron(self, arrays: Sequence[ArrayLike]) -> Neuron:
        """Return the neuron with one array for each None."""
        rest = iter(arrays)
        leaves = [next(rest) if number is None else number for number in self.numbers]
        return self.structure.unflatten(leaves)


def split(neuron: Neuron) -> tuple[Static, list[ArrayLike]] | None:
    """Split a neuron into its static part and its arrays.

    Returns:
        The two, or None if equal neurons may act differently. Then none can stand for another one
        in the cache of jit.
    """
    leaves, structure = jax.tree.flatten(neuron)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    if len(leaves) == 1 and leaves[0] is neuron and not _is_value(neuron):
        return None
    numbers = (None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
    types = (type(neuron), *map(type, vars(neuron).values()))
    static = Static(types, structure, tuple(numbers))
    try:
        hash(static)
    except TypeError:
        return None
    return static, [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]


def _is_value(neuron: Neuron) -> bool:
    """Return whether equal objects are interchangeable, which is true of frozen dataclasses.

    A subclass that is no dataclass itself inherits an equality that ignores its own attributes.
    """
    params = vars(type(neuron)).get("__dataclass_params__")
    return params is not None and params.frozen and params.eq


def measured(
    neuron: Neuron, drive_of: Callable[[jax.Array], Drive] = lambda drive: drive
) -> Integrals:
    """Return the post-synaptic potential of a neuron, measured from its `step`.

    Args:
        neuron: The neuron.
        drive_of: From an input (batch, ...features) to the drive of a step. A function of a module,
            so that its program is compiled once.
    """
    known = split(neuron)
    traced = any(isinstance(array, Tracer) for array in arrays_of(neuron))
    # Under jit a neuron of plain numbers is still measured at once, so that errors are raised.
    with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
        found = response(neuron, drive_of) if known is None else _jitted_response(*known, drive_of)
        return integrals_of(found, neuron)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _jitted_response(
    static: Static, arrays: Sequence[ArrayLike], drive_of: Callable[[jax.Array], Drive]
) -> Response:
    return response(static.neuron(arrays), drive_of)


# Outside jit, JAX compiles a scan over a new function at each call. This function is the same at
# each call, so it is compiled once for each `static` and each shape. The arrays of the neuron are
# not static, so that a trained time constant costs no compilation. Under jit it is inlined.
@functools.partial(jax.jit, static_argnums=0)
def _jitted_scan(static: Static, arrays: Sequence[ArrayLike], run: Run) -> Simulation:
    return _scan(static.neuron(arrays), run)


def _scan(neuron: Neuron, run: Run) -> Simulation:
    def body(
        _: None, carry: tuple[State, PyTree], d: Drive
    ) -> tuple[tuple[State, PyTree], tuple[jax.Array, jax.Array | None]]:
        s, queue = carry
        u = s.u if run.membrane and isinstance(s, HasMembrane) else None
        if run.recurrent is None:
            s, z = neuron.step(s, d)
            return (s, queue), (z, u)
        # z[t] depends on the state alone, so a step without drive yields it. XLA removes the unused
        # half of that step as dead code.
        _, z = neuron.step(s, jax.tree.map(jnp.zeros_like, d))
        queue, own = own_drive(run.recurrent, z, run.weights, queue)
        s, z = neuron.step(s, jax.tree.map(jnp.add, d, own))
        return (s, queue), (z, u)

    carry = run.state, run.queue
    (state, queue), (output, trace) = _over_time.loop(body, None, carry, run.drive)
    return Simulation(state, output, trace, queue)


def apply_reset(
    u: jax.Array, z: jax.Array, *, reset: Reset, reset_grad: bool, theta: Scalar, u_reset: Scalar
) -> jax.Array:
    """Reset the membrane where the neuron spiked.

        multiplicative    u (1 - z)
        to_value          u (1 - z) + u_reset z
        subtractive       u - theta z

    Args:
        u: Membrane that would be reached without a reset.
        z: Spikes, 0 or 1.
        reset: Name of the reset.
        reset_grad: Whether to differentiate z here. False takes it as a constant: backpropagation
            through time ignores the reset, as in the paper.
        theta: Firing threshold.
        u_reset: Value after a spike, for `reset="to_value"`.

    Returns:
        The membrane after the reset.
    """
    z = z if reset_grad else jax.lax.stop_gradient(z)
    if reset == "subtractive":
        return u - theta * z
    kept = u * (1 - z)
    return kept if reset == "multiplicative" else kept + u_reset * z
