import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _support import REPOSITORY, device_flags

from snnjax.diagnostics import probe
from snnjax.experiments import Experiment, run
from snnjax.experiments._build import build_optimizer
from snnjax.experiments._data import load, spread
from snnjax.experiments._group import program_of
from snnjax.experiments._run import prepare
from snnjax.training import fit_ensemble
from snnjax.training._ensemble import Snapshot, _epoch, _How, _start, check_members

EXPERIMENT = Experiment.from_options(
    "randman",
    start="paper",
    classes=3,
    samples=40,
    batch_size=24,
    hidden=(20,),
    epochs=3,
    optimizer="adam",
    learning_rate=0.02,
    init="data_driven_balanced",
    dt=4e-3,
)
MEMBERS = {
    "seed": np.array([0, 1, 2, 0]),
    "sigma_u": np.array([1.0, 0.7, 0.5, 2.0]),
    "learning_rate": np.array([0.02, 0.02, 0.01, 0.005]),
}


@pytest.fixture(scope="module")
def task():
    data = load(EXPERIMENT)
    return program_of(EXPERIMENT, data), data.splits


def train(task, members=None, *, placement="map", **options):
    program, sources = task
    settings = {name: options.pop(name) for name in program._fields if name in options}
    options = {"epochs": 3, "dt": 4e-3, "placement": placement} | options
    members = MEMBERS if members is None else members
    return fit_ensemble(program._replace(**settings), members, sources, **options)


@pytest.fixture(scope="module")
def trained(task):
    return train(task)


