"""Shared by all calibrations: a walk over the layers, the input of a connection, its weights."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._random import draw
from snnjax.calibration._powers import InputPowers, input_powers, standard_weights
from snnjax.calibration._report import Of, Outcome, T
from snnjax.dynamics import Neuron
from snnjax.nn import Layer, Sequential
from snnjax.nn._synaptic import Connection, Synaptic
from snnjax.theory import check_kernel

FLOOR_HZ = 1.0
"""A population that fires below this rate gets the weights of one that fires at this rate.

Otherwise a few spikes per sample would have to carry the whole share of the variance. Weights of
that size keep the layer firing by itself once anything starts it.
"""


def powers_of(
    c: Connection,
    spikes: jax.Array,
    neuron: Neuron,
    balance: bool,
    num_steps: jax.Array | None = None,
) -> InputPowers:
    """Powers of the input that a neuron of the layer receives from `spikes` through `c`."""
    ones = jnp.ones((*c.param.shape[:-1], 1), spikes.dtype)
    gather = lambda h: c.project(h, ones)
    of = {"gather": gather, "n": c.n, "num_steps": num_steps}
    return input_powers(spikes, neuron, balance=balance, **of)


def poisson_powers(
    neuron: Neuron, n: int, rate: float, balance: bool, dtype: DTypeLike
) -> InputPowers:
    """Powers of n Poisson inputs at `rate`, Hz."""
    check_kernel(neuron.kernel)
    ebar, ehat = neuron.kernel.mean(), neuron.kernel.power()
    quenched = 0.0 if balance else n * (rate * ebar) ** 2
    values = (n * rate * ehat, quenched, n * rate * ebar, n * rate * ehat)
    return InputPowers(*(jnp.asarray(v, dtype) for v in values), n=n, balanced=balance)


def shared_parameters(neuron: Neuron) -> Neuron:
    """The neuron with each trainable parameter that is an array replaced by its mean.

    Each input train is then filtered once, and not once per target neuron.
    """
    given, names = neuron.parameters(), neuron.trained_ranges()
    return neuron.with_parameters(**{n: jnp.mean(given[n]) for n in names if jnp.ndim(given[n])})


def standardized(c: Connection, key: jax.Array | None, balance: bool) -> jax.Array:
    """Weights of mean 0 and variance 1 for a connection.

    Args:
        c: The connection. Weights (..., in, out) of exactly 0 (in sparse layers) stay 0. Weights
            that its map does not use are 0 and do not count.
        key: Draws new weights. None standardizes the present weights.
        balance: Whether the weights of each neuron sum to zero.

    Returns:
        The weights, (..., in, out). NaN if all present weights are equal: then no scale gives them
        a variance.
    """
    w, used = c.weights, c.connected
    if key is not None:
        w = standard_weights(key, w.shape, balance=balance and used is None, dtype=w.dtype)
        if used is None:
            return w
    w = _check.as_wide(w)
    if used is not None:
        w = jnp.where(used, w, 0)
    kept = w != 0
    axes = tuple(range(w.ndim - 1)) if balance else None
    mean = w.sum(axis=axes, keepdims=True) / jnp.maximum(kept.sum(axis=axes, keepdims=True), 1)
    g = jnp.where(kept, w - mean, 0)
    size = w.size if used is None else used.sum()
    power, before = jnp.square(g).sum() / size, jnp.square(w).sum() / size
    enough = power > 100 * jnp.finfo(w.dtype).eps ** 2 * before
    return g / jnp.sqrt(jnp.where(enough, power, jnp.nan))


def positive(w: jax.Array, key: jax.Array | None) -> jax.Array:
    """Weights >= 0 with a mean of exactly 1.

    Args:
        w: The present weights, (..., in, out).
        key: Draws new weights from an exponential distribution. None scales the present weights.

    Returns:
        The weights, (..., in, out). NaN if all present weights are 0.
    """
    if key is not None:
        w = draw(jax.random.exponential, key, w.shape, _check.wide(w.dtype))
    g = _check.as_wide(w)
    return g / g.mean()


def set_weights(param: nnx.Param, new: jax.Array, *, there: jax.Array | bool = True) -> jax.Array:
    """Set the weights of a connection. Their data type stays the same.

    Args:
        param: The parameter.
        new: The new weights. If any of them is not finite, the old weights stay.
        there: False also keeps the old weights: the caller found no solution.

    Returns:
        Whether the new weights were set, a boolean scalar.
    """
    new = new.astype(param[...].dtype)
    there = jnp.isfinite(new).all() & there
    param[...] = jnp.where(there, new, param[...])
    return there


def each_layer(
    network: Sequential,
    x: jax.Array,
    key: jax.Array | None,
    one: Callable[[int, Layer, jax.Array, jax.Array | None], Outcome[T]],
    num_steps: jax.Array | None = None,
) -> tuple[Sequential, list[T], list[Of]]:
    """Calibrate every spiking layer, first to last, for what the calibrated layers below emit.

    Args:
        network: The network. It is not changed.
        x: Inputs (time, batch, ...features).
        key: Random key, or None.
        one: Changes the weights of one layer: a function of the number of spiking layers below, the
            layer, its input, and its own key or None.
        num_steps: Number of steps of each trial (batch,); None: all.

    Returns:
        The calibrated network, and the reports with the layers that they describe.

    Raises:
        ValueError: A layer has batch normalization, and there is `num_steps`.
    """
    if key is not None:
        _check.key("key", key)
    network = nnx.clone(network)
    reports: list[T] = []
    of: list[Of] = []
    walk = network.walk(x)
    for k, layer, below in walk:
        if isinstance(layer, Synaptic):
            _check.time_major("x", below, features=layer.in_features)
        if not layer.spiking:
            walk.output = layer(below).output
            continue
        own = None if key is None else jax.random.fold_in(key, k)
        norm = layer.norm if isinstance(layer, Synaptic) else None
        if norm is not None:
            if num_steps is not None:
                needed = "trials must have the same length with batch normalization"
                raise ValueError(f"{needed}, whose statistics are of all steps; got num_steps")
            norm.start(0.0, 1.0)  # the identity, so that the weights alone are calibrated
        outcome = one(len(reports), layer, below, own)
        if norm is not None and isinstance(layer, Synaptic):
            norm.start(*norm.statistics(layer.drive(below)))  # the identity again
        reports.append(outcome.report)
        of.append(Of(type(layer).__name__, outcome.reason))
        walk.output = outcome.output
    return network, reports, of
