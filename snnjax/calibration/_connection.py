"""What the calibrations share: the input of one connection, and the one place that sets weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.calibration.powers import InputPowers, input_powers, standard_weights
from snnjax.nn import Incoming

FLOOR_HZ = 1.0
"""A population that fires below this rate is taken to fire at it when its weights are set.

Weights so large that a few spikes per sample made their whole share of the variance would keep the
layer firing by itself once anything starts it.
"""


def powers_of(c: Incoming, spikes: jax.Array, neuron: Any, balance: bool) -> InputPowers:
    """Powers of what a neuron of the layer gets of `spikes` through the connection `c`."""
    ones = jnp.ones((*c.param.shape[:-1], 1), spikes.dtype)
    gather = lambda h: c.project(h, ones)
    return input_powers(spikes, neuron, balance=balance, gather=gather, n=c.n)


def poisson_powers(neuron: Any, n: int, rate: float, balance: bool, dtype: Any) -> InputPowers:
    """Powers of n Poisson inputs at `rate`, Hz."""
    ebar, ehat = neuron.kernel.mean(), neuron.kernel.power()
    quenched = 0.0 if balance else n * (rate * ebar) ** 2
    values = (n * rate * ehat, quenched, n * rate * ebar, n * rate * ehat)
    return InputPowers(*(jnp.asarray(v, dtype) for v in values), n=n, balanced=balance)


def shared_times(neuron: Any) -> Any:
    """The neuron with one time constant for all units, the mean of those that it has.

    Each input train is then filtered once, and not once for every target neuron.
    """
    if not dataclasses.is_dataclass(neuron):
        return neuron
    names = [f.name for f in dataclasses.fields(neuron) if f.name.startswith("tau_")]
    times = {name: getattr(neuron, name) for name in names}
    means = {name: jnp.mean(tau) for name, tau in times.items() if jnp.ndim(tau)}
    return dataclasses.replace(neuron, **means)  # type: ignore[type-var]


def standardized(w: jax.Array, key: jax.Array | None, balance: bool) -> jax.Array:
    """Weights of mean 0 and variance 1.

    Args:
        w: The weights that are there, (..., in, out). Weights of exactly 0, of a sparse layer, stay
            0.
        key: Draw new ones with it; None standardizes those that are there.
        balance: Whether the weights of each neuron have zero sum.

    Returns:
        The weights. NaN where all that are there are equal, so that no scale gives them a variance.
    """
    if key is not None:
        return standard_weights(key, w.shape, balance=balance, dtype=w.dtype)
    w = _check.as_wide(w)
    kept = w != 0
    axes = tuple(range(w.ndim - 1)) if balance else None
    mean = w.sum(axis=axes, keepdims=True) / jnp.maximum(kept.sum(axis=axes, keepdims=True), 1)
    g = jnp.where(kept, w - mean, 0)
    power, before = jnp.square(g).mean(), jnp.square(w).mean()
    enough = power > 100 * jnp.finfo(w.dtype).eps ** 2 * before
    return g / jnp.sqrt(jnp.where(enough, power, jnp.nan))


def positive(w: jax.Array, key: jax.Array | None) -> jax.Array:
    """Weights >= 0 of mean exactly 1: exponential ones, or those that are there.

    NaN where these are all 0.
    """
    if key is not None:
        w = jax.random.exponential(key, w.shape, _check.wide(w.dtype))
    g = _check.as_wide(w)
    return g / g.mean()


def set_weights(param: nnx.Param, new: jax.Array, *, there: Any = True) -> jax.Array:
    """Set the weights of a connection, in the type that they have.

    Args:
        param: The parameter.
        new: The new weights. Where they are not finite, there are none.
        there: Whether there are any, as far as the caller knows.

    Returns:
        Whether they were set.
    """
    new = new.astype(param[...].dtype)
    there = jnp.isfinite(new).all() & there
    param[...] = jnp.where(there, new, param[...])
    return there
