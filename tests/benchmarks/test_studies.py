from pathlib import Path

import pytest

from benchmarks import accuracy, studies
from benchmarks.depth_training import accuracy_tables, levels, train_arm
from snnjax.experiments import Experiment
from snnjax.experiments._rows import pick

RESULTS = Path(studies.__file__).parent / "results"


@pytest.mark.more
def test_a_study_has_one_row_per_network_with_labels_and_the_curve_of_accuracy(tmp_path):
    """The study is read again from its file. A second call trains nothing."""
    base = Experiment.from_options(
        "randman", classes=2, samples=20, hidden=(8,), batch_size=16, epochs=2, dt=4e-3
    )
    calls = []

    def train(place):
        calls.append(place)
        train_arm(base, 1, (0.01, 0.02), 2, place / "randman" / "calibrated", base.datasets())

    labels = ("study", "arm")
    rows = studies.study(tmp_path, train, labels)
    assert [row["seed"] for row in rows] == [0, 0, 1]
    assert {(row["study"], row["arm"], row["depth"]) for row in rows} == {
        ("randman", "calibrated", 1)
    }
    for row in rows:
        curve = studies.numbered(row, "valid_accuracy", 0)
        assert len(curve) == 3
        assert curve[-1] == row["valid_accuracy"]
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    assert str(studies.study(tmp_path, train, labels)) == str(rows)
    assert times == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    assert str(studies.study(tmp_path / "results.csv", train, labels)) == str(rows)
    assert len(calls) == 2


def test_committed_rows_give_the_tables_of_the_documentation():
    rows = studies.read(RESULTS / "depth_starts.csv")
    assert (
        "| paper | 57.5 (0.01, 1) | 51.8 (0.01, 1) | 21.1 +- 5.3 (0.003, 3) |"
        in accuracy_tables(rows)
    )
    assert "randman, depth 7: 1.11" in levels(rows)
    rows = studies.read(RESULTS / "initialization.csv")
    ikun = pick(rows, study="words", network="dense", init="ikun", depth=7)
    after = [studies.spread([row[f"valid_accuracy_{k}"] for row in ikun], 0) for k in (3, 12)]
    assert after == ["17 +- 3", "30 +- 3"]
    rows = studies.read(RESULTS / "randman.csv")
    assert "| randman | 15 | 97.76 +- 0.70 | 97.49 +- 0.68 |" in accuracy.accuracy_table(rows)


def test_every_committed_file_of_a_study_can_be_read():
    for name in ("depth", "images", "digits", "digits_calibrated", "depth_training"):
        rows = studies.read(RESULTS / f"{name}.csv")
        assert all(isinstance(row["seed"], int) for row in rows), name
