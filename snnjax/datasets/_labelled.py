"""What data sets of labelled samples have in common: classes, and parts of the samples."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from snnjax import _check
from snnjax.datasets import _arrays

Split = Literal["train", "test"]


def check_split(split: Split) -> None:
    """Raise unless the data set has this split."""
    _check.one_of("split", split, get_args(Split))


class LabelledDataset(abc.ABC):
    """The base class of `EventDataset` and `ImageDataset`, which are frozen dataclasses.

    Attributes:
        labels: Classes, int32 (S,), in [0, num_classes).
        num_classes: Number of classes, >= 1.
        class_names: `num_classes` names, or None.
    """

    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None

    def _set(self, **fields: object) -> None:
        """Set fields to values that are known to be valid. Arrays become read-only views."""
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    def _set_classes(self) -> None:
        """Check and set the fields of this class."""
        num_classes = _check.integer("num_classes", self.num_classes, at_least=1, at_most=2**31 - 1)
        names = self.class_names
        if names is not None:
            names = tuple(str(name) for name in names)
            if len(names) != num_classes:
                needed = f"num_classes = {num_classes} names"
                got = f"{len(names)}: {names[:20]}"
                raise ValueError(f"class_names must contain {needed}, got {got}")
        labels = _arrays.integers("labels", self.labels, 0, num_classes - 1)
        self._set(labels=labels, num_classes=num_classes, class_names=names)

    def __len__(self) -> int:
        """The number of samples."""
        return self.labels.size

    @abc.abstractmethod
    def subset(self, indices: _arrays.Indices) -> Self:
        """Return the samples `indices` in that order."""

    def split(
        self, fractions: Sequence[float], *, seed: int | Sequence[int], stratify: bool = True
    ) -> tuple[Self, ...]:
        """Return disjoint random parts, each with about the given fraction of the samples.

        Samples keep their original order in each part. Part i has round(S f_0 + ... + S f_i)
        samples minus those of the parts before. So no sample is in two parts, and no sample is left
        out if the fractions add up to 1.

        Args:
            fractions: Each in (0, 1]. They add up to at most 1; the remainder is left out.
            seed: Whole number >= 0, or several.
            stratify: Keep the proportions of the labels in every part: exactly if they divide,
                otherwise to about one sample per class.

        >>> from snnjax.datasets import EventDataset
        >>> empty = [[]] * 10
        >>> data = EventDataset.from_lists(empty, empty, [0, 1] * 5, num_units=1, duration=1.0)
        >>> train, valid = data.split([0.8, 0.2], seed=0)
        >>> len(train), sorted(valid.labels.tolist())
        (8, [0, 1])
        """
        given = np.asarray(fractions, np.float64)
        shares = np.asarray(_check.number("fractions", given, above=0, at_most=1))
        if shares.ndim != 1 or shares.size == 0:
            raise ValueError(f"fractions must be a list of at least one number, got {fractions!r}")
        if (total := shares.sum()) > 1 + 1e-9:
            raise ValueError(f"fractions must add up to at most 1, got {total:g}: {fractions!r}")
        n = len(self)
        order = _arrays.rng_of(seed).permutation(n)
        if stratify:
            # Sample r of a class with n samples goes to position (r + 1/2) / n on the interval
            # [0, 1], which the fractions divide. So every class is spread evenly over the parts.
            shuffled = self.labels[order]
            sizes = np.bincount(shuffled, minlength=self.num_classes)
            rank = np.empty(n, np.int64)
            first = np.repeat(np.cumsum(sizes) - sizes, sizes)
            rank[np.argsort(shuffled, kind="stable")] = np.arange(n) - first
            order = order[np.argsort((rank + 0.5) / sizes[shuffled], kind="stable")]
        edges = np.floor(np.minimum(np.cumsum(shares) + 1e-9, 1.0) * n + 0.5).astype(np.int64)
        parts = np.split(order[: edges[-1]], edges[:-1])
        return tuple(self.subset(np.sort(part)) for part in parts)


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
