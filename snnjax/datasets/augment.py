r"""Random changes to the events of a training batch, drawn anew each time a sample is shown.

    unit' = unit + shift            shift ~ U{-unit_shift .. unit_shift}, one a sample        speech: another pitch
    step' = floor((step + 1/2) stretch) stretch ~ U[1 - time_stretch, 1 + time_stretch], one a sample        another pace
    each event is left out with probability drop

Events that leave the raster are dropped. A shift over the channels of an inner ear: Nowotny, Turner & Knight (2022), arXiv 2212.01232.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._pytree import pytree_dataclass, static
from snnjax.datasets.device import DeviceEvents, Events


@pytree_dataclass
class Augmented:
    """`source` with random changes wherever a key is given; without one (evaluation) its batches are the source's own. A pytree.

    Attributes:
      source: the data.   unit_shift: largest shift, units.   time_stretch: largest relative change of pace, in [0, 1).   drop: in [0, 1).

    >>> from snnjax.datasets import randman
    >>> data = Augmented(source=DeviceEvents.put(randman(n_samples=20), dt=2e-3), drop=0.5)
    >>> plain, _ = data.batch(jnp.arange(50))
    >>> changed, _ = data.batch(jnp.arange(50), jax.random.key(0))
    >>> int(plain.sum()), 400 < int(changed.sum()) < 600
    (1000, True)
    """

    source: DeviceEvents
    time_stretch: Any = 0.0
    drop: Any = 0.0
    unit_shift: int = static(default=0)

    def __post_init__(self) -> None:
        _check.integer("unit_shift", self.unit_shift, at_least=0)
        _check.number("time_stretch", self.time_stretch, at_least=0, below=1)
        _check.number("drop", self.drop, at_least=0, below=1)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Spike counts (steps, batch, n_units) and labels (batch,)."""
        events = self.source.events(indices)
        if key is not None:
            events = self.change(events, key)
        return self.source.raster(events), self.source.labels[indices]

    def change(self, events: Events, key: jax.Array) -> Events:
        """The changed events, each array of the shape it had."""
        shift_key, stretch_key, drop_key = jax.random.split(key, 3)
        n = events.step.shape[0]
        shift = jax.random.randint(shift_key, (n, 1), -self.unit_shift, self.unit_shift + 1)
        stretch = 1 + jax.random.uniform(stretch_key, (n, 1), minval=-1.0, maxval=1.0) * self.time_stretch
        # a bin is moved by its centre
        step = jnp.floor((events.step + 0.5) * stretch).astype(events.step.dtype)
        kept = jax.random.uniform(drop_key, events.step.shape) >= self.drop
        return Events(step, events.unit + shift, events.present & kept)
