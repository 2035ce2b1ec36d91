r"""Training samples that are mixed of two recordings, new ones each time a sample is used.

A sample s is mixed with a partner s', one of:

    blend     s' is a recording of the same class. It is moved by whole steps and units such that
              its mean step and mean unit are those of s. Then each event of both is kept with
              probability 1/2.
    CutMix    s' is any recording. In a window of L of the T steps (or of the N units) the events
              of s are replaced by those of s'. L / T ~ U[0, 1), and the window is anywhere.
              The target is (1 - L / T) class(s) + (L / T) class(s').

If trials have their own lengths, a mixed one has that of the longer recording.

Sources: Nowotny, Turner & Knight (2022), arXiv 2212.01232 (blend); Yun et al. (2019), arXiv
1905.04899 (CutMix), here for events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static
from snnjax._timed import Timed, untimed
from snnjax.datasets._augment import Augmented
from snnjax.datasets._device import DeviceEvents, Events

Axis = Literal["time", "units"]


@pytree_dataclass
class Mixed:
    """A source that mixes samples whenever a key is given, a pytree.

    Without a key (evaluation) the batches are those of the source.

    Attributes:
        source: The data, with or without other random changes.
        blend: Probability that a sample is blended with another one of its class.
        cutmix: Probability that a part of a sample is replaced; blend + cutmix <= 1. Targets are
            then probabilities (batch, num_classes), which `snnjax.losses.CrossEntropy` takes.
        axis: Axis of the window of CutMix, `"time"` or `"units"`.
        num_classes: Number of classes.
        order: The samples sorted by class, int32 (samples,); computed.
        first: Position in `order` of the first sample of each class, int32 (num_classes + 1,);
            computed.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument has the wrong type.

    >>> from snnjax.datasets import randman
    >>> source = DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    >>> data = Mixed(source=source, blend=0.5, cutmix=0.5, num_classes=10)
    >>> x, y = data.batch(jnp.arange(50), jax.random.key(0))
    >>> x.shape, y.shape, f"{y.sum():.3f}"
    ((100, 50, 20), (50, 10), '50.000')
    """

    source: DeviceEvents | Augmented
    blend: Scalar = 0.0
    cutmix: Scalar = 0.0
    axis: Axis = static(default="time")
    num_classes: int = static()
    order: jax.Array = dataclasses.field(init=False, repr=False)
    first: jax.Array = dataclasses.field(init=False, repr=False)

    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        events = self.events
        if not isinstance(events, DeviceEvents):
            got = type(events).__name__
            raise TypeError(f"source must be DeviceEvents, or Augmented with them, got {got}")
        _check.number("blend", self.blend, at_least=0, at_most=1)
        _check.number("cutmix", self.cutmix, at_least=0, at_most=1)
        # decimal fractions such as 0.7 + 0.2 + 0.1 have rounding errors
        _check.number("blend + cutmix", round(float(self.blend + self.cutmix), 6), at_most=1)
        _check.one_of("axis", self.axis, get_args(Axis))
        labels = np.asarray(events.labels)
        least = int(labels.max(initial=0)) + 1
        _check.integer("num_classes", self.num_classes, at_least=least)
        sizes = np.bincount(labels, minlength=self.num_classes)
        first = np.concatenate([[0], np.cumsum(sizes)])
        order = jnp.asarray(np.argsort(labels, kind="stable"), jnp.int32)
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "first", jnp.asarray(first, jnp.int32))

    @property
    def events(self) -> DeviceEvents:
        """The recordings without changes."""
        source = self.source
        return source._events if isinstance(source, Augmented) else source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def dt(self) -> float | None:
        """Time step of the source, s, or None."""
        return self.source.dt

    def batch(
        self, indices: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | Timed]:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Random key of the changes. None: no changes.

        Returns:
            Spike counts (steps, batch, num_units), and targets. With CutMix and a key:
            probabilities (batch, num_classes) in place of labels.
        """
        if key is None:
            return self.source.batch(indices)
        recordings = self.events
        kind_key, partner_key, mix_key, own_key, other_key = jax.random.split(key, 5)
        draw = jax.random.uniform(kind_key, (indices.shape[0], 1), dtype=jnp.float32)
        blended, cut = draw < self.blend, draw >= 1 - self.cutmix
        partners = self._partners(indices, blended[:, 0], partner_key)
        draw_events = self.source.events
        own, other = draw_events(indices, own_key), draw_events(partners, other_key)

        move = lambda ours, theirs: jnp.where(
            blended, jnp.round(_mean(own, ours) - _mean(other, theirs)).astype(jnp.int32), 0
        )
        other = Events(
            other.step + move(own.step, other.step),
            other.unit + move(own.unit, other.unit),
            other.present & (blended | cut),
        )
        coin_key, window_key = jax.random.split(mix_key)
        inside, share = self._window(window_key, indices.shape[0])
        coins = _coins(coin_key, indices.shape[0], own.step.shape[1] + other.step.shape[1])
        ours, theirs = jnp.split(coins, [own.step.shape[1]], axis=1)
        kept = own.present & jnp.where(blended, ours, ~(cut & inside(own)))
        taken = other.present & jnp.where(blended, theirs, inside(other))
        pairs = zip(own._replace(present=kept), other._replace(present=taken), strict=True)
        x = recordings.raster(Events(*(jnp.concatenate(pair, axis=1) for pair in pairs)))

        target, steps = untimed(self.source.targets(indices, own_key))
        label, other_steps = untimed(self.source.targets(partners, other_key))
        known = _check.concrete(self.cutmix)
        if known is None or known.any():
            classes = lambda y: jax.nn.one_hot(y, self.num_classes, dtype=jnp.float32)
            part = jnp.where(cut, share, 0.0)
            target = (1 - part) * classes(target) + part * classes(label)
        if steps is None or other_steps is None:
            return x, target
        longer = jnp.where((blended | cut)[:, 0], jnp.maximum(steps, other_steps), steps)
        return x, Timed(target=target, num_steps=longer)

    def _partners(self, indices: jax.Array, blended: jax.Array, key: jax.Array) -> jax.Array:
        """Draw a partner of the same class, or any; the sample itself may be drawn."""
        label = self.events.labels[indices]
        start = jnp.where(blended, self.first[label], 0)
        stop = jnp.where(blended, self.first[label + 1], len(self))
        return self.order[jax.random.randint(key, indices.shape, start, stop, dtype=jnp.int32)]

    def _window(self, key: jax.Array, n: int) -> tuple[Callable[[Events], jax.Array], jax.Array]:
        """Draw a window for each of n samples.

        Returns:
            A function from events to whether they are in the window, and its share of the axis
            (n, 1).
        """
        size = self.events.steps if self.axis == "time" else self.events.num_units
        length_key, start_key = jax.random.split(key)
        # from 0 to size - 1, so that a part of the sample is always left
        length = jax.random.randint(length_key, (n, 1), 0, size, dtype=jnp.int32)
        start = jax.random.randint(start_key, (n, 1), 0, size - length + 1, dtype=jnp.int32)

        def inside(events: Events) -> jax.Array:
            at = events.step if self.axis == "time" else events.unit
            return (at >= start) & (at < start + length)

        return inside, length.astype(jnp.float32) / size


def _coins(key: jax.Array, n: int, events: int) -> jax.Array:
    """Draw booleans (n, events) that are true with probability 1/2, 32 from one random number."""
    words = jax.random.bits(key, (n, -(-events // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits.reshape(n, -1)[:, :events] == 1


def _mean(events: Events, values: jax.Array) -> jax.Array:
    """Return the mean of a coordinate over the events of each sample, (batch, 1)."""
    count = jnp.maximum(events.present.sum(axis=1, keepdims=True), 1)
    return jnp.where(events.present, values, 0).sum(axis=1, keepdims=True) / count
