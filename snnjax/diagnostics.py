r"""Measures every layer of a network on a batch and names problems, in one jitted pass.

For each spiking layer, over the batch and its neurons:

    rate            spikes per second: mean and 5, 50, 95 percentile over neurons; share of neurons
                    that never spike, and share that fires above `SATURATED_HZ`
    mu_u, sigma_u   mean of the membrane without reset, and the root of its variance in time within
                    a trial (mean over neurons and trials)
    predicted       the same two by the paper's formula (`snnjax.theory`), from the layer's weights
                    and biases, and the rate of its inputs; NaN if inputs are negative
    xi              (theta - mu_u) / sigma_u
    spread          standard deviation across neurons of the membrane's mean over time and trials
                    (quenched)
    grad_z          mean |dL/dz| over all spikes of the layer
    grad_w          mean |dL/dw| over the layer's parameters
    update          mean |dw| of the optimizer's first step

For each spiking layer, the effect of training:

    gain            backward gain: rms of dL/dz of the layer below over that of this layer
                    (`snnjax/calibration/_gradient.py`)
    agreement       cosine between dL/dw of the two halves of the batch, without the part that all
                    samples share: 1 is only signal, 0 only noise
    bounds          root mean square of each bound's dL/dw (of this layer and of all layers above),
                    over that of the loss; for a bound with a `share`, after the limit of training
    step            root mean square of the first update over that of the weights
    memory          1 - |c - c'| / |c - c''| for spike counts c per trial and neuron. c' are the
                    counts with a fraction `_DROPPED` of the input's spikes dropped, c'' those of
                    another trial. 1: the activity depends on the input only. 0: a few spikes change
                    it as much as another input does

The theory describes the membrane without reset. It is computed from the spikes that the layers
below and the layer itself emit. A surrogate gradient shrinks by a factor of about 100 with every
silent layer: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from snnjax import _check, theory
from snnjax._costs import costs, counted_costs
from snnjax._probe_report import (
    SATURATED_HZ,
    LayerProbe,
    Probe,
)
from snnjax._pytree import PyTree
from snnjax._sparse import as_dense
from snnjax._timed import Timed, over_steps, untimed
from snnjax.calibration import free_membrane
from snnjax.losses import CrossEntropy
from snnjax.nn import Layer, Sequential
from snnjax.nn._network import Tap
from snnjax.nn._neuron_layer import Fixed
from snnjax.nn._per_step import layer_name
from snnjax.nn._synaptic import Synaptic
from snnjax.optimizers import muon
from snnjax.regularizers import LimitedPenalties, limits, total_penalty
from snnjax.training._objective import NetworkFn, Objective, Problem
from snnjax.training._programs import program
from snnjax.training._step import check_optimizer, optimizer_update

__all__ = ["probe", "Probe", "LayerProbe", "costs"]


def probe(
    network: Sequential,
    x: jax.Array,
    labels: ArrayLike | Timed,
    objective: Objective | None = None,
    *,
    optimizer: optax.GradientTransformation | None = None,
) -> Probe:
    """Measure every layer of `network` on one batch. Nothing is changed.

    Args:
        network: A `snnjax.nn.Sequential` that ends in a readout.
        x: Inputs (time, batch, ...features).
        labels: Targets of the batch, in the form that the loss takes. If they are
            `snnjax.losses.Timed`, steps after the end of a trial count in no measurement.
        objective: The objective of training, as in `snnjax.training.fit`. None means the
            cross-entropy without regularizers.
        optimizer: An optax transformation; its first update is measured. None means Muon with a
            learning rate of 0.015, the default of `snnjax train`.

    Returns:
        A `Probe`. `print` shows one finding per unhealthy layer, and tables. The values are floats,
        or arrays under jit and vmap.

    Raises:
        ValueError: x has no time steps, labels are out of range or not one per sample, or the
            network has no spiking layer or does not end in a readout.
        TypeError: `network` is not a `Sequential`, or another argument has a wrong type.

    >>> from flax import nnx
    >>> from snnjax.datasets import poisson_raster
    >>> from snnjax.nn import Readout, SameForAll, Sequential, SpikingDense
    >>> from snnjax.initializers import kaiming_normal
    >>> rngs, init = nnx.Rngs(0), SameForAll(kaiming_normal())
    >>> hidden = [SpikingDense(100, 100, init=init, rngs=rngs) for _ in range(3)]
    >>> network = Sequential(*hidden, Readout(100, 4, rngs=rngs))
    >>> x = poisson_raster(jax.random.key(0), (350, 8, 100), rate=10.0, dt=2e-3)
    >>> print(probe(network, x, jnp.zeros(8, int)).findings()[0])  # doctest: +NORMALIZE_WHITESPACE
    layer 1: 100 % of the neurons never spike: inputs at 9.9 Hz give sigma_u 0.14 (xi 7.4);
    calibrate, or raise sigma_u
    """
    if not isinstance(network, Sequential):
        needs = "network must be a snnjax.nn.Sequential, whose layers are measured one by one"
        hint = "put the layers of your module in a Sequential; snnjax.training.fit takes any module"
        raise TypeError(f"{needs}, got {type(network).__name__}; {hint}")
    _check.time_major("x", x)
    x = as_dense(x)
    if labels is None:
        raise TypeError("labels must be the targets of the batch, got None")
    labels = jax.tree.map(jnp.asarray, labels)
    if isinstance(labels, Timed):
        x = labels.silenced(x)
    layers = list(network.layers)
    last = layers[-1]
    if last.spiking or not isinstance(last, Synaptic):
        raise ValueError(f"network must end in a readout, got {layer_name(last)}")
    spiking = [layer for layer in layers if layer.spiking]
    if not spiking:
        raise ValueError("network must have a spiking layer, got none")
    for layer in spiking:
        if not jax.tree.leaves(nnx.state(layer, nnx.Param)):
            raise TypeError(
                "spiking layers must have parameters, so that their gradients can be measured, got "
                f"{type(layer).__name__}"
            )
    problem, params = Problem.from_objective(
        network, Objective() if objective is None else objective
    )
    optimizer = _MUON if optimizer is None else optimizer
    check_optimizer(optimizer)
    problem.loss.check("labels", labels, last.out_features)
    result = program(_look, (problem, optimizer))(params, x, labels)
    return jax.tree.map(lambda a: a if isinstance(a, Tracer) or jnp.ndim(a) else float(a), result)


_MUON = muon(0.015)
_DROPPED = 0.01  # share of the input's spikes, for the memory


def _look(
    given: tuple[Problem, optax.GradientTransformation],
    params: nnx.State,
    x: jax.Array,
    labels: jax.Array,
) -> Probe:
    problem, optimizer = given
    assert isinstance(problem.apply, NetworkFn)  # `probe` gives a network
    network_of = problem.apply.network
    silenced = labels.silenced if isinstance(labels, Timed) else lambda z: z

    def outputs(
        params: nnx.State, taps: list[jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[list[jax.Array], list[jax.Array]]]:
        added = iter(taps)
        inputs, spikes, readout = _run(network_of(params), x, lambda z: silenced(z) + next(added))
        penalties = [total_penalty([r], [z]) for r in problem.regularizers for z in spikes]
        return (readout, jnp.array(penalties)), (inputs, spikes)

    # a tap of zeros is added to every spike train; its gradient is dL/dz
    shapes = jax.eval_shape(lambda p: _run(network_of(p), x)[1], params)
    taps = [jnp.zeros(z.shape, z.dtype) for z in shapes]
    (readout, penalties), pull, (inputs, spikes) = jax.vjp(outputs, params, taps, has_aux=True)
    # the gradients of the loss, of each bound after its limit and of both halves of the batch are
    # computed one after another, so that the memory is that of one
    value, error = jax.value_and_grad(lambda o: problem.loss(o, labels).mean())(readout)
    halves = _halves(problem, readout, labels, error)
    count = len(problem.regularizers)
    seeds = [error, *[jnp.zeros_like(error)] * count, *halves]
    factors = _factors(problem, network_of(params), x, labels, spikes)
    weights = jnp.eye(len(seeds))[:, 1 : 1 + count, None] * factors
    each, each_z = jax.lax.map(pull, (jnp.stack(seeds), weights.reshape(len(seeds), -1)))
    part = lambda tree, k: jax.tree.map(lambda a: a[k], tree)
    # the gradient of training: that of the loss and of all bounds
    of_training = lambda tree: jax.tree.map(lambda a: a[: 1 + count].sum(axis=0), tree)
    layers = network_of(params).layers
    hidden = [k for k, layer in enumerate(layers) if layer.spiking]
    level = [_rms(g) for g in part(each_z, 0)]
    grads, grads_z = of_training(each), of_training(each_z)
    correct = problem.sample_scores(readout, labels).get("accuracy")
    accuracy = None if correct is None else correct.mean()
    total = value + penalties.sum()
    updates, _ = optimizer_update(optimizer, grads, optimizer.init(params), params, total)
    weighted = [*hidden, len(layers) - 1]
    grad_w, update = (
        {k: _mean_abs(tree["layers"][k]) for k in weighted} for tree in (grads, updates)
    )
    memory = _memory(network_of(params), x, spikes, silenced)
    mean = lambda a: over_steps(_check.as_wide(a), untimed(labels)[1])
    probes = []
    for i, k in enumerate(hidden):
        of_loss, *of_bounds = [_rms(part(each, n)["layers"][k]) for n in range(1 + count)]
        probes.append(
            LayerProbe(
                **_activity(layers[k], inputs[i], spikes[i], layers[-1].dt, mean),
                **_membrane(layers[k], inputs[i], spikes[i], mean),
                grad_z=_mean_abs(grads_z[i]),
                grad_w=grad_w[k],
                update=update[k],
                gain=level[i - 1] / level[i] if i else jnp.full((), jnp.nan),
                agreement=_cosine(part(each, -2)["layers"][k], part(each, -1)["layers"][k]),
                bounds=tuple(bound / of_loss for bound in of_bounds),
                step=_rms(updates["layers"][k]) / _rms(params["layers"][k]),
                memory=memory[i],
            )
        )
    counted = counted_costs(network_of(params), x, labels)
    last = grad_w[weighted[-1]], update[weighted[-1]]
    return Probe(tuple(probes), *last, value, accuracy, counted)


def _factors(
    problem: Problem,
    network: Sequential,
    x: jax.Array,
    labels: jax.Array,
    spikes: list[jax.Array],
) -> jax.Array:
    """The factor of each regularizer's gradient in each layer, (regularizers, layers).

    It is that of training for bounds with a `share`, and 1 for the others.
    """
    bounds, others = problem.limited()
    factors = jnp.ones((len(problem.regularizers), len(spikes)))
    if not bounds:
        return factors

    def objective(taps: list[jax.Array], fractions: jax.Array) -> jax.Array:
        limited = LimitedPenalties(bounds)
        added = iter(zip(taps, fractions, strict=True))

        def tap(z: jax.Array) -> jax.Array:
            z = limited(labels.silenced(z) if isinstance(labels, Timed) else z)
            of_spikes, of_fractions = next(added)
            limited.fractions = limited.fractions + of_fractions
            return z + of_spikes

        _, spikes, readout = _run(network, x, tap)
        penalty = sum(limited.penalties, start=total_penalty(others, spikes))
        return problem.loss(readout, labels).mean() + penalty

    zeros = [jnp.zeros_like(z) for z in spikes], jnp.zeros((len(spikes), 1 + len(bounds)))
    from_above, fractions = jax.grad(objective, argnums=(0, 1))(*zeros)
    own = [jnp.stack([_rms(jax.grad(bound)(z)) for bound in bounds]) for z in spikes]
    found = [
        limits(bounds, size, _rms(g), f)[0]
        for size, g, f in zip(own, from_above, fractions, strict=True)
    ]
    rows = [k for k, r in enumerate(problem.regularizers) if any(r is b for b in bounds)]
    return factors.at[jnp.array(rows)].set(jnp.stack(found, axis=1))


def _halves(
    problem: Problem, readout: jax.Array, labels: jax.Array, error: jax.Array
) -> list[jax.Array]:
    """The loss's gradient with respect to the readout, for each half of the batch.

    The mean over the samples of a half is subtracted. For a cross-entropy, the gradient with
    respect to a sample's logits is p - y; it is replaced by mean(y) - y. The prediction p of an
    untrained network is nearly the same for all samples. It carries no information on the classes.
    """
    batch = readout.shape[1]
    middle = batch // 2
    first = (jnp.arange(batch) < middle)[:, None]
    if isinstance(problem.loss, CrossEntropy):
        classes, num_steps = untimed(labels)
        readout_fn = problem.loss.readout_fn
        if num_steps is not None:
            readout_fn = functools.partial(readout_fn, num_steps=num_steps)
        scores, pull = jax.vjp(readout_fn, readout)
        wanted = jax.nn.one_hot(classes, scores.shape[-1], dtype=scores.dtype)
        return [pull(jnp.where(h, _centred(-wanted, h), 0.0) / batch)[0] for h in (first, ~first)]
    return [jnp.where(h, _centred(error, h), 0.0) for h in (first, ~first)]


def _centred(a: jax.Array, chosen: jax.Array) -> jax.Array:
    """`a` (..., batch, k) minus its mean over the chosen samples (batch, 1)."""
    return a - jnp.where(chosen, a, 0.0).sum(axis=-2, keepdims=True) / jnp.maximum(chosen.sum(), 1)


def _memory(
    network: Sequential, x: jax.Array, spikes: list[jax.Array], silenced: Tap
) -> list[jax.Array]:
    """The `memory` of every layer; see the module."""
    kept = jax.random.bernoulli(jax.random.key(0), 1 - _DROPPED, x.shape)
    _, disturbed, _ = _run(network, jnp.where(kept, x, 0), silenced)

    def of(z: jax.Array, changed: jax.Array) -> jax.Array:
        c, near = (_check.as_wide(a).sum(axis=0) for a in (z, changed))
        return 1 - jnp.linalg.norm(c - near) / jnp.linalg.norm(c - jnp.roll(c, 1, axis=0))

    return [of(z, changed) for z, changed in zip(spikes, disturbed, strict=True)]


def _rms(tree: PyTree) -> jax.Array:
    """Root mean square over all trained numbers."""
    leaves = _trained(tree)
    return jnp.sqrt(
        sum((jnp.square(leaf).sum() for leaf in leaves), start=jnp.zeros(()))
        / sum(leaf.size for leaf in leaves)
    )


def _cosine(a: PyTree, b: PyTree) -> jax.Array:
    def dot(a: PyTree, b: PyTree) -> jax.Array:
        pairs = zip(_trained(a), _trained(b), strict=True)
        return sum((jnp.vdot(u, v) for u, v in pairs), start=jnp.zeros(()))

    return dot(a, b) / jnp.sqrt(dot(a, a) * dot(b, b))


def _trained(tree: PyTree) -> list[jax.Array]:
    """All arrays of a pytree except those that training does not change (`Fixed`).

    They have at least 32 bits, so that sums do not overflow.
    """
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Fixed))
    return [_check.as_wide(leaf) for leaf in leaves if not isinstance(leaf, Fixed)]


def _run(
    network: Sequential, x: jax.Array, tap: Tap = lambda z: z
) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
    """Inputs and spikes (after `tap`) of all spiking layers, and the readout."""
    inputs: list[jax.Array] = []
    spikes: list[jax.Array] = []
    walk = network.walk(x)
    for _, layer, below in walk:
        walk.output = layer(below).output
        if layer.spiking:
            walk.output = tap(walk.output)
            inputs.append(below)
            spikes.append(walk.output)
    return inputs, spikes, walk.output


def _mean_abs(tree: PyTree) -> jax.Array:
    """Mean magnitude over all trained numbers of a pytree."""
    leaves = _trained(tree)
    return sum((jnp.abs(leaf).sum() for leaf in leaves), start=jnp.zeros(())) / sum(
        leaf.size for leaf in leaves
    )


Mean = Callable[[jax.Array], jax.Array]
"""Mean over steps, (time, batch, ...features) -> (batch, ...features)."""


def _activity(layer: Layer, x: jax.Array, z: jax.Array, dt: float, mean: Mean) -> dict[str, Any]:
    """The fields of `LayerProbe` that describe the inputs and the spikes of a layer."""
    rate = mean(z).mean(axis=0) / dt
    return dict(
        input_rate=mean(x).mean() / dt,
        rate=rate.mean(),
        rates=jnp.percentile(rate, jnp.array([5.0, 50.0, 95.0])),
        silent=(rate == 0).mean(),
        saturated=(rate > SATURATED_HZ).mean(),
        populations={name: rate[..., of].mean() for name, of in layer.populations().items()},
    )


def _rate(spikes: jax.Array, mean: Mean) -> jax.Array:
    """Mean of spikes (time, batch, ...) per step; NaN if a value is negative, as after a norm.

    Such values are no counts of spikes, and the formula does not apply.
    """
    return jnp.where(spikes.min() < 0, jnp.nan, mean(spikes).mean())


_OF_MEMBRANE = ("mu_u", "sigma_u", "predicted_mu_u", "predicted_sigma_u", "xi", "spread")


@functools.singledispatch
def _membrane(layer: Layer, x: jax.Array, z: jax.Array, mean: Mean) -> dict[str, Any]:
    """The fields of `LayerProbe` on the membranes; None if the connections are unknown."""
    return dict.fromkeys(_OF_MEMBRANE)


@_membrane.register
def _(layer: Synaptic, x: jax.Array, z: jax.Array, mean: Mean) -> dict[str, Any]:
    neuron, x, z = layer.neuron, _check.as_wide(x), _check.as_wide(z)
    u = free_membrane(neuron, layer.whole_drive(x, z))
    of_trial = mean(u)
    mu_u, sigma_u = of_trial.mean(), jnp.sqrt(mean(jnp.square(u - of_trial)).mean())
    connections = layer.connections()
    predicted = [
        theory.membrane_statistics(
            _check.as_wide(c.weights).mean(),
            _check.as_wide(c.weights).std(),
            n=c.n,
            nu=_rate(c.spikes(x, z), mean) / neuron.dt,
            kernel=c.kernel,
        )
        for c in connections
    ]
    constant: Any = 0  # mean of the membrane that is driven by the biases
    adjusted: tuple[Any, Any] | None = None
    if layer.norm is not None:
        adjusted = layer.norm.linear()
    elif layer.bias is not None:
        adjusted = 1.0, layer.bias[...]
    if adjusted is not None:
        factor, drive = adjusted
        constant = jnp.mean(drive * connections[0].kernel.mean() / neuron.dt)
        mu, sigma = jnp.mean(factor), jnp.sqrt(jnp.mean(jnp.square(factor)))
        predicted[0] = predicted[0]._replace(
            mu_u=mu * predicted[0].mu_u, sigma_u=sigma * predicted[0].sigma_u
        )
    pairs = zip(connections, predicted, strict=True)
    values = (
        mu_u,
        sigma_u,
        sum((c.sign * jnp.mean(p.mu_u) for c, p in pairs), start=constant),
        jnp.sqrt(sum(jnp.mean(p.sigma_u**2) for p in predicted)),
        theory.xi_of(mu_u, sigma_u, jnp.mean(jnp.asarray(neuron.theta))),
        of_trial.mean(axis=0).std(),
    )
    return dict(zip(_OF_MEMBRANE, values, strict=True))
