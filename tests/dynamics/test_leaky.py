"""Neurons without a synaptic current: `Leaky` and `IF`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences, superspike_derivative

from snnjax.dynamics import IF, LIF, Leaky, simulate
from snnjax.dynamics._leaky import MembraneState
from snnjax.nn._maps import dense_recurrence

T, B, N = 40, 3, 8
RESETS = ["multiplicative", "to_value", "subtractive"]
NEURONS = {
    "Leaky": (Leaky, {}),
    "Leaky, one value per neuron": (
        Leaky,
        {"tau_mem": np.linspace(4e-3, 40e-3, N), "theta": np.linspace(0.5, 1.2, N), "dt": 1e-3},
    ),
    "IF": (IF, {"theta": 1.5}),
}


@pytest.fixture(params=NEURONS.values(), ids=NEURONS)
def case(request, rng):
    """A neuron, its lm and gain, and a population that spikes in a few to thirty per cent."""
    neuron, options = request.param
    lm, gain = 1.0, 1.0
    if neuron is Leaky:
        lm = np.exp(-options.get("dt", 2e-3) / options.get("tau_mem", 20e-3))
        gain = 1 - lm
    drive = rng.normal(0.2, 1, (T, B, N)) / (1 if neuron is IF else np.sqrt(gain))
    v, u0 = rng.normal(0, 0.4, (N, N)), rng.normal(0.3, 0.8, (B, N))
    return neuron, options, lm, gain, drive, v, u0


def loop(drive, v, u, *, lm, gain, reset="multiplicative", u_reset=0.0, theta=1.0):
    zs, us = [], []
    for x in drive:
        z = np.where(u > theta, 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + gain * (x + z @ v)
        u = {
            "multiplicative": free * (1 - z),
            "to_value": np.where(z == 1, u_reset, free),
            "subtractive": free - theta * z,
        }[reset]
    return np.array(zs), np.array(us), u


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("recurrent", [False, True])
def test_simulate_equals_a_plain_loop(case, reset, recurrent, x64):
    neuron, options, lm, gain, drive, v, u0 = case
    neuron = neuron(reset=reset, u_reset=-0.2, **options)
    z, u, final = loop(
        drive, recurrent * v, u0, lm=lm, gain=gain, reset=reset, u_reset=-0.2, theta=neuron.theta
    )
    assert 0.02 < z.mean() < 0.5
    for fused in (neuron.fused, False):
        sim = simulate(
            neuron,
            jnp.asarray(drive),
            recurrent=dense_recurrence if recurrent else None,
            weights=v,
            state=MembraneState(jnp.asarray(u0)),
            membrane=True,
            fused=fused,
        )
        np.testing.assert_array_equal(sim.output, z)
        assert_close(sim.membrane, u, 1e-12)
        assert_close(sim.state.u, final, 1e-12)


def backward(drive, v, u0, g_z, g_u, g_final, *, lm, gain, theta):
    """Backpropagation by hand, with the multiplicative, undifferentiated reset."""
    z, u, _ = loop(drive, v, u0, lm=lm, gain=gain, theta=theta)
    g_drive, g_v, gu = np.zeros_like(drive), np.zeros_like(v), g_final
    for t in reversed(range(len(drive))):
        kept = gu * (1 - z[t])
        g_drive[t] = gain * kept
        g_v += z[t].T @ g_drive[t]
        gz = g_z[t] + g_drive[t] @ v.T
        gu = g_u[t] + lm * kept + gz * superspike_derivative(u[t] - theta)
    return g_drive, g_v, gu


def test_both_programs_have_the_gradients_of_backpropagation_by_hand(case, rng, x64):
    neuron, options, lm, gain, drive, v, u0 = case
    neuron = neuron(**options)
    assert neuron.fused
    g_z, g_u = rng.normal(size=(2, T, B, N))
    g_final = rng.normal(size=(B, N))
    expected = backward(
        drive, v, u0, g_z, g_u, g_final, lm=lm, gain=gain, theta=np.asarray(neuron.theta)
    )
    for fused in (True, False):

        def loss(drive, v, u0, fused=fused):
            state = MembraneState(u0)
            options = {"recurrent": dense_recurrence, "weights": v, "membrane": True}
            sim = simulate(neuron, drive, state=state, fused=fused, **options)
            pairs = (sim.output, g_z), (sim.membrane, g_u), (sim.state.u, g_final)
            return sum(jnp.sum(value * g) for value, g in pairs)

        found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*map(jnp.asarray, (drive, v, u0)))
        for actual, desired in zip(found, expected, strict=True):
            assert_close(actual, desired, 1e-12)


@pytest.mark.parametrize("reset", RESETS)
def test_smooth_spikes_have_gradients_equal_to_finite_differences(reset, rng, x64):
    drive, v = jnp.asarray(rng.normal(1, 3, (T, B, N))), jnp.asarray(rng.normal(0, 0.3, (N, N)))
    weight = rng.normal(size=(T, B, N))

    def loss(drive, v, tau_mem, theta):
        options = {"reset": reset, "u_reset": -0.1, "reset_grad": True}
        smooth = lambda v: jax.nn.sigmoid(5 * v)
        neuron = Leaky(tau_mem=tau_mem, theta=theta, spike=smooth, **options)
        sim = simulate(neuron, drive, recurrent=dense_recurrence, weights=v, membrane=True)
        return jnp.sum(sim.output * weight) + jnp.sum(sim.membrane * weight)

    arguments = (drive, v, jnp.linspace(5e-3, 3e-2, N), jnp.linspace(0.8, 1.2, N))
    assert_gradients_are_finite_differences(loss, arguments)


def test_leaky_is_the_limit_of_lif_for_fast_synapses(rng, x64):
    """One step later: LIF's drive reaches the current first. Its current does not add up."""
    drive = jnp.asarray(rng.normal(2, 8, (T, B, N)))
    z = simulate(Leaky(), drive).output
    fast = simulate(LIF(tau_syn=1e-5), drive).output
    assert 0.02 < z.mean() < 0.5
    np.testing.assert_array_equal(fast[1:], z[:-1])


