r"""Layers of excitatory and inhibitory neurons that obey Dale's law.

Every weight is >= 0. The presynaptic population determines the sign of its effect. A layer has
n_exc excitatory neurons (E) and n_inh inhibitory neurons (I), in this order on the last axis. Each
neuron has an excitatory and an inhibitory current. The inputs x are excitatory. With spikes
z = (z_E, z_I), both populations are driven by

    exc[t] = x[t] @ W  (+ z_E[t] @ V)  (+ bias)
    inh[t] = z_I[t] @ Q

    W   kernel (in, n_exc + n_inh)
    V   recurrent_kernel (n_exc, n_exc + n_inh), with recurrent=True
    Q   inhibitory_kernel (n_inh, n_exc + n_inh)

In a convolution, @ stands for the convolution. `snnjax.dynamics.ExcInhLIF` gives the dynamics of
the neurons. x @ W is computed for all steps at once, outside the scan over time.

The layer above receives only z_E: `emit(output)`. The output itself is the whole z. `Sequential`
reports it as the layer's spikes, and regularizers and the probe use it. Therefore regularizers also
keep inhibitory neurons active. A readout above a Dalian layer is an ordinary readout, with weights
of both signs.

All weights are `NonNegative`. `snnjax.optimizers.keep_nonnegative`, chained after any optimizer,
keeps them >= 0; `snnjax.training.fit` adds it automatically.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, sections 4.4 and 4.5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.dynamics import ExcInhLIF
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.initializers import Initializer
from snnjax.nn._conv import ConvMap, Padding, fixed_size, lateral_map
from snnjax.nn._init import LayerInit
from snnjax.nn._layer import unlisted
from snnjax.nn._maps import DenseMap, LinearMap, Recurrence
from snnjax.nn._nonnegative import NonNegative
from snnjax.nn._synaptic import Connection, LayerOptions, Synaptic


def inhibitory_size(n_exc: int, n_inh: int | None = None, ei_ratio: float = 4.0) -> int:
    """Number of inhibitory neurons.

    Args:
        n_exc: Number of excitatory neurons.
        n_inh: The number, or None for n_exc / ei_ratio, rounded and at least 1.
        ei_ratio: Excitatory neurons per inhibitory neuron.

    >>> inhibitory_size(128), inhibitory_size(2), inhibitory_size(128, ei_ratio=2.0)
    (32, 1, 64)
    >>> inhibitory_size(128, 10)
    10
    """
    _check.integer("n_exc", n_exc, at_least=1)
    _check.number("ei_ratio", ei_ratio, above=0)
    if n_inh is None:
        return max(1, round(n_exc / ei_ratio))
    return _check.integer("n_inh", n_inh, at_least=1)


class DalianOptions(LayerOptions, total=False):
    """Options of every Dalian layer.

    Attributes:
        n_inh: Number of inhibitory neurons; n_exc / `ei_ratio`, rounded, if None.
        ei_ratio: Excitatory neurons per inhibitory neuron.
        recurrent: Whether excitatory neurons also drive the neurons of the layer.
    """

    n_inh: int | None
    ei_ratio: float
    recurrent: bool


class Dalian(Synaptic):
    """Excitatory and inhibitory neurons that are driven through any linear map, with weights >= 0.

    `DalianDense` uses a `DenseMap`, and `DalianConv` a `ConvMap`.

    Args:
        map: Linear map from the input to the neurons. Its `out_features` is the number of
            excitatory neurons, whose spikes the layer above receives.
        lateral: Linear map from the layer's own spikes to the neurons, from all positions to all
            positions. It is used for inhibition and, with `recurrent`, for excitation.
        n_inh: Number of inhibitory neurons; n_exc / `ei_ratio`, rounded, if None.
        ei_ratio: Excitatory neurons per inhibitory neuron.
        recurrent: Whether excitatory neurons also drive the neurons of the layer. Inhibitory
            neurons always do.
        neuron: A neuron that takes an `ExcInhDrive` and has `kernels`; `ExcInhLIF()` if None.
        init: A `LayerInit` or initializer that draws weights >= 0.
        trainable: Names of the neuron's parameters that are trained, with one value per unit.
        bias: Whether a trained constant, one per unit, is added to the excitatory drive in each
            step. It starts at 0 and may have either sign.
        delays: Learned delays, `Delays(max_delay=...)`, per unit; None: no delays.
        dtype: Data type of the weights.
        rngs: `nnx.Rngs`, stream `params`.

    >>> from flax import nnx
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> init = DalianFluctuationDriven(nu=5.0)
    >>> layer = Dalian(DenseMap(20, 128), lateral=DenseMap(128, 128), init=init, rngs=nnx.Rngs(0))
    >>> layer.populations()
    {'exc': slice(None, 128, None), 'inh': slice(128, None, None)}
    """

    spiking = True
    _n_currents: ClassVar[int] = 2
    _default_neuron = ExcInhLIF
    inhibitory_kernel: NonNegative

    def __init__(
        self,
        map: LinearMap,
        *,
        lateral: LinearMap,
        init: LayerInit | Initializer,
        n_inh: int | None = None,
        ei_ratio: float = 4.0,
        recurrent: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        self._check_recurrent(map, lateral)
        self.n_exc = map.out_features
        self.n_inh = inhibitory_size(self.n_exc, n_inh, ei_ratio)
        self.lateral_map = lateral
        super().__init__(map, recurrent=lateral if recurrent else None, init=init, **options)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = super()._shapes()
        inhibitory = (*self.lateral_map.window, self.n_inh, self.units)
        return {"kernel": shapes.pop("kernel"), "inhibitory_kernel": inhibitory, **shapes}

    def _param(self, name: str, weights: jax.Array) -> NonNegative:
        known = _check.concrete(weights)
        if known is not None and (known < 0).any():
            needed = "init must draw weights >= 0 for a Dalian layer"
            hint = "use for example DalianFluctuationDriven(nu=...)"
            raise ValueError(f"{needed}, got {known.min():.3g} in {name}; {hint}")
        return NonNegative(weights)

    @property
    def units(self) -> int:
        """Number of neurons of the layer at each position: n_exc + n_inh."""
        return self.n_exc + self.n_inh

    @unlisted
    def populations(self) -> dict[str, slice]:
        return {"exc": slice(None, self.n_exc), "inh": slice(self.n_exc, None)}

    @unlisted
    def emit(self, z: jax.Array) -> jax.Array:
        """The spikes of the excitatory neurons (..., n_exc), which the layer above receives."""
        return z[..., : self.n_exc]

    def _product(self, x: jax.Array) -> ExcInhDrive:
        """The excitatory drive by the inputs x.

        The inhibitory drive is an array of zeros that broadcasts, which saves memory.
        """
        exc = self.map.project(x, self.kernel[...])
        return ExcInhDrive(exc, jnp.zeros((len(exc), *(1,) * (exc.ndim - 1)), exc.dtype))

    def _adjusted(self, drive: ExcInhDrive, *, training: bool) -> ExcInhDrive:
        return drive._replace(exc=super()._adjusted(drive.exc, training=training))

    @property
    def _own(self) -> tuple[Callable[[jax.Array, Any], Any], Any]:
        recurrent = None if self.recurrent_kernel is None else self.recurrent_kernel[...]
        weights = self.inhibitory_kernel[...], recurrent
        return _own_drive(self.lateral_map.recurrence), weights

    @unlisted
    def connections(self) -> list[Connection]:
        """All connections to the layer's neurons: feed-forward, inhibitory, recurrent."""
        exc, inh = self.populations().values()
        kernels, own = self.neuron.kernels, self.lateral_map.recurrence
        heard, own_heard = self._heard
        found = [
            Connection(self.kernel, self.map.project, kernels.exc, heard=heard),
            Connection(self.inhibitory_kernel, own, kernels.inh, inh, -1, heard=own_heard),
        ]
        if self.recurrent_kernel is not None:
            found.append(Connection(self.recurrent_kernel, own, kernels.exc, exc, heard=own_heard))
        return found


