r"""Weights <-> membrane statistics of a neuron under independent Poisson input.

Without spikes, n inputs at rate nu (Hz) through weights of mean mu_w and standard deviation sigma_w
give the membrane the mean and, over time, the standard deviation

    mu_u      = n mu_w nu ebar
    sigma_u^2 = n (mu_w^2 + sigma_w^2) nu ehat                      ebar, ehat: `snnjax.psp`

and, solved for the weights of afferent c (n_c inputs at nu_c with a share share_c of the variance),

    mu_w        = mu_u / (D ebar)                                   D = sum_c n_c nu_c, in Hz
    sigma_w,c^2 = share_c sigma_u^2 / (n_c nu_c ehat) - mu_w^2

sigma_w^2 < 0 means that no such weights exist. They exist where

    |mu_u| <= sigma_u D ebar min_c sqrt(share_c / (n_c nu_c ehat))

The paper states the target as the distance to threshold in standard deviations,

    xi = (theta - mu_u) / sigma_u                                   `xi_of`

and 1 <= xi <= 3 is the fluctuation-driven regime. This package states sigma_u instead.

sigma_u is a mean over neurons. The fixed weights of a single neuron give it a constant mean. The
standard deviation of that mean across neurons (the quenched spread) is nu ebar sigma_w sqrt(n).

Dale's law: weights >= 0 with a mean and E[W^2] = (1 + cv^2) mean^2, as those of an exponential
distribution (cv = 1), and two currents; see `dalian_rates`.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, sections 2.2 and 2.4,
supplements S2 and S3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from snnjax import _check
from snnjax._check import Scalar
from snnjax.psp import PSP, ExcInhKernels, namespace

__all__ = [
    "membrane_statistics",
    "connection_weights",
    "afferent_weights",
    "Afferent",
    "xi_of",
    "mu_u_limit",
    "dalian_rates",
]


class MembraneStatistics(NamedTuple):
    """Statistics of the membranes of a layer.

    Attributes:
        mu_u: Mean.
        sigma_u: Standard deviation over time.
        quenched_spread: Standard deviation of the mean across neurons.
    """

    mu_u: Scalar
    sigma_u: Scalar
    quenched_spread: Scalar


class WeightStatistics(NamedTuple):
    """Statistics of the weights of a connection.

    Attributes:
        mu_w: Mean.
        sigma_w: Standard deviation.
    """

    mu_w: Any
    sigma_w: Any


class Afferent(NamedTuple):
    """One connection onto a neuron.

    Attributes:
        n: Fan-in.
        nu: Presynaptic rate, Hz.
        share: Share of the variance of the membrane that the connection carries.
    """

    n: float
    nu: Scalar
    share: Scalar = 1.0


class DalianRates(NamedTuple):
    """Rates lambda = 1 / mean weight of the connections of a Dalian layer.

    Attributes:
        exc: Input -> target.
        rec: Recurrent excitatory -> target, None without recurrence.
        inh: Inhibitory -> target.
    """

    exc: Scalar
    rec: Scalar | None
    inh: Scalar


def xi_of(mu_u: Scalar, sigma_u: Scalar, theta: Scalar = 1.0) -> Scalar:
    """Return xi = (theta - mu_u) / sigma_u, the distance to threshold in standard deviations.

    Args:
        mu_u: Mean of the membrane.
        sigma_u: Its standard deviation. A membrane that does not fluctuate (0) has xi = inf.
        theta: Firing threshold.

    >>> f"{xi_of(0.2, 0.4):.1f}"
    '2.0'
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return namespace(mu_u, sigma_u, theta).divide(theta - mu_u, sigma_u)


def membrane_statistics(
    mu_w: Scalar, sigma_w: Scalar, *, n: Scalar, nu: Scalar, kernel: PSP
) -> MembraneStatistics:
    """Return the statistics of the membranes that weights of given statistics produce.

    All arguments may be arrays that broadcast.

    Args:
        mu_w: Mean of the weights, in membrane units.
        sigma_w: Their standard deviation.
        n: Fan-in, the number of presynaptic units of one neuron.
        nu: Presynaptic rate, Hz.
        kernel: Post-synaptic potential, for example `LIF().kernel`.

    Raises:
        ValueError: An argument is out of range.

    >>> from snnjax.dynamics import LIF
    >>> s = membrane_statistics(0.0, 0.2, n=100, nu=10.0, kernel=LIF().kernel)
    >>> f"{s.mu_u:.3f} {s.sigma_u:.3f} {xi_of(s.mu_u, s.sigma_u):.3f}"
    '0.000 0.285 3.504'
    """
    _check.number("mu_w", mu_w)
    _check.number("sigma_w", sigma_w, at_least=0)
    _check.number("n", n, above=0)
    _check.number("nu", nu, above=0, unit="Hz")
    ebar, ehat = kernel.mean(), kernel.power()
    xp = namespace(mu_w, sigma_w, n, nu, ebar, ehat)
    sigma_u = xp.sqrt(n * (mu_w**2 + sigma_w**2) * nu * ehat)
    return MembraneStatistics(n * mu_w * nu * ebar, sigma_u, nu * ebar * sigma_w * xp.sqrt(n))


