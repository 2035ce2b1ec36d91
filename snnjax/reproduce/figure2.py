"""Figure 2: target and measured sigma_U on Poisson input, Randman and spoken words.

Weights are those of the paper's formula, or measured on the data (ours).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from snnjax.reproduce import data as _data
from snnjax.reproduce import draw, membranes
from snnjax.reproduce.arms import Measurement, Row
from snnjax.reproduce.settings import Options, shallow
from snnjax.reproduce.statements import Rows, Statement, Verdict, pick, untested, values, verdict
from snnjax.reproduce.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMULA, DATA, BALANCED = membranes.METHODS


def _rows(
    show: Callable[[], tuple[jax.Array, float]], method: str, given: Mapping[str, Any]
) -> list[Row]:
    x, nu = show()
    rows = []
    for sigma_u in given["sigma_u"]:
        for seed in range(given["seeds"]):
            variance, spread, predicted, rate, silent = membranes.measure(
                x,
                nu,
                sigma_u,
                method,
                seed,
                depth=given["depth"],
                width=given["width"],
                dt=given["dt"],
            )
            for k in range(given["depth"]):
                row = {
                    "sigma_u": sigma_u,
                    "seed": seed,
                    "layer": k + 1,
                    "method": method,
                    "measured": float(np.sqrt(variance[k])),
                }
                row |= {
                    "ratio": row["measured"] / sigma_u,
                    "rate": float(rate[k]),
                    "silent": float(silent[k]),
                }
                rows.append(
                    row
                    | {
                        "quenched": float(np.sqrt(spread[k])),
                        "quenched_predicted": float(np.sqrt(predicted[k])),
                    }
                )
    return rows


def _draw(rows: Rows) -> Mapping[str, Figure]:
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    last = max(row["layer"] for row in rows)
    figure = Figure(figsize=(3.4 * len(tasks), 6), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False)
    for k, task in enumerate(tasks):
        for j, layer in enumerate((1, last)):
            ax = axes[j, k]
            for c, method in enumerate(membranes.METHODS):
                draw.line(
                    ax,
                    pick(rows, task=task, method=method, layer=layer),
                    "sigma_u",
                    "measured",
                    color=f"C{c}",
                    label=method,
                )
            targets = sorted({row["sigma_u"] for row in rows})
            ax.plot(targets, targets, color="k", ls=":", lw=1.5, zorder=3, label="target")
            draw.finish(ax, x="sigma_u", y=r"measured $\sigma_U$" if k == 0 else "", log_y=False)
            ax.set_title(f"{task}, layer {layer}", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return {"figure2": figure}


def _ratio(
    task: str, method: str, low: float, high: float, *, layer: int | None = 1
) -> Callable[[Rows], Verdict]:
    def judge(rows: Rows) -> Verdict:
        chosen = (
            pick(rows, task=task, method=method)
            if layer is None
            else pick(rows, task=task, method=method, layer=layer)
        )
        if not chosen:
            return untested(f"{task} not measured here")
        by = {(row["layer"], row["sigma_u"]): 0 for row in chosen}
        ratios = [float(values(pick(chosen, layer=k, sigma_u=s), "ratio").mean()) for k, s in by]
        return verdict(
            all(low <= r <= high for r in ratios),
            f"measured / target {min(ratios):.2f} to {max(ratios):.2f}",
        )

    return judge


def study(options: Options) -> Study:
    """Return the study.

    Laptop: 3 inputs x 3 methods, each compiled once, 3 targets x 4 seeds; about 4 minutes.
    """
    given: dict[str, Any] = {
        "depth": 3,
        "width": 128,
        "dt": membranes.DT,
        "samples": 100,
        "sigma_u": [0.5, 1.0, 2.0],
        "seeds": len(options.seeds_of(4)),
    }
    if options.smoke:
        given |= {"depth": 1, "width": 16, "samples": 6, "sigma_u": [1.0]}
    n = given["samples"]
    inputs: dict[str, Callable[[], tuple[jax.Array, float]]] = {
        "Poisson": lambda: membranes.poisson_input(n),
        "Randman": lambda: membranes.randman_input(n),
    }
    spoken = shallow(options)
    if options.smoke:
        inputs = {
            spoken.facts["task"]: lambda: membranes.events_input(
                _data.SOURCES[spoken.source](spoken.config)[0], n
            )
        }
    else:
        inputs[spoken.facts["task"]] = lambda: membranes.spoken_input(spoken.config.data, n)
    units = []
    for task, show in inputs.items():
        facts = {**spoken.facts, "task": task}
        for method in membranes.METHODS:
            measured = functools.partial(_rows, show, method, given)
            units.append(
                Measurement(
                    f"{task}, {method}", {"input": task, "method": method, **given}, measured, facts
                )
            )
    words = spoken.facts["task"]
    return Study(
        name="figure2",
        title="Figure 2: target and measured sigma_U",
        preset=options.preset,
        units=units,
        draw=_draw,
        statements=[
            Statement(
                "Poisson input: sigma_U measured in the first layer is that of the formula "
                "(within 10 %)",
                "P",
                _ratio("Poisson", FORMULA, 0.9, 1.1),
            ),
            Statement(
                "Randman is not Poisson: 0.84 of the target in the first layer (within 0.1)",
                "ours",
                _ratio("Randman", FORMULA, 0.74, 0.94),
            ),
            Statement(
                "Spoken words are not Poisson: more than 1.5 times the target in the first layer",
                "ours",
                _ratio(words, FORMULA, 1.5, 10.0),
            ),
            Statement(
                "Weights measured on the data hit the target in every layer (within 10 %), "
                f"{words}",
                "ours",
                _ratio(words, DATA, 0.9, 1.1, layer=None),
            ),
            Statement(
                f"Balanced weights hit the target in every layer, too, {words}",
                "ours",
                _ratio(words, BALANCED, 0.9, 1.1, layer=None),
            ),
        ],
        columns={
            "measured": ("measured", ""),
            "measured / target": ("ratio", ""),
            "rate": ("rate", "Hz"),
            "silent": ("silent", "%"),
        },
        notes=[
            "Three dense layers of 128; the paper has one layer. Methods other than the formula "
            "are ours.",
            "We know no published number for this figure. The statements on Randman and spoken "
            "words are earlier measurements of this project with the formula.",
        ],
    )
