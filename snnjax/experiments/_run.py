"""A single training run from a configuration: data, network, training, run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import snnjax
from snnjax import _time
from snnjax._check import Scalar
from snnjax._files import as_dict
from snnjax.datasets import (
    Augmented,
    BatchSource,
    DeviceEvents,
    DeviceImages,
    EventDataset,
    ImageDataset,
    Recordings,
    Splits,
    Stream,
)
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments.build import (
    FROM_DATA,
    LOSSES,
    build_network,
    build_objective,
    build_optimizer,
    updates_of,
)
from snnjax.experiments.config import TrainConfig
from snnjax.nn import Dalian, Sensory, Sequential
from snnjax.training._callbacks import Callback, Row
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
        summary: The main results as plain numbers.
    """

    network: Sequential
    fit: FitResult
    summary: dict[str, Any]


def run(
    config: Any,
    *,
    datasets: Splits | None = None,
    folder: RunFolder | None = None,
    callbacks: Sequence[Callback | Callable[[Row], Any]] = (),
) -> Run:
    """Train a network as configured.

    Args:
        config: The configuration, such as a `RandmanConfig`.
        datasets: Training, validation and test set: three `EventDataset`s or `ImageDataset`s, the
            first may be a `Stream`. None: load them with `config.datasets()`. Pass them to load the
            data only once for many seeds.
        folder: Folder for config.json, metrics.csv, results.json, parameters and figures. None:
            write nothing.
        callbacks: As in `snnjax.training.fit`. There is no progress bar unless it is one of them.

    Returns:
        The trained network, the result of training, and a summary.

    Raises:
        ValueError: The data or a setting cannot be used.
        TrainingDivergedError: As in `fit`. The available results are written to the folder first.
        TrainingInterrupted: As in `fit`. The available results are written to the folder first.
    """
    prepared = prepare(config, datasets)
    config, network, splits, _ = prepared
    if folder is not None:
        folder.write_json(
            "config", as_dict(config) | {"snnjax": snnjax.__version__, "jax": jax.__version__}
        )
    begin = time.perf_counter()
    try:
        result = fit(
            network,
            splits._replace(train=train_source(config, splits.train)),
            prepared.objective(),
            prepared.optimizer(),
            epochs=config.epochs,
            priming_epochs=config.priming_epochs,
            batch_size=config.batch_size,
            key=jax.random.key(config.seed),
            dt=config.dt,
            events=config.events,
            callbacks=[*([folder.append] if folder else []), *callbacks],
            progress=False,
        )
    except (TrainingDivergedError, TrainingInterrupted) as error:
        if folder is not None:
            folder.write_params("final", error.result.final)
            folder.write_params("best", error.result.best)
            folder.write_json(
                "results", {"stopped": str(error), "epochs": len(error.result.history) - 1}
            )
        raise
    summary = summarize(result, seconds=time.perf_counter() - begin)
    if folder is not None:
        write_outputs(folder, config, network, result, summary, splits.test)
    return Run(network, result, summary)


class Prepared(NamedTuple):
    """Everything at the start of training.

    Attributes:
        config: The configuration, completed with measured values.
        network: The initialized network.
        splits: Data on the device.
        sample: Data for an initialization from data and for the probe: the training data, or the
            first shard of a stream.
    """

    config: Any
    network: Sequential
    splits: Splits
    sample: BatchSource

    def objective(self) -> Objective:
        """Return the loss and the bounds of the configuration for trials of this length."""
        duration = self.splits.train.steps * self.config.dt
        return build_objective(self.config, duration=duration)

    def optimizer(self) -> optax.GradientTransformation:
        """Return the optimizer of the configuration, its schedule over the whole run."""
        return build_optimizer(self.config, steps=updates_of(self.config, len(self.splits.train)))


class Data(NamedTuple):
    """Data of a task on the device.

    Attributes:
        splits: Training, validation and test data.
        sample: The training data, or a part of them if they are a stream.
        needs: What a network for them needs, as `build_network` takes it.
    """

    splits: Splits
    sample: BatchSource
    needs: dict[str, Any]


def load(config: Any, datasets: Splits | None = None) -> tuple[Any, Data]:
    """Load the data and complete the configuration.

    Args:
        config: The configuration.
        datasets: Training, validation and test set. None: `config.datasets()`.

    Returns:
        The configuration with `nu` and the batch size from the data, and the data.

    Raises:
        ValueError: A set is empty, or the training data have no spikes.
    """
    train, valid, test = config.datasets() if datasets is None else datasets
    for name, data in (("training", train), ("validation", valid), ("test", test)):
        if len(data) == 0:
            sizes = f"{len(train)}, {len(valid)} and {len(test)}"
            raise ValueError(
                f"the {name} set must have samples, got {sizes} in the three sets; "
                "choose other fractions"
            )
    put: Any = (
        _put_images
        if isinstance(train, ImageDataset)
        else _put_stream
        if isinstance(train, Stream)
        else _put_events
    )
    nu, data = put(config, train, valid, test)
    if nu == 0:
        raise ValueError(
            "the training data must have spikes within a trial to measure nu, got none"
        )
    return dataclasses.replace(config, nu=nu, batch_size=min(config.batch_size, len(train))), data


