"""Classification of handwritten digits seen by a moving event camera."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from snnjax import _check
from snnjax.datasets import Splits, load_nmnist
from snnjax.datasets.nmnist import sensor_shape
from snnjax.experiments.config import Model, TrainConfig
from snnjax.regularizers import Pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class NMNISTConfig(TrainConfig):
    """Train on N-MNIST: FOLDER holds the official archives Train.zip and Test.zip.

    They are read as they are. The folders Train and Test that are in them will do, too
    (`snnjax.datasets.load_nmnist`).
    """

    plane: ClassVar[bool] = True

    data: Path
    """Folder with the data."""
    model: Model = "csnn4"
    """`csnn2`, 4, 6 or 8: so many convolutions in blocks of two with max-pooling
    (`snnjax.models.csnn2d`); or dense layers."""
    duration: float = 0.3
    """Of a trial, s; later events are dropped, about 0.2 % of them."""
    dt: float = 5e-3
    """Time step, s."""
    downsample: int = 1
    """Side of the squares of pixels that become one pixel: 2 makes 17 x 17 pixels of 34 x 34."""
    padding: int = 1
    """Zeros at either end of both axes for each convolution; 1 keeps the size, as a digit has a
    margin of its own."""
    valid_fraction: float = 0.1
    """Held out of the training recordings for validation, the same share of every class."""
    data_seed: int = 0
    """Of the split."""

    calibration_samples: int = 50
    """Training samples that an initialization from data looks at; 200 need about twice the memory."""
    epochs: int = 20
    """Passes over the training data: 843 updates each with the official archive."""
    batch_size: int = 64
    """Recordings a step; at most the training set."""
    upper_strength: float = 0.01
    """Upper bound on a layer's mean activity: strength (0: none)."""
    upper_pool: Pool = "feature_map"
    """Upper bound: on the mean activity of a whole layer, of each feature map, or each neuron."""
    lower_strength: float = 0.0
    """Lower bound on each neuron's activity: strength (0: none)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("duration", self.duration, at_least=2 * self.dt, unit="s")
        sensor_shape(self.downsample)
        _check.integer("padding", self.padding, at_least=0)
        _check.number("valid_fraction", self.valid_fraction, above=0, below=1)
        _check.integer("data_seed", self.data_seed, at_least=0)
        for name in ("augment_shift", "augment_unit_jitter"):
            if getattr(self, name):
                got = getattr(self, name)
                rule = "must be 0 for a camera, whose units are not on a line"
                raise ValueError(f"{name} {rule}, got {got}")

    @property
    def sensor(self) -> tuple[int, int, int]:
        """Height, width and polarities of what the network sees."""
        return sensor_shape(self.downsample)

    def datasets(self) -> Splits:
        """Train, validation and test set."""
        options: dict[str, Any] = {"downsample": self.downsample, "duration": self.duration}
        data, test = (load_nmnist(self.data, split, **options) for split in ("train", "test"))
        shares = (1 - self.valid_fraction, self.valid_fraction)
        train, valid = data.split(shares, seed=self.data_seed)
        return Splits(train, valid, test)
