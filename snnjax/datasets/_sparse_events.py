"""Events on the device that are returned as lists, for a first layer that needs no raster.

`SparseEvents` stores the events in order of time and, in addition, their steps in order of units (4
bytes per spike) and the position at which each step and each unit of each sample begins (4 (steps +
units) bytes per sample). No raster is ever made.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from snnjax._pytree import pytree_dataclass
from snnjax._sparse import EventRaster
from snnjax._timed import Timed
from snnjax.datasets._arrays import offsets_of
from snnjax.datasets._device import DeviceEvents


@pytree_dataclass
class SparseEvents:
    """`DeviceEvents` whose batches are `EventRaster` (`snnjax/_sparse.py`) instead of arrays.

    `SparseEvents.from_events` creates it; a pytree. `snnjax.nn.Sequential` takes these batches;
    layers that cannot use them convert them to arrays. `fit` (also in `snnjax train`) and `snnjax
    sweep` convert `DeviceEvents` to `SparseEvents` if that is faster. `fit_ensemble` does not
    convert its input.

    Attributes:
        binned: The events, in order of time.
        steps_by_unit: Step of each event, in order of samples, units, steps, int32, as long as
            `binned.addresses`.
        first_of_step: Position of the first event of each step, and of the end of the last step,
            int32 (samples, steps + 1).
        first_of_unit: The same for units, int32 (samples, num_units + 1).

    >>> from snnjax.datasets import randman
    >>> source = DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    >>> data = SparseEvents.from_events(source)
    >>> x, y = data.batch(jnp.array([0, 3, 5]))
    >>> x.shape, x.dense().sum(axis=(0, 2)).tolist()
    ((100, 3, 20), [20.0, 20.0, 20.0])
    """

    binned: DeviceEvents
    steps_by_unit: jax.Array
    first_of_step: jax.Array
    first_of_unit: jax.Array

    separable: ClassVar[bool] = True

    @classmethod
    def from_events(
        cls, source: DeviceEvents, *, steps_by_unit: np.ndarray | None = None
    ) -> SparseEvents:
        """Sort the events of `source` by units, too, on the host.

        Args:
            source: The events.
            steps_by_unit: Steps of the events (events,) in order of units, if they were sorted
                before (`order_by_unit`).

        Raises:
            TypeError: `source` is not `DeviceEvents`.
        """
        if not isinstance(source, DeviceEvents):
            needed = "DeviceEvents, whose events are known one by one"
            raise TypeError(f"source must be {needed}, got {type(source).__name__}")
        offsets = np.asarray(source.offsets)
        addresses = np.asarray(source.addresses)[: offsets[-1]]
        steps, num_units = source.steps, source.num_units
        sample = np.repeat(np.arange(len(source), dtype=np.int64), np.diff(offsets))
        step, unit = np.divmod(addresses, num_units)
        if steps_by_unit is None:
            steps_by_unit = order_by_unit(sample, step, unit, steps=steps, num_units=num_units)
        padded = np.zeros(len(source.addresses), np.int32)
        padded[: len(steps_by_unit)] = steps_by_unit
        by_step = jnp.asarray(_first(sample * steps + step, len(source), steps))
        by_unit = jnp.asarray(_first(sample * num_units + unit, len(source), num_units))
        ends = {"first_of_step": by_step, "first_of_unit": by_unit}
        return cls(binned=source, steps_by_unit=jnp.asarray(padded), **ends)

    def __len__(self) -> int:
        return len(self.binned)

    @property
    def labels(self) -> jax.Array:
        """Labels (samples,)."""
        return self.binned.labels

    @property
    def steps(self) -> int:
        """Number of time steps of a trial."""
        return self.binned.steps

    @property
    def dt(self) -> float | None:
        """Time step of the bins, s, or None."""
        return self.binned.dt

    def targets(self, indices: jax.Array) -> jax.Array | Timed:
        """Return the targets of some samples, as `DeviceEvents.targets` does."""
        return self.binned.targets(indices)

    def batch(
        self, indices: jax.Array, key: jax.Array | None = None
    ) -> tuple[EventRaster, jax.Array | Timed]:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Not used.

        Returns:
            The events (steps, batch, num_units) as lists, and targets.
        """
        x = EventRaster(
            addresses=self.binned.addresses,
            steps_by_unit=self.steps_by_unit,
            first_of_step=self.first_of_step[indices].T,
            first_of_unit=self.first_of_unit[indices].T,
            longest=self.binned.longest,
        )
        return x, self.targets(indices)


def order_by_unit(
    sample: np.ndarray, step: np.ndarray, unit: np.ndarray, *, steps: int, num_units: int
) -> np.ndarray:
    """Return the steps of events in order of samples, units, steps.

    Args:
        sample: Sample of each event, int64 (events,).
        step: Step of each event (events,).
        unit: Unit of each event (events,).
        steps: Number of steps.
        num_units: Number of units.

    Returns:
        Steps, int32 (events,).
    """
    key = (sample * num_units + unit) * steps + step
    key.sort()
    return (key % steps).astype(np.int32)


def _first(places: np.ndarray, samples: int, n: int) -> np.ndarray:
    """Return the position of the first event of each place, and the end of the last place.

    Args:
        places: sample * n + k of all events, sorted by sample.
        samples: Number of samples.
        n: Number of places per sample: steps or units.

    Returns:
        int32 (samples, n + 1).
    """
    edges = offsets_of(np.bincount(places, minlength=samples * n)).astype(np.int32)
    return edges[np.arange(samples)[:, None] * n + np.arange(n + 1)]
