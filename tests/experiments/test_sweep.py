import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from benchmarks import kill_sweep
from snnjax._flags import parse_values
from snnjax.datasets import Augmented, DeviceEvents, randman
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments import (
    Execution,
    Experiment,
    Sweep,
    _engine,
    _group,
    _sweep,
    _sweep_folder,
    run_sweep,
)
from snnjax.experiments._data import plain
from snnjax.experiments._results import read_csv

BASE = Experiment.from_options(
    "randman",
    classes=3,
    samples=40,
    batch_size=24,
    hidden=(20,),
    epochs=3,
    optimizer="adam",
    learning_rate=0.02,
    dt=4e-3,
)
SWEEP = Sweep(base=BASE, over={"sigma_u": (0.5, 1.5)}, seeds=2)
TWO = Execution(wave=2, placement="map")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    return run_sweep(SWEEP, folder, execution=TWO)


def stop_after(calls):
    """A callback that interrupts at the given call."""
    seen = []

    def callback(*_):
        seen.append(None)
        if len(seen) == calls:
            raise KeyboardInterrupt

    return callback


@pytest.mark.slow
def test_results_have_a_row_a_member(whole):
    with (whole.folder / "results.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [(float(r["sigma_u"]), int(r["seed"])) for r in rows] == [
        (0.5, 0),
        (0.5, 1),
        (1.5, 0),
        (1.5, 1),
    ]
    assert all(r["finite"] == "True" and r["epochs"] == "3" for r in rows)
    for row, written in zip(whole.rows, rows, strict=True):
        assert {name: str(value) for name, value in row.items()} == written
    # 12 samples each; the weaker initialization fires less
    assert all(round(12 * r["test_accuracy_final"], 4).is_integer() for r in whole.rows)
    assert max(r["initial_rate_1"] for r in whole.rows[:2]) < min(
        r["initial_rate_1"] for r in whole.rows[2:]
    )
    assert not (whole.folder / "waves").exists()
    # smaller weights: a smaller membrane; the gradient of every member was measured
    assert max(r["initial_sigma_u_1"] for r in whole.rows[:2]) < min(
        r["initial_sigma_u_1"] for r in whole.rows[2:]
    )
    assert all(r["initial_grad_w_1"] > 0 for r in whole.rows)
    # 50 steps of 20 inputs, 20 neurons and 3 outputs
    assert all(r["macs"] == 50 * (20 * 20 + 20 * 3) for r in whole.rows)
    assert all(3 * r["spikes"] < r["operations"] < r["macs"] for r in whole.rows)
    for row in whole.rows:
        member = {name: row[name] for name in ("sigma_u", "seed")}
        history = read_csv(_sweep_folder.member_folder(whole.folder, member) / "metrics.csv")
        assert [epoch["epoch"] for epoch in history] == [0, 1, 2, 3]
        assert history[-1]["valid_accuracy"] == row["valid_accuracy"]
        reached = np.array([epoch["train_accuracy"] for epoch in history]) >= 0.9
        assert (
            row["epochs_to_90"] == reached.argmax()
            if reached.any()
            else np.isnan(row["epochs_to_90"])
        )
    assert (whole.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_for_one_or_two_swept_parameters(tmp_path):
    names = ("test_accuracy_final", "train_accuracy", "initial_rate_1", "final_rate_1")
    row = {"seed": 0, "finite": True} | dict.fromkeys(names, 0.5)
    for varied, drawn in (
        ({}, False),
        ({"sigma_u": 2.0}, True),
        ({"mu_w": 1.0, "sigma_w": 1.0}, True),
        ({"mu_w": 1.0, "mu_u": 1.0, "beta": 5.0}, False),
        ({"init": "lsuv"}, False),
        ({"recurrent": True}, False),
    ):
        first = {name: type(value)() for name, value in varied.items()}
        rows = [member | row for member in (first, varied)]
        file = tmp_path / f"{'-'.join(varied)}.png"
        assert _sweep_folder.draw(rows, file) is drawn
        assert file.exists() is drawn


# in the first wave; in the second wave before its first epoch, and after its last epoch
@pytest.mark.parametrize("calls", [2, 5, 8])
@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_identical(whole, tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, tmp_path / "cut", execution=TWO, on_epoch=[stop_after(calls)])
    run_sweep(SWEEP, tmp_path / "cut", execution=TWO, resume=True)
    assert kill_sweep.differences(whole.folder, tmp_path / "cut") == []


@pytest.mark.slow
def test_any_option_is_swept_in_groups_and_resumed_bit_identical(tmp_path):
    """Depth changes shapes: each depth is a group, whose members train together."""
    sweep = Sweep(
        base=BASE.replace(epochs=2, hidden=(8,)),
        over={"depth": (1, 2), "sigma_u": (0.5, 1.5)},
        seeds=2,
    )
    together = Execution(placement="map")
    seen = []
    whole = run_sweep(
        sweep, tmp_path / "whole", execution=together, on_epoch=[lambda *args: seen.append(args)]
    )
    # two waves of four members, two epochs each, from the untrained network on
    assert [(s.epoch, done, size) for s, done, size in seen] == [
        (epoch, done, 4) for done in (0, 4) for epoch in (0, 1, 2)
    ]
    assert [(r["depth"], r["sigma_u"], r["seed"]) for r in whole.rows] == [
        (depth, sigma_u, seed) for depth in (1, 2) for sigma_u in (0.5, 1.5) for seed in (0, 1)
    ]
    assert ["initial_rate_2" in row for row in whole.rows] == 4 * [False] + 4 * [True]
    # in the second group, after its first epoch
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "cut", execution=together, on_epoch=[stop_after(5)])
    run_sweep(sweep, tmp_path / "cut", execution=together, resume=True)
    assert kill_sweep.differences(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.slow
def test_choices_layers_and_none_are_swept(tmp_path):
    base = BASE.replace(epochs=1, hidden=(8,))
    over = {"init": ("data_driven", "lsuv"), "hidden": ((8,), (6, 4)), "tau_readout": (None, 0.1)}
    sweep = Sweep(base=base, over=over, seeds=1)
    rows = run_sweep(sweep, tmp_path / "sweep", figure=False).rows
    assert [(row["init"], row["hidden"], row["tau_readout"]) for row in rows] == [
        (init, hidden, tau)
        for init in ("data_driven", "lsuv")
        for hidden in ("8", "6x4")
        for tau in ("None", 0.1)
    ]
    assert (tmp_path / "sweep/members/hidden=6x4,init=lsuv,seed=0,tau_readout=None").is_dir()
    again = run_sweep(sweep, tmp_path / "sweep", figure=False, resume=True)
    assert again.rows == rows


@pytest.mark.slow
def test_finished_members_are_never_trained_again(whole, monkeypatch):
    trained = []
    original = _group.fit_ensemble

    def spy(program, members, *args, **options):
        trained.append({name: values.tolist() for name, values in members.items()})
        return original(program, members, *args, **options)

    monkeypatch.setattr(_group, "fit_ensemble", spy)
    before = {p: p.read_bytes() for p in (whole.folder / "members").glob("*/*")}
    again = run_sweep(SWEEP, whole.folder, execution=TWO, resume=True)
    assert trained == []
    assert again.rows == whole.rows
    larger = Sweep(base=BASE, over={"sigma_u": (0.5,)}, seeds=3)
    more = run_sweep(larger, whole.folder, execution=TWO, resume=True)
    assert trained == [{"sigma_u": [0.5], "seed": [2]}]
    # earlier members are still there
    assert more.rows[:4] == whole.rows
    assert [(r["sigma_u"], r["seed"]) for r in more.rows[4:]] == [(0.5, 2)]
    with (whole.folder / "results.csv").open() as f:
        assert len(list(csv.DictReader(f))) == 5
    assert len(before) == 16
    assert {p: p.read_bytes() for p in before} == before


def test_one_process_at_a_time(tmp_path):
    with (
        _sweep_folder.alone(tmp_path),
        pytest.raises(BlockingIOError, match="another process trains in"),
    ):
        run_sweep(SWEEP, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_wave_goes_on_on_other_devices(whole, tmp_path):
    """Its checkpoint has only the members, not the padding for the devices."""
    sweep = Sweep(base=BASE, over={"sigma_u": (0.5,)}, seeds=3)
    three = Execution(wave=3, placement="map")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "cut", execution=three, on_epoch=[stop_after(3)])
    script = f"""
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        from pathlib import Path
        from snnjax.experiments import Execution, Experiment, Sweep, run_sweep
        base = Experiment.from_options(**{BASE.options()!r})
        sweep = Sweep(base=base, over={sweep.over!r}, seeds=3)
        folder, shard = Path({str(tmp_path / "cut")!r}), Execution(wave=3, placement="shard")
        rows = run_sweep(sweep, folder, resume=True, execution=shard).rows
        assert jax.device_count() == 2 and len(rows) == 3
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    members = sweep.members()[:2]  # those of `whole`
    done = _sweep_folder.rows_in(tmp_path / "cut", members)
    for a, b in zip(done, whole.rows[:2], strict=True):
        assert a["test_accuracy_final"] == b["test_accuracy_final"]
        assert a["final_rate_1"] == pytest.approx(b["final_rate_1"], rel=1e-3)


def test_values():
    assert parse_values("0.1, 3") == [0.1, 3.0]
    np.testing.assert_allclose(parse_values("0.01:100:log:13"), np.logspace(-2, 2, 13), rtol=1e-9)
    np.testing.assert_allclose(parse_values("-2:0:lin:5"), [-2, -1.5, -1, -0.5, 0])
    for text in ("", "a", "1:2", "1:2:log", "0:1:log:3", "1:2:cube:3", "1:2:0", "1:2:3:4:5"):
        with pytest.raises(ValueError, match="values must be like"):
            parse_values(text)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"over": {"tau_men": (0.01,)}}, "tau_men is not an option .* did you mean tau_mem"),
        ({"over": {"sigma_u": (1.0, 1.0)}}, "sigma_u must have at least one value and none twice"),
        ({"over": {"sigma_u": ()}}, "sigma_u must have at least one value and none twice"),
        ({"over": {"mu_u": (0.0, 3.0)}}, "mu_u must be finite and < 1, got 3"),
        ({"over": {"alpha": (0.3, 0.5)}}, "alpha has no effect, because the network is not recu"),
        ({"over": {"mu_w": (0.3, 0.5)}}, "mu_w is an option of init 'normal', got init 'data_dr"),
        ({"over": {"lsuv_rate": (3.0,)}}, "lsuv_rate is an option of init 'lsuv', got init 'dat"),
        ({"seeds": (0, 0)}, "seeds must have at least one seed and none twice"),
        ({"seeds": (-1,)}, "seed must be >= 0"),
        ({"patience": 0}, "patience must be >= 1, got 0"),
    ],
)
def test_wrong_sweeps(options, match):
    with pytest.raises(ValueError, match=match):
        Sweep(base=BASE, **options)


def test_values_may_be_numpy_numbers_lists_and_paths(tmp_path):
    base = Experiment.from_options("shd", data=tmp_path)
    numbers = {"sigma_u": np.linspace(0.5, 1.5, 2), "augment_shift": np.arange(2)}
    over = numbers | {"hidden": [[8], [6, 4]], "data": [tmp_path]}
    sweep = Sweep(base=base, over=over, seeds=np.arange(1))
    member = sweep.members()[-1]
    assert json.dumps(member) == json.dumps(
        {"sigma_u": 1.5, "augment_shift": 1, "hidden": (6, 4), "data": str(tmp_path), "seed": 0}
    )
    assert sweep.experiment(member).task.data == tmp_path
    with pytest.raises(ValueError, match=r"hidden must have .* none twice"):
        Sweep(base=base, over={"hidden": ([8], (8,))})


def test_folder_errors(whole, tmp_path):
    with pytest.raises(FileExistsError, match="has a run or a sweep; continue it with resume"):
        run_sweep(SWEEP, whole.folder)
    other = dataclasses.replace(SWEEP, base=BASE.replace(hidden=(21,)))
    with pytest.raises(
        ValueError,
        match=r"has another experiment; it differs in hidden \(\[20\], got \[21\]\)",
    ):
        run_sweep(other, whole.folder, resume=True)
    (tmp_path / "precious.txt").write_text("thesis")
    with pytest.raises(FileExistsError, match="is not an empty folder and has no run or sweep"):
        run_sweep(SWEEP, tmp_path, resume=True)
    with pytest.raises(
        ValueError, match=r"has a sweep over \['seed', 'sigma_u'\], got a sweep over \['seed'\]"
    ):
        run_sweep(Sweep(base=BASE), whole.folder, resume=True)
    nowhere = Sweep(base=Experiment.from_options("shd", data=tmp_path / "nowhere"), seeds=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_sweep(nowhere, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.txt"]
    damaged = whole.folder / "members" / "seed=0,sigma_u=0.5" / "results.json"
    content = damaged.read_bytes()
    try:
        damaged.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"seed=0,sigma_u=0.5/results.json is .*; remove it"):
            run_sweep(SWEEP, whole.folder, resume=True)
    finally:
        damaged.write_bytes(content)


def test_a_sweep_begun_before_a_setting_existed_goes_on(whole, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(whole.folder, folder)
    file = folder / "config.json"
    saved = json.loads(file.read_text())
    assert saved.pop("augment_insert") == 0
    file.write_text(json.dumps(saved))
    rows = run_sweep(SWEEP, folder, execution=TWO, resume=True).rows
    assert [
        row for row in rows if row in whole.rows
    ] == whole.rows  # another test has added a member
    other = dataclasses.replace(SWEEP, base=BASE.replace(augment_insert=0.1))
    with pytest.raises(ValueError, match=r"it differs in augment_insert \(0.0, got 0.1\)"):
        run_sweep(other, folder, resume=True)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same():
    """SIGKILL, three times; `python -m benchmarks.kill_sweep` does it twenty times."""
    assert kill_sweep.compare(3, seed=1) == 0


def test_the_value_that_every_member_replaces_does_not_count(whole, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(whole.folder, folder)
    other = dataclasses.replace(SWEEP, base=BASE.replace(sigma_u=9.0))
    rows = run_sweep(other, folder, resume=True, figure=False, execution=TWO).rows
    assert [row for row in rows if row in whole.rows] == whole.rows
    other = dataclasses.replace(SWEEP, base=BASE.replace(mu_u=0.5))
    with pytest.raises(ValueError, match=r"differs in mu_u \(0.0, got 0.5\)"):
        run_sweep(other, folder, resume=True)


@pytest.mark.parametrize(
    ("base", "over"),
    [
        (BASE, {"depth": (2, 3)}),  # without a depth, `beta` has an effect
        (BASE, {"upper_strength": (0.0, 0.1)}),
        (BASE.replace(sigma_u=0.5), {"init": ("lsuv", "data_driven")}),
        (BASE.replace(init="lsuv", lsuv_rate=5.0), {"init": ("kaiming", "lsuv")}),
    ],
)
def test_a_sweep_is_loaded_whatever_its_first_member_is(tmp_path, base, over):
    sweep = Sweep(base=base, over=over, seeds=2)
    _sweep_folder.open_folder(tmp_path, sweep.options(), sweep.members())
    loaded = _sweep.load_sweep(tmp_path)
    for member in sweep.members():
        assert loaded.experiment(member) == sweep.experiment(member)
    # all members of the plan are left to be trained, not only that of `loaded`
    assert _sweep_folder.members_of(tmp_path, loaded.members()) == sweep.members()


@pytest.mark.parametrize(
    ("base", "over"),
    [
        (BASE.replace(model="csnn1", beta=5.0), {"model": ("csnn1", "csnn3")}),
        (BASE.replace(init="lsuv"), {"init": ("lsuv", "kaiming")}),
    ],
)
def test_a_sweep_is_continued_with_another_first_value(tmp_path, base, over):
    """Two sweeps are the same if all members of both have the same experiments."""
    first = Sweep(base=base, over=over, seeds=1)
    _sweep_folder.open_folder(tmp_path, first.options(), first.members())
    ((name, values),) = over.items()
    turned = base.replace(**{name: values[-1]})
    other = Sweep(base=turned, over={name: values[::-1]}, seeds=2)
    _engine.check(other, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"it differs in tau_mem \(0.02, got 0.03\)"):
        _engine.check(
            dataclasses.replace(other, base=turned.replace(tau_mem=0.03)), tmp_path, resume=True
        )
    with pytest.raises(ValueError, match=r"it differs in patience \(None, got 3\)"):
        _engine.check(dataclasses.replace(other, patience=3), tmp_path, resume=True)


def test_a_sweep_killed_before_its_config_was_written_begins_again(tmp_path):
    _sweep_folder.open_folder(tmp_path, SWEEP.options(), SWEEP.members())
    (tmp_path / "config.json").unlink()
    other = Sweep(base=BASE, over={"mu_u": (0.0, 0.5)}, seeds=1)
    _engine.check(other, tmp_path, resume=False)
    assert _sweep_folder.open_folder(tmp_path, other.options(), other.members()) == other.members()
    assert _sweep_folder.planned(tmp_path) == other.members()


def test_a_wave_that_fails_is_left_to_another_process(tmp_path):
    _sweep_folder.plan_waves(tmp_path, [SWEEP.members()], 4)
    ((place, _),) = _sweep_folder.waves_in(tmp_path)

    def fail():
        with _sweep_folder.claimed(place) as own, _sweep_folder.claimed(place) as other:
            assert (own, other) == (True, False)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    with _sweep_folder.claimed(place) as own:
        assert own


def test_a_wave_that_another_process_finishes_is_no_error(tmp_path, monkeypatch):
    _sweep_folder.plan_waves(tmp_path, [SWEEP.members()], 2)
    first, second = _sweep_folder.waves_in(tmp_path)
    read = _sweep_folder.read_json

    def late(file, **options):
        if file.parent == first[0]:
            _sweep_folder.close_wave(first[0])
        return read(file, **options)

    monkeypatch.setattr(_sweep_folder, "read_json", late)
    assert _sweep_folder.waves_in(tmp_path) == [second]


@pytest.mark.parametrize("content", ["{}", '{"members": [1]}', '[{"seed": 0}]', "{"])
def test_a_damaged_wave_is_named(content, tmp_path):
    _sweep_folder.plan_waves(tmp_path, [SWEEP.members()], 2)
    (tmp_path / "waves" / "0001" / "wave.json").write_text(content)
    with pytest.raises(ValueError, match=r"waves/0001/wave\.json .*remove its folder"):
        _sweep_folder.waves_in(tmp_path)


@pytest.mark.parametrize("init", ["fluctuation_driven", "lognormal", "data_driven"])
def test_targets_of_the_membrane_have_an_effect_wherever_an_initialization_has_them(init):
    base = Experiment.from_options("randman", model="dalian", init=init, recurrent=True)
    for name in ("sigma_u", "mu_u", "alpha"):
        Sweep(base=base, over={name: (0.4, 0.5)})
    with pytest.raises(ValueError, match="alpha has no effect"):
        Sweep(base=base.replace(recurrent=False), over={"alpha": (0.4, 0.5)})


def test_plain_samples_are_without_augmentation_and_lists():
    events = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=10), dt=2e-3)
    for source in (
        events,
        SparseEvents.from_events(events),
        Augmented(source=events, drop=0.5),
        Augmented(source=SparseEvents.from_events(events), unit_shift=1),
    ):
        assert plain(source) is events
