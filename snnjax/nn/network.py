"""A stack of layers that returns the readout trace and what every layer did on the way."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
from flax import nnx

from snnjax import _check


class Activity(NamedTuple):
    """Spike trains of every spiking layer, first to last, each (time, batch, ...features), and their membranes where asked for (else empty)."""

    spikes: tuple[jax.Array, ...]
    membranes: tuple[jax.Array, ...] = ()


class Sequential(nnx.Module):
    """Layers in order; the last one's output is the readout.

    Args:
      layers: at least one, each with `in_features`, `out_features`, `spiking`, `initial_state`, `__call__` and `step` as `SpikingDense` has.

    Raises:
      ValueError: no layer, different time steps, or one's inputs do not match the outputs of the layer below.

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
            if not hasattr(layer, "out_features"):
                raise TypeError(
                    "layers are given one by one, Sequential(first, second, ...), each with in_features and out_features; "
                    f"got a {type(layer).__name__}"
                )
        steps = sorted({layer.neuron.dt for layer in layers if hasattr(layer, "neuron")})
        if len(steps) > 1:
            raise ValueError(f"all layers must have the same time step, got dt = {steps}")
        for below, above in itertools.pairwise(layers):
            if below.out_features != above.in_features:
                raise ValueError(
                    f"a layer with {above.in_features} inputs stands on one with {below.out_features} outputs; the two numbers must be equal"
                )
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array, *, membranes: bool = False) -> tuple[jax.Array, Activity]:
        """Run x (time, batch, in_features) from the initial state; returns the readout trace (time, batch, out_features) and the activity."""
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

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """One state a layer, for `step` and `run`."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)

    def step(self, state: tuple[Any, ...], x: jax.Array) -> tuple[tuple[Any, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
        """One time step with x (batch, in_features): the next state, and (readout (batch, out), spikes of every spiking layer)."""
        states: list[Any] = []
        spikes: list[jax.Array] = []
        for layer, s in zip(self.layers, state, strict=True):
            s, x = layer.step(s, x)
            states.append(s)
            if layer.spiking:
                spikes.append(x)
        return tuple(states), (x, tuple(spikes))
