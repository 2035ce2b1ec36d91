"""Layers of neurons: a neuron model, and its trained or calibrated parameters."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _check
from snnjax.dynamics import Neuron, Uniform, simulate
from snnjax.dynamics._neuron import Interval, Simulation
from snnjax.nn._layer import Layer, Shape, State, unlisted
from snnjax.surrogate import SpikeFunction

N = TypeVar("N", bound=Neuron)

LOG_TAU_RANGE = (-20.0, 20.0)
"""Trained logarithms of time constants are clipped to this range: 2 ns to 15 years.

Outside it exp(-dt/tau) and its gradient overflow.
"""


class Fixed(nnx.Param):
    """Parameters that training does not change.

    They are a subclass of `nnx.Param`, so that they are saved, restored, swept and averaged with
    the network's other parameters. Their gradient is zero. `snnjax.training` also discards their
    updates by an optimizer, such as weight decay.
    """


class Steepness(Fixed):
    """The surrogate's parameters of one layer, set by calibration."""


class Drawn(Fixed):
    """The values of a neuron's parameter that was drawn from a distribution, one per unit."""


def _hold(neuron: Neuron) -> Any:
    """The neuron as an attribute of a module: static if all its parameters are plain numbers.

    jit then sees constants. With arrays or tracers it is data.
    """
    plain = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(neuron))
    return nnx.static(neuron) if plain else nnx.data(neuron)


def _with_arrays(neuron: N) -> N:
    """The neuron with plain arrays instead of variables; a threshold may be an `nnx.Param`."""
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    if not any(map(is_variable, jax.tree.leaves(neuron, is_leaf=is_variable))):
        return neuron
    array = lambda leaf: leaf[...] if is_variable(leaf) else leaf
    return jax.tree.map(array, neuron, is_leaf=is_variable)


