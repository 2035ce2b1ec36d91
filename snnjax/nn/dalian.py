r"""Layers of excitatory and inhibitory neurons that obey Dale's law: every weight is >= 0, and the sign is the sending population's.

A layer holds n_exc excitatory neurons (E) and n_inh inhibitory ones (I), in this order on the last axis, each with an excitatory and an inhibitory current.
With inputs x, which are excitatory, and spikes z = (z_E, z_I), both populations are driven by

    exc[t] = x[t] @ W  (+ z_E[t] @ V)            W kernel (in, n_exc + n_inh); V recurrent_kernel (n_exc, n_exc + n_inh), with recurrent=True
    inh[t] = z_I[t] @ Q                          Q inhibitory_kernel (n_inh, n_exc + n_inh)

(for a convolution @ is one) and move as `snnjax.dynamics.ExcInhLIF` says. x @ W is one product for all steps, outside the scan over time.

The layer above gets z_E alone: `emit(output)`. The output itself, what `Sequential` reports as the layer's spikes and what regularizers and the probe look at,
is the whole z, so that inhibitory neurons are kept active too. A readout on a Dalian layer is an ordinary one, with weights of either sign.

All weights are `NonNegative`; `snnjax.optimizers.keep_nonnegative` keeps them so, chained after any optimizer (`snnjax.training.fit` does it by itself).

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, sections 4.4 and 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.dynamics import ExcInhDrive, ExcInhLIF
from snnjax.initializers import Initializer, fan_in
from snnjax.nn._synaptic import Incoming, Synaptic
from snnjax.nn.conv import ConvMaps, Padding
from snnjax.nn.init import Connection, LayerInit, draw_weights
from snnjax.nn.layers import DenseMaps
from snnjax.nn.nonnegative import NonNegative


def inhibitory_size(n_exc: int, n_inh: int | None = None, ei_ratio: float = 4.0) -> int:
    """Number of inhibitory neurons: `n_inh`, or n_exc / ei_ratio, rounded and at least 1, when None.

    >>> inhibitory_size(128), inhibitory_size(2), inhibitory_size(128, ei_ratio=2.0), inhibitory_size(128, 10)
    (32, 1, 64, 10)
    """
    _check.integer("n_exc", n_exc, at_least=1)
    _check.number("ei_ratio", ei_ratio, above=0)
    return max(1, round(n_exc / ei_ratio)) if n_inh is None else _check.integer("n_inh", n_inh, at_least=1)


class Dalian(Synaptic):
    """What Dalian layers share: populations, weights >= 0, and what they drive; `DalianDense` and `DalianConv` add the linear maps."""

    spiking = True
    _n_currents = 2
    inhibitory_kernel: NonNegative

    def __init__(
        self, in_features: int, n_exc: int, *, n_inh: int | None, ei_ratio: float, window: tuple[int, ...], lateral: tuple[int, ...],
        recurrent: bool, neuron: Any, init: LayerInit | Initializer, trainable: Sequence[str], dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.n_exc, self.n_inh = n_exc, inhibitory_size(n_exc, n_inh, ei_ratio)
        self._lateral = lateral
        super().__init__(
            in_features, n_exc, window=window, recurrent_window=lateral if recurrent else None, neuron=ExcInhLIF() if neuron is None else neuron,
            init=init, trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip

    def _connect(
        self, window: tuple[int, ...], recurrent_window: tuple[int, ...] | None, neuron: Any, init: LayerInit, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        shapes = {"kernel": (*window, self.in_features, self.units), "inhibitory_kernel": (*self._lateral, self.n_inh, self.units)}
        if recurrent_window is not None:
            shapes["recurrent_kernel"] = (*recurrent_window, self.n_exc, self.units)
        connections = [
            Connection(fan_in(s), recurrent=name != "kernel", inhibitory=name[0] == "i", channels=s[-2]) for name, s in shapes.items()
        ]
        self.recurrent_kernel: Any = nnx.data(None)
        for (name, shape), draw in zip(shapes.items(), init(neuron, connections), strict=True):
            weights = draw_weights(draw, rngs.params(), shape, dtype)
            known = _check.concrete(weights)
            if known is not None and (known < 0).any():
                raise ValueError(
                    f"init must draw weights >= 0 for a Dalian layer, for example DalianFluctuationDriven(nu=...); {name} has {known.min():.3g}"
                )
            setattr(self, name, NonNegative(weights))

    @property
    def units(self) -> int:
        """Neurons of the layer, at each position: n_exc + n_inh."""
        return self.n_exc + self.n_inh

    def _emit(self, z: jax.Array) -> jax.Array:
        """The excitatory ones of spikes z (..., n_exc + n_inh), (..., n_exc): all that the layer above gets."""
        return z[..., : self.n_exc]

    def _drive(self, x: jax.Array) -> ExcInhDrive:
        """The excitatory drive from inputs x, with zeros that broadcast to the inhibitory one: for a whole sequence they would be as many."""
        exc = self._project(x, self.kernel[...])
        return ExcInhDrive(exc, jnp.zeros((len(exc), *(1,) * (exc.ndim - 1)), exc.dtype))

    @property
    def _own(self) -> tuple[Any, Any]:
        recurrent = None if self.recurrent_kernel is None else self.recurrent_kernel[...]
        return self._own_drive, (self.inhibitory_kernel[...], recurrent)

    def connections(self, x: jax.Array, z: jax.Array) -> list[Incoming]:
        """All connections onto the layer's neurons, for inputs x and own spikes z: feed-forward, inhibitory, recurrent."""
        exc, inh, kernels = z[..., : self.n_exc], z[..., self.n_exc :], self.neuron.kernels
        own = [] if self.recurrent_kernel is None else [Incoming(self.recurrent_kernel[...], exc, kernels.exc)]
        return [Incoming(self.kernel[...], x, kernels.exc), Incoming(self.inhibitory_kernel[...], inh, kernels.inh, -1), *own]

    @classmethod
    def _own_drive(cls, z: jax.Array, weights: tuple[jax.Array, jax.Array | None]) -> ExcInhDrive:
        """What spikes z of all neurons bring to both currents; zeros that broadcast where E neurons are not connected with each other."""
        inhibitory, recurrent = weights
        n_exc = z.shape[-1] - inhibitory.shape[-2]
        inh = cls._recur(z[..., n_exc:], inhibitory)
        return ExcInhDrive(jnp.zeros((), inh.dtype) if recurrent is None else cls._recur(z[..., :n_exc], recurrent), inh)


