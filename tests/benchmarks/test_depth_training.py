import itertools

import pytest
from _support import data_path

from benchmarks import depth_training
from benchmarks.depth_training import (
    ARMS,
    PREDICTORS,
    TASKS,
    accuracy_tables,
    few,
    level,
    predictors,
    rank_correlation,
    rates_table,
    train_arm,
)
from snnjax.experiments import Experiment

BEFORE = {
    "step": [0.001, 0.002],
    "gain": [float("nan"), 0.5],
    "agreement": [0.1, 0.2],
    "memory": [0.9, 0.8],
    "bounds": [0.0, 2.0],
    "grad_z": [1e-6, 1e-3],
    "rate": [8.0, 7.0],
}


def columns(before):
    return {
        f"initial_{name}_{k}": value
        for name, values in before.items()
        for k, value in enumerate(values, start=1)
    }


def row(which, accuracy, before=BEFORE):
    return which | {"valid_accuracy": accuracy} | columns(before)


def of(task, arm, **options):
    return Experiment.from_options(**(TASKS[task].options | ARMS[arm].options | options))


def test_every_arm_says_all_that_its_start_leaves_open():
    ours, papers = (of("dense", arm) for arm in ("calibrated", "paper"))
    settings = lambda e: (
        e.optimizer.name,
        e.start.gradient.name,
        e.objective.lower_strength,
        e.objective.bound_share,
    )
    assert settings(ours) == ("muon", "steepness", 0.0, 1.0)
    assert settings(papers) == ("smorms3", "none", 100.0, 0.0)
    for task, arm in itertools.product(TASKS, ARMS):  # by default the study trains all of them
        of(task, arm)
    assert of("dense", "calibrated", depth=3).network.widths == (128, 128, 128)
    assert of("nmnist", "calibrated", depth=6).network.num_layers == 6


def test_rates_are_chosen_on_seed_0_and_what_is_done_is_known_again(monkeypatch, tmp_path):
    """Four rates run with seed 0, then the other seeds at the best rate."""
    done = []

    def compute(sweep, folder, datasets):
        for member in sweep.members():
            which = {"study": "dense, 12 epochs", "arm": "paper"} | member
            if not any(which.items() <= r.items() for r in done):
                done.append(row(which, 0.5 if member["learning_rate"] == 0.001 else 0.3))
        return done

    monkeypatch.setattr(depth_training, "compute", compute)
    train_arm(of("dense", "paper"), 3, ARMS["paper"].rates, 3, tmp_path, None)
    assert [(r["learning_rate"], r["seed"]) for r in done] == [
        (0.0003, 0),
        (0.001, 0),
        (0.003, 0),
        (0.01, 0),
        (0.001, 1),
        (0.001, 2),
    ]
    assert "| paper | 50.0 +- 0.0 (0.001, 3) |" in accuracy_tables(done)


def test_validation_data_are_a_part_of_the_training_file():
    experiment = of("dense", "calibrated", data=data_path("shd_format"))
    train, valid, test = few(experiment, (60, 40))
    assert (len(train), len(valid)) == (60, 40)
    assert test is valid


def test_the_table_of_rates_has_all_rates_of_seed_0_and_all_seeds_of_the_best():
    which = {"study": "dense, 12 epochs", "depth": 7, "arm": "formula"}
    tried = ((0.03, 0, 0.5), (0.003, 0, 0.2), (0.03, 1, 0.6), (0.03, 2, 0.7))
    rows = [row(which | {"learning_rate": rate, "seed": seed}, of) for rate, seed, of in tried]
    assert rates_table(rows).splitlines() == [
        "| dense, 12 epochs, 7 layers | learning rate: accuracy of seed 0 (%) | best rate (%) |",
        "|---|---|---|",
        "| formula | 0.003: 20.0, 0.03: 50.0 | 60.0 +- 10.0 (0.03, 3) |",
    ]


def test_predictors_are_ranked_within_each_task():
    rows = []
    for k, task in itertools.product(range(12), ("a", "b")):
        before = {name: [v * (1 + k) for v in values] for name, values in BEFORE.items()}
        which = {"study": task, "depth": 2, "arm": list(ARMS)[k % 4], "seed": k}
        rows.append(row(which, 0.1 + 0.01 * k + (task == "b"), before))
    found = predictors(rows)
    assert found.keys() == PREDICTORS.keys()
    # within each task the number orders the runs; over both tasks it does not
    assert found["memory of the last layer"][0] == 1.0 > found["memory of the last layer"][1]
    # relative to the best of each task, it does so better
    assert found["memory of the last layer"][2] > found["memory of the last layer"][1]
    assert found["largest share of a bound"][0] == -1.0
    for r in rows:
        del r["initial_memory_1"]
    assert "memory of the last layer" not in predictors(rows)


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
    assert level(columns({"gain": [float("nan"), 0.125, 2.0]})) == pytest.approx(8.0)
    assert level(columns({"gain": [float("nan")]})) == 1.0
