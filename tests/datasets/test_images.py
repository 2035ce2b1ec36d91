import shutil

import jax
import numpy as np
import pytest
from _support import batch, data_path

from snnjax.datasets import (
    Augmented,
    DeviceImages,
    EventDataset,
    ImageDataset,
    load_cifar10,
)
from snnjax.datasets._images import digits


@pytest.fixture
def data(rng):
    return ImageDataset(
        images=rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        labels=np.arange(40) % 4,
        num_classes=4,
    )


def test_split_is_that_of_events(data):
    events = EventDataset.from_lists([[]] * 40, [[]] * 40, data.labels, num_units=1, duration=1.0)
    for ours, theirs in zip(
        data.split((0.7, 0.3), seed=3), events.split((0.7, 0.3), seed=3), strict=True
    ):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    train, valid = data.split((0.7, 0.3), seed=3)
    together = np.concatenate([train.images, valid.images]).reshape(40, -1)
    np.testing.assert_array_equal(
        np.sort(together, axis=0), np.sort(data.images.reshape(40, -1), axis=0)
    )
    assert np.bincount(valid.labels).tolist() == [3, 3, 3, 3]


def test_downsample_is_the_mean_of_squares(data):
    small = data.downsample(2)
    assert small.images.shape == (40, 3, 2, 3)
    expected = np.array(
        [
            [
                data.images[7, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(0, 1))
                for j in range(2)
            ]
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(small.images[7], expected, rtol=1e-6)


def test_batches_are_standardized_and_stay(data):
    train, valid = data.split((0.5, 0.5), seed=0)
    shown = DeviceImages.from_dataset(train, num_steps=7)
    x, labels = map(np.asarray, batch(shown, np.arange(20)))
    assert x.shape == (7, 20, 6, 5, 3)
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_array_equal(labels, train.labels)
    held, _ = batch(DeviceImages.from_dataset(valid, num_steps=7, like=shown), np.array([3]))
    scaled = (valid.images[3] - train.images.mean(axis=(0, 1, 2))) / train.images.std(
        axis=(0, 1, 2)
    )
    np.testing.assert_allclose(np.asarray(held)[6, 0], scaled, atol=1e-5)


def test_augmentation_flips_and_shifts_and_needs_a_key(data):
    shown = DeviceImages.from_dataset(data, num_steps=2, flip=True, shift=2)
    never = DeviceImages.from_dataset(data, num_steps=2)
    plain, same, x = (
        np.asarray(batch(source, np.arange(40), key)[0])
        for source, key in ((shown, None), (never, None), (shown, jax.random.key(0)))
    )
    np.testing.assert_array_equal(plain, same)
    np.testing.assert_array_equal(x[0], x[1])
    flips, shifts = 0, set()
    for s in range(40):
        found = []
        for flip in (False, True):
            image = plain[0, s][:, ::-1] if flip else plain[0, s]
            padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
            found += [
                (flip, i, j)
                for i in range(5)
                for j in range(5)
                if np.array_equal(padded[i : i + 6, j : j + 5], x[0, s])
            ]
        assert found  # one of the 50 images that it may be
        flips += found[0][0]
        shifts.add(found[0][1:])
    assert 8 <= flips <= 32  # 40 fair coins: 20 +- 3.2
    assert len(shifts) > 10


def test_digits():
    data = digits()
    assert (len(data), data.images.shape[1:], data.images.max()) == (1797, (8, 8, 1), 16)
    assert np.bincount(data.labels).min() >= 174


def test_cifar10_of_a_prepared_folder():
    folder = data_path("tfds")
    test = load_cifar10("test", data_dir=folder)
    assert (test.images.shape, test.images.dtype, test.class_names[3]) == (
        (2000, 32, 32, 3),
        np.uint8,
        "cat",
    )
    assert np.bincount(test.labels).tolist() == [200] * 10
    # photographs: neighbouring pixels are similar, and the sky of ships is bluer than that of frogs
    images = test.images.astype(float)
    assert np.corrcoef(images[:, :, :-1].ravel(), images[:, :, 1:].ravel())[0, 1] > 0.9
    blue = lambda label: (
        images[test.labels == label][:, :8, :, 2] - images[test.labels == label][:, :8, :, 0]
    ).mean()
    assert blue(8) > blue(6) + 10


def test_cifar10_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 prepared by tensorflow-datasets"):
        load_cifar10("train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split must be one of 'train', 'test', got 'valid'"):
        load_cifar10("valid", data_dir=tmp_path)
    copy = tmp_path / "tfds"
    shutil.copytree(data_path("tfds"), copy)
    (record,) = copy.rglob("cifar10-test.array_record-*")
    record.chmod(0o644)
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged CIFAR-10 data"):
        load_cifar10("test", data_dir=copy)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"images": np.zeros((40, 6, 5))},
            ValueError,
            r"images must have shape \(samples, height, width, channels\), got \(40, 6, 5\)",
        ),
        ({"images": np.full((40, 6, 5, 1), np.nan)}, ValueError, "images must be finite, got nan"),
        ({"images": np.full((40, 6, 5, 1), "a")}, TypeError, "images must hold real numbers"),
        (
            {"labels": np.arange(39) % 4},
            ValueError,
            "labels must have one entry per image, got 39 for 40 images",
        ),
        ({"labels": np.arange(40)}, ValueError, "labels must be in"),
        (
            {"class_names": ("a",)},
            ValueError,
            "class_names must contain num_classes = 4 names, got 1",
        ),
    ],
)
def test_wrong_images(data, change, error, match):
    fields = {"images": data.images, "labels": data.labels, "num_classes": 4}
    with pytest.raises(error, match=match):
        ImageDataset(**(fields | change))


def test_values_that_no_32_bit_integer_holds_do_not_wrap(data):
    large = ImageDataset(
        images=data.images.astype(np.int64) * 2**33, labels=data.labels, num_classes=4
    )
    found, expected = (
        batch(DeviceImages.from_dataset(images, num_steps=1), np.arange(40))[0]
        for images in (large, data)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_wrong_use(data):
    with pytest.raises(TypeError, match="flip must be True or False, got 'no'"):
        DeviceImages.from_dataset(data, num_steps=3, flip="no")
    with pytest.raises(
        TypeError,
        match="source must be DeviceEvents, got DeviceImages; images have flip and shift",
    ):
        Augmented(source=DeviceImages.from_dataset(data, num_steps=3), drop=0.1)
    with pytest.raises(ValueError, match="factor must be"):
        data.downsample(6)
    with pytest.raises(ValueError, match="images must not be constant in a channel"):
        DeviceImages.from_dataset(
            ImageDataset(images=np.ones((2, 4, 4, 1)), labels=[0, 1], num_classes=2), num_steps=3
        )
    other = ImageDataset(images=np.zeros((2, 4, 4, 3)), labels=[0, 1], num_classes=2)
    with pytest.raises(
        ValueError, match=r"data must have images of shape \(6, 5, 3\), got \(4, 4, 3\)"
    ):
        DeviceImages.from_dataset(
            other, num_steps=3, like=DeviceImages.from_dataset(data, num_steps=3)
        )
    with pytest.raises(ValueError, match="data must hold at least one image"):
        DeviceImages.from_dataset(data.subset([]), num_steps=3)
