"""The works of `benchmarks.speed` and their inputs.

The module needs only numpy, so that it can be imported in every contestant's environment. A work is
one training step: forward, loss, backward and Adam in float32, on one constant batch of random
spikes.

    W1    700-128-20, 350 steps, batch 64, spikes in 3 % of the input's bins; cross-entropy of the
          readout's maximum over time
    W2    the same with a recurrent hidden layer
    W3    512-512 without readout, 500 steps, batch 16, 5 %; the loss is the sum of the spikes
          (the layout of the Open Neuromorphic benchmark)
    W4    three recurrent convolutions over 700 units, 16, 32 and 64 feature maps, and a readout;
          350 steps, batch 16, 3 %
    W4f   the same without recurrence, which all contestants support
    W5    seven recurrent convolutions over 700 units, and a readout; 350 steps, batch 16, 3 %
    W6    two layers of 128 adaptive neurons (SE-adLIF) with a learned delay of up to 250 ms for
          each input unit; 140 units, 70 steps of 10 ms, batch 64, 15 %; only snnjax has both
    S1    W1 for eight seeds, one step of each

Neurons, if the contestant supports them: current-based LIF with tau_mem 20 ms, tau_syn 10 ms, steps
of 2 ms, and SuperSpike with beta 20. All start from the same weights. Without reset, every membrane
would fluctuate with a standard deviation of 1 (the threshold):

    sigma_w = 1 / sqrt(n p sum_t eps[t]^2)

with n inputs that have spikes in a fraction p of their bins, and eps the membrane after one spike
through a weight of 1. This is needed because time depends on activity: in a silent network, numbers
decay to the denormal range, where some libraries are several times slower. If the membrane of a
neuron takes the whole current, and not 1 - exp(-dt/tau_mem) of it, its weights are smaller by this
factor (`gain`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DT, TAU_MEM, TAU_SYN, BETA, LEARNING_RATE = 2e-3, 20e-3, 10e-3, 20.0, 1e-5


class Conv(NamedTuple):
    """A convolution.

    Attributes:
        maps: Feature maps.
        kernel: Positions of the input that each position receives.
        stride: Distance between positions.
        padding: Positions added on each side.
    """

    maps: int
    kernel: int
    stride: int = 1
    padding: int = 0


_FIRST, _SECOND, _THIRD = Conv(16, 21, 10), Conv(32, 7, 3), Conv(64, 7, 3)
CONVS = (_FIRST, _SECOND, _THIRD)
DEEP_CONVS = (
    *(_FIRST, Conv(16, 7, padding=3), _SECOND, Conv(32, 7, padding=3)),
    *(_THIRD, Conv(64, 3, padding=1), Conv(64, 3, padding=1)),
)
RECURRENT_KERNEL = 5
RECURRENT, FEED_FORWARD = "recurrent", "feed-forward"
HIDDEN_DENSITY, INPUT_SHARE = 0.02, 0.9
"""Assumptions for the weights: fraction of a hidden layer's bins with a spike, and the input's
share of the variance in a recurrent layer.
"""


@dataclasses.dataclass(frozen=True)
class Work:
    """One training step.

    Attributes:
        name: Its name.
        units: Input units.
        hidden: Widths of the dense hidden layers.
        classes: Number of classes. None: no readout, and the loss is the sum of the spikes.
        steps: Time steps.
        batch: Samples per batch.
        density: Fraction of the input's bins with a spike.
        recurrent: Whether hidden layers are recurrent.
        conv: Convolutions instead of `hidden`. Empty: dense layers.
        max_delay: Largest learned delay, s, of each unit below a layer of adaptive neurons. None:
            current-based LIF neurons without delays.
        dt: Time step, s.
        seeds: Number of networks.
    """

    name: str
    units: int = 700
    hidden: tuple[int, ...] = (128,)
    classes: int | None = 20
    steps: int = 350
    batch: int = 64
    density: float = 0.03
    recurrent: bool = False
    conv: tuple[Conv, ...] = ()
    max_delay: float | None = None
    dt: float = 2e-3
    seeds: int = 1

    @property
    def form(self) -> str:
        """Whether the hidden layers receive their own spikes."""
        return RECURRENT if self.recurrent else FEED_FORWARD


WORKS = {
    work.name: work
    for work in (
        Work("W1"),
        Work("W2", recurrent=True),
        Work("W3", units=512, hidden=(512,), classes=None, steps=500, batch=16, density=0.05),
        Work("W4", conv=CONVS, recurrent=True, batch=16),
        Work("W4f", conv=CONVS, batch=16),
        Work("W5", conv=DEEP_CONVS, recurrent=True, batch=16),
        Work("W6", 140, (128, 128), steps=70, density=0.15, max_delay=0.25, dt=10e-3),
        Work("S1", seeds=8),
    )
}


class Layer(NamedTuple):
    """A hidden layer; a dense layer has one position.

    Attributes:
        maps_in: Features of the input.
        maps: Features at each position.
        kernel: Positions of the input that each position receives.
        stride: Distance between positions.
        positions: Number of positions.
        padding: Positions added on each side of the input.
    """

    maps_in: int
    maps: int
    kernel: int = 1
    stride: int = 1
    positions: int = 1
    padding: int = 0

    @property
    def size(self) -> int:
        """Its number of neurons."""
        return self.maps * self.positions


def layers_of(work: Work) -> list[Layer]:
    """Return the hidden layers, first to last.

    Args:
        work: The work.

    >>> [layer.size for layer in layers_of(WORKS["W4"])]
    [1088, 672, 320]
    """
    if not work.conv:
        return [Layer(n_in, n) for n_in, n in itertools.pairwise((work.units, *work.hidden))]
    layers, positions, maps_in = [], work.units, 1
    for maps, kernel, stride, padding in work.conv:
        positions = (positions + 2 * padding - kernel) // stride + 1
        layers.append(Layer(maps_in, maps, kernel, stride, positions, padding))
        maps_in = maps
    return layers


def inputs_of(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Return the same random inputs in every process.

    Args:
        work: The work.

    Returns:
        Spikes (steps, batch, units), uint8, and labels (batch,), int32.
    """
    rng = np.random.default_rng(0)
    x = np.empty((work.steps, work.batch, work.units), np.uint8)
    for step in x:  # one by one: the random numbers need more memory than the spikes
        step[:] = rng.random(step.shape, np.float32) < work.density
    return x, (np.arange(work.batch) % (work.classes or 1)).astype(np.int32)


