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
from snnjax.dynamics import LIF, AdaptiveLIF, ExcInhLIF, Neuron, simulate
from snnjax.dynamics._lif import LIFState
from snnjax.dynamics._neuron import measured
from snnjax.nn import FluctuationDriven, SpikingDense
from snnjax.surrogate import superspike

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
    """80 s of 200 Poisson inputs, 600 neurons.

    The standard error is 0.5 % for sigma_u, and, from the quenched spread, 2 % of sigma_u for the
    mean.
    """
    layer = SpikingDense(
        200,
        600,
        init=FluctuationDriven(nu=20.0, mu_u=mu_u, sigma_u=sigma_u),
        neuron=Oscillator(theta=1e9),
        rngs=nnx.Rngs(1),
    )
    x = spikes(0, (2100, 20, 200), rate=20.0)
    u = jax.jit(lambda d: simulate(layer.neuron, d, membrane=True).membrane)(layer.drive(x))[100:]
    np.testing.assert_allclose(np.sqrt(np.asarray(u).var(axis=0).mean()), sigma_u, rtol=0.03)
    assert abs(float(u.mean()) - mu_u) < 0.05 * sigma_u


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
