import itertools
from pathlib import Path

import pytest
from _support import data_path

from benchmarks.depth_training import (
    ARMS,
    PREDICTORS,
    Options,
    changed,
    few,
    level,
    of_depth,
    predictors,
    rank_correlation,
    rates_table,
    runs,
    table,
    tasks,
)

BEFORE = {
    "step": [0.001, 0.002],
    "gain": [float("nan"), 0.5],
    "agreement": [0.1, 0.2],
    "memory": [0.9, 0.8],
    "bounds": [0.0, 2.0],
    "grad_z": [1e-6, 1e-3],
    "rate": [8.0, 7.0],
}


def row(which, accuracy, before=BEFORE):
    return which | {"valid": [0.1, accuracy], "before": before}


def test_every_arm_says_all_that_its_start_leaves_open():
    base = tasks(Path())["dense"].config
    ours, papers = (changed(base, ARMS[arm].changes) for arm in ("calibrated", "paper"))
    assert (ours.optimizer, ours.gradient, ours.lower_strength, ours.bound_share) == (
        "muon",
        "steepness",
        0.0,
        1.0,
    )
    assert (papers.optimizer, papers.gradient, papers.lower_strength, papers.bound_share) == (
        "smorms3",
        "none",
        100.0,
        0.0,
    )
    for arm in ARMS.values():
        changed(base, arm.changes)
    assert of_depth(ours, 3).hidden == (128, 128, 128)
    assert of_depth(tasks(Path())["nmnist"].config, 6).model == "csnn6"


def test_rates_are_chosen_on_seed_0_and_what_is_done_is_known_again():
    """Four rates run with seed 0, then the other seeds at the best rate."""
    options = Options(Path(), arms=("paper",), depths=(3,), seeds=3)
    done = []
    for which in runs(options, done):
        done.append(row(which, 0.5 if which["rate"] == 0.001 else 0.3))
    assert [(r["rate"], r["seed"]) for r in done] == [
        (0.0003, 0),
        (0.001, 0),
        (0.003, 0),
        (0.01, 0),
        (0.001, 1),
        (0.001, 2),
    ]
    assert "| paper | 50.0 +- 0.0 (0.001, 3) |" in table(done)


def test_validation_data_are_a_part_of_the_training_file():
    task = tasks(data_path("."))["dense"]
    train, valid, test = few(task.config, (60, 40))
    assert (len(train), len(valid)) == (60, 40)
    assert test is valid


def test_the_table_of_rates_has_all_rates_of_seed_0_and_all_seeds_of_the_best():
    which = {"task": "dense", "depth": 7, "arm": "formula", "epochs": 12}
    tried = ((0.03, 0, 0.5), (0.003, 0, 0.2), (0.03, 1, 0.6), (0.03, 2, 0.7))
    rows = [row(which | {"rate": rate, "seed": seed}, of) for rate, seed, of in tried]
    assert rates_table(rows, "dense, 12 epochs", 7).splitlines()[2:] == [
        "| formula | 0.003: 20.0, 0.03: 50.0 | 60.0 +- 10.0 (0.03, 3) |"
    ]


def test_predictors_are_ranked_within_each_task():
    rows = []
    for k, task in itertools.product(range(12), ("a", "b")):
        before = {name: [v * (1 + k) for v in values] for name, values in BEFORE.items()}
        rows.append(
            row(
                {
                    "task": task,
                    "depth": 2,
                    "arm": list(ARMS)[k % 4],
                    "epochs": 12,
                    "rate": 0.1,
                    "seed": k,
                },
                0.1 + 0.01 * k + (task == "b"),
                before,
            )
        )
    found = predictors(rows)
    assert found.keys() == PREDICTORS.keys()
    # within each task the number orders the runs; over both tasks it does not
    assert found["memory of the last layer"][0] == 1.0 > found["memory of the last layer"][1]
    assert found["largest share of a bound"][0] == -1.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 2, 3], [1, 2, 2, 3], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 2], [0, 1, 5], 0.8660254038),
    ],
)
def test_rank_correlation(a, b, expected):
    assert rank_correlation(a, b) == pytest.approx(expected)


def test_the_gradient_at_a_layer_is_the_product_of_the_gains_above_it():
    """Layer 3 has gain 2 and layer 2 gain 1/8: the gradients from layer 3 down are 1, 2 and 1/4."""
    assert level({"before": {"gain": [float("nan"), 0.125, 2.0]}}) == pytest.approx(8.0)
    assert level({"before": {"gain": [float("nan")]}}) == 1.0
