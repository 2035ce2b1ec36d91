"""A stack of layers that returns the readout trace and the activity of every layer.

The backward pass needs the traces of every layer over all T steps. With `remat_steps` = c, only the
T / c states between parts of c steps are stored. The traces of a part are computed again for its
gradient. This needs memory for T / c states and for the traces of c steps, with a minimum at c of
about sqrt(T), and one more forward pass. Training then also uses the spike counts of each part
instead of its spikes (`counts`), so that only the input grows with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax._sparse import EventRaster, as_dense
from snnjax.nn._layer import ConstructorSignature, Layer, Shape, State, unlisted
from snnjax.nn._per_step import PerStep, layer_name
from snnjax.nn._shape import Stateless, known
from snnjax.nn._synaptic import Synaptic

Tap = Callable[[jax.Array], jax.Array]


class Activity(NamedTuple):
    """The activity of the spiking layers, first to last.

    Attributes:
        spikes: Spike trains, each (time, batch, ...features). A Dalian layer has those of all its
            neurons, excitatory neurons first.
        membranes: Membranes of the same shapes if they were requested, else empty.
        steps: Number of steps of a sample if `spikes` are the counts of its parts (parts, batch,
            ...features); else None.
    """

    spikes: tuple[jax.Array, ...]
    membranes: tuple[jax.Array, ...] = ()
    steps: int | None = None


class NetworkOutput(NamedTuple):
    """The output of a network: `readout, activity = network(x)`.

    Attributes:
        readout: The readout trace, (time, batch, out_features).
        activity: The activity of the spiking layers.
    """

    readout: jax.Array
    activity: Activity

    def __jax_array__(self) -> jax.Array:
        raise TypeError(
            "a network returns a pair of readout and activity, and no array: use .readout, for "
            "example network(x).readout"
        )


class Sequential(nnx.Module):
    """Layers in order; the output of the last layer is the readout.

    Args:
        *layers: At least one `Layer`. Other modules of Flax between them, such as `nnx.Linear`, are
            applied to each time step (`PerStep`).
        skip: Whether to connect every spiking layer to the last layer. The input of the last layer
            is then the concatenation of their flattened spikes, first to last. If a spiking layer
            is followed by `Dropout`, its spikes after dropout are used.
        remat_steps: Number of time steps whose traces are stored for the gradient. Fewer steps need
            less memory. Any number costs one more forward pass. None: all.

    Raises:
        ValueError: There is no layer, time steps differ, or a layer's inputs do not match the
            outputs of the layer below. Sizes that depend on the input are checked in the call.
        TypeError: An object is neither a layer nor a module that can be used as one.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 128, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(128, 10, rngs=rngs))
    >>> readout, activity = network(jnp.ones((100, 4, 20)))
    >>> readout.shape, [s.shape for s in activity.spikes]
    ((100, 4, 10), [(100, 4, 128)])
    """

    __signature__ = ConstructorSignature()

    def __init__(
        self, *layers: nnx.Module, skip: bool = False, remat_steps: int | None = None
    ) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        stack = [_as_layer(type(self).__name__, k, layer) for k, layer in enumerate(layers)]
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
            if any(isinstance(la, Synaptic) and la.norm is not None for la in stack):
                needed = "remat_steps must be None with batch normalization, whose statistics are "
                raise ValueError(f"{needed}those of the whole trial, got {remat_steps}")
        _input_shapes(stack, skip=skip)
        self.layers = nnx.List(stack)

    @property
    def stochastic(self) -> bool:
        """Whether the output depends on a random key."""
        return any(layer.stochastic for layer in self.layers)

    @property
    def takes_events(self) -> bool:
        """Whether an `EventRaster` is used directly; otherwise it is converted to an array."""
        return self.layers[0].takes_events and self.remat_steps is None

    @unlisted
    def input_of(
        self, k: int, below: jax.Array, passed: Sequence[jax.Array], *, lead: int = 2
    ) -> jax.Array:
        """The input of layer k.

        Args:
            k: Index of the layer.
            below: Output of the layer below, or the network's input.
            passed: Outputs of all spiking layers below, which the last layer receives with `skip`.
            lead: Number of axes before the features: 2 for whole sequences, 1 for one step.

        Returns:
            The input, (time, batch, ...features), or (batch, ...features) for one step.
        """
        if not self.skip or k < len(self.layers) - 1:
            return below
        return jnp.concatenate([z.reshape(*z.shape[:lead], -1) for z in passed], axis=-1)

    @unlisted
    def walk(self, x: jax.Array | EventRaster, *, lead: int = 2) -> Walk:
        """The layers and their inputs, first to last. All functions that measure a network use it.

        Args:
            x: The network's input.
            lead: Number of axes before the features: 2 for whole sequences, 1 for one step.
        """
        return Walk(self, x, lead)

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
            x: Inputs (time, batch, ...features), an array, or an `EventRaster`: the same spikes as
                lists of events.
            membranes: Whether to also return the membranes of every spiking layer.
            counts: Whether to return the spike counts of each part of `remat_steps` steps instead
                of spikes (`Activity.steps`). It has no effect if `remat_steps` is None or x is not
                longer.
            key: Random key for layers such as `Dropout`. Without a key they are inactive.
            tap: A function of the spikes of each spiking layer. Its result replaces the spikes. It
                is not applied if `remat_steps` splits the sample into parts.

        Returns:
            `NetworkOutput(readout, activity)`. The readout is a trace (time, batch, out_features).
        """
        _, output = self.run(x, membranes=membranes, counts=counts, key=key, tap=tap)
        return output

    @unlisted
    def run(
        self,
        x: jax.Array | EventRaster,
        state: tuple[State, ...] | None = None,
        *,
        membranes: bool = False,
        counts: bool = False,
        key: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> tuple[tuple[State, ...], NetworkOutput]:
        """Run a batch from a given state.

        Args:
            x: Inputs, as in a call of the network.
            state: One entry per layer; the initial state if None.
            membranes: As in a call of the network.
            counts: As in a call of the network.
            key: As in a call of the network.
            tap: As in a call of the network.

        Returns:
            The final state, and the output as in a call of the network.
        """
        _check.time_major("x", x)
        if state is not None:
            self._check_state(state)
        out: Any = x if self.takes_events else as_dense(x)
        if self.remat_steps is not None and len(out) > self.remat_steps:
            return self._run_in_parts(out, state, membranes=membranes, counts=counts, key=key)
        states: list[State] = []
        spikes: list[jax.Array] = []
        traces: list[jax.Array] = []

        walk = self.walk(out)
        for k, layer, below in walk:
            # False is not passed: in Flax's tree mode nnx.tabulate turns all arguments into arrays
            asked = self._options(k, key)
            if membranes and layer.spiking:
                asked["membrane"] = True
            sim = layer(below, state=None if state is None else state[k], **asked)
            states.append(sim.state)
            walk.output = sim.output
            if layer.spiking:
                walk.output = sim.output if tap is None else tap(sim.output)
                spikes.append(walk.output)
            if sim.membrane is not None:
                traces.append(sim.membrane)
        return tuple(states), NetworkOutput(walk.output, Activity(tuple(spikes), tuple(traces)))

    def _run_in_parts(
        self,
        x: jax.Array,
        state: tuple[State, ...] | None,
        *,
        membranes: bool,
        counts: bool,
        key: jax.Array | None,
    ) -> tuple[tuple[State, ...], NetworkOutput]:
        """`run` in parts of `remat_steps` steps, whose traces are computed again for gradients."""
        if state is None:
            state = self.initial_state(x.shape[1], features=x.shape[2:])
        steps = self.remat_steps or len(x)
        parts, rest = divmod(len(x), steps)

        @jax.checkpoint  # type: ignore[arg-type]
        def part(state: tuple[State, ...], x: jax.Array) -> tuple[tuple[State, ...], NetworkOutput]:
            state, (readout, activity) = self.run(x, state, membranes=membranes, key=key)
            if counts:
                sums = tuple(z.sum(axis=0, keepdims=True) for z in activity.spikes)
                activity = activity._replace(spikes=sums)
            return state, NetworkOutput(readout, activity)

        whole = x[: len(x) - rest].reshape(parts, steps, *x.shape[1:])
        final, out = jax.lax.scan(part, state, whole)
        out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
        if rest:
            final, last = part(final, x[-rest:])
            out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
        readout, activity = out
        return final, NetworkOutput(readout, activity._replace(steps=len(x) if counts else None))

    def _check_state(self, state: object) -> None:
        listed = isinstance(state, tuple | list)
        if not listed or len(state) != len(self.layers):
            got = f"{len(state)} entries" if listed else f"{type(state).__name__}"
            raise ValueError(
                f"state must have one entry for each of the network's {len(self.layers)} layers, "
                f"as initial_state(...) and run(...) return it, got {got}"
            )

    def _options(self, k: int, key: jax.Array | None) -> dict[str, Any]:
        """Further arguments of layer k: its own key if it is stochastic."""
        if key is None or not self.layers[k].stochastic:
            return {}
        return {"key": jax.random.fold_in(key, k)}

    @unlisted
    def initial_state(
        self, batch_size: int, *, features: tuple[int, ...] | None = None
    ) -> tuple[State, ...]:
        """One state per layer, for `step` and `run`.

        Args:
            batch_size: Number of samples.
            features: Shape of the input's features, (*spatial, channels). It is required if the
                size of a layer depends on it.

        Returns:
            The states, first layer to last.

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
                    f"input: the size of layers[{k}] ({layer_name(layer)}) depends on it"
                )
            states.append(layer.initial_state(batch_size, sizes))
        return tuple(states)

    @unlisted
    def round_delays(self) -> None:
        """Round all learned delays to whole time steps, with kernels of width 0, for inference."""
        for layer in self.layers:
            layer.round_delays()

    @unlisted
    def step(
        self, state: tuple[State, ...], x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[tuple[State, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
        """Advance by one time step.

        Args:
            state: The present state, one entry per layer.
            x: Inputs (batch, ...features).
            key: Random key. With the same key at each step, layers draw the same random numbers as
                for a whole sequence.

        Returns:
            The next state, and (readout (batch, out), spikes of every spiking layer).
        """
        self._check_state(state)
        states: list[State] = []
        spikes: list[jax.Array] = []
        walk = self.walk(x, lead=1)
        for k, layer, below in walk:
            after, walk.output = layer.step(state[k], below, **self._options(k, key))
            states.append(after)
            if layer.spiking:
                spikes.append(walk.output)
        return tuple(states), (walk.output, tuple(spikes))


class Walk:
    """The layers of a network and their inputs, first to last.

    Iterating yields the index of a layer, the layer and its input. The loop sets `output` to the
    layer's output, from which the input of the next layer follows.

    Args:
        network: The network.
        x: The network's input.
        lead: As in `Sequential.walk`.

    Attributes:
        output: Output of the present layer; at the end, that of the last layer.
    """

    def __init__(self, network: Sequential, x: jax.Array | EventRaster, lead: int) -> None:
        self.output: Any = x
        self._network, self._lead = network, lead

    def __iter__(self) -> Iterator[tuple[int, Layer, Any]]:
        layers = self._network.layers
        passed: list[jax.Array] = []
        for k, layer in enumerate(layers):
            yield k, layer, self._network.input_of(k, self.output, passed, lead=self._lead)
            if k < len(layers) - 1:
                self.output = layer.emit(self.output)
            if layer.spiking:
                passed.append(self.output)
            elif layer.masks and k and layers[k - 1].spiking:
                passed[-1] = self.output


def _as_layer(network: str, k: int, layer: object) -> Layer:
    """The layer itself, or a `PerStep` of another module of Flax."""
    if isinstance(layer, Layer):
        return layer
    if not isinstance(layer, nnx.Module) or isinstance(layer, Sequential | nnx.List):
        got = type(layer).__name__
        if isinstance(layer, type):
            got = f"the class {layer.__name__}; create an object of it"
        elif callable(layer) and not isinstance(layer, nnx.Module):
            got += "; wrap a function in a module, for example nnx.Sequential(nnx.relu)"
        elif isinstance(layer, Sequence):
            got += f"; write {network}(*layers)"
        raise TypeError(
            f"layers are given one by one, {network}(first, second, ...), each a snnjax.nn.Layer "
            f"such as SpikingDense or Pool, or a module such as flax.nnx.Linear; got {got}"
        )
    with _check.at(f"layers[{k}]"):
        return PerStep(layer)


def check_sequential(name: str, network: object) -> None:
    """Raise unless `network` is a `Sequential`.

    Args:
        name: Name of the function that measures the layers, for the error.
        network: Its argument `network`.

    Raises:
        TypeError: The argument is another object. The text explains how to use your own module.
    """
    if not isinstance(network, Sequential):
        raise TypeError(
            f"network must be a snnjax.nn.Sequential, whose layers {name} measures one after "
            f"another, got {type(network).__name__}. In a module of your own, put the spiking "
            "layers and the readout into a Sequential attribute and pass that; for single layers "
            "use snnjax.calibration.data_driven(input_powers(x, neuron)) as init"
        )


def _input_shapes(
    layers: Sequence[Layer], features: Shape | None = None, *, skip: bool = False
) -> list[Shape | None]:
    """Shape of the input's features of each layer if the network's input has `features`.

    None is an unknown shape or size.
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
                    below = f"the output of layers[{k - 1}] ({layer_name(layers[k - 1])})"
                name = layer_name(layer)
                raise ValueError(f"layers[{k}] ({name}) does not fit {below}: {error}") from None
        if layer.spiking:
            sizes = known(features)
            spiking.append(None if sizes is None else math.prod(sizes))
    return shapes
