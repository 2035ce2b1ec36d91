"""Networks that NIR cannot represent are refused when they are written, with the layer's name."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import require
from flax import nnx

from snnjax._pytree import pytree_dataclass
from snnjax.dynamics import LIF, AdaptiveLIF, LeakyIntegrator, Refractory
from snnjax.exchange import from_nir, load_nir, save_nir, to_nir
from snnjax.nn import (
    DalianDense,
    DalianFluctuationDriven,
    Delays,
    Flatten,
    Pool,
    Readout,
    Reshape,
    Sensory,
    Sequential,
    SpikingConv1d,
    SpikingConv2d,
    SpikingDense,
)
from snnjax.nn._conv import SpikingConv

require("nir")


def draw(key, shape, dtype=jnp.float32):
    return jnp.asarray(np.ones(shape), dtype)  # NumPy: JAX compiles `ones` for each shape


def dense(n_in=4, n_out=4, **options):
    return SpikingDense(n_in, n_out, init=draw, rngs=nnx.Rngs(0), **options)


def conv(n_in=2, n_out=2, *, kernel_size=3, **options):
    return SpikingConv2d(
        n_in, n_out, kernel_size=kernel_size, init=draw, rngs=nnx.Rngs(0), **options
    )


@pytree_dataclass
class OwnLIF(LIF):
    pass


class OwnDense(SpikingDense):
    pass


IMAGE = (8, 6, 2)


@pytest.mark.parametrize(
    ("layers", "features", "match"),
    [
        ([dense(), dense(neuron=AdaptiveLIF())], None, r"layers\[1\] \(SpikingDense\) .* its neuron must be a LIF, a Leaky or an IF, got AdaptiveLIF"),
        ([dense(neuron=Refractory(neuron=LIF()))], None, r"layers\[0\] \(SpikingDense\) .* its neuron must be a LIF, a Leaky or an IF, got Refractory"),
        ([dense(delays=Delays(max_delay=0.1))], None, r"layers\[0\] \(SpikingDense\) .* it has learned delays, up to 0.1 s"),
        ([dense(neuron=OwnLIF())], None, r"layers\[0\] \(SpikingDense\) .* its neuron must be a LIF, a Leaky or an IF, got OwnLIF"),
        ([Readout(4, 4, neuron=LIF(), rngs=nnx.Rngs(0))], None, r"layers\[0\] \(Readout\) .* its neuron must be a LeakyIntegrator, got LIF"),
        ([OwnDense(4, 4, init=draw, rngs=nnx.Rngs(0))], None, r"layers\[0\] \(OwnDense\) .* NIR has no such layer"),
        ([DalianDense(4, 4, init=DalianFluctuationDriven(nu=50.0), rngs=nnx.Rngs(0)), dense()], None, r"layers\[0\] \(DalianDense\) .* NIR has no such layer"),
        ([DalianDense(4, 4, init=DalianFluctuationDriven(nu=50.0), rngs=nnx.Rngs(0))], None, r"layers\[0\] \(DalianDense\) .* NIR has no such layer"),
        ([Sensory(4), dense()], (4,), r"layers\[0\] \(Sensory\) .* NIR has no such layer"),
        ([conv(), Flatten(), Reshape(2, 24), Flatten(), dense(48)], IMAGE, r"layers\[2\] \(Reshape\) .* NIR has no such layer"),
        ([dense(), Flatten()], None, r"layers\[1\] \(Flatten\) .* the last layer must be a layer of neurons"),
        ([Flatten()], (4,), r"layers\[0\] \(Flatten\) .* the last layer must be a layer of neurons"),
        ([Pool(2), Flatten(), dense(24)], IMAGE, r"layers\[0\] \(Pool\) .* NIR has no maximum"),
        ([conv(), Pool(2, kind="average"), Pool(2), Flatten(), dense(2)], IMAGE, r"layers\[2\] \(Pool\) .* NIR has no maximum"),
        ([SpikingConv1d(2, 2, kernel_size=3, init=draw, rngs=nnx.Rngs(0)), Pool(2), Flatten(), dense(6)], (8, 2), r"layers\[1\] \(Pool\) .* over two axes, got 1"),
        ([SpikingConv(2, 2, kernel_size=(1, 1, 1), init=draw, rngs=nnx.Rngs(0))], (3, 3, 3, 2), r"layers\[0\] \(SpikingConv\) .* one or two axes, got 3"),
        ([conv(kernel_size=(3, 2))], IMAGE, r"layers\[0\] \(SpikingConv2d\) .* computes \(6, 4\) positions instead of \(6, 5\)"),
        ([conv(stride=2, padding="same")], IMAGE, r"layers\[0\] \(SpikingConv2d\) .* padding 'same' with stride \(2, 2\) is \[\(0, 1\), \(0, 1\)\]"),
        ([dense(neuron=LIF(spike=jnp.tanh))], None, r"layers\[0\] \(SpikingDense\) .* its spike must be a SpikeFunction"),  # pyright: ignore
        ([conv()], None, r"features must be given, .*; the layers do not determine all sizes, \(None, None, 2\)"),
        ([Flatten(), dense()], None, "features must be given, .*; the layers do not determine it"),
        ([dense()], (5,), r"layers\[0\] \(SpikingDense\) .* expects 4 inputs but gets 5"),
        ([dense()], (0,), "features must be >= 1, got 0"),
        ([conv()], (2, 2, 2), r"layers\[0\] \(SpikingConv2d\) .* spatial must be at least kernel_size"),
    ],
    ids=lambda v: v[:40] if isinstance(v, str) else "",
)  # fmt: skip
def test_layers_that_nir_has_not(layers, features, match):
    with pytest.raises(ValueError, match=re.compile(match, re.DOTALL)):
        to_nir(Sequential(*layers), features=features)


def test_an_ensemble_is_not_a_network():
    ensemble = jax.vmap(lambda key: Sequential(SpikingDense(4, 3, init=draw, rngs=nnx.Rngs(key))))(
        jax.random.split(jax.random.key(0), 2)
    )
    with pytest.raises(
        ValueError,
        match=r"layers\[0\] \(SpikingDense\) .* kernel of shape \(2, 4, 3\) is that of an ensemble",
    ):
        to_nir(ensemble)


def test_arguments():
    with pytest.raises(
        TypeError, match=r"network must be a snnjax\.nn\.Sequential, got SpikingDense"
    ):
        to_nir(dense())
    with pytest.raises(
        ValueError, match="scheme must be one of 'exponential', 'euler', got 'exact'"
    ):
        to_nir(Sequential(dense()), scheme="exact")


def test_without_nir(monkeypatch, tmp_path):
    real = importlib.import_module

    def without(name, *args):
        if name == "nir":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    network, path = Sequential(dense()), tmp_path / "a.nir"
    for call in (
        lambda: to_nir(network),
        lambda: from_nir(None),
        lambda: save_nir(path, network),
        lambda: load_nir(path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'snnjax\[nir\]'"):
            call()


def test_readout_alone_is_a_network():
    network = Sequential(
        Readout(4, 3, neuron=LeakyIntegrator(), kernel_init=draw, rngs=nnx.Rngs(0))
    )
    back = from_nir(to_nir(network))
    x = jnp.asarray(np.random.default_rng(0).poisson(0.2, (20, 2, 4)), float)
    np.testing.assert_array_equal(network(x)[0], back(x)[0])
