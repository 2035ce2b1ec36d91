"""Data-driven initialization of Dalian layers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import populations, spikes
from flax import nnx

from snnjax.calibration import Target, free_membrane, scale_to_rate
from snnjax.calibration import calibrate as calibrate_both
from snnjax.calibration._dalian import Moments, current_membrane, moments, scales_from_moments
from snnjax.dynamics import ExcInhLIF
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.nn import (
    DalianConv1d,
    DalianDense,
    DalianFluctuationDriven,
    Flatten,
    Readout,
    Reshape,
    Sequential,
)
from snnjax.theory import dalian_rates

calibrate = functools.partial(calibrate_both, gradient=None)  # test_gradient.py tests the gradient
SIZES = populations((50, 10.0), (20, 25.0), (30, 15.0))
NEURON = ExcInhLIF(tau_mem=20e-3, tau_exc=10e-3, tau_inh=20e-3, dt=2e-3)


@pytest.mark.parametrize("mu_u", [-0.3, 0.0, 0.4])
def test_scales_of_poisson_moments_are_the_theory(mu_u, x64):
    """M = D ebar and C = 2 D ehat, without a common part."""
    e, i = NEURON.kernels
    de, di, dr = 500.0, 500.0, 450.0
    p = Moments(
        jnp.array([de * e.mean(), dr * e.mean(), di * i.mean()]),
        jnp.diag(jnp.array([2 * de * e.power(), 2 * dr * e.power(), 2 * di * i.power()])),
    )
    scales = scales_from_moments(p, sigma_u=0.8, mu_u=mu_u, alpha=0.7)
    rates = dalian_rates(0.8, mu_u=mu_u, alpha=0.7, **SIZES, kernels=NEURON.kernels)
    np.testing.assert_allclose([1 / scales.exc, 1 / scales.rec, 1 / scales.inh], rates, rtol=1e-12)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("mu_u", [0.0, 0.3])
def test_scales_put_correlated_input_on_target_exactly(recurrent, mu_u, rng, x64):
    # three populations with a common rate that changes slowly
    rate = 0.02 * (1 + np.sin(np.arange(300) / 20))[:, None, None] * rng.exponential(size=(1, 5, 1))
    exc, rec, inh = (
        rng.poisson(np.broadcast_to(rate, (300, 5, n))) @ rng.exponential(size=(n, 40))
        for n in (60, 30, 20)
    )
    neuron, taus = NEURON, (10e-3, 10e-3, 20e-3)
    u_e, u_r, u_i = (
        current_membrane(neuron, jnp.asarray(d), tau)
        for d, tau in zip((exc, rec, inh), taus, strict=True)
    )
    p = moments(u_e, u_r if recurrent else None, u_i)
    s = scales_from_moments(p, sigma_u=0.9, mu_u=mu_u, alpha=0.8)
    assert (float(s.rec) > 0) is recurrent
    u = free_membrane(
        neuron, ExcInhDrive(jnp.asarray(s.exc * exc + s.rec * rec), jnp.asarray(s.inh * inh))
    )
    np.testing.assert_allclose(u.mean(), mu_u, atol=1e-9)
    np.testing.assert_allclose(jnp.sqrt(u.var(axis=0).mean()), 0.9, rtol=1e-9)
    if recurrent:
        np.testing.assert_allclose(
            s.exc**2 * p.cov[0, 0] / (s.exc**2 * p.cov[0, 0] + s.rec**2 * p.cov[1, 1]),
            0.8,
            rtol=1e-9,
        )


def dense(recurrent):
    rngs, init = nnx.Rngs(0), DalianFluctuationDriven(nu=5.0)
    hidden = [
        DalianDense(a, b, recurrent=recurrent, init=init, rngs=rngs)
        for a, b in ((200, 96), (96, 64))
    ]
    return Sequential(*hidden, Readout(64, 3, rngs=rngs))


def conv():
    rngs, init = nnx.Rngs(0), DalianFluctuationDriven(nu=5.0)
    layer = DalianConv1d(
        1,
        12,
        kernel_size=20,
        stride=10,
        lateral_kernel_size=5,
        recurrent=True,
        init=init,
        rngs=rngs,
    )
    return Sequential(Reshape(200, 1), layer, Flatten(), Readout(19 * 12, 3, rngs=rngs))


@pytest.fixture(scope="module")
def x():
    """Input with a common rate that rises and falls, for which the formula's sigma_u is far off."""
    rate = 10.0 * (1 + jnp.sin(jnp.arange(300) / 25.0))[:, None, None]
    return spikes(0, (300, 20, 200), rate=rate)


