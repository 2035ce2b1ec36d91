"""Training: steps and epochs as pure functions, `fit`, and the run folder."""

from snnjax.training.ensemble import EnsembleResult, Program, Snapshot, Sources, fit_ensemble
from snnjax.training.fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training.memory import StepMemory, step_memory
from snnjax.training.step import Metrics, Objective, TrainState, evaluate, init_state, train_epoch, train_step

__all__ = [
    "EnsembleResult",
    "FitResult",
    "Metrics",
    "Objective",
    "Program",
    "Snapshot",
    "Sources",
    "StepMemory",
    "TrainState",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "evaluate",
    "fit",
    "fit_ensemble",
    "init_state",
    "step_memory",
    "train_epoch",
    "train_step",
]
