"""Data sets: one container of events, its sources, and what sends it to the device."""

from snnjax.datasets.events import EventDataset

__all__ = ["EventDataset"]
