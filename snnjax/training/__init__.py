"""Training: an objective, a trainer of steps and epochs, `fit`, ensembles, and the run folder."""

from snnjax.training.callbacks import (
    Callback,
    EarlyStopping,
    FitState,
    Plan,
    TensorBoard,
    WeightsAndBiases,
)
from snnjax.training.checkpoint import Checkpoints
from snnjax.training.ensemble import EnsembleResult, Program, Snapshot, fit_ensemble
from snnjax.training.fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training.memory import StepMemory, step_memory
from snnjax.training.objective import Metrics, Objective
from snnjax.training.step import TrainState
from snnjax.training.trainer import Trainer

__all__ = [
    "Callback",
    "Checkpoints",
    "EarlyStopping",
    "EnsembleResult",
    "FitResult",
    "FitState",
    "Metrics",
    "Objective",
    "Plan",
    "Program",
    "Snapshot",
    "StepMemory",
    "TensorBoard",
    "TrainState",
    "Trainer",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "WeightsAndBiases",
    "fit",
    "fit_ensemble",
    "step_memory",
]
