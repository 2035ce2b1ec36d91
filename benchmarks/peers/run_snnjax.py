"""snnjax, with the same steps as in `snnjax train` and, for several seeds, `snnjax sweep`.

Gradients are computed for parts of a batch that fit the cache. The functions of `FORMS` return the `BatchSource` of the step, each in one form of the input.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import contest
from benchmarks.works import (
    BETA,
    LEARNING_RATE,
    TAU_MEM,
    TAU_SYN,
    Work,
    inputs_of,
    weights_of,
)
from snnjax import models
from snnjax._pytree import pytree_dataclass
from snnjax.datasets import BatchSource, DeviceEvents
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.dynamics import LIF, AdLIF, LeakyIntegrator
from snnjax.initializers import kaiming_normal
from snnjax.nn import Activity, Delays, SameForAll, SpikingDense
from snnjax.runtime import use_cpu_devices
from snnjax.surrogate import superspike
from snnjax.training import Objective, Trainer
from snnjax.training import _placement as placement
from snnjax.training._step import train_step


@pytree_dataclass
class Raster:
    """A batch on the device as a raster x (time, batch, units), float32."""

    x: jax.Array
    labels: jax.Array

    separable: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.x.shape[1]

    def batch(
        self, indices: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return self.x[:, indices], self.labels[indices]


def raster(work: Work) -> Raster:
    """Return dense inputs, as for the other contestants.

    Args:
        work: The work.
    """
    x, labels = inputs_of(work)
    return Raster(x=jnp.asarray(x, jnp.float32), labels=jnp.asarray(labels))


def events(work: Work) -> BatchSource:
    """Return events, as in `snnjax train`.

    They are lists if the first layer is dense; otherwise they are scattered into a raster, part by
    part.

    Args:
        work: The work.
    """
    x, labels = inputs_of(work)
    per_sample = np.moveaxis(x, 1, 0).reshape(work.batch, -1)
    addresses = np.nonzero(per_sample)[1].astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(per_sample.sum(axis=1, dtype=np.int64))])
    source = DeviceEvents.from_bins(
        addresses, offsets, labels, num_steps=work.steps, num_units=work.units
    )
    return source if work.conv else SparseEvents.from_events(source)


FORMS: dict[str, tuple[str, Callable[[Work], BatchSource]]] = {
    "raster": ("dense float32 raster in memory", raster),
    "events": ("events in memory", events),
}


def network_of(work: Work, seed: int) -> Any:
    """Return the network with the weights of all contestants.

    Args:
        work: The work. Without classes, the network is only the spiking layer.
        seed: Seed of the weights.
    """
    hidden, readout = weights_of(work, seed)
    tau: dict[str, Any] = {"tau_syn": TAU_SYN, "dt": work.dt}
    shared: dict[str, Any] = {
        "init": SameForAll(kaiming_normal()),
        "neuron": LIF(tau_mem=TAU_MEM, spike=superspike(BETA), **tau),
        "recurrent": work.recurrent,
        "rngs": nnx.Rngs(0),
    }
    if work.max_delay is not None:
        shared["neuron"] = AdLIF(tau_mem=TAU_MEM, a=0.3, spike=superspike(BETA), dt=work.dt)
        shared["delays"] = Delays(max_delay=work.max_delay)
    if work.classes is None:
        network: Any = SpikingDense(work.units, *work.hidden, **shared)
    else:
        shared["readout_neuron"] = LeakyIntegrator(tau_mem=work.steps * work.dt, **tau)
        if work.conv:
            network = models.csnn(work.units, work.classes, depth=len(work.conv), **shared)
        else:
            network = models.dense(work.units, work.classes, hidden=work.hidden, **shared)
        network.layers[-1].kernel[...] = jnp.asarray(readout)
    layers = (
        [network] if work.classes is None else [layer for layer in network.layers if layer.spiking]
    )
    for layer, weights in zip(layers, hidden, strict=True):
        layer.kernel[...] = jnp.asarray(weights.kernel.reshape(layer.kernel.shape))
        if weights.recurrent is not None:
            layer.recurrent_kernel[...] = jnp.asarray(
                weights.recurrent.reshape(layer.recurrent_kernel.shape)
            )
    return network


def trainer_of(work: Work, seed: int, sizes: dict[str, Any] | None = None) -> Trainer:
    """Return the trainer of one seed.

    Args:
        work: The work.
        seed: Seed of the weights.
        sizes: Sizes of batch and parts.
    """
    network, optimizer = network_of(work, seed), optax.adam(LEARNING_RATE)
    sizes = {"batch_size": work.batch} if sizes is None else sizes
    if work.classes is not None:
        return Trainer(network, Objective(), optimizer, **sizes)
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def apply(p: Any, x: jax.Array) -> tuple[jax.Array, Activity]:
        spikes = nnx.merge(graph, p, rest)(x).output
        return spikes, Activity((spikes,), ())

    def total(spikes: jax.Array, labels: jax.Array) -> jax.Array:
        return (
            spikes.sum(axis=(0, 2)) * work.batch
        )  # its mean over the batch is the sum of all spikes

    total.separable, total.metric = True, None  # type: ignore[attr-defined]
    return Trainer((apply, params), Objective(total), optimizer, **sizes)


def build(work: Work, options: argparse.Namespace) -> contest.Contest:
    """Return a contest with one jitted step of all seeds. The state is donated.

    Args:
        work: The work.
        options: Form of the input.
    """
    use_cpu_devices()
    name, form = FORMS[options.input]
    source, indices = form(work), jnp.arange(work.batch)
    sizes: dict[str, Any] = {"batch_size": work.batch} | ({} if work.seeds == 1 else {"devices": 1})
    trainers = [trainer_of(work, seed, sizes) for seed in range(work.seeds)]
    chosen = trainers[0].sizes(source)
    if work.seeds == 1:
        trainer, state, how = trainers[0], trainers[0].init(), f", on {chosen.devices} devices"
        source, indices = trainer.place((source, indices))

        def step(state: Any) -> tuple[Any, jax.Array]:
            state, metrics = trainer.step(state, (source, indices))
            return state, metrics.loss

    else:
        recipe = trainers[0].recipe(chosen)

        def one(state: Any, shared: Any) -> tuple[Any, jax.Array]:
            state, metrics = train_step(recipe, state, *shared, key=None)
            return state, metrics.loss

        states: Any = [trainer.init() for trainer in trainers]
        kind = placement.resolve("auto")
        members, _ = placement.pad(jax.tree.map(lambda *leaves: np.stack(leaves), *states), kind)
        state, shared = placement.put(members, (source, indices), kind)
        over = jax.jit(placement.over_members(one, kind), donate_argnums=0)
        how = f", placement {kind}"
        step = lambda state: over(state, shared)
    held = [state]

    def advance() -> float:
        held[0], loss = step(held[0])
        return float(np.ravel(loss)[-1])

    note = f"{chosen.micro_batch} of {work.batch} samples at a time{how}"
    neuron = "LIF, two states" if work.max_delay is None else "SE-adLIF with delays"
    return contest.Contest(advance, neuron=neuron, form=work.form, input=name, note=note)


if __name__ == "__main__":
    packages = ("snnjax", "jax", "jaxlib", "flax", "optax")
    contest.run(build, packages, ("--input", {"choices": tuple(FORMS), "default": "raster"}))
