"""jaxpike: `LeakyIntegrator` as the synaptic current before `LIF`, readout `LeakyIntegrator`.

The network is a `Sequential` with `unroll`, which computes products and convolutions of all steps
at once and has only the neurons in the loop. This is its fastest mode with exact reset;
`unroll_parallel` needs neurons without reset. A recurrent layer is a `Graph` with an edge from the
spikes back to the current. Only weights are trained, as in the other contestants; by default,
jaxpike also trains its time constants.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxpike as jp

from benchmarks import contest, works
from benchmarks.peers._jax import on_jax
from benchmarks.works import BETA, DT, RECURRENT_KERNEL, TAU_MEM, TAU_SYN, Work, gain, layers_of


class Reshape(eqx.Module):
    """x (batch, ...) of one step as (batch, *shape)."""

    shape: tuple[int, ...] = eqx.field(static=True)

    def init_state(self, input_shape: tuple[int, ...]) -> None:
        return None

    def out_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (input_shape[0], *self.shape)

    def __call__(self, state: None, x: jax.Array) -> tuple[None, jax.Array]:
        return None, x.reshape(x.shape[0], *self.shape)

    def parallel_apply(self, state: None, xs: jax.Array) -> tuple[None, jax.Array]:
        return None, xs.reshape(*xs.shape[:2], *self.shape)


def network_of(work: Work, seed: int) -> jp.Sequential:
    """Return the network with the weights of all contestants.

    Its integrators take 1 - exp(-dt/tau) of their input, so the synapse needs 1 / (1 -
    exp(-dt/tau_syn)) times the weights.

    Args:
        work: The work.
        seed: Seed of the weights.
    """
    (hidden, readout), key = works.weights_of(work, seed), jax.random.key(0)
    stack: list[Any] = [Reshape((1, work.units, 1))] if work.conv else []
    for layer, weights in zip(layers_of(work), hidden, strict=True):
        stack.append(
            _linear(work, weights.kernel, layer.stride, "SAME" if layer.padding else "VALID", key)
        )
        # slope: 1 / (1 + beta |v|)^2 is SuperSpike
        synapse = jp.LeakyIntegrator(TAU_SYN, dt=DT)
        neurons = jp.LIF(TAU_MEM, dt=DT, reset="zero", surrogate=jp.FastSigmoid(BETA))
        if weights.recurrent is None:
            stack += [synapse, neurons]
            continue
        back = _linear(work, weights.recurrent, 1, "SAME", key)
        edges = [("input", "synapse"), ("synapse", "neurons"), ("neurons", "back")]
        edges.append(("back", "synapse"))
        nodes = {"synapse": synapse, "neurons": neurons, "back": back}
        stack.append(jp.Graph(nodes, edges, "neurons"))
    if readout is not None:
        # there is no synapse, whose current would bring 1 / (1 - decay) of a spike in total
        out = jp.Dense(*readout.shape, key=key, use_bias=False)
        out = eqx.tree_at(lambda d: d.weight, out, jnp.asarray(readout.T) / gain(TAU_SYN))
        flat = [Reshape((readout.shape[0],))] if work.conv else []
        stack += [*flat, out, jp.LeakyIntegrator(work.steps * DT, dt=DT)]
    return jp.Sequential(*stack)


def _linear(work: Work, kernel: Any, stride: int, padding: str, key: jax.Array) -> Any:
    """Return the product or convolution with the kernel (window, maps_in, maps)."""
    window, n_in, n = kernel.shape
    if work.conv:
        made: Any = jp.Conv2d(
            n_in, n, (1, window), key=key, stride=(1, stride), padding=padding, use_bias=False
        )
        weight = jnp.asarray(kernel)[None]
    else:
        made, weight = jp.Dense(n_in, n, key=key, use_bias=False), jnp.asarray(kernel[0].T)
    return eqx.tree_at(lambda linear: linear.weight, made, weight / gain(TAU_SYN))


def build(work: Work, _: argparse.Namespace) -> contest.Contest:
    """Return the contest for any work.

    Args:
        work: The work.
    """
    assert RECURRENT_KERNEL % 2, "the padding of a recurrent convolution must be symmetric"

    def split(seed: int) -> tuple[Any, Any]:
        network = network_of(work, seed)
        trained = jax.tree.map(lambda leaf: eqx.is_array(leaf) and leaf.ndim > 1, network)
        return eqx.partition(network, trained)

    rest = split(0)[1]
    return on_jax(
        work, lambda seed: split(seed)[0],
        lambda params, x: jp.unroll(eqx.combine(params, rest), x)[0],
        neuron="LeakyIntegrator and LIF, two states", form=work.form,
    )  # fmt: skip


if __name__ == "__main__":
    contest.run(build, ("jaxpike", "jax", "jaxlib", "equinox", "optax"))
