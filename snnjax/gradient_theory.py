r"""What a layer of LIF neurons does to a gradient that it passes down, and to two inputs going up.

Backward. A layer gets dL/dz from above and passes dL/dx on to what is below. With h = dz/du, the
surrogate derivative, and eps[k], the membrane k steps after one input spike,

    dL/dx_j[t] = sum_i w_ji sum_k eps[k] h_i[t+k] dL/dz_i[t+k]        i: the fan_out neurons

For independent weights of standard deviation sigma_w, a membrane that is normally distributed, and
a reset that is not differentiated, the mean square grows by chi, and the root mean square by its
square root. How much depends on how the errors dL/dz vary over time:

    white in time      chi = fan_out sigma_w^2 (sum_k eps[k]^2) E[h^2]     sum_k eps[k]^2 = ehat/dt
    constant in time   chi = fan_out sigma_w^2 (sum_k eps[k])^2 E[h]^2     sum_k eps[k]   = ebar/dt

ebar and ehat are those of `snnjax.psp`. E[h] and E[h^2] are means over the membrane:

    E[h^m] = int h(u - theta)^m p(u) du                               p = Normal(mu_u, sigma_u)

For a surrogate much narrower than sigma_u, p is p(theta) all over it, and what is left is the area
below h and below h^2:

                            E[h] / p(theta)              E[h^2] / p(theta)
    superspike              2 / beta                     2 / (3 beta)
      rescaled              2 (beta theta + 1)^2 / beta  2 (beta theta + 1)^4 / (3 beta)
      asymptotic            2                            2 beta / 3
    fast_sigmoid            2 / slope                    2 / (3 slope)
    atan                    1                            alpha / 4
    triangular              height width                 2 height^2 width / 3
    sigmoid                 1                            beta / 6

A layer with as many inputs as neurons whose membrane is on target has fan_out sigma_w^2 = sigma_u^2
/ (nu ehat), so that its gain for white errors is 1 where

    E[h^2] = nu dt / sigma_u^2            superspike: beta -> 2 p(theta) sigma_u^2 / (3 nu dt)

Forward. Two inputs give a neuron two membranes. Where they correlate by c, the events u > theta
correlate by s c, to first order in c:

    s = phi(k)^2 / (p (1 - p))            k = (theta - mu_u) / sigma_u,  p = Phi(-k)

phi and Phi: density and distribution function of Normal(0, 1). s <= 2/pi, reached at k = 0.

tests/test_gradient_theory.py measures the effects that these formulas leave out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.scipy.stats import norm

from snnjax import _check
from snnjax._check import Scalar
from snnjax.psp import PSP
from snnjax.surrogate import SpikeFunction

__all__ = ["surrogate_moments", "backward_gain", "steepness_for_gain", "correlation_slope"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_HALVINGS = 24
_DEVIATIONS = 10
_RANGE = (1e-3, 1e5)
_BISECTIONS = 40


class SurrogateMoments(NamedTuple):
    """Moments of the surrogate derivative h over the membrane.

    Attributes:
        mean: E[h], per unit of the membrane.
        power: E[h^2], per squared unit.
    """

    mean: jax.Array
    power: jax.Array


class BackwardGain(NamedTuple):
    """Root-mean-square gradient below a layer over that above it, sqrt(chi).

    Attributes:
        white: For errors that are independent from step to step.
        constant: For errors that do not change over time.
    """

    white: jax.Array
    constant: jax.Array


def surrogate_moments(
    spike: SpikeFunction, *, mu_u: Scalar, sigma_u: Scalar, theta: Scalar = 1.0
) -> SurrogateMoments:
    """Return E[h] and E[h^2] of a surrogate derivative over a normally distributed membrane.

    Each side of the threshold is cut into pieces: halved again and again towards the threshold, one
    standard deviation each where the membrane is, and where h may bend, at its first parameter and
    at the inverse of it. On each piece the integral is Gauss-Legendre's, out to 10 standard
    deviations. So both moments are right to 3e-6 in float32 however steep h is, from 0.1 to 1000,
    and to 1e-11 with x64.

    For a steep h they tend to the table at the top of this module: for superspike E[h] to
    2 p(theta) / beta, and E[h^2] to 2 p(theta) / (3 beta).

    Args:
        spike: The surrogate. Its parameters broadcast with the other arguments.
        mu_u: Mean of the membrane.
        sigma_u: Standard deviation of the membrane over time and neurons; > 0.
        theta: Firing threshold.

    Returns:
        `SurrogateMoments(mean, power)`, in at least float32, of the broadcast shape. Pure: works
        under jit, vmap and grad.

    Raises:
        ValueError: An argument is not finite, or sigma_u is not positive.
        TypeError: `spike` is no `SpikeFunction`.

    >>> from snnjax.surrogate import superspike
    >>> h = surrogate_moments(superspike(20.0), mu_u=0.0, sigma_u=1.0)
    >>> f"{h.mean:.4f} {h.power:.5f}"
    '0.0235 0.00807'
    """
    if not isinstance(spike, SpikeFunction):
        got = f"got {type(spike).__name__}; use snnjax.surrogate.superspike()"
        raise TypeError(f"spike must be a SpikeFunction, {got}")
    _check.number("mu_u", mu_u)
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("theta", theta)
    return _moments(spike, mu_u, sigma_u, theta)


@jax.jit
def _moments(
    spike: SpikeFunction, mu_u: Scalar, sigma_u: Scalar, theta: Scalar
) -> SurrogateMoments:
    values = (mu_u, sigma_u, theta, *spike.steepness)
    dtype = _check.wide(jnp.result_type(*values))
    mu_u, sigma_u, theta, *steepness = (jnp.asarray(v, dtype)[..., None] for v in values)
    centre = mu_u - theta
    v, weight = _quadrature(centre, sigma_u, steepness)
    # the first axis of v is the side of the threshold
    h = spike.with_steepness([s[..., None] for s in steepness]).derivative(v)
    p = norm.pdf(v, centre[..., None], sigma_u[..., None]) * weight
    mean, power = ((h**m * p).sum(axis=(0, -2, -1)) for m in (1, 2))
    return SurrogateMoments(mean, power)


def _quadrature(
    centre: jax.Array, sigma_u: jax.Array, steepness: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return nodes v and weights (2 sides, ..., pieces, 8) for integrals over a normal membrane.

    Args:
        centre: Mean of v = u - theta, (..., 1).
        sigma_u: Standard deviation of v, (..., 1).
        steepness: Parameters of the surrogate, each (..., 1).
    """
    dtype = centre.dtype
    nodes, weights = (jnp.asarray(a, dtype) for a in (_NODES, _WEIGHTS))
    reach = jnp.abs(centre) + _DEVIATIONS * sigma_u
    halved = reach * jnp.exp2(-jnp.arange(_HALVINGS + 1, dtype=dtype))
    body = centre + sigma_u * jnp.arange(-_DEVIATIONS, _DEVIATIONS + 1, dtype=dtype)
    bends = [bend for s in steepness[:1] for bend in (s, 1 / s)]
    shape = jnp.broadcast_shapes(*(a.shape[:-1] for a in (centre, sigma_u, *steepness)))
    sides = []
    for sign in (-1, 1):
        marks = (jnp.zeros_like(reach), halved, sign * body, *bends)
        spread = [jnp.broadcast_to(a, (*shape, a.shape[-1])) for a in marks]
        edges = jnp.sort(jnp.clip(jnp.concatenate(spread, axis=-1), 0, reach), axis=-1)
        half = jnp.diff(edges, axis=-1)[..., None] / 2
        sides.append((sign * (edges[..., :-1, None] + half * (1 + nodes)), half * weights))
    v, weight = (jnp.stack(parts) for parts in zip(*sides, strict=True))
    return v, weight


