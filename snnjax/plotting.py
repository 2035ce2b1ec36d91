"""Figures.

Every function returns a `matplotlib.figure.Figure` that is independent of pyplot: no global state,
and no screen is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from snnjax._files import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snnjax.diagnostics import Probe

__all__ = ["learning_curves", "activity_snapshot", "depth", "sweep_curves", "sweep_maps"]


EXCITATORY, INHIBITORY = "tab:blue", "tab:red"
Rows = Sequence[Mapping[str, Any]]
"""Rows of a sweep's results.csv, as dicts (`snnjax.experiments.sweep`)."""


def _panels(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns), which have no line at the top and right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=sharex, squeeze=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Plot loss, score (such as the accuracy) and firing rate of every layer (Hz) over epochs.

    Args:
        history: The rows of `FitResult.history`.

    Returns:
        A figure with one panel for each of these three that the rows contain.

    >>> loss = [2.0, 1.0, 0.5]
    >>> rows = [{"epoch": k, "train_loss": loss[k], "train_accuracy": 0.1 * k, "rate_1": 5.0}
    ...         for k in range(3)]
    >>> len(learning_curves(rows).axes)
    3
    """
    from snnjax._progress import score_of

    epochs = [row["epoch"] for row in history]
    rates = [name for name in history[0] if name.startswith("rate_")]
    measures = list(dict.fromkeys(["loss", score_of(history[0])]))
    panels = len(measures) + bool(rates)
    figure, (axes,) = _panels(1, panels, (1 + 3 * panels, 3))
    for ax, what in zip(axes, measures, strict=False):
        for split in ("train", "valid"):
            if f"{split}_{what}" in history[0]:
                ax.plot(epochs, [row[f"{split}_{what}"] for row in history], label=split)
        ax.set(xlabel="epoch", ylabel=what.replace("_", " "))
        if what.endswith("accuracy"):
            ax.set_ylim(0, 1.02)
    if rates:
        for k, name in enumerate(rates, start=1):
            axes[-1].plot(epochs, [row[name] for row in history], label=f"layer {k}")
        axes[-1].set(xlabel="epoch", ylabel="rate (Hz)")
        axes[-1].set_ylim(bottom=0)
    for ax in axes:
        ax.legend(frameon=False)
    return figure


def activity_snapshot(
    x: np.ndarray,
    spikes: Sequence[np.ndarray],
    readout: np.ndarray,
    labels: ArrayLike,
    *,
    dt: float,
    predicted: ArrayLike | None = None,
    n_exc: Sequence[int | None] | None = None,
) -> Figure:
    """Plot spikes of the input and of every layer, and readout traces, in one column per sample.

    Args:
        x: Inputs (time, batch, units).
        spikes: Spikes of every layer (time, batch, ...features).
        readout: Readout traces (time, batch, classes).
        labels: Classes (batch,).
        dt: Time step, s.
        predicted: Predicted classes (batch,). None: the class with the largest trace over time.
        n_exc: For each layer, the number of excitatory neurons or feature maps, which come first on
            its last axis. They are blue, and the inhibitory ones after them red. None, for a layer
            or for all: no colours.

    Raises:
        ValueError: `n_exc` does not have one entry per layer.

    >>> x = np.zeros((10, 2, 5)); s = np.zeros((10, 2, 8)); o = np.zeros((10, 2, 3))
    >>> len(activity_snapshot(x, [s], o, [0, 1], dt=2e-3).axes)
    6
    """
    labels = np.asarray(labels)
    predicted = np.asarray(readout.max(0).argmax(-1) if predicted is None else predicted)
    samples, layers = x.shape[1], len(spikes)
    size = 2.6 * samples, 2 + 1.3 * (layers + 1)
    figure, rows = _panels(layers + 2, samples, size, sharex=True)
    excitatory = [None] * layers if n_exc is None else list(n_exc)
    if (got := len(excitatory)) != layers:
        raise ValueError(f"n_exc must have one entry for each of {layers} layers, got {got}")
    names = ["readout", *[f"layer {k}" for k in range(len(spikes), 0, -1)], "input"]
    for b in range(samples):
        traces = readout[:, b]
        time = np.arange(1, len(traces) + 1) * dt * 1e3
        for c in range(traces.shape[1]):
            style = {"color": "C3", "lw": 1.5} if c == labels[b] else {"color": "0.7", "lw": 0.8}
            rows[0, b].plot(time, traces[:, c], **style)
        rows[0, b].set_title(f"class {labels[b]}, predicted {predicted[b]}", fontsize=9)
        rasters, numbers = [*reversed(spikes), x], [*reversed(excitatory), None]
        for axes, raster, n in zip(rows[1:, b], rasters, numbers, strict=True):
            flat = raster[:, b].reshape(len(raster), -1)
            step, unit = np.nonzero(flat)
            mark = "|" if flat.shape[1] <= 64 else ","
            inhibitory = np.zeros(len(unit), bool) if n is None else unit % raster.shape[-1] >= n
            first = "black" if n is None else EXCITATORY
            for which, color in ((~inhibitory, first), (inhibitory, INHIBITORY)):
                if which.any():
                    axes.plot(step[which] * dt * 1e3, unit[which], mark, color=color, ms=3)
            axes.set(xlim=(0, len(x) * dt * 1e3), ylim=(-1, flat.shape[1]))
        rows[-1, b].set_xlabel("time (ms)")
    for axes, name in zip(rows[:, 0], names, strict=True):
        axes.set_ylabel(name)
    return figure


def depth(report: Probe) -> Figure:
    """Plot quantities of every layer over depth, from `snnjax.diagnostics.probe`.

    The panels show the rate, the surrogate gradient with respect to spikes and to weights, and the
    first update. Magnitudes of exactly 0 are left out, because the axes are logarithmic.

    Args:
        report: The result of the probe.
    """
    from matplotlib.ticker import MaxNLocator

    figure, ((rate, spikes, weights, update),) = _panels(1, 4, (10, 2.8))
    layers = np.arange(1, len(report.layers) + 1)
    populations = {"exc": ("excitatory", EXCITATORY), "inh": ("inhibitory", INHIBITORY)}
    dalian = any(p.populations.keys() >= populations.keys() for p in report.layers)
    low, middle, high = np.array([p.rates for p in report.layers]).reshape(-1, 3).T
    rate.fill_between(layers, low, high, alpha=0.3, lw=0, label="5 to 95 %")
    rate.plot(layers, middle, "o-", ms=4, label="median neuron", color="black" if dalian else None)
    if dalian:
        for which, (name, color) in populations.items():
            means = np.array([p.populations.get(which, np.nan) for p in report.layers], dtype=float)
            rate.plot(layers, means, "s--", ms=4, label=f"{name}, mean", color=color)
    rate.set(ylabel="rate (Hz)")
    rate.set_ylim(bottom=0)
    rate.legend(frameon=False)
    for axes, values, name in (
        (spikes, [p.grad_z for p in report.layers], "mean |dL/dz|"),
        (weights, [p.grad_w for p in report.layers], "mean |dL/dw|"),
        (update, [p.update for p in report.layers], "mean |dw|, first update"),
    ):
        values = np.array(values, dtype=float)
        axes.plot(layers[values > 0], values[values > 0], "o-", ms=4)
        axes.set(ylabel=name, yscale="log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # show at least a decade, so that rounding does not look like a trend
            axes.set_ylim(np.sqrt(low * high / 10), np.sqrt(low * high * 10))
    for axes in (rate, spikes, weights, update):
        axes.set(xlabel="layer", xlim=(0.5, len(layers) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def sweep_curves(rows: Rows, name: str) -> Figure:
    """Plot accuracy, rates and gradient magnitudes against a swept parameter.

    Lines are means and bands are ranges over all rows with the same value: the seeds.

    Args:
        rows: Rows of a sweep's results.csv, as dicts (`snnjax.experiments.sweep`).
        name: Name of the swept parameter: the column on the horizontal axis.

    >>> numbers = {"test_accuracy_final": 0.5, "train_accuracy": 0.6}
    >>> numbers |= {"initial_rate_1": 5.0, "final_rate_1": 9.0}
    >>> rows = [{"sigma_u": s, "seed": k} | numbers for s in (0.1, 1.0, 10.0) for k in range(2)]
    >>> [axes.get_ylabel() for axes in sweep_curves(rows, "sigma_u").axes]
    ['accuracy', 'rate (Hz)']
    """
    values = sorted({row[name] for row in rows})
    groups = [[row for row in rows if row[name] == value] for value in values]
    panels = _sweep_panels(rows)
    figure, (all_axes,) = _panels(1, len(panels), (3.6 * len(panels), 3.2))
    for axes, (ylabel, columns) in zip(all_axes, panels.items(), strict=True):
        for k, (label, column) in enumerate(columns.items()):
            mark = "o--" if label.endswith(("train", "before training")) else "o-"
            mean, low, high = (_over_seeds(f, groups, column) for f in (np.mean, np.min, np.max))
            axes.plot(values, mean, mark, color=f"C{k}", ms=3, label=label)
            axes.fill_between(values, low, high, color=f"C{k}", alpha=0.2, lw=0)
        axes.set(xlabel=_LABELS.get(name, name), ylabel=ylabel)
        if min(values) > 0 and max(values) >= 20 * min(values):
            axes.set_xscale("log")
        if ylabel == "accuracy":
            axes.set_ylim(0, 1.02)
        elif ylabel.startswith("|") and any((line.get_ydata() > 0).any() for line in axes.lines):
            axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)
    return figure


def sweep_maps(rows: Rows, x: str, y: str) -> Figure:
    """Plot heat maps of accuracy, rate and gradient magnitude over two swept parameters.

    Colours are means over seeds, and white if there is no finite value. Rates and gradients are
    those of the last hidden layer.

    Args:
        rows: Rows of a sweep's results.csv, as dicts (`snnjax.experiments.sweep`).
        x: Name of the parameter on the horizontal axis.
        y: Name of the parameter on the vertical axis.

    >>> numbers = {"seed": 0, "test_accuracy_final": 0.5, "final_rate_1": 9.0}
    >>> rows = [{"mu_w": m, "sigma_w": s} | numbers for m in (-1.0, 0.0) for s in (1.0, 2.0, 3.0)]
    >>> [axes.get_title() for axes in sweep_maps(rows, "mu_w", "sigma_w").axes if axes.get_title()]
    ['accuracy, test', 'rate after training (Hz)']
    """
    from matplotlib.colors import LogNorm

    across, up = (sorted({row[name] for row in rows}) for name in (x, y))
    groups = [[row for row in rows if (row[x], row[y]) == (a, b)] for b in up for a in across]
    last = (_layers(rows) or ["none"])[-1]
    columns = {
        "accuracy, test": "test_accuracy_final",
        "rate before training (Hz)": f"initial_rate_{last}",
        "rate after training (Hz)": f"final_rate_{last}",
        "|dL/dW| before training": f"initial_grad_w_{last}",
    }
    panels = {title: column for title, column in columns.items() if column in rows[0]}
    figure, (all_axes,) = _panels(1, len(panels), (3.9 * len(panels), 3.4))
    for axes, (title, column) in zip(all_axes, panels.items(), strict=True):
        axes.spines[:].set_visible(True)
        image = _over_seeds(np.mean, groups, column).reshape(len(up), len(across))
        positive = image[np.isfinite(image) & (image > 0)]
        logarithmic, norm = title.startswith("|") and positive.size, None
        if logarithmic:
            norm = LogNorm(positive.min(), max(positive.max(), 1.0001 * positive.min()))
        limits = {"vmin": 0, "vmax": 1} if title.startswith("accuracy") else {}
        shown = np.where(image > 0, image, np.nan) if logarithmic else image
        edges = np.arange(len(across) + 1), np.arange(len(up) + 1)
        mesh = axes.pcolormesh(*edges, shown, norm=norm, **limits)
        for axis, ticks in ((axes.xaxis, across), (axes.yaxis, up)):
            shown_ticks = np.arange(0, len(ticks), 1 + (len(ticks) - 1) // 9)
            axis.set_ticks(shown_ticks + 0.5, [f"{ticks[k]:.3g}" for k in shown_ticks], fontsize=7)
        axes.set(xlabel=_LABELS.get(x, x), ylabel=_LABELS.get(y, y), title=title)
        figure.colorbar(mesh, ax=axes)
    return figure


_LABELS = {
    "sigma_u": r"$\sigma_U$",
    "mu_u": r"$\mu_U$",
    "sigma_w": r"$\sigma_W$",
    "mu_w": r"$\mu_W$",
    "learning_rate": "learning rate",
    "beta": r"$\beta$",
}


def _sweep_panels(rows: Rows) -> dict[str, dict[str, str]]:
    """Return the lines of each panel with their columns of results.csv, if these exist."""
    columns, layers = list(rows[0]), _layers(rows)
    many = lambda k, text: f"layer {k}, {text}" if len(layers) > 1 else text
    of_layers = lambda text, name: {many(k, text): f"{name}_{k}" for k in layers}
    before = lambda name: of_layers("before training", f"initial_{name}")
    panels = {
        "accuracy": {"test": "test_accuracy_final", "train": "train_accuracy"},
        "rate (Hz)": before("rate") | of_layers("after training", "final_rate"),
        "|dL/dz|, surrogate gradient": before("grad_z"),
        "|dL/dW|": before("grad_w"),
    }
    known = lambda lines: {line: column for line, column in lines.items() if column in columns}
    return {panel: lines for panel in panels if (lines := known(panels[panel]))}


def _layers(rows: Rows) -> list[str]:
    """Return the numbers of the spiking layers, as in the names of the columns."""
    return [name.removeprefix("final_rate_") for name in rows[0] if name.startswith("final_rate_")]


def _over_seeds(
    statistic: Callable[[np.ndarray], Any], groups: Sequence[Rows], column: str
) -> np.ndarray:
    """Apply `statistic` to the finite values of a column in each group; NaN without values."""
    found = [np.array([row[column] for row in group], float) for group in groups]
    finite = [values[np.isfinite(values)] for values in found]
    return np.array([statistic(values) if values.size else np.nan for values in finite])


def save(figure: Figure, path: Path) -> None:
    """Write a figure with 120 dpi, completely or not at all.

    Args:
        figure: The figure.
        path: The file. Its ending is the format: .png, .svg or .pdf.
    """
    with whole(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix[1:])
