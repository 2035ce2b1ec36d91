import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences, lif_backward, lif_loop

from snnjax.dynamics import LIF, apply_reset, simulate
from snnjax.dynamics._lif import LIFState
from snnjax.nn._maps import dense_recurrence
from snnjax.surrogate import superspike

RESETS = ["multiplicative", "to_value", "subtractive"]
T, B, N = 40, 3, 8


@pytest.fixture
def problem(rng):
    """A population that spikes in a few to thirty per cent of the steps.

    It has random cotangents for all outputs of `simulate`.
    """
    return {
        "drive": rng.normal(0.3, 1.0, (T, B, N)),
        "v": rng.normal(0, 0.4, (N, N)),
        "u0": rng.normal(0.3, 0.8, (B, N)),
        "i0": rng.normal(0, 0.5, (B, N)),
        "g_z": rng.normal(size=(T, B, N)),
        "g_u": rng.normal(size=(T, B, N)),
        "g_u_final": rng.normal(size=(B, N)),
        "g_i_final": rng.normal(size=(B, N)),
    }


PARAMETERS = [
    {},
    {
        "tau_mem": np.linspace(8e-3, 40e-3, N),
        "tau_syn": np.linspace(3e-3, 20e-3, N),
        "theta": np.linspace(0.5, 1.2, N),
        "dt": 1e-3,
    },
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=["scalar", "per-neuron"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_simulate_equals_a_plain_loop(problem, reset, recurrent, parameters, x64):
    p, v = problem, problem["v"] if recurrent else None
    expected = lif_loop(
        p["drive"], v=v, u0=p["u0"], i0=p["i0"], reset=reset, u_reset=-0.2, **parameters
    )
    assert 0.02 < expected.z.mean() < 0.5
    sim = simulate(
        LIF(reset=reset, u_reset=-0.2, **parameters),
        jnp.asarray(p["drive"]),
        recurrent=dense_recurrence if recurrent else None,
        weights=p["v"],
        state=LIFState(jnp.asarray(p["u0"]), jnp.asarray(p["i0"])),
        membrane=True,
    )
    assert sim.output.dtype == jnp.float64
    np.testing.assert_array_equal(sim.output, expected.z)
    assert_close(sim.membrane, expected.u, 1e-12)
    assert_close(sim.state.u, expected.u_final, 1e-12)
    assert_close(sim.state.i, expected.i_final, 1e-12)


def test_an_input_spike_moves_the_membrane_two_steps_later(x64):
    u = simulate(LIF(), jnp.zeros((4, 1, 1)).at[0].set(1.0), membrane=True).membrane[:, 0, 0]
    np.testing.assert_allclose(u[:3], [0, 0, 1 - np.exp(-0.1)], rtol=1e-14)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=["scalar", "per-neuron"])
@pytest.mark.parametrize(("reset", "reset_grad"), [(r, g) for r in RESETS for g in (False, True)])
def test_gradients_equal_hand_derived_backpropagation(problem, reset, reset_grad, parameters, x64):
    p = problem
    spiking = {"reset": reset, "u_reset": -0.2, **parameters}
    neuron = LIF(reset_grad=reset_grad, **spiking)

    def loss(drive, v, u0, i0):
        sim = simulate(
            neuron,
            drive,
            recurrent=dense_recurrence,
            weights=v,
            state=LIFState(u0, i0),
            membrane=True,
        )
        pairs = (
            (sim.output, "g_z"),
            (sim.membrane, "g_u"),
            (sim.state.u, "g_u_final"),
            (sim.state.i, "g_i_final"),
        )
        return sum(jnp.sum(value * p[name]) for value, name in pairs)

    ours = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(
        *(jnp.asarray(p[k]) for k in ("drive", "v", "u0", "i0"))
    )
    by_hand = lif_backward(**p, reset_grad=reset_grad, **spiking)
    for actual, desired in zip(ours, by_hand, strict=True):
        assert_close(actual, desired, 1e-9)


@pytest.mark.parametrize("reset", RESETS)
def test_smooth_spikes_have_gradients_equal_to_finite_differences(problem, reset, x64):
    # with a smooth spike function, differentiated through the reset, autodiff and finite
    # differences must agree
    p = problem

    def loss(drive, v, u0, i0, tau_mem, tau_syn, theta, u_reset):
        neuron = LIF(
            tau_mem=tau_mem,
            tau_syn=tau_syn,
            theta=theta,
            u_reset=u_reset,
            reset=reset,
            reset_grad=True,
            spike=lambda v: jax.nn.sigmoid(5 * v),
        )
        sim = simulate(
            neuron,
            drive,
            recurrent=dense_recurrence,
            weights=v,
            state=LIFState(u0, i0),
            membrane=True,
        )
        return jnp.sum(sim.output * p["g_z"]) + jnp.sum(sim.membrane * p["g_u"])

    arguments = [jnp.asarray(p[k]) for k in ("drive", "v", "u0", "i0")]
    parameters = [
        jnp.full(N, 20e-3),
        jnp.asarray(10e-3),
        jnp.linspace(0.8, 1.2, N),
        jnp.asarray(-0.2),
    ]
    assert_gradients_are_finite_differences(
        loss, arguments + parameters, unused=() if reset == "to_value" else (7,)
    )


@pytest.mark.parametrize(
    ("reset", "expected"),
    [("multiplicative", [0.7, 0.0]), ("to_value", [0.7, -0.3]), ("subtractive", [0.7, 0.2])],
)
def test_apply_reset(reset, expected):
    u, z = jnp.array([0.7, 1.2]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(
        apply_reset(u, z, reset=reset, reset_grad=False, theta=1.0, u_reset=-0.3),
        expected,
        rtol=1e-6,
        atol=1e-7,
    )


def test_reset_takes_spikes_as_constants_unless_asked(x64):
    def u_next(u, reset_grad):
        return LIF(reset_grad=reset_grad).step(LIFState(u, jnp.zeros(())), jnp.zeros(()))[0].u

    lm, u = np.exp(-0.1), 0.95
    np.testing.assert_allclose(jax.grad(u_next)(u, False), lm, rtol=1e-12)
    np.testing.assert_allclose(
        jax.grad(u_next)(u, True), lm - lm * u / (20 * 0.05 + 1) ** 2, rtol=1e-12
    )


def test_a_step_at_threshold_does_not_spike():
    neuron = LIF()
    state = LIFState(jnp.array([1.0, np.nextafter(np.float32(1), np.float32(2))]), jnp.zeros(2))
    assert neuron.step(state, jnp.zeros(2))[1].tolist() == [0.0, 1.0]


def test_neuron_is_a_pytree_whose_checks_do_not_run_again():
    doubled = jax.tree.map(
        lambda leaf: -leaf, LIF(tau_mem=30e-3)
    )  # a negative time constant, but not from a user
    assert doubled.tau_mem == -30e-3
    assert doubled.dt == 2e-3
    assert LIF() == LIF()
    assert hash(LIF()) == hash(LIF())
    with pytest.raises(AttributeError):
        LIF().tau_mem = 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tau_mem": 0.0}, ValueError, "tau_mem must be finite and > 0 s, got 0.0"),
        (
            {"tau_mem": np.array([0.01, -0.02])},
            ValueError,
            "tau_mem must be finite and > 0 s, got -0.02",
        ),
        ({"tau_syn": float("nan")}, ValueError, "tau_syn must be"),
        ({"theta": 0.0}, ValueError, "theta must be"),
        ({"theta": np.inf}, ValueError, "theta must be"),
        ({"u_reset": np.nan}, ValueError, "u_reset must be"),
        ({"dt": 0.0}, ValueError, "dt must be"),
        ({"dt": "2ms"}, TypeError, "dt must be a real number"),
        ({"dt": np.array(2e-3)}, TypeError, "dt must be a plain number of seconds"),
        ({"spike": 20.0}, TypeError, "spike must be a function of u - theta"),
        (
            {"reset": "hard"},
            ValueError,
            "reset must be one of 'multiplicative', 'to_value', 'subtractive', got 'hard'",
        ),
        ({"tau": 1.0}, TypeError, "tau"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        LIF(**arguments)


def test_spike_function_is_used(x64):
    def gradient(beta):
        return jax.grad(lambda d: simulate(LIF(spike=superspike(beta)), d).output.sum())(
            jnp.full((5, 1, 1), 0.1)
        )[0, 0, 0]

    # z[2] depends on drive[0] through u[2] = (1 - lm) drive[0]; z[3], z[4] follow by the kernel
    u = lif_loop(np.full((5, 1, 1), 0.1)).u[:, 0, 0]
    lm, ls = np.exp(-0.1), np.exp(-0.2)
    kernel = (1 - lm) * np.array([1, lm + ls, lm**2 + lm * ls + ls**2])
    for beta in (5.0, 20.0):
        np.testing.assert_allclose(
            gradient(beta), np.sum(kernel / (beta * np.abs(u[2:] - 1) + 1) ** 2), rtol=1e-12
        )
