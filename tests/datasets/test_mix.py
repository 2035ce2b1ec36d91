"""Mixed training samples, compared with what their definition says of each event."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax.datasets import Augmented, DeviceEvents, EventDataset, Mixed
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments import Experiment
from snnjax.losses import CrossEntropy, correct
from snnjax.training import Objective

STEPS, UNITS, COPIES = 50, 24, 400


def marked(labels=(0, 0, 1, 2)):
    """Sample s has one event in each step on unit 6 s, 2 ms apart: s can be read from the raster."""
    times = [np.arange(STEPS) * 2e-3 + 1e-3] * len(labels)
    units = [np.full(STEPS, 6 * s) for s in range(len(labels))]
    data = EventDataset.from_lists(
        times, units, list(labels), num_units=UNITS, duration=STEPS * 2e-3, num_classes=3
    )
    return DeviceEvents.from_dataset(data, dt=2e-3)


def batch(source, indices, key=None):
    """`source.batch` as one program, with strengths that are known when it is traced."""
    return jax.jit(source.batch)(indices, key)


def many(source, sample, seed=0):
    x, y = batch(source, np.full(COPIES, sample), jax.random.key(seed))
    return np.asarray(x), np.asarray(y)


def test_without_a_key_or_without_mixing_batches_are_those_of_the_source():
    source = marked()
    plain, labels = batch(source, np.arange(4))
    for data, key in (
        (Mixed(source=source, blend=0.5, cutmix=0.5, num_classes=3), None),
        (Mixed(source=source, num_classes=3), jax.random.key(0)),
        (Mixed(source=Augmented(source=source), num_classes=3), jax.random.key(0)),
    ):
        x, y = batch(data, np.arange(4), key)
        np.testing.assert_array_equal(x, plain)
        np.testing.assert_array_equal(y, labels)
        assert (len(data), data.dt) == (4, 2e-3)


def test_a_time_window_comes_from_the_partner_and_targets_have_its_share():
    x, y = many(Mixed(source=marked(), cutmix=1.0, num_classes=3), 3)
    np.testing.assert_array_equal(x.sum(axis=2), 1)  # every step has the event of one sample
    owner = x.argmax(axis=2) // 6
    foreign = owner != 3
    # one window: in each sample one partner, in consecutive steps
    for s in range(COPIES):
        at = np.flatnonzero(foreign[:, s])
        assert at.size == 0 or at[-1] - at[0] + 1 == at.size
        assert len(set(owner[at, s])) <= 1
        share = at.size / STEPS
        expected = np.zeros(3)
        expected[2] += 1 - share
        if at.size:
            expected[[0, 0, 1][owner[at[0], s]]] += share
            np.testing.assert_allclose(y[s], expected, atol=1e-6)
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    # L / T ~ U[0, 1) for three of four partners, which are drawn evenly
    share = foreign.mean(axis=0)
    assert share.mean() == pytest.approx(0.75 / 2, abs=0.05)
    for partner in range(3):
        assert (owner == partner).any(axis=0).mean() == pytest.approx(0.25, abs=0.07)


def test_a_window_of_units_replaces_whole_units():
    x, y = many(Mixed(source=marked(), cutmix=1.0, axis="units", num_classes=3), 0)
    count = x.sum(axis=0)
    assert set(np.unique(count)) == {0.0, STEPS}
    # the events of the sample are on unit 0, those of partner s on unit 6 s
    mine, theirs = count[:, 0] > 0, count[:, 6:] > 0
    assert 0.05 < (~mine).mean() < 0.6
    assert (theirs.sum(axis=1) <= 1).all()
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)


def test_a_blend_has_half_the_events_of_two_recordings_of_a_class():
    x, y = many(Mixed(source=marked(), blend=1.0, num_classes=3), 0)
    np.testing.assert_array_equal(y, 0)
    # partners are samples 0 and 1; sample 1 is moved to the mean unit of sample 0
    assert x[:, :, 1:].sum() == 0
    assert x[:, :, 0].sum(axis=0).mean() == pytest.approx(STEPS, rel=0.02)
    # both keep an event of a step with probability 1/2: 0, 1 or 2 events
    share = [(x[:, :, 0] == k).mean() for k in range(3)]
    np.testing.assert_allclose(share, [0.25, 0.5, 0.25], atol=0.02)


def test_a_blend_moves_the_partner_by_whole_steps_and_units():
    late = EventDataset.from_lists(
        [[0.010, 0.014], [0.050, 0.054]], [[3, 5], [10, 12]], [1, 1],
        num_units=UNITS, duration=0.1, num_classes=2,
    )  # fmt: skip
    source = DeviceEvents.from_dataset(late, dt=2e-3)
    x, _ = many(Mixed(source=source, blend=1.0, num_classes=2), 0)
    where = {(5, 3), (7, 5)}
    found = {(int(t), int(u)) for t, _, u in np.argwhere(x)}
    assert found == where


def test_probabilities_are_those_of_the_settings():
    data = Mixed(source=marked(), blend=0.3, cutmix=0.5, num_classes=3)
    x, y = many(data, 3)
    whole = (x[:, :, 18].sum(axis=0) == STEPS) & (y[:, 2] == 1)
    blended = ((x > 1).any(axis=(0, 2))) | (x.sum(axis=(0, 2)) != STEPS)
    assert blended.mean() == pytest.approx(0.3, abs=0.06)
    # untouched: 0.2, and those whose partner is the sample itself or whose window is empty
    assert whole.mean() == pytest.approx(0.2 + 0.5 * (0.25 + 0.75 / STEPS), abs=0.06)


def test_changes_of_the_source_apply_to_both():
    source = Augmented(source=marked(), drop=0.5)
    x, _ = many(Mixed(source=source, cutmix=1.0, num_classes=3), 3)
    assert x.sum(axis=(0, 2)).mean() == pytest.approx(STEPS / 2, rel=0.03)


def test_losses_take_the_probabilities():
    o = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 3)), jnp.float32)
    loss, labels = CrossEntropy(), jnp.array([0, 2, 1, 1])
    hot = jax.nn.one_hot(labels, 3)
    np.testing.assert_allclose(loss(o, hot), loss(o, labels), rtol=1e-6)
    mixed = 0.7 * hot + 0.3 * jax.nn.one_hot((labels + 1) % 3, 3)
    expected = 0.7 * loss(o, labels) + 0.3 * loss(o, (labels + 1) % 3)
    np.testing.assert_allclose(loss(o, mixed), expected, rtol=1e-6)
    np.testing.assert_array_equal(correct(o, mixed), correct(o, labels))
    assert Objective(loss).loss.metric(mixed).name == "accuracy"
    with pytest.raises(TypeError, match="labels must be integers, got float32; SigmoidCross"):
        loss(o, 2 * hot)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"blend": 1.5}, ValueError, "blend must be finite and >= 0 and <= 1, got 1.5"),
        ({"blend": 0.7, "cutmix": 0.4}, ValueError, r"blend \+ cutmix must be .* <= 1, got 1\.1$"),
        ({"axis": "unit"}, ValueError, "axis must be one of 'time', 'units', got 'unit'"),
        ({"num_classes": 2}, ValueError, "num_classes must be .*3, got 2"),
    ],
)
def test_errors(options, error, text):
    with pytest.raises(error, match=text):
        Mixed(**{"source": marked(), "num_classes": 3} | options)


def test_lists_of_events_cannot_be_mixed():
    with pytest.raises(TypeError, match=r"source must be DeviceEvents.*got SparseEvents"):
        Mixed(source=SparseEvents.from_events(marked()), num_classes=3)


def test_options_of_an_experiment():
    with pytest.raises(ValueError, match="augment_cutmix is 0"):
        Experiment.from_options("randman", augment_cutmix_axis="units")
    options = {"augment_cutmix": 0.5, "augment_cutmix_axis": "units"}
    task = Experiment.from_options("randman", **options).task
    assert task.mixture() == {"blend": 0.0, "cutmix": 0.5, "axis": "units"}