@pytest.mark.parametrize(
    ("name", "sigma_u", "new_weights"),
    [
        ("feed-forward", 1.0, True),
        ("recurrent", 1.0, False),
        ("recurrent", 1.5, True),
        ("conv", 1.0, True),
    ],
)
@pytest.mark.slow
def test_every_layer_is_put_on_target(x, name, sigma_u, new_weights):
    network = conv() if name == "conv" else dense(name == "recurrent")
    before = [jnp.copy(leaf) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]
    key = jax.random.key(1) if new_weights else None
    calibrated, reports = nnx.jit(lambda n, x: calibrate(n, x, key=key, target=Target(sigma_u)))(
        network, x
    )
    for a, b in zip(before, jax.tree.leaves(nnx.state(network, nnx.Param)), strict=True):
        np.testing.assert_array_equal(a, b)
    y = x
    layers = list(calibrated.layers)[:-1]
    found = iter(reports)
    for k, layer in enumerate(layers):
        y = calibrated.input_of(k, y, [])
        z = layer(y).output
        if layer.spiking:
            report = next(found)
            u = free_membrane(layer.neuron, layer.whole_drive(y, z))
            np.testing.assert_allclose(report.sigma_u, jnp.sqrt(u.var(axis=0).mean()), rtol=1e-4)
            np.testing.assert_allclose(report.mu_u, u.mean(), atol=1e-3)
            assert bool(report.calibrated)
            assert bool(report.on_target)
            assert abs(float(report.sigma_u) / sigma_u - 1) < 0.05
            assert abs(float(report.mu_u)) < 0.05
            assert all(float(w[...].min()) >= 0 for w in (layer.kernel, layer.inhibitory_kernel))
        y = layer.emit(z)


@pytest.mark.more
def test_a_layer_too_quiet_to_balance_is_reported(x):
    """At a sigma_u of 0.4, the inhibitory neurons hardly spike."""
    with pytest.warns(UserWarning, match="^off target: layer 1;"):
        _, reports = calibrate(
            dense(False), x, key=jax.random.key(1), target=[Target(0.4), Target(1.0)]
        )
    (problem,) = reports.problems()
    targets = r"the targets are sigma_u = 0\.4, mu_u = 0\.0"
    assert re.match(
        f"layer 1 has sigma_u = .* {targets}: its inhibitory spikes are too few", problem
    )
    assert bool(reports[0].calibrated)
    assert not bool(reports[0].on_target)
    off = abs(float(reports[0].sigma_u) / 0.4 - 1), abs(float(reports[0].mu_u)) / 0.4
    assert max(off) > 0.05


@pytest.mark.more
def test_weights_that_are_there_are_only_scaled(x):
    network = dense(True)
    calibrated, _ = nnx.jit(lambda n, x: calibrate(n, x))(network, x)
    for name in ("kernel", "inhibitory_kernel", "recurrent_kernel"):
        a, b = (np.asarray(getattr(n.layers[0], name)[...]) for n in (network, calibrated))
        np.testing.assert_allclose(b / b.mean(), a / a.mean(), rtol=1e-4)


@pytest.mark.more
def test_silent_input_and_what_is_not_possible(x):
    network = dense(False)
    same, reports = calibrate(network, jnp.zeros((20, 2, 200)), target=Target(passes=1))
    assert [bool(r.silent) for r in reports] == [True, True]
    assert [bool(r.calibrated) for r in reports] == [False, False]
    np.testing.assert_array_equal(same.layers[0].kernel[...], network.layers[0].kernel[...])
    with pytest.raises(ValueError, match="balance must be False for Dalian layers"):
        calibrate(network, x, target=Target(balance=True))
    with pytest.raises(TypeError, match="Dalian layers have two scales"):
        scale_to_rate(network, x, rate=10.0)
