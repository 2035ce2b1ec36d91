"""Array checks and helpers of `snnjax/datasets/_events.py`.

Each error names the field, the first invalid value and its position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from snnjax import _check

Indices = slice | ArrayLike
"""Whole numbers, a boolean mask or a slice."""

# beyond this number of steps, rounding of float32 times can exceed an eighth of a step
MAX_STEPS = 2**20
LATEST = 2.0**32  # s; float64 holds whole microseconds up to here
# the largest relative error of two roundings to float32, and a small margin
_ROUNDING = 2.0**-23 * (1 + 2.0**-20)


def vector(name: str, value: ArrayLike, kinds: str) -> np.ndarray:
    """Return `value` as a one-dimensional array.

    Args:
        name: Name of the argument, for the message.
        value: Array or sequence. An empty sequence passes with any dtype.
        kinds: Allowed kinds of dtypes (`numpy.dtype.kind`), such as "fiu".

    Raises:
        ValueError: The array is not one-dimensional.
        TypeError: The dtype is of another kind.
    """
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind not in kinds and array.size:
        needed = "real numbers" if "f" in kinds else "integers"
        raise TypeError(f"{name} must contain {needed}, got dtype {array.dtype}")
    return array if array.size else np.zeros(0, np.float32 if "f" in kinds else np.int64)


def check_size(name: str, size: object, n: object, things: str, *, per: str = "sample") -> None:
    """Raise unless an array has one entry per sample.

    Args:
        name: Name of the array, for the message.
        size: Its number of entries, or its shape.
        n: The number of samples, or the expected shape.
        things: What determines this number, in the plural: labels, recordings.
        per: What an entry belongs to, in the singular.

    Raises:
        ValueError: The numbers differ.
    """
    if size != n:
        raise ValueError(f"{name} must have one entry per {per}, got {size} for {n} {things}")


def all_good(good: np.ndarray, rule: str, got: Callable[[int], str]) -> None:
    """Raise unless all elements of an array are good.

    Args:
        good: Booleans (n,).
        rule: The name of the array, and what it must be.
        got: Describes the element with a given index, for the message: its value and its place.

    Raises:
        ValueError: An element is not good. The message describes the first.
    """
    if not good.all():
        raise ValueError(f"{rule}, got {got(int(good.argmin()))}")


def check_whole(name: str, values: np.ndarray, limit: int) -> None:
    """Raise unless all `values` (events,) of a recording are whole numbers from 0 to `limit`."""
    good = (values >= 0) & (values <= limit) & (values == np.floor(values))  # a NaN is not
    got = lambda e: f"{values[e]} in event {e}"
    all_good(good, f"{name} must be a whole number from 0 to {limit}", got)


def _where(e: int, offsets: np.ndarray | None) -> str:
    if offsets is None:
        return f"at position {e}"
    return f"at position {e} (sample {int(np.searchsorted(offsets, e, side='right')) - 1})"


def integers(
    name: str, value: ArrayLike, low: int, high: int, offsets: np.ndarray | None = None
) -> np.ndarray:
    """Return `value` as int32 after a check of its range [low, high]."""
    array = vector(name, value, "iu")
    if array.size and (array.min() < low or array.max() > high):
        first = lambda e: f"{array[e]} {_where(e, offsets)}"
        all_good((array >= low) & (array <= high), f"{name} must be in [{low}, {high}]", first)
    return np.ascontiguousarray(array, np.int32)


def check_offsets(value: ArrayLike, *, num_samples: int, n_events: int) -> np.ndarray:
    """Return `value` as int64 after a check that it divides the events into samples."""
    offsets = vector("offsets", value, "iu")
    if offsets.size != num_samples + 1:
        got = f"{offsets.size} for {num_samples} labels"
        raise ValueError(f"offsets must have one entry more than labels, got {got}")
    first, last = offsets[0], offsets[-1]
    if first != 0 or last != n_events:
        raise ValueError(f"offsets must run from 0 to the {n_events} events, got {first} to {last}")
    then = lambda s: f"{offsets[s]} then {offsets[s + 1]} at position {s}"
    all_good(offsets[1:] >= offsets[:-1], "offsets must not decrease", then)
    return np.ascontiguousarray(offsets, np.int64)


def as_times(value: np.ndarray) -> np.ndarray:
    """Convert times to the stored dtype: float32 for floats up to 32 bits, otherwise float64."""
    narrow = value.dtype.kind == "f" and value.dtype.itemsize <= 4
    return np.ascontiguousarray(value, np.float32 if narrow else np.float64)


def check_times(value: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return `value` as times after a check of its range.

    Args:
        value: Times, s, (events,).
        offsets: First event of each sample, to name the sample in the message.
    """
    times = as_times(value)
    if times.size and not (times.min() >= 0 and times.max() < LATEST):  # a NaN fails both
        first = lambda e: f"{value[e]} {_where(e, offsets)}"
        all_good((times >= 0) & np.isfinite(times), "times must be finite and >= 0 s", first)
        latest = f"{LATEST:.0f} s, beyond which whole microseconds are lost"
        all_good(times < LATEST, f"times must be below {latest}", first)
    return times