def backward_gain(
    spike: SpikeFunction,
    *,
    fan_out: Scalar,
    sigma_w: Scalar,
    mu_u: Scalar,
    sigma_u: Scalar,
    kernel: PSP,
    theta: Scalar = 1.0,
) -> BackwardGain:
    """Return how much a feed-forward layer amplifies the gradient that it passes to its input.

    Args:
        spike: Surrogate of the layer's neurons.
        fan_out: Neurons that an input of the layer is connected to.
        sigma_w: Standard deviation of the weights, whose mean is 0.
        mu_u: Mean of the layer's membranes.
        sigma_u: Their standard deviation over time and neurons.
        kernel: Post-synaptic potential, for example `LIF().kernel`.
        theta: Firing threshold.

    Returns:
        `BackwardGain(white, constant)`: two amplitudes, sqrt(chi), for white and for constant
        errors. Errors of a real loss are neither; `snnjax.calibration` measures their gain.

    Raises:
        ValueError: An argument is out of range.

    >>> from snnjax.dynamics import LIF
    >>> from snnjax.surrogate import superspike
    >>> from snnjax.theory import Afferent, connection_weights
    >>> kernel = LIF().kernel
    >>> sigma_w = connection_weights(0.0, 1.0, Afferent(n=128, nu=10.0), kernel).sigma_w
    >>> layer = dict(fan_out=128, sigma_w=sigma_w, mu_u=0.0, sigma_u=1.0, kernel=kernel)
    >>> [f"{g:.2f}" for beta in (2.0, 20.0) for g in backward_gain(superspike(beta), **layer)]
    ['1.99', '7.36', '0.64', '0.91']
    """
    _check.number("fan_out", fan_out, above=0)
    _check.number("sigma_w", sigma_w, at_least=0)
    h = surrogate_moments(spike, mu_u=mu_u, sigma_u=sigma_u, theta=theta)
    scale: Any = sigma_w * jnp.sqrt(fan_out)
    power: Any = kernel.power() / kernel.dt
    mean: Any = kernel.mean() / kernel.dt
    return BackwardGain(scale * jnp.sqrt(power * h.power), scale * mean * h.mean)


