"""Results of `snnjax reproduce` as pages of the documentation.

    python -m benchmarks.publish docs/results --runs OUT --machine "2 cores" --commit abc1234
    python -m benchmarks.publish docs/results

The first command copies the report, figures and rows of each study (the folder OUT/NAME of
`snnjax.reproduce._study`). Paths of the machine are removed; date, machine and commit of the run
are added. The facts of each study are stored in `studies.json` beside the index, so that studies of
several OUTs, from different times, can be combined.

Both commands write an index with the same facts, the computing time, and which statements hold. The
second command also writes the reports again, from the published rows, without computing anything.
It needs the data of the studies, because their settings depend on them (SNNJAX_DATA).
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

from benchmarks.studies import Row, numbered, read
from snnjax.reproduce import _report
from snnjax.reproduce._settings import Options
from snnjax.reproduce._statements import judged
from snnjax.reproduce._study import Finished, Study
from snnjax.reproduce._targets import TARGETS, study_name

NAMES = list(dict.fromkeys(map(study_name, TARGETS)))
NOTES = Path(__file__).parent / "results" / "laptop_notes.md"
VERDICTS = ("holds", "does not hold", "not tested at this scale")


def publish(runs: Path, pages: Path, *, machine: str, commit: str, notes: Path = NOTES) -> Path:
    """Copy the studies in `runs` to `pages`, and write the index over all published studies.

    Args:
        runs: The folder OUT of `snnjax reproduce`.
        pages: Folder for the pages.
        machine: The machine of the runs.
        commit: The commit of the runs.
        notes: Markdown for the index: why statements do not hold.

    Returns:
        Path of the index.

    Raises:
        FileNotFoundError: `runs` has no finished study.
        ValueError: A report contains a path of the machine.
    """
    found = [name for name in NAMES if (runs / name / "report.md").exists()]
    if not found:
        raise FileNotFoundError(f"{runs} holds no finished study of snnjax reproduce")
    facts = facts_of(pages)
    for name in found:
        source, target = runs / name, pages / name
        report = re.sub(r"--out [^`]+`", "--out OUT`", (source / "report.md").read_text())
        if path := re.search(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+", report):
            raise ValueError(f"{source / 'report.md'} names a path of this machine, {path[0]}")
        facts[name] = _facts(source, report) | {"machine": machine, "commit": commit}
        shutil.rmtree(target, ignore_errors=True)  # only after the report has been read and checked
        target.mkdir(parents=True)
        (target / "report.md").write_text(_dated(report, facts[name]))
        for file in (*sorted(source.glob("*.png")), source / "results.csv"):
            shutil.copyfile(file, target / file.name)
    return _write_index(pages, facts, notes)


def again(pages: Path, notes: Path = NOTES) -> Path:
    """Write the reports of all published studies again, from their rows, and the index.

    Args:
        pages: Folder of the pages.
        notes: As in `publish`.

    Returns:
        Path of the index.

    Raises:
        ValueError: The rows of a study are not those of its present units.
    """
    facts = facts_of(pages)
    for name, known in facts.items():
        folder = pages / name
        study, old = TARGETS[name](Options(known["preset"])), (folder / "report.md").read_text()
        rows = [_with_lists(row, study) for row in read(folder / "results.csv")]
        units = {unit.name for unit in study.units}
        if (arms := {row["arm"] for row in rows}) != units:
            raise ValueError(f"{folder} has rows of {sorted(arms)}; the study has {sorted(units)}")
        shared = re.findall(r"^Trained .*: (.*)\.$", old, re.MULTILINE)
        verdicts = judged(study.statements, rows, generated=known["preset"] == "smoke")
        done = Finished(study, rows, verdicts, Path("OUT") / name, 60 * known["minutes"], shared)
        shown = re.findall(r"^!\[(.*)\]\((.*)\.png\)", old, re.MULTILINE)
        report = _report.page(done, [(file, study.captions.get(file, alt)) for alt, file in shown])
        counted = verdicts_of(report)
        facts[name] = known | {verdict: counted[verdict] for verdict in VERDICTS}
        (folder / "report.md").write_text(_dated(report, known))
    return _write_index(pages, facts, notes)


def facts_of(pages: Path) -> dict[str, dict[str, Any]]:
    """Return the facts of the published studies by name."""
    known = pages / "studies.json"
    return json.loads(known.read_text()) if known.exists() else {}


def _with_lists(row: Row, study: Study) -> Row:
    """Return a row of results.csv in which lists over layers are lists again."""
    columns = [column for column, _ in study.columns.values() if column not in row]
    lists = {column: numbered(row, column) for column in columns}
    return row | {column: values for column, values in lists.items() if values}


def _dated(report: str, facts: Mapping[str, Any]) -> str:
    first, rest = report.split("of computing.", 1)
    where = f"on {facts['day']}, at commit {facts['commit']}, on {facts['machine']}"
    return f"{first}of computing, {where}.{rest}"


def _write_index(pages: Path, facts: Mapping[str, Any], notes: Path) -> Path:
    facts = {name: facts[name] for name in NAMES if name in facts}
    (pages / "studies.json").write_text(json.dumps(facts, indent=1) + "\n")
    index, missing = pages / "report.md", [name for name in NAMES if name not in facts]
    why = f"\n## Where a statement does not hold\n\n{notes.read_text()}"
    index.write_text(_index(facts, missing) + why)
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
        "# Reports",
        f"The figures and tables of the paper, computed by `snnjax reproduce NAME`, preset "
        f"{presets}. Each report has the settings, the seeds, our numbers beside the published "
        "ones, and a verdict on every statement. This table counts the statements of the paper, "
        "and not our own.",
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
    add("pages", type=Path, help="folder for the pages")
    add("--runs", type=Path, help="the folder OUT of snnjax reproduce; without it, write again")
    add("--machine", help="the machine of the runs")
    add("--commit", help="the commit of the runs")
    options = parser.parse_args()
    if options.runs is None:
        print(again(options.pages))
    elif options.machine is None or options.commit is None:
        parser.error("--runs needs --machine and --commit")
    else:
        facts = {"machine": options.machine, "commit": options.commit}
        print(publish(options.runs, options.pages, **facts))


if __name__ == "__main__":
    main()
