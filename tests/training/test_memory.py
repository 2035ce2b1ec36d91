import numpy as np
import optax
import pytest
from _support import ON_CPU
from flax import nnx

from snnjax import models
from snnjax.datasets import DeviceArrays, DeviceEvents, poisson
from snnjax.nn import FluctuationDriven
from snnjax.training import Objective, step_memory

DATA = DeviceArrays(x=np.zeros((12, 100, 30), np.uint8), labels=np.zeros(12, np.int32))


def of(**options):
    network = models.dense(30, 3, hidden=(64,), init=FluctuationDriven(nu=20.0), rngs=nnx.Rngs(0))
    return step_memory(
        network,
        DATA,
        Objective(),
        optax.adam(1e-3),
        **{"batch_size": 12, "micro_batch": 12} | options,
    )


def test_account_holds_what_must_be_there():
    m = of()
    parameters = 4 * (30 * 64 + 64 * 3)
    data = DATA.x.nbytes + DATA.labels.nbytes
    assert m.arguments >= 3 * parameters + data  # weights and two moments
    assert m.outputs >= 3 * parameters
    assert m.temporaries >= 100 * 12 * 64 * 4  # the membrane
    assert m.total == m.arguments + m.outputs + m.temporaries
    assert str(m).endswith(f"temporaries {m.temporaries / 2**20:.1f})")


@pytest.mark.more
def test_micro_batches_need_less():
    assert of(micro_batch=3).temporaries < 0.6 * of().temporaries


@ON_CPU
def test_lists_of_events_need_no_raster():
    """A raster of 700 units would be larger than everything else in a step."""
    data = DeviceEvents.from_dataset(
        poisson(num_samples=12, num_units=700, rate=10.0, duration=0.2, seed=0), dt=2e-3
    )
    network = models.dense(700, 3, hidden=(16,), init=FluctuationDriven(nu=10.0), rngs=nnx.Rngs(0))
    lists, arrays = (
        step_memory(
            network, data, Objective(), optax.adam(1e-3), batch_size=12, micro_batch=12, events=e
        ).temporaries
        for e in (None, False)
    )
    assert arrays > 100 * 12 * 700 * 4 > 2 * lists


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"micro_batch": 5}, "micro_batch must be a divisor of batch_size 12, got 5"),
        ({"batch_size": 13}, "batch_size must be >= 1 and <= 12, got 13"),
        ({"micro_batch": 0}, "micro_batch must be >= 1, got 0"),
    ],
)
def test_errors(options, match):
    with pytest.raises(ValueError, match=match):
        of(**options)
