r"""Spiking convolutions over one, two or three spatial axes, channels last: (time, batch, *spatial, in) -> (time, batch, *spatial', out).

With the kernel W (*kernel_size, in, out), the recurrent one V (*recurrent_kernel_size, out, out) of odd sizes r, stride s and padding a (zeros), at
position p (a vector with one entry a spatial axis),

    drive[t, p] = sum_k x[t, s p + k - a] W[k] + sum_k z[t, p + k - (r - 1)/2] V[k]

A convolution in the sense of every deep learning library, that is without flipping the kernel. The input's part is one convolution for all steps and
trials, outside the scan over time; all neurons of a feature map share weights and time constants, and there is no bias.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.dynamics import LIF
from snnjax.initializers import Initializer
from snnjax.nn._synaptic import Shape, Synaptic
from snnjax.nn.init import LayerInit

_BLOCK_BYTES = 4 * 2**20
"""Size of the windows that are multiplied at a time, so that they stay in a cache. On a CPU with 1 MiB of L2 per core the
forward pass took a fifth of the time that all windows at once take, and both passes took half."""

Padding = Literal["valid", "same"] | int | Sequence[int]


def per_axis(name: str, value: int | Sequence[int], axes: int, *, at_least: int) -> tuple[int, ...]:
    """One whole number an axis, of one number for all or one an axis.

    >>> per_axis("stride", 2, 2, at_least=1), per_axis("stride", (3, 1), 2, at_least=1)
    ((2, 2), (3, 1))
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != axes:
            raise ValueError(f"{name} must be one number or {axes}, one a spatial axis, got {tuple(value)}")
        return tuple(_check.integer(name, v, at_least=at_least) for v in value)
    return (_check.integer(name, value, at_least=at_least),) * axes


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: Sequence[int] | None = None, padding: Any = "SAME", small: bool = False
) -> jax.Array:
    """Convolution of x (..., *spatial, in) with kernel (*sizes, in, out); the leading axes, of any number, are one batch. In at least float32.

    On a CPU a product of windows and kernel: XLA's convolutions take ten times as long and more there when they stand inside a loop, as those of a
    recurrence and of an epoch do. Elsewhere XLA's convolution; but the product on CUDA, too, if `small`, as the convolutions of single steps are: with it a
    step of three recurrent layers (`benchmarks.works`, W4) took 7.5 ms on an H200, and 53 ms without.

    >>> convolve(jnp.ones((7, 2, 9, 3)), jnp.ones((5, 3, 4)), stride=(2,), padding="VALID").shape
    (7, 2, 3, 4)
    """
    axes = kernel.ndim - 2
    sizes, lead, spatial = kernel.shape[:axes], x.shape[: -axes - 1], x.shape[-axes - 1 : -1]
    strides = (1,) * axes if stride is None else tuple(stride)
    pads = jax.lax.padtype_to_pads(spatial, sizes, strides, padding) if isinstance(padding, str) else padding
    dtype = _check.wide(kernel.dtype)
    names = "DHW"[-axes:]

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = (f"N{names}C", f"{names}IO", f"N{names}C")
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout, preferred_element_type=dtype)

    @jax.checkpoint  # type: ignore[arg-type]  # keep x, of which the windows hold many copies
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        columns = windows(x, sizes, strides, pads)
        return jnp.matmul(columns, kernel.reshape(-1, kernel.shape[-1]), preferred_element_type=dtype)

    def in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        size = _block(len(x), math.prod(x.shape[1:]) * math.prod(sizes) // math.prod(strides) * dtype.itemsize)
        return product(x, kernel) if size >= len(x) else jax.lax.map(lambda one: product(one[None], kernel)[0], x, batch_size=size)

    flat = x.reshape(-1, *x.shape[-axes - 1 :])
    ways = {"cpu": in_blocks, "cuda": product} if small else {"cpu": in_blocks}
    out: Any = jax.lax.platform_dependent(flat, kernel, **ways, default=direct)
    return out.reshape(*lead, *out.shape[1:])


def _block(n: int, each: int) -> int:
    """How many of n inputs, whose windows take `each` bytes, are convolved at a time: a divisor of n where there is one near."""
    most = max(1, _BLOCK_BYTES // max(each, 1))
    if n <= 2 * most:
        return n
    # what is left over would be compiled a second time
    return next((size for size in range(most, most // 2, -1) if n % size == 0), most)


def windows(x: jax.Array, sizes: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]) -> jax.Array:
    """What each position of a convolution sees, of x (n, *spatial, channels): (n, *positions, prod(sizes) * channels).

    >>> windows(jnp.arange(5.0).reshape(1, 5, 1), (3,), (2,), [(0, 0)])[0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    last = [(n - k) // s * s for n, k, s in zip(x.shape[1:-1], sizes, strides, strict=True)]
    parts = [
        x[(slice(None), *(slice(o, o + end + 1, s) for o, end, s in zip(offset, last, strides, strict=True)))]
        for offset in itertools.product(*map(range, sizes))
    ]
    return jnp.concatenate(parts, axis=-1)


def conv_recurrence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Same-size convolution of spikes z (..., *spatial, n) with weights (*sizes, n, n) of odd sizes, sender by receiver."""
    dtype = jnp.promote_types(z.dtype, weights.dtype)
    return convolve(z.astype(dtype), weights.astype(dtype), small=True)


class ConvMaps(Synaptic):
    """The linear maps of a convolution, and its geometry."""

    _recur = staticmethod(conv_recurrence)
    _fixed_axes: ClassVar[int | None] = None

    def _set_geometry(self, kernel_size: int | Sequence[int], stride: int | Sequence[int], padding: Padding) -> None:
        axes = self._fixed_axes
        if axes is None:
            if not isinstance(kernel_size, Sequence) or not 1 <= len(kernel_size) <= 3:
                raise ValueError(
                    f"kernel_size must have one size for each of 1 to 3 spatial axes, such as (5,) or (3, 3), got {kernel_size!r}; "
                    f"{type(self).__name__}1d and {type(self).__name__}2d take one number"
                )
            axes = len(kernel_size)
        self.kernel_size = per_axis("kernel_size", kernel_size, axes, at_least=1)
        self.stride = per_axis("stride", stride, axes, at_least=1)
        if isinstance(padding, str):
            self.padding = _check.one_of("padding", padding, ("valid", "same"))
        else:
            self.padding = per_axis("padding", padding, axes, at_least=0)

    def _odd(self, name: str, size: int | Sequence[int]) -> tuple[int, ...]:
        """The window of connections within the layer."""
        window = per_axis(name, size, len(self.kernel_size), at_least=1)
        if any(size % 2 == 0 for size in window):
            raise ValueError(f"{name} must be odd, so that every neuron is at the middle of its own window, got {window}")
        return window

    def _project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolution of x (..., *spatial, in_features) with kernel (*kernel_size, in_features, n): (..., *out_shape(spatial), n)."""
        self._out_shape(x.shape[-self._axes - 1 : -1])
        padding = self.padding.upper() if isinstance(self.padding, str) else [(p, p) for p in self.padding]
        return convolve(x.astype(kernel.dtype), kernel, stride=self.stride, padding=padding)

    def _out_shape(self, spatial: Shape) -> Shape:
        if len(spatial) != self._axes:
            raise ValueError(f"spatial must have {self._axes} sizes, one an axis of kernel_size {self.kernel_size}, got {tuple(spatial)}")
        if self.padding == "same":
            return tuple(None if n is None else math.ceil(n / s) for n, s in zip(spatial, self.stride, strict=True))
        padding = (0,) * self._axes if isinstance(self.padding, str) else self.padding
        padded = [None if n is None else n + 2 * p for n, p in zip(spatial, padding, strict=True)]
        if any(n is not None and n < k for n, k in zip(padded, self.kernel_size, strict=True)):
            raise ValueError(f"spatial must be at least kernel_size {self.kernel_size} with padding {self.padding!r}, got {tuple(spatial)}")
        return tuple(None if n is None else (n - k) // s + 1 for n, k, s in zip(padded, self.kernel_size, self.stride, strict=True))


class SpikingConv(ConvMaps):
    """A convolution of spiking neurons, feed-forward or recurrent. `SpikingConv1d` and `SpikingConv2d` take plain numbers for the sizes.

    Args:
      in_features, out_features: channels of the input, feature maps of the layer.
      kernel_size: one size a spatial axis, 1 to 3 of them; their number is the number of spatial axes.
      init: how to draw the weights, as in `SpikingDense`; a connection's fan-in is prod(kernel_size) times its channels.
      stride: one number for all axes, or one an axis.
      padding: `"valid"` for none, `"same"` for an output of ceil(size / stride) positions, or how many zeros at either end, one number or one an axis.
      neuron: `LIF`, `AdaptiveLIF` or any `snnjax.dynamics.Neuron`; a time constant may have one value a feature map.
      recurrent_kernel_size: odd; every neuron is driven by its neighbourhood of this size in all maps of the layer. None: no recurrence.
      trainable: names of time constants of the neuron to learn, one value a feature map.
      dtype: of the weights and of their products with the input; neurons are kept in at least float32.   rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (*kernel_size, in, out); `recurrent_kernel` (*recurrent_kernel_size, out, out); `log_tau[name]` (out,), log seconds.

    Raises:
      ValueError, TypeError: a size, stride or padding out of range, when the layer is built; an input smaller than the kernel, when it is called.

    >>> from snnjax.nn import FluctuationDriven
    >>> layer = SpikingConv(2, 16, kernel_size=(3, 3), padding="same", init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 8, 8, 2))).output.shape, layer.out_shape((8, 8))
    ((100, 4, 8, 8, 16), (8, 8))
    """

    spiking = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int | Sequence[int],
        init: LayerInit | Initializer,
        stride: int | Sequence[int] = 1,
        padding: Padding = "valid",
        neuron: Any = None,
        recurrent_kernel_size: int | Sequence[int] | None = None,
        trainable: Sequence[str] = (),
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self._set_geometry(kernel_size, stride, padding)
        recurrent = None if recurrent_kernel_size is None else self._odd("recurrent_kernel_size", recurrent_kernel_size)
        super().__init__(
            in_features, out_features, window=self.kernel_size, recurrent_window=recurrent, neuron=LIF() if neuron is None else neuron,
            init=init, trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip


class SpikingConv1d(SpikingConv):
    """`SpikingConv` over one axis, (time, batch, length, in) -> (time, batch, length', out); sizes may be plain numbers.

    >>> from snnjax.nn import FluctuationDriven
    >>> layer = SpikingConv1d(1, 16, kernel_size=21, stride=10, init=FluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 700, 1))).output.shape
    (100, 4, 68, 16)
    """

    _fixed_axes = 1


class SpikingConv2d(SpikingConv):
    """`SpikingConv` over two axes, (time, batch, height, width, in) -> (time, batch, height', width', out); sizes may be plain numbers.

    >>> from snnjax.nn import FluctuationDriven
    >>> layer = SpikingConv2d(2, 16, kernel_size=5, padding=2, recurrent_kernel_size=3, init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer.recurrent_kernel.shape
    ((5, 5, 2, 16), (3, 3, 16, 16))
    """

    _fixed_axes = 2
