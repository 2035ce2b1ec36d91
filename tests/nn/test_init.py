import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.dynamics import LIF, LeakyIntegrator
from snnjax.initializers import fluctuation_driven_centered, kaiming_normal
from snnjax.nn import (
    DalianConv1d,
    DalianDense,
    DalianFluctuationDriven,
    FluctuationDriven,
    LayerInit,
    Readout,
    SameForAll,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.nn._init import ConnectionSize
from snnjax.psp import Kernel
from snnjax.theory import Afferent, afferent_weights

KEYS = jax.random.split(jax.random.key(0), 4)


def assert_statistics(w, mu, sigma):
    """Mean and standard deviation within 4.5 standard errors."""
    w = np.asarray(w, np.float64).ravel()
    assert abs(w.mean() - mu) < 4.5 * sigma / np.sqrt(w.size)
    assert abs(w.std() - sigma) < 4.5 * sigma / np.sqrt(2 * w.size)


@pytest.mark.parametrize("neuron", [LIF(), LIF(tau_mem=10e-3, tau_syn=5e-3, theta=0.5, dt=1e-3)])
@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize(
    ("connections", "nu_recurrent", "expected"),
    [
        ([ConnectionSize(200)], None, [(200, 15.8, 1.0)]),
        (
            [ConnectionSize(200), ConnectionSize(200, recurrent=True)],
            None,
            [(200, 15.8, 0.7), (200, 15.8, 0.3)],
        ),
        (
            [ConnectionSize(200), ConnectionSize(200, recurrent=True)],
            5.0,
            [(200, 15.8, 0.7), (200, 5.0, 0.3)],
        ),
        # two feed-forward connections share alpha, two recurrent ones 1 - alpha
        (
            [*[ConnectionSize(200)] * 2, *[ConnectionSize(200, recurrent=True)] * 2],
            None,
            [*[(200, 15.8, 0.35)] * 2, *[(200, 15.8, 0.15)] * 2],
        ),
    ],
)
def test_connections_get_the_weights_of_the_theory(
    connections, nu_recurrent, expected, mode, neuron
):
    mu_u, sigma_u = 0.1, 0.4
    kernel = None if mode == "discrete" else dataclasses.replace(neuron.kernel, mode=mode)
    init = FluctuationDriven(
        nu=15.8, nu_recurrent=nu_recurrent, mu_u=mu_u, sigma_u=sigma_u, alpha=0.7, kernel=kernel
    )
    weights = afferent_weights(
        mu_u, sigma_u, [Afferent(*a) for a in expected], kernel or neuron.kernel, theta=neuron.theta
    )
    initializers = init(neuron, connections)
    assert len(initializers) == len(connections)
    for initializer, key, w in zip(initializers, KEYS, weights, strict=False):
        assert_statistics(initializer(key, (200, 200)), *w)


def test_density_counts_the_kept_weights_only():
    initializers = FluctuationDriven(nu=15.8, mu_u=0.4, sigma_u=0.2, density=0.25)(
        LIF(), [ConnectionSize(200), ConnectionSize(200, recurrent=True)]
    )
    afferents = [Afferent(50, 15.8, 0.9), Afferent(50, 15.8, 0.1)]
    expected = afferent_weights(0.4, 0.2, afferents, Kernel())
    for initializer, weights in zip(initializers, expected, strict=True):
        w = np.asarray(initializer(KEYS[0], (200, 200)))
        assert abs(np.mean(w != 0) - 0.25) < 0.01
        assert_statistics(w[w != 0], *weights)


@pytest.mark.parametrize(("recurrent", "share"), [(False, 1.0), (True, 0.9)])
def test_simulated_layer_hits_sigma_u(recurrent, share, rng):
    # an unreachable threshold keeps the layer silent: only the feed-forward variance remains
    layer = SpikingDense(
        200,
        200,
        init=FluctuationDriven(nu=15.8, sigma_u=0.8),
        neuron=LIF(theta=1e9),
        recurrent=recurrent,
        rngs=nnx.Rngs(0),
    )
    x = rng.poisson(15.8 * 2e-3, (1100, 10, 200))
    sim = nnx.jit(lambda layer, x: layer(x, membrane=True))(layer, x)
    assert not sim.output.any()
    # 20 s of 200 inputs: 0.8 %; 40,000 weights: 0.4 %
    membrane = np.asarray(sim.membrane)[100:]
    np.testing.assert_allclose(
        np.sqrt(membrane.var(axis=(0, 1)).mean()), 0.8 * np.sqrt(share), rtol=0.03
    )


def test_per_neuron_time_constants():
    taus = np.repeat([5e-3, 40e-3], 100)
    w = FluctuationDriven(nu=15.8)(LIF(tau_mem=taus), [ConnectionSize(200)])[0](KEYS[0], (200, 200))
    for half, tau in ((w[:, :100], 5e-3), (w[:, 100:], 40e-3)):
        assert_statistics(
            half, *afferent_weights(0.0, 1.0, [Afferent(200, 15.8)], Kernel(tau_mem=tau))[0]
        )


def test_vmap_over_sigma_u_equals_a_loop():
    def kernel(sigma_u):
        return FluctuationDriven(nu=15.8, sigma_u=sigma_u)(LIF(), [ConnectionSize(200)])[0](
            KEYS[0], (200, 200)
        )

    loop = jnp.stack([kernel(s) for s in (0.5, 2.0)])
    np.testing.assert_allclose(jax.vmap(kernel)(jnp.array([0.5, 2.0])), loop, rtol=1e-5, atol=1e-6)


def test_same_for_all():
    plain = kaiming_normal()
    connections = [ConnectionSize(20), ConnectionSize(30, recurrent=True)]
    assert SameForAll(plain)(LIF(), connections) == [plain, plain]


NU, OWN = np.linspace(1.0, 50.0, 20), np.linspace(2.0, 8.0, 12)


def test_one_rate_per_input_is_the_mean_rate_in_every_connection():
    several, one = (
        SpikingDense(
            20,
            12,
            init=FluctuationDriven(nu=nu, nu_recurrent=own, mu_u=0.2),
            recurrent=True,
            rngs=nnx.Rngs(0),
        )
        for nu, own in ((NU, OWN), (float(NU.mean()), float(OWN.mean())))
    )
    for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_one_rate_per_channel_of_a_convolution():
    several, one = (
        SpikingConv1d(
            2,
            12,
            kernel_size=5,
            recurrent_kernel_size=3,
            init=FluctuationDriven(nu=nu),
            rngs=nnx.Rngs(0),
        )
        for nu in (np.array([5.0, 15.0]), 10.0)
    )
    for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_one_rate_per_input_of_dalian_layers():
    def layers(nu, nu_inh, nu_recurrent):
        init = DalianFluctuationDriven(nu=nu, nu_inh=nu_inh, nu_recurrent=nu_recurrent)
        dense = DalianDense(20, 12, init=init, recurrent=True, rngs=nnx.Rngs(0))
        return dense, DalianConv1d(
            20,
            12,
            kernel_size=3,
            lateral_kernel_size=3,
            recurrent=True,
            init=init,
            rngs=nnx.Rngs(0),
        )

    several, one = (
        layers(NU, OWN[:3], OWN),
        layers(float(NU.mean()), float(OWN[:3].mean()), float(OWN.mean())),
    )
    for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (
            lambda: SpikingDense(20, 12, init=FluctuationDriven(nu=OWN), rngs=nnx.Rngs(0)),
            "nu must be one rate, or one for each of the 20 inputs",
        ),
        (
            lambda: SpikingDense(
                20,
                12,
                init=FluctuationDriven(nu=5.0, nu_recurrent=NU),
                recurrent=True,
                rngs=nnx.Rngs(0),
            ),
            "nu_recurrent must be",
        ),
        (
            lambda: SpikingConv1d(
                2, 12, kernel_size=5, init=FluctuationDriven(nu=np.ones(10)), rngs=nnx.Rngs(0)
            ),
            "each of the 2 inputs",
        ),
        (
            lambda: DalianDense(20, 12, init=DalianFluctuationDriven(nu=OWN), rngs=nnx.Rngs(0)),
            "nu must be one rate",
        ),
        (
            lambda: DalianDense(
                20, 12, init=DalianFluctuationDriven(nu=5.0, nu_inh=OWN), rngs=nnx.Rngs(0)
            ),
            "nu_inh must be .* each of the 3 inputs",
        ),
        (lambda: FluctuationDriven(nu=NU[:, None]), "nu must be one rate"),
    ],
)
def test_another_number_of_rates_is_an_error(make, name):
    with pytest.raises(ValueError, match=name):
        make()


