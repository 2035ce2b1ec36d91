"""The tasks of experiments: what is to be learned, and from which data.

A task loads its data as a training, a validation and a test set. The folder of the data is
`data`, or that of the environment variable SNNJAX_DATA, or a subfolder with a usual name.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from snnjax import _check
from snnjax._files import SHD_FOLDERS, folder_with
from snnjax.experiments._options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Part,
    Positive,
    Probability,
    Range,
    Seconds,
)

if TYPE_CHECKING:
    from snnjax.datasets import EventDataset, Splits, Stream
    from snnjax.experiments._experiment import Experiment

VARIABLE = "SNNJAX_DATA"
Crop = Literal["random", "start"]


class MissingDataError(FileNotFoundError):
    """The data of a task are not available."""


class Task(Part):
    """Options that all tasks share.

    Attributes:
        plane: Whether inputs are on a plane (images, cameras), or else on a line.
        defaults: Options of the experiment whose default is another one for this task.
        holds: Patterns of the files in the folder of the data. Empty: no data are read.
        folders: Usual names of the folder.
    """

    plane: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}
    holds: ClassVar[tuple[str, ...]] = ()
    folders: ClassVar[tuple[str, ...]] = ()

    duration: Seconds = 0.7
    """Length of a trial, s."""
    data_seed: Natural = 0
    """Seed of the data and their split."""

    @property
    def sensor(self) -> tuple[int, int, int] | None:
        """Height, width and channels of events on a plane. None: events on a line, or images."""
        return None

    @property
    def streamed(self) -> bool:
        """Whether training data are read from the disk in each epoch."""
        return False

    @property
    def conv_padding(self) -> int | Literal["same"]:
        """Padding of two-dimensional convolutions."""
        return "same"

    def idle(self) -> dict[str, str]:
        """Return the names of options of the task without an effect, and the reason."""
        return {}

    def datasets(self, experiment: Experiment) -> Splits:
        """Return the training, validation and test set.

        Args:
            experiment: The experiment. Streamed data need its time step, batch size and seed.

        Raises:
            MissingDataError: The data are not there. The message says where they were expected.
        """
        raise NotImplementedError


def find(task: type[Task], data: Path | None) -> Path:
    """Return the folder with the data of a task.

    Args:
        task: The class of the task.
        data: The folder of the user, which holds the data itself or in a subfolder with a usual
            name. None: that of the environment variable.

    Raises:
        MissingDataError: There is no such folder. The message says where it was expected.
    """
    named = os.environ.get(VARIABLE)
    root = data if data is not None else Path(named) if named else None
    holds = " or ".join(task.holds)
    if root is None:
        raise MissingDataError(
            f"task {task.name} needs data ({holds}); name their folder by data (--data FOLDER) or "
            f"the environment variable {VARIABLE}"
        )
    if (folder := folder_with(task.holds, root, task.folders)) is not None:
        return folder
    load = (
        "; to load them from the Internet, add download (--download)"
        if any(f.name == "download" for f in dataclasses.fields(task))
        else ""
    )
    raise MissingDataError(
        f"task {task.name} needs {holds} in the folder data (--data), but neither {root} nor its "
        f"subfolders {', '.join(task.folders)} contain it{load}"
    )


class EventTask(Task):
    """Options of tasks whose inputs are events."""

    trial_end: Literal["fixed", "last_event"] = "fixed"
    """End of a trial: after its duration, or with its last event. Later steps count neither in the
    loss nor in bounds on activity and rates."""
    augment_stretch: Probability = 0.0
    """Stretch or compress each training sample in time by up to this fraction."""
    augment_drop: Probability = 0.0
    """Remove each training event with this probability."""
    augment_time_jitter: Annotated[float, Range(at_least=0, unit="s")] = 0.0
    """Move each training event in time by a normal random number with this standard deviation,
    s."""
    augment_insert: Annotated[float, Range(at_least=0, at_most=100)] = 0.0
    """Insert events at random places into each training sample, on average this fraction of its
    events."""
    augment_blend: Probability = 0.0
    """Blend a training sample with another one of its class with this probability."""
    augment_cutmix: Probability = 0.0
    """Replace a part of a training sample by that of another one with this probability; the target
    is then a mixture of two classes."""
    augment_cutmix_axis: Literal["time", "units"] = "time"
    """Axis of the part that is replaced."""

    def idle(self) -> dict[str, str]:
        unused = {} if self.augment_cutmix else {"augment_cutmix_axis": "augment_cutmix is 0"}
        return super().idle() | unused

    def mixture(self) -> dict[str, Any]:
        """Return the options of `snnjax.datasets.Mixed`, or nothing if no samples are mixed."""
        shares = {"blend": self.augment_blend, "cutmix": self.augment_cutmix}
        return shares | {"axis": self.augment_cutmix_axis} if any(shares.values()) else {}

    def augmentation(self, dt: float) -> dict[str, Any]:
        """Return the options of `snnjax.datasets.Augmented`.

        Args:
            dt: Time step, s.
        """
        return {
            "time_stretch": self.augment_stretch,
            "drop": self.augment_drop,
            "time_jitter": self.augment_time_jitter / dt,
            "insert": self.augment_insert,
        }


class LineTask(EventTask):
    """Options of tasks whose inputs are events on a line of units."""

    augment_shift: Natural = 0
    """Shift each training sample by up to this number of input units."""
    augment_unit_jitter: NonNegative = 0.0
    """Move each training event by a normal random number of input units with this standard
    deviation."""

    def augmentation(self, dt: float) -> dict[str, Any]:
        own = {"unit_shift": self.augment_shift, "unit_jitter": self.augment_unit_jitter}
        return super().augmentation(dt) | own


class Randman(LineTask):
    """Classification of random manifolds: only spike times depend on the class.

    The first task of the paper. The defaults are the paper's: 20 inputs, 10 classes with 1000
    samples each, 200 ms, split 80/10/10.
    """

    name = "randman"

    classes: Annotated[int, Range(at_least=2)] = 10
    """Number of classes, each with its own manifold."""
    inputs: Count = 20
    """Input units."""
    samples: Annotated[int, Range(at_least=10)] = 1000
    """Samples per class."""
    dim: Count = 1
    """Dimension of the manifolds."""
    smoothness: Positive = 1.0
    """alpha of the manifolds. Smaller values make the task harder."""
    duration: Seconds = 0.2
    """Length of a trial, s. All spikes are in its first half."""

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import Splits, randman

        data = randman(
            num_classes=self.classes,
            num_units=self.inputs,
            samples_per_class=self.samples,
            dim=self.dim,
            smoothness=self.smoothness,
            duration=self.duration,
            active_duration=self.duration / 2,
            seed=self.data_seed,
        )
        return Splits(*data.split((0.8, 0.1, 0.1), seed=self.data_seed))


class HeldOut(Task):
    """Options of tasks with a part of the training data held out for validation."""

    fraction: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Fraction of the training data to use, equal for every class. Data for validation are a part
    of it."""
    valid_fraction: Fraction = 0.1
    """Fraction of these training data held out for validation, equal for every class."""

    def _split(self, data: Any, test: Any) -> Splits:
        from snnjax.datasets import Splits

        shares = (1 - self.valid_fraction, self.valid_fraction)
        train, valid = self._used(data).split(shares, seed=self.data_seed)
        return Splits(train, valid, test)

    def _used(self, data: Any) -> Any:
        """The fraction of the training data that is used."""
        if self.fraction == 1:
            return data
        return data.split((self.fraction,), seed=self.data_seed)[0]


