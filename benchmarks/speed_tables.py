"""What `benchmarks.speed` found, as Markdown tables: ratios of step times, memory, time to first step, growth, samples a second.

Ratios, because milliseconds are of one machine: they are in the results, a line a process.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import floor
from benchmarks.works import WORKS, parse

Line = Mapping[str, Any]
OURS = "snnjax"
FLOOR = "floor"


class Times(NamedTuple):
    """Milliseconds of one contestant at one work: the median over all steps, and that of each round."""

    median: float
    rounds: dict[int, float]


def said(line: Line) -> str:
    """A line of the results in a few words, for who waits for the next."""
    what = " ".join(str(line[k]) for k in ("work", "contestant", "change") if line.get(k))
    if problem := line.get("error") or line.get("unsupported"):
        return f"{what}: {problem}"
    if "ms" in line:
        return f"{what}: {statistics.median(line['ms']):.1f} ms, first step after {line['ready_s']:.1f} s, {line['peak_mib']:.0f} MiB"
    if "samples_per_s" in line:
        return f"{what}: " + ", ".join(
            f"{name} {value:.0f} samples/s" for name, value in line["samples_per_s"].items()
        )
    return f"{what}: {line['flops'] / 1e9:.1f} Gflop/s, {line['bytes'] / 1e9:.1f} GB/s"


def select(lines: Iterable[Line], kind: str, **fields: Any) -> list[Line]:
    """Lines of a kind with these fields."""
    return [
        line
        for line in lines
        if line["kind"] == kind and all(line.get(k) == v for k, v in fields.items())
    ]


def times_of(lines: Sequence[Line]) -> Times | None:
    """Of the lines that have times; None where no line has.

    >>> times_of([{"round": 0, "ms": [1.0, 2.0, 9.0]}, {"round": 1, "ms": [4.0]}, {"round": 2, "error": "..."}])
    Times(median=3.0, rounds={0: 2.0, 1: 4.0})
    """
    good = [line for line in lines if "ms" in line]
    if not good:
        return None
    rounds = {line["round"]: statistics.median(line["ms"]) for line in good}
    return Times(statistics.median([ms for line in good for ms in line["ms"]]), rounds)


def floor_times(lines: Sequence[Line], work: str) -> Times | None:
    """The floor of a work by the rates of each round."""
    rates = {
        line["round"]: floor.Rates(line["flops"], line["bytes"])
        for line in select(lines, FLOOR)
        if "flops" in line
    }
    rounds = {k: 1e3 * floor.seconds(WORKS[work], each) for k, each in rates.items()}
    return Times(statistics.median(rounds.values()), rounds) if rounds else None


def ratio(a: Times, b: Times) -> str:
    """The medians' ratio, and its range over the rounds that both have.

    >>> ratio(Times(3.0, {0: 2.0, 1: 4.0}), Times(2.0, {0: 2.0, 1: 2.0}))
    '1.50 (1.00-2.00)'
    """
    both = [a.rounds[k] / b.rounds[k] for k in a.rounds.keys() & b.rounds.keys()]
    spread = f" ({digits(min(both))}-{digits(max(both))})" if len(both) > 1 else ""
    return f"{digits(a.median / b.median)}{spread}"


def digits(value: float) -> str:
    """Three digits at most, none after the point from 100 on.

    >>> digits(0.0123), digits(1.234), digits(12.34), digits(1234.5)
    ('0.012', '1.23', '12.3', '1234')
    """
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join(
        [
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    )


def tables(lines: Sequence[Line]) -> str:
    """All that there are results for."""
    if not lines:
        return "no results"
    parts = [
        f"Settings: {', '.join(f'{k} {v}' for k, v in lines[-1]['settings'].items())}.",
        versions(lines),
    ]
    parts += [speed(lines), memory(lines), first_step(lines), growth(lines), loader(lines)]
    return "\n\n".join(part for part in parts if part)


def versions(lines: Sequence[Line]) -> str:
    """Of everything that was measured."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        for name, value in line.get("versions", {}).items():
            found.setdefault(name, {})[value] = None
    each = [f"{name} {' and '.join(values)}" for name, values in sorted(found.items())]
    return f"Versions: {', '.join(each)}." if each else ""


