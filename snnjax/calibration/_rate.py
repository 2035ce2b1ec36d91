r"""Scale the weights of every layer, first to last, so that it fires at a target rate.

This is LSUV for spiking networks.

    w <- g w

The gain g is found by bisection of log g. The mean rate over neurons, batch and time then equals
the target.

Layer-sequential unit variance (LSUV, Mishkin & Matas 2016, arXiv 1511.06422) scales each layer by
its measured output and not by a formula. Here the output is a spike train, and its rate is set.
The method needs about fifteen forward passes per layer; `snnjax.calibration.calibrate` needs one.
The mean rate also does not determine the regime of a layer: a few neurons that are constantly
driven above threshold give the same rate as many neurons that fluctuate.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax._check import Scalar
from snnjax._timed import Timed, over_steps, untimed, variance_over_steps
from snnjax.calibration._connection import each_layer, set_weights
from snnjax.calibration._powers import as_floats, free_membrane
from snnjax.calibration._report import TOLERANCE, Outcome, RateReport, RateReports
from snnjax.nn import Layer, Sequential
from snnjax.nn._network import check_sequential
from snnjax.nn._synaptic import Connection, Synaptic

_RANGE = math.log(100.0)


def scale_to_rate(
    network: Sequential,
    x: jax.Array,
    *,
    rate: Scalar,
    key: jax.Array | None = None,
    steps: int = 14,
    num_steps: jax.Array | None = None,
) -> tuple[Sequential, RateReports]:
    """Scale every spiking layer of `network` to a mean firing rate on the batch `x`.

    The readout is not changed.

    Args:
        network: A `snnjax.nn.Sequential`. It is not changed.
        x: Inputs (time, batch, ...features), typical of the data.
        rate: Target rate of all spiking layers, Hz; above 0 and below 1 / (2 dt).
        key: Draws new orthogonal weights first, as in LSUV. The weights of each neuron have norm 1
            in each connection. None scales the present weights.
        steps: Steps of the bisection. Each is one forward pass of the layer. It halves the interval
            of the logarithm of the gain. The first interval is 1/100 to 100 times the weights that
            would make the membrane fluctuate with a standard deviation of 1.
        num_steps: Number of time steps of each trial, integers (batch,); later steps do not count.
            None: all steps.

    Returns:
        The scaled network, and `RateReports`: one `RateReport` per spiking layer. The function is
        pure: it works under jit, and under vmap over keys. A layer whose input is silent keeps its
        weights.

    Raises:
        ValueError: rate or steps are out of range.
        TypeError: The network is not a `Sequential`, or it has a layer whose connections have
            signs (Dale's law).

    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs, init = nnx.Rngs(0), FluctuationDriven(nu=15.0, sigma_u=0.1)
    >>> hidden = [SpikingDense(n, 64, init=init, rngs=rngs) for n in (50, 64)]
    >>> network = Sequential(*hidden, Readout(64, 3, rngs=rngs))
    >>> x = poisson_raster(jax.random.key(0), (400, 8, 50), rate=15.0, dt=2e-3)
    >>> scaled, reports = scale_to_rate(network, x, rate=10.0)
    >>> [round(float(r.rate), 1) for r in reports]
    [10.0, 10.0]
    """
    check_sequential("scale_to_rate", network)
    _check.integer("steps", steps, at_least=1)
    spiking = [_scalable(layer) for layer in network.layers if layer.spiking]
    if not spiking:
        raise ValueError("network must have a spiking layer, got none")
    _check.number("rate", rate, above=0, below=0.5 / spiking[0].dt, unit="Hz")

    inputs = as_floats(x)
    if num_steps is not None:
        untimed(Timed(target=None, num_steps=num_steps), inputs, of="x")

    def one(n: int, layer: Layer, x: jax.Array, key: jax.Array | None) -> Outcome[RateReport]:
        layer = _scalable(layer)
        if key is not None:
            _draw_orthogonal(layer.connections(), key)
        return _scale(layer, x, rate=rate, steps=steps, num_steps=num_steps)

    network, reports, of = each_layer(network, inputs, key, one, num_steps)
    return network, RateReports(reports, of)


def _scalable(layer: Layer) -> Synaptic:
    """The layer, if one gain can scale all its weights."""
    if not isinstance(layer, Synaptic):
        needed = "layers must be derived from snnjax.nn.Synaptic to be scaled to a rate"
        raise TypeError(f"{needed}, got {type(layer).__name__}")
    if any(c.sign < 0 for c in layer.connections()):
        needed = "network must have weights of both signs to be scaled to a rate"
        hint = "Dalian layers have two scales: use calibrate(...)"
        raise TypeError(f"{needed}, got {type(layer).__name__}; {hint}")
    return layer


def _draw_orthogonal(connections: list[Connection], key: jax.Array) -> None:
    """Draw orthogonal weights. The weights of each neuron have norm 1 in each connection."""
    for k, c in enumerate(connections):
        shape, dtype = c.param.shape, c.param.dtype
        draw = jax.nn.initializers.orthogonal(math.sqrt(max(shape[-1], c.n) / c.n))
        # the factorization needs at least 32 bits
        set_weights(c.param, draw(jax.random.fold_in(key, k), shape, _check.wide(dtype)))


def _scale(
    layer: Synaptic, x: jax.Array, *, rate: Scalar, steps: int, num_steps: jax.Array | None
) -> Outcome[RateReport]:
    original = [c.weights for c in layer.connections()]
    rate_of = lambda z: over_steps(z, num_steps).mean() / layer.dt
    # the search range is centred on the scale that the feed-forward membrane gives
    u = free_membrane(layer.neuron, layer.drive(x))
    spread = jnp.sqrt(variance_over_steps(u, num_steps).mean())
    alive = spread > 0
    start = -jnp.log(jnp.where(alive, spread, 1.0))
    graphdef, state = nnx.split(layer)

    def put(layer: Synaptic, log_gain: jax.Array) -> None:
        for c, w in zip(layer.connections(), original, strict=True):
            set_weights(c.param, jnp.exp(log_gain) * w)

    def run(log_gain: jax.Array) -> jax.Array:
        # a variable may only be set in the trace that created it
        copy = nnx.merge(graphdef, state, copy=True)
        put(copy, log_gain)
        return copy(x).output

    def bisect(
        bounds: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = bounds
        middle = (low + high) / 2
        below = rate_of(run(middle)) < rate
        return (jnp.where(below, middle, low), jnp.where(below, high, middle)), None

    (low, high), _ = jax.lax.scan(bisect, (start - _RANGE, start + _RANGE), length=steps)
    log_gain = jnp.where(alive, (low + high) / 2, 0.0)
    put(layer, log_gain)
    output = layer(x).output
    reached = rate_of(output)
    on_target = jnp.abs(reached / rate - 1) < TOLERANCE
    report = RateReport(jnp.exp(log_gain), reached, on_target, jnp.asarray(rate))
    return Outcome(report, output)
