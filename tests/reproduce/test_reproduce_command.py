"""`snnjax reproduce` from the command line, and the smoke preset of everything.

The latter runs in a separate process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snnjax._cli import main
from snnjax.reproduce import _targets as targets
from snnjax.reproduce._settings import Options
from snnjax.reproduce._targets import TARGETS
from snnjax.reproduce._units import Arm


def command(capsys, monkeypatch, *arguments):
    """Run the command, and return exit status and output."""
    monkeypatch.setenv(
        "XLA_FLAGS", os.environ.get("XLA_FLAGS", "")
    )  # the command may add to it; it is restored afterwards
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out + out.err


@pytest.mark.more
def test_figure_1_and_again(tmp_path, capsys, monkeypatch):
    status, text = command(
        capsys, monkeypatch, "figure1", "--preset", "smoke", "--out", str(tmp_path)
    )
    assert status == 0
    assert f"report: {tmp_path / 'figure1' / 'report.md'}" in text
    assert "not tested at this scale" in text
    before = (tmp_path / "figure1" / "study.json").read_bytes()
    assert (
        command(capsys, monkeypatch, "figure1", "--preset", "smoke", "--out", str(tmp_path))[0] == 0
    )
    assert (tmp_path / "figure1" / "study.json").read_bytes() == before
    # with other settings
    status, text = command(
        capsys, monkeypatch, "figure1", "--preset", "laptop", "--out", str(tmp_path)
    )
    assert status == 2
    assert "other settings" in text


def test_without_data_and_interrupted(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SNNJAX_DATA", raising=False)
    status, text = command(capsys, monkeypatch, "s4", "--out", str(tmp_path))
    assert status == 2
    assert "--data FOLDER" in text
    assert list(tmp_path.iterdir()) == []

    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(targets, "TARGETS", dict.fromkeys(TARGETS, stop))
    for name in ("s4", "all"):
        status, text = command(capsys, monkeypatch, name, "--out", str(tmp_path))
        assert status == 130
        assert f"continue with the same command, --out {tmp_path}" in text


def files(root):
    return {
        p.relative_to(root): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.suffix in (".npz", ".json", ".csv", ".md")
    }


@pytest.mark.slow
def test_every_smoke_preset_runs_and_reports_every_statement(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "SNNJAX_DATA"}
    arguments = [
        sys.executable,
        "-m",
        "snnjax",
        "reproduce",
        "all",
        "--preset",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    ran = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "not run" not in ran.stdout
    whole = (tmp_path / "report.md").read_text()
    for name in dict.fromkeys(map(targets.study_name, TARGETS)):
        study = TARGETS[name](Options("smoke"))
        page = (tmp_path / name / "report.md").read_text()
        for statement in study.statements:
            line = f"| {statement.text} | {statement.source} | not tested at this scale |".replace(
                "|dL", "\\|dL"
            )
            assert line in page
            assert line in whole
        assert "on generated data" in page
        pictures = [
            line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")
        ]
        assert pictures
        assert all((tmp_path / name / p).read_bytes().startswith(b"\x89PNG") for p in pictures)
        rows = (tmp_path / name / "results.csv").read_text().splitlines()
        assert len(rows) > sum(
            len(u.sweep.members()) if isinstance(u, Arm) else 1 for u in study.units
        )
    # networks that figures share are trained only once: fewer sweeps than arms
    arms = [
        u for make in TARGETS.values() for u in make(Options("smoke")).units if isinstance(u, Arm)
    ]
    assert (
        len(list((tmp_path / "sweeps").iterdir()))
        == len({u.folder(tmp_path) for u in arms})
        < len(arms)
    )
    # again: nothing is trained, nothing changes
    before = files(tmp_path)
    again = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert again.returncode == 0
    assert "member-epoch" not in again.stderr
    assert files(tmp_path) == before
