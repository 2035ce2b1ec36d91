"""A single training run of an experiment: data, network, training, run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

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
from snnjax.experiments._load import as_json, differences, load_experiment
from snnjax.experiments._options import options_of
from snnjax.experiments._rows import Row, numbers_of, of_one, row_from
from snnjax.nn import Dalian, Sequential
from snnjax.training._callbacks import Callback, FitState, Plan
from snnjax.training._callbacks import Row as EpochRow
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training._objective import Objective
from snnjax.training._run_folder import RunFolder

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
    data = load(experiment, datasets)
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


def run(
    experiment: Experiment,
    folder: Path | None = None,
    *,
    resume: bool = False,
    datasets: Splits | None = None,
    callbacks: Sequence[Callback | Callable[[EpochRow], Any]] = (),
) -> Run:
    """Train the network of an experiment.

    Args:
        experiment: The experiment.
        folder: A new or empty folder for config.json, metrics.csv, results.json, parameters,
            checkpoints and figures. None: write nothing.
        resume: Continue the run in `folder` from its last checkpoint.
        datasets: Training, validation and test set: three `EventDataset`s or `ImageDataset`s, the
            first may be a `Stream`. None: those of the task. Pass them to load the data only once
            for many seeds.
        callbacks: As in `snnjax.training.fit`. There is no progress bar unless it is one of them.

    Returns:
        The trained network, the result of training, and a summary.

    Raises:
        FileExistsError: `folder` is not empty, and `resume` is False.
        ValueError: The data or an option cannot be used, or `folder` has another experiment.
        TrainingDivergedError: As in `fit`. The available results are written to the folder first.
        TrainingInterrupted: As in `fit`. The available results are written to the folder first.
    """
    if folder is not None:
        check_folder(folder, experiment, resume=resume)
    prepared = prepare(experiment, datasets)
    out = None if folder is None else _opened(folder, experiment)
    keep = [] if out is None else [_Rows(out)]
    checkpoints = None if out is None else out.path / CHECKPOINTS
    every = max(1, experiment.training.epochs // 20)
    begin = time.perf_counter()
    try:
        result = train_alone(prepared, [*keep, *callbacks], checkpoints=checkpoints, every=every)
    except (TrainingDivergedError, TrainingInterrupted) as error:
        if out is not None:
            out.write_params("final", error.result.final)
            out.write_params("best", error.result.best)
            epochs = len(error.result.history) - 1
            out.write_json("results", {"stopped": str(error), "epochs": epochs})
        raise
    summary = row_from(numbers_of({"seed": experiment.seed}, of_one(result), 0))
    summary |= {"seconds": time.perf_counter() - begin, "nu": prepared.data.inputs.nu}
    test = prepared.data.splits.test
    summary |= costs(prepared.network, *test.batch(spread(test, COUNTED)))._asdict()
    if out is not None:
        write_outputs(out, prepared, result, summary)
        shutil.rmtree(out.path / CHECKPOINTS)
    return Run(prepared.network, result, summary)


def train_alone(
    prepared: Prepared,
    callbacks: Sequence[Callback | Callable[[EpochRow], Any]],
    *,
    checkpoints: Path | None,
    every: int,
) -> FitResult:
    """Train one network with `fit`: that of a run, or a member of a sweep that trains alone.

    Args:
        prepared: The experiment, its network and its data.
        callbacks: As in `fit`.
        checkpoints: Folder of the checkpoints. Training continues from the last one. None: no
            checkpoints.
        every: Epochs between checkpoints.
    """
    experiment, splits = prepared.experiment, prepared.data.splits
    training = experiment.training
    keep = [] if checkpoints is None else [Checkpoints(checkpoints, every=every)]
    return fit(
        prepared.network,
        splits._replace(train=train_source(experiment, prepared.data)),
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


COUNTED = 64
"""Number of test samples whose spikes and synaptic operations are counted after training."""
CHECKPOINTS = "checkpoints"
"""Name of the folder with the state of an unfinished run."""


def check_folder(folder: Path, experiment: Experiment, *, resume: bool) -> None:
    """Check that a run folder is new, or belongs to the same experiment. Nothing is written.

    Raises:
        FileExistsError, NotADirectoryError: The folder is not empty, and `resume` is False.
        ValueError: There is nothing to resume, or the folder has another experiment.
    """
    if not resume:
        return RunFolder.check_new(folder)
    saved, own = load_experiment(folder).options(), experiment.options()
    if different := differences(saved, dict.fromkeys(saved) | own):
        raise ValueError(f"{folder} has a run with other options; these differ: {different}")
    if (folder / "results.json").exists() and not (folder / CHECKPOINTS).exists():
        raise ValueError(f"the run in {folder} is finished; name another folder for a new run")


class _Rows(Callback):
    """Writes metrics.csv, beginning with the rows before the checkpoint that a run resumes from."""

    def __init__(self, out: RunFolder) -> None:
        self.out = out

    def start(self, plan: Plan) -> None:
        for row in plan.history:
            self.out.append(row)

    def epoch_end(self, row: EpochRow, state: FitState) -> None:
        self.out.append(row)


def _opened(folder: Path, experiment: Experiment) -> RunFolder:
    """Return the run folder, with config.json and without metrics.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    out = RunFolder.existing(folder)
    out.write_json("config", as_json(experiment))
    (folder / "metrics.csv").unlink(missing_ok=True)
    return out


def write_outputs(folder: RunFolder, prepared: Prepared, result: FitResult, summary: Row) -> None:
    """Write the parameters, results.json and the two figures.

    Args:
        folder: The run folder.
        prepared: The run. Its network is trained.
        result: The result of `fit`.
        summary: Its row.
    """
    from snnjax import plotting

    folder.write_params("final", result.final)
    folder.write_params("best", result.best)
    folder.write_json("results", summary)
    plotting.save(plotting.learning_curves(result.history), folder.path / "learning_curves.png")
    experiment, network, data = prepared
    shown = activity_figure(experiment, network, data.splits.test, samples=4)
    plotting.save(shown, folder.path / "activity.png")


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
    readout, activity = nnx.jit(lambda n, x: n(x))(network, x)
    trains = [np.asarray(s) for s in activity.spikes]
    return plotting.activity_snapshot(
        np.asarray(sensory_spikes(network, x)),
        trains,
        np.asarray(readout),
        labels,
        dt=experiment.neuron.dt,
        predicted=LOSSES[experiment.objective.loss].readout_fn(readout).argmax(axis=-1),
        n_exc=[
            layer.n_exc if isinstance(layer, Dalian) else None
            for layer in network.layers
            if layer.spiking
        ],
    )
