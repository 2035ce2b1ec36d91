"""Neuron models as frozen parameters with a pure `step`, and the scan over time."""

from snnjax.dynamics._adaptive import AdaptiveLIF
from snnjax.dynamics._adlif import AdLIF
from snnjax.dynamics._draw import Uniform
from snnjax.dynamics._exc_inh import ExcInhLIF
from snnjax.dynamics._leaky import IF, Leaky
from snnjax.dynamics._lif import LIF
from snnjax.dynamics._neuron import Neuron, apply_reset, simulate
from snnjax.dynamics._readout import LeakyIntegrator
from snnjax.dynamics._refractory import Refractory

__all__ = [
    "LIF",
    "Leaky",
    "IF",
    "AdLIF",
    "AdaptiveLIF",
    "ExcInhLIF",
    "simulate",
    "LeakyIntegrator",
    "Refractory",
    "Uniform",
    "Neuron",
    "apply_reset",
]
