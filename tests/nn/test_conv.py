import logging
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import CONVOLVED, assert_close, data_path, enable_x64, forward
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from snnjax import losses
from snnjax.dynamics import LIF, AdaptiveLIF, LeakyIntegrator, simulate
from snnjax.initializers import kaiming_normal
from snnjax.nn import (
    Flatten,
    FluctuationDriven,
    LayerInit,
    Readout,
    SameForAll,
    Sequential,
    SpikingConv1d,
    SpikingConv2d,
)
from snnjax.nn._conv import SpikingConv, convolve, windows
from snnjax.nn._init import ConnectionSize

T, B, IN, OUT = 30, 2, 2, 3
INIT = FluctuationDriven(nu=50.0, sigma_u=1.5)


class Case(NamedTuple):
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    options: dict
    pads: tuple[tuple[int, int], ...]  # zeros at either end of each axis, computed by hand
    out: tuple[int, ...]


CASES = {
    "1d": Case((9,), (4,), {}, ((0, 0),), (6,)),
    "1d-stride": Case((11,), (5,), {"stride": 3, "padding": 2}, ((2, 2),), (4,)),
    "1d-same-stride": Case(
        (9,), (4,), {"stride": 2, "padding": "same"}, ((1, 2),), (5,)
    ),  # 3 zeros in total, the odd one at the end
    "1d-recurrent": Case((9,), (3,), {"recurrent_kernel_size": 5}, ((0, 0),), (7,)),
    "2d": Case((5, 6), (3, 2), {}, ((0, 0), (0, 0)), (3, 5)),
    "2d-same": Case((5, 4), (3, 3), {"padding": "same"}, ((1, 1), (1, 1)), (5, 4)),
    "2d-stride": Case(
        (6, 5), (3, 2), {"stride": (2, 1), "padding": (1, 0)}, ((1, 1), (0, 0)), (3, 4)
    ),
    "2d-recurrent": Case(
        (4, 5),
        (3, 3),
        {"padding": "same", "recurrent_kernel_size": (3, 1)},
        ((1, 1), (1, 1)),
        (4, 5),
    ),
    "3d-recurrent": Case(
        (3, 4, 3), (2, 2, 1), {"recurrent_kernel_size": 3}, ((0, 0),) * 3, (2, 3, 3)
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
recurrent_cases = pytest.mark.parametrize(
    "case", [CASES["1d-recurrent"], CASES["2d-recurrent"]], ids=["1d", "2d"]
)


def make(case, *, dtype=jnp.float64, seed=0, **options):
    rngs = seed if isinstance(seed, nnx.Rngs) else nnx.Rngs(seed)
    return SpikingConv(
        IN,
        OUT,
        kernel_size=case.kernel_size,
        init=INIT,
        dtype=dtype,
        rngs=rngs,
        **(case.options | options),
    )


def inputs(case, rng, dtype=np.float64):
    return rng.poisson(0.15, (T, B, *case.spatial, IN)).astype(dtype)


def convolve_loop(x, kernel, stride, pads):
    """Position by position: (batch, *spatial, in) -> (batch, *positions, out)."""
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    sizes = kernel.shape[:-2]
    positions = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], sizes, stride, strict=True)]
    out = np.zeros((len(x), *positions, kernel.shape[-1]))
    for p in np.ndindex(*positions):
        window = x[:, *(slice(q * s, q * s + k) for q, s, k in zip(p, stride, sizes, strict=True))]
        out[:, *p] = np.einsum(
            "bn,no->bo", window.reshape(len(x), -1), kernel.reshape(-1, kernel.shape[-1])
        )
    return out


