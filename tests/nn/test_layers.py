import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import assert_close, lif_loop
from flax import nnx

from snnjax.calibration import calibrate
from snnjax.dynamics import LIF, AdaptiveLIF, ExcInhLIF, LeakyIntegrator, simulate
from snnjax.dynamics._lif import LIFState
from snnjax.nn import (
    DalianConv2d,
    Flatten,
    FluctuationDriven,
    Readout,
    Reshape,
    SameForAll,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.nn._maps import dense_recurrence
from snnjax.surrogate import superspike

T, B, IN, OUT = 40, 3, 20, 12
INIT = FluctuationDriven(nu=50.0, sigma_u=1.5)
NEURONS = {
    "lif": LIF(),
    "per-neuron": LIF(tau_mem=np.linspace(1e-2, 3e-2, OUT)),
    "subtractive": LIF(reset="subtractive"),
    "adaptive": AdaptiveLIF(tau_adapt=20e-3, b=0.5),
}


@pytest.fixture
def x(rng):
    return rng.poisson(0.1, (T, B, IN)).astype(np.float64)


def make(neuron=None, *, recurrent=True, trainable=(), dtype=jnp.float64, seed=0):
    return SpikingDense(
        IN, OUT, init=INIT, neuron=neuron, recurrent=recurrent, trainable=trainable, dtype=dtype, rngs=nnx.Rngs(seed)
    )  # fmt: skip


def stream(layer, x):
    state, outputs = layer.initial_state(x.shape[1]), []
    step = jax.jit(layer.step)
    for x_t in x:
        state, output = step(state, x_t)
        outputs.append(output)
    return jnp.stack(outputs), state


@pytest.mark.parametrize(
    ("name", "recurrent", "trainable"),
    [
        *((name, recurrent, ()) for name in NEURONS for recurrent in (False, True)),
        ("lif", True, ("tau_mem", "tau_syn")),
        ("adaptive", True, ("tau_mem", "tau_adapt")),
    ],
)
def test_sequence_equals_streamed_steps(name, recurrent, trainable, x, x64):
    layer = make(NEURONS[name], recurrent=recurrent, trainable=trainable)
    sim = layer(x)
    outputs, state = stream(layer, x)
    assert 0.01 < float(sim.output.mean()) < 0.5
    np.testing.assert_array_equal(sim.output, outputs)
    for a, b in zip(sim.state, state, strict=True):
        assert a.dtype == jnp.float64
        assert_close(a, b, 1e-12)


def test_readout_sequence_equals_streamed_steps(x, x64):
    layer = Readout(
        IN,
        5,
        neuron=LeakyIntegrator(tau_mem=0.1),
        dtype=jnp.float64,
        trainable=("tau_mem",),
        rngs=nnx.Rngs(0),
    )
    sim, (outputs, state) = layer(x), stream(layer, x)
    assert_close(sim.output, outputs, 1e-12)
    for a, b in zip(sim.state, state, strict=True):
        assert_close(a, b, 1e-12)


def test_layer_equals_a_plain_loop_with_its_weights(x, x64):
    layer = make()
    expected = lif_loop(
        x @ np.asarray(layer.kernel[...]), v=np.asarray(layer.recurrent_kernel[...])
    )
    sim = layer(x, membrane=True)
    np.testing.assert_array_equal(sim.output, expected.z)
    assert_close(sim.membrane, expected.u, 1e-12)


def test_state_is_passed_on(x, x64):
    layer = make()
    whole, first = layer(x), layer(x[:15])
    second = layer(x[15:], state=first.state)
    np.testing.assert_array_equal(jnp.concatenate([first.output, second.output]), whole.output)
    assert isinstance(second.state, LIFState)
    assert_close(second.state.u, whole.state.u, 1e-12)


# --- parameters


def test_parameters():
    layer = make(recurrent=True, trainable=("tau_mem",), dtype=jnp.float32)
    shapes = {
        "/".join(map(str, path)): p.shape
        for path, p in nnx.to_flat_state(nnx.state(layer, nnx.Param))
    }
    assert shapes == {
        "kernel": (IN, OUT),
        "recurrent_kernel": (OUT, OUT),
        "log_tau/tau_mem": (OUT,),
    }
    assert layer.recurrent
    assert not make(recurrent=False, dtype=jnp.float32).recurrent
    assert (
        jax.tree.leaves(nnx.state(make(recurrent=False, dtype=jnp.float32), nnx.Not(nnx.Param)))
        == []
    )


def test_any_initializer_goes_in():
    layer = SpikingDense(
        IN,
        OUT,
        init=SameForAll(jax.nn.initializers.lecun_normal()),
        recurrent=True,
        rngs=nnx.Rngs(0),
    )
    assert float(jnp.abs(layer.kernel[...]).max()) <= 2.3 / np.sqrt(IN)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_have_the_dtype_and_neurons_at_least_float32(dtype):
    layer = make(dtype=dtype)
    # spikes may come as booleans or integers
    for inputs in (
        jnp.ones((5, 2, IN), jnp.uint8),
        jnp.ones((5, 2, IN), bool),
        jnp.ones((5, 2, IN)),
    ):
        sim = jax.eval_shape(lambda x: layer(x, membrane=True), inputs)
        step = jax.eval_shape(lambda x: layer.step(layer.initial_state(2), x), inputs[0])
        assert {leaf.dtype for leaf in jax.tree.leaves((sim, step))} == {jnp.dtype(jnp.float32)}
    assert layer.kernel[...].dtype == dtype


# --- trainable time constants


@pytest.mark.parametrize(
    ("neuron", "names"),
    [
        (LIF(), ("tau_mem", "tau_syn")),
        (AdaptiveLIF(tau_adapt=50e-3), ("tau_mem", "tau_adapt")),
        (LIF(tau_mem=np.linspace(1e-2, 3e-2, OUT)), ("tau_mem",)),
    ],
)
def test_trainable_time_constants_get_the_gradient_of_autodiff(neuron, names, x, x64):
    layer = make(neuron, trainable=names)
    for name in names:  # one value per neuron, at first that of the given neuron
        np.testing.assert_allclose(
            getattr(layer.neuron, name), np.broadcast_to(getattr(neuron, name), OUT), rtol=1e-12
        )

    gradient = nnx.jit(nnx.grad(lambda layer: layer(x, membrane=True).membrane.sum()))(layer)
    kernel, recurrent = layer.kernel[...], layer.recurrent_kernel[...]

    def loss(log_taus):
        learned = type(neuron)(
            **{**vars(neuron), **{name: jnp.exp(v) for name, v in log_taus.items()}}
        )
        return simulate(
            learned, x @ kernel, recurrent=dense_recurrence, weights=recurrent, membrane=True
        ).membrane.sum()

    expected = jax.jit(jax.grad(loss))(
        {name: jnp.log(jnp.broadcast_to(getattr(neuron, name), OUT)) for name in names}
    )
    for name in names:
        assert_close(gradient.log_tau[name][...], expected[name], 1e-9)
        assert bool(jnp.any(expected[name] != 0))  # tau_adapt of a silent neuron has none


@pytest.mark.parametrize("step", [-5.0, 5.0])
def test_trained_time_constants_stay_positive(step, x):
    layer = make(trainable=("tau_mem", "tau_syn"), dtype=jnp.float32)
    for name in ("tau_mem", "tau_syn"):
        layer.log_tau[name][...] += step
        assert float(getattr(layer.neuron, name).min()) > 0
    assert bool(jnp.isfinite(layer(x).state.u).all())


def test_trainable_layer_at_its_initial_values_equals_the_fixed_layer(x, x64):
    # the two take different paths: hand-written backward pass and autodiff
    def run(trainable):
        layer = make(trainable=trainable)
        return layer(x).output, nnx.jit(nnx.grad(lambda layer: layer(x).output.sum()))(
            layer
        ).kernel[...]

    for a, b in zip(run(()), run(("tau_mem",)), strict=True):
        assert_close(a, b, 1e-9)


# --- transformations


@pytest.mark.parametrize("trainable", [(), ("tau_mem",)])
def test_jit_and_split_and_merge(trainable, x, x64):
    layer = make(trainable=trainable)
    expected = layer(x).output
    np.testing.assert_array_equal(nnx.jit(lambda layer, x: layer(x).output)(layer, x), expected)
    graphdef, state = nnx.split(layer)
    assert hash(graphdef) == hash(nnx.split(make(trainable=trainable, seed=1))[0])
    np.testing.assert_array_equal(
        jax.jit(lambda state, x: nnx.merge(graphdef, state)(x).output)(state, x), expected
    )


@pytest.mark.parametrize(
    "neuron", [NEURONS["lif"], NEURONS["per-neuron"]], ids=["scalar", "per-neuron"]
)
def test_vmap_over_seeds_equals_a_loop(neuron, x, x64):
    keys = jax.random.split(jax.random.key(0), 3)

    def build(key):
        return SpikingDense(
            IN, OUT, init=INIT, neuron=neuron, recurrent=True, dtype=jnp.float64, rngs=nnx.Rngs(key)
        )

    run = nnx.jit(lambda layer: layer(x, membrane=True).membrane)
    ensemble = nnx.vmap(run)(nnx.vmap(build)(keys))
    for k, key in enumerate(keys):
        assert_close(ensemble[k], run(build(key)), 1e-12)


# --- errors


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (T, B, IN + 1),
            rf"x must have {IN} features on its last axis, got shape \({T}, {B}, {IN + 1}\); arrays are time-major",
        ),
        ((B, IN), r"x must have shape \(time, batch, features\)"),
        ((0, B, IN), "at least one time step"),
    ],
)
def test_input_errors(shape, message):
    for layer in (make(dtype=jnp.float32), Readout(IN, 5, rngs=nnx.Rngs(0))):
        with pytest.raises(ValueError, match=message):
            layer(jnp.zeros(shape))


