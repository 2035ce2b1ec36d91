import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.nn import Flatten, Pool, Reshape

T, B = 4, 3


def pool_loop(x, window, stride, reduce):
    """Window by window over the axes between batch and channels."""
    positions = [(n - w) // s + 1 for n, w, s in zip(x.shape[2:-1], window, stride, strict=True)]
    out = np.zeros((*x.shape[:2], *positions, x.shape[-1]))
    for p in np.ndindex(*positions):
        cut = x[:, :, *(slice(q * s, q * s + w) for q, s, w in zip(p, stride, window, strict=True))]
        out[:, :, *p] = reduce(cut, axis=tuple(range(2, x.ndim - 1)))
    return out


@pytest.mark.parametrize(
    ("kind", "reduce"), [("max", np.max), ("average", np.mean), ("sum", np.sum)]
)
@pytest.mark.parametrize(
    ("spatial", "window", "stride", "sizes"),
    [
        ((7,), 2, None, ((2,), (2,))),  # the last position is left out
        ((7,), (3,), 2, ((3,), (2,))),
        ((6, 5), 2, None, ((2, 2), (2, 2))),
        ((6, 5), (3, 1), None, ((3, 1), (3, 1))),
        ((6, 5), 2, (1, 3), ((2, 2), (1, 3))),
        ((4, 4, 5), 2, None, ((2, 2, 2), (2, 2, 2))),
    ],
)
def test_pool_equals_a_loop(kind, reduce, spatial, window, stride, sizes, rng, x64):
    x = rng.normal(size=(T, B, *spatial, 2))
    layer = Pool(window, kind=kind, stride=stride)
    sim = layer(x)
    expected = pool_loop(x, *sizes, reduce)
    np.testing.assert_allclose(sim.output, expected, rtol=1e-12)
    assert (sim.membrane, sim.state) == (None, ())
    assert layer.feature_shape(x.shape[2:]) == expected.shape[2:]


def test_pool_gradients(x64):
    # in the first window, the first of two spikes gets it; in the silent second window, the first
    # position
    x = jnp.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 6, 1)
    gradient = jax.grad(lambda x: (Pool(3)(x).output.ravel() * jnp.array([2.0, 5.0])).sum())(x)
    assert gradient.ravel().tolist() == [0, 2, 0, 5, 0, 0]
    gradient = jax.grad(
        lambda x: (Pool(3, kind="average")(x).output.ravel() * jnp.array([3.0, 6.0])).sum()
    )(x)
    assert gradient.ravel().tolist() == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.uint8, jnp.int32, bool])
def test_pool_dtypes(dtype):
    x = jnp.array([0, 1, 1, 0, 0, 0]).astype(dtype).reshape(1, 1, 6, 1)
    largest, mean = Pool(2)(x).output, Pool(2, kind="average")(x).output
    assert largest.dtype == dtype
    assert largest.astype(int).ravel().tolist() == [1, 1, 0]
    assert mean.dtype == (dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)
    assert mean.ravel().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_mean_of_a_large_window_is_summed_in_float32(dtype):
    """With increments of 1, 16 bits count to 256 (bfloat16) or 2048 (float16)."""
    assert (
        float(Pool(60, kind="average")(jnp.ones((1, 1, 60, 60, 1), dtype)).output.ravel()[0]) == 1
    )
    assert float(Pool(60, kind="sum")(jnp.ones((1, 1, 60, 60, 1), dtype)).output.ravel()[0]) == 3600


def test_whole_numbers_are_averaged_in_float32_under_x64(x64):
    assert Pool(2, kind="average")(jnp.ones((1, 1, 4, 1), jnp.uint8)).output.dtype == jnp.float32


def test_max_of_negative_values():
    assert Pool(2)(
        jnp.array([-3.0, -2.0, -1.0, -5.0]).reshape(1, 1, 4, 1)
    ).output.ravel().tolist() == [-2, -1]
    assert Pool(2)(jnp.array([-3, -2, -1, -5]).reshape(1, 1, 4, 1)).output.ravel().tolist() == [
        -2,
        -1,
    ]


def test_flatten_is_position_major():
    x = jnp.arange(T * B * 2 * 3 * 5).reshape(T, B, 2, 3, 5)
    out = Flatten()(x).output
    assert out.shape == (T, B, 30)
    for row, column, channel in np.ndindex(2, 3, 5):
        np.testing.assert_array_equal(
            out[..., (row * 3 + column) * 5 + channel], x[:, :, row, column, channel]
        )


def test_reshape_and_flatten_are_inverse(rng):
    x = rng.normal(size=(T, B, 30)).astype(np.float32)
    for shape in ((2, 3, 5), (2, -1, 5), (30,), (-1,)):
        folded = Reshape(*shape)(x).output
        assert folded.shape == (T, B, *np.reshape(x[0, 0], shape).shape)
        np.testing.assert_array_equal(Flatten()(folded).output, x)


