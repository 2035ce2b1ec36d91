"""Target against measured sigma_u (the paper's figure 2, extended).

    python -m benchmarks.sigma_u [--data FOLDER] [--seeds 8] [--depth 7] [--recurrent]

Input: Poisson, Randman and, with --data, files in the SHD layout. For each: the paper's formula,
data-driven, and data-driven with balance, measured as in `snnjax.reproduce._membranes`, without
training. `snnjax reproduce figure2` draws the shallow part of it.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from snnjax.reproduce._membranes import (
    DT,
    METHODS,
    measure,
    poisson_input,
    randman_input,
    spoken_input,
)


def main() -> None:
    """Print one row per input, target and method."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder with NAME_train.h5 in the SHD layout")
    add("--seeds", type=int, default=8, help="networks of each kind")
    add("--depth", type=int, default=7, help="hidden layers")
    add("--width", type=int, default=128, help="neurons per layer")
    add("--sigma-u", type=float, nargs="+", default=(0.5, 1.0, 2.0), help="targets")
    add("--recurrent", action="store_true", help="connect every layer with itself, alpha 0.9")
    add("--samples", type=int, default=100, help="trials of each input")
    options = parser.parse_args()
    depth, width, recurrent = options.depth, options.width, options.recurrent
    print(
        f"{options.seeds} seeds, {depth} {'recurrent ' * recurrent}layers of {width}, "
        f"{options.samples} trials, dt {1e3 * DT:g} ms"
    )
    inputs = {"Poisson": poisson_input(options.samples), "Randman": randman_input(options.samples)}
    if options.data is not None:
        inputs["spoken digits"] = spoken_input(options.data, options.samples)
    network = {"depth": depth, "width": width, "recurrent": recurrent}
    for name, trials in inputs.items():
        for sigma_u, method in itertools.product(options.sigma_u, METHODS):
            networks = [
                measure(trials, sigma_u, method, k, **network) for k in range(options.seeds)
            ]
            variance, quenched, predicted, rate, silent = np.mean(networks, axis=0)
            shown = {
                "measured/target": (np.sqrt(variance) / sigma_u, 2),
                "| rate Hz": (rate, 1),
                "| silent %": (100 * silent, 0),
                "| spread/predicted": (np.sqrt(quenched / predicted), 2),
            }
            parts = [f"{n} {' '.join(f'{v:.{k}f}' for v in vs)}" for n, (vs, k) in shown.items()]
            print(f"{name:14s} sigma_u {sigma_u:g} {method:22s}", *parts, flush=True)


if __name__ == "__main__":
    main()
