r"""One optimization step and one epoch as pure functions, for `snnjax.training.Trainer`.

The objective is a mean over samples, so its gradient is the mean of the gradients of parts of a
batch. On a CPU these are computed one after another. Each part is small enough that its traces stay
in the cache (`micro_batch_size`). This gives the same step to rounding, in half the time and with
less memory. Augmentations are drawn anew for each part, so they differ from those of a whole batch.
A loss, regularizer or source that is not `separable` gets whole batches unless `micro_batch` is
given. A network whose output for one sample depends on other samples needs `micro_batch` = batch
size.

If the objective, its gradient or the update of a step is not finite, the state stays as it was and
is marked as not `healthy`. From then on every step does nothing, so the state after the epoch is
the last good one.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from snnjax import _check, regularizers
from snnjax._pytree import PyTree
from snnjax.datasets._device import BatchSource
from snnjax.nn._delays import follow_schedules
from snnjax.nn._neuron_layer import Fixed
from snnjax.nn._norm import Statistics
from snnjax.training import _objective
from snnjax.training._objective import Inputs, Metrics, Params, Problem
from snnjax.training._programs import program


class TrainState(NamedTuple):
    """The state of training within an epoch.

    Attributes:
        params: Parameters.
        opt_state: State of the optimizer.
        steps: Number of finite steps.
        healthy: Whether every step so far was finite.
    """

    params: Params
    opt_state: optax.OptState
    steps: jax.Array
    healthy: jax.Array


class Sizes(NamedTuple):
    """How a batch is computed. Part of the compiled program.

    Attributes:
        batch_size: Samples per batch.
        micro_batch: Samples whose gradient is computed at a time on each device, a divisor of
            `batch_size` / `devices`.
        devices: Number of devices of this process that share each batch, a divisor of
            `batch_size`. The results are the same to rounding for every number.
    """

    batch_size: int
    micro_batch: int
    devices: int = 1


@runtime_checkable
class _Transformation(Protocol):
    """An optax transformation, of optax or of another library."""

    def init(self, params: Params, /) -> optax.OptState: ...
    def update(self, updates: Params, state: optax.OptState, /) -> tuple[Params, PyTree]: ...


def check_optimizer(optimizer: object) -> None:
    """Raise TypeError unless `optimizer` is an optax transformation. The text says what to do."""
    if isinstance(optimizer, _Transformation) and not isinstance(optimizer, type | nnx.Optimizer):
        return
    expected = "optimizer must be an optax transformation such as optax.adam(1e-3)"
    if isinstance(optimizer, nnx.Optimizer):
        raise TypeError(f"{expected}, got an nnx.Optimizer; pass its attribute `tx`")
    if callable(optimizer):
        is_named = isinstance(optimizer, type | types.FunctionType)
        name = optimizer.__name__ if is_named else type(optimizer).__name__
        raise TypeError(f"{expected}, got the function {name} itself; call it, {name}(...)")
    raise TypeError(f"{expected}, got {type(optimizer).__name__} {optimizer!r}")


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Args:
        params: Parameters of the network.
        optimizer: An optax transformation.

    Returns:
        The state.

    Raises:
        TypeError: `optimizer` is not an optax transformation.
    """
    check_optimizer(optimizer)
    # one program instead of one for each operation
    opt_state = program(_optimizer_state, optimizer, identity=True)(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), jnp.asarray(True))


def _optimizer_state(optimizer: optax.GradientTransformation, params: Params) -> optax.OptState:
    # copies, because some optimizers have the parameters in their state, and a buffer cannot be
    # donated twice
    return jax.tree.map(jnp.copy, optimizer.init(params))


class Recipe(NamedTuple):
    """The constituents of a compiled step.

    Attributes:
        problem: The objective as a function of parameters.
        optimizer: An optax transformation.
        sizes: How a batch is computed.
    """

    problem: Problem
    optimizer: optax.GradientTransformation
    sizes: Sizes


Gradient = Callable[..., tuple[tuple[jax.Array, Metrics], Params]]
"""`(params, source, indices, key) -> (objective, metrics), gradient`, means over the batch."""


def gradient_of(recipe: Recipe) -> Gradient:
    """The objective, its metrics and its gradient, on all devices that share a batch.

    Args:
        recipe: The problem and the sizes. The optimizer is not used.

    Returns:
        A function of parameters, source, indices (batch,) and key.
    """
    sizes = recipe.sizes
    gradient = recipe.problem.value_and_gradient
    if sizes.micro_batch == sizes.batch_size:
        return gradient
    of_parts = functools.partial(_mean_over_parts, gradient, sizes)
    if sizes.devices == 1:
        return of_parts
    everywhere, split = PartitionSpec(), PartitionSpec(_AXIS)
    specs, mesh = (everywhere, everywhere, split, everywhere), batch_mesh(sizes.devices)
    # the loops carry sums that differ between devices until the mean is taken; the check of
    # replication would reject them
    return jax.shard_map(of_parts, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)


