"""The results of `benchmarks.speed` as Markdown tables.

The tables show step times, memory, time to first step, growth, and samples per second. Times of
other libraries are multiples of snnjax's, because milliseconds depend on the machine.
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
TITLES = {
    "spyx": "Spyx",
    "spyx-hoisted": "Spyx, hoisted",
    "jaxpike": "jaxpike",
    "torch": "plain PyTorch",
    "snntorch": "snnTorch",
    "norse": "Norse",
    "spikingjelly": "SpikingJelly",
}
"""Contestants in tables. Hoisted: we took the product with the input out of the loop over time."""


class Times(NamedTuple):
    """Milliseconds of one contestant and one work.

    Attributes:
        median: Median over all steps.
        rounds: Median of each round.
    """

    median: float
    rounds: dict[int, float]


def said(line: Line) -> str:
    """Summarize a line of the results, for the progress on the screen.

    Args:
        line: The line.
    """
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
    """Return the lines of a kind with these fields.

    Args:
        lines: The results.
        kind: The kind.
        **fields: Fields and their values.
    """
    return [
        line
        for line in lines
        if line["kind"] == kind and all(line.get(k) == v for k, v in fields.items())
    ]


def times_of(lines: Sequence[Line]) -> Times | None:
    """Return the times of the lines that have times, or None if there are none.

    Args:
        lines: Results of one contestant and one work.

    >>> times_of([{"round": 0, "ms": [1.0, 2.0, 9.0]}, {"round": 1, "ms": [4.0]}, {"round": 2, "error": "..."}])
    Times(median=3.0, rounds={0: 2.0, 1: 4.0})
    """
    good = [line for line in lines if "ms" in line]
    if not good:
        return None
    rounds = {line["round"]: statistics.median(line["ms"]) for line in good}
    return Times(statistics.median([ms for line in good for ms in line["ms"]]), rounds)


def floor_times(lines: Sequence[Line], work: str) -> Times | None:
    """Return the lower limit of a work, from the rates of each round.

    Args:
        lines: The results.
        work: Name of the work.
    """
    rates = {
        line["round"]: floor.Rates(line["flops"], line["bytes"])
        for line in select(lines, FLOOR)
        if "flops" in line
    }
    rounds = {k: 1e3 * floor.seconds(WORKS[work], each) for k, each in rates.items()}
    return Times(statistics.median(rounds.values()), rounds) if rounds else None


def ratio(a: Times, b: Times) -> str:
    """Return the ratio of the medians, and its range over the rounds that both have.

    Args:
        a: Numerator.
        b: Denominator.

    >>> ratio(Times(3.0, {0: 2.0, 1: 4.0}), Times(2.0, {0: 2.0, 1: 2.0}))
    '1.50 (1.00-2.00)'
    """
    both = [a.rounds[k] / b.rounds[k] for k in a.rounds.keys() & b.rounds.keys()]
    spread = f" ({digits(min(both))}-{digits(max(both))})" if len(both) > 1 else ""
    return f"{digits(a.median / b.median)}{spread}"


def digits(value: float) -> str:
    """Format a number with at most three digits, and no decimals from 100 on.

    Args:
        value: The number.

    >>> digits(0.0123), digits(1.234), digits(12.34), digits(1234.5)
    ('0.012', '1.23', '12.3', '1234')
    """
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        head: Column titles.
        rows: Cells of each row.

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
    """Return all tables that have results.

    Args:
        lines: The results.
    """
    if not lines:
        return "no results"
    parts = [
        f"Settings: {', '.join(f'{k} {v}' for k, v in lines[-1]['settings'].items())}.",
        versions(lines),
    ]
    parts += [speed(lines), memory(lines), first_step(lines), growth(lines), loader(lines)]
    return "\n\n".join(part for part in parts if part)


def versions(lines: Sequence[Line]) -> str:
    """Return the versions of everything that was measured.

    Args:
        lines: The results.
    """
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        for name, value in line.get("versions", {}).items():
            found.setdefault(name, {})[value] = None
    each = [f"{name} {' and '.join(values)}" for name, values in sorted(found.items())]
    return f"Versions: {', '.join(each)}." if each else ""


def names(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """Return works and contestants in the order of the first round, snnjax first.

    Args:
        lines: The results.
    """
    rows = select(lines, "step")
    first = [
        line["contestant"] for line in rows if line["round"] == min(line["round"] for line in rows)
    ]
    return list(dict.fromkeys(line["work"] for line in rows)), sorted(
        dict.fromkeys(first), key=lambda name: name != OURS
    )


def speed(lines: Sequence[Line]) -> str:
    """Return the table of step times, with notes on differences and failures.

    The columns are snnjax in milliseconds, every contestant as a multiple of it, and snnjax over
    the lower limit.

    Args:
        lines: The results.
    """
    if not select(lines, "step"):
        return ""
    works, contestants = names(lines)
    others = [name for name in contestants if name != OURS]
    rows, notes = [], []
    for work in works:
        entries = {name: select(lines, "step", work=work, contestant=name) for name in contestants}
        ours, least = times_of(entries.get(OURS, [])), floor_times(lines, work)
        notes += [
            f"{work}, {name}: {problem(entry)}" for name, entry in entries.items() if problem(entry)
        ]
        cells = [
            cell(times_of(entries[name]), ours, mark(work, entries[name]), entries[name])
            for name in others
        ]
        to_floor = "" if ours is None or least is None else ratio(ours, least)
        rows.append([work, "" if ours is None else milliseconds(ours), *cells, to_floor])
    head = ["work", "snnjax, ms", *(TITLES.get(name, name) for name in others), "snnjax / floor"]
    text = (
        "Time of a training step: snnjax in milliseconds (range over rounds), the others as "
        "multiples of it. A number below 1 is faster than snnjax. * feed-forward where the work "
        "is recurrent."
    )
    return "\n\n".join(
        [
            text,
            markdown(head, rows),
            kinds(lines),
            *(["Not measured: " + "; ".join(notes) + "."] if notes else []),
        ]
    )


def milliseconds(times: Times) -> str:
    """Return the range over rounds.

    Args:
        times: The times.

    >>> milliseconds(Times(3.0, {0: 2.04, 1: 4.0})), milliseconds(Times(3.0, {0: 3.0}))
    ('2.04-4.00', '3.00')
    """
    ends = dict.fromkeys((digits(min(times.rounds.values())), digits(max(times.rounds.values()))))
    return "-".join(ends)


def cell(times: Times | None, ours: Times | None, mark: str, entry: Sequence[Line]) -> str:
    """Return the times of a contestant as a multiple of snnjax, or the reason why there are none.

    Args:
        times: Times of the contestant.
        ours: Times of snnjax.
        mark: Mark of the contestant.
        entry: Its results.
    """
    if times is None:
        return "" if not entry else "-" if "unsupported" in entry[0] else "failed"
    return "" if ours is None else ratio(times, ours) + mark


def mark(work: str, entry: Sequence[Line]) -> str:
    """Return a star if the contestant did not do exactly what the work specifies.

    Args:
        work: Name of the work.
        entry: Results of the contestant.
    """
    return (
        "*" if any(line.get("form", WORKS[work].form) != WORKS[work].form for line in entry) else ""
    )


def problem(entry: Sequence[Line]) -> str:
    """Return the reason why a contestant has no times, or an empty text if it has times.

    Args:
        entry: Its results.
    """
    if times_of(entry) is not None:
        return ""
    return next((line[k] for line in entry for k in ("unsupported", "error") if k in line), "")


def kinds(lines: Sequence[Line]) -> str:
    """Return the neurons of each contestant.

    Args:
        lines: The results.
    """
    found: dict[str, dict[str, None]] = {}
    for line in select(lines, "step"):
        if "neuron" in line:
            own = "" if line["input"].startswith("dense") else f", {line['input']}"
            name = str(line["contestant"])
            name = TITLES.get(name, name)
            found.setdefault(name, {})[line["neuron"] + own] = None
    return (
        "Neurons: "
        + "; ".join(f"{name}: {' and '.join(each)}" for name, each in found.items())
        + "."
    )


def memory(lines: Sequence[Line]) -> str:
    """Return the table of peak resident memory of whole processes, the largest over rounds.

    Args:
        lines: The results.
    """
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
    head = ["work", *(TITLES.get(name, name) for name in contestants)]
    return "Peak memory of the process, MiB.\n\n" + markdown(head, rows)


def first_step(lines: Sequence[Line]) -> str:
    """Return the table of times from the start of the process to the end of its first step.

    The times are multiples of snnjax's time, without and with compiled programs cached on disk.

    Args:
        lines: The results.
    """
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
        *(TITLES.get(name, name) for name in contestants if name != OURS),
        *(f"{TITLES.get(name, name)}, kept" for name in kept),
    ]
    text = (
        "From the start of the process to the end of the first step, as multiples of snnjax's "
        "time. A number below 1 is earlier than snnjax."
    ) + (" Kept: compiled programs are on the disk." if kept else "")
    return text + "\n\n" + markdown(head, rows)


def growth(lines: Sequence[Line]) -> str:
    """Return the table of snnjax's step time at each value as a multiple of that at the first.

    In brackets is the multiple per unit of the value.

    Args:
        lines: The results.
    """
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
    """Return the axes of a change, and its value on each.

    One hidden layer of 128 is the first point of both width and depth.

    Args:
        work: Name of the work.
        change: The change, FIELD=VALUE.

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
    """Return the table of samples per second, also as a multiple of what a step of W1 needs.

    Args:
        lines: The results.
    """
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
