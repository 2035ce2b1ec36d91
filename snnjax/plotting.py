"""Figures.

Every function returns a `matplotlib.figure.Figure` that is independent of pyplot: no global state,
and no screen is needed. A notebook shows a figure that is the last value of a cell, after the line
`%matplotlib inline` in an earlier cell. `figure.savefig("name.png")` writes it to a file.

For figures of your own in the same style, use the style sheet of snnjax:

    plt.style.use("snnjax.figures")

Its first three colours stand for the starts of a network: C0 for the paper's formula, C1 for
Kaiming, and C2 for weights from data and calibrated networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from snnjax import _style
from snnjax._files import whole
from snnjax._style import DARK, EXCITATORY, INHIBITORY, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from snnjax.diagnostics import Probe

__all__ = ["learning_curves", "activity_snapshot", "depth", "sweep_curves", "sweep_maps"]


Rows = Sequence[Mapping[str, Any]]
"""Rows of a sweep's results.csv, as dicts (`snnjax.experiments.sweep`)."""


@styled
def learning_curves(
    history: Sequence[dict[str, float]], *, num_classes: int | None = None
) -> Figure:
    """Plot loss, score (such as the accuracy) and firing rate of every layer (Hz) over epochs.

    Args:
        history: The rows of `FitResult.history`.
        num_classes: Number of classes: the panel of the accuracy has a line at chance, one over
            this number. None: no line.

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
    figure, panels = _style.panels(len(measures) + bool(rates), height=2.3)
    for axes, what in zip(panels, measures, strict=False):
        factor, unit = _per_cent(what)
        for split, style in (("train", "--"), ("valid", "-")):
            if f"{split}_{what}" in history[0]:
                values = [factor * row[f"{split}_{what}"] for row in history]
                axes.plot(epochs, values, style, color=DARK, label=split)
        axes.set_ylabel(what.replace("_", " ") + unit)
        if unit:
            axes.set_ylim(0, 102)
            if num_classes is not None:
                _style.chance(axes, 100 / num_classes)
    for name, color in zip(rates, _sequence(len(rates)), strict=True):
        label = f"layer {name.removeprefix('rate_')}"
        panels[-1].plot(epochs, [row[name] for row in history], color=color, label=label)
    if rates:
        panels[-1].set_ylabel("rate (Hz)")
        panels[-1].set_ylim(bottom=0)
    for axes in panels:
        axes.set_xlabel("epoch")
        _style.whole_numbers(axes.xaxis)
        axes.legend(ncols=1 + (len(axes.lines) > 4))
    return figure


@styled
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
    figure, grid = _style.panels(
        (layers + 2) * samples, columns=samples, height=1.15, letters=False
    )
    rows = np.reshape(np.array(grid, dtype=object), (layers + 2, samples))
    excitatory = [None] * layers if n_exc is None else list(n_exc)
    if (got := len(excitatory)) != layers:
        raise ValueError(f"n_exc must have one entry for each of {layers} layers, got {got}")
    names = ["readout", *[f"layer {k}" for k in range(len(spikes), 0, -1)], "input"]
    for b in range(samples):
        traces = readout[:, b]
        time = np.arange(1, len(traces) + 1) * dt * 1e3
        for c in range(traces.shape[1]):
            style = (
                {"color": _style.RED, "zorder": 3}
                if c == labels[b]
                else {"color": "0.7", "lw": 0.8}
            )
            rows[0, b].plot(time, traces[:, c], **style)
        rows[0, b].set_title(f"class {labels[b]}, predicted {predicted[b]}")
        rows[0, b].set_xlim(0, len(x) * dt * 1e3)
        rasters, numbers = [*reversed(spikes), x], [*reversed(excitatory), None]
        for axes, raster, n in zip(rows[1:, b], rasters, numbers, strict=True):
            flat = raster[:, b].reshape(len(raster), -1)
            step, unit = np.nonzero(flat)
            mark = {"marker": "|", "ms": 3} if flat.shape[1] <= 64 else {"marker": ".", "ms": 1}
            inhibitory = np.zeros(len(unit), bool) if n is None else unit % raster.shape[-1] >= n
            first = "black" if n is None else EXCITATORY
            for which, color in ((~inhibitory, first), (inhibitory, INHIBITORY)):
                if which.any():
                    axes.plot(step[which] * dt * 1e3, unit[which], ls="", color=color, **mark)
            axes.set(xlim=(0, len(x) * dt * 1e3), ylim=(-1, flat.shape[1]))
        for axes in rows[:-1, b]:
            axes.tick_params(labelbottom=False)
        rows[-1, b].set_xlabel("time (ms)")
    for axes, name in zip(rows[:, 0], names, strict=True):
        axes.set_ylabel(name)
    return figure


@styled
def depth(report: Probe) -> Figure:
    """Plot quantities of every layer over depth, from `snnjax.diagnostics.probe`.

    The panels show the rate, the surrogate gradient with respect to spikes and to weights, and the
    first update. Magnitudes of exactly 0 are marked below the logarithmic axes.

    Args:
        report: The result of the probe.
    """
    figure, panels = _style.panels(4, height=2.2)
    layers = np.arange(1, len(report.layers) + 1)
    populations = {"exc": ("excitatory", EXCITATORY), "inh": ("inhibitory", INHIBITORY)}
    low, middle, high = np.array([p.rates for p in report.layers]).reshape(-1, 3).T
    rate = panels[0]
    rate.fill_between(layers, low, high, color=DARK, alpha=0.2, lw=0, label="5 to 95 %")
    rate.plot(layers, middle, "o-", label="median neuron", color=DARK)
    if any(p.populations.keys() >= populations.keys() for p in report.layers):
        for which, (name, color) in populations.items():
            means = np.array([p.populations.get(which, np.nan) for p in report.layers], dtype=float)
            rate.plot(layers, means, "s--", label=f"{name}, mean", color=color)
    rate.set(ylabel="rate (Hz)")
    rate.set_ylim(bottom=0)
    rate.legend()
    for axes, values, name in zip(
        panels[1:],
        ([getattr(p, which) for p in report.layers] for which in ("grad_z", "grad_w", "update")),
        (_style.GRAD_Z, _style.GRAD_W, _style.UPDATE),
        strict=True,
    ):
        axes.plot(layers, np.array(values, dtype=float), "o-", color=DARK)
        axes.set(ylabel=name)
        _style.log_y(axes)
    for axes in panels:
        axes.set(xlabel="layer", xlim=(0.5, len(layers) + 0.5))
        _style.whole_numbers(axes.xaxis)
    return figure


@styled
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
    ['accuracy (%)', 'rate (Hz)']
    """
    lines = _sweep_panels(rows)
    figure, panels = _style.panels(len(lines))
    many = len(_layers(rows)) > 1
    colors = dict(zip(_layers(rows), _sequence(len(_layers(rows))), strict=True))
    for axes, (ylabel, columns) in zip(panels, lines.items(), strict=True):
        for label, column in columns.items():
            layer = column.rpartition("_")[2]
            color = colors.get(layer, DARK) if many else DARK
            style = "--" if column.startswith(("initial_rate", "train")) else "-"
            line(axes, rows, name, column, label=label, color=color, ls=style)
        finish(axes, x=name, y=ylabel, log_y="partial" in ylabel)
        if "chance" in rows[0] and "accuracy" in ylabel:
            _style.chance(axes, 100 * rows[0]["chance"])
        if len(columns) > 1:
            axes.legend(ncols=1 + (len(columns) > 4))
    return figure


