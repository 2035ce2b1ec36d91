"""Data sets on the accelerator that return time-major batches inside jit.

`DeviceEvents` stores events as events: one int32 per spike (address = time step * num_units + unit)
and the offsets of the samples. A batch becomes a dense raster only on request. So memory on the
device is 4 bytes per spike instead of steps * units bytes per sample.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _time
from snnjax._pytree import pytree_dataclass, replaced, static
from snnjax._sparse import scatter_counts
from snnjax._timed import Timed
from snnjax.datasets import _arrays
from snnjax.datasets._events import EventDataset

ArrayBatch = tuple[jax.Array, jax.Array | Timed]
"""Inputs (time, batch, ...features), and targets."""


@runtime_checkable
class BatchSource(Protocol):
    """What training reads: `len(source)` samples in batches that are made under jit.

    `source.batch(indices, key)` returns (x (time, batch, ...features), labels). x is an array, or
    an `EventRaster` if the network takes one. Labels are what the loss takes: classes (batch,)
    unless the loss documents another form (`snnjax.losses`), or `snnjax.losses.Timed` if trials
    have different lengths.

    `key` is for sources that draw random numbers, such as `Augmented`. Training passes a new key in
    each step, evaluation passes None.

    A source must be a JAX pytree (for example a `jax.tree_util.register_dataclass`), so that it can
    be an argument of a jitted function. It may have an attribute `dt`, the time step of its batches
    (s) or None. Training then refuses a network with another time step. It may have an attribute
    `separable`. True means that a sample does not depend on the other samples of its batch, so that
    training may compute parts of a batch one after another.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> tuple[Any, Any]: ...


class Events(NamedTuple):
    """Events of a batch, padded to the longest sample.

    Attributes:
        step: Time steps, int32 (batch, longest).
        unit: Units, int32 (batch, longest).
        present: False for padding, bool (batch, longest).
    """

    step: jax.Array
    unit: jax.Array
    present: jax.Array


