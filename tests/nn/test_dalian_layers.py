import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import CONVOLVED, assert_close, assert_gradients_are_finite_differences, populations
from flax import nnx

from snnjax.dale import exponential
from snnjax.dynamics import LIF, ExcInhLIF, LeakyIntegrator
from snnjax.initializers import kaiming_normal
from snnjax.losses import CrossEntropy
from snnjax.nn import (
    DalianConv1d,
    DalianConv2d,
    DalianDense,
    DalianFluctuationDriven,
    Dropout,
    Flatten,
    FluctuationDriven,
    NonNegative,
    Readout,
    Sequential,
)
from snnjax.nn._dalian import DalianConv
from snnjax.nn._nonnegative import nonnegative
from snnjax.optimizers import keep_nonnegative, smorms3
from snnjax.theory import dalian_rates

T, B, IN, E, I = 50, 3, 20, 12, 5  # noqa: E741
INIT = DalianFluctuationDriven(nu=50.0, sigma_u=1.5)
NEURONS = {
    "plain": ExcInhLIF(),
    "per-neuron": ExcInhLIF(
        tau_mem=np.linspace(1e-2, 3e-2, E + I), tau_inh=np.linspace(5e-3, 4e-2, E + I)
    ),
    "subtractive": ExcInhLIF(reset="subtractive"),
}


@pytest.fixture
def x(rng):
    return rng.poisson(0.1, (T, B, IN)).astype(np.float64)


def make(neuron=None, *, recurrent=True, dtype=jnp.float64, seed=0, **options):
    return DalianDense(
        IN,
        E,
        **{"n_inh": I, "init": INIT} | options,
        neuron=neuron,
        recurrent=recurrent,
        dtype=dtype,
        rngs=nnx.Rngs(seed),
    )


def conv1d(*, recurrent=True, dtype=jnp.float64, stride=2, padding: int | str = 1):
    return DalianConv1d(
        3, 4, n_inh=2, kernel_size=4, stride=stride, padding=padding, lateral_kernel_size=3, recurrent=recurrent, init=INIT, dtype=dtype, rngs=nnx.Rngs(0)
    )  # fmt: skip


def conv2d(*, recurrent=True, dtype=jnp.float64):
    return DalianConv2d(
        2, 4, kernel_size=(3, 2), padding="same", lateral_kernel_size=(1, 3), recurrent=recurrent, init=INIT, dtype=dtype, rngs=nnx.Rngs(0)
    )  # fmt: skip


def inputs_of(layer, rng):
    shape = {0: (IN,), 1: (9, 3), 2: (4, 5, 2)}[len(layer.map.window)]
    return rng.poisson(0.1, (T, B, *shape)).astype(np.float64)


def weights_of(layer):
    recurrent = None if layer.recurrent_kernel is None else np.asarray(layer.recurrent_kernel[...])
    return np.asarray(layer.kernel[...]), np.asarray(layer.inhibitory_kernel[...]), recurrent


