"""The kernel of any neuron, measured from its step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import spikes
from flax import nnx

from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics import IF, LIF, AdaptiveLIF, AdLIF, ExcInhLIF, Leaky, Neuron, simulate
from snnjax.dynamics._lif import LIFState
from snnjax.dynamics._neuron import measured
from snnjax.nn import FluctuationDriven, SpikingDense
from snnjax.surrogate import superspike
from snnjax.theory import Afferent, connection_weights, membrane_statistics, mu_u_limit

SPIKE = superspike(20.0)


class OscillatorState(NamedTuple):
    u: jax.Array
    w: jax.Array


@pytree_dataclass
class Oscillator(Neuron):
    """A damped oscillation around `rest`: eps[k] = radius^(k - 1) sin((k - 1) angle) for k >= 1."""

    radius: float = 0.9
    angle: float = 0.3
    theta: float = 1.0
    rest: float = 0.0
    bend: float = 0.0
    dt: float = static(default=2e-3)

    def initial_state(self, shape, dtype=jnp.float32):
        return OscillatorState(jnp.full(shape, self.rest, dtype), jnp.zeros(shape, dtype))

    def step(self, state, drive):
        u, w = state
        z = SPIKE(u - self.theta)
        c, s = self.radius * jnp.cos(self.angle), self.radius * jnp.sin(self.angle)
        x = u - self.rest
        u_next = self.rest + (c * x + s * w + self.bend * x**2) * (1 - z)
        return OscillatorState(u_next.astype(u.dtype), (c * w - s * x + drive).astype(u.dtype)), z


def oscillator_integrals(radius, angle, dt=2e-3):
    """The sums of the geometric series: int eps and int eps^2."""
    pole = radius * np.exp(1j * angle)
    mean = (1 / (1 - pole)).imag
    power = (1 / (1 - radius**2) - (1 / (1 - pole**2)).real) / 2
    return dt * mean, dt * power


def values(kernel):
    return np.array(np.broadcast_arrays(kernel.mean(), kernel.power()))


@pytest.mark.parametrize(
    "neuron",
    [
        LIF(),
        LIF(
            tau_mem=np.array([5e-3, 20e-3, 0.1]),
            tau_syn=jnp.array(7e-3),
            theta=15e-3,
            reset="subtractive",
        ),
        AdaptiveLIF(tau_mem=5e-3, dt=1e-3, reset_grad=True),
        LIF(tau_mem=0.5),
        Leaky(tau_mem=np.array([5e-3, 0.1])),
        AdLIF(tau_mem=np.array([5e-3, 25e-3]), a=0.7, dt=1e-3),
        AdLIF(a=0.1, tau_w=50e-3, reset="subtractive"),
    ],
)
def test_the_measured_kernel_of_a_lif_is_the_closed_form(neuron):
    """In float32: within 3e-7 for the default time constants, within 5e-5 for slow ones."""
    found, expected = values(measured(neuron)), values(neuron.kernel)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=5e-5)


def test_in_float64_it_is_the_closed_form_to_1e_10(x64):
    # |eps| below 1e-6 of the peak counts as decayed; the first check is long after that
    np.testing.assert_allclose(values(measured(LIF())), values(LIF().kernel), rtol=1e-10)


def test_kernels_of_two_currents():
    class Own(ExcInhLIF):
        def step(self, state, drive):
            return super().step(state, drive)

    exc, inh = Own().kernels
    np.testing.assert_allclose(
        [values(exc), values(inh)], list(map(values, ExcInhLIF().kernels)), rtol=1e-5
    )


@pytest.mark.parametrize(("radius", "angle"), [(0.9, 0.3), (0.99, 1.0)])
@pytest.mark.parametrize(("rest", "theta"), [(0.0, 1.0), (-65.0, -50.0)])
def test_kernel_of_an_oscillator_in_any_units(radius, angle, rest, theta):
    neuron = Oscillator(radius=radius, angle=angle, rest=rest, theta=theta)
    np.testing.assert_allclose(
        values(neuron.kernel), oscillator_integrals(radius, angle), rtol=1e-4
    )


def test_traced_parameters_give_the_same_kernel():
    def power(radius):
        return Oscillator(radius=radius).kernel.power()

    radii = jnp.array([0.5, 0.9, 0.98])
    expected = [oscillator_integrals(float(radius), 0.3)[1] for radius in radii]
    np.testing.assert_allclose(jax.jit(jax.vmap(power))(radii), expected, rtol=1e-4)
    assert np.isnan(jax.jit(power)(1.0))  # never decays


def test_one_radius_per_neuron():
    radii = np.array([0.5, 0.9, 0.98])
    expected = np.transpose([oscillator_integrals(radius, 0.3) for radius in radii])
    np.testing.assert_allclose(values(Oscillator(radius=radii).kernel), expected, rtol=1e-4)


@pytest.mark.parametrize(("mu_u", "sigma_u"), [(0.0, 1.0), (0.3, 0.5)])
def test_fluctuation_driven_puts_an_oscillator_on_target(mu_u, sigma_u):
    """40 s of 200 Poisson inputs, 600 neurons.

    The standard error is 0.7 % for sigma_u, and, from the quenched spread, 2 % of sigma_u for the
    mean.
    """
    layer = SpikingDense(
        200,
        600,
        init=FluctuationDriven(nu=20.0, mu_u=mu_u, sigma_u=sigma_u),
        neuron=Oscillator(theta=1e9),
        rngs=nnx.Rngs(1),
    )
    x = spikes(0, (1100, 20, 200), rate=20.0)
    u = jax.jit(lambda d: simulate(layer.neuron, d, membrane=True).membrane)(layer.drive(x))[100:]
    np.testing.assert_allclose(np.sqrt(np.asarray(u).var(axis=0).mean()), sigma_u, rtol=0.03)
    assert abs(float(u.mean()) - mu_u) < 0.05 * sigma_u


NEVER = 1e9
ON_TARGET = {
    "LIF": LIF(theta=NEVER),
    "Leaky": Leaky(theta=NEVER),
    "AdaptiveLIF": AdaptiveLIF(theta=NEVER),
    "AdLIF": AdLIF(theta=NEVER, dt=1e-3),
    "AdLIF, fast oscillation": AdLIF(tau_mem=5e-3, tau_w=60e-3, a=1.0, theta=NEVER, dt=1e-3),
    "IF": IF(theta=NEVER, duration=0.2),
}


@pytest.mark.parametrize("neuron", ON_TARGET.values(), ids=ON_TARGET)
def test_weights_put_every_neuron_on_target(neuron):
    """Poisson input through weights of the formula: sigma_u within 2 %, mu_u within 2 % of sigma_u.

    The variance is that from trial to trial, as a mean over steps: for stationary membranes the
    same as over time. The sample of the weights has exactly the mean and the variance of the
    formula, so that only the error of the trials is left.
    """
    n, nu, sigma_u = 50, 60.0, 0.6
    steps, warm, trials = (100, 0, 4000) if isinstance(neuron, IF) else (1000, 300, 100)
    rng, kernel = np.random.default_rng(0), neuron.kernel
    mu_u = min(0.3, 0.5 * mu_u_limit(sigma_u, [Afferent(n, nu)], kernel))
    mu_w, sigma_w = connection_weights(mu_u, sigma_u, Afferent(n, nu), kernel)
    g = rng.standard_normal((n, 60))
    w = jnp.asarray(mu_w + sigma_w * (g - g.mean()) / g.std(), jnp.float32)
    x = jnp.asarray(rng.poisson(nu * neuron.dt, (steps, trials, n)), jnp.float32)

    def moments(state, x):
        return neuron.step(state, x @ w)[0], (state.u.mean(axis=0), state.u.var(axis=0, ddof=1))

    start = neuron.initial_state((trials, 60))
    found = jax.jit(lambda: jax.lax.scan(moments, start, x)[1])()
    means, variances = (np.asarray(moment)[warm:] for moment in found)
    assert abs(means.mean() - mu_u) < 0.02 * sigma_u
    np.testing.assert_allclose(np.sqrt(variances.mean()), sigma_u, rtol=0.02)
    quenched = nu * kernel.mean() * np.asarray(w).sum(axis=0).std()
    assert abs(means.mean(axis=0).std() - quenched) < 0.03 * sigma_u
    predicted = membrane_statistics(mu_w, sigma_w, n=n, nu=nu, kernel=kernel).quenched_spread
    np.testing.assert_allclose(quenched, predicted, rtol=0.3)  # 60 neurons


def test_a_kernel_that_never_decays_needs_the_duration_of_a_trial():
    make = lambda neuron: SpikingDense(
        20, 10, init=FluctuationDriven(nu=5.0), neuron=neuron, rngs=nnx.Rngs(0)
    )
    with pytest.raises(
        ValueError, match=r"kernel must have a finite power, got inf.* IF\(duration"
    ):
        make(IF())
    # sigma_w = sigma_u / sqrt(n nu T / 2), with T less one step
    spread = make(IF(duration=0.402)).kernel[...].std()
    np.testing.assert_allclose(spread, 1 / np.sqrt(20 * 5.0 * 0.2), rtol=0.15)


class Rectified(LIF):
    """Linear only for positive inputs."""

    def step(self, state, drive):
        after, z = super().step(state, drive)
        return after._replace(u=jnp.maximum(after.u, 0)), z


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (Rectified(), "neuron Rectified must be linear below its threshold"),
        (Oscillator(bend=0.1), "neuron Oscillator must be linear below its threshold"),
        (Oscillator(angle=0.0), r"does not move its membrane state\.u"),
        (Oscillator(radius=1.0), "must forget an input within 131072 steps"),
        (Oscillator(rest=2.0), "spikes without input"),
    ],
)
def test_neurons_that_have_no_kernel_say_so(neuron, message):
    for measure in (lambda: neuron.kernel, jax.jit(lambda: neuron.kernel.mean())):
        with pytest.raises(ValueError, match=f"{message}.*; .*define the property kernel"):
            measure()


def test_a_subclass_with_another_step_has_another_kernel():
    class Fast(LIF):
        def step(self, state, drive):
            return super().step(LIFState(state.u, 2 * state.i), drive)

    # twice the current: eps[k] = 2 (1 - lm) sum_j lm^(k-2-j) (2 ls)^j, for 2 ls < 1
    neuron = Fast(tau_syn=2e-3)
    lm, ls = np.exp(-0.1), 2 * np.exp(-1.0)
    eps = (
        2
        * (1 - lm)
        * np.array([sum(lm ** (k - 2 - j) * ls**j for j in range(k - 1)) for k in range(200)])
    )
    np.testing.assert_allclose(
        values(neuron.kernel), [2e-3 * eps.sum(), 2e-3 * (eps**2).sum()], rtol=1e-4
    )


def test_a_neuron_that_is_no_pytree_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Own(Neuron):
        dt: float = 2e-3

        def initial_state(self, shape, dtype=jnp.float32):
            return (jnp.zeros(shape, dtype),)

        def step(self, state, drive):
            return (0.9 * state[0] + drive,), jnp.zeros_like(drive)

    with pytest.raises(TypeError, match=r"register_dataclass above the frozen dataclass Own"):
        SpikingDense(3, 2, neuron=Own(), init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))


def test_a_state_without_a_membrane_is_an_error():
    @pytree_dataclass
    class Own(Neuron):
        dt: float = static(default=2e-3)

        def initial_state(self, shape, dtype=jnp.float32):
            return (jnp.zeros(shape, dtype),)

        def step(self, state, drive):
            return (0.9 * state[0] + drive,), jnp.zeros_like(drive)

    with pytest.raises(TypeError, match="a kernel is measured at the membrane u of a state"):
        _ = Own().kernel
