"""Adaptive LIF neuron in symplectic Euler steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences
from hypothesis import given
from hypothesis import strategies as st

from snnjax._pytree import replaced
from snnjax.dynamics import AdLIF, Leaky, simulate
from snnjax.dynamics._adlif import AdLIFState
from snnjax.nn._maps import dense_recurrence

T, B, N = 60, 2, 5
RESETS = ["multiplicative", "to_value", "subtractive"]
PARAMETERS = [
    {"tau_mem": 15e-3, "tau_w": 150e-3, "a": 0.5, "b": 1.0, "theta": 1.0, "dt": 1e-3},
    {
        "tau_mem": np.linspace(5e-3, 25e-3, N),
        "tau_w": np.linspace(60e-3, 300e-3, N),
        "a": np.linspace(0, 1, N),
        "b": np.linspace(2, 0, N),
        "theta": 0.6,
        "dt": 1e-3,
    },
]


def published_loop(x, v, *, tau_mem, tau_w, a, b, theta, u_reset, reset, dt, q=120.0):
    """The equations in the order of the publication: update, spike, reset, adaptation.

    The recurrent input of a step is that of the spikes of the step before.
    """
    alpha, beta = np.exp(-dt / np.asarray(tau_mem)), np.exp(-dt / np.asarray(tau_w))
    u = w = z = np.zeros((B, N))
    zs, us = [], []
    for now in x:
        u = alpha * u + (1 - alpha) * (now + z @ v - w)
        us.append(u)
        z = np.where(u > theta, 1.0, 0.0)
        zs.append(z)
        u = {
            "multiplicative": u * (1 - z),
            "to_value": np.where(z == 1, u_reset, u),
            "subtractive": u - theta * z,
        }[reset]
        w = beta * w + (1 - beta) * q * (a * u + b * z)
    return np.array(zs), np.array(us), w


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_simulate_equals_the_published_equations(parameters, reset, rng, x64):
    drive, v = rng.normal(3, 20, (T, B, N)), rng.normal(0, 3, (N, N))
    options = {**parameters, "reset": reset, "u_reset": -0.1}
    z, u, w = published_loop(drive, v, **options)
    assert 0.02 < z.mean() < 0.5
    sim = simulate(
        AdLIF(**options), jnp.asarray(drive), recurrent=dense_recurrence, weights=v, membrane=True
    )
    # the state is that before a spike: one step later than in the publication
    np.testing.assert_array_equal(sim.output[1:], z[:-1])
    assert_close(sim.membrane[1:], u[:-1], 1e-12)
    assert_close(sim.state.u, u[-1], 1e-12)
    after, _ = AdLIF(**options).step(sim.state, jnp.zeros((B, N)))
    assert_close(after.w, w, 1e-12)


def test_without_adaptation_and_spikes_it_is_leaky(rng, x64):
    drive = jnp.asarray(rng.normal(0, 1, (T, B, N)))
    u, expected = (
        simulate(neuron, drive, membrane=True).membrane
        for neuron in (AdLIF(a=0.0, theta=1e9), Leaky(theta=1e9))
    )
    assert_close(u, expected, 1e-12)


@pytest.mark.parametrize("reset", RESETS)
def test_smooth_spikes_have_gradients_equal_to_finite_differences(reset, rng, x64):
    drive, v = jnp.asarray(rng.normal(1, 5, (T, B, N))), jnp.asarray(rng.normal(0, 1, (N, N)))
    weight = rng.normal(size=(T, B, N))

    def loss(drive, v, u, w, *parameters):
        names = "tau_mem", "tau_w", "a", "b", "q", "theta"
        neuron = AdLIF(
            **dict(zip(names, parameters, strict=True)), dt=1e-3, u_reset=-0.1, reset=reset,
            reset_grad=True, spike=lambda v: jax.nn.sigmoid(5 * v),
        )  # fmt: skip
        sim = simulate(
            neuron, drive, recurrent=dense_recurrence, weights=v, state=AdLIFState(u, w), membrane=True
        )  # fmt: skip
        return jnp.sum(sim.output * weight) + jnp.sum(sim.membrane * weight)

    start = jnp.asarray(rng.normal(size=(2, B, N)))
    taus = jnp.linspace(5e-3, 25e-3, N), jnp.asarray(0.1)
    rest = jnp.asarray(0.5), jnp.linspace(0.1, 1.5, N), jnp.asarray(100.0), jnp.ones(N)
    assert_gradients_are_finite_differences(loss, (drive, v, *start, *taus, *rest))


def lyapunov(neuron):
    """Sums of eps and eps^2 from the matrix of (u, w): (I - M)^-1 and S = M S M' + B B'."""
    lm, lw = np.exp(-neuron.dt / neuron.tau_mem), np.exp(-neuron.dt / neuron.tau_w)
    g = (1 - lw) * neuron.q * neuron.a
    m = np.array([[lm - (1 - lm) * g, -(1 - lm) * lw], [g, lw]])
    impulse = np.array([1 - lm, 0.0])
    first = np.linalg.solve(np.eye(2) - m, impulse)[0]
    second = np.linalg.solve(np.eye(4) - np.kron(m, m), np.outer(impulse, impulse).ravel())[0]
    return neuron.dt * first, neuron.dt * second


@given(
    tau_mem=st.floats(2e-3, 0.1),
    tau_w=st.floats(10e-3, 1.0),
    a=st.floats(0, 3),
    dt=st.sampled_from([1e-4, 1e-3, 4e-3]),
)
def test_kernel_solves_the_discrete_lyapunov_equation(tau_mem, tau_w, a, dt):
    # a above this would not decay; near it, the equation is badly conditioned
    a = min(a, 0.99 / (120 * np.tanh(dt / 2 / tau_mem) * np.tanh(dt / 2 / tau_w)))
    neuron = AdLIF(tau_mem=tau_mem, tau_w=tau_w, a=a, dt=dt)
    found = neuron.kernel.mean(), neuron.kernel.power()
    np.testing.assert_allclose(found, lyapunov(neuron), rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.97, 1.03])
def test_the_largest_a_separates_decay_from_growth(ratio, x64):
    """The condition, on the eigenvalues and on the membrane after an impulse."""
    largest = 1 / (120 * np.tanh(0.1) * np.tanh(2e-2))
    checked = AdLIF(tau_mem=5e-3, tau_w=25e-3, dt=1e-3)
    neuron = replaced(checked, a=ratio * largest, theta=1e300)
    impulse = jnp.zeros((3000, 1, 1)).at[0].set(1.0)
    u = np.abs(simulate(neuron, impulse, membrane=True).membrane[:, 0, 0])
    assert (u[-100:].max() < 1e-3 * u[:100].max()) == (ratio < 1)
    assert (u[-100:].max() > 1e3 * u[:100].max()) == (ratio > 1)


def test_traced_parameters_have_the_same_kernel(x64):
    a = jnp.array([0.0, 0.3, 1.0])
    power = jax.jit(lambda a: AdLIF(a=a, dt=1e-3).kernel.power())(a)
    np.testing.assert_allclose(
        power, [AdLIF(a=float(x), dt=1e-3).kernel.power() for x in a], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_w": 0.0}, "tau_w must be finite and > 0 s, got 0.0"),
        ({"a": -0.1}, "a must be finite and >= 0, got -0.1"),
        ({"b": -0.1}, "b must be finite and >= 0, got -0.1"),
        ({"q": 0.0}, "q must be finite and > 0, got 0.0"),
        ({"tau_mem": -1.0}, "tau_mem must be finite and > 0 s, got -1.0"),
        ({"a": 1.0, "tau_mem": 5e-3, "tau_w": 60e-3, "dt": 4e-3}, "a must be small .* got 1.52"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdLIF(**arguments)