@functools.cache
def _own_drive(recurrence: Recurrence) -> Callable[[jax.Array, Any], ExcInhDrive]:
    """The map from the spikes of all neurons to both currents; the same function at each call."""

    def own(z: jax.Array, weights: tuple[jax.Array, jax.Array | None]) -> ExcInhDrive:
        inhibitory, recurrent = weights
        n_exc = z.shape[-1] - inhibitory.shape[-2]
        inh = recurrence(z[..., n_exc:], inhibitory)
        if recurrent is None:  # zeros that broadcast
            return ExcInhDrive(jnp.zeros((), inh.dtype), inh)
        return ExcInhDrive(recurrence(z[..., :n_exc], recurrent), inh)

    return own


class DalianDense(Dalian):
    """A dense layer of excitatory and inhibitory neurons.

    Args:
        in_features: Units of the input.
        n_exc: Number of excitatory neurons, whose spikes the layer above receives.
        init: Initialization of the weights: `DalianFluctuationDriven(nu=15.8, sigma_u=1.0)`, or any
            `LayerInit` or initializer that draws weights >= 0.
        n_inh: Number of inhibitory neurons; n_exc / `ei_ratio`, rounded, if None.
        ei_ratio: Excitatory neurons per inhibitory neuron.
        recurrent: Whether to connect every excitatory neuron to all neurons of the layer.
            Inhibitory neurons always have these connections.
        neuron: `ExcInhLIF`, or another neuron that takes an `ExcInhDrive` and has `kernels`.
        trainable: Names of the neuron's parameters that are trained, with one value per neuron.
        bias: Whether a trained constant, one per neuron, is added to the excitatory drive in each
            step. It starts at 0 and may have either sign.
        delays: Learned delays, `Delays(max_delay=...)`, per unit; None: no delays.
        dtype: As in `SpikingDense`.
        rngs: `nnx.Rngs`, stream `params`.

    Parameters, E before I on the last axis: `kernel` (in, n_exc + n_inh); `inhibitory_kernel`
    (n_inh, n_exc + n_inh); `recurrent_kernel` (n_exc, n_exc + n_inh); all `NonNegative`.
    `bias` (n_exc + n_inh,); `log_tau[name]` (n_exc + n_inh,).

    Raises:
        ValueError: A size is out of range, or a weight is below 0.
        TypeError: The neuron does not have the two currents.

    >>> from flax import nnx
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> init = DalianFluctuationDriven(nu=5.0)
    >>> layer = DalianDense(20, 128, init=init, recurrent=True, rngs=nnx.Rngs(0))
    >>> z = layer(jnp.ones((100, 4, 20))).output
    >>> z.shape, layer.emit(z).shape
    ((100, 4, 160), (100, 4, 128))
    """

    def __init__(
        self,
        in_features: int,
        n_exc: int,
        *,
        init: LayerInit | Initializer,
        **options: Unpack[DalianOptions],
    ) -> None:
        map, lateral = DenseMap(in_features, n_exc), DenseMap(n_exc, n_exc)
        super().__init__(map, lateral=lateral, init=init, **options)


