r"""Penalties on the activity of a layer.

    upper bound    strength mean( relu(pool(count) - threshold)^p )    keeps a population sparse
    lower bound    strength mean( relu(threshold - pool(count))^p )    activates silent neurons:
                                                                       homeostatic plasticity

count is the number of spikes of a neuron in a trial. The outer mean runs over the batch and over
the axes that `pool` leaves. pool: `"population"` averages over all units of the layer,
`"feature_map"` over the spatial axes of a channels-last map (one value per channel), `"neuron"`
does not average. p is 1 or 2.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.2 (upper bound:
p = 2 on the population or feature map; lower bound: p = 2 on single neurons).

The gradient of the loss may shrink from layer to layer; the gradient of a bound does not. In deep
networks the latter can be thousands of times larger in the first layers, which then only learn to
satisfy the bound. With `share`, the gradient of the bound is scaled down in every layer
(`limited`): what the bound of this layer and of all layers above adds to the gradient with respect
to the spikes is about `share` times the gradient of the loss alone or less, in root mean square. If
the latter is exactly zero, a bound is not limited. Penalties without `share` count as part of the
loss.

The limit needs a `snnjax.nn.Sequential` without `remat_steps`. In modules of your own, in
`(apply, params)` and in priming, `share` has no effect.

The backward pass contains only the sum of both gradients. It also passes down, from layer to layer,
which fraction of this sum belongs to the loss and to each bound. A layer changes these fractions
only by what its own bounds add. They are exact if a layer passes both gradients on alike, as it
does on average if the gradient is calibrated (`snnjax.calibration`). If a layer passes the gradient
of a bound on with a larger gain than that of the loss, the limit is exceeded below it: in three
layers of 16 neurons, on 8 samples, the bound added 2.1 times the gradient of the loss at share 1.

Counts and penalties have at least float32, for every type of spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static

__all__ = ["upper_bound", "lower_bound"]

Pool = Literal["population", "feature_map", "neuron"]
Side = Literal["upper", "lower"]


@pytree_dataclass
class ActivityBound:
    """A bound on activity. `upper_bound` and `lower_bound` create it.

    A call with spikes (time, batch, ...features) returns a scalar penalty. `strength` and
    `threshold` are pytree leaves, so that an ensemble can vary them.

    Attributes:
        separable: True, because the penalty is a mean over samples, as that of a loss.
        strength: Factor of the penalty.
        threshold: Spikes per trial.
        side: `"upper"` or `"lower"`.
        pool: The units over which counts are averaged: "population", all units of the layer;
            "feature_map", all positions of a channel; "neuron", none.
        p: Exponent, 1 or 2.
        share: Limit of the gradient of the bound (of this layer and of all layers above), relative
            to that of the loss; None: no limit. See the module.
    """

    separable: ClassVar[bool] = True

    strength: Scalar
    threshold: Scalar
    side: Side = static()
    pool: Pool = static()
    p: int = static()
    share: float | None = static(default=None)

    def __post_init__(self) -> None:
        _check.number("strength", self.strength, at_least=0)
        _check.number("threshold", self.threshold, at_least=0, unit="spikes per trial")
        _check.one_of("side", self.side, get_args(Side))
        _check.one_of("pool", self.pool, get_args(Pool))
        _check.one_of("p", self.p, (1, 2))
        if self.share is not None:
            _check.number("share", self.share, above=0)

    def __call__(self, spikes: jax.Array) -> jax.Array:
        """The penalty on spikes (time, batch, ...features), a scalar."""
        _check.time_major("spikes", spikes)
        count = spikes.sum(axis=0, dtype=_check.wide(spikes.dtype))
        if self.pool == "population":
            count = count.reshape(count.shape[0], -1).mean(axis=1)
        elif self.pool == "feature_map" and count.ndim > 2:
            count = count.mean(axis=tuple(range(1, count.ndim - 1)))
        excess = jax.nn.relu(
            count - self.threshold if self.side == "upper" else self.threshold - count
        )
        return jnp.mean(excess**self.p) * self.strength


def upper_bound(
    strength: Scalar,
    threshold: Scalar,
    *,
    pool: Pool = "population",
    p: int = 2,
    share: float | None = None,
) -> ActivityBound:
    """Return a penalty on more than `threshold` spikes per trial.

    Args:
        strength: Factor of the penalty.
        threshold: Spikes per trial.
        pool: The units over which counts are averaged: "population", all units of the layer;
            "feature_map", all positions of a channel; "neuron", none.
        p: Exponent, 1 or 2.
        share: Limit of the gradient of the bound (of this layer and of all layers above), relative
            to that of the loss; None: no limit. See the module.

    Returns:
        The bound.

    >>> bound = upper_bound(0.1, 4.0)
    >>> round(float(bound(jnp.ones((10, 2, 3)))), 3)
    3.6
    """
    return ActivityBound(
        strength=strength, threshold=threshold, side="upper", pool=pool, p=p, share=share
    )


def lower_bound(
    strength: Scalar,
    threshold: Scalar,
    *,
    pool: Pool = "neuron",
    p: int = 2,
    share: float | None = None,
) -> ActivityBound:
    """Return a penalty on fewer than `threshold` spikes per trial.

    Args:
        strength: Factor of the penalty.
        threshold: Spikes per trial.
        pool: The units over which counts are averaged: "population", all units of the layer;
            "feature_map", all positions of a channel; "neuron", none.
        p: Exponent, 1 or 2.
        share: Limit of the gradient of the bound (of this layer and of all layers above), relative
            to that of the loss; None: no limit. See the module.

    Returns:
        The bound.

    >>> bound = lower_bound(100.0, 1e-3)
    >>> round(float(bound(jnp.zeros((10, 2, 3)))), 6)
    0.0001
    """
    return ActivityBound(
        strength=strength, threshold=threshold, side="lower", pool=pool, p=p, share=share
    )


Penalty = Callable[[jax.Array], jax.Array]


class LimitedPenalties:
    """The penalties of bounds with a `share`, and the limit of their gradients in training.

    A call with the spikes of a layer returns them for the layer above, as `tap` of
    `snnjax.nn.Sequential` does. The calls must be in the order of the layers.

    Attributes:
        bounds: Bounds with a `share`.
        fractions: What the backward pass uses; see `limited`.
        penalties: The penalty of each layer so far, scalars.
    """

    def __init__(self, bounds: Sequence[ActivityBound]) -> None:
        self.bounds = bounds
        self.fractions: ArrayLike = np.zeros(1 + len(bounds), np.float32)
        self.penalties: list[jax.Array] = []

    def __call__(self, spikes: jax.Array) -> jax.Array:
        spikes, penalty, self.fractions = limited(spikes, self.bounds, self.fractions)
        self.penalties.append(penalty)
        return spikes


@jax.custom_vjp
def limited(
    spikes: jax.Array, bounds: Sequence[ActivityBound], fractions: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The unchanged spikes for the layer above, and the penalty of `bounds` on them.

    In the backward pass each bound's gradient is scaled down; see the module and `limits`.

    Args:
        spikes: Spikes of a layer, (time, batch, ...features).
        bounds: Bounds with a `share`.
        fractions: What the call for the layer below returned; zeros (1 + number of bounds,) for the
            first layer. Only its cotangent has a meaning, from the last layer to the first: the
            fraction of the loss and of each bound in the gradient.

    Returns:
        The spikes, the penalty, a scalar, and `fractions` for the layer above.

    >>> bound = upper_bound(100.0, 0.0, pool="neuron", share=0.5)
    >>> def objective(z, slope):
    ...     z, penalty, _ = limited(z, [bound], jnp.zeros(2))
    ...     return slope * z.sum() + penalty
    >>> z = jnp.ones((2, 1, 3))
    >>> [jax.grad(objective)(z, slope).max().tolist() for slope in (1.0, 0.0)]
    [1.5, 133.3333282470703]
    """
    return spikes, total_penalty(bounds, [spikes]), jnp.asarray(fractions)


