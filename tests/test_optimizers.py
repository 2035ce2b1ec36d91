import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import data_path

from snnjax.optimizers import smorms3


def test_reference_trajectory(x64):
    data = np.load(data_path("reference/reference_traces.npz"))
    grads, expected = data["smorms3/grads"], data["smorms3/params"]
    optimizer = smorms3(5e-3)
    params = jnp.asarray(expected[0])
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g, after in zip(grads, expected[1:], strict=True):
        updates, state = update(jnp.asarray(g), state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, after, rtol=1e-9, atol=1e-12)
    assert int(state.steps) == len(grads)


def test_zero_gradient_moves_nothing_and_stays_finite():
    optimizer = smorms3()
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2), jnp.bfloat16)}
    state = optimizer.init(params)
    for _ in range(5):
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state)
    assert all((np.asarray(u, np.float32) == 0).all() for u in jax.tree.leaves(updates))
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(state))


def test_minimizes_a_quadratic_with_noisy_gradients():
    target, optimizer = jnp.array([0.3, -0.7]), smorms3(1e-2)

    def step(carry, key):
        w, state = carry
        updates, state = optimizer.update(w - target + 0.01 * jax.random.normal(key, (2,)), state)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(2)
    (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(w, target, atol=0.02)


def test_schedule_and_vmapped_learning_rate_equal_constants():
    g, w = jnp.array([0.5, -2.0]), jnp.ones(2)

    def after(lr, n=4):
        optimizer, p = smorms3(lr), w
        state = optimizer.init(p)
        for _ in range(n):
            updates, state = optimizer.update(g, state)
            p = optax.apply_updates(p, updates)
        return p

    np.testing.assert_array_equal(after(lambda step: jnp.where(step < 100, 3e-3, 0.0)), after(3e-3))
    np.testing.assert_array_equal(after(lambda step: jnp.where(step < 2, 3e-3, 0.0)), after(3e-3, n=2))
    np.testing.assert_allclose(jax.vmap(after)(jnp.array([1e-3, 5e-3])), [after(1e-3), after(5e-3)], rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"learning_rate must be finite and >= 0, got -0\.1"):
        smorms3(-0.1)
    with pytest.raises(ValueError, match="eps must be finite and > 0"):
        smorms3(eps=0.0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_parameters_of_16_bits_step_as_those_of_32(dtype):
    """At the first step r = 1/2: g2 = g^2 / 2 and x = 1/2, so a step is lr sqrt(2) whatever the gradient; eps and squares are 0 in float16."""
    optimizer, grads = smorms3(5e-3), jnp.array([0.0, 1e-5, 1e-4, 1e-2, 1.0])
    narrow, wide = optimizer.init(jnp.ones(5, dtype)), optimizer.init(jnp.ones(5))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("int32"), jnp.dtype("float32")}
    exact = grads.astype(dtype).astype(jnp.float32)
    for k in range(4):
        step, narrow = optimizer.update(grads.astype(dtype), narrow)
        expected, wide = optimizer.update(exact, wide)
        assert step.dtype == dtype
        np.testing.assert_allclose(step.astype(jnp.float32), expected, rtol=0.01)
        if k == 0:
            np.testing.assert_allclose(expected, [0.0, *[-5e-3 * 2**0.5] * 4], rtol=1e-5)
