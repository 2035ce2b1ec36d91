import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import batch, enable_x64
from flax import nnx

from snnjax import _check
from snnjax._sparse import EventRaster, as_dense
from snnjax.calibration import input_powers
from snnjax.datasets import Augmented, DeviceImages, ImageDataset, Splits, poisson_raster
from snnjax.datasets._device import DeviceArrays, DeviceEvents
from snnjax.datasets._events import EventDataset
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.dynamics import LIF
from snnjax.nn import FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training import Objective, fit


def ragged(seed=0, samples=9, units=6):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, samples)
    counts[3] = 0  # a silent sample must give zeros
    return EventDataset.from_lists(
        [np.sort(rng.uniform(0, 0.12, c)) for c in counts], [rng.integers(0, units, c) for c in counts],
        rng.integers(0, 4, samples), num_units=units, num_classes=4, duration=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("indices", "jit"),
    [([0, 1, 2], True), ([8, 3, 3, 0], True), ([8, 3, 3, 0], False), ([5], True)],
)
def test_batch_equals_the_dense_raster(indices, jit):
    data = ragged()
    source = DeviceEvents.from_dataset(data, dt=2e-3)
    assert len(source) == 9
    f = lambda i: source.batch(i)
    x, labels = (jax.jit(f) if jit else f)(jnp.array(indices))
    np.testing.assert_array_equal(x, data.to_dense(2e-3)[:, indices])
    np.testing.assert_array_equal(labels, data.labels[indices])


def test_fewer_steps_drop_late_events():
    data = ragged()
    x, _ = batch(DeviceEvents.from_dataset(data, dt=2e-3, num_steps=20), np.arange(9))
    np.testing.assert_array_equal(x, data.to_dense(2e-3, 20))


def test_several_spikes_in_a_bin_count():
    data = EventDataset.from_lists(
        [[0.0, 0.0001, 0.0002]], [[1, 1, 0]], [0], num_units=2, duration=0.01
    )
    x, _ = batch(DeviceEvents.from_dataset(data, dt=1e-3), np.array([0]))
    assert np.asarray(x)[0, 0].tolist() == [1.0, 2.0]


def test_source_is_a_pytree_argument_and_is_not_baked_into_the_program():
    source = DeviceEvents.from_dataset(ragged(), dt=2e-3)
    program = jax.jit(lambda s, i: s.batch(i)[0]).lower(source, jnp.arange(3)).as_text()
    assert len(program) < 20_000
    other = DeviceEvents.from_dataset(ragged(), dt=2e-3)
    found, expected = (batch(s, np.arange(3))[0] for s in (other, source))
    np.testing.assert_array_equal(found, expected)


def test_arrays():
    x = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    source = DeviceArrays(x=jnp.asarray(x), labels=jnp.array([4, 1]))
    out, labels = batch(source, np.array([1, 0]))
    np.testing.assert_array_equal(out, x[[1, 0]].swapaxes(0, 1))
    assert out.dtype == jnp.float32
    assert labels.tolist() == [1, 4]


def test_batches_are_float32_in_64_bit_mode():
    images = ImageDataset(
        images=np.arange(36.0).reshape(9, 2, 2, 1), labels=np.arange(9) % 2, num_classes=2
    )
    with enable_x64():
        key, plain = jax.random.key(0), DeviceEvents.from_dataset(ragged(), dt=2e-3)
        for source, drawn in [
            (plain, None),
            (SparseEvents.from_events(plain), None),
            (DeviceArrays(x=np.ones((9, 5, 2)), labels=np.arange(9) % 2), None),
            (
                Augmented(
                    source=plain,
                    unit_shift=2,
                    time_stretch=0.2,
                    drop=0.2,
                    time_jitter=1.0,
                    unit_jitter=1.0,
                    insert=0.5,
                ),
                key,
            ),
            (
                Augmented(source=SparseEvents.from_events(plain), unit_shift=2, time_stretch=0.2),
                key,
            ),
            (DeviceImages.from_dataset(images, num_steps=3, flip=True, shift=1), key),
        ]:
            x, _ = jax.eval_shape(source.batch, jax.ShapeDtypeStruct((4,), jnp.int32), drawn)
            assert all(
                a.dtype == jnp.int32 for a in jax.tree.leaves(x) if isinstance(x, EventRaster)
            )
            assert jax.eval_shape(as_dense, x).dtype == jnp.float32, type(source)
        raster = jax.eval_shape(
            lambda key: poisson_raster(key, (3, 2, 2), rate=20.0, dt=np.float64(2e-3)), key
        )
        assert raster.dtype == jnp.float32


