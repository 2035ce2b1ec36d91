"""Pages made from the results of `snnjax reproduce`."""

import re
from pathlib import Path

import pytest

from benchmarks.publish import again, publish
from snnjax.reproduce._settings import Options
from snnjax.reproduce._targets import reproduce


@pytest.mark.more
def test_pages_have_no_paths_and_say_what_is_missing(tmp_path, monkeypatch):
    runs, pages, notes = tmp_path / "out", tmp_path / "pages", tmp_path / "notes.md"
    notes.write_text("**Figure 1.** Because.\n")
    facts = {"machine": "a machine", "commit": "abc1234", "notes": notes}
    with pytest.raises(FileNotFoundError, match="holds no finished study"):
        publish(runs, pages, **facts)
    done = reproduce("figure1", Options("smoke"), runs)
    (pages / "figure1").mkdir(parents=True)
    (pages / "figure1" / "old.png").touch()
    index = publish(runs, pages, **facts).read_text()
    monkeypatch.chdir(
        runs.parent
    )  # a report names the folder in which it was made, even if the folder was renamed
    assert publish(Path("out"), pages, **facts).read_text() == index
    assert {p.name for p in (pages / "figure1").iterdir()} == {
        "figure1.png",
        "report.md",
        "results.csv",
    }
    assert (pages / "figure1" / "results.csv").read_bytes() == (
        runs / "figure1" / "results.csv"
    ).read_bytes()
    report = (pages / "figure1" / "report.md").read_text()
    assert str(tmp_path) not in index + report
    assert "--out OUT`" in report
    own = [v.status for s, v in done.verdicts if s.source != "ours"]
    untested = own.count("not tested at this scale")
    assert f"[{done.study.title}](figure1/report.md) | 0 | 0 | {untested} | " in index
    assert "| abc1234 |" in index
    assert "Run on a machine: figure1." in index
    assert "of computing, on 20" in report
    assert ", at commit abc1234, on a machine.\n" in report
    assert "Not run here: figure2, figure3" in index
    assert index.endswith("\n## Where a statement does not hold\n\n**Figure 1.** Because.\n")
    reproduce(
        "figure2", Options("smoke"), tmp_path / "later"
    )  # another place and time: earlier studies stay listed
    other = facts | {"machine": "another", "commit": "def5678"}
    later = publish(tmp_path / "later", pages, **other).read_text()
    assert "(figure1/report.md)" in later
    assert "(figure2/report.md)" in later
    assert "| def5678 |" in later
    assert "Run on a machine: figure1. Run on another: figure2." in later
    assert "Not run here: figure3" in later
    texts = [without_time(pages / name / "report.md") for name in ("figure1", "figure2")]
    assert again(pages, notes).read_text() == later
    assert [without_time(pages / name / "report.md") for name in ("figure1", "figure2")] == texts
    report = (pages / "figure1" / "report.md").read_text()
    original = (runs / "figure1" / "report.md").read_text()
    (runs / "figure1" / "report.md").write_text(original + "\nSee /tmp/elsewhere/file.\n")
    with pytest.raises(ValueError, match="names a path of this machine, /tmp/elsewhere/file"):
        publish(runs, pages, **facts)
    assert (pages / "figure1" / "report.md").read_text() == report  # existing reports stay


def without_time(report):
    """The text of a report without its computing time, which an index has in minutes only."""
    return re.sub(r"[\d.]+ (s|min) of computing", "", report.read_text())
