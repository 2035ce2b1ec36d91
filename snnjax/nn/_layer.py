"""The base class of all layers of a `Sequential`."""

from __future__ import annotations

import abc
import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import jax
from flax import nnx

from snnjax import _check
from snnjax.dynamics._neuron import Simulation

Shape = tuple[int | None, ...]
"""Sizes of the axes after (time, batch); None stands for any size."""
State = Any
"""State that a layer carries from one time step to the next: a pytree of arrays (batch, ...)."""

F = TypeVar("F", bound=Callable[..., Any])


class _Unlisted:
    __wrapped__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)  # help() shows name and signature

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__wrapped__(*args, **options)

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else types.MethodType(self.__wrapped__, instance)


def unlisted(method: F) -> F:
    """Hide a method of a module from `nnx.tabulate`.

    Flax wraps every public function of a module's class and shows a row for each call.
    """
    return cast(F, _Unlisted(method))


class ConstructorSignature:
    """The signature of a module's class, for help() and editors, as its attribute `__signature__`.

    Flax's metaclass calls a class with any arguments, so that Python alone would show
    `(*args, **kwargs)`. Keywords that a constructor passes on, `**options: Unpack[Options]`, are
    shown one by one, with the defaults of the base class.
    """

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:  # an object is called by `__call__`
            raise AttributeError("__signature__")
        return _signature(owner.__mro__)


_BY_POSITION = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


@functools.cache  # every new layer is checked against it
def _signature(bases: tuple[type, ...]) -> inspect.Signature:
    """The signature of the constructor of the first of these classes that has one."""
    at = next(k for k, base in enumerate(bases) if "__init__" in vars(base))
    if bases[at] is object:
        return inspect.Signature()
    init = vars(bases[at])["__init__"]
    own = list(inspect.signature(init).parameters.values())[1:]
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
        hints = {}
        with contextlib.suppress(NameError):  # a user may import names for type checkers only
            hints = typing.get_type_hints(init)
        for options in filter(typing.is_typeddict, typing.get_args(hints.get(own[-1].name))):
            above = _signature(bases[at + 1 :]).parameters
            own[-1:] = [above[name] for name in above if name in options.__annotations__]
    return inspect.Signature(own)


