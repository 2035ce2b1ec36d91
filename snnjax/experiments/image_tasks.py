"""Classification of images that sensory neurons turn into spikes: digits and CIFAR-10."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from snnjax import _check
from snnjax.datasets import Splits, load_cifar10
from snnjax.datasets._images import digits
from snnjax.experiments.config import Model, TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig(TrainConfig):
    """Fields that tasks on images share."""

    plane: ClassVar[bool] = True

    model: Model = "csnn2"
    """`csnn2`, 4, 6 or 8: this number of convolutions, in blocks of two with max-pooling
    (`snnjax.models.csnn2d`); or `dense`."""
    duration: float = 0.2
    """Presentation time of an image, s. The first spikes occur after about 25 ms, and every layer
    adds about 10 ms."""
    downsample: int = 1
    """Side of the squares of pixels that are averaged to one pixel."""
    flip: bool = False
    """Augmentation: mirror each training image left to right with probability 1/2."""
    shift: int = 0
    """Augmentation: move each training image by up to this number of pixels."""
    valid_fraction: float = 0.1
    """Fraction of the training images held out for validation, equal for every class."""
    data_seed: int = 0
    """Seed of the split."""

    calibration_samples: int = 50
    """Training images for an initialization from data and for the measurement of `nu`."""
    batch_size: int = 50
    """Images per step, at most the size of the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("duration", self.duration, at_least=2 * self.dt, unit="s")
        _check.number("valid_fraction", self.valid_fraction, above=0, below=1)
        _check.integer("downsample", self.downsample, at_least=1)
        _check.integer("shift", self.shift, at_least=0)
        _check.integer("data_seed", self.data_seed, at_least=0)
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be True or False, got {self.flip!r}")
        for name in (f.name for f in dataclasses.fields(self) if f.name.startswith("augment_")):
            if getattr(self, name):
                rule = "must be 0 for images, whose augmentations are flip and shift"
                raise ValueError(f"{name} {rule}, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsConfig(ImageConfig):
    """Train on scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.

    There is no download. Needs the extra `digits`.
    """

    test_fraction: float = 0.2
    """Fraction of all images in the test set, equal for every class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("test_fraction", self.test_fraction, above=0, below=1)

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        data, test = (
            digits()
            .downsample(self.downsample)
            .split((1 - self.test_fraction, self.test_fraction), seed=self.data_seed)
        )
        train, valid = data.split(
            (1 - self.valid_fraction, self.valid_fraction), seed=self.data_seed
        )
        return Splits(train, valid, test)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CIFAR10Config(ImageConfig):
    """Train on CIFAR-10, prepared by tensorflow-datasets."""

    data: Path | None = None
    """Folder that contains `cifar10`. None: the default folder of tensorflow-datasets."""
    download: bool = False
    """Download and prepare the data first if they are missing."""
    fraction: float = 1.0
    """Fraction of the training images to use, equal for every class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("fraction", self.fraction, above=0, at_most=1)
        if not isinstance(self.download, bool):
            raise TypeError(f"download must be True or False, got {self.download!r}")

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        data = load_cifar10("train", data_dir=self.data, download=self.download).downsample(
            self.downsample
        )
        if self.fraction < 1:
            (data,) = data.split((self.fraction,), seed=self.data_seed)
        train, valid = data.split(
            (1 - self.valid_fraction, self.valid_fraction), seed=self.data_seed
        )
        test = load_cifar10("test", data_dir=self.data).downsample(self.downsample)
        return Splits(train, valid, test)