def layer_loop(layer, x, pads):
    """The layer step by step in numpy: spikes and membrane."""
    kernel, recurrent = (
        None if k is None else np.asarray(k[...]) for k in (layer.kernel, layer.recurrent_kernel)
    )
    lm, ls = np.exp(-2e-3 / 20e-3), np.exp(-2e-3 / 10e-3)
    u = i = 0.0
    zs, us = [], []
    for x_t in x:
        drive = convolve_loop(x_t, kernel, layer.map.stride, pads)
        u, i = u + np.zeros_like(drive), i + np.zeros_like(drive)
        z = (u > 1).astype(float)
        if recurrent is not None:
            sizes = recurrent.shape[:-2]
            drive += convolve_loop(
                z, recurrent, (1,) * len(sizes), [((r - 1) // 2,) * 2 for r in sizes]
            )
        zs.append(z)
        us.append(u)
        u, i = (lm * u + (1 - lm) * i) * (1 - z), ls * i + drive
    return np.array(zs), np.array(us)


def stream(layer, x):
    state, outputs = layer.initial_state(x.shape[1], x.shape[2:]), []
    step = jax.jit(layer.step)
    for x_t in x:
        state, output = step(state, x_t)
        outputs.append(np.asarray(output))
    return np.stack(outputs), state


@nnx.jit
def project(layer, x, kernel):
    return layer.map.project(x, kernel)


@nnx.jit
def recur(layer, z, kernel):
    return layer.recurrent_map.recurrence(z, kernel)


# --- values


@cases
def test_layer_equals_a_loop_over_steps_and_positions(case, rng, x64):
    layer, x = make(case), inputs(case, rng)
    sim = nnx.jit(lambda layer, x: layer(x, membrane=True))(layer, x)
    spikes, membrane = layer_loop(layer, x, case.pads)
    assert sim.output.shape == (T, B, *case.out, OUT)
    assert 0.01 < spikes.mean() < 0.5
    np.testing.assert_array_equal(sim.output, spikes)
    assert_close(sim.membrane, membrane, 1e-12)
    assert layer.out_shape(case.spatial) == case.out
    assert layer.feature_shape((*case.spatial, IN)) == (*case.out, OUT)


@cases
def test_sequence_equals_streamed_steps(case, rng, x64):
    layer, x = (
        make(case, neuron=AdaptiveLIF(tau_adapt=20e-3, b=0.5), trainable=("tau_mem",)),
        inputs(case, rng),
    )
    sim, (outputs, state) = forward(layer, x), stream(layer, x)
    assert np.asarray(sim.output).mean() > 0.01
    np.testing.assert_array_equal(sim.output, outputs)
    for a, b in zip(sim.state, state, strict=True):
        assert_close(a, b, CONVOLVED)


@recurrent_cases
def test_state_is_passed_on(case, rng, x64):
    layer, x = make(case), inputs(case, rng)
    whole, first = forward(layer, x), forward(layer, x[:11])
    second = nnx.jit(lambda layer, x, state: layer(x, state=state))(layer, x[11:], first.state)
    np.testing.assert_array_equal(np.concatenate([first.output, second.output]), whole.output)
    assert_close(second.state.u, whole.state.u, 1e-12)


@cases
def test_project_and_recur_take_any_number_of_outputs(case, rng, x64):
    """A kernel of ones sums the inputs of each neuron; leading axes are independent of each other."""
    layer, x = make(case), inputs(case, rng)
    ones = np.ones((*case.kernel_size, IN, 1))
    expected = np.stack([convolve_loop(x_t, ones, layer.map.stride, case.pads) for x_t in x])
    assert_close(project(layer, x, ones), expected, 1e-12)
    assert_close(project(layer, x[3], ones), expected[3], 1e-12)
    if layer.recurrent:
        sizes = layer.recurrent_kernel.shape[:-2]
        z, ones = rng.poisson(0.5, (T, B, *case.out, OUT)).astype(float), np.ones((*sizes, OUT, 1))
        pads = [((r - 1) // 2,) * 2 for r in sizes]
        expected = np.stack([convolve_loop(z_t, ones, (1,) * len(sizes), pads) for z_t in z])
        assert_close(recur(layer, z, ones), expected, 1e-12)
        assert_close(recur(layer, z[3], ones), expected[3], 1e-12)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)], ids=["float64", "float32"]
)
def test_conv1d_equals_the_reference(dtype, rtol):
    """Compared with the numbers of the reference implementation.

    Its arrays are batch-major, its weights (out, in, size) and its features channel-major.
    """
    reference = np.load(data_path("reference/reference_traces.npz"))

    def kernel(w):
        return jnp.asarray(np.transpose(w, (2, 1, 0)), dtype)

    maps, positions = 6, 8
    with enable_x64():
        options = {"dtype": dtype, "rngs": nnx.Rngs(0)}
        hidden = {
            "neuron": LIF(tau_mem=20e-3, tau_syn=10e-3, theta=1.0, dt=2e-3),
            "init": SameForAll(kaiming_normal()),
            **options,
        }
        network = Sequential(
            SpikingConv1d(1, 4, kernel_size=7, stride=3, **hidden),
            SpikingConv1d(4, maps, kernel_size=5, stride=2, padding=2, **hidden),
            Flatten(),
            Readout(
                maps * positions,
                5,
                neuron=LeakyIntegrator(tau_mem=0.12, tau_syn=10e-3, initial=0.0, dt=2e-3),
                **options,
            ),
        )
        for k in (0, 1):
            network.layers[k].kernel[...] = kernel(reference[f"conv1d/w{k}"])
        readout_kernel = (
            reference["conv1d/w2"].reshape(5, maps, positions).transpose(2, 1, 0).reshape(-1, 5)
        )
        network.layers[3].kernel[...] = jnp.asarray(readout_kernel, dtype)
        x = jnp.asarray(np.transpose(reference["conv1d/x"], (1, 0, 3, 2)), dtype)

        @nnx.jit
        @nnx.value_and_grad(has_aux=True)
        def run(network):
            readout, activity = network(x)
            return losses.CrossEntropy()(readout, reference["conv1d/y"]).mean(), (
                readout,
                activity.spikes,
            )

        (loss, (readout, spikes)), gradient = run(network)
    for k, z in enumerate(spikes):
        assert reference[f"conv1d/spikes{k}"].mean() > 0.01
        np.testing.assert_array_equal(np.transpose(z, (1, 0, 3, 2)), reference[f"conv1d/spikes{k}"])
    assert readout.dtype == dtype
    assert_close(np.moveaxis(readout, 0, 1), reference["conv1d/readout"], rtol)
    np.testing.assert_allclose(loss, reference["conv1d/loss"], rtol=rtol)
    for k in (0, 1):
        assert_close(
            np.transpose(gradient.layers[k].kernel[...], (2, 1, 0)),
            reference[f"conv1d/grad{k}"],
            rtol,
        )
    of_readout = (
        np.asarray(gradient.layers[3].kernel[...])
        .reshape(positions, maps, 5)
        .transpose(2, 1, 0)
        .reshape(5, -1)
    )
    assert_close(of_readout, reference["conv1d/grad2"], rtol)


# --- gradients


@recurrent_cases
def test_gradients_equal_autodiff(case, rng, x64):
    """The hand-written backward pass compared with autodiff of the steps, for kernels and input."""
    layer, x = make(case), inputs(case, rng)
    target = rng.normal(size=(T, B, *case.out, OUT))

    def loss(kernel, recurrent, x, fused):
        sim = simulate(
            layer.neuron,
            layer.map.project(x, kernel),
            recurrent=layer.recurrent_map.recurrence,
            weights=recurrent,
            membrane=True,
            fused=fused,
        )
        return jnp.sum(jnp.square(sim.output.mean(0) - 0.1)) + jnp.sum(
            jnp.square(sim.membrane - target)
        )

    arguments = layer.kernel[...], layer.recurrent_kernel[...], x
    fused, plain = (
        jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)(*arguments, f) for f in (True, False)
    )
    for a, b in zip(fused, plain, strict=True):
        assert float(jnp.abs(b).max()) > 0
        assert_close(a, b, 1e-12)

    def of_layer(layer):
        sim = layer(x, membrane=True)
        return jnp.sum(jnp.square(sim.output.mean(0) - 0.1)) + jnp.sum(
            jnp.square(sim.membrane - target)
        )

    gradient = nnx.jit(nnx.grad(of_layer))(layer)
    assert_close(gradient.kernel[...], plain[0], 1e-12)
    assert_close(gradient.recurrent_kernel[...], plain[1], 1e-12)


