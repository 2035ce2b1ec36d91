r"""Penalties on the activity of a layer. With count = spikes of a trial, summed over time, and pool a mean over none, some or all units,

    upper bound    strength mean( relu(pool(count) - threshold)^p )         keeps a population sparse
    lower bound    strength mean( relu(threshold - pool(count))^p )         wakes silent neurons: homeostatic plasticity

the outer mean runs over the batch and over what `pool` leaves. pool: `"population"` averages all units of the layer, `"feature_map"` the
spatial axes of a channels-last map (one value a channel), `"neuron"` nothing. p is 1 or 2.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.2 (upper bound: p = 2 on the population or feature map;
lower bound: p = 2 on single neurons).

A bound's gradient does not shrink from layer to layer as that of the loss may. In deep networks it can be thousands of times as large in
the first layers, which then learn nothing else. With `share` it is scaled down in every layer to at most `share` times the root mean square
of what the layers above say to the layer's spikes (`limited`). Where they say nothing at all, a bound is not limited.

Counts and penalties are of at least float32, whatever the type of the spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static

Pool = Literal["population", "feature_map", "neuron"]
Side = Literal["upper", "lower"]


@pytree_dataclass
class ActivityBound:
    """A bound on activity, made by `upper_bound` and `lower_bound`.

    Call it with spikes (time, batch, ...features) for a scalar penalty. `strength` and `threshold`
    are pytree leaves, so that an ensemble can vary them.

    Attributes:
        separable: The penalty is a mean over samples; see `snnjax.losses.Loss`.
    """

    separable: ClassVar[bool] = True

    strength: Any
    threshold: Any
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
        return self.strength * jnp.mean(excess**self.p)


def upper_bound(
    strength: Any,
    threshold: Any,
    *,
    pool: Pool = "population",
    p: int = 2,
    share: float | None = None,
) -> ActivityBound:
    """Penalty on more than `threshold` spikes a trial.

    >>> bound = upper_bound(0.1, 4.0)
    >>> round(float(bound(jnp.ones((10, 2, 3)))), 3)
    3.6
    """
    return ActivityBound(
        strength=strength, threshold=threshold, side="upper", pool=pool, p=p, share=share
    )


def lower_bound(
    strength: Any, threshold: Any, *, pool: Pool = "neuron", p: int = 2, share: float | None = None
) -> ActivityBound:
    """Penalty on fewer than `threshold` spikes a trial.

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
    """The spikes as they are, for the layer above, and the penalty of `bounds` on them.

    In the backward pass each bound's gradient is scaled down to at most its `share` times the root
    mean square of what comes from above.

    Args:
      spikes: What a layer emits, (time, batch, ...features).
      bounds: Bounds with a `share`.

    Returns:
      The spikes, and the penalty, a scalar.

    >>> bound = upper_bound(100.0, 0.0, pool="neuron", share=0.5)
    >>> def objective(z, speaks):
    ...     z, penalty = limited(z, [bound])
    ...     return speaks * z.sum() + penalty
    >>> z = jnp.ones((2, 1, 3))
    >>> [jax.grad(objective)(z, speaks).max().tolist() for speaks in (1.0, 0.0)]
    [1.5, 133.3333282470703]
    """
    return spikes, total_penalty(bounds, [spikes])


def _limited_forward(spikes: jax.Array, bounds: Sequence[ActivityBound]) -> tuple[Any, Any]:
    return limited(spikes, bounds), (spikes, bounds)


def _limited_backward(kept: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
    spikes, bounds = kept
    from_above, of_penalty = cotangents
    rms = lambda a: jnp.sqrt(jnp.square(_check.as_wide(a)).mean())
    said, total = rms(from_above), from_above
    for bound in bounds:
        own = of_penalty * jax.grad(bound)(spikes)
        most = bound.share * said / jnp.maximum(rms(own), jnp.finfo(said.dtype).tiny)
        total = total + (jnp.where(said > 0, jnp.minimum(most, 1.0), 1.0) * own).astype(total.dtype)
    return total, jax.tree.map(jnp.zeros_like, bounds)


limited.defvjp(_limited_forward, _limited_backward)


def total_penalty(regularizers: Sequence[Penalty], spikes: Sequence[jax.Array]) -> jax.Array:
    """The sum of every penalty on every layer, a scalar.

    >>> float(total_penalty([upper_bound(1.0, 0.0), lower_bound(1.0, 3.0)], [jnp.ones((2, 1, 4))] * 2))
    10.0
    """
    return sum((r(s) for r in regularizers for s in spikes), start=jnp.zeros(()))
