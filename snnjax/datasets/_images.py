r"""Labelled still images: a container, a source on the device, and two data sets.

The network receives each image for a whole trial, as pixel values with mean 0 and variance 1 over
the training set for each channel, equal at every time step:

    x[t] = (image - mean[c]) / std[c],      t = 0 .. steps - 1

`snnjax.nn.Sensory` turns these values into spikes. The device stores an image once, in its own
dtype (usually one byte per value).

CIFAR-10: Krizhevsky (2009), through tensorflow-datasets, without tensorflow. Digits: the images of
scikit-learn, 8 x 8 pixels, which need no download.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._files import PathLike
from snnjax._pytree import pytree_dataclass, static
from snnjax.datasets import _arrays
from snnjax.datasets._device import ArrayBatch
from snnjax.datasets._labelled import LabelledDataset, Split, check_split


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageDataset(LabelledDataset):
    """S labelled images, stored with numpy on the host like `EventDataset`.

    Attributes:
        images: Images (S, height, width, channels), channels last, any real dtype, finite.
        labels: Classes, int32 (S,), in [0, num_classes).
        num_classes: Number of classes.
        class_names: `num_classes` names, or None.

    Raises:
        ValueError: A field is invalid. The message names it.
        TypeError: A field has the wrong type. The message names it.

    >>> images = np.zeros((6, 8, 8, 1), np.uint8)
    >>> data = ImageDataset(images=images, labels=[0, 1, 2, 0, 1, 2], num_classes=3)
    >>> data, [len(part) for part in data.split([0.5, 0.5], seed=0)]
    (ImageDataset(6 images, 8 x 8 x 1, 3 classes), [3, 3])
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        if images.dtype.kind not in "fiu":
            raise TypeError(f"images must hold real numbers, got dtype {images.dtype}")
        if images.ndim != 4 or 0 in images.shape[1:]:
            needed = "(samples, height, width, channels)"
            raise ValueError(f"images must have shape {needed}, got {images.shape}")
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise ValueError(f"images must be finite, got {images[~np.isfinite(images)][0]}")
        self._set_classes()
        _arrays.check_size("labels", len(self), len(images), "images", per="image")
        self._set(images=images)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[1:]))
        return f"ImageDataset({len(self)} images, {size}, {self.num_classes} classes)"

    def subset(self, indices: _arrays.Indices) -> ImageDataset:
        """Return the images `indices` in that order.

        Args:
            indices: Whole numbers, a boolean mask or a slice.
        """
        index = _arrays.as_indices(indices, len(self))
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def downsample(self, factor: int) -> ImageDataset:
        """Return means over squares of `factor` x `factor` pixels, float32.

        Pixels that remain at the end of an axis are dropped.

        Args:
            factor: Side of the squares, from 1 to the shorter side of the images.

        >>> image = np.arange(4.0).reshape(1, 2, 2, 1)
        >>> ImageDataset(images=image, labels=[0], num_classes=1).downsample(2).images.ravel()
        array([1.5], dtype=float32)
        """
        n = _check.integer("factor", factor, at_least=1, at_most=min(self.images.shape[1:3]))
        if n == 1:
            return self
        s, height, width, channels = self.images.shape
        cut = self.images[:, : height // n * n, : width // n * n]
        cut = cut.reshape(s, height // n, n, width // n, n, channels)
        return dataclasses.replace(self, images=cut.mean(axis=(2, 4), dtype=np.float32))


@pytree_dataclass
class DeviceImages:
    """Images on the device as trials of `steps` steps: a `BatchSource`, a pytree.

    `DeviceImages.from_dataset` creates it.

    Attributes:
        images: Images (samples, height, width, channels), any dtype.
        labels: Classes, int32 (samples,).
        mean: Mean of each channel (channels,).
        std: Standard deviation of each channel (channels,).
        steps: Number of time steps of a trial.
        flip: If a key is given, mirror each image left to right with probability 1/2.
        shift: If a key is given, move each image by up to `shift` pixels on both axes, with its
            edge repeated.

    >>> pixels = np.arange(12.0).reshape(3, 2, 2, 1)
    >>> data = ImageDataset(images=pixels, labels=[0, 1, 0], num_classes=2)
    >>> x, labels = DeviceImages.from_dataset(data, num_steps=50).batch(jnp.array([0, 2]))
    >>> x.shape, bool((x[0] == x[49]).all()), round(float(x[7, 0, 0, 0, 0]), 2)
    ((50, 2, 2, 2, 1), True, -1.59)
    """

    images: jax.Array
    labels: jax.Array
    mean: jax.Array
    std: jax.Array
    steps: int = static()
    flip: bool = static(default=False)
    shift: int = static(default=0)

    separable: ClassVar[bool] = True

    @classmethod
    def from_dataset(
        cls,
        data: ImageDataset,
        *,
        num_steps: int,
        like: DeviceImages | None = None,
        flip: bool = False,
        shift: int = 0,
    ) -> DeviceImages:
        """Copy a data set to the default device.

        Args:
            data: The images.
            num_steps: Number of time steps of a trial.
            like: Take mean and standard deviation from this source, which has the training set.
                None: compute them from `data`.
            flip: As the attribute.
            shift: As the attribute.

        Raises:
            ValueError: The data set is empty, a channel is constant, or the shape differs from
                `like`.
            TypeError: An argument has the wrong type.
        """
        if len(data) == 0:
            raise ValueError("data must hold at least one image, got an empty data set")
        _check.integer("num_steps", num_steps, at_least=1)
        _check.integer("shift", shift, at_least=0, at_most=min(data.images.shape[1:3]))
        if not isinstance(flip, bool):
            raise TypeError(f"flip must be True or False, got {flip!r}")
        if like is None:
            mean, std = _moments(data.images)
            if not (std > 0).all():
                raise ValueError(f"images must not be constant in a channel, got std {std}")
            mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
        else:
            size, expected = data.images.shape[1:], like.images.shape[1:]
            if size != expected:
                raise ValueError(f"data must have images of shape {expected}, got {size}")
            mean, std = like.mean, like.std
        # larger types become float32, because values beyond 32-bit integers would wrap around
        images = data.images if data.images.dtype.itemsize < 4 else data.images.astype(np.float32)
        arrays = {"images": jnp.asarray(images), "labels": jnp.asarray(data.labels)}
        return cls(**arrays, mean=mean, std=std, steps=num_steps, flip=flip, shift=shift)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def batch(self, indices: jax.Array, key: jax.Array | None = None) -> ArrayBatch:
        """Return a batch.

        Args:
            indices: Samples, integers (batch,).
            key: Random key for `flip` and `shift`. None: the images are not changed.

        Returns:
            Pixel values (steps, batch, height, width, channels), float32, and labels (batch,).
        """
        x = (self.images[indices].astype(jnp.float32) - self.mean) / self.std
        if key is not None:
            x = self._change(x, key)
        return jnp.broadcast_to(x, (self.steps, *x.shape)), self.labels[indices]

    def _change(self, x: jax.Array, key: jax.Array) -> jax.Array:
        flip_key, shift_key = jax.random.split(key)
        if self.flip:
            mirrored = jax.random.bernoulli(flip_key, jnp.float32(0.5), (len(x), 1, 1, 1))
            x = jnp.where(mirrored, x[:, :, ::-1], x)
        if self.shift:
            n = self.shift
            start = jax.random.randint(shift_key, (len(x), 2), 0, 2 * n + 1, dtype=jnp.int32)
            padded = jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)), mode="edge")
            cut = lambda image, at: jax.lax.dynamic_slice(image, (*at, jnp.int32(0)), x.shape[1:])
            x = jax.vmap(cut)(padded, start)
        return x


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, float64, computed in blocks."""
    parts = [images[k : k + 1000] for k in range(0, len(images), 1000)]
    count = images.size // images.shape[-1]
    mean = sum(part.sum(axis=(0, 1, 2), dtype=np.float64) for part in parts) / count
    square = sum(np.square(part - mean).sum(axis=(0, 1, 2)) for part in parts) / count
    return np.asarray(mean), np.sqrt(square)


def digits() -> ImageDataset:
    """Return the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels with values 0 to 16.

    Raises:
        ImportError: scikit-learn (the extra `digits`) is not installed.

    >>> digits()
    ImageDataset(1797 images, 8 x 8 x 1, 10 classes)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("digits needs scikit-learn: pip install 'snnjax[digits]'") from None
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.uint8)
    return ImageDataset(images=images, labels=labels, num_classes=10)


