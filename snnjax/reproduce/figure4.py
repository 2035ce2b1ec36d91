"""Figure 4: depth.

Training of recurrent convolutional networks of 1, 3 and 7 layers over sigma_U (10 layers at
sigma_U = 1), and the activity and gradients of each layer before training.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from snnjax.reproduce import data as _data
from snnjax.reproduce import draw, layers
from snnjax.reproduce.arms import Arm, Measurement, Row
from snnjax.reproduce.curves import conv_curve
from snnjax.reproduce.published import NUMBERS
from snnjax.reproduce.report import ACCURACY
from snnjax.reproduce.settings import Options, Task, conv, shallow
from snnjax.reproduce.statements import TEST, Rows, number, trains_within
from snnjax.reproduce.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = "before training, 700-128-128-128-20"


def _name(depth: int) -> str:
    return f"{depth} layer{'s' * (depth > 1)}"


def _probe(options: Options, depth: int) -> Measurement:
    """Return the probe of every setting and seed at one depth.

    It uses 32 recordings of all speakers, at 2 ms as in the paper.
    """
    task = conv(options, depth)
    if options.preset == "laptop":
        task = Task(task.change(duration=0.7, dt=2e-3).config, "own", task.facts)
    samples = 32 if not options.smoke else 12
    task = task.change(calibration_samples=samples, remat_steps=None)
    settings = (
        layers.SETTINGS if not options.smoke else (("fluctuation_driven", 1.0), ("kaiming", 1.0))
    )
    seeds = options.seeds_of(2)
    given = {
        "depth": depth,
        "settings": settings,
        "seeds": seeds,
        "samples": samples,
        "dt": task.config.dt,
        "duration": task.config.duration,
    }
    measured = functools.partial(_look, task, settings, seeds, samples)
    return Measurement(
        f"before training, {_name(depth)}", given, measured, {**task.facts, "depth": depth}
    )


def _look(
    task: Task, settings: Sequence[tuple[str, float]], seeds: Sequence[int], samples: int
) -> list[Row]:
    sets = layers.few(_data.SOURCES[task.source](task.config), samples)
    return [
        {
            "setting": layers.setting(init, s),
            "seed": seed,
            **layers.look(task.config, sets, init, s, seed),
        }
        for init, s in settings
        for seed in seeds
    ]


def _deep_rates(task: Task, seeds: Sequence[int]) -> list[Row]:
    sets = layers.few(_data.SOURCES[task.source](task.config), 64)
    found = [
        layers.look(task.config, sets, "fluctuation_driven", 1.0, seed)["rate"] for seed in seeds
    ]
    return [
        {"seed": seed, **{f"initial_rate_{k}": r for k, r in enumerate(rates, start=1)}}
        for seed, rates in zip(seeds, found, strict=True)
    ]


def _draw(rows: Rows) -> Mapping[str, Figure]:
    trained = [
        row
        for row in rows
        if TEST in row
        and len({r["sigma_u"] for r in rows if r["arm"] == row["arm"] and "sigma_u" in r}) > 1
    ]
    return {
        "figure4-training": draw.curves(trained),
        "figure4-layers": layers.figure([row for row in rows if "setting" in row]),
    }


def study(options: Options) -> Study:
    """Return the study. Laptop, both cores: training 3 + 8 + 21 min, before training 3 min."""
    depths = (1, 3, 7)
    curves = [conv_curve(options, depth, _name(depth)) for depth in depths]
    if options.preset == "paper":
        curves.append(Arm(_name(10), conv(options, 10), {"sigma_u": (1.0,)}, options.seeds_of(1)))
    probes = [_probe(options, depth) for depth in ((1,) if options.smoke else depths)]
    deep = shallow(options).change(hidden=(16, 16, 16) if options.smoke else (128, 128, 128))
    dense = Measurement(
        DENSE,
        {"samples": 64, "seeds": options.seeds_of(3), "dt": deep.config.dt},
        functools.partial(_deep_rates, deep, options.seeds_of(3)),
        deep.facts,
    )
    return Study(
        name="figure4",
        title="Figure 4: depth",
        preset=options.preset,
        units=[*curves, *probes, *([] if options.smoke else [dense])],
        draw=_draw,
        statements=[
            trains_within("One layer trains for sigma_U <= 1", None, 1.0, arm=_name(1)),
            trains_within("Three layers train for sigma_U 0.05 to 3", 0.05, 3.0, arm=_name(3)),
            trains_within("Seven layers train for sigma_U 0.5 to 2", 0.5, 2.0, arm=_name(7)),
            number(
                "Ten layers, sigma_U = 1, test accuracy",
                NUMBERS["shd.csnn10.test"],
                TEST,
                arm=_name(10),
                sigma_u=1.0,
            ),
            number(
                "One layer, sigma_U = 1, epochs to 90 % training accuracy",
                NUMBERS["shd.csnn1.epochs_to_90"],
                "epochs_to_90",
                arm=_name(1),
                sigma_u=1.0,
            ),
            number(
                "Three layers, sigma_U = 1, epochs to 90 %",
                NUMBERS["shd.csnn3.epochs_to_90"],
                "epochs_to_90",
                arm=_name(3),
                sigma_u=1.0,
            ),
            *layers.STATEMENTS,
            *(
                number(
                    f"Dense 700-128-128-128-20, sigma_U = 1, rate of layer {k} before training",
                    NUMBERS[f"shd.deep.rate_{k}"],
                    f"initial_rate_{k}",
                    arm=DENSE,
                )
                for k in (1, 2, 3)
            ),
        ],
        columns={
            **ACCURACY,
            "rate by layer, before": ("rate", "Hz"),
            "|dL/dz| by layer": ("grad_z", ""),
            "first update by layer": ("update", ""),
            "membrane by layer": ("membrane", ""),
        },
        notes=[
            "The widths of layers in networks of 1, 7 and 10 layers are our choice "
            "(`snnjax.models.csnn`)."
        ],
    )
