r"""Data-driven initialization of a Dalian layer: balance and sigma_u for measured spikes.

The weights of connection c (E feed-forward, R recurrent excitatory, I inhibitory) are
w_c = m_c G_c. The shapes G_c >= 0 have mean 1; they are drawn, or taken from the present weights.
The scales m_c > 0 are the unknowns. The membrane without threshold is linear in the scales. Let
U_c(t) be the membrane driven by connection c alone at m_c = 1:

    U = m_E U_E + m_R U_R - m_I U_I
    M_c  = < mean_t U_c >           contribution of the population to the mean
    C_cd = < Cov_t(U_c, U_d) >      covariances in time within a sample

<.> is the mean over samples, neurons and positions. The covariances include correlations between
populations and their cancellation. Three conditions give the three scales in closed form. The
result is exact for these weights and these spikes, with any correlations:

    alpha      m_E^2 C_EE : m_R^2 C_RR = alpha : 1 - alpha
    mean       A m_E - B m_I = mu_u
    sigma_u    V m_E^2 - 2 W m_E m_I + C_II m_I^2 = sigma_u^2

with

    rho = m_R / m_E = sqrt((1 - alpha) C_EE / (alpha C_RR))
    A = M_E + rho M_R,  B = M_I
    V = C_EE + 2 rho C_ER + rho^2 C_RR,  W = C_EI + rho C_RI

The last two conditions with m_I = r m_E - q, r = A / B, q = mu_u / B:

    a m_E^2 + 2 b m_E + d = 0
    a = V - 2 r W + r^2 C_II,  b = q (W - r C_II),  d = q^2 C_II - sigma_u^2
    m_E = (-b + sqrt(b^2 - a d)) / a

A bias is a further membrane U_b with the fixed scale 1, added to U. It changes

    q = (mu_u - M_b) / B,  b += C_Eb + rho C_Rb - r C_Ib,  d += C_bb + 2 q C_Ib

For Poisson input and random weights, M_c = D_c ebar_c, C_cc = k D_c ehat_c and all other terms are
0: `snnjax.theory.dalian_rates`.

The layer's own spikes depend on the scales. The scales are therefore a fixed point. It is searched
in a few passes, and the result of the best pass is used.

At low sigma_u (about 0.5) the inhibitory neurons fire below about 1 Hz. Then no reliable fixed
point exists: single spikes would have to move the membrane by more than the threshold. Inhibition
is then set as for a population that fires at 1 Hz. The report gives the mean and sigma_u that were
reached (`LayerReport.on_target`; `calibrate` warns).

This is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax._check import Scalar
from snnjax._timed import over_steps, variance_over_steps
from snnjax.calibration._connection import FLOOR_HZ, positive, set_weights
from snnjax.calibration._layer import Target, calibrate_layer
from snnjax.calibration._powers import free_membrane
from snnjax.calibration._report import LayerReport, Outcome, near
from snnjax.dynamics import LIF, ExcInhLIF
from snnjax.initializers import fan_in
from snnjax.nn import Dalian


class Moments(NamedTuple):
    """M_c and C_cd of the connections E, R and I, in this order.

    Those of R are 0 without a recurrent excitatory connection.

    Attributes:
        mean: M_c, (3,).
        cov: C_cd, (3, 3).
        bias: M_b, C_Eb, C_Rb, C_Ib and C_bb, (5,); None for a layer without biases.
    """

    mean: jax.Array
    cov: jax.Array
    bias: jax.Array | None = None


class Scales(NamedTuple):
    """Mean weights m_E, m_R (0 without recurrence) and m_I."""

    exc: jax.Array
    rec: jax.Array
    inh: jax.Array


def scales_from_moments(
    p: Moments, *, sigma_u: Scalar, mu_u: Scalar = 0.0, alpha: Scalar = 0.9
) -> Scales:
    """The scales that give the membrane the mean `mu_u` and the standard deviation `sigma_u`.

    Args:
        p: The measured moments.
        sigma_u: Target standard deviation of the membrane.
        mu_u: Target mean of the membrane.
        alpha: Feed-forward share of the excitatory variance.

    Returns:
        The scales. They are NaN, infinite or negative if the targets have no solution.

    >>> p = Moments(jnp.array([10.0, 0.0, 5.0]), jnp.diag(jnp.array([0.2, 0.0, 0.4])))
    >>> s = scales_from_moments(p, sigma_u=1.0)
    >>> f"{10 * s.exc - 5 * s.inh:.3f} {0.2 * s.exc**2 + 0.4 * s.inh**2:.3f}"
    '0.000 1.000'
    """
    (m_e, m_r, m_i), (ee, rr, ii) = p.mean, jnp.diag(p.cov)
    rho = jnp.where(rr > 0, jnp.sqrt((1 - alpha) * ee / (alpha * jnp.where(rr > 0, rr, 1))), 0)
    left = mu_u if p.bias is None else mu_u - p.bias[0]
    r, q = (m_e + rho * m_r) / m_i, jnp.divide(left, m_i)
    v, w = _excitatory(p, rho)
    a, b, d = v - 2 * r * w + r**2 * ii, q * (w - r * ii), q**2 * ii - sigma_u**2
    if p.bias is not None:
        _, eb, rb, ib, bb = p.bias
        b, d = b + eb + rho * rb - r * ib, d + bb + 2 * q * ib
    exc = (-b + jnp.sqrt(b**2 - a * d)) / a
    return Scales(exc, rho * exc, r * exc - q)


def _excitatory(p: Moments, rho: jax.Array) -> tuple[jax.Array, jax.Array]:
    """V and W of the module."""
    (ee, er, ei), (_, rr, ri), _ = p.cov
    return ee + 2 * rho * er + rho**2 * rr, ei + rho * ri


def current_membrane(neuron: ExcInhLIF, drive: jax.Array, tau: Scalar) -> jax.Array:
    """The membrane without threshold of an E/I neuron that is driven by one current only.

    Args:
        neuron: The E/I neuron.
        drive: Input of the current, (time, batch, ...units).
        tau: Time constant of the current, s.

    Returns:
        The membrane, (time, batch, ...units).
    """
    return free_membrane(LIF(tau_mem=neuron.tau_mem, tau_syn=tau, dt=neuron.dt), drive)


def moments(
    u_e: jax.Array,
    u_r: jax.Array | None,
    u_i: jax.Array,
    u_b: jax.Array | None = None,
    num_steps: jax.Array | None = None,
) -> Moments:
    """M_c and C_cd of membranes (time, batch, ...units).

    Args:
        u_e: The membrane driven by the input alone.
        u_r: The membrane driven by recurrent excitation alone; None without.
        u_i: The membrane driven by inhibition alone.
        u_b: The membrane driven by the biases alone, (time, 1, ...units); None without.
        num_steps: As in `input_powers`.

    >>> u = jnp.array([0.0, 2.0]).reshape(2, 1, 1)
    >>> p = moments(u, None, 3 * u)
    >>> p.mean.tolist(), p.cov[2].tolist()
    ([1.0, 0.0, 3.0], [3.0, 0.0, 9.0])
    """
    membranes = [u_e, jnp.zeros_like(u_e) if u_r is None else u_r, u_i]
    mean_of = lambda u: over_steps(u, num_steps).mean()
    e, r, i = (u - over_steps(u, num_steps) for u in membranes)
    pairs = ((e, e), (e, r), (r, r), (e, i), (r, i), (i, i))
    ee, er, rr, ei, ri, ii = (mean_of(a * b) for a, b in pairs)
    cov = jnp.array([[ee, er, ei], [er, rr, ri], [ei, ri, ii]])
    mean = jnp.array([mean_of(u) for u in membranes])
    if u_b is None:
        return Moments(mean, cov)
    b = u_b - over_steps(u_b, num_steps)
    terms = [mean_of(u_b), *(mean_of(a * b) for a in (e, r, i, b))]
    return Moments(mean, cov, jnp.array(terms))


_Passes = tuple[Scales, tuple[jax.Array, jax.Array], tuple[Scales, jax.Array]]
"""The present scales; log m_I of the last pass and of its solution; the best scales, their miss."""


@calibrate_layer.register
def _(
    layer: Dalian,
    x: jax.Array,
    key: jax.Array | None,
    target: Target,
    num_steps: jax.Array | None = None,
) -> Outcome[LayerReport]:
    """Set the three scales of a Dalian layer."""
    sigma_u, mu_u, alpha = target.sigma_u, target.mu_u, target.alpha
    if target.balance:
        why = "their weights have one sign, and inhibition balances the layer as a whole"
        raise ValueError(f"balance must be False for Dalian layers, got True: {why}")
    keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
    connections = layer.connections()
    shapes = [positive(c.weights, k) for c, k in zip(connections, keys, strict=False)]
    graphdef, state = nnx.split(layer)
    neuron = layer.neuron
    u_e = current_membrane(
        neuron, connections[0].project(connections[0].spikes(x, x), shapes[0]), neuron.tau_exc
    )
    lowest = _poisson(layer, shapes, FLOOR_HZ)
    u_b = None
    if layer.bias is not None:
        constant = jnp.broadcast_to(layer.bias[...], (len(u_e), 1, *u_e.shape[2:]))
        u_b = current_membrane(neuron, constant, neuron.tau_exc)

    def spikes(scales: Scales) -> jax.Array:
        # a variable may only be set in the trace that made it
        copy = nnx.merge(graphdef, state, copy=True)
        _put(copy, shapes, scales)
        return copy(x).output

    def own(z: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """Membranes that are driven by the layer's own spikes."""
        tau = {-1: neuron.tau_inh, 1: neuron.tau_exc}
        u_i, *u_r = (
            current_membrane(neuron, c.project(c.spikes(x, z), shape), tau[c.sign])
            for c, shape in zip(connections[1:], shapes[1:], strict=True)
        )
        return (u_r[0] if u_r else None), u_i

    def one_pass(carry: _Passes, _: None) -> tuple[_Passes, None]:
        scales, before, (best, least) = carry
        u_r, u_i = own(spikes(scales))
        measured = moments(u_e, u_r, u_i, u_b, num_steps)
        miss = _miss(measured, scales, sigma_u, mu_u)
        found = jax.tree.map(
            lambda a, b: jnp.where(miss < least, a, b), (scales, miss), (best, least)
        )
        enough = _at_least(lowest, measured)
        solved = scales_from_moments(enough, sigma_u=sigma_u, mu_u=mu_u, alpha=alpha)
        at, to = jnp.log(scales.inh), jnp.log(solved.inh)
        # More inhibition makes the layer quieter, and a quieter layer needs more inhibition. The
        # slope of the secant estimates the part of a step that this feedback cancels.
        gap = at - before[0]
        slope = jnp.clip((to - before[1]) / jnp.where(gap == 0, 1.0, gap), 0.0, 0.8)
        step = (to - at) / (1 - jnp.where(gap == 0, 0.0, slope))
        new = solved._replace(inh=jnp.exp(at + jnp.clip(step, -_LARGEST, _LARGEST)))
        # If inhibition is too quiet for a balance, excitation is set to reach sigma_u with the
        # present inhibition. The geometric mean with the last value prevents oscillation.
        exc = jnp.sqrt(scales.exc * _excitation(measured, new, sigma_u))
        new = new._replace(exc=jnp.where(measured.mean[2] < lowest.mean[2], exc, new.exc))
        good = jnp.isfinite(jnp.stack(new)).all() & (new.exc > 0) & (new.inh > 0)
        scales, before = jax.tree.map(
            lambda a, b: jnp.where(good, a, b), (new, (at, to)), (scales, before)
        )
        return (scales, before, found), None

    # before the first pass, the layer's spikes are assumed Poisson at the rate of its input
    rate = jnp.maximum(over_steps(x, num_steps).mean() / neuron.dt, FLOOR_HZ)
    alone = moments(u_e, None, u_e, u_b, num_steps)
    first = _poisson(layer, shapes, rate, alone.mean[0], alone.cov[0, 0])
    if u_b is not None:
        assert alone.bias is not None
        # the covariances with the other membranes are not known yet
        first = first._replace(bias=alone.bias.at[1:4].set(0))
    start = scales_from_moments(first, sigma_u=sigma_u, mu_u=mu_u, alpha=alpha)
    there = jnp.isfinite(jnp.stack(start)).all() & (start.exc > 0) & (start.inh > 0)
    start = jax.tree.map(lambda s: jnp.where(there, s, 1.0).astype(u_e.dtype), start)
    logs = jnp.log(start.inh), jnp.log(start.inh)
    begin = start, logs, (start, jnp.asarray(jnp.inf, u_e.dtype))
    (*_, (scales, _)), _ = jax.lax.scan(one_pass, begin, length=_PASSES * target.passes)
    _put(layer, shapes, scales, there=there)
    z = layer(x).output
    u = free_membrane(neuron, layer.whole_drive(x, z))
    of_trial = over_steps(u, num_steps)
    found, mean = jnp.sqrt(variance_over_steps(u, num_steps).mean()), of_trial.mean()
    report = LayerReport(
        sigma_w=tuple(c.weights.std() for c in layer.connections()),
        quenched_spread=jnp.sqrt(jnp.square(of_trial).mean()),
        sigma_u=found,
        silent=alone.cov[0, 0] == 0,
        calibrated=there,
        mu_u=mean,
        on_target=near(found, sigma_u, sigma_u) & near(mean, mu_u, sigma_u),
        targets=(sigma_u, mu_u),
    )
    reason = (
        "its inhibitory spikes are too few for a balance; with a larger target of sigma_u the "
        "layer spikes more"
    )
    return Outcome(report, z, reason)


