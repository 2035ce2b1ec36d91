"""E-prop against autodiff of a loop over steps, in which the paths that it leaves out are cut."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, enable_x64
from flax import nnx

from snnjax.datasets import DeviceEvents, Splits, randman
from snnjax.dynamics import LIF, AdaptiveLIF, AdLIF, Leaky, LeakyIntegrator, Neuron, Refractory
from snnjax.initializers import kaiming_normal
from snnjax.losses import CrossEntropy, EveryStep, MeanSquare, Timed
from snnjax.nn import (
    BatchNorm,
    DalianDense,
    DalianFluctuationDriven,
    Delays,
    Dropout,
    Flatten,
    FluctuationDriven,
    Readout,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.regularizers import upper_bound
from snnjax.surrogate import superspike
from snnjax.training import EProp, Objective, Program, Trainer, fit_ensemble
from snnjax.training._eprop import _layers

pytestmark = pytest.mark.more

STEPS, BATCH, INPUTS, CLASSES = 60, 4, 12, 3
LABELS = jnp.array([0, 1, 2, 0])
LOSS = EveryStep(CrossEntropy())
INIT = FluctuationDriven(nu=40.0, sigma_u=1.5)


def inputs(steps=STEPS, seed=0):
    spikes = np.random.default_rng(seed).random((steps, BATCH, INPUTS)) < 0.08
    return jnp.asarray(spikes, float)


def network(*neurons, recurrent=False, bias=True, feedback="symmetric", **options):
    rngs = nnx.Rngs(0)
    options |= {"recurrent": recurrent, "bias": bias, "rngs": rngs, "dtype": float}
    sizes = (INPUTS, *(10 + k for k in range(len(neurons))))
    hidden = [
        SpikingDense(sizes[k], sizes[k + 1], init=INIT, neuron=neuron, **options)
        for k, neuron in enumerate(neurons)
    ]
    leaky = LeakyIntegrator(tau_mem=50e-3, tau_syn=5e-3)
    readout = Readout(sizes[-1], CLASSES, neuron=leaky, bias=bias, rngs=rngs, dtype=float)
    return EProp(*hidden, readout, feedback=feedback, rngs=rngs)


def gradients(network, value):
    """The gradient of `value(network)`."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    return jax.jit(jax.grad(lambda p: value(nnx.merge(graphdef, p, rest))))(params)


def online(network, x, target, loss=LOSS):
    return nnx.jit(lambda network, x, target: network.gradient(x, target, loss))(network, x, target)


def kernels(gradient):
    """{(layer, name): gradient} of all weights and biases."""
    return {
        (k, name): layer[name][...]
        for k, layer in gradient["layers"].items()
        for name in ("kernel", "recurrent_kernel", "bias")
        if name in layer
    }


def cross_entropy(readout):
    """Mean over samples and steps, in plain numbers."""
    right = jnp.take_along_axis(readout, jnp.broadcast_to(LABELS[:, None], (STEPS, BATCH, 1)), 2)
    return (jnp.log(jnp.exp(readout).sum(-1)) - right[..., 0]).mean()


def stepwise(network, x, *, cut):
    """The readout of a loop over steps.

    Args:
        network: The network.
        x: Inputs.
        cut: Whether to cut what e-prop leaves out: a layer's own spikes, and those that the layers
            above receive, are constants; spikes reach the readout through B in the derivative.
    """
    hidden, readout = _layers(network)
    constant = jax.lax.stop_gradient if cut else lambda a: a
    feedback = [b[...] for b in network.feedback_kernels] or [hidden and readout.kernel[...]]

    def body(states, x):
        after, through_b = [], 0.0
        for k, layer in enumerate(hidden):
            _, z = layer.neuron.step(states[k], jnp.zeros((BATCH, layer.units)))
            drive = x @ layer.kernel[...]
            if layer.recurrent:
                drive += constant(z) @ layer.recurrent_kernel[...]
            if layer.bias is not None:
                drive += layer.bias[...]
            after.append(layer.neuron.step(states[k], drive)[0])
            if cut:
                of_b = z @ jax.lax.stop_gradient(feedback[k])
                through_b += of_b - jax.lax.stop_gradient(of_b)
            x = constant(z)
        drive = x @ readout.kernel[...] + through_b
        drive += 0.0 if readout.bias is None else readout.bias[...]
        state, o = readout.neuron.step(states[-1], drive)
        return (*after, state), o

    return jax.lax.scan(body, network.initial_state(BATCH), x)[1]


