r"""Spiking convolutions over one, two or three spatial axes, channels last.

With the kernel W (*kernel_size, in, out), the recurrent kernel V (*recurrent_kernel_size, out, out)
of odd sizes r, stride s and padding a (zeros), at position p (a vector with one entry per spatial
axis),

    drive[t, p] = sum_k x[t, s p + k - a] W[k] + sum_k z[t, p + k - (r - 1)/2] V[k] + bias

The kernel is not flipped, as in all deep learning libraries. The convolution of the input is
computed for all steps and samples at once, outside the scan over time. All neurons of a feature map
share weights, time constants and, with `bias=True`, the bias.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.initializers import Initializer
from snnjax.nn._init import LayerInit
from snnjax.nn._layer import Shape
from snnjax.nn._maps import LinearMap, Recurrence
from snnjax.nn._synaptic import LayerOptions, Spiking

_BLOCK_BYTES = 4 * 2**20
"""Largest size of the windows that are multiplied at a time, in bytes, so that they fit in a cache.

On a CPU with 1 MiB of L2 cache per core, the forward pass took a fifth of the time of a product of
all windows at once; both passes together took half of the time.
"""

_FEW_CHANNELS = 4
"""Up to this number of channels, windows are built one axis after another, from fewer slices.

Forward and backward of one convolution of 21 positions with stride 10, of 3 x 3 and of 5 x 5 took
0.3, 0.9 and 0.7 times as long as with one slice per element of the window, and compiled in 0.2 to
0.6 times the time. With 16 channels, 5 x 5 took 1.1 to 1.7 times as long (one core, 2026-11-29).
"""

Padding = Literal["valid", "same"] | int | Sequence[int]


def per_axis(name: str, value: int | Sequence[int], axes: int, *, at_least: int) -> tuple[int, ...]:
    """One integer per axis.

    Args:
        name: Name of the argument, for errors.
        value: One number for all axes, or one per axis.
        axes: Number of axes.
        at_least: Smallest allowed number.

    Returns:
        One number per axis.

    Raises:
        ValueError: A number is too small, or there is not one per axis.
        TypeError: A number is not an integer.

    >>> per_axis("stride", 2, 2, at_least=1), per_axis("stride", (3, 1), 2, at_least=1)
    ((2, 2), (3, 1))
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != axes:
            needed = f"{name} must be one number or {axes}, one per spatial axis"
            raise ValueError(f"{needed}, got {tuple(value)}")
        return tuple(_check.integer(name, v, at_least=at_least) for v in value)
    return (_check.integer(name, value, at_least=at_least),) * axes


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    small: bool = False,
) -> jax.Array:
    """Convolution in at least float32.

    On a CPU it is computed as a product of windows and kernel. There, XLA's convolutions take at
    least ten times as long inside a loop, such as that of a recurrence or of an epoch. On other
    devices XLA's convolution is used. With `small`, the product is also used on CUDA: a step of
    three recurrent layers (`benchmarks.works`, W4) on an H200 took 7.5 ms with it, and 53 ms
    without it.

    Args:
        x: Input (..., *spatial, in). All leading axes together are the batch.
        kernel: Weights (*sizes, in, out).
        stride: One number per axis; 1 if None.
        padding: "SAME" or "VALID", or numbers of zeros (before, after) per axis.
        small: Whether this is the convolution of a single time step.

    Returns:
        The output (..., *spatial', out).

    >>> x, kernel = jnp.ones((7, 2, 9, 3)), jnp.ones((5, 3, 4))
    >>> convolve(x, kernel, stride=(2,), padding="VALID").shape
    (7, 2, 3, 4)
    """
    axes = kernel.ndim - 2
    sizes, lead, spatial = kernel.shape[:axes], x.shape[: -axes - 1], x.shape[-axes - 1 : -1]
    strides = (1,) * axes if stride is None else tuple(stride)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(spatial, sizes, strides, padding)
    pads: Sequence[tuple[int, int]] = padding
    dtype = _check.wide(kernel.dtype)
    names = "DHW"[-axes:]

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = (f"N{names}C", f"{names}IO", f"N{names}C")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=layout, preferred_element_type=dtype
        )

    @jax.checkpoint  # type: ignore[arg-type]  # saves x and not the windows, which are larger
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        columns = windows(x, sizes, strides, pads)
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.matmul(columns, flat, preferred_element_type=dtype)

    def in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        each = math.prod(x.shape[1:]) * math.prod(sizes) // math.prod(strides) * dtype.itemsize
        size = _block(len(x), each)
        if size >= len(x):
            return product(x, kernel)
        return jax.lax.map(lambda one: product(one[None], kernel)[0], x, batch_size=size)

    flat = x.reshape(-1, *x.shape[-axes - 1 :])
    ways = {"cpu": in_blocks, "cuda": product} if small else {"cpu": in_blocks}
    out: Any = jax.lax.platform_dependent(flat, kernel, **ways, default=direct)
    return out.reshape(*lead, *out.shape[1:])


