"""The figure of the README: `python -m benchmarks.picture docs/overview.png`.

The script computes everything in it.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnjax import _style, plotting
from snnjax.calibration import calibrate
from snnjax.datasets import poisson_raster
from snnjax.dynamics import LIF
from snnjax.experiments import Experiment, run
from snnjax.experiments._experiment import StartName
from snnjax.initializers import kaiming_normal
from snnjax.nn import FluctuationDriven, Readout, SameForAll, Sequential, SpikingDense

DT, NU, EPOCHS = 2e-3, 10.0, 40


def membrane() -> tuple[np.ndarray, np.ndarray]:
    """Return membranes (time, neurons) of one layer, first without and then with spikes."""
    x = poisson_raster(jax.random.key(0), (1000, 1, 700), rate=NU, dt=DT)
    drives = []
    for theta in (1e9, 1.0):
        layer = SpikingDense(700, 512, init=FluctuationDriven(nu=NU), rngs=nnx.Rngs(0))
        layer.neuron = LIF(dt=DT, theta=theta)
        drives.append(np.asarray(layer(x, membrane=True).membrane)[:, 0])
    return drives[0], drives[1]


def rates_by_depth(init: object, *, calibrated: bool = False, depth: int = 7) -> np.ndarray:
    """Return the mean firing rate of every layer of an untrained network, Hz, (seeds, depth).

    Args:
        init: The initialization.
        calibrated: Whether to calibrate the network.
        depth: Number of layers.
    """
    x = poisson_raster(jax.random.key(1), (350, 16, 700), rate=NU, dt=DT)
    tuned, forward = nnx.jit(calibrate), nnx.jit(lambda network, x: network(x))
    rows = []
    for seed in range(5):
        rngs = nnx.Rngs(seed)
        widths = [700] + [128] * depth
        layers = [SpikingDense(a, b, init=init, rngs=rngs) for a, b in itertools.pairwise(widths)]  # type: ignore[arg-type]
        network = Sequential(*layers, Readout(128, 10, rngs=rngs))
        if calibrated:
            network, _ = tuned(network, x)
        _, activity = forward(network, x)
        rows.append([float(s.mean()) / DT for s in activity.spikes])
    return np.array(rows)


STARTS: dict[str, tuple[str, StartName, str]] = {
    "formula": (_style.FORMULA, "paper", "fluctuation_driven"),
    "calibrated": (_style.DATA, "calibrated", "data_driven"),
    "Kaiming": (_style.KAIMING, "paper", "kaiming"),
}
"""Colour, settings and initialization of each start."""


def draw_membrane(axes: Axes) -> None:
    """Draw the membranes of three neurons.

    Args:
        axes: Axes to draw on.
    """
    free, spiking = membrane()
    t = np.arange(250) * DT * 1e3
    for k, shade in enumerate((_style.FORMULA, _style.SKY, _style.FAINT)):
        axes.plot(t, spiking[:250, k], color=shade, lw=1)
    axes.axhline(1.0, color=_style.DARK, ls=":", lw=1)
    axes.text(t[-1], 1.05, r"threshold $\theta$", ha="right", va="bottom", fontsize=7)
    measured = free[50:].std(axis=0).mean()
    title = rf"target $\sigma_U$ = 1, measured {measured:.2f}"
    axes.set(xlabel="time (ms)", ylabel="membrane potential $U$", title=title)


def draw_rates(axes: Axes) -> None:
    """Draw the rate of every layer before training, for each start.

    Args:
        axes: Axes to draw on.
    """
    for label, (color, _, _) in STARTS.items():
        kaiming = SameForAll(kaiming_normal())
        init = kaiming if label == "Kaiming" else FluctuationDriven(nu=NU)
        rates = rates_by_depth(init, calibrated=label == "calibrated")
        mean = rates.mean(0)
        error = np.stack([mean - rates.min(0), rates.max(0) - mean])
        axes.errorbar(np.arange(1, 8), mean, error, label=label, color=color, marker="o")
    axes.set(xlabel="layer", ylabel="rate before training (Hz)", title="seven layers, 5 seeds")


def draw_training(axes: Axes) -> None:
    """Train a network from each start, and draw its validation accuracy by epoch.

    Args:
        axes: Axes to draw on.
    """
    sizes = {"depth": 3, "samples": 400, "batch_size": 100, "epochs": EPOCHS}
    for label, (color, start, init) in STARTS.items():
        experiment = Experiment.from_options("randman", start=start, init=init, **sizes)
        history = run(experiment).fit.history
        accuracy = [100 * row["valid_accuracy"] for row in history]
        axes.plot([row["epoch"] for row in history], accuracy, label=label, color=color)
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 102))
    axes.set_title("Randman, three hidden layers")
    _style.chance(axes, 10.0)


@_style.styled
def picture() -> Figure:
    """Compute and draw all panels."""
    figure = Figure(figsize=(_style.WIDTH, 4.4), layout="constrained")
    panels = figure.subplot_mosaic("aa;bc", height_ratios=(0.8, 1))
    for letter, axes in panels.items():
        axes.set_title(letter, loc="left", fontweight="bold")
    top, rates, training = panels.values()
    draw_membrane(top)
    draw_rates(rates)
    draw_training(training)
    rates.legend()
    return figure


def main(path: Path) -> None:
    """Compute and draw.

    Args:
        path: PNG file to write.
    """
    plotting.save(picture(), path)
    print("written", path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
