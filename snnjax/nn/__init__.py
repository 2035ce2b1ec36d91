"""Flax NNX modules: layers, networks, and initialization of layers."""

from snnjax.nn._layer import Layer
from snnjax.nn._maps import DenseMap, LinearMap
from snnjax.nn._neurons import NeuronLayer, Steepness
from snnjax.nn._synaptic import Incoming, Spiking, Synaptic
from snnjax.nn.conv import ConvMap, SpikingConv, SpikingConv1d, SpikingConv2d
from snnjax.nn.dalian import Dalian, DalianConv, DalianConv1d, DalianConv2d, DalianDense
from snnjax.nn.dropout import Dropout
from snnjax.nn.init import (
    Connection,
    DalianFluctuationDriven,
    FluctuationDriven,
    LayerInit,
    SameForAll,
)
from snnjax.nn.layers import Readout, SpikingDense
from snnjax.nn.network import Activity, NetworkOutput, Sequential
from snnjax.nn.nonnegative import NonNegative
from snnjax.nn.per_step import PerStep
from snnjax.nn.sensory import Sensory
from snnjax.nn.shape import Flatten, Pool, Reshape, Stateless

__all__ = [
    "Activity",
    "Connection",
    "ConvMap",
    "Dalian",
    "DalianConv",
    "DalianConv1d",
    "DalianConv2d",
    "DalianDense",
    "DalianFluctuationDriven",
    "DenseMap",
    "Dropout",
    "Flatten",
    "FluctuationDriven",
    "Incoming",
    "Layer",
    "LayerInit",
    "LinearMap",
    "NetworkOutput",
    "NeuronLayer",
    "NonNegative",
    "PerStep",
    "Pool",
    "Readout",
    "Reshape",
    "SameForAll",
    "Sensory",
    "Sequential",
    "Spiking",
    "SpikingConv",
    "SpikingConv1d",
    "SpikingConv2d",
    "SpikingDense",
    "Stateless",
    "Steepness",
    "Synaptic",
]
