import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from _support import data_path, populations

from snnjax.dale import (
    exponential,
    fluctuation_driven_dalian,
    lognormal,
)
from snnjax.dynamics import ExcInhLIF, simulate
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.theory import Afferent, dalian_rates

KERNELS = ExcInhLIF(tau_mem=20e-3, tau_exc=10e-3, tau_inh=20e-3, dt=2e-3).kernels
SIZES = populations((60, 10.0), (20, 10.0), (30, 10.0))


def mean_weights(n_rec: int, n: int = 400_000) -> dict[str, float]:
    sizes = populations((700, 15.8), (32, 15.8), (n_rec, 15.8))
    init = fluctuation_driven_dalian(1.0, **sizes, alpha=0.9)
    fan_ins = {"X": (init.exc, 700), "I": (init.inh, 32), "E": (init.rec, n_rec)}
    return {
        k: float(f(jax.random.key(1), (size, n // size)).mean())
        for k, (f, size) in fan_ins.items()
        if f is not None
    }


@pytest.mark.parametrize(("kind", "n_rec"), [("recurrent", 128), ("feedforward", 0)])
def test_weights_have_the_rates_of_the_reference(kind, n_rec):
    """The rates of the drawn weights: a mean of 400,000 weights is accurate to 0.16 %.

    test_theory.py compares dalian_rates itself to 1e-3.
    """
    reference = np.load(data_path("reference/reference_traces.npz"))
    means = mean_weights(n_rec)
    for population in ("exc", "inh"):
        connections = reference[f"init/dalian_{kind}_{population}_connections"]
        got = [1 / means[c[0]] for c in connections]
        np.testing.assert_allclose(
            got, reference[f"init/dalian_{kind}_{population}_rate"], rtol=5e-3
        )


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.0, 1.5])
def test_lognormal_moments_are_those_derived(cv, x64):
    w = np.asarray(lognormal(0.2, cv)(jax.random.key(0), (2000, 500), jnp.float64))
    k = 1 + cv**2
    # E[W^n] = m^n k^(n (n - 1) / 2); the standard error of E[W^2] is E[W^2] sqrt((k^4 - 1) / 1e6)
    np.testing.assert_allclose(w.mean(), 0.2, rtol=5e-3)
    np.testing.assert_allclose((w**2).mean(), 0.04 * k, rtol=1e-9 + 4 * np.sqrt((k**4 - 1) / 1e6))
    np.testing.assert_allclose(np.log(w).std(), np.sqrt(np.log(k)), rtol=5e-3, atol=1e-9)


def test_exponential_weights_are_exponential(x64):
    w = np.sort(np.asarray(exponential(5.0)(jax.random.key(0), (1000, 100), jnp.float64)).ravel())
    assert w[0] >= 0
    # Kolmogorov-Smirnov: the largest distance of 100,000 samples is above 1.95 / sqrt(n) once in a
    # thousand times
    assert np.abs((np.arange(w.size) + 0.5) / w.size + np.expm1(-5 * w)).max() < 1.95 / np.sqrt(
        w.size
    )


# --- the membrane under Poisson input

STEPS, SKIP, TRIALS, NEURONS, NU = 600, 100, 200, 100, 10.0
FAN_INS = {"exc": 600, "rec": 300, "inh": 200}


@pytest.fixture(scope="module")
def trains():
    """Poisson spike counts, 200 trials of 1.2 s, as sparse matrices (steps trials, inputs)."""
    rng = np.random.default_rng(0)
    rows = STEPS * TRIALS
    out = {}
    for name, n in FAN_INS.items():
        count = rng.poisson(NU * 2e-3 * rows * n)
        at = rng.integers(rows, size=count), rng.integers(n, size=count)
        out[name] = scipy.sparse.csr_matrix((np.ones(count, np.float32), at), shape=(rows, n))
    return out


def membrane(trains, init, tau_inh):
    """U without threshold (time, trial, neuron), after an initial period."""

    def drive(k, name):
        w = np.asarray(getattr(init, name)(jax.random.key(k), (FAN_INS[name], NEURONS)))
        # exactly the target mean: each of the two means that cancel is about 10 sigma_u, so its
        # sampling error would dominate
        mean = np.mean(
            [
                getattr(init, name)(jax.random.key(100 + j), (FAN_INS[name], 4000)).mean()
                for j in range(2)
            ]
        )
        return (trains[name] @ (w * mean / w.mean())).reshape(STEPS, TRIALS, NEURONS)

    exc = drive(0, "exc") + (drive(1, "rec") if init.rec is not None else 0)
    neuron = ExcInhLIF(tau_inh=tau_inh, theta=1e9)
    trace = simulate(
        neuron, ExcInhDrive(jnp.asarray(exc), jnp.asarray(drive(2, "inh"))), membrane=True
    ).membrane
    return np.asarray(trace)[SKIP:]


def assert_on_target(u, mu_u, sigma_u):
    """Assert a mean within 0.03 and a standard deviation within 3 %.

    The input lasts 200 s. Its common part has a standard error of 0.7 sqrt(2 30 ms / 200 s) =
    0.012.
    """
    assert abs(u.mean() - mu_u) < 0.03
    np.testing.assert_allclose(np.sqrt(u.var(axis=(0, 1)).mean()), sigma_u, rtol=0.03)


CASES = [(0, 0.9), (300, 0.5), (300, 0.9)]


@pytest.mark.more
@pytest.mark.parametrize("tau_inh", [10e-3, 20e-3])
@pytest.mark.parametrize(("n_rec", "alpha"), CASES)
def test_poisson_input_puts_the_membrane_on_target(trains, n_rec, alpha, tau_inh):
    kernels = ExcInhLIF(tau_inh=tau_inh).kernels
    sizes = populations((600, NU), (200, NU), (n_rec, NU))
    init = fluctuation_driven_dalian(1.0, **sizes, alpha=alpha, kernels=kernels)
    assert_on_target(membrane(trains, init, tau_inh), 0.0, 1.0)


@pytest.mark.more
@pytest.mark.parametrize("cv", [0.5, 1.0])
def test_lognormal_weights_put_it_there_too(trains, cv):
    init = fluctuation_driven_dalian(1.0, cv=cv, **populations((600, NU), (200, NU), (300, NU)))
    assert_on_target(membrane(trains, init, 20e-3), 0.0, 1.0)


def test_a_mean_is_reached(trains):
    init = fluctuation_driven_dalian(0.5, mu_u=0.4, **populations((600, NU), (200, NU)))
    assert_on_target(membrane(trains, init, 20e-3), 0.4, 0.5)


def test_separate_rates_move_the_weights_of_each_connection(trains):
    # twice as many inputs at half the rate are the same drive, and the same weights
    sizes = populations((100, 8.0), (50, 20.0), (60, 12.0))
    base = dalian_rates(1.0, **sizes, kernels=KERNELS)
    for name, (n, nu, _) in sizes.items():
        changed = sizes | {name: Afferent(2 * n, nu / 2)}
        np.testing.assert_allclose(dalian_rates(1.0, **changed, kernels=KERNELS), base, rtol=1e-12)


# --- as functions


def test_a_shape_of_another_fan_in_is_refused():
    init = fluctuation_driven_dalian(1.0, **SIZES)
    assert init.exc(jax.random.key(0), (3, 20, 7)).shape == (3, 20, 7)  # 60 inputs of a convolution
    for name, n in (("exc", 60), ("rec", 30), ("inh", 20)):
        with pytest.raises(
            ValueError,
            match=rf"shape must have {n} inputs, as many as the weights were computed for, got \(61, 7\)",
        ):
            getattr(init, name)(jax.random.key(0), (61, 7))


def test_traced_targets_equal_concrete_ones():
    def draw(sigma_u):
        return fluctuation_driven_dalian(sigma_u, **SIZES).exc(jax.random.key(0), (60, 5))

    sigmas = jnp.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(draw))(sigmas), [draw(float(s)) for s in sigmas], rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_weights_have_the_dtype_and_are_never_negative(dtype):
    for init in (
        fluctuation_driven_dalian(1.0, **SIZES),
        fluctuation_driven_dalian(1.0, **SIZES, cv=1.0),
    ):
        w = init.inh(jax.random.key(0), (20, 5000), dtype)
        assert w.dtype == dtype
        assert bool(((w >= 0) & jnp.isfinite(w)).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma_u": 0.0}, "sigma_u must be finite and > 0"),
        ({"cv": -0.1}, "cv must be finite and >= 0"),
        ({"inh": Afferent(0, 10.0)}, "inh.n must be"),
        ({"rec": Afferent(30, 0.0)}, "rec.nu must be"),
        (
            {"mu_u": 50.0},
            r"mu_u = 50 has no weights >= 0 at sigma_u = 1: .* Allowed: -[0-9.]+ < mu_u < [0-9.]+",
        ),
        ({"mu_u": -50.0}, "mu_u = -50 has no weights >= 0"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        fluctuation_driven_dalian(**{"sigma_u": 1.0, "cv": 1.0, **SIZES, **change})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_of_16_bits_have_the_moments_of_32(dtype):
    for draw, second in ((exponential(2.0), 0.5), (lognormal(0.5, 1.0), 0.5)):
        w = np.asarray(draw(jax.random.key(0), (500, 500), dtype), np.float64)
        assert w.mean() == pytest.approx(0.5, rel=0.01)
        assert (w**2).mean() == pytest.approx(second, rel=0.04)
