import jax
import numpy as np
import pytest
from _support import batch

from snnjax._sparse import EventRaster, as_dense
from snnjax.datasets import Augmented, DeviceEvents, EventDataset, poisson
from snnjax.datasets._sparse_events import SparseEvents

DT = 2e-3
as_dense = jax.jit(as_dense)


def assert_same_batches(lists, source):
    every = np.arange(len(source))
    np.testing.assert_array_equal(as_dense(batch(lists, every)[0]), batch(source, every)[0])


@pytest.fixture(scope="module")
def source():
    return DeviceEvents.from_dataset(
        poisson(num_samples=9, num_units=30, rate=40.0, duration=0.1, seed=0), dt=DT
    )


def test_both_orders_hold_every_event_where_the_index_says(source):
    data = SparseEvents.from_events(source)
    x = np.asarray(batch(source, np.arange(9))[0])
    addresses, steps_by_unit = np.asarray(data.binned.addresses), np.asarray(data.steps_by_unit)
    first_of_step, first_of_unit = np.asarray(data.first_of_step), np.asarray(data.first_of_unit)
    steps, num_units = x.shape[0], x.shape[2]
    assert first_of_step.shape == (9, steps + 1)
    assert first_of_unit.shape == (9, num_units + 1)
    for s in range(9):
        for t in range(steps):
            here = addresses[first_of_step[s, t] : first_of_step[s, t + 1]]
            assert (
                here.tolist()
                == (t * num_units + np.repeat(np.arange(num_units), x[t, s].astype(int))).tolist()
            )
        for i in range(num_units):
            here = steps_by_unit[first_of_unit[s, i] : first_of_unit[s, i + 1]]
            assert here.tolist() == np.repeat(np.arange(steps), x[:, s, i].astype(int)).tolist()


def test_batches_are_those_of_the_source(source):
    data = SparseEvents.from_events(source)
    indices = np.array([8, 0, 0, 3])
    (x, labels), (dense, expected) = batch(data, indices), batch(source, indices)
    assert isinstance(x, EventRaster)
    np.testing.assert_array_equal(as_dense(x), dense)
    np.testing.assert_array_equal(labels, expected)
    assert (len(data), data.steps) == (9, 50)
    np.testing.assert_array_equal(data.labels, source.labels)


def test_samples_without_events_and_a_set_without_any():
    kinds = {"num_units": 4, "num_classes": 2, "duration": 0.01}
    some = EventDataset.from_lists(
        [[], [0.001, 0.005], [], []], [[], [3, 0], [], []], [0, 1, 0, 1], **kinds
    )
    none = EventDataset.from_lists([[], []], [[], []], [0, 1], **kinds)
    for data in (some, none):
        source = DeviceEvents.from_dataset(data, dt=1e-3)
        assert_same_batches(SparseEvents.from_events(source), source)


def test_padded_shards_of_a_stream(source):
    offsets = np.asarray(source.offsets)
    padded = DeviceEvents.from_bins(
        np.asarray(source.addresses)[: offsets[-1]],
        offsets,
        np.zeros(9, int),
        num_steps=source.steps,
        num_units=source.num_units,
        pad=True,
    )
    assert len(padded.addresses) > len(source.addresses)
    assert_same_batches(SparseEvents.from_events(padded), source)


def test_density(source):
    assert source.density == pytest.approx(
        np.asarray(batch(source, np.arange(9))[0]).mean(), rel=1e-6
    )


def test_sources_whose_events_are_not_known_are_refused(source):
    with pytest.raises(
        TypeError,
        match="source must be DeviceEvents, whose events are known one by one, got Augmented",
    ):
        SparseEvents.from_events(Augmented(source=source, drop=0.5))
