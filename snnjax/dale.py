r"""Initializers for weights that obey Dale's law.

Weights are never negative; the sign is that of the sending population.

`fluctuation_driven_dalian` puts the membrane of a neuron with an excitatory and an inhibitory
current at mean mu_u and standard deviation sigma_u. Independent inputs j of connection c at nu_c
Hz, with fixed weights w_j, give one neuron a membrane with

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

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._random import draw
from snnjax.initializers import Initializer, fan_in, in_float32, mean_rate, per_neuron
from snnjax.psp import ExcInhKernels
from snnjax.theory import Afferent, dalian_rates

__all__ = ["fluctuation_driven_dalian", "exponential"]


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
    """Return an initializer that draws exponential weights of mean 1 / `rate`, for any shape.

    Args:
        rate: One number, or one per neuron, > 0.

    >>> w = exponential(4.0)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.2f} {bool((w >= 0).all())}"
    '0.25 0.25 True'
    """
    _check.number("rate", rate, above=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        drawn = draw(jax.random.exponential, key, shape, dtype)
        return drawn / jnp.asarray(per_neuron("rate", rate, shape), dtype)

    return init


def lognormal(mean: Scalar, cv: Scalar = 1.0) -> Initializer:
    """Return an initializer that draws log-normal weights, for any shape.

    Args:
        mean: Mean of the weights: one number, or one per neuron, > 0.
        cv: Standard deviation over mean, one number, or one per neuron, >= 0.

    >>> w = lognormal(0.25, 0.5)(jax.random.key(0), (200, 200))
    >>> f"{w.mean():.2f} {w.std():.3f} {bool((w > 0).all())}"
    '0.25 0.125 True'
    """
    _check.number("mean", mean, above=0)
    _check.number("cv", cv, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        s2 = jnp.log1p(jnp.asarray(per_neuron("cv", cv, shape), dtype) ** 2)
        factor = jnp.exp(jnp.sqrt(s2) * draw(jax.random.normal, key, shape, dtype) - s2 / 2)
        return jnp.asarray(per_neuron("mean", mean, shape), dtype) * factor

    return init


def fluctuation_driven_dalian(
    sigma_u: Scalar = 1.0,
    *,
    exc: Afferent,
    inh: Afferent,
    rec: Afferent | None = None,
    kernels: ExcInhKernels = ExcInhKernels(),
    mu_u: Scalar = 0.0,
    alpha: Scalar = 0.9,
    cv: Scalar | None = None,
) -> DalianInitializers:
    """Return initializers of weights >= 0 that put the membrane at mean `mu_u` and std `sigma_u`.

    Args:
        sigma_u: Target standard deviation, in membrane units.
        exc: Feed-forward inputs of one neuron: their number (for a convolution, kernel positions
            times channels) and their rate in Hz, one number or one per input (for a convolution,
            per channel). The field `share` has no effect.
        inh: Inhibitory inputs, in the same form.
        rec: Recurrent excitatory inputs, in the same form. None: no recurrence.
        kernels: Post-synaptic potentials of the two currents, for example `ExcInhLIF().kernels`.
        mu_u: Target mean, in membrane units.
        alpha: Share of the excitatory variance that is feed-forward. Used with `rec`.
        cv: Standard deviation of log-normal weights over their mean. None: exponential weights.

    Returns:
        `DalianInitializers(exc, rec, inh)`, for kernels (..., in, out) whose fan-in is the given n.

    Raises:
        ValueError: An option is out of range or no such weights exist (at once), or a shape has
            another fan-in (when called).

    >>> exc, inh, rec = (Afferent(n, 15.8) for n in (700, 32, 128))
    >>> init = fluctuation_driven_dalian(1.0, exc=exc, inh=inh)
    >>> w = init.exc(jax.random.key(0), (700, 160))
    >>> f"{1 / w.mean():.1f}", bool((w >= 0).all()), init.rec
    ('28.0', True, None)
    >>> init = fluctuation_driven_dalian(1.0, exc=exc, inh=inh, rec=rec, cv=0.5)
    >>> w = init.rec(jax.random.key(0), (128, 160))
    >>> f"{w.std() / w.mean():.1f}"
    '0.5'
    """
    rates = dalian_rates(
        sigma_u,
        exc=_averaged("exc", exc),
        inh=_averaged("inh", inh),
        rec=None if rec is None else _averaged("rec", rec),
        kernels=kernels,
        alpha=alpha,
        mu_u=mu_u,
        cv=1.0 if cv is None else cv,
    )

    def draw(name: str, afferent: Afferent, rate: Scalar) -> Initializer:
        weights = exponential(rate) if cv is None else lognormal(1 / rate, cv)
        return _for_fan_in(name, afferent, weights)

    return DalianInitializers(
        draw("exc", exc, rates.exc),
        None if rec is None or rates.rec is None else draw("rec", rec, rates.rec),
        draw("inh", inh, rates.inh),
    )


def _averaged(name: str, afferent: Afferent) -> Afferent:
    """The connection with the mean of its rates."""
    return afferent._replace(nu=mean_rate(f"{name}.nu", afferent.nu))


def _for_fan_in(name: str, afferent: Afferent, draw: Initializer) -> Initializer:
    """Restrict `draw` to kernels that fit the number of inputs and of rates of the connection.

    The weights of all connections of a neuron depend on each other.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        if fan_in(shape) != afferent.n:
            needed = f"{afferent.n} inputs, as many as the weights were computed for"
            raise ValueError(f"shape must have {needed}, got {tuple(shape)}")
        mean_rate(f"{name}.nu", afferent.nu, shape[-2])
        return draw(key, shape, dtype)

    return init