def mu_u_limit(
    sigma_u: Scalar,
    afferents: Sequence[Afferent],
    kernel: PSP,
    *,
    total_drive: Scalar | None = None,
) -> Scalar:
    """Return the largest |mu_u| for which weights exist.

    Args:
        sigma_u: Target standard deviation of the membrane, > 0.
        afferents: The connections.
        kernel: Post-synaptic potential.
        total_drive: D in Hz, if `afferents` are not all connections of the neuron. None: their sum
            of n nu.

    Raises:
        ValueError: An argument is out of range.

    >>> from snnjax.dynamics import LIF
    >>> f"{mu_u_limit(0.25, [Afferent(18, 1.0)], LIF().kernel):.4f}"
    '0.2594'
    """
    _check.number("sigma_u", sigma_u, above=0)
    for a in afferents:
        _check_afferent(a)
    ebar, ehat = kernel.mean(), kernel.power()
    xp = namespace(sigma_u, ebar, ehat, total_drive, *(v for a in afferents for v in a))
    drive = sum(a.n * a.nu for a in afferents) if total_drive is None else total_drive
    limit = xp.asarray(xp.inf)
    for a in afferents:
        # The power of the afferent through weights of mean 1 / (D ebar) that do not vary.
        power = a.n * a.nu * ehat / (drive * ebar) ** 2
        limit = xp.minimum(limit, sigma_u * xp.sqrt(a.share / power))
    return limit


def connection_weights(
    mu_u: Scalar,
    sigma_u: Scalar,
    afferent: Afferent,
    kernel: PSP,
    *,
    theta: Scalar = 1.0,
    total_drive: Scalar | None = None,
) -> WeightStatistics:
    """Return the weights of one connection that put the membrane at mean mu_u and sigma_u.

    Args:
        mu_u: Target mean of the membrane.
        sigma_u: Target standard deviation over time, > 0. The paper's xi is
            (theta - mu_u) / sigma_u.
        afferent: Fan-in, rate and share of the variance of this connection.
        kernel: Post-synaptic potential, for example `LIF().kernel`.
        theta: Firing threshold; mu_u must be below it. The weights do not depend on it.
        total_drive: D = sum_c n_c nu_c (Hz) over all connections of the neuron. None: n nu of this
            one.

    Raises:
        ValueError: No such weights exist (the message names the allowed range of mu_u), or an
            argument is out of range. Traced values are not checked: NaN where none exist.

    >>> from snnjax.dynamics import LIF
    >>> w = connection_weights(0.0, 1.0, Afferent(700, 15.8), LIF().kernel)
    >>> f"{w.mu_w:.3f} {w.sigma_w:.4f}"
    '0.000 0.2108'
    >>> connection_weights(0.5, 0.25, Afferent(18, 1.0), LIF().kernel)
    Traceback (most recent call last):
    ...
    ValueError: mu_u = 0.5 has no weights at sigma_u = 0.25: sigma_w^2 would be negative. \
Allowed: -0.2594 <= mu_u <= 0.2594. Raise n, nu or sigma_u, or lower |mu_u|
    """
    if total_drive is not None:
        _check.number("total_drive", total_drive, above=0, unit="Hz")
    check_kernel(kernel)
    check_target(mu_u, sigma_u, theta)
    limit = mu_u_limit(sigma_u, [afferent], kernel, total_drive=total_drive)
    _check_feasible(mu_u, sigma_u, -limit, limit)
    own_drive = afferent.n * afferent.nu
    mu_w = mu_u / ((own_drive if total_drive is None else total_drive) * kernel.mean())
    variance = afferent.share * sigma_u**2 / (own_drive * kernel.power()) - mu_w**2
    xp = namespace(variance)
    if not isinstance(variance, Tracer):
        variance = xp.maximum(variance, 0.0)  # rounding may dip below zero on the limit itself
    return WeightStatistics(mu_w, xp.sqrt(variance))


