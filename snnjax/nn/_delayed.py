r"""Delayed sequences: filters over time, and products with weights that have a delay each.

With the kernels K and their steps k = 0 ... n of `snnjax/nn/_delays.py`, delays of units filter the
inputs, and one product with the weights follows:

    y[t] = sum_k K(k - d) x[t - k]

Delays of connections do not commute with the product. They need one product for each k,

    y[t] = sum_k x[t - k] @ (K(k - d) * W),

which Horner's rule adds without further memory: y <- (y one step later) + x @ (K(k - d) * W), for
k = n ... 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._sparse import EventRaster
from snnjax.nn._delays import DelayKernel

Project = Callable[[Any, jax.Array], jax.Array]
"""A linear map, `(inputs, weights) -> drive`, for any number of outputs."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def delayed(kernel: DelayKernel, x: jax.Array, delay: jax.Array, width: jax.Array) -> jax.Array:
    """Delay the channels of a sequence that begins after silence.

    Differentiable in `x` and `delay`, once and in reverse mode: the gradient of a delay is that of
    the sequence through dK/dd, so that the gradient of every tap is not needed.

    Args:
        kernel: The kernel.
        x: The sequence (time, batch, ...features).
        delay: Delays in steps, (channels,), or (batch, channels).
        width: Width in steps, a scalar.

    Returns:
        The delayed sequence, of the shape of x.

    >>> x = jnp.zeros((4, 1, 1)).at[0].set(1.0)
    >>> delayed(DelayKernel("triangle", 2), x, jnp.array([1.5]), jnp.zeros(())).ravel().tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    return _filter(x, kernel.taps(delay, width).astype(x.dtype))


def _delayed_fwd(
    kernel: DelayKernel, x: jax.Array, delay: jax.Array, width: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return delayed(kernel, x, delay, width), (x, delay, width)


def _delayed_bwd(
    kernel: DelayKernel, residuals: tuple[jax.Array, jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, delay, width = residuals
    of_delay = lambda d: kernel.taps(d, width).astype(x.dtype)
    taps, slopes = jax.jvp(of_delay, (delay,), (jnp.ones_like(delay),))
    each = g * _filter(x, slopes)
    own = {each.ndim - 1} | ({1} if delay.ndim > 1 else set())
    g_delay = each.sum(axis=tuple(a for a in range(each.ndim) if a not in own))
    return _filter(g, taps, reverse=True), g_delay.astype(delay.dtype), jnp.zeros_like(width)


delayed.defvjp(_delayed_fwd, _delayed_bwd)


def _filter(x: jax.Array, taps: jax.Array, *, reverse: bool = False) -> jax.Array:
    """sum_k taps[k] x[t - k]; with `reverse`, sum_k taps[k] x[t + k].

    A loop over taps, each a product over the whole sequence: on a CPU it is as fast as one fused
    sum of all taps, compiles faster, and is not computed again in what follows.
    """
    steps, most = len(x), len(taps) - 1
    padded = jnp.pad(x, ((0, most) if reverse else (most, 0), *((0, 0),) * (x.ndim - 1)))

    def add(y: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        k, tap = at
        start = k if reverse else most - k
        return y + tap * jax.lax.dynamic_slice_in_dim(padded, start, steps), None

    return jax.lax.scan(add, jnp.zeros_like(x), (jnp.arange(most + 1), aligned(taps, x.ndim)))[0]


def aligned(taps: jax.Array, ndim: int) -> jax.Array:
    """Taps (k, [batch,] channels) for arrays (batch, *spatial, channels) of `ndim` - 1 axes."""
    lead = taps.shape[:-1] if taps.ndim > 2 else (len(taps), 1)
    return taps.reshape(*lead, *(1,) * (ndim - 3), taps.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def delayed_product(
    kernel: DelayKernel,
    project: Project,
    x: jax.Array | EventRaster,
    delay: jax.Array,
    width: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Multiply a sequence that begins after silence with weights that have a delay each.

    Differentiable in `x`, `delay` and `weights`, once and in reverse mode. The kernels are computed
    in the loops over k, forward and backward. Together they would be larger than the sequence.

    Args:
        kernel: The kernel.
        project: The linear map, `(inputs, weights) -> drive`.
        x: The sequence (time, batch, ...features).
        delay: Delays in steps, of the shape of the weights.
        width: Width in steps, a scalar.
        weights: Weights (*window, in, out).

    Returns:
        The drive (time, batch, ..., out).
    """
    total = kernel.total(delay, width)
    like = jax.eval_shape(project, x, weights)

    def horner(y: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        later = jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]])
        tap = kernel.height(k, delay, width) / total
        return later + project(x, (tap * weights).astype(weights.dtype)), None

    steps = jnp.arange(kernel.largest + 1)
    return jax.lax.scan(horner, jnp.zeros(like.shape, like.dtype), steps, reverse=True)[0]


_Product = tuple[jax.Array | EventRaster, jax.Array, jax.Array, jax.Array]


def _product_fwd(
    kernel: DelayKernel,
    project: Project,
    x: jax.Array | EventRaster,
    delay: jax.Array,
    width: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, _Product]:
    given = x, delay, width, weights
    return delayed_product(kernel, project, *given), given


def _product_bwd(kernel: DelayKernel, project: Project, given: _Product, g: jax.Array) -> _Product:
    x, delay, width, weights = given
    along = jnp.ones_like(delay)
    total, change = jax.jvp(lambda d: kernel.total(d, width), (delay,), (along,))
    events = isinstance(x, EventRaster)  # integers, without a gradient

    def add(sums: Any, k: jax.Array) -> tuple[Any, None]:
        g, g_x, g_delay, g_weights = sums
        height, slope = jax.jvp(lambda d: kernel.height(k, d, width), (delay,), (along,))
        tap = height / total
        slope = (slope - tap * change) / total
        weighted = (tap * weights).astype(weights.dtype)
        if events:
            (found,) = jax.vjp(lambda w: project(x, w), weighted)[1](g)
        else:
            of_x, found = jax.vjp(project, x, weighted)[1](g)
            g_x = g_x + of_x
        earlier = jnp.concatenate([g[1:], jnp.zeros_like(g[:1])])
        return (earlier, g_x, g_delay + slope * found, g_weights + tap * found), None

    of_events = jax.tree.map(lambda a: np.zeros(jnp.shape(a), jax.dtypes.float0), x)
    wide = jnp.zeros(delay.shape, jnp.promote_types(delay.dtype, _check.wide(weights.dtype)))
    start = g, None if events else jnp.zeros_like(x), wide, wide
    sums, _ = jax.lax.scan(add, start, jnp.arange(kernel.largest + 1))
    _, g_x, g_delay, g_weights = sums
    g_delay = (g_delay * weights).astype(delay.dtype)
    g_weights = g_weights.astype(weights.dtype)
    return of_events if events else g_x, g_delay, jnp.zeros_like(width), g_weights


delayed_product.defvjp(_product_fwd, _product_bwd)
