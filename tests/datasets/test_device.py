import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax.datasets.device import DeviceArrays, DeviceEvents
from snnjax.datasets.events import EventDataset


def ragged(seed=0, samples=9, units=6):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, samples)
    counts[3] = 0  # a silent sample must come out as zeros
    return EventDataset.from_lists(
        [np.sort(rng.uniform(0, 0.12, c)) for c in counts], [rng.integers(0, units, c) for c in counts],
        rng.integers(0, 4, samples), n_units=units, n_classes=4, duration=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("indices", [[0, 1, 2], [8, 3, 3, 0], [5]])
def test_batch_equals_the_dense_raster(indices, jit):
    data = ragged()
    source = DeviceEvents.put(data, dt=2e-3)
    assert len(source) == 9
    f = lambda i: source.batch(i)  # noqa: E731
    x, labels = (jax.jit(f) if jit else f)(jnp.array(indices))
    np.testing.assert_array_equal(x, data.to_dense(2e-3)[:, indices])
    np.testing.assert_array_equal(labels, data.labels[indices])


def test_fewer_steps_drop_late_events():
    data = ragged()
    x, _ = DeviceEvents.put(data, dt=2e-3, steps=20).batch(jnp.arange(9))
    np.testing.assert_array_equal(x, data.to_dense(2e-3, 20))


def test_several_spikes_in_a_bin_count():
    data = EventDataset.from_lists([[0.0, 0.0001, 0.0002]], [[1, 1, 0]], [0], n_units=2, duration=0.01)
    x, _ = DeviceEvents.put(data, dt=1e-3).batch(jnp.array([0]))
    assert x[0, 0].tolist() == [1.0, 2.0]


def test_source_is_a_pytree_argument_and_is_not_baked_into_the_program():
    source = DeviceEvents.put(ragged(), dt=2e-3)
    program = jax.jit(lambda s, i: s.batch(i)[0]).lower(source, jnp.arange(3)).as_text()
    assert len(program) < 20_000
    other = DeviceEvents.put(ragged(), dt=2e-3)
    np.testing.assert_array_equal(jax.jit(lambda s, i: s.batch(i)[0])(other, jnp.arange(3)), source.batch(jnp.arange(3))[0])


def test_arrays():
    x = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    source = DeviceArrays(x=jnp.asarray(x), labels=jnp.array([4, 1]))
    out, labels = source.batch(jnp.array([1, 0]))
    np.testing.assert_array_equal(out, x[[1, 0]].swapaxes(0, 1))
    assert out.dtype == jnp.float32
    assert labels.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: DeviceEvents.put(ragged().subset([]), dt=2e-3), "data must hold at least one sample"),
        (lambda: DeviceEvents.put(ragged(), dt=0.0), "dt must be finite and > 0"),
        (lambda: DeviceEvents.put(ragged(), dt=1e-3, steps=0), "steps must be >= 1"),
        (lambda: DeviceArrays(x=jnp.zeros((3, 4)), labels=jnp.zeros(3, int)), "x must have shape"),
        (lambda: DeviceArrays(x=jnp.zeros((3, 4, 2)), labels=jnp.zeros(3)), "labels must be integers"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