def names(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """Works and contestants in the order of the first round, snnjax first."""
    rows = select(lines, "step")
    first = [
        line["contestant"] for line in rows if line["round"] == min(line["round"] for line in rows)
    ]
    return list(dict.fromkeys(line["work"] for line in rows)), sorted(
        dict.fromkeys(first), key=lambda name: name != OURS
    )


def speed(lines: Sequence[Line]) -> str:
    """Step times: snnjax to the floor and to the fastest peer, and every contestant as a multiple of snnjax; then what differs and what failed."""
    if not select(lines, "step"):
        return ""
    works, contestants = names(lines)
    rows, notes = [], []
    for work in works:
        entries = {name: select(lines, "step", work=work, contestant=name) for name in contestants}
        found = {name: times_of(entry) for name, entry in entries.items()}
        marks = {name: mark(work, entry) for name, entry in entries.items()}
        notes += [
            f"{work}, {name}: {problem(entry)}" for name, entry in entries.items() if problem(entry)
        ]
        ours = found.get(OURS)
        rows.append(
            [
                work,
                *(
                    [""] * 3
                    if ours is None
                    else against(ours, found, marks, floor_times(lines, work))
                ),
            ]
        )
        rows[-1] += [
            cell(found[name], ours, marks[name], entries[name])
            for name in contestants
            if name != OURS
        ]
    others = [f"{name} / snnjax" for name in contestants if name != OURS]
    head = ["work", "snnjax / floor", "fastest other", "snnjax / fastest other", *others]
    text = "Time of a training step, ratio of medians and its range over rounds; * feed-forward where the work is recurrent."
    return "\n\n".join(
        [
            text,
            markdown(head, rows),
            kinds(lines),
            *(["Not measured: " + "; ".join(notes) + "."] if notes else []),
        ]
    )


def against(
    ours: Times, found: Mapping[str, Times | None], marks: Mapping[str, str], least: Times | None
) -> list[str]:
    """snnjax to the floor, the fastest of the others that are not snnjax, and snnjax to it."""
    others = {
        name: times
        for name, times in found.items()
        if times is not None and not name.startswith(OURS)
    }
    fastest = min(others, key=lambda name: others[name].median, default=None)
    to_floor = "" if least is None else ratio(ours, least)
    return [
        to_floor,
        *(
            ["", ""]
            if fastest is None
            else [fastest + marks[fastest], ratio(ours, others[fastest])]
        ),
    ]


def cell(times: Times | None, ours: Times | None, mark: str, entry: Sequence[Line]) -> str:
    """A contestant as a multiple of snnjax, or why not."""
    if times is None:
        return "" if not entry else "-" if "unsupported" in entry[0] else "failed"
    return "" if ours is None else ratio(times, ours) + mark


def mark(work: str, entry: Sequence[Line]) -> str:
    """A star where the contestant did another thing than the work says."""
    return (
        "*" if any(line.get("form", WORKS[work].form) != WORKS[work].form for line in entry) else ""
    )


def problem(entry: Sequence[Line]) -> str:
    """Why a contestant has no times, where it has none."""
    if times_of(entry) is not None:
        return ""
    return next((line[k] for line in entry for k in ("unsupported", "error") if k in line), "")


def kinds(lines: Sequence[Line]) -> str:
    """Which neuron each contestant has, at which works."""
    found: dict[str, dict[str, None]] = {}
    for line in select(lines, "step"):
        if "neuron" in line:
            own = "" if line["input"].startswith("dense") else f", {line['input']}"
            found.setdefault(line["contestant"], {})[line["neuron"] + own] = None
    return (
        "Neurons: "
        + "; ".join(f"{name}: {' and '.join(each)}" for name, each in found.items())
        + "."
    )


def memory(lines: Sequence[Line]) -> str:
    """Peak resident memory of whole processes, the largest over rounds."""
    if not select(lines, "step"):
        return ""
    works, contestants = names(lines)

    def peak(work: str, name: str) -> str:
        peaks = [
            line["peak_mib"]
            for line in select(lines, "step", work=work, contestant=name)
            if "peak_mib" in line
        ]
        return f"{max(peaks):.0f}" if peaks else ""

    rows = [[work, *(peak(work, name) for name in contestants)] for work in works]
    return "Peak memory of the process, MiB.\n\n" + markdown(["work", *contestants], rows)


def first_step(lines: Sequence[Line]) -> str:
    """From the process' start to the end of its first step, as multiples of snnjax's, without and with compilations kept on the disk."""
    if not select(lines, "step"):
        return ""
    works, contestants = names(lines)

    def median(kind: str, work: str, name: str, field: str = "ready_s") -> float | None:
        values = [
            line[field] for line in select(lines, kind, work=work, contestant=name) if field in line
        ]
        return statistics.median(values) if values else None

    kept = list(dict.fromkeys(line["contestant"] for line in select(lines, "start")))
    rows = []
    for work in works:
        ours, imported = median("step", work, OURS), median("step", work, OURS, "import_s")
        values = [median("step", work, name) for name in contestants if name != OURS] + [
            median("start", work, name) for name in kept
        ]
        shares = ["" if ours is None or value is None else digits(value / ours) for value in values]
        rows.append(
            [
                work,
                "" if ours is None or imported is None else f"{100 * imported / ours:.0f} %",
                *shares,
            ]
        )
    head = [
        "work",
        "of it imports",
        *(name for name in contestants if name != OURS),
        *(f"{name}, kept" for name in kept),
    ]
    text = "From the start of the process to the end of the first step, as multiples of snnjax's; kept: JAX's compilations are on the disk."
    return text + "\n\n" + markdown(head, rows)


def growth(lines: Sequence[Line]) -> str:
    """snnjax's step time at each value as a multiple of that at the first, and in brackets per unit of the value."""
    rows = []
    found: dict[tuple[str, str], dict[int, Times]] = {}
    for change in dict.fromkeys((line["work"], line["change"]) for line in select(lines, "growth")):
        times = times_of(select(lines, "growth", work=change[0], change=change[1]))
        if times is not None:
            axis, value = axis_of(*change)
            for name in axis:
                found.setdefault((change[0], name), {})[value[name]] = times
    for (work, axis), values in found.items():
        base = min(values)
        multiples = {v: times.median / values[base].median for v, times in sorted(values.items())}
        cells = [
            f"{v}: {digits(multiple)} ({digits(multiple * base / v)})"
            for v, multiple in multiples.items()
        ]
        if len(cells) > 1:
            rows.append([f"{axis} ({work})", ", ".join(cells)])
    if not rows:
        return ""
    text = "snnjax's step against one size at a time: value: multiple of the time at the first value (and of the time for each unit of the value)."
    return text + "\n\n" + markdown(["size", "time"], rows)


def axis_of(work: str, change: str) -> tuple[list[str], dict[str, int]]:
    """The axes that a change lies on, and its value on each; one hidden layer of 128 begins both width and depth.

    >>> axis_of("W1", "hidden=128,128"), axis_of("W1", "steps=100")
    ((['depth'], {'depth': 2}), (['steps'], {'steps': 100}))
    """
    changed = parse(work, [change])
    field = change.partition("=")[0]
    if field != "hidden":
        return [field], {field: getattr(changed, field)}
    values = {"width": changed.hidden[0], "depth": len(changed.hidden)}
    axes = (
        ["depth"]
        if values["depth"] > 1
        else ["width", "depth"]
        if changed.hidden == WORKS[work].hidden
        else ["width"]
    )
    return axes, {axis: values[axis] for axis in axes}


def loader(lines: Sequence[Line]) -> str:
    """Samples a second, and how many times what a step of W1 uses up."""
    found = [line["samples_per_s"] for line in select(lines, "loader") if "samples_per_s" in line]
    if not found:
        return ""
    step = times_of(select(lines, "step", work="W1", contestant=OURS))
    used = None if step is None else 1e3 * WORKS["W1"].batch / step.median
    rows = []
    for name in found[0]:
        rate = statistics.median([each[name] for each in found if name in each])
        rows.append([name, f"{rate:.0f}", "" if used is None else digits(rate / used)])
    return "Loader (`benchmarks.loader` says what is what).\n\n" + markdown(
        ["source", "samples a second", "times what a step of W1 uses"], rows
    )