def afferent_weights(
    mu_u: Scalar,
    sigma_u: Scalar,
    afferents: Sequence[Afferent],
    kernel: PSP,
    *,
    theta: Scalar = 1.0,
) -> list[WeightStatistics]:
    """Return the weights of all connections that together put the membrane at mu_u and sigma_u.

    Args:
        mu_u: Target mean of the membrane.
        sigma_u: Target standard deviation over time, > 0.
        afferents: The connections. Their shares must add up to 1.
        kernel: Post-synaptic potential, for example `LIF().kernel`.
        theta: Firing threshold; mu_u must be below it.

    Returns:
        One `WeightStatistics` per afferent, in their order. The mean is the same for all.

    Raises:
        ValueError: As in `connection_weights`, or the shares do not add up to 1.

    >>> from snnjax.dynamics import LIF
    >>> afferents = [Afferent(700, 15.8, 0.9), Afferent(128, 15.8, 0.1)]
    >>> ff, rec = afferent_weights(0.0, 1.0, afferents, LIF().kernel)
    >>> f"{ff.sigma_w:.4f} {rec.sigma_w:.4f}"
    '0.1999 0.1559'
    """
    if not afferents:
        raise ValueError("afferents must name at least one connection, got none")
    shares = [_check.concrete(a.share) for a in afferents]
    known = [share for share in shares if share is not None]
    if len(known) == len(shares) and np.any(np.abs(sum(known) - 1.0) > 1e-6):
        got = [a.share for a in afferents]
        raise ValueError(f"the shares of the afferents must add up to 1, got {got}")
    check_target(mu_u, sigma_u, theta)
    limit = mu_u_limit(sigma_u, afferents, kernel)
    _check_feasible(mu_u, sigma_u, -limit, limit)
    drive = sum(a.n * a.nu for a in afferents)
    weights = functools.partial(connection_weights, theta=theta, total_drive=drive)
    return [weights(mu_u, sigma_u, a, kernel) for a in afferents]


def _check_afferent(a: Afferent, prefix: str = "") -> None:
    _check.number(f"{prefix}n", a.n, above=0)
    _check.number(f"{prefix}nu", a.nu, above=0, unit="Hz")
    _check.number(f"{prefix}share", a.share, above=0, at_most=1)


def check_kernel(kernel: PSP) -> None:
    """Raise if a post-synaptic potential never decays: no weights give it a finite variance."""
    known = _check.concrete(kernel.power())
    if known is not None and np.isinf(known).any():
        raise ValueError(
            "kernel must have a finite power, got inf: a neuron without leak sums its input over a "
            "whole trial; give its duration, IF(duration=0.7), or use weights from data"
        )


def check_target(mu_u: Scalar, sigma_u: Scalar, theta: Scalar) -> None:
    """Raise unless sigma_u and theta are positive and mu_u is below theta."""
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("theta", theta, above=0)
    _check.number("mu_u", mu_u)
    mu, th = _check.concrete(mu_u), _check.concrete(theta)
    if mu is not None and th is not None and np.any(mu >= th):
        raise ValueError(f"mu_u must be below theta = {theta}, got {mu_u}")


def _check_feasible(
    mu_u: Scalar, sigma_u: Scalar, low: Scalar, high: Scalar, *, dalian: bool = False
) -> None:
    """Raise unless mu_u is between the limits, for Dale's law strictly between them."""
    values = [_check.concrete(v) for v in (mu_u, sigma_u, low, high)]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return
    mu, sigma, lo, hi = np.broadcast_arrays(*known)
    rounding = 1 + 1e-9
    bad = (mu < lo * rounding) | (mu > hi * rounding)
    kind, negative, than = "", "sigma_w^2", "<="
    if dalian:
        bad = (mu <= lo) | (mu >= hi)
        kind, negative, than = " >= 0", "the excitatory or inhibitory weights", "<"
    if np.any(bad):
        mu, sigma, lo, hi = (float(v[bad].ravel()[0]) for v in (mu, sigma, lo, hi))
        raise ValueError(
            f"mu_u = {mu:g} has no weights{kind} at sigma_u = {sigma:g}: {negative} would be "
            f"negative. Allowed: {lo:.4g} {than} mu_u {than} {hi:.4g}. Raise n, nu or sigma_u, or "
            "lower |mu_u|"
        )


