import itertools

import numpy as np
import pytest

from snnjax import _style, plotting
from snnjax._probe_report import LayerProbe, Probe


def rows(n=4):
    return [
        {
            "epoch": k,
            "train_loss": 2.0 - k / 4,
            "train_accuracy": k / 10,
            "valid_loss": 2.1,
            "valid_accuracy": 0.1,
            "rate_1": 5.0,
            "rate_2": k,
        }
        for k in range(n)
    ]


def test_learning_curves_show_the_rows():
    loss, accuracy, rate = plotting.learning_curves(rows()).axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [2.0, 1.75, 1.5, 1.25])
    assert [line.get_label() for line in accuracy.lines] == ["train", "valid"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [0, 10, 20, 30])  # per cent
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert all(tick % 1 == 0 for tick in loss.get_xticks())
    assert [axes.get_title(loc="left") for axes in (loss, accuracy, rate)] == ["a", "b", "c"]
    np.testing.assert_array_equal(rate.lines[1].get_ydata(), [0, 1, 2, 3])


def test_learning_curves_of_four_classes_have_chance_at_25_per_cent():
    loss, accuracy, rate = plotting.learning_curves(rows(), num_classes=4).axes
    np.testing.assert_array_equal(accuracy.lines[-1].get_ydata(), [25, 25])
    assert [text.get_text() for text in accuracy.texts] == ["chance"]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["train", "valid"]
    assert [len(axes.lines) for axes in (loss, rate)] == [2, 2]


def test_snapshot_marks_spikes_where_they_are():
    x, spikes, readout = np.zeros((10, 2, 5)), np.zeros((10, 2, 2, 4)), np.zeros((10, 2, 3))
    x[3, 1, 4] = 1
    spikes[7, 0, 1, 2] = 1
    readout[5, 1, 2] = 1.0
    figure = plotting.activity_snapshot(x, [spikes], readout, [0, 2], dt=2e-3)
    panels = np.array(figure.axes).reshape(3, 2)
    np.testing.assert_allclose(
        panels[2, 1].lines[0].get_xydata(), [[6.0, 4]]
    )  # input, sample 1: 3 steps of 2 ms, unit 4
    np.testing.assert_allclose(
        panels[1, 0].lines[0].get_xydata(), [[14.0, 6]]
    )  # feature (1, 2) of (2, 4) is unit 6
    assert panels[0, 1].get_title() == "class 2, predicted 2"


def test_excitatory_and_inhibitory_neurons_have_their_colours():
    x, spikes, readout = np.zeros((10, 1, 5)), np.zeros((10, 1, 2, 4)), np.zeros((10, 1, 3))
    spikes[7, 0, 1, 2] = spikes[2, 0, 1, 3] = spikes[4, 0, 0, 0] = 1
    figure = plotting.activity_snapshot(x, [spikes, spikes], readout, [0], dt=2e-3, n_exc=[3, None])
    above, layer = figure.axes[1], figure.axes[2]
    found = {line.get_color(): sorted(line.get_ydata()) for line in layer.lines}
    assert found == {
        _style.EXCITATORY: [0, 6],
        _style.INHIBITORY: [7],
    }  # maps 0 to 2 of each position, and map 3
    assert [line.get_color() for line in above.lines] == ["black"]
    with pytest.raises(ValueError, match="n_exc must have one entry for each of 1 layers, got 2"):
        plotting.activity_snapshot(x, [spikes], readout, [0], dt=2e-3, n_exc=[3, 3])


def swept(**columns):
    """Rows of a sweep: two values of sigma_u, two of mu_w, three seeds."""
    rows = []
    for s, m, seed in itertools.product((0.1, 10.0), (-1.0, 1.0), range(3)):
        row = {
            "sigma_u": s,
            "mu_w": m,
            "seed": seed,
            "test_accuracy_final": s / 20 + seed / 10,
            "train_accuracy": 1.0,
        }
        rows.append(
            row
            | {
                "initial_rate_1": 5.0,
                "final_rate_1": 2.0 + seed + m,
                "initial_grad_w_1": 0.0 if s < 1 else 1e-3,
            }
            | columns
        )
    return rows


def test_sweep_curves_show_mean_and_range_over_seeds():
    rows = [row for row in swept() if row["mu_w"] == 1.0]
    rows[0]["test_accuracy_final"] = float("nan")  # a seed without a result
    accuracy, rate, gradient = plotting.sweep_curves(rows, "sigma_u").axes
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[0.1, 15.5], [10.0, 60.0]])
    band = accuracy.collections[0].get_paths()[0].vertices
    assert {tuple(np.round(v, 6)) for v in band} == {
        (0.1, 10.5),
        (0.1, 20.5),
        (10.0, 50.0),
        (10.0, 70.0),
    }
    assert [line.get_label() for line in rate.lines] == ["before training", "after training"]
    np.testing.assert_allclose(rate.lines[1].get_ydata(), [4.0, 4.0])
    assert (accuracy.get_xscale(), gradient.get_yscale()) == ("log", "log")
    line, *marks = gradient.lines[:2]  # exactly 0 is marked below the axis
    np.testing.assert_allclose(line.get_ydata(), [np.nan, 1e-3])
    np.testing.assert_allclose(marks[0].get_xydata(), [[0.1, _style.ZERO]])
    assert "0" in [text.get_text() for text in gradient.texts]
    linear = plotting.sweep_curves([row for row in swept() if row["sigma_u"] == 0.1], "mu_w").axes[
        0
    ]
    assert linear.get_xscale() == "linear"