def line(axes: Axes, rows: Rows, x: str, column: str, *, label: str, color: Any, ls: str) -> None:
    """Plot mean (line) and range (band) of a column over all rows with the same x.

    Accuracies are in per cent. Values that are not finite are left out.

    Args:
        axes: The panel.
        rows: The rows.
        x: Column of the x axis.
        column: Column of the y axis.
        label: Label of the line.
        color: Its color.
        ls: Its style.
    """
    across = sorted({row[x] for row in rows if row.get(x) is not None})
    groups = [[row for row in rows if row.get(x) == value] for value in across]
    factor, _ = _per_cent(column)
    mean, low, high = (factor * _over_seeds(f, groups, column) for f in (np.mean, np.min, np.max))
    kept = np.isfinite(mean)
    at = np.array(across, float)[kept]
    if at.size:
        axes.plot(at, mean[kept], marker="o", ms=3, color=color, ls=ls, label=label)
        axes.fill_between(at, low[kept], high[kept], color=color, alpha=0.2, lw=0)


def finish(axes: Axes, *, x: str, y: str, log_y: bool = False) -> None:
    """Set labels and scales of a panel.

    The x axis is logarithmic if x spans more than a decade.

    Args:
        axes: The panel.
        x: Column of the x axis.
        y: Label of the y axis.
        log_y: Make the y axis logarithmic if it has positive values.
    """
    axes.set(xlabel=_style.SYMBOLS.get(x, x), ylabel=y)
    across = np.concatenate([[], *(np.asarray(line.get_xdata(), float) for line in axes.lines)])
    if across.size and across.min() > 0 and across.max() > 10 * across.min():
        axes.set_xscale("log")
        _style.plain_numbers(axes.xaxis)
    if log_y:
        _style.log_y(axes)
    if "accuracy" in y:
        axes.set_ylim(0, 102)
    if y.startswith("epochs"):
        _style.whole_numbers(axes.yaxis)


