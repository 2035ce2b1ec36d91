"""Data of the presets that no task loads: generated ones, and a part of the spoken words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from snnjax.datasets import EventDataset, ImageDataset, Splits
from snnjax.experiments._tasks import SHD, ImageTask, Randman

if TYPE_CHECKING:
    from snnjax.experiments import Experiment

Source = Literal["own", "two speakers", "generated"]
"""The data of the task, the recordings of two speakers, or generated data with three classes."""
SPEAKERS = (3, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealSHD(SHD):
    """The Spiking Heidelberg Digits, and not other files in their layout."""

    holds = ("shd_train.h5",)


def datasets(experiment: Experiment, source: Source) -> Splits | None:
    """Return the three sets of an experiment, or None if its task loads them.

    Args:
        experiment: The experiment.
        source: The source of the data. With two speakers, each set has both of them, so that no
            test speaker is new.
    """
    if source == "own":
        return None
    if source == "generated":
        return generated(experiment, classes=3)
    return Splits(*(part.split_groups(SPEAKERS)[1] for part in experiment.datasets()))


def generated(
    experiment: Experiment,
    *,
    sizes: tuple[int, int, int] = (24, 12, 12),
    classes: int | None = None,
    seed: int = 0,
) -> Splits:
    """Return generated training, validation and test sets with the shape of the task's data.

    Each class has its own inputs with higher activity.

    Args:
        experiment: An experiment of the task.
        sizes: Number of samples of each set.
        classes: Number of classes. None: that of the task.
        seed: Seed of the data.

    >>> from snnjax.experiments import Experiment
    >>> experiment = Experiment.from_options("shd", duration=0.1)
    >>> train, valid, test = generated(experiment, sizes=(8, 4, 4))
    >>> len(train), train.num_units, train.num_classes, train.duration
    (8, 700, 20, 0.1)
    """
    rng, task = np.random.default_rng(seed), experiment.task
    if isinstance(task, Randman):
        return experiment.datasets()
    if isinstance(task, ImageTask):
        return Splits(*(_images(rng, n, 32 // task.downsample, classes or 10) for n in sizes))
    units, own, rate = (700, 20, 8.0) if task.sensor is None else (np.prod(task.sensor), 11, 9.2)
    made = (_events(rng, n, int(units), classes or own, task.duration, rate) for n in sizes)
    return Splits(*made)


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