@pytest.mark.parametrize(
    "layer",
    [Pool(2), Pool((2, 1), kind="average", stride=1), Flatten(), Reshape(-1, 2)],
    ids=["max", "average", "flatten", "reshape"],
)
def test_sequence_equals_streamed_steps(layer, rng):
    x = rng.normal(size=(T, B, 4, 5, 2)).astype(np.float32)
    state, outputs = layer.initial_state(B, (4, 5, 2)), []
    for x_t in x:
        state, output = jax.jit(layer.step)(state, x_t)
        outputs.append(output)
    sim = jax.jit(lambda x: layer(x, state=()))(x)
    np.testing.assert_array_equal(sim.output, np.stack(outputs))
    assert state == sim.state == ()
    assert not layer.spiking
    # no arrays: all differences are differences of structure
    graphdef, arrays = nnx.split(layer)
    assert jax.tree.leaves(arrays) == []
    np.testing.assert_array_equal(nnx.merge(graphdef, arrays)(x).output, sim.output)
    np.testing.assert_array_equal(jax.vmap(lambda x: layer(x).output)(x[None])[0], sim.output)


def test_feature_shapes_with_unknown_sizes():
    assert Pool(2).feature_shape((None, 7, 3)) == (None, 3, 3)
    assert Flatten().feature_shape((None, 3)) == (None,)
    assert Flatten().feature_shape((5, 3)) == (15,)
    assert Reshape(5, 3).feature_shape((None,)) == (5, 3)
    assert Reshape(-1, 3).feature_shape((None,)) == (None, 3)
    assert Reshape(-1, 3).feature_shape((4, 6)) == (8, 3)
    assert (
        Pool(2).in_shape,
        Flatten().in_shape,
        Reshape(-1, 3).in_shape,
        Reshape(5, 3).in_shape,
    ) == (None, None, None, (15,))


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Pool(0), ValueError, "window must be >= 1, got 0"),
        (lambda: Pool(1.5), TypeError, "window must be an integer, got float 1.5"),
        (lambda: Pool(2, stride=0), ValueError, "stride must be >= 1, got 0"),
        (
            lambda: Pool((2, 2), stride=(1,)),
            ValueError,
            r"stride must be one number or 2, one per spatial axis, got \(1,\)",
        ),
        (
            lambda: Pool(2, kind="median"),
            ValueError,
            "kind must be one of 'max', 'average', 'sum', got 'median'",
        ),
        (lambda: Reshape(), ValueError, "shape must have at least one size"),
        (lambda: Reshape(3, 0), ValueError, "shape must be >= 1, got 0"),
        (lambda: Reshape(3, 2.0), TypeError, "shape must be an integer, got float 2.0"),
        (lambda: Reshape(-1, -1), ValueError, r"shape may have one -1, got \(-1, -1\)"),
    ],
)
def test_options_out_of_range(build, error, match):
    with pytest.raises(error, match=match):
        build()


@pytest.mark.parametrize(
    ("layer", "features", "match"),
    [
        (Pool(2), (5,), "features must have at least one spatial axis"),
        (
            Pool((2, 2)),
            (5, 3),
            "features must have 2 spatial axes and the channels to be pooled, got 1 spatial axes",
        ),
        (
            Pool(3),
            (2, 4),
            r"features must have at least \(3,\) positions, the window, got \(2, 4\)",
        ),
        (
            Reshape(7, 2),
            (15,),
            r"features \(15,\), 15 in total, do not fit into the shape \(7, 2\)",
        ),
        (
            Reshape(-1, 2),
            (5, 3),
            r"features \(5, 3\), 15 in total, do not fit into the shape \(-1, 2\)",
        ),
    ],
)
def test_inputs_that_do_not_fit(layer, features, match):
    with pytest.raises(ValueError, match=match):
        layer(jnp.zeros((T, B, *features)))
    with pytest.raises(ValueError, match=match):
        layer.step((), jnp.zeros((B, *features)))


@pytest.mark.parametrize("layer", [Pool(2), Flatten(), Reshape(2, 1)])
def test_other_errors(layer):
    with pytest.raises(
        ValueError, match=r"x must have shape \(time, batch, features\), got \(3, 2\)"
    ):
        layer(jnp.zeros((B, 2)))
    with pytest.raises(
        ValueError, match=r"x must have shape \(batch, \.\.\.features\), got \(3,\)"
    ):
        layer.step((), jnp.zeros(B))
    with pytest.raises(
        ValueError,
        match=f"membrane=True needs a layer of neurons, got {type(layer).__name__}",
    ):
        layer(jnp.zeros((T, B, 2, 1)), membrane=True)