class Spoken(LineTask):
    """Options of tasks with spoken words from zenkelab.org, or with files in their layout."""

    data: Path | None = None
    """Folder with the files NAME_train.h5 and NAME_test.h5 (ssc: also NAME_valid.h5), or with a
    folder shd or shd_format (ssc: ssc) that has them. None: that of the environment variable
    SNNJAX_DATA."""
    download: bool = False
    """If the files are missing, load the published data into the folder first, with verified
    checksums."""
    downsample: Count = 1
    """Number of neighbouring units that become one input unit."""

    def _load(self, *splits: Literal["train", "valid", "test"]) -> list[EventDataset]:
        """Return the data set of each split."""
        from snnjax.datasets import load_shd

        folder = self._folder(*splits)
        data = [load_shd(folder, split, duration=self.duration) for split in splits]
        return [d.join_units(self.downsample) for d in data]

    def _folder(self, *splits: str) -> Path:
        """Return the folder with the files, after a download if it is asked for."""
        from snnjax.datasets import download_shd

        collection: Any = self.name
        files = [f"{collection}_{split}.h5" for split in splits]
        there = self.data is not None and all((self.data / file).exists() for file in files)
        if self.download and self.data is not None and not there:
            download_shd(self.data, collection=collection)
        return find(type(self), self.data)


