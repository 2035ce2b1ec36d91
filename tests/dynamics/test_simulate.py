import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close
from flax import nnx

from snnjax import surrogate
from snnjax._pytree import pytree_dataclass
from snnjax.dynamics import (
    LIF,
    AdaptiveLIF,
    ExcInhLIF,
    LeakyIntegrator,
    Neuron,
    _lif_vjp,
    _neuron,
    simulate,
)
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.dynamics._lif import LIFState
from snnjax.nn._maps import dense_recurrence

T, B, N = 30, 3, 6
NEURONS = {
    "lif": LIF(),
    "lif-subtractive": LIF(reset="subtractive"),
    "adaptive": AdaptiveLIF(tau_adapt=20e-3, b=0.5),
    "exc-inh": ExcInhLIF(),
    "readout": LeakyIntegrator(),
}


def drive_for(neuron, rng, dtype=None, t=T):
    drive = jnp.asarray(rng.normal(0.4, 1.0, (t, B, N)), dtype)
    return (
        ExcInhDrive(jnp.abs(drive), 0.3 * jnp.abs(drive[::-1]))
        if isinstance(neuron, ExcInhLIF)
        else drive
    )


# --- the hand-written backward pass


TAUS = {"tau_mem": np.linspace(8e-3, 30e-3, N), "tau_syn": np.full(N, 7e-3)}


@pytest.mark.parametrize(
    ("recurrent", "membrane", "neuron"),
    [
        *((r, m, LIF(**taus)) for r in (False, True) for m in (False, True) for taus in ({}, TAUS)),
        (True, True, LIF(spike=surrogate.triangular(0.5))),
        (True, True, LIF(spike=surrogate.superspike_rescaled(5.0), theta=np.linspace(0.5, 1, N))),
    ],
)
def test_fused_equals_autodiff(recurrent, membrane, neuron, rng, x64):
    drive, v = drive_for(neuron, rng), jnp.asarray(rng.normal(0, 0.4, (N, N)))
    state = LIFState(jnp.asarray(rng.normal(0.3, 1, (B, N))), jnp.asarray(rng.normal(size=(B, N))))
    target = rng.normal(size=(T, B, N))

    def loss(drive, v, state, fused):
        options = {"recurrent": dense_recurrence, "weights": v} if recurrent else {}
        sim = simulate(neuron, drive, state=state, membrane=membrane, fused=fused, **options)
        # not linear in the outputs, so that all cotangents differ
        trace = jnp.sum(jnp.square(sim.membrane - target)) if membrane else 0.0
        return jnp.sum(jnp.square(sim.output.mean(0) - 0.1)) + trace + jnp.sum(
            jnp.tanh(sim.state.u)
        ) + jnp.sum(sim.state.i**2), sim

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    (of_fused, fused), (of_plain, plain) = (
        gradient(drive, v, state, True),
        gradient(drive, v, state, False),
    )
    np.testing.assert_array_equal(fused.output, plain.output)
    assert (fused.membrane is None) == (plain.membrane is None) == (not membrane)
    for a, b in zip(
        jax.tree.leaves((of_fused, fused)), jax.tree.leaves((of_plain, plain)), strict=True
    ):
        assert_close(a, b, 1e-12)
    assert recurrent == bool(jnp.any(of_fused[1]))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("neuron", [LIF(trace_dtype="bfloat16"), ExcInhLIF(trace_dtype="bfloat16")])
