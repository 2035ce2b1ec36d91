"""Data sets: the container of events, readers of files, and batches on the device."""

from snnjax.datasets._augment import Augmented
from snnjax.datasets._batches import Batches
from snnjax.datasets._crop import random_crop
from snnjax.datasets._device import BatchSource, DeviceArrays, DeviceEvents
from snnjax.datasets._dvs_gesture import load_dvs_gesture
from snnjax.datasets._events import EventDataset
from snnjax.datasets._images import DeviceImages, ImageDataset, digits, load_cifar10
from snnjax.datasets._nmnist import load_nmnist
from snnjax.datasets._poisson import poisson, poisson_raster
from snnjax.datasets._randman import randman
from snnjax.datasets._shd import load_shd
from snnjax.datasets._shd_tfds import download_shd, load_shd_tfds
from snnjax.datasets._splits import Splits
from snnjax.datasets._stream import Recordings, Stream

__all__ = [
    "Augmented",
    "BatchSource",
    "Batches",
    "DeviceArrays",
    "DeviceEvents",
    "DeviceImages",
    "EventDataset",
    "ImageDataset",
    "Recordings",
    "Splits",
    "Stream",
    "digits",
    "download_shd",
    "load_cifar10",
    "load_dvs_gesture",
    "load_nmnist",
    "load_shd",
    "load_shd_tfds",
    "poisson",
    "poisson_raster",
    "randman",
    "random_crop",
]
