r"""Train many networks at once: any product of seeds and hyper-parameters that leave the shapes alone, as a leading axis.

A member is a dict of scalars, its hyper-parameters; an ensemble is the same dict of arrays (members,). What they mean is the `Program`'s business:
pure functions that draw a member's parameters and give its objective and its optimizer. Everything else is here, once for all programs: epochs,
validation, the best parameters so far, priming, early stopping, and the freezing of members whose numbers are no longer finite, while the rest go on.

A member's run depends on nothing but its own hyper-parameters: the order of its samples comes from its `seed` and the epoch's number (from the
epoch's number alone where members share an order), so the same member gives the same numbers, to rounding, alone, in any ensemble and on any devices;
and a run continued from the state after epoch k is the run that never stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snnjax import _check
from snnjax.datasets import BatchSource, Stream
from snnjax.training import placement as _placement
from snnjax.training._programs import program as compiled
from snnjax.training.placement import Placement
from snnjax.training.step import Metrics, Objective, TrainState, check_micro_batch, evaluate, init_state, micro_batch_size, train_epoch

Hyper = Mapping[str, Any]
Order = Literal["member", "shared"]


class Sources(NamedTuple):
    """Data on the device: what is trained on, validated on and tested on."""

    train: BatchSource
    valid: BatchSource
    test: BatchSource


class Program(NamedTuple):
    """What one member does. All three are traced, so they may not look at the values of `hyper` (a dict of scalars with at least an integer `seed`).

    Attributes:
      init: `(hyper, sources) -> parameters`, any pytree; an initialization from data may look at `sources.train`.
      objective: `(hyper, priming) -> Objective`. `priming` is a Python bool: whether this is the phase before supervised training.
      optimizer: `hyper -> optax.GradientTransformation`.
      look: `(hyper, parameters, sources) -> dict of scalars`, what else is to be known of a member before it is trained; None: nothing.
    """

    init: Callable[[Hyper, Sources], Any]
    objective: Callable[[Hyper, bool], Objective]
    optimizer: Callable[[Hyper], optax.GradientTransformation]
    look: Callable[[Hyper, Any, Sources], dict[str, jax.Array]] | None = None


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
    """What training leaves; numpy arrays, members first. Metrics are those of `fit`: accuracies where targets are classes.

    `history` maps each metric to (members, epochs + 1), those of priming included: column 0 is the untrained network, NaN where a member had stopped; it
    ends with the last epoch that any member trained. Names as in `fit`.
    `final` and `best` are pytrees of parameters. `test` maps "final" and "best" to metrics (members,). `finite` is False for members whose loss or
    gradient was no longer finite: their parameters are the last good ones. `epochs` is how many each trained. `initial`: what the program's `look` saw
    before training, (members,) each.
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
    """Where an ensemble is between two epochs: epochs done, the state of all members, the history so far, and what was seen before. Numpy arrays."""

    epoch: int
    state: MemberState
    history: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]