class DalianConv(Dalian):
    """A convolution of excitatory and inhibitory neurons, channels last.

    `DalianConv1d` and `DalianConv2d` take plain numbers for the sizes.

    Args:
        in_features: Channels of the input.
        n_exc: Number of excitatory feature maps, whose spikes the layer above receives.
        kernel_size: Kernel size of the input's convolution, as in `SpikingConv`.
        lateral_kernel_size: Size of the neighbourhood from which a neuron receives inhibition and,
            with `recurrent`, excitation; odd. Positions beyond the edge are silent, so that neurons
            near the edge receive less of both.
        init: As in `DalianDense`.
        n_inh: Number of inhibitory feature maps; n_exc / `ei_ratio`, rounded, if None.
        ei_ratio: Excitatory feature maps per inhibitory feature map.
        stride: Stride of the input's convolution, as in `SpikingConv`.
        padding: Padding of the input's convolution, as in `SpikingConv`.
        recurrent: As in `DalianDense`.
        neuron: As in `DalianDense`; a time constant may have one value per feature map.
        trainable: Names of the trained parameters of the neuron, with one value per feature map.
        bias: As in `DalianDense`, one per feature map.
        delays: Learned delays, `Delays(max_delay=...)`, per channel; None: no delays.
        dtype: As in `SpikingDense`.
        rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (*kernel_size, in, n_exc + n_inh); `inhibitory_kernel`
    (*lateral_kernel_size, n_inh, n_exc + n_inh); `recurrent_kernel` (*lateral_kernel_size, n_exc,
    n_exc + n_inh); all `NonNegative`. `bias` (n_exc + n_inh,); `log_tau[name]` (n_exc + n_inh,).

    >>> from flax import nnx
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> options = {"init": DalianFluctuationDriven(nu=5.0), "rngs": nnx.Rngs(0)}
    >>> sizes = {"kernel_size": (3, 3), "padding": "same", "lateral_kernel_size": 3}
    >>> layer = DalianConv(2, 16, **sizes, **options)
    >>> layer(jnp.ones((10, 4, 8, 8, 2))).output.shape, layer.feature_shape((8, 8, 2))
    ((10, 4, 8, 8, 20), (8, 8, 16))
    """

    _fixed_axes: ClassVar[int | None] = None

    def __init__(
        self,
        in_features: int,
        n_exc: int,
        *,
        kernel_size: int | Sequence[int],
        lateral_kernel_size: int | Sequence[int],
        init: LayerInit | Initializer,
        stride: int | Sequence[int] = 1,
        padding: Padding = "valid",
        **options: Unpack[DalianOptions],
    ) -> None:
        kernel_size = fixed_size(kernel_size, self._fixed_axes)
        map = ConvMap(in_features, n_exc, kernel_size, stride, padding)
        lateral = lateral_map("lateral_kernel_size", map, lateral_kernel_size)
        super().__init__(map, lateral=lateral, init=init, **options)


class DalianConv1d(DalianConv):
    """`DalianConv` over one axis.

    It maps (time, batch, length, in) to (time, batch, length', n_exc + n_inh).

    >>> from flax import nnx
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> options = {"init": DalianFluctuationDriven(nu=15.8), "rngs": nnx.Rngs(0)}
    >>> sizes = {"kernel_size": 21, "stride": 10, "lateral_kernel_size": 5}
    >>> layer = DalianConv1d(1, 16, **sizes, recurrent=True, **options)
    >>> layer.kernel.shape, layer.inhibitory_kernel.shape, layer.recurrent_kernel.shape
    ((21, 1, 20), (5, 4, 20), (5, 16, 20))
    """

    _fixed_axes = 1


class DalianConv2d(DalianConv):
    """`DalianConv` over two axes.

    It maps (time, batch, height, width, in) to (time, batch, height', width', n_exc + n_inh).

    >>> from flax import nnx
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> options = {"init": DalianFluctuationDriven(nu=5.0), "rngs": nnx.Rngs(0)}
    >>> layer = DalianConv2d(2, 8, kernel_size=5, padding=2, lateral_kernel_size=3, **options)
    >>> layer.kernel.shape, layer.inhibitory_kernel.shape
    ((5, 5, 2, 10), (3, 3, 2, 10))
    """

    _fixed_axes = 2
