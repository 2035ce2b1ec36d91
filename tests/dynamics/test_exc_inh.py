import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, assert_gradients_are_finite_differences

from snnjax.dynamics import LIF, ExcInhLIF, Neuron, simulate
from snnjax.dynamics._exc_inh import ExcInhDrive, ExcInhState

T, B, N = 40, 2, 5
RESETS = ["multiplicative", "to_value", "subtractive"]


def recurrence(z, weights):
    return ExcInhDrive(z @ weights[0], z @ weights[1])


def exc_inh_loop(exc, inh, weights, state, *, tau_mem, tau_exc, tau_inh, theta, u_reset, reset, dt):
    """theory.md: two synaptic currents, with the net current i_exc - i_inh."""
    lm, le, li = (np.exp(-dt / np.asarray(tau)) for tau in (tau_mem, tau_exc, tau_inh))
    u, i_exc, i_inh = state
    zs, us = [], []
    for x_exc, x_inh in zip(exc, inh, strict=True):
        z = np.where(u > theta, 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + (1 - lm) * (i_exc - i_inh)
        u = {
            "multiplicative": free * (1 - z),
            "to_value": np.where(z == 1, u_reset, free),
            "subtractive": free - theta * z,
        }[reset]
        i_exc = le * i_exc + x_exc + z @ weights[0]
        i_inh = li * i_inh + x_inh + z @ weights[1]
    return np.array(zs), np.array(us), (u, i_exc, i_inh)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    "parameters",
    [
        {"tau_mem": 20e-3, "tau_exc": 10e-3, "tau_inh": 20e-3, "theta": 1.0, "dt": 2e-3},
        {
            "tau_mem": np.linspace(1e-2, 3e-2, N),
            "tau_exc": np.linspace(5e-3, 1e-2, N),
            "tau_inh": 8e-3,
            "theta": 0.7,
            "dt": 1e-3,
        },
    ],
)
def test_simulate_equals_a_plain_loop(parameters, reset, rng, x64):
    exc, inh = rng.exponential(1.2, (T, B, N)), rng.exponential(0.4, (T, B, N))
    weights = rng.exponential(0.1, (2, N, N))
    state = [rng.normal(0.5, 0.8, (B, N)), rng.exponential(1, (B, N)), rng.exponential(1, (B, N))]
    options = {**parameters, "reset": reset, "u_reset": -0.1}
    z, u, final = exc_inh_loop(exc, inh, weights, state, **options)
    sim = simulate(
        ExcInhLIF(**options), ExcInhDrive(jnp.asarray(exc), jnp.asarray(inh)), recurrent=recurrence, weights=jnp.asarray(weights),
        state=ExcInhState(*map(jnp.asarray, state)), membrane=True,
    )  # fmt: skip
    assert 0.02 < z.mean() < 0.5
    np.testing.assert_array_equal(sim.output, z)
    assert_close(sim.membrane, u, 1e-12)
    for actual, desired in zip(sim.state, final, strict=True):
        assert_close(actual, desired, 1e-12)


def test_with_one_current_it_is_lif(rng, x64):
    drive = jnp.asarray(rng.exponential(1, (T, B, N)))
    ours = simulate(ExcInhLIF(), ExcInhDrive(drive, jnp.zeros_like(drive)), membrane=True)
    lif = simulate(LIF(), drive, membrane=True)
    np.testing.assert_array_equal(ours.output, lif.output)
    assert_close(ours.membrane, lif.membrane, 1e-12)


def partial_recurrence(z, weights):
    return ExcInhDrive(
        jnp.zeros((), z.dtype), z[..., 2:] @ weights[1, 2:]
    )  # no E -> E, and inhibition only from some neurons


@pytest.mark.parametrize(
    ("broadcast", "recurrent", "membrane"),
    [  # each pair of values once
        (False, None, False),
        (True, None, True),
        (False, recurrence, True),
        (True, recurrence, False),
        (False, partial_recurrence, False),
        (True, partial_recurrence, True),
    ],
)
def test_fused_equals_autodiff_with_two_currents(broadcast, recurrent, membrane, rng, x64):
    neuron = ExcInhLIF(tau_mem=np.linspace(8e-3, 30e-3, N), tau_inh=np.full(N, 7e-3))
    drive = ExcInhDrive(
        jnp.asarray(rng.exponential(1.5, (T, B, N))),
        jnp.asarray(rng.exponential(0.4, (T, 1, 1) if broadcast else (T, B, N))),
    )
    weights = jnp.asarray(rng.exponential(0.1, (2, N, N)))
    state = ExcInhState(*(jnp.asarray(rng.exponential(1, (B, N))) for _ in range(3)))
    target = rng.normal(size=(T, B, N))

    def loss(drive, weights, state, fused):
        options = {} if recurrent is None else {"recurrent": recurrent, "weights": weights}
        sim = simulate(neuron, drive, state=state, membrane=membrane, fused=fused, **options)
        trace = jnp.sum(jnp.square(sim.membrane - target)) if membrane else 0.0
        final = (
            jnp.sum(jnp.tanh(sim.state.u))
            + jnp.sum(sim.state.i_exc**2)
            + jnp.sum(jnp.sin(sim.state.i_inh))
        )
        return jnp.sum(jnp.square(sim.output.mean(0) - 0.1)) + trace + final, sim

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    (of_fused, fused), (of_plain, plain) = (
        gradient(drive, weights, state, True),
        gradient(drive, weights, state, False),
    )
    assert fused.output.mean() > 0.05
    np.testing.assert_array_equal(fused.output, plain.output)
    for a, b in zip(
        jax.tree.leaves((of_fused, fused)), jax.tree.leaves((of_plain, plain)), strict=True
    ):
        assert_close(a, b, 1e-12)
    assert (recurrent is not None) == bool(jnp.any(of_fused[1]))