@styled
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
    ['test accuracy (%)', 'rate after training (Hz)']
    """
    from matplotlib.colors import LogNorm

    across, up = (sorted({row[name] for row in rows}) for name in (x, y))
    groups = [[row for row in rows if (row[x], row[y]) == (a, b)] for b in up for a in across]
    last = (_layers(rows) or ["none"])[-1]
    columns = {
        "test accuracy (%)": "test_accuracy_final",
        "rate before training (Hz)": f"initial_rate_{last}",
        "rate after training (Hz)": f"final_rate_{last}",
        f"{_style.GRAD_W}, before training": f"initial_grad_w_{last}",
    }
    shown = {title: column for title, column in columns.items() if column in rows[0]}
    figure, panels = _style.panels(len(shown), height=2.8)
    for axes, (title, column) in zip(panels, shown.items(), strict=True):
        axes.spines[:].set_visible(True)
        factor, per_cent = _per_cent(column)
        image = factor * _over_seeds(np.mean, groups, column).reshape(len(up), len(across))
        limits: dict[str, Any] = {"vmin": 0, "vmax": 100 if per_cent else None}
        positive = image[np.isfinite(image) & (image > 0)]
        if "grad" in column and positive.size:
            limits = {"norm": LogNorm(positive.min(), max(positive.max(), 2 * positive.min()))}
            image = np.where(image > 0, image, np.nan)
        mesh = axes.pcolormesh(np.arange(len(across) + 1), np.arange(len(up) + 1), image, **limits)
        for axis, ticks in ((axes.xaxis, across), (axes.yaxis, up)):
            at = np.arange(0, len(ticks), 1 + (len(ticks) - 1) // 9)
            axis.set_ticks(at + 0.5, [f"{ticks[k]:.2g}" for k in at])
        names = (_style.SYMBOLS.get(name, name) for name in (x, y))
        axes.set(**dict(zip(("xlabel", "ylabel"), names, strict=True)), title=title)
        figure.colorbar(mesh, ax=axes)
    return figure


def _per_cent(name: str) -> tuple[float, str]:
    """Return factor and unit of a number with this name: accuracies are shown in per cent."""
    return (100.0, " (%)") if name.endswith("accuracy") or "accuracy_" in name else (1.0, "")


def _sequence(count: int) -> list[Any]:
    """Return colours for layers, from the first to the last; a single one is dark."""
    from matplotlib import colormaps

    many = [colormaps["viridis"](0.9 * k / (count - 1)) for k in range(count) if count > 1]
    return many or [DARK] * count


def _sweep_panels(rows: Rows) -> dict[str, dict[str, str]]:
    """Return the lines of each panel with their columns of results.csv, if these exist."""
    columns, layers = list(rows[0]), _layers(rows)
    many = lambda k, text: f"layer {k}, {text}" if len(layers) > 1 else text
    of_layers = lambda text, name: {many(k, text): f"{name}_{k}" for k in layers}
    before = lambda name: of_layers("before training", f"initial_{name}")
    panels = {
        "accuracy (%)": {"test": "test_accuracy_final", "train": "train_accuracy"},
        "rate (Hz)": before("rate") | of_layers("after training", "final_rate"),
        f"{_style.GRAD_Z}\nbefore training": before("grad_z"),
        f"{_style.GRAD_W}\nbefore training": before("grad_w"),
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
    numbers = ([row[column] for row in group if row.get(column) is not None] for group in groups)
    finite = [found[np.isfinite(found)] for found in (np.array(n, float) for n in numbers)]
    return np.array([statistic(values) if values.size else np.nan for values in finite])


def save(figure: Figure, path: Path) -> None:
    """Write a figure with 160 dpi, completely or not at all.

    Args:
        figure: The figure.
        path: The file. Its ending is the format: .png, .svg or .pdf.
    """
    with whole(path) as file:
        figure.savefig(file, dpi=160, format=path.suffix[1:])
