"""Crop and thin a single recording.

Plain numpy functions of `times` (events,), s, and `units` (events,), in any order.
"""

from __future__ import annotations

import numpy as np

from snnjax import _check
from snnjax.datasets import _arrays


def crop(
    times: np.ndarray, units: np.ndarray, *, duration: float, start: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the events with start <= t < start + duration, with times relative to `start`.

    Args:
        times: Times of the events (events,), s, finite and >= 0.
        units: Units of the events (events,).
        duration: Length of the window, s.
        start: Start of the window, s.

    Returns:
        Times and units of the events in the window. Times are float32 or float64 as in
        `EventDataset`. Events on an edge of the window are assigned as in `EventDataset.bins`.

    Raises:
        ValueError: An argument is out of range. The message names it.
        TypeError: An argument has the wrong type. The message names it.

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
    """Return the time at which a recording starts, s.

    The start is 0 if an event occurs before `duration`. Otherwise it is the first event: the clock
    of such times started before the recording, as in an event camera.

    Args:
        times: Times of the events (events,), s.
        duration: Length of a trial, s.

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
    """Crop a recording to a window with a random start.

    The start is uniform between the start of the recording (`start_of`) and `duration` before its
    last event. A recording that is shorter than `duration` is not cut.

    Args:
        rng: Generator. One number is drawn for every recording.
        times: Times of the events (events,), s, finite and >= 0.
        units: Units of the events (events,).
        duration: Length of the window, s.

    Returns:
        Times and units of the events in the window, as `crop`.

    Raises:
        ValueError: An argument is out of range. The message names it.
        TypeError: An argument has the wrong type. The message names it.

    >>> rng = np.random.default_rng(0)
    >>> times, units = random_crop(rng, np.arange(100) / 100, np.arange(100), duration=0.2)
    >>> len(times), bool(times.max() < 0.2), bool((np.diff(units) == 1).all())
    (20, True, True)
    """
    _check.number("duration", duration, above=0, unit="s")
    times, units = _events(times, units)
    begin = start_of(times, duration=duration)
    free = max(float(np.max(times, initial=0.0)) - begin - duration, 0.0)
    at = rng.random()  # always drawn, so that later draws do not depend on the recording's length
    return crop(times, units, duration=duration, start=begin + at * free)


def _events(times: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return times and units as arrays, after a check of the times and of the lengths."""
    times, units = _arrays.check_times(_arrays.vector("times", times, "fiu")), np.asarray(units)
    _arrays.check_size("units", units.shape, times.shape, "times", per="event")
    return times, units


def drop_events(
    rng: np.random.Generator, times: np.ndarray, units: np.ndarray, p: float
) -> tuple[np.ndarray, np.ndarray]:
    """Remove each event with probability `p`.

    Args:
        rng: Generator. One number is drawn per event.
        times: Times of the events (events,), s.
        units: Units of the events (events,).
        p: Probability in [0, 1).

    Returns:
        Times and units of the remaining events.

    Raises:
        ValueError: `p` is out of range.

    >>> rng = np.random.default_rng(0)
    >>> times, units = drop_events(rng, np.zeros(1000), np.zeros(1000, int), 0.25)
    >>> 700 < len(times) < 800
    True
    """
    _check.number("p", p, at_least=0, below=1)
    kept = rng.random(len(times)) >= p
    return np.asarray(times)[kept], np.asarray(units)[kept]
