"""Classification of gestures, recorded with an event camera."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import Splits, Stream
from snnjax.datasets._dvs_gesture import DVSGesture
from snnjax.datasets._stream import Crop
from snnjax.experiments.config import Model, TrainConfig
from snnjax.regularizers import Pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DVSGestureConfig(TrainConfig):
    """Train on DVS-Gesture.

    FOLDER contains ibmGestureTrain and ibmGestureTest, or the original recordings
    (`snnjax.datasets.load_dvs_gesture`).
    """

    plane: ClassVar[bool] = True

    data: Path
    """Folder with the data."""
    model: Model = "csnn4"
    """`csnn2`, 4, 6 or 8: this number of convolutions, in blocks of two with max-pooling
    (`snnjax.models.csnn2d`); or `dense`."""
    duration: float = 1.0
    """Length of a trial, s: a window of a gesture."""
    downsample: int = 4
    """Side of the squares of pixels that become one pixel: a power of two."""
    crop: Crop = "random"
    """Windows of training gestures: at a random position, new in each epoch, or at the start.
    Validation and test use the start."""
    padding: int = 2
    """Zeros at both ends of both axes for each convolution."""
    augment_drop: float = 0.5
    """Augmentation: remove each training event with this probability. Validation, test and the
    initialization use all events."""
    stream: bool = True
    """Read the training set from the disk in each epoch (needs the extra `stream`). False: store
    its windows on the device, without random windows."""
    shard_size: int = 128
    """Largest number of gestures per shard; a multiple of the batch size. Gestures that do not fill
    the last shard are left out, different ones in each epoch."""
    valid_users: tuple[int, ...] = (20, 21, 22, 23)
    """Subjects whose gestures are held out for validation."""

    calibration_samples: int = 16
    """Training samples for an initialization from data; more samples need more memory."""
    batch_size: int = 16
    """Gestures per step, at most the size of the training set."""
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
        _check.one_of("downsample", self.downsample, tuple(2**k for k in range(8)))
        _check.integer("padding", self.padding, at_least=0)
        _check.one_of("crop", self.crop, get_args(Crop))
        _check.integer("shard_size", self.shard_size, at_least=1)
        if not isinstance(self.stream, bool):
            raise TypeError(f"stream must be True or False, got {self.stream!r}")
        if not self.valid_users:
            raise ValueError("valid_users must have at least one user, got none")
        if self.stream:
            if self.shard_size % self.batch_size:
                needed = f"a multiple of batch_size {self.batch_size}"
                raise ValueError(f"shard_size must be {needed}, got {self.shard_size}")
            for name in (f.name for f in dataclasses.fields(self) if f.name.startswith("augment_")):
                if name != "augment_drop" and getattr(self, name):
                    raise ValueError(
                        f"{name} must be 0 for streamed data, got {getattr(self, name)}; to use "
                        "it, store the data on the device: stream = False (--no-stream)"
                    )

    @property
    def streamed(self) -> bool:
        """Whether training data are read from the disk in each epoch."""
        return self.stream

    @property
    def conv_padding(self) -> int:
        """Padding of the convolutions."""
        return self.padding

    @property
    def sensor(self) -> tuple[int, int, int]:
        """Height, width and number of polarities of the network's input."""
        side = 128 // self.downsample
        return side, side, 2

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        whole, test = (
            DVSGesture(self.data, split, downsample=self.downsample) for split in ("train", "test")
        )
        held = np.isin(whole.users, self.valid_users)
        if not held.any() or held.all():
            raise ValueError(
                f"valid_users must be some but not all of the users {np.unique(whole.users)}, "
                f"got {self.valid_users}"
            )
        train, valid = whole.subset(~held), whole.subset(held)
        fixed: dict[str, Any] = {"duration": self.duration}
        shown = self._stream(train) if self.stream else train.load(**fixed)
        return Splits(shown, valid.load(**fixed), test.load(**fixed))

    def _stream(self, train: DVSGesture) -> Stream:
        try:
            import grain  # noqa: F401  # fail before a run folder is created
        except ImportError:
            raise ImportError(
                "a stream needs the package grain: pip install 'snnjax[stream]', or store the "
                "data on the device (--no-stream)"
            ) from None
        # all shards have one size, a multiple of the batch size, to leave out few recordings
        size = len(train) // math.ceil(len(train) / self.shard_size)
        size -= size % min(self.batch_size, size)
        return Stream(
            train,
            duration=self.duration,
            dt=self.dt,
            shard_size=size,
            seed=self.seed,
            crop=self.crop,
            drop=self.augment_drop,
        )