def dalian_rates(
    sigma_u: Scalar,
    *,
    exc: Afferent,
    inh: Afferent,
    rec: Afferent | None = None,
    kernels: ExcInhKernels,
    alpha: Scalar = 0.9,
    mu_u: Scalar = 0.0,
    cv: Scalar = 1.0,
) -> DalianRates:
    r"""Return the rates lambda = 1 / mean weight of weights >= 0, for a neuron with two currents.

    A distribution of weights enters with two numbers, its mean m = 1 / lambda and E[W^2] = k m^2,
    where k = 1 + cv^2: 2 for the exponential one. With D the drive n nu of a connection, and
    d_R = lambda_R / lambda_E,

        alpha      d_R^2 = alpha D_R / ((1 - alpha) D_E)
        mean       A m_E - B m_I = mu_u                             A = ebar_E (D_E + D_R / d_R)
        sigma_u    k (P m_E^2 + Q m_I^2) = sigma_u^2                P = ehat_E (D_E + D_R / d_R^2)

    with B = ebar_I D_I and Q = ehat_I D_I: a quadratic equation in m_E. With c = Q / B^2,

        m_E = (A mu_u c + sqrt((P + A^2 c) sigma_u^2 / k - P mu_u^2 c)) / (P + A^2 c)
        m_I = (A m_E - mu_u) / B

    Both are positive where -B / sqrt(k Q) < mu_u / sigma_u < A / sqrt(k P). At either end one
    population makes the mean and all fluctuations.

    Args:
        sigma_u: Target standard deviation of the membrane.
        exc: Inputs from the layer below. The field `share` of this and the other connections has no
            effect: `alpha` and the balance determine the shares.
        inh: Inputs from the inhibitory population.
        rec: Inputs from the recurrent excitatory population. None: no recurrence.
        kernels: Post-synaptic potentials of the two currents, for example `ExcInhLIF().kernels`.
        alpha: Share of the excitatory variance that is feed-forward, in (0, 1). Used with `rec`.
        mu_u: Target mean of the membrane.
        cv: Standard deviation of the weights over their mean, the same for all connections. 1 for
            exponential weights.

    Returns:
        `DalianRates(exc, rec, inh)`. Traced values are not checked: NaN or negative where no
        weights exist.

    Raises:
        ValueError: An argument is out of range, or no such weights exist. The message names the
            allowed range of mu_u.

    >>> from snnjax.dynamics import ExcInhLIF
    >>> exc, inh = Afferent(700, 15.8), Afferent(32, 15.8)
    >>> r = dalian_rates(1.0, exc=exc, inh=inh, kernels=ExcInhLIF().kernels)
    >>> f"{r.exc:.2f} {r.inh:.3f}"
    '27.97 2.436'
    """
    for name, afferent in {"exc": exc, "inh": inh, "rec": rec}.items():
        if afferent is not None:
            _check_afferent(afferent, f"{name}.")
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("mu_u", mu_u)
    _check.number("cv", cv, at_least=0)
    ebar_e, ebar_i = (kernel.mean() for kernel in kernels)
    ehat_e, ehat_i = (kernel.power() for kernel in kernels)
    integrals = ebar_e, ehat_e, ebar_i, ehat_i
    xp = namespace(sigma_u, *exc, *inh, *(rec or ()), *integrals, alpha, mu_u, cv)
    drive_e, drive_i = exc.n * exc.nu, inh.n * inh.nu
    d_r: Any = None
    recurrent_mean = recurrent_variance = 0.0
    if rec is not None:
        _check.number("alpha", alpha, above=0, below=1)
        drive_r = rec.n * rec.nu
        d_r = xp.sqrt(alpha * drive_r / ((1 - alpha) * drive_e))
        recurrent_mean, recurrent_variance = drive_r / d_r, drive_r / d_r**2
    mean_e, mean_i = ebar_e * (drive_e + recurrent_mean), ebar_i * drive_i
    power_e, power_i = ehat_e * (drive_e + recurrent_variance), ehat_i * drive_i
    # A, B, P, Q and c of the docstring
    k = 1 + cv**2
    low, high = -sigma_u * mean_i / xp.sqrt(k * power_i), sigma_u * mean_e / xp.sqrt(k * power_e)
    _check_feasible(mu_u, sigma_u, low, high, dalian=True)
    c = power_i / mean_i**2
    a = power_e + mean_e**2 * c
    m_e = (mean_e * mu_u * c + xp.sqrt(a * sigma_u**2 / k - power_e * mu_u**2 * c)) / a
    m_i = (mean_e * m_e - mu_u) / mean_i
    return DalianRates(1 / m_e, None if d_r is None else d_r / m_e, 1 / m_i)
