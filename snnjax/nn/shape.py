"""Layers without weights or state that change the shape of (time, batch, *spatial, channels): pooling, flattening, reshaping.

They stand in `Sequential` between layers of neurons: they have `__call__`, `step` and `initial_state` as those have, their state is ().
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _check
from snnjax.dynamics import Simulation
from snnjax.nn._synaptic import Shape
from snnjax.nn.conv import per_axis

PoolKind = Literal["max", "average"]


class Stateless(nnx.Module):
    """A map of the features of each step and trial on their own."""

    spiking = False

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input's features where it is always the same, else None."""
        return None

    def feature_shape(self, features: Shape) -> Shape:
        """Shape of the output's features for an input whose features have the given shape; None is any size."""
        return self._feature_shape(features)

    @abc.abstractmethod
    def _feature_shape(self, features: Shape) -> Shape: ...

    @abc.abstractmethod
    def _map(self, x: jax.Array) -> jax.Array:
        """The map for x (n, ...features)."""

    def initial_state(self, batch_size: int, spatial: tuple[int, ...] = ()) -> tuple[()]:
        """Nothing."""
        return ()

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False) -> Simulation:
        """Map a whole sequence x (time, batch, ...features): `Simulation(output, None, ())`."""
        _check.time_major("x", x)
        if membrane:
            raise ValueError(f"membrane=True needs a layer of neurons, which {type(self).__name__} is not")
        self._feature_shape(x.shape[2:])
        out = self._map(x.reshape(-1, *x.shape[2:]))
        return Simulation(out.reshape(*x.shape[:2], *out.shape[1:]), None, ())

    def step(self, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Map one time step x (batch, ...features)."""
        if jnp.ndim(x) < 2:
            raise ValueError(f"x must have shape (batch, ...features), got {jnp.shape(x)}")
        self._feature_shape(x.shape[1:])
        return state, self._map(x)


class Pool(Stateless):
    """The largest or the mean value of windows of every channel, over all spatial axes.

    Windows lie within the input: positions left over at its end are dropped. Where several values of a window are largest, as spikes are, the first gets
    the gradient.

    Args:
      window: of positions, one number for all spatial axes, or one an axis.   kind: `"max"` or `"average"`.
      stride: from window to window, one number or one an axis; `window` when None.

    Raises:
      ValueError, TypeError: an option out of range, when built; an input without spatial axes, or smaller than the window, when called.

    >>> x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    >>> Pool(2)(x).output.ravel().tolist(), Pool(3, kind="average", stride=1)(x).output.ravel().tolist()
    ([1.0, 3.0, 5.0], [1.0, 2.0, 3.0, 4.0])
    """

    def __init__(self, window: int | Sequence[int], *, kind: PoolKind = "max", stride: int | Sequence[int] | None = None) -> None:
        self.kind = _check.one_of("kind", kind, get_args(PoolKind))
        stride = window if stride is None else stride
        # None: one number for all axes, whose number the input tells
        self._axes = next((len(sizes) for sizes in (window, stride) if isinstance(sizes, Sequence)), None)
        self.window = per_axis("window", window, self._axes or 1, at_least=1)
        self.stride = per_axis("stride", stride, self._axes or 1, at_least=1)

    def _sizes(self, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Window and stride for an input of `axes` spatial axes."""
        if axes == 0 or self._axes not in (None, axes):
            expected = "at least one spatial axis" if self._axes is None else f"{self._axes} spatial axes"
            raise ValueError(f"features must have {expected} and the channels to be pooled, got {axes} spatial axes")
        return (self.window * axes, self.stride * axes) if self._axes is None else (self.window, self.stride)

    def _feature_shape(self, features: Shape) -> Shape:
        """(*spatial, channels) after pooling; None is any size."""
        *spatial, channels = features
        window, stride = self._sizes(len(spatial))
        if any(n is not None and n < w for n, w in zip(spatial, window, strict=True)):
            raise ValueError(f"features must have at least {window} positions, the window, got {features}")
        return (*(None if n is None else (n - w) // s + 1 for n, w, s in zip(spatial, window, stride, strict=True)), channels)

    def _map(self, x: jax.Array) -> jax.Array:
        window, stride = self._sizes(x.ndim - 2)
        shape, strides, floating = (1, *window, 1), (1, *stride, 1), jnp.issubdtype(x.dtype, jnp.floating)
        if self.kind == "max":
            # the identity of the maximum, as XLA wants it for the gradient
            lowest = False if x.dtype == bool else -np.inf if floating else jnp.iinfo(x.dtype).min
            return jax.lax.reduce_window(x, np.asarray(lowest, x.dtype), jax.lax.max, shape, strides, "VALID")
        # 16 bits cannot count to the size of a large window
        wide = x.astype(_check.wide(x.dtype) if floating else jnp.float32)
        mean = jax.lax.reduce_window(wide, np.zeros((), wide.dtype), jax.lax.add, shape, strides, "VALID") / math.prod(window)
        return mean.astype(x.dtype) if floating else mean


class Flatten(Stateless):
    """All axes after the batch to one, position by position with the channels of a position side by side.

    >>> Flatten()(jnp.ones((100, 4, 6, 6, 16))).output.shape
    (100, 4, 576)
    """

    def _feature_shape(self, features: Shape) -> Shape:
        """(product of all sizes,); (None,) where one is None."""
        return (None if (sizes := _known(features)) is None else math.prod(sizes),)

    def _map(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), math.prod(x.shape[1:]))


class Reshape(Stateless):
    """All axes after the batch to the given shape.

    Args:
      shape: sizes, at least one; one of them may be -1, for whatever is left.

    Raises:
      ValueError, TypeError: sizes out of range, when built; an input of another number of features, when called.

    >>> Reshape(700, 1)(jnp.ones((100, 4, 700))).output.shape
    (100, 4, 700, 1)
    """

    def __init__(self, *shape: int) -> None:
        if not shape:
            raise ValueError("shape must have at least one size, got none")
        self.shape = tuple(n if n == -1 else _check.integer("shape", n, at_least=1) for n in shape)
        if self.shape.count(-1) > 1:
            raise ValueError(f"shape may have one -1, got {self.shape}")

    @property
    def in_shape(self) -> Shape | None:
        """(number of features,) where no size is -1: any shape with that number does."""
        return None if -1 in self.shape else (math.prod(self.shape),)

    def _feature_shape(self, features: Shape) -> Shape:
        """The shape, None where it is -1 and the number of features is not known."""
        sizes = _known(features)
        if sizes is None:
            return tuple(None if n == -1 else n for n in self.shape)
        n, fixed = math.prod(sizes), math.prod(n for n in self.shape if n != -1)
        if n % fixed if -1 in self.shape else n != fixed:
            raise ValueError(f"features {features}, {n} in number, do not fit into the shape {self.shape}")
        return tuple(n // fixed if size == -1 else size for size in self.shape)

    def _map(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), *self._feature_shape(x.shape[1:]))  # type: ignore[arg-type]  # no None: all sizes are known


def _known(features: Shape) -> list[int] | None:
    """The sizes, or None where one is not known."""
    sizes = [n for n in features if n is not None]
    return sizes if len(sizes) == len(features) else None
