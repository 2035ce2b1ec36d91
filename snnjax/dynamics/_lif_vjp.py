r"""The scan over a plain LIF population, of one synaptic current or several, with its backward pass written by hand.

Forward stores the trace v = u - theta and nothing else, in the dtype `trace`: rounding keeps its sign, and so the spikes, and moves the
surrogate derivative alone. Backward, from t = T - 1 down to 0, with r = 0 where v[t] > 0 and 1 elsewhere, h the surrogate derivative, g. the
cotangents, and s_k = 1 or -1 the sign with which current k enters the membrane:

    gdrive_k[t] = gi_k[t+1]
    gz          = gz[t] + sum_k (d recurrent_k / d z)^T gi_k[t+1]
    gu[t]       = lm r gu[t+1] + h(v[t]) gz + gu_out[t]
    gi_k[t]     = ls_k gi_k[t+1] + s_k (1 - lm) r gu[t+1]

The recurrent weights' gradient is one product over all steps after the loop. Without recurrence both directions are `_over_time.elementwise`.
Equal to autodiff of `LIF.step` and `ExcInhLIF.step` with the multiplicative, undifferentiated reset; autodiff stores u, all i and z of every step, and
multiplies inside the loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snnjax import surrogate
from snnjax.dynamics import _over_time
from snnjax.surrogate import Derivative

Currents = tuple[jax.Array, ...]
Recurrent = Callable[[jax.Array, Any], Currents]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3, 4))
def lif_scan(
    derivative: Derivative,
    recurrent: Recurrent | None,
    signs: tuple[int, ...],
    membrane: bool,
    trace: Any,
    drive: Currents,
    state: tuple[jax.Array, ...],
    weights: Any,
    coefficients: Any,
    steepness: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array | None, tuple[jax.Array, ...]]:
    """Spikes and, if `membrane`, the membrane (T, B, ...), and the final state.

    `drive`, and what `recurrent` returns, have an array for each current, of the membrane's shape or one that broadcasts to it; `state` is
    (u, *currents). `coefficients` = (lm, 1 - lm, (ls, ...), theta) are constants: their gradient is zero. `trace`: dtype of what backward needs.
    """
    v, u, final = _run(recurrent, signs, membrane, trace, drive, state, weights, coefficients)
    return (v > 0).astype(state[0].dtype), u, final


def _run(recurrent, signs, membrane, trace, drive, state, weights, coefficients):  # type: ignore[no-untyped-def]
    """The traces v and, if `membrane`, u, and the final state."""

    def body(constants: Any, carry: tuple[jax.Array, ...], d: Currents) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, jax.Array | None]]:
        lm, gain, ls, theta = constants
        u, *i = carry
        z = u > theta
        i_next = [ls_k * i_k + d_k for ls_k, i_k, d_k in zip(ls, i, d, strict=True)]
        if recurrent is not None:
            i_next = [i_k + r_k for i_k, r_k in zip(i_next, recurrent(z.astype(u.dtype), weights), strict=True)]
        net = functools.reduce(jnp.add, map(_signed, signs, i))
        return (jnp.where(z, 0, lm * u + gain * net), *i_next), ((u - theta).astype(trace), u if membrane else None)

    alone = recurrent is None and all(d.shape[1:] == state[0].shape for d in drive)
    run = _over_time.elementwise if alone else _over_time.loop
    final, (v, u) = run(body, coefficients, state, drive)
    return v, u, final


def _forward(derivative, recurrent, signs, membrane, trace, drive, state, weights, coefficients, steepness):  # type: ignore[no-untyped-def]
    v, u, final = _run(recurrent, signs, membrane, trace, drive, state, weights, coefficients)
    broadcast = tuple(None if d.shape == v.shape else d for d in drive)  # small; a whole drive must not be kept for the sake of its shape
    return ((v > 0).astype(state[0].dtype), u, final), (v, broadcast, weights, coefficients, steepness)


def _backward(derivative, recurrent, signs, membrane, trace, residuals, cotangents):  # type: ignore[no-untyped-def]
    v, broadcast, weights, coefficients, steepness = residuals
    gz_out, gu_out, final = cotangents
    dtype = gz_out.dtype

    def onto_all(z: jax.Array, w: Any) -> Currents:
        assert recurrent is not None
        return tuple(jnp.broadcast_to(r, z.shape) for r in recurrent(z, w))

    def body(
        constants: Any, carry: tuple[jax.Array, ...], at_t: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[tuple[jax.Array, ...], Currents]:
        (lm, gain, ls, _), steepness = constants
        gu, *gi = carry
        v_t, gz, gu_t = at_t
        if recurrent is not None:
            (gz_recurrent,) = jax.vjp(lambda z: onto_all(z, weights), jnp.zeros_like(gz))[1](tuple(gi))
            gz = gz + gz_recurrent
        kept = jnp.where(v_t > 0, 0, gu)
        gu_next = lm * kept + derivative(v_t.astype(dtype), *steepness) * gz
        gi_next = [ls_k * gi_k + _signed(sign, gain * kept) for sign, ls_k, gi_k in zip(signs, ls, gi, strict=True)]
        return (gu_next if gu_t is None else gu_next + gu_t, *gi_next), tuple(gi)

    # what a derivative of the user's own does is not known
    run = _over_time.elementwise if recurrent is None and derivative.__module__ == surrogate.__name__ else _over_time.loop
    g_state, g_drive = run(body, (coefficients, steepness), final, (v, gz_out, gu_out), reverse=True)
    g_weights = None
    if recurrent is not None:
        z = (v > 0).astype(dtype)
        (g_weights,) = jax.vjp(lambda w: jax.vmap(onto_all, (0, None))(z, w), weights)[1](g_drive)
    g_drive = tuple(g if d is None else _sum_to(g, d.shape) for g, d in zip(g_drive, broadcast, strict=True))
    return g_drive, g_state, g_weights, *jax.tree.map(jnp.zeros_like, (coefficients, steepness))


def _signed(sign: int, x: jax.Array) -> jax.Array:
    return x if sign > 0 else -x


def _sum_to(g: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The cotangent of what was broadcast from `shape` to g's, both of the same number of axes."""
    return g.sum([k for k, (n, m) in enumerate(zip(g.shape, shape, strict=True)) if n != m], keepdims=True)


lif_scan.defvjp(_forward, _backward)