def test_sweep_maps_have_a_cell_for_each_pair():
    accuracy, rate, after, gradient = [
        axes for axes in plotting.sweep_maps(swept(), "sigma_u", "mu_w").axes if axes.get_title()
    ]
    np.testing.assert_allclose(accuracy.collections[0].get_array(), [[10.5, 60.0], [10.5, 60.0]])
    np.testing.assert_allclose(
        after.collections[0].get_array(), [[2.0, 2.0], [4.0, 4.0]]
    )  # sigma_u across, mu_w up
    shown = gradient.collections[0].get_array()
    assert np.isnan(np.ma.filled(shown, np.nan)[:, 0]).all()  # exactly 0 has no logarithm
    np.testing.assert_allclose(shown[:, 1], 1e-3)
    assert [t.get_text() for t in rate.get_xticklabels()] == ["0.1", "10"]


def test_figures_leave_pyplot_alone_and_save(tmp_path):
    import matplotlib.pyplot as plt

    figure = plotting.learning_curves(rows())
    assert plt.get_fignums() == []
    plotting.save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_depth_shows_every_layer_and_marks_zeros():
    layer = LayerProbe(*[1.0] * 20)._replace(populations={})
    layers = tuple(
        layer._replace(rates=np.array([1.0, 2.0, 3.0]) * k, grad_w=0.0 if k == 2 else 0.1 * k)
        for k in (1, 2, 3)
    )
    rate, _, weights, _ = plotting.depth(Probe(layers, 1.0, 1.0, 2.3, 0.1)).axes
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [2.0, 4.0, 6.0])
    np.testing.assert_allclose(weights.lines[0].get_xydata(), [[1, 0.1], [2, np.nan], [3, 0.3]])
    np.testing.assert_allclose(weights.lines[1].get_xydata(), [[2, _style.ZERO]])
    dalian = tuple(
        p._replace(populations={"exc": 4.0 * k, "inh": k}) for k, p in enumerate(layers, start=1)
    )
    lines = {
        line.get_color(): line.get_ydata().tolist()
        for line in plotting.depth(Probe(dalian, 1.0, 1.0, 2.3, 0.1)).axes[0].lines
    }
    assert lines == {
        _style.DARK: [2.0, 4.0, 6.0],
        _style.EXCITATORY: [4.0, 8.0, 12.0],
        _style.INHIBITORY: [1.0, 2.0, 3.0],
    }


def test_depth_shows_at_least_a_decade():
    layers = tuple(
        LayerProbe(*[1.0] * 20)._replace(
            populations={}, rates=np.ones(3), update=7e-3 * (1 + 1e-3 * k), grad_z=10.0**k
        )
        for k in range(3)
    )
    _, spikes, _, update = plotting.depth(Probe(layers, 1.0, 1.0, 2.3, 0.1)).axes
    low, high = update.get_ylim()
    assert low < 7e-3 < high
    assert 10 <= high / low < 20
    low, high = spikes.get_ylim()
    assert 100 < high / low < 1000


def test_the_first_colours_of_the_style_sheet_are_those_of_the_starts():
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.colors import to_hex

    before = mpl.rcParams["font.size"]
    with style.context(_style.SHEET):
        cycle = [to_hex(entry["color"]).upper() for entry in mpl.rcParams["axes.prop_cycle"]]
    starts = [_style.FORMULA, _style.KAIMING, _style.DATA]
    assert cycle == [*starts, _style.RED, _style.PURPLE, _style.SKY, _style.ORANGE]
    plotting.learning_curves(rows())
    assert mpl.rcParams["font.size"] == before != 9  # the style holds only while a figure is drawn


def test_curves_leave_out_panels_with_too_few_points_and_name_the_chance_level():
    from snnjax.experiments._curves import curves

    rows = [
        {"arm": arm, "sigma_u": s, "chance": 0.1, "test_accuracy_final": 0.4 * (1 + (arm == "b"))}
        | ({"epochs_to_90": 3.0} if s == 1 else {})
        for arm in "ab"
        for s in (0.1, 1.0, 10.0)
    ]
    panels = {"test accuracy (%)": "test_accuracy_final", "epochs to 90 %": "epochs_to_90"}
    figure = curves(rows, panels, names={"a": "plain"})
    (axes,) = figure.axes
    for line, level in zip(axes.lines, (40, 80), strict=False):
        np.testing.assert_allclose(line.get_xydata(), [[0.1, level], [1, level], [10, level]])
    assert [text.get_text() for text in axes.texts] == ["chance"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "b"]
