"""Learned delays: kernels, sequences and single steps, gradients, training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, assert_gradients_are_finite_differences, forward
from flax import nnx

from snnjax._sparse import EventRaster
from snnjax.dynamics import LIF, AdaptiveLIF
from snnjax.nn import (
    DalianDense,
    DalianFluctuationDriven,
    Delays,
    FluctuationDriven,
    Readout,
    SameForAll,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.nn._delays import DelayKernel, DelayWidth, follow_schedules, within
from snnjax.surrogate import superspike

pytestmark = pytest.mark.more

T, B, IN, OUT, DT = 40, 3, 20, 12, 2e-3
INIT = FluctuationDriven(nu=50.0, sigma_u=1.5)
PER = ("unit", "connection")


@pytest.fixture
def x(rng):
    return rng.poisson(0.1, (T, B, IN)).astype(np.float64)


def make(delays=None, *, recurrent=True, dtype=None, **options):
    dtype = jnp.result_type(float) if dtype is None else dtype  # float64 with x64
    if delays is not None:
        delays = Delays(**{"max_delay": 0.02, "width": 4e-3} | delays)
    options = {"init": INIT, "recurrent": recurrent, "rngs": nnx.Rngs(0)} | options
    return SpikingDense(IN, OUT, dtype=dtype, delays=delays, **options)


# --- kernels


@pytest.mark.parametrize("shape", ["triangle", "gaussian"])
@pytest.mark.parametrize("width", [0.0, 0.7, 3.0])
def test_kernels_are_those_of_the_formula(shape, width, x64):
    n, delay = 9, np.array([0.0, 0.3, 4.0, 5.75, 9.0])
    taps = DelayKernel(shape, n).taps(jnp.asarray(delay), width)
    for d, tap in zip(delay, np.asarray(taps).T, strict=True):
        if shape == "triangle":
            height = [max(0.0, 1 + width - abs(k - d)) for k in range(n + 1)]
        elif width == 0:
            height = [float(k == round(d)) for k in range(n + 1)]
        else:
            height = [np.exp(-((k - d) ** 2) / (2 * width**2)) for k in range(n + 1)]
        assert_close(tap, np.array(height) / np.sum(height), 1e-12)
    if shape == "triangle" and width == 3.0:  # the constant of a kernel that is not cut off
        assert_close(taps[:, 2], np.maximum(0, 4 - abs(np.arange(n + 1) - 4.0)) / 16, 1e-12)


def test_a_fraction_outside_comes_back_whatever_the_optimizer():
    # minimum at 0.3; momentum overshoots the border, where the gradient points inside
    optimizer = optax.adam(0.3)
    loss = lambda f: jnp.square(within(f) - jnp.array([0.3, 0.95])).sum()
    fraction = jnp.array([0.9, 0.1])
    state = optimizer.init(fraction)

    @jax.jit
    def step(fraction, state):
        updates, state = optimizer.update(jax.grad(loss)(fraction), state)
        return optax.apply_updates(fraction, updates), state

    for _ in range(200):
        fraction, state = step(fraction, state)
    np.testing.assert_allclose(fraction, [0.3, 0.95], atol=1e-3)


# --- layers against loops


def loop(layer, x, shape="triangle"):
    """Spikes of a recurrent LIF layer with delays, step by step and delay by delay."""
    n = layer.delays.kernel(DT).largest
    width = float(layer.delay_width[...]) / DT

    def taps(delay, weights):
        steps = np.asarray(delay[...], np.float64) * n
        steps = steps if steps.ndim > 1 else steps[:, None]
        k = np.arange(n + 1)[:, None, None]
        height = np.maximum(0, 1 + width - abs(k - steps))
        return height / height.sum(axis=0) * np.asarray(weights[...])

    w = taps(layer.delay, layer.kernel)
    v = taps(layer.recurrent_delay, layer.recurrent_kernel)
    lm, ls = np.exp(-DT / 20e-3), np.exp(-DT / 10e-3)
    u = i = np.zeros((B, OUT))
    zs = []
    for t in range(T):
        zs.append(np.where(u > 1, 1.0, 0.0))
        u = (lm * u + (1 - lm) * i) * (1 - zs[-1])
        i = ls * i
        for k in range(min(n, t) + 1):
            i = i + x[t - k] @ w[k] + zs[t - k] @ v[k]
    return np.array(zs), u, i


@pytest.mark.parametrize("per", PER)
def test_layer_equals_a_loop_over_steps_and_delays(per, x, x64):
    layer = make({"per": per})
    zs, u, i = loop(layer, x)
    assert 0.02 < zs.mean() < 0.5
    sim = forward(layer, x)
    np.testing.assert_array_equal(sim.output, zs)
    assert_close(sim.state.population.u, u, 1e-12)
    assert_close(sim.state.population.i, i, 1e-12)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("shape", ["triangle", "gaussian"])
def test_no_delay_equals_the_layer_without_delays_bit_for_bit(per, shape, rng):
    x = rng.poisson(0.1, (T, B, IN)).astype(np.float32)
    none = {"per": per, "shape": shape, "width": 0.0, "initial": 0.0}
    for recurrent in (False, True):
        pair = [make(d, recurrent=recurrent, dtype=jnp.float32) for d in (None, none)]
        without, delayed = (jax.jit(lambda m, x: m(x, membrane=True))(m, x) for m in pair)
        assert without.output.mean() > 0.02
        np.testing.assert_array_equal(without.output, delayed.output)
        np.testing.assert_array_equal(without.membrane, delayed.membrane)


def stream(layer, x):
    state, outputs = layer.initial_state(x.shape[1], x.shape[2:]), []
    step = jax.jit(layer.step)
    for x_t in x:
        state, output = step(state, x_t)
        outputs.append(np.asarray(output))
    return np.stack(outputs), state


def layers(per):
    delays = Delays(max_delay=0.02, per=per, width=4e-3)
    common = {"rngs": nnx.Rngs(0), "dtype": jnp.result_type(float), "delays": delays}
    yield make({"per": per})
    yield make({"per": per, "on": "recurrent"})
    yield make({"per": per}, neuron=AdaptiveLIF(tau_adapt=20e-3, b=0.5))
    yield Readout(IN, 5, **common)
    yield SpikingConv1d(IN, 6, kernel_size=1, recurrent_kernel_size=1, init=INIT, **common)
    if per == "unit":
        yield DalianDense(IN, 8, init=DalianFluctuationDriven(nu=50.0), recurrent=True, **common)


@pytest.mark.parametrize(("per", "k"), [("unit", k) for k in range(6)] + [("connection", k) for k in range(5)])  # fmt: skip
def test_sequence_equals_streamed_steps_and_parts(per, k, x, x64):
    layer = next(itertools.islice(layers(per), k, None))
    if isinstance(layer, SpikingConv1d):
        x = x[:, :, None]
    whole, (outputs, state) = forward(layer, x), stream(layer, x)
    assert_close(whole.output, outputs, 1e-12)
    if layer.spiking:
        assert np.asarray(whole.output).mean() > 0.005
    first = forward(layer, x[:6])  # shorter than the largest delay
    second = jax.jit(lambda m, x, state: m(x, state=state))(layer, x[6:], first.state)
    assert_close(np.concatenate([first.output, second.output]), whole.output, 1e-12)
    for final in (state, second.state):
        for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(final), strict=True):
            assert_close(a, b, 1e-11)


@pytest.mark.parametrize("per", PER)
def test_events_equal_arrays(per, rng):
    dense = (rng.random((T, B, IN)) < 0.1).astype(np.float32)
    at = [np.nonzero(dense[:, b]) for b in range(B)]
    by_unit = [np.nonzero(dense[:, b].T) for b in range(B)]
    counts = np.cumsum([0] + [len(t) for t, _ in at])
    firsts = lambda each, n: np.stack(
        [c + np.searchsorted(keys, np.arange(n + 1)) for c, keys in zip(counts, each, strict=False)], axis=1
    )  # fmt: skip
    x = EventRaster(
        addresses=jnp.concatenate([t * IN + u for t, u in at]),
        steps_by_unit=jnp.concatenate([t for _, t in by_unit]),
        first_of_step=jnp.asarray(firsts([t for t, _ in at], T)),
        first_of_unit=jnp.asarray(firsts([u for u, _ in by_unit], IN)),
        longest=max(len(t) for t, _ in at),
    )
    np.testing.assert_array_equal(x.dense(), dense)
    layer = make({"per": per}, recurrent=False, dtype=jnp.float32)
    graph, params = nnx.split(layer)

    def loss(params, x):
        return jnp.square(nnx.merge(graph, params)(x, membrane=True).membrane).mean()

    (a, of_a), (b, of_b) = (jax.jit(jax.value_and_grad(loss))(params, i) for i in (x, dense))
    assert_close(a, b, 1e-5)
    jax.tree.map(lambda p, q: assert_close(p, q, 1e-4), of_a, of_b)


# --- gradients


def smooth(v):
    return jax.nn.sigmoid(5 * v)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("shape", ["triangle", "gaussian"])
def test_gradients_are_finite_differences(per, shape, x, rng, x64):
    layer = make({"per": per, "shape": shape}, neuron=LIF(spike=smooth, reset_grad=True))
    graph, params = nnx.split(layer)
    names = ["delay", "kernel", "recurrent_delay", "recurrent_kernel"]
    weight = rng.normal(size=(T, B, OUT))

    def loss(x, *values):
        state = jax.tree.map(lambda a: a, params)
        for name, value in zip(names, values, strict=True):
            state[name] = state[name].replace(value)
        return (nnx.merge(graph, state)(x).output * weight).sum()

    given = (x + rng.normal(size=x.shape) * 0.1, *(params[name][...] for name in names))
    assert_gradients_are_finite_differences(loss, given, rtol=1e-5)


@pytest.mark.parametrize("per", PER)
def test_hand_written_backward_pass_equals_autodiff(per, x, rng, x64):
    # a threshold that is a JAX array takes the general loop, which JAX differentiates
    weight = rng.normal(size=(T, B, OUT))
    found = []
    for theta in (1.0, jnp.ones(())):
        layer = make({"per": per}, neuron=LIF(theta=theta))
        graph, params, rest = nnx.split(layer, nnx.Param, ...)
        first = layer(x[:7]).state

        def loss(params, first, graph=graph, rest=rest):
            sim = nnx.merge(graph, params, rest)(x[7:], state=first)
            return (sim.output * weight[7:]).sum() + sum(
                jnp.square(leaf).sum() for leaf in jax.tree.leaves(sim.state)
            )

        found.append(jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, first)))
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-11)
    assert [jnp.ndim(a) for a in found[0] if not jnp.abs(a).max()] == [0]  # the width alone


# --- measured statistics


@pytest.mark.parametrize(("per", "width"), [("unit", 0.0), ("connection", 0.01)])
def test_calibration_measures_inputs_as_they_arrive(per, width, rng):
    from snnjax.calibration import Target, calibrate_layer

    x = jnp.asarray(rng.poisson(0.06, (100, 8, 60)), jnp.float32)
    delays = Delays(max_delay=0.03, per=per, width=width)
    layer = SpikingDense(60, 80, init=INIT, recurrent=True, delays=delays, rngs=nnx.Rngs(0))
    outcome = calibrate_layer(layer, x, jax.random.key(0), Target(sigma_u=1.0))
    assert abs(float(outcome.report.sigma_u) - 1) < 0.05


def test_widths_change_the_power_but_not_the_mean_of_the_drive(rng):
    x = jnp.asarray(rng.poisson(0.05, (4000, 1, 40)), jnp.float32)
    layer = Readout(40, 1, delays=Delays(max_delay=0.1, width=0.02), rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.ones((40, 1))
    wide = layer.drive(x)
    layer.round_delays()
    rounded = layer.drive(x)
    poisson = 40 * 0.05
    assert_close(rounded[100:].mean(), poisson, 0.02)
    assert_close(wide[100:].mean(), poisson, 0.02)
    assert_close(rounded[100:].var(), poisson, 0.1)
    taps = DelayKernel("triangle", 50).taps(jnp.array([25.0]), 10.0)
    share = float(jnp.square(taps).sum())  # of the power, by a kernel that is not cut off
    assert 0.9 * share < float(wide[100:].var()) / poisson < 1.6 * share < 0.2


# --- values


def test_delays_in_seconds_and_rounded(x):
    layer = make({"initial": 0.0131, "width": 0.01}, dtype=jnp.float32)
    exact, rounded = layer.delay_times(rounded=False), layer.delay_times()
    assert sorted(exact) == ["delay", "recurrent_delay"]
    assert exact["delay"].shape == (IN,)
    np.testing.assert_allclose(exact["recurrent_delay"], 0.0131, rtol=1e-6)
    np.testing.assert_allclose(rounded["delay"], 0.014, rtol=1e-6)
    layer.round_delays()
    np.testing.assert_allclose(layer.delay_times(rounded=False)["delay"], 0.014, rtol=1e-6)
    moved = np.concatenate([np.zeros((7, B, IN)), x[:-7]]).astype(np.float32)
    np.testing.assert_array_equal(layer._line.run(x.astype(np.float32), None)[1], moved)
    assert make(recurrent=False).delay_times() == {}


def test_initial_delays_are_uniform_and_leave_the_weights_unchanged():
    without, layer = make(), make({"per": "connection"})
    np.testing.assert_array_equal(without.kernel[...], layer.kernel[...])
    delay = layer.delay[...].ravel()
    assert 0 <= delay.min() < 0.05
    assert 0.95 < delay.max() <= 1
    assert abs(delay.mean() - 0.5) < 3 / np.sqrt(12 * delay.size)
    assert isinstance(layer.delay_width, DelayWidth)


@pytest.mark.parametrize(
    ("delays", "options", "message"),
    [
        ({"max_delay": -0.1}, {}, "max_delay must be finite and > 0 s, got -0.1"),
        ({"max_delay": 1e-3}, {}, "max_delay must be at least the time step dt = 0.002 s, got 0.001"),
        ({"initial": 0.03}, {}, "initial must be finite and >= 0 s and <= 0.02 s, got 0.03"),
        ({"initial": -0.01}, {}, "initial must be finite and >= 0 s and <= 0.02 s, got -0.01"),
        ({"initial": np.ones(3) * 0.01}, {}, r"initial must be one delay, or have the shape \(20,\)"),
        ({"width": -1e-3}, {}, "width must be finite and >= 0 s, got -0.001"),
        ({"per": "neuron"}, {}, "per must be one of 'unit', 'connection', got 'neuron'"),
        ({"shape": "box"}, {}, "shape must be one of 'triangle', 'gaussian', got 'box'"),
        ({"on": "recurrent"}, {"recurrent": False}, "delays on 'recurrent' need .* use recurrent=True"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(delays, options, message):
    with pytest.raises(ValueError, match=message):
        make(delays, **options)


def test_wrong_objects_are_refused(x):
    with pytest.raises(TypeError, match=r"delays must be Delays\(max_delay=...\) or None, got 0.1"):
        SpikingDense(IN, OUT, init=INIT, delays=0.1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="delays of a layer with Dale's law must be per 'unit'"):
        DalianDense(
            IN, 8, init=DalianFluctuationDriven(nu=50.0), rngs=nnx.Rngs(0),
            delays=Delays(max_delay=0.02, per="connection"),
        )  # fmt: skip
    with pytest.raises(ValueError, match="a readout has no spikes of its own; use delays on 'inp"):
        Readout(IN, 2, delays=Delays(max_delay=0.02, on="recurrent"), rngs=nnx.Rngs(0))
    with pytest.warns(
        UserWarning, match=r"width = 5 s is longer than max_delay = 0\.02 s; it is in"
    ):
        Delays(max_delay=0.02, width=5.0)
    with pytest.raises(ValueError, match="state must be the DelayedState of a layer with delays"):
        make({}, dtype=jnp.float32)(x, state=make(dtype=jnp.float32).initial_state(B))


# --- a task that only delays solve


def coincidences(n, seed, steps=66):
    """Unit 1 spikes after unit 0: 30 ms later (target 1), or earlier or later than that (0)."""
    rng, samples = np.random.default_rng(seed), np.arange(n)
    first, early = rng.integers(0, 13, n), samples % 4 == 0
    wrong = np.where(early, rng.integers(0, 6, n), rng.integers(15, 21, n))
    x = np.zeros((steps, n, 2), np.float32)
    x[first, samples, 0] = x[first + np.where(samples % 2, 10, wrong), samples, 1] = 1
    return jnp.asarray(x), jnp.asarray(samples % 2, jnp.float32)


def learn(seed, delays, updates=600):
    """Accuracy on new samples of one neuron, with its delays rounded after training."""
    neuron = LIF(tau_mem=4e-3, tau_syn=2e-3, dt=3e-3, spike=superspike(3.0))
    init = SameForAll(lambda key, shape, dtype: jnp.full(shape, 10.0, dtype))
    rngs = nnx.Rngs(jax.random.key(seed))
    layer = SpikingDense(2, 1, init=init, neuron=neuron, delays=delays, rngs=rngs)
    graph, params = nnx.split(layer)
    x, target = coincidences(48, 0)
    optimizer = optax.adam(0.02)

    def loss(params):
        membrane = nnx.merge(graph, params)(x, membrane=True).membrane[:, :, 0]
        peak = jax.nn.logsumexp(10 * membrane, axis=0) / 10  # smooth, unlike the maximum
        return optax.sigmoid_binary_cross_entropy(20 * (peak - 1), target).mean()

    def update(carry, k):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        # larger steps for the weights, which follow the height of the narrowing kernel
        updates["kernel"] = updates["kernel"].replace(5 * updates["kernel"][...])
        return (follow_schedules(optax.apply_updates(params, updates), k + 1), state), None

    start = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(update, start, jnp.arange(updates))
    layer = nnx.merge(graph, params)
    layer.round_delays()
    x, target = coincidences(400, 1)
    accuracy = ((layer(x).output.sum(axis=0)[:, 0] > 0) == (target > 0)).mean()
    times = layer.delay_times().get("delay", jnp.zeros(2))
    return accuracy, times[0] - times[1]


def test_coincidence_of_spikes_30_ms_apart_is_learned_from_every_seed():
    delays = Delays(max_delay=0.06, width=optax.linear_schedule(0.12, 0.0, 420))
    accuracy, apart = jax.jit(jax.vmap(lambda seed: learn(seed, delays)))(jnp.arange(16))
    assert accuracy.min() > 0.97
    assert np.abs(apart - 0.03).max() < 5e-3
    without, _ = jax.jit(learn, static_argnums=1)(0, None)
    assert without < 0.8
