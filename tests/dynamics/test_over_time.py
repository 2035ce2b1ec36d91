"""Loops over time: the kernel for GPUs compared with the scan that it replaces.

Pallas' interpreter runs the kernel. Further tests check which programs use the kernel.
"""

import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import ON_CPU, assert_close, lif_loop
from hypothesis import given, settings
from hypothesis import strategies as st

from snnjax.dynamics import (
    IF,
    LIF,
    AdaptiveLIF,
    ExcInhLIF,
    Leaky,
    LeakyIntegrator,
    _over_time,
    simulate,
)
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.nn._maps import dense_recurrence
from snnjax.surrogate import (
    SpikeFunction,
    atan,
    sigmoid,
    superspike,
    superspike_rescaled,
    triangular,
)


@pytest.fixture
def interpreted(monkeypatch):
    """Run the kernel in the interpreter wherever a GPU would run it, and record the calls."""
    calls = []

    def kernel(body, constants, carry, xs, *, reverse=False):
        calls.append(reverse)
        return _over_time.gpu_kernel(body, constants, carry, xs, reverse=reverse, interpret=True)

    monkeypatch.setattr(_over_time, "elementwise", kernel)
    monkeypatch.setattr(_over_time, "on_gpu", lambda: True)
    jax.clear_caches()  # earlier compiled programs do not use the interpreter
    yield calls
    jax.clear_caches()


def body(constants, carry, x):
    """A step with all features of a neuron's step.

    It has several states, a threshold, an output of another type, and one that is None.
    """
    (decay, gain), (u, i) = constants, carry
    z = u > 1
    return (jnp.where(z, 0, decay * u + gain * i), decay * i + x["a"]), (
        (u - 1).astype(jnp.bfloat16),
        None,
        z.astype(u.dtype),
    )


@settings(max_examples=12, deadline=None)
@given(
    steps=st.sampled_from([1, 7, 8, 9, 24]),
    shape=st.sampled_from([(1,), (64,), (3, 50), (2, 4, 16)]),
    reverse=st.booleans(),
    seed=st.integers(0, 9),
    backend=st.sampled_from(list(_over_time.BACKENDS)),
)
@pytest.mark.slow
def test_kernel_equals_scan(steps, shape, reverse, seed, backend):
    """Covers sizes that are multiples of a program's size or not, and constants that broadcast.

    The number of steps is a multiple of the steps that are read ahead, or not.
    """
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
    arguments = (
        (jnp.float32(0.9), draw(shape[-1])),
        (draw(*shape), draw(*shape)),
        {"a": draw(steps, *shape), "b": None},
    )
    options = {"reverse": reverse, "backend": backend}
    found = _over_time.gpu_kernel(body, *arguments, interpret=True, **options)
    wanted = _over_time.loop(body, *arguments, reverse=reverse)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, 1e-2 if a.dtype == jnp.bfloat16 else 2e-6)


def test_kernel_under_vmap(rng):
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
    c, s, x = (jnp.float32(0.9), draw(5, 40)), (draw(5, 40), draw(5, 40)), {"a": draw(5, 11, 40)}
    axes = ((None, 0), 0, 0)
    kernel = lambda *a: _over_time.gpu_kernel(body, *a, interpret=True)
    found = jax.jit(jax.vmap(kernel, axes))(c, s, x)
    wanted = jax.jit(jax.vmap(lambda *a: _over_time.loop(body, *a), axes))(c, s, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-2 if a.dtype == jnp.bfloat16 else 2e-6)


SPIKES = [superspike(20.0), superspike_rescaled(5.0), atan(), triangular(), sigmoid()]


@pytest.mark.parametrize("spike", SPIKES, ids=lambda s: s.name)
@pytest.mark.parametrize("trace_dtype", [None, "bfloat16"])
@pytest.mark.slow
def test_lif_by_the_kernel_has_the_same_spikes_and_gradients(
    spike, trace_dtype, rng, x64, interpreted
):
    drive, weights = rng.normal(0.3, 1.5, (40, 3, 5)), jnp.asarray(rng.normal(size=(40, 3, 5)))
    neuron = LIF(tau_mem=np.linspace(10e-3, 30e-3, 5), spike=spike, trace_dtype=trace_dtype)

    def loss(drive, fused):
        sim = simulate(neuron, drive, membrane=True, fused=fused)
        return (sim.output * weights).sum() + jnp.square(sim.membrane).sum() + jnp.square(
            sim.state.u
        ).sum(), sim.output

    (_, z), g = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(drive), None)
    assert set(interpreted) == {False, True}
    (_, plain), wanted = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(drive), False)
    np.testing.assert_array_equal(z, plain)
    assert z.sum() > 10
    assert_close(g, wanted, 1e-12 if trace_dtype is None else 0.02)


def test_lif_by_the_kernel_equals_a_python_loop(rng, x64, interpreted):
    drive = rng.normal(0.3, 1.5, (30, 2, 3))
    wanted = lif_loop(drive).z
    assert wanted.sum() > 10
    found = jax.jit(lambda d: simulate(LIF(), d).output)(drive)
    np.testing.assert_array_equal(found, wanted)
    assert set(interpreted) == {False}


