"""The pure parts of `benchmarks.speed`: works, lower limit, order of processes, output, tables.

Nothing is measured here.
"""

import doctest
import itertools
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import contest, floor, speed, speed_tables, works
from benchmarks.works import CONVS, DEEP_CONVS, WORKS, Work, inputs_of, layers_of, parse, weights_of
from snnjax import models, psp

SETTINGS = {"cpu": "a", "cores": 2, "commit": "b"}


@pytest.mark.parametrize("module", [works, contest, floor, speed, speed_tables])
def test_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


def test_layers_are_those_of_the_papers_network():
    for convs in (CONVS, DEEP_CONVS):
        for ours, paper in zip(convs, models.CSNN[len(convs)], strict=True):
            assert ours[:3] == (paper.maps, paper.kernel, paper.stride)
            assert ours.padding == (paper.kernel // 2 if paper.padding == "same" else 0)
            assert paper.lateral == works.RECURRENT_KERNEL
    assert works.RECURRENT_KERNEL == models.RECURRENT_KERNEL
    assert [(layer.maps_in, layer.positions) for layer in layers_of(WORKS["W4"])] == [
        (1, 68),
        (16, 21),
        (32, 5),
    ]


@pytest.mark.parametrize("name", WORKS)
def test_flops_and_bytes_are_a_count_over_layers(name):
    """Each product is written out as the multiplications of its loops, forward and per gradient."""
    work = WORKS[name]
    rows, multiplications, arrays = work.steps * work.batch, 0, 2 * work.units
    sizes = {0: [work.units], 3: [700, 68, 21, 5], 7: [700, 68, 68, 21, 21, 5, 5, 5]}
    positions = sizes[len(work.conv)]
    for k, layer in enumerate(layers_of(work)):
        into_one = layer.kernel * layer.maps_in
        neurons = layer.maps * (positions[k + 1] if work.conv else 1)
        multiplications += neurons * into_one  # x @ W
        multiplications += neurons * into_one  # gradient of W
        multiplications += (
            neurons * into_one if k > 0 else 0
        )  # gradient of x; for the first layer, x is the data and needs none
        if work.recurrent:
            multiplications += 3 * neurons * layer.maps * (5 if work.conv else 1)
        arrays += 6 * neurons
    if work.classes:
        multiplications += 3 * work.classes * neurons
        arrays += 6 * work.classes
    assert floor.flops(work) == 2 * rows * multiplications * work.seeds
    assert floor.traffic(work) == 4 * rows * arrays * work.seeds


def test_floor_of_the_first_work_by_hand():
    # 22,400 rows: 2 x 700 x 128 and 3 x 128 x 20 multiplications; 2 x 700 + 6 x 148 numbers
    assert floor.flops(WORKS["W1"]) == 2 * 22_400 * (2 * 700 * 128 + 3 * 128 * 20) == 8_372_224_000
    assert floor.traffic(WORKS["W1"]) == 4 * 22_400 * (2 * 700 + 6 * 148) == 205_004_800
    rates = floor.Rates(flops=8_372_224_000 / 2, bytes=205_004_800.0)
    assert floor.seconds(WORKS["W1"], rates) == 3.0


def test_inputs_have_the_density_and_are_the_same_each_time():
    work = parse("W3", ["steps=100"])
    x, labels = inputs_of(work)
    assert x.shape == (100, 16, 512)
    assert labels.tolist() == [0] * 16
    n, p = x.size, 0.05
    assert abs(x.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
    np.testing.assert_array_equal(inputs_of(work)[0], x)
    assert set(inputs_of(parse("W1", ["steps=2"]))[1]) == set(range(20))


def test_weights_move_the_membrane_by_the_threshold():
    """Measured in numpy: the membrane without reset of W1's layer on W1's input, over time."""
    work = parse("W1", ["steps=400", "batch=4"])
    x, _ = inputs_of(work)
    (layer,), _ = weights_of(work, 0)
    drive = x.astype(np.float64) @ layer.kernel[0]
    u = i = np.zeros(drive.shape[1:])
    trace = []
    for d in drive:
        trace.append(u)
        u, i = works.decay(20e-3) * u + works.gain(20e-3) * i, works.decay(10e-3) * i + d
    # its variance around the mean is 1 - density of sigma^2; the mean over 512 membranes of 350
    # correlated steps is accurate to a few per cent
    assert np.mean(np.var(trace[50:], axis=0)) == pytest.approx(1 - 0.03, rel=0.1)


def test_weights_are_the_papers_formula():
    kernel = psp.Kernel(tau_mem=works.TAU_MEM, tau_syn=works.TAU_SYN, dt=works.DT)
    sigma = (700 * WORKS["W1"].density / works.DT * kernel.power()) ** -0.5
    (layer,), readout = weights_of(WORKS["W1"], 0)
    # 89,600 and 2,560 normal numbers: within four standard errors
    assert layer.kernel.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * 89_600))
    assert readout is not None
    assert readout.std() == pytest.approx(128**-0.5, rel=4 / math.sqrt(2 * 2_560))


