"""What every layer with weights shares: weights, a neuron with trainable time constants, whole sequences and single steps.

A layer adds its linear maps, `_project` for the input (done for all steps at once, outside the scan) and `_recur` for its own spikes (inside it), and
`_out_shape` where it changes the number of positions. `_connect` draws its weights; `_drive` and `_own` say what they bring to the currents.

`__call__` uses the methods with an underscore, not the public ones that stand for them: `nnx.tabulate` shows every public method that is called as a row.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _check
from snnjax._pytree import replaced
from snnjax.dynamics import Simulation, simulate
from snnjax.dynamics._neuron import check_neuron
from snnjax.initializers import Initializer, fan_in
from snnjax.nn.init import Connection, LayerInit, as_layer_init, draw_weights
from snnjax.psp import PSP
from snnjax.surrogate import SpikeFunction

Shape = tuple[int | None, ...]  # None: any size


class Incoming(NamedTuple):
    """A connection at work.

    Attributes:
        weights: Its weights, (..., in, units).
        spikes: The spikes that it carries.
        kernel: Post-synaptic potential of its current.
        sign: Sign of its effect.
    """

    weights: jax.Array
    spikes: jax.Array
    kernel: PSP
    sign: int = 1


def hold(neuron: Any) -> Any:
    """Plain numbers are structure, so that jit sees constants; arrays and tracers are data."""
    plain = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(neuron))
    return nnx.static(neuron) if plain else nnx.data(neuron)


def with_arrays(neuron: Any) -> Any:
    """The neuron with the arrays that Flax variables hold in place of them: a threshold may be an `nnx.Param`."""
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
    if not any(map(is_variable, jax.tree.leaves(neuron, is_leaf=is_variable))):
        return neuron
    return jax.tree.map(lambda leaf: leaf[...] if is_variable(leaf) else leaf, neuron, is_leaf=is_variable)


def check_units(neuron: Any, units: int, positions: Shape = ()) -> None:
    """Raise unless every parameter of the neuron is one number, or one for each unit, or one for each unit at each position.

    Args:
      neuron: The neuron model.
      units: Neurons of the layer at each position.
      positions: Sizes of its spatial axes; None stands for any size.

    Raises:
      ValueError: Another shape, which would fail in the loop over time, or be one value per trial. Names the parameter.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(neuron):
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.shape in ((), (units,)):
            continue
        full = (*positions, units)
        if positions and leaf.ndim == len(full) and all(n in (None, size) for n, size in zip(full, leaf.shape, strict=True)):
            continue
        name = jax.tree_util.keystr(path).lstrip(".")
        everywhere = f", or an array {full} with one for each at each position".replace("None", "any size") if positions else ""
        raise ValueError(
            f"{name} of the neuron must be one number, or one for each of the layer's {units} units{everywhere}, got shape {leaf.shape}"
        )


LOG_TAU_RANGE = (-20.0, 20.0)
"""Trained logarithms of time constants are clipped to it: 2 ns to 15 years. Beyond, exp(-dt/tau) and its gradient leave the floats."""


@jax.jit
def _tau(log_tau: jax.Array) -> jax.Array:
    """Time constants of their trained logarithms. One program: outside jit, each operation would be a call of its own."""
    return jnp.exp(jnp.clip(log_tau, *LOG_TAU_RANGE))


class Steepness(nnx.Param):
    """The surrogate's parameters of one layer, as calibration found them; training leaves them alone.

    A kind of `nnx.Param`, so that what saves, restores, sweeps or averages a network's parameters
    keeps them. Their gradient is zero, and `snnjax.training` discards what an optimizer makes of
    it, such as weight decay.
    """


