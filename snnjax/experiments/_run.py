"""Training of one network: data, network, training, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax._costs import costs
from snnjax.datasets import BatchSource, Splits
from snnjax.experiments import _parts as parts
from snnjax.experiments._build import LOSSES, build_network, build_objective, build_optimizer
from snnjax.experiments._data import (
    Data,
    at,
    calibrated,
    load,
    sensory_spikes,
    spread,
    train_source,
)
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._options import options_of
from snnjax.experiments._rows import Member, Row, row_of
from snnjax.experiments._sweep import Execution, load_sweep
from snnjax.experiments._sweep_folder import (
    member_folder,
    planned,
    write_csv,
    write_json,
    write_member,
    write_params,
)
from snnjax.nn import Activity, Dalian, Sequential
from snnjax.training._callbacks import Callback, FitState
from snnjax.training._callbacks import Row as EpochRow
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training._objective import Objective
from snnjax.training._params import load_params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(NamedTuple):
    """A finished run.

    Attributes:
        network: The trained network.
        fit: The result of `fit`.
        summary: The main results, with the names of the columns of a sweep's results.csv.
    """

    network: Sequential
    fit: FitResult
    summary: Row


class Prepared(NamedTuple):
    """Everything at the start of training.

    Attributes:
        experiment: The experiment.
        network: The initialized network.
        data: Data on the device.
    """

    experiment: Experiment
    network: Sequential
    data: Data

    def objective(self) -> Objective:
        """Return the loss and the bounds for trials of this length."""
        steps = self.data.splits.train.steps
        return build_objective(self.experiment, duration=steps * self.experiment.neuron.dt)

    def optimizer(self) -> optax.GradientTransformation:
        """Return the optimizer, with its schedule over the whole run."""
        return build_optimizer(self.experiment, samples=len(self.data.splits.train))


def prepare(experiment: Experiment, datasets: Splits | None = None) -> Prepared:
    """Load the data, build the network, and measure its weights where that is needed.

    Args:
        experiment: The experiment.
        datasets: Training, validation and test set. None: those of its task.

    Raises:
        ValueError: As in `load`, or a layer cannot reach its target on these data.
    """
    return initialized(experiment, load(experiment, datasets))


Parameters = Literal["final", "best", "initial"]


def load_run(
    folder: Path, *, parameters: Parameters = "final", datasets: Splits | None = None
) -> Prepared:
    """Return data and network of the run in `folder`.

    Args:
        folder: The run folder, or the folder of a member of a sweep, SWEEP/members/MEMBER.
        parameters: Parameters of the network: `"final"`, `"best"` on the validation set, or
            `"initial"`, before training.
        datasets: Training, validation and test set. None: those of the task.

    Raises:
        FileNotFoundError: A file of the run is missing. The message names it.
        ValueError: A file of the run is damaged, or the folder has several networks. The message
            names the file, or a folder with one network.
    """
    _check.one_of("parameters", parameters, get_args(Parameters))
    folder = Path(folder)
    member = folder.parent.name == "members" and not (folder / "config.json").exists()
    root = folder.parent.parent if member else folder
    sweep, members = load_sweep(root), planned(root)
    found = [member for member in members if member_folder(root, member) == folder]
    if not found:
        one = member_folder(root, members[0])
        raise ValueError(f"{folder} is not the folder of one network; name one, for example {one}")
    experiment = sweep.experiment(found[0])
    if parameters == "initial":
        return prepare(experiment, datasets)
    data = load(experiment, datasets)
    # nothing is measured: the file has all that a calibration sets
    network = build_network(experiment, data.inputs)
    like = nnx.state(network, nnx.Param)
    nnx.update(network, load_params(like, folder / f"{parameters}.npz"))
    return Prepared(experiment, network, data)


def initialized(experiment: Experiment, data: Data) -> Prepared:
    """Return `prepare` for data that are loaded."""
    network = build_network(experiment, data.inputs)
    weights = experiment.start.weights
    if experiment.start.from_data:
        on_target = isinstance(weights, parts.OnTarget)
        sigma_u = weights.sigma_u if on_target else 1.0
        base = at(experiment, {"seed": 0, "sigma_u": 1.0})
        network, failed = calibrated(network, data.sample, experiment.seed, sigma_u, base)
        if bool(failed.any()):
            goals = {o.name: o.value for o in options_of(weights) if o.name != "alpha"}
            target = ", ".join(f"{name} = {value}" for name, value in reversed(goals.items()))
            layer = int(failed.argmax()) + 1
            raise ValueError(
                f"{weights.name} cannot bring layer {layer} to {target} on these data; "
                "choose another target"
            )
    return Prepared(experiment, network, data)


COUNTED = 64
"""Number of test samples whose spikes and synaptic operations are counted after training."""


def run_alone(
    prepared: Prepared,
    member: Member,
    callbacks: Sequence[Callback | Callable[[EpochRow], Any]],
    *,
    place: Path | None = None,
    checkpoints: Path | None = None,
    execution: Execution | None = None,
    figures: bool = True,
) -> Run:
    """Train one network with `fit`, and write its files.

    Args:
        prepared: The experiment, its network and its data.
        member: Its values in a sweep.
        callbacks: As in `fit`.
        place: Folder for its files. None: write nothing.
        checkpoints: Folder of the checkpoints. Training continues from the last one. None: no
            checkpoints.
        execution: Says how often there is a checkpoint.
        figures: Whether figures are drawn, too.

    Raises:
        TrainingDivergedError: As in `fit`. The files have the results so far.
        TrainingInterrupted: As in `fit`. The files have the results so far.
    """
    begin, diverged = time.perf_counter(), None
    experiment, network, data = prepared
    training, every = experiment.training, (execution or Execution()).checkpoint_every
    keep: list[Callback] = []
    if checkpoints is not None:
        keep.append(Checkpoints(checkpoints, every=every))
    if place is not None:
        keep.append(_Metrics(place))
    try:
        result = fit(
            network,
            data.splits._replace(train=train_source(experiment, data)),
            prepared.objective(),
            prepared.optimizer(),
            epochs=training.epochs,
            priming_epochs=training.priming_epochs,
            batch_size=training.batch_size,
            key=jax.random.key(experiment.seed),
            dt=experiment.neuron.dt,
            events=training.events,
            callbacks=[*keep, *callbacks],  # an interrupt in a callback keeps its epoch
            progress=False,
            resume=checkpoints,
        )
    except TrainingDivergedError as error:
        result, diverged = error.result, error
    except TrainingInterrupted as error:
        if place is not None:
            write_params(place, error.result)
            epochs = len(error.result.history) - 1
            write_json(place / "results.json", {"stopped": str(error), "epochs": epochs})
        raise
    more: Row = {"nu": data.inputs.nu}
    if member:  # files of a sweep have no times, so that they are equal after an interruption
        untimed = [{n: v for n, v in row.items() if n != "seconds"} for row in result.history]
        result = result._replace(history=untimed)
    else:
        more["seconds"] = time.perf_counter() - begin
    test = data.splits.test
    more |= costs(network, *test.batch(spread(test, COUNTED)))._asdict()
    if diverged is not None:
        more["stopped"] = str(diverged)
    values = member | {"seed": experiment.seed}
    done = Run(network, result, row_of(values, result, finite=diverged is None, more=more))
    if place is not None:
        if figures and diverged is None:
            write_params(place, result)  # first, so that an error in a figure does not lose them
            _draw(place, prepared, result)
        write_member(place, result, done.summary)
    if diverged is not None:
        raise diverged
    return done


class _Metrics(Callback):
    """Writes metrics.csv during training."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.file, self.begun = place / "metrics.csv", False

    def epoch_end(self, row: EpochRow, state: FitState) -> None:
        if not self.begun:  # with the rows before the checkpoint from which training continues
            write_csv(state.history, self.file)
            self.begun = True
            return
        with self.file.open("a") as file:
            file.write(",".join(map(str, row.values())) + "\n")


