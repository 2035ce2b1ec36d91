import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import spikes
from flax import linen, nnx
from flax.core import meta

from snnjax.dale import exponential, lognormal
from snnjax.dynamics import LIF, simulate
from snnjax.initializers import (
    fan_in,
    fluctuation_driven_centered,
    fluctuation_driven_normal,
    ikun_normal,
    kaiming_normal,
    micheli_normal,
    normal,
)
from snnjax.psp import Kernel
from snnjax.surrogate import atan, superspike, triangular
from snnjax.theory import Afferent, connection_weights, membrane_statistics

KERNEL = Kernel(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
KEY = jax.random.key(0)


def assert_statistics(w, mu, sigma):
    """Assert that mean and standard deviation are within 4.5 standard errors for N samples."""
    w = np.asarray(w, np.float64).ravel()
    assert abs(w.mean() - mu) < 4.5 * sigma / np.sqrt(w.size)
    assert abs(w.std() - sigma) < 4.5 * sigma / np.sqrt(2 * w.size)


SHAPES = {
    "dense": ((200, 300), 200),
    "conv1d": ((7, 20, 500), 140),
    "conv2d": ((3, 3, 16, 500), 144),
}


@pytest.mark.parametrize(("shape", "n"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("kernel", "theta"),
    [(KERNEL, 1.0), (Kernel(tau_mem=10e-3, tau_syn=10e-3, dt=1e-3, mode="continuous"), 0.5)],
)
@pytest.mark.parametrize(("mu_u", "xi"), [(0.0, 1.0), (-0.4, 2.0), (0.2, 1.5)])
def test_weights_have_the_statistics_of_the_theory(shape, n, kernel, theta, mu_u, xi):
    assert fan_in(shape) == n
    sigma_u = (theta - mu_u) / xi
    w = fluctuation_driven_normal(mu_u, sigma_u, nu=15.8, kernel=kernel, theta=theta)(KEY, shape)
    assert w.shape == shape
    assert w.dtype == jnp.float32
    assert_statistics(w, *connection_weights(mu_u, sigma_u, Afferent(n, 15.8), kernel, theta=theta))


def test_share_and_total_drive():
    w = fluctuation_driven_normal(0.1, 0.45, nu=5.0, share=0.1, total_drive=9000.0)(KEY, (200, 300))
    assert_statistics(
        w, *connection_weights(0.1, 0.45, Afferent(200, 5.0, 0.1), KERNEL, total_drive=9000.0)
    )


def test_centered_is_normal_at_mean_zero():
    times = {"tau_mem": 15e-3, "tau_syn": 5e-3, "dt": 1e-3}
    expected = fluctuation_driven_normal(0.0, 0.5, nu=5.0, theta=0.8, kernel=Kernel(**times))(
        KEY, (200, 300)
    )
    np.testing.assert_array_equal(
        fluctuation_driven_centered(0.5, nu=5.0, theta=0.8, **times)(KEY, (200, 300)), expected
    )


def test_scaled_kaiming_normal():
    assert_statistics(kaiming_normal(2.0, power=1.0)(KEY, (200, 300)), 0, 2 / 200)
    assert_statistics(kaiming_normal()(KEY, (200, 300)), 0, 1 / np.sqrt(200))
    assert_statistics(kaiming_normal(np.sqrt(2))(KEY, (3, 3, 16, 500)), 0, np.sqrt(2) / 12)


# --- shapes


@pytest.mark.parametrize(
    ("shape", "in_axis", "out_axis", "expected"),
    [
        ((200, 300), -2, -1, 200),
        ((300, 200), -1, -2, 200),  # (out, in), as PyTorch stores it
        ((7, 4, 16), -2, -1, 28),
        ((16, 4, 7), 1, 0, 28),  # (out, in, kernel)
        ((3, 3, 2, 32), -2, -1, 18),
        ((4, 5, 6, 7), (0, 1), (2, 3), 20),  # several channel axes, as in attention
        ((5, 6, 7), (0, 1), -1, 30),
    ],
)
def test_fan_in_of_any_axes(shape, in_axis, out_axis, expected):
    axes = {"in_axis": in_axis, "out_axis": out_axis}
    assert fan_in(shape, **axes) == expected
    # the same random numbers for any axes: only their scale depends on the fan-in
    normal = kaiming_normal(power=0, **axes)(KEY, shape)
    np.testing.assert_allclose(
        kaiming_normal(power=1, **axes)(KEY, shape), normal / expected, rtol=1e-6
    )
    sigma_w = connection_weights(0.0, 1.0, Afferent(expected, 5.0), KERNEL).sigma_w
    np.testing.assert_allclose(
        fluctuation_driven_centered(nu=5.0, **axes)(KEY, shape),
        normal * np.float32(sigma_w),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((10,), {}, "at least 2 of them"),
        ((), {}, "at least 2 of them"),
        ((10, 20), {"in_axis": 2}, "in_axis=2"),
        ((10, 20), {"in_axis": -1}, "must be different axes"),
        ((0, 20), {}, "at least one input"),
    ],
)
def test_shape_errors(shape, axes, message):
    for init in (fluctuation_driven_centered(nu=5.0, **axes), kaiming_normal(**axes)):
        with pytest.raises(ValueError, match=message):
            init(KEY, shape)


# --- dtype and density


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "init",
    [
        fluctuation_driven_normal(0.1, 0.9, nu=15.8, density=0.5),
        kaiming_normal(),
    ],
)
def test_dtype(init, dtype):
    w = init(KEY, (200, 300), dtype)
    assert w.dtype == dtype
    np.testing.assert_allclose(
        float(w.astype(jnp.float32).std()),
        float(init(jax.random.key(1), (200, 300)).std()),
        rtol=0.02,
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "init",
    [
        fluctuation_driven_centered(1.0, nu=15.8),
        kaiming_normal(),
        normal(),
        ikun_normal(),
        micheli_normal(nu=15.8, dt=2e-3),
        exponential(4.0),
        lognormal(0.25, 0.5),
    ],
)
def test_16_bit_weights_are_float32_weights_rounded(init, dtype):
    """Numbers drawn in 16 bits would have no tail, and a wrong mean."""
    w = init(KEY, (300, 400))
    np.testing.assert_array_equal(init(KEY, (300, 400), dtype), w.astype(dtype))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 300), {}),
        ((5, 20, 300), {}),
        ((300, 20), {"in_axis": -1, "out_axis": -2}),
        ((300, 20, 5), {"in_axis": 1, "out_axis": 0}),
    ],
)
def test_one_rate_per_input_acts_through_the_sum_over_inputs(shape, axes):
    """sum_j nu_j replaces n nu in any layout; mu_w and sigma_w are the same for all weights."""
    nu = np.linspace(1.0, 50.0, 20)
    w = fluctuation_driven_normal(0.2, 0.5, nu=nu, **axes)(KEY, shape)
    np.testing.assert_array_equal(
        w, fluctuation_driven_normal(0.2, 0.5, nu=nu.mean(), **axes)(KEY, shape)
    )
    np.testing.assert_array_equal(
        micheli_normal(nu=nu, dt=2e-3, **axes)(KEY, shape),
        micheli_normal(nu=nu.mean(), dt=2e-3, **axes)(KEY, shape),
    )


