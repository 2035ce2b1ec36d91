r"""Train many networks at once: any product of seeds and hyper-parameters that keep the shapes.

A member is a dict of scalars, its hyper-parameters. An ensemble is the same dict of arrays
(members,). A `Program` says what they mean: pure functions that build a member's network, objective
and optimizer. The rest is here, for all programs: epochs, validation, the best parameters so far,
priming, early stopping, and the freezing of members whose numbers are no longer finite, while the
others continue.

A member's run depends on its own hyper-parameters alone: the order of its samples comes from its
`seed` and the epoch's number (from the epoch's number alone if members share an order). So the same
member gives the same numbers, to rounding, alone, in any ensemble and on any devices. A run that is
continued from the state after epoch k equals the run that never stopped.
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
from snnjax.datasets import Splits
from snnjax.training import placement as _placement
from snnjax.training._programs import program as compiled
from snnjax.training.objective import Metrics, Objective
from snnjax.training.placement import Placement
from snnjax.training.step import TrainState, check_micro_batch
from snnjax.training.trainer import Trainer

Hyper = Mapping[str, Any]
Order = Literal["member", "shared"]


class Program(NamedTuple):
    """What one member does.

    The functions are traced, so they may not look at the values of `hyper`, a dict of scalars with
    at least an integer `seed`.

    Attributes:
        network: `hyper -> nnx.Module`.
        objective: `hyper -> Objective`.
        optimizer: `hyper -> optax.GradientTransformation`.
        start: `(hyper, network, splits) -> network`, an initialization from data; None: the network
            starts as it is built.
        look: `(hyper, network, splits) -> dict of scalars`, what else is to be known of a member
            before it is trained; None: nothing.
    """

    network: Callable[[Hyper], nnx.Module]
    objective: Callable[[Hyper], Objective]
    optimizer: Callable[[Hyper], optax.GradientTransformation]
    start: Callable[[Hyper, Any, Splits], Any] | None = None
    look: Callable[[Hyper, Any, Splits], dict[str, jax.Array]] | None = None


class MemberState(NamedTuple):
    """All that a member's training carries. In an ensemble every leaf has the leading axis.

    Attributes:
        train: State of training.
        best: Parameters of the epoch `best_epoch`.
        best_quality: The highest validation accuracy so far, or where targets are no classes minus
            the lowest validation loss.
        best_epoch: The earliest epoch with it.
        epoch: Epochs done.
        active: False once the member has stopped early or is not finite.
    """

    train: TrainState
    best: Any
    best_quality: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array
    active: jax.Array


class EnsembleResult(NamedTuple):
    """What training leaves; numpy arrays, members first. Metrics are those of `fit`.

    Attributes:
        history: Each metric by its name in `fit`, (members, epochs + 1), those of priming included.
            Column 0 is the untrained network. NaN where a member had stopped. It ends with the last
            epoch that any member trained.
        final: Parameters after the last epoch, or the last good ones; a pytree.
        best: Parameters after the best epoch, a pytree.
        best_epoch: The best epoch of each member, (members,).
        epochs: Epochs that each member trained, (members,).
        finite: False for members whose loss or gradient was no longer finite, (members,).
        test: Test metrics (members,) of "final" and of "best" parameters.
        initial: What the program's `look` saw before training, (members,) each.
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
    """Where an ensemble is between two epochs; numpy arrays.

    Attributes:
        epoch: Epochs done.
        state: The state of all members.
        history: The history so far.
        initial: What the program's `look` saw before training.
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
    batch_size: int,
    dt: float,
    priming_epochs: int = 0,
    patience: int | None = None,
    order: Order = "member",
    micro_batch: int | None = None,
    placement: Placement = "auto",
    resume: Callable[[Any], Snapshot | None] | None = None,
    on_epoch: Sequence[Callable[[Snapshot], None]] = (),
) -> EnsembleResult:
    """Initialize, train and evaluate every member.

    Args:
        program: What a member does.
        members: Hyper-parameters, each an array (members,). `seed` is needed and an integer.
        splits: Training, validation and test data on the device.
        epochs: Epochs of supervised training, after `priming_epochs`; both count in `history`.
        batch_size: At most the training set.
        dt: Time step, s, for rates in Hz.
        priming_epochs: As in `fit`.
        patience: Stop a member after so many supervised epochs without a better validation accuracy
            (validation loss, where targets are no classes); None: never.
        order: Order of the training samples: each `"member"` has its own, from its seed; or all
            have one `"shared"` order, so that members see the same batches.
        micro_batch: As in `fit`.
        placement: See `snnjax.training.placement`.
        resume: Gets the state of an untrained ensemble (its structure, shapes and types) and returns
            where to continue, or None.
        on_epoch: Called after each epoch, and before the first, with a `Snapshot`; for checkpoints
            and progress.

    Returns:
        `EnsembleResult`.

    Raises:
        ValueError, TypeError: An option or the shape of a hyper-parameter is wrong.

    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> def network(hyper):
    ...     rngs = nnx.Rngs(jax.random.key(hyper["seed"]))
    ...     init = FluctuationDriven(nu=5.0, sigma_u=hyper["sigma_u"])
    ...     return Sequential(SpikingDense(20, 16, init=init, rngs=rngs), Readout(16, 2, rngs=rngs))
    >>> program = Program(network, lambda hyper: Objective(), lambda hyper: optax.adam(1e-2))
    >>> data = DeviceEvents.put(randman(n_classes=2, n_samples=20), dt=2e-3)
    >>> members = {"seed": np.array([0, 1, 0]), "sigma_u": np.array([0.5, 0.5, 1.0])}
    >>> options = dict(epochs=2, batch_size=20, dt=2e-3)
    >>> result = fit_ensemble(program, members, Splits(data, data, data), **options)
    >>> result.history["valid_accuracy"].shape, result.test["final"]["accuracy"].shape
    ((3, 3), (3,))
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        _check.integer(name, value, at_least=1)
    _check.integer("priming_epochs", priming_epochs, at_least=0)
    if patience is not None:
        _check.integer("patience", patience, at_least=1)
    _check.number("dt", dt, above=0, unit="s")
    _check.one_of("order", order, get_args(Order))
    for name, source in splits._asdict().items():
        if not callable(getattr(source, "batch", None)):
            hint = "hold the data there as DeviceEvents or DeviceArrays"
            kind = type(source).__name__
            raise TypeError(f"{name} must be on the device, for all members, got {kind}; {hint}")
        _check.same_dt(name, source, dt)
    if batch_size > len(splits.train):
        most = f"at most the number of training samples {len(splits.train)}"
        raise ValueError(f"batch_size must be {most}, got {batch_size}")
    check_micro_batch(micro_batch, batch_size)
    padded, n = _placement.pad(check_members(members), placement=placement)
    hypers, splits = _placement.put(padded, splits, placement=placement)

    how = _How(batch_size, micro_batch, order)
    options = {"program": program, "placement": _placement.resolve(placement)}
    snapshot = None
    if resume is not None:
        like = jax.eval_shape(functools.partial(_start, how=how, **options), hypers, splits)[0][1]
        # a snapshot holds the members alone, without those that fill up the devices: it may go on on other ones
        snapshot = resume(
            jax.tree.map(lambda s: jax.ShapeDtypeStruct((n, *s.shape[1:]), s.dtype), like)
        )
    if snapshot is None:
        ensemble, metrics, seen = _start(hypers, splits, how=how, **options)
        done, history = 0, {name: value[:n, None] for name, value in _named(metrics, dt).items()}
        initial = {name: value[:n] for name, value in _placement.gather(seen).items()}
        _announce(on_epoch, 0, ensemble, history, initial)
    else:
        done, history, initial = snapshot.epoch, dict(snapshot.history), dict(snapshot.initial)
        ensemble = (
            hypers,
            _placement.put(
                _placement.pad(snapshot.state, placement=placement)[0], None, placement=placement
            )[0],
        )
    for epoch in range(done + 1, priming_epochs + epochs + 1):
        if not bool(_placement.gather(ensemble[1].active).any()):
            break
        priming = epoch <= priming_epochs
        phase = (
            how._replace(priming=True)
            if priming
            else how._replace(primed=priming_epochs, patience=patience)
        )
        ensemble, metrics = _epoch(ensemble, splits, how=phase, **options)
        history = {
            name: np.concatenate([history[name], value[:n, None]], axis=1)
            for name, value in _named(metrics, dt).items()
        }
        _announce(on_epoch, epoch, ensemble, history, initial)
    tested = _placement.gather(_finish(ensemble, splits, how=how, **options))
    _, state = ensemble
    test = {
        which: {
            name.removeprefix("train_"): value[:n]
            for name, value in _named((m, None), dt).items()
            if name != "penalty"
        }
        for which, m in zip(("final", "best"), tested, strict=True)
    }
    cut = lambda tree: jax.tree.map(lambda a: a[:n], _placement.gather(tree))
    return EnsembleResult(
        history=history,
        final=cut(state.train.params), best=cut(state.best), best_epoch=cut(state.best_epoch), epochs=cut(state.epoch),
        finite=cut(state.train.healthy), test=test, initial=initial,
    )  # fmt: skip


