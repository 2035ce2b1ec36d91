r"""Weights <-> membrane statistics of a current-based LIF neuron under independent Poisson input.

Without spikes, n inputs at rate nu (Hz) through weights of mean mu_w and standard deviation sigma_w give a membrane of

    mu_u      = n mu_w nu ebar
    sigma_u^2 = n (mu_w^2 + sigma_w^2) nu ehat                      ebar, ehat: `snnjax.psp.psp_integrals`
    xi        = (theta - mu_u) / sigma_u                            1 <= xi <= 3 is the fluctuation-driven regime

and, solved for the weights of afferent c (n_c inputs at nu_c that carry the fraction share_c of the variance),

    mu_w        = mu_u / (D ebar)                                   D = sum_c n_c nu_c, the total drive in Hz
    sigma_w,c^2 = share_c sigma_u^2 / (n_c nu_c ehat) - mu_w^2      sigma_u = (theta - mu_u) / xi

sigma_w^2 < 0 means that no such weights exist. With k_c = xi sqrt(n_c nu_c ehat / share_c) / (D ebar), weights exist where
k |mu_u| <= theta - mu_u for the largest k: mu_u <= theta / (1 + k), and mu_u >= -theta / (k - 1) if k > 1.

sigma_u is a mean over neurons. A single neuron's fixed weights give it a constant mean; its standard deviation across neurons
(the quenched spread) is nu ebar sigma_w sqrt(n).

Dale's law: weights >= 0 with a mean and E[W^2] = (1 + cv^2) mean^2, as of an exponential distribution (cv = 1), and two currents; see `dalian_rates`.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, sections 2.2 and 2.4, supplements S2 and S3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from snnjax import _check
from snnjax.psp import KernelMode, _namespace, psp_integrals


class MembraneStatistics(NamedTuple):
    """Mean mu_u, temporal standard deviation sigma_u, target distance xi, and the quenched spread of the mean across neurons."""

    mu_u: Any
    sigma_u: Any
    xi: Any
    quenched_spread: Any


class WeightStatistics(NamedTuple):
    """Mean and standard deviation of a connection's weights."""

    mu_w: Any
    sigma_w: Any


class Afferent(NamedTuple):
    """One connection onto a neuron: fan-in `n`, presynaptic rate `nu` (Hz), fraction `share` of the membrane variance it carries."""

    n: float
    nu: Any
    share: Any = 1.0


class DalianRates(NamedTuple):
    """Rates lambda = 1 / mean weight: input -> target, recurrent E -> target (None without), I -> target."""

    exc: Any
    rec: Any | None
    inh: Any


def membrane_statistics(
    mu_w: Any,
    sigma_w: Any,
    *,
    n: float,
    nu: Any,
    tau_mem: Any,
    tau_syn: Any,
    dt: Any = None,
    theta: Any = 1.0,
    mode: KernelMode = "discrete",
) -> MembraneStatistics:
    """Membrane statistics that weights of mean `mu_w` and standard deviation `sigma_w` produce.

    Args:
      mu_w, sigma_w: weight mean and standard deviation (membrane units).
      n: fan-in, the number of presynaptic units one neuron listens to.
      nu: presynaptic rate, Hz.
      tau_mem, tau_syn, dt: s.   theta: firing threshold.   mode: see `snnjax.psp.psp_integrals`.
      All may be arrays that broadcast.

    >>> s = membrane_statistics(0.0, 0.2, n=100, nu=10.0, tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{s.mu_u:.3f} {s.sigma_u:.3f} {s.xi:.3f}"
    '0.000 0.285 3.504'
    """
    _check.number("mu_w", mu_w)
    _check.number("sigma_w", sigma_w, at_least=0)
    _check.number("n", n, above=0)
    _check.number("nu", nu, above=0, unit="Hz")
    _check.number("theta", theta, above=0)
    xp = _namespace(mu_w, sigma_w, n, nu, tau_mem, tau_syn, dt, theta)
    ebar, ehat = psp_integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt, mode=mode)
    mu_u = n * mu_w * nu * ebar
    sigma_u = xp.sqrt(n * (mu_w**2 + sigma_w**2) * nu * ehat)
    with np.errstate(divide="ignore", invalid="ignore"):
        xi = xp.divide(theta - mu_u, sigma_u)  # weights all zero: xi = inf
    return MembraneStatistics(mu_u, sigma_u, xi, nu * ebar * sigma_w * xp.sqrt(n))


