"""Results of `snnjax reproduce` as pages of the documentation.

    python -m benchmarks.publish OUT docs/results --machine "2 cores" --commit abc1234

Copies the report, figures and rows of each study (the folder OUT/NAME of
`snnjax.reproduce._study`). Paths of the machine are removed; date, machine and commit of the run
are added. Then writes an index with the same facts, the computing time, and which statements hold.
The facts of each study are stored in `studies.json` beside the index, so that studies of several
OUTs, from different times, can be combined. The index also names studies that were never
published.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnjax.reproduce._targets import TARGETS, study_name

VERDICTS = ("holds", "does not hold", "not tested at this scale")


def publish(runs: Path, pages: Path, *, machine: str, commit: str, notes: str = "") -> Path:
    """Copy the studies in `runs` to `pages`, and write the index over all published studies.

    Args:
        runs: The folder OUT of `snnjax reproduce`.
        pages: Folder for the pages.
        machine: The machine of the runs.
        commit: The commit of the runs.
        notes: Markdown for the index.

    Returns:
        Path of the index.

    Raises:
        FileNotFoundError: `runs` has no finished study.
        ValueError: A report contains a path of the machine.
    """
    names = list(dict.fromkeys(study_name(name) for name in TARGETS))
    found = [name for name in names if (runs / name / "report.md").exists()]
    if not found:
        raise FileNotFoundError(f"{runs} holds no finished study of snnjax reproduce")
    known = pages / "studies.json"
    facts = json.loads(known.read_text()) if known.exists() else {}
    for name in found:
        source, target = runs / name, pages / name
        report = re.sub(r"--out [^`]+`", "--out OUT`", (source / "report.md").read_text())
        if path := re.search(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+", report):
            raise ValueError(f"{source / 'report.md'} names a path of this machine, {path[0]}")
        facts[name] = _facts(source, report) | {"machine": machine, "commit": commit}
        first, rest = report.split("of computing.", 1)
        report = (
            f"{first}of computing, on {facts[name]['day']}, at commit {commit}, on {machine}.{rest}"
        )
        shutil.rmtree(target, ignore_errors=True)  # only after the report has been read and checked
        target.mkdir(parents=True)
        (target / "report.md").write_text(report)
        for file in (*sorted(source.glob("*.png")), source / "results.csv"):
            shutil.copyfile(file, target / file.name)
    facts = {name: facts[name] for name in names if name in facts}
    known.write_text(json.dumps(facts, indent=1) + "\n")
    index = pages / "report.md"
    text = _index(facts, [name for name in names if name not in facts])
    index.write_text(
        text + (f"\n## Where a statement does not hold\n\n{notes.strip()}\n" if notes else "")
    )
    return index


def verdicts_of(report: str, source: str = "PR") -> Counter[str]:
    """Count the verdicts in a report.

    Args:
        report: The report.
        source: The sources that count: P and R are those of the paper, "ours" is not.

    >>> row = "| A layer trains | P | holds | 0.5: 54 % |"
    >>> verdicts_of(f"{row}\\n{row.replace('P', 'ours')}")
    Counter({'holds': 1})
    """
    rows = [line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    found = [row[2] for row in rows if len(row) == 4 and row[1] in source]
    return Counter(verdict for verdict in found if verdict in VERDICTS)


def _facts(folder: Path, report: str) -> dict[str, Any]:
    counted = verdicts_of(report)
    counts = {verdict: counted[verdict] for verdict in VERDICTS}
    file = folder / "study.json"
    study = json.loads(file.read_text())
    seconds = sum(unit["seconds"] for unit in study["done"].values())
    day = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).date()
    return {
        "title": report.splitlines()[0].removeprefix("# "),
        "preset": study["settings"]["preset"],
        "minutes": round(seconds / 60, 1),
        "day": str(day),
        **counts,
    }


def _index(facts: Mapping[str, Mapping[str, Any]], missing: list[str]) -> str:
    presets = " and ".join(dict.fromkeys(f"`{f['preset']}`" for f in facts.values()))
    head = ["", *VERDICTS, "run on", "at commit", "minutes"]
    table = [f"| {' | '.join(head).strip()} |", "|" + "---|" * len(head)]
    for name, f in facts.items():
        counts = [f[verdict] for verdict in VERDICTS]
        cells = [f"[{f['title']}]({name}/report.md)", *counts, f["day"], f["commit"], f["minutes"]]
        table.append(f"| {' | '.join(map(str, cells))} |")
    lines = [
        "# The paper's figures and tables, as they came out here",
        f"Made by `snnjax reproduce NAME`, preset {presets}. Each page has the settings, the "
        "seeds, our numbers beside the published ones, and a verdict on every statement of the "
        "paper.",
        "\n".join(table),
    ]
    machines: dict[str, list[str]] = {}
    for name, f in facts.items():
        machines.setdefault(f["machine"], []).append(name)
    lines.append(
        " ".join(f"Run on {machine}: {', '.join(own)}." for machine, own in machines.items())
    )
    if missing:
        lines.append(f"Not run here: {', '.join(missing)}.")
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Publish, and print the path of the index."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("runs", type=Path, help="the folder OUT of snnjax reproduce")
    add("pages", type=Path, help="folder for the pages")
    add("--machine", required=True, help="the machine of the runs")
    add("--commit", required=True, help="the commit of the runs")
    add("--notes", type=Path, help="Markdown for the index: why statements do not hold")
    options = parser.parse_args()
    notes = "" if options.notes is None else options.notes.read_text()
    facts = {"machine": options.machine, "commit": options.commit, "notes": notes}
    print(publish(options.runs, options.pages, **facts))


if __name__ == "__main__":
    main()
