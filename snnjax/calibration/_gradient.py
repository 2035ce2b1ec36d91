r"""Calibration of the backward pass: gradients that neither vanish nor explode.

Training changes a layer through dL/dz, the gradient of the loss with respect to its spikes. Layer l
passes the gradient to the spikes below with the gain

    gain_l = rms(dL/dz_{l-1} through l) / rms(dL/dz_l)

Once the weights are set, the gain depends only on the surrogate derivative h. The steepness of h
has no effect on the forward pass. It is therefore set after the membranes, from the readout down,
to the value that gives a gain of 1. Then the root-mean-square gradient is the same from the last
spiking layer to the first. `snnjax.gradient_theory.backward_gain` predicts the gain. Here it is
measured, because real errors are neither white nor constant in time, and because recurrence,
pooling and Dale's law also matter. The first spiking layer has no spiking layer below it: its
steepness changes by the same factor as that of the second.

With skip connections, every spiking layer also receives a gradient directly from the readout. The
sum cannot be level from the last layer: the direct part alone is about as large in every layer as
in the last one, which receives no other, and the layers can only add to it. Every layer therefore
passes down as much as the layer below receives directly. The sum is then about sqrt(2) times the
gradient of the last layer, at every depth. With a gain of 1 it would grow with the root of the
depth.

Each measurement of a gain costs one forward and one backward pass of one layer. A layer takes about
six of them: one at the present steepness, one or two at the ends of the range of steepness, and the
others between them.

The readout's weights are scaled so that the standard deviation of a sample's logits is 0.3. With 1,
deep networks reached an accuracy that was a few percentage points lower; with 0.1, the same. This
is our own extension of Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from snnjax import _check, losses
from snnjax._check import Scalar
from snnjax._timed import Timed, untimed
from snnjax.calibration._powers import as_floats
from snnjax.calibration._report import GradientReport, GradientReports, Of
from snnjax.nn import Sequential
from snnjax.nn._network import check_sequential
from snnjax.nn._synaptic import Synaptic

Adjust = Literal["steepness", "scale"]
_PASSES = 16  # largest number of measured gains per layer
_NEAR = 0.01  # a logarithm of gain over target that ends the search
_RANGE = math.log(50.0)
_FAR = 8.0
_MOST = 1000.0  # largest factor on the readout's weights
TOLERANCE = 0.1
"""Largest relative distance of a gain from its target that counts as on target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientTarget:
    """Target and method of the calibration of the gradient.

    Attributes:
        gain: Backward gain of every layer. With skip connections: the gradient that a layer passes
            down, over the one that the layer below receives directly from the readout.
        adjust: The quantity that is set in each layer: "steepness" of its surrogate derivative h,
            or "scale", a factor on h.
        logit_spread: Target standard deviation of a sample's logits over classes; the readout is
            scaled to reach it. None does not scale the readout. A readout with one output is never
            scaled.
        readout_fn: Maps the readout trace (time, batch, classes) to logits (batch, classes).
        samples: Largest number of samples that are used, evenly spread over the batch.
    """

    gain: Scalar = 1.0
    adjust: Adjust = "steepness"
    logit_spread: Scalar | None = 0.3
    readout_fn: losses.ReadoutFn = losses.max_over_time
    samples: int = 32

    def __post_init__(self) -> None:
        _check.number("gain", self.gain, above=0)
        _check.one_of("adjust", self.adjust, get_args(Adjust))
        if self.logit_spread is not None:
            _check.number("logit_spread", self.logit_spread, above=0)
        if not callable(self.readout_fn):
            raise TypeError(f"readout_fn must be a function, got {self.readout_fn!r}")
        _check.integer("samples", self.samples, at_least=1)


def check_target(name: str, target: object) -> None:
    """Raise TypeError unless `target`, the argument `name`, is a `GradientTarget`."""
    if not isinstance(target, GradientTarget):
        raise TypeError(f"{name} must be a GradientTarget or None, got {target!r}")


LEVEL = GradientTarget()
"""The same gradient in every layer, and logits with a standard deviation of 0.3."""


