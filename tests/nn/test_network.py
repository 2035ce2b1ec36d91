import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close
from flax import nnx

from snnjax.dynamics import LIF, AdaptiveLIF, LeakyIntegrator
from snnjax.nn import (
    Activity,
    DalianDense,
    DalianFluctuationDriven,
    Dropout,
    Flatten,
    FluctuationDriven,
    Pool,
    Readout,
    Reshape,
    SameForAll,
    Sensory,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.training import EProp

T, B, IN, CLASSES = 30, 3, 20, 4
SIZES = (16, 12)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.poisson(0.1, (T, B, IN)), float)


def make(rngs=None, dtype=jnp.float64):
    """A recurrent layer, an adaptive one with a trainable time constant, and a readout."""
    rngs = nnx.Rngs(0) if rngs is None else rngs
    init = FluctuationDriven(nu=50.0, sigma_u=1.5)
    return Sequential(
        SpikingDense(IN, SIZES[0], init=init, recurrent=True, dtype=dtype, rngs=rngs),
        SpikingDense(
            *SIZES,
            init=init,
            neuron=AdaptiveLIF(b=0.3),
            trainable=("tau_mem",),
            dtype=dtype,
            rngs=rngs,
        ),
        Readout(SIZES[1], CLASSES, neuron=LeakyIntegrator(tau_mem=0.1), dtype=dtype, rngs=rngs),
    )


def test_shapes_and_activity(x, x64):
    network = make()
    readout, activity = nnx.jit(lambda network: network(x, membranes=True))(network)
    assert isinstance(activity, Activity)
    assert readout.shape == (T, B, CLASSES)
    assert (
        [z.shape for z in activity.spikes]
        == [u.shape for u in activity.membranes]
        == [(T, B, n) for n in SIZES]
    )
    assert all(0.01 < float(z.mean()) < 0.5 for z in activity.spikes)
    # a LIF spikes if and only if its membrane is above threshold
    np.testing.assert_array_equal(activity.spikes[0], activity.membranes[0] > 1)
    # the network equals its layers one after another
    by_hand = x
    for layer in network.layers:
        by_hand = layer(by_hand).output
    assert_close(readout, by_hand, 1e-12)
    plain, activity = network(x)
    assert_close(plain, by_hand, 1e-12)
    assert activity.membranes == ()


def test_sequence_equals_streamed_steps(x, x64):
    network = make()
    final, (readout, activity) = network.run(x)
    state, outputs = network.initial_state(B), []
    step = jax.jit(network.step)
    for x_t in x:
        state, output = step(state, x_t)
        outputs.append(output)
    streamed, spikes = jax.tree.map(lambda *values: jnp.stack(values), *outputs)
    assert_close(streamed, readout, 1e-12)
    for a, b in zip(spikes, activity.spikes, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
        assert_close(a, b, 1e-12)


def test_chunks_equal_the_whole(x, x64):
    network = make()
    final, (whole, _) = network.run(x)
    state, (first, _) = network.run(x[:11])
    state, (second, _) = network.run(x[11:], state)
    assert_close(jnp.concatenate([first, second]), whole, 1e-12)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
        assert_close(a, b, 1e-12)


def test_jit_split_and_merge(x, x64):
    network = make()
    expected = network(x)[0]
    assert_close(nnx.jit(lambda network, x: network(x)[0])(network, x), expected, 1e-12)
    graphdef, state = nnx.split(network)
    assert_close(
        jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)[0])(state, x), expected, 1e-12
    )


def test_every_parameter_gets_a_gradient(x, x64):
    gradient = nnx.jit(nnx.grad(lambda network: jnp.sum(network(x)[0] ** 2)))(make())
    flat = {"/".join(map(str, path)): value[...] for path, value in nnx.to_flat_state(gradient)}
    assert set(flat) == {
        "layers/0/kernel", "layers/0/recurrent_kernel", "layers/1/kernel", "layers/1/log_tau/tau_mem", "layers/2/kernel"
    }  # fmt: skip
    assert all(bool(jnp.isfinite(g).all() and jnp.any(g != 0)) for g in flat.values())


