"""snnjax: deep spiking neural networks in JAX, initialized in the fluctuation-driven regime.

The core (`psp`, `theory`, `surrogate`, `dynamics`, `initializers`) needs only JAX; `nn` adds Flax
modules. Submodules, and the common names in `__all__`, are loaded on first use, so that
`import snnjax` stays fast.

>>> from snnjax import LIF, SpikingDense, calibrate
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # not that of `typing`, whose import would take longer than all the rest
if TYPE_CHECKING:
    # a relative import also tells type checkers of the submodule
    from . import dale as dale
    from . import exchange as exchange
    from . import experiments as experiments
    from . import gradient_theory as gradient_theory
    from . import initializers as initializers
    from . import models as models
    from . import optimizers as optimizers
    from . import plotting as plotting
    from . import psp as psp
    from . import reproduce as reproduce
    from . import runtime as runtime
    from . import theory as theory
    from .calibration import calibrate as calibrate
    from .datasets import DeviceEvents as DeviceEvents
    from .datasets import EventDataset as EventDataset
    from .datasets import Splits as Splits
    from .diagnostics import probe as probe
    from .dynamics import LIF as LIF
    from .dynamics import LeakyIntegrator as LeakyIntegrator
    from .dynamics import simulate as simulate
    from .losses import CrossEntropy as CrossEntropy
    from .nn import Dropout as Dropout
    from .nn import FluctuationDriven as FluctuationDriven
    from .nn import Readout as Readout
    from .nn import Sequential as Sequential
    from .nn import SpikingConv1d as SpikingConv1d
    from .nn import SpikingConv2d as SpikingConv2d
    from .nn import SpikingDense as SpikingDense
    from .regularizers import lower_bound as lower_bound
    from .regularizers import upper_bound as upper_bound
    from .surrogate import superspike as superspike
    from .training import Objective as Objective
    from .training import Trainer as Trainer
    from .training import fit as fit
    from .training import fit_ensemble as fit_ensemble

__version__ = "0.2.0"

_SUBMODULES = {
    "calibration": "calibrate",
    "dale": "",
    "datasets": "DeviceEvents EventDataset Splits",
    "diagnostics": "probe",
    "dynamics": "LIF LeakyIntegrator simulate",
    "exchange": "",
    "experiments": "",
    "gradient_theory": "",
    "initializers": "",
    "losses": "CrossEntropy",
    "models": "",
    "nn": "Dropout FluctuationDriven Readout Sequential SpikingConv1d SpikingConv2d SpikingDense",
    "optimizers": "",
    "plotting": "",
    "psp": "",
    "regularizers": "lower_bound upper_bound",
    "reproduce": "",
    "runtime": "",
    "surrogate": "superspike",
    "theory": "",
    "training": "Objective Trainer fit fit_ensemble",
}
"""The submodules, and the names of each that are used most."""

_MODULE_OF = {name: module for module, names in _SUBMODULES.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"snnjax.{_MODULE_OF[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"snnjax.{name}")
    raise AttributeError(f"module 'snnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_SUBMODULES, *__all__, "__version__"])
