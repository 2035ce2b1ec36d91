"""Initialization from data: exact membrane statistics (`calibrate`) or a target firing rate."""

from snnjax.calibration._sequential import calibrate
from snnjax.calibration.gradient import GradientTarget, calibrate_gradient
from snnjax.calibration.layer import Outcome, Target, calibrate_layer
from snnjax.calibration.powers import (
    InputPowers,
    data_driven,
    filtered,
    free_membrane,
    input_powers,
    source_powers,
    weights_from_powers,
)
from snnjax.calibration.rate import scale_to_rate
from snnjax.calibration.report import (
    GradientReport,
    GradientReports,
    LayerReport,
    LayerReports,
    RateReport,
    RateReports,
)

__all__ = [
    "GradientReport",
    "GradientReports",
    "GradientTarget",
    "InputPowers",
    "LayerReport",
    "LayerReports",
    "Outcome",
    "RateReport",
    "RateReports",
    "Target",
    "calibrate",
    "calibrate_gradient",
    "calibrate_layer",
    "data_driven",
    "filtered",
    "free_membrane",
    "input_powers",
    "scale_to_rate",
    "source_powers",
    "weights_from_powers",
]
