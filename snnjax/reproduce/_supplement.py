"""Figures S4, S5, S8, S9 and S10 of the supplement: each changes one setting of a curve."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from snnjax import _style
from snnjax.experiments._curves import curves
from snnjax.reproduce import _statements as st
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import BANDS, CURVES, ZEROS, Study

BASE = "as the paper's other figures"
_ACCURACIES = {"test accuracy (%)": st.TEST, "training accuracy (%)": st.TRAIN}
RATES = {
    **_ACCURACIES,
    "rate before training (Hz)": "initial_rate_1",
    "rate after training (Hz)": "final_rate_1",
}
RATES_OVER = (
    "Accuracy, and rate of the hidden layer before and after training, over the target sigma_U."
)
GRADIENTS = {**_ACCURACIES, f"{_style.GRAD_Z}, layer 1\nbefore training": "initial_grad_z_1"}


def _rate_after(text: str, arm: str, holds: Callable[[float], bool]) -> st.Statement:
    """Return a statement on the mean rate after training, Hz, at sigma_u 1."""

    def judge(rows: st.Rows) -> st.Verdict:
        rates = st.values(st.pick(rows, arm=arm, sigma_u=1.0), "final_rate_1")
        if not rates.size:
            return st.untested("not trained at sigma_u 1")
        return st.verdict(holds(float(rates.mean())), f"{st.spread(rates, 'Hz')} at sigma_u 1")

    return st.Statement(text, "P", judge)


def s4(options: Options) -> Study:
    """Regularization. Laptop: 3 + 4 min."""
    bound, free = "upper bound", "no upper bound"
    return Study(
        name="s4",
        title="Figure S4: activity regularization",
        preset=options.preset,
        units=[options.shallow_curve(bound), options.shallow_curve(free, {"upper_strength": 0.0})],
        figures={"s4": functools.partial(curves, panels=RATES)},
        captions={"s4": f"{RATES_OVER} With and without the upper bound on activity. {BANDS}"},
        statements=[
            _rate_after(
                "Without activity regularization trained rates exceed 60 Hz",
                free,
                lambda rate: rate > 60,
            ),
            _rate_after(
                "With it they are about the bound, 10 Hz (5 to 15)",
                bound,
                lambda rate: 5 <= rate <= 15,
            ),
            st.compared(
                "It costs little accuracy (5 points at most)",
                "P",
                (bound, free),
                lambda a, b: a.mean() > b.mean() - st.DIFFERS,
                sigma_u=1.0,
            ),
        ],
        notes=["One feed-forward hidden layer on spoken words (the network is our choice)."],
    )


def s5(options: Options) -> Study:
    """Recurrent shallow networks. Laptop: 3 min (those of figure 3) + 6 min."""
    plain, recurrent = "feed-forward", "recurrent"
    trains = "A recurrent hidden layer trains for sigma_U <= 1, as the paper's one-layer networks"
    return Study(
        name="s5",
        title="Figure S5: a recurrent hidden layer",
        preset=options.preset,
        units=[options.shallow_curve(plain), options.shallow_curve(recurrent, {"recurrent": True})],
        figures={"s5": functools.partial(curves, panels=RATES)},
        captions={"s5": f"{RATES_OVER} {BANDS}"},
        statements=[
            st.trains_within(trains, None, 1.0, "ours", arm=recurrent),
            st.compared(
                "Recurrence helps at sigma_U = 1",
                "ours",
                (recurrent, plain),
                lambda a, b: a.mean() > b.mean(),
                sigma_u=1.0,
            ),
        ],
        notes=["We know no number or sentence of the paper about this figure."],
    )


def _saves(rows: st.Rows) -> st.Verdict:
    plain = st.pick(rows, arm=BASE)
    a, b = st.accuracies(plain), st.accuracies(st.pick(rows, arm="rescaled"))
    small = [v for v in a if v in b and v < 1]
    if not small:
        return st.untested("no sigma_u below 1")
    v, ok = small[0], st.trained(plain)
    found = f"sigma_u {v:g}: {100 * a[v]:.0f} % plain, {100 * b[v]:.0f} % rescaled"
    if ok is None or ok[v]:
        return st.untested(f"there was nothing to save, {found}")
    return st.verdict(b[v] > a[v] + st.DIFFERS, found)


def _explodes(rows: st.Rows) -> st.Verdict:
    ratios = {}
    for v in st.accuracies(st.pick(rows, arm="rescaled")):
        a, b = (
            st.values(st.pick(rows, arm=name, sigma_u=v), "initial_grad_z_1")
            for name in (BASE, "rescaled")
        )
        if v >= 1 and a.size and a.mean() > 0:
            # some are too large for float32
            ratios[v] = float(b.mean() / a.mean()) if b.size else math.inf
    if not ratios:
        return st.untested("no gradient at sigma_u >= 1")
    times = lambda r: f"{r:.2g} times" if math.isfinite(r) else "not finite"
    found = ", ".join(f"sigma_u {v:g}: {times(r)}" for v, r in ratios.items())
    text = f"|dL/dz| of layer 1 before training, rescaled over plain: {found}"
    return st.verdict(min(ratios.values()) > 100, text)


def s8(options: Options) -> Study:
    """Rescaled surrogate.

    Laptop, three layers: 8 min (those of figure 4) + 3 min, because its networks stop early.
    """
    explodes = (
        "Its gradients explode once the networks spike (100 times and more, at every sigma_U >= 1)"
    )
    return Study(
        name="s8",
        title="Figure S8: a surrogate of slope 1 at rest",
        preset=options.preset,
        units=[
            options.conv_curve(BASE, 3),
            options.conv_curve("rescaled", 3, {"surrogate": "superspike_rescaled"}),
        ],
        figures={
            "s8": functools.partial(curves, panels=GRADIENTS, names={BASE: "usual surrogate"})
        },
        captions={
            "s8": "Accuracy, and gradient of the loss with respect to the spikes of the first "
            f"layer before training, over the target sigma_U. {BANDS} {ZEROS} Values too large "
            "for float32 are left out."
        },
        statements=[
            st.Statement("The rescaled surrogate saves silent networks", "P", _saves),
            st.Statement(explodes, "P", _explodes),
        ],
        notes=["Three layers are our choice."],
    )


def compare_ranges(
    arm: str, text: str, holds: Callable[[set[float], set[float]], bool]
) -> st.Statement:
    """Return a statement that compares the ranges of sigma_u in which two arms train.

    Each arm is judged relative to its own best accuracy.

    Args:
        arm: Name of the arm to compare with `BASE`.
        text: The statement.
        holds: A function from the values at which `BASE` trains, and those at which `arm` trains,
            to whether the statement holds.
    """

    def judge(rows: st.Rows) -> st.Verdict:
        sets, shown = [], []
        for name in (BASE, arm):
            own = st.pick(rows, arm=name)
            found = st.trained(own)
            if found is None:
                return st.untested(f"no start of {name!r} trained: {st.curve(own)}")
            sets.append({v for v, ok in found.items() if ok})
            shown.append(f"{name}: {st.curve(own)}")
        return st.verdict(holds(*sets), "; ".join(shown))

    return st.Statement(text, "P", judge)


def s9(options: Options) -> Study:
    """SGD. Laptop, three layers: 8 min (those of figure 4) + 7 min, with Adam for SMORMS3."""
    text = "SGD needs a tighter sigma_U than an adaptive optimizer (SMORMS3)"
    return Study(
        name="s9",
        title="Figure S9: SGD",
        preset=options.preset,
        units=[
            options.conv_curve(BASE, 3),
            options.conv_curve("SGD", 3, {"optimizer": "sgd", "learning_rate": 1.0}),
        ],
        figures={
            "s9": functools.partial(curves, names={BASE: "Adam" if options.laptop else "SMORMS3"})
        },
        captions={"s9": f"An adaptive optimizer and SGD. {CURVES}"},
        statements=[compare_ranges("SGD", text, lambda base, sgd: sgd < base)],
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
    text = "Skip connections widen the range of sigma_U"
    return Study(
        name="s10",
        title="Figure S10: skip connections to the readout",
        preset=options.preset,
        units=[
            options.conv_curve(BASE, 7),
            options.conv_curve("skip", 7, {"skip": True}, seeds=1),
        ],
        figures={"s10": functools.partial(curves, names={BASE: "no skip", "skip": "skip"})},
        captions={"s10": f"Seven layers with and without skip connections. {CURVES}"},
        statements=[
            compare_ranges("skip", f"{text} downwards", lambda base, own: min(own) < min(base)),
            compare_ranges("skip", f"{text} upwards", lambda base, own: max(own) > max(base)),
        ],
        notes=["Seven layers are our choice."],
    )
