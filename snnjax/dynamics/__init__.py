"""Neuron models as frozen parameters with a pure `step`, and the scan over time."""

from snnjax.dynamics._adaptive import AdaptiveLIF
from snnjax.dynamics._exc_inh import ExcInhLIF
from snnjax.dynamics._lif import LIF
from snnjax.dynamics._neuron import Neuron, Simulation, apply_reset
from snnjax.dynamics._readout import LeakyIntegrator
from snnjax.dynamics._simulate import simulate

__all__ = [
    "simulate",
    "Simulation",
    "LIF",
    "AdaptiveLIF",
    "ExcInhLIF",
    "LeakyIntegrator",
    "Neuron",
    "apply_reset",
]
