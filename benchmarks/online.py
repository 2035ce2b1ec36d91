"""The tables of docs/how-to/online-learning.md: `python -m benchmarks.online train`.

The other tables: `... cosines`, `... memory`. Further arguments: neurons, seeds, `LIF,AdLIF 0,1`.

One recurrent layer on spoken digits, trained by e-prop and by backpropagation through time, from
the same calibrated weights; and the cosine between the gradients of both. Training recordings
alone are read, of which a tenth is held out.
"""

from __future__ import annotations

import functools
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

DT, GROUP, EPOCHS, BATCH, RATE = 10e-3, 10, 8, 32, 5e-3
NEURONS = {"LIF": LIF(dt=DT), "AdLIF": AdLIF(tau_mem=40e-3, tau_w=200e-3, dt=DT)}
LOSS = EveryStep(CrossEntropy(mean_over_time))


def digits() -> Splits:
    """Return the training recordings, 70 groups of 10 channels, in steps of 10 ms."""
    data = load_shd(Path(os.environ["SNNJAX_DATA"]) / "shd_format", "train", duration=0.7)
    train, valid = data.join_units(GROUP).split([0.9, 0.1], seed=0)
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
    # a larger readout, which calibrated gradients need, would delay its alignment with drawn feedback
    target = Target(sigma_u=1.0, balance=True)
    network, _ = calibrate(start, x, key=key, target=target, gradient=None)
    return list(network.layers)


def train(splits: Splits, name: str, feedback: Any, seed: int) -> dict[str, Any]:
    """Train one network. Returns the last row of its history, with the time per epoch."""
    x, _ = splits.train.batch(jnp.arange(100))
    layers = calibrated(name, 1, x, seed)
    rngs = nnx.Rngs(100 + seed)
    bptt = feedback == "backpropagation"
    network = Sequential(*layers) if bptt else EProp(*layers, feedback=feedback, rngs=rngs)
    options: dict[str, Any] = {"batch_size": BATCH, "key": jax.random.key(seed), "progress": False}
    start = time.perf_counter()
    result = fit(network, splits, Objective(LOSS), optax.adam(RATE), epochs=EPOCHS, **options)
    return result.history[-1] | {"s": (time.perf_counter() - start) / EPOCHS}


def cosines(splits: Splits, name: str, feedback: Any, hidden: int, *, recurrent: bool) -> list[str]:
    """Return the cosines of e-prop to backpropagation for each kernel, before training.

    Args:
        splits: The data, of which 128 recordings are used.
        name: Name of the neuron.
        feedback: Feedback of e-prop.
        hidden: Number of hidden layers.
        recurrent: Whether they are recurrent.
    """
    x, y = splits.train.batch(jnp.arange(128))
    network = EProp(
        *calibrated(name, hidden, x, 0, recurrent=recurrent), feedback=feedback, rngs=nnx.Rngs(9)
    )
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    merged = functools.partial(nnx.merge, graphdef)
    found = jax.jit(lambda p: merged(p, rest).gradient(x, y, LOSS)[1])(params)
    exact = jax.jit(jax.grad(lambda p: LOSS(merged(p, rest)(x).readout, y).mean()))(params)
    rows = []
    for k in range(hidden):
        for kernel in ("kernel", "recurrent_kernel")[: 1 + recurrent]:
            a, b = (g["layers"][k][kernel][...].ravel() for g in (found, exact))
            rows.append(f"layer {k + 1} {kernel} {a @ b / jnp.sqrt((a @ a) * (b @ b)):.4f}")
    return rows


def temporaries(steps: int, *, online: bool) -> float:
    """Return the MiB beside input and weights that a gradient needs, for a batch of 32.

    Args:
        steps: Number of steps of a trial.
        online: Whether the gradient is that of e-prop.
    """
    x, y = jnp.zeros((steps, BATCH, 70)), jnp.zeros(BATCH, int)
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=20.0)
    hidden = SpikingDense(70, 128, init=init, recurrent=True, rngs=rngs)
    network = EProp(hidden, Readout(128, 10, rngs=rngs))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    merged = functools.partial(nnx.merge, graphdef)
    if online:
        gradient = lambda p, x: merged(p, rest).gradient(x, y, LOSS)[1]
    else:
        gradient = jax.grad(lambda p, x: LOSS(merged(p, rest)(x).readout, y).mean())
    account: Any = jax.jit(gradient).lower(params, x).compile().memory_analysis()
    return account.temp_size_in_bytes / 2**20


def main(command: str = "train", names: str = "LIF,AdLIF", seeds: str = "0") -> None:
    """Print the rows of a table: `train`, `cosines` or `memory`."""
    if command == "memory":
        for steps in (70, 280, 1120):
            both = [temporaries(steps, online=online) for online in (False, True)]
            print(steps, *(f"{mib:.1f} MiB" for mib in both), flush=True)
        return
    splits = digits()
    for name in names.split(","):
        if command == "cosines":
            for hidden, recurrent in itertools.product((1, 2), (False, True)):
                for feedback in ("symmetric", "random"):
                    rows = cosines(splits, name, feedback, hidden, recurrent=recurrent)
                    print(
                        name, hidden, "recurrent" * recurrent, feedback, *rows, sep=", ", flush=True
                    )
            continue
        for seed in map(int, seeds.split(",")):
            for feedback in ("backpropagation", "symmetric", "random", "adaptive"):
                row = train(splits, name, feedback, seed)
                columns = ("train_accuracy", "valid_accuracy", "rate_1", "s")
                print(name, seed, feedback, *(f"{k} {row[k]:.4g}" for k in columns), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
