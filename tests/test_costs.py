"""Counts of operations, compared with loops over all spikes and synapses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.datasets import poisson_raster
from snnjax.diagnostics import costs, probe
from snnjax.nn import (
    DalianDense,
    DalianFluctuationDriven,
    Flatten,
    FluctuationDriven,
    Pool,
    Readout,
    Sequential,
    Spiking,
    SpikingConv2d,
    SpikingDense,
)
from snnjax.nn._maps import LinearMap

INIT, STEPS, BATCH = FluctuationDriven(nu=20.0), 40, 3


def spikes(*features, rate=60.0, seed=0):
    return poisson_raster(jax.random.key(seed), (STEPS, BATCH, *features), rate=rate, dt=2e-3)


def test_a_dense_recurrent_network_is_counted_by_hand():
    rngs = nnx.Rngs(0)
    network = Sequential(
        SpikingDense(20, 16, init=INIT, recurrent=True, rngs=rngs),
        SpikingDense(16, 8, init=INIT, rngs=rngs),
        Readout(8, 3, rngs=rngs),
    )
    x = spikes(20)
    _, activity = network(x)
    first, second = (np.asarray(z).sum() / BATCH for z in activity.spikes)
    counted = costs(network, x)
    arriving = float(x.sum()) / BATCH
    assert counted.spikes == pytest.approx(first + second)
    assert counted.operations == pytest.approx(arriving * 16 + first * (16 + 8) + second * 3)
    assert counted.macs == STEPS * (20 * 16 + 16 * 16 + 16 * 8 + 8 * 3)
    assert counted.operations > 0


def test_a_convolution_is_counted_by_a_loop_over_positions():
    rngs = nnx.Rngs(0)
    conv = SpikingConv2d(2, 4, kernel_size=3, stride=2, padding=1, init=INIT, rngs=rngs)
    network = Sequential(conv, Pool(2), Flatten(), Readout(3 * 3 * 4, 5, rngs=rngs))
    x = spikes(11, 10, 2)
    z = np.asarray(conv(x).output)
    assert z.shape[2:] == (6, 5, 4)
    pooled = np.asarray(network.layers[1](conv(x).output).output)
    network = Sequential(
        conv, Pool(2), Flatten(), Readout(int(np.prod(pooled.shape[2:])), 5, rngs=rngs)
    )
    operations = macs = 0.0
    counts = np.asarray(x).sum(axis=(0, 1)) / BATCH
    for row, column in np.ndindex(6, 5):
        for i, j in np.ndindex(3, 3):
            y, c = 2 * row + i - 1, 2 * column + j - 1
            if 0 <= y < 11 and 0 <= c < 10:
                operations += counts[y, c].sum() * 4
                macs += 2 * 4
    operations += pooled.sum() / BATCH * 5
    macs += pooled[0, 0].size * 5
    counted = costs(network, x)
    assert counted.operations == pytest.approx(operations, rel=1e-6)
    assert counted.macs == STEPS * macs
    assert counted.spikes == pytest.approx(z.sum() / BATCH)


def test_connections_that_a_map_leaves_out_do_not_count():
    @dataclasses.dataclass(frozen=True)
    class Diagonal(LinearMap):
        def project(self, x, kernel):
            return x @ jnp.where(np.eye(self.in_features), kernel, 0)

    layer = Spiking(Diagonal(12, 12), init=INIT, rngs=nnx.Rngs(0))
    network = Sequential(layer, Readout(12, 2, rngs=nnx.Rngs(1)))
    x = spikes(12)
    z = float(layer(x).output.sum()) / BATCH
    counted = costs(network, x)
    assert counted.operations == pytest.approx(float(x.sum()) / BATCH + 2 * z)
    assert counted.macs == STEPS * (12 + 24)


def test_inhibitory_connections_count():
    layer = DalianDense(20, 16, init=DalianFluctuationDriven(nu=20.0), rngs=nnx.Rngs(0))
    network = Sequential(layer, Readout(16, 2, rngs=nnx.Rngs(1)))
    x = spikes(20)
    z = layer(x).output.sum(axis=(0, 1)) / BATCH
    inhibitory = float(z[layer.n_exc :].sum())
    units = layer.n_exc + layer.n_inh
    expected = float(x.sum()) / BATCH * units + inhibitory * units
    counted = costs(network, x)
    assert counted.operations == pytest.approx(
        expected + 2 * float(z[: layer.n_exc].sum()), rel=1e-5
    )


def test_counts_of_spikes_count_with_their_value_and_other_numbers_once():
    network = Sequential(
        SpikingDense(4, 5, init=INIT, rngs=nnx.Rngs(0)), Readout(5, 2, rngs=nnx.Rngs(1))
    )
    x = jnp.zeros((STEPS, 1, 4)).at[0, 0].set(jnp.array([0.0, 1.0, 3.0, 0.0]))
    for inputs, entries in ((x, 4), (0.3 * x, 2)):
        counted = costs(network, inputs)
        assert counted.operations == entries * 5 + 2 * counted.spikes


def test_the_probe_shows_them():
    rngs = nnx.Rngs(0)
    network = Sequential(SpikingDense(20, 16, init=INIT, rngs=rngs), Readout(16, 3, rngs=rngs))
    x = spikes(20)
    found, counted = probe(network, x, jnp.array([0, 1, 2])), costs(network, x)
    np.testing.assert_allclose(found.costs, counted, rtol=1e-6)
    assert str(counted).split(";")[0] in " ".join(str(found).split())
    assert f"<p>{counted}</p>" in found._repr_html_()
    assert max(map(len, str(found).splitlines())) <= 79
