import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import data_path

from snnjax.optimizers import muon, smorms3


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
    (w, _), _ = jax.lax.scan(
        step, (w, optimizer.init(w)), jax.random.split(jax.random.key(0), 2000)
    )
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
    np.testing.assert_array_equal(
        after(lambda step: jnp.where(step < 2, 3e-3, 0.0)), after(3e-3, n=2)
    )
    np.testing.assert_allclose(
        jax.vmap(after)(jnp.array([1e-3, 5e-3])), [after(1e-3), after(5e-3)], rtol=1e-6
    )


def test_errors():
    with pytest.raises(ValueError, match=r"learning_rate must be finite and >= 0, got -0\.1"):
        smorms3(-0.1)
    with pytest.raises(ValueError, match="eps must be finite and > 0"):
        smorms3(eps=0.0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_parameters_of_16_bits_step_as_those_of_32(dtype):
    """At the first step r = 1/2, g2 = g^2 / 2 and x = 1/2: a step is lr sqrt(2) for any gradient.

    In float16, eps and squares are 0.
    """
    optimizer, grads = smorms3(5e-3), jnp.array([0.0, 1e-5, 1e-4, 1e-2, 1.0])
    narrow, wide = optimizer.init(jnp.ones(5, dtype)), optimizer.init(jnp.ones(5))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {
        jnp.dtype("int32"),
        jnp.dtype("float32"),
    }
    exact = grads.astype(dtype).astype(jnp.float32)
    for k in range(4):
        step, narrow = optimizer.update(grads.astype(dtype), narrow)
        expected, wide = optimizer.update(exact, wide)
        assert step.dtype == dtype
        np.testing.assert_allclose(step.astype(jnp.float32), expected, rtol=0.01)
        if k == 0:
            np.testing.assert_allclose(expected, [0.0, *[-5e-3 * 2**0.5] * 4], rtol=1e-5)


def test_muon_turns_every_direction_by_the_same_share_of_the_weights():
    """Singular values of the step are 0.7 to 1.2 times lr sqrt(inputs) rms(W), for any gradient."""
    rng = np.random.default_rng(0)
    params = {
        "wide": jnp.asarray(rng.normal(size=(12, 30)), jnp.float32),
        "conv": jnp.asarray(3 * rng.normal(size=(5, 4, 8)), jnp.float32),
    }
    optimizer = muon(0.01)
    state = optimizer.init(params)
    scales = jnp.asarray(np.geomspace(0.1, 1, 12))[:, None]
    grads = {"wide": 1e-9 * scales * params["wide"], "conv": 1e3 * params["conv"]}
    updates, _ = optimizer.update(grads, state)
    for name, w in params.items():
        matrix, step = (
            np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (w, updates[name])
        )
        values = np.linalg.svd(step, compute_uv=False) / (
            0.01 * np.sqrt(len(matrix)) * np.sqrt(np.square(matrix).mean())
        )
        assert 0.6 < values.min() < values.max() < 1.3
        # along the gradient's own singular vectors
        u, _, v = np.linalg.svd(
            np.asarray(grads[name], np.float64).reshape(matrix.shape), full_matrices=False
        )
        inner = -u.T @ step @ v.T
        np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=0.02 * np.abs(inner).max())


def test_muon_trains_vectors_by_adam_and_follows_schedules():
    params = {"w": jnp.ones((3, 3)), "b": jnp.ones(4), "n": jnp.ones(())}
    schedule = optax.linear_schedule(0.1, 0.0, 2)
    optimizer, adam = muon(schedule), optax.adam(schedule, b2=0.99)
    state, of_adam = optimizer.init(params), adam.init(params)
    grads = {"w": jnp.eye(3), "b": jnp.arange(4.0), "n": jnp.asarray(-2.0)}
    for k in range(3):
        updates, state = optimizer.update(grads, state)
        expected, of_adam = adam.update(grads, of_adam)
        for name in ("b", "n"):
            np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)
        np.testing.assert_allclose(
            jnp.diag(updates["w"]), -0.1 * (1 - k / 2) * np.sqrt(3) * 0.7, rtol=0.05, atol=1e-7
        )


def test_muon_has_a_momentum_and_computes_in_32_bits():
    params = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    optimizer = muon(0.1, beta=0.5)
    state = optimizer.init(params)
    g = jnp.asarray([[1.0, 0.0], [0.0, 0.5]], jnp.bfloat16)
    updates, state = optimizer.update({"w": g}, state)
    assert updates["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(state.momentum[0], 0.5 * g, rtol=1e-6)
    _, state = optimizer.update({"w": 0 * g}, state)
    np.testing.assert_allclose(state.momentum[0], 0.25 * g, rtol=1e-6)
    still, _ = optimizer.update({"w": 0 * g}, optimizer.init(params))
    assert not np.asarray(still["w"], np.float32).any()
    zeros = {"w": jnp.zeros((2, 2))}
    leaves, _ = optimizer.update({"w": jnp.eye(2)}, optimizer.init(zeros))
    assert 0.07 < -leaves["w"][0, 0] < 0.12  # singular values are 0.7 to 1.2
    # a network that is now silent: the momentum shrinks until it vanishes
    matrix = {"w": jnp.asarray([[3.0, 1.0], [-2.0, 2.0]])}
    expected, _ = optimizer.update(matrix, optimizer.init(matrix))
    for size in (1e-30, 1e-20, 1e30):
        scaled, _ = optimizer.update({"w": size * matrix["w"]}, optimizer.init(matrix))
        np.testing.assert_allclose(scaled["w"], expected["w"], rtol=1e-4)
    for bad in ({"learning_rate": -1.0}, {"beta": 1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            muon(**bad)
