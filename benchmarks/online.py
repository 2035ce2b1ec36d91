"""The tables of docs/how-to/online-learning.md: `python -m benchmarks.online [SEEDS]`.

One recurrent layer on spoken digits, trained by e-prop and by backpropagation through time, from
the same calibrated weights; and the cosine between the gradients of both. Training recordings
alone are read, of which a tenth is held out.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from snnjax.calibration import Target, calibrate
from snnjax.datasets import DeviceEvents, Splits, load_shd
from snnjax.dynamics import LIF, AdLIF, LeakyIntegrator
from snnjax.losses import CrossEntropy, EveryStep, mean_over_time
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training import EProp, Objective, fit

DT, GROUP, EPOCHS, BATCH = 10e-3, 10, 10, 32
NEURONS = {"LIF": LIF(dt=DT), "AdLIF": AdLIF(tau_mem=40e-3, tau_w=200e-3, dt=DT)}
LOSS = EveryStep(CrossEntropy(mean_over_time))
KERNELS = "kernel", "recurrent_kernel"


def digits() -> Splits:
    """Return the training recordings, 70 groups of 10 channels, in steps of 10 ms."""
    data = load_shd(Path(os.environ["SNNJAX_DATA"]) / "shd_format", "train", duration=0.7)
    data = dataclasses.replace(data, units=data.units // GROUP, num_units=data.num_units // GROUP)
    train, valid = data.split([0.9, 0.1], seed=0)
    return Splits(*(DeviceEvents.from_dataset(part, dt=DT) for part in (train, valid)))


def calibrated(name: str, hidden: int, x: jax.Array, seed: int, *, recurrent: bool = True) -> Any:
    """Return calibrated layers.

    Args:
        name: Name of the neuron.
        hidden: Number of hidden layers of 128 neurons.
        x: Inputs (time, batch, units) for the calibration.
        seed: Seed of the weights.
        recurrent: Whether the hidden layers are recurrent.
    """
    rngs, sizes = nnx.Rngs(seed), [x.shape[-1], *[128] * hidden]
    options: dict[str, Any] = {"neuron": NEURONS[name], "recurrent": recurrent, "rngs": rngs}
    init = FluctuationDriven(nu=20.0)
    pairs = itertools.pairwise(sizes)
    layers = [SpikingDense(m, n, init=init, **options) for m, n in pairs]
    readout = Readout(128, 10, neuron=LeakyIntegrator(tau_mem=0.2, dt=DT), rngs=rngs)
    start, key = Sequential(*layers, readout), jax.random.key(seed)
    network, _ = calibrate(start, x, key=key, target=Target(sigma_u=1.0, balance=True))
    return list(network.layers)


def train(splits: Splits, name: str, feedback: str, seed: int) -> dict[str, Any]:
    """Train one network. Returns the last row of its history, with the time per epoch."""
    x, _ = splits.train.batch(jnp.arange(100))
    layers = calibrated(name, 1, x, seed)
    rngs = nnx.Rngs(100 + seed)
    bptt = feedback == "backpropagation"
    network = Sequential(*layers) if bptt else EProp(*layers, feedback=feedback, rngs=rngs)
    optimizer = optax.adamw(RATE, weight_decay=0.1 if feedback == "adaptive" else 0.0)
    options: dict[str, Any] = {"batch_size": BATCH, "key": jax.random.key(seed), "progress": False}
    start = time.perf_counter()
    result = fit(network, splits, Objective(LOSS), optimizer, epochs=EPOCHS, **options)
    best = max(row["valid_accuracy"] for row in result.history)
    return result.history[-1] | {"best": best, "s": (time.perf_counter() - start) / EPOCHS}


RATE = 5e-3


if __name__ == "__main__":
    splits = digits()
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        for name in sys.argv[2].split(",") if len(sys.argv) > 2 else NEURONS:
            for feedback in ("backpropagation", "symmetric", "random", "adaptive"):
                row = train(splits, name, feedback, seed)
                keep = ("train_accuracy", "valid_accuracy", "best", "rate_1", "s")
                print(seed, name, feedback, *(f"{k} {row[k]:.4g}" for k in keep), flush=True)