def test_leaky_is_that_of_snntorch_with_scaled_weights(rng, x64):
    """snnTorch: mem = beta mem + x - theta reset, reset by the spike of the step before."""
    beta, x = 0.9, rng.normal(0.2, 0.4, (T, B, N))
    mem, spikes = np.zeros((B, N)), []
    for now in x:
        mem = beta * mem + now - (mem > 1)
        spikes.append(mem > 1)
    neuron = Leaky(tau_mem=-1e-3 / np.log(beta), dt=1e-3, reset="subtractive")
    z = simulate(neuron, jnp.asarray(x / (1 - beta))).output
    assert 0.02 < z.mean() < 0.5
    np.testing.assert_array_equal(z[1:], np.array(spikes[:-1]))


def test_if_with_subtractive_reset_spikes_once_per_theta(x64):
    """Constant input: after T steps, floor(sum / theta) spikes, up to the step that is pending."""
    drive = jnp.broadcast_to(jnp.linspace(0.013, 0.9, N), (400, 1, N))
    count = simulate(IF(reset="subtractive"), drive).output.sum(axis=0)[0]
    assert (np.abs(count - 400 * drive[0, 0]) <= 2).all()


def test_kernel_of_leaky_is_the_sum_of_the_impulse_response(x64):
    for tau_mem, dt in [(20e-3, 2e-3), (5e-3, 4e-3), (1.0, 1e-4)]:
        eps = -np.expm1(-dt / tau_mem) * np.exp(-dt / tau_mem * np.arange(round(40 * tau_mem / dt)))
        kernel = Leaky(tau_mem=tau_mem, dt=dt).kernel
        np.testing.assert_allclose(kernel.mean(), dt * eps.sum(), rtol=1e-12)
        np.testing.assert_allclose(kernel.power(), dt * (eps**2).sum(), rtol=1e-12)
    taus = jnp.array([5e-3, 20e-3])
    assert Leaky(tau_mem=taus).kernel.power().shape == (2,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Leaky(tau_mem=0.0), "tau_mem must be finite and > 0 s, got 0.0"),
        (lambda: Leaky(theta=-1.0), "theta must be finite and > 0, got -1.0"),
        (lambda: IF(theta=0.0), "theta must be finite and > 0, got 0.0"),
        (lambda: IF(duration=-1.0), "duration must be finite and > 0.002 s, got -1.0"),
        (lambda: IF(reset="soft"), "reset must be one of"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