class Layer(nnx.Module):
    """A layer of a `Sequential`. Derive your own layers from this class.

    A layer without weights and state needs `step`. If it changes the shape of its input, it also
    needs `feature_shape`. A layer with a state also needs `initial_state`. `__call__` runs `step`
    over time; override it if a whole sequence can be computed faster than step by step.

    For neurons that are driven through weights, derive from `Spiking`, or give `Spiking` your own
    `LinearMap`. Such layers can be calibrated and probed.

    Attributes:
        spiking: Whether the output is spikes. They are part of the network's activity.
        stochastic: Whether the layer draws random numbers, or acts in another way in training.
            `__call__` and `step` then take `key`; without a key the layer is not trained.
        masks: Whether the output is the input with some units silenced. If such a layer directly
            follows a spiking layer, skip connections carry its output.
        takes_events: Whether the layer also accepts an `EventRaster`, spikes as lists of events.
        steepness: Parameters of the surrogate if calibration sets them; else None.

    >>> import jax.numpy as jnp
    >>> class LowPass(Layer):
    ...     '''Exponential averages of the input: o[t] = a o[t-1] + (1 - a) x[t].'''
    ...
    ...     def __init__(self, tau: float, *, dt: float = 2e-3) -> None:
    ...         self.decay = nnx.Param(jnp.exp(-dt / tau))
    ...
    ...     def initial_state(self, batch_size, features=()):
    ...         return jnp.zeros((batch_size, *features))
    ...
    ...     def step(self, state, x):
    ...         out = self.decay[...] * state + (1 - self.decay[...]) * x
    ...         return out, out
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(LowPass(0.01), hidden, Readout(16, 3, rngs=rngs))
    >>> network(jnp.ones((50, 2, 20))).readout.shape
    (50, 2, 3)
    """

    __signature__ = ConstructorSignature()
    spiking: bool = False
    stochastic: bool = False
    masks: bool = False
    takes_events: bool = False
    steepness: nnx.Param | None = None

    def __new__(cls, *args: Any, **_: Any) -> Self:
        # Python's error would not say which arguments need their names
        listed = cls.__signature__.parameters
        places = [name for name, p in listed.items() if p.kind in _BY_POSITION]
        more = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in listed.values())
        if len(args) > len(places) and not more:
            names = ", ".join(f"{name}=" for name in listed if name not in places)
            others = f"; give the others by name: {names}" if names else ""
            taken = f"only {', '.join(places)}" if places else "nothing"
            got = f"got {len(args)} arguments by position{others}"
            raise TypeError(f"{cls.__name__} takes {taken} by position, {got}")
        return super().__new__(cls)

    @property
    def dt(self) -> Any:
        """The time step of the layer, s; None if it has none."""
        return None

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input's features, or None if the layer does not determine it."""
        return None

    @unlisted
    def feature_shape(self, features: Shape) -> Shape | None:
        """Shape of the features that the layer above receives.

        Args:
            features: Shape of the input's features; None stands for any size.

        Returns:
            The shape, or None if it is not known.

        Raises:
            ValueError: The layer cannot take such an input.
        """
        return features

    @unlisted
    def initial_state(self, batch_size: int, features: tuple[int, ...] = ()) -> State:
        """The state before the first step.

        Args:
            batch_size: Number of samples.
            features: Shape of the input's features, (*spatial, channels).

        Returns:
            Arrays (batch_size, ...); an empty tuple if the layer has no state.
        """
        return ()

    @unlisted
    def emit(self, z: jax.Array) -> jax.Array:
        """The part of the output z (..., units) that the layers above receive."""
        return z

    @unlisted
    def populations(self) -> dict[str, slice]:
        """The layer's populations: {name: slice of the last axis of the output}."""
        return {"all": slice(None)}

    @unlisted
    def hold_steepness(self, *, scale: bool = False) -> bool:
        """Store the parameters of the surrogate in `layer.steepness`, where calibration sets them.

        Args:
            scale: Whether to add a factor on the surrogate derivative as the last parameter.

        Returns:
            Whether the layer has a surrogate with known parameters.
        """
        return False

    @unlisted
    def round_delays(self) -> None:
        """Round learned delays to whole time steps, with kernels of width 0, for inference.

        A layer without delays does not change.
        """

    @abc.abstractmethod
    def step(self, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        """Advance by one time step.

        Args:
            state: The present state.
            x: Inputs of this step, (batch, ...features).

        Returns:
            The next state, and the output (batch, ...).
        """

    def __call__(
        self,
        x: jax.Array,
        *,
        state: State | None = None,
        membrane: bool = False,
        key: jax.Array | None = None,
    ) -> Simulation:
        """Run a sequence.

        Args:
            x: Inputs (time, batch, ...features).
            state: The state to start from; the initial state if None.
            membrane: Whether to also return the membranes. Only layers of neurons have them.
            key: Random key of a stochastic layer; it is passed on to `step`.

        Returns:
            `Simulation(state, output, membrane)`.

        Raises:
            ValueError: `membrane` is True and the layer has no neurons.
        """
        _check.time_major("x", x)
        if membrane:
            name = type(self).__name__
            raise ValueError(f"membrane=True needs a layer of neurons, got {name}")
        return self._run(x, state, key)

    def _run(self, x: jax.Array, state: State | None, key: jax.Array | None) -> Simulation:
        """`__call__` after its checks, for a layer without neurons."""
        start = self.initial_state(x.shape[1], x.shape[2:]) if state is None else state
        drawn: dict[str, Any] = {"key": key} if self.stochastic else {}
        final, output = jax.lax.scan(lambda s, x_t: self.step(s, x_t, **drawn), start, x)
        return Simulation(final, output)
