from math import erf, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnjax._sparse import events_dot
from snnjax.datasets import (
    Augmented,
    DeviceEvents,
    EventDataset,
    Mixed,
    Splits,
    poisson,
    randman,
)
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments import Experiment
from snnjax.experiments._build import Inputs
from snnjax.experiments._data import Data, train_source


@pytest.fixture(scope="module")
def source():
    return DeviceEvents.from_dataset(
        poisson(num_samples=12, num_units=40, rate=30.0, duration=0.2, seed=0), dt=2e-3
    )


EVERYTHING = np.arange(12)


def batch(source, indices, key=None):
    """`source.batch` as one program, with strengths that are known when it is traced."""
    return jax.jit(source.batch)(indices, key)


def changed(augmented, events, key):
    return jax.jit(augmented.change)(events, key)


def test_without_a_key_and_without_any_change_batches_are_the_source_s(source):
    plain, labels = batch(source, EVERYTHING)
    augmented = Augmented(
        source=source,
        unit_shift=9,
        time_stretch=0.3,
        drop=0.3,
        time_jitter=3.0,
        unit_jitter=2.0,
        insert=0.5,
    )
    for x, y in (
        batch(augmented, EVERYTHING),
        batch(Augmented(source=source), EVERYTHING, jax.random.key(3)),
    ):
        np.testing.assert_array_equal(x, plain)
        np.testing.assert_array_equal(y, labels)


def test_shift_moves_a_whole_sample_by_units(source):
    plain = np.asarray(batch(source, EVERYTHING)[0])
    shifted = Augmented(source=source, unit_shift=4)
    moved = np.asarray(batch(shifted, EVERYTHING, jax.random.key(0))[0])
    shifts = []
    for b in range(12):
        for shift in range(-4, 5):
            expected = np.zeros_like(plain[:, b])
            expected[:, max(0, shift) : 40 + min(0, shift)] = plain[
                :, b, max(0, -shift) : 40 - max(0, shift)
            ]
            if np.array_equal(expected, moved[:, b]):
                shifts.append(shift)
    assert len(shifts) == 12
    assert len(set(shifts)) > 3


def test_stretch_moves_times_by_one_factor_a_sample():
    steps = np.array([0, 10, 20, 40, 60])
    data = EventDataset.from_lists(
        [steps * 2e-3 + 1e-3] * 30, [np.zeros(5, int)] * 30, [0] * 30, num_units=1, duration=0.2
    )
    augmented = Augmented(source=DeviceEvents.from_dataset(data, dt=2e-3), time_stretch=0.3)
    x = np.asarray(batch(augmented, np.arange(30), jax.random.key(1))[0])[:, :, 0]
    factors = []
    for b in range(30):
        got = np.flatnonzero(x[:, b])
        assert len(got) == 5
        factors.append((got[-1] - got[0]) / 60)
        np.testing.assert_allclose(got, (steps + 0.5) * factors[-1] - 0.5, atol=1.1)
    assert 0.68 < min(factors) < 0.85
    assert 1.15 < max(factors) < 1.32


@pytest.mark.more
@pytest.mark.parametrize(
    "options", [{"unit_shift": 4}, {"time_stretch": 0.4}, {"unit_shift": 9, "time_stretch": 0.2}]
)
def test_lists_are_moved_as_events_are(options, rng):
    """The same draws on lists and on single events give the same raster, product and gradient.

    Spikes leave the raster on every side.
    """
    source = DeviceEvents.from_dataset(
        poisson(num_samples=7, num_units=12, rate=60.0, duration=0.1, seed=0), dt=2e-3
    )
    plain, lists = (
        Augmented(source=source, **options),
        Augmented(source=SparseEvents.from_events(source), **options),
    )
    kernel, g = (
        jnp.asarray(rng.integers(-8, 9, (12, 5)), jnp.float32),
        jnp.asarray(rng.integers(-8, 9, (50, 7, 5)), jnp.float32),
    )
    for k in range(3):
        x, labels = plain.batch(jnp.arange(7), jax.random.key(k))
        found, same = jax.jit(lambda d, key: d.batch(jnp.arange(7), key))(lists, jax.random.key(k))
        assert float(x.sum()) < float(source.batch(jnp.arange(7))[0].sum())
        np.testing.assert_array_equal(found.dense(), x)
        np.testing.assert_array_equal(same, labels)
        out, pull = jax.vjp(lambda w, found=found: events_dot(found, w), kernel)
        np.testing.assert_array_equal(out, x @ kernel)
        np.testing.assert_array_equal(pull(g)[0], jnp.einsum("tbi,tbn->in", x, g))
    np.testing.assert_array_equal(
        lists.batch(jnp.arange(7))[0].dense(), source.batch(jnp.arange(7))[0]
    )


