r"""One optimization step and one epoch as pure functions.

    objective = mean_batch loss(readout, target) + sum_layers sum_regularizers penalty(spikes)

The loss decides what the target is: classes, values, several labels, or traces (`snnjax.losses`).

Homeostatic priming is training on the activity bounds alone, which wakes silent neurons before there is anything to learn (`Objective.priming`).

The objective is a mean over samples, so its gradient is the mean of the gradients of parts of a batch. On a CPU these are computed one after another,
each small enough that its traces stay in the cache (`micro_batch_size`): the same step to rounding, in half the time and less memory. Augmentations are
drawn anew for each part, so other ones than for a whole batch. A loss, regularizer or source that is not ours may not be a mean over samples, and gets whole
batches unless `micro_batch` is given; a network whose output for one sample depends on the others needs `micro_batch` = batch size.

A step whose objective, gradient or update is not finite leaves the state as it was and marks it not `healthy`; from then on every step does nothing, so
the state that comes back from the epoch is the last good one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from snnjax import _check, losses, regularizers
from snnjax._pytree import pytree_dataclass, static
from snnjax.datasets.augment import Augmented
from snnjax.datasets.device import BatchSource, DeviceArrays, DeviceEvents
from snnjax.datasets.images import DeviceImages
from snnjax.datasets.sparse_events import SparseEvents
from snnjax.nn import Steepness
from snnjax.nn.network import Activity, Sequential
from snnjax.regularizers import ActivityBound
from snnjax.training._programs import program

Apply = Callable[[Any, jax.Array], Any]
Tap = Callable[[jax.Array], jax.Array]


class TrainState(NamedTuple):
    """What an epoch carries: parameters, optimizer state, number of good steps, and whether every step so far was finite."""

    params: Any
    opt_state: Any
    steps: jax.Array
    healthy: jax.Array


class Metrics(NamedTuple):
    """Means over samples.

    Attributes:
        loss: The supervised loss.
        scores: What is reported beside it, by name: {"accuracy": ...} where targets are classes;
            what the loss names (`snnjax.losses.Metric`); else empty.
        penalty: That of all regularizers.
        rates: Spikes per unit and step of every layer, (layers,).
    """

    loss: jax.Array
    scores: dict[str, jax.Array]
    penalty: jax.Array
    rates: jax.Array

    @property
    def accuracy(self) -> jax.Array:
        """Share of samples whose class is told right.

        Raises:
            AttributeError: The targets are no classes.
        """
        if "accuracy" not in self.scores:
            scores = ", ".join(self.scores) or "none"
            raise AttributeError(f"there is no accuracy: targets are no classes; scores: {scores}")
        return self.scores["accuracy"]

    @property
    def quality(self) -> jax.Array:
        """What the best parameters have most of: the accuracy; without one, minus the loss."""
        return self.scores.get("accuracy", -self.loss)

    def named(self, prefix: str) -> dict[str, jax.Array]:
        """Loss and scores by name, with a prefix such as "train_"."""
        return {f"{prefix}{name}": v for name, v in {"loss": self.loss, **self.scores}.items()}


@pytree_dataclass
class _Call:
    """A network as a function of its parameters.

    Two of networks of one structure are equal to jit but for the arrays in `rest`.
    """

    rest: Any
    graphdef: Any = static()
    counts: bool = static()
    taps: bool = static()

    def __call__(self, params: Any, x: Any, key: jax.Array | None = None, tap: Tap | None = None) -> Any:
        options: dict[str, Any] = {"counts": True} if self.counts else {}
        if tap is not None:
            options["tap"] = tap
        if key is not None:
            options["key"] = key
        return self.network(params)(x, **options)

    def network(self, params: Any) -> Any:
        """The network with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest)


