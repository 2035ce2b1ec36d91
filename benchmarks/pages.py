"""Tables of the documentation, made from result files.

    python -m benchmarks.pages

A page marks the place of a table, and where its numbers are from:

    <!-- table: randman -->
    <!-- end -->

The command writes the table between the two lines again, in all pages. A test fails if a page
differs from the result files. `benchmarks/results/sources.json` has for each table its files, the
date, commit, machine and versions of the measurement, and the command that repeats it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from benchmarks import depth_tables, models, speed_tables
from benchmarks.publish import VERDICTS, verdicts_of
from benchmarks.speed import read as read_speed
from benchmarks.studies import Row, read, spread
from snnjax.experiments._rows import pick, values
from snnjax.reproduce._report import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RESULTS_PAGES = ROOT / "docs" / "results"
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
TEST, SELECTED = "test_accuracy_final", "test_accuracy_best"


class Source(TypedDict):
    """Where the numbers of a table are from. Facts that were not recorded are left out.

    Attributes:
        files: Names in `benchmarks/results`.
        date: Day of the measurement.
        commit: Commit of the code that was measured.
        machine: The machine.
        versions: Versions of the libraries.
        command: The command that repeats it.
    """

    files: list[str]
    date: str
    commit: NotRequired[str]
    machine: NotRequired[str]
    versions: NotRequired[str]
    command: str


def rows_of(name: str) -> list[Row]:
    """Return the rows of a CSV file of `benchmarks/results`."""
    return read(RESULTS / f"{name}.csv")


def lines_of(name: str) -> list[Row]:
    """Return the lines of a file of `benchmarks/results` by `benchmarks.speed`."""
    return read_speed(RESULTS / f"{name}.jsonl")


def percent(rows: Sequence[Row], column: str, digits: int = 1) -> str:
    """Return the mean in per cent, with the standard deviation if there are at least 3 runs."""
    return spread(list(values(rows, column)), digits, least=3) if rows else ""


def mean(rows: Sequence[Row], column: str, digits: int = 1) -> str:
    """Return the mean of a column."""
    return f"{values(rows, column).mean():.{digits}f}"


def accuracy() -> str:
    """Return test accuracies of networks with one hidden layer."""
    digits = rows_of("digits")
    words = "60 epochs, augmented"
    groups = {
        ("Randman", "20-128-10", "paper, 200 epochs"): rows_of("randman"),
        ("Randman", "20-128-10", "calibrated, 200 epochs"): rows_of("randman_calibrated"),
        ("spoken digits", "700-128-10, feed-forward", f"paper, {words}"): pick(
            digits, recurrent=False
        ),
        ("spoken digits", "700-128-10, recurrent", f"paper, {words}"): pick(digits, recurrent=True),
        ("spoken digits", "700-128-10, recurrent", f"calibrated, {words}"): rows_of(
            "digits_calibrated"
        ),
    }
    head = ("data", "network", "start", "runs", "test, final (%)", "test, selected (%)")
    head += ("rate before, after (Hz)",)
    lines = [
        [
            *group,
            str(len(own)),
            percent(own, TEST),
            percent(own, SELECTED),
            f"{mean(own, 'initial_rate_1')}, {mean(own, 'final_rate_1')}",
        ]
        for group, own in groups.items()
    ]
    return markdown_table(head, lines)


SIGMA_U = re.compile(
    r"(.{14}) sigma_u (\S+) (.{22}) measured/target ([\d. ]+) \| rate Hz ([\d. ]+) "
    r"\| silent % ([\d ]+) \|"
)


def sigma_u() -> str:
    """Return target and measured sigma_u of seven dense layers, target 1."""
    text = (RESULTS / "sigma_u.txt").read_text().split("\n8 seeds, 7 recurrent")[0]
    lines = []
    for line in text.split("\n4 seeds")[0].splitlines():
        if (found := SIGMA_U.match(line)) and found[2] == "1":
            source, _, method, ratios, rates, silent = (part.strip() for part in found.groups())
            rounded = " ".join(f"{float(rate):.0f}" for rate in rates.split())
            lines.append([source, method, ratios, rounded, silent.split()[-1]])
    head = ("input", "weights", "measured / target, layer 1 to 7", "rate, layer 1 to 7 (Hz)")
    return markdown_table([*head, "silent neurons, layer 7 (%)"], lines)


def images() -> str:
    """Return test accuracies on images."""
    names = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10, a part, 16 x 16 pixels"}
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows_of("images"):
        layers = re.sub(r"\D", "", row["model"])
        settings = f"{row['learning_rate']:g}", f"{row['duration']:g}", str(row["epochs"])
        groups.setdefault((names[row["task"]], layers, *settings), []).append(row)
    head = ("data", "layers", "learning rate", "shown for (s)", "epochs", "runs")
    lines = [
        [*group, str(len(own)), percent(own, TEST), percent(own, "train_accuracy")]
        for group, own in sorted(groups.items(), reverse=True)
    ]
    return markdown_table([*head, "test (%)", "training (%)"], lines)


def dale() -> str:
    """Return accuracies with and without Dale's law, against sigma_u."""
    pair = rows_of("figure7_dalian"), rows_of("figure7_dense")
    lines = []
    for target in sorted({row["sigma_u"] for row in pair[0]}):
        line = [f"{target:g}"]
        for rows in pair:
            own = pick(rows, sigma_u=target)
            line += [percent(own, "valid_accuracy"), percent(own, TEST)]
            line.append(f"{values(own, 'initial_sigma_u_1').mean():.2g}")
        lines.append(line)
    kinds = ("Dale's law", "without")
    columns = ("validation (%)", "test (%)", "measured sigma_u")
    return markdown_table(
        ["sigma_u", *(f"{kind}: {column}" for kind in kinds for column in columns)], lines
    )


