"""The folder of a study: finished results are kept, and other folders are refused.

The report has the results.
"""

import csv
import dataclasses
import json
import math

import jax
import pytest

from snnjax.experiments import Experiment, MissingDataError, Sweep, _run
from snnjax.experiments._sweep_folder import member_folder
from snnjax.experiments._tasks import find
from snnjax.reproduce import _targets as targets
from snnjax.reproduce._settings import Options
from snnjax.reproduce._statements import Statement, untested, values, verdict
from snnjax.reproduce._study import Study, run_study
from snnjax.reproduce._units import SHD, Arm, Measurement, RealSHD
from snnjax.training import FitResult, TrainingDivergedError

CALLS: list[str] = []


def unit(name, value=1.0):
    def measure():
        CALLS.append(name)
        if value == "stop":
            raise KeyboardInterrupt
        return [
            {"sigma_u": 1.0, "seed": k, "x": value + k, "layers": [1.0, 2.0], "y": float("nan")}
            for k in range(2)
        ]

    return Measurement(name, {"value": value}, measure, {"as_published": False})


def study(*units, name="figure9", preset="laptop"):
    def figure(rows):
        from matplotlib.figure import Figure

        return Figure()

    statements = [
        Statement(
            "x is below 100 | always",
            "P",
            lambda rows: verdict(max(values(rows, "x")) < 100, "small"),
        ),
        Statement("x is below 1", "R", lambda rows: verdict(max(values(rows, "x")) < 1, "large")),
        Statement(
            "y is known",
            "ours",
            lambda rows: (
                untested("never measured") if not values(rows, "y").size else verdict(True, "")
            ),
        ),
    ]
    return Study(
        name,
        "Figure 9: x",
        preset,
        units,
        {"figure9": figure},
        statements,
        {"x": ("x", "Hz")},
        notes=["A choice."],
    )


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


def test_a_study_cut_off_half_way_computes_no_unit_twice(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_study(study(unit("a"), unit("b", "stop"), unit("c")), tmp_path)
    assert not (tmp_path / "figure9" / "report.md").exists()
    # the same settings, and this time it finishes
    whole = study(unit("a"), dataclasses.replace(unit("b"), given={"value": "stop"}), unit("c"))
    finished = run_study(whole, tmp_path)
    assert CALLS == ["a", "b", "b", "c"]
    assert [row["arm"] for row in finished.rows] == ["a", "a", "b", "b", "c", "c"]
    run_study(whole, tmp_path)
    assert CALLS == ["a", "b", "b", "c"]
    assert list(json.loads((tmp_path / "figure9" / "study.json").read_text())["done"]) == [
        "a",
        "b",
        "c",
    ]


def test_each_unit_is_announced_with_its_size(tmp_path):
    seen = []
    run_study(study(unit("a"), unit("b")), tmp_path, watch=lambda *what: seen.append(what))
    assert seen == [("a", 0, 0), ("b", 0, 0)]


def test_rows_as_csv(tmp_path):
    run_study(study(unit("a", 3.0)), tmp_path)
    with (tmp_path / "figure9" / "results.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [(r["arm"], r["x"], r["layers_2"], r["y"]) for r in rows] == [
        ("a", "3.0", "2.0", ""),
        ("a", "4.0", "2.0", ""),
    ]


def test_the_report_has_every_statement_and_its_verdict(tmp_path):
    run_study(study(unit("a"), preset="laptop"), tmp_path)
    text = (tmp_path / "figure9" / "report.md").read_text()
    assert "| x is below 100 \\| always | P | holds | small |" in text
    assert "| x is below 1 | R | does not hold | large |" in text
    assert "| y is known | ours | not tested at this scale | never measured |" in text
    assert "| a | 1 | 2 | 1.50 |" in text
    assert "![figure9](figure9.png)" in text
    assert (tmp_path / "figure9" / "figure9.png").read_bytes().startswith(b"\x89PNG")
    assert "A choice." in text
    assert "half way from chance to the best of its arm" in text
    assert "Trained before for another figure" not in text
    assert "generated" not in text
    run_study(study(unit("a"), name="smoke9", preset="smoke"), tmp_path)
    smoke = (tmp_path / "smoke9" / "report.md").read_text()
    assert "on generated data" in smoke
    assert "| holds |" not in smoke


def test_tables_have_as_many_cells_in_every_row_and_name_networks_that_stopped(tmp_path):
    given = {"settings": (("kaiming", 1.0), ("formula", 0.5)), "seeds": (0, 1)}
    base = dataclasses.replace(unit("a"), given=given)
    wide = dataclasses.replace(
        base,
        measure=lambda: [
            {
                "sigma_u": 1.0,
                "seed": k,
                "x": 1.0,
                "finite": k > 0,
                "epochs": 3,
                "initial_grad_z_1": 0.5,
            }
            for k in range(2)
        ],
    )
    columns = {"|dL/dz|, layer 1": ("initial_grad_z_1", ""), "x": ("x", "Hz")}
    run_study(
        dataclasses.replace(
            study(wide), columns=columns, table=lambda rows: f"{len(rows)} rows in a table"
        ),
        tmp_path,
    )
    text = (tmp_path / "figure9" / "report.md").read_text()
    rows = [line.replace("\\|", "/") for line in text.splitlines() if line.startswith("|")]
    sizes = [len(row.split("|")) for row in rows]
    assert sizes == [6] * 5 + [8] * 3
    assert rows[-3] == "| arm | sigma_u | runs | /dL/dz/, layer 1 | x (Hz) | not finite |"
    assert rows[-1].endswith("| 1.00 | 1, by epoch 3 |")
    assert "2 rows in a table" in text
    assert "settings kaiming 1.0, formula 0.5, seeds 0, 1" in text


def test_what_another_study_trained_is_named_and_not_timed(tmp_path, monkeypatch):
    sweep = Sweep(base=Experiment.from_options("randman"), over={"sigma_u": (1.0,)}, seeds=2)
    arm = Arm("curve", sweep, {"task": "Randman"})

    def work(self, root, on_epoch=()):
        for member in self.sweep.members()[: 1 + (root.name == "whole")]:
            place = member_folder(self.folder(root), member)
            place.mkdir(parents=True, exist_ok=True)
            (place / "results.json").write_text('{"finite": true}')
        return [{"arm": self.name, "sigma_u": 1.0, "x": 1.0, "as_published": False}]

    monkeypatch.setattr(Arm, "work", work)
    for root, shared in ((tmp_path / "whole", ["curve"]), (tmp_path / "cut off", [])):
        assert run_study(study(arm, name="first"), root).shared == []
        assert run_study(study(arm, name="second"), root).shared == shared
        assert (
            run_study(study(arm, name="second"), root).shared == shared
        )  # and when it is requested again
    assert (
        "Trained before for another figure, and not included in this time: curve."
        in (tmp_path / "whole" / "second" / "report.md").read_text()
    )


def test_another_studys_folder_is_refused(tmp_path):
    run_study(study(unit("a")), tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "figure9").iterdir()}
    for other, what in (
        (study(unit("a", 2.0)), "'a'"),
        (study(unit("a"), unit("b")), "'b'"),
        (study(unit("a"), preset="paper"), "'preset'"),
    ):
        with pytest.raises(ValueError, match=f"other settings; these differ: {what}"):
            run_study(other, tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "figure9").iterdir()} == before
    assert CALLS == ["a"]


