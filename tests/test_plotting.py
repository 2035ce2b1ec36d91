import numpy as np

from snnjax import plotting
from snnjax.diagnostics import LayerProbe, Probe


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
    np.testing.assert_array_equal(rate.lines[1].get_ydata(), [0, 1, 2, 3])


def test_snapshot_marks_spikes_where_they_are():
    x, spikes, readout = np.zeros((10, 2, 5)), np.zeros((10, 2, 2, 4)), np.zeros((10, 2, 3))
    x[3, 1, 4] = 1
    spikes[7, 0, 1, 2] = 1
    readout[5, 1, 2] = 1.0
    figure = plotting.activity_snapshot(x, [spikes], readout, [0, 2], dt=2e-3)
    panels = np.array(figure.axes).reshape(3, 2)
    np.testing.assert_allclose(panels[2, 1].lines[0].get_xydata(), [[6.0, 4]])  # input, sample 1: 3 steps of 2 ms, unit 4
    np.testing.assert_allclose(panels[1, 0].lines[0].get_xydata(), [[14.0, 6]])  # feature (1, 2) of (2, 4) is unit 6
    assert panels[0, 1].get_title() == "class 2, says 2"


def test_figures_leave_pyplot_alone_and_save(tmp_path):
    import matplotlib.pyplot as plt

    figure = plotting.learning_curves(rows())
    assert plt.get_fignums() == []
    plotting.save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_depth_shows_every_layer_and_leaves_out_zeros():
    layer = LayerProbe(*[1.0] * 14)
    layers = tuple(layer._replace(rates=np.array([1.0, 2.0, 3.0]) * k, grad_w=0.0 if k == 2 else 0.1 * k) for k in (1, 2, 3))
    rate, _, weights, _ = plotting.depth(Probe(layers, 1.0, 1.0, 2.3, 0.1)).axes
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [2.0, 4.0, 6.0])
    np.testing.assert_allclose(weights.lines[0].get_xydata(), [[1, 0.1], [3, 0.3]])
