"""Layers of neurons that are driven through weights, for whole sequences and single steps.

One `LinearMap` maps the input to the neurons, and a second one maps the layer's own spikes. The
product with the input is computed for all steps at once, outside the scan over time. The product
with the layer's own spikes is computed inside the scan. With `bias`, a constant is added in every
step:

    drive[t] = map(x[t], W) + map(z[t], V) + bias

With `norm`, map(x[t], W) is normalized (`snnjax/nn/_norm.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Required, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from snnjax import _check
from snnjax.dynamics import LIF, Neuron
from snnjax.dynamics._neuron import Recurrent, Weights, check_neuron
from snnjax.initializers import Initializer, fan_in
from snnjax.nn._init import (
    ConnectionSize,
    LayerInit,
    MembraneTarget,
    as_layer_init,
    draw_weights,
)
from snnjax.nn._layer import Shape, unlisted
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
    """

    param: nnx.Param
    project: Callable[[jax.Array, jax.Array], jax.Array]
    kernel: PSP
    own: slice | None = None
    sign: int = 1
    connected: np.ndarray | None = None

    @property
    def weights(self) -> jax.Array:
        return self.param[...]

    @property
    def n(self) -> int:
        """Fan-in of a neuron, on average."""
        whole = math.prod(self.param.shape[:-1])
        return whole if self.connected is None else round(whole * self.connected.mean())

    def spikes(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """The presynaptic spikes, from the layer's input x and output z."""
        return x if self.own is None else z[..., self.own]


class LayerOptions(TypedDict, total=False):
    """Options of every layer whose neurons are driven through weights.

    Attributes:
        neuron: The neuron model. None: the default of the layer.
        trainable: Names of the neuron's parameters that are trained, with one value per unit.
        bias: Whether a trained constant, one per unit, is added to the drive in each step.
        norm: Batch normalization of the drive by the input, only for spiking layers without Dale's
            law. None: none.
        dtype: Data type of the weights and of their products with the input.
        rngs: `nnx.Rngs`, stream `params`; required.
    """

    neuron: Neuron | None
    trainable: Sequence[str]
    bias: bool
    norm: BatchNorm | None
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

    def _normalization(self, norm: object, *, bias: bool) -> Normalization:
        name = type(self).__name__
        if not isinstance(norm, BatchNorm):
            raise TypeError(f"norm must be a snnjax.nn.BatchNorm or None, got {norm!r}")
        if not self._normalizes:
            needed = "norm must be None for readouts and for layers with Dale's law"
            raise ValueError(f"{needed}, got {norm!r} for {name}")
        if bias:
            raise ValueError("bias must be False with norm, whose shift is a bias, got True")
        return Normalization(norm, self.units, self._state_dtype)

    def _expected(self, init: LayerInit, dt: float) -> tuple[ArrayLike, ArrayLike]:
        """Mean and variance of the drive by Poisson inputs at the rates of `init`; else 0 and 1."""
        if not isinstance(init, MembraneTarget):
            return 0.0, 1.0
        weights, used = _check.as_wide(self.kernel[...]), self.map.connected
        weights = weights if used is None else jnp.where(used, weights, 0)
        counts = dt * jnp.broadcast_to(jnp.asarray(init.nu), weights.shape[-2:-1])[:, None]
        sums = tuple(range(weights.ndim - 1))
        return (counts * weights).sum(axis=sums), (counts * weights**2).sum(axis=sums)

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
        return self._adjusted(self.map.project(x, self.kernel[...]), training=False)

    def _training_drive(self, x: jax.Array) -> Any:
        if self.norm is None:
            return self.drive(x)
        return self._adjusted(self.map.project(x, self.kernel[...]), training=True)

    def _adjusted(self, drive: jax.Array, *, training: bool) -> jax.Array:
        """The product with the weights after normalization, or with the bias."""
        if self.norm is not None:
            return self.norm(drive, training=training)
        return drive if self.bias is None else drive + self.bias[...]

    @property
    def _own(self) -> tuple[Recurrent | None, Weights]:
        if self.recurrent_map is None or self.recurrent_kernel is None:
            return None, None
        return self.recurrent_map.recurrence, self.recurrent_kernel[...]

    @unlisted
    def whole_drive(self, x: jax.Array, z: jax.Array) -> Any:
        """The drive of the neurons' currents by the input and the layer's own spikes.

        Args:
            x: Inputs of one step or all steps.
            z: The layer's output at the same steps.

        Returns:
            The neuron's drive.
        """
        drive, (recurrent, weights) = self.drive(x), self._own
        return drive if recurrent is None else jax.tree.map(jnp.add, drive, recurrent(z, weights))

    @unlisted
    def connections(self) -> list[Connection]:
        """All connections to the layer's neurons, the feed-forward one first."""
        kernel, own = self.neuron.kernel, self.recurrent_map
        used = self.map.connected
        found = [Connection(self.kernel, self.map.project, kernel, connected=used)]
        if own is not None and self.recurrent_kernel is not None:
            weights, used = self.recurrent_kernel, own.connected
            found.append(Connection(weights, own.recurrence, kernel, slice(None), connected=used))
        return found

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
