import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax import losses


def trace(seed=0, shape=(7, 4, 5)):
    return jax.random.normal(jax.random.key(seed), shape)


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
    f = lambda o: losses.cross_entropy(o, jnp.asarray(labels), logits=logits)  # noqa: E731
    got = (jax.jit(f) if jit else f)(o)
    np.testing.assert_allclose(got, numpy_cross_entropy(reference(np.asarray(o)), labels), rtol=1e-5)


def test_gradient_of_max_goes_to_the_first_of_equal_maxima():
    o = jnp.zeros((4, 1, 2)).at[2, 0, 1].set(1.0)
    g = jax.grad(lambda o: losses.max_over_time(o).sum())(o)
    # class 0 is flat: its gradient sits at step 0 alone; class 1 peaks at step 2
    np.testing.assert_array_equal(np.asarray(g)[:, 0], [[1, 0], [0, 0], [0, 1], [0, 0]])


def test_cross_entropy_is_finite_for_large_logits():
    o = jnp.array([[[1e30, -1e30]]])
    assert np.isfinite(losses.cross_entropy(o, jnp.array([0]))).all()


def test_mean_square_of_trace_and_of_labels():
    o, target = trace(0), trace(1)
    np.testing.assert_allclose(losses.mean_square(o, target), np.mean((np.asarray(o) - np.asarray(target)) ** 2, axis=(0, 2)), rtol=1e-5)
    labels = jnp.array([1, 0, 3, 4])
    one_hot = np.eye(5)[np.asarray(labels)][None]
    np.testing.assert_allclose(losses.mean_square(o, labels), np.mean((np.asarray(o) - one_hot) ** 2, axis=(0, 2)), rtol=1e-5)


def test_correct():
    o = jnp.array([[[0.0, 1.0], [5.0, 0.0]], [[0.5, 0.2], [0.0, 4.0]]])
    assert losses.correct(o, jnp.array([1, 0])).tolist() == [True, True]
    assert losses.correct(o, jnp.array([1, 0]), logits=losses.last_step).tolist() == [False, False]


def test_vmap_over_an_ensemble_equals_a_loop():
    o, labels = trace(shape=(3, 7, 4, 5)), jnp.array([0, 1, 2, 3])
    got = jax.vmap(losses.cross_entropy, in_axes=(0, None))(o, labels)
    np.testing.assert_allclose(got, [losses.cross_entropy(x, labels) for x in o], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: losses.cross_entropy(jnp.zeros((5, 2)), jnp.zeros(2, int)),
            ValueError,
            r"readout must have shape \(time, batch, features\)",
        ),
        (lambda: losses.cross_entropy(jnp.zeros((5, 2, 3)), jnp.zeros(3, int)), ValueError, r"labels must have shape \(2,\)"),
        (lambda: losses.cross_entropy(jnp.zeros((5, 2, 3)), jnp.zeros(2)), TypeError, "labels must be integers, got float"),
        (lambda: losses.mean_square(jnp.zeros((5, 2, 3)), jnp.zeros((5, 2, 4))), ValueError, "target must have the readout's shape"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_nan_is_never_correct():
    assert losses.correct(jnp.full((3, 2, 4), jnp.nan), jnp.array([0, 1])).tolist() == [False, False]
