"""Results of `snnjax reproduce` as pages for the documentation: `python -m benchmarks.publish OUT docs/results --machine "2 cores" --commit abc1234`.

Copies each study's report, figures and rows (what `snnjax.reproduce.study` calls OUT/NAME), without paths of the machine, and writes an index: what holds, what
does not, when and at which commit it was run, and how long that took. Studies that are not in OUT yet are named as such.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from snnjax.reproduce.targets import TARGETS, study_name

VERDICTS = ("holds", "does not hold", "not tested at this scale")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to publish."""

    runs: tyro.conf.Positional[Path]
    """OUT of `snnjax reproduce`."""
    pages: tyro.conf.Positional[Path]
    """Folder for the pages."""
    machine: str
    """What they were run on."""
    commit: str
    """At which commit."""
    notes: Path | None = None
    """Markdown for the index: why statements do not hold."""


def publish(runs: Path, pages: Path, *, machine: str, commit: str, notes: str = "") -> Path:
    """Copy what `runs` holds to `pages`, and write the index; its path.

    Raises:
      FileNotFoundError: `runs` holds no finished study.   ValueError: a report names a path of the machine.
    """
    names = list(dict.fromkeys(study_name(name) for name in TARGETS))
    found = [name for name in names if (runs / name / "report.md").exists()]
    if not found:
        raise FileNotFoundError(f"{runs} holds no finished study of snnjax reproduce")
    facts = {}
    for name in found:
        source, target = runs / name, pages / name
        report = re.sub(r"--out [^`]+`", "--out OUT`", (source / "report.md").read_text())
        if path := re.search(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+", report):
            raise ValueError(f"{source / 'report.md'} names a path of this machine, {path[0]}")
        shutil.rmtree(target, ignore_errors=True)  # not before the report has been read and found good
        target.mkdir(parents=True)
        (target / "report.md").write_text(report)
        for file in (*sorted(source.glob("*.png")), source / "results.csv"):
            shutil.copyfile(file, target / file.name)
        facts[name] = _facts(source, report)
    index = pages / "report.md"
    text = _index(facts, [name for name in names if name not in facts], machine=machine, commit=commit)
    index.write_text(text + (f"\n## Where a statement does not hold\n\n{notes.strip()}\n" if notes else ""))
    return index


def _facts(folder: Path, report: str) -> dict[str, Any]:
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith("| ")]
    counts = {verdict: sum(verdict in (cell.strip() for cell in row) for row in rows) for verdict in VERDICTS}
    seconds = sum(json.loads(line)["seconds"] for line in (folder / "results.jsonl").read_text().splitlines())
    day = datetime.datetime.fromtimestamp((folder / "results.jsonl").stat().st_mtime, datetime.UTC).date()
    settings = json.loads((folder / "study.json").read_text())
    return {"title": report.splitlines()[0].removeprefix("# "), "preset": settings["preset"], "minutes": seconds / 60, "day": day, **counts}


def _index(facts: Mapping[str, Mapping[str, Any]], missing: list[str], *, machine: str, commit: str) -> str:
    presets = " and ".join(dict.fromkeys(f"`{f['preset']}`" for f in facts.values()))
    lines = [
        "# The paper's figures and tables, as they came out here",
        f"Made by `snnjax reproduce NAME`, preset {presets}, at commit {commit} on {machine}. Each page has the settings, the seeds, our numbers beside "
        "the published ones, and a verdict on every statement of the paper.",
        f"| | {' | '.join(VERDICTS)} | run on | minutes |\n|{'---|' * (len(VERDICTS) + 3)}",
    ]
    lines[-1] += "".join(
        f"\n| [{f['title']}]({name}/report.md) | {' | '.join(str(f[v]) for v in VERDICTS)} | {f['day']} | {f['minutes']:.1f} |"
        for name, f in facts.items()
    )
    if missing:
        lines.append(f"Not run here: {', '.join(missing)}.")
    return "\n\n".join(lines) + "\n"


def main(options: Options) -> int:
    """Publish, and say where."""
    notes = "" if options.notes is None else options.notes.read_text()
    print(publish(options.runs, options.pages, machine=options.machine, commit=options.commit, notes=notes))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