def check_members(members: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Hyper-parameters as numpy arrays (members,), floats in float32 and seeds in int32.

    Raises:
      ValueError: no seed, lengths that differ, no member.   TypeError: a seed that is not an integer.
    """
    if "seed" not in members:
        raise ValueError(f"members must hold a seed for each member, got {sorted(members)}")
    arrays = {name: np.asarray(value) for name, value in members.items()}
    for name, a in arrays.items():
        if a.size and a.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be numbers, got {a.dtype}")
    if arrays["seed"].size and arrays["seed"].dtype.kind not in "iu":
        raise TypeError(f"seed must be integers, got {arrays['seed'].dtype}")
    if arrays["seed"].size and (arrays["seed"].min() < 0 or arrays["seed"].max() >= 2**31):
        raise ValueError(
            f"seed must be >= 0 and < 2^31, got {arrays['seed'].min()} to {arrays['seed'].max()}"
        )
    shapes = {name: a.shape for name, a in arrays.items()}
    if arrays["seed"].ndim != 1 or arrays["seed"].size == 0 or len(set(shapes.values())) > 1:
        raise ValueError(
            f"members must hold arrays (members,) of one length, at least 1, got {shapes}"
        )
    return {
        name: a.astype(np.float32 if a.dtype.kind == "f" else np.int32)
        for name, a in sorted(arrays.items())
    }


class _How(NamedTuple):
    """The options of an epoch that are part of its program. `primed`: epochs of priming before."""

    batch_size: int
    micro_batch: int | None
    order: Order
    priming: bool = False
    primed: int = 0
    patience: int | None = None

    def trainer(self, program: Program, hyper: Hyper, network: nnx.Module | None = None) -> Trainer:
        """A member's trainer, on one device."""
        network = program.network(hyper) if network is None else network
        made = network, program.objective(hyper), program.optimizer(hyper)
        sizes = {"batch_size": self.batch_size, "micro_batch": self.micro_batch, "devices": 1}
        return Trainer(*made, **sizes)


# Ensembles of one program and size share their compilations.
def _start(
    hypers: Hyper, splits: Splits, *, program: Program, placement: Placement, how: _How
) -> Any:
    """The state before training, its metrics, and what the program's `look` sees."""
    return compiled(_start_members, (program, placement, how), identity=True)(hypers, splits)


def _start_members(given: Any, hypers: Hyper, splits: Splits) -> Any:
    program, placement, how = given

    def start(hyper: Hyper, splits: Splits) -> Any:
        network = program.network(hyper)
        if program.start is not None:
            network = program.start(hyper, network, splits)
        trainer = how.trainer(program, hyper, network)
        state = trainer.init()
        trained, held = (trainer.evaluate(state.params, source) for source in splits[:2])
        zero = jnp.zeros((), jnp.int32)
        seen = {} if program.look is None else program.look(hyper, network, splits)
        best = -jnp.float32(jnp.inf)
        member = MemberState(state, state.params, best, zero, zero, jnp.asarray(True))
        return (hyper, member), (trained, held), seen

    return _placement.over_members(start, placement=placement)(hypers, splits)


def _epoch(
    ensemble: Any, splits: Splits, *, program: Program, placement: Placement, how: _How
) -> Any:
    """One epoch of every member and its validation.

    A member that is not active is left as it is, its metrics NaN.
    """
    # the state is donated: an ensemble is held once
    given = (program, placement, how)
    return compiled(_epoch_of_members, given, donate=0, identity=True)(ensemble, splits)


def _epoch_of_members(given: Any, ensemble: Any, splits: Splits) -> Any:
    program, placement, how = given

    def run(member: tuple[Hyper, MemberState], splits: Splits) -> Any:
        hyper, state = member
        go = functools.partial(_train_and_validate, program, hyper, splits, how)

        def stay(state: MemberState) -> tuple[MemberState, Any]:
            like = jax.eval_shape(go, state)[1]
            return state, jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), like)

        state, metrics = jax.lax.cond(state.active, go, stay, state)
        return (hyper, state), metrics

    return _placement.over_members(run, placement=placement)(ensemble, splits)


