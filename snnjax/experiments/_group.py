"""Training of several networks of a sweep together, as one ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from snnjax._costs import Costs, counted_costs
from snnjax._pytree import PyTree
from snnjax._sparse import as_dense
from snnjax.datasets import Splits
from snnjax.experiments._build import build_network, build_objective, build_optimizer
from snnjax.experiments._data import Data, at, calibrate_on, plain, spread, train_source
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._options import options_of
from snnjax.experiments._rows import Member, Row, member_of, row_of
from snnjax.experiments._run import COUNTED
from snnjax.experiments._sweep import Execution, Sweep
from snnjax.nn import Sequential
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import Hyper, Program, Snapshot, fit_ensemble
from snnjax.training._fit import FitResult
from snnjax.training._inputs import choose_form
from snnjax.training._objective import Objective
from snnjax.training._placement import resolve
from snnjax.training._programs import program as compiled

PROBED = 64
"""Number of training samples of the probe."""
_SEEN = ("sigma_u", "grad_z", "grad_w", "update", "gain", "agreement", "step")
"""Columns `initial_NAME_K`, of each layer before training: the standard deviation of the membrane,
and, from the loss without bounds, the magnitudes of gradients, the first update at the largest
learning rate, the backward gain, the agreement of both halves of the batch, and the update over the
weights (`snnjax.diagnostics`). `memory` would need a second forward pass, and `bounds` a second
probe."""


def traced_in(experiment: Experiment) -> list[str]:
    """Return the names of options that may differ between the members of an ensemble."""
    return [o.name for o in options_of(experiment) if o.name in o.part.traced]


def train_together(
    sweep: Sweep,
    experiment: Experiment,
    members: Sequence[Member],
    data: Data,
    *,
    checkpoints: Path,
    execution: Execution,
    watch: Sequence[Callable[[Snapshot], None]],
) -> list[tuple[FitResult, Row]]:
    """Train members as one ensemble, from its last checkpoint.

    Args:
        sweep: Their sweep.
        experiment: What they share.
        members: The members.
        data: Their data.
        checkpoints: Their folder.
        execution: How it is computed.
        watch: Functions that are called with the snapshot of each epoch.

    Returns:
        The result and the row of each member.
    """
    training = experiment.training
    program = program_of(experiment, data)._replace(patience=sweep.patience, order=sweep.order)
    placement, events = execution.placement, training.events
    if jax.process_count() > 1 and placement in ("auto", "shard"):
        placement = "local"
    if events is None and resolve(placement) == "vmap":
        # members in one batch have separate lists of events, each as long as the longest of all
        events = False
    # an abstract network is sufficient to choose the form of the input
    network = nnx.eval_shape(lambda: build_network(experiment, data.inputs))
    splits = data.splits._replace(train=train_source(experiment, data))
    splits = Splits(*(choose_form(network, source, events=events) for source in splits))
    saved = Checkpoints(checkpoints)
    last = training.epochs + training.priming_epochs

    def save(snapshot: Snapshot) -> None:
        # always save the last epoch, because the files of the members are not written yet
        due = snapshot.epoch % execution.checkpoint_every == 0 or snapshot.epoch == last
        if due or not snapshot.state.active.any():
            saved.save(snapshot)

    varied = [name for name in members[0] if name in {*traced_in(experiment), "seed"}]
    hypers = {name: np.array([m[name] for m in members]) for name in varied}
    result = fit_ensemble(
        program,
        hypers,
        splits,
        epochs=training.epochs,
        dt=experiment.neuron.dt,
        placement=placement,
        resume=saved.restore,
        on_epoch=[save, *watch],
    )
    test = plain(data.splits.test)
    x, labels = test.batch(spread(test, COUNTED))
    counted = compiled(_costs, program.network, identity=True)(hypers, result.final, x, labels)
    own: dict[str, np.ndarray] = {f"initial_{name}": a for name, a in result.initial.items()}
    own |= {name: np.asarray(a) for name, a in counted._asdict().items()}
    done = []
    for k, member in enumerate(members):
        more = {"nu": data.inputs.nu} | {name: float(a[k]) for name, a in own.items()}
        finite, fitted = bool(result.finite[k]), member_of(result, k)
        done.append((fitted, row_of(member, fitted, finite=finite, more=more)))
    return done


def _costs(
    network_of: Callable[[Hyper], Sequential], hypers: Hyper, params: PyTree, x: Any, labels: Any
) -> Costs:
    """Return the costs of an inference of every member, each (members,)."""

    def of_one(member: tuple[Hyper, PyTree]) -> Costs:
        network = network_of(member[0])
        nnx.update(network, member[1])
        return counted_costs(network, as_dense(x), labels)

    return jax.lax.map(of_one, (hypers, params))


def program_of(experiment: Experiment, data: Data) -> Program:
    """Return the program of a group: network, objective, optimizer, start and probe of a member.

    Args:
        experiment: The experiment. Seed and traced values are those of each member.
        data: The data.
    """

    def of(hyper: Hyper) -> Experiment:
        return at(experiment, {name: v for name, v in hyper.items() if name != "seed"})

    def network(hyper: Hyper) -> Sequential:
        # weights that are drawn here and not used cost nothing, because XLA removes unused values
        return build_network(of(hyper), data.inputs, seed=hyper["seed"])

    def start(hyper: Hyper, network: Sequential, splits: Splits) -> Sequential:
        # a target that cannot be reached leaves the drawn weights unchanged
        return calibrate_on(network, plain(splits.train), of(hyper), seed=hyper["seed"])[0]

    def objective(hyper: Hyper) -> Objective:
        duration = data.splits.train.steps * experiment.neuron.dt
        return build_objective(of(hyper), duration=duration)

    def optimizer(hyper: Hyper) -> optax.GradientTransformation:
        return build_optimizer(of(hyper), samples=len(data.splits.train))

    def look(hyper: Hyper, network: Sequential, splits: Splits) -> dict[str, jax.Array]:
        from snnjax.diagnostics import probe

        source = plain(splits.train)
        x, labels = source.batch(spread(source, PROBED))
        # Only the loss, without bounds: the gradient of a bound in a silent or overactive layer
        # would hide that of the loss.
        loss = Objective(objective(hyper).loss)
        # The largest learning rate, without schedule: the first step of a warmup is always small.
        largest = build_optimizer(of(hyper))
        layers = probe(network, x, labels, loss, optimizer=largest).layers
        numbered = list(enumerate(layers, start=1))
        return {f"{name}_{k}": getattr(p, name) for name in _SEEN for k, p in numbered}

    training = experiment.training
    program = Program(network, objective, optimizer, training.batch_size, look=look)
    return program._replace(
        start=start if experiment.start.from_data else None,
        priming_epochs=training.priming_epochs,
    )