def fit_ensemble(
    program: Program,
    members: Mapping[str, Any],
    sources: Sources,
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
      program: see `Program`.   members: hyper-parameters, each an array (members,); `seed` is needed and an integer.
      sources: data on the device.   epochs: of supervised training, after `priming_epochs`; both counted in `history`.
      batch_size: at most the training set.   dt: time step, s, for rates in Hz.
      patience: stop a member after so many supervised epochs without a better validation accuracy
          (validation loss, where targets are no classes);
        None: never.
      order: of the training samples: each `"member"` its own, from its seed, or one `"shared"` by all, so that members see the same batches.
      micro_batch: as in `train_epoch`.   placement: see `snnjax.training.placement`.
      resume: given the state of an untrained ensemble (its structure, shapes and types), returns where to go on, or None.
      on_epoch: called after each epoch, and before the first, with a `Snapshot`; for checkpoints and progress.

    Returns:
      `EnsembleResult`.

    Raises:
      ValueError, TypeError: an option or the shape of a hyper-parameter is wrong.

    >>> from flax import nnx
    >>> from snnjax.datasets import DeviceEvents, randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> def build(hyper):
    ...     rngs, init = nnx.Rngs(jax.random.key(hyper["seed"])), FluctuationDriven(nu=5.0, sigma_u=hyper["sigma_u"])
    ...     return Sequential(SpikingDense(20, 16, init=init, rngs=rngs), Readout(16, 2, rngs=rngs))
    >>> def objective(hyper, priming):
    ...     graph, _, rest = nnx.split(build(hyper), nnx.Param, ...)
    ...     return Objective(lambda params, x: nnx.merge(graph, params, rest)(x))
    >>> program = Program(lambda hyper, sources: nnx.state(build(hyper), nnx.Param), objective, lambda hyper: optax.adam(1e-2))
    >>> data = DeviceEvents.put(randman(n_classes=2, n_samples=20), dt=2e-3)
    >>> members = {"seed": np.array([0, 1, 0]), "sigma_u": np.array([0.5, 0.5, 1.0])}
    >>> result = fit_ensemble(program, members, Sources(data, data, data), epochs=2, batch_size=20, dt=2e-3)
    >>> result.history["valid_accuracy"].shape, result.test["final"]["accuracy"].shape
    ((3, 3), (3,))
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        _check.integer(name, value, at_least=1)
    _check.integer("priming_epochs", priming_epochs, at_least=0)
    if patience is not None:
        _check.integer("patience", patience, at_least=1)
    _check.number("dt", dt, above=0, unit="s")
    for name, source in sources._asdict().items():
        _check.same_dt(name, source, dt)
    _check.one_of("order", order, get_args(Order))
    if isinstance(sources.train, Stream):
        raise TypeError("train must be on the device, for all members at once, got a Stream; hold the data there as DeviceEvents")
    if batch_size > len(sources.train):
        raise ValueError(f"batch_size must be at most the number of training samples {len(sources.train)}, got {batch_size}")
    check_micro_batch(micro_batch, batch_size)
    padded, n = _placement.pad(check_members(members), placement=placement)
    hypers, sources = _placement.put(padded, sources, placement=placement)

    how = _How(batch_size, micro_batch, order)
    options = {"program": program, "placement": _placement.resolve(placement)}
    snapshot = None
    if resume is not None:
        like = jax.eval_shape(functools.partial(_start, how=how, **options), hypers, sources)[0][1]
        # a snapshot holds the members alone, without those that fill up the devices: it may go on on other ones
        snapshot = resume(jax.tree.map(lambda s: jax.ShapeDtypeStruct((n, *s.shape[1:]), s.dtype), like))
    if snapshot is None:
        ensemble, metrics, seen = _start(hypers, sources, how=how, **options)
        done, history = 0, {name: value[:n, None] for name, value in _named(metrics, dt).items()}
        initial = {name: value[:n] for name, value in _placement.gather(seen).items()}
        _announce(on_epoch, 0, ensemble, history, initial)
    else:
        done, history, initial = snapshot.epoch, dict(snapshot.history), dict(snapshot.initial)
        ensemble = (hypers, _placement.put(_placement.pad(snapshot.state, placement=placement)[0], None, placement=placement)[0])
    for epoch in range(done + 1, priming_epochs + epochs + 1):
        if not bool(_placement.gather(ensemble[1].active).any()):
            break
        priming = epoch <= priming_epochs
        phase = how._replace(priming=True) if priming else how._replace(primed=priming_epochs, patience=patience)
        ensemble, metrics = _epoch(ensemble, sources, how=phase, **options)
        history = {name: np.concatenate([history[name], value[:n, None]], axis=1) for name, value in _named(metrics, dt).items()}
        _announce(on_epoch, epoch, ensemble, history, initial)
    tested = _placement.gather(_finish(ensemble, sources, how=how, **options))
    _, state = ensemble
    test = {
        which: {name.removeprefix("train_"): value[:n] for name, value in _named((m, None), dt).items() if name != "penalty"}
        for which, m in zip(("final", "best"), tested, strict=True)
    }
    cut = lambda tree: jax.tree.map(lambda a: a[:n], _placement.gather(tree))  # noqa: E731
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
        raise ValueError(f"seed must be >= 0 and < 2^31, got {arrays['seed'].min()} to {arrays['seed'].max()}")
    shapes = {name: a.shape for name, a in arrays.items()}
    if arrays["seed"].ndim != 1 or arrays["seed"].size == 0 or len(set(shapes.values())) > 1:
        raise ValueError(f"members must hold arrays (members,) of one length, at least 1, got {shapes}")
    return {name: a.astype(np.float32 if a.dtype.kind == "f" else np.int32) for name, a in sorted(arrays.items())}


class _How(NamedTuple):
    """The options of an epoch that are part of its program. `primed`: epochs of priming that came before."""

    batch_size: int
    micro_batch: int | None
    order: Order
    priming: bool = False
    primed: int = 0
    patience: int | None = None


# Ensembles of one program and size share their compilations.
def _start(hypers: Hyper, sources: Sources, *, program: Program, placement: Placement, how: _How) -> Any:
    """The state before training, its metrics, and what the program's `look` sees."""
    return compiled(_start_members, (program, placement, how), identity=True)(hypers, sources)


def _start_members(given: Any, hypers: Hyper, sources: Sources) -> Any:
    program, placement, how = given

    def start(hyper: Hyper, sources: Sources) -> Any:
        params = program.init(hyper, sources)
        objective = program.objective(hyper, False)
        state = init_state(params, program.optimizer(hyper))
        trained, held = (_evaluate(objective, params, source, sources.train, how) for source in (sources.train, sources.valid))
        zero = jnp.zeros((), jnp.int32)
        seen = {} if program.look is None else program.look(hyper, params, sources)
        member = MemberState(state, params, jnp.float32(-jnp.inf), zero, zero, jnp.asarray(True))
        return (hyper, member), (trained, held), seen

    return _placement.over_members(start, placement=placement)(hypers, sources)


def _epoch(ensemble: Any, sources: Sources, *, program: Program, placement: Placement, how: _How) -> Any:
    """One epoch of every member and its validation; a member that is not active is left as it is, its metrics NaN."""
    # the state is donated: an ensemble is held once
    given = (program, placement, how)
    return compiled(_epoch_of_members, given, donate=0, identity=True)(ensemble, sources)


def _epoch_of_members(given: Any, ensemble: Any, sources: Sources) -> Any:
    program, placement, how = given

    def run(member: tuple[Hyper, MemberState], sources: Sources) -> Any:
        hyper, state = member
        go = functools.partial(_train_and_validate, program, hyper, sources, how)

        def stay(state: MemberState) -> tuple[MemberState, Any]:
            return state, jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), jax.eval_shape(go, state)[1])

        state, metrics = jax.lax.cond(state.active, go, stay, state)
        return (hyper, state), metrics

    return _placement.over_members(run, placement=placement)(ensemble, sources)


