r"""One optimization step and one epoch as pure functions.

    objective = mean_batch loss(readout, labels) + sum_layers sum_regularizers penalty(spikes)

Homeostatic priming is training on the lower bounds alone, which wakes silent neurons before there is anything to learn (`Objective.priming`).

The objective is a mean over samples, so its gradient is the mean of the gradients of parts of a batch. On a CPU these are computed one after another,
each small enough that its traces stay in the cache (`micro_batch_size`): the same step to rounding, in half the time and less memory. Augmentations are
drawn anew for each part, so other ones than for a whole batch. A loss, regularizer or source that is not ours may not be a mean over samples, and gets whole
batches unless `micro_batch` is given; a network whose output for one sample depends on the others needs `micro_batch` = batch size.

A step whose objective, gradient or update is not finite leaves the state as it was and marks it not `healthy`; from then on every step does nothing, so
the state that comes back from the epoch is the last good one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from snnjax import _check, losses, regularizers
from snnjax.datasets.augment import Augmented
from snnjax.datasets.device import BatchSource, DeviceArrays, DeviceEvents
from snnjax.datasets.images import DeviceImages
from snnjax.datasets.sparse_events import SparseEvents
from snnjax.nn.network import Sequential
from snnjax.regularizers import ActivityBound

Apply = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class TrainState(NamedTuple):
    """What an epoch carries: parameters, optimizer state, number of good steps, and whether every step so far was finite."""

    params: Any
    opt_state: Any
    steps: jax.Array
    healthy: jax.Array


class Metrics(NamedTuple):
    """Means over samples: supervised `loss`, `accuracy`, the `penalty` of all regularizers, and spikes a unit a step of every layer (`rates`)."""

    loss: jax.Array
    accuracy: jax.Array
    penalty: jax.Array
    rates: jax.Array


class Objective(NamedTuple):
    """The pieces of an objective. `apply(params, x)` -> (readout, activity), with activity.spikes a tuple of trains, or counts (`snnjax.nn.Activity`).

    `supervised` False leaves the loss out of what is minimized; it is still reported. `noisy(params, x, key)`, where it is given, takes the place of
    `apply` in training: dropout. `Objective.of` makes both from a network.
    """

    apply: Apply
    logits: losses.Logits = losses.max_over_time
    regularizers: Sequence[regularizers.ActivityBound] = ()
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    supervised: bool = True
    noisy: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]] | None = None

    @classmethod
    def of(cls, network: Any, **options: Any) -> tuple[Objective, Any]:
        """The objective of an nnx `network`, and its parameters (`nnx.State` of `nnx.Param`); options as the other fields.

        A network whose `stochastic` is True takes a `key` when it is called. A `Sequential` with `remat_steps` gives counts instead of spikes, if all
        regularizers are `ActivityBound`s.
        """
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)
        # bounds look at counts alone; what other penalties look at is not known
        counted = all(isinstance(r, ActivityBound) for r in options.get("regularizers", ()))
        how = {"counts": True} if counted and type(network) is Sequential and network.remat_steps is not None else {}
        noisy = (lambda p, x, key: nnx.merge(graphdef, p, rest)(x, key=key, **how)) if getattr(network, "stochastic", False) else None
        return cls(lambda p, x: nnx.merge(graphdef, p, rest)(x, **how), noisy=noisy, **options), params

    def priming(self) -> Objective:
        """The lower bounds alone, without the supervised loss.

        Raises:
          ValueError: there is no lower bound.
        """
        lower = tuple(r for r in self.regularizers if r.side == "lower")
        if not lower:
            raise ValueError("regularizers must hold a lower bound for homeostatic priming, got none; see snnjax.regularizers.lower_bound")
        return self._replace(regularizers=lower, supervised=False)

    def sample_losses(self, readout: jax.Array, labels: jax.Array) -> jax.Array:
        """The supervised loss of each sample, (batch,): `loss`, or the cross-entropy of `logits` where that is None.

        Raises:
          ValueError: `loss` returns something else than one number a sample.
        """
        if self.loss is None:
            return losses.cross_entropy(readout, labels, logits=self.logits)
        values = self.loss(readout, labels)
        if jnp.shape(values) != (readout.shape[1],):
            raise ValueError(f"loss must return one value a sample, ({readout.shape[1]},), got {jnp.shape(values)}")
        return values


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # copies: some optimizers keep the parameters themselves, which an epoch that donates its state could not take twice
    return TrainState(params, jax.tree.map(jnp.copy, optimizer.init(params)), jnp.zeros((), jnp.int32), jnp.asarray(True))


def objective_value(
    objective: Objective, params: Any, x: jax.Array, labels: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    """The scalar that is minimized, and the metrics of the batch x (time, batch, ...features); with a key, that of a step of training."""
    noisy = objective.noisy if key is not None else None
    readout, activity = objective.apply(params, x) if noisy is None else noisy(params, x, key)  # type: ignore[arg-type]
    loss = objective.sample_losses(readout, labels).mean()
    penalty = regularizers.total_penalty(objective.regularizers, activity.spikes)
    accuracy = losses.correct(readout, labels, logits=objective.logits).mean(dtype=loss.dtype)
    rates = jnp.asarray([s.mean() / _steps_of_a_row(activity, s) for s in activity.spikes])
    return loss + penalty if objective.supervised else penalty, Metrics(loss, accuracy, penalty, rates)


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """One update, with a `key` for what the network draws.

    The state comes back unchanged but for `healthy` where the objective, its gradient or the update is not finite, or was not before.
    """
    return update(optimizer, state, *_gradient(objective, state.params, (x, labels), key))


def _steps_of_a_row(activity: Any, spikes: jax.Array) -> float:
    """Time steps that an entry of the first axis of `spikes` stands for: 1, or, of counts, those of a part of the trial."""
    steps = getattr(activity, "steps", None)
    return 1 if steps is None else steps / len(spikes)


def _gradient(
    objective: Objective, params: Any, batch: tuple[jax.Array, jax.Array], key: jax.Array | None
) -> tuple[jax.Array, Metrics, Any]:
    (value, metrics), grads = jax.value_and_grad(lambda p: objective_value(objective, p, *batch, key), has_aux=True)(params)
    return value, metrics, grads


def batch_gradient(
    objective: Objective, params: Any, source: BatchSource, indices: jax.Array, key: jax.Array | None, *, micro_batch: int, devices: int = 1
) -> tuple[jax.Array, Metrics, Any]:
    """Objective, metrics and gradient on the samples `indices` (batch,) of `source`.

    Args:
      micro_batch: samples at a time.   devices: each of so many takes an equal share of the samples; a divisor of the number of parts.
    """
    total = len(indices) // micro_batch
    if devices == 1:
        return _mean_of_parts(objective, params, source, indices, key, 0, total, micro_batch)

    def share(params: Any, source: BatchSource, indices: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Metrics, Any]:
        first = jax.lax.axis_index(_AXIS) * (total // devices)
        return jax.lax.pmean(_mean_of_parts(objective, params, source, indices, key, first, total, micro_batch), _AXIS)

    everywhere, split = PartitionSpec(), PartitionSpec(_AXIS)
    # the loops carry sums that are equal nowhere until the mean is taken: nothing that the check of replication could follow
    over = jax.shard_map(
        share, mesh=batch_mesh(devices), in_specs=(everywhere, everywhere, split, everywhere), out_specs=everywhere, check_vma=False
    )
    return over(params, source, indices, key)


_AXIS = "sample"


def batch_mesh(devices: int) -> Mesh:
    """The first `devices` of this process."""
    return Mesh(np.array(jax.local_devices()[:devices]), (_AXIS,))


def batch_devices(objective: Objective, source: BatchSource, batch_size: int, micro_batch: int | None = None) -> int:
    """How many devices share a batch: as many of the CPU devices (`snnjax.runtime.use_cpu_devices`) as divide it, if the objective is known to be a mean over
    samples; else one."""
    most = jax.local_device_count() if jax.process_count() == 1 and _divisible(objective, source) else 1
    return max(d for d in range(1, most + 1) if d == 1 or batch_size % (d * (micro_batch or 1)) == 0)


def _divisible(objective: Objective, source: BatchSource) -> bool:
    """Whether gradients of parts of a batch are worth while, on a CPU, and are known to have the whole's as their mean."""
    ours = objective.loss in (None, losses.mean_square) and isinstance(
        source, DeviceEvents | SparseEvents | DeviceArrays | DeviceImages | Augmented
    )
    return jax.default_backend() == "cpu" and ours and all(isinstance(r, ActivityBound) for r in objective.regularizers)