def assert_same(a, b, **tolerance):
    """Assert that two results are equal, bit for bit unless a tolerance is given."""
    close = (
        (lambda x, y: np.testing.assert_allclose(x, y, **tolerance))
        if tolerance
        else np.testing.assert_array_equal
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        close(x, y)


@pytest.mark.slow
def test_a_member_is_the_run_it_would_be_alone(trained):
    """After three epochs; later, rounding changes single spikes."""
    for k in (1, 3):
        member = {name: values[k].item() for name, values in MEMBERS.items()}
        alone = run(EXPERIMENT.replace(**member)).fit  # the same as `snnjax train`
        for name, values in trained.history.items():
            np.testing.assert_allclose(
                values[k], [row[name] for row in alone.history], rtol=2e-4, atol=2e-5, err_msg=name
            )
        assert trained.best_epoch[k] == alone.best_epoch
        for which in ("final", "best"):
            assert trained.test[which]["accuracy"][k] == pytest.approx(
                alone.test[which]["accuracy"]
            )
            assert trained.test[which]["rate_1"][k] == pytest.approx(
                alone.test[which]["rate_1"], rel=1e-3
            )
            ours = jax.tree.leaves(getattr(trained, which))
            for a, b in zip(ours, jax.tree.leaves(getattr(alone, which)), strict=True):
                np.testing.assert_allclose(a[k], b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_vmap_gives_the_numbers_of_one_after_another(task, trained):
    batched = train(task, placement="vmap")
    assert_same(batched.history, trained.history, rtol=1e-3, atol=1e-4)
    assert_same(batched.final, trained.final, rtol=1e-2, atol=1e-4)


@pytest.mark.more
def test_a_member_does_not_depend_on_the_others(task, trained):
    some = [2, 0, 0, 2]  # as many as in `trained`: the same program
    again = train(task, {name: values[some] for name, values in MEMBERS.items()})
    assert_same(again.history, {name: values[some] for name, values in trained.history.items()})
    assert_same(again.final, jax.tree.map(lambda a: a[some], trained.final))


@pytest.mark.parametrize("epoch", [0, 2])
def test_resumed_is_the_run_that_never_stopped(task, trained, epoch):
    snapshots: list[Snapshot] = []
    train(task, on_epoch=[snapshots.append])
    assert [s.epoch for s in snapshots] == [0, 1, 2, 3]
    again = train(task, resume=lambda like: snapshots[epoch])
    assert_same(again, trained)


def test_a_member_that_is_not_finite_is_frozen_and_the_others_go_on(task, trained):
    members = {name: values.copy() for name, values in MEMBERS.items()}
    members["learning_rate"][1] = 3e38  # the first update overflows
    result = train(task, members)
    assert result.finite.tolist() == [True, False, True, True]
    others = [0, 2, 3]
    assert_same(
        {n: v[others] for n, v in result.history.items()},
        {n: v[others] for n, v in trained.history.items()},
    )
    assert np.isfinite(jax.tree.leaves(result.final)[0][1]).all()
    assert np.isnan(result.history["valid_accuracy"][1, -1])
    assert result.epochs[1] < 3


@pytest.mark.slow
def test_members_that_share_an_order_see_the_same_batches(task, trained):
    shared = train(task, order="shared")
    # the shared order is that of seed 0; without training, there is no difference
    assert_same(shared.history["valid_loss"][:, 0], trained.history["valid_loss"][:, 0])
    assert (
        (shared.history["train_loss"][:, 1] == trained.history["train_loss"][:, 1])
        == (MEMBERS["seed"] == 0)
    ).all()
    program, sources = task
    seen = []
    objective = lambda hyper: dataclasses.replace(program.objective(hyper), loss=note)

    def note(readout, labels):
        jax.debug.callback(lambda x: seen.append(tuple(x.tolist())), labels)
        return jnp.sum(readout, axis=(0, 2))

    members, runs = {"seed": np.array([0, 1])}, {}
    for order in ("shared", "member"):
        seen.clear()
        fit_ensemble(
            program._replace(objective=objective, batch_size=96, order=order),
            members,
            sources,
            epochs=1,
            dt=4e-3,
            placement="map",
        )
        jax.effects_barrier()
        runs[order] = len(
            set(seen)
        )  # of the evaluations, which read the data in their own order, and of the epoch
    assert runs["member"] == runs["shared"] + 1


@pytest.mark.slow
def test_what_the_program_looks_at_before_training_is_kept(task, trained):
    members = {name: values[[1, 3]] for name, values in MEMBERS.items()}
    for k, seed, sigma_u, rate in zip(
        (1, 3), *(members[n] for n in ("seed", "sigma_u", "learning_rate")), strict=True
    ):
        alone = prepare(
            EXPERIMENT.replace(seed=int(seed), sigma_u=float(sigma_u), learning_rate=float(rate))
        )
        x, labels = alone.data.sample.batch(spread(alone.data.sample, 64))
        expected = probe(alone.network, x, labels, optimizer=build_optimizer(alone.experiment))
        for name in ("sigma_u", "grad_z", "grad_w", "update"):
            np.testing.assert_allclose(
                trained.initial[f"{name}_1"][k],
                getattr(expected.layers[0], name),
                rtol=2e-3,
                err_msg=name,
            )
    assert train(task, members, epochs=1)[-1].keys() == trained.initial.keys()
    program, sources = task
    assert train((program._replace(look=None), sources), members, epochs=1).initial == {}


@pytest.mark.slow
def test_the_best_epoch_is_never_one_of_priming(task):
    experiment = EXPERIMENT.replace(init="fluctuation_driven", optimizer="sgd", lower_threshold=5.0)
    data = load(experiment)
    sources, members = (
        data.splits,
        {"seed": np.array([0, 1]), "learning_rate": np.array([3e38, 0.0])},
    )
    result = fit_ensemble(
        program_of(experiment, data)._replace(priming_epochs=2, patience=2),
        members,
        sources,
        epochs=4,
        dt=4e-3,
        placement="map",
    )
    assert result.finite.tolist() == [False, True]
    assert result.best_epoch.tolist() == [0, 3]
    assert result.epochs[1] == 5  # patience counts from the end of priming


def test_patience_stops_members_one_by_one(task):
    result = train(
        task, {**MEMBERS, "learning_rate": np.array([0.0, 0.02, 0.02, 0.02])}, epochs=6, patience=2
    )
    accuracy = result.history["valid_accuracy"]
    # without learning, the first epoch remains the best
    assert (result.best_epoch[0], result.epochs[0]) == (1, 3)
    for k in range(4):
        done = result.epochs[k]
        assert result.best_epoch[k] == 1 + np.nanargmax(accuracy[k, 1 : done + 1])
        assert done == min(result.best_epoch[k] + 2, 6)
        assert np.isnan(accuracy[k, done + 1 :]).all()


@pytest.mark.slow
def test_priming_wakes_a_silent_layer_and_learns_no_class():
    silent = EXPERIMENT.replace(
        init="fluctuation_driven",
        sigma_u=0.05,
        lower_strength=100.0,
        lower_threshold=0.5,
        epochs=1,
        priming_epochs=4,
    )
    data = load(silent)
    sources, members = data.splits, {"seed": np.array([0, 1])}
    options = {"epochs": 1, "dt": 4e-3, "placement": "map"}
    result = fit_ensemble(program_of(silent, data), members, sources, **options)
    assert (result.history["rate_1"][:, 0] < 0.1).all()
    assert (result.history["rate_1"][:, 4] > 0.5).all()
    assert (result.best_epoch == 5).all()
    # the same phases in `fit`
    alone = run(silent).fit
    np.testing.assert_allclose(
        result.history["rate_1"][0], [row["rate_1"] for row in alone.history], rtol=1e-3
    )
    assert alone.best_epoch == 5


SHARDED = """
    import sys
    sys.path.insert(0, {tests!r})
    import jax, numpy as np
    if len(sys.argv) > 2:
        jax.distributed.initialize(f"127.0.0.1:{{sys.argv[2]}}", 2, int(sys.argv[3]))
    from training.test_ensemble import EXPERIMENT, load, program_of, train
    assert jax.device_count() == {devices}
    data = load(EXPERIMENT)
    task = program_of(EXPERIMENT, data), data.splits
    members = {{"seed": np.arange(16) % 8, "sigma_u": np.repeat([0.7, 1.5], 8)}}
    result = train(task, members, placement=sys.argv[1], epochs=2)
    if jax.process_index() == 0:
        leaves = jax.tree.leaves(result)
        np.savez({file!r} if len(sys.argv) < 5 else sys.argv[4], **{{str(k): a for k, a in enumerate(leaves)}})
"""


def start(tmp_path, name, devices, *arguments, total=None):
    """A separate process with this number of devices; returns the file of its result."""
    script, file = tmp_path / f"{name}.py", tmp_path / f"{name}.npz"
    tests = str(REPOSITORY / "tests")
    script.write_text(
        textwrap.dedent(SHARDED.format(tests=tests, devices=total or devices, file=str(file)))
    )
    env = os.environ | {
        "XLA_FLAGS": device_flags(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], env=env, stderr=subprocess.PIPE, text=True
    ), file


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-4000:]


@pytest.mark.slow
def test_sixteen_members_on_eight_devices_and_on_two_processes_are_those_of_one(tmp_path):
    one, alone = start(tmp_path, "one", 1, "map")
    finish(one)
    eight, sharded = start(tmp_path, "eight", 8, "shard")
    finish(eight)
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    file = str(tmp_path / "two.npz")
    processes = [
        start(tmp_path, f"two{k}", 4, "shard", port, str(k), file, total=8)[0] for k in range(2)
    ]
    finish(*processes)
    expected = np.load(alone)
    assert len(expected.files) > 10
    for other in (sharded, file):
        found = np.load(other)
        for name in expected.files:
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_epoch_lowers_for_accelerators(task, platform):
    program, sources = task
    hypers = {name: jnp.asarray(v) for name, v in check_members(MEMBERS).items()}
    how = _How(program, "vmap")
    ensemble = jax.eval_shape(lambda h, s: how.compiled(_start)(h, s)[0], hypers, sources)
    epoch = jax.jit(lambda e, s: how.compiled(_epoch)(e, s)[1])
    exported = jax.export.export(epoch, platforms=[platform])(ensemble, sources)
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape == (4,)


@pytest.mark.parametrize(
    ("members", "options", "error", "match"),
    [
        ({"sigma_u": np.ones(2)}, {}, ValueError, "members must hold a seed for each member"),
        (
            {"seed": np.array([1, 2**32])},
            {},
            ValueError,
            "seed must be >= 0 and < 2.31, got 1 to 4294967296",
        ),
        (
            {"seed": np.arange(2), "sigma_u": ["a", "b"]},
            {},
            TypeError,
            "sigma_u must be numbers, got <U1",
        ),
        (
            None,
            {"micro_batch": 5},
            ValueError,
            "micro_batch must be a divisor of batch_size 24, got 5",
        ),
        ({"seed": np.ones(2)}, {}, TypeError, "seed must be integers, got float64"),
        (
            {"seed": np.arange(2), "sigma_u": np.ones(3)},
            {},
            ValueError,
            "members must hold arrays .* of one length",
        ),
        ({"seed": np.arange(0)}, {}, ValueError, "members must hold arrays .* at least 1"),
        (
            None,
            {"placement": "everywhere"},
            ValueError,
            "placement must be one of 'auto', 'vmap', 'map', 'shard'",
        ),
        (None, {"epochs": 0}, ValueError, "epochs must be >= 1"),
        (
            None,
            {"order": "random"},
            ValueError,
            "order must be one of 'member', 'shared', got 'random'",
        ),
        (None, {"patience": 0}, ValueError, "patience must be >= 1"),
        (None, {"priming_epochs": -1}, ValueError, "priming_epochs must be >= 0"),
        (
            None,
            {"batch_size": 1000},
            ValueError,
            "batch_size must be at most the number of training samples 96, got 1000",
        ),
    ],
)
def test_errors(task, members, options, error, match):
    with pytest.raises(error, match=match):
        train(task, members, **options)
