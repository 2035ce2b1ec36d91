"""Trials of different length: padded steps change nothing, compared with trials alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax.calibration import (
    Target,
    calibrate,
    calibrate_gradient,
    calibrate_layer,
    free_membrane,
    input_powers,
    scale_to_rate,
)
from snnjax.datasets import Augmented, DeviceEvents, EventDataset, Mixed
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF
from snnjax.experiments import Experiment, run
from snnjax.losses import (
    CrossEntropy,
    EveryStep,
    MeanSquare,
    SigmoidCrossEntropy,
    SquaredError,
    Timed,
    accuracy,
    last_step,
    max_over_time,
    mean_over_time,
    sum_over_time,
)
from snnjax.nn import (
    BatchNorm,
    DalianDense,
    DalianFluctuationDriven,
    FluctuationDriven,
    Readout,
    Sequential,
    SpikingDense,
)
from snnjax.regularizers import lower_bound, upper_bound
from snnjax.training import Objective, Trainer
from snnjax.training._objective import Problem

pytestmark = pytest.mark.more

LENGTHS, STEPS, UNITS, CLASSES, DT = np.array([30, 50, 17, 41]), 50, 12, 3, 2e-3
LABELS = np.array([0, 2, 1, 2])


def network(**options):
    rngs = nnx.Rngs(0)
    hidden = {"init": FluctuationDriven(nu=40.0, sigma_u=1.5), "recurrent": True}
    return Sequential(
        SpikingDense(UNITS, 16, **hidden, rngs=rngs),
        SpikingDense(16, 14, **hidden, rngs=rngs),
        Readout(14, CLASSES, rngs=rngs),
        **options,
    )


def trials(*, noise=False):
    """One sample per length. With noise, units spike after the end of a trial, too."""
    rng = np.random.default_rng(0)
    x = (rng.random((STEPS, 4, UNITS)) < 0.15).astype(np.uint8)
    late = np.arange(STEPS)[:, None, None] >= LENGTHS[:, None]
    return np.where(late, np.uint8(noise) * (rng.random(x.shape) < 0.3), x)


def dataset(x):
    data = EventDataset.from_dense(x, LABELS, DT, num_classes=CLASSES)
    return data._with(durations=LENGTHS * DT)


def alone(k):
    """Trial k as a data set without padding."""
    x = trials()[: LENGTHS[k], [k]]
    return DeviceEvents.from_dataset(
        EventDataset.from_dense(x, LABELS[[k]], DT, num_classes=CLASSES), dt=DT
    )


@pytest.fixture(scope="module")
def readout():
    return jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, 4, CLASSES)), jnp.float32)


@pytest.mark.parametrize("readout_fn", [max_over_time, sum_over_time, mean_over_time, last_step])
def test_readout_functions_look_at_the_trial_alone(readout, readout_fn):
    scores = readout_fn(readout, jnp.asarray(LENGTHS))
    expected = [readout_fn(readout[:n, [k]])[0] for k, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (CrossEntropy(), LABELS),
        (CrossEntropy(sum_over_time), np.eye(CLASSES, dtype=np.float32)[LABELS]),
        (MeanSquare(), LABELS),
        (MeanSquare(), np.random.default_rng(2).normal(size=(STEPS, 4, CLASSES))),
        (SquaredError(mean_over_time), np.ones((4, CLASSES), np.float32)),
        (SigmoidCrossEntropy(last_step), np.eye(CLASSES, dtype=np.float32)[LABELS]),
        (EveryStep(MeanSquare()), np.random.default_rng(3).normal(size=(STEPS, 4, CLASSES))),
        (EveryStep(SquaredError()), np.ones((4, CLASSES), np.float32)),
    ],
)
def test_losses_and_their_gradients_are_those_of_the_trials_alone(readout, loss, target):
    timed = Timed(target=jnp.asarray(target), num_steps=jnp.asarray(LENGTHS))
    values, gradient = map(
        np.asarray,
        jax.jit(lambda o: (loss(o, timed), jax.grad(lambda o: loss(o, timed).sum())(o)))(readout),
    )
    for k, n in enumerate(LENGTHS):
        own = target[:n, [k]] if np.ndim(target) == 3 else target[[k]]
        one = jax.jit(jax.value_and_grad(lambda o, own=own: loss(o, own).sum()))
        value, slope = one(np.asarray(readout)[:n, [k]])
        np.testing.assert_allclose(values[k], value, rtol=1e-5)
        np.testing.assert_allclose(gradient[:n, [k]], slope, rtol=1e-5, atol=1e-8)
        assert not gradient[n:, k].any()
    metric = loss.metric(timed)
    if metric is not None and metric.name == "accuracy" and np.ndim(target) == 1:
        own = [
            accuracy(loss.readout_fn).of(readout[:n, [k]], LABELS[[k]])[0]
            for k, n in enumerate(LENGTHS)
        ]
        np.testing.assert_array_equal(metric.of(readout, timed), own)


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([30, 51, 17, 41], ValueError, "num_steps must be from 1 to 50, .* got 51"),
        ([30, 50, 0, 41], ValueError, "num_steps must be from 1 to 50, .* got 0"),
        (
            [30, 50],
            ValueError,
            r"num_steps must have shape \(4,\) for readout of shape .* got \(2,\)",
        ),
        ([30.0, 50.0, 17.0, 41.0], TypeError, "num_steps must be integers, got float"),
    ],
)
@pytest.mark.parametrize("loss", [CrossEntropy(mean_over_time), MeanSquare(), accuracy().of])
def test_wrong_lengths_are_refused(readout, loss, lengths, error, match):
    with pytest.raises(error, match=match):
        loss(readout, Timed(target=jnp.asarray(LABELS), num_steps=jnp.asarray(lengths)))


def test_a_function_of_the_user_must_take_the_lengths(readout):
    timed = Timed(target=jnp.asarray(LABELS), num_steps=jnp.asarray(LENGTHS))
    for loss, name in (
        (Objective(lambda o, y: o.sum((0, 2))).loss, "loss"),
        (CrossEntropy(lambda o: o[-1]), "readout_fn"),
    ):
        with pytest.raises(TypeError, match=f"{name} must take num_steps .* as its last argument"):
            loss(readout, timed)
    own = Objective(lambda o, y, num_steps: last_step(o, num_steps).sum(-1)).loss
    np.testing.assert_allclose(
        own(readout, timed), last_step(readout, jnp.asarray(LENGTHS)).sum(-1)
    )


BOUNDS = [upper_bound(0.5, 1.0), lower_bound(3.0, 4.0)]


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("form", [DeviceEvents.from_dataset, "lists"])
def test_training_is_that_of_trials_without_padding(form, limited):
    """Objective, gradient and rates are means over the trials, each alone."""
    bounds = BOUNDS
    if limited:  # a limit so large that it changes nothing, but its program is used
        bounds = [upper_bound(0.5, 1.0, share=1e9), lower_bound(3.0, 4.0, share=1e9)]
    problem, params = Problem.from_objective(network(), Objective(CrossEntropy(), bounds))
    value = jax.jit(jax.value_and_grad(problem.value, has_aux=True))
    source = DeviceEvents.from_dataset(dataset(trials(noise=True)), dt=DT)
    if form == "lists":
        source = SparseEvents.from_events(source)
    (objective, metrics), gradient = value(params, source, jnp.arange(4))
    each = [
        jax.jit(jax.value_and_grad(problem.value, has_aux=True))(params, alone(k), jnp.arange(1))
        for k in range(4)
    ]
    mean = lambda *leaves: np.stack(leaves).mean(axis=0)
    (expected, of_each), slope = jax.tree.map(mean, *each)
    np.testing.assert_allclose(objective, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), metrics, of_each)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), gradient, slope
    )


def test_evaluation_counts_the_trials_alone():
    trainer = Trainer(network(), Objective(CrossEntropy(), BOUNDS), optax.sgd(0.0), batch_size=4)
    found = trainer.evaluate(
        trainer.params, DeviceEvents.from_dataset(dataset(trials(noise=True)), dt=DT)
    )
    each = [trainer.evaluate(trainer.params, alone(k)) for k in range(4)]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_the_probe_and_the_gradient_s_calibration_ignore_padding():
    x = jnp.asarray(trials(), jnp.float32)
    longer = jnp.concatenate([x, jnp.ones((30, *x.shape[1:]))])
    timed = Timed(target=jnp.asarray(LABELS), num_steps=jnp.asarray(LENGTHS))
    whole = Timed(target=jnp.asarray(LABELS), num_steps=jnp.full(4, STEPS))
    objective = Objective(CrossEntropy(), BOUNDS)
    for labels in (timed, whole):
        short, long = (probe(network(), a, labels, objective) for a in (x, longer))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
            short._replace(layers=tuple(p._replace(memory=0.0, grad_z=0.0) for p in short.layers)),
            long._replace(layers=tuple(p._replace(memory=0.0, grad_z=0.0) for p in long.layers)),
        )
    # without lengths, whole trials: the same numbers as before
    plain = probe(network(), x, jnp.asarray(LABELS), objective)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        plain, probe(network(), x, whole, objective),
    )  # fmt: skip
    _, by_lengths = calibrate_gradient(network(), x, timed)
    _, padded = calibrate_gradient(network(), longer.at[STEPS:].set(0.0), timed)
    for a, b in zip(by_lengths, padded, strict=True):
        np.testing.assert_allclose(a.gain, b.gain, rtol=0.01)


@pytest.mark.parametrize("balance", [False, True])
def test_powers_of_the_input_are_means_over_the_trials_alone(balance):
    x = jnp.asarray(trials(noise=True), jnp.float32)
    found = input_powers(x, LIF(), balance=balance, num_steps=jnp.asarray(LENGTHS))
    each = [input_powers(x[:n, [k]], LIF(), balance=balance)[:4] for k, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(found[:4], np.mean(each, axis=0), rtol=1e-5)


def dalian():
    rngs = nnx.Rngs(0)
    hidden = DalianDense(UNITS, 16, init=DalianFluctuationDriven(nu=40.0), bias=True, rngs=rngs)
    return Sequential(hidden, Readout(16, CLASSES, rngs=rngs))


def biased():
    found = network()
    rngs, init = nnx.Rngs(1), FluctuationDriven(nu=40.0)
    found.layers[0] = SpikingDense(UNITS, 16, init=init, recurrent=True, bias=True, rngs=rngs)
    return found


TIMED = Timed(target=jnp.asarray(LABELS), num_steps=jnp.asarray(LENGTHS))


@pytest.mark.parametrize("make", [biased, dalian])
def test_the_calibration_of_membranes_ignores_padding(make):
    """The membranes are on target in the trials alone. Spikes after their end change nothing."""
    x = jnp.asarray(trials(), jnp.float32)
    noisy = jnp.asarray(trials(noise=True), jnp.float32)
    start = make()
    start.layers[0].bias[...] = 0.002 * jnp.arange(start.layers[0].units)
    options = {"key": jax.random.key(3), "target": Target(0.7), "gradient": None}
    (net, report), (other, again) = (calibrate(start, a, TIMED, **options) for a in (x, noisy))
    for a, b in zip(report, again, strict=True):
        np.testing.assert_allclose(a.sigma_w, b.sigma_w, rtol=1e-3)
        np.testing.assert_allclose((a.sigma_u, a.mu_u), (b.sigma_u, b.mu_u), rtol=1e-3)
    layer = net.layers[0]
    np.testing.assert_allclose(layer.kernel[...], other.layers[0].kernel[...], rtol=0, atol=2e-3)
    u = np.asarray(free_membrane(layer.neuron, layer.whole_drive(x, layer(x).output)), np.float64)
    variance = np.mean([u[:n, k].var(axis=0).mean() for k, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(report[0].sigma_u, np.sqrt(variance), rtol=1e-4)
    mean = np.mean([u[:n, k].mean() for k, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(report[0].mu_u, mean, rtol=1e-3, atol=1e-5)


def test_the_rate_of_a_scaled_layer_is_that_of_the_trials_alone():
    x, steps = jnp.asarray(trials(noise=True), jnp.float32), jnp.asarray(LENGTHS)
    net, (report, _) = scale_to_rate(network(), x, rate=20.0, num_steps=steps)
    z = np.asarray(net.layers[0](x).output)
    rates = [z[:n, k].mean() / DT for k, n in enumerate(LENGTHS)]
    np.testing.assert_allclose([report.rate, 20.0], np.mean(rates), rtol=0.05)


def test_what_cannot_be_calibrated_with_lengths_is_refused():
    x = jnp.asarray(trials(), jnp.float32)

    class Own(SpikingDense):
        pass

    @calibrate_layer.register
    def _(layer: Own, x: jax.Array, key: jax.Array | None, target: Target):
        raise AssertionError

    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=40.0)
    readout = Readout(16, CLASSES, rngs=rngs)
    own = Sequential(Own(UNITS, 16, init=init, rngs=rngs), readout)
    with pytest.raises(TypeError, match="calibrate_layer for Own must take num_steps"):
        calibrate(own, x, TIMED)
    norm = Sequential(SpikingDense(UNITS, 16, init=init, norm=BatchNorm(), rngs=rngs), readout)
    with pytest.raises(ValueError, match="trials must have the same length with batch normal"):
        calibrate(norm, x, TIMED)
    with pytest.raises(ValueError, match="num_steps must be from 1 to 50, the steps of x, got 51"):
        calibrate(network(), x, Timed(target=None, num_steps=jnp.asarray([50, 51, 3, 4])))


def test_durations_travel_with_the_samples():
    data = dataset(trials())
    assert data.subset([2, 0]).durations.tolist() == [17 * DT, 30 * DT]
    part, rest = data.split((0.5, 0.5), seed=0, stratify=False)
    assert sorted([*part.durations, *rest.durations]) == sorted(LENGTHS * DT)
    source = DeviceEvents.from_dataset(data, dt=DT)
    np.testing.assert_array_equal(source.num_steps, LENGTHS)
    assert DeviceEvents.from_dataset(data, dt=DT, num_steps=20).num_steps.tolist() == [
        20,
        20,
        17,
        20,
    ]
    _, target = source.batch(jnp.array([1, 2]))
    assert (target.target.tolist(), target.num_steps.tolist()) == ([2, 1], [50, 17])
    events = trials().sum(axis=(0, 1))
    np.testing.assert_allclose(data.rate(), events / (LENGTHS.sum() * DT))
    late = dataset(trials(noise=True))
    np.testing.assert_allclose(late.rate(), events / (LENGTHS.sum() * DT))


def test_a_trial_until_its_last_event_has_the_step_of_this_event():
    data = EventDataset.from_dense(trials(), LABELS, DT, num_classes=CLASSES).until_last_event()
    steps = np.asarray(DeviceEvents.from_dataset(data, dt=DT).num_steps)
    last = [np.flatnonzero(trials()[:, k].any(axis=1))[-1] + 1 for k in range(4)]
    np.testing.assert_array_equal(steps, last)
    silent = EventDataset.from_lists(
        [[], [0.0], [0.9]], [[], [0], [0]], [0] * 3, num_units=1, duration=0.1
    )
    assert silent.until_last_event().durations.tolist() == [0.1, 0.001, 0.1]


def test_changes_of_samples_apply_to_their_lengths():
    source = DeviceEvents.from_dataset(dataset(trials()), dt=DT)
    key, indices = jax.random.key(0), jnp.arange(4)
    stretched = Augmented(source=source, time_stretch=0.3)
    x, target = stretched.batch(indices, key)
    last = [int(np.flatnonzero(np.asarray(x)[:, k].any(axis=1))[-1]) + 1 for k in range(4)]
    assert (target.num_steps >= np.array(last)).all()
    assert len(set((np.asarray(target.num_steps) / LENGTHS).round(2))) > 1
    assert stretched.batch(indices)[1].num_steps.tolist() == LENGTHS.tolist()
    x, target = Mixed(source=source, cutmix=1.0, num_classes=3).batch(indices, key)
    assert target.target.shape == (4, 3)
    assert (target.num_steps >= LENGTHS).all()
    last = [int(np.flatnonzero(np.asarray(x)[:, k].any(axis=1))[-1]) + 1 for k in range(4)]
    assert (target.num_steps >= np.array(last)).all()


@pytest.mark.parametrize("bad", [[0.1, 0.0, 0.1, 0.1], [0.1, 0.2, 0.1, 0.1], [0.1] * 3])
def test_wrong_durations_are_refused(bad):
    data = EventDataset.from_dense(trials(), LABELS, DT)
    fields = {
        n: getattr(data, n)
        for n in ("times", "units", "offsets", "labels", "num_units", "num_classes", "duration")
    }
    with pytest.raises(ValueError, match="durations must"):
        EventDataset(**fields, durations=bad)


def test_counts_of_a_network_in_parts_are_refused():
    problem, params = Problem.from_objective(
        network(remat_steps=10), Objective(CrossEntropy(), BOUNDS)
    )
    source = DeviceEvents.from_dataset(dataset(trials()), dt=DT)
    with pytest.raises(ValueError, match=r"trials of different length need .* without remat_steps"):
        problem.value(params, source, jnp.arange(4))


def test_an_experiment_refuses_batch_normalization_before_it_loads_data():
    with pytest.raises(ValueError, match=r"norm must be False .* \(trial_end 'last_event'\)"):
        Experiment.from_options("randman", trial_end="last_event", norm=True)


def test_an_experiment_with_trials_until_their_last_event():
    options = {"samples": 60, "epochs": 2, "hidden": (16,), "batch_size": 20}
    done = run(Experiment.from_options("randman", trial_end="last_event", **options))
    whole = run(Experiment.from_options("randman", **options))
    # all spikes are in the first half of a trial, so that rates over the trial alone are about twice
    ratio = done.summary["initial_rate_1"] / whole.summary["initial_rate_1"]
    assert 1.3 < ratio < 2.7
