r"""Train many networks at once: any product of seeds and hyper-parameters that keep the shapes.

A member is a dict of scalars, its hyper-parameters. An ensemble is a dict of arrays (members,) with
the same names. A `Program` consists of pure functions of the hyper-parameters that build a member's
network, objective and optimizer. This module does the rest for all programs: epochs, validation,
the best parameters so far, priming, and early stopping. A member whose numbers are no longer finite
is frozen, while the others continue.

The run of a member depends only on its own hyper-parameters. The order of its samples is derived
from its `seed` and the number of the epoch (only from the latter if members share an order).
Therefore a member gives the same numbers, to rounding, alone, in any ensemble, and on any devices.
A run that is resumed from the state after epoch k equals a run without interruption.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.datasets import BatchSource, Splits
from snnjax.training import _placement
from snnjax.training._objective import Metrics, Objective
from snnjax.training._placement import Kind, Placement
from snnjax.training._programs import program as compiled
from snnjax.training._step import TrainState
from snnjax.training._trainer import Trainer, columns

Hyper = Mapping[str, Any]
Order = Literal["member", "shared"]


class Program(NamedTuple):
    """The definition of the training of a member: functions of hyper-parameters, and settings.

    The argument `hyper` is a dict of scalars with at least an integer `seed`. The functions are
    traced; they must not depend on the values of `hyper` in Python control flow.

    Attributes:
        network: `hyper -> nnx.Module`.
        objective: `hyper -> Objective`.
        optimizer: `hyper -> optax.GradientTransformation`.
        batch_size: Samples per batch, at most the number of training samples.
        start: `(hyper, network, splits) -> network`, an initialization from data. None keeps the
            network as it is built.
        look: `(hyper, network, splits) -> dict of scalars`, measurements on a member before it is
            trained. None measures nothing.
        micro_batch: As in `fit`.
        order: Order of the training samples. `"member"`: each member has its own order, from its
            seed. `"shared"`: all members have the same batches.
        priming_epochs: As in `fit`.
        patience: A member stops after this number of supervised epochs without a better validation
            accuracy (or validation loss, if the targets are not classes). None: it never stops
            early.
    """

    network: Callable[[Hyper], nnx.Module]
    objective: Callable[[Hyper], Objective]
    optimizer: Callable[[Hyper], optax.GradientTransformation]
    batch_size: int
    start: Callable[[Hyper, Any, Splits], Any] | None = None
    look: Callable[[Hyper, Any, Splits], dict[str, jax.Array]] | None = None
    micro_batch: int | None = None
    order: Order = "member"
    priming_epochs: int = 0
    patience: int | None = None

    def check(self) -> None:
        """Raise ValueError or TypeError unless the settings are in range.

        A `Trainer` checks the sizes of batches.
        """
        _check.one_of("order", self.order, get_args(Order))
        _check.integer("priming_epochs", self.priming_epochs, at_least=0)
        if self.patience is not None:
            _check.integer("patience", self.patience, at_least=1)


class MemberState(NamedTuple):
    """The state of a member's training. In an ensemble every leaf has a leading axis (members,).

    Attributes:
        train: State of training.
        best: Parameters of the epoch `best_epoch`.
        best_quality: The highest validation accuracy so far; if the targets are not classes, minus
            the lowest validation loss.
        best_epoch: The first epoch with this quality.
        epoch: Number of completed epochs.
        active: False after the member has stopped early, or if it is not finite.
    """

    train: TrainState
    best: Any
    best_quality: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array
    active: jax.Array


class EnsembleResult(NamedTuple):
    """The result of training an ensemble; numpy arrays whose first axis is the members.

    Attributes:
        history: Each metric by its name in `fit`, (members, epochs + 1), including the epochs of
            priming. Column 0 is the untrained network. NaN after a member has stopped. The last
            column is the last epoch in which a member was trained.
        final: Parameters after the last epoch, or the last finite ones; a pytree.
        best: Parameters after the best epoch, a pytree.
        best_epoch: The best epoch of each member, (members,).
        epochs: Number of trained epochs of each member, (members,).
        finite: False for members with a loss or gradient that is not finite, (members,).
        test: Test metrics (members,) of the "final" and of the "best" parameters.
        initial: Results of the program's `look` before training, each (members,).
    """

    history: dict[str, np.ndarray]
    final: Any
    best: Any
    best_epoch: np.ndarray
    epochs: np.ndarray
    finite: np.ndarray
    test: dict[str, dict[str, np.ndarray]]
    initial: dict[str, np.ndarray]


class Snapshot(NamedTuple):
    """The state of an ensemble between two epochs; numpy arrays.

    Attributes:
        epoch: Number of completed epochs.
        state: The state of all members.
        history: The history so far.
        initial: Results of the program's `look` before training.
    """

    epoch: int
    state: Any
    history: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]


def fit_ensemble(
    program: Program,
    members: Mapping[str, Any],
    splits: Splits,
    *,
    epochs: int,
    dt: float,
    placement: Placement = "auto",
    resume: Callable[[Any], Snapshot | None] | None = None,
    on_epoch: Sequence[Callable[[Snapshot], None]] = (),
) -> EnsembleResult:
    """Initialize, train and evaluate every member.

    Args:
        program: The definition of the training of a member.
        members: Hyper-parameters, each an array (members,). An integer `seed` is required.
        splits: Training, validation and test data on the device.
        epochs: Number of epochs of supervised training, after those of priming. Both are in
            `history`.
        dt: Time step, s, for rates in Hz.
        placement: How members run: in one batch ("vmap"), one after another ("map"), spread over
            all devices ("shard") or those of this process ("local"), or as suits the machine
            ("auto").
        resume: A function of the structure, shapes and types of an untrained ensemble's state. It
            returns the snapshot from which to continue, or None.
        on_epoch: Functions that are called with a `Snapshot` before the first and after each epoch,
            for checkpoints and progress.

    Returns:
        The result.

    Raises:
        ValueError: An option is out of range, or a hyper-parameter has a wrong shape.
        TypeError: An option has a wrong type, or data are not on the device.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> def network(hyper):
    ...     rngs = nnx.Rngs(jax.random.key(hyper["seed"]))
    ...     init = FluctuationDriven(nu=5.0, sigma_u=hyper["sigma_u"])
    ...     return Sequential(SpikingDense(20, 16, init=init, rngs=rngs), Readout(16, 2, rngs=rngs))
    >>> of = lambda hyper: Objective(), lambda hyper: optax.adam(1e-2)
    >>> program = Program(network, *of, batch_size=20)
    >>> data = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    >>> members = {"seed": np.array([0, 1, 0]), "sigma_u": np.array([0.5, 0.5, 1.0])}
    >>> result = fit_ensemble(program, members, Splits(data, data, data), epochs=2, dt=2e-3)
    >>> result.history["valid_accuracy"].shape, result.test["final"]["accuracy"].shape
    ((3, 3), (3,))
    """
    _check.integer("epochs", epochs, at_least=1)
    _check.number("dt", dt, above=0, unit="s")
    for name, source in splits._asdict().items():
        if not isinstance(source, BatchSource):
            hint = "use DeviceEvents or DeviceArrays"
            kind = type(source).__name__
            raise TypeError(f"{name} must be on the device, for all members, got {kind}; {hint}")
        _check.same_dt(name, source, dt)
    program.check()
    kind = _placement.resolve(placement)
    padded, n = _placement.pad(check_members(members), kind)
    hypers, splits = _placement.put(padded, splits, kind)
    cut = lambda tree: jax.tree.map(lambda a: a[:n], _placement.gather(tree))

    def announce(snapshot: Snapshot, ensemble: Member) -> None:
        shown = snapshot._replace(state=cut(ensemble[1])) if on_epoch else snapshot
        for callback in on_epoch:
            callback(shown)

    how = _How(program, kind)
    first = how.compiled(_start)
    snapshot = None
    if resume is not None:
        (_, like), _, _ = jax.eval_shape(first, hypers, splits)
        # a snapshot has no padding members, so that it can be resumed on other devices
        snapshot = resume(
            jax.tree.map(lambda s: jax.ShapeDtypeStruct((n, *s.shape[1:]), s.dtype), like)
        )
    if snapshot is None:
        ensemble, metrics, seen = first(hypers, splits)
        history = {name: value[:, None] for name, value in _row(cut(metrics), dt).items()}
        snapshot = Snapshot(0, None, history, cut(seen))
        announce(snapshot, ensemble)
    else:
        padded, _ = _placement.pad(snapshot.state, kind)
        ensemble = hypers, _placement.put(padded, None, kind)[0]
    for epoch in range(snapshot.epoch + 1, program.priming_epochs + epochs + 1):
        if not bool(_placement.gather(ensemble[1].active).any()):
            break
        phase = how._replace(priming=epoch <= program.priming_epochs)
        ensemble, metrics = phase.compiled(_epoch, donate=0)(ensemble, splits)
        history = {
            name: np.concatenate([snapshot.history[name], value[:, None]], axis=1)
            for name, value in _row(cut(metrics), dt).items()
        }
        snapshot = Snapshot(epoch, None, history, snapshot.initial)
        announce(snapshot, ensemble)
    tested = cut(how.compiled(_finish)(ensemble, splits))
    _, state = ensemble
    test = {which: columns(m, dt) for which, m in zip(("final", "best"), tested, strict=True)}
    train, best, _, best_epoch, trained, _ = cut(state)
    kept = train.params, best, best_epoch, trained, train.healthy
    return EnsembleResult(snapshot.history, *kept, test, snapshot.initial)


def check_members(members: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Hyper-parameters as numpy arrays.

    Args:
        members: Hyper-parameters by name, each an array (members,).

    Returns:
        Arrays (members,), in float32 or int32, sorted by name.

    Raises:
        ValueError: There is no seed or no member, or lengths differ.
        TypeError: A hyper-parameter is not a number, or a seed is not an integer.
    """
    if "seed" not in members:
        raise ValueError(f"members must hold a seed for each member, got {sorted(members)}")
    arrays = {name: np.asarray(value) for name, value in members.items()}
    for name, a in arrays.items():
        if a.size and a.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be numbers, got {a.dtype}")
    seeds = arrays["seed"]
    if seeds.size and seeds.dtype.kind not in "iu":
        raise TypeError(f"seed must be integers, got {seeds.dtype}")
    if seeds.size and (seeds.min() < 0 or seeds.max() >= 2**31):
        raise ValueError(f"seed must be >= 0 and < 2^31, got {seeds.min()} to {seeds.max()}")
    shapes = {name: a.shape for name, a in arrays.items()}
    if seeds.ndim != 1 or seeds.size == 0 or len(set(shapes.values())) > 1:
        needed = "arrays (members,) of one length, at least 1"
        raise ValueError(f"members must hold {needed}, got {shapes}")
    plain = lambda a: a.astype(np.float32 if a.dtype.kind == "f" else np.int32)
    return {name: plain(a) for name, a in sorted(arrays.items())}


