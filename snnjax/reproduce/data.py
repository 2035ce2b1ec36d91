"""Data of the presets: a folder of the user, or generated numbers in the smoke preset and in tests.

`--data FOLDER`, or the environment variable SNNJAX_DATA, names a folder. The data are in this
folder, or in its subfolders with these names:

    shd | shd_format    NAME_train.h5 and NAME_test.h5 in the layout of the Spiking Heidelberg
                        Digits (`snnjax/datasets/_shd.py`); NAME is shd for SHD itself
    tfds                cifar10, prepared by tensorflow-datasets
    dvs_gesture         DVS-Gesture (`snnjax.datasets.load_dvs_gesture`)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from snnjax.datasets import EventDataset, ImageDataset, Splits
from snnjax.experiments import CIFAR10Config, DVSGestureConfig, RandmanConfig, SHDConfig

VARIABLE = "SNNJAX_DATA"


class MissingDataError(FileNotFoundError):
    """The data of a figure are not available."""


def _find(data: Path | None, folders: tuple[str, ...], holds: tuple[str, ...], what: str) -> Path:
    root = (
        data
        if data is not None
        else Path(os.environ[VARIABLE])
        if os.environ.get(VARIABLE)
        else None
    )
    if root is None:
        raise MissingDataError(
            f"{what} needed; name the folder with the data by --data FOLDER or the environment "
            f"variable {VARIABLE}"
        )
    for folder in (root, *(root / name for name in folders)):
        if any(next(folder.glob(pattern), None) for pattern in holds):
            return folder
    raise MissingDataError(
        f"{what} needed; neither {root} nor its folders {', '.join(folders)} contain "
        f"{' or '.join(holds)}"
    )


def shd_folder(data: Path | None, *, real: bool = False) -> Path:
    """Return the folder of files in the SHD layout.

    Args:
        data: The folder of the user, or None.
        real: Accept only SHD itself.

    Raises:
        MissingDataError: There is no such folder. The message says where it was expected.
    """
    what = (
        "the Spiking Heidelberg Digits are"
        if real
        else "spoken words in the layout of the Spiking Heidelberg Digits are"
    )
    return _find(data, ("shd", "shd_format"), ("shd_train.h5" if real else "*_train.h5",), what)


def is_shd(folder: Path) -> bool:
    """Return whether the files are SHD itself, by their names."""
    return (folder / "shd_train.h5").exists()


def cifar10_folder(data: Path | None) -> Path:
    """Return the folder that contains `cifar10`. Errors are those of `shd_folder`."""
    return _find(data, ("tfds",), ("cifar10",), "CIFAR-10 as tensorflow-datasets prepares it is")


def dvs_folder(data: Path | None) -> Path:
    """Return the folder of DVS-Gesture. Errors are those of `shd_folder`."""
    return _find(
        data, ("dvs_gesture",), ("ibmGestureTrain", "trials_to_train.txt"), "DVS-Gesture is"
    )


def generated(
    config: Any,
    *,
    sizes: tuple[int, int, int] = (24, 12, 12),
    classes: int | None = None,
    seed: int = 0,
) -> Splits:
    """Return generated training, validation and test sets with the shape of the task's data.

    Each class has its own inputs with higher activity.

    Args:
        config: Configuration of the task.
        sizes: Number of samples of each set.
        classes: Number of classes. None: that of the task.
        seed: Seed of the data.

    >>> from snnjax.experiments import SHDConfig
    >>> train, valid, test = generated(SHDConfig(data=Path(), duration=0.1), sizes=(8, 4, 4))
    >>> len(train), train.num_units, train.num_classes, train.duration
    (8, 700, 20, 0.1)
    """
    rng = np.random.default_rng(seed)
    if isinstance(config, RandmanConfig):
        return config.datasets()
    if isinstance(config, CIFAR10Config):
        return Splits(*(_images(rng, n, 32 // config.downsample, classes or 10) for n in sizes))
    units, own, rate = (
        (int(np.prod(config.sensor)), 11, 9.2)
        if isinstance(config, DVSGestureConfig)
        else (700, 20, 8.0)
    )
    made = (_events(rng, n, units, classes or own, config.duration, rate) for n in sizes)
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
    times = rng.uniform(0, duration, offsets[-1])
    return EventDataset(
        times=times,
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


LAPTOP_SPEAKERS = (3, 5)


def _own(config: Any) -> Splits:
    return config.datasets()


def _two_speakers(config: SHDConfig) -> Splits:
    """Return the recordings of two speakers in each set, so that no test speaker is new."""
    return Splits(*(part.split_groups(LAPTOP_SPEAKERS)[1] for part in config.datasets()))


def _smoke(config: Any) -> Splits:
    return generated(config, classes=3)


SOURCES: dict[str, Callable[[Any], Splits]] = {
    "own": _own,
    "two speakers": _two_speakers,
    "generated": _smoke,
}
"""Functions from a configuration to its three sets, by the `source` of a task."""
