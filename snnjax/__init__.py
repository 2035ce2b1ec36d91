"""snnjax: deep spiking neural networks in JAX, initialized in the fluctuation-driven regime.

The core (`psp`, `theory`, `surrogate`, `dynamics`, `initializers`) needs only JAX; `nn` adds Flax
modules. Submodules, and the common names in `__all__`, are loaded on first use, so that
`import snnjax` stays fast.

>>> from snnjax import LIF, SpikingDense, calibrate
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SUBMODULES = (
    "calibration",
    "dale",
    "datasets",
    "diagnostics",
    "dynamics",
    "exchange",
    "experiments",
    "gradient_theory",
    "initializers",
    "losses",
    "models",
    "nn",
    "optimizers",
    "plotting",
    "psp",
    "regularizers",
    "reproduce",
    "runtime",
    "sparse",
    "surrogate",
    "theory",
    "training",
)

_MODULE_OF = {
    "calibrate": "calibration",
    "DeviceEvents": "datasets",
    "EventDataset": "datasets",
    "Splits": "datasets",
    "probe": "diagnostics",
    "LIF": "dynamics",
    "LeakyIntegrator": "dynamics",
    "simulate": "dynamics",
    "CrossEntropy": "losses",
    "FluctuationDriven": "nn",
    "Readout": "nn",
    "Sequential": "nn",
    "SpikingConv1d": "nn",
    "SpikingConv2d": "nn",
    "SpikingDense": "nn",
    "lower_bound": "regularizers",
    "upper_bound": "regularizers",
    "superspike": "surrogate",
    "Objective": "training",
    "Trainer": "training",
    "fit": "training",
    "fit_ensemble": "training",
}
"""The names that are used most, and the module that each of them is from."""

__all__ = [
    "LIF",
    "CrossEntropy",
    "DeviceEvents",
    "EventDataset",
    "FluctuationDriven",
    "LeakyIntegrator",
    "Objective",
    "Readout",
    "Sequential",
    "SpikingConv1d",
    "SpikingConv2d",
    "SpikingDense",
    "Splits",
    "Trainer",
    "calibrate",
    "fit",
    "fit_ensemble",
    "lower_bound",
    "probe",
    "simulate",
    "superspike",
    "upper_bound",
]

if TYPE_CHECKING:
    from snnjax import calibration as calibration
    from snnjax import dale as dale
    from snnjax import datasets as datasets
    from snnjax import diagnostics as diagnostics
    from snnjax import dynamics as dynamics
    from snnjax import exchange as exchange
    from snnjax import experiments as experiments
    from snnjax import gradient_theory as gradient_theory
    from snnjax import initializers as initializers
    from snnjax import losses as losses
    from snnjax import models as models
    from snnjax import nn as nn
    from snnjax import optimizers as optimizers
    from snnjax import plotting as plotting
    from snnjax import psp as psp
    from snnjax import regularizers as regularizers
    from snnjax import reproduce as reproduce
    from snnjax import runtime as runtime
    from snnjax import sparse as sparse
    from snnjax import surrogate as surrogate
    from snnjax import theory as theory
    from snnjax import training as training
    from snnjax.calibration import calibrate as calibrate
    from snnjax.datasets import DeviceEvents as DeviceEvents
    from snnjax.datasets import EventDataset as EventDataset
    from snnjax.datasets import Splits as Splits
    from snnjax.diagnostics import probe as probe
    from snnjax.dynamics import LIF as LIF
    from snnjax.dynamics import LeakyIntegrator as LeakyIntegrator
    from snnjax.dynamics import simulate as simulate
    from snnjax.losses import CrossEntropy as CrossEntropy
    from snnjax.nn import FluctuationDriven as FluctuationDriven
    from snnjax.nn import Readout as Readout
    from snnjax.nn import Sequential as Sequential
    from snnjax.nn import SpikingConv1d as SpikingConv1d
    from snnjax.nn import SpikingConv2d as SpikingConv2d
    from snnjax.nn import SpikingDense as SpikingDense
    from snnjax.regularizers import lower_bound as lower_bound
    from snnjax.regularizers import upper_bound as upper_bound
    from snnjax.surrogate import superspike as superspike
    from snnjax.training import Objective as Objective
    from snnjax.training import Trainer as Trainer
    from snnjax.training import fit as fit
    from snnjax.training import fit_ensemble as fit_ensemble


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"snnjax.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"snnjax.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'snnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_SUBMODULES, *__all__, "__version__"])