def mu_u_limits(
    xi: Any,
    afferents: Sequence[Afferent],
    *,
    total_drive: Any = None,
    tau_mem: Any,
    tau_syn: Any,
    dt: Any = None,
    theta: Any = 1.0,
    mode: KernelMode = "discrete",
) -> tuple[Any, Any]:
    """The smallest and the largest mu_u for which weights exist, `(lower, upper)`; lower is -inf where nothing bounds it.

    Args:
      total_drive: D in Hz where `afferents` are not all the connections of the neuron; their sum of n nu when None.
      Others: as in `afferent_weights`.

    >>> lower, upper = mu_u_limits(2.0, [Afferent(18, 1.0)], tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{lower:.3f} {upper:.3f}"
    '-1.078 0.342'
    """
    _check.number("xi", xi, above=0)
    _check.number("theta", theta, above=0)
    for a in afferents:
        _check_afferent(a)
    ebar, ehat = psp_integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt, mode=mode)
    xp = _namespace(xi, ebar, ehat, theta, total_drive, *(v for a in afferents for v in a))
    drive = sum(a.n * a.nu for a in afferents) if total_drive is None else total_drive
    k = xp.asarray(0.0)
    for a in afferents:
        k = xp.maximum(k, xi * xp.sqrt(a.n * a.nu * ehat / a.share) / (drive * ebar))
    lower = xp.where(k > 1, -theta / xp.where(k > 1, k - 1, 1.0), -xp.inf)
    return lower, theta / (1 + k)


def connection_weights(
    mu_u: Any,
    xi: Any,
    afferent: Afferent,
    *,
    total_drive: Any = None,
    tau_mem: Any,
    tau_syn: Any,
    dt: Any = None,
    theta: Any = 1.0,
    mode: KernelMode = "discrete",
) -> WeightStatistics:
    """Weights of one connection that put the membrane at mean `mu_u` and threshold distance `xi`.

    Args:
      mu_u: target mean of the membrane; below theta.
      xi: target distance to threshold in standard deviations, > 0: sigma_u = (theta - mu_u) / xi.
      afferent: fan-in, rate and variance share of this connection.
      total_drive: D = sum_c n_c nu_c (Hz) over all connections of the neuron; this one's n nu when None.
      tau_mem, tau_syn, dt (s), theta, mode: as in `membrane_statistics`.

    Raises:
      ValueError: no such weights exist (the message names the allowed range of mu_u), or an argument is out of range. Under jit or
        vmap with a traced mu_u or xi the infeasible case gives NaN instead.

    >>> w = connection_weights(0.0, 1.0, Afferent(700, 15.8), tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{w.mu_w:.3f} {w.sigma_w:.4f}"
    '0.000 0.2108'
    >>> connection_weights(0.5, 2.0, Afferent(18, 1.0), tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    Traceback (most recent call last):
    ...
    ValueError: mu_u = 0.5 has no weights at xi = 2, theta = 1: sigma_w^2 would be negative. Allowed: -1.078 <= mu_u <= 0.3416. \
Raise n or nu, or lower |mu_u| or xi
    """
    _check_afferent(afferent)
    if total_drive is not None:
        _check.number("total_drive", total_drive, above=0, unit="Hz")
    check_target(mu_u, xi, theta)
    kernel = {"tau_mem": tau_mem, "tau_syn": tau_syn, "dt": dt, "mode": mode}
    limits = mu_u_limits(xi, [afferent], total_drive=total_drive, theta=theta, **kernel)
    _check_feasible(mu_u, xi, theta, limits)
    ebar, ehat = psp_integrals(**kernel)
    mu_w = mu_u / ((afferent.n * afferent.nu if total_drive is None else total_drive) * ebar)
    variance = afferent.share * ((theta - mu_u) / xi) ** 2 / (afferent.n * afferent.nu * ehat) - mu_w**2
    xp = _namespace(variance)
    if not _traced(variance):
        variance = xp.maximum(variance, 0.0)  # on the limit itself rounding may dip below zero
    return WeightStatistics(mu_w, xp.sqrt(variance))


def afferent_weights(
    mu_u: Any,
    xi: Any,
    afferents: Sequence[Afferent],
    *,
    tau_mem: Any,
    tau_syn: Any,
    dt: Any = None,
    theta: Any = 1.0,
    mode: KernelMode = "discrete",
) -> list[WeightStatistics]:
    """Weights of all the connections of a neuron that together give mean `mu_u` and sigma_u = (theta - mu_u) / xi.

    Args:
      afferents: the connections. Their shares must add up to 1.
      Others, and errors: as in `connection_weights`.

    Returns:
      One `WeightStatistics` an afferent, in their order. The mean is the same for all.

    >>> ff, rec = afferent_weights(
    ...     0.0, 1.0, [Afferent(700, 15.8, 0.9), Afferent(128, 15.8, 0.1)], tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{ff.sigma_w:.4f} {rec.sigma_w:.4f}"
    '0.1999 0.1559'
    """
    if not afferents:
        raise ValueError("afferents must name at least one connection, got none")
    total_share = sum(_check.concrete(a.share) if not _traced(a.share) else np.nan for a in afferents)  # type: ignore[misc]
    if np.any(np.abs(total_share - 1.0) > 1e-6):
        raise ValueError(f"the shares of the afferents must add up to 1, got {[a.share for a in afferents]}")
    options = {"tau_mem": tau_mem, "tau_syn": tau_syn, "dt": dt, "theta": theta, "mode": mode}
    check_target(mu_u, xi, theta)
    _check_feasible(mu_u, xi, theta, mu_u_limits(xi, afferents, **options))
    drive = sum(a.n * a.nu for a in afferents)
    return [connection_weights(mu_u, xi, a, total_drive=drive, **options) for a in afferents]


