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


def numbers_of(member: Member, result: EnsembleResult, k: int) -> Any:
    """Return all numbers of a member except its parameters, as arrays. `row_from` makes its row.

    Args:
        member: Its seed and its values.
        result: The result of its wave.
        k: Its index in the wave.
    """
    plain = lambda value: value if isinstance(value, numbers.Real) else shown(value)
    arrays = {f"hyper.{name}": np.asarray(plain(value)) for name, value in member.items()}
    arrays |= {f"result.{n}": getattr(result, n)[k] for n in ("best_epoch", "epochs", "finite")}
    for which, metrics in result.test.items():
        arrays |= {f"result.test_{name}_{which}": values[k] for name, values in metrics.items()}
    arrays |= {f"history.{name}": values[k] for name, values in result.history.items()}
    return arrays | {f"initial.{name}": values[k] for name, values in result.initial.items()}


def of_one(result: FitResult, *, finite: bool = True) -> EnsembleResult:
    """Return the result of one network as that of an ensemble with one member.

    Args:
        result: The result of `fit`.
        finite: Whether its numbers stayed finite.
    """
    rows = result.history
    if not rows:  # the untrained network was not finite
        rows = [{"train_accuracy": math.nan, "valid_accuracy": math.nan}]
    test = result.test or {which: {"accuracy": math.nan} for which in ("final", "best")}
    names = [name for name in rows[0] if name not in ("epoch", "seconds")]
    history = {name: np.array([[row[name] for row in rows]]) for name in names}
    lead = lambda tree: jax.tree.map(lambda a: np.asarray(a)[None], tree)
    ends = lead(result.final), lead(result.best)
    best_epoch, epochs, healthy, tested = lead((result.best_epoch, len(rows) - 1, finite, test))
    return EnsembleResult(history, *ends, best_epoch, epochs, healthy, tested, {})


def row_from(arrays: Mapping[str, np.ndarray]) -> Row:
    """Return the row of a network, which results.csv and results.json have.

    The numbers are its values, accuracies (fractions), the first epoch with 90 % training accuracy
    (NaN if there is none), and rates before and after training (Hz). A member of an ensemble also
    has for each layer before training the standard deviation of the membrane, sigma_u, and, from
    the loss without bounds, the magnitudes of gradients, the backward gain, the agreement of both
    halves of the batch, and the first update at the largest learning rate: its magnitude, and over
    the weights, `step` (`snnjax.diagnostics`).

    Args:
        arrays: Its numbers, from `numbers_of`.
    """
    part = lambda prefix: {
        name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)
    }
    hyper, result, history = part("hyper."), part("result."), part("history.")
    done, best = int(result["epochs"]), int(result["best_epoch"])
    layers = [n for n in history if n.startswith("rate_")]
    layers.sort(key=lambda n: int(n.removeprefix("rate_")))
    row = hyper | {name: result[name] for name in ("finite", "epochs", "best_epoch")}
    row |= {f"{k}_accuracy": history[f"{k}_accuracy"][done] for k in ("train", "valid")}
    row |= {"best_valid_accuracy": history["valid_accuracy"][best]}
    row |= {f"test_accuracy_{k}": result[f"test_accuracy_{k}"] for k in ("final", "best")}
    row |= {"epochs_to_90": epochs_to(0.9, history["train_accuracy"][: done + 1])}
    row |= {f"initial_{n}": history[n][0] for n in layers}
    row |= {f"final_{n}": result[f"test_{n}_final"] for n in layers}
    row |= {f"initial_{name}": value for name, value in part("initial.").items()}
    # always the same object math.nan, so that rows that are read twice are equal
    values = {name: np.asarray(value).item() for name, value in row.items()}
    return {name: math.nan if v != v else v for name, v in values.items()}


def epochs_to(accuracy: float, by_epoch: Sequence[float] | np.ndarray) -> float:
    """Return the first epoch with a training accuracy of at least `accuracy`, or NaN.

    Args:
        accuracy: Training accuracy, a fraction.
        by_epoch: Training accuracy by epoch, beginning with the untrained network.

    >>> epochs_to(0.9, [0.1, 0.8, 0.92, 0.85]), epochs_to(0.9, [0.1, 0.8])
    (2.0, nan)
    """
    return next((float(k) for k, value in enumerate(by_epoch) if value >= accuracy), math.nan)