def test_other_errors():
    with pytest.raises(TypeError, match="x must be an array"):
        make(dtype=jnp.float32)([[[1.0]]])
    with pytest.raises(ValueError, match="in_features must be >= 1, got 0"):
        SpikingDense(0, OUT, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="out_features must be an integer"):
        SpikingDense(IN, 12.0, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(
        TypeError,
        match=r"neuron must be a snnjax.dynamics.Neuron such as LIF.*, got 0.02; for a model of your own",
    ):
        make(neuron=20e-3, dtype=jnp.float32)
    with pytest.raises(TypeError, match="one synaptic current, got ExcInhLIF"):
        make(neuron=ExcInhLIF(), dtype=jnp.float32)
    with pytest.raises(
        ValueError,
        match="trainable must be one of 'tau_mem', 'tau_syn', 'theta', 'u_reset', got 'beta'",
    ):
        make(trainable=("beta",), dtype=jnp.float32)
    with pytest.raises(TypeError, match=r"trainable .* such as \('tau_mem',\), got 'tau_mem'"):
        make(trainable="tau_mem", dtype=jnp.float32)
    with pytest.raises(
        ValueError, match="trainable must be one of 'tau_mem', 'tau_syn', got 'tau_adapt'"
    ):
        Readout(IN, 5, trainable=("tau_adapt",), rngs=nnx.Rngs(0))


def test_the_signature_of_a_class_has_every_option_and_that_of_a_layer_is_its_call():
    known = inspect.signature(SpikingDense).parameters
    assert [*known][:4] == ["in_features", "out_features", "init", "recurrent"]
    given = {name: p.default for name, p in known.items() if p.default is not p.empty}
    assert given == {
        **{"recurrent": False, "neuron": None, "trainable": (), "bias": False, "norm": None},
        **{"delays": None, "dtype": jnp.float32},
    }
    assert {known[name].kind for name in [*known][2:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert not {"init", "recurrent"} & inspect.signature(Readout).parameters.keys()
    assert [*inspect.signature(Sequential).parameters] == ["layers", "skip", "remat_steps"]
    assert "*args" not in " ".join(
        str(inspect.signature(c)) for c in (Flatten, Reshape, DalianConv2d)
    )
    call = inspect.signature(Readout(3, 2, rngs=nnx.Rngs(0)))
    assert [*call.parameters] == ["x", "state", "membrane", "key"]
    assert [*inspect.signature(Readout.step).parameters] == ["self", "state", "x", "key"]


def test_options_by_position_are_an_error_with_their_names():
    names = "give the others by name: init=, recurrent=, neuron="
    taken = "SpikingDense takes only in_features, out_features by position"
    with pytest.raises(TypeError, match=f"^{taken}, got 3 arguments by position; {names}"):
        SpikingDense(20, 10, INIT, rngs=nnx.Rngs(0))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Flatten takes nothing by position, got 1 argument"):
        Flatten(1)  # type: ignore[call-arg]


def test_what_a_layer_returns_is_no_array_but_a_tree(x):
    hidden = make(dtype=jnp.float32)
    network = Sequential(hidden, Readout(OUT, 2, rngs=nnx.Rngs(0)))
    for wrong in (nnx.relu, jnp.asarray, lambda y: jnp.ones(()) + y):
        with pytest.raises(TypeError, match=r"use .output, for example layer\(x\).output"):
            wrong(hidden(x))
        with pytest.raises(TypeError, match=r"use .readout, for example network\(x\).readout"):
            wrong(network(x))
    doubled = jax.tree.map(lambda a: 2 * a, hidden(x))
    np.testing.assert_array_equal(doubled.output, 2 * hidden(x).output)


def test_half_precision_weights_keep_the_neurons_in_float32(rng):
    """Sequence and single steps have the same spikes.

    A slow readout is as accurate as its weights.
    """
    x = jnp.asarray(rng.poisson(0.1, (200, 4, IN)), jnp.float32)
    layer = make(dtype=jnp.bfloat16)
    outputs, _ = stream(layer, x)
    np.testing.assert_array_equal(layer(x).output, outputs)
    slow = LeakyIntegrator(tau_mem=0.7)
    half, full = (
        Readout(IN, 3, neuron=slow, dtype=d, rngs=nnx.Rngs(0)) for d in (jnp.bfloat16, jnp.float32)
    )
    full.kernel[...] = half.kernel[...].astype(jnp.float32)
    assert_close(half(x).output, full(x).output, 1e-5)


@pytest.mark.parametrize(
    ("batch", "shape"), [(4, (100, 4, IN)), (1, (4, IN)), (4, (IN,)), (4, (4, IN + 1))]
)
def test_step_checks_the_shape(batch, shape):
    layer = make(dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, in_features\)"):
        layer.step(layer.initial_state(batch), jnp.zeros(shape))


@pytest.mark.parametrize("name", ["tau_mem", "theta", "tau_syn"])
@pytest.mark.parametrize("shape", [(OUT + 1,), (1,), (OUT, 1), (1, OUT), (B, OUT)])
def test_parameters_of_a_neuron_are_one_number_or_one_per_unit(name, shape):
    """One per trial is refused, and before the loop over time."""
    message = rf"{name} of the neuron must be one number, or one for each of the layer's {OUT} units, got shape \({shape[0]},"
    for value in (np.ones(shape), jnp.ones(shape)):
        with pytest.raises(ValueError, match=message):
            SpikingDense(
                IN,
                OUT,
                neuron=LIF(**{name: value}),
                init=jax.nn.initializers.lecun_normal(),
                rngs=nnx.Rngs(0),
            )
    with pytest.raises(ValueError, match="tau_mem of the neuron must be"):
        Readout(IN, OUT, neuron=LeakyIntegrator(tau_mem=np.ones(shape)), rngs=nnx.Rngs(0))


def test_parameters_of_a_convolution_may_also_be_one_per_position():
    make = lambda tau: SpikingConv1d(
        2,
        3,
        kernel_size=3,
        neuron=LIF(tau_mem=tau),
        init=jax.nn.initializers.lecun_normal(),
        rngs=nnx.Rngs(0),
    )
    x = jnp.ones((4, 2, 8, 2))  # 6 positions
    assert make(np.full((6, 3), 0.02))(x).output.shape == (4, 2, 6, 3)
    with pytest.raises(
        ValueError,
        match=r"tau_mem .* 3 units, or an array \(6, 3\) with one per unit and position, got shape \(5, 3\)",
    ):
        make(np.full((5, 3), 0.02))(x)
    for shape in ((6, 4), (2, 6, 3), (6, 1)):
        with pytest.raises(ValueError, match="tau_mem of the neuron must be one number"):
            make(np.full(shape, 0.02))


def test_a_spike_function_without_a_gradient_is_named():
    with pytest.warns(UserWarning, match="spike of LIF has the gradient 0 everywhere"):
        make(LIF(spike=lambda v: (v > 0).astype(v.dtype)), dtype=jnp.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for beta in (5.0, jnp.ones(OUT), jnp.ones((2, 2, OUT))):  # also one per unit and position
            make(LIF(spike=lambda v, beta=beta: jax.nn.sigmoid(beta * v)), dtype=jnp.float32)


def test_the_steepness_of_the_surrogate_is_one_number_or_one_per_unit(x):
    make(LIF(spike=superspike(jnp.ones(OUT))), dtype=jnp.float32)(x.astype(np.float32))
    with pytest.raises(ValueError, match=r"steepness.* of the neuron must be one number"):
        make(LIF(spike=superspike(jnp.ones(OUT + 1))), dtype=jnp.float32)


@pytest.mark.parametrize("shape", [(T, B, 2, IN), (T, B, 2, 2, IN)])
def test_a_dense_layer_refuses_spatial_axes_as_it_does_in_a_network(shape):
    with pytest.raises(
        ValueError,
        match=r"x must have shape \(time, batch, features\), got .* Flatten\(\) makes one axis",
    ):
        make(dtype=jnp.float32)(jnp.zeros(shape))


def test_a_learned_threshold_beside_learned_time_constants(x, x64):
    """Gradients of both are those of autodiff through the neuron with plain arrays."""
    layer = make(LIF(theta=nnx.Param(jnp.ones(OUT))), recurrent=False, trainable=("tau_mem",))

    def loss(theta, log_tau):
        neuron = LIF(theta=theta, tau_mem=jnp.exp(log_tau))
        return simulate(neuron, x @ layer.kernel[...], membrane=True).membrane.sum()

    log_tau = layer.log_tau["tau_mem"][...]
    expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.ones(OUT), log_tau)
    graphdef, state = nnx.split(layer)
    gradient = jax.jit(jax.grad(lambda s: nnx.merge(graphdef, s)(x, membrane=True).membrane.sum()))(
        state
    )
    assert_close(gradient["log_tau"]["tau_mem"][...], expected[1], 1e-9)
    assert_close(gradient["_neuron"].theta[...], expected[0], 1e-9)


def test_layers_with_a_learned_threshold_are_built_and_calibrated_under_jit():
    x = jnp.asarray(np.random.default_rng(0).poisson(0.1, (60, 2, IN)), jnp.float32)

    @nnx.jit
    def run():
        rngs = nnx.Rngs(0)
        hidden = SpikingDense(
            IN,
            OUT,
            neuron=LIF(theta=nnx.Param(jnp.ones(OUT))),
            init=FluctuationDriven(nu=50.0),
            rngs=rngs,
        )
        network, reports = calibrate(
            Sequential(hidden, Readout(OUT, 2, rngs=rngs)), x, key=jax.random.key(0), gradient=None
        )
        return network(x)[0], reports[0].sigma_u

    readout, sigma_u = run()
    assert readout.shape == (60, 2, 2)
    np.testing.assert_allclose(sigma_u, 1.0, rtol=0.3)  # 12 neurons


@pytest.mark.parametrize("log_tau", [-1e30, -97.0, 185.0, 1e30])
def test_time_constants_that_leave_the_floats_leave_a_network_that_runs(log_tau, x):
    layer = make(recurrent=False, trainable=("tau_mem", "tau_syn"), dtype=jnp.float32)
    for name in ("tau_mem", "tau_syn"):
        layer.log_tau[name][...] = jnp.full(OUT, log_tau)
    graphdef, state = nnx.split(layer)
    x = jnp.asarray(x, jnp.float32)
    mean = lambda s: nnx.merge(graphdef, s)(x, membrane=True).membrane.mean()
    value, gradient = jax.jit(jax.value_and_grad(mean))(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def test_a_call_with_the_state_of_another_batch_is_an_error(x):
    layer = make(dtype=jnp.float32)
    with pytest.raises(
        ValueError, match=rf"state must be LIFState with arrays of shape \({B}, {OUT}\)"
    ):
        layer(jnp.asarray(x, jnp.float32), state=layer.initial_state(1))


def test_a_plain_initializer_goes_to_every_connection():
    plain, wrapped = (
        SpikingDense(IN, OUT, init=init, recurrent=True, rngs=nnx.Rngs(0))
        for init in (
            jax.nn.initializers.lecun_normal(),
            SameForAll(jax.nn.initializers.lecun_normal()),
        )
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(wrapped), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rngs": 0}, r"rngs must be a flax\.nnx\.Rngs"),
        ({"neuron": LIF}, "got the class LIF itself"),
        ({"neuron": ExcInhLIF()}, "neuron must have one synaptic current"),
        ({"init": 3}, "init must be a LayerInit"),
    ],
)
def test_wrong_types_are_named(options, match):
    with pytest.raises(TypeError, match=match):
        SpikingDense(IN, OUT, **({"init": INIT, "rngs": nnx.Rngs(0)} | options))