def _mean_of_parts(
    objective: Objective,
    params: Any,
    source: BatchSource,
    indices: jax.Array,
    key: jax.Array | None,
    first: Any,
    total: int,
    micro_batch: int,
) -> tuple[jax.Array, Metrics, Any]:
    """The parts of `indices`, which are those from the number `first` on of `total` of the whole batch."""
    parts = len(indices) // micro_batch

    def part(k: Any, some: jax.Array) -> tuple[jax.Array, Metrics, Any]:
        # a key of its own for each part, else all would draw the same augmentation
        own = key if key is None or total == 1 else jax.random.fold_in(key, first + k)
        noise = None if own is None or objective.noisy is None else jax.random.fold_in(own, _NOISE)
        return _gradient(objective, params, source.batch(some, own), noise)

    if parts == 1:
        return part(0, indices)
    at = jnp.arange(parts), indices.reshape(parts, micro_batch)
    like = jax.eval_shape(part, *jax.tree.map(lambda a: a[0], at))
    # sums in at least 32 bits
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), like)
    total, _ = jax.lax.scan(lambda sums, k: (jax.tree.map(jnp.add, sums, part(*k)), None), zero, at)
    return jax.tree.map(lambda s, t: (s / parts).astype(t.dtype), total, like)


_NOISE = 2**31 - 1  # what the network draws is not what the source draws with the same key

