"""The figure of docs/explanation/gradient.md: `python -m benchmarks.gradient PATH`.

The script computes everything in it: the gain of one layer against the steepness of its surrogate,
and the gradient in every layer of deep networks.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnjax import _style, calibration, losses, plotting
from snnjax.datasets import poisson_raster
from snnjax.dynamics import LIF, LeakyIntegrator, simulate
from snnjax.gradient_theory import backward_gain, steepness_for_gain
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.surrogate import superspike

TIMES: dict[str, Any] = {"tau_mem": 20e-3, "tau_syn": 10e-3, "dt": 2e-3}
N, NU, STEPS, BATCH, CUT = 128, 10.0, 350, 16, 75
DEPTH, CLASSES, SEEDS = 7, 10, 5
BETAS = np.geomspace(1, 100, 9)


def inputs(key: int) -> jax.Array:
    """Return Poisson spikes (time, batch, units).

    Args:
        key: Seed.
    """
    return poisson_raster(jax.random.key(key), (STEPS, BATCH, N), rate=NU, dt=TIMES["dt"])


@jax.jit
def layer_gains(x: jax.Array, kernel: jax.Array, beta: Any) -> jax.Array:
    """Return the gains of one layer (2, 2).

    Args:
        x: Spikes (time, batch, units).
        kernel: Weights (units, units).
        beta: Steepness of the surrogate.

    Returns:
        Rows: without and with reset. Columns: errors white and constant in time.
    """
    neuron = LIF(**TIMES, spike=superspike(beta))
    rms = lambda a: jnp.sqrt(jnp.square(a[CUT:-CUT]).mean())
    white = jax.random.rademacher(jax.random.key(9), x.shape, x.dtype)
    u, without = jax.vjp(lambda x: calibration.free_membrane(neuron, x @ kernel), x)
    h = neuron.spike.derivative(u - neuron.theta)
    _, within = jax.vjp(lambda x: simulate(neuron, x @ kernel).output, x)
    errors = (white, jnp.broadcast_to(white[:1], white.shape))
    ways = ((without, h), (within, 1.0))
    return jnp.array([[rms(pull(g * f)[0]) for g in errors] for pull, f in ways])


def network(seed: int, beta: float) -> Sequential:
    """Return seven layers at sigma_u = 1 by the formula, and a readout.

    Args:
        seed: Seed of the weights.
        beta: Steepness of the surrogates.
    """
    rngs, init = nnx.Rngs(seed), FluctuationDriven(nu=NU)
    neuron = LIF(**TIMES, spike=superspike(beta))
    layers = [SpikingDense(N, N, init=init, neuron=neuron, rngs=rngs) for _ in range(DEPTH)]
    readout = LeakyIntegrator(tau_mem=STEPS * TIMES["dt"], dt=TIMES["dt"])
    return Sequential(*layers, Readout(N, CLASSES, neuron=readout, rngs=rngs))


@nnx.jit
def gradients(net: Sequential, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the root mean square of dL/dz of every spiking layer, for the cross-entropy L.

    Args:
        net: The network.
        x: Spikes (time, batch, units).
        labels: Classes (batch,).
    """
    pulls, layers = [], list(net.layers)
    for layer in layers:
        x, pull = jax.vjp(functools.partial(lambda layer, x: layer(x).output, layer), x)
        pulls.append(pull)
    scores, pull = jax.vjp(losses.max_over_time, x)
    (g,) = pull(jax.nn.softmax(scores) - jax.nn.one_hot(labels, CLASSES))
    sizes = []
    for pull in reversed(pulls[1:]):
        (g,) = pull(g)
        sizes.append(jnp.sqrt(jnp.square(g).mean()))
    return jnp.stack(sizes[::-1])


