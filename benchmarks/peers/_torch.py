"""Shared code of the contestants on PyTorch: projections, training step, and network.

Products with the weights of the input and of the layers are computed for all time steps at once,
before the loop over time. This is faster than one product per step, as in most tutorials.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.contest import Contest, check_plain
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
    """`cell(x[t], state)` -> (output, state), or with `stateful` `cell(x[t])` -> output, in a loop.

    The steps come from `unbind`, whose backward pass computes all gradients at once. Some libraries
    use x[t] instead. The gradient of each x[t] is a whole sequence of zeros, so that the time of
    the backward pass grows with the square of the number of steps.
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
"""For libraries with both: modules over whole sequences, or cells in a loop over unbound steps."""


def projection(work: Work, layer: Layer, weights: Weights, gain: float = 1.0) -> nn.Module:
    """Return a map with `gain` times the weights from the layer below, for x (time, batch, ...).

    Args:
        work: The work.
        layer: The layer.
        weights: Its weights.
        gain: Factor of the weights.
    """
    if not work.conv:
        return filled(
            nn.Linear(layer.maps_in, layer.maps, bias=False), weights.kernel, gain
        )  # works for any leading axes
    return OverTime(
        filled(
            nn.Conv1d(
                layer.maps_in,
                layer.maps,
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                bias=False,
            ),
            weights.kernel,
            gain,
        )
    )


def recurrence(work: Work, layer: Layer, weights: Weights, gain: float = 1.0) -> nn.Module | None:
    """Return a map with `gain` times the recurrent weights, for the spikes of one step, or None.

    Args:
        work: The work.
        layer: The layer.
        weights: Its weights.
        gain: Factor of the weights.
    """
    if weights.recurrent is None:
        return None
    if not work.conv:
        return filled(nn.Linear(layer.maps, layer.maps, bias=False), weights.recurrent, gain)
    conv = nn.Conv1d(
        layer.maps, layer.maps, RECURRENT_KERNEL, padding=RECURRENT_KERNEL // 2, bias=False
    )
    return filled(conv, weights.recurrent, gain)


def filled(module: Any, kernel: Any, gain: float = 1.0) -> Any:
    """Return a linear map or convolution with weights `gain` times `kernel`, and no bias.

    Args:
        module: The map or convolution, with any number of axes.
        kernel: Weights ([window,] in, out).
        gain: Factor of the weights.
    """
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(gain * kernel.T).reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.zero_()
    return module


def stacked(
    work: Work, spiking: Callable[..., nn.Module], readout: Callable[..., nn.Module]
) -> Callable[[list[Weights], Any], nn.Module]:
    """Return the function `make` of `contest`.

    Args:
        work: The work.
        spiking: Returns the module of a hidden layer, `spiking(work, layer, weights)`.
        readout: Returns the readout, `readout(weights, tau)`, if the work has one.
    """
    layers = layers_of(work)

    def make(hidden: list[Weights], last: Any) -> nn.Module:
        stack: list[nn.Module] = [spiking(work, *each) for each in zip(layers, hidden, strict=True)]
        if last is not None:
            stack += [nn.Flatten(2), readout(last, work.steps * DT)]
        return nn.Sequential(*stack)

    return make


def loss_of(work: Work, out: Any, labels: Any) -> Any:
    """Return the sum of the spikes, or the cross-entropy of the maxima over time.

    Args:
        work: The work.
        out: Outputs of the network (time, batch, ...).
        labels: Classes (batch,).
    """
    return out.sum() if work.classes is None else cross_entropy(out.max(dim=0).values, labels)


def contest(
    work: Work, make: Callable[[list[Weights], Any], Callable[[Any], Any]], **facts: Any
) -> Contest:
    """Return a contest whose step trains each of `work.seeds` networks, one after another.

    Args:
        work: The work.
        make: Returns a network, `make(*weights_of(...))`.
        **facts: Fields of the `Contest`.
    """
    check_plain(work)
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