@pytest.mark.parametrize(
    "neuron",
    [
        LIF(),
        AdLIF(tau_mem=15e-3, tau_w=100e-3, b=0.5),
        Leaky(tau_mem=np.linspace(5e-3, 30e-3, 10)),
        LIF(reset="subtractive", reset_grad=True),
        AdaptiveLIF(),
        Refractory(neuron=LIF(), period=6e-3),
    ],
    ids=lambda neuron: type(neuron).__name__,
)
def test_one_layer_without_recurrence_has_the_gradient_of_backpropagation(neuron):
    with enable_x64():
        net, x = network(neuron), inputs()
        (loss, (readout, activity)), found = online(net, x, LABELS)
        expected = kernels(gradients(net, lambda n: cross_entropy(stepwise(n, x, cut=False))))
        for at, gradient in kernels(found).items():
            assert_close(gradient, expected[at], 1e-10)
        assert len(expected) == 4
        assert min(float(jnp.abs(g).max()) for g in expected.values()) > 1e-6
        trace, (spikes, *_) = net(x)
        np.testing.assert_allclose(readout, trace, rtol=1e-10)
        np.testing.assert_allclose(loss, LOSS(trace, LABELS), rtol=1e-10)
        np.testing.assert_array_equal(activity.spikes[0][0], spikes[0].sum(0))
        assert activity.steps == STEPS
        assert spikes[0].mean() > 0.01


@pytest.mark.parametrize(
    ("neurons", "options"),
    [
        ([AdLIF()], {"recurrent": True}),
        ([LIF(), AdLIF()], {"recurrent": True, "feedback": "random"}),
        ([LIF(), Leaky()], {"feedback": "adaptive", "bias": False}),
    ],
    ids=["recurrent", "random", "adaptive"],
)
def test_what_is_left_out_is_what_the_module_says(neurons, options):
    """With these paths cut, autodiff gives the same gradient."""
    with enable_x64():
        net, x = network(*neurons, **options), inputs()
        _, found = online(net, x, LABELS)
        expected = kernels(gradients(net, lambda n: cross_entropy(stepwise(n, x, cut=True))))
        for at, gradient in kernels(found).items():
            assert_close(gradient, expected[at], 1e-10)
        assert len(expected) == sum(len(layer) for layer in found["layers"].values())
        own = [found["feedback_kernels"][k][...] for k in range(len(net.feedback_kernels))]
        if options.get("feedback") == "adaptive":
            assert_close(own[-1], expected[len(neurons), "kernel"], 1e-10)
            assert jnp.abs(own[0]).max() > 0
        else:
            assert not any(jnp.any(b) for b in own)


def test_symmetric_feedback_through_two_layers():
    """The upper hidden layer is exact; for the lower one the direction is close."""
    net, x = network(LIF(), LIF()), inputs()
    found = kernels(online(net, x, LABELS)[1])
    exact = kernels(gradients(net, lambda n: LOSS(n(x).readout, LABELS).mean()))
    for at in ((1, "kernel"), (1, "bias"), (2, "kernel"), (2, "bias")):
        assert_close(found[at], exact[at], 2e-5)
    a, b = found[0, "kernel"].ravel(), exact[0, "kernel"].ravel()
    assert 0.5 < a @ b / jnp.sqrt((a @ a) * (b @ b)) < 1 - 1e-3


