"""Random arrays of any shape from few compiled programs.

JAX compiles its generator anew for every shape. On one core that took 0.5 s for a flat array, 0.7 s
for a matrix and 2.3 s for the four axes of a convolution (JAX 0.10; 0.3, 0.4 and 1.1 s with 0.12;
2026-11-29). Here every array is drawn flat. Outside of `jax.jit`, it is also the beginning of a
longer one, so that all layers of a network share a program.

The numbers are those of `jax.random`: number k of a draw depends on the key and on k alone, and
not on the shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
from jax.core import Tracer
from jax.typing import DTypeLike

Kind = Callable[..., jax.Array]
"""`(key, shape, dtype) -> array`, such as `jax.random.normal`: each element from its own bits."""

_FEWEST, _MOST, _GROWTH = 2**17, 2**21, 4
"""Lengths that are drawn: the shortest, the longest, and the ratio of one to the next."""


def draw(kind: Kind, key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
    """What `kind(key, shape, dtype)` returns, compiled sooner.

    Args:
        kind: `jax.random.normal`, `exponential` or `uniform`.
        key: One random key.
        shape: Shape of the array.
        dtype: Its floating-point type.

    Returns:
        The array, on the default device.

    >>> import jax.numpy as jnp
    >>> key = jax.random.key(0)
    >>> a = draw(jax.random.normal, key, (3, 3, 8, 16), jnp.float32)
    >>> bool((a == jax.random.normal(key, (3, 3, 8, 16))).all())
    True
    """
    size = math.prod(shape)
    length = _FEWEST
    while length < size:
        length *= _GROWTH
    if isinstance(key, Tracer) or length > _MOST or not _begins_alike(key):
        return kind(key, (size,), dtype).reshape(shape)
    longer = jax.device_get(kind(key, (length,), dtype))
    # cut by NumPy, because JAX would compile a program for each shape
    return jax.device_put(longer[:size].reshape(shape))


def _begins_alike(key: jax.Array) -> bool:
    """Whether a longer draw from `key` begins with the numbers of a shorter one."""
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return False
    # the type checker does not know the flags of JAX
    return jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
