"""User-defined layers: one with its own linear map, and one derived directly from `Layer`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import assert_close, require, spikes
from flax import nnx

from snnjax.calibration import (
    GradientTarget,
    Target,
    calibrate,
    calibrate_layer,
    free_membrane,
    scale_to_rate,
)
from snnjax.datasets import DeviceArrays, Splits
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF
from snnjax.nn import DenseMap, FluctuationDriven, Layer, LinearMap, Readout, Sequential, Spiking
from snnjax.training import Objective, fit

N, T, B, DT = 60, 200, 12, 2e-3


@dataclasses.dataclass(frozen=True)
class Ring(LinearMap):
    """Each neuron receives the inputs at a distance of at most `reach` on a ring."""

    reach: int = 3

    def near(self):
        apart = np.abs(np.subtract.outer(np.arange(self.in_features), np.arange(self.in_features)))
        return np.minimum(apart, self.in_features - apart) <= self.reach

    def project(self, x, kernel):
        return x @ jnp.where(self.near(), kernel, 0)


class RingLayer(Spiking):
    """Recurrent neurons on a ring; the layer above gets every second one."""

    def __init__(self, n, *, reach, rngs, neuron=None):
        init = FluctuationDriven(nu=50.0)
        super().__init__(
            Ring(n, n, reach), recurrent=Ring(n, n, 1), init=init, neuron=neuron, rngs=rngs
        )

    def emit(self, z):
        return 2.0 * z[..., ::2]

    def populations(self):
        return {"even": slice(0, None, 2), "odd": slice(1, None, 2)}

    def feature_shape(self, features):
        return (super().feature_shape(features)[0] // 2,)


def network(seed=0):
    rngs = nnx.Rngs(seed)
    second = Spiking(DenseMap(N // 2, 50), init=FluctuationDriven(nu=10.0), rngs=rngs)
    return Sequential(RingLayer(N, reach=8, rngs=rngs), second, Readout(50, 3, rngs=rngs))


@pytest.fixture(scope="module")
def x():
    rate = 20.0 * (1 + (np.arange(N) % 3 == np.arange(B)[:, None] % 3))
    return spikes(0, (T, B, N), rate=rate)


LABELS = jnp.arange(B) % 3


@pytest.mark.more
def test_is_calibrated_in_both_directions_probed_and_trained(x):
    given = network()
    calibrated, reports = calibrate(given, x, LABELS, key=jax.random.key(0))
    layer, second, _ = calibrated.layers
    z = layer(x).output
    # written out: masked products, and the output of every second neuron, twice as large
    near, own = layer.map.near(), layer.recurrent_map.near()
    drive = x @ (near * layer.kernel[...]) + z @ (own * layer.recurrent_kernel[...])
    u = free_membrane(LIF(), drive)
    sigma_u = np.sqrt(u.var(axis=0).mean())
    np.testing.assert_allclose(reports[0].sigma_u, sigma_u, rtol=1e-3)
    np.testing.assert_allclose(sigma_u, 1.0, rtol=0.1)  # 17 weights of 60 neurons
    above = free_membrane(LIF(), 2.0 * z[..., ::2] @ second.kernel[...])
    np.testing.assert_allclose(np.sqrt(above.var(axis=0).mean()), reports[1].sigma_u, rtol=1e-3)
    np.testing.assert_allclose(reports[1].gradient.gain, 1.0, atol=0.1)

    report = probe(calibrated, x, LABELS)
    first = report.layers[0]
    np.testing.assert_allclose(first.sigma_u, sigma_u, rtol=1e-3)
    rate = np.asarray(z).mean(axis=(0, 1)) / DT
    np.testing.assert_allclose(
        list(first.populations.values()), [rate[::2].mean(), rate[1::2].mean()], rtol=1e-4
    )
    np.testing.assert_allclose(
        report.layers[1].input_rate, 2 * first.populations["even"], rtol=1e-4
    )
    assert "even Hz" in str(report)
    assert report.findings()

    data = DeviceArrays(x=jnp.moveaxis(x, 1, 0), labels=LABELS)
    history = fit(
        calibrated,
        Splits(data),
        Objective(),
        optax.adam(1e-2),
        epochs=15,
        batch_size=B,
        key=jax.random.key(0),
        dt=DT,
    ).history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_formula_counts_the_weights_that_a_map_uses(recurrent):
    """17 of 60 inputs: the membrane is on target for Poisson input, without calibration."""
    own = Ring(N, N, 4) if recurrent else None
    init = FluctuationDriven(nu=20.0, sigma_u=1.0, alpha=0.5)
    layer = Spiking(Ring(N, N, 8), recurrent=own, init=init, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer.map.connected, layer.map.near())
    drive = layer.drive(spikes(1, (1000, 40, N), rate=20.0))
    variance = float(free_membrane(layer.neuron, drive).var(axis=0).mean())
    # 60 neurons x 17 weights: their sample variance scatters by 4 %
    np.testing.assert_allclose(variance, 0.5 if recurrent else 1.0, rtol=0.1)


def test_balance_is_over_the_weights_that_a_map_uses(x):
    layer = Spiking(Ring(N, N, 8), init=FluctuationDriven(nu=20.0), rngs=nnx.Rngs(0))
    given = Sequential(layer, Readout(N, 3, rngs=nnx.Rngs(1)))
    found, (report,) = calibrate(
        given, x, key=jax.random.key(2), target=Target(balance=True), gradient=None
    )
    kernel = np.asarray(found.layers[0].kernel[...])
    used = np.where(layer.map.near(), kernel, 0)
    np.testing.assert_allclose(used.sum(axis=0), 0, atol=1e-5 * np.abs(used).sum(axis=0).max())
    np.testing.assert_allclose(float(report.sigma_u), 1.0, rtol=0.03)
    np.testing.assert_allclose(used[used != 0].std(), float(report.sigma_w[0]), rtol=1e-3)


def test_maps_that_scale_weights_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Twice(LinearMap):
        def project(self, x, kernel):
            return 2 * x @ kernel

    with pytest.raises(ValueError, match=r"project must use each weight .* multiplied by 2 in"):
        Spiking(Twice(5, 4), init=FluctuationDriven(nu=20.0), rngs=nnx.Rngs(0))


def test_is_scaled_to_a_rate(x):
    scaled, reports = scale_to_rate(network(), x, rate=15.0, steps=10)
    np.testing.assert_allclose(float(scaled(x).activity.spikes[0].mean()) / DT, 15.0, rtol=0.05)
    assert reports.findings() == ["every layer is on target"]
    shown = f"<RateReports of {len(reports)} layers: every layer is on target; print it for"
    assert repr(reports) == f"{shown} the numbers>"


def test_is_written_by_a_writer_of_its_own(x):
    require("nir")
    from snnjax.exchange import from_nir, nir_writer, to_nir

    class Written(Spiking):
        pass

    rngs = nnx.Rngs(0)
    hidden = Written(
        Ring(N, N, 8), recurrent=Ring(N, N, 1), init=FluctuationDriven(nu=30.0), rngs=rngs
    )
    given = Sequential(hidden, Readout(N, 3, rngs=rngs))
    with pytest.raises(
        ValueError,
        match=r"layers\[0\] \(Written\) cannot be written as NIR: NIR has no such layer.*nir_writer",
    ):
        to_nir(given)

    @nir_writer(Written)
    def write(writer, layer):
        kernel, own = writer.kernel(layer.kernel), writer.kernel(layer.recurrent_kernel)
        own = writer.linear(np.where(layer.recurrent_map.near(), own, 0))
        writer.neurons(layer, writer.linear(np.where(layer.map.near(), kernel, 0)), own)

    back = from_nir(to_nir(given))
    np.testing.assert_array_equal(back(x).activity.spikes[0], given(x).activity.spikes[0])
    assert_close(back(x).readout, given(x).readout, 1e-6)


# --- a layer derived directly from `Layer`


class Depressing(Layer):
    """Synapses with depression.

    r recovers with `tau`, and loses the fraction `use` with each spike. Each spike is passed on
    with the size r.
    """

    def __init__(self, tau, use, *, dt=DT):
        self.keep, self.use, self.step_size = float(np.exp(-dt / tau)), use, dt

    @property
    def dt(self):
        return self.step_size

    def initial_state(self, batch_size, features=()):
        return jnp.ones((batch_size, *features))

    def step(self, state, x):
        return 1 + self.keep * (state * (1 - self.use * x) - 1), state * x


def test_a_layer_with_a_state_runs_over_time_and_step_by_step(x):
    rngs = nnx.Rngs(0)
    hidden = Spiking(DenseMap(N, 20), init=FluctuationDriven(nu=30.0), rngs=rngs)
    net = Sequential(Depressing(0.1, 0.3), hidden, Readout(20, 3, rngs=rngs))
    x = jnp.minimum(x, 1)
    r, passed = np.ones((B, N)), []
    for x_t in np.asarray(x):
        passed.append(r * x_t)
        r = 1 + np.exp(-DT / 0.1) * (r * (1 - 0.3 * x_t) - 1)
    assert_close(net.layers[0](x).output, np.stack(passed), 1e-5)
    final, (readout, _) = net.run(x)
    assert_close(final[0], r, 1e-5)
    state, step = net.initial_state(B, features=(N,)), jax.jit(net.step)
    for x_t in x:
        state, (out, _) = step(state, x_t)
    assert_close(out, readout[-1], 1e-4)
    # the layer above is calibrated for its real input
    calibrated, (report,) = calibrate(net, x, key=jax.random.key(0), gradient=None)
    u = free_membrane(
        LIF(), jnp.asarray(np.stack(passed), jnp.float32) @ calibrated.layers[1].kernel[...]
    )
    np.testing.assert_allclose(report.sigma_u, np.sqrt(u.var(axis=0).mean()), rtol=1e-3)
    with pytest.raises(ValueError, match="membrane=True needs a layer of neurons, got Depressing"):
        net.layers[0](x, membrane=True)
    with pytest.raises(
        ValueError, match=r"all layers must have the same time step, got dt = \[0\.001, 0\.002\]"
    ):
        Sequential(Depressing(0.1, 0.3, dt=1e-3), hidden)


class Thresholds(Layer):
    """Spikes if the input is above a threshold."""

    spiking = True

    def __init__(self):
        self.theta = nnx.Param(jnp.array(0.5))

    def step(self, state, x):
        return state, (x > self.theta[...]).astype(x.dtype)


def test_a_spiking_layer_without_known_connections_is_told_what_to_do_and_can_register(x):
    net = Sequential(Thresholds(), Readout(N, 3, rngs=nnx.Rngs(0)))
    needs = "derive it from snnjax.nn.Spiking, or register a function for it with snnjax.calibration.calibrate_layer.register"
    with pytest.raises(TypeError, match=rf"got Thresholds; {needs}\(Thresholds\)"):
        calibrate(net, x)
    report = probe(net, x, LABELS)
    (row,) = report.layers
    np.testing.assert_allclose(row.rate, float(net(x).activity.spikes[0].mean()) / DT, rtol=1e-5)
    assert row.mu_u is None
    assert row.grad_w == 0.0  # a comparison has no derivative
    assert report.table().rows[0][-5:] == ("",) * 5
    assert report.findings() == [
        "layer 1: its gradient is 0; give its spikes a surrogate derivative (snnjax.surrogate)"
    ]
    quiet = probe(net, 0 * x, LABELS).findings()
    assert quiet == [
        "layer 1: 100 % of the neurons never spike; increase its weights, or lower its threshold"
    ]
    with pytest.raises(
        TypeError, match=r"layers must be derived from snnjax.nn.Synaptic to be scaled to a rate"
    ):
        scale_to_rate(net, x, rate=10.0)

    for wrong, got in (((1.0, x), "float, ArrayImpl"), (x, "ArrayImpl"), (None, "NoneType")):
        calibrate_layer.register(Thresholds, lambda *_, wrong=wrong: wrong)
        with pytest.raises(
            TypeError,
            match=rf"calibrate_layer for Thresholds must return \(report, output, reason\).* {got}",
        ):
            calibrate(net, x)

    @calibrate_layer.register
    def _(layer: Thresholds, x, key, target):
        layer.theta[...] = jnp.asarray(target.sigma_u)
        hidden = Spiking(DenseMap(N, 5), init=FluctuationDriven(nu=30.0), rngs=nnx.Rngs(0))
        return calibrate_layer(hidden, x, key, target)._replace(output=layer(x).output)

    calibrated, _ = calibrate(net, x, target=Target(1.5), gradient=None)
    assert float(calibrated.layers[0].theta[...]) == 1.5


def test_reports_are_narrow_begin_with_what_was_found_and_are_shown_in_a_notebook(x):
    net = network()
    with pytest.warns(UserWarning, match="^off target"):
        _, reports = calibrate(
            net,
            x,
            key=jax.random.key(0),
            target=[Target(1.0), Target(0.5)],
            gradient=GradientTarget(gain=1e3),
        )
    lines = str(reports).splitlines()
    assert max(map(len, lines)) <= 79
    assert " ".join(line.strip() for line in lines).startswith(" ".join(reports.findings()))
    shown = reports._repr_html_()
    for row in reports.table().rows:
        assert all(f"<td>{cell}</td>" in shown for cell in row)
    assert [row[2] for row in reports.table().rows] == ["1", "0.5"]
    numbers = [(r.gradient.before, r.gradient.gain) for r in reports[1:]]
    for gain in [("-", "-"), *([f"{float(v):.3g}" for v in pair] for pair in numbers)]:
        assert [*gain] in [line.split()[2:4] for line in lines]
        assert "".join(f"<td>{number}</td>" for number in gain) in shown
    found = []
    jax.eval_shape(lambda x: found.extend(calibrate(net, x, gradient=None)[1].findings()), x)
    assert found == ["the numbers are traced, or they belong to several networks"]
