"""The parts of a data set."""

from __future__ import annotations

from typing import Any, NamedTuple


class Splits(NamedTuple):
    """Training, validation and test data: three sources for training, or three data sets.

    Attributes:
        train: What is trained on.
        valid: What selects the best parameters, or None.
        test: What is evaluated at the end, or None.

    >>> from snnjax.datasets import randman
    >>> splits = Splits(*randman(samples_per_class=20).split((0.8, 0.1, 0.1), seed=0))
    >>> [len(part) for part in splits]
    [160, 20, 20]
    """

    train: Any
    valid: Any = None
    test: Any = None
