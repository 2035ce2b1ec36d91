"""Data of the presets that no task loads: generated ones, and a part of the spoken words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from snnjax.datasets import Splits
from snnjax.experiments._generated import generated
from snnjax.experiments._tasks import SHD

if TYPE_CHECKING:
    from snnjax.experiments import Experiment

Source = Literal["own", "two speakers", "generated"]
"""The data of the task, the recordings of two speakers, or generated data with three classes."""
SPEAKERS = (3, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealSHD(SHD):
    """The Spiking Heidelberg Digits, and not other files in their layout."""

    holds = ("shd_train.h5",)


def datasets(experiment: Experiment, source: Source) -> Splits | None:
    """Return the three sets of an experiment, or None if its task loads them.

    Args:
        experiment: The experiment.
        source: The source of the data. With two speakers, each set has both of them, so that no
            test speaker is new.
    """
    if source == "own":
        return None
    if source == "generated":
        return generated(experiment, num_classes=3)
    return Splits(*(part.split_groups(SPEAKERS)[1] for part in experiment.datasets()))
