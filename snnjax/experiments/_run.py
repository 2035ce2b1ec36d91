"""One training run from a configuration: data, network, training, run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import snnjax
from snnjax.datasets import (
    Augmented,
    DeviceEvents,
    DeviceImages,
    EventDataset,
    ImageDataset,
    SparseEvents,
    Splits,
    Stream,
)
from snnjax.dynamics import n_steps
from snnjax.experiments.build import (
    FROM_DATA,
    LOSSES,
    build_network,
    build_objective,
    build_optimizer,
    updates_of,
)
from snnjax.nn import Sensory, Sequential
from snnjax.training.callbacks import Callback, Row
from snnjax.training.fit import FitResult, TrainingDivergedError, TrainingInterrupted, fit
from snnjax.training.objective import Objective
from snnjax.training.run_folder import RunFolder, as_dict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run(NamedTuple):
    """A finished run: the trained network, what training left, and a summary of plain numbers."""

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
    """Train as `config` (a `RandmanConfig`, `SHDConfig`, ...) says.

    Args:
        config: The run.
        datasets: Data sets to use instead of `config.datasets()`, to load them once for many seeds:
            three `EventDataset`s or `ImageDataset`s. The first may be a `Stream`.
        folder: Where config.json, metrics.csv, results.json, parameters and figures go; nothing is
            written without it.
        callbacks: As in `snnjax.training.fit`. There is no progress bar unless it is one of them.

    Returns:
        The trained network, what training left, and a summary.

    Raises:
        ValueError: The data or a setting is unusable.
        TrainingDivergedError, TrainingInterrupted: As in `fit`; what was trained has then been
            written to the folder.
    """
    prepared = prepare(config, datasets)
    config, network, splits, _ = prepared
    if folder is not None:
        folder.write_json("config", as_dict(config) | {"snnjax": snnjax.__version__, "jax": jax.__version__})
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
            folder.write_json("results", {"stopped": str(error), "epochs": len(error.result.history) - 1})
        raise
    summary = summarize(result, seconds=time.perf_counter() - begin)
    if folder is not None:
        write_outputs(folder, config, network, result, summary, splits.test)
    return Run(network, result, summary)


class Prepared(NamedTuple):
    """All that training starts from.

    Attributes:
        config: The configuration, with what was measured filled in.
        network: The initialized network.
        splits: Data on the device.
        sample: What an initialization from data and the probe look at: the training data, or a part
            of them if they are a stream.
    """

    config: Any
    network: Sequential
    splits: Splits
    sample: Any

    def objective(self) -> Objective:
        """The configuration's loss and bounds, for trials of this length."""
        duration = self.splits.train.steps * self.config.dt
        return build_objective(self.config, duration=duration)

    def optimizer(self) -> optax.GradientTransformation:
        """The configuration's optimizer, its schedule over the whole run."""
        return build_optimizer(self.config, steps=updates_of(self.config, len(self.splits.train)))


class Data(NamedTuple):
    """A task's data on the device.

    Attributes:
        splits: Training, validation and test data.
        sample: The training data, or a part of them if they are a stream.
        needs: What a network for them needs, as `build_network` takes it.
    """

    splits: Splits
    sample: Any
    needs: dict[str, Any]


def load(config: Any, datasets: Splits | None = None) -> tuple[Any, Data]:
    """The configuration with what depends on the data filled in (nu, batch size), and the data.

    Raises:
      ValueError: a set is empty, or the training data hold no spike.
    """
    train, valid, test = config.datasets() if datasets is None else datasets
    for name, data in (("training", train), ("validation", valid), ("test", test)):
        if len(data) == 0:
            raise ValueError(f"the {name} set is empty; the splits hold {len(train)}, {len(valid)} and {len(test)} samples")
    put: Any = _put_images if isinstance(train, ImageDataset) else _put_stream if isinstance(train, Stream) else _put_events
    nu, data = put(config, train, valid, test)
    if nu == 0:
        raise ValueError("the training data hold no spike within a trial, so nu cannot be measured")
    return dataclasses.replace(config, nu=nu, batch_size=min(config.batch_size, len(train))), data


