import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax import surrogate
from snnjax.surrogate import SpikeFunction

# a call of each factory with its parameters, and h(v) of its docstring in plain Python
CASES = {
    "superspike": (surrogate.superspike, (20.0,), lambda v, b: 1 / (b * abs(v) + 1) ** 2),
    "rescaled": (
        lambda b, t: surrogate.superspike_rescaled(b, theta=t),
        (20.0, 0.8),
        lambda v, b, t: ((b * t + 1) / (b * abs(v) + 1)) ** 2,
    ),
    "asymptotic": (
        surrogate.superspike_asymptotic,
        (20.0,),
        lambda v, b: b / (b * abs(v) + 1) ** 2,
    ),
    "fast_sigmoid": (surrogate.fast_sigmoid, (25.0,), lambda v, s: 1 / (s * abs(v) + 1) ** 2),
    "atan": (surrogate.atan, (2.0,), lambda v, a: a / 2 / (1 + (math.pi * a * v / 2) ** 2)),
    "triangular": (
        lambda w, h: surrogate.triangular(w, height=h),
        (0.5, 0.3),
        lambda v, w, h: h * max(0, 1 - abs(v) / w),
    ),
    "sigmoid": (
        surrogate.sigmoid,
        (4.0,),
        lambda v, b: b * math.exp(-b * abs(v)) / (1 + math.exp(-b * abs(v))) ** 2,
    ),
}
V = np.concatenate([np.linspace(-3, 3, 41), [1e-9, -1e-9, 0.5, -0.5, 30.0, -30.0]])
cases = pytest.mark.parametrize("name", CASES)


def make(name) -> SpikeFunction:
    factory, parameters, _ = CASES[name]
    return factory(*parameters)


@cases
def test_derivative_is_the_docstrings_formula(name, x64):
    _, parameters, formula = CASES[name]
    # atol: far from threshold, the sigmoid's 1 - s is not smaller than rounding
    np.testing.assert_allclose(
        make(name).derivative(jnp.asarray(V)),
        [formula(v, *parameters) for v in V],
        rtol=1e-12,
        atol=1e-15,
    )


@cases
def test_gradient_is_the_derivative(name, x64):
    spike, v, cotangent = make(name), jnp.asarray(V), jnp.arange(1.0, len(V) + 1)
    pull, derivative = jax.jit(lambda v, g: jax.vjp(spike, v)[1](g)[0]), jax.jit(spike.derivative)
    np.testing.assert_array_equal(pull(v, cotangent), cotangent * derivative(v))


@cases
def test_values_that_papers_and_libraries_state(name, x64):
    expected = {
        "superspike": (-1.0, 1 / 441),  # at rest, beta = 20
        "rescaled": (-0.8, 1.0),  # at rest
        "asymptotic": (0.0, 20.0),
        "fast_sigmoid": (0.04, 0.25),
        "atan": (0.0, 1.0),
        "triangular": (-0.25, 0.15),
        "sigmoid": (0.0, 1.0),
    }
    v, h = expected[name]
    np.testing.assert_allclose(make(name).derivative(jnp.asarray(v)), h, rtol=1e-12)


TRANSFORMS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "jit-vmap": lambda f: jax.jit(jax.vmap(f)),
    "scan": lambda f: lambda v: jax.lax.scan(lambda carry, x: (carry, f(x)), 0, v)[1],
    "remat": jax.checkpoint,
}


@pytest.mark.parametrize(
    ("name", "transform", "dtype"),
    [  # transformations concern the class that all share
        *(("superspike", t, jnp.float32) for t in TRANSFORMS),
        *((n, "jit-vmap", d) for n in CASES for d in (jnp.float32, jnp.bfloat16, jnp.float16)),
    ],
)
def test_forward_is_the_step_under_every_transformation(name, transform, dtype):
    v = jnp.asarray([-1e4, -1.0, -1e-4, -0.0, 0.0, 1e-4, 1.0, 1e4], dtype)
    run = TRANSFORMS[transform](make(name))
    z = np.asarray(run(v))
    assert z.dtype == dtype
    np.testing.assert_array_equal(z.astype(np.float32), [0, 0, 0, 0, 0, 1, 1, 1])
    gradient = jax.grad(lambda v: run(v).sum())
    found, expected = (np.asarray(jax.jit(f)(v)) for f in (gradient, make(name).derivative))
    assert found.dtype == dtype
    rtol = 2 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=rtol)