def test_lists_cannot_lose_or_gain_single_events():
    source = SparseEvents.from_events(
        DeviceEvents.from_dataset(randman(samples_per_class=20), dt=2e-3)
    )
    for options in ({"drop": 0.1}, {"time_jitter": 1.0}, {"unit_jitter": 1.0}, {"insert": 0.5}):
        with pytest.raises(
            ValueError,
            match="source must be DeviceEvents for drop, time_jitter, unit_jitter or insert",
        ):
            Augmented(source=source, **options)


def test_drop_keeps_the_expected_share_and_adds_nothing(source):
    plain = np.asarray(batch(source, EVERYTHING)[0])
    kept = np.asarray(batch(Augmented(source=source, drop=0.25), EVERYTHING, jax.random.key(2))[0])
    assert (kept <= plain).all()
    n = plain.sum()
    assert abs(kept.sum() / n - 0.75) < 4 * np.sqrt(0.25 * 0.75 / n)


def test_draws_of_shift_stretch_and_drop_are_those_before_there_were_other_changes(source):
    """The first version of the change, written out, because resumed runs depend on it."""
    key, events = jax.random.key(5), source.events(EVERYTHING)
    shift_key, stretch_key, drop_key = jax.random.split(key, 3)
    shift = jax.random.randint(shift_key, (12, 1), -6, 7)
    stretch = 1 + jax.random.uniform(stretch_key, (12, 1), minval=-1.0, maxval=1.0) * 0.2
    expected = (
        jnp.floor((events.step + 0.5) * stretch).astype(jnp.int32),
        events.unit + shift,
        events.present & (jax.random.uniform(drop_key, events.step.shape) >= 0.1),
    )
    augmented = Augmented(source=source, unit_shift=6, time_stretch=0.2, drop=0.1)
    for got in (augmented.change(events, key), jax.jit(Augmented.change)(augmented, events, key)):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    more = Augmented(
        source=source, unit_shift=6, time_stretch=0.2, drop=0.1, time_jitter=1.0, insert=0.5
    )
    more = changed(more, events, key)
    np.testing.assert_array_equal(more.unit[:, : source.longest], expected[1])
    np.testing.assert_array_equal(more.present[:, : source.longest], expected[2])


@pytest.fixture(scope="module")
def middle():
    """16 samples of 1000 events, all in step 250 and on unit 200 of 500 x 400."""
    times, units = [np.full(1000, 0.501)] * 16, [np.full(1000, 200)] * 16
    return DeviceEvents.from_dataset(
        EventDataset.from_lists(times, units, [0] * 16, num_units=400, duration=1.0), dt=2e-3
    )


