"""SpikingJelly on the torch backend for CPUs.

`--mode sequence`: multi-step layers of `LIFNode` (one state), which have special code for whole
sequences. `--mode loop`: `CUBALIFNode` (two states) in single-step mode. As a multi-step layer, its
time grows with the square of the number of steps (`Unbound` explains why). Recurrent layers are in
an `ElementWiseRecurrentContainer`. The readout is a `SynapseFilter`, an integrator with one state.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from benchmarks import contest
from benchmarks.peers._torch import MODE, Unbound, filled, recurrence
from benchmarks.peers._torch import contest as on_torch
from benchmarks.works import DT, TAU_MEM, TAU_SYN, Layer, Weights, Work, decay, gain, layers_of


class Feedback(nn.Module):
    """The input of a step plus, through weights, the spikes of the previous step."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, spikes: Any, x: Any) -> Any:
        return x + self.weights(spikes)


class Reset(nn.Module):
    """A network whose neurons start each sequence at rest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        functional.reset_net(self.network)
        return self.network(x)


def project(work: Work, size: Layer, weights: Weights, strength: float) -> nn.Module:
    """Return SpikingJelly's own linear map over all steps at once.

    Args:
        work: The work.
        size: The layer.
        weights: Its weights.
        strength: Factor of the weights.
    """
    if work.conv:
        own = layer.Conv1d(
            size.maps_in,
            size.maps,
            size.kernel,
            stride=size.stride,
            padding=size.padding,
            bias=False,
            step_mode="m",
        )
    else:
        own = layer.Linear(size.maps_in, size.maps, bias=False, step_mode="m")
    return filled(own, weights.kernel, strength)


def spiking(work: Work, size: Layer, weights: Weights, *, loop: bool) -> nn.Module:
    """Return the neurons of a layer.

    Args:
        work: The work.
        size: The layer.
        weights: Its weights.
        loop: Whether the mode is `loop`.
    """
    options: dict[str, Any] = {"v_threshold": 1.0, "surrogate_function": surrogate.SuperSpike()}
    if loop:
        node = neuron.CUBALIFNode(c_decay=decay(TAU_SYN), v_decay=decay(TAU_MEM), **options)
    else:
        node = neuron.LIFNode(tau=1 / gain(TAU_MEM), decay_input=False, **options)
    node.detach_reset = True
    own = recurrence(work, size, weights, strength(loop))
    whole = node if own is None else layer.ElementWiseRecurrentContainer(node, Feedback(own))
    whole.step_mode = "s" if loop else "m"
    return Unbound(whole, stateful=True) if loop else whole


def strength(loop: bool) -> float:
    """Return the factor of the weights.

    A neuron without a synapse gets at once the total charge that a current would bring.

    Args:
        loop: Whether the mode is `loop`.
    """
    return gain(TAU_MEM) / (1 if loop else gain(TAU_SYN))


def build(work: Work, options: argparse.Namespace) -> contest.Contest:
    """Return the contest for any work.

    Args:
        work: The work.
        options: The mode.
    """
    sizes, tau, loop = layers_of(work), work.steps * DT, options.mode == "loop"

    def make(hidden: list[Weights], readout: Any) -> nn.Module:
        stack: list[nn.Module] = []
        for size, weights in zip(sizes, hidden, strict=True):
            stack += [
                project(work, size, weights, strength(loop)),
                spiking(work, size, weights, loop=loop),
            ]
        if readout is not None:
            last = filled(
                layer.Linear(*readout.shape, bias=False, step_mode="m"),
                readout,
                gain(tau) / gain(TAU_SYN),
            )
            integrator = layer.SynapseFilter(tau=1 / gain(tau), step_mode="s" if loop else "m")
            stack += [
                layer.Flatten(step_mode="m"),
                last,
                Unbound(integrator, stateful=True) if loop else integrator,
            ]
        return Reset(nn.Sequential(*stack))

    return on_torch(
        work,
        make,
        neuron="CUBALIFNode, two states" if loop else "LIFNode, one state",
        form=work.form,
    )


if __name__ == "__main__":
    contest.run(build, ("spikingjelly", "torch"), MODE)