def _finish(
    ensemble: Any, splits: Splits, *, program: Program, placement: Placement, how: _How
) -> tuple[Metrics, Metrics]:
    """Test metrics of the final and of the best parameters."""
    return compiled(_finish_members, (program, placement, how), identity=True)(ensemble, splits)


def _finish_members(given: Any, ensemble: Any, splits: Splits) -> tuple[Metrics, Metrics]:
    program, placement, how = given

    def finish(member: tuple[Hyper, MemberState], splits: Splits) -> tuple[Metrics, ...]:
        hyper, state = member
        trainer = how.trainer(program, hyper)
        chosen = state.train.params, state.best
        return tuple(trainer.evaluate(params, splits.test) for params in chosen)

    return _placement.over_members(finish, placement=placement)(ensemble, splits)


def _train_and_validate(
    program: Program, hyper: Hyper, splits: Splits, how: _How, state: MemberState
) -> tuple[MemberState, tuple[Metrics, Metrics]]:
    epoch = state.epoch + 1
    seed = hyper["seed"] if how.order == "member" else 0
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    trainer = how.trainer(program, hyper)
    phase = trainer.priming() if how.priming else trainer
    train, trained = phase.epoch(state.train, splits.train, key)
    held = trainer.evaluate(train.params, splits.valid)
    quality = held.quality.astype(state.best_quality.dtype)
    better = train.healthy & (quality > state.best_quality) & (not how.priming)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), train.params, state.best)
    best_epoch = jnp.where(better, epoch, state.best_epoch)
    # the cause of a validation loss that is not finite lies in the data or the membranes; more
    # training would not help
    healthy = train.healthy & jnp.isfinite(held.loss)
    active = healthy
    if how.patience is not None:
        active &= epoch - jnp.maximum(best_epoch, how.primed) < how.patience
    best_quality = jnp.where(better, quality, state.best_quality)
    train = train._replace(healthy=healthy)
    return MemberState(train, best, best_quality, best_epoch, epoch, active), (trained, held)


def _named(metrics: tuple[Metrics, Metrics | None], dt: float) -> dict[str, np.ndarray]:
    """Metrics of all members by the names that `fit` gives them, rates in Hz; numpy arrays (members,)."""
    trained, held = _placement.gather(metrics)
    row = trained.named("train_") | {"penalty": trained.penalty}
    row |= {f"rate_{k}": r / dt for k, r in enumerate(np.moveaxis(trained.rates, -1, 0), start=1)}
    return row if held is None else row | held.named("valid_")


def _announce(
    on_epoch: Sequence[Callable[[Snapshot], None]],
    epoch: int,
    ensemble: tuple[Hyper, MemberState],
    history: dict[str, np.ndarray],
    initial: dict[str, np.ndarray],
) -> None:
    if on_epoch:
        n = len(next(iter(history.values())))
        snapshot = Snapshot(
            epoch, jax.tree.map(lambda a: a[:n], _placement.gather(ensemble[1])), history, initial
        )
        for callback in on_epoch:
            callback(snapshot)
