"""Layers without weights or state, from (time, batch, *spatial, channels) to another such array.

They are used in `Sequential` between layers of neurons: pooling, flattening, reshaping, dropout.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax.dynamics._neuron import Simulation
from snnjax.nn._conv import per_axis
from snnjax.nn._layer import Layer, Shape, State, unlisted

PoolKind = Literal["max", "average", "sum"]


class Stateless(Layer):
    """A map that is applied to the features of each time step and sample independently.

    A derived class defines `_map`, and `feature_shape` if the shape changes.
    """

    @abc.abstractmethod
    def _map(self, x: jax.Array) -> jax.Array:
        """The map for x (n, ...features)."""

    def _run(self, x: jax.Array, state: State | None, key: jax.Array | None) -> Simulation:
        """Map a whole sequence x (time, batch, ...features), all steps at once."""
        self.feature_shape(x.shape[2:])
        out = self._map(x.reshape(-1, *x.shape[2:]))
        return Simulation((), out.reshape(*x.shape[:2], *out.shape[1:]))

    @unlisted
    def step(self, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        """Map one time step x (batch, ...features)."""
        if jnp.ndim(x) < 2:
            raise ValueError(f"x must have shape (batch, ...features), got {jnp.shape(x)}")
        self.feature_shape(x.shape[1:])
        return state, self._map(x)


class Pool(Stateless):
    """The maximum, the mean or the sum over windows of every channel, over all spatial axes.

    Windows lie within the input; remaining positions at the end are dropped. If several values of a
    window are the largest, which is common for spikes, the first gets the gradient.

    Args:
        window: Size of a window in positions, one number for all spatial axes, or one per axis.
        kind: "max", "average" or "sum". The sum of spikes is their count, in at least float32.
        stride: Distance between windows, one number or one per axis; `window` if None.

    Raises:
        ValueError: An option is out of range, or an input has no spatial axes or is smaller than
            the window.
        TypeError: An option has a wrong type.

    >>> x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    >>> Pool(2)(x).output.ravel().tolist()
    [1.0, 3.0, 5.0]
    >>> Pool(3, kind="average", stride=1)(x).output.ravel().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(
        self,
        window: int | Sequence[int],
        *,
        kind: PoolKind = "max",
        stride: int | Sequence[int] | None = None,
    ) -> None:
        self.kind = _check.one_of("kind", kind, get_args(PoolKind))
        stride = window if stride is None else stride
        # None: one number for all axes, whose number the input determines
        given = [len(sizes) for sizes in (window, stride) if isinstance(sizes, Sequence)]
        self._axes = given[0] if given else None
        self.window = per_axis("window", window, self._axes or 1, at_least=1)
        self.stride = per_axis("stride", stride, self._axes or 1, at_least=1)

    def _sizes(self, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Window and stride for an input of `axes` spatial axes."""
        if axes == 0 or self._axes not in (None, axes):
            expected = "at least one spatial axis"
            if self._axes is not None:
                expected = f"{self._axes} spatial axes"
            needed = f"features must have {expected} and the channels to be pooled"
            raise ValueError(f"{needed}, got {axes} spatial axes")
        times = axes if self._axes is None else 1
        return self.window * times, self.stride * times

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        *spatial, channels = features
        sizes = list(zip(spatial, *self._sizes(len(spatial)), strict=True))
        if any(n is not None and n < w for n, w, _ in sizes):
            window = tuple(w for _, w, _ in sizes)
            needed = f"features must have at least {window} positions, the window"
            raise ValueError(f"{needed}, got {features}")
        return (*(None if n is None else (n - w) // s + 1 for n, w, s in sizes), channels)

    def _map(self, x: jax.Array) -> jax.Array:
        window, stride = self._sizes(x.ndim - 2)
        shape, strides = (1, *window, 1), (1, *stride, 1)
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        if self.kind == "max":
            # the identity of the maximum, which XLA requires for the gradient
            lowest = -np.inf if floating else False
            if jnp.issubdtype(x.dtype, jnp.integer):
                lowest = jnp.iinfo(x.dtype).min
            start = np.asarray(lowest, x.dtype)
            return jax.lax.reduce_window(x, start, jax.lax.max, shape, strides, "VALID")
        # 16 bits are not precise enough to count in a large window
        wide = x.astype(_check.wide(x.dtype) if floating else jnp.float32)
        start = np.zeros((), wide.dtype)
        total = jax.lax.reduce_window(wide, start, jax.lax.add, shape, strides, "VALID")
        if self.kind == "sum":
            return total
        mean = total / math.prod(window)
        return mean.astype(x.dtype) if floating else mean


class Flatten(Stateless):
    """Flatten all axes after the batch to one axis.

    The channels of a position are adjacent.

    >>> Flatten()(jnp.ones((100, 4, 6, 6, 16))).output.shape
    (100, 4, 576)
    """

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        return (None if (sizes := known(features)) is None else math.prod(sizes),)

    def _map(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), math.prod(x.shape[1:]))


class Reshape(Stateless):
    """Reshape all axes after the batch to the given shape.

    Args:
        *shape: Sizes, at least one. One of them may be -1; it is inferred.

    Raises:
        ValueError: A size is out of range, or an input has another number of features.
        TypeError: A size is not an integer.

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
        """(number of features,) if no size is -1; any shape with this number of features fits."""
        return None if -1 in self.shape else (math.prod(self.shape),)

    @unlisted
    def feature_shape(self, features: Shape) -> Shape:
        sizes = known(features)
        if sizes is None:
            return tuple(None if n == -1 else n for n in self.shape)
        n, fixed = math.prod(sizes), math.prod(n for n in self.shape if n != -1)
        if n % fixed if -1 in self.shape else n != fixed:
            raise ValueError(
                f"features {features}, {n} in total, do not fit into the shape {self.shape}"
            )
        return tuple(n // fixed if size == -1 else size for size in self.shape)

    def _map(self, x: jax.Array) -> jax.Array:
        sizes = known(self.feature_shape(x.shape[1:]))
        assert sizes is not None  # the sizes of an array are known
        return x.reshape(len(x), *sizes)


class Dropout(Stateless):
    r"""Set whole spike trains, chosen at random, to zero in training.

        out[t] = m x[t] / (1 - rate),       m ~ Bernoulli(1 - rate)

    There is one m per sample and feature, and it is the same at all t. A mask that changes at every
    step would be noise, which a membrane averages over its time constant. A constant mask removes
    the unit, as in a network without time. The factor preserves the mean input of the next layer.
    Dropout is active only if the network is called with a key, as in training.

    Source: Srivastava et al. (2014), Journal of Machine Learning Research 15, 1929.

    Args:
        rate: Probability that a train is set to zero, in [0, 1).

    >>> x = jnp.ones((50, 2, 100))
    >>> y = Dropout(0.25)(x, key=jax.random.key(0)).output
    >>> round(float(y.max()), 3), 120 < int((y[0] > 0).sum()) < 180, bool((y == y[0]).all())
    (1.333, True, True)
    >>> bool((Dropout(0.25)(x).output == x).all())
    True
    """

    stochastic = True
    masks = True

    def __init__(self, rate: float) -> None:
        self.rate = float(_check.number("rate", rate, at_least=0, below=1))

    def _map(self, x: jax.Array) -> jax.Array:
        return x

    def _run(self, x: jax.Array, state: State | None, key: jax.Array | None) -> Simulation:
        """Run a whole sequence x (time, batch, ...features). Without a key the output is x."""
        out = super()._run(x, state, key)
        return out._replace(output=self._drop(out.output, key, x.shape[1:]))

    @unlisted
    def step(
        self, state: State, x: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[State, jax.Array]:
        """Run one time step x (batch, ...features).

        With the same key, the same trains are set to zero as in a whole sequence.
        """
        state, out = super().step(state, x)
        return state, self._drop(out, key, jnp.shape(x))

    def _drop(self, x: jax.Array, key: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
        if key is None:
            return x
        kept = jax.random.bernoulli(key, 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))


def known(features: Shape | None) -> tuple[int, ...] | None:
    """The sizes, or None if one of them is unknown."""
    sizes = tuple(n for n in features or () if n is not None)
    return None if features is None or len(sizes) < len(features) else sizes