CACHE_BYTES, FEWEST, FEWEST_RECURRENT = 2**20, 4, 16
"""Bytes of a layer's spikes over a trial's steps, and samples: with them the gradient took least time on two cores with 512 KiB of L2 cache each. Of a dense
recurrent layer, whose every step multiplies that many rows with its weights, half the time with 16 samples of what it took with 4."""


def micro_batch_size(objective: Objective, params: Any, source: BatchSource, batch_size: int) -> int:
    """How many samples of a batch to take at a time on this machine.

    On a CPU the largest divisor of `batch_size` with which no layer's spikes are larger than `CACHE_BYTES`, or `FEWEST` (`FEWEST_RECURRENT` with a dense
    recurrent layer) where that is less, below which the products of a step become slow. The whole batch where no divisor is between that and half of it,
    on accelerators, and for a loss, regularizers or a source that are not of this package.
    """
    if not _divisible(objective, source):
        return batch_size
    x, _ = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))
    sizes: list[float] = []

    def look(params: Any, x: Any) -> None:
        activity = objective.apply(params, x)[1]
        sizes.extend(z.size * z.dtype.itemsize * _steps_of_a_row(activity, z) for z in activity.spikes)

    jax.eval_shape(look, params, x)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    recurrent = any("recurrent_kernel" in jax.tree_util.keystr(path) and jnp.ndim(leaf) == 2 for path, leaf in leaves)
    fewest = FEWEST_RECURRENT if recurrent else FEWEST
    fitting = max(int(CACHE_BYTES // max(sizes, default=CACHE_BYTES)), fewest)
    return max((d for d in range(1, batch_size + 1) if batch_size % d == 0 and fitting <= 2 * d <= 2 * fitting), default=batch_size)


def check_micro_batch(micro_batch: int | None, batch_size: int) -> None:
    """None or a divisor of `batch_size`."""
    if micro_batch is not None and (_check.integer("micro_batch", micro_batch, at_least=1) and batch_size % micro_batch):
        raise ValueError(f"micro_batch must be a divisor of batch_size {batch_size}, got {micro_batch}")


def update(
    optimizer: optax.GradientTransformation, state: TrainState, value: jax.Array, metrics: Metrics, grads: Any
) -> tuple[TrainState, Metrics]:
    """The state after a step with this gradient, and the metrics as they came; a step that is not finite leaves all but `healthy` as it was."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new = (optax.apply_updates(state.params, updates), opt_state, state.steps + 1)
    # a finite gradient may still overflow inside the optimizer
    healthy = state.healthy & _all_finite((value, grads, new))
    params, opt_state, steps = jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, (state.params, state.opt_state, state.steps))
    return TrainState(params, opt_state, steps, healthy), metrics


def _all_finite(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in leaves]))


def train_epoch(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    source: BatchSource,
    key: jax.Array,
    *,
    batch_size: int,
    micro_batch: int | None = None,
    devices: int = 1,
) -> tuple[TrainState, Metrics]:
    """One pass over `source` in random order, a scan over batches; metrics are means. A last, incomplete batch is left out.

    Args:
      micro_batch: samples whose gradient is computed at a time, a divisor of `batch_size` / `devices`; None: `micro_batch_size`.
      devices: of this process, that share each batch; the same numbers to rounding for each of these.
    """
    _check.integer("devices", devices, at_least=1, at_most=jax.local_device_count())
    if batch_size % devices:
        raise ValueError(f"devices must be a divisor of batch_size {batch_size}, got {devices}")
    check_micro_batch(micro_batch, batch_size // devices)
    micro_batch = micro_batch or micro_batch_size(objective, state.params, source, batch_size // devices)
    order = epoch_order(key, len(source), batch_size)

    def body(carry: TrainState, at_k: tuple[jax.Array, jax.Array]) -> tuple[TrainState, Metrics]:
        indices, step = at_k
        found = batch_gradient(objective, carry.params, source, indices, batch_key(key, step), micro_batch=micro_batch, devices=devices)
        return update(optimizer, carry, *found)

    state, metrics = jax.lax.scan(body, state, (order, jnp.arange(len(order))))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def epoch_order(key: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Sample indices of an epoch's batches, (n // batch_size, batch_size)."""
    batches = n // batch_size
    return jax.random.permutation(key, n)[: batches * batch_size].reshape(batches, batch_size)


def batch_key(key: jax.Array, step: Any) -> jax.Array:
    """The key that a source may draw with in batch `step` of the epoch with `key`."""
    return jax.random.fold_in(jax.random.fold_in(key, 1), step)


def evaluate(objective: Objective, params: Any, source: BatchSource, *, batch_size: int) -> Metrics:
    """Metrics over all samples of `source`, every sample counted once; NaN where an input is not finite. `penalty` is a mean over batches."""
    n = len(source)
    batches = -(-n // batch_size)
    order = jnp.arange(batches * batch_size).reshape(batches, batch_size)

    def body(_: None, indices: jax.Array) -> tuple[None, Any]:
        x, labels = source.batch(jnp.minimum(indices, n - 1))  # the last batch is filled up with copies that count nothing
        weight = (indices < n).astype(jnp.float32)
        readout, activity = objective.apply(params, x)
        loss = objective.sample_losses(readout, labels)
        hits = losses.correct(readout, labels, logits=objective.logits)
        rates = [(s.mean(axis=(0, *range(2, s.ndim))) * weight).sum() / _steps_of_a_row(activity, s) for s in activity.spikes]
        # a neuron whose membrane is NaN never spikes: bad input would otherwise go unseen
        loss = jnp.where(_all_finite(x), loss, jnp.nan)
        penalty = regularizers.total_penalty(objective.regularizers, activity.spikes) * n / batches
        return None, Metrics((loss * weight).sum(), (hits * weight).sum(), penalty, jnp.asarray(rates))

    _, sums = jax.lax.scan(body, None, order)
    return jax.tree.map(lambda m: m.sum(axis=0) / n, sums)
