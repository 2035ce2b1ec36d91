"""Experiments: configurations of training runs, and functions that run them."""

from snnjax.experiments._run import Prepared, Run, prepare, run
from snnjax.experiments.build import build_network, build_objective, build_optimizer
from snnjax.experiments.config import TrainConfig
from snnjax.experiments.dvs_gesture import DVSGestureConfig
from snnjax.experiments.image_tasks import CIFAR10Config, DigitsConfig
from snnjax.experiments.load import load_config, load_run
from snnjax.experiments.nmnist import NMNISTConfig
from snnjax.experiments.randman import RandmanConfig
from snnjax.experiments.shd import SHDConfig
from snnjax.experiments.tasks import TASKS, task_name

__all__ = [
    "TASKS",
    "CIFAR10Config",
    "DVSGestureConfig",
    "DigitsConfig",
    "NMNISTConfig",
    "Prepared",
    "RandmanConfig",
    "Run",
    "SHDConfig",
    "TrainConfig",
    "build_network",
    "build_objective",
    "build_optimizer",
    "load_config",
    "load_run",
    "prepare",
    "run",
    "task_name",
]