def figure3() -> str:
    """Return test accuracies against sigma_u: the paper's settings, and shorter training."""
    names = ("figure3_randman_paper", "figure3_randman", "figure3_digits")
    tables = [rows_of(name) for name in names]
    targets = sorted({row["sigma_u"] for rows in tables for row in rows})
    lines = [
        [f"{target:.3g}", *(percent(pick(rows, sigma_u=target), TEST) for rows in tables)]
        for target in targets
    ]
    head = ("sigma_u", "Randman, paper's settings (%)", "Randman, 40 epochs (%)")
    return markdown_table([*head, "spoken digits, 15 epochs (%)"], lines)


def figure3_map(name: str) -> str:
    """Return test accuracies over mean and standard deviation of the weights.

    Args:
        name: Name of the file.
    """
    rows = rows_of(name)
    means = sorted({row["mu_w"] for row in rows})
    lines = []
    for sigma_w in sorted({row["sigma_w"] for row in rows}):
        own = [pick(rows, sigma_w=sigma_w, mu_w=mu_w) for mu_w in means]
        lines.append([f"{sigma_w:.2g}", *(f"{100 * values(o, TEST).mean():.0f}" for o in own)])
    return markdown_table(["sigma_w", *(f"mu_w {mu_w:g}" for mu_w in means)], lines)


NETWORKS = {
    "one_layer": "one layer",
    "three_layers": "three layers",
    "average_pooling": "convolutions, average pooling",
    "max_pooling": "maximum pooling",
    "recurrent": "recurrent",
}
READERS = {
    "nirtorch, ours": "nirtorch 2.6 runs the graph; neurons of 20 lines of torch, our order",
    "snntorch, reset_delay": "snnTorch 1.0.0, `reset_delay` of its neurons set to True",
    "snntorch, as imported": "snnTorch 1.0.0 as imported",
    "norse": "Norse 1.1.0",
}


def exchange() -> str:
    """Return the part of identical spike trains of exported networks in other tools."""
    rows = [json.loads(line) for line in (RESULTS / "nir_reader.jsonl").read_text().splitlines()]
    lines = []
    for reader, title in READERS.items():
        cells = [title]
        for network in NETWORKS:
            (row,) = pick(rows, reader=reader, network=network, scheme="euler")
            cells.append(f"{100 * row['identical']:.0f}" if "identical" in row else "not supported")
        lines.append(cells)
    ours = [pick(rows, reader="nirtorch, ours", network=n, scheme="euler")[0] for n in NETWORKS]
    silent = [f"{100 * row['silent']:.0f}" for row in ours]
    lines.append(["for comparison: our trains without a spike", *silent])
    return markdown_table(["reader", *NETWORKS.values()], lines)


def stored(name: str) -> str:
    """Return a CSV file as a table, as it is.

    Args:
        name: Name of the file.
    """
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    return markdown_table(head, lines)


