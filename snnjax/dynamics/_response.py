r"""The post-synaptic potential of any neuron, measured from its `step`.

The neuron starts in its initial state and receives one impulse of size a in the first step. With
u_a[k] the membrane after that, and u_0[k] that of a neuron without an impulse,

    eps[k] = (u_a[k] - u_0[k]) / a              ebar = dt sum_k eps[k],  ehat = dt sum_k eps[k]^2

if the neuron is linear below its threshold. The size must be small enough that it does not spike,
and otherwise as large as possible, so that non-linear dynamics show. Such sizes depend on the units
of the model, so 32 copies run at once, with a = 2^10, -2^9, 2^8, ... 2^-20 and 0. The largest a is
chosen for which the copies with a and -2 a do not spike; the two must have the same eps
(superposition).

The copies run until the eps of all that did not spike has decayed. That is checked after 256 steps
and after each doubling: the largest |eps| since the last check must be below 1e-6 of the peak, or
below the rounding of the membrane. A `jax.lax.while_loop` does that with traced parameters, too,
under jit and vmap, but has no reverse mode; models with a closed form do not need it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.psp import Integrals

if TYPE_CHECKING:
    from snnjax.dynamics._neuron import Neuron

SIZES = (*((-2.0) ** k for k in range(10, -21, -1)), 0.0)
FIRST, LAST = 2**8, 2**17
"""Steps after which the decay is checked for the first time, and after which the loop gives up."""
DECAYED = 1e-6
"""Largest |eps| that counts as decayed, relative to its peak."""
LINEAR = 1e-2
"""Largest difference of the responses to a and -2 a that counts as linear, relative to the peak."""


@runtime_checkable
class HasMembrane(Protocol):
    """A state of neurons with a membrane potential `u`, an array (batch, ...features)."""

    @property
    def u(self) -> jax.Array: ...


class Response(NamedTuple):
    """The response of each neuron to an impulse, arrays of the shape of the neuron's parameters.

    Attributes:
        ebar: Integral of the response, s.
        ehat: Integral of its square, s.
        quiet: Whether there is a size for which the neuron does not spike.
        peak: Largest |eps|.
        decayed: Whether eps decayed within `LAST` steps.
        deviation: Largest difference between the responses to a and -2 a, relative to the peak.
    """

    ebar: jax.Array
    ehat: jax.Array
    quiet: jax.Array
    peak: jax.Array
    decayed: jax.Array
    deviation: jax.Array


class _Sums(NamedTuple):
    """Sums and extremes of eps over time, (sizes, ...features); `spiked`: any output so far."""

    eps: jax.Array
    squares: jax.Array
    peak: jax.Array
    recent: jax.Array
    scale: jax.Array
    deviation: jax.Array
    spiked: jax.Array


def arrays_of(neuron: Neuron) -> list[jax.Array | np.ndarray]:
    """Return the arrays among the parameters of a neuron, which need not be a registered pytree."""
    fields = [getattr(neuron, f.name) for f in dataclasses.fields(neuron)]  # type: ignore[arg-type]
    return [x for x in jax.tree.leaves(fields) if isinstance(x, jax.Array | np.ndarray)]


def response(neuron: Neuron, drive_of: Callable[[jax.Array], PyTree]) -> Response:
    """Measure the response to an impulse.

    Args:
        neuron: The neuron. Its parameters may be traced.
        drive_of: From an input (sizes, ...features) to the drive of a step.
    """
    dtype = jnp.result_type(float)
    features = np.broadcast_shapes(*(x.shape for x in arrays_of(neuron)))
    sizes = jnp.asarray(SIZES, dtype).reshape(-1, *(1,) * len(features))
    zeros = jnp.zeros((len(SIZES), *features), dtype)

    def record(sums: _Sums, state: HasMembrane, z: jax.Array) -> _Sums:
        u = state.u.astype(dtype)
        eps = (u - u[-1:]) / jnp.where(sizes == 0, 1, sizes)
        size = jnp.abs(eps)
        return _Sums(
            sums.eps + eps,
            sums.squares + eps**2,
            jnp.maximum(sums.peak, size),
            jnp.maximum(sums.recent, size),
            jnp.maximum(sums.scale, jnp.abs(u)),
            jnp.maximum(sums.deviation, jnp.abs(eps[:-1] - eps[1:])),
            sums.spiked | (z != 0),
        )

    def decayed(sums: _Sums) -> jax.Array:
        rounding = 8 * jnp.finfo(dtype).eps * sums.scale / jnp.where(sizes == 0, 1, abs(sizes))
        return sums.recent <= DECAYED * sums.peak + rounding

    def unfinished(carry: tuple[jax.Array, HasMembrane, _Sums]) -> jax.Array:
        k, _, sums = carry
        is_check = (k >= FIRST) & ((k & (k - 1)) == 0)
        done = jnp.all(decayed(sums) | sums.spiked)
        return ~(is_check & done) & (k < LAST)

    def advance(
        carry: tuple[jax.Array, HasMembrane, _Sums],
    ) -> tuple[jax.Array, HasMembrane, _Sums]:
        k, state, sums = carry
        is_check = (k >= FIRST) & ((k & (k - 1)) == 0)
        sums = sums._replace(recent=jnp.where(is_check, 0, sums.recent))
        state, z = neuron.step(state, drive_of(zeros))
        return k + 1, state, record(sums, state, z)

    start = neuron.initial_state(zeros.shape, dtype)
    if not isinstance(start, HasMembrane):
        got = f"the state {type(start).__name__} of {type(neuron).__name__} has none"
        raise TypeError(f"a kernel is measured at the membrane u of a state, but {got}")
    state, z = neuron.step(start, drive_of(zeros + sizes))
    nothing = _Sums(zeros, zeros, zeros, zeros, zeros, zeros[:-1], zeros > 0)
    first = (jnp.asarray(1), state, record(nothing, state, z))
    _, _, sums = jax.lax.while_loop(unfinished, advance, first)
    # Pair j: the copies j, with -2 a, and j + 1, with a.
    quiet = ~sums.spiked[:-2] & ~sums.spiked[1:-1] & ~sums.spiked[-1:]
    chosen = jnp.argmax(quiet, axis=0)[None]

    def pick(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, chosen, axis=0)[0]

    peak = pick(sums.peak[1:-1])
    return Response(
        neuron.dt * pick(sums.eps[1:-1]),
        neuron.dt * pick(sums.squares[1:-1]),
        quiet.any(axis=0),
        peak,
        pick(decayed(sums)[1:-1]),
        pick(sums.deviation[:-1]) / jnp.where(peak > 0, peak, 1),
    )


def integrals_of(r: Response, neuron: Neuron) -> Integrals:
    """Return the integrals of a response, or raise if the neuron has none.

    Args:
        r: The response. Where it is traced, integrals that do not exist become NaN instead.
        neuron: The neuron, for messages.

    Raises:
        ValueError: The neuron spikes without input, its input does not reach the membrane or has an
            effect that does not decay, or it is not linear below its threshold.
    """
    name = type(neuron).__name__
    hint = "define the property kernel of the neuron, or give FluctuationDriven(kernel=...)"
    checks = (
        (r.quiet, "spikes without input or after the smallest input (2^-20)"),
        (r.peak > 0, "does not move its membrane state.u after an input"),
        (r.decayed, f"must forget an input within {LAST} steps, and does not"),
        (
            r.deviation <= LINEAR,
            "must be linear below its threshold: -2 times an input must move it -2 times as far",
        ),
    )
    good = jnp.asarray(True)
    for holds, problem in checks:
        known = _check.concrete(holds)
        if known is not None and not known.all():
            raise ValueError(f"neuron {name} {problem}; so its kernel cannot be measured: {hint}")
        good &= holds
    return Integrals(neuron.dt, *(jnp.where(good, x, jnp.nan) for x in (r.ebar, r.ehat)))
