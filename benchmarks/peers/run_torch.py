"""Plain PyTorch: the same network as in snnjax, as a loop over time without a library.

Runs in any environment with torch.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from benchmarks import contest
from benchmarks.peers._torch import contest as on_torch
from benchmarks.peers._torch import filled, projection, recurrence, stacked
from benchmarks.works import BETA, TAU_MEM, TAU_SYN, Layer, Weights, Work, decay


class SuperSpike(torch.autograd.Function):
    """1 if v > 0; in the backward pass 1 / (beta |v| + 1)^2."""

    @staticmethod
    def forward(ctx: Any, v: Any) -> Any:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (v,) = ctx.saved_tensors
        return gradients[0] / (BETA * v.abs() + 1) ** 2


class Spiking(nn.Module):
    """A layer of LIF neurons whose reset is not differentiated.

        u[t+1] = (lm u + (1 - lm) i) (1 - z)
        i[t+1] = ls i + drive[t] + z V

    lm and ls are the decays of membrane and current per step.
    """

    def __init__(self, work: Work, layer: Layer, weights: Weights) -> None:
        super().__init__()
        self.project, self.recur = (
            projection(work, layer, weights),
            recurrence(work, layer, weights),
        )
        self.lm, self.ls = decay(TAU_MEM), decay(TAU_SYN)

    def forward(self, x: Any) -> Any:
        drives = self.project(x)
        u = i = torch.zeros_like(drives[0])
        spikes = []
        for drive in drives.unbind():
            z = SuperSpike.apply(u - 1.0)
            spikes.append(z)
            u = (self.lm * u + (1 - self.lm) * i) * (1 - z.detach())
            i = self.ls * i + drive
            if self.recur is not None:
                i = i + self.recur(z)
        return torch.stack(spikes)


class Readout(nn.Module):
    """The same without spikes."""

    def __init__(self, weights: Any, tau: float) -> None:
        super().__init__()
        self.project = filled(nn.Linear(*weights.shape, bias=False), weights)
        self.lm, self.ls = decay(tau), decay(TAU_SYN)

    def forward(self, x: Any) -> Any:
        drives = self.project(x)
        u = i = torch.zeros_like(drives[0])
        traces = []
        for drive in drives.unbind():
            traces.append(u)
            u, i = self.lm * u + (1 - self.lm) * i, self.ls * i + drive
        return torch.stack(traces)


def build(work: Work, _: argparse.Namespace) -> contest.Contest:
    """Return the contest for any work.

    Args:
        work: The work.
    """
    return on_torch(work, stacked(work, Spiking, Readout), neuron="LIF, two states", form=work.form)


if __name__ == "__main__":
    contest.run(build, ("torch",))
