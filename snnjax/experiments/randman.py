"""Randman classification, the paper's first task: only spike times carry the class."""

from __future__ import annotations

import dataclasses

from snnjax import _check
from snnjax.datasets import Splits, randman
from snnjax.experiments.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandmanConfig(TrainConfig):
    """Train on Randman, with the paper's data by default (20 inputs, 10 classes, 1000 samples each, 200 ms; 80/10/10 split)."""

    classes: int = 10
    """Manifolds, one a class."""
    inputs: int = 20
    """Input units."""
    samples: int = 1000
    """Samples a class."""
    dim: int = 1
    """Dimension of the manifolds."""
    smoothness: float = 1.0
    """alpha of the manifolds; smaller is harder."""
    duration: float = 0.2
    """Of a trial, s; the spikes fall in its first half."""
    data_seed: int = 0
    """Of the manifolds and of the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("classes", 2), ("inputs", 1), ("samples", 10), ("dim", 1), ("data_seed", 0)):
            _check.integer(name, getattr(self, name), at_least=low)
        _check.number("smoothness", self.smoothness, above=0)
        _check.number("duration", self.duration, at_least=2 * self.dt, unit="s")

    def datasets(self) -> Splits:
        """Train, validation and test set."""
        data = randman(
            n_classes=self.classes, n_units=self.inputs, n_samples=self.samples, dim=self.dim, alpha=self.smoothness,
            duration=self.duration, active_duration=self.duration / 2, seed=self.data_seed,
        )  # fmt: skip
        return Splits(*data.split((0.8, 0.1, 0.1), seed=self.data_seed))
