"""Classification of gestures seen by an event camera."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import DVSGesture, Splits, Stream
from snnjax.datasets.stream import Crop
from snnjax.experiments.config import Model, TrainConfig
from snnjax.regularizers import Pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DVSGestureConfig(TrainConfig):
    """Train on DVS-Gesture: FOLDER holds ibmGestureTrain and ibmGestureTest, or the recordings of the original (`snnjax.datasets.DVSGesture`)."""

    plane: ClassVar[bool] = True

    data: Path
    """Folder with the data."""
    model: Model = "csnn4"
    """`csnn2`, 4, 6 or 8: so many convolutions in blocks of two with max-pooling (`snnjax.models.csnn2d`); or dense layers."""
    duration: float = 1.0
    """Of a trial, s: a window of a gesture."""
    downsample: int = 4
    """Join squares of so many pixels to one: a power of two."""
    crop: Crop = "random"
    """Windows of training gestures: anywhere within them, new ones each epoch, or their beginning. Validation and test see the beginning."""
    padding: int = 2
    """Zeros at either end of both axes for each convolution."""
    augment_drop: float = 0.5
    """Augmentation: leave out each training event with this probability. Validation, test and the initialization see all."""
    stream: bool = True
    """Read the training set from the disk in each epoch (needs the extra `stream`). False: hold its windows on the device; without random windows."""
    shard_size: int = 128
    """Gestures read at a time, at most; a multiple of the batch size. What does not fill the last shard is left out, other gestures each epoch."""
    valid_users: tuple[int, ...] = (20, 21, 22, 23)
    """Whose gestures are held out for validation."""

    calibration_samples: int = 16
    """Training samples that an initialization from data looks at; more need more memory."""
    batch_size: int = 16
    """Gestures a step; at most the training set."""
    upper_strength: float = 0.01
    """Upper bound on a layer's mean activity: strength (0: none)."""
    upper_pool: Pool = "feature_map"
    """Upper bound: on the mean activity of a whole layer, of each feature map, or of each neuron."""
    lower_strength: float = 0.0
    """Lower bound on each neuron's activity: strength (0: none)."""

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
            raise ValueError("valid_users must name at least one user, got none")
        if self.stream:
            if self.shard_size % self.batch_size:
                raise ValueError(f"shard_size must be a multiple of batch_size {self.batch_size}, got {self.shard_size}")
            for name in (f.name for f in dataclasses.fields(self) if f.name.startswith("augment_")):
                if name != "augment_drop" and getattr(self, name):
                    raise ValueError(
                        f"{name} needs the training set on the device: stream = False (--no-stream), got {getattr(self, name)}"
                    )

    @property
    def sensor(self) -> tuple[int, int, int]:
        """Height, width and polarities of what the network sees."""
        side = 128 // self.downsample
        return side, side, 2

    def datasets(self) -> Splits:
        """Train, validation and test set."""
        whole, test = (DVSGesture(self.data, split, downsample=self.downsample) for split in ("train", "test"))
        held = np.isin(whole.users, self.valid_users)
        if not held.any() or held.all():
            raise ValueError(f"valid_users must leave some and hold out some of the users {np.unique(whole.users)}, got {self.valid_users}")
        train, valid = whole.subset(~held), whole.subset(held)
        fixed: dict[str, Any] = {"duration": self.duration}
        shown = self._stream(train) if self.stream else train.load(**fixed)
        return Splits(shown, valid.load(**fixed), test.load(**fixed))

    def _stream(self, train: DVSGesture) -> Stream:
        try:
            import grain  # noqa: F401  # before a run folder is made
        except ImportError:
            raise ImportError("a stream needs grain: pip install 'snnjax[stream]', or hold the data on the device (--no-stream)") from None
        # as many shards as it takes, all of one size and of whole batches: few recordings are left over
        size = len(train) // math.ceil(len(train) / self.shard_size)
        size -= size % min(self.batch_size, size)
        return Stream(train, duration=self.duration, dt=self.dt, shard_size=size, seed=self.seed, crop=self.crop, drop=self.augment_drop)
