"""Figures. Every function returns a `matplotlib.figure.Figure` that belongs to nobody: no pyplot, no global state, works without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snnjax.diagnostics import Probe


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Loss, accuracy and firing rate of every layer (Hz) over epochs, from the rows of `FitResult.history`.

    >>> rows = [{"epoch": k, "train_loss": 2.0 / (k + 1), "train_accuracy": 0.1 * k, "rate_1": 5.0} for k in range(3)]
    >>> len(learning_curves(rows).axes)
    3
    """
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 3), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        for split in ("train", "valid"):
            if f"{split}_{what}" in history[0]:
                axes.plot(epochs, [row[f"{split}_{what}"] for row in history], label=split)
        axes.set(xlabel="epoch", ylabel=what)
        axes.legend(frameon=False)
    accuracy.set_ylim(0, 1.02)
    for k, name in enumerate([n for n in history[0] if n.startswith("rate_")]):
        rate.plot(epochs, [row[name] for row in history], label=f"layer {k + 1}")
    rate.set(xlabel="epoch", ylabel="rate (Hz)")
    rate.set_ylim(bottom=0)
    rate.legend(frameon=False)
    for axes in (loss, accuracy, rate):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def activity_snapshot(
    x: np.ndarray, spikes: Sequence[np.ndarray], readout: np.ndarray, labels: Any, *, dt: float, predicted: Any = None
) -> Figure:
    """Rasters of the input and of every layer and the readout traces, one column a sample.

    Args:
      x: inputs (time, batch, units).   spikes: of every layer (time, batch, ...features).   readout: (time, batch, classes).
      labels: (batch,).   dt: time step, s.   predicted: (batch,) classes that the network says; None: the largest trace over time.

    >>> x = np.zeros((10, 2, 5)); s = np.zeros((10, 2, 8)); o = np.zeros((10, 2, 3))
    >>> len(activity_snapshot(x, [s], o, [0, 1], dt=2e-3).axes)
    6
    """
    from matplotlib.figure import Figure

    labels = np.asarray(labels)
    predicted = readout.max(axis=0).argmax(axis=-1) if predicted is None else np.asarray(predicted)
    samples = x.shape[1]
    figure = Figure(figsize=(2.6 * samples, 2 + 1.3 * (len(spikes) + 1)), layout="constrained")
    rows = figure.subplots(len(spikes) + 2, samples, sharex=True, squeeze=False)
    end = len(x) * dt * 1e3
    names = ["readout", *[f"layer {k}" for k in range(len(spikes), 0, -1)], "input"]
    for b in range(samples):
        traces = readout[:, b]
        for c in range(traces.shape[1]):
            own = c == labels[b]
            rows[0, b].plot(np.arange(1, len(traces) + 1) * dt * 1e3, traces[:, c], color="C3" if own else "0.7", lw=1.5 if own else 0.8)
        rows[0, b].set_title(f"class {labels[b]}, says {predicted[b]}", fontsize=9)
        for axes, raster in zip(rows[1:, b], [*reversed(spikes), x], strict=True):
            flat = raster[:, b].reshape(len(raster), -1)
            step, unit = np.nonzero(flat)
            axes.plot(step * dt * 1e3, unit, "|" if flat.shape[1] <= 64 else ",", color="black", ms=3)
            axes.set(xlim=(0, end), ylim=(-1, flat.shape[1]))
        rows[-1, b].set_xlabel("time (ms)")
    for axes, name in zip(rows[:, 0], names, strict=True):
        axes.set_ylabel(name)
    for axes in rows.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def depth(report: Probe) -> Figure:
    """Rate, surrogate gradient with respect to spikes and to weights, and first update of every layer, over depth, from `snnjax.diagnostics.probe`.

    Magnitudes of exactly 0 have no place on the logarithmic axes and are left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    rate, spikes, weights, update = figure.subplots(1, 4)
    layers = np.arange(1, len(report.layers) + 1)
    low, middle, high = np.array([p.rates for p in report.layers]).reshape(-1, 3).T
    rate.fill_between(layers, low, high, alpha=0.3, lw=0, label="5 to 95 %")
    rate.plot(layers, middle, "o-", ms=4, label="median neuron")
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
    for axes in (rate, spikes, weights, update):
        axes.set(xlabel="layer", xlim=(0.5, len(layers) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG of 120 dpi."""
    figure.savefig(path, dpi=120)