def _block(n: int, each: int) -> int:
    """The number of inputs that are convolved at a time.

    It is a divisor of n if one is near, because a remainder would be compiled separately.

    Args:
        n: Number of inputs.
        each: Size of the windows of one input, bytes.
    """
    most = max(1, _BLOCK_BYTES // max(each, 1))
    if n <= 2 * most:
        return n
    return next((size for size in range(most, most // 2, -1) if n % size == 0), most)


def windows(
    x: jax.Array, sizes: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> jax.Array:
    """The receptive field of each position of a convolution.

    Args:
        x: Input (n, *spatial, channels).
        sizes: Size of the window on each axis.
        strides: Stride on each axis.
        pads: Numbers of zeros (before, after) on each axis.

    Returns:
        The windows (n, *positions, prod(sizes) * channels).

    >>> windows(jnp.arange(5.0).reshape(1, 5, 1), (3,), (2,), [(0, 0)])[0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    if x.shape[-1] <= _FEW_CHANNELS:
        for axis in range(len(sizes), 0, -1):  # so that the last axis is in the windows' order
            x = _windows_along(x, axis, sizes[axis - 1], strides[axis - 1])
        return x
    last = [(n - k) // s * s for n, k, s in zip(x.shape[1:-1], sizes, strides, strict=True)]

    def part(offset: tuple[int, ...]) -> jax.Array:
        parts = zip(offset, last, strides, strict=True)
        return x[(slice(None), *(slice(o, o + end + 1, s) for o, end, s in parts))]

    return jnp.concatenate([part(o) for o in itertools.product(*map(range, sizes))], axis=-1)


def _windows_along(x: jax.Array, axis: int, size: int, stride: int) -> jax.Array:
    """The windows along one axis, (..., positions, ..., size * channels)."""
    channels = x.shape[-1]
    positions = (x.shape[axis] - size) // stride + 1
    if axis == x.ndim - 2 and stride > 1:
        # A window is `shifts` neighbouring blocks of `stride` positions: 3 slices instead of 21 for
        # a window of 21 positions with stride 10. A block is one position with more channels.
        shifts = -(-size // stride)
        blocks = positions - 1 + shifts
        rest = max(0, blocks * stride - x.shape[axis])
        x = jnp.pad(x, [(0, 0)] * axis + [(0, rest), (0, 0)])[..., : blocks * stride, :]
        x = x.reshape(*x.shape[:axis], blocks, stride * channels)
        offsets, length, step = range(shifts), positions, 1
    else:
        offsets, length, step = range(size), (positions - 1) * stride + 1, stride
    cut = lambda o: jax.lax.slice_in_dim(x, o, o + length, step, axis)
    return jnp.concatenate([cut(o) for o in offsets], axis=-1)[..., : size * channels]


def conv_recurrence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Same-size convolution of spikes with weights of odd sizes.

    Args:
        z: Spikes (..., *spatial, n).
        weights: Weights (*sizes, n, m), sender by receiver.

    Returns:
        The drive (..., *spatial, m).
    """
    dtype = jnp.promote_types(z.dtype, weights.dtype)
    return convolve(z.astype(dtype), weights.astype(dtype), small=True)


@dataclasses.dataclass(frozen=True)
class ConvMap(LinearMap):
    """A convolution, (..., *spatial, in_features) -> (..., *spatial', n).

    Attributes:
        in_features: Channels of the input.
        out_features: Feature maps of the output.
        kernel_size: One size per spatial axis, for 1 to 3 axes.
        stride: One number for all axes, or one per axis.
        padding: "valid" for none, "same" for an output of ceil(size / stride) positions, or the
            number of zeros at each end: one number, or one per axis.

    >>> layer = ConvMap(2, 16, kernel_size=(3, 3), padding="same")
    >>> layer.window, layer.out_shape((8, None))
    ((3, 3), (8, None))
    """

    kernel_size: Any = ()
    stride: Any = 1
    padding: Any = "valid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kernel_size, Sequence) or not 1 <= len(self.kernel_size) <= 3:
            raise ValueError(
                "kernel_size must have one size for each of 1 to 3 spatial axes, such as (5,) or "
                f"(3, 3), got {self.kernel_size!r}; SpikingConv1d and SpikingConv2d, DalianConv1d "
                "and DalianConv2d take one number"
            )
        axes = len(self.kernel_size)
        size = per_axis("kernel_size", self.kernel_size, axes, at_least=1)
        object.__setattr__(self, "kernel_size", size)
        object.__setattr__(self, "stride", per_axis("stride", self.stride, axes, at_least=1))
        if isinstance(self.padding, str):
            _check.one_of("padding", self.padding, ("valid", "same"))
        else:
            padding = per_axis("padding", self.padding, axes, at_least=0)
            object.__setattr__(self, "padding", padding)

    @property
    def window(self) -> tuple[int, ...]:
        return self.kernel_size

    def project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        self.out_shape(x.shape[-len(self.window) - 1 : -1])
        padding = self.padding
        padding = padding.upper() if isinstance(padding, str) else [(p, p) for p in padding]
        return convolve(x.astype(kernel.dtype), kernel, stride=self.stride, padding=padding)

    def out_shape(self, spatial: Shape) -> Shape:
        axes = len(self.window)
        if len(spatial) != axes:
            raise ValueError(
                f"spatial must have {axes} sizes, one per axis of kernel_size {self.kernel_size}, "
                f"got {tuple(spatial)}"
            )
        if self.padding == "same":
            pairs = zip(spatial, self.stride, strict=True)
            return tuple(None if n is None else math.ceil(n / s) for n, s in pairs)
        padding = (0,) * axes if self.padding == "valid" else self.padding
        padded = [None if n is None else n + 2 * p for n, p in zip(spatial, padding, strict=True)]
        sizes = list(zip(padded, self.kernel_size, self.stride, strict=True))
        if any(n is not None and n < k for n, k, _ in sizes):
            raise ValueError(
                f"spatial must be at least kernel_size {self.kernel_size} with padding "
                f"{self.padding!r}, got {tuple(spatial)}"
            )
        return tuple(None if n is None else (n - k) // s + 1 for n, k, s in sizes)

    @property
    def recurrence(self) -> Recurrence:
        _check_odd("kernel_size", self.kernel_size)
        if self.padding != "same" or any(s != 1 for s in self.stride):
            raise ValueError(
                "the map of a layer's own spikes must keep their positions, with padding 'same' "
                f"and stride 1, got {self}"
            )
        return conv_recurrence


def _check_odd(name: str, sizes: Sequence[int]) -> None:
    if any(size % 2 == 0 for size in sizes):
        needed = f"{name} must be odd, so that every neuron is at the center of its own window"
        raise ValueError(f"{needed}, got {tuple(sizes)}")


def fixed_size(kernel_size: int | Sequence[int], axes: int | None) -> int | Sequence[int]:
    """One size per axis. If the number of axes is not known, `ConvMap` checks the sizes."""
    return kernel_size if axes is None else per_axis("kernel_size", kernel_size, axes, at_least=1)


def lateral_map(name: str, map: ConvMap, size: int | Sequence[int]) -> ConvMap:
    """The map of a layer's own spikes, with a window of odd size.

    Args:
        name: Name of the argument `size`, for errors.
        map: The map of the layer's input.
        size: One size for all axes, or one per axis.
    """
    window = per_axis(name, size, len(map.window), at_least=1)
    _check_odd(name, window)
    return ConvMap(map.out_features, map.out_features, window, padding="same")


class SpikingConv(Spiking):
    """A convolution of spiking neurons, feed-forward or recurrent.

    `SpikingConv1d` and `SpikingConv2d` take plain numbers for the sizes.

    Args:
        in_features: Channels of the input.
        out_features: Feature maps of the layer.
        kernel_size: One size per spatial axis, for 1 to 3 axes.
        init: Initialization of the weights, as in `SpikingDense`. A connection's fan-in is
            prod(kernel_size) times its channels.
        stride: One number for all axes, or one per axis.
        padding: "valid" for none, "same" for an output of ceil(size / stride) positions, or the
            number of zeros at each end: one number, or one per axis.
        neuron: `LIF`, `AdaptiveLIF` or any `snnjax.dynamics.Neuron`. A time constant may have one
            value per feature map.
        recurrent_kernel_size: Size of the neighbourhood that drives each neuron, in all feature
            maps of the layer; odd. None: no recurrence.
        trainable: Names of the neuron's parameters that are trained, with one value per feature
            map.
        bias: Whether a trained constant, one per feature map, is added to the drive in each step.
            It starts at 0.
        norm: `BatchNorm()` normalizes the drive by the input, over all positions of a feature map;
            None: none.
        delays: Learned delays, `Delays(max_delay=...)`; None: no delays.
        dtype: Data type of the weights and of their products with the input. The neurons' state has
            at least float32.
        rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (*kernel_size, in, out); `recurrent_kernel` (*recurrent_kernel_size, out,
    out); `bias` (out,); `log_tau[name]` (out,), log seconds; others as in `SpikingDense`.

    Raises:
        ValueError: A size, stride or padding is out of range, or an input is smaller than the
            kernel.
        TypeError: An argument has a wrong type.

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> init, rngs = FluctuationDriven(nu=5.0), nnx.Rngs(0)
    >>> layer = SpikingConv(2, 16, kernel_size=(3, 3), padding="same", init=init, rngs=rngs)
    >>> layer(jnp.ones((100, 4, 8, 8, 2))).output.shape, layer.out_shape((8, 8))
    ((100, 4, 8, 8, 16), (8, 8))
    """

    _fixed_axes: ClassVar[int | None] = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int | Sequence[int],
        init: LayerInit | Initializer,
        stride: int | Sequence[int] = 1,
        padding: Padding = "valid",
        recurrent_kernel_size: int | Sequence[int] | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        kernel_size = fixed_size(kernel_size, self._fixed_axes)
        map = ConvMap(in_features, out_features, kernel_size, stride, padding)
        recurrent = None
        if recurrent_kernel_size is not None:
            recurrent = lateral_map("recurrent_kernel_size", map, recurrent_kernel_size)
        super().__init__(map, recurrent=recurrent, init=init, **options)


class SpikingConv1d(SpikingConv):
    """`SpikingConv` over one axis; sizes may be plain numbers.

    It maps (time, batch, length, in) to (time, batch, length', out).

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> init, rngs = FluctuationDriven(nu=15.8), nnx.Rngs(0)
    >>> layer = SpikingConv1d(1, 16, kernel_size=21, stride=10, init=init, rngs=rngs)
    >>> layer(jnp.ones((100, 4, 700, 1))).output.shape
    (100, 4, 68, 16)
    """

    _fixed_axes = 1


class SpikingConv2d(SpikingConv):
    """`SpikingConv` over two axes; sizes may be plain numbers.

    It maps (time, batch, height, width, in) to (time, batch, height', width', out).

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> options = {"padding": 2, "recurrent_kernel_size": 3, "init": FluctuationDriven(nu=5.0)}
    >>> layer = SpikingConv2d(2, 16, kernel_size=5, **options, rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer.recurrent_kernel.shape
    ((5, 5, 2, 16), (3, 3, 16, 16))
    """

    _fixed_axes = 2