@pytest.mark.parametrize("deviation", [0.4, 3.0, 20.0])
@pytest.mark.parametrize("name", ["time_jitter", "unit_jitter"])
def test_jitter_is_normal_and_rounded(middle, name, deviation):
    augmented = Augmented(source=middle, **{name: deviation})
    plain = middle.events(jnp.arange(16))
    events = changed(augmented, plain, jax.random.key(4))
    moves = {
        "time_jitter": np.asarray(events.step) - 250,
        "unit_jitter": np.asarray(events.unit) - 200,
    }
    moved, still = moves.pop(name), next(iter(moves.values()))
    np.testing.assert_array_equal(still, 0)
    np.testing.assert_array_equal(events.present, plain.present)
    # P(k) = Phi((k + 1/2) / deviation) - Phi((k - 1/2) / deviation)
    k = np.arange(-150, 151)
    phi = np.array(
        [[0.5 * (1 + erf((m + h) / deviation / sqrt(2))) for m in k] for h in (0.5, -0.5)]
    )
    p, n = phi[0] - phi[1], moved.size
    variance, fourth = (p * k**2).sum(), (p * k**4).sum()
    assert abs(moved.mean()) < 4 * np.sqrt(variance / n)
    assert abs((moved**2).mean() - variance) < 4 * np.sqrt((fourth - variance**2) / n)
    assert abs((moved == 0).mean() - p[150]) < 4 * np.sqrt(p[150] * (1 - p[150]) / n)
    # events are independent: moves of neighbours, and of one event in two samples, do not correlate
    for a, b in ((moved[:, 1:], moved[:, :-1]), (moved[1:], moved[:-1])):
        assert abs((a * b).mean() / variance) < 4 / np.sqrt(a.size)


def test_time_and_unit_move_independently(middle):
    augmented = Augmented(source=middle, time_jitter=5.0, unit_jitter=5.0)
    events = changed(augmented, middle.events(jnp.arange(16)), jax.random.key(7))
    a, b = np.asarray(events.step) - 250, np.asarray(events.unit) - 200
    assert abs((a * b).mean()) / (25 + 1 / 12) < 4 / np.sqrt(a.size)


def test_jitter_moves_out_of_the_raster_what_lies_at_its_edge():
    """Events that move below the first step or the first unit are lost, not clipped.

    Moves are >= 0 with probability Phi(1 / (2 s)).
    """
    events = [np.full(4000, 1e-3)] * 4, [np.zeros(4000, int)] * 4
    source = DeviceEvents.from_dataset(
        EventDataset.from_lists(*events, [0] * 4, num_units=100, duration=0.2), dt=2e-3
    )
    stays = 0.5 * (1 + erf(0.5 / 2.0 / sqrt(2)))
    for options, share in (
        ({"time_jitter": 2.0}, stays),
        ({"unit_jitter": 2.0}, stays),
        ({"time_jitter": 2.0, "unit_jitter": 2.0}, stays**2),
    ):
        jittered = Augmented(source=source, **options)
        x = np.asarray(batch(jittered, np.arange(4), jax.random.key(1))[0])
        assert abs(x.sum() / 16000 - share) < 4 * np.sqrt(share * (1 - share) / 16000)


def test_inserted_events_have_the_expected_number_and_lie_anywhere():
    counts = np.array([0, 5, 100, 400])
    times, units = [np.full(n, 0.02) for n in counts], [np.full(n, 7) for n in counts]
    source = DeviceEvents.from_dataset(
        EventDataset.from_lists(times, units, [0] * 4, num_units=20, duration=0.1), dt=2e-3
    )
    augmented = Augmented(source=source, insert=0.3)
    assert augmented.slots == 240
    draw = jax.jit(
        jax.vmap(
            lambda key: augmented.batch(jnp.arange(4), key)[0] - source.batch(jnp.arange(4))[0]
        )
    )
    # (draws, steps, samples, units)
    added = np.asarray(draw(jax.random.split(jax.random.key(0), 500)))
    assert (added >= 0).all()
    number, mean = added.sum(axis=(1, 3)), 0.3 * counts
    variance = mean * (1 - mean / 240)  # binomial
    assert (np.abs(number.mean(axis=0) - mean) <= 4 * np.sqrt(variance / 500)).all()
    np.testing.assert_allclose(number.var(axis=0), variance, rtol=4 * np.sqrt(2 / 500))
    for axis, size in ((1, 50), (3, 20)):
        share = added.sum(axis=tuple(a for a in range(4) if a != axis)) / added.sum()
        np.testing.assert_allclose(share, 1 / size, atol=4 * np.sqrt(1 / size / added.sum()))


