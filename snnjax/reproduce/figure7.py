"""Figure 7: Dale's law, over sigma_U.

One recurrent layer of 128 excitatory and 32 inhibitory neurons is compared with one of 160 neurons
without Dale's law.
"""

from __future__ import annotations

from snnjax.reproduce import draw
from snnjax.reproduce.arms import Arm
from snnjax.reproduce.curves import sigmas
from snnjax.reproduce.published import NUMBERS
from snnjax.reproduce.report import ACCURACY
from snnjax.reproduce.settings import Options, Task, shallow
from snnjax.reproduce.statements import (
    TEST,
    Rows,
    Statement,
    Verdict,
    curve,
    number,
    pick,
    spread,
    untested,
    values,
    verdict,
)
from snnjax.reproduce.study import Study

PLAIN, DALIAN = "without Dale's law", "Dalian"


def _as_good(rows: Rows) -> Verdict:
    plain, dalian = (values(pick(rows, arm=name, sigma_u=1.0), TEST) for name in (PLAIN, DALIAN))
    if not plain.size or not dalian.size:
        return untested("not trained at sigma_u 1")
    found = (
        f"{spread(dalian, '%')} against {spread(plain, '%')} at sigma_u 1; "
        f"Dalian over sigma_u {curve(pick(rows, arm=DALIAN))}"
    )
    return verdict(bool(dalian.mean() > plain.mean() - 0.05), found)


def study(options: Options) -> Study:
    """Return the study.

    Laptop: two speakers, 7 sigma_u x 5 seeds x 30 epochs of 0.74 s (without Dale's law) and 0.92 s
    on one core (measured); about 15 minutes.
    """
    arms = []
    for name, model in ((PLAIN, "dense"), (DALIAN, "dalian")):
        task = shallow(options, recurrent=True, model=model)  # type: ignore[arg-type]
        if not options.smoke:
            task = task.change(hidden=(160,) if name == PLAIN else (128,))
        if options.preset == "laptop":
            changes = {
                "duration": 0.4,
                "dt": 5e-3,
                "valid_fraction": 0.25,
                "batch_size": 25,
                "epochs": 30,
            }
            task = Task(task.change(**changes).config, "two speakers", task.facts)
        arms.append(
            Arm(
                name,
                task,
                {"sigma_u": sigmas(options, (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))},
                options.seeds_of(5),
            )
        )
    return Study(
        name="figure7",
        title="Figure 7: Dale's law",
        preset=options.preset,
        units=arms,
        draw=lambda rows: {"figure7": draw.curves(rows)},
        statements=[
            number(
                "SHD, Dalian, sigma_U = 1, test accuracy",
                NUMBERS["shd.dalian.test"],
                TEST,
                arm=DALIAN,
                sigma_u=1.0,
            ),
            number(
                "SHD, Dalian, sigma_U = 1, training accuracy",
                NUMBERS["shd.dalian.train"],
                "train_accuracy",
                arm=DALIAN,
                sigma_u=1.0,
            ),
            Statement(
                "A Dalian network ends at most 5 points below one without the law", "ours", _as_good
            ),
        ],
        columns=ACCURACY,
        notes=["Equal numbers of neurons with and without the law, 160, are our choice."],
    )
