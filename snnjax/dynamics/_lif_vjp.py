r"""The scan over a plain LIF population with its backward pass written by hand.

Forward stores the membrane trace u and nothing else. Backward, from t = T - 1 down to 0, with r = 0 where u[t] > theta and 1 elsewhere,
h the surrogate derivative and g. the cotangents:

    gdrive[t] = gi[t+1]
    gz        = gz[t] + (d recurrent / d z)^T gi[t+1]
    gu[t]     = lm r gu[t+1] + h(u[t] - theta) gz + gu_out[t]
    gi[t]     = ls gi[t+1] + (1 - lm) r gu[t+1]

The recurrent weights' gradient is one product over all steps after the loop. Equal to autodiff of `LIF.step` with the multiplicative,
undifferentiated reset; autodiff stores u, i and z of every step, and multiplies inside the loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snnjax.dynamics.lif import LIFState
from snnjax.surrogate import Derivative

Recurrent = Callable[[jax.Array, Any], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def lif_scan(
    derivative: Derivative,
    recurrent: Recurrent | None,
    membrane: bool,
    drive: jax.Array,
    state: LIFState,
    weights: Any,
    coefficients: tuple[jax.Array, ...],
    steepness: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array | None, LIFState]:
    """Spikes and, if `membrane`, the membrane (T, B, ...), and the final state.

    `coefficients` = (lm, 1 - lm, ls, theta) are constants: their gradient is zero.
    """
    lm, gain, ls, theta = coefficients

    def body(carry: LIFState, d: jax.Array) -> tuple[LIFState, jax.Array]:
        u, i = carry
        z = u > theta
        i_next = ls * i + d
        if recurrent is not None:
            i_next = i_next + recurrent(z.astype(u.dtype), weights)
        return LIFState(jnp.where(z, 0, lm * u + gain * i), i_next), u

    final, u = jax.lax.scan(body, state, drive)
    return (u > theta).astype(u.dtype), u if membrane else None, final


def _forward(derivative, recurrent, membrane, drive, state, weights, coefficients, steepness):  # type: ignore[no-untyped-def]
    out: Any = lif_scan(derivative, recurrent, True, drive, state, weights, coefficients, steepness)
    z, u, final = out
    return (z, u if membrane else None, final), (u, weights, coefficients, steepness)


def _backward(derivative, recurrent, membrane, residuals, cotangents):  # type: ignore[no-untyped-def]
    u, weights, coefficients, steepness = residuals
    lm, gain, ls, theta = coefficients
    gz_out, gu_out, final = cotangents

    def body(carry: LIFState, at_t: tuple[jax.Array, jax.Array, jax.Array | None]) -> tuple[LIFState, jax.Array]:
        gu, gi = carry
        u_t, gz, gu_t = at_t
        if recurrent is not None:
            (gz_recurrent,) = jax.vjp(lambda z: recurrent(z, weights), jnp.zeros_like(u_t))[1](gi)
            gz = gz + gz_recurrent
        kept = jnp.where(u_t > theta, 0, gu)
        gu_next = lm * kept + derivative(u_t - theta, *steepness) * gz
        return LIFState(gu_next if gu_t is None else gu_next + gu_t, ls * gi + gain * kept), gi

    g_state, g_drive = jax.lax.scan(body, final, (u, gz_out, gu_out), reverse=True)
    g_weights = None
    if recurrent is not None:
        z = (u > theta).astype(u.dtype)
        (g_weights,) = jax.vjp(lambda w: jax.vmap(recurrent, (0, None))(z, w), weights)[1](g_drive)
    return g_drive, g_state, g_weights, *jax.tree.map(jnp.zeros_like, (coefficients, steepness))


lif_scan.defvjp(_forward, _backward)
