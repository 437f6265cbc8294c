import numpy as np
import pytest

from convnets import plots

NAMES = [f"class {number}" for number in range(10)]


def test_tiles_keep_every_pixel():
    panels = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3)
    tiled = plots.tile(panels, 3)
    assert tiled.shape == (2 * 2 + 1, 3 * 3 + 2)
    assert np.array_equal(tiled[3:, 4:7], panels[4])
    assert sorted(tiled[~np.isnan(tiled)]) == list(range(30))


def labels(axes):
    return [text.get_text() for text in axes.texts]


def test_predictions_say_what_is_wrong_in_words_and_in_another_colour():
    images = np.zeros((3, 28, 28), dtype=np.uint8)
    figure = plots.predictions(
        images, np.array([1, 2, 3]), np.array([1, 4, 3]), np.array([0.994, 0.5, 0.2]), NAMES, "title"
    )
    (axes,) = figure.axes
    assert labels(axes) == ["class 1 99%", "class 4 50%\nis class 2", "class 3 20%"]
    assert [text.get_color() for text in axes.texts] == [plots.BLUE, plots.ORANGE, plots.BLUE]


def test_feature_maps_have_a_row_a_layer_with_its_scale_and_the_classes_names():
    layers = [
        ("image", np.linspace(0, 1, 784).reshape(1, 28, 28)),
        ("0 Conv2d", np.linspace(-1, 2, 6 * 100).reshape(6, 10, 10)),
        ("scores", np.arange(10.0)),
    ]
    figure = plots.feature_maps(layers, NAMES, "title")
    assert [labels(axes)[0] for axes in figure.axes] == ["image\n0 to 1", "0 Conv2d\n-1 to 2", "scores\n0 to 9"]
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == NAMES
    pixels = plots.pixels(figure)
    assert pixels.shape == (*(int(100 * side) for side in figure.get_size_inches()[::-1]), 3)


def test_feature_maps_go_on_below_where_a_row_is_full():
    maps = np.arange(6.0)[:, None, None] * np.ones((6, 4, 4))
    figure = plots.feature_maps([("0 Conv2d", maps), ("scores", np.arange(10.0))], NAMES, "title", most_columns=4)
    drawn = figure.axes[0].images[0].get_array().filled(np.nan)
    first_of_each = drawn[::5, ::5]  # four pixels, and a gap
    np.testing.assert_array_equal(first_of_each, [[0, 1, 2, 3], [4, 5, np.nan, np.nan]])


@pytest.mark.parametrize("num_filters", [6, 64])
def test_filters_are_drawn_on_one_scale_around_zero(num_filters):
    weights = np.random.default_rng(0).normal(size=(num_filters, 5, 5))
    image = plots.filters(weights, "title").axes[0].images[0]
    low, high = image.get_clim()
    assert (low, high) == (-abs(weights).max(), abs(weights).max())
    assert np.count_nonzero(~np.isnan(image.get_array().filled(np.nan))) == weights.size


def test_the_same_figure_is_the_same_file(tmp_path):
    rows = [{"epoch": 1, "train/loss": 2.0, "val/loss": 1.0, "val/accuracy": 0.5}]
    for name in ("a.svg", "b.svg"):
        plots.training_curves(rows, "title").savefig(tmp_path / name, metadata={"Date": None})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
