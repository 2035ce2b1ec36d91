"""Flax NNX modules: layers, networks, and initialization of layers."""

from snnjax.nn._conv import ConvMap, SpikingConv1d, SpikingConv2d
from snnjax.nn._dalian import Dalian, DalianConv1d, DalianConv2d, DalianDense
from snnjax.nn._delays import Delays
from snnjax.nn._dense import Readout, SpikingDense
from snnjax.nn._init import DalianFluctuationDriven, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn._layer import Layer
from snnjax.nn._maps import DenseMap, LinearMap
from snnjax.nn._network import Activity, NetworkOutput, Sequential
from snnjax.nn._nonnegative import NonNegative
from snnjax.nn._norm import BatchNorm
from snnjax.nn._sensory import Sensory
from snnjax.nn._shape import Dropout, Flatten, Pool, Reshape
from snnjax.nn._synaptic import Spiking, Synaptic

__all__ = [
    "Sequential",
    "SpikingDense",
    "SpikingConv1d",
    "SpikingConv2d",
    "Readout",
    "FluctuationDriven",
    "NetworkOutput",
    "Activity",
    "DalianDense",
    "DalianConv1d",
    "DalianConv2d",
    "DalianFluctuationDriven",
    "SameForAll",
    "LayerInit",
    "BatchNorm",
    "Delays",
    "Dropout",
    "Pool",
    "Flatten",
    "Reshape",
    "Sensory",
    "Layer",
    "Synaptic",
    "Spiking",
    "Dalian",
    "LinearMap",
    "DenseMap",
    "ConvMap",
    "NonNegative",
]