@pytree_dataclass
class DeviceEvents:
    """Binned events on the device, a pytree. `DeviceEvents.from_dataset` creates it.

    Attributes:
        addresses: step * num_units + unit of every event, int32 (events + largest sample,). The
            tail is padding.
        offsets: Sample s has the events offsets[s] : offsets[s + 1], int32 (samples + 1,).
        labels: Classes, int32 (samples,).
        steps: Number of time steps of a raster.
        num_units: Number of units of a raster.
        longest: Largest number of events in a sample.
        dt: Time step of the bins, s, or None if it is unknown. `snnjax.training.fit` refuses a
            network with another time step.
        num_steps: Number of steps of each trial, int32 (samples,), at most `steps`. Targets are
            then `snnjax.losses.Timed`. None: all trials have `steps`.

    >>> from snnjax.datasets import randman
    >>> data = DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    >>> x, y = data.batch(jnp.array([0, 3, 5]))
    >>> x.shape, x.sum(axis=(0, 2)).tolist()
    ((100, 3, 20), [20.0, 20.0, 20.0])
    """

    addresses: jax.Array
    offsets: jax.Array
    labels: jax.Array
    steps: int = static()
    num_units: int = static()
    longest: int = static()
    dt: float | None = static(default=None)
    num_steps: jax.Array | None = None

    separable: ClassVar[bool] = True

    @classmethod
    def from_dataset(
        cls, data: EventDataset, *, dt: float, num_steps: int | None = None
    ) -> DeviceEvents:
        """Bin a data set and copy it to the default device.

        Args:
            data: The data set.
            dt: Time step, s.
            num_steps: Number of steps. None: ceil(duration / dt).

        Raises:
            ValueError: The data set is empty, or too large for int32 addresses (2^31 events, or
                num_steps * units).
        """
        if len(data) == 0:
            raise ValueError("data must hold at least one sample, got an empty data set")
        steps = data._steps(dt, num_steps)
        grid: dict[str, Any] = {"num_steps": steps, "num_units": data.num_units, "dt": float(dt)}
        source = cls.from_bins(*data._bins(dt, steps), data.labels, **grid)
        if data.durations is None:
            return source
        lengths = [_time.num_steps(float(seconds), dt) for seconds in data.durations]
        return replaced(source, num_steps=jnp.minimum(jnp.asarray(lengths, jnp.int32), steps))

    @classmethod
    def from_bins(
        cls,
        addresses: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray,
        *,
        num_steps: int,
        num_units: int,
        dt: float | None = None,
        pad: bool = False,
    ) -> DeviceEvents:
        """Copy binned events, from `EventDataset.bins`, to the default device.

        Args:
            addresses: step * num_units + unit of every event, int32 (events,).
            offsets: Sample s has the events offsets[s] : offsets[s + 1], (samples + 1,).
            labels: Classes (samples,).
            num_steps: Number of time steps of a raster.
            num_units: Number of units of a raster.
            dt: Time step of the bins, s, or None if it is unknown.
            pad: Round `longest` and the length of `addresses` up to powers of two, so that many
                such data sets share a few compiled programs.

        Raises:
            ValueError: There are 2^31 events or more.
        """
        if len(addresses) >= 2**31:
            got = f"{len(addresses)}; split it"
            raise ValueError(f"data must hold fewer than 2^31 events, got {got}")
        # up to the smallest power of two that is at least n and at least 1
        up = (lambda n: 1 << max(int(n) - 1, 0).bit_length()) if pad else int
        longest = up(np.diff(offsets).max())
        # at least one element, because a position is read even if there are no events
        padded = np.zeros(max(up(len(addresses) + longest), 1), np.int32)
        padded[: len(addresses)] = addresses
        binned, first = jnp.asarray(padded), jnp.asarray(offsets, jnp.int32)
        classes = jnp.asarray(labels, jnp.int32)
        grid: dict[str, Any] = {"steps": num_steps, "num_units": num_units, "dt": dt}
        return cls(addresses=binned, offsets=first, labels=classes, longest=longest, **grid)

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def density(self) -> float:
        """Spikes per unit and step, mean over the data set."""
        return int(self.offsets[-1]) / (len(self) * self.steps * self.num_units)

    def events(self, indices: jax.Array, key: jax.Array | None = None) -> Events:
        """Return the events of some samples.

        Args:
            indices: Samples, integers (batch,).
            key: Not used.

        Returns:
            Arrays (batch, longest).
        """
        start, stop = self.offsets[indices], self.offsets[indices + 1]
        position = start[:, None] + jnp.arange(self.longest, dtype=jnp.int32)
        address = self.addresses[position]
        return Events(address // self.num_units, address % self.num_units, position < stop[:, None])

    def raster(self, events: Events) -> jax.Array:
        """Count the events of each step and unit.

        Events that are not `present`, or outside the raster, are dropped.

        Args:
            events: Events of a batch, arrays (batch, longest).

        Returns:
            Spike counts (steps, batch, num_units), float32.
        """
        return scatter_counts(*events, steps=self.steps, num_units=self.num_units)

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> ArrayBatch:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Not used.

        Returns:
            Spike counts (steps, batch, num_units), float32, and targets.
        """
        return _batch(self, indices)

    def targets(self, indices: jax.Array, key: jax.Array | None = None) -> jax.Array | Timed:
        """Return labels (batch,), or `Timed` labels if trials have their own lengths.

        Args:
            indices: Samples, integers (batch,).
            key: Not used.
        """
        labels = self.labels[indices]
        if self.num_steps is None:
            return labels
        return Timed(target=labels, num_steps=self.num_steps[indices])


@jax.jit  # outside of jit, each operation would otherwise compile a program of its own
def _batch(source: DeviceEvents, indices: jax.Array) -> ArrayBatch:
    return source.raster(source.events(indices)), source.targets(indices)


@pytree_dataclass
class DeviceArrays:
    """Dense inputs and their targets on the device, a pytree.

    Attributes:
        x: Inputs (samples, time, ...features), any dtype.
        labels: What the loss takes (`snnjax.losses`): integer classes (samples,), values or several
            labels (samples, k), or traces (samples, time, k).
        dt: Time step of x, s, or None if it is unknown. `snnjax.training.fit` refuses a network
            with another time step.

    Raises:
        ValueError: x has fewer than three axes, or labels do not match it.

    >>> data = DeviceArrays(x=jnp.zeros((8, 50, 3), jnp.uint8), labels=jnp.zeros(8, jnp.int32))
    >>> data.batch(jnp.arange(4))[0].shape
    (50, 4, 3)
    """

    x: jax.Array
    labels: jax.Array
    dt: float | None = static(default=None)

    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.dt is not None:
            _arrays.check_dt(self.dt)
        if jnp.ndim(self.x) < 3:
            got = jnp.shape(self.x)
            raise ValueError(f"x must have shape (samples, time, ...features), got {got}")
        n, steps = self.x.shape[:2]
        shape, dtype = jnp.shape(self.labels), jnp.result_type(self.labels)
        classes = len(shape) == 1 and jnp.issubdtype(dtype, jnp.integer)
        trace = len(shape) == 3 and shape[1] == steps
        if shape[:1] != (n,) or not (classes or len(shape) == 2 or trace):
            expected = f"labels must be integers ({n},), one per sample of x"
            others = f"or values ({n}, k), or traces ({n}, {steps}, k)"
            raise ValueError(f"{expected}, {others}, got {dtype} {shape}")

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> ArrayBatch:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Not used.

        Returns:
            Inputs (time, batch, ...features), float32, and classes (batch,), values (batch, k) or
            traces (time, batch, k).
        """
        labels = jnp.asarray(self.labels)[indices]
        labels = jnp.moveaxis(labels, 0, 1) if labels.ndim == 3 else labels
        return jnp.moveaxis(jnp.asarray(self.x)[indices].astype(jnp.float32), 0, 1), labels