def test_a_folder_of_something_else_or_damaged_is_refused(tmp_path):
    (tmp_path / "figure9").mkdir()
    (tmp_path / "figure9" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="has no study"):
        run_study(study(unit("a")), tmp_path)
    (tmp_path / "figure9" / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json is damaged"):
        run_study(study(unit("a")), tmp_path)
    run_study(study(unit("a")), tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is not a folder; name another by --out"):
        run_study(study(unit("a")), tmp_path / "file")
    saved = json.loads((tmp_path / "new" / "figure9" / "study.json").read_text())
    del saved["done"]
    (tmp_path / "new" / "figure9" / "study.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"study\.json is damaged"):
        run_study(study(unit("a")), tmp_path / "new")
    assert CALLS == ["a"]


def test_an_arms_folder_does_not_depend_on_its_name_or_where_the_data_lie(tmp_path):
    sweep = Sweep(base=Experiment.from_options("randman"), over={"sigma_u": (1.0,)}, seeds=2)
    arm = Arm("a", sweep, {})
    assert arm.folder(tmp_path) == dataclasses.replace(arm, name="b").folder(tmp_path)
    fewer = dataclasses.replace(sweep, seeds=(0,))
    shorter = dataclasses.replace(sweep, base=sweep.base.replace(epochs=3))
    for other in (fewer, shorter):
        assert arm.folder(tmp_path) != dataclasses.replace(arm, sweep=other).folder(tmp_path)
    here, there = (
        dataclasses.replace(sweep, base=Experiment.from_options("shd", data=tmp_path / name))
        for name in ("here", "there")
    )
    assert Arm("a", here, {}).folder(tmp_path) == Arm("a", there, {}).folder(tmp_path)
    assert arm.size() == (2, 200)


def test_missing_data_are_an_error_alone_and_a_reason_among_all(tmp_path, monkeypatch):
    monkeypatch.delenv("SNNJAX_DATA", raising=False)
    with pytest.raises(
        MissingDataError, match=r"--data FOLDER\) or the environment variable SNNJAX_DATA"
    ):
        targets.reproduce("s4", Options("laptop"), tmp_path)
    with pytest.raises(MissingDataError, match=r"needs shd_train\.h5 .* neither"):
        find(RealSHD, tmp_path)

    def absent(options):
        raise MissingDataError("no such data")

    monkeypatch.setattr(
        targets, "TARGETS", {"figure9": lambda options: study(unit("a")), "s4": absent}
    )
    seen = {}
    done = targets.reproduce_all(Options("laptop"), tmp_path, on_study=seen.__setitem__)
    assert [f.study.name for f in done.finished] == ["figure9"]
    assert done.skipped == {"s4": "no such data"} == {"s4": seen["s4"]}
    text = done.report.read_text()
    assert "s4: not run: no such data" in text
    assert "holds: 1, does not hold: 1, not tested at this scale: 1" in text
    # again: nothing is computed
    targets.reproduce_all(Options("laptop"), tmp_path)
    assert CALLS == ["a"]


def test_all_folders_are_looked_at_before_anything_is_computed(tmp_path, monkeypatch):
    run_study(study(unit("b"), name="last"), tmp_path)
    made = {
        "first": lambda options: study(unit("a"), name="first"),
        "last": lambda options: study(unit("b", 2.0), name="last"),
    }
    monkeypatch.setattr(targets, "TARGETS", made)
    with pytest.raises(ValueError, match="last has this study with other settings"):
        targets.reproduce_all(Options("laptop"), tmp_path)
    assert CALLS == ["b"]
    assert not (tmp_path / "first").exists()


def test_the_environment_names_the_data(tmp_path, monkeypatch):
    (tmp_path / "shd_format").mkdir()
    (tmp_path / "shd_format" / "fsdd_train.h5").touch()
    monkeypatch.setenv("SNNJAX_DATA", str(tmp_path))
    assert find(SHD, None) == tmp_path / "shd_format"
    assert find(SHD, tmp_path / "shd_format") == tmp_path / "shd_format"
    with pytest.raises(MissingDataError):
        find(RealSHD, None)


def test_unknown_presets_seeds_and_data(tmp_path):
    with pytest.raises(ValueError, match=r"data must be an existing folder, got .*nowhere"):
        Options("smoke", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="preset"):
        Options("desktop")
    with pytest.raises(ValueError, match="seeds must be >= 1, got 0"):
        Options("smoke", seeds=0)
    assert Options("laptop", seeds=2).seeds_of(5) == (0, 1)


def test_a_streamed_network_that_diverges_is_a_row_and_is_not_trained_again(tmp_path, monkeypatch):
    """The row has the accuracies so far, and the test accuracy of the last good parameters."""
    calls = []
    row = {
        "epoch": 0,
        "train_loss": 2.0,
        "train_accuracy": 0.25,
        "valid_accuracy": 0.125,
        "rate_1": 5.0,
    }
    history = [row, row | {"epoch": 1, "train_accuracy": 0.5, "valid_accuracy": 0.375}]
    tested = {
        "final": {"accuracy": 0.75, "rate_1": 7.0},
        "best": {"accuracy": 0.625, "rate_1": 6.0},
    }
    results = {0: FitResult(None, None, 1, history, tested), 1: FitResult(None, None, 0, [], {})}

    def diverge(*_, key, **__):
        calls.append(seed := int(jax.random.key_data(key)[-1]))
        raise TrainingDivergedError("not finite", results[seed])

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_run, "fit", diverge)
    small = {"duration": 0.1, "dt": 0.02}  # spikes of an inference are counted, which takes time
    base = Experiment.from_options("dvs-gesture", depth=2, start="paper", **small)
    arm = Arm("streamed", Sweep(base=base, seeds=2), {"task": "gestures"}, "generated")
    with monkeypatch.context() as patch:
        patch.setattr(_run, "write_member", die)  # after training, before its file is written
        with pytest.raises(KeyboardInterrupt):
            arm.work(tmp_path)
    assert calls.pop() == 0
    rows = arm.work(tmp_path)
    assert [row["seed"] for row in arm.work(tmp_path)] == calls == [0, 1]
    expected = {
        "arm": "streamed", "task": "gestures", "seed": 0, "finite": False, "epochs": 1, "best_epoch": 1, "train_accuracy": 0.5,
        "valid_accuracy": 0.375, "best_valid_accuracy": 0.375, "test_accuracy_final": 0.75, "test_accuracy_best": 0.625,
        "epochs_to_90": pytest.approx(float("nan"), nan_ok=True), "initial_rate_1": 5.0, "final_rate_1": 7.0, "stopped": "not finite",
    }  # fmt: skip
    assert set(rows[0]) - set(expected) == {"nu", "spikes", "operations", "macs"}
    assert {name: rows[0][name] for name in expected} == expected
    # a network that is not finite before training has no accuracy
    assert (rows[1]["finite"], rows[1]["epochs"]) == (False, 0)
    assert math.isnan(rows[1]["test_accuracy_final"])
