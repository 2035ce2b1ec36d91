"""Figure 3: one hidden layer.

Accuracy, rates and gradients over sigma_U, accuracy over mean and standard deviation of the
weights, and snapshots of the activity.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from snnjax import plotting
from snnjax.reproduce import _statements as st
from snnjax.reproduce._published import NUMBERS
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import BANDS, ZEROS, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, CURVE = "Randman, the paper's settings", "Randman"
MAP, SPOKEN = "Randman, weights", "spoken words"


def _curves(arm: str, rows: st.Rows) -> Figure:
    return plotting.sweep_curves(st.pick(rows, arm=arm), "sigma_u")


def _cells(rows: st.Rows) -> dict[tuple[float, float], float]:
    """Return the mean test accuracy for each mu_W and sigma_W."""
    chosen = st.pick(rows, arm=MAP)
    cells = dict.fromkeys((row["mu_w"], row["sigma_w"]) for row in chosen)
    own = lambda m, s: st.values(st.pick(chosen, mu_w=m, sigma_w=s), st.TEST)
    return {cell: float(own(*cell).mean()) for cell in cells}


def _few(cells: dict[tuple[float, float], float]) -> st.Verdict | None:
    few = "fewer than nine combinations of mu_W and sigma_W"
    return st.untested(few) if len(cells) < 9 else None


def _best(rows: st.Rows) -> st.Verdict:
    cells = _cells(rows)
    if few := _few(cells):
        return few
    (mu, sigma), top = max(cells.items(), key=lambda item: item[1])
    found = f"best at mu_W {mu:g}, sigma_W {sigma:g}: {100 * top:.0f} %"
    return st.verdict(mu <= 0 and 0.3 <= sigma <= 3, found)


def _wide(rows: st.Rows) -> st.Verdict:
    cells = _cells(rows)
    if few := _few(cells):
        return few
    low, top = st.pick(rows, arm=MAP)[0]["chance"], max(cells.values())
    trains = {cell: a >= low + 0.5 * (top - low) for cell, a in cells.items()}
    inside = [cell for cell in cells if -2 <= cell[0] <= 0 and cell[1] < 10]
    failed = [f"mu_W {m:g}, sigma_W {s:g}" for m, s in inside if not trains[m, s]]
    outside = [ok for cell, ok in trains.items() if cell not in inside]
    text = (
        f"{len(inside) - len(failed)} of {len(inside)} combinations in this region train, and "
        f"{sum(outside)} of {len(outside)} elsewhere"
    )
    return st.verdict(not failed, f"{text}; not {', '.join(failed[:4])}" if failed else text)


def study(options: Options) -> Study:
    """Return the study.

    Laptop, both cores: the settings of the paper 4 min, curves 7 + 7 min, map 2 min; about 20
    minutes.
    """
    sigmas = options.sigmas((0.01, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0))
    curve = options.arm(CURVE, "randman", sigmas, 3)
    cells = {
        "mu_w": options.choose(
            (0.0, -1.0),
            (-4.0, -2.0, -1.0, 0.0, 2.0),
            (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0),
        ),
        "sigma_w": options.choose(
            (1.0,),
            (0.1, 0.5, 1.0, 5.0, 20.0),
            (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0, 30.0, 100.0),
        ),
    }
    few = {"samples": 500, "learning_rate": 0.01, "epochs": 8} if options.laptop else {}
    heat = options.arm(MAP, "randman", cells, 2, {"init": "normal", **few})
    units, own = [curve], CURVE
    # smoke skips the long training; in the paper preset the curve itself has these settings
    if options.laptop:
        seeds, own = len(options.seeds_of(3)), PAPER
        paper = Options("paper", seeds=seeds)
        units.append(paper.arm(PAPER, "randman", {"sigma_u": (1.0,)}, seeds))
    units += [heat, options.shallow_curve(SPOKEN)]
    shown = [1.0] if options.smoke else [0.1, 1.0, 20.0]
    randman = functools.partial(st.number, arm=own, sigma_u=1.0)
    spoken = functools.partial(st.number, arm=SPOKEN, sigma_u=1.0)
    shallow = "SHD, feed-forward, sigma_U = 1"
    rate = "Randman, sigma_U = 1, rate of the hidden layer before training"
    wide = "Randman: trains in the wide region -2 <= mu_W <= 0, sigma_W < 10"
    return Study(
        name="figure3",
        title="Figure 3: one hidden layer",
        preset=options.preset,
        units=units,
        figures={
            "figure3-randman": lambda rows: _curves(CURVE, rows),
            "figure3-weights": lambda rows: plotting.sweep_maps(
                st.pick(rows, arm=MAP), "mu_w", "sigma_w"
            ),
            "figure3-spoken": lambda rows: _curves(SPOKEN, rows),
        },
        captions={
            "figure3-randman": f"{CURVE}: accuracy, rate and gradient over the target sigma_U. "
            f"{BANDS} {ZEROS}",
            "figure3-weights": "Randman: accuracy, rate and gradient over mean and standard "
            "deviation of the weights. Colours: means over seeds. White: no finite value, or a "
            "gradient of exactly 0.",
            "figure3-spoken": "Spoken words, one feed-forward layer: accuracy, rate and gradient "
            f"over the target sigma_U. {BANDS} {ZEROS}",
        },
        statements=[
            randman("Randman, sigma_U = 1, test accuracy", NUMBERS["randman.test"], st.TEST),
            randman("Randman, sigma_U = 1, training accuracy", NUMBERS["randman.train"], st.TRAIN),
            randman(rate, NUMBERS["randman.rate"], "initial_rate_1"),
            st.Statement("Randman: best region mu_W <= 0, sigma_W near 1 (0.3 to 3)", "P", _best),
            st.Statement(wide, "P", _wide),
            spoken(f"{shallow}, test accuracy", NUMBERS["shd.shallow.test"], st.TEST),
            spoken(f"{shallow}, training accuracy", NUMBERS["shd.shallow.train"], st.TRAIN),
        ],
        notes=[
            "The upper bound is at 10 Hz for Randman as for all tasks (the paper's text). The "
            "published example has 4 spikes per trial, 20 Hz.",
            "Values of the swept parameters that the paper does not name are our choice.",
        ],
        snapshots=[(curve, {"sigma_u": v, "seed": 0}) for v in shown],
    )
