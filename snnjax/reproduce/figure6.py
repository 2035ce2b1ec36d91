"""Figure 6 and table 1: Kaiming and fluctuation-driven weights across tasks and depths.

Kaiming weights are shown with and without homeostasis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from snnjax.reproduce.arms import Arm
from snnjax.reproduce.curves import conv_curve
from snnjax.reproduce.published import TABLE_1
from snnjax.reproduce.report import ACCURACY
from snnjax.reproduce.settings import Options, Task, cifar10, conv, dvs_gesture
from snnjax.reproduce.statements import (
    DIFFERS,
    TEST,
    Rows,
    Statement,
    Verdict,
    number,
    pick,
    spread,
    untested,
    values,
    verdict,
)
from snnjax.reproduce.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STARTS = ("Kaiming", "Kaiming + homeostasis", "fluctuation-driven")


def _arms(options: Options, task: Task, published: str, depth: int, laptop_seeds: int) -> list[Arm]:
    """Return one arm for each initialization that table 1 has for the network.

    Arms have the names of the table. The column `task` names the data that are used here.
    """
    seeds = options.seeds_of(laptop_seeds)
    changes = {
        "Kaiming": {"init": "kaiming"},
        "Kaiming + homeostasis": {"init": "kaiming", "lower_strength": 100.0},
        "fluctuation-driven": {},
    }
    out = []
    for start in STARTS:
        if (published, depth, start) in TABLE_1:
            facts = {"network": f"{published} {depth}", "start": start}
            # figure 4 has trained this network
            if options.smoke and published == "SHD" and start == "fluctuation-driven":
                curve = conv_curve(options, depth, "")
                out.append(
                    Arm(
                        _name(published, depth, start), curve.task, curve.varied, curve.seeds, facts
                    )
                )
                continue
            out.append(
                Arm(_name(published, depth, start), task.change(**changes[start]), {}, seeds, facts)
            )
    return out


def _name(task: str, depth: int, start: str) -> str:
    return f"{task}, {depth} layers, {start}"


def _draw(rows: Rows) -> Mapping[str, Figure]:
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(1.6 + 1.3 * len(networks), 3.4), layout="constrained")
    axes = figure.subplots()
    for k, start in enumerate(STARTS):
        found = [values(pick(rows, network=network, start=start), TEST) for network in networks]
        at = np.arange(len(networks)) + 0.27 * (k - 1)
        shown = [(x, 100 * f) for x, f in zip(at, found, strict=True) if f.size]
        axes.bar(
            [x for x, _ in shown],
            [f.mean() for _, f in shown],
            0.25,
            yerr=[f.std() for _, f in shown],
            color=f"C{k}",
            label=f"{start}, here",
        )
        theirs = [
            (x, TABLE_1[key].value)
            for x, n in zip(at, networks, strict=True)
            if (key := (*_split(n), start)) in TABLE_1
        ]
        axes.plot(
            [x for x, _ in theirs],
            [v for _, v in theirs],
            "k_",
            ms=12,
            label="published, the paper's data" if k == 0 else None,
        )
    axes.set(ylabel="test accuracy (%)", ylim=(0, 102))
    axes.set_xticks(
        np.arange(len(networks)),
        [f"{pick(rows, network=n)[0]['task']}\n{_split(n)[1]} layers" for n in networks],
        fontsize=8,
    )
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return {"figure6": figure}


def _table(rows: Rows) -> str:
    """Return table 1: our numbers, with the published ones below."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = [f"| task | layers | {' | '.join(STARTS)} |", "|---|---|" + "---|" * len(STARTS)]
    for network in networks:
        (task, depth), own = _split(network), pick(rows, network=network)
        ours = [values(pick(own, start=start), TEST) for start in STARTS]
        theirs = [TABLE_1.get((task, depth, start)) for start in STARTS]
        lines.append(
            f"| {own[0]['task']}, here | {depth} | "
            f"{' | '.join(spread(f, '%') if f.size else '' for f in ours)} |"
        )
        lines.append(
            f"| {task}, published | {depth} | "
            f"{' | '.join('' if p is None else str(p) for p in theirs)} |"
        )
    return "\n".join(lines)


