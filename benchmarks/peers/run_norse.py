"""Norse: `LIF` (two states, SuperSpike), `LIFRecurrent`, and `LI` as readout.

`--mode sequence`: modules over whole sequences in a `SequentialState`. `--mode loop`: cells, one
step after another (`Unbound` explains why). Dense recurrent layers are `LIFRecurrent`. Norse has no
recurrent convolution: these layers are measured feed-forward.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
from typing import Any

import norse.torch as norse
import torch
from torch import nn

from benchmarks import contest
from benchmarks.peers._torch import MODE, Unbound, filled, projection
from benchmarks.peers._torch import contest as on_torch
from benchmarks.works import (
    BETA,
    DT,
    FEED_FORWARD,
    RECURRENT,
    TAU_MEM,
    TAU_SYN,
    Weights,
    Work,
    layers_of,
)


class Outputs(nn.Module):
    """The sequence of outputs of a network that also returns its last state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)[0]


def build(work: Work, options: argparse.Namespace) -> contest.Contest:
    """Return the contest for any work.

    Args:
        work: The work.
        options: The mode.
    """
    layers, recurrent, loop = (
        layers_of(work),
        work.recurrent and not work.conv,
        options.mode == "loop",
    )
    inverse = lambda tau: torch.as_tensor(1 / tau)
    neuron = norse.LIFParameters(
        tau_syn_inv=inverse(TAU_SYN),
        tau_mem_inv=inverse(TAU_MEM),
        method="super",
        alpha=torch.as_tensor(BETA),
    )
    readout = norse.LIParameters(tau_syn_inv=inverse(TAU_SYN), tau_mem_inv=inverse(work.steps * DT))
    name = "LIFRecurrent" if recurrent else "LIF"

    def neurons(name: str, **settings: Any) -> nn.Module:
        return (
            Unbound(getattr(norse, f"{name}Cell")(dt=DT, **settings))
            if loop
            else getattr(norse, name)(dt=DT, **settings)
        )

    def make(hidden: list[Weights], out: Any) -> nn.Module:
        stack: list[nn.Module] = []
        for layer, weights in zip(layers, hidden, strict=True):
            if recurrent:
                own = [
                    nn.Parameter(torch.from_numpy(w[0].T.copy()))
                    for w in (weights.kernel, weights.recurrent)
                    if w is not None
                ]
                sizes: dict[str, Any] = {
                    "input_size": layer.maps_in,
                    "hidden_size": layer.maps,
                    "autapses": True,
                }
                stack.append(
                    neurons(name, p=neuron, input_weights=own[0], recurrent_weights=own[1], **sizes)
                )
            else:
                stack += [projection(work, layer, weights), neurons(name, p=neuron)]
        if out is not None:
            stack += [
                nn.Flatten(2),
                filled(nn.Linear(*out.shape, bias=False), out),
                neurons("LI", p=readout),
            ]
        return nn.Sequential(*stack) if loop else Outputs(norse.SequentialState(*stack))

    form = RECURRENT if recurrent else FEED_FORWARD
    return on_torch(work, make, neuron=f"{name}{'Cell' if loop else ''}, two states", form=form)


if __name__ == "__main__":
    contest.run(build, ("norse", "torch"), MODE)
