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
satisfy the bound. With `share`, it is scaled down in every layer: its root mean square is at most
`share` times that of the gradient that the layer's spikes receive from the layers above
(`limited`). That gradient contains the bounds of the layers above: over L layers they can add up to
(1 + share)^L - 1 times the gradient of the loss. If it is exactly zero, a bound is not limited.

Counts and penalties have at least float32, for every type of spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

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
        separable: True, because the penalty is a mean over samples; see `snnjax.losses.Loss`.
        strength: Factor of the penalty.
        threshold: Spikes per trial.
        side: `"upper"` or `"lower"`.
        pool: The units over which counts are averaged; see the module.
        p: Exponent, 1 or 2.
        share: Limit of the bound's gradient, relative to the gradient from the layers above, which
            has their bounds in it; None: no limit.
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
        pool: The units over which counts are averaged; see the module.
        p: Exponent, 1 or 2.
        share: Limit of the bound's gradient, relative to the gradient from the layers above, which
            has their bounds in it; None: no limit.

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
        pool: The units over which counts are averaged; see the module.
        p: Exponent, 1 or 2.
        share: Limit of the bound's gradient, relative to the gradient from the layers above, which
            has their bounds in it; None: no limit.

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


@jax.custom_vjp
def limited(spikes: jax.Array, bounds: Sequence[ActivityBound]) -> tuple[jax.Array, jax.Array]:
    """The unchanged spikes for the layer above, and the penalty of `bounds` on them.

    In the backward pass each bound's gradient is scaled down. Its root mean square is then at most
    the bound's `share` times that of the gradient from the layer above.

    Args:
        spikes: Spikes of a layer, (time, batch, ...features).
        bounds: Bounds with a `share`.

    Returns:
        The spikes, and the penalty, a scalar.

    >>> bound = upper_bound(100.0, 0.0, pool="neuron", share=0.5)
    >>> def objective(z, slope):
    ...     z, penalty = limited(z, [bound])
    ...     return slope * z.sum() + penalty
    >>> z = jnp.ones((2, 1, 3))
    >>> [jax.grad(objective)(z, slope).max().tolist() for slope in (1.0, 0.0)]
    [1.5, 133.3333282470703]
    """
    return spikes, total_penalty(bounds, [spikes])


Kept = tuple[jax.Array, Sequence[ActivityBound]]
"""Spikes and bounds."""


def _limited_forward(
    spikes: jax.Array, bounds: Sequence[ActivityBound]
) -> tuple[tuple[jax.Array, jax.Array], Kept]:
    return limited(spikes, bounds), (spikes, bounds)


def _limited_backward(
    kept: Kept, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, Sequence[ActivityBound]]:
    spikes, bounds = kept
    from_above, of_penalty = cotangents
    rms = lambda a: jnp.sqrt(jnp.square(_check.as_wide(a)).mean())
    said, total = rms(from_above), from_above
    for bound in bounds:
        own = of_penalty * jax.grad(bound)(spikes)
        most = (bound.share or 0.0) * said / jnp.maximum(rms(own), jnp.finfo(said.dtype).tiny)
        total = total + (jnp.where(said > 0, jnp.minimum(most, 1.0), 1.0) * own).astype(total.dtype)
    return total, jax.tree.map(jnp.zeros_like, bounds)


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