def test_vmap_over_seeds_equals_a_loop(x, x64):
    parts = [nnx.split(make(nnx.Rngs(seed))) for seed in range(3)]
    assert all(
        graphdef == parts[0][0] for graphdef, _ in parts
    )  # a seed changes only numbers: one program for all

    def run(state):
        return nnx.value_and_grad(lambda network: jnp.sum(network(x)[0] ** 2))(
            nnx.merge(parts[0][0], state)
        )

    one = jax.jit(run)
    values, gradients = jax.jit(jax.vmap(run))(
        jax.tree.map(lambda *leaves: np.stack(leaves), *[state for _, state in parts])
    )
    for k, (_, state) in enumerate(parts):
        value, gradient = one(state)
        np.testing.assert_allclose(values[k], value, rtol=1e-9)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradient), strict=True):
            assert_close(a[k], b, 1e-9)


def test_same_seed_same_network(x64):
    a, b, c = (jax.tree.leaves(nnx.state(make(nnx.Rngs(seed)))) for seed in (0, 0, 1))
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0])
    # two layers of one network draw different weights
    assert not np.array_equal(np.ravel(a[0])[:50], np.ravel(a[1])[:50])


def test_errors(x):
    init, rngs = SameForAll(jax.nn.initializers.zeros), nnx.Rngs(0)
    with pytest.raises(ValueError, match="at least one layer"):
        Sequential()
    with pytest.raises(ValueError, match="expects 13 inputs but gets 12"):
        Sequential(
            SpikingDense(IN, 12, init=init, rngs=rngs),
            Readout(13, 4, kernel_init=jax.nn.initializers.zeros, rngs=rngs),
        )
    network = Sequential(
        SpikingDense(IN, 12, init=init, rngs=rngs),
        Readout(12, 4, kernel_init=jax.nn.initializers.zeros, rngs=rngs),
    )
    with pytest.raises(ValueError, match=r"x must have shape \(time, batch, features\)"):
        network(x[0])
    with pytest.raises(ValueError, match="x must have 20 features on its last axis"):
        network(jnp.ones((T, B, IN - 1)))


def test_states_of_another_network_or_batch_are_errors(x):
    network, other = make(dtype=jnp.float32), make_conv(dtype=jnp.float32)
    x = x.astype(jnp.float32)
    state = network.initial_state(B)
    wrong = [
        (state[:1], "one entry for each of the network's 3 layers"),
        ((*state, *state), "one entry for each of the network's 3 layers"),
        (state[0], "one entry for each of the network's 3 layers"),
        (network.initial_state(1), "state must be LIFState"),
        (network.initial_state(2 * B), "state must be LIFState"),
    ]
    for bad, message in wrong:
        with pytest.raises(ValueError, match=message):
            network.run(x, bad)
    for bad, message in wrong[:3]:
        with pytest.raises(ValueError, match=message):
            network.step(bad, x[0])
    with pytest.raises(ValueError, match="one entry for each of the network's 6 layers"):
        other.run(jnp.zeros((5, B, *FEATURES)), state)


@pytest.mark.more
def test_nnx_tabulate_shows_every_kind_of_layer_and_leaves_the_classes_usable():
    """One row per layer with the number of parameters, and no rows for internal methods."""
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=50.0)
    network = Sequential(
        Reshape(20, 1),
        Sensory(1),
        SpikingConv1d(1, 2, kernel_size=5, recurrent_kernel_size=3, init=init, rngs=rngs),
        Pool(2),
        Flatten(),
        Dropout(0.1),
        DalianDense(16, 12, init=DalianFluctuationDriven(nu=50.0), rngs=rngs),
        SpikingDense(
            12,
            8,
            neuron=LIF(theta=nnx.Param(jnp.ones(8))),
            trainable=("tau_mem",),
            init=init,
            rngs=rngs,
        ),
        Readout(32 + 12 + 8, CLASSES, rngs=rngs),
        skip=True,
    )
    x = jnp.ones((5, 2, 20))
    before = network(x).readout
    table = nnx.tabulate(
        network, x, console_kwargs={"width": 200, "force_terminal": False, "no_color": True}
    )
    rows = [line.split()[1:4:2] for line in table.splitlines() if line.startswith("│ layers/")]
    assert rows == [[f"layers/{k}", type(layer).__name__] for k, layer in enumerate(network.layers)]
    assert "input_of" not in table
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert f"Total Parameters: {parameters:,}" in table
    np.testing.assert_array_equal(network(x).readout, before)
    Readout(3, 4, rngs=nnx.Rngs(0))(
        jnp.ones((5, 2, 3))
    )  # Flax had replaced the methods of the classes


