r"""Independent homogeneous Poisson spike trains, the input that the theory assumes.

As events, exact in continuous time, for each unit and sample:

    count ~ Poisson(rate duration),    times ~ Uniform[0, duration)

As a raster, for each unit, sample and step; counts, not Bernoulli:

    count ~ Poisson(rate dt)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from snnjax import _check
from snnjax.datasets import _arrays
from snnjax.datasets._events import EventDataset

_MAX_EVENTS = 2_000_000_000  # expected; 16 GB of events


def poisson(
    *,
    num_samples: int,
    num_units: int,
    rate: ArrayLike,
    duration: float,
    seed: int | Sequence[int],
    labels: ArrayLike | None = None,
) -> EventDataset:
    """Draw Poisson spike trains as a data set, sorted by time within each sample.

    Args:
        num_samples: Number of samples S, >= 0.
        num_units: Number of units, >= 1.
        rate: Rates, Hz, finite and >= 0: a scalar, (num_units,), or (num_classes, num_units) if
            they depend on the label.
        duration: Length of a trial, s.
        seed: Whole number >= 0, or several.
        labels: Integers (S,). None: if `rate` has one row per class, the same number of samples of
            each class in random order; otherwise all 0.

    Returns:
        An `EventDataset`. It has as many classes as `rate` has rows; without rows, the largest
        label + 1.

    Raises:
        ValueError: An argument is out of range, or more than 2e9 events are expected. The message
            names the argument.
        TypeError: An argument has the wrong type.

    >>> rate = [[5.0, 20.0], [40.0, 0.0]]
    >>> data = poisson(num_samples=200, num_units=2, rate=rate, duration=1.0, seed=0)
    >>> np.bincount(data.labels), data.rate(per_class=True).round()
    (array([100, 100]), array([[ 5., 20.],
           [40.,  0.]]))
    """
    num_samples = _check.integer("num_samples", num_samples, at_least=0)
    num_units = _check.integer("num_units", num_units, at_least=1)
    duration = float(_check.number("duration", duration, above=0, unit="s"))
    rates = np.asarray(_check.number("rate", np.asarray(rate), at_least=0, unit="Hz"), np.float64)
    if rates.ndim > 2 or (rates.ndim and rates.shape[-1] != num_units) or rates.shape[:1] == (0,):
        needed = f"(num_units,) or (num_classes, num_units) with num_units = {num_units}"
        raise ValueError(f"rate must be a scalar, {needed}, got shape {rates.shape}")
    rng = _arrays.rng_of(seed)
    num_classes = len(rates) if rates.ndim == 2 else None if num_samples else 1
    if labels is None:
        labels = rng.permutation(np.arange(num_samples) % (num_classes or 1))
    num_classes = _arrays.count_classes(labels, num_classes, None)
    labels = _arrays.integers("labels", labels, 0, num_classes - 1)
    if labels.size != num_samples:
        raise ValueError(f"labels must have num_samples = {num_samples} entries, got {labels.size}")
    rates = rates[labels] if rates.ndim == 2 else rates
    mean = np.broadcast_to(rates * duration, (num_samples, num_units))
    if (total := mean.sum()) > _MAX_EVENTS:
        limit = f"{_MAX_EVENTS:g} events, got {total:g} on average"
        raise ValueError(f"rate * duration * num_samples must give at most {limit}")
    counts = rng.poisson(mean)
    units = np.repeat(np.tile(np.arange(num_units, dtype=np.int32), num_samples), counts.ravel())
    per_sample = counts.sum(axis=1)
    position = rng.random(units.size)
    order = np.argsort(np.repeat(np.arange(num_samples), per_sample) + position)
    # rounding to float32 must not carry a time to the end of the trial, where binning drops it
    times = np.minimum(position[order] * duration, duration * (1 - 2.0**-21))
    return EventDataset(
        times=times.astype(np.float32),
        units=units[order],
        offsets=_arrays.offsets_of(per_sample),
        labels=labels,
        num_units=num_units,
        num_classes=num_classes,
        duration=duration,
    )


def poisson_raster(
    key: jax.Array, shape: tuple[int, ...], *, rate: jax.typing.ArrayLike, dt: jax.typing.ArrayLike
) -> jax.Array:
    """Draw Poisson spike counts on a time grid, on the device.

    Args:
        key: A JAX random key.
        shape: Shape of the result, time-major (T, B, num_units).
        rate: Rate, Hz, finite and >= 0: a scalar or an array that broadcasts against `shape`.
        dt: Time step, s.

    Returns:
        float32 counts of shape `shape`, Poisson distributed with mean rate dt. Counts above 1
        occur.

    Raises:
        ValueError: An argument is out of range (traced values are not checked), or the rates do not
            broadcast.

    >>> x = poisson_raster(jax.random.key(0), (500, 40, 50), rate=20.0, dt=2e-3)
    >>> x.shape, x.dtype, round(float(x.mean() / 2e-3))
    ((500, 40, 50), dtype('float32'), 20)
    """
    _check.number("rate", rate, at_least=0, unit="Hz")
    _arrays.check_dt(dt)
    shape = tuple(_check.integer("shape", size, at_least=0) for size in shape)
    mean = jnp.asarray(rate, jnp.float32) * dt
    ends = zip(reversed(mean.shape), reversed(shape), strict=False)
    if mean.ndim > len(shape) or any(own not in (1, size) for own, size in ends):
        raise ValueError(f"rate must broadcast against shape = {shape}, got shape {mean.shape}")
    return jax.random.poisson(key, mean, shape, dtype=jnp.int32).astype(jnp.float32)