class _How(NamedTuple):
    """The parts of a compiled program."""

    program: Program
    placement: Kind
    priming: bool = False

    def trainer(self, hyper: Hyper, network: nnx.Module | None = None) -> Trainer:
        """A member's trainer, on one device."""
        program = self.program
        network = program.network(hyper) if network is None else network
        made = network, program.objective(hyper), program.optimizer(hyper)
        sizes = {"batch_size": program.batch_size, "micro_batch": program.micro_batch}
        return Trainer(*made, **sizes, devices=1)

    def compiled(
        self, one: Callable[..., PyTree], *, donate: int | None = None
    ) -> Callable[..., Any]:
        """`one(how, member, splits)` for all members. Equal settings share a program."""
        return compiled(_of_members, (one, self), donate=donate, identity=True)


def _of_members(
    given: tuple[Callable[..., PyTree], _How], members: PyTree, splits: Splits
) -> PyTree:
    one, how = given
    return _placement.over_members(functools.partial(one, how), how.placement)(members, splits)


Member = tuple[Hyper, MemberState]


def _start(
    how: _How, hyper: Hyper, splits: Splits
) -> tuple[Member, tuple[Metrics, Metrics], dict[str, jax.Array]]:
    """The state before training, its metrics, and the results of the program's `look`."""
    program = how.program
    network = program.network(hyper)
    if program.start is not None:
        network = program.start(hyper, network, splits)
    trainer = how.trainer(hyper, network)
    trainer.check_batch_size(splits.train)
    state = trainer.init()
    trained, held = (trainer.evaluate(state.params, source) for source in splits[:2])
    zero = jnp.zeros((), jnp.int32)
    seen = {} if program.look is None else program.look(hyper, network, splits)
    best = -jnp.float32(jnp.inf)
    member = MemberState(state, state.params, best, zero, zero, jnp.asarray(True))
    return (hyper, member), (trained, held), seen


