"""A stack of layers that returns the readout trace and what every layer did on the way.

Backward needs traces of every layer over all T steps. With `remat_steps` = c only the states between parts of c steps are kept, T / c of them, and a part's
traces are computed again when its gradient is: memory for T / c states and c steps, least at c about sqrt(T), for one more forward pass. Training then also
takes each part's spike counts in place of its spikes (`counts`), so that what grows with T is the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.nn._synaptic import Shape
from snnjax.nn.dropout import Dropout
from snnjax.sparse import as_dense


class Activity(NamedTuple):
    """Spike trains of every spiking layer, first to last, each (time, batch, ...features), and their membranes where asked for (else empty).

    Those of a Dalian layer are of all its neurons, excitatory ones first. `steps`: where `spikes` are the counts of parts of a trial (parts, batch,
    ...features), the number of its steps; else None.
    """

    spikes: tuple[jax.Array, ...]
    membranes: tuple[jax.Array, ...] = ()
    steps: int | None = None


class NetworkOutput(NamedTuple):
    """What a network returns: `readout, activity = network(x)`.

    Attributes:
      readout: The readout trace, (time, batch, out_features).
      activity: What every spiking layer did.
    """

    readout: jax.Array
    activity: Activity


class Sequential(nnx.Module):
    """Layers in order; the last one's output is the readout.

    Args:
      layers: at least one, each with `spiking`, `in_shape`, `feature_shape`, `initial_state`, `__call__` and `step` as `SpikingDense` has:
        layers of neurons, and `Pool`, `Flatten`, `Reshape` and `Dropout` between them. Where a layer has `emit`, the ones above get `emit(output)`.
      skip: connect every spiking layer to the last one: it gets their spikes side by side, first to last, each flattened, and so needs as many inputs.
        Of a layer with `Dropout` right after it, what that leaves.
      remat_steps: time steps whose traces are kept for the gradient; see the module. None: all.

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

    def __init__(self, *layers: Any, skip: bool = False, remat_steps: int | None = None) -> None:
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
        if not isinstance(skip, bool):
            raise TypeError(f"skip must be True or False, got {skip!r}")
        if skip and not any(layer.spiking for layer in layers):
            raise ValueError("skip needs a spiking layer to connect to the last one, got none")
        self.skip = skip
        self.remat_steps = None if remat_steps is None else _check.integer("remat_steps", remat_steps, at_least=1)
        _input_shapes(layers, skip=skip)
        self.layers = nnx.List(layers)

    def input_of(self, k: int, below: jax.Array, spikes: Sequence[jax.Array], *, lead: int = 2) -> jax.Array:
        """What layer k gets of the output of the layer `below`, or of all `spikes` side by side; of whole sequences, or with `lead` = 1 of one step."""
        return self._input_of(k, below, spikes, lead=lead)

    def _input_of(self, k: int, below: jax.Array, spikes: Sequence[jax.Array], *, lead: int = 2) -> jax.Array:
        if not self.skip or k < len(self.layers) - 1:
            return below if k == 0 else _emitted(self.layers[k - 1], below)
        spiking = [layer for layer in self.layers if layer.spiking]
        trains = [_emitted(layer, z) for layer, z in zip(spiking, spikes, strict=True)]
        return jnp.concatenate([z.reshape(*z.shape[:lead], -1) for z in trains], axis=-1)

    @property
    def stochastic(self) -> bool:
        """Whether a key changes what the network does."""
        return any(getattr(layer, "stochastic", False) for layer in self.layers)

    @property
    def takes_events(self) -> bool:
        """Whether an `EventRaster` is used as it is; else an array is made of it."""
        return getattr(self.layers[0], "takes_events", False) and self.remat_steps is None

    def __call__(
        self,
        x: Any,
        *,
        membranes: bool = False,
        counts: bool = False,
        key: jax.Array | None = None,
        tap: Callable[[jax.Array], jax.Array] | None = None,
    ) -> NetworkOutput:
        """Run x (time, batch, ...features) from the initial state; returns the readout trace (time, batch, out_features) and the activity.

        Args:
          x: an array, or a `snnjax.sparse.EventRaster`.   membranes: keep those of every spiking layer.
          counts: give spike counts of each `remat_steps` steps instead of spikes (`Activity.steps`); spikes all the same
            where `remat_steps` is None or x not longer.
          key: for layers that draw at random, such as `Dropout`; without one they do nothing. The same key draws the same.
          tap: called with the spikes of every spiking layer, returns what goes on in their place; not where `remat_steps` cuts the trial into parts.
        """
        readout, activity, _ = self._run(x, None, membranes, counts, key, tap)
        return NetworkOutput(readout, activity)

    def run(
        self, x: Any, state: Any = None, *, membranes: bool = False, counts: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, Activity, tuple[Any, ...]]:
        """As calling the network, from `state` (a tuple, one entry a layer) and with the final state as third value."""
        return self._run(x, state, membranes, counts, key)

    def _run(
        self, x: Any, state: Any, membranes: bool, counts: bool, key: jax.Array | None, tap: Callable[[jax.Array], jax.Array] | None = None
    ) -> tuple[jax.Array, Activity, tuple[Any, ...]]:
        _check.time_major("x", x)
        if state is not None:
            self._check_state(state)
        x = x if self.takes_events else as_dense(x)
        if self.remat_steps is None or len(x) <= self.remat_steps:
            return self._run_once(x, state, membranes, key, tap)
        state = self.initial_state(x.shape[1], features=x.shape[2:]) if state is None else state
        parts, rest = divmod(len(x), self.remat_steps)

        @jax.checkpoint  # type: ignore[arg-type]
        def part(state: Any, x: jax.Array) -> tuple[Any, tuple[jax.Array, Activity]]:
            readout, activity, state = self._run_once(x, state, membranes, key)
            if counts:
                activity = activity._replace(spikes=tuple(z.sum(axis=0, keepdims=True) for z in activity.spikes))
            return state, (readout, activity)

        whole = x[: len(x) - rest].reshape(parts, self.remat_steps, *x.shape[1:])
        state, out = jax.lax.scan(part, state, whole)
        out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
        if rest:
            state, last = part(state, x[-rest:])
            out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
        readout, activity = out
        return readout, activity._replace(steps=len(x) if counts else None), state

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, tuple | list) or len(state) != len(self.layers):
            got = f"{len(state)} entries" if isinstance(state, tuple | list) else f"a {type(state).__name__}"
            raise ValueError(
                f"state must have one entry for each of the network's {len(self.layers)} layers, as initial_state(...) and run(...) return it, got {got}"
            )

    def _pass(self, k: int, x: jax.Array, passed: list[jax.Array]) -> None:
        """Take down the output x of layer k for skip connections."""
        if self.layers[k].spiking:
            passed.append(x)
        elif isinstance(self.layers[k], Dropout) and k and self.layers[k - 1].spiking:
            passed[-1] = x

    def _options(self, k: int, key: jax.Array | None) -> dict[str, Any]:
        """What layer k is called with in addition: a key of its own, where it takes one."""
        if key is None or not getattr(self.layers[k], "stochastic", False):
            return {}
        return {"key": jax.random.fold_in(key, k)}

    def _run_once(
        self, x: jax.Array, state: Any, membranes: bool, key: jax.Array | None, tap: Callable[[jax.Array], jax.Array] | None = None
    ) -> tuple[jax.Array, Activity, tuple[Any, ...]]:
        states: list[Any] = []
        spikes: list[jax.Array] = []
        passed: list[jax.Array] = []  # to the last layer, where it gets all
        traces: list[Any] = []
        for k, layer in enumerate(self.layers):
            x = self._input_of(k, x, passed)
            # not `membrane=False`: in Flax's tree mode nnx.tabulate makes arrays of all arguments
            asked = {"membrane": True} if membranes and layer.spiking else {}
            sim = layer(x, state=None if state is None else state[k], **asked, **self._options(k, key))
            x = sim.output if tap is None or not layer.spiking else tap(sim.output)
            states.append(sim.state)
            self._pass(k, x, passed)
            if layer.spiking:
                spikes.append(x)
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
        for k, (layer, shape) in enumerate(zip(self.layers, _input_shapes(self.layers, features, skip=self.skip), strict=True)):
            spatial = () if shape is None else shape[:-1]
            if hasattr(layer, "neuron") and None in spatial:
                raise ValueError(
                    f"features must be given, the shape (*spatial, channels) of the network's input: the size of layer {k}, a {type(layer).__name__}, "
                    "depends on it"
                )
            states.append(layer.initial_state(batch_size, spatial))
        return tuple(states)

    def step(
        self, state: tuple[Any, ...], x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[tuple[Any, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
        """One time step with x (batch, ...features): the next state, and (readout (batch, out), spikes of every spiking layer).

        With a `key`, the same at each step, layers draw what they draw for a whole sequence.
        """
        self._check_state(state)
        states: list[Any] = []
        spikes: list[jax.Array] = []
        passed: list[jax.Array] = []
        for k, (layer, s) in enumerate(zip(self.layers, state, strict=True)):
            s, x = layer.step(s, self._input_of(k, x, passed, lead=1), **self._options(k, key))
            states.append(s)
            self._pass(k, x, passed)
            if layer.spiking:
                spikes.append(x)
        return tuple(states), (x, tuple(spikes))


def check_sequential(name: str, network: Any) -> None:
    """Raise unless `network` is a `Sequential`, whose layers can be measured one after another.

    Args:
      name: The function that needs it, for the error.
      network: What it got.

    Raises:
      TypeError: Another object. The message says what to do with a module of one's own.
    """
    if not isinstance(network, Sequential):
        raise TypeError(
            f"network must be a snnjax.nn.Sequential, whose layers {name} measures one after another, got {type(network).__name__}. "
            "In a module of your own, put the spiking layers and the readout into a Sequential attribute and pass that; for single "
            "layers use snnjax.calibration.data_driven(input_powers(x, neuron)) as init"
        )


def _emitted(layer: Any, z: jax.Array) -> jax.Array:
    """What the layers above get of a layer's output: of a Dalian layer the excitatory spikes."""
    return layer._emit(z) if hasattr(layer, "_emit") else z


def _input_shapes(layers: Sequence[Any], features: Shape | None = None, *, skip: bool = False) -> list[Shape | None]:
    """Shape of the features that each layer gets when the first gets `features`; None where it is not known, as a whole or on one axis."""
    shapes: list[Shape | None] = []
    spiking: list[int | None] = []
    for k, layer in enumerate(layers):
        if skip and k == len(layers) - 1:
            sizes = [n for n in spiking if n is not None]
            features = (sum(sizes) if len(sizes) == len(spiking) else None,)
        features = layer.in_shape if features is None else features
        shapes.append(features)
        if features is None:
            continue
        try:
            features = layer.feature_shape(features)
        except ValueError as error:
            below = "the network's input" if k == 0 else f"layer {k - 1}, a {type(layers[k - 1]).__name__}"
            raise ValueError(f"layer {k}, a {type(layer).__name__}, does not fit on {below}: {error}") from None
        if layer.spiking:
            shape = features or ()
            sizes = [n for n in shape if n is not None]
            spiking.append(math.prod(sizes) if len(sizes) == len(shape) else None)
    return shapes