def test_one_rate_per_input_gives_the_membrane_its_sigma_u():
    nu = np.linspace(1.0, 50.0, 20)
    x = spikes(1, (3000, 4, 20), rate=nu)
    w = fluctuation_driven_centered(1.0, nu=nu)(KEY, (20, 400))
    u = simulate(LIF(theta=1e9), x @ w, membrane=True).membrane[100:]
    # each neuron has 20 weights: their squares scatter by sqrt(2 / 20), over 400 neurons by 1.6 %
    np.testing.assert_allclose(np.sqrt(u.var(axis=0).mean()), 1.0, rtol=0.03)


@pytest.mark.parametrize("nu", [np.ones(300), np.ones(19), np.ones((20, 1)), np.ones((1, 300))])
@pytest.mark.parametrize(
    "make",
    [lambda nu: fluctuation_driven_centered(nu=nu), lambda nu: micheli_normal(nu=nu, dt=2e-3)],
)
def test_another_number_of_rates_is_an_error(make, nu):
    with pytest.raises(ValueError, match="nu must be one rate, or one for each"):
        make(nu)(KEY, (20, 300))


def test_values_per_neuron_follow_the_output_axis():
    tau_mem = np.repeat([5e-3, 40e-3], 150)
    dense = fluctuation_driven_centered(nu=15.8, tau_mem=tau_mem)(KEY, (200, 300))
    turned = fluctuation_driven_centered(nu=15.8, tau_mem=tau_mem, in_axis=-1, out_axis=-2)(
        KEY, (300, 200)
    )
    for half, tau in ((slice(150), 5e-3), (slice(150, None), 40e-3)):
        expected = connection_weights(0.0, 1.0, Afferent(200, 15.8), Kernel(tau_mem=tau))
        assert_statistics(dense[:, half], *expected)
        assert_statistics(turned[half], *expected)
    with pytest.raises(
        ValueError, match="must be one number, or one for each of 299 neurons, got shape"
    ):
        fluctuation_driven_centered(nu=15.8, tau_mem=tau_mem)(KEY, (200, 299))


