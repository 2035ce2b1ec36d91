"""A stack of layers that returns the readout trace and what every layer did on the way.

The backward pass needs traces of every layer over all T steps. With `remat_steps` = c only the
states between parts of c steps are kept, T / c of them, and a part's traces are computed again when
its gradient is. This takes memory for T / c states and c steps, least at c about sqrt(T), and one
more forward pass. Training then also takes each part's spike counts in place of its spikes
(`counts`), so that only the input grows with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.nn._layer import Layer, Shape, State, unlisted
from snnjax.nn.per_step import PerStep
from snnjax.nn.shape import Stateless, known
from snnjax.sparse import EventRaster, as_dense

Tap = Callable[[jax.Array], jax.Array]


class Activity(NamedTuple):
    """What the spiking layers did, first to last.

    Attributes:
        spikes: Spike trains, each (time, batch, ...features). Those of a Dalian layer are of all
            its neurons, excitatory ones first.
        membranes: Membranes of the same shapes where asked for, else empty.
        steps: Where `spikes` are the counts of parts of a sample (parts, batch, ...features), the
            number of its steps; else None.
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
        *layers: At least one `Layer`. Other modules of Flax, such as `nnx.Linear`, may stand
            between them and are applied to each time step (`PerStep`).
        skip: Whether to connect every spiking layer to the last one. The last one then gets their
            spikes side by side, first to last, each flattened, and so needs as many inputs. Of a
            layer with `Dropout` right after it, it gets what that leaves.
        remat_steps: Time steps whose traces are kept for the gradient; see the module. None: all.

    Raises:
        ValueError: There is no layer, time steps differ, or a layer's inputs do not match the
            outputs of the layer below. Sizes that depend on the input's are checked when it comes.
        TypeError: An object is no layer and no module that could be one.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 128, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(128, 10, rngs=rngs))
    >>> readout, activity = network(jnp.ones((100, 4, 20)))
    >>> readout.shape, [s.shape for s in activity.spikes]
    ((100, 4, 10), [(100, 4, 128)])
    """

    def __init__(
        self, *layers: nnx.Module, skip: bool = False, remat_steps: int | None = None
    ) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        stack = [_as_layer(k, layer) for k, layer in enumerate(layers)]
        steps = sorted({layer.dt for layer in stack if layer.dt is not None})
        if len(steps) > 1:
            raise ValueError(f"all layers must have the same time step, got dt = {steps}")
        if not isinstance(skip, bool):
            raise TypeError(f"skip must be True or False, got {skip!r}")
        if skip and not any(layer.spiking for layer in stack):
            raise ValueError("skip needs a spiking layer to connect to the last one, got none")
        self.skip = skip
        self.remat_steps = None
        if remat_steps is not None:
            self.remat_steps = _check.integer("remat_steps", remat_steps, at_least=1)
        _input_shapes(stack, skip=skip)
        self.layers = nnx.List(stack)

    @property
    def stochastic(self) -> bool:
        """Whether a key changes what the network does."""
        return any(layer.stochastic for layer in self.layers)

    @property
    def takes_events(self) -> bool:
        """Whether an `EventRaster` is used as it is; else an array is made of it."""
        return self.layers[0].takes_events and self.remat_steps is None

    @unlisted
    def input_of(
        self, k: int, below: jax.Array, passed: Sequence[jax.Array], *, lead: int = 2
    ) -> jax.Array:
        """What layer k gets.

        Args:
            k: Index of the layer.
            below: What the layer below emits, or the network's input.
            passed: What all spiking layers below emit. With `skip` the last layer gets it.
            lead: Number of axes before the features: 2 for whole sequences, 1 for one step.
        """
        if not self.skip or k < len(self.layers) - 1:
            return below
        return jnp.concatenate([z.reshape(*z.shape[:lead], -1) for z in passed], axis=-1)

    @unlisted
    def walk(
        self, x: Any, visit: Callable[[int, Layer, Any], jax.Array], *, lead: int = 2
    ) -> jax.Array:
        """Give every layer its input, first to last: all that runs or measures a network does this.

        Args:
            x: The network's input.
            visit: Called with the index of a layer, the layer and its input; returns its output.
            lead: Number of axes before the features: 2 for whole sequences, 1 for one step.

        Returns:
            The output of the last layer.
        """
        passed: list[jax.Array] = []
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            x = visit(k, layer, self.input_of(k, x, passed, lead=lead))
            if k < last:
                x = layer.emit(x)
            if layer.spiking:
                passed.append(x)
            elif layer.masks and k and self.layers[k - 1].spiking:
                passed[-1] = x
        return x

    def __call__(
        self,
        x: jax.Array | EventRaster,
        *,
        membranes: bool = False,
        counts: bool = False,
        key: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> NetworkOutput:
        """Run a batch from the initial state.

        Args:
            x: Inputs (time, batch, ...features), an array or a `snnjax.sparse.EventRaster`.
            membranes: Whether to keep the membranes of every spiking layer.
            counts: Whether to give spike counts of each `remat_steps` steps instead of spikes
                (`Activity.steps`). Spikes all the same where `remat_steps` is None or x not longer.
            key: For layers that draw at random, such as `Dropout`. Without one they do nothing. The
                same key draws the same.
            tap: Called with the spikes of every spiking layer, returns what goes on in their place;
                not where `remat_steps` cuts the sample into parts.

        Returns:
            `NetworkOutput(readout, activity)`, the readout trace (time, batch, out_features).
        """
        readout, activity, _ = self._run(x, None, membranes, counts, key, tap)
        return NetworkOutput(readout, activity)

    def run(
        self,
        x: jax.Array | EventRaster,
        state: tuple[State, ...] | None = None,
        *,
        membranes: bool = False,
        counts: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Activity, tuple[State, ...]]:
        """Run a batch from a given state; arguments as in calling the network.

        Args:
            x: Inputs.
            state: One entry per layer; the initial state if None.
            membranes: Whether to keep membranes.
            counts: Whether to give counts.
            key: For layers that draw at random.

        Returns:
            The readout trace, the activity, and the final state.
        """
        return self._run(x, state, membranes, counts, key)

    def _run(
        self,
        x: Any,
        state: tuple[State, ...] | None,
        membranes: bool,
        counts: bool,
        key: jax.Array | None,
        tap: Tap | None = None,
    ) -> tuple[jax.Array, Activity, tuple[State, ...]]:
        _check.time_major("x", x)
        if state is not None:
            self._check_state(state)
        x = x if self.takes_events else as_dense(x)
        if self.remat_steps is None or len(x) <= self.remat_steps:
            return self._run_once(x, state, membranes, key, tap)
        if state is None:
            state = self.initial_state(x.shape[1], features=x.shape[2:])
        parts, rest = divmod(len(x), self.remat_steps)

        @jax.checkpoint  # type: ignore[arg-type]
        def part(state: Any, x: jax.Array) -> tuple[Any, tuple[jax.Array, Activity]]:
            readout, activity, state = self._run_once(x, state, membranes, key)
            if counts:
                sums = tuple(z.sum(axis=0, keepdims=True) for z in activity.spikes)
                activity = activity._replace(spikes=sums)
            return state, (readout, activity)

        whole = x[: len(x) - rest].reshape(parts, self.remat_steps, *x.shape[1:])
        final, out = jax.lax.scan(part, state, whole)
        out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
        if rest:
            final, last = part(final, x[-rest:])
            out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
        readout, activity = out
        return readout, activity._replace(steps=len(x) if counts else None), final

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, tuple | list) or len(state) != len(self.layers):
            got = f"a {type(state).__name__}"
            if isinstance(state, tuple | list):
                got = f"{len(state)} entries"
            raise ValueError(
                f"state must have one entry for each of the network's {len(self.layers)} layers, "
                "as "
                f"initial_state(...) and run(...) return it, got {got}"
            )

    def _options(self, k: int, key: jax.Array | None) -> dict[str, jax.Array]:
        """What layer k is called with in addition: a key of its own, where it takes one."""
        if key is None or not self.layers[k].stochastic:
            return {}
        return {"key": jax.random.fold_in(key, k)}

    def _run_once(
        self,
        x: jax.Array,
        state: tuple[State, ...] | None,
        membranes: bool,
        key: jax.Array | None,
        tap: Tap | None = None,
    ) -> tuple[jax.Array, Activity, tuple[State, ...]]:
        states: list[State] = []
        spikes: list[jax.Array] = []
        traces: list[jax.Array] = []

        def visit(k: int, layer: Layer, x: jax.Array) -> jax.Array:
            # not `membrane=False`: in Flax's tree mode nnx.tabulate makes arrays of all arguments
            asked: dict[str, Any] = {"membrane": True} if membranes and layer.spiking else {}
            start = None if state is None else state[k]
            asked |= self._options(k, key)
            sim = layer(x, state=start, **asked)
            states.append(sim.state)
            if not layer.spiking:
                return sim.output
            spikes.append(sim.output if tap is None else tap(sim.output))
            if sim.membrane is not None:
                traces.append(sim.membrane)
            return spikes[-1]

        readout = self.walk(x, visit)
        return readout, Activity(tuple(spikes), tuple(traces)), tuple(states)

    @unlisted
    def initial_state(
        self, batch_size: int, *, features: tuple[int, ...] | None = None
    ) -> tuple[State, ...]:
        """One state per layer, for `step` and `run`.

        Args:
            batch_size: Number of samples.
            features: Shape of the input's features, (*spatial, channels). It is needed where the
                size of a layer depends on it.

        Raises:
            ValueError: `features` is missing or does not fit.
        """
        if features is not None:
            features = tuple(_check.integer("features", n, at_least=1) for n in features)
        states = []
        shapes = _input_shapes(self.layers, features, skip=self.skip)
        for k, (layer, shape) in enumerate(zip(self.layers, shapes, strict=True)):
            sizes = () if shape is None or isinstance(layer, Stateless) else known(shape)
            if sizes is None:
                raise ValueError(
                    "features must be given, the shape (*spatial, channels) of the network's "
                    "input: "
                    f"the size of layer {k}, a {type(layer).__name__}, depends on it"
                )
            states.append(layer.initial_state(batch_size, sizes))
        return tuple(states)

    @unlisted
    def step(
        self, state: tuple[State, ...], x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[tuple[State, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
        """Advance by one time step.

        Args:
            state: The present state, one entry per layer.
            x: Inputs (batch, ...features).
            key: The same at each step; layers then draw what they draw for a whole sequence.

        Returns:
            The next state, and (readout (batch, out), spikes of every spiking layer).
        """
        self._check_state(state)
        states: list[State] = []
        spikes: list[jax.Array] = []

        def visit(k: int, layer: Layer, x: jax.Array) -> jax.Array:
            after, out = layer.step(state[k], x, **self._options(k, key))
            states.append(after)
            if layer.spiking:
                spikes.append(out)
            return out

        readout = self.walk(x, visit, lead=1)
        return tuple(states), (readout, tuple(spikes))


def _as_layer(k: int, layer: Any) -> Layer:
    """The layer itself, or a module of Flax as one."""
    if isinstance(layer, Layer):
        return layer
    if not isinstance(layer, nnx.Module) or isinstance(layer, Sequential | nnx.List):
        raise TypeError(
            "layers are given one by one, Sequential(first, second, ...), each a snnjax.nn.Layer "
            "such as SpikingDense or Pool, or a module such as flax.nnx.Linear; "
            f"got a {type(layer).__name__}"
        )
    with _check.at(f"layer {k}"):
        return PerStep(layer)


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
            f"network must be a snnjax.nn.Sequential, whose layers {name} measures one after "
            f"another, got {type(network).__name__}. "
            "In a module of your own, put the spiking layers and the readout into a Sequential "
            "attribute and pass that; for single "
            "layers use snnjax.calibration.data_driven(input_powers(x, neuron)) as init"
        )


def _input_shapes(
    layers: Sequence[Layer], features: Shape | None = None, *, skip: bool = False
) -> list[Shape | None]:
    """Shape of the features that each layer gets when the first gets `features`.

    None stands for a shape, or a size, that is not known.
    """
    shapes: list[Shape | None] = []
    spiking: list[int | None] = []
    for k, layer in enumerate(layers):
        if skip and k == len(layers) - 1:
            sizes = [n for n in spiking if n is not None]
            features = (sum(sizes) if len(sizes) == len(spiking) else None,)
        own = layer.in_shape
        if features is None:
            features = own
        elif own is not None and len(own) == len(features):
            pairs = zip(features, own, strict=True)
            features = tuple(size if n is None else n for n, size in pairs)
        shapes.append(features)
        if features is not None:
            try:
                features = layer.feature_shape(features)
            except ValueError as error:
                below = "the network's input"
                if k:
                    below = f"layer {k - 1}, a {type(layers[k - 1]).__name__}"
                name = type(layer).__name__
                raise ValueError(f"layer {k}, a {name}, does not fit on {below}: {error}") from None
        if layer.spiking:
            sizes = known(features)
            spiking.append(None if sizes is None else math.prod(sizes))
    return shapes