def _put_events(
    config: TrainConfig, train: EventDataset, valid: EventDataset, test: EventDataset
) -> tuple[float, Data]:
    """Return the mean input rate, Hz, or the configured rate, and the data."""
    nu = float(train.rate().mean()) if config.nu is None else config.nu
    shown = DeviceEvents.from_dataset(train, dt=config.dt)
    return nu, _events_data(config, shown, shown, train, valid, test)


def _put_stream(
    config: TrainConfig, train: Stream, valid: EventDataset, test: EventDataset
) -> tuple[float, Data]:
    """Return the same as `_put_events`, with the rate of the first shard before augmentation."""
    with contextlib.closing(dataclasses.replace(train, drop=0.0).shards(0)) as shards:
        first: Any = next(shards)  # `DeviceEvents`, because `events` is False
    nu = (
        int(first.offsets[-1]) / (len(first) * train.steps * config.dt * first.num_units)
        if config.nu is None
        else config.nu
    )
    return nu, _events_data(config, train, first, train.recordings, valid, test)


def _events_data(
    config: Any,
    train: DeviceEvents | Stream,
    sample: DeviceEvents,
    sizes: EventDataset | Recordings,
    valid: EventDataset,
    test: EventDataset,
) -> Data:
    held = [DeviceEvents.from_dataset(data, dt=config.dt) for data in (valid, test)]
    needs = {
        "in_features": sizes.num_units,
        "num_classes": sizes.num_classes,
        "duration": valid.duration,
        "image": config.sensor,
    }
    return Data(Splits(train, *held), sample, needs)


def _put_images(
    config: Any, train: ImageDataset, valid: ImageDataset, test: ImageDataset
) -> tuple[float, Data]:
    """Return the mean rate of the sensory neurons, Hz, or the configured rate, and the data."""
    steps = _time.num_steps(config.duration, config.dt)
    shown = DeviceImages.from_dataset(train, num_steps=steps, flip=config.flip, shift=config.shift)
    held = [DeviceImages.from_dataset(data, num_steps=steps, like=shown) for data in (valid, test)]
    height, width, channels = train.images.shape[1:]
    needs = {
        "in_features": height * width * channels,
        "num_classes": train.num_classes,
        "duration": config.duration,
    }
    needs |= {"image": (height, width, channels), "sensory": True}
    nu = config.nu
    if nu is None:
        # Only the sensory neurons are used. An initialization from data accepts any rate, but a
        # formula may refuse it.
        network = build_network(dataclasses.replace(config, init="data_driven"), nu=1.0, **needs)
        x, _ = shown.batch(spread(shown, config.calibration_samples))
        nu = float(sensory_spikes(network, x).mean() / config.dt)
    return nu, Data(Splits(shown, *held), shown, needs)


def sensory_spikes(network: Sequential, x: jax.Array) -> jax.Array:
    """Return the input of the first layer with weights: x, or the spikes of the sensory neurons."""
    kinds = [isinstance(layer, Sensory) for layer in network.layers]
    for layer in list(network.layers)[: kinds.index(True) + 1] if any(kinds) else ():
        x = layer(x).output
    return x


def prepare(config: Any, datasets: Splits | None = None) -> Prepared:
    """Load the data, build the network and draw its weights.

    Args:
        config: The configuration.
        datasets: Training, validation and test set. None: `config.datasets()`.

    Raises:
        ValueError: As in `load`, or a layer cannot reach its target on these data.
    """
    config, data = load(config, datasets)
    network = build_network(config, nu=config.nu, **data.needs)
    if needs_data(config):
        base = dataclasses.replace(config, seed=0, sigma_u=1.0)
        network, failed = _calibrated(network, data.sample, config.seed, config.sigma_u, base)
        if bool(failed.any()):
            target = (
                f"lsuv_rate = {config.lsuv_rate}"
                if config.init == "lsuv"
                else f"mu_u = {config.mu_u}, sigma_u = {config.sigma_u}"
            )
            layer = int(failed.argmax()) + 1
            raise ValueError(
                f"{config.init} cannot bring layer {layer} to {target} on these data; "
                "choose another target"
            )
    return Prepared(config, network, data.splits, data.sample)


def train_source(config: TrainConfig, train: Any) -> BatchSource | Stream:
    """Return the training data with the configured augmentation. A `Stream` has its own."""
    if isinstance(train, Stream):
        return train
    changes = {
        "unit_shift": config.augment_shift,
        "time_stretch": config.augment_stretch,
        "drop": config.augment_drop,
        "time_jitter": config.augment_time_jitter / config.dt,
        "unit_jitter": config.augment_unit_jitter,
        "insert": config.augment_insert,
    }
    return Augmented(source=train, **changes) if any(changes.values()) else train


