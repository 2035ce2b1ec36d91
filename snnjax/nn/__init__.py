"""Flax NNX modules: spiking layers, sensory neurons, readout, pooling, dropout, networks, and how a layer initializes its connections."""

from snnjax.nn.conv import SpikingConv, SpikingConv1d, SpikingConv2d
from snnjax.nn.dropout import Dropout
from snnjax.nn.init import Connection, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn.layers import Readout, SpikingDense
from snnjax.nn.network import Activity, Sequential
from snnjax.nn.nonnegative import NonNegative
from snnjax.nn.sensory import Sensory
from snnjax.nn.shape import Flatten, Pool, Reshape

__all__ = [
    "Activity",
    "Connection",
    "Dropout",
    "Flatten",
    "FluctuationDriven",
    "LayerInit",
    "NonNegative",
    "Pool",
    "Readout",
    "Reshape",
    "SameForAll",
    "Sensory",
    "Sequential",
    "SpikingConv",
    "SpikingConv1d",
    "SpikingConv2d",
    "SpikingDense",
]
