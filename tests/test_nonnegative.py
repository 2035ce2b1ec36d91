"""Weights that stay >= 0 under any optimizer, and the type that marks them."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax.nn import NonNegative
from snnjax.nn._nonnegative import nonnegative
from snnjax.optimizers import keep_nonnegative, smorms3
from snnjax.training._checkpoint import Checkpoints
from snnjax.training._ensemble import Snapshot

UPDATES = 1000
OPTIMIZERS = {
    "smorms3": smorms3,
    "adam": optax.adam,
    "sgd": optax.sgd,
    "decayed": lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr)),
}


def parameters(dtype=jnp.float32):
    w = jax.random.exponential(jax.random.key(0), (6, 5), dtype)
    module = nnx.Dict(
        dalian=NonNegative(w),
        bias=nnx.Param(w[0]),
        inner=nnx.Dict(free=nnx.Param(w), also=NonNegative(w / 100)),
    )
    return nnx.state(module, nnx.Param)


def gradients(params, key):
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [
            jax.random.normal(k, leaf.shape, leaf.dtype) + 0.1
            for k, leaf in zip(keys, leaves, strict=True)
        ]
    )


def train(optimizer, params):
    """Parameters after these updates, and the smallest entry that each ever had."""

    def step(carry, key):
        params, state, low = carry
        updates, state = optimizer.update(gradients(params, key), state, params)
        params = optax.apply_updates(params, updates)
        return (
            params,
            state,
            jax.tree.map(lambda m, w: jnp.minimum(m, w.min()), low, params),
        ), None

    low = jax.tree.map(lambda w: w.min(), params)
    (params, _, low), _ = jax.lax.scan(
        step, (params, optimizer.init(params), low), jax.random.split(jax.random.key(1), UPDATES)
    )
    return params, low


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_marked_weight_is_ever_negative_and_no_other_differs(name):
    def run(lr, chain):
        optimizer = OPTIMIZERS[name](lr)
        return train(
            optax.chain(optimizer, keep_nonnegative()) if chain else optimizer, parameters()
        )

    # an ensemble over learning rates that are traced
    rates = jnp.array([1e-3, 1e-2])
    kept, low = jax.jit(jax.vmap(lambda lr: run(lr, True)))(rates)
    free, free_low = jax.jit(jax.vmap(lambda lr: run(lr, False)))(rates)
    for path in (("dalian",), ("inner", "also")):
        for tree, projected in ((low, True), (free_low, False)):
            for p in path:
                tree = tree[p]
            smallest = np.asarray(tree[...])
            assert (smallest == 0).all() if projected else (smallest < 0).all()
    np.testing.assert_array_equal(kept["bias"][...], free["bias"][...])
    np.testing.assert_array_equal(kept["inner"]["free"][...], free["inner"]["free"][...])
    assert float(free["bias"][...].min()) < 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_projection_is_exact(dtype, rng):
    w = jnp.asarray(rng.exponential(size=2000), dtype)
    u = (
        jnp.asarray(rng.normal(size=2000), dtype)
        .at[:500]
        .set(-w[:500])
        .at[500:510]
        .set(jnp.inf)
        .at[510:520]
        .set(-jnp.inf)
    )
    params, updates = {"w": w, "v": w}, {"w": u, "v": u}
    projected, _ = keep_nonnegative({"w": True, "v": False}).update(
        updates, optax.EmptyState(), params
    )
    after, free = optax.apply_updates(params, projected), optax.apply_updates(params, updates)
    np.testing.assert_array_equal(
        np.asarray(after["w"], np.float32), np.maximum(np.asarray(free["w"], np.float32), 0)
    )
    np.testing.assert_array_equal(
        np.asarray(after["v"], np.float32), np.asarray(free["v"], np.float32)
    )
    assert not np.signbit(np.asarray(after["w"], np.float32)).any()


def test_nan_is_not_hidden():
    params = {"w": jnp.ones(2)}
    updates, _ = keep_nonnegative({"w": True}).update(
        {"w": jnp.array([jnp.nan, -3.0])}, optax.EmptyState(), params
    )
    np.testing.assert_array_equal(updates["w"], [np.nan, -1.0])


def test_the_mark_survives_transformations_and_checkpoints():
    params = parameters()
    marks = [False, True, True, False]  # by name: bias, dalian, inner.also, inner.free
    assert jax.tree.leaves(nonnegative(params)) == marks
    stacked = jax.vmap(lambda key: gradients(params, key))(jax.random.split(jax.random.key(0), 3))
    gradient = jax.grad(lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)))(params)
    shapes = jax.eval_shape(lambda: params)
    host = jax.tree.map(np.asarray, params)
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(Path(folder)).save(Snapshot(1, params, {"loss": np.zeros((1, 2))}, {}))
        restored = Checkpoints(Path(folder)).restore(shapes).state
    for tree in (stacked, gradient, shapes, host, restored):
        assert jax.tree.leaves(nonnegative(tree)) == marks
    graphdef, split, _ = nnx.split(
        nnx.Dict(w=NonNegative(jnp.ones(2)), v=nnx.Param(jnp.ones(2))), nnx.Param, ...
    )
    assert jax.tree.leaves(nonnegative(split)) == [False, True]
    assert type(nnx.merge(graphdef, split)["w"]) is NonNegative


def test_parameters_are_needed():
    with pytest.raises(ValueError, match="params must be given to keep_nonnegative"):
        keep_nonnegative().update({}, optax.EmptyState())


def test_nnx_optimizer_needs_the_mask_and_keeps_to_it():
    """It passes plain arrays: without a mask, no weight would be projected, without any error."""
    from snnjax.nn import DalianDense, DalianFluctuationDriven

    layer = DalianDense(
        10, 8, recurrent=True, init=DalianFluctuationDriven(nu=5.0), rngs=nnx.Rngs(0)
    )
    ones = jax.tree.map(jnp.ones_like, nnx.state(layer, nnx.Param))
    plain = nnx.Optimizer(layer, optax.chain(optax.sgd(1.0), keep_nonnegative()), wrt=nnx.Param)
    with pytest.raises(
        TypeError,
        match="mask must be given to keep_nonnegative for parameters that are plain arrays, as nnx",
    ):
        plain.update(layer, ones)
    mask = nonnegative(nnx.state(layer, nnx.Param))
    optimizer = nnx.Optimizer(
        layer, optax.chain(optax.sgd(1.0), keep_nonnegative(mask)), wrt=nnx.Param
    )
    for _ in range(2):
        optimizer.update(layer, ones)
    for kernel in (layer.kernel, layer.inhibitory_kernel, layer.recurrent_kernel):
        assert float(kernel[...].min()) == 0.0