class SHD(Spoken, HeldOut):
    """Classification of spoken words as spikes: the Spiking Heidelberg Digits, or files like them.

    The folder has the files NAME_train.h5 and NAME_test.h5.
    """

    name = "shd"
    defaults: ClassVar[Mapping[str, Any]] = {"batch_size": 64}
    holds, folders = ("*_train.h5",), SHD_FOLDERS

    valid_speakers: tuple[int, ...] = ()
    """Hold out all recordings of these speakers instead of a fraction."""

    def idle(self) -> dict[str, str]:
        named = bool(self.valid_speakers)
        held = {"valid_fraction": "valid_speakers are held out"} if named else {}
        return super().idle() | held

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import Splits

        data, test = self._load("train", "test")
        if not self.valid_speakers:
            return self._split(data, test)
        data = self._used(data)
        known = [] if data.groups is None else np.unique(data.groups).tolist()
        if not {*self.valid_speakers} < {*known}:
            among = f"among the speakers {known}, and not all of them"
            needed = among if known else "left out for data that do not name speakers"
            raise ValueError(f"valid_speakers must be {needed}, got {list(self.valid_speakers)}")
        train, valid = data.split_groups(self.valid_speakers)
        return Splits(train, valid, test)


class SSC(Spoken):
    """Classification of 35 spoken commands as spikes: the Spiking Speech Commands.

    The folder has the files NAME_train.h5, NAME_valid.h5 and NAME_test.h5.
    """

    name = "ssc"
    defaults: ClassVar[Mapping[str, Any]] = {"batch_size": 128, "epochs": 30}
    holds, folders = ("*_valid.h5",), ("ssc",)

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import Splits

        train, valid, test = self._load("train", "valid", "test")
        return Splits(train, valid, test)


CAMERA: Mapping[str, Any] = {
    "model": "csnn",
    "depth": 4,
    "upper_strength": 0.01,
    "upper_pool": "feature_map",
    "lower_strength": 0.0,
}
"""Defaults of the tasks with event cameras."""


class NMNIST(EventTask, HeldOut):
    """Classification of handwritten digits, recorded with a moving event camera.

    The folder has the official archives Train.zip and Test.zip, or the unpacked folders Train and
    Test (`snnjax.datasets.load_nmnist`).
    """

    name = "nmnist"
    plane = True
    defaults: ClassVar[Mapping[str, Any]] = {
        **CAMERA,
        "dt": 5e-3,
        "calibration_samples": 50,
        "epochs": 20,
        "batch_size": 64,
    }
    holds, folders = ("Train.zip", "Train"), ("nmnist",)

    data: Path | None = None
    """Folder with Train.zip and Test.zip, or Train and Test, or with a folder nmnist that has them.
    None: that of the environment variable SNNJAX_DATA."""
    duration: Seconds = 0.3
    """Length of a trial, s. Later events, about 0.2 %, are dropped."""
    downsample: Annotated[int, Range(at_least=1, at_most=34)] = 1
    """Side of the squares of pixels that become one pixel: 2 gives 17 x 17 pixels."""
    padding: Natural = 1
    """Zeros at both ends of both axes for each convolution; 1 preserves the size. More is not
    needed, because digits have a margin."""

    @property
    def conv_padding(self) -> int:
        return self.padding

    @property
    def sensor(self) -> tuple[int, int, int]:
        from snnjax.datasets._nmnist import sensor_shape

        return sensor_shape(self.downsample)

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import load_nmnist

        folder = find(type(self), self.data)
        options: dict[str, Any] = {"downsample": self.downsample, "duration": self.duration}
        return self._split(*(load_nmnist(folder, split, **options) for split in ("train", "test")))