class Objective(NamedTuple):
    """The pieces of an objective. `Objective.of` makes one of a network.

    Attributes:
        apply: `(params, x) -> (readout, activity)`, with activity.spikes a tuple of trains, or
            counts (`snnjax.nn.Activity`); or the readout (time, batch, k) alone, where nothing is
            known of the activity.
        logits: How a trace becomes class scores, for the cross-entropy and the accuracy.
        regularizers: Penalties on the spikes of every spiking layer.
        loss: `(readout, target) -> (batch,)`; None: the cross-entropy of `logits`.
        supervised: False leaves the loss out of what is minimized; it is still reported.
        noisy: `(params, x, key)`, takes the place of `apply` in training: dropout. Or None.
    """

    apply: Apply
    logits: losses.Logits = losses.max_over_time
    regularizers: Sequence[Callable[[jax.Array], jax.Array]] = ()
    loss: Callable[[jax.Array, Any], jax.Array] | None = None
    supervised: bool = True
    noisy: Callable[[Any, jax.Array, jax.Array], Any] | None = None

    @classmethod
    def of(cls, network: Any, **options: Any) -> tuple[Objective, Any]:
        """The objective of a network, and its parameters.

        Args:
            network: An `nnx.Module`. Where its `stochastic` is True it takes a `key` when it is
                called. A `Sequential` with `remat_steps` gives counts instead of spikes, if all
                regularizers are `ActivityBound`s.
            options: The other fields.

        Returns:
            The objective, and an `nnx.State` of `nnx.Param`.

        Raises:
            TypeError: `network` is no nnx.Module, or an option is not what it should be.

        >>> from snnjax.nn import Readout
        >>> objective, params = Objective.of(Readout(5, 2, rngs=nnx.Rngs(0)))
        >>> [leaf.shape for leaf in jax.tree.leaves(params)]
        [(5, 2)]
        """
        if not isinstance(network, nnx.Module):
            cls_given = isinstance(network, type)
            what = f"the class {network.__name__}" if cls_given else f"a {type(network).__name__}"
            raise TypeError(f"network must be a flax.nnx.Module such as nn.Sequential, got {what}")
        _check_functions(options)
        options["regularizers"] = tuple(options.get("regularizers", ()))
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)
        # bounds look at counts alone; what other penalties look at is not known
        counted = all(isinstance(r, ActivityBound) for r in options["regularizers"])
        counts = counted and type(network) is Sequential and network.remat_steps is not None
        taps = isinstance(network, Sequential) and network.remat_steps is None
        call = _Call(rest=rest, graphdef=graphdef, counts=counts, taps=taps)
        noisy = call if getattr(network, "stochastic", False) else None
        return cls(call, noisy=noisy, **options), params

    def priming(self) -> Objective:
        """The activity bounds alone, without the supervised loss and penalties of the user's own.

        The lower bounds wake what is silent. They ask for a spike of every neuron in every trial, and alone
        they would go on to tens of hertz; the upper bounds stop that.

        Raises:
            ValueError: There is no lower bound.
        """
        bounds = tuple(r for r in self.regularizers if isinstance(r, ActivityBound))
        if not any(bound.side == "lower" for bound in bounds):
            raise ValueError("regularizers must hold a lower bound for homeostatic priming, got none; see snnjax.regularizers.lower_bound")
        return self._replace(regularizers=bounds, supervised=False)

    def limited(self) -> list[ActivityBound]:
        """The bounds whose gradient is limited beside the loss's: those with a `share`, in a `Sequential` that runs whole trials.

        None in priming, where there is no loss.
        """
        whole = isinstance(self.apply, _Call) and self.apply.taps
        if not (self.supervised and whole):
            return []
        return [r for r in self.regularizers if isinstance(r, ActivityBound) and r.share is not None]

    def outputs(self, params: Any, x: Any, key: jax.Array | None = None, tap: Tap | None = None) -> tuple[jax.Array, Any]:
        """Readout (time, batch, k) and activity for inputs x (time, batch, ...features).

        Args:
            params: Parameters of the network.
            x: The inputs.
            key: For what the network draws in training; None in evaluation.
            tap: For the spikes of every layer, as `snnjax.nn.Sequential` takes it.

        Returns:
            What the network returns; for a readout alone an `Activity` without spikes.

        Raises:
            TypeError: The network returns something else.
            ValueError: The readout has other axes; or there are regularizers and the network
                returns no spikes.
        """
        noisy = None if key is None else self.noisy
        arguments: Any = (params, x) if noisy is None else (params, x, key)
        options: Any = {} if tap is None else {"tap": tap}
        out: Any = (self.apply if noisy is None else noisy)(*arguments, **options)
        alone = hasattr(out, "ndim")
        pair = isinstance(out, tuple | list) and len(out) == 2 and hasattr(out[1], "spikes")
        if not alone and not pair:
            raise TypeError(f"{_RETURNS}, got {_described(out)}")
        readout: Any = out if alone else out[0]
        if readout.ndim != 3:
            raise ValueError(f"{_RETURNS}, got a readout of shape {readout.shape}")
        if not alone:
            return readout, out[1]
        if self.regularizers:
            needs = "regularizers need the spikes of every layer"
            raise ValueError(f"{needs}: {_RETURNS}, got the readout alone")
        return readout, Activity(())

    def sample_losses(self, readout: jax.Array, target: Any) -> jax.Array:
        """The supervised loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: What the loss takes, one per sample.

        Returns:
            (batch,): `loss`, or the cross-entropy of `logits` where that is None.

        Raises:
            ValueError: `loss` returns something else than one number per sample.
        """
        if self.loss is None:
            return losses.cross_entropy(readout, target, logits=self.logits)
        values = self.loss(readout, target)
        if jnp.shape(values) != (readout.shape[1],):
            raise ValueError(f"loss must return one value a sample, ({readout.shape[1]},), got {jnp.shape(values)}")
        return values

    def metric(self, target: Any) -> losses.Metric | None:
        """What is reported beside the loss: its `metric`, or for classes the accuracy, or nothing."""
        loss: Any = self.loss
        if hasattr(loss, "metric"):
            return loss.metric
        if self.loss is None or losses.are_classes(target):
            return losses.Metric("accuracy", functools.partial(losses.correct, logits=self.logits))
        return None

    def sample_scores(self, readout: jax.Array, target: Any) -> dict[str, jax.Array]:
        """The metric of each sample by its name, {name: (batch,)}; empty where there is none."""
        metric = self.metric(target)
        return {} if metric is None else {metric.name: metric.of(readout, target)}

    def check_targets(self, name: str, targets: Any, outputs: int) -> None:
        """Raise ValueError if a target is out of range for `outputs` of the readout, unless traced.

        A loss may have a method `check(name, targets)` of its own.
        """
        metric, check = self.metric(targets), getattr(self.loss, "check", None)
        if metric is not None and metric.name == "accuracy":
            losses.check_classes(name, targets, outputs)
        elif check is not None:
            check(name, targets)


