import numpy as np
import pytest

from convnets import plots
from convnets.book.figures import image_and_edges
from convnets.results.leaderboard import Group
from convnets.results.leaderboard_figure import leaderboard
from convnets.results.significance import Estimate
from convnets.runs.run import Run

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
    images = np.zeros((3, 28, 28, 1), dtype=np.uint8)
    figure = plots.predictions(
        images, np.array([1, 2, 3]), np.array([1, 4, 3]), np.array([0.994, 0.5, 0.2]), NAMES, "title"
    )
    (axes,) = figure.axes
    assert labels(axes) == ["class 1 99%", "class 4 50%\nis class 2", "class 3 20%"]
    assert [text.get_color() for text in axes.texts] == [plots.BLUE, plots.ORANGE, plots.BLUE]


def test_predictions_are_in_colour_where_the_images_are():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    images[0, ..., 0], images[1, ..., 2] = 255, 102
    figure = plots.predictions(images, *[np.arange(2)] * 2, np.ones(2), NAMES, "title")
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn[4, 4], [1, 0, 0, 1])
    np.testing.assert_allclose(drawn[4, 16], [0, 0, 0.4, 1])
    assert drawn[9, 4, 3] == 0  # below an image


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


RUN = "lenet-fashion_mnist_sample-optimizer_adamw-schedule_cosine-lr0.001-shift_flip-seed12345-1234567890ab"
ROWS = [{"epoch": 1, "train/loss": 2.0, "val/loss": 1.0, "val/accuracy": 0.5}]
LAYERS = [("image", np.linspace(0, 1, 784).reshape(1, 28, 28)), ("scores", np.arange(10.0))]
PANELS = np.zeros((6, 28, 28), dtype=np.uint8)


def groups(*scores, error=None, runs=()):
    return [
        Group(
            f"{RUN} {n}", {"model": f"m{n}"}, runs,
            {name: Estimate(2, score, None, error) for name in ("val/accuracy", "val/loss")}
            | {"seconds": Estimate(2, 10.0 + n, None, None)},
        )
        for n, score in enumerate(scores)
    ]  # fmt: skip


TITLED = {
    "confusion": lambda title: plots.confusion_matrix(np.eye(10, dtype=int), NAMES, title),
    "curves": lambda title: plots.training_curves(ROWS, title),
    "filters": lambda title: plots.filters(np.ones((6, 5, 5)), title),
    "many filters": lambda title: plots.filters(np.ones((64, 5, 5)), title),
    "maps": lambda title: plots.feature_maps(LAYERS, NAMES, title),
    "predictions": lambda title: plots.predictions(PANELS[..., None], *[np.arange(6)] * 2, np.ones(6), NAMES, title),
    "leaderboard": lambda title: leaderboard([(title, groups(0.7, 0.8))], "val/accuracy"),
}


@pytest.mark.parametrize("title", [f"{RUN}, test split: 0.7342 of 10,000 right", "w" * 120, "short"])
@pytest.mark.parametrize("name", TITLED)
def test_titles_are_whole_and_free_of_the_rest(name, title):
    figure = TITLED[name](title)
    plots.pixels(figure)
    part = figure.subfigs[0] if figure.subfigs else figure
    heading = (part.texts or [part.axes[0].title])[0]
    box, room = heading.get_window_extent(), figure.bbox
    assert room.x0 <= box.x0 <= box.x1 <= room.x1
    assert room.y0 <= box.y0 <= box.y1 <= room.y1
    assert "".join(heading.get_text().split()) == "".join(title.split())
    assert all(axes.get_window_extent().y1 <= box.y0 + 1 for axes in part.axes)


@pytest.mark.parametrize(
    "figure",
    [
        plots.confusion_matrix(np.eye(10, dtype=int), NAMES, f"{RUN}, test split"),
        plots.confusion_matrix(np.eye(3, dtype=int), ["a very long name of a class", "b", "c"], "title"),
        plots.filters(np.ones((6, 5, 5)), "title"),
        image_and_edges(np.ones((6, 8)), np.ones((6, 7))),
    ],
    ids=["confusion", "three classes", "filters", "edges"],
)
def test_panels_and_their_colour_bars_are_equally_high(figure):
    plots.pixels(figure)
    axes = [*figure.axes, *(bar for axes in figure.axes for bar in axes.child_axes)]
    boxes = [each.get_window_extent() for each in {id(each): each for each in axes}.values()]
    assert len(boxes) >= 2
    assert max(box.y1 for box in boxes) - min(box.y1 for box in boxes) < 1
    assert max(box.y0 for box in boxes) - min(box.y0 for box in boxes) < 1


@pytest.mark.parametrize("error", [0.0, 0.01, 0.6])
@pytest.mark.parametrize("scores", [(0.98, 0.9, 0.3), (1.0, 1.0), (0.0, 0.02), (0.73, 0.735)])
def test_accuracies_and_their_intervals_end_at_0_and_1(tmp_path, scores, error):
    (tmp_path / "metrics.csv").write_text("epoch,val/accuracy\n1,0.1\n2,1.0\n")
    figure = leaderboard([("title", groups(*scores, error=error, runs=[Run(tmp_path)]))], "val/accuracy")
    for axes in figure.subfigs[0].axes:
        bottom, top = axes.get_ylim()
        hair = 0.021 * (top - bottom)
        assert -hair <= bottom < top <= 1 + hair
        drawn = [*axes.containers] and [line for bars in axes.containers for line in bars.lines[2]]
        for collection in drawn:
            ends = collection.get_segments()[0][:, 1]
            assert ends.min() >= 0
            assert ends.max() <= 1
        for score in scores if axes.containers else ():
            assert bottom <= score <= top


def test_losses_may_be_above_1_and_are_not_below_0():
    figure = leaderboard([("title", groups(2.3, 0.4, error=1.0))], "val/loss")
    bottom, top = figure.subfigs[0].axes[0].get_ylim()
    assert top >= 3.3
    assert -0.021 * (top - bottom) <= bottom


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.training_curves(ROWS, "title").savefig(tmp_path / name, metadata={"Date": None})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_names_are_no_formulas():
    names = ["$\\frac$", "100% $", "C#$&"]
    figure = plots.confusion_matrix(np.eye(3, dtype=int), names, "$5 or $6")
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names


def test_an_svg_for_a_page_takes_the_page_s_colors_and_keeps_its_texts():
    drawn = plots.as_svg(plots.training_curves([{"epoch": 1, "train/loss": 2.0, "val/loss": 1.0}], "LeNet < VGG"))
    assert drawn.startswith('<svg fill="currentColor"')
    assert "LeNet &lt; VGG" in drawn
    assert plots.BLUE.lower() in drawn
    assert "#000000" not in drawn
    assert "#ffffff" not in drawn
    assert 'pt"' not in drawn.partition(">")[0]  # as wide as there is room
