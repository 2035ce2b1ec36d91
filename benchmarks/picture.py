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
from matplotlib.figure import Figure

from snnjax import plotting
from snnjax.calibration import Target, calibrate
from snnjax.datasets import poisson_raster
from snnjax.dynamics import LIF
from snnjax.experiments import Experiment, run
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
    rows = []
    for seed in range(5):
        rngs = nnx.Rngs(seed)
        widths = [700] + [128] * depth
        layers = [SpikingDense(a, b, init=init, rngs=rngs) for a, b in itertools.pairwise(widths)]  # type: ignore[arg-type]
        network = Sequential(*layers, Readout(128, 10, rngs=rngs))
        if calibrated:
            network, _ = nnx.jit(
                lambda n, x, key: calibrate(n, x, key=key, target=Target(balance=True))
            )(network, x, jax.random.key(seed))
        _, activity = nnx.jit(lambda n, x: n(x))(network, x)
        rows.append([float(s.mean()) / DT for s in activity.spikes])
    return np.array(rows)


def main(path: Path) -> None:
    """Compute and draw.

    Args:
        path: PNG file to write.
    """
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    trace_axes, depth_axes, accuracy_axes = figure.subplots(1, 3)
    free, spiking = membrane()
    t = np.arange(250) * DT * 1e3
    for k in range(3):
        trace_axes.plot(t, spiking[:250, k], lw=1)
    trace_axes.axhline(1.0, color="black", ls=":", lw=1)
    trace_axes.set(
        xlabel="time (ms)",
        ylabel="membrane U",
        title=f"target std 1, measured {free[50:].std(axis=0).mean():.2f}",
    )
    colors = {"fluctuation-driven": "C0", "Kaiming": "0.5", "data-driven, balanced": "C2"}
    ours = FluctuationDriven(nu=NU)
    for name, init, calibrated in (
        ("fluctuation-driven", ours, False), ("data-driven, balanced", ours, True), ("Kaiming", SameForAll(kaiming_normal()), False),
    ):  # fmt: skip
        rates = rates_by_depth(init, calibrated=calibrated)
        depth_axes.errorbar(
            np.arange(1, 8),
            rates.mean(0),
            np.ptp(rates, axis=0) / 2,
            label=name,
            color=colors[name],
            marker="o",
            ms=4,
        )
    depth_axes.set(
        xlabel="layer", ylabel="rate before training (Hz)", title="seven layers, 5 seeds"
    )
    depth_axes.legend(frameon=False)
    choices = (
        ("fluctuation-driven", "fluctuation_driven"),
        ("data-driven, balanced", "data_driven_balanced"),
        ("Kaiming", "kaiming"),
    )
    for name, init in choices:
        sizes = {"depth": 3, "samples": 400, "batch_size": 100, "epochs": EPOCHS}
        experiment = Experiment.from_options("randman", start="paper", init=init, **sizes)
        history = run(experiment).fit.history
        accuracy_axes.plot(
            [r["epoch"] for r in history],
            [100 * r["valid_accuracy"] for r in history],
            label=name,
            color=colors[name],
        )
    accuracy_axes.set(
        xlabel="epoch",
        ylabel="validation accuracy (%)",
        title="Randman, three hidden layers",
        ylim=(0, 102),
    )
    accuracy_axes.legend(frameon=False)
    for axes in (trace_axes, depth_axes, accuracy_axes):
        axes.spines[["top", "right"]].set_visible(False)
    plotting.save(figure, path)
    print("written", path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