def test_two_currents_by_the_kernel(rng, x64, interpreted):
    drive = [jnp.asarray(np.abs(rng.normal(0, 0.8, (40, 3, 5)))) for _ in range(2)]
    loss = lambda d, fused: simulate(ExcInhLIF(), ExcInhDrive(*d), fused=fused).output * drive[0]
    grad = lambda fused: jax.jit(jax.grad(lambda d: loss(d, fused).sum()))(drive)
    for a, b in zip(grad(None), grad(False), strict=True):
        assert_close(a, b, 1e-12)
    assert set(interpreted) == {False, True}
    interpreted.clear()
    one_for_all = ExcInhDrive(drive[0], drive[1][..., :1])
    jax.jit(jax.grad(lambda d: simulate(ExcInhLIF(), d).output.sum()))(one_for_all)
    assert set(interpreted) == {
        True
    }  # a drive that broadcasts does not have the population's shape, but its gradient has


@pytest.mark.parametrize("neuron", [Leaky(tau_mem=np.linspace(5e-3, 30e-3, 5)), IF()])
def test_neurons_without_currents_by_the_kernel(neuron, rng, x64, interpreted):
    drive, weights = (jnp.asarray(rng.normal(0.5, 1.5, (40, 3, 5))) for _ in range(2))

    def loss(drive, fused):
        sim = simulate(neuron, drive, fused=fused, membrane=True)
        return jnp.sum((sim.output + sim.membrane) * weights) + sim.state.u.sum(), sim.output

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, z), g = gradient(drive, None)
    assert set(interpreted) == {False, True}
    (_, plain), wanted = gradient(drive, False)
    assert np.asarray(z).sum() > 10
    np.testing.assert_array_equal(z, plain)
    assert_close(g, wanted, 1e-12)


@pytest.mark.parametrize(
    "taus",
    [(0.2, 10e-3), (np.linspace(0.1, 0.3, 4), np.linspace(5e-3, 20e-3, 4))],
    ids=["shared", "own"],
)
def test_readout_by_the_kernel(taus, rng, x64, interpreted):
    drive, weights = (
        jnp.asarray(rng.normal(size=(30, 2, 4))),
        jnp.asarray(rng.normal(size=(30, 2, 4))),
    )
    neuron = LeakyIntegrator(tau_mem=taus[0], tau_syn=taus[1])
    start = type(neuron.initial_state((2, 4)))(
        *(jnp.asarray(rng.normal(size=(2, 4))) for _ in range(2))
    )

    def loss(drive, start, fused):
        sim = simulate(neuron, drive, state=start, fused=fused)
        return (sim.output * weights).sum() + jnp.square(sim.state.o * sim.state.i).sum()

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    found, wanted = (gradient(drive, start, fused) for fused in (None, False))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert_close(a, b, 1e-12)
    assert set(interpreted) == {False, True}


def test_what_is_trained_or_unknown_is_left_to_scans(rng, interpreted):
    drive = jnp.asarray(rng.normal(size=(10, 2, 4)), jnp.float32)
    simulate(LeakyIntegrator(tau_mem=jnp.asarray(0.2)), drive)
    simulate(AdaptiveLIF(), drive)
    simulate(LIF(), drive, recurrent=dense_recurrence, weights=jnp.eye(4))
    assert interpreted == []
    ours = SpikeFunction(steepness=(), function=lambda v: jnp.cumsum(v, axis=-1))  # not elementwise
    jax.grad(lambda d: simulate(LIF(spike=ours), d).output.sum())(drive)
    assert set(interpreted) == {False}


@ON_CPU
def test_readouts_have_derivatives_of_all_kinds_on_a_cpu(rng, x64):
    drive = jnp.asarray(rng.normal(size=(6, 1, 2)))
    total = lambda d: (simulate(LeakyIntegrator(), d).output ** 2).sum()
    forward, reverse = jax.hessian(total), jax.jacrev(jax.grad(total))
    assert_close(jax.jit(forward)(drive), jax.jit(reverse)(drive), 1e-12)


def program(f, *arguments, platform):
    """The text of f's program for `platform`; no such device is needed."""
    kind = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    device = jax.sharding.AbstractMesh((), (), abstract_device=kind if platform == "cuda" else None)
    with jax.sharding.use_abstract_mesh(device):
        return jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def feedforward(drive):
    """A gradient through four loops without recurrent weights, which use the kernel."""
    loss = lambda d: jnp.square(simulate(LeakyIntegrator(), simulate(LIF(), d).output).output).sum()
    return jax.grad(loss)(drive)


def recurrent(drive):
    return simulate(
        LIF(), drive, recurrent=dense_recurrence, weights=jnp.eye(drive.shape[-1])
    ).output


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Simulate a process that has a GPU; its backends are those that a test names."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = ["mosaic"]
    monkeypatch.setattr(_over_time, "runs", lambda name: name in found)
    jax.clear_caches()
    _over_time.backend.cache_clear()
    yield found
    jax.clear_caches()
    _over_time.backend.cache_clear()


