"""Layers of neurons that are driven through weights, for whole sequences and single steps.

One `LinearMap` maps the input to the neurons, and a second one maps the layer's own spikes. The
product with the input is computed for all steps at once, outside the scan over time. The product
with the layer's own spikes is computed inside the scan. With `bias`, a constant is added in every
step:

    drive[t] = map(x[t], W) + map(z[t], V) + bias

With `norm`, map(x[t], W) is normalized (`snnjax/nn/_norm.py`). Delays (`snnjax/nn/_delays.py`) come
before the products, or are part of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Required, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from snnjax import _check
from snnjax.dynamics import LIF, Neuron, simulate
from snnjax.dynamics._neuron import (
    Memory,
    Recurrent,
    Simulation,
    Weights,
    check_neuron,
    own_drive,
)
from snnjax.initializers import Initializer, fan_in
from snnjax.nn._delay_lines import (
    ConnectionLine,
    DelayedSpikes,
    DelayedState,
    Line,
    OwnWeights,
    UnitLine,
)
from snnjax.nn._delays import Delays, DelayWidth, within
from snnjax.nn._init import (
    ConnectionSize,
    LayerInit,
    MembraneTarget,
    as_layer_init,
    draw_weights,
)
from snnjax.nn._layer import Shape, State, unlisted
from snnjax.nn._maps import LinearMap
from snnjax.nn._neuron_layer import NeuronLayer, _with_arrays, check_units
from snnjax.nn._norm import BatchNorm, Normalization
from snnjax.psp import PSP


class Connection(NamedTuple):
    """A connection to a layer's neurons.

    Attributes:
        param: The weights, a parameter (..., in, units) of the layer.
        project: The linear map `(spikes, weights) -> drive`, for any number of units.
        kernel: Post-synaptic potential of the current that it drives.
        own: The presynaptic neurons of the layer itself, a slice of the last axis of its output;
            None for the layer's input.
        sign: Sign of its effect, 1 or -1.
        connected: Which of the weights the map uses, (in, units); None: all of them.
        heard: From presynaptic spikes to those that arrive, after delays; None without delays.
    """

    param: nnx.Param
    project: Callable[[jax.Array, jax.Array], jax.Array]
    kernel: PSP
    own: slice | None = None
    sign: int = 1
    connected: np.ndarray | None = None
    heard: Callable[[jax.Array], jax.Array] | None = None

    @property
    def weights(self) -> jax.Array:
        return self.param[...]

    @property
    def n(self) -> int:
        """Fan-in of a neuron, on average."""
        whole = math.prod(self.param.shape[:-1])
        return whole if self.connected is None else round(whole * self.connected.mean())

    def spikes(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """The presynaptic spikes as they arrive, from the layer's input x and output z."""
        sent = x if self.own is None else z
        arrived = sent if self.heard is None else self.heard(sent)
        return arrived if self.own is None else arrived[..., self.own]


class LayerOptions(TypedDict, total=False):
    """Options of every layer whose neurons are driven through weights.

    Attributes:
        neuron: The neuron model. None: the default of the layer.
        trainable: Names of the neuron's parameters that are trained, with one value per unit.
        bias: Whether a trained constant, one per unit, is added to the drive in each step.
        norm: Batch normalization of the drive by the input, only for spiking layers without Dale's
            law. None: none.
        delays: Learned delays; None: no delays.
        dtype: Data type of the weights and of their products with the input.
        rngs: `nnx.Rngs`, stream `params`; required.
    """

    neuron: Neuron | None
    trainable: Sequence[str]
    bias: bool
    norm: BatchNorm | None
    delays: Delays | None
    dtype: DTypeLike
    rngs: Required[nnx.Rngs]


