"""The style of all figures: colours by meaning, panels with letters, and marks on axes.

Sizes and fonts are in the style sheet `snnjax/figures.mplstyle`. Its first three colours stand for
the starts of a network, so that a start has one colour in all figures.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

P = ParamSpec("P")
SHEET = "snnjax.figures"
WIDTH = 7.2
"""Width of a figure, inches: a column of text."""
FORMULA, KAIMING, DATA = "#0072B2", "#777777", "#009E73"
"""Colours of the starts: the paper's formula, Kaiming, and weights from data or calibrated."""
RED, PURPLE, SKY, ORANGE = "#D55E00", "#8E5FA8", "#56B4E9", "#E69F00"
OTHERS = (FORMULA, RED, PURPLE, SKY, ORANGE)
"""Colours of arms that differ in something else than the start. The first is the formula."""
EXCITATORY, INHIBITORY = "#4053D3", "#B51D14"
DARK, FAINT = "0.15", "0.55"
"""Colours of a single line, and of references such as the chance level."""
ZERO = 0.035
"""Height of the marks for zero on a logarithmic axis, as a fraction of the axis."""
SYMBOLS = {
    "sigma_u": r"target $\sigma_U$",
    "mu_u": r"target $\mu_U$",
    "sigma_w": r"$\sigma_W$",
    "mu_w": r"$\mu_W$",
    "learning_rate": "learning rate",
    "beta": r"$\beta$",
}
"""Labels of swept parameters by their names."""
GRAD_Z, GRAD_W = (rf"mean $|\partial L / \partial {x}|$" for x in "zW")
UPDATE = r"mean first $|\Delta W|$"


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Return the function, with the style sheet of snnjax while it draws.

    Args:
        draw: A function that returns a figure.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> Figure:
        from matplotlib import style

        with style.context(SHEET):
            return draw(*args, **options)

    return drawn


def panels(
    count: int, *, columns: int = 2, height: float = 2.5, sharey: bool = False, letters: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as a column of text, and its panels, row by row.

    Args:
        count: Number of panels.
        columns: Panels in a row.
        height: Height of a row, inches.
        sharey: Whether the panels of a row share the y axis.
        letters: Whether several panels have letters.
    """
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    size = max(WIDTH if columns > 1 else 0.65 * WIDTH, 2.0 * columns), rows * height
    figure = Figure(figsize=size, layout="constrained")
    share = "row" if sharey else False
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for axes in grid[count:]:
        axes.remove()
    if letters and count > 1:
        for axes, letter in zip(grid[:count], "abcdefghijklmnop", strict=False):
            axes.set_title(letter, loc="left", fontweight="bold")
    return figure, grid[:count]


def legend_above(figure: Figure, *, columns: int = 4) -> None:
    """Set one legend above all panels; a label that several panels have occurs once.

    Args:
        figure: The figure.
        columns: Columns of the legend.
    """
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    where, ncols = "outside upper center", min(columns, len(found))
    figure.legend(list(found.values()), list(found), loc=where, ncols=ncols)


def chance(axes: Axes, level: float) -> None:
    """Draw a dotted line at the chance level, with its name.

    Args:
        axes: The panel, in per cent.
        level: The level, per cent.
    """
    axes.axhline(level, color=FAINT, ls=":", lw=1, zorder=0)
    at = axes.get_yaxis_transform()
    axes.text(1.01, level, "chance", color=FAINT, fontsize=7, va="center", transform=at)


def whole_numbers(axis: Axis) -> None:
    """Set ticks at whole numbers only, as for epochs and layers.

    Args:
        axis: The axis.
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))


def plain_numbers(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as numbers, 0.1 and not a power of ten.

    Args:
        axis: The axis.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def log_y(axes: Axes) -> None:
    """Make the y axis logarithmic, with at least one decade, and marks below it for exact zeros.

    Without positive values the axis stays linear.

    Args:
        axes: The panel, with all its lines.
    """
    lines = list(axes.lines)
    values = [np.asarray(line.get_ydata(), float) for line in lines]
    bands = [
        np.asarray(path.vertices)[:, 1] for band in axes.collections for path in band.get_paths()
    ]
    positive = np.array([v for v in itertools.chain(*values, *bands) if np.isfinite(v) and v > 0])
    if not positive.size:
        return
    axes.set_yscale("log")
    low, high = positive.min(), positive.max()
    if high < 10 * low:  # so that rounding does not look like a trend
        low, high = np.sqrt(low * high / 10), np.sqrt(low * high * 10)
    margin = (high / low) ** 0.06
    zeros = any((v == 0).any() for v in values)
    axes.set_ylim(low / (margin**3 if zeros else margin), high * margin)
    if not zeros:
        return
    at, size = axes.get_xaxis_transform(), 7.5
    for line, y in zip(lines, values, strict=True):
        if not (y == 0).any():
            continue
        line.set_ydata(np.where(y == 0, np.nan, y))
        x = np.asarray(line.get_xdata())[y == 0]
        style = {"color": line.get_color(), "mfc": "white", "clip_on": False, "transform": at}
        axes.plot(x, np.full(x.shape, ZERO), "v", ms=size, ls="", **style)
        size = max(size - 2.5, 3.0)  # smaller for each line, so that none covers another
    border = low / margin**1.3
    axes.axhline(border, color="0.85", lw=0.8, zorder=0)
    decades = np.arange(np.ceil(np.log10(border)), np.log10(high * margin))
    axes.set_yticks(10.0 ** decades[:: 1 + len(decades) // 6])
    axes.minorticks_off()
    axes.text(-0.02, ZERO, "0", transform=axes.transAxes, ha="right", va="center", fontsize=8)
