"""Classification of handwritten digits, recorded with a moving event camera."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from snnjax import _check
from snnjax.datasets import Splits, load_nmnist
from snnjax.datasets._nmnist import sensor_shape
from snnjax.experiments.config import Model, TrainConfig
from snnjax.regularizers import Pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class NMNISTConfig(TrainConfig):
    """Train on N-MNIST.

    FOLDER contains the official archives Train.zip and Test.zip, or the unpacked folders Train and
    Test (`snnjax.datasets.load_nmnist`).
    """

    plane: ClassVar[bool] = True

    data: Path
    """Folder with the data."""
    model: Model = "csnn4"
    """`csnn2`, 4, 6 or 8: this number of convolutions, in blocks of two with max-pooling
    (`snnjax.models.csnn2d`); or `dense`."""
    duration: float = 0.3
    """Length of a trial, s. Later events, about 0.2 %, are dropped."""
    dt: float = 5e-3
    """Time step, s."""
    downsample: int = 1
    """Side of the squares of pixels that become one pixel: 2 gives 17 x 17 pixels."""
    padding: int = 1
    """Zeros at both ends of both axes for each convolution; 1 preserves the size. More is not
    needed, because digits have a margin."""
    valid_fraction: float = 0.1
    """Fraction of the training recordings held out for validation, equal for every class."""
    data_seed: int = 0
    """Seed of the split."""

    calibration_samples: int = 50
    """Training samples for an initialization from data; 200 need about twice the memory."""
    epochs: int = 20
    """Passes over the training data, 843 updates each with the official archive."""
    batch_size: int = 64
    """Recordings per step, at most the size of the training set."""
    upper_strength: float = 0.01
    """Upper bound on the mean activity of a layer: strength (0: no bound)."""
    upper_pool: Pool = "feature_map"
    """Upper bound: applies to the mean activity of a layer, of each feature map, or of each
    neuron."""
    lower_strength: float = 0.0
    """Lower bound on the activity of each neuron: strength (0: no bound)."""

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
    def conv_padding(self) -> int:
        """Padding of the convolutions."""
        return self.padding

    @property
    def sensor(self) -> tuple[int, int, int]:
        """Height, width and number of polarities of the network's input."""
        return sensor_shape(self.downsample)

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        options: dict[str, Any] = {"downsample": self.downsample, "duration": self.duration}
        data, test = (load_nmnist(self.data, split, **options) for split in ("train", "test"))
        shares = (1 - self.valid_fraction, self.valid_fraction)
        train, valid = data.split(shares, seed=self.data_seed)
        return Splits(train, valid, test)
