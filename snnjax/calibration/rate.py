r"""Scale the weights of every layer, first to last, until the layer fires at a target rate: LSUV for spiking networks.

    w <- g w, with g found by bisection of log g so that the mean rate over neurons, batch and time is the target

Layer-sequential unit variance (Mishkin & Matas 2016, arXiv 1511.06422) scales each layer by its measured output instead of by a formula; here the output is a
spike train and what is set is its rate. It needs some fifteen forward passes a layer where `snnjax.calibration.calibrate` needs one, and the mean rate
alone does not say how a layer reaches it: a few neurons that are driven above threshold all the time do as well as many that fluctuate.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.calibration.powers import as_floats, free_membrane
from snnjax.nn.network import check_sequential

_RANGE = math.log(100.0)


class RateReport(NamedTuple):
    """Of one layer, scalars: the `gain` its weights were multiplied by, the `rate` (Hz) that it then has, and whether that is within 5 % of the target."""

    gain: jax.Array
    rate: jax.Array
    reached: jax.Array


def scale_to_rate(network: Any, x: jax.Array, *, rate: Any, key: jax.Array | None = None, steps: int = 14) -> tuple[Any, list[RateReport]]:
    """Put every spiking layer of `network` at a mean firing rate on the batch `x`. The readout is left alone.

    Args:
      network: a `snnjax.nn.Sequential`. It is not changed.   x: inputs (time, batch, ...features), typical of the data.
      rate: target, Hz, one for all spiking layers; above 0 and below half the reciprocal of the time step.
      key: draw new orthogonal weights first, as in LSUV, of norm 1 for each neuron in each connection; None scales the weights that are there.
      steps: of the bisection; each is one forward pass of the layer and halves log g's interval, which begins at 1/100 to 100 times the
        weights that would make the membrane fluctuate with a standard deviation of 1.

    Returns:
      `(scaled network, one RateReport a spiking layer)`. Pure: works under jit, and under vmap over keys. A layer whose input is silent keeps its weights.

    Raises:
      ValueError: rate or steps out of range.   TypeError: the network is not a `Sequential`.

    >>> from flax import nnx
    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs, init = nnx.Rngs(0), FluctuationDriven(nu=15.0, sigma_u=0.1)
    >>> network = Sequential(SpikingDense(50, 64, init=init, rngs=rngs), SpikingDense(64, 64, init=init, rngs=rngs), Readout(64, 3, rngs=rngs))
    >>> x = poisson_raster(jax.random.key(0), (400, 8, 50), rate=15.0, dt=2e-3)
    >>> scaled, reports = scale_to_rate(network, x, rate=10.0)
    >>> [round(float(r.rate), 1) for r in reports]
    [10.0, 10.0]
    """
    from flax import nnx

    check_sequential("scale_to_rate", network)
    x = as_floats(x)
    _check.integer("steps", steps, at_least=1)
    if key is not None:
        _check.key("key", key)
    network = nnx.clone(network)
    steps_of = [layer.neuron.dt for layer in network.layers if layer.spiking]
    if not steps_of:
        raise ValueError("network must have a spiking layer, got none")
    dt = steps_of[0]
    _check.number("rate", rate, above=0, below=0.5 / dt, unit="Hz")
    reports = []
    spikes: list[jax.Array] = []
    for k, layer in enumerate(network.layers):
        x = network.input_of(k, x, spikes)
        if hasattr(layer, "in_features"):
            _check.time_major("x", x, features=layer.in_features)
        if hasattr(layer, "inhibitory_kernel"):
            raise TypeError(
                "network must have weights of either sign to be scaled to a rate; Dalian layers have two scales, which calibrate(...) sets"
            )
        if layer.spiking:
            if key is not None:
                _draw_orthogonal(layer, jax.random.fold_in(key, k))
            report, x = _scale_layer(layer, x, rate=rate, steps=steps)
            reports.append(report)
            spikes.append(x)
        else:
            x = layer(x).output
    return network, reports


def _kernels(layer: Any) -> list[Any]:
    return [p for p in (layer.kernel, layer.recurrent_kernel) if p is not None]


def _draw_orthogonal(layer: Any, key: jax.Array) -> None:
    for n, p in enumerate(_kernels(layer)):
        inputs = math.prod(p.shape[:-1])
        # the weights of each neuron have norm 1 in each connection, whatever the sizes; the factorization needs at least 32 bits
        draw = jax.nn.initializers.orthogonal(math.sqrt(max(p.shape[-1], inputs) / inputs))
        p[...] = draw(jax.random.fold_in(key, n), p.shape, _check.wide(p.dtype)).astype(p.dtype)


def _scale_layer(layer: Any, x: jax.Array, *, rate: Any, steps: int) -> tuple[RateReport, jax.Array]:
    from flax import nnx

    original = [p[...] for p in _kernels(layer)]
    drive = layer.project(x, original[0])
    dt = layer.neuron.dt
    # the feed-forward membrane alone gives the scale around which to look
    spread = jnp.sqrt(free_membrane(layer.neuron, drive).var(axis=0).mean())
    alive = spread > 0
    start = -jnp.log(jnp.where(alive, spread, 1.0))

    graphdef, state = nnx.split(layer)

    def run(log_gain: jax.Array) -> jax.Array:
        copy = nnx.merge(graphdef, state, copy=True)  # a variable may only be set in the trace that made it
        _set_kernels(copy, original, log_gain)
        return copy(x).output

    def bisect(bounds: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = bounds
        middle = (low + high) / 2
        below = _rate(run(middle), dt) < rate
        return (jnp.where(below, middle, low), jnp.where(below, high, middle)), None

    (low, high), _ = jax.lax.scan(bisect, (start - _RANGE, start + _RANGE), length=steps)
    log_gain = jnp.where(alive, (low + high) / 2, 0.0)
    _set_kernels(layer, original, log_gain)
    output = layer(x).output
    reached = _rate(output, dt)
    return RateReport(jnp.exp(log_gain), reached, jnp.abs(reached / rate - 1) < 0.05), output


def _set_kernels(layer: Any, original: list[jax.Array], log_gain: jax.Array) -> None:
    for p, w in zip(_kernels(layer), original, strict=True):
        p[...] = (jnp.exp(log_gain) * w).astype(w.dtype)


def _rate(spikes: jax.Array, dt: float) -> jax.Array:
    return spikes.mean() / dt
