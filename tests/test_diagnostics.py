import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import forward, spikes
from flax import nnx

from snnjax import losses
from snnjax.calibration import GradientTarget, Target, calibrate, calibrate_gradient
from snnjax.datasets._batches import Batch
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF, simulate
from snnjax.initializers import kaiming_normal
from snnjax.nn import (
    Flatten,
    FluctuationDriven,
    Pool,
    Readout,
    Reshape,
    SameForAll,
    Sequential,
    SpikingConv1d,
    SpikingDense,
)
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training._objective import Objective, Problem

pytestmark = pytest.mark.more

N, NU, DT = 100, 10.0, 2e-3
LABELS = jnp.arange(8) % 4


@pytest.fixture(scope="module")
def x():
    return spikes(0, (350, 8, N), rate=NU)


def network(init, depth=3, recurrent=False, seed=0):
    rngs = nnx.Rngs(seed)
    hidden = [SpikingDense(N, N, init=init, recurrent=recurrent, rngs=rngs) for _ in range(depth)]
    return Sequential(*hidden, Readout(N, 4, rngs=rngs))


@pytest.mark.parametrize("recurrent", [False, True])
def test_numbers_equal_a_second_computation(x, recurrent):
    net = network(FluctuationDriven(nu=NU), recurrent=recurrent)
    report = probe(net, x, LABELS, optimizer=optax.sgd(0.1))
    _, activity = net(x)
    below = x
    for layer, p, z in zip(net.layers, report.layers, activity.spikes, strict=False):
        rate = np.asarray(z).sum(axis=0).mean(axis=0) / (350 * DT)
        np.testing.assert_allclose(p.rate, rate.mean(), rtol=1e-4)
        np.testing.assert_allclose(p.rates, np.percentile(rate, [5, 50, 95]), rtol=1e-4, atol=1e-4)
        assert p.silent == pytest.approx((rate == 0).mean())
        assert p.saturated == pytest.approx((rate > 100).mean())
        drive = below @ layer.kernel[...] + (z @ layer.recurrent_kernel[...] if recurrent else 0)
        u = np.asarray(simulate(LIF(theta=1e30), drive, membrane=True).membrane)
        np.testing.assert_allclose(
            [p.mu_u, p.sigma_u], [u.mean(), np.sqrt(u.var(axis=0).mean())], rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(p.xi, (1 - p.mu_u) / p.sigma_u, rtol=1e-5)
        np.testing.assert_allclose(p.spread, u.mean(axis=(0, 1)).std(), rtol=1e-3)
        below = z


def test_prediction_is_right_on_poisson_input(x):
    report = probe(network(FluctuationDriven(nu=NU), depth=1), x, LABELS)
    (layer,) = report.layers
    assert layer.input_rate == pytest.approx(NU, rel=0.02)
    np.testing.assert_allclose(layer.predicted_sigma_u, 1.0, rtol=0.05)
    np.testing.assert_allclose(layer.sigma_u, layer.predicted_sigma_u, rtol=0.05)


def test_gradients_and_updates(x):
    net = network(FluctuationDriven(nu=NU), depth=2)
    bound = upper_bound(0.5, 2.0)
    report = probe(net, x, LABELS, Objective(regularizers=[bound]), optimizer=optax.sgd(0.1))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def objective(p):
        readout, activity = nnx.merge(graphdef, p, rest)(x)
        return losses.CrossEntropy()(readout, LABELS).mean() + sum(
            bound(z) for z in activity.spikes
        )

    grads = jax.jit(jax.grad(objective))(params)
    for k, p in enumerate(report.layers):
        expected = np.abs(np.asarray(grads["layers"][k]["kernel"][...])).mean()
        np.testing.assert_allclose([p.grad_w, p.update], [expected, 0.1 * expected], rtol=1e-4)
    readout = np.abs(np.asarray(grads["layers"][2]["kernel"][...])).mean()
    np.testing.assert_allclose(
        [report.readout_grad_w, report.readout_update], [readout, 0.1 * readout], rtol=1e-4
    )

    # dL/dz of the last layer: the effect of a small change of its spikes on the loss, through the
    # readout and the bound
    def of_spikes(z):
        return losses.CrossEntropy()(net.layers[-1](z).output, LABELS).mean() + bound(z)

    z = forward(net, x)[1].spikes[-1]
    grad_z = np.abs(np.asarray(jax.jit(jax.grad(of_spikes))(z))).mean()
    np.testing.assert_allclose(report.layers[-1].grad_z, grad_z, rtol=1e-4)


def test_gradient_columns_equal_a_second_computation(x):
    net = network(FluctuationDriven(nu=NU), depth=2)
    bounds = [upper_bound(0.5, 2.0), lower_bound(3.0, 2.0)]
    report = probe(net, x, LABELS, Objective(regularizers=bounds), optimizer=optax.sgd(0.1))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def outputs(p):
        return nnx.merge(graphdef, p, rest)(x)

    def centred(p, which):  # mean(y) - y instead of the gradient with respect to the logits
        wanted = jax.nn.one_hot(LABELS[which], 4)
        return (losses.max_over_time(outputs(p)[0])[which] * (wanted.mean(axis=0) - wanted)).sum()

    def kernels(f):
        gradient = jax.jit(jax.grad(f))(params)["layers"]
        return [np.asarray(gradient[k]["kernel"][...], np.float64) for k in range(2)]

    rms = lambda a: np.sqrt(np.square(a).mean())
    loss = kernels(lambda p: losses.CrossEntropy()(outputs(p)[0], LABELS).mean())
    penalties = [kernels(lambda p, b=b: sum(b(z) for z in outputs(p)[1].spikes)) for b in bounds]
    a, b = (kernels(lambda p, h=h: centred(p, h)) for h in (slice(0, 4), slice(4, 8)))
    for k, p in enumerate(report.layers):
        np.testing.assert_allclose(
            p.bounds, [rms(penalty[k]) / rms(loss[k]) for penalty in penalties], rtol=1e-3
        )
        np.testing.assert_allclose(
            p.agreement,
            (a[k] * b[k]).sum() / np.sqrt((a[k] ** 2).sum() * (b[k] ** 2).sum()),
            atol=1e-3,
        )
        total = loss[k] + sum(penalty[k] for penalty in penalties)
        np.testing.assert_allclose(
            p.step, 0.1 * rms(total) / rms(np.asarray(net.layers[k].kernel[...])), rtol=1e-3
        )
    _, found = calibrate_gradient(net, x, LABELS, target=GradientTarget(logit_spread=None))
    np.testing.assert_allclose(report.layers[1].gain, found[1].before, rtol=0.02)
    assert np.isnan(report.layers[0].gain)


def test_limited_bounds_count_as_training_limits_them(x):
    net = network(FluctuationDriven(nu=NU), depth=3)
    found = {}
    for share in (None, 0.5):
        bound = upper_bound(1e4, 0.0, share=share)
        report = probe(net, x, LABELS, Objective(regularizers=[bound]), optimizer=optax.sgd(0.1))
        both = [
            Problem.from_objective(net, Objective(regularizers=bounds)) for bounds in ([bound], [])
        ]
        batch = Batch(x=x, y=LABELS), jnp.arange(len(LABELS))
        grads = [
            jax.jit(jax.grad(lambda p, o=o, batch=batch: o.value(p, *batch)[0]))(params)
            for o, params in both
        ]
        rms = lambda a: np.sqrt(np.square(a).mean())
        for k, layer in enumerate(report.layers):
            total, loss = (np.asarray(g["layers"][k]["kernel"][...], np.float64) for g in grads)
            np.testing.assert_allclose(layer.bounds, [rms(total - loss) / rms(loss)], rtol=1e-3)
            np.testing.assert_allclose(
                layer.step, 0.1 * rms(total) / rms(np.asarray(net.layers[k].kernel[...])), rtol=1e-3
            )
        found[share] = report.layers[2].bounds[0]
    assert found[None] > 100 * found[0.5]


def test_several_bounds_some_limited_in_a_skip_network_update_as_training_does(x):
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=NU)
    hidden = [SpikingDense(N, N, init=init, rngs=rngs) for _ in range(3)]
    net = Sequential(*hidden, Readout(3 * N, 4, rngs=rngs), skip=True)
    bounds = [
        lower_bound(100.0, 5.0, share=0.3),
        lambda z: 1e-3 * jnp.square(z).mean(),
        upper_bound(1e3, 0.1, share=1.0),
    ]
    objective = Objective(regularizers=bounds)
    report = probe(net, x, LABELS, objective, optimizer=optax.sgd(0.1))
    problem, params = Problem.from_objective(net, objective)
    batch = Batch(x=x, y=LABELS), jnp.arange(len(LABELS))
    grads = jax.jit(jax.grad(lambda p: problem.value(p, *batch)[0]))(params)
    mean = lambda tree: np.abs(np.asarray(tree["kernel"][...])).mean()
    found = [p.grad_w for p in report.layers]
    np.testing.assert_allclose(found, [mean(grads["layers"][k]) for k in range(3)], rtol=1e-3)


