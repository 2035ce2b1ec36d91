"""Flax NNX modules: spiking layers, readout, pooling, networks, and how a layer initializes its connections."""

from snnjax.nn.conv import SpikingConv, SpikingConv1d, SpikingConv2d
from snnjax.nn.init import Connection, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn.layers import Readout, SpikingDense
from snnjax.nn.network import Activity, Sequential
from snnjax.nn.shape import Flatten, Pool, Reshape

__all__ = [
    "Activity",
    "Connection",
    "Flatten",
    "FluctuationDriven",
    "LayerInit",
    "Pool",
    "Readout",
    "Reshape",
    "SameForAll",
    "Sequential",
    "SpikingConv",
    "SpikingConv1d",
    "SpikingConv2d",
    "SpikingDense",
]