def steepness_for_gain(
    spike: SpikeFunction,
    *,
    nu: Scalar,
    mu_u: Scalar,
    sigma_u: Scalar,
    dt: Scalar,
    theta: Scalar = 1.0,
    gain: Scalar = 1.0,
) -> jax.Array:
    """Return the first parameter of a surrogate for which white errors have the gain `gain`.

    The layer has as many inputs as neurons, and weights that put its membrane at sigma_u. Then the
    kernel and the number of neurons cancel: E[h^2] = gain^2 nu dt / sigma_u^2. The best steepness
    therefore depends on the rate of the input and on the time step. If it is large, it approaches
    beta = 2 p(theta) sigma_u^2 / (3 nu dt) for superspike.

    Args:
        spike: The surrogate; its other parameters are kept.
        nu: Rate of the layer's inputs, Hz.
        mu_u: Mean of the layer's membranes.
        sigma_u: Their standard deviation over time and neurons.
        dt: Time step, s.
        theta: Firing threshold.
        gain: Target, > 0.

    Returns:
        The steepness, of the broadcast shape; between 0.001 and 100,000, found by bisection. If
        several values have this gain, it is one of them. If none has it and values are traced, it
        is NaN. The function is pure: it works under jit and vmap.

    Raises:
        ValueError: An argument is out of range, or no steepness has this gain.
        TypeError: `spike` has no parameter.

    >>> from snnjax.surrogate import superspike
    >>> target = dict(nu=10.0, mu_u=0.0, sigma_u=1.0, dt=2e-3)
    >>> f"{steepness_for_gain(superspike(), **target):.2f}"
    '8.06'
    """
    _check.number("nu", nu, above=0, unit="Hz")
    _check.number("dt", dt, above=0, unit="s")
    _check.number("gain", gain, above=0)
    _check.number("sigma_u", sigma_u, above=0)
    if not isinstance(spike, SpikeFunction) or not spike.steepness:
        expected = "spike must be a SpikeFunction with a parameter"
        raise TypeError(f"{expected}, got {spike!r}; use snnjax.surrogate.superspike()")
    steepness = _solve(spike, gain**2 * nu * dt / sigma_u**2, mu_u, sigma_u, theta)
    known = _check.concrete(steepness)
    if known is not None and np.isnan(known).any():
        low, high = _RANGE
        raise ValueError(
            f"gain must be one that {spike.name} has at a steepness between {low:g} and {high:g}, "
            f"got {gain} with nu = {nu} Hz, dt = {dt} s; change these or scale h (spike.scaled)"
        )
    return steepness


@jax.jit
def _solve(
    spike: SpikeFunction, power: Scalar, mu_u: Scalar, sigma_u: Scalar, theta: Scalar
) -> jax.Array:
    """Return the first parameter of `spike` with which E[h^2] is `power`; NaN if there is none."""
    power, others = _check.as_wide(power), spike.steepness[1:]

    def above(log_steepness: jax.Array) -> jax.Array:
        changed = spike.with_steepness((jnp.exp(log_steepness), *others))
        return surrogate_moments(changed, mu_u=mu_u, sigma_u=sigma_u, theta=theta).power > power

    shape = jnp.broadcast_shapes(*(jnp.shape(v) for v in (power, mu_u, theta, *others)))
    low, high = (jnp.full(shape, np.log(limit), power.dtype) for limit in _RANGE)
    left = above(low)
    exists = left != above(high)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (ends[0] + ends[1]) / 2
        same = above(middle) == left
        return jnp.where(same, middle, ends[0]), jnp.where(same, ends[1], middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jnp.where(exists, jnp.exp((low + high) / 2), jnp.nan)


def correlation_slope(*, mu_u: Scalar, sigma_u: Scalar, theta: Scalar = 1.0) -> jax.Array:
    """Return how much of a correlation between two inputs the threshold of a layer passes on.

    If the membranes of two inputs correlate by c, the events u > theta correlate by s c, to first
    order in c. The exact curve bends upwards, to 1 at c = 1. Layers above cannot restore a lost
    correlation: the slope of a deep network is the product of the s of its layers.

    Args:
        mu_u: Mean of the membrane.
        sigma_u: Standard deviation of the membrane; > 0.
        theta: Firing threshold.

    Returns:
        s, of the broadcast shape; at most 2/pi = 0.64, at mu_u = theta.

    Raises:
        ValueError: An argument is not finite, or sigma_u is not positive.

    >>> [f"{correlation_slope(mu_u=0.0, sigma_u=s):.2f}" for s in (0.5, 1.0, 2.0, 4.0)]
    ['0.13', '0.44', '0.58', '0.62']
    """
    _check.number("mu_u", mu_u)
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("theta", theta)
    k = (jnp.asarray(theta) - mu_u) / sigma_u
    # in logarithms, because p underflows if the threshold is 14 standard deviations away
    return jnp.exp(2 * norm.logpdf(k) - log_ndtr(k) - log_ndtr(-k))
