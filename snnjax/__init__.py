"""snnjax: deep spiking neural networks in JAX, initialized in the fluctuation-driven regime.

The core (`psp`, `theory`, `surrogate`, `dynamics`, `initializers`) needs only JAX; `nn` adds Flax
modules. Subpackages are loaded on first use.
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


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"snnjax.{name}")
    raise AttributeError(f"module 'snnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_SUBMODULES, "__version__"])