def test_bfloat16_traces_change_the_gradient_by_a_percent_and_no_spike(neuron, recurrent, rng):
    drive, v = (
        drive_for(neuron, rng, jnp.float32),
        jnp.asarray(rng.normal(0, 0.4, (N, N)), jnp.float32),
    )
    own = (lambda z, w: jax.tree.map(lambda _: z @ w, drive)) if recurrent else None

    def loss(drive, v, neuron):
        sim = simulate(neuron, drive, recurrent=own, weights=v if recurrent else None, fused=True)
        return jnp.sum(jnp.square(sim.output.mean(0) - 0.1)) + jnp.sum(
            jnp.tanh(sim.state.u)
        ), sim.output

    full = dataclasses.replace(neuron, trace_dtype=None)
    (g, z), (expected, spikes) = (
        jax.jit(jax.grad(lambda d, v, n=n: loss(d, v, n), argnums=(0, 1), has_aux=True))(drive, v)
        for n in (neuron, full)
    )
    np.testing.assert_array_equal(z, spikes)
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(np.asarray(a) - b) <= 0.01 * np.linalg.norm(b)
    # the stored arrays, by the types that the pullback closes over
    _, pull = jax.vjp(lambda d: loss(d, v, neuron)[0], drive)
    whole = [a for a in jax.tree.leaves(pull) if a.shape == (T, B, N)]
    assert [a.dtype for a in whole] == [jnp.bfloat16]


def test_a_trace_dtype_that_loses_signs_is_refused():
    for dtype in ("float16", jnp.bfloat16, 16):
        with pytest.raises(
            ValueError, match="trace_dtype must be None, 'bfloat16' or 'float32', got"
        ):
            LIF(trace_dtype=dtype)


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ({}, True),
        ({"tau_mem": np.linspace(1e-2, 2e-2, N)}, True),
        ({"theta": np.float32(1.0)}, True),
        ({"u_reset": jnp.ones(())}, True),  # not used by this reset
        ({"tau_mem": jnp.full(N, 2e-2)}, False),
        ({"tau_syn": jnp.full(N, 1e-2)}, False),
        ({"theta": jnp.ones(N)}, False),
        ({"reset": "subtractive"}, False),
        ({"reset_grad": True}, False),
        ({"spike": lambda v: jax.nn.sigmoid(v)}, False),
    ],
)
def test_fused_is_refused_where_its_gradients_would_be_wrong(change, applies):
    drive = jnp.ones((5, 1, N))
    if applies:
        assert simulate(LIF(**change), drive, fused=True).output.shape == drive.shape
        return
    with pytest.raises(
        ValueError,
        match="fused=True needs a LIF, ExcInhLIF, Leaky or IF with reset='multiplicative'",
    ):
        simulate(LIF(**change), drive, fused=True)
    assert simulate(LIF(**change), drive).output.shape == drive.shape


def test_jax_array_parameters_get_gradients_by_default(x64):
    def loss(tau_mem, tau_syn, theta):
        return simulate(
            LIF(tau_mem=tau_mem, tau_syn=tau_syn, theta=theta), jnp.full((T, 1, N), 0.35)
        ).output.sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for gradient in map(np.asarray, gradients(np.full(N, 2e-2), np.full(N, 1e-2), np.ones(N))):
        assert np.all(np.isfinite(gradient) & (gradient != 0))


@pytest.mark.parametrize("fused", [True, False])
def test_unbatched_recurrence(fused, rng, x64):
    # vmap over a batch of (T, n), with the gradient inside
    drive, v = drive_for(LIF(), rng), jnp.asarray(rng.normal(0, 0.4, (N, N)))

    def loss(v, drive):
        return simulate(
            LIF(), drive, recurrent=dense_recurrence, weights=v, fused=fused
        ).output.sum()

    one, each = jax.jit(jax.grad(loss)), jax.jit(jax.vmap(jax.grad(loss), (None, 1)))
    assert_close(np.asarray(each(v, drive)).sum(0), one(v, drive), 1e-12)