def _miss(p: Moments, s: Scales, sigma_u: Scalar, mu_u: Scalar) -> jax.Array:
    """Square of the distance to the target, in units of sigma_u. NaN becomes infinity."""
    (m_e, m_r, m_i), ((ee, er, ei), (_, rr, ri), (*_, ii)) = p.mean, p.cov
    mean = s.exc * m_e + s.rec * m_r - s.inh * m_i
    excitation = s.exc**2 * ee + 2 * s.exc * s.rec * er + s.rec**2 * rr
    variance = excitation - 2 * s.inh * (s.exc * ei + s.rec * ri) + s.inh**2 * ii
    if p.bias is not None:
        m_b, eb, rb, ib, bb = p.bias
        mean, variance = mean + m_b, variance + bb + 2 * (s.exc * eb + s.rec * rb - s.inh * ib)
    miss = (jnp.sqrt(jnp.maximum(variance, 0)) / sigma_u - 1) ** 2 + ((mean - mu_u) / sigma_u) ** 2
    return jnp.where(jnp.isfinite(miss), miss, jnp.inf)


def _excitation(p: Moments, scales: Scales, sigma_u: Scalar) -> jax.Array:
    """m_E from the module's third condition only (sigma_u), with m_I and rho from `scales`.

    Where no such m_E exists, the m_E of `scales`.
    """
    rho, inh = scales.rec / scales.exc, scales.inh
    v, w = _excitatory(p, rho)
    half, rest = w * inh, p.cov[2, 2] * inh**2 - sigma_u**2
    if p.bias is not None:
        _, eb, rb, ib, bb = p.bias
        half, rest = half - eb - rho * rb, rest + bb - 2 * inh * ib
    root = half**2 - v * rest
    return jnp.where(root >= 0, (half + jnp.sqrt(jnp.maximum(root, 0))) / v, scales.exc)


