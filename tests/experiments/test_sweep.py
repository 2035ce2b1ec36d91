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
from snnjax._cli import swept
from snnjax.datasets import Augmented, DeviceEvents, randman
from snnjax.datasets._sparse_events import SparseEvents
from snnjax.experiments import RandmanConfig, SHDConfig, sweep, sweep_folder
from snnjax.experiments._run import plain
from snnjax.experiments.sweep import grid, parse_values, run_sweep

CONFIG = RandmanConfig(
    classes=3,
    samples=40,
    batch_size=24,
    hidden=(20,),
    epochs=3,
    optimizer="adam",
    learning_rate=0.02,
    dt=4e-3,
)
MEMBERS = grid([0, 1], {"sigma_u": [0.5, 1.5]})
OPTIONS = {"wave": 2, "placement": "map"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    return run_sweep(CONFIG, MEMBERS, folder, **OPTIONS)


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
    assert not (whole.folder / "wave").exists()
    # smaller weights: a smaller membrane; the gradient of every member was measured
    assert max(r["initial_sigma_u_1"] for r in whole.rows[:2]) < min(
        r["initial_sigma_u_1"] for r in whole.rows[2:]
    )
    assert all(r["initial_grad_w_1"] > 0 for r in whole.rows)
    for row in whole.rows:
        with np.load(
            sweep_folder.member_file(
                whole.folder, {name: row[name] for name in ("sigma_u", "seed")}
            )
        ) as member:
            reached = member["history.train_accuracy"] >= 0.9
        assert (
            row["epochs_to_90"] == reached.argmax()
            if reached.any()
            else np.isnan(row["epochs_to_90"])
        )
    assert (whole.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_for_one_or_two_swept_parameters(tmp_path):
    row = {
        name: 0.5
        for name in ("test_accuracy_final", "train_accuracy", "initial_rate_1", "final_rate_1")
    }
    for varied, drawn in (
        ({}, False),
        ({"sigma_u": 2.0}, True),
        ({"mu_w": 1.0, "sigma_w": 1.0}, True),
        ({"mu_w": 1.0, "mu_u": 1.0, "beta": 5.0}, False),
    ):
        rows = [row | {name: 0.0 for name in varied} | {"seed": 0}, row | varied | {"seed": 0}]
        file = tmp_path / f"{len(varied)}.png"
        assert sweep_folder.draw(rows, file) is drawn
        assert file.exists() is drawn


# in the first wave; in the second wave before its first epoch, and after its last epoch
@pytest.mark.parametrize("calls", [2, 5, 8])
@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_identical(whole, tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(CONFIG, MEMBERS, tmp_path / "cut", on_epoch=[stop_after(calls)], **OPTIONS)
    run_sweep(CONFIG, MEMBERS, tmp_path / "cut", resume=True, **OPTIONS)
    assert kill_sweep.differences(whole.folder, tmp_path / "cut") == []


@pytest.mark.slow
def test_finished_members_are_never_trained_again(whole, monkeypatch):
    trained = []
    original = sweep.fit_ensemble

    def spy(program, members, *args, **options):
        trained.append({name: values.tolist() for name, values in members.items()})
        return original(program, members, *args, **options)

    monkeypatch.setattr(sweep, "fit_ensemble", spy)
    before = {p.name: p.read_bytes() for p in (whole.folder / "members").iterdir()}
    again = run_sweep(CONFIG, MEMBERS, whole.folder, resume=True, **OPTIONS)
    assert trained == []
    assert again.rows == whole.rows
    more = run_sweep(
        CONFIG, grid([0, 1, 2], {"sigma_u": [0.5]}), whole.folder, resume=True, **OPTIONS
    )
    assert trained == [{"sigma_u": [0.5], "seed": [2]}]
    # earlier members are still there
    assert more.rows[:4] == whole.rows
    assert [(r["sigma_u"], r["seed"]) for r in more.rows[4:]] == [(0.5, 2)]
    with (whole.folder / "results.csv").open() as f:
        assert len(list(csv.DictReader(f))) == 5
    assert {
        p.name: p.read_bytes() for p in (whole.folder / "members").iterdir() if p.name in before
    } == before


def test_one_process_at_a_time(tmp_path):
    with (
        sweep_folder.alone(tmp_path),
        pytest.raises(BlockingIOError, match="another process trains in the sweep folder"),
    ):
        run_sweep(CONFIG, MEMBERS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_wave_goes_on_on_other_devices(whole, tmp_path):
    """Its checkpoint has only the members, not the padding for the devices."""
    members, options = MEMBERS[:3], {"wave": 3, "placement": "map"}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(CONFIG, members, tmp_path / "cut", on_epoch=[stop_after(3)], **options)
    script = f"""
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        from pathlib import Path
        from snnjax.experiments import RandmanConfig
        from snnjax.experiments.sweep import run_sweep
        config = {CONFIG!r}
        rows = run_sweep(config, {members!r}, Path({str(tmp_path / "cut")!r}), resume=True, wave=3, placement="shard").rows
        assert jax.device_count() == 2 and len(rows) == 3
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    done = [sweep_folder.row_of(sweep_folder.member_file(tmp_path / "cut", m)) for m in members]
    for a, b in zip(done, whole.rows[:3], strict=True):
        assert a["test_accuracy_final"] == b["test_accuracy_final"]
        assert a["final_rate_1"] == pytest.approx(b["final_rate_1"], rel=1e-3)


def test_values():
    assert parse_values("0.1, 3") == [0.1, 3.0]
    np.testing.assert_allclose(parse_values("0.01:100:log:13"), np.logspace(-2, 2, 13), rtol=1e-9)
    np.testing.assert_allclose(parse_values("-2:0:lin:5"), [-2, -1.5, -1, -0.5, 0])
    for text in ("", "a", "1:2", "1:2:log", "0:1:log:3", "1:2:cube:3", "1:2:0", "1:2:3:4:5"):
        with pytest.raises(ValueError, match="values must be like"):
            parse_values(text)


def test_command_line_keeps_single_values_for_the_task():
    assert swept(["train", "randman", "--sigma-u", "1,2"]) == (
        ["train", "randman", "--sigma-u", "1,2"],
        {},
    )
    rest, varied = swept(
        [
            "sweep",
            "--seeds",
            "3",
            "randman",
            "--sigma-u=0.5:2:log:3",
            "--alpha",
            "0.5",
            "--mu-u",
            "-0.5,0",
        ]
    )
    assert rest == ["sweep", "--seeds", "3", "randman", "--alpha", "0.5"]
    assert varied == {"sigma_u": [0.5, 1.0, 2.0], "mu_u": [-0.5, 0.0]}


@pytest.mark.parametrize(
    ("seeds", "varied", "match"),
    [
        ([0], {"tau_mem": [0.01]}, "swept parameter must be one of 'sigma_u'"),
        ([0], {"sigma_u": [1.0, 1.0]}, "sigma_u must have at least one value and none twice"),
        ([0, 0], {}, "seeds must have at least one seed and none twice"),
        ([-1], {}, "seed must be >= 0"),
    ],
)
def test_grid_errors(seeds, varied, match):
    with pytest.raises(ValueError, match=match):
        grid(seeds, varied)


def test_folder_errors(whole, tmp_path):
    with pytest.raises(FileExistsError, match="has a sweep; continue it with resume"):
        run_sweep(CONFIG, MEMBERS, whole.folder)
    with pytest.raises(
        ValueError, match=r"has a sweep of another configuration; it differs in \['hidden'\]"
    ):
        run_sweep(dataclasses.replace(CONFIG, hidden=(21,)), MEMBERS, whole.folder, resume=True)
    (tmp_path / "precious.txt").write_text("thesis")
    with pytest.raises(FileExistsError, match="is not an empty folder and has no sweep"):
        run_sweep(CONFIG, MEMBERS, tmp_path, resume=True)
    with pytest.raises(
        ValueError, match=r"has a sweep over \['seed', 'sigma_u'\], got one over \['seed'\]"
    ):
        run_sweep(CONFIG, grid([0], {}), whole.folder, resume=True)
    with pytest.raises(ValueError, match="patience must be >= 1, got 0"):
        run_sweep(CONFIG, MEMBERS, tmp_path / "new", patience=0)
    for name in ("alpha", "mu_w", "lsuv_rate"):
        with pytest.raises(
            ValueError,
            match=f"{name} must have an effect to be swept, but has none with init = data_driven, recurrent = False",
        ):
            run_sweep(CONFIG, grid([0], {name: [0.3, 0.5]}), tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_sweep(SHDConfig(data=tmp_path / "nowhere"), MEMBERS, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="mu_u must be finite and < 1, got 3"):
        run_sweep(CONFIG, grid([0], {"mu_u": [0.0, 3.0]}), tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.txt"]
    damaged = whole.folder / "members" / "seed=0,sigma_u=0.5.npz"
    content = damaged.read_bytes()
    try:
        damaged.write_bytes(content[: len(content) // 2])
        with pytest.raises(
            ValueError, match=r"seed=0,sigma_u=0.5.npz is not a readable member of a sweep"
        ):
            run_sweep(CONFIG, MEMBERS, whole.folder, resume=True)
    finally:
        damaged.write_bytes(content)


def test_a_sweep_begun_before_a_setting_existed_goes_on(whole, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(whole.folder, folder)
    file = folder / "config.json"
    saved = json.loads(file.read_text())
    assert saved.pop("augment_insert") == 0
    file.write_text(json.dumps(saved))
    rows = run_sweep(CONFIG, MEMBERS, folder, resume=True, **OPTIONS).rows
    assert [
        row for row in rows if row in whole.rows
    ] == whole.rows  # another test has added a member
    with pytest.raises(ValueError, match=r"it differs in \['augment_insert'\]"):
        run_sweep(dataclasses.replace(CONFIG, augment_insert=0.1), MEMBERS, folder, resume=True)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same():
    """SIGKILL, five times; `python -m benchmarks.kill_sweep` does it twenty times."""
    assert kill_sweep.main(kill_sweep.Options(kills=5, seed=1)) == 0


@pytest.mark.parametrize(
    ("saved", "fits"),
    [({"trace_dtype": "float32"}, True), ({"trace_dtype": "bfloat16"}, False), ({}, True)],
)
def test_a_sweep_begun_before_traces_had_a_default_of_their_own_goes_on(tmp_path, saved, fits):
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 3} | saved))
    check = lambda: sweep_folder.check_folder(
        tmp_path, {"epochs": 3, "trace_dtype": None}, {"trace_dtype": None}, resume=True
    )
    if fits:
        check()
    else:
        with pytest.raises(ValueError, match=r"differs in \['trace_dtype'\]"):
            check()


def test_the_value_that_every_member_replaces_does_not_count(whole, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(whole.folder, folder)
    assert "sigma_u" not in json.loads((folder / "config.json").read_text())
    rows = run_sweep(
        dataclasses.replace(CONFIG, sigma_u=9.0),
        MEMBERS,
        folder,
        resume=True,
        figure=False,
        **OPTIONS,
    ).rows
    assert [row for row in rows if row in whole.rows] == whole.rows
    with pytest.raises(ValueError, match=r"differs in \['mu_u'\]"):
        run_sweep(dataclasses.replace(CONFIG, mu_u=0.5), MEMBERS, folder, resume=True, **OPTIONS)


@pytest.mark.parametrize("init", ["fluctuation_driven", "lognormal", "data_driven"])
def test_targets_of_the_membrane_have_an_effect_wherever_an_initialization_has_them(init):
    config = RandmanConfig(model="dalian", init=init, recurrent=True)
    for name in ("sigma_u", "mu_u", "alpha"):
        sweep._check_effects(config, {name: 0.5})
    with pytest.raises(ValueError, match="alpha must have an effect to be swept"):
        sweep._check_effects(dataclasses.replace(config, recurrent=False), {"alpha": 0.5})


def test_plain_samples_are_without_augmentation_and_lists():
    events = DeviceEvents.from_dataset(randman(num_classes=2, samples_per_class=10), dt=2e-3)
    for source in (
        events,
        SparseEvents.from_events(events),
        Augmented(source=events, drop=0.5),
        Augmented(source=SparseEvents.from_events(events), unit_shift=1),
    ):
        assert plain(source) is events
