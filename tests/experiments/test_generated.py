"""Generated data have the shapes of the task's, and classes that differ in where they spike."""

import numpy as np
import pytest

from snnjax.experiments import Experiment, generated


@pytest.mark.parametrize(
    ("task", "units", "num_classes"),
    [
        ("shd", 700, 20),
        ("ssc", 350, 35),
        ("nmnist", 2 * 17 * 17, 10),
        ("dvs-gesture", 2 * 32 * 32, 11),
    ],
)
def test_generated_spikes_have_the_shape_of_the_task_and_a_class_its_own_units(
    task, units, num_classes
):
    options = {"downsample": 2} if task in ("nmnist", "ssc") else {}
    experiment = Experiment.from_options(task, duration=0.2, **options)
    sets = generated(experiment, sizes=(2 * num_classes, 3, 4))
    assert [len(part) for part in sets] == [2 * num_classes, 3, 4]
    for part in sets:
        assert (part.num_units, part.num_classes, part.duration) == (units, num_classes, 0.2)
    train = sets.train
    spikes = np.repeat(train.labels, np.diff(train.offsets))
    for label in range(num_classes):
        own = train.units[spikes == label] * num_classes // units == label
        # ten times as many spikes in 1 of num_classes equal parts: 10 / (9 + num_classes)
        assert own.mean() == pytest.approx(10 / (9 + num_classes), rel=0.15)
    again = generated(experiment, sizes=(2 * num_classes, 3, 4)).train
    np.testing.assert_array_equal(again.times, train.times)


def test_generated_images_and_tasks_that_need_no_files():
    images = generated(Experiment.from_options("cifar10", downsample=2), sizes=(20, 2, 2)).train
    assert images.images.shape == (20, 16, 16, 3)
    assert images.num_classes == 10
    randman = Experiment.from_options("randman", classes=3, samples=20)
    np.testing.assert_array_equal(generated(randman).train.times, randman.datasets().train.times)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sizes": (0, 1, 1)}, "sizes must be >= 1, got 0"),
        ({"num_classes": 0}, "num_classes must be >= 1, got 0"),
    ],
)
def test_wrong_numbers(options, match):
    with pytest.raises(ValueError, match=match):
        generated(Experiment.from_options("shd"), **options)
