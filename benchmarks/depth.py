"""Depth before training: `python -m benchmarks.depth RESULTS.jsonl FIGURE.png --data FOLDER`, the paper's figure 4d-f on files in the SHD layout.

Recurrent convolutional networks of 1, 3 and 7 layers; for every sigma_u of the paper's formula, for Kaiming weights and for weights measured on the data,
and for every seed: rate, gradient of the loss with respect to the spikes, and first update of the weights (SMORMS3), layer by layer, by
`snnjax.diagnostics.probe`. Then each statement of the paper about it with the numbers that speak for or against it.
"""

from __future__ import annotations

from snnjax.runtime import tune_allocator

tune_allocator()

import dataclasses  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import tyro  # noqa: E402

from snnjax.diagnostics import probe  # noqa: E402
from snnjax.experiments import SHDConfig, prepare  # noqa: E402
from snnjax.experiments._run import spread  # noqa: E402

SIGMAS = (0.2, 0.5, 1.0, 2.0, 20.0)
OTHERS = ("kaiming", "data_driven_balanced")
SILENT_HZ, SATURATED_HZ = 0.05, 100.0
"""A layer counts as silent below one spike a neuron in 20 s, and as saturated above 100 Hz: a spike every fifth step. Rates are level where the largest is
less than twice the smallest, and grow where the last is more than twice the first."""

NUMBERS = ("rate", "grad_z", "update", "sigma_u")