_PASSES = 5  # factor on the passes of other layers: inhibition changes the spikes that set it
_LARGEST = 0.7  # largest step of log m_I


def _put(
    layer: Dalian, shapes: list[jax.Array], scales: Scales, there: jax.Array | bool = True
) -> None:
    ordered = scales.exc, scales.inh, scales.rec
    for c, shape, scale in zip(layer.connections(), shapes, ordered, strict=False):
        set_weights(c.param, scale * shape, there=there)


def _poisson(
    layer: Dalian,
    shapes: list[jax.Array],
    rate: Scalar,
    mean: Scalar = 0.0,
    variance: Scalar = 0.0,
) -> Moments:
    """Moments of the layer's own populations if these fired as Poisson processes at `rate`, Hz.

    `mean` and `variance` are the moments of the input.
    """
    found: list[tuple[Scalar, Scalar]] = [(mean, variance)]
    for c, g in zip(layer.connections()[1:], shapes[1:], strict=True):
        drive = fan_in(g.shape) * rate
        power = jnp.square(g).mean() * drive * jnp.mean(c.kernel.power())
        found.append((drive * jnp.mean(c.kernel.mean()), power))
    e, i, r = (*found, (0.0, 0.0))[:3]
    means, variances = zip(e, r, i, strict=True)
    return Moments(jnp.array(means), jnp.diag(jnp.array(variances)))


def _at_least(lowest: Moments, p: Moments) -> Moments:
    """`p`, with the moments of each population that fires too little replaced by `lowest`.

    The covariances of such a population with the others and with the biases are set to 0.
    """
    few = p.mean < lowest.mean
    cov = jnp.where(few[:, None] | few, lowest.cov, p.cov)
    bias = None if p.bias is None else p.bias.at[1:4].multiply(~few)
    return Moments(jnp.where(few, lowest.mean, p.mean), cov, bias)