def _mean_over_parts(
    gradient: Gradient,
    sizes: Sizes,
    params: Params,
    source: BatchSource,
    indices: jax.Array,
    key: jax.Array | None,
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """`gradient` as the mean over parts of `micro_batch` samples, one after another.

    If several devices share a batch, this runs on each of them, with `indices` of its own samples.
    """
    parts, shared = len(indices) // sizes.micro_batch, sizes.devices > 1
    first = jax.lax.axis_index(_AXIS) * parts if shared else 0
    mean = functools.partial(jax.lax.pmean, axis_name=_AXIS) if shared else lambda tree: tree

    # each part has its own key; with the same key all would draw the same augmentation
    own = lambda k: None if key is None else jax.random.fold_in(key, first + k)
    if parts == 1:
        return mean(gradient(params, source, indices, own(0)))
    each = indices.reshape(parts, sizes.micro_batch)
    like = jax.eval_shape(functools.partial(gradient, params, source), each[0], key)
    # sums in at least 32 bits
    wide = lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32))

    def add(sums: PyTree, at: tuple[jax.Array, jax.Array]) -> tuple[PyTree, None]:
        k, some = at
        return jax.tree.map(jnp.add, sums, gradient(params, source, some, own(k))), None

    sums, _ = jax.lax.scan(add, jax.tree.map(wide, like), (jnp.arange(parts), each))
    return mean(jax.tree.map(lambda s, t: (s / parts).astype(t.dtype), sums, like))


_AXIS = "sample"


def batch_mesh(devices: int) -> Mesh:
    """The first `devices` of this process."""
    return Mesh(np.array(jax.local_devices()[:devices]), (_AXIS,))


def batch_devices(
    problem: Problem, source: BatchSource, batch_size: int, micro_batch: int | None = None
) -> int:
    """The number of devices that share a batch.

    If the objective is known to be a mean over samples, it is the largest number of CPU devices
    (`snnjax.runtime.use_cpu_devices`) that divides the batch. Otherwise it is one.

    Args:
        problem: The objective as a function of parameters.
        source: The samples.
        batch_size: Samples per batch.
        micro_batch: Samples whose gradient is computed at a time, or None. If it is given, each
            device gets a multiple of it.

    Returns:
        The number of devices.
    """
    alone = jax.process_count() > 1 or not _in_parts(problem, source)
    most = 1 if alone else jax.local_device_count()
    fits = lambda d: d == 1 or batch_size % (d * (micro_batch or 1)) == 0
    return max(d for d in range(1, most + 1) if fits(d))


def _in_parts(problem: Problem, source: BatchSource) -> bool:
    """Whether to split a batch: on a CPU, if the mean over parts is known to be exact."""
    return jax.default_backend() == "cpu" and problem.separable and _objective.is_separable(source)


CACHE_BYTES, FEWEST, FEWEST_RECURRENT = 2**20, 4, 16
"""Largest size of a layer's spikes over a trial in bytes; smallest numbers of samples per part.

Tuned on two cores with 512 KiB of L2 cache each. For dense recurrent layers 16 samples per part
took half as long as 4, because each step multiplies a matrix with one row per sample.
"""