_RETURNS = "network must return the readout (time, batch, k), or (readout, activity with .spikes)"


def _described(out: Any) -> str:
    parts = [type(part).__name__ for part in out] if isinstance(out, tuple | list) else ""
    return f"a {type(out).__name__} {parts}".rstrip()


def _check_functions(options: dict[str, Any]) -> None:
    """What is no function, and one regularizer in place of a sequence, would fail deep inside."""
    for name in ("logits", "loss"):
        given = options.get(name)
        if isinstance(given, type):
            hint = f"make one, {given.__name__}()"
            raise TypeError(f"{name} must be a function, got the class {given.__name__}; {hint}")
        if given is not None and not callable(given):
            shown = f"{type(given).__name__} {given!r}"
            raise TypeError(f"{name} must be a function, got {shown}; see snnjax.losses")
    given = options.get("regularizers", ())
    if not isinstance(given, Sequence) or not all(callable(r) for r in given):
        expected = "regularizers must be a sequence of functions of spikes, [upper_bound(...)]"
        raise TypeError(f"{expected}, got {given!r}")


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError, with what to give instead, unless `optimizer` is one of optax."""
    made = not isinstance(optimizer, type) and not isinstance(optimizer, nnx.Optimizer)
    if made and all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        return
    expected = "optimizer must be an optax transformation such as optax.adam(1e-3)"
    if isinstance(optimizer, nnx.Optimizer):
        raise TypeError(f"{expected}, got an nnx.Optimizer; give the one that it holds, its `tx`")
    if callable(optimizer):
        name = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise TypeError(f"{expected}, got the function {name} itself; call it, {name}(...)")
    raise TypeError(f"{expected}, got {type(optimizer).__name__} {optimizer!r}")


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Raises:
        TypeError: `optimizer` is no optax transformation.
    """
    check_optimizer(optimizer)
    # copies: some optimizers keep the parameters themselves, which an epoch that donates its state could not take twice
    return TrainState(params, jax.tree.map(jnp.copy, optimizer.init(params)), jnp.zeros((), jnp.int32), jnp.asarray(True))