def _epoch(how: _How, member: Member, splits: Splits) -> tuple[Member, tuple[Metrics, Metrics]]:
    """One epoch of a member and its validation.

    A member that is not active does not change. Its metrics are NaN.
    """
    hyper, state = member
    go = functools.partial(_train_and_validate, how, hyper, splits)

    def stay(state: MemberState) -> tuple[MemberState, Any]:
        like = jax.eval_shape(go, state)[1]
        return state, jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), like)

    state, metrics = jax.lax.cond(state.active, go, stay, state)
    return (hyper, state), metrics


def _finish(how: _How, member: Member, splits: Splits) -> tuple[Metrics, ...]:
    """Test metrics of the final and of the best parameters."""
    hyper, state = member
    trainer = how.trainer(hyper)
    chosen = state.train.params, state.best
    return tuple(trainer.evaluate(params, splits.test) for params in chosen)


def _train_and_validate(
    how: _How, hyper: Hyper, splits: Splits, state: MemberState
) -> tuple[MemberState, tuple[Metrics, Metrics]]:
    epoch = state.epoch + 1
    seed = hyper["seed"] if how.program.order == "member" else 0
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    trainer = how.trainer(hyper)
    phase = trainer.priming() if how.priming else trainer
    train, trained = phase.epoch(state.train, splits.train, key)
    held = trainer.evaluate(train.params, splits.valid)
    quality = held.quality.astype(state.best_quality.dtype)
    better = train.healthy & (quality > state.best_quality) & (not how.priming)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), train.params, state.best)
    best_epoch = jnp.where(better, epoch, state.best_epoch)
    # if the validation loss is not finite, the cause is in the data or the membranes; more training
    # would not help
    healthy = train.healthy & jnp.isfinite(held.loss)
    active = healthy
    patience, primed = how.program.patience, how.program.priming_epochs
    if patience is not None and not how.priming:
        active &= epoch - jnp.maximum(best_epoch, primed) < patience
    best_quality = jnp.where(better, quality, state.best_quality)
    train = train._replace(healthy=healthy)
    return MemberState(train, best, best_quality, best_epoch, epoch, active), (trained, held)


def _row(metrics: tuple[Metrics, Metrics], dt: float) -> dict[str, Any]:
    """Metrics of all members by their names in `fit`, numpy arrays (members,)."""
    trained, held = metrics
    return columns(trained, dt, "train_") | held.named("valid_")
