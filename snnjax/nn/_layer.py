"""The base class of everything that stands in a `Sequential`."""

from __future__ import annotations

import abc
import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from flax import nnx

from snnjax import _check
from snnjax.dynamics import Simulation

Shape = tuple[int | None, ...]
"""Sizes of the axes after (time, batch); None stands for any size."""
State = Any
"""What a layer carries from one time step to the next: a pytree of arrays (batch, ...)."""

F = TypeVar("F", bound=Callable[..., Any])


class _Unlisted:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__, self.__wrapped__ = function.__doc__, function

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else types.MethodType(self.__wrapped__, instance)


def unlisted(method: F) -> F:
    """A method of a module that `nnx.tabulate` does not show as a row of its own.

    Flax wraps every public function of a module's class and shows each that is called.
    """
    return cast(F, _Unlisted(method))


class Layer(nnx.Module):
    """A layer of a `Sequential`: derive your own layers from it.

    A layer without weights and state needs `step` and, if it changes the shape of its input,
    `feature_shape`. A layer with a state also needs `initial_state`. `__call__` runs `step` over
    time; override it where a whole sequence can be computed faster than step by step.

    For neurons that are driven through weights derive from `Spiking`, or give `Spiking` a
    `LinearMap` of your own: such layers can be calibrated and probed.

    Attributes:
        spiking: Whether the output is spikes. They are part of the network's activity.
        stochastic: Whether the layer draws at random. `__call__` and `step` then take `key`.
        masks: Whether the output is the input with some units silenced. Skip connections then
            carry what is left, if the layer stands right after a spiking layer.
        takes_events: Whether the layer takes a `snnjax.sparse.EventRaster` as its input.

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

    spiking: bool = False
    stochastic: bool = False
    masks: bool = False
    takes_events: bool = False
    steepness: nnx.Param | None = None

    @property
    def dt(self) -> Any:
        """The time step (s) for which the layer is made, or None if it has none."""
        return None

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input's features where the layer determines it, else None."""
        return None

    @unlisted
    def feature_shape(self, features: Shape) -> Shape | None:
        """Shape of the output's features, as the layer above gets them.

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
        """The part of the output z (..., units) that the layers above get."""
        return z

    @unlisted
    def populations(self) -> dict[str, slice]:
        """The layer's populations: a name and a slice of the last axis of the output for each."""
        return {"all": slice(None)}

    @unlisted
    def hold_steepness(self, *, scale: bool = False) -> bool:
        """Keep the parameters of the surrogate as `layer.steepness`, where calibration sets them.

        Args:
            scale: Whether to add a factor of the surrogate derivative as the last parameter.

        Returns:
            Whether the layer has a surrogate whose parameters are known.
        """
        return False

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
            membrane: Whether to return the membranes, too. Layers of neurons can.
            key: For layers that draw at random; `step` then gets it, too.

        Returns:
            `Simulation(output, membrane, state)`.
        """
        _check.time_major("x", x)
        if membrane:
            name = type(self).__name__
            raise ValueError(f"membrane=True needs a layer of neurons, which {name} is not")
        start = self.initial_state(x.shape[1], x.shape[2:]) if state is None else state
        drawn: dict[str, Any] = {"key": key} if self.stochastic else {}
        final, output = jax.lax.scan(lambda s, x_t: self.step(s, x_t, **drawn), start, x)
        return Simulation(output, None, final)
