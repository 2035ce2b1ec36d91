"""Figures S4, S5, S8, S9 and S10 of the supplement: each changes one setting of a curve."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from snnjax.reproduce import draw
from snnjax.reproduce.curves import conv_curve, shallow_curve
from snnjax.reproduce.report import ACCURACY
from snnjax.reproduce.settings import Options
from snnjax.reproduce.statements import (
    DIFFERS,
    TEST,
    Rows,
    Statement,
    Verdict,
    accuracies,
    curve,
    pick,
    spread,
    trained,
    trains_within,
    untested,
    values,
    verdict,
)
from snnjax.reproduce.study import Study

BASE = "as the paper's other figures"
RATES = {
    "test accuracy": TEST,
    "training accuracy": "train_accuracy",
    "rate of layer 1 before (Hz)": "initial_rate_1",
    "rate of layer 1 after (Hz)": "final_rate_1",
}
GRADIENTS = {
    "test accuracy": TEST,
    "training accuracy": "train_accuracy",
    "|dL/dz|, layer 1, before": "initial_grad_z_1",
}


def _rate_after(arm: str, holds: Callable[[np.ndarray], bool]) -> Callable[[Rows], Verdict]:
    def judge(rows: Rows) -> Verdict:
        rates = values(pick(rows, arm=arm, sigma_u=1.0), "final_rate_1")
        return (
            verdict(bool(holds(rates)), f"{spread(rates, 'Hz')} at sigma_u 1")
            if rates.size
            else untested("not trained at sigma_u 1")
        )

    return judge


def _little_cost(rows: Rows) -> Verdict:
    with_bound, without = (
        values(pick(rows, arm=name, sigma_u=1.0), TEST)
        for name in ("upper bound", "no upper bound")
    )
    if not with_bound.size or not without.size:
        return untested("not trained at sigma_u 1")
    found = (
        f"{spread(with_bound, '%')} with the bound, {spread(without, '%')} without, at sigma_u 1"
    )
    return verdict(bool(with_bound.mean() > without.mean() - DIFFERS), found)


def s4(options: Options) -> Study:
    """Regularization. Laptop: 3 + 4 min."""
    units = [
        shallow_curve(options, "upper bound"),
        shallow_curve(options, "no upper bound", upper_strength=0.0),
    ]
    return Study(
        name="s4",
        title="Figure S4: activity regularization",
        preset=options.preset,
        units=units,
        draw=lambda rows: {"s4": draw.curves(rows, RATES)},
        statements=[
            Statement(
                "Without activity regularization trained rates exceed 60 Hz",
                "P",
                _rate_after("no upper bound", lambda r: r.mean() > 60),
            ),
            Statement(
                "With it they are about the bound, 10 Hz (5 to 15)",
                "P",
                _rate_after("upper bound", lambda r: 5 <= r.mean() <= 15),
            ),
            Statement("It costs little accuracy (5 points at most)", "P", _little_cost),
        ],
        columns=ACCURACY,
        notes=["One feed-forward hidden layer on spoken words (the network is our choice)."],
    )


def s5(options: Options) -> Study:
    """Recurrent shallow networks. Laptop: 3 min (those of figure 3) + 6 min."""
    units = [
        shallow_curve(options, "feed-forward"),
        shallow_curve(options, "recurrent", recurrent=True),
    ]

    def better(rows: Rows) -> Verdict:
        a, b = (
            values(pick(rows, arm=name, sigma_u=1.0), TEST)
            for name in ("recurrent", "feed-forward")
        )
        if not a.size or not b.size:
            return untested("not trained at sigma_u 1")
        return verdict(
            bool(a.mean() > b.mean()), f"{spread(a, '%')} recurrent, {spread(b, '%')} feed-forward"
        )

    return Study(
        name="s5",
        title="Figure S5: a recurrent hidden layer",
        preset=options.preset,
        units=units,
        draw=lambda rows: {"s5": draw.curves(rows, RATES)},
        statements=[
            trains_within(
                "A recurrent hidden layer trains for sigma_U <= 1, as the paper's one-layer "
                "networks",
                None,
                1.0,
                "ours",
                arm="recurrent",
            ),
            Statement("Recurrence helps at sigma_U = 1", "ours", better),
        ],
        columns=ACCURACY,
        notes=["We know no number or sentence of the paper about this figure."],
    )


def _saves(rows: Rows) -> Verdict:
    plain, other = pick(rows, arm=BASE), pick(rows, arm="rescaled")
    small = [v for v in accuracies(plain) if v in accuracies(other) and v < 1]
    if not small:
        return untested("no sigma_u below 1")
    v = small[0]
    a, b = accuracies(plain)[v], accuracies(other)[v]
    found = f"sigma_u {v:g}: {100 * a:.0f} % plain, {100 * b:.0f} % rescaled"
    ok = trained(plain)
    return (
        untested(f"there was nothing to save, {found}")
        if ok is None or ok[v]
        else verdict(b > a + DIFFERS, found)
    )


def _explodes(rows: Rows) -> Verdict:
    ratios = {}
    for v in accuracies(pick(rows, arm="rescaled")):
        a, b = (
            values(pick(rows, arm=name, sigma_u=v), "initial_grad_z_1")
            for name in (BASE, "rescaled")
        )
        if v >= 1 and a.size and a.mean() > 0:
            # some are too large for float32
            ratios[v] = float(b.mean() / a.mean()) if b.size else math.inf
    if not ratios:
        return untested("no gradient at sigma_u >= 1")
    found = ", ".join(
        f"sigma_u {v:g}: {f'{r:.2g} times' if math.isfinite(r) else 'not finite'}"
        for v, r in ratios.items()
    )
    return verdict(
        min(ratios.values()) > 100,
        f"|dL/dz| of layer 1 before training, rescaled over plain: {found}",
    )


def s8(options: Options) -> Study:
    """Rescaled surrogate.

    Laptop, three layers: 8 min (those of figure 4) + 3 min, because its networks stop early.
    """
    units = [
        conv_curve(options, 3, BASE),
        conv_curve(options, 3, "rescaled", surrogate="superspike_rescaled"),
    ]
    return Study(
        name="s8",
        title="Figure S8: a surrogate of slope 1 at rest",
        preset=options.preset,
        units=units,
        draw=lambda rows: {"s8": draw.curves(rows, GRADIENTS)},
        statements=[
            Statement("The rescaled surrogate saves silent networks", "P", _saves),
            Statement(
                "Its gradients explode once the networks spike (100 times and more, at every "
                "sigma_U >= 1)",
                "P",
                _explodes,
            ),
        ],
        columns=ACCURACY,
        notes=["Three layers are our choice."],
    )


def compare_ranges(
    arm: str, text: str, holds: Callable[[set[float], set[float]], bool]
) -> Statement:
    """Return a statement that compares the ranges of sigma_u in which two arms train.

    Each arm is judged relative to its own best accuracy.

    Args:
        arm: Name of the arm to compare with `BASE`.
        text: The statement.
        holds: A function from the values at which `BASE` trains, and those at which `arm` trains,
            to whether the statement holds.
    """

    def judge(rows: Rows) -> Verdict:
        sets = []
        for name in (BASE, arm):
            found = trained(pick(rows, arm=name))
            if found is None:
                return untested(f"no start of {name!r} trained: {curve(pick(rows, arm=name))}")
            sets.append({v for v, ok in found.items() if ok})
        found = "; ".join(f"{name}: {curve(pick(rows, arm=name))}" for name in (BASE, arm))
        return verdict(holds(*sets), found)

    return Statement(text, "P", judge)


def s9(options: Options) -> Study:
    """SGD. Laptop, three layers: 8 min (those of figure 4) + 7 min, with Adam for SMORMS3."""
    units = [
        conv_curve(options, 3, BASE),
        conv_curve(options, 3, "SGD", optimizer="sgd", learning_rate=1.0),
    ]
    return Study(
        name="s9",
        title="Figure S9: SGD",
        preset=options.preset,
        units=units,
        draw=lambda rows: {"s9": draw.curves(rows)},
        statements=[
            compare_ranges(
                "SGD",
                "SGD needs a tighter sigma_U than an adaptive optimizer (SMORMS3)",
                lambda base, sgd: sgd < base,
            )
        ],
        columns=ACCURACY,
        notes=[
            "Three layers and the learning rate are our choice. With one seed at sigma_u 1, "
            "networks learned with rate 1, less with 10, and hardly with 0.1 and 100.",
            "The laptop preset compares with Adam, not SMORMS3.",
        ],
    )


def s10(options: Options) -> Study:
    """Skip connections.

    Laptop, seven layers: 21 min (those of figure 4) + 21 min while other programs ran (one seed).
    """
    units = [conv_curve(options, 7, BASE), conv_curve(options, 7, "skip", seeds=1, skip=True)]
    return Study(
        name="s10",
        title="Figure S10: skip connections to the readout",
        preset=options.preset,
        units=units,
        draw=lambda rows: {"s10": draw.curves(rows)},
        statements=[
            compare_ranges(
                "skip",
                "Skip connections widen the range of sigma_U downwards",
                lambda base, skip: min(skip) < min(base),
            ),
            compare_ranges(
                "skip",
                "Skip connections widen the range of sigma_U upwards",
                lambda base, skip: max(skip) > max(base),
            ),
        ],
        columns=ACCURACY,
        notes=["Seven layers are our choice."],
    )
