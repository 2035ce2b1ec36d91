import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences

from snnjax.dynamics import LIF, AdaptiveLIF, simulate
from snnjax.dynamics._adaptive import AdaptiveLIFState
from snnjax.nn._maps import dense_recurrence

T, B, N = 40, 2, 5
RESETS = ["multiplicative", "to_value", "subtractive"]


def adaptive_loop(drive, v, state, *, tau_mem, tau_syn, tau_adapt, b, theta, u_reset, reset, dt):
    """LIF with the threshold theta + b a[t], where a is a low-pass of the neuron's own spikes.

    Bellec et al. 2018, equations 1 and 2.
    """
    lm, ls, la = (np.exp(-dt / np.asarray(tau)) for tau in (tau_mem, tau_syn, tau_adapt))
    u, i, a = state
    zs, us = [], []
    for x in drive:
        threshold = theta + b * a
        z = np.where(u > threshold, 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + (1 - lm) * i
        u = {
            "multiplicative": free * (1 - z),
            "to_value": np.where(z == 1, u_reset, free),
            "subtractive": free - threshold * z,
        }[reset]
        i = ls * i + x + z @ v
        a = la * a + (1 - la) * z
    return np.array(zs), np.array(us), (u, i, a)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    "parameters",
    [
        {
            "tau_mem": 20e-3,
            "tau_syn": 10e-3,
            "tau_adapt": 50e-3,
            "b": 1.8,
            "theta": 1.0,
            "dt": 2e-3,
        },
        {
            "tau_mem": np.linspace(1e-2, 3e-2, N),
            "tau_syn": 5e-3,
            "tau_adapt": np.linspace(2e-2, 0.3, N),
            "b": 0.7,
            "theta": 0.6,
            "dt": 1e-3,
        },
    ],
)
def test_simulate_equals_a_plain_loop(parameters, reset, rng, x64):
    drive, v = rng.normal(0.6, 1, (T, B, N)), rng.normal(0, 0.3, (N, N))
    state = [rng.normal(0.5, 0.8, (B, N)), rng.normal(size=(B, N)), rng.uniform(0, 0.3, (B, N))]
    options = {**parameters, "reset": reset, "u_reset": -0.1}
    z, u, final = adaptive_loop(drive, v, state, **options)
    sim = simulate(
        AdaptiveLIF(**options), jnp.asarray(drive), recurrent=dense_recurrence, weights=v,
        state=AdaptiveLIFState(*map(jnp.asarray, state)), membrane=True,
    )  # fmt: skip
    assert 0.02 < z.mean() < 0.5
    np.testing.assert_array_equal(sim.output, z)
    assert_close(sim.membrane, u, 1e-12)
    for actual, desired in zip(sim.state, final, strict=True):
        assert_close(actual, desired, 1e-12)


def test_without_adaptation_it_is_lif(rng, x64):
    drive = jnp.asarray(rng.normal(0.6, 1, (T, B, N)))

    def run(neuron):
        return simulate(neuron, drive).output, jax.grad(lambda d: simulate(neuron, d).output.sum())(
            drive
        )

    for a, b in zip(run(AdaptiveLIF(b=0.0)), run(LIF()), strict=True):
        assert_close(a, b, 1e-12)


def test_adaptation_lowers_the_rate_over_time():
    z = simulate(AdaptiveLIF(tau_adapt=0.2, b=10.0), jnp.full((500, 1, 1), 0.5)).output[:, 0, 0]
    intervals = np.diff(np.flatnonzero(z))
    assert intervals[-1] >= 1.5 * intervals[0]


@pytest.mark.parametrize("reset", RESETS)
def test_smooth_spikes_have_gradients_equal_to_finite_differences(reset, rng, x64):
    drive, v = jnp.asarray(rng.normal(0.4, 1, (T, B, N))), jnp.asarray(rng.normal(0, 0.3, (N, N)))
    weight = rng.normal(size=(T, B, N))

    def loss(drive, v, tau_mem, tau_syn, tau_adapt, b, theta):
        neuron = AdaptiveLIF(
            tau_mem=tau_mem, tau_syn=tau_syn, tau_adapt=tau_adapt, b=b, theta=theta, u_reset=-0.1,
            reset=reset, reset_grad=True, spike=lambda v: jax.nn.sigmoid(5 * v),
        )  # fmt: skip
        sim = simulate(neuron, drive, recurrent=dense_recurrence, weights=v, membrane=True)
        return jnp.sum(sim.output * weight) + jnp.sum(sim.membrane * weight)

    taus = jnp.linspace(1e-2, 3e-2, N), jnp.asarray(1e-2), jnp.asarray(5e-2)
    assert_gradients_are_finite_differences(loss, (drive, v, *taus, jnp.asarray(1.5), jnp.ones(N)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_adapt": 0.0}, "tau_adapt must be finite and > 0 s"),
        ({"b": -0.1}, "b must be finite and >= 0"),
        ({"tau_mem": 0.0}, "tau_mem must be"),
        ({"reset": "soft"}, "reset must be one of"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveLIF(**arguments)
