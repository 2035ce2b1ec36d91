"""Figure 2: target and measured sigma_U on Poisson input, Randman and spoken words.

Weights are those of the paper's formula, or measured on the data (ours).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snnjax import _style, plotting
from snnjax.reproduce import _membranes
from snnjax.reproduce import _statements as st
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import Study
from snnjax.reproduce._units import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMULA, DATA, BALANCED = _membranes.METHODS
Input = Callable[[int], _membranes.Trials]
"""A function of the number of samples."""


def _rows(
    show: Input,
    method: str,
    *,
    sigma_u: Sequence[float],
    seeds: int,
    samples: int,
    depth: int,
    width: int,
    dt: float,
) -> list[st.Row]:
    trials, rows = show(samples), []
    for target, seed in itertools.product(sigma_u, range(seeds)):
        numbers = _membranes.measure(trials, target, method, seed, depth=depth, width=width, dt=dt)
        for layer, (variance, spread, predicted, rate, silent) in enumerate(numbers.T, start=1):
            rows.append(
                {
                    "sigma_u": target,
                    "seed": seed,
                    "layer": layer,
                    "method": method,
                    "measured": float(np.sqrt(variance)),
                    "ratio": float(np.sqrt(variance)) / target,
                    "rate": float(rate),
                    "silent": float(silent),
                    "quenched": float(np.sqrt(spread)),
                    "quenched_predicted": float(np.sqrt(predicted)),
                }
            )
    return rows


STYLES = {
    FORMULA: ("formula", _style.FORMULA, "-"),
    DATA: ("from data", _style.ORANGE, "-"),
    BALANCED: ("from data, balanced", _style.DATA, "--"),
}
"""Label, colour and style of the line of each method."""


@_style.styled
def _draw(rows: st.Rows) -> Figure:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    layers = sorted({1, max(row["layer"] for row in rows)})
    targets = sorted({row["sigma_u"] for row in rows})
    figure, panels = _style.panels(len(tasks) * len(layers), columns=len(layers), height=2.1)
    for axes, (task, layer) in zip(panels, itertools.product(tasks, layers), strict=True):
        for method, (label, color, ls) in STYLES.items():
            own = st.pick(rows, task=task, method=method, layer=layer)
            plotting.line(axes, own, "sigma_u", "measured", color=color, label=label, ls=ls)
        axes.plot(targets, targets, color=_style.DARK, ls=":", zorder=3, label="target")
        plotting.finish(axes, x="sigma_u", y=r"measured $\sigma_U$")
        axes.set_title(f"{task}, layer {layer}")
        axes.set_ylim(bottom=0)
    _style.legend_above(figure)
    return figure


def _ratio(
    text: str, between: tuple[float, float], source: st.Source = "ours", **where: object
) -> st.Statement:
    """Return the statement that measured / target is between two numbers, at every sigma_u."""

    def judge(rows: st.Rows) -> st.Verdict:
        chosen = st.pick(rows, **where)
        if not chosen:
            return st.untested(f"{where['task']} not measured here")
        cells = {(row["layer"], row["sigma_u"]) for row in chosen}
        own = lambda k, s: st.values(st.pick(chosen, layer=k, sigma_u=s), "ratio")
        ratios = [float(own(*cell).mean()) for cell in cells]
        found = f"measured / target {min(ratios):.2f} to {max(ratios):.2f}"
        return st.verdict(all(between[0] <= r <= between[1] for r in ratios), found)

    return st.Statement(text, source, judge)


def study(options: Options) -> Study:
    """Return the study.

    Laptop: 3 inputs x 3 methods, each compiled once, 3 targets x 4 seeds; about 4 minutes.
    """
    given: dict[str, Any] = {"depth": 3, "width": 128, "dt": _membranes.DT, "samples": 100}
    given |= {"sigma_u": [0.5, 1.0, 2.0], "seeds": len(options.seeds_of(4))}
    if options.smoke:
        given |= {"depth": 1, "width": 16, "samples": 6, "sigma_u": [1.0]}
    spoken = options.shallow_curve("")
    words, folder = str(spoken.columns["task"]), spoken.sweep.base.options()["data"]
    inputs: dict[str, Input] = {
        "Poisson": _membranes.poisson_input,
        "Randman": _membranes.randman_input,
        words: lambda samples: _membranes.spoken_input(folder, samples),
    }
    if options.smoke:
        inputs = {words: lambda n: _membranes.events_input(spoken.datasets().train, n)}
    units = [
        Measurement(
            f"{task}, {method}",
            {"input": task, "method": method, **given},
            functools.partial(_rows, show, method, **given),
            {**spoken.columns, "task": task},
        )
        for task, show in inputs.items()
        for method in _membranes.METHODS
    ]
    first = {"method": FORMULA, "layer": 1}
    data_hit = "Weights measured on the data hit the target in every layer (within 10 %)"
    balanced_hit = "Balanced weights hit the target in every layer, too"
    return Study(
        name="figure2",
        title="Figure 2: target and measured sigma_U",
        preset=options.preset,
        units=units,
        figures={"figure2": _draw},
        captions={
            "figure2": "Standard deviation of the membrane, measured over the target, in the first "
            "and in the last layer of untrained networks. Lines: means over seeds. Bands: smallest "
            "to largest. Dotted: measured = target."
        },
        statements=[
            _ratio(
                "Poisson input: sigma_U measured in the first layer is that of the formula "
                "(within 10 %)",
                (0.9, 1.1),
                "P",
                task="Poisson",
                **first,
            ),
            _ratio(
                "Randman is not Poisson: 0.84 of the target in the first layer (within 0.1)",
                (0.74, 0.94),
                task="Randman",
                **first,
            ),
            _ratio(
                "Spoken words are not Poisson: more than 1.5 times the target in the first layer",
                (1.5, 10.0),
                task=words,
                **first,
            ),
            _ratio(f"{data_hit}, {words}", (0.9, 1.1), task=words, method=DATA),
            _ratio(f"{balanced_hit}, {words}", (0.9, 1.1), task=words, method=BALANCED),
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
