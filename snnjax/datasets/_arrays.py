"""Array checks and helpers behind `snnjax.datasets.events`. Each error names the field, the first offending value and its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from snnjax import _check

# with more steps float32 times do not resolve them: a time may be moved by more than an eighth of one
MAX_STEPS = 2**20
LATEST = 2.0**32  # s; float64 holds whole microseconds up to here
# how far two roundings to float32 move a time, relative to it, and a little more
_ROUNDING = 2.0**-23 * (1 + 2.0**-20)


def vector(name: str, value: Any, kinds: str) -> np.ndarray:
    """`value` as a one-dimensional array of one of the dtype `kinds`; an empty sequence passes whatever its dtype."""
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind not in kinds and array.size:
        raise TypeError(
            f"{name} must hold {'real numbers' if 'f' in kinds else 'integers'}, got dtype {array.dtype}"
        )
    return array if array.size else np.zeros(0, np.float32 if "f" in kinds else np.int64)


def _where(e: int, offsets: np.ndarray | None) -> str:
    return f"at position {e}" + (
        "" if offsets is None else f" (sample {int(np.searchsorted(offsets, e, side='right')) - 1})"
    )


def integers(
    name: str, value: Any, low: int, high: int, offsets: np.ndarray | None = None
) -> np.ndarray:
    """`value` as int32 after a check of its range."""
    array = vector(name, value, "iu")
    if array.size and (array.min() < low or array.max() > high):
        e = int(((array < low) | (array > high)).argmax())
        raise ValueError(f"{name} must be in [{low}, {high}], got {array[e]} {_where(e, offsets)}")
    return np.ascontiguousarray(array, np.int32)


def check_offsets(value: Any, *, n_samples: int, n_events: int) -> np.ndarray:
    offsets = vector("offsets", value, "iu")
    if offsets.size != n_samples + 1:
        raise ValueError(
            f"offsets must have one entry more than labels, got {offsets.size} for {n_samples} labels"
        )
    if offsets[0] != 0 or offsets[-1] != n_events:
        raise ValueError(
            f"offsets must run from 0 to the {n_events} events, got {offsets[0]} to {offsets[-1]}"
        )
    back = offsets[1:] < offsets[:-1]
    if back.any():
        s = int(back.argmax())
        raise ValueError(
            f"offsets must not decrease, got {offsets[s]} then {offsets[s + 1]} at position {s}"
        )
    return np.ascontiguousarray(offsets, np.int64)


def as_times(value: np.ndarray) -> np.ndarray:
    """Times in the type that they are kept in: float32 for 16 and 32-bit floats, else float64."""
    narrow = value.dtype.kind == "f" and value.dtype.itemsize <= 4
    return np.ascontiguousarray(value, np.float32 if narrow else np.float64)


def check_times(value: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """`value` as times after a check of its range; `offsets` of the samples for the message."""
    times = as_times(value)
    if times.size and not (times.min() >= 0 and times.max() < LATEST):  # a NaN fails both
        bad = ~((times >= 0) & np.isfinite(times))
        what = (
            "finite and >= 0 s"
            if bad.any()
            else f"below {LATEST:.0f} s, beyond which whole microseconds are lost"
        )
        e = int((bad if bad.any() else times >= LATEST).argmax())
        raise ValueError(f"times must be {what}, got {value[e]} {_where(e, offsets)}")
    return times


def not_before_edge(times: np.ndarray) -> np.ndarray:
    """Times in float64, later by as much as rounding may have made them earlier.

    A time that belongs on the edge of a bin, or on the end of a trial, is then never before it.

    Args:
      times: float32 or float64, s.

    Returns:
      t + 2^-23 t, because a float32 product k * dt may lie that far below k dt. Float64 times move by
      at most half a microsecond: whole microseconds stay on their side of every edge.
    """
    t = times.astype(np.float64)
    later = t * _ROUNDING
    if times.dtype == np.float64:
        np.minimum(later, 0.5e-6, out=later)
    later += t
    return later


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def join(parts: list[np.ndarray]) -> np.ndarray:
    parts = [
        p for p in parts if p.size
    ]  # an empty list is float64 and would turn integers into floats
    return np.concatenate(parts) if parts else np.zeros(0)


def count_classes(labels: Any, n_classes: int | None, class_names: Sequence[str] | None) -> int:
    if n_classes is not None:
        return n_classes
    if class_names is not None:
        return len(class_names)
    array = integers("labels", labels, 0, 2**31 - 2)
    if not array.size:
        raise ValueError("n_classes must be given for a data set without samples, got None")
    return int(array.max()) + 1


def as_indices(indices: Any, n: int) -> np.ndarray:
    if isinstance(indices, slice):
        return np.arange(n)[indices]
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise TypeError(
            f"indices must be a sequence of integers, a boolean mask or a slice, got dtype {array.dtype}, shape {array.shape}"
        )
    if array.dtype.kind == "b":
        if array.size != n:
            raise ValueError(
                f"indices, a boolean mask, must have one entry a sample ({n}), got {array.size}"
            )
        return np.flatnonzero(array)
    bad = (array < -n) | (array >= n)
    if bad.any():
        raise ValueError(
            f"indices must be in [{-n}, {n}), got {array[int(bad.argmax())]} at position {int(bad.argmax())}"
        )
    array = array.astype(np.int64)
    return np.where(array < 0, array + n, array)


def rng_of(seed: int | Sequence[int]) -> np.random.Generator:
    parts = [seed] if not isinstance(seed, Sequence) else list(seed)
    return np.random.default_rng([_check.integer("seed", part, at_least=0) for part in parts])


def check_steps(n_steps: int) -> int:
    if n_steps > MAX_STEPS:
        raise ValueError(
            f"n_steps must be <= 2**20 (float32 times do not resolve more), got {n_steps}; is dt in seconds?"
        )
    return n_steps


def largest_count(dtype: Any) -> int:
    """The largest n such that `dtype` holds 0 ... n exactly."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return 1
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be boolean, integer or floating, got {dtype}")
    return 2 ** (jnp.finfo(dtype).nmant + 1)


def split_indices(
    labels: np.ndarray,
    n_classes: int,
    fractions: Sequence[float],
    *,
    seed: int | Sequence[int],
    stratify: bool,
) -> list[np.ndarray]:
    """Sample indices, ascending, of the parts of `EventDataset.split`."""
    shares = np.asarray(
        _check.number("fractions", np.asarray(fractions, np.float64), above=0, at_most=1)
    )
    if shares.ndim != 1 or shares.size == 0:
        raise ValueError(f"fractions must be a sequence of at least one number, got {fractions!r}")
    if shares.sum() > 1 + 1e-9:
        raise ValueError(
            f"fractions must add up to at most 1, got {fractions!r}, which adds up to {shares.sum():g}"
        )
    n = labels.size
    order = rng_of(seed).permutation(n)
    if stratify:
        # sample r of a class with n samples goes to position (r + 1/2) / n of the line that the parts cut: every class is spread evenly
        shuffled = labels[order]
        sizes = np.bincount(shuffled, minlength=n_classes)
        rank = np.empty(n, np.int64)
        rank[np.argsort(shuffled, kind="stable")] = np.arange(n) - np.repeat(
            np.cumsum(sizes) - sizes, sizes
        )
        order = order[np.argsort((rank + 0.5) / sizes[shuffled], kind="stable")]
    edges = np.floor(np.minimum(np.cumsum(shares) + 1e-9, 1.0) * n + 0.5).astype(np.int64)
    return [np.sort(part) for part in np.split(order[: edges[-1]], edges[:-1])]