class ImageTask(HeldOut):
    """Options of tasks on images, which sensory neurons turn into spikes."""

    plane = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "csnn",
        "depth": 2,
        "calibration_samples": 50,
        "batch_size": 50,
    }

    duration: Seconds = 0.2
    """Presentation time of an image, s. The first spikes occur after about 25 ms, and every layer
    adds about 10 ms."""
    downsample: Count = 1
    """Side of the squares of pixels that are averaged to one pixel."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""
    shift: Natural = 0
    """Move each training image by up to this number of pixels."""


class Digits(ImageTask):
    """Classification of scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.

    Nothing is downloaded. Needs the extra `digits`.
    """

    name = "digits"

    test_fraction: Fraction = 0.2
    """Fraction of all images in the test set, equal for every class."""

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets._images import digits

        shares = (1 - self.test_fraction, self.test_fraction)
        return self._split(*digits().downsample(self.downsample).split(shares, seed=self.data_seed))


class CIFAR10(ImageTask):
    """Classification of CIFAR-10, prepared by tensorflow-datasets."""

    name = "cifar10"
    holds, folders = ("cifar10",), ("tfds",)

    data: Path | None = None
    """Folder that contains `cifar10`, or a folder tfds that does. None: that of the environment
    variable SNNJAX_DATA, or the default folder of tensorflow-datasets."""
    download: bool = False
    """Load and prepare the data first if they are missing."""

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import load_cifar10

        given = self.data is not None or os.environ.get(VARIABLE)
        folder = find(type(self), self.data) if given and not self.download else self.data
        load = lambda split: load_cifar10(split, data_dir=folder, download=self.download)
        data, test = (load(split).downsample(self.downsample) for split in ("train", "test"))
        return self._split(data, test)


class DVSGesture(EventTask):
    """Classification of gestures, recorded with an event camera.

    The folder has ibmGestureTrain and ibmGestureTest, or the original recordings
    (`snnjax.datasets.load_dvs_gesture`).
    """

    name = "dvs-gesture"
    plane = True
    defaults: ClassVar[Mapping[str, Any]] = {**CAMERA, "calibration_samples": 16, "batch_size": 16}
    holds, folders = ("ibmGestureTrain", "trials_to_train.txt"), ("dvs_gesture",)

    data: Path | None = None
    """Folder with ibmGestureTrain and ibmGestureTest, or with the original recordings and
    trials_to_train.txt, or with a folder dvs_gesture that has them. None: that of the environment
    variable SNNJAX_DATA."""
    duration: Seconds = 1.0
    """Length of a trial, s: a window of a gesture."""
    downsample: Count = 4
    """Side of the squares of pixels that become one pixel: a power of two."""
    crop: Crop = "random"
    """Windows of training gestures: at a random position, new in each epoch, or at the start.
    Validation and test use the start."""
    padding: Natural = 2
    """Zeros at both ends of both axes for each convolution."""
    augment_drop: Probability = 0.5
    """Remove each training event with this probability. Validation, test and the initialization use
    all events."""
    stream: bool = True
    """Read the training set from the disk in each epoch (needs the extra `stream`). False: store
    its windows on the device, without random windows."""
    shard_size: Count = 128
    """Largest number of gestures per shard; a multiple of the batch size. Gestures that do not fill
    the last shard are left out, different ones in each epoch."""
    valid_users: tuple[int, ...] = (20, 21, 22, 23)
    """Subjects whose gestures are held out for validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.one_of("downsample", self.downsample, tuple(2**k for k in range(8)))
        if not self.valid_users:
            raise ValueError("valid_users must have at least one user, got none")
        for name in (
            "augment_stretch",
            "augment_time_jitter",
            "augment_insert",
            "augment_blend",
            "augment_cutmix",
        ):
            if self.stream and getattr(self, name):
                raise ValueError(
                    f"{name} must be 0 for streamed data, got {getattr(self, name)}; to use it, "
                    "store the data on the device: stream = False (--no-stream)"
                )
        if self.stream and self.trial_end != "fixed":
            needed = "trial_end must be 'fixed' for streamed data"
            raise ValueError(f"{needed}, got {self.trial_end!r}; or stream = False (--no-stream)")

    def idle(self) -> dict[str, str]:
        unused = () if self.stream else ("crop", "shard_size")
        return super().idle() | dict.fromkeys(unused, "stream is False")

    @property
    def streamed(self) -> bool:
        return self.stream

    @property
    def conv_padding(self) -> int:
        return self.padding

    @property
    def sensor(self) -> tuple[int, int, int]:
        side = 128 // self.downsample
        return side, side, 2

    def datasets(self, experiment: Experiment) -> Splits:
        from snnjax.datasets import Splits
        from snnjax.datasets._dvs_gesture import DVSGesture as Recorded

        folder = find(type(self), self.data)
        whole, test = (
            Recorded(folder, split, downsample=self.downsample) for split in ("train", "test")
        )
        held = np.isin(whole.users, self.valid_users)
        if not held.any() or held.all():
            raise ValueError(
                f"valid_users must be some but not all of the users {np.unique(whole.users)}, "
                f"got {self.valid_users}"
            )
        train, valid = whole.subset(~held), whole.subset(held)
        fixed: dict[str, Any] = {"duration": self.duration}
        shown = self._stream(train, experiment) if self.stream else train.load(**fixed)
        return Splits(shown, valid.load(**fixed), test.load(**fixed))

    def _stream(self, train: Any, experiment: Experiment) -> Stream:
        from snnjax.datasets import Stream

        try:
            import grain  # noqa: F401  # fail before a run folder is created
        except ImportError:
            raise ImportError(
                "a stream needs the package grain: pip install 'snnjax[stream]', or store the "
                "data on the device (--no-stream)"
            ) from None
        # all shards have one size, a multiple of the batch size, to leave out few recordings
        size = len(train) // math.ceil(len(train) / self.shard_size)
        size -= size % min(experiment.training.batch_size, size)
        return Stream(
            train,
            duration=self.duration,
            dt=experiment.neuron.dt,
            shard_size=size,
            seed=experiment.seed,
            crop=self.crop,
            drop=self.augment_drop,
        )


TASKS = (Randman, SHD, SSC, Digits, CIFAR10, DVSGesture, NMNIST)