class Synaptic(NeuronLayer):
    """Neurons (time, batch, *positions, units) that are driven through weights.

    Args:
        map: Linear map from the input to the neurons.
        init: Initialization of the weights: a `LayerInit`, or an initializer for every connection.
        recurrent: Linear map from the layer's own spikes to the neurons; None without recurrence.
        neuron: The neuron model; `LIF()` if None.
        trainable: Names of the neuron's parameters that are trained, with one value per unit.
        bias: Whether a trained constant, one per unit, is added to the drive in each step. It
            starts at 0.
        norm: Batch normalization of the drive by the input; None: none.
        delays: Learned `Delays` of the input and of the layer's own spikes; None: no delays.
        dtype: Data type of the weights. A bias has at least float32.
        rngs: `nnx.Rngs`, stream `params`.

    Raises:
        ValueError: A parameter of the neuron has a wrong shape, or the maps do not fit each other.
        TypeError: An argument has a wrong type, or the neuron has a wrong number of currents.
    """

    _n_currents: ClassVar[int] = 1
    _default_neuron: ClassVar[type[Neuron]] = LIF
    _normalizes: ClassVar[bool] = False
    kernel: nnx.Param

    def __init__(
        self,
        map: LinearMap,
        *,
        init: LayerInit | Initializer,
        recurrent: LinearMap | None = None,
        neuron: Neuron | None = None,
        trainable: Sequence[str] = (),
        bias: bool = False,
        norm: BatchNorm | None = None,
        delays: Delays | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(map, LinearMap):
            raise TypeError(f"map must be a LinearMap such as DenseMap(20, 128), got {map!r}")
        if not isinstance(rngs, nnx.Rngs):
            got = f"{type(rngs).__name__} {rngs!r}"
            raise TypeError(f"rngs must be a flax.nnx.Rngs, for example nnx.Rngs(0), got {got}")
        neuron = self._default_neuron() if neuron is None else neuron
        check_neuron(neuron)
        if neuron.n_currents != self._n_currents:
            which = "one synaptic current", "an excitatory and an inhibitory current"
            got = type(neuron).__name__
            raise TypeError(f"neuron must have {which[self._n_currents - 1]}, got {got}")
        if recurrent is not None:
            self._check_recurrent(map, recurrent)
        self.map, self.recurrent_map = map, recurrent
        self.in_features, self.out_features = map.in_features, map.out_features
        self.takes_events = map.takes_events
        self._axes = len(map.window)  # not from the kernel, which has one more axis in an ensemble
        check_units(neuron, self.units, (None,) * self._axes)
        self.recurrent_kernel: nnx.Param | None = nnx.data(None)
        drawn = neuron
        if neuron.distributions():
            drawn = neuron.drawn(rngs.params(), (self.units,), _check.wide(dtype))
        self._draw(as_layer_init(init), _with_arrays(drawn), dtype, rngs)
        if not isinstance(bias, bool):
            raise TypeError(f"bias must be True or False, got {bias!r}")
        # for a Dalian layer too, this is a current of either sign and no synapse
        zeros = nnx.Param(jnp.zeros(self.units, self._state_dtype)) if bias else None
        self.bias: nnx.Param | None = nnx.data(zeros)
        self.norm = None if norm is None else self._normalization(norm, bias=bias)
        if self.norm is not None:
            self.stochastic = True  # a key tells the layer that it is trained
            self.norm.start(*self._expected(as_layer_init(init), neuron.dt))
        self._take_neuron(neuron, self.units, trainable, drawn)
        self._take_delays(delays, rngs)

    def _normalization(self, norm: object, *, bias: bool) -> Normalization:
        name = type(self).__name__
        if not isinstance(norm, BatchNorm):
            raise TypeError(f"norm must be a snnjax.nn.BatchNorm or None, got {norm!r}")
        if not self._normalizes:
            needed = "norm must be None for readouts and for layers with Dale's law"
            raise ValueError(f"{needed}, got {norm!r} for {name}")
        if bias:
            raise ValueError("bias must be False with norm, whose shift is a bias, got True")
        return Normalization(norm, self.units, self._state_dtype, axes=self._axes)

    def _expected(self, init: LayerInit, dt: float) -> tuple[ArrayLike, ArrayLike]:
        """Mean and variance of the drive by Poisson inputs at the rates of `init`; else 0 and 1."""
        if not isinstance(init, MembraneTarget):
            return 0.0, 1.0
        weights, used = _check.as_wide(self.kernel[...]), self.map.connected
        weights = weights if used is None else jnp.where(used, weights, 0)
        counts = dt * jnp.broadcast_to(jnp.asarray(init.nu), weights.shape[-2:-1])[:, None]
        sums = tuple(range(weights.ndim - 1))
        return (counts * weights).sum(axis=sums), (counts * weights**2).sum(axis=sums)

    def _take_delays(self, delays: Delays | None, rngs: nnx.Rngs) -> None:
        """Draw the delays, after the weights, which are the same as without delays."""
        self.delay: nnx.Param | None = nnx.data(None)
        self.recurrent_delay: nnx.Param | None = nnx.data(None)
        self.delay_width: DelayWidth | None = nnx.data(None)
        self.delays: Delays | None = None
        if delays is None:
            return
        if not isinstance(delays, Delays):
            raise TypeError(f"delays must be Delays(max_delay=...) or None, got {delays!r}")
        kernel = delays.kernel(self.dt)
        own = delays.on != "input" and self._own[0] is not None
        if delays.on == "recurrent" and not own:
            needed = "delays on 'recurrent' need a layer with connections to itself"
            advice = "use recurrent=True, or delays on 'input'"
            if not self.spiking:
                advice = "a readout has no spikes of its own; use delays on 'input'"
            raise ValueError(f"{needed}, got {type(self).__name__} without; {advice}")
        shapes = {}
        if delays.on != "recurrent":
            shapes["delay"] = (self.in_features,)
        if own:
            shapes["recurrent_delay"] = (self.units,)
        if delays.per == "connection":
            if self._n_currents > 1:
                needed = "delays of a layer with Dale's law must be per 'unit'"
                raise ValueError(f"{needed}, got per {delays.per!r}")
            weights = self._shapes()
            shapes = {name: weights[name.replace("delay", "kernel")] for name in shapes}
        for name, shape in shapes.items():
            drawn = delays.draw(rngs.params(), shape, kernel.largest * float(self.dt))
            setattr(self, name, nnx.Param(drawn.astype(self._state_dtype)))
        width = jnp.asarray(delays.first_width(), self._state_dtype)
        self.delay_width = DelayWidth(width, schedule=delays.schedule)
        self.delays = dataclasses.replace(delays, initial=None)  # arrays cannot be compared

    @staticmethod
    def _check_recurrent(map: LinearMap, recurrent: LinearMap) -> None:
        """Raise unless the layer's own spikes can go through the map."""
        recurrent.recurrence  # noqa: B018  # raises if the map cannot be recurrent
        wanted = (map.out_features, len(map.window))
        if (recurrent.in_features, len(recurrent.window)) != wanted:
            raise ValueError(
                f"recurrent must have in_features {wanted[0]} and {wanted[1]} spatial axes, as the "
                f"layer's own spikes have, got {recurrent}"
            )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of all connections, the feed-forward one first."""
        shapes = {"kernel": (*self.map.window, self.in_features, self.units)}
        if (own := self.recurrent_map) is not None:
            shapes["recurrent_kernel"] = (*own.window, own.in_features, self.units)
        return shapes

    def _draw(self, init: LayerInit, neuron: Neuron, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        """Draw the weights of all connections."""
        shapes = self._shapes()
        maps = {"kernel": self.map, "recurrent_kernel": self.recurrent_map}
        connections = [
            ConnectionSize(
                fan_in(shape),
                recurrent=name != "kernel",
                inhibitory=name == "inhibitory_kernel",
                channels=shape[-2],
                density=1.0 if (map := maps.get(name)) is None else map.density,
            )
            for name, shape in shapes.items()
        ]
        initializers = init(neuron, connections)
        for (name, shape), draw in zip(shapes.items(), initializers, strict=True):
            weights = draw_weights(draw, rngs.params(), shape, dtype)
            setattr(self, name, self._param(name, weights))

    def _param(self, name: str, weights: jax.Array) -> nnx.Param:
        return nnx.Param(weights)

    @property
    def units(self) -> int:
        return self.out_features

    @property
    def recurrent(self) -> bool:
        """Whether the layer feeds its spikes back to itself."""
        return self.recurrent_kernel is not None

    @property
    def _state_dtype(self) -> Any:
        return _check.wide(self.kernel[...].dtype)

    @unlisted
    def drive(self, x: jax.Array) -> Any:
        return self._adjusted(self._arrived(x), training=False)

    def _training_drive(self, x: jax.Array) -> Any:
        """`drive` in training."""
        return self._adjusted(self._arrived(x), training=True)

    def _arrived(self, x: jax.Array) -> Any:
        """The product with the weights, after delays."""
        line = self._line
        return self._product(x) if line is None else self._driven(line, x, None)[1]

    def _product(self, x: jax.Array) -> Any:
        """The product of the weights with inputs without delays, or with delayed inputs."""
        return self.map.project(x, self.kernel[...])

    def _adjusted(self, drive: Any, *, training: bool) -> Any:
        """The product with the weights after normalization, or with the bias."""
        if self.norm is not None:
            return self.norm(drive, training=training)
        return drive if self.bias is None else drive + self.bias[...]

    @property
    def _own(self) -> tuple[Recurrent | None, Weights]:
        """The map of the layer's own spikes, `(z, weights) -> drive`, and its weights.

        Without recurrence both are None. The map is the same function object at each call.
        """
        if self.recurrent_map is None or self.recurrent_kernel is None:
            return None, None
        return self.recurrent_map.recurrence, self.recurrent_kernel[...]

    @property
    def _delayed_own(self) -> tuple[Recurrent | Memory | None, Weights]:
        """`_own` after delays, if the layer's own spikes have delays."""
        recurrent, weights = self._own
        if (line := self._own_line) is None:
            return recurrent, weights
        if line.weighted:
            recurrent, weights = None, None  # they are in the line
        return DelayedSpikes(recurrent), OwnWeights(line, line.taps(), weights)

    @unlisted
    def whole_drive(self, x: jax.Array, z: jax.Array) -> Any:
        """The drive of the neurons' currents by the input and the layer's own spikes.

        Args:
            x: Inputs of all steps. Without delays, also of one step.
            z: The layer's output at the same steps.

        Returns:
            The neuron's drive.
        """
        drive, (recurrent, weights) = self.drive(x), self._delayed_own
        if recurrent is None:
            return drive
        if isinstance(recurrent, Memory):
            _, own = recurrent.sequence(z, weights, None)
        else:
            own = recurrent(z, weights)
        return jax.tree.map(jnp.add, drive, own)

    @unlisted
    def connections(self) -> list[Connection]:
        """All connections to the layer's neurons, the feed-forward one first."""
        kernel, own = self.neuron.kernel, self.recurrent_map
        used, heard, own_heard = self.map.connected, *self._heard
        found = [Connection(self.kernel, self.map.project, kernel, connected=used, heard=heard)]
        if own is not None and self.recurrent_kernel is not None:
            weights, used = self.recurrent_kernel, own.connected
            one = Connection(weights, own.recurrence, kernel, slice(None), connected=used)
            found.append(one._replace(heard=own_heard))
        return found

    # --- delays

    def _line_of(
        self, delay: nnx.Param | None, weights: nnx.Param | None, map: LinearMap | None
    ) -> Line | None:
        """The delays of a connection; None if it has none."""
        if self.delays is None or delay is None or self.delay_width is None:
            return None
        kernel = self.delays.kernel(self.dt)
        steps = within(delay[...]) * kernel.largest
        width = jax.lax.stop_gradient(self.delay_width[...]) / self.dt
        if self.delays.per == "unit" or weights is None or map is None:
            return UnitLine(delay=steps, width=width, kernel=kernel)
        # of the layer's own spikes, the same function at each call, so that it is compiled once
        project = map.project if delay is self.delay else map.recurrence
        own = {"weights": weights[...], "project": project}
        return ConnectionLine(delay=steps, width=width, kernel=kernel, **own)

    @property
    def _line(self) -> Line | None:
        return self._line_of(self.delay, self.kernel, self.map)

    @property
    def _own_line(self) -> Line | None:
        return self._line_of(self.recurrent_delay, self.recurrent_kernel, self.recurrent_map)

    @property
    def _heard(self) -> list[Callable[[jax.Array], jax.Array] | None]:
        """What arrives through the connections from the input, and from the layer itself."""
        return [None if line is None else line.heard for line in (self._line, self._own_line)]

    def _driven(self, line: Line, x: jax.Array, queue: jax.Array | None) -> tuple[jax.Array, Any]:
        """The queue after a sequence, and the drive of all its steps."""
        queue, arrived = line.run(x, queue)
        return queue, arrived if line.weighted else self._product(arrived)

    @unlisted
    def initial_state(self, batch_size: int, features: tuple[int, ...] = ()) -> State:
        population = super().initial_state(batch_size, features)
        if self.delays is None:
            return population
        positions = (*self.out_shape(features[:-1]), self.units)
        silent = lambda *shape: jax.ShapeDtypeStruct((batch_size, *shape), self._state_dtype)
        inputs = silent(*features[:-1], self.in_features), silent(*positions)
        lines = zip((self._line, self._own_line), inputs, strict=True)
        return DelayedState(population, *(None if at is None else at.empty(x) for at, x in lines))

    def __call__(
        self,
        x: jax.Array,
        *,
        state: State | None = None,
        membrane: bool = False,
        key: jax.Array | None = None,
    ) -> Simulation:
        self._check_sequence(x)
        delayed: DelayedState | None = None
        if self.delays is not None:
            delayed = self.initial_state(x.shape[1], x.shape[2:]) if state is None else state
            if not isinstance(delayed, DelayedState):
                needed = "state must be the DelayedState of a layer with delays"
                raise ValueError(f"{needed}, got {type(delayed).__name__}")
            state = delayed.population
        coming, queue = (None, None) if delayed is None else delayed[1:]
        if (line := self._line) is None:
            drive = self.drive(x) if key is None else self._training_drive(x)
        else:
            coming, drive = self._driven(line, x, coming)
            drive = self._adjusted(drive, training=key is not None)
        recurrent, weights = self._delayed_own
        run = {"recurrent": recurrent, "weights": weights, "membrane": membrane}
        sim = simulate(self.neuron, drive, state=state, queue=queue, **run)
        if delayed is None:
            return sim
        return Simulation(DelayedState(sim.state, coming, sim.queue), *sim[1:3])

    @unlisted
    def step(
        self, state: State, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        self._check_step(jax.tree.leaves(state)[0].shape, jnp.shape(x))
        whole: Any = (state, None, None) if self.delays is None else state
        population, coming, queue = whole
        if (line := self._line) is None:
            drive = self.drive(x)
        else:
            coming, arrived = line.push(line.taps(), coming, x)
            arrived = arrived if line.weighted else self._product(arrived)
            drive = self._adjusted(arrived, training=False)
        neuron, (recurrent, weights) = self.neuron, self._delayed_own
        if recurrent is not None:
            _, z = neuron.step(population, jax.tree.map(jnp.zeros_like, drive))
            queue, own = own_drive(recurrent, z, weights, queue)
            drive = jax.tree.map(jnp.add, drive, own)
        population, z = neuron.step(population, drive)
        return population if self.delays is None else DelayedState(population, coming, queue), z

    @unlisted
    def delay_times(self, *, rounded: bool = True) -> dict[str, jax.Array]:
        """The delays in seconds, by the names of their parameters.

        Args:
            rounded: Whether to round them to whole time steps.

        Returns:
            "delay" and "recurrent_delay", each of the shape of the parameter; those that the layer
            has.
        """
        lines = {"delay": self._line, "recurrent_delay": self._own_line}
        steps = {name: line.delay for name, line in lines.items() if line is not None}
        return {name: (jnp.round(s) if rounded else s) * self.dt for name, s in steps.items()}

    @unlisted
    def round_delays(self) -> None:
        if self.delays is None or self.delay_width is None:
            return
        largest = self.delays.kernel(self.dt).largest
        for delay in (self.delay, self.recurrent_delay):
            if delay is not None:
                delay[...] = jnp.round(within(delay[...]) * largest) / largest
        self.delay_width[...] = jnp.zeros_like(self.delay_width[...])

    @unlisted
    def out_shape(self, spatial: Shape) -> Shape:
        return self.map.out_shape(spatial)

    @property
    def in_shape(self) -> Shape:
        """Shape of the input's features, (*spatial, in_features); None is an unknown size."""
        return (*(None,) * self._axes, self.in_features)

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        if len(features) != 1 + self._axes:
            axes = f"{1 + self._axes} axes, (*spatial, channels)" if self._axes else "1 axis"
            hint = "Flatten() makes one axis of several, Reshape(...) several of one"
            raise ValueError(f"features must have {axes}, got {features}; {hint}")
        if features[-1] not in (None, self.in_features):
            raise ValueError(
                f"{type(self).__name__} expects {self.in_features} inputs but gets {features[-1]}"
            )
        return (*self.out_shape(features[:-1]), self.out_features)

    def _check_sequence(self, x: jax.Array) -> None:
        _check.time_major("x", x, features=self.in_features)
        if len(x.shape) != 3 + self._axes:
            sizes = "features)"
            hint = "; Flatten() makes one axis of several"
            if self._axes:
                sizes, hint = f"*spatial, channels) with {self._axes} spatial axes", ""
            raise ValueError(f"x must have shape (time, batch, {sizes}, got {x.shape}{hint}")
        if self._axes:
            check_units(self.neuron, self.units, self.out_shape(x.shape[2:-1]))

    def _check_step(self, state: tuple[int, ...], x: tuple[int, ...]) -> None:
        fits = len(x) == 2 + self._axes and (x[0], x[-1]) == (state[0], self.in_features)
        if not fits or self.out_shape(x[1:-1]) != state[1:-1]:
            names, sizes = "", ""
            if self._axes:
                names, sizes = "*spatial, ", f"*spatial with output {state[1:-1]}, "
            expected = f"(batch, {names}in_features) = ({state[0]}, {sizes}{self.in_features})"
            raise ValueError(f"x must have shape {expected}, one time step for this state, got {x}")


class Spiking(Synaptic):
    """Spiking neurons that are driven through any linear map, feed-forward or recurrent.

    `SpikingDense` uses a `DenseMap`, and `SpikingConv` a `ConvMap`. To define your own layer, use
    your own `LinearMap`, or derive a class from this one. Such a layer can be initialized,
    calibrated, probed and trained.

    Args:
        map: Linear map from the input to the neurons.
        recurrent: Linear map from the layer's own spikes to the neurons; None without recurrence.
        neuron: The neuron model; `LIF()` if None.
        init: Initialization of the weights: a `LayerInit` such as `FluctuationDriven(nu=15.8)`, or
            an initializer `(key, shape, dtype)` for every connection.
        trainable: Names of the neuron's parameters that are trained, with one value per unit.
        bias: Whether a trained constant, one per unit, is added to the drive in each step. It
            starts at 0.
        norm: `BatchNorm()` normalizes the drive by the input; None: none.
        delays: Learned delays, `Delays(max_delay=...)`; None: no delays.
        dtype: Data type of the weights and of their products with the input. The neurons' state has
            at least float32.
        rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (*window, in_features, units); `recurrent_kernel` (*window, units, units);
    `bias` (units,); `log_tau[name]` (units,), log seconds; `free[name]` and `drawn[name]` (units,),
    as in `SpikingDense`.

    >>> from snnjax.nn import ConvMap, FluctuationDriven
    >>> map, own = ConvMap(1, 16, (21,), stride=10), ConvMap(16, 16, (5,), padding="same")
    >>> layer = Spiking(map, recurrent=own, init=FluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 700, 1))).output.shape
    (100, 4, 68, 16)
    """

    spiking = True
    _normalizes = True