def test_targets_of_each_step_and_trials_of_different_length():
    """The gradient of a batch is the mean of those of its trials alone."""
    net, x = network(LIF(spike=superspike(5.0)), bias=False), inputs()
    y = jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, BATCH, CLASSES)), jnp.float32)
    lengths = [60, 25, 41, 7]
    loss = EveryStep(MeanSquare())
    (each, _), found = online(net, x, Timed(target=y, num_steps=jnp.array(lengths)), loss)

    def alone(n):
        trials = [
            MeanSquare()(n(x[:steps, k : k + 1]).readout, y[:steps, k : k + 1])
            for k, steps in enumerate(lengths)
        ]
        return jnp.concatenate(trials)

    np.testing.assert_allclose(each, alone(net), rtol=1e-5)
    expected = kernels(gradients(net, lambda n: alone(n).mean()))
    for at, gradient in kernels(found).items():
        assert_close(gradient, expected[at], 2e-5)


def test_memory_does_not_grow_with_time():
    net = network(LIF(), recurrent=True)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    merged = functools.partial(nnx.merge, graphdef)

    def eprop(params, x):
        return merged(params, rest).gradient(x, LABELS, LOSS)[1]

    def bptt(params, x):
        return jax.grad(lambda p: LOSS(merged(p, rest)(x).readout, LABELS).mean())(params)

    def temporaries(gradient, steps):
        compiled = jax.jit(gradient).lower(params, inputs(steps)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = (temporaries(eprop, steps) for steps in (100, 800))
    assert long == pytest.approx(short, rel=0.01)
    short, long = (temporaries(bptt, steps) for steps in (100, 800))
    assert long > 6 * short


@pytest.mark.parametrize("feedback", ["random", "adaptive"])
def test_trainer_takes_its_gradient(feedback):
    net, x = network(LIF(), bias=False, feedback=feedback), inputs()
    (loss, output), gradient = online(net, x, LABELS)
    trainer = Trainer(net, Objective(LOSS), optax.sgd(0.5), batch_size=BATCH, micro_batch=2)
    state, metrics = trainer.step(trainer.init(), (x, LABELS))
    np.testing.assert_allclose(metrics.loss, loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.rates, [output.activity.spikes[0].mean() / STEPS], rtol=1e-5)
    right = output.readout.mean(0).argmax(-1) == LABELS
    trainer = Trainer(net, Objective(EveryStep()), optax.sgd(0.5), batch_size=BATCH, micro_batch=2)
    state, metrics = trainer.step(trainer.init(), (x, LABELS))
    assert metrics.accuracy == right.mean()
    step = lambda w, g: w - 0.5 * g
    expected = jax.tree.map(step, nnx.state(net, nnx.Param), gradient)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), state.params, expected)
    moved = net.feedback_kernels[0][...] - state.params["feedback_kernels"][0][...]
    kernel = net.layers[1].kernel[...] - state.params["layers"][1]["kernel"][...]
    if feedback == "random":
        assert not moved.any()
    else:
        np.testing.assert_allclose(moved, kernel, atol=1e-7)
        assert kernel.any()


def test_a_member_of_an_ensemble_is_the_network_alone():
    parts = randman(num_classes=2, samples_per_class=12).split((0.5, 0.25, 0.25), seed=0)
    splits = Splits(*(DeviceEvents.from_dataset(part, dt=2e-3) for part in parts))

    def member(hyper):
        rngs = nnx.Rngs(jax.random.key(hyper["seed"]))
        hidden = SpikingDense(20, 8, init=INIT, rngs=rngs)
        return EProp(hidden, Readout(8, 2, rngs=rngs), feedback="random", rngs=rngs)

    program = Program(
        network=member,
        objective=lambda _: Objective(EveryStep()),
        optimizer=lambda _: optax.adam(0.01),
        batch_size=6,
    )
    options = {"epochs": 2, "dt": 2e-3, "placement": "vmap"}
    both, one = (
        fit_ensemble(program, {"seed": np.array(seeds)}, splits, **options)
        for seeds in ([0, 1], [1])
    )
    jax.tree.map(lambda a, b: assert_close(a[1], b[0], 1e-5), both.final, one.final)
    assert (both.history["train_loss"][1] != both.history["train_loss"][0]).all()
    start = nnx.state(member({"seed": 1}), nnx.Param)
    drawn, kept = start["feedback_kernels"][0][...], one.final["feedback_kernels"][0][...]
    assert_close(kept[0], drawn, 1e-6)  # compiled programs round differently


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting(Neuron):
    """Its state has a whole number."""

    dt: float = 2e-3
    theta: float = 1.0

    def initial_state(self, shape, dtype=jnp.float32):
        return jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32)

    def step(self, state, drive):
        return (0.9 * state[0] + drive, state[1] + 1), superspike(20.0)(state[0] - self.theta)