def test_memory_falls_from_layer_to_layer_and_is_whole_where_nothing_is_lost(x):
    report = probe(network(FluctuationDriven(nu=NU), depth=3), x, LABELS)
    memory = [p.memory for p in report.layers]
    assert 0.8 < memory[0] < 1
    assert memory[0] > memory[1] > memory[2] > 0
    once = (
        jnp.zeros_like(x).at[0, :, 0].set(1.0)
    )  # with the key of the probe, no spike of this input is dropped
    strong = network(FluctuationDriven(nu=NU), depth=1)
    strong.layers[0].kernel[...] = 40 * jnp.abs(strong.layers[0].kernel[...])
    alone = probe(strong, once * (1 + jnp.arange(8.0)[:, None]), LABELS).layers[0]
    assert alone.memory == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"gain": 0.3},
            "it multiplies the gradient by 0.3 on the way down; calibrate the gradient, or take a wider surrogate",
        ),
        ({"gain": 4.0}, "or take a steeper surrogate"),
        (
            {"agreement": 0.01},
            "its gradient is noise (agreement 0.01 between the halves of the batch, 0.50 elsewhere)",
        ),
        (
            {"bounds": (0.1, 30.0)},
            "a bound's gradient is 30 times the loss's; limit it by a share, or lower its share or its strength",
        ),
        (
            {"step": 0.04},
            "the first update moves its weights by 4 %; a learning rate 0.2 times as large would move them by 1 %",
        ),
    ],
)
def test_findings_on_the_gradient(x, changes, words):
    report = probe(network(FluctuationDriven(nu=NU), depth=2), x, LABELS)
    healthy = [p._replace(gain=1.0, agreement=0.5, bounds=(), step=0.005) for p in report.layers]
    assert report._replace(layers=tuple(healthy)).findings() == ["every layer is healthy"]
    (line,) = report._replace(layers=(healthy[0], healthy[1]._replace(**changes))).findings()
    assert line.startswith("layer 2: ")
    assert words in line


