"""The numbers of the paper: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.

Source `P` is printed in the paper; `R` was read in the published examples of its reference
implementation. Accuracies are in percent, rates in Hz. The spread is the standard deviation over
seeds as printed, or None.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Published(NamedTuple):
    """A number with its spread, unit and source.

    >>> print(NUMBERS["randman.test"])
    97.3 ± 0.2 %
    """

    value: float
    spread: float | None = None
    unit: str = "%"
    source: Literal["P", "R"] = "P"

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:g}"
        return f"{self.value:g}{spread} {self.unit}"


NUMBERS: dict[str, Published] = {
    "randman.test": Published(97.3, 0.2),
    "randman.train": Published(99.6),
    "randman.rate": Published(6.5, unit="Hz", source="R"),
    "shd.shallow.test": Published(65.5, 0.7),
    "shd.shallow.train": Published(100.0),
    "shd.deep.rate_1": Published(15.7, unit="Hz", source="R"),
    "shd.deep.rate_2": Published(13.9, unit="Hz", source="R"),
    "shd.deep.rate_3": Published(18.4, unit="Hz", source="R"),
    "shd.dalian.test": Published(82.2, 1.2),
    "shd.dalian.train": Published(99.8),
    "shd.csnn10.test": Published(81.1, 1.6),
    "shd.csnn1.epochs_to_90": Published(19.2, unit="epochs"),
    "shd.csnn3.epochs_to_90": Published(16.8, unit="epochs"),
}
"""Numbers by task, network and quantity."""

TABLE_1: dict[tuple[str, int, str], Published] = {
    ("SHD", 3, "Kaiming"): Published(83.1, 1.2),
    ("SHD", 3, "fluctuation-driven"): Published(82.7, 1.1),
    ("SHD", 7, "Kaiming"): Published(4.5),
    ("SHD", 7, "Kaiming + homeostasis"): Published(77.0, 2.9),
    ("SHD", 7, "fluctuation-driven"): Published(83.5, 1.3),
    ("CIFAR-10", 2, "Kaiming"): Published(59.5, 0.8),
    ("CIFAR-10", 2, "fluctuation-driven"): Published(62.4, 0.3),
    ("CIFAR-10", 4, "Kaiming"): Published(10.0),
    ("CIFAR-10", 4, "Kaiming + homeostasis"): Published(70.3, 0.9),
    ("CIFAR-10", 4, "fluctuation-driven"): Published(65.6, 1.3),
    ("DVS-Gesture", 6, "Kaiming"): Published(54.6, 37.1),
    ("DVS-Gesture", 6, "fluctuation-driven"): Published(86.7, 1.2),
    ("DVS-Gesture", 8, "Kaiming"): Published(9.1),
    ("DVS-Gesture", 8, "Kaiming + homeostasis"): Published(82.3, 5.3),
    ("DVS-Gesture", 8, "fluctuation-driven"): Published(86.4, 1.7),
}
"""Test accuracy by task, number of hidden layers and initialization."""