@recurrent_cases
def test_trainable_time_constants_are_one_a_feature_map(case, rng, x64):
    x = inputs(case, rng)
    taus = np.linspace(1e-2, 3e-2, OUT)
    layer = make(case, neuron=LIF(tau_mem=taus), trainable=("tau_mem", "tau_syn"))
    assert layer.log_tau["tau_mem"].shape == layer.log_tau["tau_syn"].shape == (OUT,)
    np.testing.assert_allclose(layer.neuron.tau_mem, taus, rtol=1e-12)
    fixed = make(case, neuron=LIF(tau_mem=taus))
    np.testing.assert_array_equal(layer(x).output, fixed(x).output)
    gradient = nnx.jit(nnx.grad(lambda layer: layer(x, membrane=True).membrane.sum()))(layer)

    def loss(log_tau_mem, log_tau_syn):
        # one time constant per neuron: the gradient for a feature map is their sum over positions
        neuron = LIF(tau_mem=jnp.exp(log_tau_mem), tau_syn=jnp.exp(log_tau_syn))
        weights = layer.recurrent_kernel[...]
        return simulate(
            neuron,
            layer.map.project(x, layer.kernel[...]),
            recurrent=layer.recurrent_map.recurrence,
            weights=weights,
            membrane=True,
        ).membrane.sum()

    each = (jnp.broadcast_to(jnp.log(v), (*case.out, OUT)) for v in (taus, jnp.full(OUT, 10e-3)))
    for name, expected in zip(
        ("tau_mem", "tau_syn"), jax.jit(jax.grad(loss, (0, 1)))(*each), strict=True
    ):
        assert bool(jnp.all(expected != 0))
        assert_close(
            gradient.log_tau[name][...], expected.sum(axis=tuple(range(len(case.out)))), 1e-9
        )