def micro_batch_size(problem: Problem, params: Params, source: BatchSource, batch_size: int) -> int:
    """The number of samples of a batch to compute at a time on this machine.

    Args:
        problem: The objective as a function of parameters.
        params: Parameters of the network.
        source: The samples.
        batch_size: Samples per batch on one device.

    Returns:
        On a CPU, the largest divisor of `batch_size` up to a bound. The bound is the number of
        samples for which every layer's spikes fit in `CACHE_BYTES`, and at least `FEWEST`
        (`FEWEST_RECURRENT` with a dense recurrent layer). The result is `batch_size` if no divisor
        is between half the bound and the bound, on accelerators, and if the loss, a regularizer or
        the source is not `separable`.
    """
    if not _in_parts(problem, source):
        return batch_size
    x, _ = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((1,), jnp.int32))
    sizes: list[float] = []

    def measure(params: Params, x: Inputs) -> None:
        _, activity = problem.outputs(params, x)
        for z in activity.spikes:
            sizes.append(z.size * z.dtype.itemsize * _objective.steps_of_a_row(activity, z))

    jax.eval_shape(measure, params, x)
    if not sizes:  # the network returns no spikes, so that its size is not known
        return batch_size
    leaves = jax.tree_util.tree_leaves_with_path(params)
    recurrent = any(
        "recurrent_kernel" in jax.tree_util.keystr(path) and jnp.ndim(leaf) == 2
        for path, leaf in leaves
    )
    fewest = FEWEST_RECURRENT if recurrent else FEWEST
    fitting = max(int(CACHE_BYTES // max(sizes)), fewest)
    divisors = (d for d in range(1, batch_size + 1) if batch_size % d == 0)
    return max((d for d in divisors if fitting <= 2 * d <= 2 * fitting), default=batch_size)


def check_divisor(name: str, value: int | None, batch_size: int) -> None:
    """Raise ValueError unless `value` is None or a divisor of `batch_size`."""
    if value is not None and batch_size % _check.integer(name, value, at_least=1):
        raise ValueError(f"{name} must be a divisor of batch_size {batch_size}, got {value}")


def update(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    found: tuple[jax.Array, Metrics],
    grads: Params,
) -> tuple[TrainState, Metrics]:
    """The state after a step with this gradient, and the unchanged metrics.

    If the step is not finite, only `healthy` changes.
    """
    value, metrics = found
    updates, opt_state = optimizer_update(optimizer, grads, state.opt_state, state.params, value)
    steps = state.steps + 1
    new = (follow_schedules(optax.apply_updates(state.params, updates), steps), opt_state, steps)
    # a finite gradient may overflow inside the optimizer, whose state may begin with an infinity
    nothing = jax.tree.map(lambda _: None, (value, grads, new[0]))
    finite = _all_finite((value, grads, new[0], opt_state), (*nothing, state.opt_state))
    healthy = state.healthy & finite
    old = (state.params, state.opt_state, state.steps)
    params, opt_state, steps = jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, old)
    return TrainState(params, opt_state, steps, healthy), metrics


def optimizer_update(
    optimizer: optax.GradientTransformation,
    grads: Params,
    opt_state: optax.OptState,
    params: Params,
    value: jax.Array,
) -> tuple[Any, optax.OptState]:
    """The update for a gradient, and the optimizer's next state.

    `Fixed` parameters get no update, and `Statistics` of a batch normalization minus their
    gradient.

    Transformations that depend on the loss, such as `optax.contrib.reduce_on_plateau`, get the
    arguments `value`, the objective of the batch, and `grad`.

    Raises:
        TypeError: The optimizer also needs `value_fn`, for a line search (`optax.lbfgs`).
    """
    optimizer = optax.with_extra_args_support(optimizer)
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    zero = lambda kind: lambda v: jax.tree.map(jnp.zeros_like, v) if isinstance(v, kind) else v
    # the gradient of a running statistic is its change; the optimizer, which may clip by the norm
    # of all gradients, must not see it
    given, grads = grads, jax.tree.map(zero(Statistics), grads, is_leaf=is_variable)
    try:
        updates, state = optimizer.update(grads, opt_state, params, value=value, grad=grads)
    except TypeError as error:
        if "value_fn" not in str(error):
            raise
        refused = "optimizer must not need value_fn, as line searches do (optax.lbfgs)"
        hint = "training gives value and grad; use a first-order optimizer such as optax.adam"
        raise TypeError(f"{refused}; {hint}") from None
    # training must not change these parameters: no weight decay, no noise
    updates = jax.tree.map(zero(Fixed), updates, is_leaf=is_variable)
    if any(isinstance(g, Statistics) for g in jax.tree.leaves(given, is_leaf=is_variable)):
        change = lambda u, g: jax.tree.map(jnp.negative, g) if isinstance(u, Statistics) else u
        updates = jax.tree.map(change, updates, given, is_leaf=is_variable)
    return updates, state


def _all_finite(tree: PyTree, before: PyTree = None) -> jax.Array:
    """Whether all numbers are finite or unchanged from `before`, where that is not None.

    Args:
        tree: A tree of arrays and None.
        before: None, or a tree of the same structure whose leaves are arrays or None.
    """
    flat = functools.partial(jax.tree.leaves, is_leaf=lambda leaf: leaf is None)
    leaves = flat(tree)
    old = [None] * len(leaves) if before is None else flat(before)
    # arrays of one shape share a reduction: a parameter, its gradient and its state in the
    # optimizer have one, and every reduction is a kernel to compile
    good: dict[tuple[int, ...], jax.Array] = {}
    for new, then in zip(leaves, old, strict=True):
        if new is not None and jnp.issubdtype(jnp.result_type(new), jnp.inexact):
            fine = jnp.isfinite(new) if then is None else jnp.isfinite(new) | (new == then)
            good[fine.shape] = good.get(fine.shape, True) & fine
    return jnp.all(jnp.asarray([fine.all() for fine in good.values()]))


def train_step(
    recipe: Recipe,
    state: TrainState,
    source: BatchSource,
    indices: jax.Array,
    key: jax.Array | None,
) -> tuple[TrainState, Metrics]:
    """One update with the samples `indices` (batch,) of `source`.

    Args:
        recipe: Problem, optimizer and sizes.
        state: From `init_state` or the last step.
        source: The samples.
        indices: Samples of the batch, integers (batch,).
        key: Random key of the source and the network. None: they draw no random numbers.

    Returns:
        The state after the step, and the metrics of the batch with the parameters before it.
    """
    found = gradient_of(recipe)(state.params, source, indices, key)
    return update(recipe.optimizer, state, *found)


def train_epoch(
    recipe: Recipe,
    state: TrainState,
    source: BatchSource,
    key: jax.Array,
    steps: ArrayLike | None = None,
) -> tuple[TrainState, Metrics]:
    """One pass over `source` in random order, a loop over batches.

    A last, incomplete batch is left out.

    Args:
        recipe: Problem, optimizer and sizes.
        state: From `init_state` or the last epoch.
        source: The samples, at least one batch.
        key: Random key for the order, the source and the network.
        steps: Number of batches, from the first one; it may be traced, so that one program serves
            every number. None: all.

    Returns:
        The state after the epoch, and the means of the metrics over its steps.
    """
    order, gradient = epoch_order(key, len(source), recipe.sizes.batch_size), gradient_of(recipe)
    steps = len(order) if steps is None else steps

    @jax.jit  # so that its shapes and the loop need only one trace
    def step(
        state: TrainState, source: BatchSource, indices: jax.Array, own: jax.Array
    ) -> tuple[TrainState, Metrics]:
        return update(recipe.optimizer, state, *gradient(state.params, source, indices, own))

    def body(k: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = step(carry[0], source, order[k], batch_key(key, k))
        return state, jax.tree.map(lambda all, one: all.at[k].set(one), carry[1], metrics)

    _, like = jax.eval_shape(step, state, source, order[0], key)
    empty = jax.tree.map(lambda m: jnp.zeros((len(order), *m.shape), m.dtype), like)
    state, metrics = jax.lax.fori_loop(0, steps, body, (state, empty))
    return state, jax.tree.map(lambda m: m.sum(axis=0) / steps, metrics)


def epoch_order(key: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Indices of the samples of each batch of an epoch, (n // batch_size, batch_size)."""
    batches = n // batch_size
    return jax.random.permutation(key, n)[: batches * batch_size].reshape(batches, batch_size)


def batch_key(key: jax.Array, step: ArrayLike) -> jax.Array:
    """The random key of batch `step` in the epoch with `key`."""
    return jax.random.fold_in(jax.random.fold_in(key, 1), step)


def evaluate(recipe: Recipe, params: Params, source: BatchSource) -> Metrics:
    """Metrics over all samples of `source`. Every sample counts once.

    Args:
        recipe: The problem, and the sizes; `micro_batch` samples are computed at a time.
        params: Parameters of the network.
        source: The samples.

    Returns:
        Means over samples. The loss is NaN if an input is not finite. `penalty` is a mean over
        batches.
    """
    problem, batch_size, n = recipe.problem, recipe.sizes.micro_batch, len(source)
    batches = -(-n // batch_size)
    order = jnp.arange(batches * batch_size).reshape(batches, batch_size)

    def body(_: None, indices: jax.Array) -> tuple[None, Any]:
        # the last batch is filled up with samples of weight 0
        x, target = source.batch(jnp.minimum(indices, n - 1))
        weight = (indices < n).astype(jnp.float32)
        readout, activity = problem.outputs(params, x, target)
        loss = problem.loss(readout, target)
        each = problem.sample_scores(readout, target)
        scores = {name: (s * weight).sum() for name, s in each.items()}
        per_sample = [_objective.sample_rates(activity, s, target) for s in activity.spikes]
        rates = [(rate * weight).sum() for rate in per_sample]
        # a neuron whose membrane is NaN never spikes, so that bad input would not be noticed
        loss = jnp.where(_all_finite(x), loss, jnp.nan)
        penalty = regularizers.total_penalty(problem.regularizers, activity.spikes) * n / batches
        return None, Metrics((loss * weight).sum(), scores, penalty, jnp.asarray(rates))

    _, sums = jax.lax.scan(body, None, order)
    return jax.tree.map(lambda m: m.sum(axis=0) / n, sums)