def check_units(neuron: Neuron, units: int, positions: Shape = ()) -> None:
    """Raise unless each parameter is one number, one per unit, or one per unit and position.

    Args:
        neuron: The neuron model.
        units: Number of neurons of the layer at each position.
        positions: Sizes of its spatial axes; None stands for any size.

    Raises:
        TypeError: The neuron is no registered pytree.
        ValueError: A parameter has another shape. It would fail in the loop over time, or would be
            taken as one value per sample. The text names the parameter.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(neuron):
        if leaf is neuron:
            raise TypeError(
                "neuron must be a registered pytree, so that jit and calibration see its "
                "parameters; write @jax.tree_util.register_dataclass above the frozen dataclass "
                f"{type(neuron).__name__}"
            )
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.shape in ((), (units,)):
            continue
        full = (*positions, units)
        same = len(full) == leaf.ndim and all(
            n in (None, size) for n, size in zip(full, leaf.shape, strict=True)
        )
        if positions and same:
            continue
        name = jax.tree_util.keystr(path).lstrip(".")
        everywhere = f", or an array {full} with one per unit and position" if positions else ""
        raise ValueError(
            f"{name} of the neuron must be one number, or one for each of the layer's {units} units"
            f"{everywhere.replace('None', 'any size')}, got shape {leaf.shape}"
        )


@runtime_checkable
class _HasSpike(Protocol):
    """A neuron with a spike function. A neuron of the user may have none."""

    @property
    def spike(self) -> Callable[[jax.Array], jax.Array]: ...


def _hint_surrogate(neuron: Neuron) -> None:
    """Warn if a spike function of the user has no gradient, so that nothing below is trained."""
    if not isinstance(neuron, _HasSpike) or isinstance(neuron.spike, SpikeFunction):
        return
    # the function may have an array with a value per unit, (units,) or (*positions, units)
    v = jnp.linspace(-1.0, 1.0, 33)[:, None, None, None]
    z, pull = jax.vjp(lambda v: jnp.asarray(neuron.spike(v), v.dtype), v)
    slopes = _check.concrete(pull(jnp.ones_like(z))[0])
    if slopes is not None and not slopes.any():
        _check.warn(
            f"spike of {type(neuron).__name__} has the gradient 0 everywhere, so that no weights "
            "can be trained; use a function with a surrogate gradient, such as "
            "snnjax.surrogate.superspike(20.0)"
        )


@jax.jit
def _tau(log_tau: jax.Array) -> jax.Array:
    """Time constants from their trained logarithms.

    This is jitted as one program; otherwise each operation would be dispatched separately.
    """
    return jnp.exp(jnp.clip(log_tau, *LOG_TAU_RANGE))


def _free(value: jax.Array, range: Interval) -> jax.Array:
    """The number that is trained, any real number, for a value in an open interval.

    That is the logarithm for (0, inf), the log-odds for an interval with two ends, or the value.
    """
    low, high = range
    if math.isinf(low):
        return value
    if math.isinf(high):
        return jnp.log(value - low)
    return jnp.log(value - low) - jnp.log(high - value)


def _bound(free: jax.Array, range: Interval) -> jax.Array:
    """The inverse of `_free`."""
    low, high = range
    if math.isinf(low):
        return free
    if math.isinf(high):
        return low + _tau(free)
    return low + (high - low) * jax.nn.sigmoid(free)


class NeuronLayer(Layer):
    """A layer with a neuron model. `Spiking`, `Dalian`, `Readout` and `Sensory` derive from it."""

    def _take_neuron(
        self,
        neuron: Neuron,
        units: int,
        trainable: Sequence[str] = (),
        values: Neuron | None = None,
    ) -> None:
        """Store the neuron and its trained and drawn parameters.

        Args:
            neuron: The neuron as it was given.
            units: Number of values of each parameter.
            trainable: Names of the parameters that are trained.
            values: The neuron with drawn values in place of distributions. None: it has none.
        """
        _hint_surrogate(neuron)
        self._neuron = _hold(neuron)
        ranges = neuron.trained_ranges()
        if isinstance(trainable, str):
            needed = f"trainable must be a sequence of names, such as ({trainable!r},)"
            raise TypeError(f"{needed}, got {trainable!r}")
        for name in trainable:
            _check.one_of("trainable", name, list(ranges))
        fixed = [name for name in neuron.distributions() if name not in trainable]
        if values is None and neuron.distributions():
            name = neuron.distributions()[0]
            got = f"{name} = {neuron.parameters()[name]}"
            raise ValueError(f"{type(self).__name__} draws no parameters, got {got} in its neuron")
        start = _with_arrays(neuron if values is None else values).parameters()

        def free(name: str) -> nnx.Param:
            # what is trained is not bounded, so that no update can leave the range
            given, (low, high) = neuron.parameters()[name], ranges[name]
            drawn = isinstance(given, Uniform)
            at, beyond = {"at_least": low, "at_most": high}, {"above": low, "below": high}
            ends: dict[str, Any] = at if drawn else beyond
            _check.number(f"{name}, which is trained,", given, finite=False, **ends)
            of_unit = _free(jnp.asarray(start[name], self._state_dtype), (low, high))
            return nnx.Param(jnp.broadcast_to(of_unit, (units,)))

        taus = [name for name in trainable if name.startswith("tau_")]
        others = [name for name in trainable if name not in taus]
        # plain dictionaries as data, because nnx.tabulate fails on an nnx.Dict
        self.log_tau: dict[str, nnx.Param] = nnx.data({name: free(name) for name in taus})
        self.free: dict[str, nnx.Param] = nnx.data({name: free(name) for name in others})
        self.drawn: dict[str, Drawn] = nnx.data({name: Drawn(start[name]) for name in fixed})
        self.steepness = nnx.data(None)

    @property
    @abc.abstractmethod
    def units(self) -> int:
        """Number of neurons of the layer at each position."""

    @unlisted
    def out_shape(self, spatial: Shape) -> Shape:
        """Spatial sizes of the output.

        Args:
            spatial: Spatial sizes of the input; None is an unknown size.

        Returns:
            One size per axis; None where the input's is None.

        Raises:
            ValueError: There is not one size per axis, or the input is smaller than the kernel.
        """
        return spatial

    @abc.abstractmethod
    def drive(self, x: jax.Array) -> Any:
        """The drive of the neurons' currents by the input.

        Args:
            x: Inputs of one step or all steps.

        Returns:
            The neuron's drive, or leaves that broadcast to it.
        """

    @abc.abstractmethod
    def _check_sequence(self, x: jax.Array) -> None:
        """Raise unless x is an input (time, batch, ...features) of the layer."""

    @abc.abstractmethod
    def _check_step(self, state: tuple[int, ...], x: tuple[int, ...]) -> None:
        """Raise unless x is the shape of one time step for a membrane of shape `state`."""

    @unlisted
    def initial_state(self, batch_size: int, features: tuple[int, ...] = ()) -> State:
        shape = (batch_size, *self.out_shape(features[:-1]), self.units)
        return self.neuron.initial_state(shape, self._state_dtype)

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
            x: Inputs (time, batch, *spatial, in_features).
            state: The state to start from; the initial state if None.
            membrane: Whether to also return the membranes.
            key: Tells a layer with batch normalization that it is trained. It draws no numbers.

        Returns:
            `Simulation(state, output, membrane)`. Output and membrane have the shape (time, batch,
            *out_shape(spatial), units).
        """
        self._check_sequence(x)
        return simulate(self.neuron, self.drive(x), state=state, membrane=membrane)

    @unlisted
    def step(
        self, state: State, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        """Advance by one time step.

        Args:
            state: The present state.
            x: Inputs (batch, *spatial, in_features).
            key: Not used: a single step is normalized with the running statistics.

        Returns:
            The next state, and the output (batch, *out_shape(spatial), units).
        """
        self._check_step(jax.tree.leaves(state)[0].shape, jnp.shape(x))
        return self.neuron.step(state, self.drive(x))

    @property
    @abc.abstractmethod
    def _state_dtype(self) -> Any:
        """Data type of the state, at least float32.

        16 bits cannot represent a membrane that decays by less than 1/256 per step.
        """

    @property
    def given_neuron(self) -> Any:
        """The neuron model as it was given to the layer.

        In place of distributions it has the values that were drawn, or trained since.
        """
        names = self._neuron.distributions()
        if not names:
            return self._neuron
        present = self.neuron.parameters()
        return self._neuron.with_parameters(**{name: present[name] for name in names})

    @property
    def neuron(self) -> Any:
        """The neuron model with the present trained and calibrated parameters.

        Assign another model of the same type to replace it.
        """
        neuron = _with_arrays(self._neuron)
        found: dict[str, Any] = {name: _tau(log[...]) for name, log in self.log_tau.items()}
        ranges = self._neuron.trained_ranges()
        found |= {name: _bound(p[...], ranges[name]) for name, p in self.free.items()}
        found |= {name: jax.lax.stop_gradient(p[...]) for name, p in self.drawn.items()}
        if self.steepness is not None:
            found["spike"] = neuron.spike.with_steepness(tuple(self.steepness[...]))
        return neuron.with_parameters(**found)

    @neuron.setter
    def neuron(self, neuron: Neuron) -> None:
        self._neuron = _hold(neuron)

    @property
    def dt(self) -> Any:
        """The neuron's time step, s."""
        return self.neuron.dt

    @unlisted
    def hold_steepness(self, *, scale: bool = False) -> bool:
        """Store the parameters of the surrogate in the layer, as a `Steepness`.

        Args:
            scale: Whether to add a factor on the surrogate derivative as the last parameter; its
                initial value is 1.

        Returns:
            Whether the neuron has such parameters: its `spike` must be a `SpikeFunction` with
            parameters.
        """
        neuron = self.neuron
        if not isinstance(neuron, _HasSpike) or not isinstance(neuron.spike, SpikeFunction):
            return False
        spike = neuron.spike
        if scale and not spike.has_scale:
            spike = spike.scaled()
            self._neuron = _hold(self._neuron.with_parameters(spike=spike))
        if not spike.steepness:
            return False
        values = [jnp.asarray(p, self._state_dtype) for p in spike.steepness]
        self.steepness = Steepness(jnp.stack(values))
        return True