# --- initialization


def test_connections_have_the_fan_in_of_one_position():
    seen = []

    class Spy(LayerInit):
        def __call__(self, neuron, connections):
            seen.extend(connections)
            return INIT(neuron, connections)

    layer = SpikingConv(
        IN, OUT, kernel_size=(3, 2), recurrent_kernel_size=(5, 1), trainable=("tau_mem",), init=Spy(), rngs=nnx.Rngs(0)
    )  # fmt: skip
    assert seen == [
        ConnectionSize(3 * 2 * IN, channels=IN),
        ConnectionSize(5 * OUT, recurrent=True, channels=OUT),
    ]
    shapes = {
        "/".join(map(str, path)): p.shape
        for path, p in nnx.to_flat_state(nnx.state(layer, nnx.Param))
    }
    assert shapes == {
        "kernel": (3, 2, IN, OUT),
        "recurrent_kernel": (5, 1, OUT, OUT),
        "log_tau/tau_mem": (OUT,),
    }
    assert jax.tree.leaves(nnx.state(layer, nnx.Not(nnx.Param))) == []


@pytest.mark.more
@pytest.mark.parametrize(("spatial", "kernel_size"), [((40,), (7,)), ((8, 8), (3, 3))])
@pytest.mark.parametrize(("recurrent", "share"), [(None, 1.0), (3, 0.9)])
def test_simulated_layer_hits_sigma_u(spatial, kernel_size, recurrent, share, rng):
    # an unreachable threshold keeps the layer silent: only the feed-forward variance remains
    channels, maps = 8, 64
    layer = SpikingConv(
        channels, maps, kernel_size=kernel_size, recurrent_kernel_size=recurrent, init=FluctuationDriven(nu=15.8, sigma_u=0.8),
        neuron=LIF(theta=1e9), rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = rng.poisson(15.8 * 2e-3, (600, 4, *spatial, channels)).astype(np.float32)
    sim = nnx.jit(lambda layer, x: layer(x, membrane=True))(layer, x)
    assert not sim.output.any()
    # 3,584 weights or more: 1.2 %; 20,000 input spikes or more: 0.7 %
    membrane = np.asarray(sim.membrane)[100:]
    np.testing.assert_allclose(
        np.sqrt(membrane.var(axis=(0, 1)).mean()), 0.8 * np.sqrt(share), rtol=0.04
    )


# --- transformations


@recurrent_cases
def test_vmap_over_seeds_equals_a_loop(case, rng, x64):
    x, keys = inputs(case, rng), jax.random.split(jax.random.key(0), 3)

    def build(key):
        return make(case, seed=nnx.Rngs(key))

    run = nnx.jit(lambda layer: layer(x, membrane=True).membrane)
    ensemble = nnx.vmap(run)(nnx.vmap(build)(keys))
    for k, key in enumerate(keys):
        assert_close(ensemble[k], run(build(key)), 1e-12)


def test_a_seed_changes_numbers_only():
    case = CASES["2d-recurrent"]
    (first, _), (second, _) = (
        nnx.split(make(case, dtype=jnp.float32, seed=seed)) for seed in (0, 1)
    )
    assert hash(first) == hash(second)
    assert first == second


class Variants(chex.TestCase):
    """With jit, without it, and on the device: the same spikes and shapes."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_forward_and_gradient(self):
        case = CASES["2d-recurrent"]
        x = inputs(case, np.random.default_rng(0), np.float32)
        graphdef, params = nnx.split(make(case, dtype=jnp.float32))

        def loss(params):
            sim = nnx.merge(graphdef, params)(x, membrane=True)
            return jnp.square(sim.membrane).sum(), sim.output

        gradient, spikes = self.variant(jax.grad(loss, has_aux=True))(params)
        expected, _ = layer_loop(nnx.merge(graphdef, params), x.astype(float), case.pads)
        np.testing.assert_array_equal(spikes, expected)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
        reference = jax.jit(jax.grad(loss, has_aux=True))(params)[0]
        chex.assert_trees_all_close(gradient, reference, rtol=1e-4, atol=1e-3)


def test_eager_calls_compile_once(caplog):
    case = CASES["2d-recurrent"]
    x, longer = (jnp.ones((t, B, *case.spatial, IN)) for t in (5, 6))
    first, second = (make(case, dtype=jnp.float32, seed=seed) for seed in (0, 1))

    def compilations(layer, x):
        caplog.clear()
        with caplog.at_level(logging.WARNING), jax.log_compiles():
            layer(x)
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    compilations(first, x)
    assert compilations(first, x) == compilations(second, x) == []
    assert compilations(first, longer) != []  # the search depends on such records


# --- dtypes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@recurrent_cases
def test_weights_have_the_dtype_and_neurons_at_least_float32(case, dtype):
    layer = make(case, dtype=dtype)
    shape = (5, B, *case.spatial, IN)
    # spikes may come as booleans or integers
    for x in (jnp.ones(shape, jnp.uint8), jnp.ones(shape, bool), jnp.ones(shape)):
        sim = jax.eval_shape(lambda x: layer(x, membrane=True), x)
        step = jax.eval_shape(
            lambda x: layer.step(layer.initial_state(B, (*case.spatial, IN)), x), x[0]
        )
        assert {leaf.dtype for leaf in jax.tree.leaves((sim, step))} == {jnp.dtype(jnp.float32)}
    gradient = jax.eval_shape(nnx.grad(lambda layer: layer(jnp.ones(shape)).output.sum()), layer)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, nnx.state(layer)))} == {
        jnp.dtype(dtype)
    }


@recurrent_cases
def test_half_precision_weights_give_the_numbers_of_float32(case, rng):
    """Only the weights are rounded: products and their gradients are summed in float32."""
    x = inputs(case, rng, np.float32)
    half, full = (make(case, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    for name in ("kernel", "recurrent_kernel"):
        getattr(full, name)[...] = getattr(half, name)[...].astype(jnp.float32)
    np.testing.assert_array_equal(half(x).output, full(x).output)
    gradients = [
        nnx.jit(nnx.grad(lambda layer: jnp.square(layer(x, membrane=True).membrane).sum()))(layer)
        for layer in (half, full)
    ]
    for name in ("kernel", "recurrent_kernel"):
        a, b = (np.asarray(getattr(gradient, name)[...], np.float32) for gradient in gradients)
        assert_close(a, b, 0.02)  # 8 bits


# --- errors


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"kernel_size": 3},
            ValueError,
            r"kernel_size must have one size for each of 1 to 3 spatial axes, such as \(5,\) or \(3, 3\), got 3",
        ),
        ({"kernel_size": ()}, ValueError, "kernel_size must have one size for each"),
        ({"kernel_size": (1, 1, 1, 1)}, ValueError, "kernel_size must have one size for each"),
        ({"kernel_size": (3, 0)}, ValueError, "kernel_size must be >= 1, got 0"),
        ({"kernel_size": (3, 1.5)}, TypeError, "kernel_size must be an integer, got float 1.5"),
        ({"stride": 0}, ValueError, "stride must be >= 1, got 0"),
        (
            {"stride": (1, 2, 3)},
            ValueError,
            r"stride must be one number or 2, one per spatial axis, got \(1, 2, 3\)",
        ),
        ({"padding": -1}, ValueError, "padding must be >= 0, got -1"),
        ({"padding": "full"}, ValueError, "padding must be one of 'valid', 'same', got 'full'"),
        (
            {"recurrent_kernel_size": (3, 2)},
            ValueError,
            r"recurrent_kernel_size must be odd, .*, got \(3, 2\)",
        ),
        ({"recurrent_kernel_size": 0}, ValueError, "recurrent_kernel_size must be >= 1, got 0"),
        ({"in_features": 0}, ValueError, "in_features must be >= 1, got 0"),
        ({"out_features": 2.0}, TypeError, "out_features must be an integer"),
        (
            {"trainable": ("beta",)},
            ValueError,
            "trainable must be one of 'tau_mem', 'tau_syn', 'theta', 'u_reset', got 'beta'",
        ),
    ],
)
def test_options_out_of_range(options, error, match):
    with pytest.raises(error, match=match):
        SpikingConv(
            **(
                {
                    "in_features": IN,
                    "out_features": OUT,
                    "kernel_size": (3, 3),
                    "init": INIT,
                    "rngs": nnx.Rngs(0),
                }
                | options
            )
        )


def test_fixed_numbers_of_axes():
    for layer, sizes in ((SpikingConv1d, (3,)), (SpikingConv2d, (3, 3))):
        assert layer(IN, OUT, kernel_size=3, init=INIT, rngs=nnx.Rngs(0)).kernel.shape == (
            *sizes,
            IN,
            OUT,
        )
        with pytest.raises(
            ValueError,
            match=f"kernel_size must be one number or {len(sizes)}, one per spatial axis",
        ):
            layer(IN, OUT, kernel_size=(3, 3, 3), init=INIT, rngs=nnx.Rngs(0))
    general = SpikingConv(IN, OUT, kernel_size=(3, 3), init=INIT, rngs=nnx.Rngs(0)).kernel[...]
    np.testing.assert_array_equal(
        SpikingConv2d(IN, OUT, kernel_size=3, init=INIT, rngs=nnx.Rngs(0)).kernel[...], general
    )


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (
            (T, B, 9, IN + 1),
            rf"x must have {IN} features on its last axis, got shape \({T}, {B}, 9, {IN + 1}\)",
        ),
        (
            (T, B, IN),
            r"x must have shape \(time, batch, \*spatial, channels\) with 1 spatial axes, got \(30, 2, 2\)",
        ),
        (
            (T, B, 9, 9, IN),
            r"x must have shape \(time, batch, \*spatial, channels\) with 1 spatial axes",
        ),
        ((0, B, 9, IN), "at least one time step"),
        (
            (T, B, 3, IN),
            r"spatial must be at least kernel_size \(4,\) with padding 'valid', got \(3,\)",
        ),
    ],
)
def test_input_errors(shape, match):
    with pytest.raises(ValueError, match=match):
        make(CASES["1d"], dtype=jnp.float32)(jnp.zeros(shape))


def test_sizes_that_do_not_fit():
    layer = make(CASES["1d-stride"], dtype=jnp.float32)
    assert layer.out_shape((1,)) == (1,)  # 5 with its padding
    with pytest.raises(
        ValueError,
        match=r"spatial must be at least kernel_size \(5,\) with padding \(1,\), got \(2,\)",
    ):
        make(CASES["1d-stride"], dtype=jnp.float32, padding=1).out_shape((2,))
    with pytest.raises(
        ValueError,
        match=r"spatial must have 1 sizes, one per axis of kernel_size \(5,\), got \(8, 8\)",
    ):
        layer.out_shape((8, 8))
    with pytest.raises(ValueError, match=r"spatial must have 1 sizes, .*, got \(\)"):
        layer.initial_state(B)


@pytest.mark.parametrize(
    "shape", [(T, B, 9, IN), (B + 1, 9, IN), (B, 9, IN + 1), (B, IN), (B, 8, IN)]
)
def test_step_checks_the_shape(shape):
    layer = make(CASES["1d"], dtype=jnp.float32)
    match = r"x must have shape \(batch, \*spatial, in_features\) = \(2, \*spatial with output \(6,\), 2\), one time step for this state"
    with pytest.raises(ValueError, match=match):
        layer.step(layer.initial_state(B, (9, IN)), jnp.zeros(shape))


# --- the two ways to convolve


@cases
@pytest.mark.parametrize("few", [0, 4])  # windows element by element, and one axis after another
def test_product_of_windows_equals_the_direct_convolution(case, few, rng, x64, monkeypatch):
    monkeypatch.setattr("snnjax.nn._conv._FEW_CHANNELS", few)
    x, kernel = (
        rng.normal(size=(5, *case.spatial, IN)),
        rng.normal(size=(*case.kernel_size, IN, OUT)),
    )
    strides = case.options.get("stride", 1)
    strides = (strides,) * len(case.spatial) if isinstance(strides, int) else strides
    names = "DHW"[-len(case.spatial) :]

    def direct(x, kernel):
        layout = (f"N{names}C", f"{names}IO", f"N{names}C")
        return jax.lax.conv_general_dilated(x, kernel, strides, case.pads, dimension_numbers=layout)

    ours = lambda x, kernel: convolve(x, kernel, stride=strides, padding=case.pads)
    expected, pullback = jax.vjp(direct, x, kernel)
    got, our_pullback = jax.vjp(ours, x, kernel)
    assert_close(got, expected, rtol=1e-12)
    g = rng.normal(size=expected.shape)
    jax.tree.map(lambda a, b: assert_close(a, b, rtol=1e-11), our_pullback(g), pullback(g))


@settings(max_examples=25)
@given(data=st.data())
def test_windows_are_those_of_numpy(data):
    """For all sizes and strides, with one slice per element and with blocks of a stride."""
    axes = data.draw(st.integers(1, 3))
    ints = lambda most: data.draw(st.tuples(*[st.integers(1, most)] * axes))
    sizes, strides = ints(5), ints(4)
    spatial = tuple(k + extra for k, extra in zip(sizes, ints(9), strict=True))
    channels = data.draw(st.sampled_from([1, 3, 5]))
    x = np.arange(2 * math.prod(spatial) * channels).reshape(2, *spatial, channels)
    views = np.lib.stride_tricks.sliding_window_view(x, sizes, tuple(range(1, axes + 1)))
    views = views[(slice(None), *(slice(None, None, s) for s in strides))]
    # (n, *positions, channels, *sizes) -> (n, *positions, *sizes * channels)
    expected = np.moveaxis(views, axes + 1, -1).reshape(*views.shape[: axes + 1], -1)
    compiled = jax.jit(windows, static_argnums=(1, 2, 3))
    assert np.array_equal(compiled(x, sizes, strides, ((0, 0),) * axes), expected)


@pytest.mark.parametrize(
    "n", [12, 13]
)  # in blocks of 4; in blocks of 5 and a rest, because 13 has no suitable divisor
def test_blocks_of_windows_are_the_whole(n, rng, x64, monkeypatch):
    x, kernel = rng.normal(size=(n, 6, 2)), rng.normal(size=(3, 2, 4))
    whole = jax.value_and_grad(lambda x, kernel: jnp.sin(convolve(x, kernel)).sum(), argnums=(0, 1))
    expected = whole(x, kernel)
    monkeypatch.setattr("snnjax.nn._conv._BLOCK_BYTES", 5 * 6 * 2 * 3 * 8)
    assert str(jax.make_jaxpr(convolve)(x, kernel)).count("scan[") == 1
    jax.tree.map(lambda a, b: assert_close(a, b, rtol=1e-12), whole(x, kernel), expected)


@pytest.mark.parametrize(
    ("platform", "feed_forward", "recurrent"),
    [
        ("cpu", {"dot_general"}, {"dot_general"}),
        ("cuda", {"convolution"}, {"convolution", "dot_general"}),
        ("tpu", {"convolution"}, {"convolution"}),
    ],
)
def test_accelerators_convolve_and_a_cpu_multiplies(platform, feed_forward, recurrent):
    """For single steps, CUDA also multiplies."""
    for size, expected in ((None, feed_forward), (3, recurrent)):
        layer = SpikingConv1d(
            2, 4, kernel_size=5, recurrent_kernel_size=size, init=INIT, rngs=nnx.Rngs(0)
        )
        graphdef, state = nnx.split(layer)
        loss = lambda s, x, graphdef=graphdef: nnx.merge(graphdef, s)(x).output.sum()
        text = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(
            state, jnp.zeros((10, 2, 12, 2))
        ).mlir_module()
        assert {
            name for name in ("convolution", "dot_general") if f"stablehlo.{name}" in text
        } == expected