# --- values of init


def test_a_plain_function_is_an_initializer_whatever_its_arguments_are_called():
    layer = SpikingDense(
        3, 4, init=lambda k, s, d=jnp.float32: jnp.arange(12, dtype=d).reshape(s), rngs=nnx.Rngs(0)
    )
    np.testing.assert_array_equal(layer.kernel[...], np.arange(12).reshape(3, 4))


def test_an_init_of_ones_own_derives_from_layer_init():
    class Constant(LayerInit):
        def __call__(self, neuron, connections):
            return [
                lambda key, shape, dtype, c=c: jnp.full(
                    shape, float(c.n + 100 * c.recurrent), dtype
                )
                for c in connections
            ]

    layer = SpikingDense(3, 4, init=Constant(), recurrent=True, rngs=nnx.Rngs(0))
    assert set(np.ravel(layer.kernel[...])) == {3.0}
    assert set(np.ravel(layer.recurrent_kernel[...])) == {104.0}


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (
            FluctuationDriven,
            r"got the class FluctuationDriven itself; call it, FluctuationDriven\(\.\.\.\)",
        ),
        (
            kaiming_normal,
            "got kaiming_normal.*a function that returns an initializer must be called",
        ),
        (
            lambda neuron, connections: [],
            "got <lambda>.neuron, connections.; a rule that needs the neuron",
        ),
        ("kaiming", "init must be a LayerInit such as .* got 'kaiming'"),
        (None, "got None"),
    ],
)
def test_what_is_no_init_is_named(init, message):
    with pytest.raises(TypeError, match=message):
        SpikingDense(3, 4, init=init, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("shape", "turned"),
    [((4, 3), True), ((3, 1), False), ((3, 6), False), ((4,), False), ((1, 4), False)],
)
def test_weights_of_another_shape_than_asked_for_are_an_error(shape, turned):
    init = lambda key, s, dtype: jnp.ones(shape, dtype)
    with pytest.raises(
        ValueError, match=r"init must return weights of the shape \(3, 4\)"
    ) as error:
        SpikingDense(3, 4, init=init, rngs=nnx.Rngs(0))
    assert ("must be transposed" in str(error.value)) == turned
    with pytest.raises(ValueError, match="init must return weights of the shape"):
        Readout(3, 4, kernel_init=init, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="init must return weights of the shape"):
        DalianDense(3, 3, n_inh=1, init=init, rngs=nnx.Rngs(0))


