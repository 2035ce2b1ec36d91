"""A network with Dale's law from an experiment: training, probe and sweep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.calibration import free_membrane
from snnjax.diagnostics import probe
from snnjax.dynamics._exc_inh import ExcInhDrive
from snnjax.experiments import Execution, Experiment, Sweep, run, run_sweep
from snnjax.experiments._run import prepare
from snnjax.nn._nonnegative import nonnegative
from snnjax.psp import Kernel

EXPERIMENT = Experiment.from_options(
    "randman",
    start="paper",
    model="dalian",
    recurrent=True,
    hidden=(16,),
    classes=2,
    samples=60,
    epochs=20,
    batch_size=24,
    learning_rate=3e-2,
    upper_strength=0.0,
)


@pytest.fixture(scope="module")
def prepared():
    return prepare(EXPERIMENT)


@pytest.mark.slow
def test_a_run_learns_and_keeps_its_weights_above_0():
    trained = run(EXPERIMENT)
    state = nnx.state(trained.network, nnx.Param)
    smallest = [
        float(np.min(w))
        for w, marked in zip(
            jax.tree.leaves(state), jax.tree.leaves(nonnegative(state)), strict=True
        )
        if marked
    ]
    assert len(smallest) == 3
    assert min(smallest) == 0  # the projection had an effect
    assert trained.fit.history[-1]["train_loss"] < 0.7 * trained.fit.history[0]["train_loss"]
    assert all(row["rate_1"] > 0 for row in trained.fit.history)


@pytest.mark.more
def test_data_driven_initialization_is_on_target():
    prepared = prepare(EXPERIMENT.replace(init="data_driven", hidden=(64,), sigma_u=1.2))
    x, _ = prepared.data.sample.batch(jnp.arange(len(prepared.data.sample)))
    layer = prepared.network.layers[0]
    u = free_membrane(layer.neuron, layer.whole_drive(x, layer(x).output))
    np.testing.assert_allclose(jnp.sqrt(u.var(axis=0).mean()), 1.2, rtol=0.06)
    assert abs(float(u.mean())) < 0.1


@pytest.mark.more
def test_probe_adds_up_all_three_connections(prepared):
    x, labels = prepared.data.sample.batch(jnp.arange(40))
    (p,) = probe(prepared.network, x, labels).layers
    layer = prepared.network.layers[0]
    z = layer(x).output
    weights = [
        np.asarray(w[...]) for w in (layer.kernel, layer.recurrent_kernel, layer.inhibitory_kernel)
    ]
    drive = ExcInhDrive(x @ weights[0] + z[..., :16] @ weights[1], z[..., 16:] @ weights[2])
    u = np.asarray(free_membrane(layer.neuron, drive))
    np.testing.assert_allclose(p.mu_u, u.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p.sigma_u, np.sqrt(u.var(axis=0).mean()), rtol=1e-4)
    rates = [float(s.mean()) / 2e-3 for s in (x, z[..., :16], z[..., 16:])]
    kernels = [Kernel(tau_syn=tau) for tau in (10e-3, 10e-3, 20e-3)]
    mean = [
        s * w.mean() * len(w) * nu * k.mean()
        for w, nu, k, s in zip(weights, rates, kernels, (1, 1, -1), strict=True)
    ]
    variance = [
        (w**2).mean() * len(w) * nu * k.power()
        for w, nu, k in zip(weights, rates, kernels, strict=True)
    ]
    np.testing.assert_allclose(p.predicted_mu_u, sum(mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p.predicted_sigma_u, np.sqrt(sum(variance)), rtol=1e-4)


@pytest.mark.slow
def test_a_sweep_keeps_them_too(tmp_path):
    sweep = Sweep(base=EXPERIMENT.replace(epochs=3), over={"sigma_u": (0.5, 1.5)}, seeds=1)
    together = Execution(placement="vmap")
    assert len(run_sweep(sweep, tmp_path / "sweep", execution=together).rows) == 2
    smallest = []
    for file in (tmp_path / "sweep" / "members").glob("*/*.npz"):
        with np.load(file) as arrays:
            smallest += [
                arrays[name].min()
                for name in arrays.files
                if "layers.0" in name and name.endswith("kernel")
            ]
    assert len(smallest) == 12  # final and best parameters of two members, three kernels each
    assert min(smallest) == 0
