"""What the contestants on PyTorch share: projections of all steps at once, the training step, and what a network is built of.

Products with the input's and the layers' weights are made for all time steps at once, before the loop over time, which is faster than one a step as most
tutorials have it.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.contest import Contest
from benchmarks.works import (
    DT,
    LEARNING_RATE,
    RECURRENT_KERNEL,
    Layer,
    Weights,
    Work,
    inputs_of,
    layers_of,
    weights_of,
)


class OverTime(nn.Module):
    """`module` on all steps of x (time, batch, ...) at once."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Unbound(nn.Module):
    """`cell(x[t], state)` -> (output, state), or with `stateful` `cell(x[t])` -> output, one step after another.

    Steps taken apart by `unbind` give their gradients back at once. Those of x[t], as some libraries loop, are each a whole sequence of zeros: the backward
    pass takes time with the square of the steps.
    """

    def __init__(self, cell: nn.Module, *, stateful: bool = False) -> None:
        super().__init__()
        self.cell, self.stateful = cell, stateful

    def forward(self, x: Any) -> Any:
        state, out = None, []
        for step in x.unbind():
            if self.stateful:
                z = self.cell(step)
            else:
                z, state = self.cell(step, state)
            out.append(z)
        return torch.stack(out)


MODE: tuple[str, dict[str, Any]] = (
    "--mode",
    {"choices": ("sequence", "loop"), "default": "sequence"},
)
"""For libraries that have both: modules over whole sequences, or cells in a loop over unbound steps."""


def projection(work: Work, layer: Layer, weights: Weights, gain: float = 1.0) -> nn.Module:
    """`gain` times the weights between the layer below and this one, for x (time, batch, ...)."""
    if not work.conv:
        return filled(
            nn.Linear(layer.maps_in, layer.maps, bias=False), weights.kernel, gain
        )  # of any leading axes
    return OverTime(
        filled(
            nn.Conv1d(layer.maps_in, layer.maps, layer.kernel, stride=layer.stride, bias=False),
            weights.kernel,
            gain,
        )
    )


def recurrence(work: Work, layer: Layer, weights: Weights, gain: float = 1.0) -> nn.Module | None:
    """`gain` times the weights from a layer to itself, for the spikes of one step, or None."""
    if weights.recurrent is None:
        return None
    if not work.conv:
        return filled(nn.Linear(layer.maps, layer.maps, bias=False), weights.recurrent, gain)
    conv = nn.Conv1d(
        layer.maps, layer.maps, RECURRENT_KERNEL, padding=RECURRENT_KERNEL // 2, bias=False
    )
    return filled(conv, weights.recurrent, gain)


def filled(module: Any, kernel: Any, gain: float = 1.0) -> Any:
    """A linear map or convolution (of any number of axes) with weights `gain` times `kernel`, ([window,] in, out), and no bias."""
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(gain * kernel.T).reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.zero_()
    return module


def stacked(
    work: Work, spiking: Callable[..., nn.Module], readout: Callable[..., nn.Module]
) -> Callable[[list[Weights], Any], nn.Module]:
    """`make` of `contest`: modules `spiking(work, layer, weights)`, one a hidden layer, and `readout(weights, tau)` where the work has one."""
    layers = layers_of(work)

    def make(hidden: list[Weights], last: Any) -> nn.Module:
        stack: list[nn.Module] = [spiking(work, *each) for each in zip(layers, hidden, strict=True)]
        if last is not None:
            stack += [nn.Flatten(2), readout(last, work.steps * DT)]
        return nn.Sequential(*stack)

    return make


def loss_of(work: Work, out: Any, labels: Any) -> Any:
    """The sum of the spikes, or the cross-entropy of the maxima over time."""
    return out.sum() if work.classes is None else cross_entropy(out.max(dim=0).values, labels)


def contest(
    work: Work, make: Callable[[list[Weights], Any], Callable[[Any], Any]], **facts: Any
) -> Contest:
    """A step of each of `work.seeds` networks that `make(*weights_of(...))` gives, one after another. `facts`: fields of the `Contest`."""
    x, labels = inputs_of(work)
    raster, targets = torch.from_numpy(x).float(), torch.from_numpy(labels).long()
    if work.conv:
        raster = raster.unsqueeze(2)  # (time, batch, maps, positions)
    networks = []
    for seed in range(work.seeds):
        network: Any = make(*weights_of(work, seed))
        networks.append((network, torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)))

    def step() -> float:
        loss: Any = None
        for network, optimizer in networks:
            optimizer.zero_grad()
            loss = loss_of(work, network(raster), targets)
            loss.backward()
            optimizer.step()
        return loss.item()

    how = f"{work.seeds} one after another" if work.seeds > 1 else ""
    return Contest(
        step, note=f"{torch.get_num_threads()} threads{', ' if how else ''}{how}", **facts
    )