def test_layers_in_a_list_and_different_time_steps_are_errors():
    rngs = nnx.Rngs(0)
    first, second = (
        SpikingDense(4, 4, init=FluctuationDriven(nu=5.0), neuron=LIF(dt=dt), rngs=rngs)
        for dt in (1e-3, 2e-3)
    )
    with pytest.raises(TypeError, match="layers are given one by one"):
        Sequential([first, first])
    with pytest.raises(
        TypeError, match=r"one by one, EProp\(first, .* got list; write EProp\(\*layers"
    ):
        EProp([first, first])  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match=r"all layers must have the same time step, got dt = \[0\.001, 0\.002\]"
    ):
        Sequential(first, second)


# --- convolutions


FEATURES = (20, 2)


@pytest.fixture
def image(rng):
    return jnp.asarray(rng.poisson(0.15, (T, B, *FEATURES)), float)


def make_conv(rngs=None, dtype=jnp.float64):
    """Two convolutions, one of them recurrent, a pooling between them, and dense layers.

    The features are (20, 2), (18, 6), (9, 6), (5, 8), (40,), (12,), (4,).
    """
    rngs = nnx.Rngs(0) if rngs is None else rngs
    options = {"init": FluctuationDriven(nu=50.0, sigma_u=1.5), "dtype": dtype, "rngs": rngs}
    return Sequential(
        SpikingConv1d(2, 6, kernel_size=3, recurrent_kernel_size=3, **options),
        Pool(2),
        SpikingConv1d(
            6, 8, kernel_size=3, stride=2, padding="same", trainable=("tau_mem",), **options
        ),
        Flatten(),
        SpikingDense(40, 12, recurrent=True, **options),
        Readout(12, CLASSES, neuron=LeakyIntegrator(tau_mem=0.1), dtype=dtype, rngs=rngs),
    )


def test_conv_shapes_and_activity(image, x64):
    network = make_conv()
    readout, activity = nnx.jit(lambda network: network(image, membranes=True))(network)
    shapes = [(T, B, 18, 6), (T, B, 5, 8), (T, B, 12)]
    assert readout.shape == (T, B, CLASSES)
    assert [z.shape for z in activity.spikes] == [u.shape for u in activity.membranes] == shapes
    assert all(0.01 < float(z.mean()) < 0.6 for z in activity.spikes)
    by_hand = image
    for layer in network.layers:
        by_hand = layer(by_hand).output
    assert_close(readout, by_hand, 1e-12)


def test_conv_sequence_equals_streamed_steps(image, x64):
    network = make_conv()
    final, (readout, activity) = network.run(image)
    state, outputs = network.initial_state(B, features=FEATURES), []
    assert [jax.tree.map(jnp.shape, s) for s in state] == [
        jax.tree.map(jnp.shape, s) for s in final
    ]
    step = jax.jit(network.step)
    for x_t in image:
        state, output = step(state, x_t)
        outputs.append(output)
    streamed, spikes = jax.tree.map(lambda *values: jnp.stack(values), *outputs)
    assert_close(streamed, readout, 1e-12)
    for a, b in zip(spikes, activity.spikes, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(final), strict=True):
        assert_close(a, b, 1e-12)
    # and from the state in the middle
    middle, _ = network.run(image[:11])
    assert_close(network.run(image[11:], middle)[1].readout, readout[11:], 1e-12)


def test_every_parameter_of_a_conv_network_gets_a_gradient(image, x64):
    gradient = nnx.jit(nnx.grad(lambda network: jnp.sum(network(image)[0] ** 2)))(make_conv())
    flat = {"/".join(map(str, path)): value[...] for path, value in nnx.to_flat_state(gradient)}
    assert set(flat) == {
        "layers/0/kernel", "layers/0/recurrent_kernel", "layers/2/kernel", "layers/2/log_tau/tau_mem", "layers/4/kernel",
        "layers/4/recurrent_kernel", "layers/5/kernel",
    }  # fmt: skip
    assert all(bool(jnp.isfinite(g).all() and jnp.any(g != 0)) for g in flat.values())


