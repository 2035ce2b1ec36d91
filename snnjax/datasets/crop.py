"""One recording cut to a window and thinned: plain numpy on `times` (events,), s, and `units` (events,), in any order."""

from __future__ import annotations

import numpy as np

from snnjax import _check


def crop(times: np.ndarray, units: np.ndarray, *, duration: float, start: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The events with start <= t < start + duration (s), their times counted from `start`.

    >>> crop(np.array([0.0, 0.5, 0.9]), np.array([3, 4, 5]), duration=0.4, start=0.25)
    (array([0.25]), array([4]))
    """
    _check.number("duration", duration, above=0, unit="s")
    since = np.asarray(times) - _check.number("start", start, at_least=0, unit="s")
    kept = (since >= 0) & (since < duration)
    return since[kept], np.asarray(units)[kept]


def random_crop(rng: np.random.Generator, times: np.ndarray, units: np.ndarray, *, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """`crop` with start ~ U[0, last event - duration]; a recording that is shorter than `duration` stays whole.

    >>> times, units = random_crop(np.random.default_rng(0), np.arange(100) / 100, np.arange(100), duration=0.2)
    >>> len(times), bool(times.max() < 0.2), bool((np.diff(units) == 1).all())
    (20, True, True)
    """
    _check.number("duration", duration, above=0, unit="s")
    free = max(float(np.max(times, initial=0.0)) - duration, 0.0)
    at = rng.random()  # drawn either way: what is drawn next does not depend on the recording's length
    return crop(times, units, duration=duration, start=at * free) if free > 0 else (np.asarray(times), np.asarray(units))


def drop_events(rng: np.random.Generator, times: np.ndarray, units: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Every event is left out with probability `p`, in [0, 1).

    >>> times, units = drop_events(np.random.default_rng(0), np.zeros(1000), np.zeros(1000, int), 0.25)
    >>> 700 < len(times) < 800
    True
    """
    _check.number("p", p, at_least=0, below=1)
    kept = rng.random(len(times)) >= p
    return np.asarray(times)[kept], np.asarray(units)[kept]