class Weights(NamedTuple):
    """Weights of a layer.

    Attributes:
        kernel: (window, maps_in, maps).
        recurrent: (window, maps, maps), or None.
    """

    kernel: np.ndarray
    recurrent: np.ndarray | None


def weights_of(work: Work, seed: int) -> tuple[list[Weights], np.ndarray | None]:
    """Return the weights of the hidden layers and of the readout.

    Args:
        work: The work.
        seed: Seed of the weights.

    Returns:
        Weights of each hidden layer, and of the readout (neurons, classes), float32.
    """
    rng, layers, density, out = np.random.default_rng((1, seed)), layers_of(work), work.density, []

    def draw(shape: tuple[int, ...], density: float, share: float) -> np.ndarray:
        sigma = math.sqrt(share / (math.prod(shape[:-1]) * density * _power()))
        return rng.normal(0.0, sigma, shape).astype(np.float32)

    for layer in layers:
        kernel = draw(
            (layer.kernel, layer.maps_in, layer.maps),
            density,
            INPUT_SHARE if work.recurrent else 1.0,
        )
        window = RECURRENT_KERNEL if work.conv else 1
        recurrent = (
            draw((window, layer.maps, layer.maps), HIDDEN_DENSITY, 1 - INPUT_SHARE)
            if work.recurrent
            else None
        )
        out.append(Weights(kernel, recurrent))
        density = HIDDEN_DENSITY
    if work.classes is None:
        return out, None
    return out, rng.normal(0.0, layers[-1].size ** -0.5, (layers[-1].size, work.classes)).astype(
        np.float32
    )


def _power() -> float:
    """Return sum_t eps[t]^2."""
    u, i, total = 0.0, 1.0, 0.0
    for _ in range(int(20 * TAU_MEM / DT)):
        u, i = decay(TAU_MEM) * u + gain(TAU_MEM) * i, decay(TAU_SYN) * i
        total += u * u
    return total


def gain(tau: float) -> float:
    """Return the fraction of its current that a membrane takes in a step.

    Args:
        tau: Time constant of the membrane, s.
    """
    return 1 - decay(tau)


def decay(tau: float) -> float:
    """Return the fraction of a trace that remains after a step.

    Args:
        tau: Time constant of the trace, s.
    """
    return math.exp(-DT / tau)


def parse(name: str, changes: Sequence[str] = ()) -> Work:
    """Return the work `name` with changed fields.

    Args:
        name: Name of the work.
        changes: Changes such as "steps=1000" or "hidden=128,128".

    Raises:
        ValueError: There is no such work or field, or the value is not a number.

    >>> parse("W1", ["steps=100", "hidden=64,32"]).hidden
    (64, 32)
    """
    if name not in WORKS:
        raise ValueError(f"work must be one of {', '.join(WORKS)}, got {name!r}")
    fields = {"hidden": lambda text: tuple(int(n) for n in text.split(",")), "density": float}
    fields |= dict.fromkeys(("units", "classes", "steps", "batch", "seeds"), int)
    values = {}
    for change in changes:
        field, _, text = change.partition("=")
        if field not in fields:
            raise ValueError(
                f"change must be FIELD=VALUE with FIELD one of {', '.join(fields)}, got {change!r}"
            )
        try:
            values[field] = fields[field](text)
        except ValueError:
            raise ValueError(f"change must have a number for {field}, got {change!r}") from None
        if np.min(values[field]) <= 0:
            raise ValueError(f"change must have a number > 0 for {field}, got {change!r}")
    return dataclasses.replace(WORKS[name], **values)