def test_the_call_of_haiku_is_an_error_that_says_what_to_do():
    with pytest.raises(
        TypeError, match=r"key must be a JAX random key, got \(700, 128\).*hk\.next_rng_key"
    ):
        fluctuation_driven_centered(nu=15.8)((700, 128), jnp.float32)


def test_float64(x64):
    w = fluctuation_driven_centered(nu=15.8)(KEY, (200, 300), jnp.float64)
    assert w.dtype == jnp.float64
    assert_statistics(w, *connection_weights(0.0, 1.0, Afferent(200, 15.8), KERNEL))


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_density(density):
    n, n_out = 200, 300
    w = np.asarray(fluctuation_driven_normal(-0.2, 1.2, nu=15.8, density=density)(KEY, (n, n_out)))
    kept = w != 0
    assert abs(kept.mean() - density) < 4.5 * np.sqrt(density * (1 - density) / w.size) + 1e-12
    # the density * n remaining inputs have larger weights
    expected = connection_weights(-0.2, 1.2, Afferent(n * density, 15.8), KERNEL)
    assert_statistics(w[kept], *expected)
    # so the membrane does not change: all weights, including zeros, have the same second moment
    membrane = membrane_statistics(float(w.mean()), float(w.std()), n=n, nu=15.8, kernel=KERNEL)
    np.testing.assert_allclose(membrane.sigma_u, 1.2, rtol=0.03)


# --- use


@pytest.mark.parametrize(
    "init",
    [
        fluctuation_driven_centered(nu=5.0),
        fluctuation_driven_normal(0.1, 0.9, nu=15.8, density=0.5),
        kaiming_normal(),
    ],
)
def test_same_initializer_in_nnx_linen_and_plain_jax(init):
    expected_std = float(init(KEY, (200, 300)).std())
    in_nnx = nnx.Linear(200, 300, kernel_init=init, rngs=nnx.Rngs(0)).kernel[...]
    in_linen = meta.unbox(linen.Dense(300, kernel_init=init).init(KEY, jnp.ones((1, 200))))[
        "params"
    ]["kernel"]
    in_jit = jax.jit(lambda key: init(key, (200, 300)))(KEY)
    for w in (in_nnx, in_linen, in_jit):
        assert w.shape == (200, 300)
        np.testing.assert_allclose(float(w.std()), expected_std, rtol=0.02)
    np.testing.assert_allclose(in_jit, init(KEY, (200, 300)), rtol=1e-6, atol=1e-6 * expected_std)
    conv = nnx.Conv(16, 100, (5,), kernel_init=init, rngs=nnx.Rngs(0)).kernel[...]
    np.testing.assert_allclose(float(conv.std()), expected_std * np.sqrt(200 / 80), rtol=0.06)


def test_vmap_over_keys_and_targets():
    keys, sigmas = jax.random.split(KEY, 3), jnp.array([1.1, 0.55, 0.37])
    make = lambda key, sigma_u: fluctuation_driven_normal(-0.1, sigma_u, nu=15.8)(key, (200, 300))
    loop = jnp.stack([make(key, float(sigma_u)) for key, sigma_u in zip(keys, sigmas, strict=True)])
    np.testing.assert_allclose(jax.vmap(make)(keys, sigmas), loop, rtol=1e-4, atol=1e-5)


@jax.jit
def _measured_sigma_u(x, w):
    u = simulate(LIF(theta=1e9), x @ w, membrane=True).membrane[100:]
    return jnp.sqrt(jnp.var(u, axis=(0, 1)).mean())


