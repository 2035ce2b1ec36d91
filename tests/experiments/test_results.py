"""Tables and figures from the rows of sweeps."""

import numpy as np
import pytest

from snnjax import plotting
from snnjax.experiments import _results
from snnjax.experiments._sweep_folder import write_csv


def rows_of(**swept):
    return [
        {**{name: values[k] for name, values in swept.items()}, "seed": seed, "finite": True}
        | {"test_accuracy_final": 0.1 * (k + 1) + 0.02 * seed}
        for k in range(len(next(iter(swept.values()))))
        for seed in range(2)
    ]


def test_numbers_come_back_from_csv(tmp_path):
    row = {"loss": np.inf, "gain": -np.inf, "best": np.nan, "epochs": 3, "x": 0.1, "finite": True}
    row |= {"hidden": "64x32", "init": "lsuv", "stopped": None}
    write_csv([row], tmp_path / "results.csv")
    np.testing.assert_equal(_results.read_csv(tmp_path / "results.csv"), [row])


@pytest.mark.parametrize(
    ("ending", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_ending_of_a_figure_is_its_format(tmp_path, ending, begin):
    _results.draw(rows_of(sigma_u=(0.5, 1.0)), tmp_path / f"sweep.{ending}")
    assert (tmp_path / f"sweep.{ending}").read_bytes().startswith(begin)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_figure_has_a_line_per_combination_of_the_other_values(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "save", lambda figure, file: drawn.append(figure))
    rows = rows_of(sigma_u=(0.5, 1.0, 2.0, 2.0), recurrent=(True, True, True, False))
    rows[0]["test_accuracy_final"] = float("nan")  # not finite before training
    _results.draw(rows, tmp_path / "sweep.png")
    axes = drawn[0].axes[0]
    assert [line.get_label() for line in axes.lines] == ["recurrent True", "recurrent False"]
    expected = [[[0.5, 12], [1.0, 21], [2.0, 31]], [[2.0, 41]]]
    for line, points in zip(axes.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), points)


def test_a_figure_needs_a_number(tmp_path):
    with pytest.raises(ValueError, match="a figure needs a swept number"):
        _results.draw(rows_of(recurrent=(True, False)), tmp_path / "sweep.png")
    with pytest.raises(ValueError, match=r"figure must be one of '\.png', '\.svg', '\.pdf'"):
        _results.draw(rows_of(sigma_u=(0.5, 1.0)), tmp_path / "sweep.jpg")


def test_a_table_is_sorted_by_a_column_that_only_some_rows_have():
    rows = rows_of(depth=(1, 2, 3))
    for row in rows[2:]:
        row["operations"] = 1000.0 * row["depth"]
    table = _results.sweep_table(rows, sort="operations")
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["depth"] == ["3", "2", "1"]
    assert columns["10^3 synops"] == ["3.0", "2.0", ""]
    with pytest.raises(ValueError, match=r"sort must be one of 'depth', 'seed', .* got 'speed'"):
        _results.sweep_table(rows, sort="speed")