def gpu() -> str:
    """Return milliseconds of a training step on a GPU."""
    now, before = lines_of("speed_h200"), lines_of("speed_h200_before")
    works, _ = speed_tables.names(now)

    def cells(lines: Sequence[Row], *contestants: str) -> list[str]:
        found = []
        for work in works:
            steps = [
                speed_tables.select(lines, "step", work=work, contestant=c) for c in contestants
            ]
            times = [t.median for own in steps if (t := speed_tables.times_of(own))]
            found.append(speed_tables.digits(min(times)) if times else "")
        return found

    lines = [
        ["snnjax", *cells(now, "snnjax")],
        ["Spyx 1.0, the faster of its two forms", *cells(now, "spyx", "spyx-hoisted")],
        ["snnjax, before the kernel over time", *cells(before, "snnjax")],
    ]
    return markdown_table(["ms per step", *works], lines)


def speed_summary() -> str:
    """Return the speed table of the README: also the rows in which snnjax is not the first."""
    lines = lines_of("speed")
    what = {
        "W1": "dense 700-128-20",
        "W2": "the same, recurrent",
        "W3": "Linear(512, 512) + LIF",
        "W4": "three recurrent convolutions (Spyx: without recurrence)",
        "W4f": "three convolutions",
        "S1": "eight seeds of W1",
    }
    shown = ("spyx", "spyx-hoisted", "torch", "snntorch")
    rows = []
    for work, title in what.items():
        ours = speed_tables.times_of(
            speed_tables.select(lines, "step", work=work, contestant="snnjax")
        )
        assert ours is not None
        row = [f"{work}: {title}", f"{speed_tables.milliseconds(ours)} ms"]
        for name in shown:
            times = speed_tables.times_of(
                speed_tables.select(lines, "step", work=work, contestant=name)
            )
            row.append("" if times is None else _times(times.median / ours.median))
        rows.append(row)

    def facts(source: Sequence[Row], kind: str, work: str, field: str, unit: str) -> list[str]:
        found = {}
        for name in ("snnjax", *shown):
            own = speed_tables.select(source, kind, work=work, contestant=name)
            values = [line[field] for line in own]
            # of memory the largest, as in the page's table
            value = max if field == "peak_mib" else np.median
            found[name] = value(values) if values else None
        ours = found.pop("snnjax")
        return [
            f"{ours:.{1 if unit == 's' else 0}f} {unit}",
            *("" if value is None else _times(value / ours) for value in found.values()),
        ]

    for work in ("W1", "W4"):
        rows.append(
            [f"{work}: time to the first step", *facts(lines, "step", work, "ready_s", "s")]
        )
        rows.append([f"{work}: peak memory", *facts(lines, "step", work, "peak_mib", "MiB")])
    return markdown_table(["", "snnjax", *(speed_tables.TITLES[name] for name in shown)], rows)


def _times(value: float) -> str:
    text = f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
    return f"**{text}** x" if value < 1 else f"{text} x"


def _speed(part: Callable[[Sequence[Row]], str], *names: str) -> Callable[[], str]:
    return lambda: part([line for name in names for line in lines_of(name)])


def studies() -> dict[str, Row]:
    """Return the facts of the published studies of the paper by name."""
    return json.loads((RESULTS_PAGES / "studies.json").read_text())


def statements() -> str:
    """Return the number of statements of the paper by verdict and figure."""
    total: Counter[str] = Counter()
    own: Counter[str] = Counter()
    lines = []
    for name, facts in studies().items():
        report = (RESULTS_PAGES / name / "report.md").read_text()
        counts = verdicts_of(report)
        total += counts
        own += verdicts_of(report, "ours")
        title = f"[{facts['title']}](results/{name}/report.md)"
        lines.append([title, *(str(counts[verdict]) for verdict in VERDICTS)])
    lines.append(["**all**", *(f"**{total[verdict]}**" for verdict in VERDICTS)])
    lines.append(["statements of our own, not counted", *(str(own[v]) for v in VERDICTS)])
    return markdown_table(["figure or table", *VERDICTS], lines)


def statement_count() -> str:
    """Return a sentence on how many statements hold."""
    reports = [(RESULTS_PAGES / name / "report.md").read_text() for name in studies()]
    total = sum(map(verdicts_of, reports), Counter())
    holds, fails, untested = (total[verdict] for verdict in VERDICTS)
    return (
        f"Of {total.total()} statements of the paper, **{holds} hold** here, **{fails} do not "
        f"hold**, and **{untested} cannot be tested** on a laptop."
    )