# --- running in parts and in batches


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_chunks_equal_the_whole(neuron, recurrent, rng, x64):
    recurrence = (
        (lambda z, w: ExcInhDrive(z @ w, 0.5 * z @ w))
        if isinstance(neuron, ExcInhLIF)
        else dense_recurrence
    )
    options = (
        {"recurrent": recurrence, "weights": jnp.asarray(rng.uniform(0, 0.3, (N, N)))}
        if recurrent
        else {}
    )
    drive = drive_for(neuron, rng)
    whole = simulate(neuron, drive, **options)
    state, outputs = None, []
    for start, stop in ((0, 1), (1, 12), (12, T)):
        some = jax.tree.map(lambda d, at=slice(start, stop): d[at], drive)
        part = simulate(neuron, some, state=state, **options)
        state = part.state
        outputs.append(part.output)
    assert np.asarray(whole.output).std() > 0
    assert_close(np.concatenate(outputs), whole.output, 1e-12)
    for a, b in zip(state, whole.state, strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_simulate_equals_stepping(neuron, rng, x64):
    drive = drive_for(neuron, rng)
    state, outputs = neuron.initial_state((B, N), jnp.float64), []
    assert isinstance(neuron, Neuron)
    step = jax.jit(neuron.step)
    for t in range(T):
        state, z = step(state, jax.tree.map(lambda d: np.asarray(d)[t], drive))  # noqa: B023
        outputs.append(np.asarray(z))
    sim = simulate(neuron, drive)
    assert_close(sim.output, np.stack(outputs), 1e-12)
    for a, b in zip(sim.state, state, strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda tau: LIF(tau_mem=tau), [8e-3, 20e-3]),
        (lambda theta: LIF(theta=theta), [0.5, 1.0]),
        (lambda beta: LIF(spike=surrogate.superspike(beta)), [5.0, 20.0]),
        (lambda b: AdaptiveLIF(b=b), [0.0, 0.5]),
        (lambda tau: ExcInhLIF(tau_inh=tau), [5e-3, 20e-3]),
    ],
    ids=["tau_mem", "theta", "beta", "b", "tau_inh"],
)
def test_vmap_over_parameters_equals_a_loop(make, values, rng, x64):
    drive = drive_for(make(values[0]), rng)

    def run(value):
        return simulate(make(value), drive).output, jax.grad(
            lambda d: simulate(make(value), d).output.sum()
        )(drive)

    loop = [jax.jit(run)(value) for value in values]
    batched = jax.jit(jax.vmap(run))(jnp.asarray(values))
    for k, one in enumerate(loop):
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(one), strict=True):
            assert_close(a[k], b, 1e-12)


def test_vmap_over_weights_equals_a_loop(rng, x64):
    drive, v = drive_for(LIF(), rng), jnp.asarray(rng.normal(0, 0.4, (4, N, N)))
    run = jax.value_and_grad(
        lambda v: simulate(
            LIF(), drive, recurrent=dense_recurrence, weights=v, membrane=True
        ).membrane.sum()
    )
    values, gradients = jax.jit(jax.vmap(run))(v)
    one = jax.jit(run)
    for k in range(4):
        value, gradient = one(v[k])
        np.testing.assert_allclose(values[k], value, rtol=1e-12)
        assert_close(gradients[k], gradient, 1e-12)


def test_feature_axes_of_any_number(rng, x64):
    drive = jnp.asarray(rng.normal(0.4, 1, (T, B, 2, 3)))
    np.testing.assert_array_equal(
        simulate(LIF(), drive).output.reshape(T, B, 6),
        simulate(LIF(), drive.reshape(T, B, 6)).output,
    )


