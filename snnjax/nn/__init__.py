"""Flax NNX modules: spiking layers, with and without Dale's law, sensory neurons, readout, pooling, dropout, networks, initialization of layers."""

from snnjax.nn._synaptic import Steepness
from snnjax.nn.conv import SpikingConv, SpikingConv1d, SpikingConv2d
from snnjax.nn.dalian import DalianConv, DalianConv1d, DalianConv2d, DalianDense
from snnjax.nn.dropout import Dropout
from snnjax.nn.init import Connection, DalianFluctuationDriven, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn.layers import Readout, SpikingDense
from snnjax.nn.network import Activity, NetworkOutput, Sequential
from snnjax.nn.nonnegative import NonNegative
from snnjax.nn.sensory import Sensory
from snnjax.nn.shape import Flatten, Pool, Reshape

__all__ = [
    "Activity",
    "Connection",
    "DalianConv",
    "DalianConv1d",
    "DalianConv2d",
    "DalianDense",
    "DalianFluctuationDriven",
    "Dropout",
    "Flatten",
    "FluctuationDriven",
    "LayerInit",
    "NetworkOutput",
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
    "Steepness",
]
