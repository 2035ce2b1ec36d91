"""Classification of spoken words as spikes: the Spiking Heidelberg Digits, or files like them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from snnjax import _check
from snnjax.datasets import Splits, download_shd, load_shd
from snnjax.experiments.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SHDConfig(TrainConfig):
    """Train on files in the SHD layout: FOLDER contains NAME_train.h5 and NAME_test.h5."""

    data: Path
    """Folder with the two files."""
    download: bool = False
    """If the files are missing, download the Spiking Heidelberg Digits to the folder first, with
    verified checksums."""
    duration: float = 0.7
    """Length of a trial, s. Later spikes are dropped."""
    valid_fraction: float = 0.1
    """Fraction of the training file held out for validation, equal for every class."""
    valid_speakers: tuple[int, ...] = ()
    """Hold out all recordings of these speakers instead."""
    data_seed: int = 0
    """Seed of the split."""

    batch_size: int = 64
    """Samples per step, at most the size of the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("duration", self.duration, at_least=2 * self.dt, unit="s")
        _check.number("valid_fraction", self.valid_fraction, above=0, below=1)
        _check.integer("data_seed", self.data_seed, at_least=0)
        if not isinstance(self.download, bool):
            raise TypeError(f"download must be True or False, got {self.download!r}")

    def datasets(self) -> Splits:
        """Return the training, validation and test set."""
        if self.download and not all(
            (self.data / f"shd_{split}.h5").exists() for split in ("train", "test")
        ):
            download_shd(self.data)
        data, test = (
            load_shd(self.data, split, duration=self.duration) for split in ("train", "test")
        )
        if self.valid_speakers:
            train, valid = data.split_groups(self.valid_speakers)
        else:
            train, valid = data.split(
                (1 - self.valid_fraction, self.valid_fraction), seed=self.data_seed
            )
        return Splits(train, valid, test)