def test_recurrent_weights_share_the_variance():
    for name in ("W2", "W4"):
        plain, _ = weights_of(WORKS["W1" if name == "W2" else "W4f"], 0)
        shared, _ = weights_of(WORKS[name], 0)
        assert plain[0].recurrent is None
        assert shared[0].recurrent is not None
        assert shared[0].recurrent.shape == ((5, 16, 16) if name == "W4" else (1, 128, 128))
        assert shared[0].kernel.std() / plain[0].kernel.std() == pytest.approx(
            math.sqrt(0.9), rel=1e-5
        )


def test_changes_are_read():
    assert parse("W1") is not None
    assert parse("W1", ["steps=100", "batch=2", "density=0.5"]) == Work(
        "W1", steps=100, batch=2, density=0.5
    )
    assert parse("S1", ["seeds=3"]).seeds == 3


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("W9", "steps=1", "work must be one of W1"),
        ("W1", "speed=1", "FIELD one of"),
        ("W1", "steps", "number for steps"),
        ("W1", "steps=long", "number for steps"),
        ("W1", "batch=0", "number > 0 for batch"),
        ("W1", "hidden=128,-1", "number > 0 for hidden"),
    ],
)
def test_wrong_changes_are_named(name, change, match):
    with pytest.raises(ValueError, match=match):
        parse(name, [change])


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True), st.integers(1, 7))
def test_round_robin(contestants, rounds):
    """In each round, every contestant runs once per work, one directly after another.

    Each round begins with another contestant than the previous round.
    """
    jobs = list(speed.jobs_of("steps", ["W1", "W2"], contestants, rounds))
    by_round = [list(group) for _, group in itertools.groupby(jobs, key=lambda job: job.round)]
    assert len(by_round) == rounds
    for k, group in enumerate(by_round):
        assert group[0].kind == "floor"
        first = contestants[k % len(contestants)]
        for work, part in itertools.groupby(group[1:], key=lambda job: job.work):
            order = [job.contestant for job in part]
            assert work in ("W1", "W2")
            assert sorted(order) == sorted(contestants)
            assert order[0] == first
    starts = [group[1].contestant for group in by_round]
    assert len(set(starts)) == min(rounds, len(contestants))


def test_other_measurements_have_their_contestants():
    names = list(speed.CONTESTANTS)
    assert {job.contestant for job in speed.jobs_of("start", ["W1"], names, 1)} == set(speed.ON_JAX)
    grown = list(speed.jobs_of("growth", ["W1"], names, 2))
    assert {job.contestant for job in grown} == {"snnjax"}
    assert len(grown) == 2 * sum(len(values) for _, values in speed.AXES.values())
    assert all(parse(job.work, [job.change]) for job in grown)
    assert [job.kind for job in speed.jobs_of("loader", [], names, 2)] == ["loader"] * 2
    assert list(speed.jobs_of("growth", ["W1"], ["spyx"], 1)) == []


def test_a_measurement_goes_on_where_it_was():
    jobs = list(speed.jobs_of("steps", ["W1"], ["snnjax", "torch"], 2))
    lines = [job.key | {"ms": [1.0]} for job in jobs[:2]] + [
        jobs[2].key | {"error": "out of memory"}
    ]
    assert speed.missing(iter(jobs), lines) == jobs[2:]
    assert speed.missing(iter(jobs), [json.loads(json.dumps(job.key)) for job in jobs]) == []


def test_settings_that_differ_are_named(tmp_path):
    file = tmp_path / "speed.jsonl"
    speed.check_settings([{"settings": SETTINGS}], SETTINGS, file)
    with pytest.raises(ValueError, match="cores 2, now 4; name another file"):
        speed.check_settings([{"settings": SETTINGS}], SETTINGS | {"cores": 4}, file)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kind": "step"}', '{"settings": 1}'])
