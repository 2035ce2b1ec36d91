"""Figure 7: Dale's law, over sigma_U.

One recurrent layer of 128 excitatory and 32 inhibitory neurons is compared with one of 160 neurons
without Dale's law.
"""

from __future__ import annotations

from snnjax.experiments._curves import curves
from snnjax.reproduce import _statements as st
from snnjax.reproduce._published import NUMBERS
from snnjax.reproduce._settings import TWO_SPEAKERS, Options
from snnjax.reproduce._study import CURVES, Study
from snnjax.reproduce._units import Arm

PLAIN, DALIAN = "without Dale's law", "Dalian"


def _arm(options: Options, name: str, model: str, hidden: int) -> Arm:
    over = options.sigmas((0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    changes: dict[str, object] = {"recurrent": True, "model": model}
    if not options.smoke:
        changes["hidden"] = (hidden,)
    if options.laptop:
        changes |= {**TWO_SPEAKERS, "batch_size": 25, "epochs": 30}
    source = "two speakers" if options.laptop else None
    return options.arm(name, "shallow", over, 5, changes, source=source)


def study(options: Options) -> Study:
    """Return the study.

    Laptop: two speakers, 7 sigma_u x 5 seeds x 30 epochs of 0.74 s (without Dale's law) and 0.92 s
    on one core (measured); about 15 minutes.
    """
    at = {"arm": DALIAN, "sigma_u": 1.0}
    text, numbers = "SHD, Dalian, sigma_U = 1", NUMBERS
    return Study(
        name="figure7",
        title="Figure 7: Dale's law",
        preset=options.preset,
        units=[_arm(options, PLAIN, "dense", 160), _arm(options, DALIAN, "dalian", 128)],
        figures={"figure7": curves},
        captions={"figure7": f"One recurrent layer with and without Dale's law. {CURVES}"},
        statements=[
            st.number(f"{text}, test accuracy", numbers["shd.dalian.test"], st.TEST, **at),
            st.number(f"{text}, training accuracy", numbers["shd.dalian.train"], st.TRAIN, **at),
            st.compared(
                "A Dalian network ends at most 5 points below one without the law",
                "ours",
                (DALIAN, PLAIN),
                lambda dalian, plain: dalian.mean() > plain.mean() - 0.05,
                sigma_u=1.0,
            ),
        ],
        notes=["Equal numbers of neurons with and without the law, 160, are our choice."],
    )