def _check_afferent(a: Afferent) -> None:
    _check.number("n", a.n, above=0)
    _check.number("nu", a.nu, above=0, unit="Hz")
    _check.number("share", a.share, above=0, at_most=1)


def _traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def check_target(mu_u: Any, xi: Any, theta: Any) -> None:
    """Raise unless theta and xi are positive and mu_u is below theta."""
    _check.number("xi", xi, above=0)
    _check.number("theta", theta, above=0)
    _check.number("mu_u", mu_u)
    mu, th = _check.concrete(mu_u), _check.concrete(theta)
    if mu is not None and th is not None and np.any(mu >= th):
        raise ValueError(f"mu_u must be below theta = {theta}, got {mu_u}")


def _check_feasible(mu_u: Any, xi: Any, theta: Any, limits: tuple[Any, Any]) -> None:
    values = [_check.concrete(v) for v in (mu_u, xi, theta, *limits)]
    if any(v is None for v in values):
        return
    mu, xi_, th, low, high = np.broadcast_arrays(*values)  # type: ignore[arg-type]
    slack = 1e-9 * th
    bad = (mu < low - slack) | (mu > high + slack)
    if np.any(bad):
        mu, xi_, th, low, high = (float(v[bad].ravel()[0]) for v in (mu, xi_, th, low, high))
        raise ValueError(
            f"mu_u = {mu:g} has no weights at xi = {xi_:g}, theta = {th:g}: sigma_w^2 would be negative. "
            f"Allowed: {low:.4g} <= mu_u <= {high:.4g}. Raise n or nu, or lower |mu_u| or xi"
        )