def test_inhibition_silences():
    exc = jnp.ones((T, 1, 1))
    counts = [
        int(simulate(ExcInhLIF(), ExcInhDrive(exc, k * exc)).output.sum()) for k in (0.0, 0.3, 1.0)
    ]
    assert counts[0] > counts[1] > counts[2] == 0


@pytest.mark.parametrize("reset", RESETS)
def test_smooth_spikes_have_gradients_equal_to_finite_differences(reset, rng, x64):
    exc, inh = (jnp.asarray(rng.exponential(s, (T, B, N))) for s in (1.0, 0.4))
    weight, weights = rng.normal(size=(T, B, N)), jnp.asarray(rng.exponential(0.1, (2, N, N)))

    def loss(exc, inh, weights, tau_mem, tau_exc, tau_inh, theta):
        neuron = ExcInhLIF(
            tau_mem=tau_mem, tau_exc=tau_exc, tau_inh=tau_inh, theta=theta, u_reset=-0.1, reset=reset, reset_grad=True,
            spike=lambda v: jax.nn.sigmoid(5 * v),
        )  # fmt: skip
        sim = simulate(
            neuron, ExcInhDrive(exc, inh), recurrent=recurrence, weights=weights, membrane=True
        )
        return jnp.sum(sim.output * weight) + jnp.sum(sim.membrane * weight)

    taus = jnp.linspace(1e-2, 3e-2, N), jnp.asarray(1e-2), jnp.asarray(2e-2)
    assert_gradients_are_finite_differences(loss, (exc, inh, weights, *taus, jnp.ones(N)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau_exc": 0.0}, "tau_exc must be finite and > 0 s"),
        ({"tau_inh": np.array([0.01, -1.0])}, "tau_inh must be finite and > 0 s, got -1.0"),
        ({"theta": -1.0}, "theta must be"),
        ({"reset": "soft"}, "reset must be one of"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExcInhLIF(**arguments)


def test_both_drives_get_gradients_of_opposite_sign(x64):
    drive = ExcInhDrive(jnp.full((T, 1, 1), 0.2), jnp.full((T, 1, 1), 0.1))
    gradient = jax.grad(lambda d: simulate(ExcInhLIF(), d).output.sum())(drive)
    assert float(gradient.exc.min()) >= 0 >= float(gradient.inh.max())
    assert float(gradient.exc.max()) > 0 > float(gradient.inh.min())


@pytest.mark.parametrize("fused", [None, False])
def test_either_drive_may_be_one_for_all_neurons(rng, fused):
    one, each = (jnp.asarray(rng.uniform(0, 1, (20, 2, n)), jnp.float32) for n in (1, 5))
    all_of_it = jnp.broadcast_to(one, each.shape)
    for drive, wanted in (
        (ExcInhDrive(one, each), ExcInhDrive(all_of_it, each)),
        (ExcInhDrive(each, one), ExcInhDrive(each, all_of_it)),
    ):
        np.testing.assert_array_equal(
            simulate(ExcInhLIF(), drive, fused=fused).output,
            simulate(ExcInhLIF(), wanted, fused=fused).output,
        )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ((20, 2, 3), (20, 2, 5)),
            r"that broadcast against each other, got \(20, 2, 3\), \(20, 2, 5\)",
        ),
        (
            ((1, 2, 5), (20, 2, 5)),
            r"of the same number of steps and axes, got \(1, 2, 5\), \(20, 2, 5\)",
        ),
        (((20, 5), (20, 20, 5)), r"of the same number of steps and axes"),
    ],
)
def test_drives_that_do_not_fit(shapes, message):
    with pytest.raises(ValueError, match=message):
        simulate(ExcInhLIF(), ExcInhDrive(*map(jnp.zeros, shapes)))


@dataclasses.dataclass(frozen=True)
class Gated(Neuron):
    """A user-defined neuron whose drives have different shapes.

    They are the currents (T, B, N), and one gate for all of them (T, 1).
    """

    dt: float = 2e-3

    def initial_state(self, shape, dtype):
        return jnp.zeros(shape, dtype)

    def step(self, state, drive):
        current, gate = drive
        return state + current * gate, state


def test_other_neurons_take_drives_of_any_shapes():
    current, gate = jnp.ones((4, 2, 3)), jnp.array([[1.0], [0.0], [1.0], [0.0]])
    np.testing.assert_array_equal(simulate(Gated(), (current, gate)).state, jnp.full((2, 3), 2.0))
