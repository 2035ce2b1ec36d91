"""Statements of the paper, as functions from the rows of a study to a verdict.

A row is a dict of plain numbers and strings: a trained network (a row of a sweep's results.csv) or
a measurement. All rows have `arm`, the name of their unit of work, and `as_published`: whether data
and settings are those of the paper, so that the numbers can be compared.

"Agree", "train" and "differ" have the same meaning in all statements: that in `RULES`, which every
report quotes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from snnjax.experiments._rows import Rows, pick, values
from snnjax.reproduce._published import Published

Row = Mapping[str, Any]
Source = Literal["P", "R", "ours"]
"""Where a statement is from: `P` or `R` as in `snnjax.reproduce._published`, or `ours` if it is not
in the paper."""
Status = Literal["holds", "does not hold", "not tested at this scale"]
UNTESTED: Status = "not tested at this scale"
TEST, TRAIN = "test_accuracy_final", "train_accuracy"
DIFFERS = 0.05
"""Accuracies differ if the difference is larger."""


RULES = (
    "Rules: numbers *agree* if the means differ by at most twice their joint spread, or by 2 "
    "points of accuracy or 10 % of another number if that is more. A start *trains* if its mean "
    "test accuracy is at least half way from chance to the best of its arm. There is no verdict "
    "if even the best is less than 20 points above chance. Accuracies *differ* if the difference "
    "exceeds 5 points; in table 1 it must also exceed their joint spread."
)
"""The rules of all functions of this module."""


class Verdict(NamedTuple):
    """Whether a statement holds here, and the numbers that show it."""

    status: Status
    found: str


class Statement(NamedTuple):
    """A statement and how to judge it.

    Attributes:
        text: The statement.
        source: Its source.
        judge: A function from the rows to a verdict.
    """

    text: str
    source: Source
    judge: Callable[[Rows], Verdict]


def verdict(holds: bool, found: str) -> Verdict:
    """Return the verdict `holds` or `does not hold`."""
    return Verdict("holds" if holds else "does not hold", found)


def untested(why: str) -> Verdict:
    """Return a verdict without a judgement, with the reason, and our number if there is one."""
    return Verdict(UNTESTED, why)


FEWEST = 3
"""Runs from which on a text has a standard deviation."""


def spread(numbers: Sequence[float] | np.ndarray, unit: str = "") -> str:
    """Return mean and standard deviation as text. Fractions with unit "%" are given in percent.

    >>> spread([0.5, 0.6, 0.7], "%"), spread([3.0, 5.0], "Hz"), spread([0.0], "Hz"), spread([])
    ('60.0 ± 10.0 %', '4.00 Hz', '0 Hz', 'none')
    """
    numbers = np.asarray(numbers, float) * (100 if unit == "%" else 1)
    if not numbers.size:
        return "none"
    parts = [numbers.mean(), *([numbers.std(ddof=1)] if numbers.size >= FEWEST else [])]
    digits = 1 if unit == "%" else _decimals(float(abs(parts[0])))
    texts = ["0" if not any(parts) else f"{v:.{digits}f}" for v in parts[: 2 if any(parts) else 1]]
    return f"{' ± '.join(texts)} {unit}".rstrip()


def _decimals(mean: float) -> int:
    """Return decimal places for three significant digits of the mean, at most five places.

    >>> _decimals(123.4), _decimals(8.85), _decimals(0.000545), _decimals(0.0)
    (0, 2, 5, 2)
    """
    return 2 if mean == 0 else min(max(2 - math.floor(math.log10(mean)), 0), 5)


def agrees(ours: np.ndarray, published: Published) -> bool:
    """Return whether numbers agree with a published one by the rule of the module.

    Args:
        ours: At least one number, in the unit of `published`.
        published: The published number.
    """
    least = 2.0 if published.unit == "%" else 0.1 * published.value
    joint = math.hypot(deviation(ours), published.spread or 0.0)
    return bool(abs(ours.mean() - published.value) <= max(2 * joint, least))


def deviation(numbers: np.ndarray) -> float:
    """Return the standard deviation of a sample, or 0 for a single number."""
    return float(numbers.std(ddof=1)) if numbers.size > 1 else 0.0


def number(text: str, published: Published, column: str, **where: object) -> Statement:
    """Return the statement that the mean of a column equals a published number.

    Args:
        text: Description of the number.
        published: The published number.
        column: Column of the rows.
        **where: Values of columns that select rows.
    """

    def judge(rows: Rows) -> Verdict:
        chosen = pick(rows, **where)
        ours = values(chosen, column)
        if not ours.size:
            reached = not chosen or column != "epochs_to_90"
            return untested("not measured here" if reached else "not reached")
        found = f"{spread(ours, published.unit)} ({len(chosen)} run{'s' * (len(chosen) > 1)})"
        if not all(row["as_published"] for row in chosen):
            return untested(f"other data or less training than the paper's: {found}")
        if ours.size < len(chosen):
            return verdict(False, f"{found}, not reached in {len(chosen) - ours.size}")
        return verdict(agrees(ours * (100 if published.unit == "%" else 1), published), found)

    return Statement(f"{text}: {published}", published.source, judge)


def compared(
    text: str,
    source: Source,
    arms: tuple[str, str],
    holds: Callable[[np.ndarray, np.ndarray], bool | np.bool_],
    **where: float,
) -> Statement:
    """Return a statement on the test accuracies of two arms.

    Args:
        text: The statement.
        source: As in `Statement`.
        arms: Names of the two arms.
        holds: A function from the accuracies of both arms to whether the statement holds.
        **where: Values of columns that select rows.
    """

    def judge(rows: Rows) -> Verdict:
        a, b = (values(pick(rows, arm=arm, **where), TEST) for arm in arms)
        if not a.size or not b.size:
            return untested("not trained here")
        found = ", ".join(f"{arm} {spread(v, '%')}" for arm, v in zip(arms, (a, b), strict=True))
        at = "".join(f" at {name} {value:g}" for name, value in where.items())
        return verdict(bool(holds(a, b)), f"{found}{at}")

    return Statement(text, source, judge)


def accuracies(rows: Rows, by: str = "sigma_u") -> dict[float, float]:
    """Return the mean test accuracy for each swept value, in ascending order.

    Networks that became not finite count with their last results.
    """
    return {
        v: float(values(pick(rows, **{by: v}), TEST).mean())
        for v in sorted({row[by] for row in rows if by in row})
    }


def trained(rows: Rows, by: str = "sigma_u", best: float | None = None) -> dict[float, bool] | None:
    """Return which values train, by the rule of the module, or None if even the best does not.

    Args:
        rows: Rows of an arm.
        by: Name of the swept parameter.
        best: Best accuracy of all arms of a comparison. None: that of these rows.
    """
    if not rows:
        return None
    found, chance = accuracies(rows, by), rows[0]["chance"]
    top = max(found.values()) if best is None else best
    if top < chance + 0.2:
        return None
    return {v: a >= chance + 0.5 * (top - chance) for v, a in found.items()}


def curve(rows: Rows, by: str = "sigma_u") -> str:
    """Return accuracies as text.

    >>> rows = [{"sigma_u": s, "test_accuracy_final": a} for s, a in ((1.0, 0.5), (0.1, 0.25))]
    >>> curve(rows)
    '0.1: 25 %, 1: 50 %'
    """
    return ", ".join(f"{v:g}: {100 * a:.0f} %" for v, a in accuracies(rows, by).items())


def trains_within(
    text: str, low: float | None, high: float, source: Source = "P", **where: object
) -> Statement:
    """Return the statement that training succeeds for sigma_u in [low, high] and nowhere else.

    Args:
        text: The statement.
        low: Lower end of the range. None: all small values.
        high: Upper end of the range.
        source: As in `Statement`.
        **where: Values of columns that select rows.
    """

    def judge(rows: Rows) -> Verdict:
        chosen = pick(rows, **where)
        found = trained(chosen)
        if found is None:
            return untested(f"no start trained: {curve(chosen)}" if chosen else "not measured here")
        inside = {v: t for v, t in found.items() if (low is None or v >= low) and v <= high}
        outside = {v: t for v, t in found.items() if v not in inside}
        if not inside or not outside:
            where_not = "outside" if inside else "inside"
            return untested(f"no network was trained {where_not} the range: {curve(chosen)}")
        return verdict(all(inside.values()) and not any(outside.values()), curve(chosen))

    return Statement(text, source, judge)


def judged(
    statements: Sequence[Statement], rows: Rows, *, generated: bool
) -> list[tuple[Statement, Verdict]]:
    """Return every statement with its verdict.

    Args:
        statements: The statements.
        rows: Rows of the study.
        generated: Whether data are generated or tiny (the smoke preset): the result then says
            nothing about the paper.
    """
    out = []
    for statement in statements:
        result = statement.judge(rows)
        if generated and result.status != UNTESTED:
            result = untested(f"a test of the program, not of the paper; here: {result.found}")
        out.append((statement, result))
    return out
