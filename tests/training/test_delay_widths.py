"""Training of layers with delays: the width of the kernels, parts of a sample, and files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close
from flax import nnx

from snnjax.exchange import load_parameters, save_parameters
from snnjax.nn import Delays, FluctuationDriven, Readout, Sequential, SpikingDense
from snnjax.training import Objective, Trainer

pytestmark = pytest.mark.more

T, B = 33, 8


def make(delays, *, seed=0, **options):
    rngs, init = nnx.Rngs(seed), FluctuationDriven(nu=50.0, sigma_u=1.5)
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    common = {"delays": delays, "dtype": dtype, "rngs": rngs}
    hidden = SpikingDense(10, 12, init=init, recurrent=True, **common)
    skip = options.get("skip", False)
    second = SpikingDense(12, 7, init=init, **common)
    last = Readout(19 if skip else 7, 3, dtype=dtype, rngs=rngs)
    return Sequential(hidden, second, last, **options)


@pytest.fixture
def batch(rng):
    return jnp.asarray(rng.poisson(0.1, (T, B, 10)), jnp.float32), jnp.arange(B) % 3


def test_widths_follow_their_schedule_and_nothing_else(batch):
    schedule = optax.linear_schedule(0.01, 0.0, 4)
    for width, expected in ((schedule, [0.0075, 0.005, 0.0025, 0.0, 0.0]), (0.01, [0.01] * 5)):
        network = make(Delays(max_delay=0.02, width=width))
        optimizer = optax.adamw(1e-2, weight_decay=0.1)  # would shrink what it may change
        trainer = Trainer(network, Objective(), optimizer, batch_size=None)
        state = trainer.init()
        start = nnx.to_pure_dict(state.params)["layers"][0]["delay"]
        start, widths = np.array(start), []
        for _ in range(5):
            state, _ = trainer.step(state, batch)
            layer = nnx.to_pure_dict(state.params)["layers"][0]
            widths.append(float(layer["delay_width"]))
        np.testing.assert_allclose(widths, expected, atol=1e-8)
        assert np.abs(layer["delay"] - start).max() > 1e-3


@pytest.mark.parametrize(("per", "skip"), [("unit", True), ("connection", False)])
def test_parts_of_a_sample_give_the_same_gradient(per, skip, rng, x64):
    x = jnp.asarray(rng.poisson(0.1, (T, B, 10)), float)
    found = []
    for remat_steps in (None, 7):  # shorter than the largest delay, which is 10 steps
        network = make(Delays(max_delay=0.02, per=per), skip=skip, remat_steps=remat_steps)
        graph, params, rest = nnx.split(network, nnx.Param, ...)

        def loss(params, graph=graph, rest=rest):
            readout, activity = nnx.merge(graph, params, rest)(x)
            return jnp.square(readout).sum() + sum(s.mean() for s in activity.spikes)

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    (a, of_a), (b, of_b) = found
    assert_close(a, b, 1e-12)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(of_a)]
    for name, p, q in zip(names, jax.tree.leaves(of_a), jax.tree.leaves(of_b), strict=True):
        assert_close(p, q, 1e-10)
        assert bool(jnp.abs(p).max() > 0) == ("width" not in name), name


def test_delays_are_saved_and_loaded(tmp_path, batch):
    delays = Delays(max_delay=0.02, width=optax.constant_schedule(0.01))
    network, other = make(delays), make(delays, seed=1)
    network.layers[0].delay_width[...] = jnp.asarray(0.003)
    save_parameters(tmp_path / "n.npz", network)
    load_parameters(tmp_path / "n.npz", other)
    np.testing.assert_array_equal(network(batch[0]).readout, other(batch[0]).readout)
    assert other.layers[0].delay_width[...] == network.layers[0].delay_width[...]
    with pytest.raises(ValueError, match=r"the network has no layers.0.delay, .* delays=Delays"):
        load_parameters(tmp_path / "n.npz", make(None))