def _put_events(config: Any, train: EventDataset, valid: EventDataset, test: EventDataset) -> tuple[float, Data]:
    """Mean rate of the input units, Hz, or the configuration's own, and the data."""
    nu = float(train.rate().mean()) if config.nu is None else config.nu
    shown = DeviceEvents.put(train, dt=config.dt)
    return nu, _events_data(config, shown, shown, train, valid, test)


def _put_stream(config: Any, train: Stream, valid: EventDataset, test: EventDataset) -> tuple[float, Data]:
    """As `_put_events`; the rate is that of a first shard, before augmentation."""
    with contextlib.closing(dataclasses.replace(train, drop=0.0).shards(0)) as shards:
        first: Any = next(shards)  # `DeviceEvents`: no events were asked for
    nu = int(first.offsets[-1]) / (len(first) * train.steps * config.dt * first.n_units) if config.nu is None else config.nu
    return nu, _events_data(config, train, first, train.recordings, valid, test)


def _events_data(config: Any, train: Any, sample: DeviceEvents, sizes: Any, valid: EventDataset, test: EventDataset) -> Data:
    held = [DeviceEvents.put(data, dt=config.dt) for data in (valid, test)]
    needs = {"n_inputs": sizes.n_units, "n_classes": sizes.n_classes, "duration": valid.duration, "image": getattr(config, "sensor", None)}
    return Data(Splits(train, *held), sample, needs)


def _put_images(config: Any, train: ImageDataset, valid: ImageDataset, test: ImageDataset) -> tuple[float, Data]:
    """Mean rate of the sensory neurons, Hz, or the configuration's own, and the data."""
    steps = n_steps(config.duration, config.dt)
    shown = DeviceImages.put(train, steps=steps, flip=config.flip, shift=config.shift)
    held = [DeviceImages.put(data, steps=steps, like=shown) for data in (valid, test)]
    height, width, channels = train.images.shape[1:]
    needs = {"n_inputs": height * width * channels, "n_classes": train.n_classes, "duration": config.duration}
    needs |= {"image": (height, width, channels), "sensory": True}
    nu = config.nu
    if nu is None:
        # the sensory neurons alone are used; a start from data takes any rate, a formula may refuse
        network = build_network(dataclasses.replace(config, init="data_driven"), nu=1.0, **needs)
        x, _ = shown.batch(spread(shown, config.calibration_samples))
        nu = float(sensory_spikes(network, x).mean() / config.dt)
    return nu, Data(Splits(shown, *held), shown, needs)


def sensory_spikes(network: Sequential, x: jax.Array) -> jax.Array:
    """What reaches the first layer with weights: x, or the spikes of the network's sensory neurons."""
    kinds = [isinstance(layer, Sensory) for layer in network.layers]
    for layer in list(network.layers)[: kinds.index(True) + 1] if any(kinds) else ():
        x = layer(x).output
    return x


def prepare(config: Any, datasets: Splits | None = None) -> Prepared:
    """Load the data, build the network and draw its weights. Errors as of `load`."""
    config, data = load(config, datasets)
    network = build_network(config, nu=config.nu, **data.needs)
    if needs_data(config):
        base = dataclasses.replace(config, seed=0, sigma_u=1.0)
        network, failed = _calibrated(network, data.sample, config.seed, config.sigma_u, base)
        if bool(failed.any()):
            target = f"lsuv_rate = {config.lsuv_rate}" if config.init == "lsuv" else f"mu_u = {config.mu_u}, sigma_u = {config.sigma_u}"
            raise ValueError(f"{config.init} cannot put layer {int(failed.argmax()) + 1} at {target} on these data; choose another target")
    return Prepared(config, network, data.splits, data.sample)


