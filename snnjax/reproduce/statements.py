"""What the paper says, as functions from the rows of a study to a verdict.

A row is a dict of plain numbers and strings: a trained network (a row of a sweep's results.csv) or something measured. All rows have `arm`, the name of
the unit of work they come from, and `as_published`: whether data and settings are the paper's, so that its numbers can be compared.

What "agree", "train" and "differ" mean is the same for all statements: `RULES`, which every report quotes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from snnjax.reproduce.published import Published

Row = Mapping[str, Any]
Rows = Sequence[Row]
Status = Literal["holds", "does not hold", "not tested at this scale"]
UNTESTED: Status = "not tested at this scale"
TEST = "test_accuracy_final"
DIFFERS = 0.05
"""Accuracies that differ by more are different."""


RULES = (
    "Judging: numbers *agree* if the means differ by at most twice their joint spread, or by 2 points of accuracy or 10 % of another number where that is "
    "more. A start *trains* if its mean test accuracy is at least half way from chance to the best of its arm; nothing is said where even the best is less "
    "than 20 points above chance. Accuracies *differ* by more than 5 points; table 1 also asks for more than their joint spread."
)
"""What the functions of the module judge by."""


class Verdict(NamedTuple):
    """Whether a statement holds here, and the numbers that say so."""

    status: Status
    found: str


class Statement(NamedTuple):
    """A sentence, its source (`P` or `R` as in `published`, `ours` where the paper has no such sentence), and the function that judges it."""

    text: str
    source: Literal["P", "R", "ours"]
    judge: Callable[[Rows], Verdict]


def verdict(holds: bool, found: str) -> Verdict:
    """`holds` or `does not hold`."""
    return Verdict("holds" if holds else "does not hold", found)


def untested(why: str) -> Verdict:
    """With the reason, and our number where there is one."""
    return Verdict(UNTESTED, why)


def pick(rows: Rows, **where: Any) -> list[Row]:
    """The rows whose columns have these values.

    >>> pick([{"arm": "a", "sigma_u": 1.0}, {"arm": "b", "sigma_u": 1.0}], arm="b")
    [{'arm': 'b', 'sigma_u': 1.0}]
    """
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


def values(rows: Rows, column: str) -> np.ndarray:
    """The finite numbers of a column."""
    found = np.array([row[column] for row in rows if isinstance(row.get(column), int | float)], float)
    return found[np.isfinite(found)]


def spread(numbers: Sequence[float] | np.ndarray, unit: str = "") -> str:
    """Mean and standard deviation as text, of accuracies (unit "%") in percent.

    >>> spread([0.5, 0.7], "%"), spread([3.0], "Hz"), spread([])
    ('60.0 +- 14.1 %', '3.00 Hz', 'none')
    """
    numbers = np.asarray(numbers, float) * (100 if unit == "%" else 1)
    if not numbers.size:
        return "none"
    digits = (lambda v: f"{v:.1f}") if unit == "%" else (lambda v: f"{v:#.3g}".rstrip("."))
    return digits(numbers.mean()) + (f" +- {digits(numbers.std(ddof=1))}" if numbers.size > 1 else "") + f" {unit}".rstrip()


def agrees(ours: np.ndarray, published: Published) -> bool:
    """The rule of the module; `ours` in the unit of `published`, not empty."""
    own = ours.std(ddof=1) if ours.size > 1 else 0.0
    tolerance = max(2 * math.hypot(own, published.spread or 0.0), 2.0 if published.unit == "%" else 0.1 * published.value)
    return bool(abs(ours.mean() - published.value) <= tolerance)


def number(text: str, published: Published, column: str, **where: Any) -> Statement:
    """The statement that a column's mean over the rows picked is the number published."""

    def judge(rows: Rows) -> Verdict:
        chosen = pick(rows, **where)
        ours = values(chosen, column)
        if not ours.size:
            return untested("not reached" if chosen and column == "epochs_to_90" else "not measured here")
        found = f"{spread(ours, published.unit)} ({len(chosen)} run{'s' * (len(chosen) > 1)})"
        if not all(row["as_published"] for row in chosen):
            return untested(f"other data or less training than the paper's: {found}")
        if ours.size < len(chosen):
            return verdict(False, f"{found}, not reached in {len(chosen) - ours.size}")
        return verdict(agrees(ours * (100 if published.unit == "%" else 1), published), found)

    return Statement(f"{text}: {published}", published.source, judge)


def accuracies(rows: Rows, by: str = "sigma_u") -> dict[float, float]:
    """Mean test accuracy by the swept value, from the smallest. Networks that stopped being finite count as they ended."""
    return {v: float(values(pick(rows, **{by: v}), TEST).mean()) for v in sorted({row[by] for row in rows if by in row})}


def trained(rows: Rows, by: str = "sigma_u", best: float | None = None) -> dict[float, bool] | None:
    """Which values train, by the rule of the module; None where even the best does not. `best`: of several arms that are to be compared."""
    if not rows:
        return None
    found, chance = accuracies(rows, by), rows[0]["chance"]
    top = max(found.values()) if best is None else best
    return None if top < chance + 0.2 else {v: a >= chance + 0.5 * (top - chance) for v, a in found.items()}


def curve(rows: Rows, by: str = "sigma_u") -> str:
    """Accuracies as text.

    >>> curve([{"sigma_u": 1.0, "test_accuracy_final": 0.5}, {"sigma_u": 0.1, "test_accuracy_final": 0.25}])
    '0.1: 25 %, 1: 50 %'
    """
    return ", ".join(f"{v:g}: {100 * a:.0f} %" for v, a in accuracies(rows, by).items())


def trains_within(text: str, low: float | None, high: float, source: Literal["P", "ours"] = "P", **where: Any) -> Statement:
    """The statement that training succeeds for sigma_u in [low, high] and nowhere else; low None: for all small ones."""

    def judge(rows: Rows) -> Verdict:
        chosen = pick(rows, **where)
        found = trained(chosen)
        if found is None:
            return untested(f"no start trained: {curve(chosen)}" if chosen else "not measured here")
        inside = {v: t for v, t in found.items() if (low is None or v >= low) and v <= high}
        outside = {v: t for v, t in found.items() if v not in inside}
        if not inside or not outside:
            return untested(f"no sigma_u {'outside' if inside else 'inside'} the range was trained: {curve(chosen)}")
        return verdict(all(inside.values()) and not any(outside.values()), curve(chosen))

    return Statement(text, source, judge)


def judged(statements: Sequence[Statement], rows: Rows, *, generated: bool) -> list[tuple[Statement, Verdict]]:
    """Every statement with its verdict. A run on generated or tiny data (the smoke preset) says nothing about the paper."""
    out = []
    for statement in statements:
        result = statement.judge(rows)
        if generated and result.status != UNTESTED:
            result = untested(f"a test of the program, not of the paper; here: {result.found}")
        out.append((statement, result))
    return out
