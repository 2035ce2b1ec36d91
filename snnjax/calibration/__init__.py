"""Initialization from data: exact membrane statistics (`calibrate`) or a target firing rate."""

from snnjax.calibration._gradient import GradientTarget, calibrate_gradient
from snnjax.calibration._layer import Target, calibrate_layer
from snnjax.calibration._powers import data_driven, free_membrane, input_powers
from snnjax.calibration._rate import scale_to_rate
from snnjax.calibration._report import LayerReport
from snnjax.calibration._sequential import calibrate

__all__ = [
    "calibrate",
    "calibrate_gradient",
    "calibrate_layer",
    "scale_to_rate",
    "Target",
    "GradientTarget",
    "LayerReport",
    "data_driven",
    "input_powers",
    "free_membrane",
]