class Synaptic(nnx.Module):
    """Neurons (time, batch, *positions, out_features) that are driven through weights.

    Args:
      window: positions that one neuron sees, the first axes of the kernel; () for a dense layer.
      recurrent_window: the same for the layer's own spikes; None without recurrence.
      in_features, out_features, neuron, init, trainable, dtype, rngs: as in `SpikingDense`.
    """

    spiking: bool
    takes_events = False  # whether `project` takes a `snnjax.sparse.EventRaster`
    _n_currents: ClassVar[int] = 1

    def __init__(
        self, in_features: int, out_features: int, *, window: tuple[int, ...], recurrent_window: tuple[int, ...] | None, neuron: Any,
        init: LayerInit | Initializer, trainable: Sequence[str], dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.in_features = _check.integer("in_features", in_features, at_least=1)
        self.out_features = _check.integer("out_features", out_features, at_least=1)
        self._axes = len(window)  # not the kernel's own: an ensemble's has one more
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be a flax.nnx.Rngs, for example nnx.Rngs(0), got {type(rngs).__name__} {rngs!r}")
        check_neuron(neuron)
        if neuron.n_currents != self._n_currents:
            which = ("one synaptic current", "an excitatory and an inhibitory current")[self._n_currents - 1]
            raise TypeError(f"neuron must have {which}, got {type(neuron).__name__}")
        check_units(neuron, self.units, (None,) * self._axes)
        self._connect(window, recurrent_window, with_arrays(neuron), as_layer_init(init), dtype, rngs)
        self._neuron = hold(neuron)
        fields: Any = dataclasses.fields(neuron) if dataclasses.is_dataclass(neuron) else ()
        times = [f.name for f in fields if f.name.startswith("tau_")]
        for name in trainable:
            _check.one_of("trainable", name, times)
        # the logarithm is what is trained: no update can make a time constant negative
        log = lambda tau: jnp.broadcast_to(jnp.log(jnp.asarray(tau, self._state_dtype)), (self.units,))  # noqa: E731
        start = with_arrays(neuron)
        # a plain dictionary as data: nnx.tabulate fails on an nnx.Dict
        self.log_tau: dict[str, nnx.Param] = nnx.data({name: nnx.Param(log(getattr(start, name))) for name in trainable})
        self.steepness: Steepness | None = nnx.data(None)

    def _connect(
        self, window: tuple[int, ...], recurrent_window: tuple[int, ...] | None, neuron: Any, init: LayerInit, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        """Draw the weights of all connections."""
        shapes = [(*window, self.in_features, self.out_features)]
        if recurrent_window is not None:
            shapes.append((*recurrent_window, self.out_features, self.out_features))
        connections = [Connection(fan_in(shape), recurrent=k > 0, channels=shape[-2]) for k, shape in enumerate(shapes)]
        initializers = init(neuron, connections)
        kernels = [nnx.Param(draw_weights(draw, rngs.params(), shape, dtype)) for draw, shape in zip(initializers, shapes, strict=True)]
        self.kernel = kernels[0]
        self.recurrent_kernel = kernels[1] if len(kernels) > 1 else nnx.data(None)

    @abc.abstractmethod
    def _project(self, x: jax.Array, kernel: jax.Array) -> jax.Array: ...

    def project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The feed-forward map of x (time, batch, ...features) or (batch, ...features) with `kernel`, of any number of output features."""
        return self._project(x, kernel)

    @staticmethod
    @abc.abstractmethod
    def _recur(z: jax.Array, weights: jax.Array) -> jax.Array:
        """`recur`. A static method, so that every call hands the same function to jit."""
        ...

    @property
    def recur(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The recurrent map `(z, weights) -> drive` of spikes z of one or all steps."""
        return self._recur  # a property: nnx.tabulate replaces public methods by its own, and takes static ones for others

    @property
    def units(self) -> int:
        """Neurons of the layer, at each position."""
        return self.out_features

    def _emit(self, z: jax.Array) -> jax.Array:
        return z

    def emit(self, z: jax.Array) -> jax.Array:
        """What of the layer's output z (..., units) the layer above gets, (..., out_features)."""
        return self._emit(z)

    def _drive(self, x: jax.Array) -> Any:
        return self._project(x, self.kernel[...])

    def drive(self, x: jax.Array) -> Any:
        """What the neurons' currents receive from inputs x of one or all steps: their `drive`, or leaves that broadcast to it."""
        return self._drive(x)

    @property
    def _own(self) -> tuple[Any, Any]:
        """What they receive from the layer's own spikes: a function `(z, weights) -> drive`, the same one at each call, and the weights; or None twice."""
        return (None, None) if self.recurrent_kernel is None else (self._recur, self.recurrent_kernel[...])

    def whole_drive(self, x: jax.Array, z: jax.Array) -> Any:
        """What they receive from inputs x and the layer's own spikes z, of one or all steps."""
        drive, (recurrent, weights) = self.drive(x), self._own
        return drive if recurrent is None else jax.tree.map(jnp.add, drive, recurrent(z, weights))

    def connections(self, x: jax.Array, z: jax.Array) -> list[Incoming]:
        """All connections onto the layer's neurons, for inputs x and own spikes z."""
        kernel = self.neuron.kernel
        own = [] if self.recurrent_kernel is None else [Incoming(self.recurrent_kernel[...], z, kernel)]
        return [Incoming(self.kernel[...], x, kernel), *own]

    def _out_shape(self, spatial: Shape) -> Shape:
        return spatial

    def out_shape(self, spatial: Shape) -> Shape:
        """Positions of the output, one number per axis, for an input of the positions `spatial`; None stays None.

        Raises:
          ValueError: not one size per axis, or the input is smaller than the kernel.
        """
        return self._out_shape(spatial)

    @property
    def in_shape(self) -> Shape:
        """Shape of the input's features, (*spatial, in_features); None is a size that may vary."""
        return (*(None,) * self._axes, self.in_features)

    def feature_shape(self, features: Shape) -> Shape:
        """Shape of the output's features for an input whose features have the given shape, (*spatial, in_features); None is any size."""
        if len(features) != 1 + self._axes:
            axes = f"{1 + self._axes} axes, (*spatial, channels)" if self._axes else "1 axis"
            raise ValueError(f"features must have {axes}, got {features}; Flatten() makes one axis of several, Reshape(...) several of one")
        if features[-1] not in (None, self.in_features):
            raise ValueError(
                f"a layer with {self.in_features} inputs stands on one with {features[-1]} outputs; the two numbers must be equal"
            )
        return (*self.out_shape(features[:-1]), self.out_features)

    @property
    def neuron(self) -> Any:
        """The neuron model, with the present values of what is trained or calibrated."""
        neuron = with_arrays(self._neuron)
        found: dict[str, Any] = {name: _tau(param[...]) for name, param in self.log_tau.items()}
        if self.steepness is not None:
            found["spike"] = neuron.spike.with_steepness(tuple(self.steepness[...]))
        return replaced(neuron, **found) if found else neuron

    def hold_steepness(self, *, scale: bool = False) -> bool:
        """Keep the surrogate's parameters as a `Steepness` of the layer, to be set there.

        Args:
          scale: Add a factor of the surrogate derivative as their last, 1 at first.

        Returns:
          Whether there are any: the neuron's `spike` must be a `SpikeFunction`.
        """
        neuron = self.neuron
        spike = getattr(neuron, "spike", None)
        if not isinstance(spike, SpikeFunction):
            return False
        if scale and not spike.has_scale:
            spike = spike.scaled()
            self._neuron = hold(replaced(self._neuron, spike=spike))
        self.steepness = Steepness(jnp.stack([jnp.asarray(p, self._state_dtype) for p in spike.steepness]))
        return True

    @property
    def recurrent(self) -> bool:
        """Whether the layer feeds its spikes back to itself."""
        return self.recurrent_kernel is not None

    def initial_state(self, batch_size: int, spatial: tuple[int, ...] = ()) -> Any:
        """The neurons' state before the first step, arrays (batch_size, *out_shape(spatial), units)."""
        return self.neuron.initial_state((batch_size, *self.out_shape(spatial), self.units), self._state_dtype)

    @property
    def _state_dtype(self) -> Any:
        """At least float32: 16 bits cannot hold a membrane that decays by less than 1/256 a step."""
        return _check.wide(self.kernel[...].dtype)

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False) -> Simulation:
        """Run a sequence.

        Args:
          x: inputs (time, batch, *spatial, in_features).   state: where to start, the initial state when None.   membrane: return its trace too.

        Returns:
          `Simulation(output, membrane, state)`, the first two (time, batch, *out_shape(spatial), units).
        """
        _check.time_major("x", x, features=self.in_features)
        if len(x.shape) != 3 + self._axes:
            sizes = f"*spatial, channels) with {self._axes} spatial axes" if self._axes else "features)"
            hint = "" if self._axes else "; Flatten() makes one axis of several"
            raise ValueError(f"x must have shape (time, batch, {sizes}, got {x.shape}{hint}")
        if self._axes:
            check_units(self.neuron, self.units, self._out_shape(x.shape[2:-1]))
        recurrent, weights = self._own
        return simulate(self.neuron, self._drive(x), recurrent=recurrent, weights=weights, state=state, membrane=membrane)

    def step(self, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """One time step with inputs x (batch, *spatial, in_features): the next state and the output (batch, *out_shape(spatial), units)."""
        self._check_step(jax.tree.leaves(state)[0].shape, jnp.shape(x))
        neuron, drive = self.neuron, self.drive(x)
        recurrent, weights = self._own
        if recurrent is not None:
            _, z = neuron.step(state, jax.tree.map(jnp.zeros_like, drive))
            drive = jax.tree.map(jnp.add, drive, recurrent(z, weights))
        return neuron.step(state, drive)

    def _check_step(self, state: tuple[int, ...], x: tuple[int, ...]) -> None:
        fits = len(x) == 2 + self._axes and (x[0], x[-1]) == (state[0], self.in_features)
        if not fits or self.out_shape(x[1:-1]) != state[1:-1]:
            names, sizes = ("*spatial, ", f"*spatial with output {state[1:-1]}, ") if self._axes else ("", "")
            expected = f"(batch, {names}in_features) = ({state[0]}, {sizes}{self.in_features})"
            raise ValueError(f"x must have shape {expected}, one time step for this state, got {x}")
