"""Neuron models as frozen parameters with a pure `step`, and the scan over time."""

from snnjax.dynamics._neuron import Neuron, Reset, Simulation, apply_reset
from snnjax.dynamics._simulate import dense_recurrence, simulate
from snnjax.dynamics.adaptive import AdaptiveLIF, AdaptiveLIFState
from snnjax.dynamics.exc_inh import ExcInhDrive, ExcInhLIF, ExcInhState
from snnjax.dynamics.lif import LIF, LIFState
from snnjax.dynamics.readout import LeakyIntegrator, LeakyIntegratorState

__all__ = [
    "LIF",
    "AdaptiveLIF",
    "AdaptiveLIFState",
    "ExcInhDrive",
    "ExcInhLIF",
    "ExcInhState",
    "LIFState",
    "LeakyIntegrator",
    "LeakyIntegratorState",
    "Neuron",
    "Reset",
    "Simulation",
    "apply_reset",
    "dense_recurrence",
    "simulate",
]
