r"""Sensory neurons: pixel values are currents of LIF neurons, whose spikes are the network's input.

There is one neuron per pixel and channel c.

    i[t+1] = ls i[t] + (1 - ls)(gain[c] x[t] + bias[c])
    u[t+1] = (lm u[t] + (1 - lm) i[t])(1 - z[t])

For a constant image x, i converges to gain x + bias. A neuron spikes if gain x + bias > theta. It
spikes earlier and more often for larger values: with constant i = gain x + bias, the interval is
tau_mem ln(i / (i - theta)) plus a few steps. Gain and bias are trained, with one value per channel.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, on CIFAR-10. The paper gives
no initial values; ours are gain 1 and bias 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax.dynamics import LIF
from snnjax.nn._layer import Shape, unlisted
from snnjax.nn._neuron_layer import NeuronLayer, check_units


class Sensory(NeuronLayer):
    """Neurons that are driven by pixel values. They are the first layer of a `Sequential`.

    They map (time, batch, *spatial, channels) to spikes of the same shape. Sensory neurons are part
    of the input and not hidden neurons: their spikes are not part of the network's activity and are
    not bounded. An initialization from data does not change gain and bias; it measures the spikes
    as the next layer's input.

    Args:
        channels: Number of channels of the images, their last axis.
        gain: Initial gain for images of mean 0 and variance 1; a number or an array (channels,).
        bias: Initial bias; a number or an array (channels,).
        neuron: A `LIF`; `LIF()` if None.

    Parameters: `gain`, `bias` (channels,).

    Raises:
        ValueError: An option is out of range, or an image has another number of channels.
        TypeError: An argument has a wrong type.

    >>> layer = Sensory(1, neuron=LIF(dt=2e-3))
    >>> image = jnp.array([-1.0, 0.5, 2.0]).reshape(1, 3, 1)  # one sample of three pixels
    >>> z = layer(jnp.broadcast_to(image, (100, *image.shape))).output
    >>> z.sum(axis=0).ravel().tolist()
    [0.0, 7.0, 15.0]
    """

    def __init__(
        self, channels: int, *, gain: Scalar = 1.0, bias: Scalar = 1.0, neuron: LIF | None = None
    ) -> None:
        self.channels = _check.integer("channels", channels, at_least=1)
        neuron = LIF() if neuron is None else neuron
        if not isinstance(neuron, LIF):
            raise TypeError(f"neuron must be a LIF, got {neuron!r}")
        _check.number("gain", gain)
        _check.number("bias", bias)

        def per_channel(name: str, value: Scalar) -> nnx.Param:
            if jnp.shape(value) not in ((), (channels,)):
                needed = f"{name} must be one number or one for each of {channels} channels"
                raise ValueError(f"{needed}, got shape {jnp.shape(value)}")
            values = jnp.broadcast_to(jnp.asarray(value, jnp.float32), (channels,))
            return nnx.Param(jnp.array(values))

        self.gain, self.bias = per_channel("gain", gain), per_channel("bias", bias)
        self._take_neuron(neuron, self.channels)

    @property
    def _state_dtype(self) -> Any:
        return _check.wide(self.gain[...].dtype)

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        if features[-1] not in (None, self.channels):
            needed = f"features must have {self.channels} channels on their last axis"
            raise ValueError(f"{needed}, got {features}")
        return features

    @property
    def units(self) -> int:
        return self.channels

    @unlisted
    def drive(self, x: jax.Array) -> jax.Array:
        """The drive of the synaptic current per step by pixel values x (..., channels)."""
        x = jnp.asarray(x, self._state_dtype)
        neuron = self.neuron
        share = 1 - _time.decay(neuron.dt, neuron.tau_syn)
        return share * (self.gain[...] * x + self.bias[...])

    def _check_sequence(self, x: jax.Array) -> None:
        _check.time_major("x", x, features=self.channels)
        check_units(self.neuron, self.channels, x.shape[2:-1])

    def _check_step(self, state: tuple[int, ...], x: tuple[int, ...]) -> None:
        if x != state:
            raise ValueError(f"x must have shape {state}, one time step for this state, got {x}")