def _finish(ensemble: Any, sources: Sources, *, program: Program, placement: Placement, how: _How) -> tuple[Metrics, Metrics]:
    """Test metrics of the final and of the best parameters."""
    return compiled(_finish_members, (program, placement, how), identity=True)(ensemble, sources)


def _finish_members(given: Any, ensemble: Any, sources: Sources) -> tuple[Metrics, Metrics]:
    program, placement, how = given

    def finish(member: tuple[Hyper, MemberState], sources: Sources) -> tuple[Metrics, ...]:
        hyper, state = member
        objective = program.objective(hyper, False)
        return tuple(_evaluate(objective, params, sources.test, sources.train, how) for params in (state.train.params, state.best))

    return _placement.over_members(finish, placement=placement)(ensemble, sources)


def _evaluate(objective: Objective, params: Any, source: BatchSource, train: BatchSource, how: _How) -> Metrics:
    size = how.micro_batch or micro_batch_size(objective, params, train, how.batch_size)
    return evaluate(objective, params, source, batch_size=size)


def _train_and_validate(
    program: Program, hyper: Hyper, sources: Sources, how: _How, state: MemberState
) -> tuple[MemberState, tuple[Metrics, Metrics]]:
    epoch = state.epoch + 1
    key = jax.random.fold_in(jax.random.key(hyper["seed"] if how.order == "member" else 0), epoch)
    objective, optimizer = program.objective(hyper, how.priming), program.optimizer(hyper)
    sizes = {"batch_size": how.batch_size, "micro_batch": how.micro_batch}
    train, trained = train_epoch(objective, optimizer, state.train, sources.train, key, **sizes)
    held = _evaluate(program.objective(hyper, False), train.params, sources.valid, sources.train, how)
    quality = held.quality.astype(state.best_quality.dtype)
    better = train.healthy & (quality > state.best_quality) & (not how.priming)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), train.params, state.best)
    best_epoch = jnp.where(better, epoch, state.best_epoch)
    # a validation loss that is not finite is the data's fault or the membranes'; going on would not mend it
    healthy = train.healthy & jnp.isfinite(held.loss)
    active = healthy if how.patience is None else healthy & (epoch - jnp.maximum(best_epoch, how.primed) < how.patience)
    best_quality = jnp.where(better, quality, state.best_quality)
    return MemberState(train._replace(healthy=healthy), best, best_quality, best_epoch, epoch, active), (trained, held)


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
        snapshot = Snapshot(epoch, jax.tree.map(lambda a: a[:n], _placement.gather(ensemble[1])), history, initial)
        for callback in on_epoch:
            callback(snapshot)
