"""The data of an experiment on the device, and what is measured on them before training."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snnjax import _time
from snnjax._check import Scalar
from snnjax._timed import untimed
from snnjax.calibration import (
    GradientTarget,
    Target,
    calibrate,
    calibrate_gradient,
    scale_to_rate,
)
from snnjax.datasets import (
    Augmented,
    BatchSource,
    DeviceEvents,
    DeviceImages,
    EventDataset,
    ImageDataset,
    Mixed,
    Splits,
    Stream,
)
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments import _parts as parts
from snnjax.experiments._build import LOSSES, Inputs, build_network
from snnjax.experiments._experiment import Experiment
from snnjax.experiments._options import options_of, replaced
from snnjax.experiments._tasks import EventTask
from snnjax.nn import Sensory, Sequential


class Data(NamedTuple):
    """Data of a task on the device.

    Attributes:
        splits: Training, validation and test data.
        sample: The training data, or a part of them if they are a stream.
        inputs: What a network for them needs to know.
    """

    splits: Splits
    sample: BatchSource
    inputs: Inputs


def load(experiment: Experiment, datasets: Splits | None = None) -> Data:
    """Put the data on the device, and measure their rate.

    Args:
        experiment: The experiment.
        datasets: Training, validation and test set. None: those of its task.

    Raises:
        ValueError: A set is empty, the training set is smaller than a batch, or it has no spikes.
    """
    splits = experiment.datasets() if datasets is None else Splits(*datasets)
    sizes = [len(part) for part in splits]
    for name, size in zip(("training", "validation", "test"), sizes, strict=True):
        if size == 0:
            shown = f"{sizes[0]}, {sizes[1]} and {sizes[2]} in the three sets"
            raise ValueError(
                f"the {name} set must have samples, got {shown}; choose other fractions"
            )
    if (batch_size := experiment.training.batch_size) > sizes[0]:
        raise ValueError(
            f"batch_size must be at most the size of the training set, {sizes[0]}, got "
            f"{batch_size}; with {max(1, sizes[0] // 10)} an epoch has about ten updates"
        )
    images = isinstance(splits.train, ImageDataset)
    data = _put_images(experiment, *splits) if images else _put_events(experiment, *splits)
    if data.inputs.nu == 0:
        needed = "the training data must have spikes within a trial to measure nu"
        raise ValueError(f"{needed}, got none")
    return data


def _put_events(
    experiment: Experiment, train: EventDataset | Stream, valid: EventDataset, test: EventDataset
) -> Data:
    """Return the data. For a stream, `nu` is the rate of the first shard before augmentation."""
    dt, task = experiment.neuron.dt, experiment.task
    if isinstance(task, EventTask) and task.trial_end == "last_event":
        assert not isinstance(train, Stream)  # the task refuses it
        train, valid, test = (data.until_last_event() for data in (train, valid, test))
    if isinstance(train, Stream):
        with contextlib.closing(dataclasses.replace(train, drop=0.0).shards(0)) as shards:
            sample: Any = next(shards)  # `DeviceEvents`, because `events` is False
        sizes, shown = train.recordings, train
        seconds = len(sample) * train.steps * dt * sample.num_units
        nu = int(sample.offsets[-1]) / seconds
    else:
        sample = shown = DeviceEvents.from_dataset(train, dt=dt)
        sizes, nu = train, float(train.rate().mean())
    if experiment.start.nu is not None:
        nu = experiment.start.nu
    held = [DeviceEvents.from_dataset(data, dt=dt) for data in (valid, test)]
    where = experiment.task.sensor
    inputs = Inputs(sizes.num_units, sizes.num_classes, valid.duration, nu, image=where)
    return Data(Splits(shown, *held), sample, inputs._replace(samples=len(shown)))


def _put_images(
    experiment: Experiment, train: ImageDataset, valid: ImageDataset, test: ImageDataset
) -> Data:
    """Return the data. `nu` is the mean rate of the sensory neurons."""
    task: Any = experiment.task
    steps = _time.num_steps(task.duration, experiment.neuron.dt)
    shown = DeviceImages.from_dataset(train, num_steps=steps, flip=task.flip, shift=task.shift)
    held = [DeviceImages.from_dataset(data, num_steps=steps, like=shown) for data in (valid, test)]
    shape: Any = train.images.shape[1:]
    size, classes = int(np.prod(shape)), train.num_classes
    inputs = Inputs(size, classes, task.duration, 1.0, image=shape, sensory=True)
    nu = experiment.start.nu
    if nu is None:
        # Only the sensory neurons are used. An initialization from data accepts any rate, but a
        # formula may refuse it.
        network = build_network(experiment.replace(init="data_driven"), inputs)
        x, _ = shown.batch(spread(shown, experiment.start.calibration_samples))
        nu = float(sensory_spikes(network, x).mean() / experiment.neuron.dt)
    return Data(Splits(shown, *held), shown, inputs._replace(nu=nu, samples=len(shown)))


def sensory_spikes(network: Sequential, x: jax.Array) -> jax.Array:
    """Return the input of the first layer with weights: x, or the spikes of the sensory neurons."""
    kinds = [isinstance(layer, Sensory) for layer in network.layers]
    for layer in list(network.layers)[: kinds.index(True) + 1] if any(kinds) else ():
        x = layer(x).output
    return x


def train_source(experiment: Experiment, data: Data) -> BatchSource | Stream:
    """Return the training data with the task's augmentation. A `Stream` has its own."""
    train, task = data.splits.train, experiment.task
    if isinstance(train, Stream) or not isinstance(task, EventTask):
        return train
    changes, mixture = task.augmentation(experiment.neuron.dt), task.mixture()
    if any(changes.values()):
        train = Augmented(source=train, **changes)
    return Mixed(source=train, num_classes=data.inputs.num_classes, **mixture) if mixture else train


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
    network: Sequential, source: BatchSource, experiment: Experiment, *, seed: Scalar | None = None
) -> tuple[Sequential, jax.Array]:
    """Calibrate a network on samples that are evenly spread over `source`.

    Args:
        network: The network.
        source: Source of the samples.
        experiment: The experiment.
        seed: Seed of the calibration. None: that of the experiment.

    Returns:
        The calibrated network, and for each layer whether it failed to reach its target although
        its input has spikes.
    """
    start = experiment.start
    weights, gradient = start.weights, start.gradient
    x, labels = source.batch(spread(source, start.calibration_samples))
    key = jax.random.key(experiment.seed if seed is None else seed)
    failed = jnp.zeros(experiment.network.num_layers, bool)
    if isinstance(weights, parts.LSUV):
        steps = untimed(labels)[1]
        network, rates = scale_to_rate(network, x, key=key, rate=weights.lsuv_rate, num_steps=steps)
        failed = jnp.asarray([~r.reached & (r.rate > 0) for r in rates])
    elif isinstance(weights, parts.OnTarget) and weights.from_data:
        balance = isinstance(weights, parts.DataDrivenBalanced)
        target = Target(weights.sigma_u, weights.mu_u, weights.alpha, balance=balance)
        network, reports = calibrate(network, x, labels, key=key, target=target, gradient=None)
        failed = jnp.asarray([~r.calibrated & ~r.silent for r in reports])
    if isinstance(gradient, parts.CalibratedGradient):
        adjust: Any = gradient.name
        readout_fn = LOSSES[experiment.objective.loss].readout_fn
        level = GradientTarget(
            adjust=adjust, logit_spread=gradient.logit_spread, readout_fn=readout_fn
        )
        network, _ = calibrate_gradient(network, x, labels, target=level, key=key)
    return network, failed


@nnx.jit(static_argnames="base")
def calibrated(
    network: Sequential, source: BatchSource, seed: Scalar, sigma_u: Scalar, base: Experiment
) -> tuple[Sequential, jax.Array]:
    """`calibrate_on`, compiled once for all seeds and targets.

    Args:
        network: The network.
        source: Source of the samples.
        seed: Seed of the calibration.
        sigma_u: Target of the membrane; not used without one.
        base: The experiment, with a seed and a `sigma_u` that do not count.
    """
    return calibrate_on(network, source, at(base, {"sigma_u": sigma_u}), seed=seed)


def at(experiment: Experiment, values: dict[str, Any]) -> Experiment:
    """Return the experiment with other values, which may be traced. Names it lacks do not count."""
    own = {option.name for option in options_of(experiment)}
    return replaced(experiment, {name: v for name, v in values.items() if name in own})
