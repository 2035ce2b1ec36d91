"""Statements judged on artificial rows."""

import pytest

from snnjax.reproduce import _figure3 as figure3
from snnjax.reproduce import _figure5 as figure5
from snnjax.reproduce import _figure6 as figure6
from snnjax.reproduce import _layers as layers
from snnjax.reproduce import _supplement as supplement
from snnjax.reproduce._figure4 import study as figure4_study
from snnjax.reproduce._published import NUMBERS, TABLE_1, Published
from snnjax.reproduce._settings import Options
from snnjax.reproduce._statements import (
    UNTESTED,
    agrees,
    judged,
    number,
    spread,
    trained,
    trains_within,
    values,
)

HOLDS, FAILS = "holds", "does not hold"


def runs(arm, by_sigma, *, chance=0.1, seeds=1, **more):
    """One row per sigma_u and seed with this test accuracy."""
    return [
        {
            "arm": arm,
            "sigma_u": s,
            "seed": k,
            "chance": chance,
            "as_published": True,
            "test_accuracy_final": a,
            **more,
        }
        for s, a in by_sigma.items()
        for k in range(seeds)
    ]


@pytest.mark.parametrize(
    ("ours", "status"),
    [
        ([0.97, 0.976], HOLDS),
        ([0.955], HOLDS),
        ([0.951], FAILS),
        ([0.90, 0.98], HOLDS),
        ([0.90, 0.90], FAILS),
    ],
)
def test_a_number_holds_within_two_points_or_twice_the_joint_spread(ours, status):
    statement = number("test", NUMBERS["randman.test"], "test_accuracy_final", arm="a")
    rows = [{"arm": "a", "as_published": True, "test_accuracy_final": a} for a in ours]
    assert statement.judge(rows).status == status
    assert spread(ours, "%") in statement.judge(rows).found
    assert "97.3 ± 0.2 %" in statement.text


def test_a_number_is_not_tested_on_other_data_but_ours_is_told():
    rows = [{"arm": "a", "as_published": False, "test_accuracy_final": 0.5}]
    found = number("test", NUMBERS["randman.test"], "test_accuracy_final", arm="a").judge(rows)
    assert found.status == UNTESTED
    assert "50.0 %" in found.found
    assert (
        number("test", NUMBERS["randman.test"], "test_accuracy_final", arm="b").judge(rows).status
        == UNTESTED
    )


def test_epochs_that_some_runs_did_not_reach_do_not_hold():
    statement = number("epochs", NUMBERS["shd.csnn1.epochs_to_90"], "epochs_to_90")
    rows = [{"as_published": True, "epochs_to_90": e} for e in (19.0, None)]
    assert statement.judge(rows).status == FAILS
    assert statement.judge(rows[:1]).status == HOLDS
    assert statement.judge(rows[1:]).status == UNTESTED


def test_rates_agree_within_a_tenth():
    published = Published(10.0, unit="Hz")
    assert agrees(values([{"r": 10.9}], "r"), published)
    assert not agrees(values([{"r": 11.1}], "r"), published)


def test_trains_is_half_way_from_chance_to_the_best():
    assert trained(runs("a", {0.1: 0.49, 1.0: 0.9, 10.0: 0.51})) == {
        0.1: False,
        1.0: True,
        10.0: True,
    }
    assert trained(runs("a", {0.1: 0.1, 1.0: 0.29})) is None  # less than 20 points above chance
    assert trained([]) is None


def test_where_training_succeeds():
    three = trains_within("", 0.05, 3.0, arm="3 layers")
    good = {0.01: 0.1, 0.05: 0.8, 1.0: 0.8, 3.0: 0.7, 10.0: 0.1}
    assert three.judge(runs("3 layers", good)).status == HOLDS
    for change in ({0.01: 0.8}, {10.0: 0.8}, {0.05: 0.1}):
        assert three.judge(runs("3 layers", good | change)).status == FAILS
    assert (
        three.judge(runs("3 layers", {0.05: 0.8, 1.0: 0.8})).status == UNTESTED
    )  # no values outside the range
    assert three.judge(runs("1 layer", good)).status == UNTESTED
    assert (
        trains_within("", None, 1.0, arm="a")
        .judge(runs("a", {0.001: 0.8, 1.0: 0.8, 5.0: 0.1}))
        .status
        == HOLDS
    )