def limits(
    bounds: Sequence[ActivityBound], own: jax.Array, above: jax.Array, fractions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The factor of each bound's gradient in one layer, at most 1.

    Args:
        bounds: Bounds with a `share`.
        own: Root mean square of the gradient of each bound of this layer, (number of bounds,).
        above: Root mean square of the gradient from above, a scalar.
        fractions: The fractions of the loss and of each bound in the gradient from above,
            (1 + number of bounds,). Zeros in the last layer: the gradient is that of the loss.

    Returns:
        The factors, (number of bounds,), and the fractions for the layer below.
    """
    only_loss = jnp.zeros_like(fractions).at[0].set(1.0)
    parts = above * jnp.where(fractions.any(), fractions, only_loss)
    most = jnp.array([bound.share or 0.0 for bound in bounds]) * parts[0] - parts[1:]
    factors = jnp.clip(most / jnp.maximum(own, jnp.finfo(own.dtype).tiny), 0.0, 1.0)
    factors = jnp.where(parts[0] > 0, factors, 1.0)
    parts = parts.at[1:].add(factors * own)
    total = parts.sum()
    return factors, jnp.where(total > 0, parts / jnp.where(total > 0, total, 1.0), fractions)


Kept = tuple[jax.Array, Sequence[ActivityBound]]
"""Spikes and bounds."""


def _limited_forward(
    spikes: jax.Array, bounds: Sequence[ActivityBound], fractions: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Kept]:
    return limited(spikes, bounds, fractions), (spikes, bounds)


def _limited_backward(
    kept: Kept, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, Sequence[ActivityBound], jax.Array]:
    spikes, bounds = kept
    total, of_penalty, fractions = cotangents
    rms = lambda a: jnp.sqrt(jnp.square(_check.as_wide(a)).mean())
    own = [of_penalty * jax.grad(bound)(spikes) for bound in bounds]
    each = jnp.stack([rms(gradient) for gradient in own])
    factors, below = limits(bounds, each, rms(total), fractions)
    for factor, gradient in zip(factors, own, strict=True):
        total = total + (factor * gradient).astype(total.dtype)
    return total, jax.tree.map(jnp.zeros_like, bounds), below.astype(fractions.dtype)


limited.defvjp(_limited_forward, _limited_backward)


def total_penalty(regularizers: Sequence[Penalty], spikes: Sequence[jax.Array]) -> jax.Array:
    """The sum of all penalties on all layers.

    Args:
        regularizers: Functions of the spikes of one layer.
        spikes: Spikes of each layer, (time, batch, ...features).

    Returns:
        A scalar.

    >>> bounds = [upper_bound(1.0, 0.0), lower_bound(1.0, 3.0)]
    >>> float(total_penalty(bounds, [jnp.ones((2, 1, 4))] * 2))
    10.0
    """
    return sum((r(s) for r in regularizers for s in spikes), start=jnp.zeros(()))