def calibrate_gradient(
    network: Sequential,
    x: jax.Array,
    labels: ArrayLike | Timed | None = None,
    *,
    target: GradientTarget | None = None,
    key: jax.Array | None = None,
) -> tuple[Sequential, GradientReports]:
    """Give every spiking layer the same backward gain on the batch `x`, and scale the readout.

    Args:
        network: A `snnjax.nn.Sequential` that ends in a readout. Its weights must already have
            their final values. It is not changed.
        x: Inputs (time, batch, ...features), typical of the data.
        labels: Classes (batch,), or `snnjax.losses.Timed` classes for trials of different length;
            the gradient is that of their cross-entropy. None uses normal random numbers instead,
            one per sample and class.
        target: The target. None means `GradientTarget()`.
        key: For the random numbers that replace labels. None means `jax.random.key(0)`.

    Returns:
        The calibrated network, and `GradientReports` with one `GradientReport` per spiking layer,
        first to last. The function is pure: it works under jit, and under vmap over networks.

    Raises:
        ValueError: Labels are not one class per sample, or out of range; or the network does not
            end in a readout.
        TypeError: `network` is not a `Sequential`, or another argument has a wrong type.

    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import FluctuationDriven, Readout, SpikingDense
    >>> rngs, init = nnx.Rngs(0), FluctuationDriven(nu=10.0)
    >>> layers = [SpikingDense(100, 100, init=init, rngs=rngs) for _ in range(3)]
    >>> x = poisson_raster(jax.random.key(0), (200, 8, 100), rate=10.0, dt=2e-3)
    >>> calibrated, reports = calibrate_gradient(Sequential(*layers, Readout(100, 4, rngs=rngs)), x)
    >>> [round(float(r.before), 1) for r in reports], [round(float(r.gain), 1) for r in reports]
    ([0.8, 0.8, 0.7], [1.0, 1.0, 1.0])
    """
    check_sequential("calibrate_gradient", network)
    target = LEVEL if target is None else target
    check_target("target", target)
    key = jax.random.key(0) if key is None else _check.key("key", key)
    x = as_floats(x)
    last = network.layers[-1]
    labels, num_steps = untimed(labels)
    if labels is not None and isinstance(last, Synaptic):
        labels = jnp.asarray(labels)
        if labels.shape != x.shape[1:2] or not jnp.issubdtype(labels.dtype, jnp.integer):
            expected = f"labels must be integers, one for each of the {x.shape[1]} samples of x"
            raise ValueError(f"{expected} (time, batch, ...), got {labels.dtype} {labels.shape}")
        losses.check_classes("labels", labels, last.out_features)
    # not a fixed stride: it would select a single class if the classes alternate in the batch
    some = np.linspace(0, x.shape[1] - 1, min(target.samples, x.shape[1])).astype(int)
    x, labels = x[:, some], None if labels is None else jnp.asarray(labels)[some]
    readout_fn = target.readout_fn
    if num_steps is not None:
        readout_fn = functools.partial(readout_fn, num_steps=num_steps[some])
    network = nnx.clone(network)
    layers = list(network.layers)
    last = layers[-1]
    spiking = [k for k, layer in enumerate(layers) if layer.spiking]
    if not spiking or last.spiking or not isinstance(last, Synaptic):
        raise ValueError("network must have a spiking layer and end in a readout")
    inputs, trains = _forward(network, x)

    def top(trains: list[jax.Array]) -> jax.Array:
        x = trains[-1]
        for k in range(spiking[-1] + 1, len(layers)):
            x = layers[k](network.input_of(k, x, trains)).output
            if k < len(layers) - 1:
                x = layers[k].emit(x)
        return x

    scores = readout_fn(top(trains))
    if target.logit_spread is not None and scores.shape[-1] > 1:
        spread = jnp.sqrt(jnp.square(scores - scores.mean(axis=-1, keepdims=True)).mean())
        kernel = last.connections()[0].param
        # the factor is limited: if the last layer hardly spikes, the spread is not informative
        scale = jnp.clip(target.logit_spread / _positive(spread), 1 / _MOST, _MOST)
        kernel[...] = (kernel[...] * scale).astype(kernel.dtype)
        if last.bias is not None:  # the logits are linear in both
            last.bias[...] = (last.bias[...] * scale).astype(last.bias.dtype)
    readout, pull = jax.vjp(top, trains)
    (direct,) = pull(_cotangent(readout, readout_fn, labels, key))
    reports: list[GradientReport] = []
    g, change = jnp.zeros_like(trains[-1]), jnp.zeros(())
    for n, k in reversed(list(enumerate(spiking))):
        # with skip connections every layer also receives a gradient directly from the readout
        g, gain = g + direct[n], target.gain
        if network.skip and n:
            gain = gain * _rms(direct[n - 1]) / _positive(_rms(g))
        start, below = (spiking[n - 1] + 1, trains[n - 1]) if n else (k, inputs[k])
        known = layers[k].hold_steepness(scale=target.adjust == "scale")
        parts = [nnx.split(layer) for layer in layers[start : k + 1]]
        how = _Segment(
            graphs=tuple(graph for graph, _ in parts),
            known=known,
            searched=n > 0 and known,
            first=n == 0,
            which=0 if target.adjust == "steepness" else -1,
        )
        states = [state for _, state in parts]
        report, steepness, change, g = _adjust(how, states, below, g, gain, change)
        if (held := layers[k].steepness) is not None:
            held[...] = steepness
        reports.append(report)
    of = [Of(type(layers[k]).__name__) for k in spiking]
    return network, GradientReports(reports[::-1], of)


