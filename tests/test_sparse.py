"""The product of events with weights, compared with the dense product."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import ON_CPU, assert_close, batch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snnjax import _sparse as sparse
from snnjax._sparse import EventRaster, as_dense, events_dot
from snnjax.datasets import DeviceEvents, EventDataset
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.dynamics import LIF
from snnjax.nn import FluctuationDriven, SpikingDense


def events_of(counts):
    """All spike counts (time, samples, units) as a batch of events."""
    data = EventDataset.from_dense(counts, np.zeros(counts.shape[1], int), 1e-3)
    source = SparseEvents.from_events(DeviceEvents.from_dataset(data, dt=1e-3))
    return batch(source, np.arange(counts.shape[1]))[0]


def both(counts, kernel, g):
    """Product and weight gradient with the events, and with the array."""
    product = lambda w: jnp.asarray(counts, w.dtype) @ w
    return with_gradient(counts, kernel, g), product_and_gradient(product, kernel, g)


def with_gradient(counts, kernel, g):
    """Product and weight gradient with the events."""
    events = events_of(counts)
    return product_and_gradient(lambda w: events_dot(events, w), kernel, g)


def product_and_gradient(product, kernel, g):
    @jax.jit
    def run(kernel, g):
        out, pull = jax.vjp(product, kernel)
        return out, *pull(g)

    return run(kernel, g)


@settings(max_examples=15)  # each is compiled
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 30)), n=st.integers(1, 6), rate=st.sampled_from([0.0, 0.02, 0.3, 3.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(shape=(3, 3, 3), n=1, rate=0.02, seed=0)  # one event
@pytest.mark.slow
def test_equal_to_the_dense_product_for_any_size_and_density(shape, n, rate, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rate, shape).astype(np.uint8)
    kernel = jnp.asarray(
        rng.integers(-8, 9, (shape[2], n)), jnp.float32
    )  # whole numbers: any order of the sums gives the same result
    g = jnp.asarray(rng.integers(-8, 9, (*shape[:2], n)), jnp.float32)
    events, dense = both(counts, kernel, g)
    for a, b in zip(events, dense, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_to_a_loop_in_float64(rng, x64):
    counts = rng.poisson(0.2, (300, 7, 41)).astype(np.uint8)
    counts[:, 2] = (
        0  # a sample and a unit without a spike, a step with many, and a unit with more than others
    )
    counts[:, :, 5] = 0
    counts[17] += 3
    counts[:, :, 40] += 2
    kernel, g = rng.normal(size=(41, 13)), rng.normal(size=(300, 7, 13))
    out, of_weights = with_gradient(counts, kernel, g)
    expected, weights = np.zeros((300, 7, 13)), np.zeros((41, 13))
    for t, b, i in zip(*np.nonzero(counts), strict=True):
        expected[t, b] += counts[t, b, i] * kernel[i]
        weights[i] += counts[t, b, i] * g[t, b]
    assert_close(out, expected, 1e-12)
    assert_close(of_weights, weights, 1e-12)


def test_float32_gradients_within_1e_5_of_the_dense_ones(rng):
    counts = (rng.random((350, 8, 700)) < 0.03).astype(np.uint8)
    kernel, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((700, 16), (350, 8, 16)))
    for a, b in zip(*both(counts, kernel, g), strict=True):
        difference, b = np.asarray(a) - np.asarray(b), np.asarray(b)
        assert np.linalg.norm(difference) / np.linalg.norm(b) < 1e-6
        assert np.abs(difference).max() / np.abs(b).max() < 1e-5


def test_bfloat16_weights_are_summed_in_float32(rng):
    counts = (rng.random((50, 3, 300)) < 0.2).astype(np.uint8)
    kernel = jnp.asarray(rng.normal(size=(300, 8)), jnp.bfloat16)
    g = jnp.asarray(rng.normal(size=(50, 3, 8)), jnp.float32)
    out, weights = with_gradient(counts, kernel, g)
    assert out.dtype == jnp.float32
    assert_close(out, jnp.asarray(counts, jnp.float32) @ kernel.astype(jnp.float32), 1e-5)
    assert weights.dtype == jnp.bfloat16
    exact = jnp.einsum("tbi,tbn->in", jnp.asarray(counts, jnp.float32), g)
    assert float(jnp.abs(weights.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()) < 2**-8


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_with_and_without_jit(self):
        rng = np.random.default_rng(0)
        counts, kernel = (
            rng.poisson(0.3, (30, 4, 9)).astype(np.uint8),
            jnp.asarray(rng.normal(size=(9, 5)), jnp.float32),
        )
        out = self.variant(events_dot)(events_of(counts), kernel)
        assert_close(out, jnp.asarray(counts, jnp.float32) @ kernel, 1e-5)


def test_vmap_over_weights_and_over_batches(rng):
    counts = rng.poisson(0.3, (2, 30, 4, 9)).astype(np.uint8)
    kernels = jnp.asarray(rng.normal(size=(3, 9, 5)), jnp.float32)
    x = events_of(counts[0])
    grad = lambda w: jax.grad(lambda w: jnp.sum(events_dot(x, w) ** 2))(w)
    dense = lambda w: jax.grad(lambda w: jnp.sum((jnp.asarray(counts[0], jnp.float32) @ w) ** 2))(w)
    assert_close(jax.jit(jax.vmap(grad))(kernels), jax.jit(jax.vmap(dense))(kernels), 1e-4)
    data = SparseEvents.from_events(
        DeviceEvents.from_dataset(
            EventDataset.from_dense(
                counts.swapaxes(0, 1).reshape(30, 8, 9), np.zeros(8, int), 1e-3
            ),
            dt=1e-3,
        )
    )
    two = jax.vmap(lambda i: events_dot(data.batch(i)[0], kernels[0]))(jnp.arange(8).reshape(2, 4))
    assert_close(two, jnp.asarray(counts, jnp.float32) @ kernels[0], 1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_the_dense_product(platform, rng):
    x, kernel = events_of((rng.random((20, 2, 9)) < 0.2).astype(np.uint8)), jnp.ones((9, 5))
    program = jax.export.export(
        jax.jit(jax.value_and_grad(lambda w, x: events_dot(x, w).sum())), platforms=[platform]
    )(kernel, x).mlir_module()
    assert "dot_general" in program
    assert "stablehlo.while" not in program
    here = jax.export.export(
        jax.jit(jax.value_and_grad(lambda w, x: events_dot(x, w).sum())), platforms=["cpu"]
    )(kernel, x).mlir_module()
    assert "stablehlo.while" in here
    assert "dot_general" not in here


@ON_CPU
def test_weights_that_no_spike_meets_do_not_show():
    counts = np.zeros((3, 1, 2), np.uint8)
    counts[1, 0, 0] = 1
    out = events_dot(events_of(counts), jnp.array([[1.0], [jnp.nan]]))
    assert out.ravel().tolist() == [0.0, 1.0, 0.0]


def test_dense_and_shape(rng):
    counts = rng.poisson(0.5, (12, 3, 4)).astype(np.uint8)
    x = events_of(counts)
    assert (x.shape, x.ndim, len(x)) == ((12, 3, 4), 3, 12)
    np.testing.assert_array_equal(x.dense(), counts)
    np.testing.assert_array_equal(as_dense(x), counts)
    assert as_dense(counts) is counts


def test_the_longest_lists_do_not_reach_into_other_samples(rng):
    # each list is read UNROLL entries at a time, beyond its end: entries after it must not count
    counts = np.zeros((2, 3, 2), np.uint8)
    counts[-1, :, -1] = 2 * sparse.UNROLL + 1
    kernel, g = (
        jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(2, 3, 3)), jnp.float32),
    )
    for a, b in zip(*both(counts, kernel, g), strict=True):
        assert_close(a, b, 1e-5)


def test_a_layer_takes_events(rng):
    from flax import nnx

    counts = (rng.random((60, 3, 20)) < 0.1).astype(np.uint8)
    layer = SpikingDense(
        20,
        8,
        init=FluctuationDriven(nu=50.0),
        neuron=LIF(dt=2e-3),
        recurrent=True,
        rngs=nnx.Rngs(0),
    )
    x = events_of(counts)
    assert isinstance(x, EventRaster)
    events, dense = layer(x, membrane=True), layer(jnp.asarray(counts, jnp.float32), membrane=True)
    assert float(dense.output.mean()) > 0.005
    np.testing.assert_array_equal(events.output, dense.output)
    assert_close(events.membrane, dense.membrane, 1e-5)
    with pytest.raises(ValueError, match="x must have 19 features"):
        SpikingDense(19, 8, init=FluctuationDriven(nu=50.0), rngs=nnx.Rngs(0))(x)
