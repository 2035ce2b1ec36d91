"""Training: steps and epochs as pure functions, `fit`, and the run folder."""

from snnjax.training.fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training.step import Metrics, Objective, TrainState, evaluate, init_state, train_epoch, train_step

__all__ = [
    "FitResult",
    "Metrics",
    "Objective",
    "TrainState",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "evaluate",
    "fit",
    "init_state",
    "train_epoch",
    "train_step",
]
