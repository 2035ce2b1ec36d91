r"""Randman: spikes on smooth random manifolds, a classification task of adjustable difficulty.

For each class and input unit, draw a smooth random function of the manifold coordinates
x in [0, 1]^D,

    f(x) = prod_d sum_i theta0[i] s[i] sin(2 pi (i x_d theta1[i] + theta2[i])),    i = 0 .. n - 1
    s[i] = 1 / ((i + 1)^smoothness + 1),      n = min(ceil(prec^(-1/smoothness)), 1000)
    all theta ~ U[0, 1],                 theta0[0] = 0

The exponent `smoothness` sets how smooth they are. A sample of a class is one point x. For every
unit, the values over the samples of the class are scaled to [0, 1] and become the time of its
spike. Only spike times carry information on the class: every unit fires exactly once per sample.

Source: Zenke & Vogels (2021), doi 10.1162/neco_a_01367; settings of Rossbroich, Gygax & Zenke
(2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import math

import numpy as np

from snnjax import _check
from snnjax.datasets._events import EventDataset


def n_modes(smoothness: float, prec: float = 1e-3) -> int:
    """Return the number of sine modes of a function.

    Args:
        smoothness: Smoothness, > 0.
        prec: Precision: modes with smaller amplitudes are left out.

    >>> n_modes(1.0), n_modes(1.5)
    (1000, 100)
    """
    return min(math.ceil(round(prec ** (-1 / smoothness), 9)), 1000)


def draw_manifold(
    rng: np.random.Generator, *, num_units: int, dim: int, smoothness: float, prec: float = 1e-3
) -> np.ndarray:
    """Draw the random parameters of the functions of one class.

    Args:
        rng: Generator.
        num_units: Number of units.
        dim: Dimension D of the manifold.
        smoothness: Smoothness, > 0.
        prec: Precision that sets the number of modes.

    Returns:
        theta, float64 (num_units, dim, 3, n_modes).
    """
    theta = rng.random((num_units, dim, 3, n_modes(smoothness, prec)))
    theta[:, :, 0, 0] = 0.0  # the i = 0 mode is a constant, a bias on the spike time
    return theta


def evaluate_manifold(x: np.ndarray, theta: np.ndarray, *, smoothness: float) -> np.ndarray:
    """Evaluate f at the points x.

    Args:
        x: Points (samples, dim).
        theta: Parameters from `draw_manifold`.
        smoothness: Smoothness, > 0.

    Returns:
        Values, float64 (samples, num_units), not yet scaled.

    Raises:
        ValueError: x has another shape.

    >>> theta = draw_manifold(np.random.default_rng(0), num_units=20, dim=1, smoothness=1.0)
    >>> evaluate_manifold(np.linspace(0, 1, 5)[:, None], theta, smoothness=1.0).shape
    (5, 20)
    """
    num_units, dim, _, n = theta.shape
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"x must have shape (samples, {dim}), got {x.shape}")
    i = np.arange(n)
    amplitude = theta[:, :, 0] / ((i + 1.0) ** smoothness + 1)
    out = np.ones((len(x), num_units))
    size = max(1, _CACHED // n)  # number of samples whose phases fit in the cache
    for unit in range(num_units):
        for d in range(dim):
            for start in range(0, len(x), size):
                some, (_, scale, phase) = slice(start, start + size), theta[unit, d]
                turns = x[some, d, None] * (i * scale) + phase
                out[some, unit] *= _sin_of_turns(turns) @ amplitude[unit, d]
    return out


_CACHED = 2**14  # elements of float64, 128 KiB
_SINE = [(-1) ** k * (2 * math.pi) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(11)]


def _sin_of_turns(turns: np.ndarray) -> np.ndarray:
    """Return sin(2 pi turns) to 1e-15, four times as fast as numpy for large arguments.

    The input is overwritten.
    """
    # Map to [-1/4, 1/4], where the sine has the same value and its Taylor series of 11 terms is
    # exact to rounding.
    turns -= 0.25
    turns -= np.floor(turns)
    turns -= 0.5
    np.abs(turns, out=turns)
    turns -= 0.25
    square = turns * turns
    out = np.full_like(turns, _SINE[-1])
    for c in reversed(_SINE[:-1]):
        out *= square
        out += c
    out *= turns
    return out


def randman(
    *,
    num_classes: int = 10,
    num_units: int = 20,
    samples_per_class: int = 1000,
    dim: int = 1,
    smoothness: float = 1.0,
    active_duration: float = 0.1,
    duration: float = 0.2,
    seed: int = 0,
) -> EventDataset:
    """Draw manifolds and sample a data set from them. The defaults are those of the paper.

    Args:
        num_classes: Number of classes, each with its own manifold.
        num_units: Number of input units.
        samples_per_class: Samples per class, >= 2: times are scaled over the samples of a class.
        dim: Dimension of the manifolds.
        smoothness: Smoothness, > 0. Smaller values make the task harder.
        active_duration: All spikes occur in [0, active_duration), s.
        duration: Length of a trial, s.
        seed: Seed of the manifolds and the samples.

    Returns:
        An `EventDataset` of num_classes * samples_per_class samples, ordered by class, with one
        spike per unit and sample.

    Raises:
        ValueError: An argument is out of range. The message names it.
        TypeError: An argument has the wrong type.

    >>> data = randman(samples_per_class=50, seed=1)
    >>> len(data), data.num_units, float(data.times.max()) <= 0.1
    (500, 20, True)
    """
    _check.integer("num_classes", num_classes, at_least=1)
    _check.integer("num_units", num_units, at_least=1)
    _check.integer("samples_per_class", samples_per_class, at_least=2)
    _check.integer("dim", dim, at_least=1)
    _check.integer("seed", seed, at_least=0)
    _check.number("smoothness", smoothness, above=0)
    _check.number("duration", duration, above=0, unit="s")
    _check.number("active_duration", active_duration, above=0, at_most=duration, unit="s")
    rng = np.random.default_rng(seed)
    times = np.empty((num_classes, samples_per_class, num_units))
    for c in range(num_classes):
        theta = draw_manifold(rng, num_units=num_units, dim=dim, smoothness=smoothness)
        points = rng.random((samples_per_class, dim))
        values = evaluate_manifold(points, theta, smoothness=smoothness)
        low, high = values.min(axis=0), values.max(axis=0)
        # the latest spike of a unit is just before active_duration, in the last step of that time
        times[c] = (values - low) / (high - low) * (active_duration * (1 - 1e-6))
    total = num_classes * samples_per_class
    return EventDataset(
        times=times.reshape(-1).astype(np.float32),
        units=np.tile(np.arange(num_units, dtype=np.int32), total),
        offsets=np.arange(total + 1, dtype=np.int64) * num_units,
        labels=np.repeat(np.arange(num_classes, dtype=np.int32), samples_per_class),
        num_units=num_units,
        num_classes=num_classes,
        duration=duration,
    )