def not_before_edge(times: np.ndarray) -> np.ndarray:
    """Convert times to float64 and add the largest rounding error that they may have.

    A time that belongs on the edge of a bin, or at the end of a trial, is then never before it.

    Args:
        times: Times, float32 or float64, s.

    Returns:
        t + 2^-23 t, because a float32 product k * dt may be that much smaller than k dt. Float64
        times increase by at most 0.5 us, so that whole microseconds stay on their side of every
        edge.
    """
    t = times.astype(np.float64)
    later = t * _ROUNDING
    if times.dtype == np.float64:
        np.minimum(later, 0.5e-6, out=later)
    later += t
    return later


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the first event of each sample, and the total number of events."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def join(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays, without the empty ones."""
    # an empty list is float64 and would turn integers into floats
    parts = [p for p in parts if p.size]
    return np.concatenate(parts) if parts else np.zeros(0)


def count_classes(
    labels: ArrayLike, num_classes: int | None, class_names: Sequence[str] | None
) -> int:
    """Return `num_classes` if it is given, else the number of names, else the largest label + 1."""
    if num_classes is not None:
        return num_classes
    if class_names is not None:
        return len(class_names)
    array = integers("labels", labels, 0, 2**31 - 2)
    if not array.size:
        raise ValueError("num_classes must be given for a data set without samples, got None")
    return int(array.max()) + 1


def as_indices(indices: Indices, n: int) -> np.ndarray:
    """Return positive sample indices (k,), int64, from integers, a boolean mask (n,) or a slice."""
    if isinstance(indices, slice):
        return np.arange(n)[indices]
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        needed = "a sequence of integers, a boolean mask or a slice"
        raise TypeError(f"indices must be {needed}, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "b":
        check_size("indices, a boolean mask,", array.size, n, "samples")
        return np.flatnonzero(array)
    first = lambda k: f"{array[k]} at position {k}"
    all_good((array >= -n) & (array < n), f"indices must be in [{-n}, {n})", first)
    array = array.astype(np.int64)
    return np.where(array < 0, array + n, array)


def rng_of(seed: int | Sequence[int]) -> np.random.Generator:
    """Return a numpy generator for one seed or several."""
    parts = [seed] if not isinstance(seed, Sequence) else list(seed)
    return np.random.default_rng([_check.integer("seed", part, at_least=0) for part in parts])


def check_steps(num_steps: int) -> int:
    """Return `num_steps` after a check that float32 times resolve the steps."""
    if num_steps > MAX_STEPS:
        got = f"{num_steps}: float32 times do not resolve more; is dt in seconds?"
        raise ValueError(f"num_steps must be <= 2**20, got {got}")
    return num_steps


def check_dt(dt: ArrayLike) -> None:
    """Raise unless a time step is finite and > 0 s; warn if it may not be in seconds."""
    _check.number("dt", dt, above=0, unit="s")
    _check.hint_seconds("dt", dt)


def largest_count(dtype: DTypeLike) -> int:
    """Return the largest n for which `dtype` represents 0 ... n exactly."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return 1
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be boolean, integer or floating, got {dtype}")
    return 2 ** (jnp.finfo(dtype).nmant + 1)
