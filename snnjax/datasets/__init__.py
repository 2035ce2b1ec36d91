"""Data sets: the container of events, readers of files, and batches on the device."""

from snnjax.datasets._aedat import read_aedat
from snnjax.datasets._augment import Augmented
from snnjax.datasets._batches import Batches
from snnjax.datasets._device import BatchSource, DeviceArrays, DeviceEvents
from snnjax.datasets._dvs_gesture import load_dvs_gesture
from snnjax.datasets._events import EventDataset
from snnjax.datasets._images import DeviceImages, ImageDataset, load_cifar10
from snnjax.datasets._labelled import Splits
from snnjax.datasets._mix import Mixed
from snnjax.datasets._nmnist import load_nmnist
from snnjax.datasets._poisson import poisson, poisson_raster
from snnjax.datasets._randman import randman
from snnjax.datasets._shd import load_shd
from snnjax.datasets._shd_tfds import download_shd, load_shd_tfds, prepare_shd
from snnjax.datasets._stream import Recordings, Stream

__all__ = [
    "EventDataset",
    "ImageDataset",
    "Splits",
    "DeviceEvents",
    "DeviceArrays",
    "DeviceImages",
    "load_shd",
    "load_shd_tfds",
    "download_shd",
    "prepare_shd",
    "load_nmnist",
    "load_dvs_gesture",
    "read_aedat",
    "load_cifar10",
    "randman",
    "poisson",
    "poisson_raster",
    "Stream",
    "Recordings",
    "Batches",
    "BatchSource",
    "Augmented",
    "Mixed",
]
