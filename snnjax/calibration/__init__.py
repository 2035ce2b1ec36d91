"""Initialization from data: exact membrane statistics (`calibrate`) or a target firing rate (`scale_to_rate`)."""

from snnjax.calibration.data_driven import LayerReport, calibrate
from snnjax.calibration.gradient import GradientReport, GradientTarget, calibrate_gradient
from snnjax.calibration.powers import InputPowers, data_driven, filtered, free_membrane, input_powers, source_powers, weights_from_powers
from snnjax.calibration.rate import RateReport, scale_to_rate

__all__ = [
    "GradientReport",
    "GradientTarget",
    "InputPowers",
    "LayerReport",
    "RateReport",
    "calibrate",
    "calibrate_gradient",
    "data_driven",
    "filtered",
    "free_membrane",
    "input_powers",
    "scale_to_rate",
    "source_powers",
    "weights_from_powers",
]
