import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax import _check


@pytest.mark.parametrize(
    "value", [0.02, 1, np.float32(0.5), np.array([0.1, 0.2]), jnp.array([0.1, 0.2])]
)
def test_number_returns_what_it_got(value):
    assert _check.number("tau", value, above=0) is value


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (0.0, ValueError, "tau must be finite and > 0 s, got 0.0"),
        (float("nan"), ValueError, "tau must be finite and > 0 s, got nan"),
        (float("inf"), ValueError, "tau must be finite and > 0 s, got inf"),
        (np.array([0.1, -2.0]), ValueError, "got -2.0"),
        ("0.1", TypeError, "tau must be a real number or an array of them, got str '0.1'"),
        (True, TypeError, "got bool True"),
        (None, TypeError, "got NoneType None"),
        (object(), TypeError, "got object"),
        (1 + 2j, TypeError, "got complex"),
    ],
)
def test_number_refuses(value, error, match):
    with pytest.raises(error, match=match):
        _check.number("tau", value, above=0, unit="s")


def test_number_lets_tracers_pass():
    assert jax.jit(lambda tau: _check.number("tau", tau, above=0))(-1.0) == -1.0


@pytest.mark.parametrize(
    ("value", "error"),
    [(1.5, TypeError), (True, TypeError), ("3", TypeError), (0, ValueError), (11, ValueError)],
)
def test_integer_refuses(value, error):
    with pytest.raises(error, match="n must be"):
        _check.integer("n", value, at_least=1, at_most=10)


def test_integer_takes_numpy_integers():
    assert _check.integer("n", np.int64(3)) == 3
    assert type(_check.integer("n", np.int64(3))) is int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.02, None),
        (1.0, None),
        (np.array([]), None),
        (float("nan"), None),
        (2, "dt = 2 s is longer than 1 s; times are in seconds: did you mean 0.002?"),
        (5000, "dt = 5000 s is longer than 1 s; times are in seconds: did you mean 0.005?"),
        (
            jnp.array([0.02, 20.0]),
            "dt = 20 s is longer than 1 s; times are in seconds: did you mean 0.02?",
        ),
    ],
)
def test_times_above_a_second_may_have_another_unit(value, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _check.hint_seconds("dt", value)
    assert [str(w.message) for w in caught] == ([] if said is None else [said])
    assert all(w.category is UserWarning and w.filename == __file__ for w in caught)


def test_a_traced_time_gives_no_hint():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda dt: _check.hint_seconds("dt", dt))(20.0)


def test_random_keys_of_both_kinds_pass_traced_or_not():
    for key in (
        jax.random.key(0),
        jax.random.PRNGKey(0),
        jax.random.key(0, impl="rbg"),
        jax.random.PRNGKey(0, impl="rbg"),
    ):
        assert _check.key("key", key) is key
        assert jax.jit(lambda k: _check.key("key", k))(key).shape == key.shape
    # inside vmap, a batch of keys is one key
    assert jax.vmap(lambda k: _check.key("key", k))(
        jax.random.split(jax.random.key(0), 3)
    ).shape == (3,)


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (0, TypeError, r"noise must be a random key such as jax\.random\.key\(0\), got int 0"),
        (None, TypeError, "got NoneType None"),
        (np.random.default_rng(0), TypeError, "got Generator"),
        (jnp.zeros(2), TypeError, r"got \w+ float32 \(2,\)"),
        (jnp.zeros(3, jnp.uint32), TypeError, r"uint32 \(3,\)"),
        (
            jax.random.split(jax.random.key(0), 3),
            ValueError,
            r"noise must be one random key, got keys of shape \(3,\)",
        ),
        (jax.random.split(jax.random.PRNGKey(0), 3), ValueError, r"got keys of shape \(3,\)"),
    ],
)
def test_what_is_no_random_key_is_named(key, error, match):
    with pytest.raises(error, match=match):
        _check.key("noise", key)