def _forward(network: Sequential, x: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """The input of every layer, and the output of every spiking layer."""
    inputs: list[jax.Array] = []
    trains: list[jax.Array] = []
    walk = network.walk(x)
    for _, layer, below in walk:
        inputs.append(below)
        walk.output = layer(below).output
        if layer.spiking:
            trains.append(layer.emit(walk.output))
    return inputs, trains


def _cotangent(
    readout: jax.Array, readout_fn: losses.ReadoutFn, labels: jax.Array | None, key: jax.Array
) -> jax.Array:
    """The gradient of the mean cross-entropy with respect to the readout, or a random one."""
    scores, pull = jax.vjp(readout_fn, readout)
    if labels is None:
        return pull(jax.random.normal(key, scores.shape, scores.dtype) / len(scores))[0]
    wanted = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return pull((jax.nn.softmax(scores) - wanted) / len(scores))[0]


class _Segment(NamedTuple):
    """A spiking layer and the layers without spikes between it and the spiking layer below.

    Attributes:
        graphs: Their structure, the spiking layer last.
        known: Whether the spiking layer has a surrogate that can be adjusted.
        searched: Whether its steepness is searched; else it changes by a given factor.
        first: Whether it is the first layer, whose gain reaches no other layer.
        which: Index of the surrogate's parameter that is adjusted.
    """

    graphs: tuple[nnx.GraphDef, ...]
    known: bool
    searched: bool
    first: bool
    which: int

    def steepness(self, states: Sequence[nnx.GraphState], change: Scalar) -> jax.Array | None:
        """The layer's steepness, the adjusted parameter times exp(change)."""
        if not self.known:
            return None
        given = nnx.merge(self.graphs[-1], states[-1], copy=True).steepness[...]
        return given.at[self.which].multiply(jnp.exp(change))

    def passed(
        self, states: Sequence[nnx.GraphState], below: jax.Array, g: jax.Array, change: Scalar
    ) -> tuple[jax.Array, jax.Array]:
        """The gain after `change`, and the gradient with respect to `below`."""

        def emitted(x: jax.Array) -> jax.Array:
            layers = [
                nnx.merge(graph, s, copy=True) for graph, s in zip(self.graphs, states, strict=True)
            ]
            if self.known:
                layers[-1].steepness[...] = self.steepness(states, change)
            for layer in layers:
                x = layer.emit(layer(x).output)
            return x

        _, pull = jax.vjp(emitted, below)
        (lower,) = pull(g)
        return _rms(lower) / _positive(_rms(g)), lower


def _rms(a: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(a).mean())


def _positive(a: jax.Array) -> jax.Array:
    """`a`, but at least the smallest normal number, so that a quotient or logarithm is finite."""
    return jnp.maximum(a, jnp.finfo(a.dtype).tiny)


# compiled once for all layers of the same type and size
@functools.partial(jax.jit, static_argnums=0)
def _adjust(
    how: _Segment,
    states: Sequence[nnx.GraphState],
    below: jax.Array,
    g: jax.Array,
    target: Scalar,
    change: jax.Array,
) -> tuple[GradientReport, jax.Array | None, jax.Array, jax.Array]:
    """Adjust a layer.

    The steepness of the first layer is not searched, and neither is that of a surrogate that cannot
    be adjusted. `change` is then given: the logarithm of the factor on the steepness.

    Returns:
        Its report, its steepness, the logarithm of the factor on the steepness, and the gradient
        with respect to `below`.
    """

    def gain(change: jax.Array) -> jax.Array:
        # with a wide surrogate, the gradient of a recurrent layer may overflow
        return jnp.nan_to_num(how.passed(states, below, g, change)[0], nan=jnp.inf, posinf=jnp.inf)

    def off(gain: jax.Array) -> jax.Array:
        return jnp.log(_positive(gain)) - jnp.log(target)

    if how.searched:
        before, change = _search(gain, off)
    else:
        before, _ = how.passed(states, below, g, 0.0)
    reached, lower = how.passed(states, below, g, change)
    steepness = how.steepness(states, change)
    number = jnp.full((), jnp.nan) if steepness is None else steepness[how.which]
    on_target = jnp.asarray(how.first) | (jnp.abs(reached - target) <= TOLERANCE * target)
    report = GradientReport(before, reached, number, on_target, jnp.asarray(target))
    return report, steepness, change, lower


class _Search(NamedTuple):
    """State of `_search`. A point is a pair: a change x, and `off` there, f, within `_FAR`.

    Attributes:
        x: Where the gain is measured next.
        newest: The last point that narrowed the bracket.
        other: The other end of the bracket, at which f has the other sign.
        third: The point that left the bracket last.
        best: The point at which `off` is nearest to zero.
        before: The gain at change 0.
        passes: Number of measured gains.
    """

    x: jax.Array
    newest: jax.Array
    other: jax.Array
    third: jax.Array
    best: jax.Array
    before: jax.Array
    passes: jax.Array

    @property
    def bracketed(self) -> jax.Array:
        return self.newest[1] * self.other[1] < 0


def _search(
    gain: Callable[[jax.Array], jax.Array], off: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The gain at change 0, and the root of `off(gain(change))`, a monotone function of change.

    The first points are 0 and the ends of the range, until there is a bracket. Chandrupatla's
    method then narrows it: inverse quadratic interpolation where it is safe, else bisection. If
    `off` has one sign on the whole range, the result is the point at which it is nearest to zero.
    All calls of `gain` are in one loop, so that this large function is compiled only once.
    """

    def unfinished(s: _Search) -> jax.Array:
        open_ended = (s.passes >= 3) & ~s.bracketed
        return (jnp.abs(s.best[1]) > _NEAR) & (s.passes < _PASSES) & ~open_ended

    def narrow(s: _Search) -> _Search:
        found = gain(s.x)
        exact = jnp.stack([s.x, off(found)])
        point = exact.at[1].set(jnp.clip(exact[1], -_FAR, _FAR))
        first, crossed = s.passes == 0, point[1] * s.newest[1] < 0
        moved = first | crossed | s.bracketed
        third = jnp.where(crossed, s.other, s.newest)
        other = jnp.where(crossed, s.newest, s.other)
        s = s._replace(
            newest=jnp.where(moved, point, s.newest),
            other=jnp.where(first, point, other),
            third=jnp.where(moved, third, s.third),
            best=jnp.where(jnp.abs(exact[1]) < jnp.abs(s.best[1]), exact, s.best),
            before=jnp.where(first, found, s.before),
            passes=s.passes + 1,
        )
        end = jnp.where(first, jnp.sign(point[1]) * _RANGE, -s.x)
        return s._replace(x=jnp.where(s.bracketed, _between(s), end))

    zero, none = jnp.zeros(()), jnp.zeros(2)
    start = _Search(zero, none, none, none, jnp.array([0.0, jnp.inf]), zero, jnp.zeros((), int))
    final = jax.lax.while_loop(unfinished, narrow, start)
    return final.before, final.best[0]


def _between(s: _Search) -> jax.Array:
    """The next point of Chandrupatla's method (1997), doi 10.1016/S0965-9978(96)00051-8."""
    (x1, f1), (x2, f2), (x3, f3) = s.newest, s.other, s.third
    xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
    safe = (jnp.square(phi) < xi) & (jnp.square(1 - phi) < 1 - xi)
    t = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
    return x1 + jnp.where(safe, t, 0.5) * (x2 - x1)