def loop(
    forward,
    own,
    n_exc,
    shape,
    *,
    tau_mem=20e-3,
    tau_exc=10e-3,
    tau_inh=20e-3,
    dt=2e-3,
    reset="multiplicative",
):
    """The equations of the module, step by step.

    `forward` (T, B, ...) is x @ W; `own` maps (z_E, z_I) to their input to exc and inh.
    """
    lm, le, li = (np.exp(-dt / np.asarray(tau)) for tau in (tau_mem, tau_exc, tau_inh))
    u, exc, inh = (np.zeros(shape) for _ in range(3))
    zs, us = [], []
    for x_t in forward:
        z = np.where(u > 1, 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + (1 - lm) * (exc - inh)
        u = free * (1 - z) if reset == "multiplicative" else free - z
        to_exc, to_inh = own(z[..., :n_exc], z[..., n_exc:])
        exc, inh = le * exc + x_t + to_exc, li * inh + to_inh
    return np.array(zs), np.array(us)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", NEURONS)
def test_dense_equals_a_plain_loop(name, recurrent, x, x64):
    layer = make(NEURONS[name], recurrent=recurrent)
    w, q, v = weights_of(layer)
    neuron = {
        "tau_mem": layer.neuron.tau_mem,
        "tau_inh": layer.neuron.tau_inh,
        "reset": layer.neuron.reset,
    }
    z, u = loop(x @ w, lambda ze, zi: (0 if v is None else ze @ v, zi @ q), E, (B, E + I), **neuron)
    sim = layer(x, membrane=True)
    np.testing.assert_array_equal(sim.output, z)
    assert_close(sim.membrane, u, 1e-11)
    assert z[..., :E].mean() > 0.01
    assert z[..., E:].mean() > 0.01


def naive_conv(x, kernel, stride, pads):
    """Loops over positions and taps; x (..., *spatial, in)."""
    axes = kernel.ndim - 2
    lead = x.ndim - axes - 1
    x = np.pad(x, [(0, 0)] * lead + list(pads) + [(0, 0)])
    sizes = [
        (n - k) // s + 1
        for n, k, s in zip(x.shape[lead:-1], kernel.shape[:axes], stride, strict=True)
    ]
    out = np.zeros((*x.shape[:lead], *sizes, kernel.shape[-1]))
    for p in itertools.product(*map(range, sizes)):
        for k in itertools.product(*map(range, kernel.shape[:axes])):
            at = tuple(s * a + b for s, a, b in zip(stride, p, k, strict=True))
            out[(..., *p, slice(None))] += x[(..., *at, slice(None))] @ kernel[k]
    return out


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("make_conv", "n_inh", "pads", "lateral_pads"),
    [(conv1d, 2, [(1, 1)], [(1, 1)]), (conv2d, 1, [(1, 1), (0, 1)], [(0, 0), (1, 1)])],
    ids=["1d", "2d"],
)
def test_convolution_equals_plain_loops(make_conv, n_inh, pads, lateral_pads, recurrent, rng, x64):
    layer = make_conv(recurrent=recurrent)
    x = inputs_of(layer, rng)
    w, q, v = weights_of(layer)
    forward = naive_conv(x, w, layer.map.stride, pads)
    one = (1,) * len(layer.map.window)

    def own(ze, zi):
        return 0 if v is None else naive_conv(ze, v, one, lateral_pads), naive_conv(
            zi, q, one, lateral_pads
        )

    z, u = loop(forward, own, 4, forward.shape[1:])
    sim = layer(x, membrane=True)
    np.testing.assert_array_equal(sim.output, z)
    assert_close(sim.membrane, u, 1e-11)
    assert sim.output.shape[2:] == (*layer.out_shape(x.shape[2:-1]), 4 + n_inh)
    assert layer.feature_shape(x.shape[2:]) == (*sim.output.shape[2:-1], 4)
    assert z[..., 4:].mean() > 0.005


