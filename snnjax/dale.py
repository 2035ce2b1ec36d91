r"""Initializers for weights that obey Dale's law: never negative, the sign is the sending population's.

`fluctuation_driven_exponential` and `fluctuation_driven_lognormal` put the membrane of a neuron with an excitatory and an inhibitory current at mean mu_u
and standard deviation sigma_u. Independent inputs j of connection c at nu_c Hz, with fixed weights w_j, give one neuron a membrane with

    mean U  = sum_c s_c nu_c ebar_c sum_j w_j                Var_t U = sum_c nu_c ehat_c sum_j w_j^2                  s = +1, -1

so that of the distribution of the weights only E[W] and E[W^2] enter what is true on average over neurons: `snnjax.theory.dalian_rates` solves for the
means m_c, given k = E[W^2] / E[W]^2 = 1 + cv^2. Two distributions, each given by its mean m:

    exponential   p(w) = lambda exp(-lambda w),  lambda = 1 / m          E[W^2] = 2 m^2                 k = 2
    log-normal    W = exp(mu + s G), G ~ Normal(0, 1)                    E[W^n] = exp(n mu + n^2 s^2 / 2)
                  E[W] = exp(mu + s^2 / 2) = m                           E[W^2] = exp(2 mu + 2 s^2) = m^2 exp(s^2)
                  s^2 = log(1 + cv^2),  mu = log m - s^2 / 2             k = exp(s^2) = 1 + cv^2

At cv = 1 the log-normal weights have the means of the exponential ones and the same membrane on average, with a heavier tail: Var_t U differs between
neurons by Var(W^2), and E[W^4] / E[W^2]^2 = k^4 = 16, against 6. A smaller cv narrows both, and leaves a larger share of the variance to what all neurons of
a layer have in common: a fraction 1 / k of Var_t U is that of a neuron with all weights equal to their mean.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.4 (exponential); the log-normal alternative is derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.initializers import Initializer, fan_in, in_float32, mean_rate, per_neuron
from snnjax.psp import KernelMode
from snnjax.theory import dalian_rates


class DalianInitializers(NamedTuple):
    """One initializer `(key, shape, dtype)` a connection: input -> target, recurrent E -> target (None without), I -> target."""

    exc: Initializer
    rec: Initializer | None
    inh: Initializer


def exponential(rate: Any) -> Initializer:
    """Exponential weights of mean 1 / `rate`, whatever the shape.

    >>> w = exponential(4.0)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.2f} {bool((w >= 0).all())}"
    '0.25 0.25 True'
    """
    _check.number("rate", rate, above=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        return jax.random.exponential(key, shape, dtype) / jnp.asarray(per_neuron("rate", rate, shape), dtype)

    return init


def lognormal(mean: Any, cv: Any = 1.0) -> Initializer:
    """Log-normal weights of mean `mean` and standard deviation `cv` times that, whatever the shape.

    >>> w = lognormal(0.25, 0.5)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.3f} {bool((w > 0).all())}"
    '0.25 0.125 True'
    """
    _check.number("mean", mean, above=0)
    _check.number("cv", cv, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        s2 = jnp.log1p(jnp.asarray(per_neuron("cv", cv, shape), dtype) ** 2)
        normal = jax.random.normal(key, shape, dtype)
        return jnp.asarray(per_neuron("mean", mean, shape), dtype) * jnp.exp(jnp.sqrt(s2) * normal - s2 / 2)

    return init


def fluctuation_driven_exponential(
    sigma_u: Any = 1.0,
    *,
    n_exc: int,
    n_inh: int,
    n_rec: int = 0,
    nu_exc: Any,
    nu_inh: Any = None,
    nu_rec: Any = None,
    mu_u: Any = 0.0,
    alpha: Any = 0.9,
    tau_mem: Any = 20e-3,
    tau_exc: Any = 10e-3,
    tau_inh: Any = 20e-3,
    dt: Any = 2e-3,
    mode: KernelMode = "discrete",
) -> DalianInitializers:
    """Exponential weights that put the membrane at mean `mu_u` and standard deviation `sigma_u`.

    Args:
      sigma_u, mu_u: targets, in membrane units.
      n_exc, n_inh, n_rec: inputs of one neuron: feed-forward (for a convolution kernel positions times channels), inhibitory, recurrent excitatory.
      nu_exc, nu_inh, nu_rec: their rates, Hz, one number or one for each input (for a convolution, each channel); the last two default to `nu_exc`,
        the mean of its rates where there are several.
      alpha: share of the excitatory variance that is feed-forward, with n_rec > 0.
      tau_mem, tau_exc, tau_inh, dt: s.   mode: `"discrete"` or `"continuous"` kernel integrals (`snnjax.psp`).

    Returns:
      `DalianInitializers(exc, rec, inh)`, for kernels (..., in, out), whose fan-in must be the n given here.

    Raises:
      ValueError: an option is out of range or no such weights exist (at once), or a shape has another fan-in (when called).

    >>> init = fluctuation_driven_exponential(1.0, n_exc=700, n_inh=32, nu_exc=15.8)
    >>> w = init.exc(jax.random.key(0), (700, 160))
    >>> f"{1 / w.mean():.1f}", bool((w >= 0).all()), init.rec
    ('28.0', True, None)
    """
    return _initializers(
        sigma_u, exponential, n_exc=n_exc, n_inh=n_inh, n_rec=n_rec, nu_exc=nu_exc, nu_inh=nu_inh, nu_rec=nu_rec, mu_u=mu_u, alpha=alpha,
        tau_mem=tau_mem, tau_exc=tau_exc, tau_inh=tau_inh, dt=dt, mode=mode,
    )  # fmt: skip


def fluctuation_driven_lognormal(sigma_u: Any = 1.0, *, cv: Any = 1.0, **options: Any) -> DalianInitializers:
    """`fluctuation_driven_exponential`, whose `options` these are, with log-normal weights, of a standard deviation `cv` times their mean.

    >>> init = fluctuation_driven_lognormal(1.0, cv=0.5, n_exc=700, n_inh=32, n_rec=128, nu_exc=15.8)
    >>> w = init.rec(jax.random.key(0), (128, 160))
    >>> f"{w.std() / w.mean():.1f}"
    '0.5'
    """
    return _initializers(sigma_u, lambda rate: lognormal(1 / rate, cv), cv=cv, **options)


def _initializers(
    sigma_u: Any,
    draw: Callable[[Any], Initializer],
    *,
    n_exc: int,
    n_inh: int,
    n_rec: int = 0,
    nu_exc: Any,
    nu_inh: Any = None,
    nu_rec: Any = None,
    tau_mem: Any = 20e-3,
    tau_exc: Any = 10e-3,
    tau_inh: Any = 20e-3,
    dt: Any = 2e-3,
    **options: Any,
) -> DalianInitializers:
    sizes: dict[str, Any] = {"n_exc": n_exc, "n_inh": n_inh, "n_rec": n_rec}
    nu: dict[str, Any] = {"nu_exc": nu_exc, "nu_inh": nu_inh, "nu_rec": nu_rec}
    means = {name: None if rates is None else mean_rate(name, rates) for name, rates in nu.items()}
    rates = dalian_rates(sigma_u, **sizes, **means, tau_mem=tau_mem, tau_exc=tau_exc, tau_inh=tau_inh, dt=dt, **options)

    def initializer(name: str, rate: Any) -> Initializer:
        return _for_fan_in(sizes[f"n_{name}"], draw(rate), f"nu_{name}", nu[f"nu_{name}"])

    rec = None if rates.rec is None else initializer("rec", rates.rec)
    return DalianInitializers(initializer("exc", rates.exc), rec, initializer("inh", rates.inh))


def _for_fan_in(n: int, draw: Initializer, name: str, nu: Any) -> Initializer:
    """`draw`, for kernels of `n` inputs and as many channels as there are rates `nu`: the weights of all connections of a neuron depend on each other."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if fan_in(shape) != n:
            raise ValueError(f"shape must have {n} inputs, as many as the weights were computed for, got {tuple(shape)}")
        if nu is not None:
            mean_rate(name, nu, shape[-2])
        return draw(key, shape, dtype)

    return init
