r"""Initializers for weights that obey Dale's law.

Weights are never negative; the sign is that of the sending population.

`fluctuation_driven_exponential` and `fluctuation_driven_lognormal` put the membrane of a neuron
with an excitatory and an inhibitory current at mean mu_u and standard deviation sigma_u.
Independent inputs j of connection c at nu_c Hz, with fixed weights w_j, give one neuron a membrane
with

    mean U  = sum_c s_c nu_c ebar_c sum_j w_j                           s = +1, -1
    Var_t U = sum_c nu_c ehat_c sum_j w_j^2

On average over neurons, only E[W] and E[W^2] of the distribution of the weights matter:
`snnjax.theory.dalian_rates` solves for the means m_c, given k = E[W^2] / E[W]^2 = 1 + cv^2. Two
distributions, each given by its mean m:

    exponential   p(w) = lambda exp(-lambda w),  lambda = 1 / m     E[W^2] = 2 m^2,  k = 2
    log-normal    W = exp(mu + s G), G ~ Normal(0, 1)               E[W^n] = exp(n mu + n^2 s^2/2)
                  E[W] = exp(mu + s^2 / 2) = m                      E[W^2] = m^2 exp(s^2)
                  s^2 = log(1 + cv^2),  mu = log m - s^2 / 2        k = exp(s^2) = 1 + cv^2

At cv = 1 the log-normal weights have the means of the exponential ones and the same membrane on
average, with a heavier tail: Var_t U differs between neurons by Var(W^2), and E[W^4] / E[W^2]^2 is
k^4 = 16, against 6. A smaller cv narrows both. It also increases the share of the variance that all
neurons of a layer have in common: a fraction 1 / k of Var_t U is that of a neuron whose weights all
equal their mean.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.4 (exponential);
the log-normal alternative is derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._check import Scalar
from snnjax.initializers import Initializer, fan_in, in_float32, mean_rate, per_neuron
from snnjax.psp import ExcInhKernels
from snnjax.theory import dalian_rates

__all__ = [
    "fluctuation_driven_exponential",
    "fluctuation_driven_lognormal",
    "exponential",
    "lognormal",
]


class DalianInitializers(NamedTuple):
    """One initializer `(key, shape, dtype)` per connection.

    Attributes:
        exc: Input -> target.
        rec: Recurrent excitatory -> target, None without recurrence.
        inh: Inhibitory -> target.
    """

    exc: Initializer
    rec: Initializer | None
    inh: Initializer


def exponential(rate: Scalar) -> Initializer:
    """Exponential weights of mean 1 / `rate`, for any shape.

    Args:
        rate: One number, or one per neuron, > 0.

    >>> w = exponential(4.0)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.2f} {bool((w >= 0).all())}"
    '0.25 0.25 True'
    """
    _check.number("rate", rate, above=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        draw = jax.random.exponential(key, shape, dtype)
        return draw / jnp.asarray(per_neuron("rate", rate, shape), dtype)

    return init


def lognormal(mean: Scalar, cv: Scalar = 1.0) -> Initializer:
    """Log-normal weights, for any shape.

    Args:
        mean: Mean of the weights: one number, or one per neuron, > 0.
        cv: Standard deviation over mean, likewise, >= 0.

    >>> w = lognormal(0.25, 0.5)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.3f} {bool((w > 0).all())}"
    '0.25 0.125 True'
    """
    _check.number("mean", mean, above=0)
    _check.number("cv", cv, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        s2 = jnp.log1p(jnp.asarray(per_neuron("cv", cv, shape), dtype) ** 2)
        factor = jnp.exp(jnp.sqrt(s2) * jax.random.normal(key, shape, dtype) - s2 / 2)
        return jnp.asarray(per_neuron("mean", mean, shape), dtype) * factor

    return init


def fluctuation_driven_exponential(
    sigma_u: Scalar = 1.0,
    *,
    kernels: ExcInhKernels = ExcInhKernels(),
    n_exc: int,
    n_inh: int,
    n_rec: int = 0,
    nu_exc: Scalar,
    nu_inh: Scalar | None = None,
    nu_recurrent: Scalar | None = None,
    mu_u: Scalar = 0.0,
    alpha: Scalar = 0.9,
) -> DalianInitializers:
    """Exponential weights that put the membrane at mean `mu_u` and standard deviation `sigma_u`.

    Args:
        sigma_u: Target standard deviation, in membrane units.
        kernels: Post-synaptic potentials of the two currents, for example `ExcInhLIF().kernels`.
        n_exc: Feed-forward inputs of one neuron; for a convolution kernel positions times channels.
        n_inh: Inhibitory inputs of one neuron, likewise.
        n_rec: Recurrent excitatory inputs of one neuron, likewise.
        nu_exc: Rate of the feed-forward inputs, Hz: one number, or one per input (for a
            convolution, per channel).
        nu_inh: Rate of the inhibitory inputs, likewise. None: the mean of `nu_exc`.
        nu_recurrent: Rate of the recurrent inputs, likewise. None: the mean of `nu_exc`.
        mu_u: Target mean, in membrane units.
        alpha: Share of the excitatory variance that is feed-forward, if n_rec > 0.

    Returns:
        `DalianInitializers(exc, rec, inh)`, for kernels (..., in, out) whose fan-in is the given n.

    Raises:
        ValueError: An option is out of range or no such weights exist (at once), or a shape has
            another fan-in (when called).

    >>> init = fluctuation_driven_exponential(1.0, n_exc=700, n_inh=32, nu_exc=15.8)
    >>> w = init.exc(jax.random.key(0), (700, 160))
    >>> f"{1 / w.mean():.1f}", bool((w >= 0).all()), init.rec
    ('28.0', True, None)
    """
    sizes = {"n_exc": n_exc, "n_rec": n_rec, "n_inh": n_inh}
    rates = {"nu_exc": nu_exc, "nu_recurrent": nu_recurrent, "nu_inh": nu_inh}
    options: Any = {"kernels": kernels, "mu_u": mu_u, "alpha": alpha}
    return _initializers(exponential, sigma_u, **sizes, **rates, **options)


def fluctuation_driven_lognormal(
    sigma_u: Scalar = 1.0,
    *,
    cv: Scalar = 1.0,
    **options: Any,
) -> DalianInitializers:
    """`fluctuation_driven_exponential` with log-normal weights.

    Args:
        sigma_u: Target standard deviation, in membrane units.
        cv: Standard deviation of the weights over their mean.
        **options: Further options of `fluctuation_driven_exponential`.

    >>> options = dict(n_exc=700, n_inh=32, n_rec=128, nu_exc=15.8)
    >>> init = fluctuation_driven_lognormal(1.0, cv=0.5, **options)
    >>> w = init.rec(jax.random.key(0), (128, 160))
    >>> f"{w.std() / w.mean():.1f}"
    '0.5'
    """
    return _initializers(lambda rate: lognormal(1 / rate, cv), sigma_u, cv=cv, **options)


def _initializers(
    draw: Callable[[Scalar], Initializer],
    sigma_u: Scalar,
    *,
    kernels: ExcInhKernels = ExcInhKernels(),
    nu_exc: Scalar,
    nu_inh: Scalar | None = None,
    nu_recurrent: Scalar | None = None,
    **options: Any,
) -> DalianInitializers:
    nu = {"nu_exc": nu_exc, "nu_inh": nu_inh, "nu_recurrent": nu_recurrent}
    means: Any = {k: None if rates is None else mean_rate(k, rates) for k, rates in nu.items()}
    rates = dalian_rates(sigma_u, kernels=kernels, **means, **options)

    def initializer(name: str, rate: Scalar) -> Initializer:
        return _for_fan_in(options[f"n_{name}"], draw(rate), f"nu_{name}", nu[f"nu_{name}"])

    rec = None if rates.rec is None else initializer("rec", rates.rec)
    return DalianInitializers(initializer("exc", rates.exc), rec, initializer("inh", rates.inh))


def _for_fan_in(n: int, draw: Initializer, name: str, nu: Scalar | None) -> Initializer:
    """Restrict `draw` to kernels with `n` inputs and as many channels as there are rates `nu`.

    The weights of all connections of a neuron depend on each other.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if fan_in(shape) != n:
            needed = f"{n} inputs, as many as the weights were computed for"
            raise ValueError(f"shape must have {needed}, got {tuple(shape)}")
        if nu is not None:
            mean_rate(name, nu, shape[-2])
        return draw(key, shape, dtype)

    return init
