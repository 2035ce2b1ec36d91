"""The form of a network's input: arrays, or lists of events if the first layer accepts them."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax

from snnjax.datasets import Augmented, DeviceEvents
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.nn import Layer, Sequential

T = TypeVar("T")

MAX_DENSITY = 0.15
"""Largest density, in spikes per unit and step, at which lists are used by default.

Both forms take the same time at about twice this density (`snnjax._sparse`). The margin is needed
because lists differ in length.
"""


def choose_form(network: object, source: T, *, events: bool | None = None) -> T | SparseEvents:
    """`source`, or `SparseEvents` of it.

    Args:
        network: The network that receives the batches.
        source: A `BatchSource`.
        events: True converts the source to lists of events. False leaves it unchanged. None
            converts it if `source` is `DeviceEvents` with at most `MAX_DENSITY` spikes per unit and
            step, the network's `takes_events` is True, and the machine computes on a CPU. An
            `Augmented` source is treated in the same way if it only changes whole samples.

    Returns:
        The source of the batches.

    Raises:
        TypeError: `events` is not True, False or None; or it is True, but the network does not
            accept events, or the source has no fixed lists of events.

    >>> from flax import nnx
    >>> from snnjax.datasets import randman
    >>> from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
    >>> rngs = nnx.Rngs(0)
    >>> hidden = SpikingDense(20, 16, init=FluctuationDriven(nu=5.0), rngs=rngs)
    >>> network = Sequential(hidden, Readout(16, 2, rngs=rngs))
    >>> data = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=20), dt=2e-3)
    >>> type(choose_form(network, data, events=True)).__name__
    'SparseEvents'
    >>> choose_form(network, data, events=False) is data
    True
    """
    if events is not None and not isinstance(events, bool):
        raise TypeError(f"events must be True, False or None, got {events!r}")
    if events is False or isinstance(source, SparseEvents):
        return source
    if isinstance(source, Augmented) and source.keeps_lists:
        inner = choose_form(network, source.source, events=events)
        return dataclasses.replace(source, source=inner)
    able = isinstance(network, Layer | Sequential) and network.takes_events
    if events and not able:
        needed = "events must not be True for a network that takes no events"
        raise TypeError(f"{needed}, got {type(network).__name__}; its first layer must be dense")
    if not isinstance(source, DeviceEvents):
        if events:
            needed = "events must not be True for a source whose lists change or are not known"
            hint = "use DeviceEvents, or leave events out"
            raise TypeError(f"{needed}, got {type(source).__name__}; {hint}")
        return source
    fast = able and jax.default_backend() == "cpu" and source.density <= MAX_DENSITY
    return SparseEvents.from_events(source) if events or fast else source