def test_a_silent_layer_divides_the_gradient_by_about_a_hundred_and_gives_no_weight_update_above(x):
    report = probe(network(SameForAll(kaiming_normal()), depth=4), x, LABELS)
    assert [p.silent for p in report.layers] == [1.0] * 4
    shrink = [
        above.grad_z / below.grad_z
        for below, above in zip(report.layers[:-1], report.layers[1:], strict=True)
    ]
    assert all(30 < s < 300 for s in shrink)
    assert all(p.grad_w == 0 for p in report.layers[1:])
    lines = report.findings()
    assert "layer 1: 100 % of the neurons never spike" in lines[0]
    assert [line.split(":")[0] for line in lines] == ["layer 1", "layer 2", "layer 3", "layer 4"]
    assert "its inputs are silent" in lines[1]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        (FluctuationDriven(nu=NU, sigma_u=10.0), "fire above 100 Hz"),
        (FluctuationDriven(nu=100.0, sigma_u=1.0), "never spike"),
    ],
)
def test_findings_say_what_is_wrong(x, init, words):
    assert words in probe(network(init, depth=1), x, LABELS).findings()[0]


def test_input_that_is_not_poisson_is_named():
    burst = (
        spikes(0, (350, 8, N), rate=15 * NU).at[24:].set(0.0)
    )  # all spikes in the first fifteenth
    net = network(FluctuationDriven(nu=NU), depth=1)
    assert (
        "times what the formula predicts for Poisson input; calibrate on data"
        in probe(net, burst, LABELS).findings()[0]
    )


def test_what_was_calibrated_is_healthy_whatever_its_input():
    burst = spikes(0, (350, 8, N), rate=6 * NU).at[60:].set(0.0)
    net, _ = calibrate(
        network(FluctuationDriven(nu=NU), depth=2),
        burst,
        key=jax.random.key(0),
        target=Target(balance=True),
    )
    assert probe(net, burst, LABELS).findings() == ["every layer is healthy"]


def test_findings_name_the_cause(x):
    net = network(FluctuationDriven(nu=NU), depth=1)
    assert probe(net, jnp.zeros_like(x), LABELS).findings() == [
        "layer 1: the network's input is silent; look at the data"
    ]
    below = nnx.clone(net)
    below.layers[0].kernel[...] -= 0.5
    assert "bring the weights' mean to 0" in probe(below, x, LABELS).findings()[0]
    broken = nnx.clone(net)
    broken.layers[0].kernel[...] = broken.layers[0].kernel[...].at[0, 0].set(jnp.nan)
    assert "not finite" in probe(broken, x, LABELS).findings()[0]


