"""An absolute refractory period for any neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences, lif_loop

from snnjax.dynamics import (
    IF,
    LIF,
    AdaptiveLIF,
    AdLIF,
    ExcInhLIF,
    Leaky,
    LeakyIntegrator,
    Refractory,
    Uniform,
    simulate,
)
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.nn._maps import dense_recurrence

T, B, N = 60, 2, 6
NEURONS = {
    "LIF": LIF(),
    "LIF, subtractive": LIF(reset="subtractive"),
    "Leaky": Leaky(),
    "IF": IF(reset="subtractive"),
    "AdaptiveLIF": AdaptiveLIF(b=0.3),
    "AdLIF": AdLIF(dt=2e-3, a=0.1, reset="to_value", u_reset=-0.2),
}


def loop(drive, v, n, *, reset, lm=np.exp(-0.1), ls=np.exp(-0.2)):
    """A LIF that neither spikes nor moves its membrane for n steps after a spike."""
    u, i, left = np.zeros((3, B, N))
    zs, us = [], []
    for x in drive:
        z = np.where((u > 1) & (left == 0), 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + (1 - lm) * i
        after = free * (1 - z) if reset == "multiplicative" else free - z
        u = np.where(left > 0, u, after)
        i = ls * i + x + z @ v
        left = np.where(z == 1, n, np.maximum(left - 1, 0))
    return np.array(zs), np.array(us)


@pytest.mark.parametrize("reset", ["multiplicative", "subtractive"])
@pytest.mark.parametrize(("period", "n"), [(0.0, 0), (1e-3, 1), (2e-3, 1), (7e-3, 4)])
def test_simulate_equals_a_plain_loop(period, n, reset, rng, x64):
    drive, v = rng.normal(0.8, 1, (T, B, N)), rng.normal(0, 0.3, (N, N))
    neuron = Refractory(neuron=LIF(reset=reset), period=period)
    sim = simulate(neuron, jnp.asarray(drive), recurrent=dense_recurrence, weights=v, membrane=True)
    z, u = loop(drive, v, n, reset=reset)
    assert z.mean() > 0.05
    np.testing.assert_array_equal(sim.output, z)
    assert_close(sim.membrane, u, 1e-12)
    if n == 0:
        np.testing.assert_array_equal(z, lif_loop(drive, v=v, reset=reset).z)


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_intervals_of_every_neuron_are_longer_by_the_period(neuron, rng):
    """A drive that makes it spike as often as it can: intervals grow by exactly n steps."""
    drive = jnp.full((200, 1, N), 60.0)

    def shortest(neuron):
        trains = np.asarray(simulate(neuron, drive).output)[:, 0].T
        return min(int(np.diff(np.flatnonzero(z)).min()) for z in trains)

    assert shortest(Refractory(neuron=neuron, period=10e-3)) >= shortest(neuron) + 5
    zero = simulate(Refractory(neuron=neuron, period=0.0), drive).output
    np.testing.assert_array_equal(zero, simulate(neuron, drive).output)


def test_two_currents():
    neuron = Refractory(neuron=ExcInhLIF(), period=6e-3)
    drive = ExcInhDrive(jnp.full((100, 1, 1), 30.0), jnp.zeros((100, 1, 1)))
    z = simulate(neuron, drive).output[:, 0, 0]
    assert np.diff(np.flatnonzero(z)).min() == 5
    assert neuron.n_currents == 2
    assert neuron.kernels == ExcInhLIF().kernels


def test_its_parameters_and_kernel_are_those_of_the_neuron():
    neuron = Refractory(neuron=LIF(tau_mem=30e-3))
    assert neuron.kernel == LIF(tau_mem=30e-3).kernel
    changed = neuron.with_parameters(tau_mem=0.1, theta=2.0)
    assert changed == Refractory(neuron=LIF(tau_mem=0.1, theta=2.0))
    assert (changed.theta, changed.dt, changed.spike) == (2.0, 2e-3, LIF().spike)
    assert neuron.trained_ranges() == LIF().trained_ranges()


def test_smooth_spikes_have_gradients_equal_to_finite_differences(rng, x64):
    drive, weight = jnp.asarray(rng.normal(0.8, 1, (T, B, N))), rng.normal(size=(T, B, N))
    v = jnp.asarray(rng.normal(0, 0.3, (N, N)))

    def loss(drive, v, tau_mem):
        smooth = lambda v: jax.nn.sigmoid(5 * v)
        inner = LIF(tau_mem=tau_mem, reset_grad=True, spike=smooth)
        neuron = Refractory(neuron=inner, period=4e-3)
        sim = simulate(neuron, drive, recurrent=dense_recurrence, weights=v, membrane=True)
        return jnp.sum(sim.output * weight) + jnp.sum(sim.membrane * weight)

    assert_gradients_are_finite_differences(loss, (drive, v, jnp.full(N, 20e-3)))


def test_a_refractory_neuron_gets_no_gradient_from_its_spikes(x64):
    """z[t] depends on the drive only through membranes that are not refractory."""
    drive = jnp.full((12, 1, 1), 5.0)
    neuron = Refractory(neuron=Leaky(), period=1.0)
    z = simulate(neuron, drive).output[:, 0, 0]
    first = int(np.flatnonzero(z)[0])
    gradient = jax.jit(jax.grad(lambda d: simulate(neuron, d).output[first + 1 :].sum()))(drive)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"period": -1e-3}, ValueError, "period must be finite and >= 0 s, got -0.001"),
        (
            {"period": Uniform(1e-3, 2e-3)},
            TypeError,
            "period must be a plain number .* got Uniform",
        ),
        ({"period": jnp.array(2e-3)}, TypeError, "period must be a plain number of seconds"),
        ({"neuron": LeakyIntegrator()}, TypeError, "with a threshold theta, got LeakyIntegrator"),
        ({"neuron": Refractory(neuron=LIF())}, TypeError, "threshold theta, got Refractory"),
        ({"neuron": LIF}, TypeError, "got the class LIF itself"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        Refractory(**{"neuron": LIF(), **options})
