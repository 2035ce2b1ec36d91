import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax import models
from snnjax.datasets import Augmented, DeviceArrays, DeviceEvents, SparseEvents, poisson, randman
from snnjax.nn import FluctuationDriven
from snnjax.training import fit
from snnjax.training.inputs import MAX_DENSITY, choose_form

DT = 2e-3


@pytest.fixture(scope="module")
def data():
    return DeviceEvents.put(randman(n_classes=3, n_samples=30), dt=DT)


def network(**options):
    return models.dense(20, 3, hidden=(16, 8), init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0), **options)


def test_what_is_chosen(data, monkeypatch):
    kind = lambda net, source, **options: type(choose_form(net, source, **options))  # noqa: E731
    sparse = SparseEvents.of(data)
    arrays = DeviceArrays(x=jnp.zeros((4, 5, 20)), labels=jnp.zeros(4, int))
    assert kind(network(), data) is SparseEvents
    assert kind(network(skip=True), data) is SparseEvents
    assert kind(network(), data, events=False) is DeviceEvents
    assert kind(network(), data, events=True) is SparseEvents
    assert choose_form(network(), sparse) is sparse
    for net, source in (
        (network(remat_steps=10), data),
        (models.csnn(20, 3, layers=[models.Conv(4, 5, 2)], init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0)), data),
        (network(), Augmented(source=data, drop=0.1)),
        (network(), arrays),
        (lambda x: x, data),
    ):
        assert choose_form(net, source) is source
    moved = choose_form(network(), Augmented(source=data, unit_shift=3, time_stretch=0.1))
    assert (type(moved), type(moved.source), moved.unit_shift, moved.time_stretch) == (Augmented, SparseEvents, 3, 0.1)
    busy = DeviceEvents.put(poisson(n_samples=4, n_units=20, rate=1.2 * MAX_DENSITY / DT, duration=0.1, seed=0), dt=DT)
    assert busy.density > MAX_DENSITY
    assert kind(network(), busy) is DeviceEvents
    assert kind(network(), busy, events=True) is SparseEvents
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kind(network(), data) is DeviceEvents


def test_errors(data):
    with pytest.raises(
        TypeError, match="events must not be True for a network that takes no events, got a Sequential; its first layer must be dense"
    ):
        choose_form(network(remat_steps=10), data, events=True)
    with pytest.raises(TypeError, match="events must not be True for a source whose lists change or are not known, got Augmented"):
        choose_form(network(), Augmented(source=data, drop=0.1), events=True)
    with pytest.raises(TypeError, match="events must be True, False or None, got 'auto'"):
        choose_form(network(), data, events="auto")


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_on_events_is_training_on_arrays(data, recurrent):
    def trained(events):
        net = network(recurrent=recurrent)
        result = fit(
            net,
            data,
            valid=data,
            test=data,
            optimizer=optax.adam(1e-2),
            epochs=3,
            batch_size=15,
            key=jax.random.key(0),
            dt=DT,
            events=events,
        )
        return result, jax.tree.leaves(nnx.state(net, nnx.Param))

    (on_events, weights), (on_arrays, expected) = trained(True), trained(False)
    assert on_events.history[0]["train_loss"] > on_events.history[-1]["train_loss"]
    for a, b in zip(on_events.history, on_arrays.history, strict=True):
        for name in ("train_loss", "valid_loss", "penalty"):
            # the order of sums differs, and now and then a spike with it
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=1e-6)
    for a, b in zip(weights, expected, strict=True):
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()
