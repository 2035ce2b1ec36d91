"""Spyx on flax.nnx: `CuBaLIF` and `RCuBaLIF` (two states), readout `LI` (one state).

The network is Spyx' `Sequential` with `run`, in one jitted step; seeds use `jax.vmap`.
`--mode loop`: everything one step after another, as in its documentation. `--mode hoisted`:
products and convolutions of all steps at once, and only the neurons in the loop. Which is faster
depends on the work. Only weights are trained, as in the other contestants; by default, Spyx also
trains its decays. It has no recurrent convolution: these layers are measured feed-forward.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import spyx
import spyx.nn as snn
from flax import nnx

from benchmarks import contest, works
from benchmarks.peers._jax import on_jax
from benchmarks.works import (
    DT,
    FEED_FORWARD,
    RECURRENT,
    TAU_MEM,
    TAU_SYN,
    Work,
    decay,
    gain,
    layers_of,
)


class Reshape(nnx.Module):
    """x (batch, ...) of one step as (batch, *shape)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], *self.shape)


def network_of(work: Work, seed: int) -> snn.Sequential:
    """Return the network with the weights of all contestants.

    The two parts of a state of Spyx are on the last of two axes, so convolutions are flattened
    around neurons.

    Args:
        work: The work.
        seed: Seed of the weights.
    """
    (hidden, readout), rngs = works.weights_of(work, seed), nnx.Rngs(0)
    make = snn.RCuBaLIF if recurrent(work) else snn.CuBaLIF
    options: dict[str, Any] = {
        "alpha": decay(TAU_SYN),
        "beta": decay(TAU_MEM),
        "activation": spyx.axn.superspike(works.BETA),
        "rngs": rngs,
    }
    stack: list[Any] = []
    for layer, weights in zip(layers_of(work), hidden, strict=True):
        if work.conv:
            below = work.units if not stack else layers_of(work)[len(stack) // 4 - 1].positions
            linear: Any = nnx.Conv(
                layer.maps_in,
                layer.maps,
                (layer.kernel,),
                layer.stride,
                padding=layer.padding,
                use_bias=False,
                rngs=rngs,
            )
            stack += [Reshape(below, layer.maps_in), linear, Reshape(layer.size)]
        else:
            linear = nnx.Linear(layer.maps_in, layer.maps, use_bias=False, rngs=rngs)
            stack.append(linear)
        neurons: Any = make((layer.size,), **options)
        stack.append(neurons)
        linear.kernel[...] = jnp.asarray(
            gain(TAU_MEM) * weights.kernel.reshape(linear.kernel.shape)
        )
        if recurrent(work) and weights.recurrent is not None:
            neurons.recurrent_w[...] = jnp.asarray(gain(TAU_MEM) * weights.recurrent[0])
    if readout is not None:
        last = nnx.Linear(*readout.shape, use_bias=False, rngs=rngs)
        # there is no synapse, whose current would bring 1 / (1 - decay) of a spike in total
        last.kernel[...] = jnp.asarray(gain(work.steps * DT) / gain(TAU_SYN) * readout)
        stack += [last, snn.LI(readout.shape[1:], decay(work.steps * DT), rngs=rngs)]
    return snn.Sequential(*stack)


def recurrent(work: Work) -> bool:
    """Return whether the work is recurrent and Spyx supports its recurrence.

    Args:
        work: The work.
    """
    return work.recurrent and not work.conv


def outputs(network: snn.Sequential, x: jax.Array, *, hoisted: bool) -> jax.Array:
    """Return the outputs of the network (time, batch, ...).

    Args:
        network: The network.
        x: Spikes (time, batch, units).
        hoisted: Whether products are computed for all steps at once.
    """
    if not hoisted:
        return snn.run(network, x)[0]
    for layer in network.layers:
        if hasattr(layer, "initial_state"):
            x, _ = snn.run(layer, x)
        else:
            out = layer(x.reshape(-1, *x.shape[2:]))
            x = out.reshape(*x.shape[:2], *out.shape[1:])
    return x


def trained(path: Any, value: Any) -> bool:
    """Return True for weights, and False for decays.

    Args:
        path: Path of the parameter.
        value: The parameter.
    """
    return isinstance(value, nnx.Param) and path[-1] in ("kernel", "recurrent_w")


def build(work: Work, options: argparse.Namespace) -> contest.Contest:
    """Return a contest with one jitted step.

    Args:
        work: The work.
        options: The mode.
    """
    graph, _, rest = nnx.split(network_of(work, 0), trained, ...)

    def outputs_of(params: Any, x: jax.Array) -> jax.Array:
        network = nnx.merge(graph, params, rest)
        return outputs(network, x, hoisted=options.mode == "hoisted")

    name = "RCuBaLIF" if recurrent(work) else "CuBaLIF"
    return on_jax(
        work, lambda seed: nnx.split(network_of(work, seed), trained, ...)[1], outputs_of,
        neuron=f"{name}, two states", form=RECURRENT if recurrent(work) else FEED_FORWARD,
    )  # fmt: skip


if __name__ == "__main__":
    contest.run(
        build,
        ("spyx", "jax", "jaxlib", "flax", "optax"),
        ("--mode", {"choices": ("loop", "hoisted"), "default": "loop"}),
    )