def objective_value(
    objective: Objective, params: Any, x: jax.Array, labels: Any, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    """The scalar that is minimized, and the metrics of a batch.

    Args:
        objective: What is minimized.
        params: Parameters of the network.
        x: Inputs (time, batch, ...features).
        labels: Targets, as the loss takes them: classes (batch,), values (batch, k), traces (time,
            batch, k), ...
        key: For what the network draws; None: it draws nothing.

    Returns:
        The objective, a scalar, and its `Metrics`.
    """
    limited = objective.limited()
    penalties: list[jax.Array] = []

    def tap(spikes: jax.Array) -> jax.Array:
        spikes, penalty = regularizers.limited(spikes, limited)
        penalties.append(penalty)
        return spikes

    readout, activity = objective.outputs(params, x, key, tap if limited else None)
    loss = objective.sample_losses(readout, labels).mean()
    others = [r for r in objective.regularizers if not any(r is bound for bound in limited)]
    penalty = sum(penalties, start=regularizers.total_penalty(others, activity.spikes))
    each = objective.sample_scores(readout, labels)
    scores = {name: s.mean(dtype=loss.dtype) for name, s in each.items()}
    mean = lambda s: s.mean(dtype=_check.wide(s.dtype))  # noqa: E731
    rates = [mean(s) / _steps_of_a_row(activity, s) for s in activity.spikes]
    value = loss + penalty if objective.supervised else penalty
    return value, Metrics(loss, scores, penalty, jnp.asarray(rates))


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    x: jax.Array,
    labels: Any,
    key: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """One update.

    The state comes back unchanged but for `healthy` where the objective, its gradient or the update
    is not finite, or was not before.

    Args:
        objective: What is minimized.
        optimizer: An optax transformation.
        state: From `init_state` or the step before.
        x: Inputs (time, batch, ...features).
        labels: Targets, as the loss takes them.
        key: For what the network draws; None: it draws nothing.

    Returns:
        The state after the step, and the metrics of the batch before it.
    """
    if key is not None:
        _check.key("key", key)
    return update(optimizer, state, *_gradient(objective, state.params, (x, labels), key))


def _steps_of_a_row(activity: Any, spikes: jax.Array) -> float:
    """Time steps that an entry of the first axis of `spikes` stands for: 1, or, of counts, those of a part of the trial."""
    steps = getattr(activity, "steps", None)
    return 1 if steps is None else steps / len(spikes)


def _gradient(objective: Objective, params: Any, batch: tuple[jax.Array, Any], key: jax.Array | None) -> tuple[jax.Array, Metrics, Any]:
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


_SOURCES = (DeviceEvents, SparseEvents, DeviceArrays, DeviceImages, Augmented)


def _divisible(objective: Objective, source: BatchSource) -> bool:
    """Whether gradients of parts of a batch are worth while, on a CPU, and are known to have the whole's as their mean."""
    loss = objective.loss
    mean = loss in (None, losses.mean_square)
    mean |= isinstance(loss, losses.SquaredError | losses.SigmoidCrossEntropy)
    ours = mean and isinstance(source, _SOURCES)
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
        _, activity = objective.outputs(params, x)
        sizes.extend(z.size * z.dtype.itemsize * _steps_of_a_row(activity, z) for z in activity.spikes)

    jax.eval_shape(look, params, x)
    if not sizes:  # a network that shows no spikes: nothing is known of its size
        return batch_size
    leaves = jax.tree_util.tree_leaves_with_path(params)
    recurrent = any("recurrent_kernel" in jax.tree_util.keystr(path) and jnp.ndim(leaf) == 2 for path, leaf in leaves)
    fewest = FEWEST_RECURRENT if recurrent else FEWEST
    fitting = max(int(CACHE_BYTES // max(sizes)), fewest)
    return max((d for d in range(1, batch_size + 1) if batch_size % d == 0 and fitting <= 2 * d <= 2 * fitting), default=batch_size)


def check_micro_batch(micro_batch: int | None, batch_size: int) -> None:
    """None or a divisor of `batch_size`."""
    if micro_batch is not None and (_check.integer("micro_batch", micro_batch, at_least=1) and batch_size % micro_batch):
        raise ValueError(f"micro_batch must be a divisor of batch_size {batch_size}, got {micro_batch}")


def update(
    optimizer: optax.GradientTransformation, state: TrainState, value: jax.Array, metrics: Metrics, grads: Any
) -> tuple[TrainState, Metrics]:
    """The state after a step with this gradient, and the metrics as they came; a step that is not finite leaves all but `healthy` as it was."""
    updates, opt_state = optimizer_update(optimizer, grads, state.opt_state, state.params, value)
    new = (optax.apply_updates(state.params, updates), opt_state, state.steps + 1)
    # a finite gradient may overflow inside the optimizer, whose state may begin with an infinity
    finite = _all_finite((value, grads, new[0])) & _all_finite(opt_state, state.opt_state)
    healthy = state.healthy & finite
    params, opt_state, steps = jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, (state.params, state.opt_state, state.steps))
    return TrainState(params, opt_state, steps, healthy), metrics


def optimizer_update(
    optimizer: optax.GradientTransformation,
    grads: Any,
    opt_state: Any,
    params: Any,
    value: jax.Array,
) -> tuple[Any, Any]:
    """The update for a gradient, and the optimizer's next state; a `Steepness` gets no update.

    Transformations that look at the loss, such as `optax.contrib.reduce_on_plateau`, get `value`,
    the objective of the batch, and `grad`.

    Raises:
        TypeError: The optimizer also needs `value_fn`, for a line search: `optax.lbfgs`.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    try:
        updates, state = optimizer.update(grads, opt_state, params, value=value, grad=grads)
    except TypeError as error:
        if "value_fn" not in str(error):
            raise
        refused = "optimizer must not need value_fn, which it searches along a line (optax.lbfgs)"
        hint = "training gives value and grad; use a first-order optimizer such as optax.adam"
        raise TypeError(f"{refused}; {hint}") from None
    # what calibration found is not trained: no weight decay, no noise
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
    keep = lambda u: jax.tree.map(jnp.zeros_like, u) if isinstance(u, Steepness) else u  # noqa: E731
    return jax.tree.map(keep, updates, is_leaf=is_variable), state


def _all_finite(tree: Any, before: Any = None) -> jax.Array:
    """Whether all numbers are finite, or what they were `before` (a tree of the same structure)."""
    leaves = jax.tree.leaves(tree)
    old = [None] * len(leaves) if before is None else jax.tree.leaves(before)
    good = [
        (jnp.isfinite(new) if then is None else jnp.isfinite(new) | (new == then)).all()
        for new, then in zip(leaves, old, strict=True)
        if jnp.issubdtype(jnp.result_type(new), jnp.inexact)
    ]
    return jnp.all(jnp.asarray(good))


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
    _check.key("key", key)
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
    """Metrics over all samples of `source`, every sample counted once.

    Compiled; a second call with an equal objective and equal shapes reuses the program.

    Args:
        objective: What is measured.
        params: Parameters of the network.
        source: The samples.
        batch_size: Samples at a time, at least 1.

    Returns:
        Means over samples; the loss is NaN where an input is not finite. `penalty` is a mean over
        batches.
    """
    _check.integer("batch_size", batch_size, at_least=1)
    if any(leaf is source for leaf in jax.tree.leaves(source)):  # no pytree, no argument
        return _evaluate((objective, batch_size), params, source)
    return program(_evaluate, (objective, batch_size))(params, source)


def _evaluate(given: tuple[Objective, int], params: Any, source: BatchSource) -> Metrics:
    objective, batch_size = given
    n = len(source)
    batches = -(-n // batch_size)
    order = jnp.arange(batches * batch_size).reshape(batches, batch_size)

    def body(_: None, indices: jax.Array) -> tuple[None, Any]:
        # the last batch is filled up with copies that count nothing
        x, target = source.batch(jnp.minimum(indices, n - 1))
        weight = (indices < n).astype(jnp.float32)
        readout, activity = objective.outputs(params, x)
        loss = objective.sample_losses(readout, target)
        each = objective.sample_scores(readout, target)
        scores = {name: (s * weight).sum() for name, s in each.items()}
        total = lambda s: (_rate_of_samples(s) * weight).sum()  # noqa: E731
        rates = [total(s) / _steps_of_a_row(activity, s) for s in activity.spikes]
        # a neuron whose membrane is NaN never spikes: bad input would otherwise go unseen
        loss = jnp.where(_all_finite(x), loss, jnp.nan)
        penalty = regularizers.total_penalty(objective.regularizers, activity.spikes) * n / batches
        return None, Metrics((loss * weight).sum(), scores, penalty, jnp.asarray(rates))

    _, sums = jax.lax.scan(body, None, order)
    return jax.tree.map(lambda m: m.sum(axis=0) / n, sums)


def _rate_of_samples(spikes: jax.Array) -> jax.Array:
    """Mean over all axes but that of the samples, (batch,)."""
    return spikes.mean(axis=(0, *range(2, spikes.ndim)), dtype=_check.wide(spikes.dtype))
