"""Generated data in place of those of a task, for tests and first steps without its files."""

from __future__ import annotations

import math

import numpy as np

from snnjax import _check
from snnjax.datasets import EventDataset, ImageDataset, Splits
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._tasks import ImageTask, Spoken


def generated(
    experiment: Experiment,
    *,
    sizes: tuple[int, int, int] = (24, 12, 12),
    num_classes: int | None = None,
    seed: int = 0,
) -> Splits:
    """Return generated training, validation and test sets with the shape of the task's data.

    Each class has its own inputs with higher activity. No files are needed. The data say nothing
    about the task.

    Args:
        experiment: An experiment of the task.
        sizes: Number of samples of each set.
        num_classes: Number of classes. None: that of the task.
        seed: Seed of the data.

    Returns:
        The three sets. Tasks without files (randman, digits) return their own data.

    Raises:
        ValueError, TypeError: A number is not a positive integer.

    >>> experiment = Experiment.from_options("shd", duration=0.1)
    >>> train, valid, test = generated(experiment, sizes=(8, 4, 4))
    >>> len(train), train.num_units, train.num_classes, train.duration
    (8, 700, 20, 0.1)
    """
    rng, task = np.random.default_rng(seed), experiment.task
    if not task.holds:
        return experiment.datasets()
    for size in sizes:
        _check.integer("sizes", size, at_least=1)
    if num_classes is None:
        num_classes = {"shd": 20, "ssc": 35, "dvs-gesture": 11}.get(task.name, 10)
    classes = _check.integer("num_classes", num_classes, at_least=1)
    if isinstance(task, ImageTask):
        return Splits(*(_images(rng, n, 32 // task.downsample, classes) for n in sizes))
    units, rate = (700, 8.0) if task.sensor is None else (math.prod(task.sensor), 9.2)
    if isinstance(task, Spoken):
        units = -(-units // task.downsample)
    return Splits(*(_events(rng, n, units, classes, task.duration, rate) for n in sizes))


def _events(
    rng: np.random.Generator, n: int, units: int, classes: int, duration: float, rate: float
) -> EventDataset:
    labels = np.arange(n) % classes
    # a class's own share of the units fires ten times as often as the rest
    rates = np.where(np.arange(units) * classes // units == labels[:, None], 10 * rate, rate)
    counts = rng.poisson(rates * duration)
    sample_units = [np.repeat(np.arange(units), c) for c in counts]
    offsets = np.cumsum([0, *(u.size for u in sample_units)])
    return EventDataset(
        times=rng.uniform(0, duration, offsets[-1]),
        units=np.concatenate(sample_units),
        offsets=offsets,
        labels=labels,
        num_units=units,
        num_classes=classes,
        duration=duration,
    )


def _images(rng: np.random.Generator, n: int, side: int, classes: int) -> ImageDataset:
    labels = np.arange(n) % classes
    images = rng.integers(0, 100, (n, side, side, 3))
    for image, label in zip(images, labels, strict=True):
        image[label * side // classes] += 120
    return ImageDataset(images=images.astype(np.uint8), labels=labels, num_classes=classes)