@pytest.mark.parametrize(("sigma_u", "density"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 0.3)])
def test_simulated_membrane_hits_sigma_u(sigma_u, density):
    w = fluctuation_driven_centered(sigma_u, nu=15.8, density=density)(
        jax.random.key(1), (200, 300)
    )
    # 20 s of 200 inputs: 0.8 %; 60,000 weights: 0.3 % (0.6 % at density 0.3)
    np.testing.assert_allclose(
        _measured_sigma_u(spikes(0, (1100, 10, 200), rate=15.8), w), sigma_u, rtol=0.03
    )


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu_u": np.inf}, "mu_u must be finite"),
        ({"mu_u": 1.0}, "mu_u must be below theta = 1.0, got 1.0"),
        ({"sigma_u": 0.0}, "sigma_u must be finite and > 0, got 0.0"),
        ({"nu": 0.0}, "nu must be finite and > 0 Hz"),
        ({"share": 0.0}, "share must be finite and > 0 and <= 1"),
        ({"density": 0.0}, "density must be finite and > 0 and <= 1"),
        ({"density": 1.1}, "density must be finite and > 0 and <= 1"),
    ],
)
def test_options_are_checked_before_any_weight_is_drawn(options, message):
    with pytest.raises(ValueError, match=message):
        fluctuation_driven_normal(**{"nu": 5.0, **options})


def test_infeasible_fan_in_is_an_error_that_names_the_limits():
    init = fluctuation_driven_normal(0.5, 0.25, nu=1.0)
    with pytest.raises(ValueError, match=r"Allowed: -0.2594 <= mu_u <= 0.2594"):
        init(KEY, (18, 10))
    assert np.isfinite(init(KEY, (400, 10))).all()


def test_other_errors():
    with pytest.raises(ValueError, match="sigma_u must be"):
        fluctuation_driven_centered(0.0, nu=5.0)
    with pytest.raises(ValueError, match="tau_mem must be finite and > 0 s"):
        fluctuation_driven_centered(nu=5.0, tau_mem=0.0)
    with pytest.raises(TypeError, match="nu"):
        fluctuation_driven_centered(1.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="gain must be"):
        kaiming_normal(0.0)
    with pytest.raises(ValueError, match="power must be"):
        kaiming_normal(1.0, power=-1)


@pytest.mark.parametrize(("nu", "dt"), [(15.8, 2e-3), (5.0, 1e-3)])
def test_micheli_keeps_the_variance_of_one_step_s_input(nu, dt):
    """Inputs that spike with probability nu dt give each neuron an input of variance 1 per step.

    The variance is over weights.
    """
    w = micheli_normal(nu=nu, dt=dt)(jax.random.key(0), (400, 2000))
    z = jax.random.bernoulli(jax.random.key(1), nu * dt, (300, 400)).astype(jnp.float32)
    np.testing.assert_allclose(jnp.square(z @ w).mean(), 1.0, rtol=0.05)


def test_micheli_errors():
    with pytest.raises(ValueError, match="nu dt must be finite and <= 1"):
        micheli_normal(nu=2000.0, dt=1e-3)


@pytest.mark.parametrize(
    ("spike", "mean"),
    [
        (superspike(20.0), 1 / 21),  # the integral of (20 v + 1)^-2 from 0 to 1
        (superspike(2.0), 1 / 3),
        (triangular(1.0), 0.5 * triangular(1.0).derivative(0.0)),
        (atan(2.0), np.arctan(np.pi) / np.pi),
    ],
    ids=["superspike20", "superspike2", "triangular", "atan"],
)
def test_ikun_makes_up_for_the_mean_surrogate_derivative(spike, mean):
    assert_statistics(ikun_normal(spike=spike)(KEY, (200, 300)), 0, np.sqrt(1 / mean / 200))
    assert_statistics(
        ikun_normal(spike=spike, variant="v2")(KEY, (3, 3, 16, 500)),
        0,
        np.sqrt(1 / mean / (144 + 9 * 500)),
    )


def test_ikun_errors():
    with pytest.raises(ValueError, match="variant must be one of 'v1', 'v2', got 'v3'"):
        ikun_normal(variant="v3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"spike must be a snnjax.surrogate.SpikeFunction"):
        ikun_normal(spike=jnp.tanh)  # pyright: ignore[reportArgumentType]


def test_normal_has_the_mean_and_deviation_it_is_given():
    assert_statistics(normal(-0.3, 2.0)(KEY, (200, 300)), -0.3, 2.0)
    np.testing.assert_array_equal(normal(0.7, 0.0)(KEY, (3, 4)), np.full((3, 4), 0.7, np.float32))
    swept = jax.vmap(lambda m, s: normal(m, s)(KEY, (5, 6)))(
        jnp.array([0.0, 1.0]), jnp.array([1.0, 3.0])
    )
    np.testing.assert_allclose(swept[1], 1 + 3 * swept[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="sigma_w must be finite and >= 0, got -1"):
        normal(0.0, -1.0)
    with pytest.raises(ValueError, match="mu_w must be finite, got nan"):
        normal(float("nan"))