def _split(network: str) -> tuple[str, int]:
    task, depth = network.rsplit(" ", 1)
    return task, int(depth)


def _fails(task: str, depth: int) -> Statement:
    def judge(rows: Rows) -> Verdict:
        chosen = pick(rows, arm=_name(task, depth, "Kaiming"))
        if not chosen:
            return untested("not trained here")
        found = values(chosen, TEST)
        return verdict(bool(found.mean() < chosen[0]["chance"] + 0.05), spread(found, "%"))

    return Statement(f"{task}, {depth} layers: Kaiming weights stay at chance", "P", judge)


def _better(task: str, depth: int, one: str, other: str, text: str) -> Statement:
    """Return the statement that `one` ends with a higher mean accuracy than `other`.

    The difference must exceed 5 points and the joint spread.
    """

    def judge(rows: Rows) -> Verdict:
        a, b = (values(pick(rows, arm=_name(task, depth, start)), TEST) for start in (one, other))
        if not a.size or not b.size:
            return untested("not trained here")
        joint = math.hypot(*(float(f.std(ddof=1)) if f.size > 1 else 0.0 for f in (a, b)))
        return verdict(
            bool(a.mean() - b.mean() > max(DIFFERS, joint)),
            f"{one} {spread(a, '%')}, {other} {spread(b, '%')}",
        )

    return Statement(text, "P", judge)


def study(options: Options) -> Study:
    """Return the study.

    Laptop, both cores, while other programs ran: spoken digits 6 min (3 layers) and 16 min (7),
    CIFAR-10 4 min (2) and 18 min (4), without DVS-Gesture.
    """
    smoke = options.smoke
    units = []
    for depth in (7,) if smoke else (3, 7):
        units += _arms(options, conv(options, depth), "SHD", depth, 2)
    for depth in (2,) if smoke else (2, 4):
        units += _arms(options, cifar10(options, depth), "CIFAR-10", depth, 2)
    if options.preset == "paper":
        for depth in (6, 8):
            units += _arms(options, dvs_gesture(options, depth), "DVS-Gesture", depth, 1)
    if smoke:  # one network per task, which no other figure has trained, is enough
        units = [unit for unit in units if unit.facts["start"] != "Kaiming"]
    deep = (("SHD", 7), ("CIFAR-10", 4), ("DVS-Gesture", 8))
    one = {"sigma_u": 1.0} if smoke else {}
    return Study(
        name="figure6",
        title="Figure 6 and table 1: starts, tasks and depths",
        preset=options.preset,
        units=units,
        draw=_draw,
        table=_table,
        statements=[
            *(
                number(
                    f"{_name(*key)}, test accuracy",
                    value,
                    TEST,
                    arm=_name(*key),
                    **(one if key[2] == STARTS[2] else {}),
                )
                for key, value in TABLE_1.items()
            ),
            *(_fails(task, depth) for task, depth in deep),
            *(
                _better(
                    task,
                    depth,
                    "Kaiming + homeostasis",
                    "Kaiming",
                    f"{task}, {depth} layers: homeostasis rescues Kaiming weights",
                )
                for task, depth in deep
            ),
            *(
                _better(
                    task,
                    depth,
                    "fluctuation-driven",
                    "Kaiming",
                    f"{task}, {depth} layers: fluctuation-driven weights train",
                )
                for task, depth in deep
            ),
        ],
        columns=ACCURACY,
        notes=[
            "CIFAR-10: length of a trial, batch, mirroring, bounds, and widths beyond two blocks "
            "are our choice (`snnjax.models.csnn2d`).",
            "DVS-Gesture has arms in the paper preset only. Its networks are trained one after "
            "another, because their data are streamed.",
        ],
    )