def headline() -> str:
    """Return the three numbers of the README, and how many statements hold."""
    depth = pick(rows_of("depth_calibrated"), study="dense, 12 epochs", arm="calibrated", depth=7)
    paper = pick(rows_of("depth_starts"), study="dense, 12 epochs", arm="paper", depth=7)
    best = max(pick(paper, seed=0), key=lambda row: row["valid_accuracy"])["learning_rate"]
    paper = pick(paper, learning_rate=best)
    lines = [
        [
            "seven hidden layers, spoken digits, 480 updates: validation accuracy",
            f"{percent(depth, 'valid_accuracy')} %",
            f"{percent(paper, 'valid_accuracy')} %: the paper's settings, best of four rates",
            "[depth](docs/depth.md), 2026-11-28",
        ],
        [
            "one hidden layer, Randman: test accuracy",
            f"{percent(rows_of('randman_calibrated'), TEST)} %",
            f"{percent(rows_of('randman'), TEST)} %: the paper's settings (the paper: 97.3 ± 0.2 %)",
            "[accuracy](docs/measured/accuracy.md), 2026-11-28",
        ],
        [
            "training step of 700-128-20, 350 steps, batch 64, two cores",
            *_one_step(),
            "[speed](docs/measured/speed.md), 2026-11-27",
        ],
    ]
    table = markdown_table(["measured", "snnjax", "for comparison", "page and date"], lines)
    return f"{table}\n\n{statement_count()}"


def _one_step() -> tuple[str, str]:
    lines = lines_of("speed")
    ours, theirs = (
        speed_tables.times_of(speed_tables.select(lines, "step", work="W1", contestant=name))
        for name in ("snnjax", "spyx-hoisted")
    )
    assert ours is not None
    assert theirs is not None
    return f"{ours.median:.0f} ms", f"{theirs.median:.0f} ms: Spyx 1.0, the faster of two forms"


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": accuracy,
    "sigma-u": sigma_u,
    "images": images,
    "dale": dale,
    "figure3": figure3,
    "figure3-randman-map": lambda: figure3_map("figure3_randman_map"),
    "figure3-digits-map": lambda: figure3_map("figure3_digits_map"),
    "exchange": exchange,
    "step-memory": lambda: stored("step_memory"),
    "step-memory-growth": lambda: stored("step_memory_growth"),
    "ensemble": lambda: stored("ensemble"),
    "speed": _speed(speed_tables.speed, "speed"),
    "speed-again": _speed(speed_tables.speed, "speed_again"),
    "first-step": _speed(speed_tables.first_step, "speed", "speed_start"),
    "first-step-again": _speed(speed_tables.first_step, "speed_first_step"),
    "peak-memory": _speed(speed_tables.memory, "speed"),
    "peak-memory-again": _speed(speed_tables.memory, "speed_first_step"),
    "growth": _speed(speed_tables.growth, "speed_growth"),
    "loader": _speed(speed_tables.loader, "speed", "speed_loader"),
    "speed-gpu": gpu,
    "speed-summary": speed_summary,
    "statements": statements,
    "statement-count": statement_count,
    "headline": headline,
    "models": lambda: models.tables(rows_of("models")),
    "model-commands": models.commands,
    **depth_tables.TABLES,
}
"""The tables by name."""


def origin(name: str) -> str:
    """Return the sentence on where the numbers of a table are from, or an empty text.

    Args:
        name: Name of the table.
    """
    sources: dict[str, Source] = json.loads((RESULTS / "sources.json").read_text())
    if name not in sources:
        return ""
    source = sources[name]
    facts = [f"Measured on {source['date']}"]
    facts += [f"at commit {source['commit']}"] if "commit" in source else []
    facts += [f"on {source['machine']}"] if "machine" in source else []
    parts = [" ".join(facts)]
    parts += [source["versions"]] if "versions" in source else []
    files = ", ".join(f"`benchmarks/results/{file}`" for file in source["files"])
    return f"{'; '.join(parts)}. Rows: {files}. Again: `{source['command']}`"


def filled(text: str) -> str:
    """Return a page with its tables written again.

    Args:
        text: The page.

    Raises:
        KeyError: A mark names a table that does not exist.
    """

    def table(found: re.Match[str]) -> str:
        name = found[2]
        parts = [TABLES[name](), *filter(None, [origin(name)])]
        inside = "\n\n".join(parts).replace("+-", "±")
        return f"{found[1]}\n{inside}\n\n{found[4]}"

    return MARK.sub(table, text)


def pages() -> list[Path]:
    """Return the pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Write the tables of all pages again, and print the pages that changed."""
    for page in pages():
        text = page.read_text()
        if (new := filled(text)) != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
