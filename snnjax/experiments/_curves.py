"""Panels that figures of sweeps share: curves over a swept value, with one line per arm.

Lines are means and bands are ranges over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from snnjax.experiments._rows import Rows, pick, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "test accuracy": "test_accuracy_final",
    "training accuracy": "train_accuracy",
    "epochs to 90 % (training)": "epochs_to_90",
    "rate of layer 1 after (Hz)": "final_rate_1",
}
"""The usual panels of a figure over sigma_u: label -> column."""


def arms(rows: Rows) -> list[str]:
    """Return the names of the arms, in their order."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def line(axes: Axes, rows: Rows, x: str, column: str, *, color: str, label: str) -> None:
    """Plot mean (line) and range (band) of a column over all rows with the same x.

    Values that are not finite are left out.

    Args:
        axes: The panel.
        rows: Rows of one arm.
        x: Column of the x axis.
        column: Column of the y axis.
        color: Color of the line.
        label: Its label.
    """
    across = sorted({row[x] for row in rows if row.get(x) is not None})
    found = [values(pick(rows, **{x: v}), column) for v in across]
    kept = [(v, f) for v, f in zip(across, found, strict=True) if f.size]
    if not kept:
        return
    at = [v for v, _ in kept]
    axes.plot(at, [f.mean() for _, f in kept], marker="o", ms=3, color=color, label=label)
    low, high = ([end(f) for _, f in kept] for end in (np.min, np.max))
    axes.fill_between(at, low, high, color=color, alpha=0.2, lw=0)


def finish(axes: Axes, *, x: str, y: str, log_y: bool = False) -> None:
    """Set labels and scales of a panel.

    The x axis is logarithmic if x spans more than a decade. An empty panel gets a text that says
    so.

    Args:
        axes: The panel.
        x: Column of the x axis.
        y: Label of the y axis.
        log_y: Make the y axis logarithmic if it has positive values.
    """
    axes.set(xlabel=r"target $\sigma_U$" if x == "sigma_u" else x, ylabel=y)
    across, along = (
        np.array([v for line in axes.lines for v in np.asarray(line.get_data()[k])], float)
        for k in (0, 1)
    )
    if across.size and across.min() > 0 and across.max() > 10 * across.min():
        axes.set_xscale("log")
    if log_y and (along > 0).any():
        axes.set_yscale("log")
    if "accuracy" in y:
        axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.lines:
        axes.set(yticks=[])
        why = "not reached" if y.startswith("epochs to") else "no finite number"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="0.5")


def curves(rows: Rows, panels: Mapping[str, str] = PANELS, *, x: str = "sigma_u") -> Figure:
    """Plot one panel per column and one line per arm.

    Args:
        rows: Rows of the study.
        panels: Column of each panel by its label.
        x: Column of the x axis.

    >>> rows = [{"arm": a, "sigma_u": s, "test_accuracy_final": 0.5}
    ...         for a in ("one", "two") for s in (0.1, 1.0, 10.0)]
    >>> figure = curves(rows, {"test accuracy": "test_accuracy_final"})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['one', 'two']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    all_axes = np.ravel(figure.subplots(1, len(panels), sharex=True))
    for axes, (label, column) in zip(all_axes, panels.items(), strict=True):
        for k, name in enumerate(arms(rows)):
            line(axes, pick(rows, arm=name), x, column, color=f"C{k % 10}", label=name)
        finish(axes, x=x, y=label, log_y="|" in label)
        if "accuracy" in label and rows and "chance" in rows[0]:
            axes.axhline(rows[0]["chance"], color="0.6", ls=":", lw=1)
    if any(arms(rows)):
        all_axes[0].legend(frameon=False, fontsize=7)
    return figure