def test_smoke_tests_nothing_and_tells_what_it_saw():
    statement = trains_within("", None, 1.0, arm="a")
    ((_, found),) = judged([statement], runs("a", {0.1: 0.8, 5.0: 0.1}), generated=True)
    assert found.status == UNTESTED
    assert "0.1: 80 %" in found.found


def test_seven_layers_before_training():
    silent = [2.0, 0, 0, 0, 0, 0, 0]
    grad = [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]

    def row(setting, rate, **more):
        return {
            "depth": 7,
            "setting": setting,
            "rate": rate,
            "grad_z": grad,
            "update": [1.0, 1.0, 0, 0, 0, 0, 0],
            **more,
        }

    rows = [
        row("sigma_u 0.2", silent), row("sigma_u 0.5", [5, 4, 3, 2, 0.01, 0, 0], update=[1.0] * 6 + [0.0]), row("sigma_u 1", [10.0] * 7, update=[1.0] * 7),
        row("sigma_u 2", [10, 20, 30, 40, 50, 60, 70], update=[1.0] * 7), row("sigma_u 20", [120.0] * 7, update=[1.0] * 7), row("Kaiming", silent),
        row("data-driven, 1", [6.0] * 7, update=[1.0] * 7),
    ]  # fmt: skip
    assert [s.judge(rows).status for s in layers.STATEMENTS] == [HOLDS] * 9
    assert [s.judge([]).status for s in layers.STATEMENTS] == [UNTESTED] * 9
    # an update above a silent layer; gradients that shrink by 2; rates that grow
    rows[0] = rows[0] | {
        "update": [1.0, 1.0, 1e-9, 0, 0, 0, 0],
        "grad_z": [2.0**k for k in range(7)],
    }
    rows[-2] = row("Kaiming", silent, grad_z=[2.0**k for k in range(7)])
    rows[2] = rows[2] | {"rate": [5, 6, 7, 8, 9, 10, 11]}
    failed = [s.text for s in layers.STATEMENTS if s.judge(rows).status == FAILS]
    assert len(failed) == 3
    assert "sigma_u 1:" in failed[0]


def test_rescue_by_homeostasis():
    statement = figure5.rescues(figure5.HOMEOSTASIS, "")
    plain = runs(figure5.PLAIN, {0.05: 0.1, 1.0: 0.8})
    assert statement.judge(plain + runs(figure5.HOMEOSTASIS, {0.05: 0.7, 1.0: 0.8})).status == HOLDS
    assert (
        statement.judge(plain + runs(figure5.HOMEOSTASIS, {0.05: 0.15, 1.0: 0.8})).status == FAILS
    )
    assert (
        statement.judge(
            runs(figure5.PLAIN, {0.05: 0.8}) + runs(figure5.HOMEOSTASIS, {0.05: 0.8})
        ).status
        == UNTESTED
    )
    assert statement.judge(plain).status == UNTESTED


