r"""What an inference costs: spikes, synaptic operations, and products without spikes.

For a sample, summed over all time steps and over all connections c of all layers (also the readout
and recurrence), with the spikes s_c[i] that arrive on input i and its number of targets k_c[i]:

    operations = sum_c sum_i s_c[i] k_c[i]           one addition per spike and synapse
    macs       = T sum_c sum_i k_c[i]                one multiplication and addition per synapse
                                                     and step

`macs` is what the same network would need if its units sent numbers in every step. Not counted are:
the updates of the membranes (a few operations per neuron and step in both cases), memory access,
pooling, and layers without a population (`nnx.Linear`). Inputs that are not 0 or 1 count with their
value if they are counts of spikes, and as one operation if they are other numbers.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._sparse import EventRaster, as_dense
from snnjax._timed import Timed
from snnjax.nn import Sequential
from snnjax.nn._synaptic import Connection, Synaptic

Labels: TypeAlias = ArrayLike | Timed | None


class Costs(NamedTuple):
    """Costs of an inference, means over samples.

    `snnjax/_costs.py` gives the formulas and the assumptions.

    Attributes:
        spikes: Spikes of all spiking layers.
        operations: Synaptic operations: additions of a weight.
        macs: Multiplications with additions of the same network without spikes.
    """

    spikes: Scalar
    operations: Scalar
    macs: Scalar

    def __str__(self) -> str:
        counted = f"{self.spikes:.3g} spikes and {self.operations:.3g} synaptic operations"
        return f"{counted} per sample; without spikes {self.macs:.3g} multiply-accumulates"


def costs(network: Sequential, x: jax.Array | EventRaster, labels: Labels = None) -> Costs:
    """Count the operations of a network for a batch of inputs.

    Args:
        network: The network.
        x: Inputs (time, batch, ...features).
        labels: Targets of the batch. If they are `snnjax.losses.Timed`, only the steps of each
            trial count.

    Returns:
        The costs, means over the batch, floats.

    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(16, 3, rngs=rngs))
    >>> counted = costs(network, jnp.ones((50, 2, 20)))
    >>> counted.macs == 50 * (20 * 16 + 16 * 3)
    True
    >>> counted.operations == 50 * 20 * 16 + 3 * counted.spikes
    True
    """
    _check.time_major("x", x)
    return Costs(*map(float, _counted(network, as_dense(x), labels)))


@nnx.jit
def _counted(network: Sequential, x: jax.Array, labels: Labels) -> Costs:
    return counted_costs(network, x, labels)


def counted_costs(network: Sequential, x: jax.Array, labels: Labels = None) -> Costs:
    """`costs` for dense inputs, as arrays.

    Args:
        network: The network.
        x: Inputs (time, batch, ...features).
        labels: If they are `Timed`, only the steps of each trial count.
    """
    steps, total = jnp.asarray(x.shape[0]), Costs(*jnp.zeros(3))
    if isinstance(labels, Timed):
        steps, x = labels.num_steps.mean(), labels.silenced(x)
    walk = network.walk(x)
    for _, layer, below in walk:
        z = layer(below).output
        walk.output = z = labels.silenced(z) if isinstance(labels, Timed) else z
        if layer.spiking:
            total = total._replace(spikes=total.spikes + _per_sample(z).sum())
        if isinstance(layer, Synaptic):
            for connection in layer.connections():
                arriving = _per_sample(connection.spikes(below, z))
                total = total._replace(
                    operations=total.operations + _targets(connection, arriving),
                    macs=total.macs + steps * _targets(connection, jnp.ones_like(arriving)),
                )
    return total


def _per_sample(x: jax.Array) -> jax.Array:
    """Spikes on each input in a trial, mean over samples (...features)."""
    x = _check.as_wide(x)
    # whole numbers are counts of spikes
    counts = jnp.where((x == jnp.round(x)).all() & (x >= 0).all(), x, x != 0)
    return counts.sum(axis=0).mean(axis=0)


def _targets(connection: Connection, arriving: jax.Array) -> jax.Array:
    """Sum over inputs of the spikes that arrive times the number of targets of the input."""
    ones = jnp.ones(connection.param.shape, arriving.dtype)
    return connection.project(arriving[None], ones).sum()