def test_vmap_over_seeds_of_a_conv_network_equals_a_loop(image, x64):
    parts = [nnx.split(make_conv(nnx.Rngs(seed))) for seed in range(2)]
    assert parts[0][0] == parts[1][0]

    def run(state):
        return nnx.value_and_grad(lambda network: jnp.sum(network(image)[0] ** 2))(
            nnx.merge(parts[0][0], state)
        )

    one = jax.jit(run)
    values, gradients = jax.jit(jax.vmap(run))(
        jax.tree.map(lambda *leaves: np.stack(leaves), *[state for _, state in parts])
    )
    for k, (_, state) in enumerate(parts):
        value, gradient = one(state)
        np.testing.assert_allclose(values[k], value, rtol=1e-9)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradient), strict=True):
            assert_close(a[k], b, 1e-9)


def test_initial_state_needs_the_features_where_they_are_not_known():
    with pytest.raises(
        ValueError,
        match=r"features must be given, .*: the size of layers\[0\] \(SpikingConv1d\) depends on it",
    ):
        make_conv(dtype=jnp.float32).initial_state(B)
    rngs = nnx.Rngs(0)
    conv = SpikingConv1d(1, 4, kernel_size=3, init=FluctuationDriven(nu=5.0), rngs=rngs)
    # an explicit shape, and dense layers, determine it
    known = Sequential(Reshape(20, 1), conv, Flatten(), Readout(72, CLASSES, rngs=rngs))
    assert [jax.tree.map(jnp.shape, s) for s in known.initial_state(B)[1]] == [(B, 18, 4)] * 2
    flat = Sequential(Flatten(), Readout(20, CLASSES, rngs=rngs))
    for state in (
        flat.initial_state(B),
        flat.initial_state(B, features=(10, 2)),
        make(dtype=jnp.float32).initial_state(B),
    ):
        assert state[-1].o.shape == (B, CLASSES)
    with pytest.raises(
        ValueError,
        match=r"layers\[1\] \(Readout\) does not fit the output of layers\[0\] \(Flatten\): Readout expects 20 inputs but gets 21",
    ):
        flat.initial_state(B, features=(7, 3))
    with pytest.raises(
        ValueError,
        match=r"layers\[0\] \(SpikingConv1d\) does not fit the network's input: features must have 2 axes",
    ):
        make_conv(dtype=jnp.float32).initial_state(B, features=(20,))
    with pytest.raises(TypeError, match="features must be an integer"):
        make_conv(dtype=jnp.float32).initial_state(B, features=(20.0, 2))


def test_what_does_not_fit_is_told_when_the_network_is_built():
    rngs = nnx.Rngs(0)

    def conv(n_in, n_out):
        return SpikingConv1d(n_in, n_out, kernel_size=3, init=FluctuationDriven(nu=5.0), rngs=rngs)

    for layers, match in (
        (
            (conv(1, 4), Readout(4, 2, rngs=rngs)),
            r"layers\[1\] \(Readout\) .* the output of layers\[0\] \(SpikingConv1d\): .* got \(None, 4\); Flatten\(\)",
        ),
        (
            (SpikingDense(4, 4, init=FluctuationDriven(nu=5.0), rngs=rngs), conv(4, 4)),
            r"layers\[1\] \(SpikingConv1d\) .* features must have 2 axes",
        ),
        ((conv(1, 4), conv(5, 4)), "expects 5 inputs but gets 4"),
        (
            (conv(1, 4), Pool(2), conv(5, 4)),
            r"layers\[2\] \(SpikingConv1d\) .*: SpikingConv1d expects 5 inputs but gets 4",
        ),
        # 20 positions known: 18 after the kernel, of 4 maps
        (
            (Reshape(20, 1), conv(1, 4), Flatten(), Readout(71, 2, rngs=rngs)),
            "expects 71 inputs but gets 72",
        ),
        (
            (Reshape(2, 1), conv(1, 4)),
            r"layers\[1\] \(SpikingConv1d\) .*: spatial must be at least kernel_size \(3,\)",
        ),
        ((conv(1, 4), Pool((2, 2))), r"layers\[1\] \(Pool\) .*: features must have 2 spatial axes"),
    ):
        with pytest.raises(ValueError, match=match):
            Sequential(*layers)
