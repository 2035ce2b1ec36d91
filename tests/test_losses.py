import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snnjax import losses


def trace(seed=0, shape=(7, 4, 5)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def numpy_cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize(
    ("logits", "reference"),
    [
        (losses.max_over_time, lambda o: o.max(axis=0)),
        (losses.sum_over_time, lambda o: o.sum(axis=0)),
        (losses.last_step, lambda o: o[-1]),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_cross_entropy_equals_numpy(logits, reference, jit):
    o, labels = trace(), np.array([0, 4, 2, 2])
    f = lambda o: losses.CrossEntropy(logits)(o, jnp.asarray(labels))
    got = (jax.jit(f) if jit else f)(o)
    np.testing.assert_allclose(
        got, numpy_cross_entropy(reference(np.asarray(o)), labels), rtol=1e-5
    )


def test_gradient_of_max_goes_to_the_first_of_equal_maxima():
    o = jnp.zeros((4, 1, 2)).at[2, 0, 1].set(1.0)
    g = jax.grad(lambda o: losses.max_over_time(o).sum())(o)
    # class 0 is flat: only step 0 has a gradient; class 1 has its maximum at step 2
    np.testing.assert_array_equal(np.asarray(g)[:, 0], [[1, 0], [0, 0], [0, 1], [0, 0]])


def test_cross_entropy_is_finite_for_large_logits():
    o = jnp.array([[[1e30, -1e30]]])
    assert np.isfinite(losses.CrossEntropy()(o, jnp.array([0]))).all()


def test_mean_square_of_trace_and_of_labels():
    o, target = trace(0), trace(1)
    np.testing.assert_allclose(
        losses.MeanSquare()(o, target),
        np.mean((np.asarray(o) - np.asarray(target)) ** 2, axis=(0, 2)),
        rtol=1e-5,
    )
    labels = jnp.array([1, 0, 3, 4])
    one_hot = np.eye(5)[np.asarray(labels)][None]
    np.testing.assert_allclose(
        losses.MeanSquare()(o, labels),
        np.mean((np.asarray(o) - one_hot) ** 2, axis=(0, 2)),
        rtol=1e-5,
    )


def test_correct():
    o = jnp.array([[[0.0, 1.0], [5.0, 0.0]], [[0.5, 0.2], [0.0, 4.0]]])
    assert losses.correct(o, jnp.array([1, 0])).tolist() == [True, True]
    assert losses.correct(o, jnp.array([1, 0]), readout_fn=losses.last_step).tolist() == [
        False,
        False,
    ]


def test_vmap_over_an_ensemble_equals_a_loop():
    o, labels = trace(shape=(3, 7, 4, 5)), jnp.array([0, 1, 2, 3])
    got = jax.vmap(losses.CrossEntropy(), in_axes=(0, None))(o, labels)
    np.testing.assert_allclose(got, [losses.CrossEntropy()(x, labels) for x in o], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: losses.CrossEntropy()(jnp.zeros((5, 2)), jnp.zeros(2, int)),
            ValueError,
            r"readout must have shape \(time, batch, features\)",
        ),
        (
            lambda: losses.CrossEntropy()(jnp.zeros((5, 2, 3)), jnp.zeros(3, int)),
            ValueError,
            r"labels must have shape \(2,\)",
        ),
        (
            lambda: losses.CrossEntropy()(jnp.zeros((5, 2, 3)), jnp.zeros(2)),
            TypeError,
            "labels must be integers, got float",
        ),
        (
            lambda: losses.MeanSquare()(jnp.zeros((5, 2, 3)), jnp.zeros((5, 2, 4))),
            ValueError,
            "target must have the readout's shape",
        ),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_nan_is_never_correct():
    assert losses.correct(jnp.full((3, 2, 4), jnp.nan), jnp.array([0, 1])).tolist() == [
        False,
        False,
    ]


LABELS = np.array([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]])


def test_mean_over_time():
    np.testing.assert_allclose(
        losses.mean_over_time(trace()), np.asarray(trace()).mean(axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("read", [losses.last_step, losses.mean_over_time, losses.max_over_time])
def test_squared_error_of_values_that_are_read_from_the_trace(read):
    o, target = trace(), np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    expected = np.mean((np.asarray(read(o), np.float64) - target) ** 2, axis=1)
    np.testing.assert_allclose(
        losses.SquaredError(read)(o, jnp.asarray(target)), expected, rtol=1e-5
    )


def test_several_labels_are_as_in_optax():
    o, loss = trace(), losses.SigmoidCrossEntropy(losses.mean_over_time)
    logits = np.asarray(o, np.float64).mean(axis=0)
    expected = optax.sigmoid_binary_cross_entropy(jnp.asarray(logits, jnp.float32), LABELS).mean(
        axis=1
    )
    assert loss.metric(None).name == "label_accuracy"
    for labels in (LABELS, LABELS.astype(bool), LABELS.astype(np.float32)):
        np.testing.assert_allclose(loss(o, jnp.asarray(labels)), expected, rtol=1e-5)
        right = np.mean((logits > 0) == LABELS.astype(bool), axis=1)
        np.testing.assert_allclose(loss.metric(None).of(o, jnp.asarray(labels)), right, rtol=1e-6)
    soft = losses.SigmoidCrossEntropy(losses.last_step)(
        jnp.zeros((3, 1, 2)), jnp.array([[0.3, 0.7]])
    )
    np.testing.assert_allclose(soft, np.log(2), rtol=1e-6)
    assert (
        loss.metric(None).of(jnp.full((3, 4, 5), jnp.nan), jnp.asarray(LABELS)).tolist()
        == [0.0] * 4
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bits_are_computed_in_32(dtype):
    """100 steps of 100 sum to 10,000.

    The square is beyond float16, and a sum in bfloat16 would stop early.
    """
    o = jnp.full((100, 2, 3), 100.0, dtype)
    zero = jnp.zeros((2, 3))
    assert losses.sum_over_time(o).tolist() == [[10_000.0] * 3] * 2
    assert losses.mean_over_time(o).tolist() == [[100.0] * 3] * 2
    values = [
        (losses.CrossEntropy(losses.sum_over_time)(o, jnp.array([0, 2])), np.log(3)),
        (losses.MeanSquare()(10 * o, jnp.zeros((100, 2, 3), dtype)), 1e6),
        (losses.SquaredError(losses.sum_over_time)(o, zero), 1e8),
        (losses.SigmoidCrossEntropy(losses.sum_over_time)(o, zero), 1e4),
    ]  # fmt: skip
    for found, expected in values:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("label", [-1, 5, -100])
@pytest.mark.parametrize("f", [losses.CrossEntropy(), losses.MeanSquare(), losses.correct])
def test_labels_out_of_range_are_named_where_they_are_known(f, label):
    labels = jnp.array([label, 0, 1, 4])
    with pytest.raises(
        ValueError,
        match=rf"labels must be in \[0, 5\), one class per output of the readout, got {label}",
    ):
        f(trace(), labels)
    assert jax.jit(f)(trace(), labels).shape == (4,)


def test_a_traced_label_out_of_range_is_nan():
    values = jax.jit(losses.CrossEntropy())(trace(), jnp.array([-1, 0, 5, 4]))
    assert np.isnan(values).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda o: losses.CrossEntropy()(o, jnp.zeros(7, int)), ValueError, r"got \(7,\); arrays are time-major"),
        (lambda o: losses.CrossEntropy()(o, jnp.asarray(LABELS, float)), TypeError, "SigmoidCrossEntropy takes several labels"),
        (lambda o: losses.MeanSquare()(o, jnp.zeros((4, 7, 5))), ValueError, r"got \(4, 7, 5\); arrays are time-major"),
        (lambda o: losses.SquaredError()(o, jnp.zeros((7, 5))), ValueError, r"\(batch, k\) = \(4, 5\).*got \(7, 5\); arrays are time-major"),
        (lambda o: losses.SquaredError()(o, o), ValueError, r"got \(7, 4, 5\); MeanSquare takes traces"),
        (lambda o: losses.SquaredError()(o[..., :1], jnp.zeros(4)), ValueError, r"got \(4,\); use target\[:, None\]"),
        (lambda o: losses.SquaredError()(o, jnp.zeros((4, 3))), ValueError, r"got \(4, 3\)$"),
        (lambda o: losses.SigmoidCrossEntropy()(o, 2 * jnp.asarray(LABELS)), ValueError, "target must be finite and >= 0 and <= 1, got 2"),
        (lambda o: losses.SigmoidCrossEntropy()(o, jnp.zeros(4, int)), ValueError, r"\(batch, k\) = \(4, 5\).*got \(4,\)"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call(trace())


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (losses.CrossEntropy(losses.sum_over_time), np.array([0, 4, 2, 2])),
        (losses.CrossEntropy(), np.eye(5)[[0, 4, 2, 2]]),
        (losses.SigmoidCrossEntropy(), LABELS),
        (losses.MeanSquare(), np.array([0, 4, 2, 2])),
        (losses.MeanSquare(), np.asarray(trace(1))),
        (losses.SquaredError(), np.asarray(trace(1))),
    ],
)
def test_every_step_is_the_mean_of_a_loop_over_steps(loss, target):
    o, target = trace(), jnp.asarray(target)
    own = lambda t: target if target.ndim < 3 else target[t : t + 1]
    if isinstance(loss, losses.SquaredError):
        own = lambda t: target[t]
    expected = np.mean([loss(o[t : t + 1], own(t)) for t in range(7)], axis=0)
    every = losses.EveryStep(loss)
    np.testing.assert_allclose(every(o, target), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(every)(o, target), expected, rtol=1e-6)
    if isinstance(loss, losses.MeanSquare):
        np.testing.assert_allclose(every(o, target), loss(o, target), rtol=1e-6)
    metric, inner = every.metric(target), loss.metric(target)
    assert (metric is None) == (inner is None or target.ndim == 3)
    if metric is not None:
        np.testing.assert_array_equal(metric.of(o, target), inner.of(o, target))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda o: losses.EveryStep(losses.max_over_time), TypeError, "loss must be a loss of one step, for example CrossEntropy"),
        (lambda o: losses.EveryStep(losses.EveryStep()), TypeError, "loss must be a loss of one step"),
        (lambda o: losses.EveryStep(losses.MeanSquare())(o, o[:4]), ValueError, r"target must have the 7 steps of the readout, got the shape \(4, 4, 5\)"),
        (lambda o: losses.EveryStep()(o, jnp.array([0, 1, 2, 5])), ValueError, r"labels must be in \[0, 5\), .* got 5"),
        (lambda o: losses.EveryStep()(o[0], jnp.array([0, 1, 2, 3])), ValueError, "readout must have shape"),
    ],
)  # fmt: skip
def test_errors_of_every_step(call, error, match):
    with pytest.raises(error, match=match):
        call(trace())
