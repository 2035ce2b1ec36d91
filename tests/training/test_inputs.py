import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _support import ON_CPU, device_flags
from flax import nnx

from snnjax import models
from snnjax.datasets import Augmented, DeviceArrays, DeviceEvents, Splits, poisson, randman
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.nn import FluctuationDriven
from snnjax.training import Objective, fit
from snnjax.training._inputs import MAX_DENSITY, choose_form

DT = 2e-3


@pytest.fixture(scope="module")
def data():
    return DeviceEvents.from_dataset(randman(num_classes=3, samples_per_class=30), dt=DT)


def network(**options):
    return models.dense(
        20, 3, hidden=(16, 8), init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0), **options
    )


@ON_CPU
def test_what_is_chosen(data, monkeypatch):
    kind = lambda net, source, **options: type(choose_form(net, source, **options))
    sparse = SparseEvents.from_events(data)
    arrays = DeviceArrays(x=jnp.zeros((4, 5, 20)), labels=jnp.zeros(4, int))
    assert kind(network(), data) is SparseEvents
    assert kind(network(skip=True), data) is SparseEvents
    assert kind(network(), data, events=False) is DeviceEvents
    assert kind(network(), data, events=True) is SparseEvents
    assert choose_form(network(), sparse) is sparse
    for net, source in (
        (network(remat_steps=10), data),
        (
            models.build(
                [models.Conv(4, 5, 2)],
                (20, 1),
                3,
                init=FluctuationDriven(nu=5.0),
                rngs=nnx.Rngs(0),
            ),
            data,
        ),
        (network(), Augmented(source=data, drop=0.1)),
        (network(), arrays),
        (lambda x: x, data),
    ):
        assert choose_form(net, source) is source
    moved = choose_form(network(), Augmented(source=data, unit_shift=3, time_stretch=0.1))
    assert (type(moved), type(moved.source), moved.unit_shift, moved.time_stretch) == (
        Augmented,
        SparseEvents,
        3,
        0.1,
    )
    busy = DeviceEvents.from_dataset(
        poisson(num_samples=4, num_units=20, rate=1.2 * MAX_DENSITY / DT, duration=0.1, seed=0),
        dt=DT,
    )
    assert busy.density > MAX_DENSITY
    assert kind(network(), busy) is DeviceEvents
    assert kind(network(), busy, events=True) is SparseEvents
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kind(network(), data) is DeviceEvents


def test_errors(data):
    with pytest.raises(
        TypeError,
        match="events must not be True for a network that takes no events, got Sequential; its first layer must be dense",
    ):
        choose_form(network(remat_steps=10), data, events=True)
    with pytest.raises(
        TypeError,
        match="events must not be True for a source whose lists change or are not known, got Augmented",
    ):
        choose_form(network(), Augmented(source=data, drop=0.1), events=True)
    with pytest.raises(TypeError, match="events must be True, False or None, got 'auto'"):
        choose_form(network(), data, events="auto")


@pytest.mark.more
@pytest.mark.parametrize("recurrent", [False, True])
def test_training_on_events_is_training_on_arrays(data, recurrent):
    def trained(events):
        net = network(recurrent=recurrent)
        result = fit(
            net,
            Splits(data, data, data),
            Objective(),
            optax.adam(1e-2),
            epochs=3,
            batch_size=15,
            key=jax.random.key(0),
            events=events,
        )
        return result, jax.tree.leaves(nnx.state(net, nnx.Param))

    (on_events, weights), (on_arrays, expected) = trained(True), trained(False)
    assert on_events.history[0]["train_loss"] > on_events.history[-1]["train_loss"]
    for a, b in zip(on_events.history, on_arrays.history, strict=True):
        for name in ("train_loss", "valid_loss", "penalty"):
            # the order of sums differs, and therefore sometimes a spike
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=1e-6)
    for a, b in zip(weights, expected, strict=True):
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()


@pytest.mark.slow
def test_devices_share_a_batch():
    """Two CPU devices compared with one, with augmentation, dropout and recurrence.

    History and weights are equal to rounding, and the network is on one device.
    """
    code = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from snnjax import models
from snnjax.datasets import Augmented, DeviceEvents, Splits, randman
from snnjax.losses import OwnLoss
from snnjax.nn import FluctuationDriven
from snnjax.training import Objective, fit, _step as module
assert jax.device_count() == 2
source = DeviceEvents.from_dataset(randman(num_classes=3, samples_per_class=30), dt=2e-3)
data = Augmented(source=source, unit_shift=2, time_stretch=0.1)
def run(devices, **options):
    module.batch_devices = lambda *a: devices
    net = models.dense(20, 3, hidden=(16,), recurrent=True, dropout=0.2, init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    result = fit(net, Splits(data, source), Objective(), optax.sgd(0.05), epochs=2, batch_size=20, key=jax.random.key(0), **options)
    leaves = jax.tree.leaves(nnx.state(net, nnx.Param))
    assert all(len(a.devices()) == 1 for a in leaves)
    return result, leaves
chosen = module.batch_devices
from snnjax.training._objective import Problem
objective, _ = Problem.from_objective(models.dense(20, 3, hidden=(4,), init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0)), Objective())
assert [chosen(objective, source, 20), chosen(objective, source, 21), chosen(objective, source, 20, 5), chosen(objective, source, 20, 4)] == [2, 1, 2, 1]
assert chosen(objective._replace(loss=OwnLoss(lambda r, y: r.sum((0, 2)))), source, 20) == 1
(one, a), (two, b) = run(1, micro_batch=5), run(2, micro_batch=5)
for x, y in zip(one.history, two.history, strict=True):
    np.testing.assert_allclose([x["train_loss"], x["valid_loss"]], [y["train_loss"], y["valid_loss"]], rtol=1e-4)
for x, y in zip(a, b, strict=True):
    assert np.abs(x - y).max() < 1e-3 * np.abs(x).max()
print("same")
"""
    env = os.environ | {"XLA_FLAGS": device_flags(2), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["same"], done.stderr[-3000:]
