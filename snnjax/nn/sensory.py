r"""Sensory neurons: images as currents into LIF neurons, one a pixel and channel, whose spikes are the network's input.

    i[t+1] = ls i[t] + (1 - ls)(gain[c] x[t] + bias[c])                      settles at gain x + bias for an image x that stays
    u[t+1] = (lm u[t] + (1 - lm) i[t])(1 - z[t])

A pixel spikes where gain x + bias > theta, the sooner and the more often the larger it is: with i = gain x + bias constant, every
tau_mem ln(i / (i - theta)) and a few steps. Gain and bias are trained, one a channel.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, on CIFAR-10; they print no initial values, ours are gain 1 and bias 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check, _time
from snnjax.dynamics import LIF, Simulation, simulate
from snnjax.nn._synaptic import Shape, check_units, hold, with_arrays


class Sensory(nnx.Module):
    """Neurons driven by pixel values, (time, batch, *spatial, channels) -> spikes of the same shape. The first layer of a `Sequential`.

    It is not one of the hidden layers: like the input that it stands for, its spikes are no part of the network's activity, are not bounded, and its
    gain and bias are not touched by an initialization from data, which measures its spikes as the next layer's input.

    Args:
      channels: of the images, the last axis.   gain, bias: initial values, for images of mean 0 and variance 1; numbers, or arrays (channels,).
      neuron: a `LIF`.

    Parameters: `gain`, `bias` (channels,).

    Raises:
      ValueError, TypeError: an option out of range, when built; another number of channels, when called.

    >>> layer = Sensory(1, neuron=LIF(dt=2e-3))
    >>> image = jnp.array([-1.0, 0.5, 2.0]).reshape(1, 3, 1)              # one trial of three pixels
    >>> layer(jnp.broadcast_to(image, (100, *image.shape))).output.sum(axis=0).ravel().tolist()
    [0.0, 7.0, 15.0]
    """

    spiking = False

    def __init__(self, channels: int, *, gain: Any = 1.0, bias: Any = 1.0, neuron: Any = None) -> None:
        self.channels = _check.integer("channels", channels, at_least=1)
        neuron = LIF() if neuron is None else neuron
        if not isinstance(neuron, LIF):
            raise TypeError(f"neuron must be a LIF, got {neuron!r}")
        _check.number("gain", gain)
        _check.number("bias", bias)
        for name, value in (("gain", gain), ("bias", bias)):
            if jnp.shape(value) not in ((), (channels,)):
                raise ValueError(f"{name} must be one number or one for each of {channels} channels, got shape {jnp.shape(value)}")
        per_channel = lambda value: jnp.array(jnp.broadcast_to(jnp.asarray(value, jnp.float32), (channels,)))  # noqa: E731
        self.gain, self.bias = nnx.Param(per_channel(gain)), nnx.Param(per_channel(bias))
        self._neuron = hold(neuron)

    @property
    def neuron(self) -> Any:
        """The neuron model."""
        return with_arrays(self._neuron)

    @property
    def in_shape(self) -> Shape | None:
        """Not known: an image may have any number of spatial axes."""
        return None

    def feature_shape(self, features: Shape) -> Shape:
        """(*spatial, channels), that of the input."""
        if features[-1] not in (None, self.channels):
            raise ValueError(f"features must have {self.channels} channels on their last axis, got {features}")
        return features

    def initial_state(self, batch_size: int, spatial: tuple[int, ...] = ()) -> Any:
        """The neurons' state before the first step, arrays (batch_size, *spatial, channels)."""
        return self.neuron.initial_state((batch_size, *spatial, self.channels), _check.wide(self.gain[...].dtype))

    def current(self, x: jax.Array) -> jax.Array:
        """What the synaptic current receives in a step with pixel values x (..., channels)."""
        return self._current(x)

    def _current(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x, _check.wide(self.gain[...].dtype))
        return (1 - _time.decay(self.neuron.dt, self.neuron.tau_syn)) * (self.gain[...] * x + self.bias[...])

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False) -> Simulation:
        """Run pixel values x (time, batch, *spatial, channels): an image that stays is the same at all steps."""
        _check.time_major("x", x, features=self.channels)
        check_units(self.neuron, self.channels, x.shape[2:-1])
        return simulate(self.neuron, self._current(x), state=state, membrane=membrane)

    def step(self, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """One time step with pixel values x (batch, *spatial, channels)."""
        if jnp.shape(x) != state.u.shape:
            raise ValueError(f"x must have shape {state.u.shape}, one time step for this state, got {jnp.shape(x)}")
        return self.neuron.step(state, self.current(x))
