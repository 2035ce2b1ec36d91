"""Panels that figures of sweeps share: curves over a swept value, with one line per arm.

Lines are means and bands are ranges over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from snnjax import _style, plotting
from snnjax.experiments._rows import Rows, pick, values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "test accuracy (%)": "test_accuracy_final",
    "training accuracy (%)": "train_accuracy",
    "epochs to 90 % (training)": "epochs_to_90",
    "rate after training (Hz)": "final_rate_1",
}
"""The usual panels of a figure over sigma_u: label -> column."""
FEWEST = 3
"""A panel needs a line with as many points; otherwise it is left out."""
NAMES: Mapping[str, str] = {}


def arms(rows: Rows) -> list[str]:
    """Return the names of the arms, in their order."""
    return list(dict.fromkeys(row["arm"] for row in rows))


@_style.styled
def curves(
    rows: Rows,
    panels: Mapping[str, str] = PANELS,
    *,
    x: str = "sigma_u",
    names: Mapping[str, str] = NAMES,
) -> Figure:
    """Plot one panel per column and one line per arm.

    A panel without a line of three points is left out, unless all are such.

    Args:
        rows: Rows of the study.
        panels: Column of each panel by its label.
        x: Column of the x axis.
        names: Names of arms in the legend, where they differ from those in the rows.

    >>> rows = [{"arm": a, "sigma_u": s, "test_accuracy_final": 0.5}
    ...         for a in ("one", "two") for s in (0.1, 1.0, 10.0)]
    >>> figure = curves(rows, {"test accuracy (%)": "test_accuracy_final"})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['one', 'two']
    """
    points = lambda arm, column: {r[x] for r in pick(rows, arm=arm) if values([r], column).size}
    full = lambda column: any(len(points(arm, column)) >= FEWEST for arm in arms(rows))
    shown = {label: column for label, column in panels.items() if full(column)} or dict(panels)
    figure, grid = _style.panels(len(shown))
    colors = _style.OTHERS
    for axes, (label, column) in zip(grid, shown.items(), strict=True):
        for k, arm in enumerate(arms(rows)):
            own, name, color = pick(rows, arm=arm), names.get(arm, arm), colors[k % len(colors)]
            ls = ("-", "--", ":", "-.")[k // len(colors) % 4]
            plotting.line(axes, own, x, column, color=color, label=name, ls=ls)
        plotting.finish(axes, x=x, y=label, log_y="partial" in label)
        if "accuracy" in label and rows and "chance" in rows[0]:
            _style.chance(axes, 100 * rows[0]["chance"])
    for axes in grid[1:]:
        axes.set(xlim=grid[0].get_xlim())
        if axes.get_xscale() != grid[0].get_xscale():
            axes.set_xscale(grid[0].get_xscale())
            _style.plain_numbers(axes.xaxis)
    if any(arms(rows)):
        _style.legend_above(figure)
    return figure