def _draw(place: Path, prepared: Prepared, result: FitResult) -> None:
    from snnjax import plotting

    experiment, network, data = prepared
    curves = plotting.learning_curves(result.history, num_classes=data.inputs.num_classes)
    plotting.save(curves, place / "learning_curves.png")
    shown = activity_figure(experiment, network, data.splits.test, samples=4)
    plotting.save(shown, place / "activity.png")


def activity_figure(
    experiment: Experiment, network: Sequential, source: BatchSource, *, samples: int
) -> Figure:
    """Plot spikes of the input and of every layer, and readout traces.

    Args:
        experiment: The experiment of the network.
        network: The network.
        source: Source of the samples, which are evenly spread over it.
        samples: Number of samples.
    """
    from snnjax import plotting

    x, labels = source.batch(spread(source, samples))
    readout_fn = LOSSES[experiment.objective.loss].readout_fn

    @nnx.jit
    def run(network: Sequential, x: jax.Array) -> tuple[jax.Array, Activity, jax.Array]:
        readout, activity = network(x)
        return readout, activity, readout_fn(readout).argmax(axis=-1)

    readout, activity, predicted = run(network, x)
    trains = [np.asarray(s) for s in activity.spikes]
    return plotting.activity_snapshot(
        np.asarray(sensory_spikes(network, x)),
        trains,
        np.asarray(readout),
        labels,
        dt=experiment.neuron.dt,
        predicted=predicted,
        n_exc=[
            layer.n_exc if isinstance(layer, Dalian) else None
            for layer in network.layers
            if layer.spiking
        ],
    )
