"""Layers before training (figure 4d-f of the paper) in recurrent convolutional networks on speech.

For each sigma_u of the paper's formula, for Kaiming weights and for weights measured on the data,
`snnjax.diagnostics.probe` returns for each layer the rate, the gradient of the loss with respect to
the spikes, and the first update of the weights (SMORMS3). There is one row per network: `depth`,
`setting`, `seed`, and a list over layers for each of `NUMBERS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from snnjax import _style
from snnjax._probe_report import SATURATED_HZ
from snnjax.datasets import Splits
from snnjax.diagnostics import probe
from snnjax.experiments import Experiment
from snnjax.experiments._data import at, spread
from snnjax.experiments._run import prepare
from snnjax.reproduce._statements import (
    Row,
    Rows,
    Source,
    Statement,
    Verdict,
    pick,
    untested,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMAS = (0.2, 0.5, 1.0, 2.0, 20.0)
OTHERS = ("kaiming", "data_driven_balanced")
SETTINGS = (*(("fluctuation_driven", s) for s in SIGMAS), *((name, 1.0) for name in OTHERS))
"""Initialization and sigma_u."""
SILENT_HZ = 0.05
"""A layer is silent below one spike per neuron in 20 s, and saturated above `SATURATED_HZ`: a spike
in every fifth step of 2 ms. Rates are level if the largest is less than twice the smallest. They
grow if the last is more than twice the first."""
NUMBERS = {"rate": "rate", "grad_z": "grad_z", "update": "update", "membrane": "sigma_u"}
"""Columns, and their names in `LayerProbe`."""


def setting(init: str, sigma_u: float) -> str:
    """Return the name of a setting in tables and figures.

    >>> setting("kaiming", 1.0), setting("fluctuation_driven", 0.2)
    ('Kaiming', 'sigma_u 0.2')
    """
    others = {"kaiming": "Kaiming", "data_driven_balanced": "data-driven, 1"}
    return others.get(init, f"sigma_u {sigma_u:g}")


def few(sets: Splits, samples: int) -> Splits:
    """Return the sets with only `samples` training samples, evenly spread, for the probe."""
    return sets._replace(train=sets.train.subset(np.asarray(spread(sets.train, samples))))


def look(
    base: Experiment, sets: Splits, init: str, sigma_u: float, seed: int
) -> dict[str, list[float]]:
    """Probe one network.

    Args:
        base: Experiment of the network.
        sets: The data, from `few`.
        init: Initialization.
        sigma_u: Target standard deviation of the membrane, if the initialization has one.
        seed: Seed of the weights.

    Returns:
        A list over layers for each of `NUMBERS`.
    """
    samples = len(sets.train)
    values = {"sigma_u": sigma_u, "seed": seed, "batch_size": samples}
    prepared = prepare(at(base.replace(init=init), values), sets)
    x, labels = prepared.data.splits.train.batch(np.arange(samples))
    layers = probe(prepared.network, x, labels).layers
    return {name: [float(getattr(p, field)) for p in layers] for name, field in NUMBERS.items()}


def _styles(names: Sequence[str]) -> dict[str, tuple[str, object, str]]:
    """Return label, colour and line style of each setting: the formula, darker for larger sigma."""
    from matplotlib import colormaps

    formula = sorted((n for n in names if n.startswith("sigma_u")), key=lambda n: float(n[8:]))
    shades = colormaps["Blues"](np.linspace(0.35, 1.0, len(formula)))
    styles: dict[str, tuple[str, object, str]] = {
        name: (rf"formula, $\sigma_U$ = {name[8:]}", shade, "-")
        for name, shade in zip(formula, shades, strict=True)
    }
    styles[setting("kaiming", 1.0)] = ("Kaiming", _style.KAIMING, "--")
    data = setting("data_driven_balanced", 1.0)
    styles[data] = (r"from data, balanced, $\sigma_U$ = 1", _style.DATA, "--")
    return {name: styles[name] for name in names}


@_style.styled
def figure(rows: Rows) -> Figure:
    """Plot rate, gradient and update over layers, in one column per depth.

    Points are means over seeds. Values of exactly 0 are marked below the logarithmic axes. One
    layer is left out if there are deeper networks.
    """
    depths = sorted({row["depth"] for row in rows})
    depths = [depth for depth in depths if depth > 1] or depths
    quantities = (("rate", "rate (Hz)"), ("grad_z", _style.GRAD_Z), ("update", _style.UPDATE))
    count = len(quantities) * len(depths)
    figure, grid = _style.panels(count, columns=len(depths), height=2.1)
    styles = _styles(list(dict.fromkeys(row["setting"] for row in rows)))
    for axes, ((key, label), depth) in zip(
        grid, itertools.product(quantities, depths), strict=True
    ):
        for name, (text, color, ls) in styles.items():
            mean = _mean(pick(rows, depth=depth, setting=name), key)
            axes.plot(np.arange(1, mean.size + 1), mean, "o", color=color, ls=ls, label=text)
        axes.set(xlabel="layer", ylabel=label, xlim=(0.5, depth + 0.5))
        axes.set_title(f"{depth:g} layer{'s' * (depth > 1)}")
        _style.whole_numbers(axes.xaxis)
        _style.log_y(axes)
    _style.legend_above(figure, columns=3)
    return figure


def _mean(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.mean([row[key] for row in rows], axis=0) if rows else np.zeros(0)


def _rates(
    text: str, name: str, holds: Callable[[np.ndarray], bool | np.bool_], source: Source = "P"
) -> Statement:
    def judge(rows: Rows) -> Verdict:
        rates = _mean(pick(rows, depth=7, setting=name), "rate")
        if not rates.size:
            return untested("no network of seven layers with these weights was measured")
        text = " ".join(f"{x:.0f}" if x >= 10 else f"{x:.2g}" for x in rates)
        return verdict(bool(holds(rates)), f"rates {text} Hz, layer 1 to 7")

    return Statement(f"Seven layers, {text}", source, judge)


def _active(rates: np.ndarray) -> int:
    return int((rates > SILENT_HZ).sum())


def _level(rates: np.ndarray) -> bool:
    return rates.max() < 2 * rates.min()


def _divides(rows: Rows) -> Verdict:
    """Judge the ratio of gradients of a silent layer and of the layer below it."""
    silent = [r for name in ("sigma_u 0.2", "Kaiming") for r in pick(rows, depth=7, setting=name)]
    ratios = [
        row["grad_z"][k] / row["grad_z"][k - 1]
        for row in silent
        for k in range(1, len(row["rate"]))
        if row["rate"][k] == 0 and row["grad_z"][k - 1] > 0
    ]
    if not ratios:
        return untested("no silent layer below another in seven layers")
    middle = float(np.median(ratios))
    return verdict(30 < middle < 300, f"median {middle:.0f}, {len(ratios)} layers")


def _no_update(rows: Rows) -> Verdict:
    seen = [(row["rate"], row["update"]) for row in rows if "setting" in row]
    above = [update[k] for rate, update in seen for k in range(1, len(rate)) if rate[k - 1] == 0]
    if not above:
        return untested("no silent layer below another")
    return verdict(all(u == 0 for u in above), f"largest of {len(above)}: {max(above):g}")


STATEMENTS = (
    _rates(
        f"sigma_u 0.2: only the first layer spikes (above {SILENT_HZ:g} Hz)",
        "sigma_u 0.2",
        lambda r: _active(r) == 1,
    ),
    _rates("sigma_u 0.5: the first four layers spike", "sigma_u 0.5", lambda r: _active(r) == 4),
    _rates(
        "sigma_u 1: stable sparse rates throughout (within a factor of 2, below 30 Hz)",
        "sigma_u 1",
        lambda r: _level(r) and r.max() < 30,
    ),
    _rates(
        "sigma_u 2: rates grow with depth (to more than twice the first)",
        "sigma_u 2",
        lambda r: r[-1] > 2 * r[0],
    ),
    _rates(
        f"sigma_u 20: saturated (all above {SATURATED_HZ:g} Hz)",
        "sigma_u 20",
        lambda r: (r > SATURATED_HZ).all(),
    ),
    _rates("Kaiming: as silent as sigma_u 0.2", "Kaiming", lambda r: _active(r) == 1, "ours"),
    _rates(
        "weights from data, sigma_u 1: level rates (within a factor of 2)",
        "data-driven, 1",
        _level,
        "ours",
    ),
    Statement("Each silent layer divides the surrogate gradient by about 100", "P", _divides),
    Statement("Silent layers below give exactly zero weight updates above them", "P", _no_update),
)
