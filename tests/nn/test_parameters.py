"""Parameters of neurons that a layer trains within their ranges, or draws from a distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, spikes
from flax import nnx

from snnjax._pytree import replaced
from snnjax.datasets import DeviceArrays, Splits
from snnjax.dynamics import (
    IF,
    LIF,
    AdaptiveLIF,
    AdLIF,
    Leaky,
    LeakyIntegrator,
    Refractory,
    Uniform,
    simulate,
)
from snnjax.exchange import load_parameters, save_parameters
from snnjax.initializers import normal
from snnjax.nn import FluctuationDriven, Readout, Sensory, Sequential, SpikingConv1d, SpikingDense
from snnjax.training import Objective, Program, fit, fit_ensemble

IN, OUT = 12, 16
TAUS = Uniform(5e-3, 25e-3)
ADAPTIVE = AdLIF(tau_mem=TAUS, tau_w=Uniform(60e-3, 300e-3), a=0.5, b=Uniform(0.1, 1.9), dt=1e-3)


def make(neuron, trainable=(), seed=0, **options):
    options = {"init": normal(0.0, 1.5), "recurrent": True, **options}
    return SpikingDense(IN, OUT, neuron=neuron, trainable=trainable, rngs=nnx.Rngs(seed), **options)


@pytest.mark.parametrize(
    ("neuron", "names"),
    [
        (LIF(), ("tau_mem", "theta")),
        (LIF(reset="to_value", u_reset=-0.3), ("u_reset",)),
        (AdaptiveLIF(b=0.7), ("b", "tau_adapt", "theta")),
        (AdLIF(a=0.3, b=1.2, dt=1e-3), ("tau_mem", "tau_w", "a", "b", "theta")),
        (Refractory(neuron=LIF()), ("theta",)),
    ],
)
def test_trained_parameters_start_at_their_values_and_get_the_gradient_of_autodiff(
    neuron, names, x64
):
    layer, x = make(neuron, names, dtype=jnp.float64), spikes(0, (60, 3, IN), rate=100.0)
    start = {name: jnp.full(OUT, neuron.parameters()[name]) for name in names}
    for name in names:
        assert_close(layer.neuron.parameters()[name], start[name], 1e-14)
    weight = np.random.default_rng(0).normal(size=(60, 3, OUT))

    def of_values(values):
        run = {"recurrent": layer._own[0], "weights": layer._own[1]}
        found = simulate(neuron.with_parameters(**values), layer.drive(x), **run)
        return jnp.sum(found.output * weight)

    value, by_value = jax.value_and_grad(of_values)(start)
    gradient = nnx.grad(lambda layer: jnp.sum(layer(x).output * weight))(layer)
    assert_close(jnp.sum(layer(x).output * weight), value, 1e-12)
    for name in names:
        low, high = neuron.trained_ranges()[name]
        p = np.asarray(start[name])
        # d value / d free: value for a logarithm, (value - low)(high - value)/(high - low) for odds
        slope = np.ones(OUT) if np.isinf(low) else p - low
        slope = slope if np.isinf(high) else slope * (high - p) / (high - low)
        free = gradient.log_tau if name.startswith("tau_") else gradient.free
        assert np.abs(by_value[name]).max() > 0
        assert_close(free[name][...], by_value[name] * slope, 1e-9)


@pytest.mark.parametrize("step", [-1e3, 1e3])
def test_no_update_leaves_the_range(step):
    layer = make(AdLIF(a=0.3, b=1.2, dt=1e-3), ("a", "b", "theta"))
    for name in ("a", "b", "theta"):
        layer.free[name][...] += step
        low, high = layer.neuron.trained_ranges()[name]
        value = layer.neuron.parameters()[name]
        assert ((value >= low) & (value <= high) & jnp.isfinite(value)).all()


def test_a_start_on_the_edge_of_the_range_is_an_error():
    with pytest.raises(ValueError, match=r"b, which is trained, must be > 0 and < 2, got 2.0"):
        make(AdLIF(b=2.0, dt=1e-3), ("b",))
    with pytest.raises(ValueError, match=r"b, which is trained, must be .*<= 2, got 2.1"):
        make(AdLIF(b=Uniform(0.0, 2.1), dt=1e-3), ("b",))


def test_every_unit_draws_its_own_value_and_every_seed_others():
    one, same, other = (make(LIF(tau_mem=TAUS), seed=seed) for seed in (0, 0, 1))
    taus = np.asarray(one.neuron.tau_mem)
    assert taus.shape == (OUT,)
    assert len(set(taus.tolist())) == OUT
    assert ((taus > TAUS.low) & (taus < TAUS.high)).all()
    np.testing.assert_array_equal(taus, same.neuron.tau_mem)
    assert (taus != np.asarray(other.neuron.tau_mem)).all()
    many = SpikingDense(1, 4000, neuron=LIF(tau_mem=TAUS), init=normal(), rngs=nnx.Rngs(0))
    drawn = np.asarray(many.neuron.tau_mem)  # mean and standard deviation of the distribution
    np.testing.assert_allclose(drawn.mean(), 15e-3, rtol=0.02)
    np.testing.assert_allclose(drawn.std(), 20e-3 / np.sqrt(12), rtol=0.03)
    conv = SpikingConv1d(
        1, 5, kernel_size=3, neuron=LIF(tau_mem=TAUS), init=normal(), rngs=nnx.Rngs(0)
    )
    assert conv.neuron.tau_mem.shape == (5,)


def test_weights_are_drawn_for_the_values_of_each_neuron():
    """sigma_w of neuron i is sigma_u / sqrt(n nu ehat_i)."""
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=10.0)
    layer = SpikingDense(4000, 8, neuron=LIF(tau_mem=TAUS), init=init, rngs=rngs)
    expected = 1 / np.sqrt(4000 * 10.0 * layer.neuron.kernel.power())
    np.testing.assert_allclose(layer.kernel[...].std(axis=0), expected, rtol=0.05)


def test_a_drawn_parameter_is_the_start_of_a_trained_one():
    fixed, trained = make(ADAPTIVE), make(ADAPTIVE, ("tau_mem", "b"))
    assert set(fixed.drawn) == {"tau_mem", "tau_w", "b"}
    assert (set(trained.drawn), set(trained.log_tau), set(trained.free)) == (
        {"tau_w"}, {"tau_mem"}, {"b"}
    )  # fmt: skip
    for name in ("tau_mem", "tau_w", "b"):
        values = (layer.neuron.parameters()[name] for layer in (trained, fixed))
        np.testing.assert_allclose(*values, rtol=1e-5)


def small_network(seed=0, trainable=(), neuron=ADAPTIVE):
    rngs = nnx.Rngs(jax.random.key(seed))
    options = {"init": FluctuationDriven(nu=60.0), "trainable": trainable, "rngs": rngs}
    hidden = SpikingDense(IN, OUT, neuron=neuron, recurrent=True, **options)
    return Sequential(hidden, Readout(OUT, 2, neuron=LeakyIntegrator(dt=1e-3), rngs=rngs))


def small_data():
    x = spikes(0, (32, 40, IN), rate=60.0, dt=1e-3)
    return DeviceArrays(x=x, labels=jnp.arange(32) % 2, dt=1e-3)


def test_files_keep_drawn_and_trained_values(tmp_path):
    network, other = (small_network(seed, ("tau_mem", "a")) for seed in (0, 1))
    save_parameters(tmp_path / "p.npz", network)
    with np.load(tmp_path / "p.npz") as file:
        names = {n.rpartition("layers.0.")[2] for n in file if n.startswith("layers.0")}
    assert names == {
        "kernel", "recurrent_kernel", "log_tau.tau_mem", "free.a", "drawn.tau_w", "drawn.b"
    }  # fmt: skip
    load_parameters(tmp_path / "p.npz", other)
    x = spikes(1, (50, 2, IN), rate=60.0)
    np.testing.assert_array_equal(network(x)[0], other(x)[0])


@pytest.mark.parametrize("how", ["members", "alone"])
def test_ensembles_draw_for_each_seed_and_training_changes_trained_values_only(how):
    data, seeds = small_data(), np.array([0, 1])
    splits = Splits(data, data, data)
    optimizer = lambda hyper=None: optax.adamw(1e-2, weight_decay=0.1)
    trainable = ("tau_mem", "a")
    before = [small_network(int(seed), trainable).layers[0] for seed in seeds]
    if how == "members":
        build = lambda hyper: small_network(hyper["seed"], trainable)
        program = Program(build, lambda hyper: Objective(), optimizer, batch_size=16)
        result = fit_ensemble(program, {"seed": seeds}, splits, epochs=1, dt=1e-3)
        after = result.final["layers"][0]
        of = lambda part, name, k: np.asarray(after[part][name][...])[k]
    else:
        networks = []
        for seed in seeds:
            network = small_network(int(seed), trainable)
            options = {"epochs": 1, "batch_size": 16, "key": jax.random.key(0)}
            fit(network, splits, Objective(), optimizer(), **options)
            networks.append(network.layers[0])
        of = lambda part, name, k: np.asarray(vars(networks[k])[part][name][...])
    for k, layer in enumerate(before):
        for name in ("tau_w", "b"):
            np.testing.assert_array_equal(of("drawn", name, k), layer.drawn[name][...])
        assert (of("free", "a", k) != np.asarray(layer.free["a"][...])).any()
        assert (of("log_tau", "tau_mem", k) != np.asarray(layer.log_tau["tau_mem"][...])).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2.0, 1.0), "high must be finite and > 2, got 1.0"),
        (lambda: LIF(tau_mem=Uniform(-1.0, 1.0)), "tau_mem must be finite and > 0 s, got -1.0"),
        (lambda: AdLIF(b=Uniform(-0.1, 1.0)), "b must be finite and >= 0, got -0.1"),
        (lambda: AdLIF(tau_mem=Uniform(1e-3, 1.0), tau_w=20e-3), "a must be small enough"),
        (lambda: simulate(LIF(tau_mem=TAUS), jnp.ones((3, 1, 1))), "tau_mem must be drawn first"),
        (lambda: Sensory(1, neuron=LIF(tau_mem=TAUS)), "Sensory draws no parameters, got tau_mem"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ranges_are_those_of_the_checks():
    """A value within the range is a value that the constructor accepts."""
    for neuron in (LIF(), AdaptiveLIF(), AdLIF(dt=1e-4)):
        for name, (low, high) in neuron.trained_ranges().items():
            middle = (max(low, -1) + min(high, 1)) / 2 or 0.5
            kind = type(neuron)
            assert kind(**{name: middle, "dt": 1e-4}).parameters()[name] == middle
            assert replaced(neuron, **{name: middle}).parameters()[name] == middle


STREAMED = {
    "Leaky": Leaky(),
    "IF": IF(reset="subtractive"),
    "AdLIF": ADAPTIVE,
    "Refractory": Refractory(neuron=AdLIF(a=0.2, b=0.3), period=6e-3),
}


@pytest.mark.parametrize("neuron", STREAMED.values(), ids=STREAMED)
def test_a_sequence_in_two_parts_and_single_steps_are_the_same(neuron, x64):
    layer = make(neuron, dtype=jnp.float64)
    x = spikes(0, (60, 3, IN), rate=150.0).astype(jnp.float64)
    whole = layer(x, membrane=True)
    assert 0.01 < whole.output.mean() < 0.6
    first = layer(x[:25])
    second = layer(x[25:], state=first.state)
    parts = jnp.concatenate([first.output, second.output])
    np.testing.assert_array_equal(parts, whole.output)
    state, step = layer.initial_state(3), nnx.jit(lambda layer, state, x: layer.step(state, x))
    for t, now in enumerate(x):
        assert_close(state.u, whole.membrane[t], 1e-12)
        state, z = step(layer, state, now)
        np.testing.assert_array_equal(z, whole.output[t])
    for streamed, final in zip(jax.tree.leaves(state), jax.tree.leaves(whole.state), strict=True):
        assert_close(streamed, final, 1e-12)
