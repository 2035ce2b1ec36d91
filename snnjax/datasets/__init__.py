"""Data sets: the container of events, readers of files, and batches on the device."""

from snnjax.datasets.augment import Augmented
from snnjax.datasets.batches import Batches
from snnjax.datasets.crop import crop, drop_events, random_crop
from snnjax.datasets.device import BatchSource, DeviceArrays, DeviceEvents
from snnjax.datasets.dvs_gesture import DVSGesture, load_dvs_gesture
from snnjax.datasets.events import EventDataset
from snnjax.datasets.images import DeviceImages, ImageDataset, digits, load_cifar10
from snnjax.datasets.nmnist import load_nmnist
from snnjax.datasets.poisson import poisson, poisson_raster
from snnjax.datasets.randman import randman
from snnjax.datasets.shd import load_shd, read_shd
from snnjax.datasets.shd_tfds import download_shd, load_shd_tfds, prepare_shd, shd_builder
from snnjax.datasets.sparse_events import SparseEvents
from snnjax.datasets.splits import Splits
from snnjax.datasets.stream import Recordings, Stream

__all__ = [
    "Augmented",
    "BatchSource",
    "Batches",
    "DVSGesture",
    "DeviceArrays",
    "DeviceEvents",
    "DeviceImages",
    "EventDataset",
    "ImageDataset",
    "Recordings",
    "SparseEvents",
    "Splits",
    "Stream",
    "crop",
    "digits",
    "download_shd",
    "drop_events",
    "load_cifar10",
    "load_dvs_gesture",
    "load_nmnist",
    "load_shd",
    "load_shd_tfds",
    "poisson",
    "poisson_raster",
    "prepare_shd",
    "randman",
    "random_crop",
    "read_shd",
    "shd_builder",
]
