r"""The scan over plain neurons with any number of currents, with a hand-written gradient.

The neurons are `LIF`, `ExcInhLIF` (two currents), `Leaky` and `IF` (none).

The forward pass stores the trace v = u - theta and nothing else, in the dtype `Program.trace`.
Rounding preserves the sign of v, hence the spikes; it only perturbs the surrogate derivative. The
backward pass runs from t = T - 1 down to 0, with r = 0 where v[t] > 0 and 1 elsewhere, h the
surrogate derivative, g. the cotangents, and s_k = 1 or -1 the sign of current k in the membrane:

    gdrive_k[t] = gi_k[t+1]
    gz          = gz[t] + sum_k (d recurrent_k / d z)^T gi_k[t+1]
    gu[t]       = lm r gu[t+1] + h(v[t]) gz + gu_out[t]
    gi_k[t]     = ls_k gi_k[t+1] + s_k (1 - lm) r gu[t+1]

Without currents (`Leaky`, `IF`), the drive itself moves the membrane: gdrive[t] = gain r gu[t+1].
The factor 1 - lm is called gain; it is 1 in an `IF`, where lm is 1, too.

The gradient of the recurrent weights is one product over all steps after the loop. If recurrent_k
is a `Memory`, it also takes and returns a queue, and the loop backward carries the cotangent of the
queue. No queue is stored. Without recurrence both directions are `_over_time.elementwise`. The
result equals autodiff of the `step` of these neurons with the multiplicative, undifferentiated
reset. Autodiff stores u, all i and z of every step, and multiplies inside the loop.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnjax._pytree import PyTree
from snnjax.dynamics import _over_time
from snnjax.dynamics._neuron import Memory, Recurrent, State, Weights, own_drive
from snnjax.surrogate import Derivative

Currents = tuple[jax.Array, ...]
"""One array for each synaptic current."""
Output = tuple[jax.Array, jax.Array | None, State, PyTree]
"""Spikes, the membrane or None, the final state and queue; or their cotangents."""
Steepness = tuple[jax.Array, ...]
"""Parameters of a surrogate derivative."""


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A recurrence whose drive is a tuple of arrays.

    Equal functions give equal objects, so that jit finds its program again.
    """

    recurrent: Recurrent | Memory

    def __call__(
        self, z: jax.Array, weights: Weights, queue: PyTree = None
    ) -> tuple[PyTree, Currents]:
        """Return the next queue, and what spikes z of one step bring to each current."""
        queue, own = own_drive(self.recurrent, z, weights, queue)
        return queue, tuple(jax.tree.leaves(own))

    def whole(
        self, z: jax.Array, weights: Weights, queue: PyTree = None
    ) -> tuple[PyTree, Currents]:
        """Return the last queue, and what the spikes z of all steps bring to each current."""
        if isinstance(self.recurrent, Memory):
            queue, own = self.recurrent.sequence(z, weights, queue)
            return queue, _onto(z, jax.tree.leaves(own))
        return queue, jax.vmap(lambda z, w: _onto(z, self(z, w)[1]), (0, None))(z, weights)


def _onto(z: jax.Array, own: Sequence[jax.Array]) -> Currents:
    return tuple(jnp.broadcast_to(r, z.shape) for r in own)


class Program(NamedTuple):
    """What a scan is compiled for.

    Attributes:
        derivative: The surrogate derivative.
        elementwise: Whether each element of it depends on the same element of v alone.
        recurrent: What spikes bring to each current, or None.
        signs: Sign of each current in the membrane; empty if the drive itself moves it.
        membrane: Whether the trace of the membrane is returned.
        trace: Dtype of the stored trace v.
    """

    derivative: Derivative
    elementwise: bool
    recurrent: Leaves | None
    signs: tuple[int, ...]
    membrane: bool
    trace: np.dtype


Coefficients = tuple[jax.Array, jax.Array, Sequence[jax.Array], jax.Array]
"""The constants of a scan: lm, gain, ls of each current, and theta."""


class Arguments(NamedTuple):
    """The arrays of a scan, or their cotangents.

    Attributes:
        drive: One array (time, batch, ...features) per current, or one without currents. These, and
            what `Program.recurrent` returns, broadcast to the shape of the membrane.
        state: (u, *currents) before the first step.
        weights: Second argument of `Program.recurrent`.
        coefficients: Constants: their gradient is zero.
        steepness: Parameters of the surrogate derivative, likewise.
        queue: Queue of `Program.recurrent` before the first step; None without a `Memory`.
    """

    drive: Currents
    state: State
    weights: Weights
    coefficients: Coefficients
    steepness: Steepness
    queue: PyTree = None


