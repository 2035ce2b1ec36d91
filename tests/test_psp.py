import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import enable_x64
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from snnjax.dynamics import LIF, simulate
from snnjax.psp import Kernel

# (tau_mem, tau_syn, dt): the usual case, equal taus, nearly equal taus, dt << tau, dt ~ tau, and a
# synapse that is slower than the membrane
CASES = [
    (20e-3, 10e-3, 2e-3),
    (10e-3, 10e-3, 1e-3),
    (10e-3, 10.1e-3, 1e-3),
    (20e-3, 5e-3, 2e-5),
    (5e-3, 4e-3, 5e-3),
    (3e-3, 3e-3, 4e-3),
    (5e-3, 30e-3, 1e-3),
]


def integrals(**options):
    kernel = Kernel(**options)
    return kernel.mean(), kernel.power()


def impulse_response(tau_mem, tau_syn, dt):
    """The membrane after one input spike of weight 1, from theory.md's equations step by step.

    It is 40 tau long, so the rest is < 1e-16.
    """
    lm, ls = math.exp(-dt / tau_mem), math.exp(-dt / tau_syn)
    u, i, trace = 0.0, 0.0, []
    for t in range(int(40 * max(tau_mem, tau_syn) / dt)):
        trace.append(u)
        u, i = lm * u + (1 - lm) * i, ls * i + (t == 0)
    return np.array(trace)


@pytest.mark.parametrize(("tau_mem", "tau_syn", "dt"), CASES)
def test_discrete_kernel_and_integrals_equal_the_impulse_response(tau_mem, tau_syn, dt):
    response = impulse_response(tau_mem, tau_syn, dt)
    kernel = Kernel(dt=dt, tau_mem=tau_mem, tau_syn=tau_syn).response(len(response) * dt)
    np.testing.assert_allclose(kernel, response, rtol=1e-10, atol=1e-15)
    ebar, ehat = integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt)
    for eps in (response, kernel):
        np.testing.assert_allclose([ebar, ehat], [dt * eps.sum(), dt * (eps**2).sum()], rtol=1e-10)


@pytest.mark.parametrize(("tau_mem", "tau_syn", "dt"), CASES[:3])
def test_impulse_response_of_simulate_is_the_kernel(tau_mem, tau_syn, dt, x64):
    drive = jnp.zeros((300, 1, 1)).at[0].set(1.0)
    u = simulate(
        LIF(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt, theta=1e9), drive, membrane=True
    ).membrane[:, 0, 0]
    assert u.dtype == jnp.float64
    np.testing.assert_allclose(
        u,
        Kernel(dt=dt, tau_mem=tau_mem, tau_syn=tau_syn).response(300 * dt),
        rtol=1e-10,
        atol=1e-15,
    )


@given(
    tau_mem=st.floats(2e-3, 0.05), tau_syn=st.floats(2e-3, 0.05), relative_dt=st.floats(0.1, 2.0)
)
def test_discrete_integrals_for_any_time_constants(tau_mem, tau_syn, relative_dt):
    dt = relative_dt * min(tau_mem, tau_syn)
    u = impulse_response(tau_mem, tau_syn, dt)
    np.testing.assert_allclose(
        integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt),
        [dt * u.sum(), dt * (u**2).sum()],
        rtol=1e-10,
    )


NEARLY_EQUAL = [0.0, 1e-12, 1e-9, 1e-6, 1e-4]


@pytest.mark.parametrize("excess", NEARLY_EQUAL)
def test_integrals_are_regular_where_the_time_constants_meet(excess):
    u = impulse_response(10e-3, 10e-3 * (1 + excess), 1e-3)
    ebar, ehat = integrals(tau_mem=10e-3, tau_syn=10e-3 * (1 + excess), dt=1e-3)
    np.testing.assert_allclose([ebar, ehat], [1e-3 * u.sum(), 1e-3 * (u**2).sum()], rtol=1e-10)


@pytest.mark.parametrize(("tau", "excess"), [(10e-3, 1e-6), (10e-3, 1e-9), (1e-8, 0.1)])
def test_kernel_is_regular_where_the_time_constants_meet(tau, excess):
    u = impulse_response(tau, tau * (1 + excess), tau / 10)
    kernel = Kernel(dt=tau / 10, tau_mem=tau, tau_syn=tau * (1 + excess)).response(
        len(u) * tau / 10
    )
    np.testing.assert_allclose(kernel, u, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("tau_mem", "tau_syn"), [(20e-3, 10e-3), (10e-3, 10e-3), (5e-3, 30e-3)])