def plain(source: BatchSource) -> BatchSource:
    """Return a source without augmentation, with batches as arrays."""
    while isinstance(source, Augmented):
        source = source.source
    return source.binned if isinstance(source, SparseEvents) else source


def spread(source: Sized, n: int) -> jax.Array:
    """Return indices of at most `n` samples, evenly spread over `source`.

    Many data sets are ordered by class, so that the first samples would be of one class.
    """
    return jnp.asarray(np.linspace(0, len(source) - 1, min(n, len(source))).astype(int))


def calibrate_on(
    network: Sequential, source: BatchSource, config: Any, *, seed: Scalar | None = None
) -> tuple[Sequential, jax.Array]:
    """Calibrate a network on samples that are evenly spread over `source`.

    Args:
        network: The network.
        source: Source of the samples.
        config: The configuration.
        seed: Seed of the calibration. None: `config.seed`.

    Returns:
        The calibrated network, and for each layer whether it failed to reach its target although
        its input has spikes.
    """
    from snnjax.calibration import (
        GradientTarget,
        Target,
        calibrate,
        calibrate_gradient,
        scale_to_rate,
    )

    x, labels = source.batch(spread(source, config.calibration_samples))
    key = jax.random.key(config.seed if seed is None else seed)
    failed = jnp.zeros(config.depth, bool)
    if config.init == "lsuv":
        network, rates = scale_to_rate(network, x, key=key, rate=config.lsuv_rate)
        failed = jnp.asarray([~r.reached & (r.rate > 0) for r in rates])
    elif config.init in FROM_DATA:
        balance = config.init.endswith("balanced")
        membranes = Target(config.sigma_u, config.mu_u, config.alpha, balance=balance)
        network, reports = calibrate(network, x, key=key, target=membranes, gradient=None)
        failed = jnp.asarray([~r.calibrated & ~r.silent for r in reports])
    if config.gradient != "none":
        readout_fn = LOSSES[config.loss].readout_fn
        target = GradientTarget(
            adjust=config.gradient, logit_spread=config.logit_spread, readout_fn=readout_fn
        )
        network, _ = calibrate_gradient(network, x, labels, target=target, key=key)
    return network, failed


def needs_data(config: TrainConfig) -> bool:
    """Return whether the initialization that `config` names is measured on training data."""
    return config.init in FROM_DATA or config.gradient != "none"


@nnx.jit(static_argnames="base")
def _calibrated(
    network: Sequential, source: BatchSource, seed: Scalar, sigma_u: Scalar, base: TrainConfig
) -> tuple[Sequential, jax.Array]:
    """Calibrate a network. This compiles once for all seeds and targets."""
    return calibrate_on(network, source, dataclasses.replace(base, sigma_u=sigma_u), seed=seed)


def summarize(result: FitResult, *, seconds: float) -> dict[str, Any]:
    """Return the numbers of a report.

    These are rates before and after training, and the validation and test accuracy of the final
    network and of the network selected on the validation set.

    Args:
        result: The result of `fit`.
        seconds: Duration of the run, s.
    """
    first, last = result.history[0], result.history[-1]
    rates = lambda row: [row[k] for k in row if k.startswith("rate_")]
    return {
        "initial_rates_hz": rates(first),
        "final_rates_hz": rates(result.test["final"]) if result.test else rates(last),
        "train_accuracy": last["train_accuracy"],
        "valid_accuracy": last["valid_accuracy"],
        "best_epoch": result.best_epoch,
        "best_valid_accuracy": result.history[result.best_epoch]["valid_accuracy"],
        "test_accuracy": result.test["final"]["accuracy"],
        "test_accuracy_best": result.test["best"]["accuracy"],
        "epochs": len(result.history) - 1,
        "seconds": seconds,
    }


def write_outputs(
    folder: RunFolder,
    config: Any,
    network: Sequential,
    result: FitResult,
    summary: dict[str, Any],
    sample: BatchSource,
) -> None:
    """Write the parameters, results.json and the two figures.

    Args:
        folder: The run folder.
        config: The configuration.
        network: The trained network.
        result: The result of `fit`.
        summary: The summary, from `summarize`.
        sample: Source of the samples in the figure of the activity.
    """
    from snnjax import plotting

    folder.write_params("final", result.final)
    folder.write_params("best", result.best)
    folder.write_json("results", summary)
    plotting.save(plotting.learning_curves(result.history), folder.path / "learning_curves.png")
    plotting.save(activity_figure(config, network, sample, samples=4), folder.path / "activity.png")


def activity_figure(
    config: TrainConfig, network: Sequential, source: BatchSource, *, samples: int
) -> Figure:
    """Plot spikes of the input and of every layer, and readout traces.

    Args:
        config: The configuration of the network.
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
        dt=config.dt,
        predicted=LOSSES[config.loss].readout_fn(readout).argmax(axis=-1),
        n_exc=[
            layer.n_exc if isinstance(layer, Dalian) else None
            for layer in network.layers
            if layer.spiking
        ],
    )