CALLS = {"mosaic": "mosaic_gpu", "triton": "xla.gpu.triton"}
"""Name of a kernel of each backend in the text of a program."""


def kernels(text, backend="mosaic"):
    """The number of kernels of a backend in a program."""
    lines = [line for line in text.splitlines() if "custom_call @" in line]
    return sum(CALLS[backend] in line.split("(")[0] for line in lines)


@ON_CPU
def test_without_a_gpu_no_program_has_the_kernel(rng):
    drive = jnp.asarray(rng.normal(size=(40, 2, 64)), jnp.float32)
    jax.clear_caches()
    text = program(lambda d: feedforward(d), drive, platform="cuda")
    assert not any(kernels(text, backend) for backend in CALLS)
    assert "unroll=1" in str(jax.make_jaxpr(lambda d: recurrent(d))(drive))


@pytest.mark.parametrize("backend", list(CALLS))
def test_who_gets_the_kernel(backend, pretended_gpu, rng):
    """Only programs for CUDA use it, and only if there is a GPU; there, loops are unrolled."""
    pretended_gpu[:] = [backend]
    drive = jnp.asarray(rng.normal(size=(40, 2, 64)), jnp.float32)
    programs = {
        p: program(lambda d: feedforward(d), drive, platform=p) for p in ("cuda", "cpu", "tpu")
    }
    assert kernels(programs["cuda"], backend) == 4
    assert "stablehlo.while" not in programs["cuda"]
    for p in ("cpu", "tpu"):
        assert kernels(programs[p], backend) == 0
        assert programs[p].count("stablehlo.while") == 4
    assert f"unroll={_over_time.UNROLL}" in str(jax.make_jaxpr(lambda d: recurrent(d))(drive))


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(
    ("neuron", "spike"),
    [(n, SPIKES[0]) for n in (LIF, Leaky, ExcInhLIF)] + [(IF, spike) for spike in SPIKES],
)
@pytest.mark.slow
def test_every_elementwise_neuron_has_a_mosaic_kernel(neuron, spike):
    """The backend accepts all operations of a step and of its gradient, also with 16-bit traces."""
    drive = jnp.ones((9, 2, 64))
    of = (lambda d: ExcInhDrive(d, d)) if neuron is ExcInhLIF else (lambda d: d)
    one = neuron(spike=spike, **({"trace_dtype": "bfloat16"} if neuron is LIF else {}))
    loss = lambda d: simulate(one, of(d), membrane=True).output.sum()
    assert kernels(program(lambda d: jax.grad(loss)(d), drive, platform="cuda")) == 2


@pytest.mark.usefixtures("pretended_gpu")
def test_double_precision_is_left_to_scans(x64):
    assert not kernels(program(lambda d: feedforward(d), jnp.ones((9, 2, 64)), platform="cuda"))


def test_without_a_backend_the_loop_serves_and_one_warning_says_so(pretended_gpu, rng):
    drive = jnp.asarray(rng.normal(0.3, 1.5, (40, 2, 3)), jnp.float32)
    pretended_gpu.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, gradient = simulate(LIF(), drive).output, feedforward(drive)
        for_gpu = program(lambda d: feedforward(d), drive, platform="cuda")
    (warning,) = [w for w in caught if "GPU kernel" in str(w.message)]
    assert warning.category is UserWarning
    assert "mosaic: its results are not those of a scan; triton:" in str(warning.message)
    assert "7 to 15 times as long" in str(warning.message)
    assert not any(kernels(for_gpu, backend) for backend in CALLS)
    assert for_gpu.count("stablehlo.while") == 4
    np.testing.assert_array_equal(found, lif_loop(drive).z)
    pretended_gpu.append("mosaic")
    assert_close(gradient, feedforward(drive), 1e-5)


@ON_CPU
@pytest.mark.parametrize("left", [None, types.ModuleType("backend")], ids=["none", "empty"])
def test_a_missing_or_broken_backend_is_found_out(left, monkeypatch):
    """A CPU cannot run either backend, with or without its module."""
    _over_time.backend.cache_clear()
    for name in ("triton", "mosaic_gpu"):
        monkeypatch.setitem(sys.modules, f"jax.experimental.pallas.{name}", left)
    with pytest.warns(UserWarning, match="mosaic: .*Error .*; triton: .*Error"):
        assert _over_time.backend() is None
    _over_time.backend.cache_clear()


def test_the_check_of_a_backend_runs_also_while_a_program_is_traced(monkeypatch):
    """With the interpreter in place of a GPU, and with an interpreter that is wrong."""
    run, factor = _over_time.gpu_kernel, [1.0]

    def interpreted(body, *given, backend):
        final, y = run(body, *given, backend=backend, interpret=True)
        return final * factor[0], y

    monkeypatch.setattr(_over_time, "gpu_kernel", interpreted)
    found = []
    jax.jit(lambda x: found.append(_over_time.runs("mosaic")) or x)(0.0)
    factor[0] = 1.01
    assert (found, _over_time.runs("triton")) == ([True], False)
