r"""Random changes to the events of a training batch, new ones each time a sample is used.

    unit' = unit + shift                    shift ~ U{-unit_shift .. unit_shift}, per sample
    step' = floor((step + 1/2) stretch)     stretch ~ U[1 - time_stretch, 1 + time_stretch], per
                                            sample
    unit'' = unit' + round(unit_jitter a)   a ~ N(0, 1), per event
    step'' = step' + round(time_jitter b)   b ~ N(0, 1), per event
    an event is removed with probability drop
    Binomial(slots, insert n / slots) events are inserted, each at a uniform step on a uniform unit

In speech, the shift is another pitch and the stretch another pace. n is the number of events of the
sample before any change, so that insert n events are inserted on average. slots = ceil(2 insert
longest) depends on the largest sample of the data set, so that shapes are constant under jit. The
variance of the number of inserted events is insert n (1 - insert n / slots): half the mean for the
largest sample, near the mean (Poisson) for small samples.

Events that leave the raster are dropped. For a shift over the channels of an inner ear, see
Nowotny, Turner & Knight (2022), arXiv 2212.01232.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, replaced, static
from snnjax._sparse import EventRaster
from snnjax._timed import Timed
from snnjax.datasets._device import DeviceEvents, Events
from snnjax.datasets._sparse_events import SparseEvents


@pytree_dataclass
class Augmented:
    """A source with random changes whenever a key is given, a pytree.

    Without a key (evaluation) the batches are those of the source.

    Attributes:
        source: The data. `SparseEvents` are allowed if drop, jitter and insert are 0
            (`keeps_lists`).
        unit_shift: Largest shift, units.
        time_stretch: Largest relative change of the pace, in [0, 1).
        drop: Probability that an event is removed, in [0, 1).
        time_jitter: Standard deviation of the move of each event in time, steps, >= 0. Moves are
            rounded, which adds 1/12 to their variance. Below about 0.2 few events move at all.
        unit_jitter: The same over units, units, >= 0.
        insert: Inserted events as a fraction of the events of a sample, in [0, 100]. It is part of
            the tree's structure, so each value compiles a new program.

    Raises:
        ValueError: An argument is out of range, or `SparseEvents` cannot take a change.
        TypeError: An argument has the wrong type.

    >>> from snnjax.datasets import randman
    >>> source = DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    >>> data = Augmented(source=source, drop=0.5)
    >>> plain, _ = data.batch(jnp.arange(50))
    >>> changed, _ = data.batch(jnp.arange(50), jax.random.key(0))
    >>> int(plain.sum()), 400 < int(changed.sum()) < 600
    (1000, True)
    """

    source: DeviceEvents | SparseEvents
    time_stretch: Scalar = 0.0
    drop: Scalar = 0.0
    time_jitter: Scalar = 0.0
    unit_jitter: Scalar = 0.0
    unit_shift: int = static(default=0)
    insert: float = static(default=0.0)

    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.source, DeviceEvents | SparseEvents):
            hint = f"{type(self.source).__name__}; images have flip and shift of their own"
            raise TypeError(f"source must be DeviceEvents, got {hint}")
        _check.integer("unit_shift", self.unit_shift, at_least=0)
        _check.number("time_stretch", self.time_stretch, at_least=0, below=1)
        _check.number("drop", self.drop, at_least=0, below=1)
        _check.number("time_jitter", self.time_jitter, at_least=0, unit="steps")
        _check.number("unit_jitter", self.unit_jitter, at_least=0, unit="units")
        _check.number("insert", self.insert, at_least=0, at_most=100)
        if _check.concrete(self.insert) is None or jnp.ndim(self.insert):
            raise TypeError(f"insert must be one number known before tracing, got {self.insert!r}")
        # parts of the tree's structure must be hashable
        object.__setattr__(self, "insert", float(self.insert))
        changed = any(value is not None and value.any() for value in self._of_events)
        if changed and isinstance(self.source, SparseEvents):
            options = "drop, time_jitter, unit_jitter or insert, which change single events"
            raise ValueError(f"source must be DeviceEvents for {options}, got SparseEvents")

    @property
    def keeps_lists(self) -> bool:
        """True if all changes are known to affect whole samples, so that the order is preserved."""
        return all(value is not None and not value.any() for value in self._of_events)

    @property
    def _of_events(self) -> list[Any]:
        """Strengths of the changes to single events; None if traced."""
        strengths = (self.drop, self.time_jitter, self.unit_jitter, self.insert)
        return [_check.concrete(value) for value in strengths]

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> tuple[Any, Any]:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Random key of the changes. None: no changes.

        Returns:
            Spike counts (steps, batch, num_units), an array or an `EventRaster` like those of the
            source, and targets.
        """
        if isinstance(self.source, SparseEvents):
            x, _ = self.source.batch(indices)
            return (x if key is None else self.move(x, key)), self.targets(indices, key)
        return self.source.raster(self.events(indices, key)), self.targets(indices, key)

    def targets(self, indices: jax.Array, key: jax.Array | None = None) -> jax.Array | Timed:
        """Return the targets of some samples. The stretch applies to the length of a trial, too.

        Args:
            indices: Samples, integers (batch,).
            key: Random key of the changes. None: no changes.
        """
        targets = self.source.targets(indices)
        if key is None or not isinstance(targets, Timed):
            return targets
        _, stretch, _ = self._draw(key, indices.shape[0])
        longer = jnp.ceil(targets.num_steps * stretch[:, 0]).astype(targets.num_steps.dtype)
        return replaced(targets, num_steps=jnp.clip(longer, 1, self.source.steps))

    def events(self, indices: jax.Array, key: jax.Array | None = None) -> Events:
        """Return the events of some samples, arrays (batch, longest + slots).

        Args:
            indices: Samples, integers (batch,).
            key: Random key of the changes. None: no changes.
        """
        events = self._events.events(indices)
        return events if key is None else self.change(events, key)

    @property
    def _events(self) -> DeviceEvents:
        return self.source.binned if isinstance(self.source, SparseEvents) else self.source

    @property
    def dt(self) -> float | None:
        """Time step of the source, s, or None."""
        return self.source.dt

    @property
    def slots(self) -> int:
        """Largest number of events that can be inserted into a sample."""
        return math.ceil(2 * self.insert * self._events.longest)

    def _draw(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draw shift and stretch of n samples, (n, 1) each, and a key for dropped events."""
        shift_key, stretch_key, drop_key = jax.random.split(key, 3)
        most = self.unit_shift
        shift = jax.random.randint(shift_key, (n, 1), -most, most + 1, dtype=jnp.int32)
        pace = jax.random.uniform(stretch_key, (n, 1), dtype=jnp.float32, minval=-1.0, maxval=1.0)
        return shift, 1 + pace * self.time_stretch, drop_key

    def move(self, x: EventRaster, key: jax.Array) -> EventRaster:
        """Return lists with the shift and stretch that `change` draws with the same key.

        The events keep their positions in the lists; only the positions where lists begin change.

        Args:
            x: The lists of a batch.
            key: Random key.
        """
        steps, n, num_units = x.shape
        shift, stretch, _ = self._draw(key, n)
        new_step = _stretched(jnp.arange(steps, dtype=jnp.int32)[:, None], stretch.T)
        # for each new step, the number of old steps that become an earlier one
        edges = jnp.arange(steps + 1, dtype=jnp.int32)
        before = jax.vmap(lambda new: jnp.searchsorted(new, edges), in_axes=1, out_axes=1)
        earlier = before(new_step)
        unit = jnp.clip(jnp.arange(num_units + 1, dtype=jnp.int32)[:, None] - shift.T, 0, num_units)
        return dataclasses.replace(
            x,
            first_of_step=jnp.take_along_axis(x.first_of_step, earlier, axis=0),
            first_of_unit=jnp.take_along_axis(x.first_of_unit, unit, axis=0),
            shift=shift[:, 0],
            new_step=new_step,
        )

    def change(self, events: Events, key: jax.Array) -> Events:
        """Return the changed events, arrays (batch, longest + slots).

        Args:
            events: Events of a batch, arrays (batch, longest).
            key: Random key.
        """
        shift, stretch, drop_key = self._draw(key, events.step.shape[0])
        # separate keys, so that the draws of `_draw` stay the same when changes are added here
        time_key, unit_key, insert_key = jax.random.split(jax.random.fold_in(key, 3), 3)
        step = _stretched(events.step, stretch)
        kept = _unless_zero(
            self.drop,
            lambda: jax.random.uniform(drop_key, step.shape, dtype=jnp.float32) >= self.drop,
            lambda: jnp.ones(step.shape, bool),
        )
        step = step + _moves(time_key, self.time_jitter, step)
        unit = events.unit + shift + _moves(unit_key, self.unit_jitter, step)
        changed = Events(step, unit, events.present & kept)
        if self.slots == 0:
            return changed
        noise = self._noise(events.present.sum(axis=1, keepdims=True), insert_key)
        return Events(*(jnp.concatenate(pair, axis=1) for pair in zip(changed, noise, strict=True)))

    def _noise(self, count: jax.Array, key: jax.Array) -> Events:
        """Draw events (batch, slots) to insert into samples of `count` (batch, 1) events."""
        address_key, present_key = jax.random.split(key)
        shape, num_units = (count.shape[0], self.slots), self._events.num_units
        places = self._events.steps * num_units
        address = jax.random.randint(address_key, shape, 0, places, dtype=jnp.int32)
        draw = jax.random.uniform(present_key, shape, dtype=jnp.float32)
        present = draw < count * (self.insert / self.slots)
        return Events(address // num_units, address % num_units, present)


def _stretched(step: jax.Array, stretch: jax.Array) -> jax.Array:
    """Stretch time steps, each moved by the centre of its bin."""
    return jnp.floor((step + 0.5) * stretch).astype(step.dtype)


def _moves(key: jax.Array, deviation: Scalar, like: jax.Array) -> jax.Array:
    """Draw rounded normal numbers with the shape and dtype of `like`."""

    def draw() -> jax.Array:
        normal = jax.random.normal(key, like.shape, dtype=jnp.float32)
        return jnp.round(deviation * normal).astype(like.dtype)

    return _unless_zero(deviation, draw, lambda: jnp.zeros_like(like))


def _unless_zero(
    strength: Scalar, draw: Callable[[], jax.Array], otherwise: Callable[[], jax.Array]
) -> jax.Array:
    """What `draw` returns; `otherwise` if the strength is 0, because random numbers are slow."""
    known = _check.concrete(strength)
    if known is None:
        return jax.lax.cond(jnp.any(strength > 0), draw, otherwise)
    return draw() if known.any() else otherwise()
