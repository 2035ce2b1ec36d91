"""The `paper` presets: each network and task builds, lowers for GPU and TPU, and runs two steps.

Data are artificial but have the real shape: units, classes, pixels, steps. Batches have two samples
instead of 16 to 400, to fit the memory of a test machine.
"""

import jax
import numpy as np
import pytest

from snnjax.datasets import Splits
from snnjax.experiments import generated
from snnjax.experiments._data import load
from snnjax.experiments._group import program_of
from snnjax.reproduce._settings import Options
from snnjax.reproduce._targets import TARGETS
from snnjax.reproduce._units import Arm
from snnjax.training import Trainer
from snnjax.training._step import train_epoch

pytestmark = pytest.mark.more

SAMPLES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a data folder; they are never read."""
    root = tmp_path_factory.mktemp("data")
    for name in ("shd/shd_train.h5", "tfds/cifar10", "dvs_gesture/ibmGestureTrain"):
        (root / name).mkdir(parents=True)
    return root


def studies(folder):
    return {
        name: make(Options("paper", folder)) for name, make in TARGETS.items() if name != "table1"
    }


def kind(arm):
    """The settings that determine the training step's program; drawing weights does not."""
    base = arm.sweep.base
    network, bounds = base.network, base.objective
    return (
        base.task.name,
        network.name,
        network.widths if network.name in ("dense", "dalian") else network.depth,
        network.recurrent,
        network.skip,
        base.neuron.surrogate,
        base.optimizer.name,
        bounds.upper_strength > 0 or bounds.lower_strength > 0,
    )


# all kinds of the paper presets, by name
KINDS = {
    "randman": ("randman", "dense", (128,), False, False, "superspike", "smorms3", True),
    "feed-forward": ("shd", "dense", (128,), False, False, "superspike", "smorms3", True),
    "no bounds": ("shd", "dense", (128,), False, False, "superspike", "smorms3", False),
    "recurrent": ("shd", "dense", (128,), True, False, "superspike", "smorms3", True),
    "160 neurons": ("shd", "dense", (160,), True, False, "superspike", "smorms3", True),
    "dalian": ("shd", "dalian", (128,), True, False, "superspike", "smorms3", True),
    "1 layer": ("shd", "csnn", 1, True, False, "superspike", "smorms3", True),
    "3 layers": ("shd", "csnn", 3, True, False, "superspike", "smorms3", True),
    "3 layers, rescaled": (
        "shd",
        "csnn",
        3,
        True,
        False,
        "superspike_rescaled",
        "smorms3",
        True,
    ),
    "3 layers, SGD": ("shd", "csnn", 3, True, False, "superspike", "sgd", True),
    "7 layers": ("shd", "csnn", 7, True, False, "superspike", "smorms3", True),
    "7 layers, skip": ("shd", "csnn", 7, True, True, "superspike", "smorms3", True),
    "10 layers": ("shd", "csnn", 10, True, False, "superspike", "smorms3", True),
    "cifar10, 2": ("cifar10", "csnn", 2, False, False, "superspike", "smorms3", True),
    "cifar10, 4": ("cifar10", "csnn", 4, False, False, "superspike", "smorms3", True),
    "dvs, 6": ("dvs-gesture", "csnn", 6, False, False, "superspike", "smorms3", True),
    "dvs, 8": ("dvs-gesture", "csnn", 8, False, False, "superspike", "smorms3", True),
}

RUN = ("randman", "dalian", "10 layers", "cifar10, 4", "dvs, 6")
"""Compiled and run here: each task, each kind of layer and the deepest networks. The others are lowered alone."""
QUICK = ("randman", "recurrent")
MORE = ("3 layers", "cifar10, 2")
"""Run by `make test` and `make more`. The others, by `make slow`."""


def arms(folder):
    found = {}
    for study in studies(folder).values():
        for arm in (u for u in study.units if isinstance(u, Arm)):
            found.setdefault(kind(arm), arm)
    return found


def test_these_are_all(folder):
    assert set(arms(folder)) == set(KINDS.values())


def test_they_have_the_papers_sizes(folder):
    for study in studies(folder).values():
        for arm in (u for u in study.units if isinstance(u, Arm)):
            base, over = arm.sweep.base, arm.sweep.over
            assert arm.columns["as_published"]
            assert len(arm.sweep.seeds) == 5
            assert (base.training.epochs, base.neuron.dt) == (200, 2e-3)
            assert "sigma_u" not in over or 1.0 in over["sigma_u"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[] if name in QUICK else pytest.mark.more if name in MORE else pytest.mark.slow,
        )
        for name in KINDS
    ],
)
def test_a_step_lowers_for_accelerators_and_two_run(folder, name):
    arm = arms(folder)[KINDS[name]]
    # Kaiming's eight layers are silent, so there are no updates
    changes = {"batch_size": 2, "init": "fluctuation_driven"}
    changes |= {"stream": False} if arm.sweep.base.task.streamed else {}
    changes |= {"calibration_samples": 2} if arm.sweep.base.task.name == "cifar10" else {}
    experiment = arm.sweep.base.replace(**changes)
    sets = Splits(
        *(
            part.subset(np.arange(len(part))[:SAMPLES]) if name == "randman" else part
            for part in generated(experiment, sizes=(SAMPLES, 2, 2))
        )
    )
    data = load(experiment, sets)
    program = program_of(experiment, data)
    member = arm.sweep.members()[0] | {
        k: 1.0 for k in ("sigma_u", "sigma_w") if k in arm.sweep.over
    }
    network = program.network(member)
    if program.start is not None:
        network = program.start(member, network, data.splits)
    trainer = Trainer(
        network,
        program.objective(member),
        program.optimizer(member),
        batch_size=2,
        micro_batch=2,
        devices=1,
    )
    params, state, train = trainer.params, trainer.init(), data.splits.train
    recipe = trainer.recipe(trainer.sizes(train))
    epoch = jax.jit(lambda s, d, k: train_epoch(recipe, s, d, k)).trace(
        state, train, jax.random.key(0)
    )
    text = epoch.lower(lowering_platforms=("cuda", "tpu")).as_text()
    assert "stablehlo.while" in text  # the scan over time
    if name not in RUN:
        return
    after, metrics = epoch.lower().compile({"xla_backend_optimization_level": 0})(
        state, train, jax.random.key(0)
    )
    assert bool(after.healthy)
    assert np.isfinite(float(metrics.loss))
    # at least two updates of the readout, for any gradients of the hidden layers
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True)
    ]
    assert any(moved)
    assert SAMPLES // experiment.training.batch_size == 2