def test_loss_is_the_one_that_is_trained_on(x):
    net = network(FluctuationDriven(nu=NU), depth=1)
    report = probe(net, x, LABELS, Objective(losses.MeanSquare(losses.sum_over_time)))
    np.testing.assert_allclose(
        report.loss, losses.MeanSquare()(net(x)[0], LABELS).mean(), rtol=1e-5
    )


def test_errors(x):
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=NU)
    hidden = SpikingDense(N, 8, init=init, rngs=rngs)
    for layers, match in (
        ((hidden,), "network must end in a readout, got SpikingDense"),
        ((hidden, Flatten()), "network must end in a readout, got Flatten"),
        ((Readout(N, 4, rngs=rngs),), "network must have a spiking layer, got none"),
    ):
        with pytest.raises(ValueError, match=match):
            probe(Sequential(*layers), x, LABELS)
    with pytest.raises(
        ValueError, match=r"labels must be in \[0, 4\), one class per output of the readout, got 7"
    ):
        probe(network(init, depth=1), x, list(range(8)))


def test_calibrated_with_balance_is_healthy(x):
    net, _ = calibrate(
        network(SameForAll(kaiming_normal()), depth=4),
        x,
        key=jax.random.key(0),
        target=Target(balance=True),
    )
    assert probe(net, x, LABELS).findings() == ["every layer is healthy"]


def test_text_has_a_row_a_layer_and_nothing_is_cut(x):
    report = probe(network(FluctuationDriven(nu=NU)), x, LABELS)
    text = str(report)
    assert report.table().row_count == 3
    assert report.gradient_table().row_count == 4  # including the readout
    assert "…" not in text
    for p in report.layers:
        assert f"{p.rate:.1f}" in text
        assert f"{p.grad_w:.1e}" in text


def test_text_is_narrow_findings_come_first_and_a_notebook_shows_the_same_numbers(x):
    from html.parser import HTMLParser

    report = probe(
        network(SameForAll(kaiming_normal()), depth=12),
        x,
        LABELS,
        Objective(regularizers=[upper_bound(1e3, 0.1), lower_bound(1e-6, 1.0)]),
    )
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 79
    assert " ".join(line.strip() for line in lines).startswith(" ".join(report.findings()))
    cells = []
    parser = HTMLParser()
    parser.handle_data = cells.append  # ty: ignore
    parser.feed(report._repr_html_())
    shown = {
        *report.findings(),
        *(
            c
            for t in (report.table(), report.gradient_table())
            for row in (t.columns, *t.rows)
            for c in row
            if c
        ),
    }
    assert shown <= set(cells)


def test_under_jit_and_vmap_as_alone(x):
    nets = [network(FluctuationDriven(nu=NU), depth=2, seed=s) for s in range(2)]
    graphdef, _, rest = nnx.split(nets[0], nnx.Param, ...)
    params = jax.tree.map(lambda *a: jnp.stack(a), *(nnx.state(n, nnx.Param) for n in nets))
    both = jax.jit(jax.vmap(lambda p: probe(nnx.merge(graphdef, p, rest), x, LABELS)))(params)
    for k, net in enumerate(nets):
        alone = probe(net, x, LABELS)
        for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=2e-3, atol=1e-6)


