"""Target against measured sigma_u (the paper's figure 2, extended).

    python -m benchmarks.sigma_u [--data FOLDER] [--seeds 8] [--depth 7] [--recurrent]

Input: Poisson, Randman and, with --data, files in the SHD layout. For each: the paper's formula,
data-driven, and data-driven with balance, measured as in `snnjax.reproduce.membranes`.
`snnjax reproduce figure2` draws the shallow part of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import tyro

from snnjax.reproduce.membranes import (
    DT,
    METHODS,
    measure,
    poisson_input,
    randman_input,
    spoken_input,
)


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
    """Neurons per layer."""
    sigma_u: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Targets."""
    recurrent: bool = False
    """Connect every layer with itself, alpha 0.9."""
    samples: int = 100
    """Trials of each input."""


def main(options: Options) -> None:
    """Print one row per input, target and method.

    Args:
        options: What to measure.
    """
    kind = "recurrent layers" if options.recurrent else "layers"
    print(
        f"{options.seeds} seeds, {options.depth} {kind} of {options.width}, {options.samples} trials, dt {1e3 * DT:g} ms"
    )
    inputs = {"Poisson": poisson_input(options.samples), "Randman": randman_input(options.samples)}
    if options.data is not None:
        inputs["spoken digits"] = spoken_input(options.data, options.samples)
    network = {"depth": options.depth, "width": options.width, "recurrent": options.recurrent}
    for name, (x, nu) in inputs.items():
        for sigma_u, method in itertools.product(options.sigma_u, METHODS):
            m = np.stack(
                [measure(x, nu, sigma_u, method, seed, **network) for seed in range(options.seeds)]
            ).mean(axis=0)
            ratio = " ".join(f"{v:.2f}" for v in np.sqrt(m[0]) / sigma_u)
            spread = " ".join(f"{v:.2f}" for v in np.sqrt(m[1] / m[2]))
            rate, silent = (
                " ".join(f"{v:.1f}" for v in m[3]),
                " ".join(f"{100 * v:.0f}" for v in m[4]),
            )
            print(
                f"{name:14s} sigma_u {sigma_u:g} {method:22s} measured/target {ratio} | rate Hz {rate} | silent % {silent} | spread/predicted {spread}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