def dense(units=10, init=INIT, **options):
    return SpikingDense(INPUTS, units, init=init, rngs=nnx.Rngs(0), **options)


def readout(units=10, **options):
    return Readout(units, CLASSES, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: EProp(dense(delays=Delays(max_delay=0.02)), readout()),
            r"layers\[0\] \(SpikingDense\) must have no trained parameters but .* got delay$",
        ),
        (
            lambda: EProp(dense(norm=BatchNorm()), readout()),
            r"layers\[0\] \(SpikingDense\) must have no trained parameters but .* got norm",
        ),
        (
            lambda: EProp(dense(trainable=("tau_mem", "theta")), readout()),
            r"got free.theta, log_tau.tau_mem$",
        ),
        (
            lambda: EProp(
                DalianDense(INPUTS, 10, init=DalianFluctuationDriven(nu=9.0), rngs=nnx.Rngs(0)),
                readout(),
            ),
            r"layers\[0\] \(DalianDense\) must be a SpikingDense",
        ),
        (
            lambda: EProp(
                SpikingConv1d(1, 10, kernel_size=5, init=INIT, rngs=nnx.Rngs(0)),
                Flatten(),
                readout(),
            ),
            r"layers\[0\] \(SpikingConv1d\) must be a SpikingDense",
        ),
        (
            lambda: EProp(dense(), Dropout(0.1), readout()),
            r"layers\[1\] \(Dropout\) must be a SpikingDense",
        ),
        (
            lambda: EProp(dense(neuron=Counting(), init=kaiming_normal()), readout()),
            r"layers\[0\] \(SpikingDense\) must have neurons .* got float32, int32$",
        ),
        (lambda: EProp(dense()), r"layers\[0\] \(SpikingDense\) must be a Readout"),
        (lambda: EProp(readout()), "layers must hold a SpikingDense and a Readout, got one layer"),
        (
            lambda: EProp(dense(), readout(neuron=LeakyIntegrator(tau_mem=np.full(3, 0.1)))),
            "must have the same time constants for all outputs",
        ),
        (lambda: EProp(dense(), readout(), feedback="none"), "feedback must be"),
        (
            lambda: Trainer(
                EProp(dense(), readout()),
                Objective(LOSS, [upper_bound(0.1, 2.0)]),
                optax.sgd(0.1),
                batch_size=2,
            ),
            "regularizers must be empty for e-prop",
        ),
        (
            lambda: EProp(dense(), readout()).gradient(jnp.zeros((5, 4, 3)), LABELS, LOSS),
            "x must have",
        ),
    ],
)
def test_bad_values(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EProp(dense(), readout(), feedback="random"), "rngs must be a flax.nnx.Rngs"),
        (
            lambda: Trainer(EProp(dense(), readout()), Objective(), optax.sgd(0.1), batch_size=2),
            "loss must be a mean over steps for e-prop, such as EveryStep",
        ),
        (
            lambda: EProp(dense(), readout()).gradient(inputs(), LABELS, CrossEntropy()),
            "loss must be a mean over steps for e-prop",
        ),
    ],
)
def test_bad_types(make, match):
    with pytest.raises(TypeError, match=match):
        make()