def train_source(config: Any, train: Any) -> Any:
    """The training data, with the changes that `config` asks for; a stream makes its own."""
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


def plain(source: Any) -> Any:
    """The samples of a source as they are: without augmentation, and as arrays, not as lists."""
    while isinstance(source, Augmented):
        source = source.source
    return source.binned if isinstance(source, SparseEvents) else source


def spread(source: Any, n: int) -> jax.Array:
    """Indices of at most `n` samples, evenly spread over `source`: a set keeps its classes in order, and these differ."""
    return jnp.asarray(np.linspace(0, len(source) - 1, min(n, len(source))).astype(int))


def calibrate_on(network: Sequential, source: Any, config: Any, *, seed: Any = None) -> tuple[Sequential, jax.Array]:
    """The network put on target for samples of `source`, as many as `config` says, evenly spread over it; `seed` stands in for its own.

    Also, for each layer, whether it could not be put on target although its input spikes.
    """
    from snnjax.calibration import GradientTarget, calibrate, calibrate_gradient, scale_to_rate

    x, labels = source.batch(spread(source, config.calibration_samples))
    key = jax.random.key(config.seed if seed is None else seed)
    failed = jnp.zeros(config.depth, bool)
    if config.init == "lsuv":
        network, rates = scale_to_rate(network, x, key=key, rate=config.lsuv_rate)
        failed = jnp.asarray([~r.reached & (r.rate > 0) for r in rates])
    elif config.init in FROM_DATA:
        balance = config.init.endswith("balanced")
        network, reports = calibrate(
            network, x, key=key, sigma_u=config.sigma_u, mu_u=config.mu_u, alpha=config.alpha, balance=balance, gradient=None
        )
        failed = jnp.asarray([~r.calibrated & ~r.silent for r in reports])
    if config.gradient != "none":
        readout_fn = LOSSES[config.loss].readout_fn
        target = GradientTarget(adjust=config.gradient, logit_spread=config.logit_spread, logits=readout_fn)
        network, _ = calibrate_gradient(network, x, labels, target=target, key=key)
    return network, failed


def needs_data(config: Any) -> bool:
    """Whether the start that `config` asks for is measured on training data."""
    return config.init in FROM_DATA or config.gradient != "none"


@nnx.jit(static_argnames="base")
def _calibrated(network: Sequential, source: Any, seed: Any, sigma_u: Any, base: Any) -> tuple[Sequential, jax.Array]:
    """Compiled once for all seeds and targets."""
    return calibrate_on(network, source, dataclasses.replace(base, sigma_u=sigma_u), seed=seed)


def summarize(result: FitResult, *, seconds: float) -> dict[str, Any]:
    """The numbers a report needs: rates before and after, validation and test accuracy of the final and of the validation-selected network."""
    first, last = result.history[0], result.history[-1]
    rates = lambda row: [row[k] for k in row if k.startswith("rate_")]  # noqa: E731
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


def write_outputs(folder: RunFolder, config: Any, network: Sequential, result: FitResult, summary: dict[str, Any], sample: Any) -> None:
    """Parameters, results.json and the two figures."""
    from snnjax import plotting

    folder.write_params("final", result.final)
    folder.write_params("best", result.best)
    folder.write_json("results", summary)
    plotting.save(plotting.learning_curves(result.history), folder.path / "learning_curves.png")
    plotting.save(activity_figure(config, network, sample, samples=4), folder.path / "activity.png")


def activity_figure(config: Any, network: Sequential, source: Any, *, samples: int) -> Figure:
    """Rasters of the input and of every layer, and the readout traces.

    Args:
        config: The run that the network is of.
        network: Whose activity is drawn.
        source: Where the samples are from, evenly spread over it.
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
        n_exc=[getattr(layer, "n_exc", None) for layer in network.layers if layer.spiking],
    )