Residuals = tuple[jax.Array, tuple[jax.Array | None, ...], Weights, Coefficients, Steepness, PyTree]
"""Trace v, drives that broadcast to the membrane (None for others), and further `Arguments`."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def lif_scan(program: Program, given: Arguments) -> Output:
    """Run the neurons.

    Args:
        program: What is compiled.
        given: The arrays.

    Returns:
        Spikes, the membrane or None, both (time, batch, ...features), the final state and queue.
    """
    return _forward(program, given)[0]


def _forward(program: Program, given: Arguments) -> tuple[Output, Residuals]:
    drive, state, weights, coefficients, steepness, queue = given
    recurrent = program.recurrent

    def body(
        constants: Coefficients, carry: tuple[State, PyTree], d: Currents
    ) -> tuple[tuple[State, PyTree], tuple[jax.Array, jax.Array | None]]:
        lm, gain, ls, theta = constants
        (u, *i), queue = carry
        z = u > theta
        sums = [ls_k * i_k + d_k for ls_k, i_k, d_k in zip(ls, i, d, strict=True)] if i else d
        if recurrent is not None:
            queue, own = recurrent(z.astype(u.dtype), weights, queue)
            sums = [i_k + r_k for i_k, r_k in zip(sums, own, strict=True)]
        # without currents, the drive reaches the membrane in the same step
        net = functools.reduce(jnp.add, map(_signed, program.signs, i)) if i else sums[0]
        u_next = jnp.where(z, 0, lm * u + gain * net)
        v = (u - theta).astype(program.trace)
        return ((u_next, *(sums if i else ())), queue), (v, u if program.membrane else None)

    alone = recurrent is None and all(d.shape[1:] == state[0].shape for d in drive)
    run = _over_time.elementwise if alone else _over_time.loop
    (final, after), (v, u) = run(body, coefficients, (state, queue), drive)
    # Drives that broadcast are small. A whole drive must not be kept for the sake of its shape.
    broadcast = tuple(None if d.shape == v.shape else d for d in drive)
    output = ((v > 0).astype(state[0].dtype), u, final, after)
    return output, (v, broadcast, weights, coefficients, steepness, queue)


def _backward(program: Program, residuals: Residuals, cotangents: Output) -> tuple[Arguments]:
    v, broadcast, weights, coefficients, steepness, queue = residuals
    gz_out, gu_out, final, after = cotangents
    dtype = gz_out.dtype
    recurrent = program.recurrent

    def onto_all(z: jax.Array, q: PyTree) -> tuple[PyTree, Currents]:
        assert recurrent is not None
        q, own = recurrent(z, weights, q)
        return q, _onto(z, own)

    def body(
        constants: tuple[Coefficients, Steepness],
        carry: tuple[State, PyTree],
        at_t: tuple[jax.Array, jax.Array, jax.Array | None],
    ) -> tuple[tuple[State, PyTree], Currents]:
        (lm, gain, ls, _), steepness = constants
        (gu, *gi), gq = carry
        v_t, gz, gu_t = at_t
        received = tuple(gi) or (gain * jnp.where(v_t > 0, 0, gu),)
        if recurrent is not None:
            # the recurrence is linear, so that its derivative is the same at silence
            silence = jnp.zeros_like(gz), jax.tree.map(jnp.zeros_like, gq)
            _, transposed = jax.vjp(onto_all, *silence)
            gz_recurrent, gq = transposed((gq, received))
            gz = gz + gz_recurrent
        kept = jnp.where(v_t > 0, 0, gu)
        gu_next = lm * kept + program.derivative(v_t.astype(dtype), *steepness) * gz
        each = zip(program.signs, ls, gi, strict=True)
        gi_next = [ls_k * gi_k + _signed(sign, gain * kept) for sign, ls_k, gi_k in each]
        return ((gu_next if gu_t is None else gu_next + gu_t, *gi_next), gq), received

    alone = recurrent is None and program.elementwise
    run = _over_time.elementwise if alone else _over_time.loop
    at_all = (v, gz_out, gu_out)
    constants = coefficients, steepness
    (g_state, g_queue), g_drive = run(body, constants, (final, after), at_all, reverse=True)
    g_weights = None
    if recurrent is not None:
        z = (v > 0).astype(dtype)
        _, transposed = jax.vjp(lambda w: recurrent.whole(z, w, queue), weights)
        (g_weights,) = transposed((after, g_drive))
    pairs = zip(g_drive, broadcast, strict=True)
    g_drive = tuple(g if d is None else _sum_to(g, d.shape) for g, d in pairs)
    g_coefficients, g_steepness = jax.tree.map(jnp.zeros_like, constants)
    return (Arguments(g_drive, g_state, g_weights, g_coefficients, g_steepness, g_queue),)


def _signed(sign: int, x: jax.Array) -> jax.Array:
    return x if sign > 0 else -x


def _sum_to(g: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the cotangent of an array of `shape`, of as many axes, that was broadcast to g's."""
    summed = [k for k, (n, m) in enumerate(zip(g.shape, shape, strict=True)) if n != m]
    return g.sum(summed, keepdims=True)


lif_scan.defvjp(_forward, _backward)
# One object for all calls, so that eager calls share its cache. Under jit it is inlined.
jitted_lif_scan = jax.jit(lif_scan, static_argnums=0)