def test_inserted_events_are_drawn_for_every_sample_and_do_not_hang_on_other_changes(source):
    plain = np.asarray(batch(source, EVERYTHING)[0])
    key, options = jax.random.key(9), {"unit_shift": 3, "drop": 0.4, "time_stretch": 0.2}
    added = np.asarray(batch(Augmented(source=source, insert=1.0), EVERYTHING, key)[0]) - plain
    assert len({added[:, b].tobytes() for b in range(12)}) == 12
    without, both = (
        np.asarray(batch(Augmented(source=source, **options | more), EVERYTHING, key)[0])
        for more in ({}, {"insert": 1.0})
    )
    np.testing.assert_array_equal(both - without, added)


def test_every_key_draws_anew_and_jit_and_vmap_agree(source):
    augmented = Augmented(
        source=source,
        unit_shift=5,
        time_stretch=0.1,
        drop=0.2,
        time_jitter=2.0,
        unit_jitter=1.5,
        insert=0.4,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (np.asarray(batch(augmented, EVERYTHING, key)[0]) for key in keys)
    assert not np.array_equal(a, b)
    drawn = jax.jit(jax.vmap(lambda s, key: s.batch(EVERYTHING, key)[0], (None, 0)))(
        augmented, keys
    )
    np.testing.assert_array_equal(drawn, np.stack([a, b]))


def test_strengths_may_be_traced(source):
    """The members of an ensemble can therefore have different strengths."""
    key = jax.random.key(2)
    one = lambda t, u, d: Augmented(source=source, time_jitter=t, unit_jitter=u, drop=d).batch(
        EVERYTHING, key
    )[0]
    strengths = jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0]), jnp.array([0.0, 0.3])
    for k, x in enumerate(jax.jit(jax.vmap(one))(*strengths)):
        known = [float(s[k]) for s in strengths]
        np.testing.assert_array_equal(x, jax.jit(lambda known=known: one(*known))())
    with pytest.raises(TypeError, match="insert must be one number known before tracing"):
        jax.jit(lambda r: Augmented(source=source, insert=r))(0.5)


def test_settings_of_a_run_are_in_seconds(source):
    """1 ms is half a step of 2 ms."""
    plain = Experiment.from_options("randman")
    experiment = plain.replace(
        augment_time_jitter=1e-3, augment_unit_jitter=1.5, augment_insert=0.25
    )
    data = Data(Splits(source), source, Inputs(40, 10, 0.2, 30.0))
    augmented = train_source(experiment, data)
    assert (augmented.time_jitter, augmented.unit_jitter, augmented.insert) == (0.5, 1.5, 0.25)
    assert (augmented.unit_shift, augmented.time_stretch, augmented.drop) == (0, 0.0, 0.0)
    for name in ("augment_time_jitter", "augment_unit_jitter", "augment_insert"):
        assert isinstance(train_source(plain.replace(**{name: 0.1}), data), Augmented)
        with pytest.raises(ValueError, match=f"{name} must be finite and >= 0"):
            plain.replace(**{name: -0.1})
    assert train_source(plain, data) is source
    mixed = train_source(experiment.replace(augment_blend=0.3), data)
    assert isinstance(mixed, Mixed)
    assert isinstance(mixed.source, Augmented)
    assert (mixed.blend, mixed.cutmix, mixed.num_classes) == (0.3, 0.0, 10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"unit_shift": -1}, "unit_shift must be >= 0"),
        ({"time_stretch": 1.0}, "time_stretch must be .* < 1"),
        ({"drop": 1.0}, "drop must be"),
        ({"time_jitter": -1.0}, "time_jitter must be finite and >= 0 steps, got -1.0"),
        ({"unit_jitter": float("nan")}, "unit_jitter must be finite and >= 0 units, got nan"),
        ({"insert": -0.1}, "insert must be finite and >= 0 and <= 100, got -0.1"),
        ({"insert": float("inf")}, "insert must be"),
    ],
)
def test_errors(source, options, match):
    with pytest.raises(ValueError, match=match):
        Augmented(source=source, **options)