class DalianDense(Dalian, DenseMaps):
    """A dense layer of excitatory and inhibitory neurons.

    Args:
      in_features, n_exc: units of the input, and excitatory neurons, which are what the layer above sees.
      n_inh: inhibitory neurons; when None n_exc / `ei_ratio`, rounded.
      init: how to draw the weights, `DalianFluctuationDriven(nu=15.8, sigma_u=1.0)`, or any `LayerInit` or initializer whose weights are >= 0.
      recurrent: also connect every excitatory neuron with all neurons of the layer. Inhibitory ones always are.
      neuron: `ExcInhLIF`, or another neuron that takes an `ExcInhDrive` and has `kernels`.
      trainable: names of time constants to learn, one value a neuron.   dtype, rngs: as in `SpikingDense`.

    Parameters, E before I on the last axis: `kernel` (in, n_exc + n_inh); `inhibitory_kernel` (n_inh, n_exc + n_inh);
    `recurrent_kernel` (n_exc, n_exc + n_inh); all `NonNegative`. `log_tau[name]` (n_exc + n_inh,).

    Raises:
      ValueError, TypeError: a size out of range, a neuron without the two currents, weights below 0.

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> layer = DalianDense(20, 128, init=DalianFluctuationDriven(nu=5.0), recurrent=True, rngs=nnx.Rngs(0))
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
        n_inh: int | None = None,
        ei_ratio: float = 4.0,
        recurrent: bool = False,
        neuron: Any = None,
        trainable: Sequence[str] = (),
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features, n_exc, n_inh=n_inh, ei_ratio=ei_ratio, window=(), lateral=(), recurrent=recurrent, neuron=neuron, init=init,
            trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip


class DalianConv(Dalian, ConvMaps):
    """A convolution of excitatory and inhibitory neurons, channels last. `DalianConv1d` and `DalianConv2d` take plain numbers for the sizes.

    Args:
      in_features, n_exc: channels of the input, and excitatory feature maps, which are what the layer above sees.
      n_inh: inhibitory feature maps; when None n_exc / `ei_ratio`, rounded.
      kernel_size, stride, padding: of the input's convolution, as in `SpikingConv`.
      lateral_kernel_size: odd; the neighbourhood from which a neuron gets inhibition, and with `recurrent` excitation. What is beyond the edge is silent,
        so that neurons there get less of both.
      init, recurrent, neuron, trainable, dtype, rngs: as in `DalianDense`; time constants are one a feature map.

    Parameters: `kernel` (*kernel_size, in, n_exc + n_inh); `inhibitory_kernel` (*lateral_kernel_size, n_inh, n_exc + n_inh);
    `recurrent_kernel` (*lateral_kernel_size, n_exc, n_exc + n_inh); all `NonNegative`. `log_tau[name]` (n_exc + n_inh,).

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> init = DalianFluctuationDriven(nu=5.0)
    >>> layer = DalianConv(2, 16, kernel_size=(3, 3), padding="same", lateral_kernel_size=3, init=init, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((10, 4, 8, 8, 2))).output.shape, layer.feature_shape((8, 8, 2))
    ((10, 4, 8, 8, 20), (8, 8, 16))
    """

    def __init__(
        self,
        in_features: int,
        n_exc: int,
        *,
        kernel_size: int | Sequence[int],
        lateral_kernel_size: int | Sequence[int],
        init: LayerInit | Initializer,
        n_inh: int | None = None,
        ei_ratio: float = 4.0,
        stride: int | Sequence[int] = 1,
        padding: Padding = "valid",
        recurrent: bool = False,
        neuron: Any = None,
        trainable: Sequence[str] = (),
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self._set_geometry(kernel_size, stride, padding)
        super().__init__(
            in_features, n_exc, n_inh=n_inh, ei_ratio=ei_ratio, window=self.kernel_size,
            lateral=self._odd("lateral_kernel_size", lateral_kernel_size), recurrent=recurrent, neuron=neuron, init=init,
            trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip


class DalianConv1d(DalianConv):
    """`DalianConv` over one axis, (time, batch, length, in) -> (time, batch, length', n_exc + n_inh).

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> init = DalianFluctuationDriven(nu=15.8)
    >>> layer = DalianConv1d(1, 16, kernel_size=21, stride=10, lateral_kernel_size=5, recurrent=True, init=init, rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer.inhibitory_kernel.shape, layer.recurrent_kernel.shape
    ((21, 1, 20), (5, 4, 20), (5, 16, 20))
    """

    _fixed_axes = 1


class DalianConv2d(DalianConv):
    """`DalianConv` over two axes, (time, batch, height, width, in) -> (time, batch, height', width', n_exc + n_inh).

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> layer = DalianConv2d(2, 8, kernel_size=5, padding=2, lateral_kernel_size=3, init=DalianFluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer.inhibitory_kernel.shape
    ((5, 5, 2, 10), (3, 3, 2, 10))
    """

    _fixed_axes = 2
