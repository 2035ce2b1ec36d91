"""Experiments: configurations of training runs, and functions that run them."""

from snnjax.experiments._run import Run, run
from snnjax.experiments.dvs_gesture import DVSGestureConfig
from snnjax.experiments.image_tasks import CIFAR10Config, DigitsConfig
from snnjax.experiments.load import load_run
from snnjax.experiments.nmnist import NMNISTConfig
from snnjax.experiments.randman import RandmanConfig
from snnjax.experiments.shd import SHDConfig
from snnjax.experiments.sweep import grid, run_sweep

__all__ = [
    "run",
    "Run",
    "load_run",
    "run_sweep",
    "grid",
    "RandmanConfig",
    "SHDConfig",
    "NMNISTConfig",
    "CIFAR10Config",
    "DVSGestureConfig",
    "DigitsConfig",
]
