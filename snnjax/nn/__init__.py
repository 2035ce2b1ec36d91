"""Flax NNX modules: layers, networks, and initialization of layers."""

from snnjax.nn._conv import ConvMap, SpikingConv1d, SpikingConv2d
from snnjax.nn._dalian import Dalian, DalianConv1d, DalianConv2d, DalianDense
from snnjax.nn._dropout import Dropout
from snnjax.nn._init import DalianFluctuationDriven, FluctuationDriven, LayerInit, SameForAll
from snnjax.nn._layer import Layer
from snnjax.nn._layers import Readout, SpikingDense
from snnjax.nn._maps import DenseMap, LinearMap
from snnjax.nn._network import Activity, NetworkOutput, Sequential
from snnjax.nn._neurons import NeuronLayer
from snnjax.nn._nonnegative import NonNegative, nonnegative
from snnjax.nn._per_step import PerStep
from snnjax.nn._sensory import Sensory
from snnjax.nn._shape import Flatten, Pool, Reshape
from snnjax.nn._synaptic import Spiking, Synaptic

__all__ = [
    "Activity",
    "ConvMap",
    "Dalian",
    "DalianConv1d",
    "DalianConv2d",
    "DalianDense",
    "DalianFluctuationDriven",
    "DenseMap",
    "Dropout",
    "Flatten",
    "FluctuationDriven",
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
    "SpikingConv1d",
    "SpikingConv2d",
    "SpikingDense",
    "Synaptic",
    "nonnegative",
]
