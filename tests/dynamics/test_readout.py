import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences

from snnjax.dynamics import LeakyIntegrator, simulate

T, B, N = 30, 2, 4


def readout_loop(drive, *, tau_mem, tau_syn, initial, dt):
    """theory.md's leaky integrator; the trace is o[1] ... o[T]."""
    lr, ls = np.exp(-dt / np.asarray(tau_mem)), np.exp(-dt / np.asarray(tau_syn))
    o, i, trace = np.full(drive.shape[1:], initial), np.zeros(drive.shape[1:]), []
    for x in drive:
        o = lr * o + (1 - lr) * i
        i = ls * i + x
        trace.append(o)
    return np.array(trace), o, i


@pytest.mark.parametrize(
    "parameters",
    [
        {"tau_mem": 0.2, "tau_syn": 10e-3, "initial": -1e-3, "dt": 2e-3},
        {
            "tau_mem": np.linspace(0.05, 0.3, N),
            "tau_syn": np.linspace(5e-3, 20e-3, N),
            "initial": 0.0,
            "dt": 1e-3,
        },
    ],
)
def test_simulate_equals_a_plain_loop(parameters, rng, x64):
    drive = rng.normal(size=(T, B, N))
    sim = simulate(LeakyIntegrator(**parameters), jnp.asarray(drive))
    for actual, desired in zip(
        (sim.output, *sim.state), readout_loop(drive, **parameters), strict=True
    ):
        assert_close(actual, desired, 1e-12)


def test_gradients_equal_finite_differences(rng, x64):
    drive = jnp.asarray(rng.normal(size=(T, B, N)))
    target = rng.normal(size=(T, B, N))

    def loss(drive, tau_mem, tau_syn, initial):
        trace = simulate(
            LeakyIntegrator(tau_mem=tau_mem, tau_syn=tau_syn, initial=initial), drive
        ).output
        return jnp.sum(jnp.square(trace - target))

    assert_gradients_are_finite_differences(
        loss, (drive, jnp.linspace(0.1, 0.2, N), jnp.asarray(1e-2), jnp.asarray(-0.5))
    )


def test_starts_slightly_below_zero():
    # a class without input must lose against one with input, not tie with it at 0
    state = LeakyIntegrator().initial_state((2, 3))
    assert state.o.tolist() == [[np.float32(-1e-3)] * 3] * 2
    assert not state.i.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_mem": 0.0}, "tau_mem must be finite and > 0 s"),
        ({"tau_syn": -1.0}, "tau_syn must be finite and > 0 s"),
        ({"initial": np.nan}, "initial must be finite"),
        ({"dt": 0.0}, "dt must be finite and > 0 s"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeakyIntegrator(**arguments)