def dalian_rates(
    sigma_u: Any,
    *,
    n_exc: float,
    n_inh: float,
    n_rec: float = 0,
    nu_exc: Any,
    nu_inh: Any = None,
    nu_rec: Any = None,
    tau_mem: Any,
    tau_exc: Any,
    tau_inh: Any,
    dt: Any = None,
    alpha: Any = 0.9,
    mu_u: Any = 0.0,
    cv: Any = 1.0,
    mode: KernelMode = "discrete",
) -> DalianRates:
    r"""Rates lambda = 1 / mean weight of weights >= 0 for a neuron with separate excitatory and inhibitory currents.

    A distribution of weights enters with two numbers, its mean m = 1 / lambda and E[W^2] = k m^2, where k = 1 + cv^2: 2 for the exponential one. With D the
    drive n nu of a connection, and d_R = lambda_R / lambda_E,

        alpha      d_R^2 = alpha D_R / ((1 - alpha) D_E)                      share alpha of the excitatory variance is feed-forward
        mean       A m_E - B m_I = mu_u                                       A = ebar_E (D_E + D_R / d_R),       B = ebar_I D_I
        sigma_u    k (P m_E^2 + Q m_I^2) = sigma_u^2                          P = ehat_E (D_E + D_R / d_R^2),     Q = ehat_I D_I

    a quadratic equation in m_E: with c = Q / B^2,

        m_E = (A mu_u c + sqrt((P + A^2 c) sigma_u^2 / k - P mu_u^2 c)) / (P + A^2 c),          m_I = (A m_E - mu_u) / B

    Both are positive where -B / sqrt(k Q) < mu_u / sigma_u < A / sqrt(k P): at either end one population alone makes mean and fluctuations.

    Args:
      sigma_u: target standard deviation of the membrane.
      n_exc, n_inh, n_rec: inputs a neuron gets from the layer below, from the inhibitory and from the recurrent excitatory population.
      nu_exc, nu_inh, nu_rec: their rates, Hz; the last two default to `nu_exc`.
      tau_mem, tau_exc, tau_inh, dt: s.   alpha: in (0, 1), used with n_rec > 0 only.
      mu_u: target mean of the membrane.   cv: standard deviation of the weights over their mean, the same for all connections; 1: exponential.

    Returns:
      `DalianRates(exc, rec, inh)`; the mean weight of each connection is 1 / lambda. Traced values are not checked: NaN or negative where no weights exist.

    Raises:
      ValueError: an argument is out of range, or there are no such weights; names the mu_u that are possible.

    >>> r = dalian_rates(1.0, n_exc=700, n_inh=32, nu_exc=15.8, tau_mem=20e-3, tau_exc=10e-3, tau_inh=20e-3, dt=2e-3)
    >>> f"{r.exc:.2f} {r.inh:.3f}"
    '27.97 2.436'
    """
    for name, value in (("n_exc", n_exc), ("n_inh", n_inh)):
        _check.number(name, value, above=0)
    _check.number("n_rec", n_rec, at_least=0)
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("mu_u", mu_u)
    _check.number("cv", cv, at_least=0)
    for name, value in (("tau_mem", tau_mem), ("tau_exc", tau_exc), ("tau_inh", tau_inh)):
        _check.number(name, value, above=0, unit="s")
    nu_inh = nu_exc if nu_inh is None else nu_inh
    nu_rec = nu_exc if nu_rec is None else nu_rec
    for name, value in (("nu_exc", nu_exc), ("nu_inh", nu_inh), ("nu_rec", nu_rec)):
        _check.number(name, value, above=0, unit="Hz")
    ebar_e, ehat_e = psp_integrals(tau_mem=tau_mem, tau_syn=tau_exc, dt=dt, mode=mode)
    ebar_i, ehat_i = psp_integrals(tau_mem=tau_mem, tau_syn=tau_inh, dt=dt, mode=mode)
    xp = _namespace(sigma_u, nu_exc, nu_inh, nu_rec, ebar_e, ehat_e, ebar_i, ehat_i, alpha, mu_u, cv)
    drive_e, drive_r, drive_i = n_exc * nu_exc, n_rec * nu_rec, n_inh * nu_inh
    d_r: Any = None
    recurrent_mean = recurrent_variance = 0.0
    if n_rec > 0:
        _check.number("alpha", alpha, above=0, below=1)
        d_r = xp.sqrt(alpha * drive_r / ((1 - alpha) * drive_e))
        recurrent_mean, recurrent_variance = drive_r / d_r, drive_r / d_r**2
    mean_e, mean_i = ebar_e * (drive_e + recurrent_mean), ebar_i * drive_i
    power_e, power_i = ehat_e * (drive_e + recurrent_variance), ehat_i * drive_i
    m_e, m_i = dalian_means(sigma_u, mean_e, mean_i, power_e, power_i, mu_u=mu_u, cv=cv, xp=xp)
    return DalianRates(1 / m_e, None if d_r is None else d_r / m_e, 1 / m_i)


def dalian_means(
    sigma_u: Any, mean_e: Any, mean_i: Any, power_e: Any, power_i: Any, *, mu_u: Any = 0.0, cv: Any = 1.0, xp: Any = np
) -> tuple[Any, Any]:
    """The two mean weights m_E and m_I that put a membrane at mu_u and sigma_u, given A, B, P and Q of `dalian_rates`, its equations solved.

    Raises:
      ValueError: one of them would not be positive; names the mu_u that are possible.

    >>> m_e, m_i = dalian_means(1.0, 10.0, 5.0, 0.1, 0.2)
    >>> f"{10 * m_e - 5 * m_i:.3f} {2 * (0.1 * m_e**2 + 0.2 * m_i**2):.3f}"
    '0.000 1.000'
    """
    k = 1 + cv**2
    _check_dalian_feasible(mu_u, sigma_u, -sigma_u * mean_i / xp.sqrt(k * power_i), sigma_u * mean_e / xp.sqrt(k * power_e))
    c = power_i / mean_i**2
    a = power_e + mean_e**2 * c
    m_e = (mean_e * mu_u * c + xp.sqrt(a * sigma_u**2 / k - power_e * mu_u**2 * c)) / a
    return m_e, (mean_e * m_e - mu_u) / mean_i


def _check_dalian_feasible(mu_u: Any, sigma_u: Any, low: Any, high: Any) -> None:
    values = [_check.concrete(v) for v in (mu_u, sigma_u, low, high)]
    if any(v is None for v in values):
        return
    mu, sigma, lo, hi = np.broadcast_arrays(*values)  # type: ignore[arg-type]
    bad = (mu <= lo) | (mu >= hi)
    if np.any(bad):
        mu, sigma, lo, hi = (float(v[bad].ravel()[0]) for v in (mu, sigma, lo, hi))
        raise ValueError(
            f"mu_u = {mu:g} has no weights >= 0 at sigma_u = {sigma:g}: one population alone would move the membrane further or shake it more. "
            f"Allowed: {lo:.4g} < mu_u < {hi:.4g}. Raise n or nu or sigma_u, or lower |mu_u|"
        )