def load_cifar10(
    split: Split, *, data_dir: PathLike | None = None, download: bool = False
) -> ImageDataset:
    """Load CIFAR-10, prepared by tensorflow-datasets: 32 x 32 x 3 bytes per image.

    Args:
        split: `"train"` or `"test"`.
        data_dir: Folder that contains `cifar10`. None: the default folder of tensorflow-datasets.
        download: If the data are missing, download and prepare them in `data_dir` first.

    Raises:
        FileNotFoundError: The data are missing, and `download` is False.
        ValueError: The data are damaged or of another kind.
    """
    check_split(split)
    import tensorflow_datasets as tfds

    data_dir = None if data_dir is None else os.fspath(data_dir)
    where = data_dir or "the default folder of tensorflow-datasets"
    try:
        builder: Any = tfds.builder("cifar10", data_dir=data_dir, file_format="array_record")
        if download:
            builder.download_and_prepare()
        if split not in builder.info.splits:
            raise FileNotFoundError("nothing has been prepared there")
        source: Any = builder.as_data_source(split)
        features = builder.info.features
        names = tuple(features["label"].names)
        rows = [source[i] for i in range(len(source))]
    except (FileNotFoundError, tfds.core.DatasetNotFoundError, AssertionError) as error:
        missing = f"no CIFAR-10 prepared by tensorflow-datasets (array_record) in {where}"
        hint = f"{_first_line(error)}; download=True fetches it"
        raise FileNotFoundError(f"{missing}: {hint}") from None
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, SyntaxError) as error:
        got = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"{where}: damaged CIFAR-10 data ({got})") from error
    return ImageDataset(
        images=np.stack([row["image"] for row in rows]),
        labels=np.array([row["label"] for row in rows]),
        num_classes=10,
        class_names=names,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
