"""One recording cut to a window and thinned: plain numpy on `times` (events,), s, and `units` (events,), in any order."""

from __future__ import annotations

import numpy as np

from snnjax import _check
from snnjax.datasets import _arrays


def crop(
    times: np.ndarray, units: np.ndarray, *, duration: float, start: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The events with start <= t < start + duration (s), their times counted from `start`.

    Args:
      times: (events,), s, finite and >= 0.
      units: (events,).
      duration: length of the window, s.
      start: of the window, s.

    Returns:
      Times, float32 or float64 as in `EventDataset`, and units of the events in the window. An event
      on an edge of the window is on the side where `EventDataset.bins` has it.

    Raises:
      ValueError, TypeError: an argument out of range, by name.

    >>> crop(np.array([0.0, 0.5, 0.9]), np.array([3, 4, 5]), duration=0.4, start=0.25)
    (array([0.25]), array([4]))
    """
    _check.number("duration", duration, above=0, unit="s")
    _check.number("start", start, at_least=0, unit="s")
    times, units = _events(times, units)
    later = _arrays.not_before_edge(times) - start
    kept = (later >= 0) & (later < duration)
    return np.maximum(times[kept].astype(np.float64) - start, 0).astype(times.dtype), units[kept]


def start_of(times: np.ndarray, *, duration: float) -> float:
    """Where a recording starts, s, on the clock of its times.

    That is 0. Where no event lies before `duration` (s), it is the first event: the clock of such
    times ran before the recording, as that of an event camera does.

    >>> start_of(np.array([0.2, 0.1]), duration=0.4)
    0.0
    >>> start_of(np.array([1000.2, 1000.1]), duration=0.4)
    1000.1
    """
    first = float(np.min(times)) if np.size(times) else 0.0
    return first if first >= duration else 0.0


def random_crop(
    rng: np.random.Generator, times: np.ndarray, units: np.ndarray, *, duration: float
) -> tuple[np.ndarray, np.ndarray]:
    """`crop` with a random start.

    The start is uniform, from the start of the recording (`start_of`) to `duration` before its last
    event. A recording that is shorter than `duration` stays whole.

    Args:
      rng: draws one number, whatever the recording.
      times, units, duration: as in `crop`.

    Returns:
      Times and units of the events in the window, as `crop`.

    Raises:
      ValueError, TypeError: as `crop`.

    >>> times, units = random_crop(np.random.default_rng(0), np.arange(100) / 100, np.arange(100), duration=0.2)
    >>> len(times), bool(times.max() < 0.2), bool((np.diff(units) == 1).all())
    (20, True, True)
    """
    _check.number("duration", duration, above=0, unit="s")
    times, units = _events(times, units)
    begin = start_of(times, duration=duration)
    free = max(float(np.max(times, initial=0.0)) - begin - duration, 0.0)
    at = (
        rng.random()
    )  # drawn either way: what is drawn next does not depend on the recording's length
    return crop(times, units, duration=duration, start=begin + at * free)


def _events(times: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A recording's arrays after a check of the times and of the lengths."""
    times, units = _arrays.check_times(_arrays.vector("times", times, "fiu")), np.asarray(units)
    if units.shape != times.shape:
        raise ValueError(
            f"units must have one entry an event, got shape {units.shape} for {times.size} times"
        )
    return times, units


def drop_events(
    rng: np.random.Generator, times: np.ndarray, units: np.ndarray, p: float
) -> tuple[np.ndarray, np.ndarray]:
    """Every event is left out with probability `p`, in [0, 1).

    >>> times, units = drop_events(np.random.default_rng(0), np.zeros(1000), np.zeros(1000, int), 0.25)
    >>> 700 < len(times) < 800
    True
    """
    _check.number("p", p, at_least=0, below=1)
    kept = rng.random(len(times)) >= p
    return np.asarray(times)[kept], np.asarray(units)[kept]