def test_table_1_has_a_statement_for_every_published_number(tmp_path):
    (tmp_path / "tfds" / "cifar10").mkdir(parents=True)
    (tmp_path / "shd").mkdir()
    (tmp_path / "shd" / "shd_train.h5").touch()
    statements = figure6.study(Options("laptop", tmp_path)).statements
    assert all(any(str(value) in s.text for s in statements) for value in TABLE_1.values())
    arm = "SHD, 7 layers, "
    rows = [
        {"arm": arm + start, "chance": 0.05, "as_published": True, "test_accuracy_final": a}
        for start, a in (
            ("Kaiming", 0.05),
            ("Kaiming + homeostasis", 0.77),
            ("fluctuation-driven", 0.84),
        )
    ]
    found = {s.text: v.status for s, v in judged(statements, rows, generated=False)}
    assert [status for text, status in found.items() if text.startswith("SHD, 7")] == [HOLDS] * 6
    noisy = [
        row | {"test_accuracy_final": a}
        for row, a in ((rows[0], 0.1), (rows[0], 0.1), (rows[1], 0.1), (rows[1], 0.24))
    ]  # 17 +- 10 %
    found = {s.text: v.status for s, v in judged(statements, noisy, generated=False)}
    assert found["SHD, 7 layers: homeostasis rescues Kaiming weights"] == FAILS
    facts = {"network": "SHD 7", "task": "spoken digits"}
    table = figure6._table(
        [row | facts | {"start": row["arm"].removeprefix(arm)} for row in rows]
    ).splitlines()
    assert table[2:] == [
        "| spoken digits, here | 7 | 5.0 % | 77.0 % | 84.0 % |",
        "| SHD, published | 7 | 4.5 % | 77 ± 2.9 % | 83.5 ± 1.3 % |",
    ]
    assert all(
        status == UNTESTED for text, status in found.items() if not text.startswith("SHD, 7")
    )


def test_best_and_wide_region_of_the_weights():
    def cells(accuracy):
        return [
            {
                "arm": figure3.MAP,
                "mu_w": m,
                "sigma_w": s,
                "chance": 0.1,
                "test_accuracy_final": accuracy(m, s),
            }
            for m in (-4.0, -2.0, 0.0, 2.0)
            for s in (0.1, 1.0, 5.0, 30.0)
        ]

    good = cells(
        lambda m, s: 0.9 if (m, s) == (-2.0, 1.0) else 0.6 if -2 <= m <= 0 and s < 10 else 0.1
    )
    assert figure3._best(good).status == figure3._wide(good).status == HOLDS
    assert (
        figure3._wide(good).found
        == "6 of 6 combinations in this region train, and 0 of 10 elsewhere"
    )
    bad = cells(lambda m, s: 0.9 if m > 0 else 0.1)
    assert figure3._best(bad).status == figure3._wide(bad).status == FAILS
    assert figure3._best(good[:4]).status == UNTESTED


def test_the_supplements_statements():
    options = Options("smoke")
    rates = [r | {"final_rate_1": 80.0} for r in runs("no upper bound", {1.0: 0.8})] + [
        r | {"final_rate_1": 9.0} for r in runs("upper bound", {1.0: 0.78})
    ]
    assert [s.judge(rates).status for s in supplement.s4(options).statements] == [HOLDS] * 3
    assert [s.judge([]).status for s in supplement.s4(options).statements] == [UNTESTED] * 3
    base = runs(
        supplement.BASE, {0.05: 0.1, 0.5: 0.8, 1.0: 0.8, 2.0: 0.8, 5.0: 0.1}, initial_grad_z_1=1e-3
    )
    rescaled = runs("rescaled", {0.05: 0.7, 1.0: 0.3}, initial_grad_z_1=10.0)
    assert [s.judge(base + rescaled).status for s in supplement.s8(options).statements] == [
        HOLDS
    ] * 2
    beyond = runs(
        "rescaled", {0.05: 0.7, 1.0: 0.3, 2.0: 0.1}, initial_grad_z_1=None
    )  # larger than the largest float32
    assert (
        supplement.s8(options)
        .statements[1]
        .judge(base + beyond)[1]
        .endswith("sigma_u 1: not finite, sigma_u 2: not finite")
    )
    assert [
        s.judge(base + runs("SGD", {0.05: 0.1, 0.5: 0.1, 1.0: 0.6, 2.0: 0.1})).status
        for s in supplement.s9(options).statements
    ] == [HOLDS]
    skip = runs("skip", {0.05: 0.8, 1.0: 0.8, 2.0: 0.8, 5.0: 0.2})
    assert [s.judge(base + skip).status for s in supplement.s10(options).statements] == [
        HOLDS,
        FAILS,
    ]


def test_figure_4_judges_all_that_the_paper_says_of_depth():
    texts = [s.text for s in figure4_study(Options("smoke")).statements]
    assert len(texts) == len(set(texts)) == 18
    assert sum("layers train" in t or "layer trains" in t for t in texts) == 3
