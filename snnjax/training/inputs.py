"""In which form a network gets its input: arrays, or lists of events where the first layer takes them and that is faster."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from snnjax.datasets import Augmented, DeviceEvents, SparseEvents

MAX_DENSITY = 0.15
"""Spikes a unit a step, up to which lists are used by default: half of where both take the same time (`snnjax.sparse`), for lists are not all equally long."""


def choose_form(network: Any, source: Any, *, events: bool | None = None) -> Any:
    """`source`, or `SparseEvents` of it.

    Args:
      network: what will get its batches.   source: a `BatchSource`.
      events: True: as events. False: as it is. None: as events where `source` is `DeviceEvents` with at most `MAX_DENSITY` spikes a unit a step, the
        network's `takes_events` is True and the machine computes on a CPU. `Augmented` sources the same, if they change whole samples only.

    Raises:
      TypeError: events is True and the network takes none, or the source's lists are not known or change.

    >>> from flax import nnx
    >>> from snnjax.datasets import randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> network = Sequential(SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs), Readout(16, 2, rngs=rngs))
    >>> data = DeviceEvents.put(randman(n_classes=2, n_samples=20), dt=2e-3)
    >>> type(choose_form(network, data, events=True)).__name__, choose_form(network, data, events=False) is data
    ('SparseEvents', True)
    """
    if events is not None and not isinstance(events, bool):
        raise TypeError(f"events must be True, False or None, got {events!r}")
    if events is False or isinstance(source, SparseEvents):
        return source
    if isinstance(source, Augmented) and source.keeps_lists:
        return dataclasses.replace(
            source, source=choose_form(network, source.source, events=events)
        )
    able = getattr(network, "takes_events", False)
    if events and not able:
        raise TypeError(
            f"events must not be True for a network that takes no events, got a {type(network).__name__}; its first layer must be dense"
        )
    if not isinstance(source, DeviceEvents):
        if events:
            raise TypeError(
                f"events must not be True for a source whose lists change or are not known, got {type(source).__name__}"
            )
        return source
    fast = able and jax.default_backend() == "cpu" and source.density <= MAX_DENSITY
    return SparseEvents.of(source) if events or fast else source