def test_damaged_results_are_named(tmp_path, text):
    file = tmp_path / "speed.jsonl"
    file.write_text(json.dumps({"settings": {}}) + "\n" + text + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*speed\.jsonl"):
        speed.read(file)
    assert speed.read(tmp_path / "none.jsonl") == []


def test_what_a_process_says_is_read():
    assert speed.read_outcome(0, 'chatter\n{"ms": [1.0]}\n', "warning") == {"ms": [1.0]}
    assert speed.read_outcome(0, "", "") == {"error": "printed no JSON but ''"}
    assert speed.read_outcome(0, "[1]", "") == {"error": "printed no JSON object but [1]"}
    # in a message of several lines, the first names the error
    assert speed.read_outcome(1, "", "Traceback\n  x\nlib.SomeError: bad\n\n  hint\n") == {
        "error": "status 1: lib.SomeError: bad"
    }
    assert speed.read_outcome(-9, "", "") == {"error": "status -9: "}


def test_a_process_that_fails_is_a_result():
    bad = speed.outcome([sys.executable, "-c", "raise ValueError('no')"], timeout=60)
    assert bad == {"error": "status 1: ValueError: no"}
    slow = speed.outcome([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)
    assert slow == {"error": "took more than 0.2 s"}
    assert "error" in speed.outcome(["/nowhere/python"], timeout=1)
    told = speed.outcome(
        [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
        timeout=60,
        environment={"A": "b"},
    )
    assert told["A"] == "b"
    assert float(told[contest.BEGIN]) > 0


def test_peers_without_environment_are_none(tmp_path):
    assert speed.python_of(speed.CONTESTANTS["spyx"], None) is None
    assert speed.python_of(speed.CONTESTANTS["spyx"], tmp_path) is None
    assert speed.python_of(speed.CONTESTANTS["snnjax"], None) == sys.executable
    link = tmp_path / "here" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    link.chmod(0o755)
    assert speed.python_of(
        speed.Contestant("run_x", (), "json", ("gone", "here")), tmp_path
    ) == str(link)
    assert (
        speed.python_of(speed.Contestant("run_x", (), "no_such_package", ("here",)), tmp_path)
        is None
    )


def test_commands():
    flags = ["--steps", "7", "--warmup", "1", "--seconds", "3"]
    options = speed.parse(["steps", "speed.jsonl", *flags])
    command = speed.command_of(speed.Job("growth", "W1", "snnjax", 0, "steps=100"), "PY", options)
    assert command == [
        "PY", "-m", "benchmarks.peers.run_snnjax", "W1", "--set", "steps=100", "--steps", "7", "--warmup", "1", "--seconds", "3.0", "--input", "events",
    ]  # fmt: skip
    assert speed.command_of(speed.Job("floor", "", "floor", 0), "PY", options) == [
        "PY",
        "-m",
        "benchmarks.floor",
    ]


class Clock:
    """A clock on which each step takes `cost` seconds."""

    def __init__(self, cost):
        self.now, self.cost, self.steps = 100.0, cost, 0

    def step(self):
        self.now += self.cost
        self.steps += 1
        return 1.0 / self.steps

    def __call__(self):
        return self.now


def test_steps_are_timed():
    clock = Clock(0.5)
    found = contest.measure(clock.step, steps=4, warmup=2, seconds=60, begin=90.0, clock=clock)
    assert found == {"ms": [500.0] * 4, "first_ms": 500.0, "ready_s": 10.5, "loss": [1.0, 1 / 7]}


def test_slow_steps_are_few():
    clock = Clock(30.0)
    found = contest.measure(clock.step, steps=10, warmup=5, seconds=10, begin=0.0, clock=clock)
    # the first, one warm-up step that began within ten seconds, and the minimum of timed steps
    assert clock.steps == 1 + 1 + contest.FEWEST
    assert found["ms"] == [30_000.0] * contest.FEWEST


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="finite"):
        contest.measure(lambda: math.nan, steps=1, warmup=0, seconds=1, begin=0.0)


def line(kind, work, contestant, k, **rest):
    return {
        "kind": kind,
        "work": work,
        "contestant": contestant,
        "round": k,
        "change": "",
        "settings": SETTINGS,
    } | rest


def step(work, contestant, k, ms, form="feed-forward", **rest):
    facts = {
        "neuron": "LIF",
        "form": form,
        "input": "dense",
        "note": "",
        "versions": {"jax": "1"},
        "loss": [1, 1],
        "first_ms": 9.0,
    }
    return (
        line(
            "step",
            work,
            contestant,
            k,
            ms=ms,
            ready_s=2.0,
            import_s=0.5,
            peak_mib=100.0 + k,
            **facts,
        )
        | rest
    )


def rows_of(text, head):
    """Cells of the table whose first header is `head`, without its first two lines."""
    lines = text.splitlines()
    begin = next(k for k, text in enumerate(lines) if text.startswith(f"| {head} |"))
    rows = itertools.takewhile(lambda text: text.startswith("|"), lines[begin:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_table_of_ratios():
    rates = {
        "flops": floor.flops(WORKS["W1"]) / 1e-3,
        "bytes": floor.traffic(WORKS["W1"]) / 1e-3,
    }  # a lower limit of 2 ms
    lines = [line("floor", "", "floor", k, **rates) for k in (0, 1)]
    for k, scale in ((0, 1.0), (1, 2.0)):
        lines += [
            step("W1", "snnjax", k, [10.0 * scale]),
            step("W1", "snnjax-arrays", k, [5.0]),
            step("W1", "torch", k, [40.0, 40.0]),
        ]
        lines += [
            step("W1", "spyx", k, [30.0 * scale]),
            line("step", "W1", "norse", k, error="status 1: it | broke"),
        ]
        lines += [step("W2", "snnjax", k, [10.0], "recurrent"), step("W2", "spyx", k, [5.0])]
        lines += [line("step", "W2", "torch", k, unsupported="cannot")]
    text = speed_tables.tables(lines)
    head, separator, first, second = rows_of(text, "work")
    assert head == ["work", "snnjax, ms", "snnjax-arrays", "plain PyTorch", "Spyx", "Norse", "snnjax / floor"]  # fmt: skip
    assert set("".join(separator)) == {"-"}
    # medians 15, 5, 40 and 45
    assert first == [
        "W1",
        "10.0-20.0",
        "0.33 (0.25-0.50)",
        "2.67 (2.00-4.00)",
        "3.00 (3.00-3.00)",
        "failed",
        "7.50 (5.00-10.0)",
    ]
    least = floor.seconds(WORKS["W2"], floor.Rates(**rates)) * 1e3
    assert second == ["W2", "10.0", "", "-", "0.50 (0.50-0.50)*", "", ratio_text(10.0, least)]
    assert "Not measured: W1, norse: status 1: it | broke; W2, torch: cannot." in text


def ratio_text(a, b):
    value = speed_tables.digits(a / b)
    return f"{value} ({value}-{value})"


def test_tables_of_memory_and_first_step():
    lines = [
        step("W1", name, k, [1.0], ready_s=4.0 if name == "snnjax" else 6.0)
        for k in (0, 1)
        for name in ("spyx", "snnjax")
    ]
    lines += [line("start", "W1", "snnjax", 0, ready_s=2.0, ms=[1.0])]
    text = speed_tables.tables(lines)
    assert rows_of(speed_tables.memory(lines), "work")[2] == ["W1", "101", "101"]
    assert rows_of(speed_tables.first_step(lines), "work")[2] == ["W1", "12 %", "1.50", "0.50"]
    assert "Versions: jax 1." in text
    assert text.startswith("Settings: cpu a, cores 2, commit b.")


def test_table_of_growth():
    lines = [
        line("growth", "W1", "snnjax", 0, ms=[ms], change=change)
        for change, ms in (
            ("steps=100", 1.0),
            ("steps=1000", 8.0),
            ("hidden=128", 2.0),
            ("hidden=128,128", 3.0),
            ("hidden=512", 5.0),
            ("batch=4", 1.0),
        )
    ]
    rows = dict(rows_of(speed_tables.growth(lines), "size")[2:])
    assert rows == {
        "steps (W1)": "100: 1.00 (1.00), 1000: 8.00 (0.80)",
        "width (W1)": "128: 1.00 (1.00), 512: 2.50 (0.62)",
        "depth (W1)": "1: 1.00 (1.00), 2: 1.50 (0.75)",
    }


def test_table_of_the_loader():
    lines = [
        step("W1", "snnjax", 0, [640.0]),
        line("loader", "", "snnjax", 0, samples_per_s={"host": 1000.0, "device": 50.0}),
    ]
    assert rows_of(speed_tables.loader(lines), "source")[2:] == [
        ["host", "1000", "10.0"],
        ["device", "50", "0.50"],
    ]
    assert speed_tables.loader([]) == ""


def test_nothing_measured():
    assert speed_tables.tables([]) == "no results"


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (step("W1", "snnjax", 0, [1.0, 3.0]), "W1 snnjax: 2.0 ms, first step after 2.0 s, 100 MiB"),
        (line("step", "W1", "norse", 0, error="status 1"), "W1 norse: status 1"),
        (line("floor", "", "floor", 0, flops=1e11, bytes=2e10), "floor: 100.0 Gflop/s, 20.0 GB/s"),
        (
            line("loader", "", "snnjax", 0, samples_per_s={"host": 10.0}),
            "snnjax: host 10 samples/s",
        ),
    ],
)
def test_progress(found, match):
    assert speed_tables.said(found) == match
