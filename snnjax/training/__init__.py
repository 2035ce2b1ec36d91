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
from snnjax.training._eprop import EProp
from snnjax.training._fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training._memory import step_memory
from snnjax.training._objective import Metrics, Objective
from snnjax.training._step import TrainState
from snnjax.training._trainer import Trainer

__all__ = [
    "fit",
    "Objective",
    "Trainer",
    "EarlyStopping",
    "fit_ensemble",
    "FitResult",
    "TrainState",
    "Metrics",
    "Callback",
    "FitState",
    "Checkpoints",
    "TensorBoard",
    "WeightsAndBiases",
    "Program",
    "EProp",
    "step_memory",
    "TrainingDivergedError",
    "TrainingInterrupted",
]