def test_continuous_integrals_equal_quadrature(tau_mem, tau_syn):
    def eps(t):
        if tau_mem == tau_syn:
            return t / tau_mem * np.exp(-t / tau_mem)
        return tau_syn / (tau_mem - tau_syn) * (np.exp(-t / tau_mem) - np.exp(-t / tau_syn))

    end = 60 * max(tau_mem, tau_syn)
    expected = [
        quad(f, 0, end, epsabs=1e-16, epsrel=1e-12, limit=500)[0]
        for f in (eps, lambda t: eps(t) ** 2)
    ]
    np.testing.assert_allclose(
        integrals(tau_mem=tau_mem, tau_syn=tau_syn, mode="continuous"), expected, rtol=1e-10
    )
    kernel = Kernel(dt=1e-3, tau_mem=tau_mem, tau_syn=tau_syn, mode="continuous").response(0.1)
    np.testing.assert_allclose(
        kernel, [eps(t) for t in 1e-3 * np.arange(100)], rtol=1e-10, atol=1e-15
    )


@pytest.mark.parametrize(("tau_mem", "tau_syn"), [(20e-3, 10e-3), (10e-3, 10e-3), (5e-3, 30e-3)])
def test_continuous_is_the_limit_of_discrete(tau_mem, tau_syn):
    limit = np.array(integrals(tau_mem=tau_mem, tau_syn=tau_syn, mode="continuous"))

    def error(dt):
        return np.abs(np.array(integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt)) / limit - 1)

    for dt in (1e-5, 1e-6):
        np.testing.assert_allclose(error(dt) / error(dt / 10), 10, rtol=0.02)  # first order in dt
    assert np.all(error(1e-12) < 1e-9)  # 1 - exp(-x) loses no precision


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize("tau_syn", [10e-3, 20e-3])
def test_numpy_and_jax_agree(mode, tau_syn):
    reference = integrals(tau_mem=20e-3, tau_syn=tau_syn, dt=2e-3, mode=mode)
    assert all(isinstance(value, float | np.float64) for value in reference)

    def as_jax(tau_mem, tau_syn):
        return integrals(tau_mem=tau_mem, tau_syn=tau_syn, dt=2e-3, mode=mode)

    single = jax.jit(as_jax)(jnp.float32(20e-3), jnp.float32(tau_syn))
    assert single[1].dtype == jnp.float32
    np.testing.assert_allclose(single, reference, rtol=2e-6)
    with enable_x64():
        double = jax.vmap(as_jax)(jnp.full(3, 20e-3), jnp.full(3, tau_syn))
        assert double[1].dtype == jnp.float64
        np.testing.assert_allclose(
            double, np.repeat(np.array(reference)[:, None], 3, axis=1), rtol=1e-14
        )


def test_one_value_per_neuron():
    taus = np.array([5e-3, 10e-3, 20e-3])
    expected = [Kernel(tau_mem=tau, tau_syn=10e-3, dt=1e-3).power() for tau in taus]
    np.testing.assert_allclose(
        Kernel(tau_mem=taus, tau_syn=10e-3, dt=1e-3).power(), expected, rtol=1e-14
    )


@pytest.mark.parametrize("duration", [0.2, 0.7, 0.0999])
def test_kernel_length(duration):
    # 0.7 / 2e-3 is 350.00000000000006 in floating point
    expected = {0.2: 100, 0.7: 350, 0.0999: 50}[duration]
    assert Kernel(dt=2e-3, tau_mem=20e-3, tau_syn=10e-3).response(duration).shape == (expected,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_mem": 0.0}, "tau_mem must be finite and > 0 s, got 0.0"),
        ({"tau_syn": -0.01}, "tau_syn must be finite and > 0 s"),
        ({"tau_syn": np.array([0.01, np.nan])}, "tau_syn must be finite"),
        ({"tau_mem": np.inf}, "tau_mem must be finite"),
        ({"dt": 0.0}, "dt must be finite and > 0 s"),
        ({"mode": "numerical"}, "mode must be one of 'discrete', 'continuous', got 'numerical'"),
    ],
)
def test_value_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Kernel(**{"tau_mem": 20e-3, "tau_syn": 10e-3, "dt": 2e-3, **arguments})


@pytest.mark.parametrize(
    ("name", "value"), [("tau_mem", "20ms"), ("tau_mem", None), ("tau_mem", True), ("dt", None)]
)
def test_type_errors(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a real number"):
        Kernel(**{name: value})


def test_kernel_duration_must_be_positive():
    with pytest.raises(ValueError, match="duration must be finite and > 0 s"):
        Kernel(dt=2e-3, tau_mem=20e-3, tau_syn=10e-3).response(0.0)
