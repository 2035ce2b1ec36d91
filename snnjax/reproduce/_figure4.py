"""Figure 4: depth.

Training of recurrent convolutional networks of 1, 3 and 7 layers over sigma_U (10 layers at
sigma_U = 1), and the activity and gradients of each layer before training.
"""

from __future__ import annotations

from snnjax.experiments._curves import curves
from snnjax.reproduce import _layers as layers
from snnjax.reproduce import _statements as st
from snnjax.reproduce._published import NUMBERS
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import ACCURACY, CURVES, ZEROS, Study
from snnjax.reproduce._units import Arm, Measurement, Unit

DENSE = "before training, 700-128-128-128-20"
FORMULA = ("fluctuation_driven", 1.0)


def _name(depth: int) -> str:
    return f"{depth} layer{'s' * (depth > 1)}"


def _seeds(arm: Arm) -> list[int]:
    return [member["seed"] for member in arm.sweep.members()]


def _probe(options: Options, depth: int) -> Measurement:
    """Return the probe of every setting and seed at one depth.

    It uses 32 recordings of all speakers, at 2 ms as in the paper.
    """
    samples, settings = 32, layers.SETTINGS
    if options.smoke:
        samples, settings = 12, (FORMULA, ("kaiming", 1.0))
    changes: dict[str, object] = {"remat_steps": None}
    if options.laptop:
        changes |= {"duration": 0.7, "dt": 2e-3}
    source = "own" if options.laptop else None
    arm = options.arm("", "conv", {}, 2, changes, depth=depth, source=source)
    base, seeds = arm.sweep.base, _seeds(arm)
    given = {"depth": depth, "settings": settings, "seeds": seeds, "samples": samples}
    given |= {"dt": base.neuron.dt, "duration": base.task.duration}

    def measure() -> list[st.Row]:
        sets = layers.few(arm.datasets(), samples)
        return [
            {"setting": layers.setting(init, sigma_u), "seed": seed}
            | layers.look(base, sets, init, sigma_u, seed)
            for init, sigma_u in settings
            for seed in seeds
        ]

    return Measurement(f"before training, {_name(depth)}", given, measure, arm.columns)


def _dense(options: Options) -> Measurement:
    """Return the rates of three dense layers before training."""
    arm = options.arm("", "shallow", {}, 3, {"hidden": (128, 128, 128)})
    base, seeds, samples = arm.sweep.base, _seeds(arm), 64

    def measure() -> list[st.Row]:
        sets = layers.few(arm.datasets(), samples)
        rates = [layers.look(base, sets, *FORMULA, seed)["rate"] for seed in seeds]
        return [
            {"seed": seed, **{f"initial_rate_{k}": r for k, r in enumerate(own, start=1)}}
            for seed, own in zip(seeds, rates, strict=True)
        ]

    given = {"samples": samples, "seeds": seeds, "dt": base.neuron.dt}
    return Measurement(DENSE, given, measure, arm.columns)


def study(options: Options) -> Study:
    """Return the study. Laptop, both cores: training 3 + 8 + 21 min, before training 3 min."""
    one, three, seven, ten = map(_name, (1, 3, 7, 10))
    depths = (1, 3, 7)
    units: list[Unit] = [options.conv_curve(_name(depth), depth) for depth in depths]
    if options.preset == "paper":
        units.append(options.arm(ten, "conv", {"sigma_u": (1.0,)}, 1, depth=10))
    units += [_probe(options, depth) for depth in ((1,) if options.smoke else depths)]
    if not options.smoke:
        units.append(_dense(options))
    numbers = (
        ("Ten layers, sigma_U = 1, test accuracy", "csnn10.test", st.TEST, ten),
        (
            "One layer, sigma_U = 1, epochs to 90 % training accuracy",
            "csnn1.epochs_to_90",
            "epochs_to_90",
            one,
        ),
        ("Three layers, sigma_U = 1, epochs to 90 %", "csnn3.epochs_to_90", "epochs_to_90", three),
    )
    dense = "Dense 700-128-128-128-20, sigma_U = 1, rate of layer {} before training"
    return Study(
        name="figure4",
        title="Figure 4: depth",
        preset=options.preset,
        units=units,
        figures={
            "figure4-training": lambda rows: curves(
                [row for row in rows if row["arm"] in (one, three, seven)]
            ),
            "figure4-layers": lambda rows: layers.figure([r for r in rows if "setting" in r]),
        },
        captions={
            "figure4-training": f"Recurrent convolutional networks of 1, 3 and 7 layers. {CURVES}",
            "figure4-layers": "Rate, gradient of the loss with respect to spikes, and first update "
            "of the weights (SMORMS3) in each layer before training, by start. Points: means over "
            f"seeds. {ZEROS}",
        },
        statements=[
            st.trains_within("One layer trains for sigma_U <= 1", None, 1.0, arm=one),
            st.trains_within("Three layers train for sigma_U 0.05 to 3", 0.05, 3.0, arm=three),
            st.trains_within("Seven layers train for sigma_U 0.5 to 2", 0.5, 2.0, arm=seven),
            *(
                st.number(text, NUMBERS[f"shd.{key}"], column, arm=arm, sigma_u=1.0)
                for text, key, column, arm in numbers
            ),
            *layers.STATEMENTS,
            *(
                st.number(
                    dense.format(k), NUMBERS[f"shd.deep.rate_{k}"], f"initial_rate_{k}", arm=DENSE
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
