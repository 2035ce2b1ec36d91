"""The tasks, by their names on the command line."""

from __future__ import annotations

from snnjax.experiments.config import TrainConfig
from snnjax.experiments.dvs_gesture import DVSGestureConfig
from snnjax.experiments.image_tasks import CIFAR10Config, DigitsConfig
from snnjax.experiments.nmnist import NMNISTConfig
from snnjax.experiments.randman import RandmanConfig
from snnjax.experiments.shd import SHDConfig

TASKS: dict[str, type[TrainConfig]] = {
    "randman": RandmanConfig,
    "shd": SHDConfig,
    "digits": DigitsConfig,
    "cifar10": CIFAR10Config,
    "dvs-gesture": DVSGestureConfig,
    "nmnist": NMNISTConfig,
}
"""Configurations by their names on the command line."""


def task_name(config: TrainConfig) -> str:
    """Return the name of a configuration's task.

    >>> task_name(RandmanConfig())
    'randman'
    """
    return next(name for name, cls in TASKS.items() if type(config) is cls)
