"""Types wide enough to compute in: sums and powers of 16-bit numbers are taken in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(dtype: Any) -> Any:
    """`dtype`, or float32 where that holds more.

    >>> wide_dtype(jnp.float16).__name__, wide_dtype(jnp.int8).__name__
    ('float32', 'float32')
    """
    return jnp.promote_types(dtype, jnp.float32).type


def wide(x: Any) -> jax.Array:
    """`x` as an array of at least float32; an array that is wide enough comes back as it is."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))
