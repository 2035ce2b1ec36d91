"""Flax's tree mode gives the same numbers as its graph mode.

    NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false python tests/test_tree_mode.py

prints the numbers of tree mode, the planned default of Flax (FLIP 5310).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from snnjax.calibration import calibrate, scale_to_rate
from snnjax.datasets import DeviceArrays, Splits, poisson_raster
from snnjax.diagnostics import probe
from snnjax.dynamics import LIF
from snnjax.losses import CrossEntropy
from snnjax.nn import Flatten, FluctuationDriven, Readout, Sequential, SpikingConv1d, SpikingDense
from snnjax.optimizers import smorms3
from snnjax.training import Objective, fit
from snnjax.training._params import flatten_params

LABELS = jnp.array([0, 1, 0, 1, 0, 1])


def build():
    """A convolution and a dense layer, both recurrent, and their inputs.

    The inputs are (time, batch, length, channels).
    """
    rngs, init = nnx.Rngs(0), FluctuationDriven(nu=40.0)
    neuron = LIF(
        tau_syn=np.linspace(5e-3, 15e-3, 8)
    )  # one value per neuron: an array beside the parameters
    layers = (
        SpikingConv1d(1, 4, kernel_size=5, stride=2, recurrent_kernel_size=3, init=init, rngs=rngs),
        Flatten(),
        SpikingDense(
            16, 8, neuron=neuron, trainable=("tau_mem",), init=init, recurrent=True, rngs=rngs
        ),
        Readout(8, 2, rngs=rngs),
    )
    return Sequential(*layers), poisson_raster(
        jax.random.key(0), (20, len(LABELS), 12, 1), rate=40.0, dt=2e-3
    )


def losses_of_an_own_loop(network, x):
    """The training loop of docs/coming-from.md."""
    optimizer = nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def train_step(network, optimizer, x, labels):
        loss, gradient = nnx.value_and_grad(lambda n: CrossEntropy()(n(x)[0], labels).mean())(
            network
        )
        optimizer.update(network, gradient)
        return loss

    return [float(train_step(network, optimizer, x, LABELS)) for _ in range(4)]


def numbers():
    """The usual operations of a user on a network: {what: list of numbers}."""
    network, x = build()
    # without the neuron that has arrays, because Flax cannot tabulate it in tree mode
    table = nnx.tabulate(Sequential(*network.layers[:2]), x, console_kwargs={"width": 200})
    found = {"readout": network(x)[0], "rows of the table": jnp.array(table.count("layers/"))}
    others = {
        "calibrate": nnx.jit(lambda network, x: calibrate(network, x)[0])(network, x),
        "rate": nnx.jit(lambda network, x: scale_to_rate(network, x, rate=50.0)[0])(network, x),
    }
    found["probe"] = jnp.concatenate(
        [jnp.ravel(a) for a in jax.tree.leaves(probe(network, x, LABELS))]
    )
    data = DeviceArrays(x=jnp.moveaxis(x, 0, 1), labels=LABELS)
    options = {"epochs": 2, "batch_size": 3, "key": jax.random.key(1)}
    found["fit"] = jnp.array(
        [
            row["train_loss"]
            for row in fit(network, Splits(data), Objective(), smorms3(5e-3), **options).history
        ]
    )
    others["fit"] = network
    for name, other in others.items():
        found |= {
            f"{name} {key}": a for key, a in flatten_params(nnx.state(other, nnx.Param)).items()
        }
    found["own loop"] = jnp.array(losses_of_an_own_loop(network, x))
    return {key: np.ravel(a).astype(float).tolist() for key, a in found.items()}


@pytest.mark.slow
@pytest.mark.newest
def test_numbers_are_those_of_graph_mode():
    env = os.environ | {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"}
    run = subprocess.run(
        [sys.executable, __file__],
        env=env,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.returncode == 0, run.stderr[-3000:]
    graph_mode, found = json.loads(run.stdout)
    assert not graph_mode
    wanted = numbers()
    assert wanted.keys() == found.keys()
    for key, values in wanted.items():
        assert np.isnan(values).sum() <= (key == "probe"), key  # the first layer has no gain
        assert not np.isinf(values).any(), key
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-6, err_msg=key)


if __name__ == "__main__":
    print(json.dumps([nnx.set_graph_mode.current_value(), numbers()]))