def draw_gain(axes: Axes) -> None:
    """Draw gain against beta: theory, one layer without and with reset, the layers of a network.

    Args:
        axes: Axes to draw on.
    """
    x, fine = inputs(0), jnp.geomspace(1, 100, 60)
    powers = calibration.input_powers(x, LIF(**TIMES), balance=True)
    kernel = calibration.data_driven(powers, sigma_u=1.0)(jax.random.key(1), (N, N))
    layer: dict[str, Any] = {"fan_out": N, "sigma_w": kernel.std(), "mu_u": 0.0, "sigma_u": 1.0}
    theory = backward_gain(superspike(fine), **layer, kernel=LIF(**TIMES).kernel)
    measured = np.array([layer_gains(x, kernel, beta) for beta in BETAS])
    for k, (name, color) in enumerate(
        (("white in time", _style.PURPLE), ("constant in time", _style.RED))
    ):
        axes.loglog(fine, theory[k], color=color, label=f"{name}: theory")
        for m, (reset, fill) in enumerate((("without", "white"), ("with", color))):
            label = f"{name}: {reset} reset"
            axes.loglog(BETAS, measured[:, m, k], "o", mfc=fill, color=color, label=label)
    labels = jnp.arange(BATCH) % CLASSES
    sizes = np.array([gradients(network(0, float(beta)), inputs(2), labels) for beta in BETAS])
    per_layer = (sizes[:, 0] / sizes[:, -1]) ** (1 / (DEPTH - 1))
    axes.loglog(BETAS, per_layer, "x-", color=_style.DARK, lw=1, label="cross-entropy: network")
    beta = float(steepness_for_gain(superspike(), nu=NU, mu_u=0.0, sigma_u=1.0, dt=TIMES["dt"]))
    print("beta for a white gain of 1:", beta, "; per layer in the network:", per_layer.round(2))
    axes.axhline(1.0, color=_style.FAINT, lw=1, ls=":")
    axes.set(xlabel=r"steepness $\beta$ of SuperSpike", ylabel="gain of the gradient per layer")
    axes.set_ylim(top=60)
    axes.legend(fontsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        _style.plain_numbers(axis)


def draw_depth(axes: Axes) -> None:
    """Draw the gradient in every layer over that in the last, with one beta and calibrated.

    Args:
        axes: Axes to draw on.
    """
    labels, layers = jnp.arange(BATCH) % CLASSES, np.arange(1, DEPTH + 1)
    choices = (
        (r"$\beta$ = 2", 2.0, colormaps["Blues"](0.45)),
        (r"$\beta$ = 5", 5.0, colormaps["Blues"](0.6)),
        ("calibrated", 20.0, _style.DATA),
        (r"$\beta$ = 20", 20.0, colormaps["Blues"](0.8)),
        (r"$\beta$ = 100", 100.0, colormaps["Blues"](1.0)),
    )
    for name, beta, color in choices:
        rows = []
        for seed in range(SEEDS):
            net = network(seed, beta)
            if name == "calibrated":
                net, reports = calibration.calibrate_gradient(net, inputs(100 + seed))
                print("beta, first to last layer:", [round(float(r.steepness), 1) for r in reports])
            sizes = np.array(gradients(net, inputs(200 + seed), labels))
            rows.append(sizes / sizes[-1])
        print(name, np.exp(np.log(rows).mean(0)).round(4))
        axes.semilogy(layers, np.exp(np.log(rows).mean(0)), "o-", color=color, label=name)
        axes.fill_between(layers, np.min(rows, 0), np.max(rows, 0), color=color, alpha=0.15, lw=0)
    axes.set(xlabel="layer", ylabel=r"rms of $\partial L / \partial z$, over that of layer 7")
    _style.whole_numbers(axes.xaxis)
    axes.legend()


@_style.styled
def picture() -> Figure:
    """Compute and draw both panels."""
    figure, (gain_axes, depth_axes) = _style.panels(2, height=3.4)
    draw_gain(gain_axes)
    draw_depth(depth_axes)
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