def test_layers_draw_16_bit_weights_in_float32():
    """Also with initializers of other libraries, which draw in the requested type."""
    make = lambda dtype: SpikingDense(
        50, 60, init=jax.nn.initializers.normal(1.0), dtype=dtype, rngs=nnx.Rngs(0)
    ).kernel[...]
    np.testing.assert_array_equal(make(jnp.bfloat16), make(jnp.float32).astype(jnp.bfloat16))


def test_infeasible_target_names_the_limits():
    with pytest.raises(ValueError, match=r"mu_u = 0.5 has no weights at sigma_u = 0.25.*Allowed"):
        SpikingDense(
            18, 4, init=FluctuationDriven(nu=1.0, mu_u=0.5, sigma_u=0.25), rngs=nnx.Rngs(0)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 0.0}, "nu must be finite and > 0 Hz"),
        ({"nu_recurrent": -1.0}, "nu_recurrent must be finite and > 0 Hz"),
        ({"sigma_u": 0.0}, "sigma_u must be finite and > 0"),
        ({"mu_u": np.nan}, "mu_u must be finite"),
        ({"alpha": 1.0}, "alpha must be finite and > 0 and < 1"),
        ({"density": 0.0}, "density must be finite and > 0 and <= 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        FluctuationDriven(**{"nu": 15.8, **options})


def test_mean_above_threshold_names_mu_u():
    with pytest.raises(ValueError, match="mu_u must be below theta"):
        SpikingDense(18, 4, init=FluctuationDriven(nu=15.8, mu_u=1.5), rngs=nnx.Rngs(0))


def test_a_neuron_without_a_threshold_is_named():
    with pytest.raises(TypeError, match=r"neuron must .* threshold theta .* got LeakyIntegrator"):
        FluctuationDriven(nu=15.8)(LeakyIntegrator(), [ConnectionSize(200)])


def test_centered_is_fluctuation_driven_without_recurrence():
    (ours,) = FluctuationDriven(nu=15.8, sigma_u=0.7)(LIF(), [ConnectionSize(200)])
    np.testing.assert_array_equal(
        ours(KEYS[0], (200, 200)), fluctuation_driven_centered(0.7, nu=15.8)(KEYS[0], (200, 200))
    )
