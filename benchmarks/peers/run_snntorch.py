"""snnTorch: `Synaptic` and `RSynaptic` (two states) in a loop over time.

The readout is a `Synaptic` without reset; its output is the membrane.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import nn

from benchmarks import contest
from benchmarks.peers._torch import contest as on_torch
from benchmarks.peers._torch import filled, projection, stacked
from benchmarks.works import (
    BETA,
    RECURRENT_KERNEL,
    TAU_MEM,
    TAU_SYN,
    Layer,
    Weights,
    Work,
    decay,
    gain,
)


class Spiking(nn.Module):
    """A layer: weights for all steps at once, then the neurons one step after another."""

    def __init__(self, work: Work, layer: Layer, weights: Weights) -> None:
        super().__init__()
        self.project, self.recurrent, self.conv = (
            projection(work, layer, weights, gain(TAU_MEM)),
            work.recurrent,
            work.conv,
        )
        # reset by subtraction, its default: the reset to zero computes each step twice
        options: dict[str, Any] = {
            "alpha": decay(TAU_SYN),
            "beta": decay(TAU_MEM),
            "spike_grad": surrogate.fast_sigmoid(slope=BETA),
        }
        if not work.recurrent:
            self.neuron = snn.Synaptic(**options)
        elif work.conv:  # recurrent convolutions are two-dimensional: a line has height 1
            self.neuron = snn.RSynaptic(
                conv2d_channels=layer.maps, kernel_size=(1, RECURRENT_KERNEL), **options
            )
        else:
            self.neuron = snn.RSynaptic(linear_features=layer.maps, **options)
        if work.recurrent:
            filled(
                self.neuron.recurrent, weights.recurrent, gain(TAU_MEM)
            ).bias.requires_grad = False

    def forward(self, x: Any) -> Any:
        drives = self.project(x)
        if self.conv and self.recurrent:
            drives = drives.unsqueeze(3)
        state, spikes = self.neuron.reset_mem(), []
        for drive in drives.unbind():
            if self.recurrent:
                state = self.neuron(drive, *state)
                spikes.append(state[0])
            else:
                z, *state = self.neuron(drive, *state)
                spikes.append(z)
        out = torch.stack(spikes)
        return out.squeeze(3) if self.conv and self.recurrent else out


class Readout(nn.Module):
    """Membranes of neurons without reset."""

    def __init__(self, weights: Any, tau: float) -> None:
        super().__init__()
        self.project = filled(nn.Linear(*weights.shape, bias=False), weights, gain(tau))
        self.neuron = snn.Synaptic(alpha=decay(TAU_SYN), beta=decay(tau), reset_mechanism="none")

    def forward(self, x: Any) -> Any:
        (synapse, membrane), traces = self.neuron.reset_mem(), []
        for drive in self.project(x).unbind():
            _, synapse, membrane = self.neuron(drive, synapse, membrane)
            traces.append(membrane)
        return torch.stack(traces)


def build(work: Work, _: argparse.Namespace) -> contest.Contest:
    """Return the contest for any work.

    Args:
        work: The work.
    """
    neuron = "RSynaptic" if work.recurrent else "Synaptic"
    return on_torch(
        work, stacked(work, Spiking, Readout), neuron=f"{neuron}, two states", form=work.form
    )


if __name__ == "__main__":
    contest.run(build, ("snntorch", "torch"))