# --- dtypes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    "neuron",
    [*NEURONS.values(), LIF(tau_mem=np.linspace(1e-2, 2e-2, N))],
    ids=[*NEURONS, "lif-per-neuron"],
)
def test_states_are_kept_in_at_least_float32_and_cotangents_in_the_type_of_the_drive(
    neuron, recurrent, dtype, rng
):
    drive = drive_for(neuron, rng, dtype, t=4)
    recurrence = (
        (lambda z, w: ExcInhDrive(z @ w, z @ w))
        if isinstance(neuron, ExcInhLIF)
        else dense_recurrence
    )
    options = {"recurrent": recurrence, "weights": jnp.zeros((N, N), dtype)} if recurrent else {}

    def loss(d):
        sim = simulate(neuron, d, **options)
        return sim.output.astype(jnp.float32).sum(), sim

    # the cotangent of the drive is through the backward pass that applies
    gradient, sim = jax.eval_shape(jax.grad(loss, has_aux=True), drive)
    assert {leaf.dtype for leaf in jax.tree.leaves((sim.output, sim.state))} == {
        jnp.dtype(jnp.float32)
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("fused", [True, False])
def test_bfloat16_is_close_to_float32(fused, rng):
    drive = drive_for(LIF(), rng)
    drive = drive.astype(jnp.bfloat16)
    u = [
        simulate(LIF(theta=1e3), drive.astype(d), membrane=True, fused=fused).membrane
        for d in (jnp.bfloat16, jnp.float32)
    ]
    np.testing.assert_array_equal(u[0], u[1])  # only the drive was rounded


@pytest.mark.parametrize(
    "neuron",
    [
        LIF(tau_mem=0.2, theta=1e9),
        LeakyIntegrator(tau_mem=0.7, initial=0.0),
        ExcInhLIF(tau_mem=0.2, theta=1e9),
    ],
)
def test_slow_membranes_under_16_bit_drives_equal_float64(neuron):
    """A membrane that moves by less than 1/256 per step would not move at all in bfloat16."""
    steps = 400
    value = np.float64(jnp.bfloat16(0.04))
    drive = jnp.full((steps, 1, 1), value, jnp.bfloat16)
    exc_inh = isinstance(neuron, ExcInhLIF)
    final = simulate(neuron, ExcInhDrive(drive, jnp.zeros_like(drive)) if exc_inh else drive).state[
        0
    ]
    u = i = 0.0
    lm, ls = (
        np.exp(-2e-3 / neuron.tau_mem),
        np.exp(-2e-3 / (neuron.tau_exc if exc_inh else neuron.tau_syn)),
    )
    for _ in range(steps):
        u, i = lm * u + (1 - lm) * i, ls * i + value
    np.testing.assert_allclose(float(final[0, 0]), u, rtol=1e-5)


def test_single_steps_from_a_16_bit_initial_state_equal_float32():
    neuron, states = LIF(tau_mem=np.full(2, 0.2, jnp.bfloat16), theta=1e9), []
    step = jax.jit(neuron.step)
    for dtype in (jnp.bfloat16, jnp.float32):
        state = neuron.initial_state((1, 2), dtype)
        for _ in range(100):
            state, _ = step(state, np.full((1, 2), 0.04, jnp.bfloat16))
        states.append(state)
    assert states[0].u.dtype == jnp.float32
    np.testing.assert_array_equal(states[0].u, states[1].u)


# --- errors


@pytest.mark.parametrize(
    ("drive", "error", "message"),
    [
        (jnp.zeros((0, 2, 3)), ValueError, r"at least one time step, got \(0, 2, 3\)"),
        (jnp.zeros(5), ValueError, r"drive must have shape \(time, batch, ...features\)"),
        ([[1.0, 2.0]], TypeError, "drive must hold arrays"),
    ],
)
def test_errors(drive, error, message):
    with pytest.raises(error, match=message):
        simulate(LIF(), drive)


@pytest.mark.parametrize(
    ("neuron", "got"),
    [(LIF, "the class LIF itself"), (0.02, "0.02"), (LIF().step, "<bound method")],
)
def test_what_is_no_neuron_is_named(neuron, got):
    with pytest.raises(
        TypeError,
        match=rf"neuron must be a snnjax\.dynamics\.Neuron .* got {got}.*; for a model of your own derive",
    ):
        simulate(neuron, jnp.ones((5, 1, 3)))


def test_a_neuron_owns_its_scan():
    @pytree_dataclass
    class Doubled(LIF):
        def scan(self, run):
            return super().scan(dataclasses.replace(run, drive=2 * run.drive))

    drive = jnp.full((40, 1, 2), 0.4)
    once, twice = (simulate(LIF(), k * drive).output for k in (1, 2))
    assert float(twice.sum()) > float(once.sum()) > 0
    np.testing.assert_array_equal(simulate(Doubled(), drive).output, twice)
    np.testing.assert_array_equal(
        simulate(Doubled(), drive, fused=False).output, once
    )  # autodiff of `step`


def test_integer_drive_is_an_error():
    with pytest.raises(TypeError, match="float"):
        simulate(LIF(), jnp.ones((5, 1, 3), jnp.int32))


@pytest.mark.parametrize("fused", [True, False])
def test_recurrence_may_close_over_traced_weights(fused, rng, x64):
    drive, v = drive_for(LIF(), rng), jnp.asarray(rng.normal(0, 0.4, (N, N)))
    closed = jax.grad(
        lambda v: simulate(LIF(), drive, recurrent=lambda z, _: z @ v, fused=fused).output.sum()
    )(v)
    given = jax.grad(
        lambda v: simulate(
            LIF(), drive, recurrent=dense_recurrence, weights=v, fused=fused
        ).output.sum()
    )(v)
    assert float(jnp.abs(given).max()) > 0
    assert_close(closed, given, 1e-12)


def test_membrane_of_a_readout_is_an_error():
    with pytest.raises(
        ValueError,
        match="membrane=True needs a neuron whose state has a membrane u, got LeakyIntegratorState",
    ):
        simulate(LeakyIntegrator(), jnp.ones((5, 1, 3)), membrane=True)


def test_a_subclass_with_a_step_of_its_own_is_obeyed():
    class Biased(LIF):
        def step(self, state, drive):
            return super().step(state, drive + 0.5)

    plain, drive = LIF(), jnp.zeros((60, 1, 2))
    biased = Biased()
    expected = simulate(plain, drive + 0.5, fused=False).output
    assert float(expected.sum()) > 0
    np.testing.assert_array_equal(simulate(biased, drive).output, expected)


def test_eager_calls_compile_once():
    traces = []

    @pytree_dataclass
    class Counting(LIF):
        def step(self, state, drive):
            traces.append(1)
            return super().step(state, drive)

    neuron = Counting()
    for _ in range(3):
        simulate(neuron, jnp.ones((5, 1, 2)))
    first = len(traces)
    simulate(neuron, jnp.ones((5, 1, 2)))
    assert len(traces) == first <= 2


@pytest.mark.parametrize(
    "neuron", [LIF(reset="subtractive"), AdaptiveLIF(), LIF(), LeakyIntegrator()]
)
def test_arrays_of_a_neuron_are_no_reason_to_compile_again(neuron):
    """Trained time constants change at each step: they are arguments of the program."""

    def call(tau):
        return simulate(
            dataclasses.replace(neuron, tau_mem=jnp.full(2, tau)), jnp.full((20, 1, 2), 0.5)
        ).state[0]

    size = _neuron._jitted_scan._cache_size()
    values = [call(tau) for tau in (10e-3, 20e-3, 40e-3)]
    assert _neuron._jitted_scan._cache_size() <= size + 1
    constant = [
        simulate(dataclasses.replace(neuron, tau_mem=tau), jnp.full((20, 1, 2), 0.5)).state[0]
        for tau in (10e-3, 20e-3, 40e-3)
    ]
    np.testing.assert_allclose(values, constant, rtol=1e-5, atol=1e-6)


def test_time_constants_that_are_numpy_arrays_share_a_program_with_others():
    drive = jnp.full((20, 1, 2), 0.5)
    size = _lif_vjp.jitted_lif_scan._cache_size()
    runs = [
        simulate(LIF(tau_mem=tau), drive).state.u
        for tau in (np.array([1e-2, 2e-2]), np.array([2e-2, 1e-2]))
    ]
    assert _lif_vjp.jitted_lif_scan._cache_size() <= size + 1
    np.testing.assert_array_equal(runs[0], runs[1][:, ::-1])


def test_a_parameter_that_is_a_flax_variable_is_read_at_each_call():
    theta = nnx.Param(jnp.array(1.0))
    neuron, drive = LIF(theta=theta), jnp.full((40, 1, 1), 0.5)
    counts = []
    for value in (1.0, 1e9, 0.5):
        theta[...] = jnp.array(value)
        counts.append(float(simulate(neuron, drive).output.sum()))
    assert counts == [
        float(simulate(LIF(theta=value), drive).output.sum()) for value in (1.0, 1e9, 0.5)
    ]
    assert counts[1] == 0 < counts[0] < counts[2]


@pytest.mark.parametrize(
    ("neuron", "state"),
    [
        (LIF(), LIF().initial_state((1, N))),  # would broadcast over trials
        (LIF(), LIF().initial_state((B, 1))),
        (LIF(), LIF().initial_state((B, N, 1))),
        (LIF(), AdaptiveLIF().initial_state((B, N))),
        (LIF(), LIFState(jnp.zeros((B, N)), jnp.zeros((1, N)))),
        (AdaptiveLIF(), AdaptiveLIF().initial_state((2 * B, N))),
        (LeakyIntegrator(), jnp.zeros((B, N))),
    ],
)
def test_the_state_of_another_population_is_an_error(neuron, state):
    with pytest.raises(ValueError, match=rf"state must be \w+ with arrays of shape \({B}, {N}\)"):
        simulate(neuron, jnp.ones((T, B, N)), state=state)


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_forward_mode_equals_reverse_mode(neuron, rng, x64):
    drive = drive_for(neuron, rng, t=12)
    direction = jax.tree.map(lambda d: jnp.asarray(rng.normal(size=d.shape)), drive)
    weight = jnp.asarray(rng.normal(size=(12, B, N)))
    loss = lambda d: (weight * simulate(neuron, d, fused=False).output).sum()
    forward = jax.jit(lambda d, v: jax.jvp(loss, (d,), (v,))[1])(drive, direction)
    gradient = jax.tree.leaves(jax.jit(jax.grad(loss))(drive))
    pairs = zip(gradient, jax.tree.leaves(direction), strict=True)
    reverse = sum(np.vdot(g, d) for g, d in pairs)
    assert abs(float(forward)) > 1e-3
    assert_close(forward, reverse, 1e-12)


def test_state_of_another_dtype_is_converted():
    state = LIF().initial_state((1, 2), jnp.bfloat16)
    out = [simulate(LIF(), jnp.ones((20, 1, 2)), state=s) for s in (state, None)]
    np.testing.assert_array_equal(out[0].output, out[1].output)


def test_subclasses_that_differ_only_in_their_own_attributes_are_not_confused():
    class Biased(LIF):
        def __init__(self, bias):
            super().__init__()
            object.__setattr__(self, "bias", bias)

        def step(self, state, drive):
            return super().step(state, drive + self.bias)

    drive = jnp.zeros((60, 1, 2))
    none, some = (float(simulate(Biased(bias), drive).output.sum()) for bias in (0.0, 0.5))
    assert none == 0
    assert some > 0


def test_a_neuron_that_is_defined_again_has_its_new_step():
    """As when a notebook cell is changed and run again: same name, same fields, another step."""

    def define(scale):
        @jax.tree_util.register_dataclass
        @dataclasses.dataclass(frozen=True)
        class Own(Neuron):
            theta: float = 1.0
            dt: float = dataclasses.field(default=2e-3, metadata={"static": True})

            def initial_state(self, shape, dtype=jnp.float32):
                return LIFState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

            def step(self, state, drive):
                return LIFState(scale * drive, state.i), jnp.zeros_like(drive)

        return Own()

    drive = jnp.ones((3, 1, 2))
    for scale in (1.0, 5.0):
        u = simulate(define(scale), drive, membrane=True).membrane
        np.testing.assert_allclose(u[1:], scale, rtol=1e-6)
