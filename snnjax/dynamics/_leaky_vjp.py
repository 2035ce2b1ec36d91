r"""The scan over a leaky integrator with constant coefficients, and its backward pass.

The backward pass is the same filter, run from the end.

o[t+1] = lr o[t] + (1 - lr) i[t],   i[t+1] = ls i[t] + drive[t],   trace[t] = o[t+1]

g[t]      = go[t+1] + gtrace[t]                     g.: cotangents, from t = T - 1 down to 0
gdrive[t] = gi[t+1]
go[t]     = lr g[t],   gi[t] = ls gi[t+1] + (1 - lr) g[t]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from snnjax.dynamics import _over_time

State = tuple[jax.Array, jax.Array]
"""(o, i), or the cotangents of both."""
Coefficients = tuple[jax.Array, jax.Array, jax.Array]
"""(lr, 1 - lr, ls)."""


@jax.custom_vjp
def leaky_scan(
    coefficients: Coefficients, state: State, drive: jax.Array
) -> tuple[State, jax.Array]:
    """Run the filter.

    Args:
        coefficients: (lr, 1 - lr, ls), constants: their gradient is zero.
        state: (o, i) before the first step.
        drive: (time, batch, ...features).

    Returns:
        The final state, and the trace of the drive's shape.
    """

    def body(constants: Coefficients, carry: State, d: jax.Array) -> tuple[State, jax.Array]:
        lr, gain, ls = constants
        o, i = carry
        o_next = lr * o + gain * i
        return (o_next, ls * i + d), o_next

    return _over_time.elementwise(body, coefficients, state, drive)


def _backward(
    coefficients: Coefficients, cotangents: tuple[State, jax.Array]
) -> tuple[Coefficients, State, jax.Array]:
    def body(constants: Coefficients, carry: State, gtrace: jax.Array) -> tuple[State, jax.Array]:
        lr, gain, ls = constants
        go, gi = carry
        g = go + gtrace
        return (lr * g, ls * gi + gain * g), gi

    g_state, g_drive = _over_time.elementwise(body, coefficients, *cotangents, reverse=True)
    return jax.tree.map(jnp.zeros_like, coefficients), g_state, g_drive


leaky_scan.defvjp(lambda *given: (leaky_scan(*given), given[0]), _backward)
jitted_leaky_scan = jax.jit(leaky_scan)