Rows = dict[tuple[int, str], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to look at."""

    results: tyro.conf.Positional[Path]
    """JSON lines, one a network; those that are there are not measured again."""
    figure: tyro.conf.Positional[Path]
    """PNG file to write."""
    data: Path = Path()
    """Folder with NAME_train.h5 and NAME_test.h5."""
    depths: tuple[int, ...] = (1, 3, 7)
    """Layers."""
    seeds: int = 5
    """Draws of the weights."""
    samples: int = 32
    """Training recordings."""
    dt: float = 2e-3
    """Time step, s."""


def measure(options: Options, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict a depth, setting and seed: numbers by layer. What is not `done` is measured and appended to the results, a line each."""
    base = SHDConfig(data=options.data, recurrent=True, dt=options.dt, calibration_samples=options.samples)
    rows, sets = [], None
    for depth, (init, sigma_u), seed in itertools.product(
        options.depths, [("fluctuation_driven", s) for s in SIGMAS] + [(name, 1.0) for name in OTHERS], range(options.seeds)
    ):
        which = {"depth": depth, "setting": setting(init, sigma_u), "seed": seed, "samples": options.samples, "dt": options.dt}
        row = next((row for row in done if which.items() <= row.items()), None)
        if row is None:
            if sets is None:
                sets = base.datasets()
                sets = (sets[0].subset(np.asarray(spread(sets[0], options.samples))), sets[1], sets[2])
            config = dataclasses.replace(base, model=f"csnn{depth}", init=init, sigma_u=sigma_u, seed=seed)  # type: ignore[arg-type]
            prepared = prepare(config, sets)
            x, labels = prepared.train.batch(np.arange(options.samples))  # type: ignore[arg-type]
            layers = probe(prepared.network, x, labels).layers
            row = which | {name: [getattr(p, name) for p in layers] for name in NUMBERS}
            with options.results.open("a") as f:
                f.write(json.dumps(row) + "\n")
            print(depth, row["setting"], seed, np.round(row["rate"], 2).tolist(), flush=True)
        rows.append(row)
    return rows


def setting(init: str, sigma_u: float) -> str:
    """Its name in tables and figures."""
    return {"kaiming": "Kaiming", "data_driven_balanced": "data-driven, 1"}.get(init, f"sigma_u {sigma_u:g}")


def gather(rows: list[dict[str, Any]]) -> Rows:
    """Arrays (seeds, layers) by depth and setting."""
    out: Rows = {}
    for depth, name in dict.fromkeys((r["depth"], r["setting"]) for r in rows):
        own = [r for r in rows if (r["depth"], r["setting"]) == (depth, name)]
        out[depth, name] = {key: np.array([r[key] for r in own]) for key in NUMBERS}
    return out


def draw(found: Rows, file: Path) -> None:
    """Rate, gradient and update over layers, a column a depth; means over seeds, values of exactly 0 left out."""
    from matplotlib.figure import Figure

    from snnjax import plotting

    depths = list(dict.fromkeys(d for d, _ in found))
    panels = (("rate", "rate (Hz)"), ("grad_z", "|dL/dz|"), ("update", "|first update|"))
    figure = Figure(figsize=(3.2 * len(depths), 7.5), layout="constrained")
    axes = figure.subplots(3, len(depths), sharey="row", squeeze=False)
    names = list(dict.fromkeys(n for _, n in found))
    for (column, depth), (row, (key, label)) in itertools.product(enumerate(depths), enumerate(panels)):
        ax = axes[row, column]
        for k, name in enumerate(names):
            mean = found[depth, name][key].mean(axis=0)
            style: dict[str, Any] = {"color": f"C{k}", "marker": "o", "ms": 4, "ls": "-" if name.startswith("sigma") else "--"}
            ax.plot(np.arange(1, depth + 1), np.where(mean > 0, mean, np.nan), label=name, **style)
        ax.set(yscale="log", xlabel="layer" if row == 2 else "", ylabel=label if column == 0 else "", xlim=(0.5, max(depths) + 0.5))
        ax.spines[["top", "right"]].set_visible(False)
    for column, depth in enumerate(depths):
        axes[0, column].set_title(f"{depth} layer{'s' * (depth > 1)}")
    axes[0, 0].legend(fontsize=7)
    plotting.save(figure, file)


def verdicts(found: Rows) -> list[tuple[str, bool, str]]:
    """Each statement of the paper about seven layers, whether it holds here, and the numbers."""
    rates = {name: found[7, name]["rate"].mean(axis=0) for d, name in found if d == 7}
    text = lambda v: " ".join(f"{x:.2g}" for x in v)  # noqa: E731
    active = lambda v: int((v > SILENT_HZ).sum())  # noqa: E731
    one, two, data = rates["sigma_u 1"], rates["sigma_u 2"], rates["data-driven, 1"]
    out = [
        ("sigma_u 0.2: only the first layer spikes", active(rates["sigma_u 0.2"]) == 1, f"rates {text(rates['sigma_u 0.2'])} Hz"),
        ("sigma_u 0.5: the first four layers spike", active(rates["sigma_u 0.5"]) == 4, f"rates {text(rates['sigma_u 0.5'])} Hz"),
        ("sigma_u 1: sparse rates that stay level", one.max() / one.min() < 2 and one.max() < 30, f"rates {text(one)} Hz"),
        ("sigma_u 2: rates grow with depth", two[-1] > 2 * two[0], f"rates {text(two)} Hz"),
        ("sigma_u 20: saturated", bool((rates["sigma_u 20"] > SATURATED_HZ).all()), f"rates {text(rates['sigma_u 20'])} Hz"),
        ("(not in the paper) Kaiming: as 0.2", active(rates["Kaiming"]) == 1, f"rates {text(rates['Kaiming'])} Hz"),
        ("(not in the paper) weights from data, sigma_u 1: level", data.max() / data.min() < 2, f"rates {text(data)} Hz"),
    ]
    # between two silent layers the gradient passes one of them
    ratios = []
    for name in ("sigma_u 0.2", "Kaiming"):
        part = found[7, name]
        for rate, grad in zip(part["rate"], part["grad_z"], strict=True):
            ratios += [grad[k] / grad[k - 1] for k in range(1, 7) if rate[k] == 0 and grad[k - 1] > 0]
    middle = float(np.median(ratios))
    out.append(
        ("each silent layer divides the surrogate gradient by about 100", 30 < middle < 300, f"median {middle:.0f}, {len(ratios)} layers")
    )
    above = [
        update[k]
        for d, name in found
        for rate, update in zip(found[d, name]["rate"], found[d, name]["update"], strict=True)
        for k in range(1, d)
        if rate[k - 1] == 0
    ]
    out.append(("no update above a silent layer", all(u == 0 for u in above), f"largest of {len(above)}: {max(above, default=0.0):g}"))
    return out


def main(options: Options) -> None:
    """Measure, write, draw, judge."""
    done = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    found = gather(measure(options, done))
    draw(found, options.figure)
    if 7 in options.depths:
        print_verdicts(found)
    for (depth, name), values in found.items():
        print(depth, name, "rates", np.round(values["rate"].mean(axis=0), 2), "sigma_u", np.round(values["sigma_u"].mean(axis=0), 2))


def print_verdicts(found: Rows) -> None:
    """A Markdown table."""
    print("| statement about seven layers | holds here | measured |\n|---|---|---|")
    for statement, holds, numbers in verdicts(found):
        print(f"| {statement} | {'yes' if holds else 'no'} | {numbers} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
