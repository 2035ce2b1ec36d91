"""Flax NNX modules: spiking layers, readout, networks, and how a layer initializes its connections."""

from snnjax.nn.init import Connection, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn.layers import Readout, SpikingDense
from snnjax.nn.network import Activity, Sequential

__all__ = ["Activity", "Connection", "FluctuationDriven", "LayerInit", "Readout", "SameForAll", "Sequential", "SpikingDense"]