@cases
@pytest.mark.parametrize(
    ("dtype", "extremes"),
    [
        (jnp.float32, (1e6, 1e30, 3e38, 1e-38, 1e-45)),
        (jnp.bfloat16, (1e6, 1e30, 3e38, 1e-38)),
        (jnp.float16, (6e4, 1e3, 6e-8)),
    ],
)
def test_derivative_is_finite_everywhere(name, dtype, extremes):
    v = jnp.asarray([sign * e for e in extremes for sign in (1, -1)] + [0.0], dtype)
    assert np.isfinite(np.asarray(v, np.float64)).all()
    spike = make(name)
    for f in (spike.derivative, jax.grad(lambda v: spike(v).sum())):
        h = jax.jit(f)(v)
        assert h.dtype == dtype
        h = np.asarray(h, np.float64)
        assert np.isfinite(h).all()
        assert h.min() >= 0
        assert h[-1] == pytest.approx(h.max())  # the steepest point is the threshold


@cases
def test_steepness_gets_no_gradient(name):
    gradient = jax.grad(lambda spike: spike(jnp.linspace(-1, 1, 7)).sum())(
        jax.tree.map(jnp.float32, make(name))
    )
    assert jax.tree.leaves(gradient) == [0.0] * len(CASES[name][1])


@cases
def test_vmap_over_steepness_equals_a_loop(name):
    factory, parameters, _ = CASES[name]
    scales, v = jnp.array([0.5, 1.0, 3.0]), jnp.linspace(-2, 2, 9)

    def gradient(scale):
        return jax.grad(lambda v: factory(*(scale * p for p in parameters))(v).sum())(v)

    # an ensemble may also have one spike function whose leaf has a leading axis
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[factory(*(s * p for p in parameters)) for s in scales]
    )
    of_spike = jax.jit(jax.vmap(lambda spike: jax.grad(lambda v: spike(v).sum())(v)))
    as_tree, one = of_spike(stacked), jax.jit(gradient)
    loop = np.stack([one(s) for s in scales])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(scales), loop, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(as_tree, loop, rtol=1e-6, atol=1e-12)


@cases
def test_equal_spike_functions_share_one_trace(name):
    assert make(name) == make(name)
    assert hash(make(name)) == hash(make(name))
    traced = []

    def as_static(spike, v):
        traced.append("static")
        return spike(v)

    def as_tree(spike, v):
        traced.append("tree")
        return spike(v)

    factory, parameters, _ = CASES[name]
    static, tree, v = jax.jit(as_static, static_argnums=0), jax.jit(as_tree), jnp.ones(3)
    for _ in range(3):
        static(make(name), v)
        tree(make(name), v)
        tree(
            factory(*(2 * p for p in parameters)), v
        )  # another steepness is another leaf, not another program
    assert sorted(traced) == ["static", "tree"]


def test_only_what_is_known_to_be_elementwise_is_said_to_be():
    own = SpikeFunction(steepness=(2.0,), function=lambda v, s: s * jnp.cumsum(v))
    assert not own.elementwise
    assert not own.scaled(3.0).elementwise
    assert all(make(name).elementwise and make(name).scaled(3.0).elementwise for name in CASES)


def test_custom_function(x64):
    spike = SpikeFunction(steepness=(2.0,), function=lambda v, s: s * jnp.exp(-s * jnp.abs(v)))
    np.testing.assert_allclose(jax.grad(spike)(-0.5), 2 * math.exp(-1), rtol=1e-14)
    assert float(spike(0.1)) == 1.0


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (surrogate.superspike, (0.0,), "beta must be finite and > 0, got 0.0"),
        (surrogate.superspike_rescaled, (-1.0,), "beta must be"),
        (surrogate.superspike_asymptotic, (math.nan,), "beta must be"),
        (surrogate.fast_sigmoid, (math.inf,), "slope must be"),
        (surrogate.atan, (0,), "alpha must be"),
        (surrogate.triangular, (0.0,), "width must be"),
        (surrogate.sigmoid, (-4.0,), "beta must be"),
    ],
)
def test_errors_name_the_argument(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(*arguments)


def test_errors_of_the_second_parameter():
    with pytest.raises(ValueError, match="theta must be"):
        surrogate.superspike_rescaled(20.0, theta=0.0)
    with pytest.raises(ValueError, match="height must be"):
        surrogate.triangular(1.0, height=-0.3)
    with pytest.raises(TypeError, match="beta must be a real number"):
        surrogate.superspike("steep")
