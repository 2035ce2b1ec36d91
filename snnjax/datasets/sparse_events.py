"""Events on the device that are handed out as lists, for a first layer that walks along them instead of multiplying a raster.

Beside the events in order of time, `SparseEvents` holds their steps in order of units, 4 bytes a spike, and where each step and each unit of each sample
begins, 4 (steps + units) bytes a sample. No raster is ever made.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from snnjax._pytree import pytree_dataclass
from snnjax.datasets.device import DeviceEvents
from snnjax.sparse import EventRaster


@pytree_dataclass
class SparseEvents:
    """`DeviceEvents` whose batches are `snnjax.sparse.EventRaster` instead of arrays.

    Made by `SparseEvents.of`; a pytree.

    `snnjax.nn.Sequential` takes them; what cannot use them there makes arrays of them. `fit`, and so `snnjax train`, and `snnjax sweep` make
    `SparseEvents` of `DeviceEvents` by themselves where that is faster; `fit_ensemble` takes what it is given.

    Attributes:
      binned: the events, in order of time.
      steps_by_unit: the step of each event, in order of samples, units, steps, int32, as long as
        `binned.addresses`.
      first_of_step, first_of_unit: position of the first event of each step and unit, and behind the last one's, int32 (samples, steps or n_units + 1).

    >>> from snnjax.datasets import randman
    >>> data = SparseEvents.of(DeviceEvents.put(randman(n_samples=20), dt=2e-3))
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
    def of(cls, source: DeviceEvents, *, steps_by_unit: np.ndarray | None = None) -> SparseEvents:
        """Order the events of `source` by units, too, on the host. `steps_by_unit` (events,): their steps where they have been ordered already
        (`order_by_unit`).

        Raises:
          TypeError: source is something else than DeviceEvents.
        """
        if not isinstance(source, DeviceEvents):
            raise TypeError(f"source must be DeviceEvents, whose events are known one by one, got {type(source).__name__}")
        offsets = np.asarray(source.offsets)
        addresses = np.asarray(source.addresses)[: offsets[-1]]
        steps, n_units = source.steps, source.n_units
        sample = np.repeat(np.arange(len(source), dtype=np.int64), np.diff(offsets))
        step, unit = np.divmod(addresses, n_units)
        if steps_by_unit is None:
            steps_by_unit = order_by_unit(sample, step, unit, steps=steps, n_units=n_units)
        padded = np.zeros(len(source.addresses), np.int32)
        padded[: len(steps_by_unit)] = steps_by_unit
        return cls(
            binned=source,
            steps_by_unit=jnp.asarray(padded),
            first_of_step=jnp.asarray(_first(sample * steps + step, len(source), steps)),
            first_of_unit=jnp.asarray(_first(sample * n_units + unit, len(source), n_units)),
        )

    def __len__(self) -> int:
        return len(self.binned)

    @property
    def labels(self) -> jax.Array:
        """(samples,)."""
        return self.binned.labels

    @property
    def steps(self) -> int:
        """Time steps of a trial."""
        return self.binned.steps

    @property
    def dt(self) -> float | None:
        """Time step that the events were binned with, s, or None."""
        return self.binned.dt

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> tuple[EventRaster, jax.Array]:
        """The events and labels (batch,) of the samples `indices` (batch,); `key` is not used."""
        x = EventRaster(
            addresses=self.binned.addresses, steps_by_unit=self.steps_by_unit, first_of_step=self.first_of_step[indices].T,
            first_of_unit=self.first_of_unit[indices].T, longest=self.binned.longest,
        )  # fmt: skip
        return x, self.binned.labels[indices]


def order_by_unit(sample: np.ndarray, step: np.ndarray, unit: np.ndarray, *, steps: int, n_units: int) -> np.ndarray:
    """The steps of events (int64 samples), in order of samples, units, steps."""
    key = (sample * n_units + unit) * steps + step
    key.sort()
    return (key % steps).astype(np.int32)


def _first(places: np.ndarray, samples: int, n: int) -> np.ndarray:
    """Position of the first event of each place, for the places sample * n + k of all events in order: (samples, n + 1), behind the last one's end."""
    edges = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=samples * n))]).astype(np.int32)
    return edges[np.arange(samples)[:, None] * n + np.arange(n + 1)]
