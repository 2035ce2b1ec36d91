"""Classification of Randman, the first task of the paper: only spike times depend on the class."""

from __future__ import annotations

import dataclasses

from snnjax import _check
from snnjax.datasets import Splits, randman
from snnjax.experiments.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandmanConfig(TrainConfig):
    """Train on Randman.

    The defaults are those of the paper: 20 inputs, 10 classes with 1000 samples each, 200 ms, split
    80/10/10.
    """

    classes: int = 10
    """Number of classes, each with its own manifold."""
    inputs: int = 20
    """Input units."""
    samples: int = 1000
    """Samples per class."""
    dim: int = 1
    """Dimension of the manifolds."""
    smoothness: float = 1.0
    """alpha of the manifolds. Smaller values make the task harder."""
    duration: float = 0.2
    """Length of a trial, s. All spikes are in its first half."""
    data_seed: int = 0
    """Seed of the manifolds and of the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (
            ("classes", 2),
            ("inputs", 1),
            ("samples", 10),
            ("dim", 1),
            ("data_seed", 0),
        ):
            _check.integer(name, getattr(self, name), at_least=low)
        _check.number("smoothness", self.smoothness, above=0)
        _check.number("duration", self.duration, at_least=2 * self.dt, unit="s")

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        data = randman(
            num_classes=self.classes,
            num_units=self.inputs,
            samples_per_class=self.samples,
            dim=self.dim,
            smoothness=self.smoothness,
            duration=self.duration,
            active_duration=self.duration / 2,
            seed=self.data_seed,
        )
        return Splits(*data.split((0.8, 0.1, 0.1), seed=self.data_seed))
