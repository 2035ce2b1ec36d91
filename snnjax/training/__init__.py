"""Training: an objective, a trainer of steps and epochs, `fit`, ensembles, and the run folder."""

from snnjax.training._callbacks import (
    Callback,
    EarlyStopping,
    FitState,
    TensorBoard,
    WeightsAndBiases,
)
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import Program, fit_ensemble
from snnjax.training._fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training._memory import step_memory
from snnjax.training._objective import Objective
from snnjax.training._trainer import Trainer

__all__ = [
    "fit",
    "FitResult",
    "Trainer",
    "Objective",
    "Callback",
    "FitState",
    "EarlyStopping",
    "Checkpoints",
    "TensorBoard",
    "WeightsAndBiases",
    "fit_ensemble",
    "Program",
    "step_memory",
    "TrainingDivergedError",
    "TrainingInterrupted",
]