LAYERS = {
    **{
        f"dense-{name}-{recurrent}": lambda n=name, r=recurrent: make(NEURONS[n], recurrent=r)
        for name in NEURONS
        for recurrent in (False, True)
    },
    "trainable": lambda: make(trainable=("tau_mem", "tau_exc", "tau_inh")),
    "1d": conv1d,
    "2d": lambda: conv2d(recurrent=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_sequence_equals_streamed_steps(name, rng, x64):
    layer = LAYERS[name]()
    x = inputs_of(layer, rng)
    state, outputs = layer.initial_state(B, x.shape[2:]), []
    step = jax.jit(layer.step)
    for x_t in x:
        state, z = step(state, x_t)
        outputs.append(z)
    sim = layer(x)
    np.testing.assert_array_equal(sim.output, outputs)
    for a, b in zip(sim.state, state, strict=True):
        assert a.dtype == jnp.float64
        assert_close(a, b, max(1e-11, CONVOLVED))
    first = layer(x[:15])
    np.testing.assert_array_equal(layer(x[15:], state=first.state).output, sim.output[15:])


def smooth(v):
    return jax.nn.sigmoid(5 * v)


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_gradients_are_finite_differences(name, rng, x64):
    neuron = ExcInhLIF(spike=smooth, reset_grad=True)
    rngs, dtype = nnx.Rngs(0), jnp.float64
    if name == "conv":
        conv = DalianConv1d(
            2,
            4,
            kernel_size=3,
            lateral_kernel_size=3,
            recurrent=True,
            init=INIT,
            neuron=neuron,
            dtype=dtype,
            rngs=rngs,
        )
        layers, shape = [conv, Flatten(), Readout(6 * 4, 3, dtype=dtype, rngs=rngs)], (8, 2)
    else:
        dense = DalianDense(
            8,
            6,
            n_inh=3,
            trainable=("tau_exc", "tau_inh"),
            recurrent=True,
            init=INIT,
            neuron=neuron,
            dtype=dtype,
            rngs=rngs,
        )
        layers, shape = (
            [dense, Readout(6, 3, neuron=LeakyIntegrator(tau_mem=0.1), dtype=dtype, rngs=rngs)],
            (8,),
        )
    x = rng.poisson(0.1, (30, 2, *shape)).astype(np.float64)
    graphdef, params, rest = nnx.split(Sequential(*layers), nnx.Param, ...)
    leaves, treedef = jax.tree.flatten(params)

    def loss(*leaves):
        readout, activity = nnx.merge(graphdef, treedef.unflatten(leaves), rest)(x)
        # inhibitory neurons count too, as for a regularizer
        return CrossEntropy()(readout, jnp.array([0, 2])).mean() + sum(
            z.sum(axis=0).var() for z in activity.spikes
        )

    assert_gradients_are_finite_differences(loss, leaves, rtol=1e-5)


def test_surrogate_gradient_reaches_every_neuron(x, x64):
    layer = make()
    gradient = nnx.jit(nnx.grad(lambda layer: layer.emit(layer(x).output).sum()))(layer)
    for name in ("kernel", "inhibitory_kernel", "recurrent_kernel"):
        # weights to all neurons, also to inhibitory ones, whose spikes do not reach the layer above
        assert (np.abs(np.asarray(gradient[name][...])).sum(axis=0) > 0).all()


# --- parameters


@pytest.mark.parametrize("recurrent", [False, True])
def test_parameters_are_marked_and_have_the_means_of_the_theory(recurrent):
    layer = DalianDense(300, 80, n_inh=40, init=DalianFluctuationDriven(nu=10.0, nu_inh=20.0, nu_recurrent=5.0, sigma_u=0.7, alpha=0.8),
                        recurrent=recurrent, trainable=("tau_mem",), rngs=nnx.Rngs(0))  # fmt: skip
    rates = dalian_rates(0.7, **populations((300, 10.0), (40, 20.0), (80 if recurrent else 0, 5.0)), alpha=0.8,
                         kernels=ExcInhLIF().kernels)  # fmt: skip
    expected = {"kernel": ((300, 120), rates.exc), "inhibitory_kernel": ((40, 120), rates.inh)}
    if recurrent:
        expected["recurrent_kernel"] = ((80, 120), rates.rec)
    params = nnx.state(layer, nnx.Param)
    assert set(params.keys()) == {*expected, "log_tau"}
    for name, (shape, rate) in expected.items():
        assert type(params[name]) is NonNegative
        w = np.asarray(params[name][...])
        assert w.shape == shape
        assert w.min() >= 0
        np.testing.assert_allclose(
            w.mean(), 1 / rate, rtol=4 / np.sqrt(w.size)
        )  # 4 standard errors
    assert params["log_tau"]["tau_mem"].shape == (120,)
    assert not any(jax.tree.leaves(nonnegative(params["log_tau"])))


def test_ratio_gives_the_number_of_inhibitory_neurons():
    layer = DalianDense(IN, 128, init=INIT, rngs=nnx.Rngs(0))
    assert (layer.n_exc, layer.n_inh, layer.units, layer.out_features) == (128, 32, 160, 128)
    assert DalianDense(IN, 10, ei_ratio=3.0, init=INIT, rngs=nnx.Rngs(0)).n_inh == 3


@pytest.mark.parametrize(
    "init",
    [INIT, DalianFluctuationDriven(nu=5.0, cv=0.5), exponential(3.0)],
)
def test_any_initializer_of_weights_not_below_0_goes_in(init):
    layer = make(init=init, dtype=jnp.float32)
    assert float(min(layer.kernel[...].min(), layer.inhibitory_kernel[...].min())) >= 0


# --- in a network


def network(*, skip=False, recurrent=True, dropout=0.0, dtype=jnp.float32, seed: object = 0):
    rngs = nnx.Rngs(seed)
    hidden = [
        DalianDense(a, b, init=INIT, recurrent=recurrent, dtype=dtype, rngs=rngs)
        for a, b in ((IN, 12), (12, 8))
    ]
    middle = [Dropout(dropout)] if dropout else []
    return Sequential(
        hidden[0],
        *middle,
        hidden[1],
        Readout(20 if skip else 8, 3, dtype=dtype, rngs=rngs),
        skip=skip,
    )


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_layer_above_sees_excitatory_spikes_alone(skip, dropout, x, x64):
    net = network(skip=skip, dropout=dropout, dtype=jnp.float64)
    readout, activity = net(x)
    assert [z.shape for z in activity.spikes] == [(T, B, 15), (T, B, 10)]
    first, second = (layer for layer in net.layers if layer.spiking)
    z1 = first(x).output
    z2 = second(z1[..., :12]).output
    np.testing.assert_array_equal(activity.spikes[0], z1)
    np.testing.assert_array_equal(activity.spikes[1], z2)
    below = jnp.concatenate([z1[..., :12], z2[..., :8]], axis=-1) if skip else z2[..., :8]
    assert_close(readout, net.layers[-1](below).output, 1e-12)
    # and step by step
    state, outs = net.initial_state(B), []
    step = jax.jit(net.step)
    for x_t in x:
        state, (out, spikes) = step(state, x_t)
        outs.append(out)
    assert_close(jnp.stack(outs), readout, 1e-11)
    assert [z.shape for z in spikes] == [(B, 15), (B, 10)]


def test_rematerialization_changes_nothing(x, x64):
    net = network(dtype=jnp.float64)
    loss = nnx.jit(nnx.value_and_grad(lambda n: n(x)[0].sum()))
    value, grads = loss(net)
    net.remat_steps = 7
    again, grads_again = loss(net)
    assert_close(again, value, 1e-12)
    for a, b in zip(jax.tree.leaves(grads_again), jax.tree.leaves(grads), strict=True):
        assert_close(a, b, 1e-9)


def test_vmap_over_seeds_equals_a_loop(x, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    run = nnx.jit(lambda key: make(seed=key)(x).output)
    ensemble = nnx.vmap(run)(keys)
    for k, key in enumerate(keys):
        np.testing.assert_array_equal(ensemble[k], run(key))


@pytest.mark.more
@pytest.mark.parametrize("name", ["smorms3", "adam", "sgd"])
def test_training_keeps_every_dalian_weight_at_or_above_0(name, rng):
    """1,000 updates of a small recurrent network at a large learning rate.

    The weights of the readout may have any sign.
    """
    optimizer = optax.chain(
        {"smorms3": smorms3, "adam": optax.adam, "sgd": optax.sgd}[name](3e-2), keep_nonnegative()
    )
    x, labels = jnp.asarray(rng.poisson(0.1, (15, 6, IN)), jnp.float32), jnp.arange(6) % 3
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)

    def update(carry, _):
        params, state, low = carry
        grads = jax.grad(
            lambda p: CrossEntropy()(nnx.merge(graphdef, p, rest)(x)[0], labels).mean()
        )(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (
            params,
            state,
            jax.tree.map(lambda m, w: jnp.minimum(m, w.min()), low, params),
        ), None

    low = jax.tree.map(lambda w: w.min(), params)
    run = jax.jit(
        lambda params: jax.lax.scan(update, (params, optimizer.init(params), low), length=1000)[0]
    )
    trained, _, low = run(params)
    marks = jax.tree.leaves(nonnegative(params))
    assert marks.count(True) == 6
    for smallest, marked in zip(jax.tree.leaves(low), marks, strict=True):
        assert (float(smallest) >= 0) is marked
    # and the projection had an effect
    assert (
        sum(
            float((w == 0).mean())
            for w, m in zip(jax.tree.leaves(trained), marks, strict=True)
            if m
        )
        > 0
    )


# --- errors


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"neuron": LIF()},
            TypeError,
            "neuron must have an excitatory and an inhibitory current, got LIF",
        ),
        (
            {"init": FluctuationDriven(nu=5.0)},
            TypeError,
            "Dalian layers need DalianFluctuationDriven",
        ),
        (
            {"init": kaiming_normal()},
            ValueError,
            "init must draw weights >= 0 for a Dalian layer, got -.* in kernel",
        ),
        ({"n_inh": 0}, ValueError, "n_inh must be >= 1, got 0"),
        ({"n_inh": None, "ei_ratio": 0.0}, ValueError, "ei_ratio must be finite and > 0"),
        (
            {"trainable": ("tau_syn",)},
            ValueError,
            "trainable must be one of 'tau_mem', 'tau_exc', 'tau_inh'",
        ),
    ],
)
def test_errors(options, error, match):
    with pytest.raises(error, match=match):
        make(**{"dtype": jnp.float32} | options)


def test_other_errors():
    with pytest.raises(ValueError, match="lateral_kernel_size must be odd"):
        DalianConv1d(2, 4, kernel_size=3, lateral_kernel_size=2, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="DalianConv1d and DalianConv2d take one number"):
        DalianConv(2, 4, kernel_size=3, lateral_kernel_size=3, init=INIT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"expects 17 inputs but gets 12"):
        DalianDense(17, 4, init=INIT, rngs=nnx.Rngs(0)).feature_shape(
            make(dtype=jnp.float32).feature_shape((IN,))
        )
    with pytest.raises(ValueError, match="connections must be one feed-forward, one inhibitory"):
        INIT(ExcInhLIF(), [])
    with pytest.raises(ValueError, match=r"mu_u must be finite and < 1, got 1\.5"):
        DalianDense(17, 4, init=DalianFluctuationDriven(nu=5.0, mu_u=1.5), rngs=nnx.Rngs(0))
    for bad in (
        {"nu": 0.0},
        {"nu": 5.0, "nu_inh": 0.0},
        {"nu": 5.0, "alpha": 1.0},
        {"nu": 5.0, "cv": -1.0},
    ):
        with pytest.raises(ValueError, match="must be"):
            DalianFluctuationDriven(**bad)
