"""Calibration of one layer: `calibrate_layer`, which dispatches on the type of the layer.

In a recurrent layer the weights depend on the layer's own spikes, and these depend on the weights.
The weights are therefore found as a fixed point in a few passes. Formulas:
`snnjax/calibration/_powers.py`; Dalian layers: `snnjax/calibration/_dalian.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._check import Scalar
from snnjax._timed import over_steps, variance_over_steps
from snnjax.calibration._connection import (
    FLOOR_HZ,
    poisson_powers,
    powers_of,
    set_weights,
    shared_parameters,
    standardized,
)
from snnjax.calibration._powers import (
    BiasMoments,
    InputPowers,
    bias_moments,
    free_membrane,
    weights_from_powers,
)
from snnjax.calibration._report import LayerReport, Outcome, near
from snnjax.dynamics import Neuron
from snnjax.nn import Layer
from snnjax.nn._synaptic import Connection, Synaptic
from snnjax.theory import WeightStatistics


@dataclasses.dataclass(frozen=True)
class Target:
    """Targets for the membranes of a layer.

    Attributes:
        sigma_u: Standard deviation of the membrane.
        mu_u: Mean of the membrane.
        alpha: Feed-forward share of the variance in recurrent layers, in (0, 1).
        balance: Whether the weights of every neuron sum to exactly zero in each connection, before
            the mean weight that gives mu_u is added. Not for Dalian layers.
        passes: Number of fixed-point iterations in recurrent layers. Each one sets the recurrent
            weights for the spikes that the layer emits with the last ones. A layer that fires below
            1 Hz gets the recurrent weights of one that fires at 1 Hz; then its input carries a
            larger share than alpha.

    >>> Target(0.5, balance=True).sigma_u
    0.5
    """

    sigma_u: Scalar = 1.0
    mu_u: Scalar = 0.0
    alpha: Scalar = 0.9
    balance: bool = False
    passes: int = 4

    def __post_init__(self) -> None:
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("mu_u", self.mu_u)
        _check.number("alpha", self.alpha, above=0, below=1)
        _check.integer("passes", self.passes, at_least=1)


@functools.singledispatch
def calibrate_layer(
    layer: Layer,
    x: jax.Array,
    key: jax.Array | None,
    target: Target,
    num_steps: jax.Array | None = None,
) -> Outcome[LayerReport]:
    """Set the weights of a spiking layer for its inputs.

    Layers that are derived from `snnjax.nn.Synaptic` (such as `Spiking`) and from
    `snnjax.nn.Dalian` are supported. For your own type of layer, register a function with
    `@calibrate_layer.register`; the annotation of its first argument is the type.

    Args:
        layer: The layer. Its weights are changed.
        x: Inputs (time, batch, ...features).
        key: Draws new weights. None scales the present weights.
        target: The targets.
        num_steps: Number of steps of each trial, integers (batch,); later steps do not count. A
            registered function needs it only for trials of different length. None: all steps.

    Returns:
        The report, the layer's output, and the likely reason if the layer is off target.

    Raises:
        TypeError: No function is registered for the type of the layer.
    """
    name = type(layer).__name__
    raise TypeError(
        f"layer must be a snnjax.nn.Synaptic, whose connections can be measured, got {name}; "
        "derive it from snnjax.nn.Spiking, or register a function for it with "
        f"snnjax.calibration.calibrate_layer.register({name})"
    )


def check_outcome(layer: Layer, outcome: object) -> Outcome[LayerReport]:
    """Return `outcome` if it is what a function for `calibrate_layer` must return.

    Args:
        layer: The layer that was calibrated.
        outcome: The value that the function for its type returned.

    Raises:
        TypeError: It is something else.
    """
    match outcome:
        case (LayerReport() as report, jax.Array() as output, str() as reason):
            return Outcome(report, output, reason)
    parts = outcome if isinstance(outcome, tuple) else (outcome,)
    raise TypeError(
        f"the function that is registered with calibrate_layer for {type(layer).__name__} must "
        "return (report, output, reason): a snnjax.calibration.LayerReport, the output of the "
        "layer (time, batch, ...units) as a jax.Array, and a str with the likely reason if the "
        f"layer is off target; got {', '.join(type(part).__name__ for part in parts)}"
    )


@calibrate_layer.register
def _(
    layer: Synaptic,
    x: jax.Array,
    key: jax.Array | None,
    target: Target,
    num_steps: jax.Array | None = None,
) -> Outcome[LayerReport]:
    sigma_u, mu_u, alpha, balance = target.sigma_u, target.mu_u, target.alpha, target.balance
    connections = layer.connections()
    own = [c for c in connections if c.own is not None]
    if len(connections) - len(own) != 1 or len(own) > 1:
        raise TypeError(
            f"{type(layer).__name__} must have one connection from its input and at most one "
            f"from itself, got {len(connections)}; register a function of your own with "
            "snnjax.calibration.calibrate_layer.register"
        )
    neuron = shared_parameters(layer.neuron)
    below = powers_of(connections[0], connections[0].spikes(x, x), neuron, balance, num_steps)
    keys = (None, None) if key is None else jax.random.split(key)
    shapes = [standardized(c, k, balance) for c, k in zip(connections, keys, strict=False)]
    shares: list[Any] = [alpha, 1 - alpha] if own else [1.0]
    bias = _bias(layer, neuron, [(connections[0], x)], num_steps)
    each = _factors(layer, neuron)

    def put(powers: list[InputPowers]) -> tuple[list[WeightStatistics], jax.Array]:
        weights = weights_from_powers(powers, shares, sigma_u=sigma_u, mu_u=mu_u, bias=bias)
        there = [
            set_weights(c.param, mu_w + sigma_w * shape)
            for c, shape, (mu_w, sigma_w) in zip(
                connections, shapes, [_of_each(w, each) for w in weights], strict=True
            )
        ]
        return weights, jnp.asarray(there).all()

    powers = [below]
    for c in own:
        lowest = poisson_powers(neuron, c.n, FLOOR_HZ, balance, below.temporal.dtype)
        # Before the first pass, the layer's spikes are assumed to be like those of its input, with
        # the powers scaled to its own number of neurons.
        found = _at_least(lowest, [jnp.abs(p) * c.n / below.n for p in below[:4]])
        for _ in range(target.passes):
            put([below, found])
            z = c.spikes(x, layer(x).output)
            measured = powers_of(c, z, neuron, balance, num_steps)
            bias = _bias(layer, neuron, [(connections[0], x), (c, z)], num_steps)
            # The geometric mean with the last estimate prevents oscillation.
            means = [jnp.sqrt(a * b) for a, b in zip(measured[:4], found[:4], strict=True)]
            found = _at_least(lowest, means)
            # If the layer fires too little for its recurrent share, the input carries the rest. The
            # mean with the last share again prevents oscillation.
            carried = jnp.minimum(measured.temporal / found.temporal, 1.0)
            shares[0] = (shares[0] + 1 - (1 - alpha) * carried) / 2
        powers.append(found)
    weights, there = put(powers)
    output = layer(x).output
    u = free_membrane(layer.neuron, layer.whole_drive(x, output))
    reached = jnp.sqrt(variance_over_steps(u, num_steps).mean())
    pairs = zip(weights, powers, strict=True)
    quenched = [w.sigma_w**2 * p.quenched for w, p in pairs]
    if bias is not None:
        quenched.append(bias.quenched)
    report = LayerReport(
        sigma_w=tuple(w.sigma_w for w in weights),
        quenched_spread=jnp.sqrt(sum(quenched)),
        sigma_u=reached,
        silent=below.temporal == 0,
        calibrated=there,
        mu_u=over_steps(u, num_steps).mean(),
        on_target=near(reached, sigma_u, sigma_u),
        targets=(sigma_u, mu_u),
    )
    return Outcome(report, output, _reason(layer, target.passes))


def _bias(
    layer: Synaptic,
    neuron: Neuron,
    inputs: Sequence[tuple[Connection, jax.Array]],
    num_steps: jax.Array | None,
) -> BiasMoments | None:
    """What the biases add to the membranes, for the spikes of each connection; None without."""
    if layer.bias is None:
        return None
    ones = lambda c, spikes: jnp.ones((*c.param.shape[:-1], 1), spikes.dtype)
    sums = [c.project(spikes, ones(c, spikes)) for c, spikes in inputs]
    summed = sum(total.mean(axis=tuple(range(2, total.ndim))) for total in sums)
    return bias_moments(layer.bias[...], neuron, jnp.asarray(summed), num_steps)


def _factors(layer: Synaptic, neuron: Neuron) -> tuple[Any, Any] | None:
    """Factors on the mean and the deviation of the weights of each neuron, (units,), or None.

    Powers are measured with one kernel, that of `neuron`. A neuron with a kernel of its own gets
    weights in inverse proportion to its own integrals, which is exact for Poisson input.
    """
    own = layer.neuron.kernel
    if jnp.shape(own.power()) != (layer.units,):
        return None
    return neuron.kernel.mean() / own.mean(), jnp.sqrt(neuron.kernel.power() / own.power())


def _of_each(weights: WeightStatistics, factors: tuple[Any, Any] | None) -> WeightStatistics:
    if factors is None:
        return weights
    of_mean, of_deviation = factors
    return WeightStatistics(weights.mu_w * of_mean, weights.sigma_w * of_deviation)


def _reason(layer: Synaptic, passes: int) -> str:
    """Why a layer may be off target, on either side."""
    if any(jnp.ndim(leaf) for leaf in jax.tree.leaves(layer.neuron)):
        return (
            "its neurons have different parameters, and their weights are scaled as for Poisson "
            "input, which its input is not"
        )
    few = f"its {layer.units} neurons have too few weights for an exact average"
    if layer.recurrent:
        return (
            f"{few} (use more neurons, or another key), or its own spikes still changed after "
            f"{passes} passes (give Target more passes)"
        )
    return f"{few}; use more neurons, or another key"


def _at_least(lowest: InputPowers, powers: Sequence[jax.Array]) -> InputPowers:
    """`powers` (P, Q, M, P_sum), or `lowest` where P is below that of `lowest`."""
    enough = powers[0] >= lowest.temporal
    pairs = zip(lowest._fields, powers, lowest[:4], strict=False)
    return lowest._replace(**{name: jnp.where(enough, p, low) for name, p, low in pairs})
