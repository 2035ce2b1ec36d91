"""Target and measured sigma_U of each layer, for untrained networks.

The measured value is the standard deviation over time, within a trial, of the membrane without
reset. It is averaged, as variance, over neurons, trials and seeds.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax.calibration import Target, calibrate, free_membrane
from snnjax.datasets import DeviceEvents, EventDataset, load_shd, poisson_raster, randman
from snnjax.dynamics import LIF
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.nn._synaptic import Synaptic

METHODS = ("paper", "data-driven", "data-driven, balanced")
DT = 2e-3


class Trials(NamedTuple):
    """Input of a network.

    Attributes:
        spikes: Spikes (time, batch, units).
        nu: Mean rate for the paper's formula, Hz.
    """

    spikes: jax.Array
    nu: float


def poisson_input(samples: int) -> Trials:
    """Return trials of 200 units at 10 Hz for 0.7 s."""
    x = poisson_raster(jax.random.key(0), (350, samples, 200), rate=10.0, dt=DT)
    return Trials(x, 10.0)


def events_input(data: EventDataset, samples: int, dt: float = DT) -> Trials:
    """Return trials that are evenly spread over a data set.

    Args:
        data: The data set.
        samples: Number of trials.
        dt: Time step, s.
    """
    part = data.subset(np.linspace(0, len(data) - 1, min(samples, len(data))).astype(int))
    spikes, _ = DeviceEvents.from_dataset(part, dt=dt).batch(jnp.arange(len(part)))
    return Trials(spikes, float(data.rate().mean()))


def randman_input(samples: int) -> Trials:
    """Return Randman with the settings of the paper."""
    return events_input(randman(samples_per_class=samples, seed=0), samples)


def spoken_input(folder: Path, samples: int) -> Trials:
    """Return spoken words in the SHD layout."""
    return events_input(load_shd(folder, "train", duration=0.7), samples)


def measure(
    trials: Trials,
    sigma_u: float,
    method: str,
    seed: int,
    *,
    depth: int = 7,
    width: int = 128,
    recurrent: bool = False,
    dt: float = DT,
) -> np.ndarray:
    """Measure the membranes of an untrained dense network.

    Args:
        trials: The input.
        sigma_u: Target standard deviation of the membrane.
        method: One of `METHODS`.
        seed: Seed of the weights.
        depth: Number of layers.
        width: Neurons per layer.
        recurrent: Add recurrent connections.
        dt: Time step, s.

    Returns:
        An array (5, depth): the variance of U, the measured and the predicted quenched variance of
        the mean of U, the rate (Hz), and the fraction of silent neurons.

    >>> variance, *_ = measure(poisson_input(8), 1.0, "data-driven", 0, depth=2, width=32)
    >>> np.sqrt(variance).round(1)
    array([1., 1.], dtype=float32)
    """
    widths = [trials.spikes.shape[-1]] + [width] * depth
    rngs, init = nnx.Rngs(seed), FluctuationDriven(nu=trials.nu, sigma_u=sigma_u)
    network = Sequential(
        *[
            SpikingDense(a, b, init=init, neuron=LIF(dt=dt), recurrent=recurrent, rngs=rngs)
            for a, b in itertools.pairwise(widths)
        ],
        Readout(width, 2, rngs=rngs),
    )
    return np.asarray(_measure(network, trials.spikes, jax.random.key(seed), sigma_u, method))


@nnx.jit(static_argnames=("method",))
def _measure(
    network: Sequential, x: jax.Array, key: jax.Array, sigma_u: float, method: str
) -> jax.Array:
    predicted = [jnp.nan] * (len(network.layers) - 1)
    if method != "paper":
        target = Target(sigma_u, balance=method.endswith("balanced"))
        network, reports = calibrate(network, x, key=key, target=target)
        predicted = [r.quenched_spread**2 for r in reports]
    rows = []
    for layer, p in zip(list(network.layers)[:-1], predicted, strict=True):
        assert isinstance(layer, Synaptic)
        below, x = x, layer(x).output
        u = free_membrane(layer.neuron, layer.whole_drive(below, x))
        spread, rate = u.mean(axis=0).var(axis=-1).mean(), x.mean() / layer.neuron.dt
        silent = (x.sum(axis=(0, 1)) == 0).mean()
        rows.append(jnp.stack([u.var(axis=0).mean(), spread, jnp.asarray(p), rate, silent]))
    return jnp.stack(rows, axis=1)
