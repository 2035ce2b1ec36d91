"""Experiments: training runs as values, and functions that run them.

    Experiment    task, network, neuron, start, objective, optimizer, training, seed
    Sweep         an experiment, and values for some of its options

JAX is loaded on the first use of a function that runs something.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from snnjax.experiments._experiment import Experiment
from snnjax.experiments._tasks import MissingDataError

if TYPE_CHECKING:
    from snnjax.experiments._engine import run, run_sweep
    from snnjax.experiments._generated import generated
    from snnjax.experiments._run import Run, load_run
    from snnjax.experiments._sweep import Execution, Sweep

__all__ = [
    "Experiment",
    "run",
    "Run",
    "Sweep",
    "run_sweep",
    "Execution",
    "load_run",
    "generated",
    "MissingDataError",
]

_MODULE_OF = {
    "run": "_engine",
    "Run": "_run",
    "Sweep": "_sweep",
    "run_sweep": "_engine",
    "Execution": "_sweep",
    "load_run": "_run",
    "generated": "_generated",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
