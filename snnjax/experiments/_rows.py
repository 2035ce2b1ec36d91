"""The row of a trained network: one schema for runs (results.json) and sweeps (results.csv)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from snnjax.training._ensemble import EnsembleResult
from snnjax.training._fit import FitResult

Member = dict[str, Any]
"""Seed and swept values."""
R = TypeVar("R", bound=Mapping[str, Any])
Row = dict[str, Any]
"""Numbers of a trained network by the name of their column."""
Rows = Sequence[Mapping[str, Any]]


def shown(value: object) -> str:
    """Return a value as text, in names of files and in tables.

    >>> shown(0.1), shown((64, 32)), shown("lsuv")
    ('0.1', '64x32', 'lsuv')
    """
    if isinstance(value, tuple | list):
        return "x".join(map(shown, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def is_number(value: object) -> bool:
    """Return whether a value of a row can be on an axis: a number, and not True or False."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def pick(rows: Iterable[R], **where: object) -> list[R]:
    """Return the rows whose columns have the given values.

    >>> pick([{"arm": "a", "sigma_u": 1.0}, {"arm": "b", "sigma_u": 1.0}], arm="b")
    [{'arm': 'b', 'sigma_u': 1.0}]
    """
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


def values(rows: Rows, column: str) -> np.ndarray:
    """Return the finite numbers of a column."""
    found = np.array([row[column] for row in rows if is_number(row.get(column))], float)
    return found[np.isfinite(found)]


def member_of(result: EnsembleResult, k: int) -> FitResult:
    """Return the result of one member of an ensemble as that of `fit`.

    Args:
        result: The result of the ensemble.
        k: Index of the member.
    """
    trained = range(int(result.epochs[k]) + 1)
    at = lambda e: {name: float(values[k, e]) for name, values in result.history.items()}
    tested = {
        which: {name: float(values[k]) for name, values in metrics.items()}
        for which, metrics in result.test.items()
    }
    final, best = jax.tree.map(lambda a: a[k], (result.final, result.best))
    history = [{"epoch": e} | at(e) for e in trained]
    return FitResult(final, best, int(result.best_epoch[k]), history, tested)


def row_of(
    member: Member, result: FitResult, *, finite: bool = True, more: Mapping[str, Any] | None = None
) -> Row:
    """Return the row of a trained network, which results.json and results.csv have.

    The numbers are its values, accuracies (fractions), the first epoch with 90 % training accuracy
    (NaN if there is none), and rates before and after training (Hz).

    Args:
        member: Its seed and its values.
        result: The result of its training.
        finite: Whether its numbers stayed finite.
        more: Numbers that are added at the end.
    """
    # without history, the untrained network was not finite
    history = result.history or [{"train_accuracy": math.nan, "valid_accuracy": math.nan}]
    first, last, best = history[0], history[-1], history[result.best_epoch]
    tested = result.test or {k: {"accuracy": math.nan} for k in ("final", "best")}
    rates = [name for name in first if name.startswith("rate_")]
    row: Row = {n: v if isinstance(v, numbers.Real) else shown(v) for n, v in member.items()}
    row |= {"finite": finite, "epochs": len(history) - 1, "best_epoch": result.best_epoch}
    row |= {f"{k}_accuracy": last[f"{k}_accuracy"] for k in ("train", "valid")}
    row |= {"best_valid_accuracy": best["valid_accuracy"]}
    row |= {f"test_accuracy_{k}": tested[k]["accuracy"] for k in ("final", "best")}
    row |= {"epochs_to_90": epochs_to(0.9, [one["train_accuracy"] for one in history])}
    row |= {f"initial_{name}": first[name] for name in rates}
    row |= {f"final_{name}": tested["final"][name] for name in rates}
    return row | dict(more or {})


def epochs_to(accuracy: float, by_epoch: Sequence[float] | np.ndarray) -> float:
    """Return the first epoch with a training accuracy of at least `accuracy`, or NaN.

    Args:
        accuracy: Training accuracy, a fraction.
        by_epoch: Training accuracy by epoch, beginning with the untrained network.

    >>> epochs_to(0.9, [0.1, 0.8, 0.92, 0.85]), epochs_to(0.9, [0.1, 0.8])
    (2.0, nan)
    """
    return next((float(k) for k, value in enumerate(by_epoch) if value >= accuracy), math.nan)