def test_random_changes_are_the_same_in_64_bit_mode():
    def changed():
        source = Augmented(
            source=DeviceEvents.from_dataset(ragged(), dt=2e-3),
            unit_shift=2,
            time_stretch=0.2,
            drop=0.2,
        )
        return np.asarray(jax.jit(source.batch)(np.arange(4, dtype=np.int32), jax.random.key(0))[0])

    expected = changed()
    with enable_x64():
        np.testing.assert_array_equal(changed(), expected)


def test_sources_know_their_time_step():
    plain = DeviceEvents.from_dataset(ragged(), dt=2e-3)
    wrapped = [
        plain,
        SparseEvents.from_events(plain),
        Augmented(source=plain, drop=0.1),
        Augmented(source=SparseEvents.from_events(plain)),
    ]
    for source in wrapped:
        assert source.dt == 2e-3
        assert jax.jit(lambda s: s)(source).dt == 2e-3  # part of the structure
        _check.same_dt("train", source, 2e-3)
        with pytest.raises(
            ValueError, match=r"dt must be the time step of train, 0\.002 s, got 0\.001 s"
        ):
            _check.same_dt("train", source, 1e-3)
        jax.jit(lambda dt, source=source: _check.same_dt("train", source, dt))(
            1e-3
        )  # not known yet
    addresses, offsets = ragged().bins(2e-3)
    for unknown in (
        DeviceEvents.from_bins(addresses, offsets, ragged().labels, num_steps=50, num_units=6),
        DeviceArrays(x=jnp.zeros((3, 4, 2)), labels=jnp.zeros(3, int)),
        object(),
    ):
        _check.same_dt("train", unknown, 1e-3)
    with pytest.warns(
        UserWarning, match=r"dt = 2 s is longer than 1 s.*did you mean 0\.002"
    ) as caught:
        DeviceEvents.from_dataset(ragged(), dt=2)
    assert [w.filename for w in caught] == [__file__]


def test_data_of_another_time_step_are_not_trained_on():
    rngs = nnx.Rngs(0)
    network = Sequential(
        SpikingDense(6, 5, init=FluctuationDriven(nu=50.0), rngs=rngs), Readout(5, 4, rngs=rngs)
    )
    good, bad = (
        DeviceEvents.from_dataset(ragged(), dt=2e-3),
        DeviceEvents.from_dataset(ragged(), dt=1e-3),
    )
    arrays = DeviceArrays(x=jnp.zeros((9, 5, 6)), labels=jnp.zeros(9, int), dt=1e-3)
    options = {"epochs": 1, "batch_size": 3, "key": jax.random.key(0)}
    for name, sets in [
        ("train", {"train": bad}),
        ("train", {"train": Augmented(source=bad, drop=0.1)}),
        ("train", {"train": SparseEvents.from_events(bad)}),
        ("train", {"train": arrays}),
        ("valid", {"train": good, "valid": bad}),
        ("test", {"train": good, "test": bad}),
    ]:
        with pytest.raises(
            ValueError, match=rf"dt must be the time step of {name}, 0\.001 s, got 0\.002 s"
        ):
            fit(network, Splits(**sets), Objective(), optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match=r"dt must be the time step of x, 0\.001 s, got 0\.002 s"):
        input_powers(bad, LIF())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: DeviceEvents.from_dataset(ragged().subset([]), dt=2e-3),
            "data must hold at least one sample",
        ),
        (lambda: DeviceEvents.from_dataset(ragged(), dt=0.0), "dt must be finite and > 0"),
        (
            lambda: DeviceEvents.from_dataset(ragged(), dt=1e-3, num_steps=0),
            "num_steps must be >= 1",
        ),
        (lambda: DeviceArrays(x=jnp.zeros((3, 4)), labels=jnp.zeros(3, int)), "x must have shape"),
        (
            lambda: DeviceArrays(x=jnp.zeros((3, 4, 2)), labels=jnp.zeros(3)),
            "labels must be integers",
        ),
        (
            lambda: DeviceArrays(x=jnp.zeros((3, 4, 2)), labels=jnp.zeros(3, int), dt=-1.0),
            "dt must be finite and > 0 s",
        ),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("shape", [(6, 2), (6, 5, 1)])
def test_values_and_traces_come_with_their_samples(shape):
    labels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    source = DeviceArrays(x=jnp.zeros((6, 5, 3)), labels=jnp.asarray(labels))
    _, y = batch(source, np.array([4, 1]))
    np.testing.assert_array_equal(
        y, labels[[4, 1]] if len(shape) == 2 else np.moveaxis(labels[[4, 1]], 1, 0)
    )
    for wrong in (labels[1:], np.zeros((6, 4, 1)), np.zeros((6, 1, 1, 1)), np.zeros(6)):
        with pytest.raises(
            ValueError,
            match=r"labels must be integers \(6,\), .* or values \(6, k\), or traces \(6, 5, k\), got",
        ):
            DeviceArrays(x=jnp.zeros((6, 5, 3)), labels=jnp.asarray(wrong))
