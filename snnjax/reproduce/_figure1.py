"""Figure 1: distribution of the membrane and the normal distribution of the theory.

It is shown for several xi = (theta - mu_U) / sigma_U, with and without reset. Neurons have mu_U = 0
and balanced weights (the sum of each neuron's weights is zero, so that all neurons have the same
mean) and Poisson input. There is one row for each xi, with and without reset: mean, standard
deviation over time and rate of the membrane, and the largest difference between its distribution
function and the normal one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _style, theory
from snnjax.calibration import free_membrane
from snnjax.datasets import poisson_raster
from snnjax.dynamics import LIF, simulate
from snnjax.reproduce import _statements as st
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import Study
from snnjax.reproduce._units import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEGIN = 0.1
"""Time left out at the start of every trial, s, because the membrane starts at 0."""


def measure(
    *,
    xis: Sequence[float],
    inputs: int,
    neurons: int,
    rate: float,
    seconds: float,
    trials: int,
    dt: float = 2e-3,
) -> list[st.Row]:
    """Return the rows of a study.

    Args:
        xis: Values of xi.
        inputs: Number of inputs.
        neurons: Number of neurons.
        rate: Rate of each input, Hz.
        seconds: Length of a trial, s.
        trials: Number of trials.
        dt: Time step, s.
    """
    x = poisson_raster(jax.random.key(0), (round(seconds / dt), trials, inputs), rate=rate, dt=dt)
    w = jax.random.normal(jax.random.key(1), (inputs, neurons))
    w = (w - w.mean(axis=0)) * math.sqrt(inputs / (inputs - 1))
    neuron, begin, rows = LIF(dt=dt), round(_BEGIN / dt), []
    for xi in xis:
        afferent = theory.Afferent(inputs, rate)
        drive = x @ (w * theory.connection_weights(0.0, 1 / xi, afferent, neuron.kernel).sigma_w)
        run = simulate(neuron, drive, membrane=True)
        spikes = float(run.output.mean() / dt)
        for reset, u in ((False, free_membrane(neuron, drive)), (True, run.membrane)):
            rows.append(_row(np.asarray(u, np.float64)[begin:], xi, reset, spikes))
    return rows


def _row(u: np.ndarray, xi: float, reset: bool, rate: float) -> st.Row:
    target = 1 / xi
    edges = np.linspace(-4 * target, 4 * target, 61)
    density, _ = np.histogram(u, edges, density=True)
    at = np.sort(u.ravel())[:: max(1, u.size // 10_000)]
    normal = 0.5 * (1 + np.asarray(jax.scipy.special.erf(jnp.asarray(at / target / math.sqrt(2)))))
    return {
        "xi": float(xi),
        "reset": reset,
        "target": target,
        "mean": float(u.mean()),
        "std": float(u.std()),
        "distance": float(np.abs(normal - np.linspace(0, 1, at.size)).max()),
        "rate": rate if reset else 0.0,
        "edges": edges.tolist(),
        "density": (density * (np.histogram(u, edges)[0].sum() / u.size)).tolist(),
    }


@_style.styled
def _draw(rows: st.Rows) -> Figure:
    xis = sorted({row["xi"] for row in rows})
    figure, panels = _style.panels(2 * len(xis), height=2.0)
    for row in rows:
        xi, edges, sigma = row["xi"], np.array(row["edges"]), row["target"]
        u = np.linspace(edges[0], edges[-1], 200)
        normal = np.exp(-((u / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        axes = panels[2 * xis.index(xi) + row["reset"]]
        axes.stairs(row["density"], edges, fill=True, color="0.8", label="simulated")
        axes.plot(u, normal, color=_style.FORMULA, label="theory")
        axes.axvline(1.0, color=_style.DARK, ls=":", lw=1, label=r"threshold $\theta$")
        title = rf"$\xi$ = {xi:g}, {'with' if row['reset'] else 'without'} reset"
        axes.set(xlabel="membrane potential $U$", ylabel="density", title=title)
    _style.legend_above(figure)
    return figure


def _as_theory(rows: st.Rows) -> st.Verdict:
    found = st.pick(rows, reset=False)
    if not found:
        return st.untested("not measured")
    text = ", ".join(
        f"xi {r['xi']:g}: std {r['std']:.3f} for {r['target']:.3f}, distance {r['distance']:.3f}"
        for r in found
    )
    close = [abs(r["std"] / r["target"] - 1) < 0.05 and r["distance"] < 0.05 for r in found]
    return st.verdict(all(close), text)


def _with_reset(rows: st.Rows) -> st.Verdict:
    found = sorted(st.pick(rows, reset=True), key=lambda row: row["xi"])
    if len(found) < 2:
        return st.untested("fewer than two xi")
    text = ", ".join(
        f"xi {r['xi']:g}: distance {r['distance']:.3f}, {r['rate']:.1f} Hz" for r in found
    )
    by_xi = [row["distance"] for row in found]
    return st.verdict(by_xi[-1] < 0.05 and by_xi == sorted(by_xi, reverse=True), text)


def study(options: Options) -> Study:
    """Return the study. It takes seconds in every preset, because nothing is trained."""
    seconds, trials = options.choose((0.5, 4), (2.0, 20), (2.0, 100))
    given: dict[str, Any] = {"xis": [1.0, 2.0, 3.0], "inputs": 200, "neurons": 100, "rate": 10.0}
    given |= {"seconds": seconds, "trials": trials}
    run = lambda: measure(**given)
    theory_holds = (
        "Without reset the membrane is normal with standard deviation sigma_U = (theta - mu_U) / "
        "xi (within 5 %)"
    )
    reset_holds = (
        "With reset the theory is more accurate for larger xi (distance < 0.05 at the largest)"
    )
    headings = ("target", "std", "mean", "distance")
    return Study(
        name="figure1",
        title="Figure 1: the membrane's distribution",
        preset=options.preset,
        units=[Measurement("membrane", given, run, {"task": "Poisson", "as_published": True})],
        figures={"figure1": _draw},
        captions={
            "figure1": "Distribution of the membrane potential over time and neurons, for three "
            "xi, without reset (left) and with reset (right). Grey: simulated, Poisson input. "
            "Line: the normal distribution of the theory. Dotted: the threshold."
        },
        statements=[
            st.Statement(theory_holds, "P", _as_theory),
            st.Statement(reset_holds, "ours", _with_reset),
        ],
        columns={**{name: (name, "") for name in headings}, "rate": ("rate", "Hz")},
        notes=[
            "Sizes, rates and the values of xi are our choice. Weights are balanced, so that all "
            "neurons have the same mean."
        ],
    )
