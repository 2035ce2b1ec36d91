"""What every layer with weights shares: weights, a neuron with trainable time constants, whole sequences and single steps.

A layer adds its linear maps, `project` for the input (done for all steps at once, outside the scan) and `recur` for its own spikes (inside it), and
`out_shape` where it changes the number of positions.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.dynamics import Neuron, Simulation, simulate
from snnjax.initializers import Initializer, fan_in
from snnjax.nn.init import Connection, LayerInit, as_layer_init

Shape = tuple[int | None, ...]  # None: any size


def hold(neuron: Any) -> Any:
    """Plain numbers are structure, so that jit sees constants; arrays and tracers are data."""
    plain = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(neuron))
    return nnx.static(neuron) if plain else nnx.data(neuron)


class Synaptic(nnx.Module):
    """Neurons (time, batch, *positions, out_features) that are driven through weights.

    Args:
      window: positions that one neuron sees, the first axes of the kernel; () for a dense layer.
      recurrent_window: the same for the layer's own spikes; None without recurrence.
      in_features, out_features, neuron, init, trainable, dtype, rngs: as in `SpikingDense`.
    """

    spiking: bool

    def __init__(
        self, in_features: int, out_features: int, *, window: tuple[int, ...], recurrent_window: tuple[int, ...] | None, neuron: Any,
        init: LayerInit | Initializer, trainable: Sequence[str], dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.in_features = _check.integer("in_features", in_features, at_least=1)
        self.out_features = _check.integer("out_features", out_features, at_least=1)
        self._axes = len(window)  # not the kernel's own: an ensemble's has one more
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be a flax.nnx.Rngs, for example nnx.Rngs(0), got {type(rngs).__name__} {rngs!r}")
        if isinstance(neuron, type) or not isinstance(neuron, Neuron):
            raise TypeError(f"neuron must have initial_state and step (snnjax.dynamics.Neuron), got {neuron!r}")
        if not hasattr(neuron, "tau_syn"):
            raise TypeError(f"neuron must have one synaptic current with time constant tau_syn, got {type(neuron).__name__}")
        shapes = [(*window, self.in_features, self.out_features)]
        if recurrent_window is not None:
            shapes.append((*recurrent_window, self.out_features, self.out_features))
        connections = [Connection(fan_in(shape), recurrent=k > 0) for k, shape in enumerate(shapes)]
        initializers = as_layer_init(init)(neuron, connections)
        kernels = [nnx.Param(draw(rngs.params(), shape, dtype)) for draw, shape in zip(initializers, shapes, strict=True)]
        self.kernel = kernels[0]
        self.recurrent_kernel = kernels[1] if len(kernels) > 1 else nnx.data(None)
        self._neuron = hold(neuron)
        fields: Any = dataclasses.fields(neuron) if dataclasses.is_dataclass(neuron) else ()
        times = [f.name for f in fields if f.name.startswith("tau_")]
        for name in trainable:
            _check.one_of("trainable", name, times)
        # the logarithm is what is trained: no update can make a time constant negative
        log = lambda tau: jnp.broadcast_to(jnp.log(jnp.asarray(tau, self._state_dtype)), (self.out_features,))  # noqa: E731
        self.log_tau = nnx.Dict({name: nnx.Param(log(getattr(neuron, name))) for name in trainable})

    @abc.abstractmethod
    def project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The feed-forward map of x (time, batch, ...features) or (batch, ...features) with `kernel`, of any number of output features."""

    @staticmethod
    @abc.abstractmethod
    def recur(z: jax.Array, weights: jax.Array) -> jax.Array:
        """The recurrent map of spikes z of one or all steps. A static method, so that every call hands the same function to jit."""
        ...

    def out_shape(self, spatial: Shape) -> Shape:
        """Positions of the output for an input of the positions `spatial`."""
        return spatial

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
        """The neuron model, with the time constants at their present, possibly trained values."""
        learned = {name: jnp.exp(param[...]) for name, param in self.log_tau.items()}
        return dataclasses.replace(self._neuron, **learned) if learned else self._neuron

    @property
    def recurrent(self) -> bool:
        """Whether the layer feeds its spikes back to itself."""
        return self.recurrent_kernel is not None

    def initial_state(self, batch_size: int, spatial: tuple[int, ...] = ()) -> Any:
        """The neurons' state before the first step, arrays (batch_size, *out_shape(spatial), out_features)."""
        return self.neuron.initial_state((batch_size, *self.out_shape(spatial), self.out_features), self._state_dtype)

    @property
    def _state_dtype(self) -> Any:
        """At least float32: 16 bits cannot hold a membrane that decays by less than 1/256 a step."""
        return jnp.promote_types(self.kernel[...].dtype, jnp.float32)

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False) -> Simulation:
        """Run a sequence.

        Args:
          x: inputs (time, batch, *spatial, in_features).   state: where to start, the initial state when None.   membrane: return its trace too.

        Returns:
          `Simulation(output, membrane, state)`, the first two (time, batch, *out_shape(spatial), out_features).
        """
        _check.time_major("x", x, features=self.in_features)
        if self._axes and x.ndim != 3 + self._axes:  # a dense layer takes positions of any number
            raise ValueError(f"x must have shape (time, batch, *spatial, channels) with {self._axes} spatial axes, got {x.shape}")
        drive = self.project(x, self.kernel[...])
        if self.recurrent_kernel is None:
            return simulate(self.neuron, drive, state=state, membrane=membrane)
        return simulate(self.neuron, drive, recurrent=self.recur, weights=self.recurrent_kernel[...], state=state, membrane=membrane)

    def step(self, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """One time step with inputs x (batch, *spatial, in_features): the next state and the output (batch, *out_shape(spatial), out_features)."""
        self._check_step(jax.tree.leaves(state)[0].shape, jnp.shape(x))
        neuron, drive = self.neuron, self.project(x, self.kernel[...])
        if self.recurrent_kernel is not None:
            _, z = neuron.step(state, jnp.zeros_like(drive))
            drive = drive + self.recur(z, self.recurrent_kernel[...])
        return neuron.step(state, drive)

    def _check_step(self, state: tuple[int, ...], x: tuple[int, ...]) -> None:
        fits = len(x) == 2 + self._axes and (x[0], x[-1]) == (state[0], self.in_features)
        if not fits or self.out_shape(x[1:-1]) != state[1:-1]:
            names, sizes = ("*spatial, ", f"*spatial with output {state[1:-1]}, ") if self._axes else ("", "")
            expected = f"(batch, {names}in_features) = ({state[0]}, {sizes}{self.in_features})"
            raise ValueError(f"x must have shape {expected}, one time step for this state, got {x}")
