"""Random arrays that share programs have the numbers of `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax._random import draw

KINDS = (jax.random.normal, jax.random.exponential, jax.random.uniform)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 3, 7, 9), (400, 400)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_are_those_of_jax_random(kind, shape):
    """Alone and under jit; 400 x 400 needs the second length."""
    key = jax.random.key(3)
    expected = kind(key, shape, jnp.float32)
    one = lambda key: draw(kind, key, shape, jnp.float32)
    for got in (one(key), jax.jit(one)(key)):
        assert (got.shape, got.dtype) == (shape, jnp.float32)
        assert np.array_equal(got, expected)


def test_numbers_of_16_bits_and_of_an_old_key():
    key = jax.random.PRNGKey(3)
    got = draw(jax.random.normal, key, (5, 7), jnp.bfloat16)
    assert np.array_equal(got, jax.random.normal(key, (5, 7), jnp.bfloat16))


def test_other_generators_draw_the_exact_length():
    """The old threefry has other numbers in a longer draw; rbg depends on the backend."""
    lengths = []

    def kind(key, shape, dtype):
        lengths.append(shape)
        return jax.random.normal(key, shape, dtype)

    draw(kind, jax.random.key(0, impl="rbg"), (4, 5), jnp.float32)
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        got = draw(kind, key, (4, 5), jnp.float32)
        assert np.array_equal(got, jax.random.normal(key, (4, 5)))
    assert lengths == [(20,), (20,)]


def test_members_of_an_ensemble_draw_what_they_draw_alone():
    keys = jax.random.split(jax.random.key(1), 3)
    one = lambda key: draw(jax.random.normal, key, (6, 2), jnp.float32)
    assert np.array_equal(jax.vmap(one)(keys), np.stack([one(key) for key in keys]))


def test_layers_of_any_shape_share_a_program():
    lengths = set()

    def kind(key, shape, dtype):
        lengths.add(shape)
        return jax.random.normal(key, shape, dtype)

    for shape in ((3, 3, 2, 8), (700, 20), (64,)):
        draw(kind, jax.random.key(0), shape, jnp.float32)
    assert lengths == {(2**17,)}