@pytest.mark.slow
def test_convolutions_with_layers_between_them_equal_a_second_computation(x):
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=NU, sigma_u=1.5)
    net = Sequential(
        Reshape(N, 1), SpikingConv1d(1, 8, kernel_size=7, stride=2, recurrent_kernel_size=3, init=init, rngs=rngs), Pool(2), Flatten(),
        SpikingDense(184, 20, init=init, rngs=rngs), Readout(20, 4, rngs=rngs),
    )  # fmt: skip
    report = probe(net, x, LABELS, optimizer=optax.sgd(0.1))
    conv, dense = net.layers[1], net.layers[4]
    image = x[..., None]
    z = conv(image).output
    u = simulate(
        LIF(theta=1e30),
        conv.map.project(image, conv.kernel[...])
        + conv.recurrent_map.recurrence(z, conv.recurrent_kernel[...]),
        membrane=True,
    ).membrane
    pooled = np.asarray(z)[:, :, :46].reshape(350, 8, 23, 2, 8).max(axis=3).reshape(350, 8, 184)
    first, second = report.layers
    np.testing.assert_allclose(first.sigma_u, np.sqrt(u.var(axis=0).mean()), rtol=1e-3)
    np.testing.assert_allclose(first.rate, z.mean() / DT, rtol=1e-4)
    ehat = LIF(dt=DT).kernel.power()
    powers = [(7, conv.kernel[...], image), (24, conv.recurrent_kernel[...], z)]
    predicted = sum(
        n * float(jnp.square(w).mean()) * float(s.mean()) / DT * ehat for n, w, s in powers
    )
    np.testing.assert_allclose(first.predicted_sigma_u, np.sqrt(predicted), rtol=1e-3)
    np.testing.assert_allclose(second.input_rate, pooled.mean() / DT, rtol=1e-4)
    np.testing.assert_allclose(
        second.rate, dense(jnp.asarray(pooled)).output.mean() / DT, rtol=1e-4
    )

    @nnx.jit
    @nnx.grad
    def gradient(net):
        return losses.CrossEntropy()(net(x)[0], LABELS).mean()

    grads = gradient(net)
    both = jnp.concatenate(
        [grads.layers[1][name][...].ravel() for name in ("kernel", "recurrent_kernel")]
    )
    np.testing.assert_allclose(first.grad_w, jnp.abs(both).mean(), rtol=1e-3)
    np.testing.assert_allclose(first.update, 0.1 * first.grad_w, rtol=1e-3)
    np.testing.assert_allclose(
        report.readout_grad_w, jnp.abs(grads.layers[5].kernel[...]).mean(), rtol=1e-3
    )


def test_both_populations_of_a_dalian_layer(x):
    from snnjax.models import dense
    from snnjax.nn import DalianFluctuationDriven

    net = dense(
        N,
        4,
        hidden=(40,),
        ei_ratio=4.0,
        recurrent=True,
        init=DalianFluctuationDriven(nu=NU),
        rngs=nnx.Rngs(0),
    )
    report = probe(net, x, LABELS)
    (z,) = net(x)[1].spikes
    rates = np.asarray(z.mean(axis=(0, 1))) / DT
    np.testing.assert_allclose(report.layers[0].populations["exc"], rates[:40].mean(), rtol=1e-4)
    np.testing.assert_allclose(report.layers[0].populations["inh"], rates[40:].mean(), rtol=1e-4)
    assert re.search(rf"{rates[:40].mean():.1f} +{rates[40:].mean():.1f}", str(report))
    assert re.search("exc Hz +inh Hz", str(report))
    plain = probe(network(FluctuationDriven(nu=NU)), x, LABELS)
    assert plain.layers[0].populations.keys() == {"all"}
    assert "exc Hz" not in str(plain)


def test_penalties_and_losses_of_ones_own(x):
    """A function as regularizer, several labels per sample, an optimizer that needs the loss."""
    net = network(FluctuationDriven(nu=NU), depth=1)
    labels = jnp.stack([LABELS % 2, LABELS // 2, LABELS % 2, LABELS // 2], axis=1)
    loss = losses.SigmoidCrossEntropy(losses.mean_over_time)
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    objective = Objective(loss, [lambda z: 3.0 * jnp.square(z).mean()])
    report = probe(net, x, labels, objective, optimizer=plateau)
    assert report.accuracy is None
    assert f"\nloss {report.loss:.3f}\n" in str(report)
    np.testing.assert_allclose(report.loss, loss(net(x)[0], labels).mean(), rtol=1e-5)

    def objective(net):
        readout, activity = net(x)
        return loss(readout, labels).mean() + 3.0 * jnp.square(activity.spikes[0]).mean()

    gradient = nnx.jit(nnx.grad(objective))(net)
    expected = np.abs(np.asarray(gradient.layers[0].kernel[...])).mean()
    np.testing.assert_allclose(
        [report.layers[0].grad_w, report.layers[0].update], [expected, 0.1 * expected], rtol=1e-4
    )


class Own(nnx.Module):
    def __call__(self, x):
        return x


def test_what_cannot_be_looked_at_is_named(x):
    net = network(FluctuationDriven(nu=NU), depth=1)
    with pytest.raises(
        TypeError, match=r"network must be a snnjax\.nn\.Sequential, .*, got Own; put the layers"
    ):
        probe(Own(), x, LABELS)
    with pytest.raises(
        TypeError, match=r"optimizer must be an optax transformation .*, got str 'adam'"
    ):
        probe(net, x, LABELS, optimizer="adam")
    with pytest.raises(TypeError, match="labels must be the targets of the batch, got None"):
        probe(net, x, None)
    with pytest.raises(ValueError, match=r"labels must have shape \(350,\).*arrays are time-major"):
        probe(net, jnp.moveaxis(x, 0, 1), LABELS)
