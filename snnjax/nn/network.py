"""A stack of layers that returns the readout trace and what every layer did on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from snnjax import _check
from snnjax.nn._synaptic import Shape


class Activity(NamedTuple):
    """Spike trains of every spiking layer, first to last, each (time, batch, ...features), and their membranes where asked for (else empty)."""

    spikes: tuple[jax.Array, ...]
    membranes: tuple[jax.Array, ...] = ()


class Sequential(nnx.Module):
    """Layers in order; the last one's output is the readout.

    Args:
      layers: at least one, each with `spiking`, `in_shape`, `feature_shape`, `initial_state`, `__call__` and `step` as `SpikingDense` has:
        layers of neurons, and `Pool`, `Flatten` and `Reshape` between them.

    Raises:
      ValueError: no layer, different time steps, or one's inputs do not match the outputs of the layer below. Sizes that depend on the input's are
        checked when it comes.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> network = Sequential(SpikingDense(20, 128, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(128, 10, rngs=rngs))
    >>> readout, activity = network(jnp.ones((100, 4, 20)))
    >>> readout.shape, [s.shape for s in activity.spikes]
    ((100, 4, 10), [(100, 4, 128)])
    """

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        for layer in layers:
            if not hasattr(layer, "feature_shape"):
                raise TypeError(
                    "layers are given one by one, Sequential(first, second, ...), each a layer as SpikingDense or Pool are; "
                    f"got a {type(layer).__name__}"
                )
        steps = sorted({layer.neuron.dt for layer in layers if hasattr(layer, "neuron")})
        if len(steps) > 1:
            raise ValueError(f"all layers must have the same time step, got dt = {steps}")
        _input_shapes(layers)
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array, *, membranes: bool = False) -> tuple[jax.Array, Activity]:
        """Run x (time, batch, ...features) from the initial state; returns the readout trace (time, batch, out_features) and the activity."""
        readout, activity, _ = self.run(x, membranes=membranes)
        return readout, activity

    def run(self, x: jax.Array, state: Any = None, *, membranes: bool = False) -> tuple[jax.Array, Activity, tuple[Any, ...]]:
        """As calling the network, from `state` (a tuple, one entry a layer) and with the final state as third value."""
        _check.time_major("x", x)
        states: list[Any] = []
        spikes: list[jax.Array] = []
        traces: list[Any] = []
        for k, layer in enumerate(self.layers):
            sim = layer(x, state=None if state is None else state[k], membrane=membranes and layer.spiking)
            x = sim.output
            states.append(sim.state)
            if layer.spiking:
                spikes.append(sim.output)
                if membranes:
                    traces.append(sim.membrane)
        return x, Activity(tuple(spikes), tuple(traces)), tuple(states)

    def initial_state(self, batch_size: int, *, features: tuple[int, ...] | None = None) -> tuple[Any, ...]:
        """One state a layer, for `step` and `run`.

        Args:
          batch_size: trials.   features: shape of the input's features, (*spatial, channels); needed where a convolution's input size is not known without.
        """
        if features is not None:
            features = tuple(_check.integer("features", n, at_least=1) for n in features)
        states = []
        for k, (layer, shape) in enumerate(zip(self.layers, _input_shapes(self.layers, features), strict=True)):
            spatial = () if shape is None else shape[:-1]
            if hasattr(layer, "neuron") and None in spatial:
                raise ValueError(
                    f"features must be given, the shape (*spatial, channels) of the network's input: the size of layer {k}, a {type(layer).__name__}, "
                    "depends on it"
                )
            states.append(layer.initial_state(batch_size, spatial))
        return tuple(states)

    def step(self, state: tuple[Any, ...], x: jax.Array) -> tuple[tuple[Any, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
        """One time step with x (batch, ...features): the next state, and (readout (batch, out), spikes of every spiking layer)."""
        states: list[Any] = []
        spikes: list[jax.Array] = []
        for layer, s in zip(self.layers, state, strict=True):
            s, x = layer.step(s, x)
            states.append(s)
            if layer.spiking:
                spikes.append(x)
        return tuple(states), (x, tuple(spikes))


def _input_shapes(layers: Sequence[Any], features: Shape | None = None) -> list[Shape | None]:
    """Shape of the features that each layer gets when the first gets `features`; None where it is not known, as a whole or on one axis."""
    shapes: list[Shape | None] = []
    for k, layer in enumerate(layers):
        features = layer.in_shape if features is None else features
        shapes.append(features)
        if features is None:
            continue
        try:
            features = layer.feature_shape(features)
        except ValueError as error:
            below = "the network's input" if k == 0 else f"layer {k - 1}, a {type(layers[k - 1]).__name__}"
            raise ValueError(f"layer {k}, a {type(layer).__name__}, does not fit on {below}: {error}") from None
    return shapes
