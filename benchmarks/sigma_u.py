"""Target against measured sigma_U: `python -m benchmarks.sigma_u [--data FOLDER] [--seeds 8] [--depth 7] [--recurrent]` (the paper's figure 2, extended).

Input: Poisson, Randman and, with --data, files in the SHD layout. For each the paper's formula, data-driven, and data-driven with balance. Measured is the
standard deviation in time, within a trial, of the membrane without reset, averaged (as variance) over neurons, trials and seeds.
"""

from __future__ import annotations

from snnjax.runtime import tune_allocator

tune_allocator()

import dataclasses  # noqa: E402
import itertools  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from flax import nnx  # noqa: E402

from snnjax.calibration import calibrate, free_membrane  # noqa: E402
from snnjax.datasets import DeviceEvents, load_shd, poisson_raster, randman  # noqa: E402
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense  # noqa: E402

METHODS = ("paper", "data-driven", "data-driven, balanced")
DT = 2e-3


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path | None = None
    """Folder with NAME_train.h5 in the SHD layout."""
    seeds: int = 8
    """Networks of each kind."""
    depth: int = 7
    """Hidden layers."""
    width: int = 128
    """Neurons a layer."""
    sigma_u: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Targets."""
    recurrent: bool = False
    """Connect every layer with itself, alpha 0.9."""
    samples: int = 100
    """Trials of each input."""


def inputs(options: Options) -> dict[str, tuple[jax.Array, float]]:
    """Name -> (trials (time, batch, units), mean rate in Hz)."""
    out = {"Poisson": (poisson_raster(jax.random.key(0), (350, options.samples, 200), rate=10.0, dt=DT), 10.0)}
    sources = {"Randman": (randman(n_samples=options.samples, seed=0), DT)}
    if options.data is not None:
        sources["spoken digits"] = (load_shd(options.data, "train", duration=0.7), DT)
    for name, (data, dt) in sources.items():
        shown = np.linspace(0, len(data) - 1, options.samples).astype(int)
        part = data.subset(shown)
        out[name] = (DeviceEvents.put(part, dt=dt).batch(jnp.arange(len(part)))[0], float(data.rate().mean()))
    return out


def measure(x: jax.Array, nu: float, sigma_u: float, method: str, seed: int, options: Options) -> np.ndarray:
    """(5, depth): variance of U, measured and predicted quenched variance of mean U, rate (Hz), silent fraction."""
    widths = [x.shape[-1]] + [options.width] * options.depth
    rngs, init = nnx.Rngs(seed), FluctuationDriven(nu=nu, sigma_u=sigma_u)
    network = Sequential(
        *[SpikingDense(a, b, init=init, recurrent=options.recurrent, rngs=rngs) for a, b in itertools.pairwise(widths)],
        Readout(options.width, 2, rngs=rngs),
    )
    return np.asarray(_measure(network, x, jax.random.key(seed), sigma_u, method))


@nnx.jit(static_argnames=("sigma_u", "method"))
def _measure(network: Sequential, x: jax.Array, key: jax.Array, sigma_u: float, method: str) -> jax.Array:
    predicted = [jnp.nan] * (len(network.layers) - 1)
    if method != "paper":
        network, reports = calibrate(network, x, key=key, sigma_u=sigma_u, balance=method.endswith("balanced"))
        predicted = [r.quenched_spread**2 for r in reports]
    rows = []
    for layer, p in zip(list(network.layers)[:-1], predicted, strict=True):
        drive, x = layer.project(x, layer.kernel[...]), layer(x).output
        if layer.recurrent_kernel is not None:
            drive = drive + layer.recur(x, layer.recurrent_kernel[...])
        u = free_membrane(layer.neuron, drive)
        silent = (x.sum(axis=(0, 1)) == 0).mean()
        rows.append(jnp.stack([u.var(axis=0).mean(), u.mean(axis=0).var(axis=-1).mean(), jnp.asarray(p), x.mean() / DT, silent]))
    return jnp.stack(rows, axis=1)


def main(options: Options) -> None:
    """Print a row an input, target and method."""
    kind = "recurrent layers" if options.recurrent else "layers"
    print(f"{options.seeds} seeds, {options.depth} {kind} of {options.width}, {options.samples} trials, dt {1e3 * DT:g} ms")
    for name, (x, nu) in inputs(options).items():
        for sigma_u, method in itertools.product(options.sigma_u, METHODS):
            m = np.stack([measure(x, nu, sigma_u, method, seed, options) for seed in range(options.seeds)]).mean(axis=0)
            ratio = " ".join(f"{v:.2f}" for v in np.sqrt(m[0]) / sigma_u)
            spread = " ".join(f"{v:.2f}" for v in np.sqrt(m[1] / m[2]))
            rate, silent = " ".join(f"{v:.1f}" for v in m[3]), " ".join(f"{100 * v:.0f}" for v in m[4])
            print(
                f"{name:14s} sigma_u {sigma_u:g} {method:22s} measured/target {ratio} | rate Hz {rate} | silent % {silent} | spread/predicted {spread}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
