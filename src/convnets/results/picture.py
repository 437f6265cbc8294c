"""One picture of a comparison, to show to others: the curves of its best groups, and what the best network sees."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.ticker
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convnets import plots
from convnets.configuration.rules import ConfigurationError
from convnets.dashboard.probe import as_array
from convnets.files import write_atomically
from convnets.results.leaderboard import Board, Leaderboard
from convnets.results.leaderboard_figure import draw_curves, style
from convnets.results.trained_run import TrainedRun

FILE = "picture.png"
DPI = 110
NUM_GROUPS, NUM_FILTERS, NUM_CLASSES = 4, 12, 3  # that are shown
NUM_TRIED = 100  # images


class Sight(NamedTuple):
    """What a network makes of an image."""

    image: plots.Array  # (H, W, 1 or 3) of bytes
    label: str
    kernels: plots.Array  # (n, h, w), of the first convolution, means over its input channels
    maps: plots.Array  # (n, h, w), its outputs
    probabilities: plots.Array  # (num_classes,)


def write_picture(leaderboard: Leaderboard, folder: Path) -> Path:
    """Write FOLDER/picture.png.

    Raises:
        ConfigurationError: no run has finished, or the best network has no convolution.
    """
    if not leaderboard.boards:
        raise ConfigurationError("--picture draws finished runs, and there is none yet.")
    board = leaderboard.boards[0]
    run = TrainedRun(min(run.path for run in board.groups[0].runs))
    figure = draw_picture(board, leaderboard.metric, look(run), run.datamodule.class_names)
    write_atomically(folder / FILE, plots.as_png(figure, DPI))
    return folder / FILE


def look(run: TrainedRun) -> Sight:
    """Show the network the first test image that it gets right, or else the very first."""
    dataset, network = run.datamodule.splits["test"], run.classifier.network
    convolution = next((layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)), None)
    if convolution is None:
        raise ConfigurationError(f"--picture shows a convolution's filters, and {run} has none.")
    images, labels = dataset[torch.arange(min(NUM_TRIED, len(dataset)))]
    outputs: list[torch.Tensor] = []
    hook = convolution.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with torch.inference_mode():
        scores = run.classifier(run.datamodule.to_network_input(images))
    hook.remove()
    chosen = int((scores.argmax(1) == labels).int().argmax())
    image = images[chosen].permute(1, 2, 0).numpy()
    return Sight(
        image, run.datamodule.class_names[int(labels[chosen])], as_array(convolution.weight.mean(1))[:NUM_FILTERS],
        as_array(outputs[0][chosen])[:NUM_FILTERS], as_array(scores[chosen].softmax(0)),
    )  # fmt: skip


def draw_picture(board: Board, metric: str, sight: Sight, class_names: tuple[str, ...]) -> Figure:
    """Draw the curves on the left; on the right an image, the first layer's filters, their maps and the answer."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[5.4, 6.6])
    left, right = parts
    _draw_left(left.subplots(), board, metric)
    places = right.subplot_mosaic([["image", "filters"], ["answer", "maps"]], width_ratios=[1, 1.5])
    columns = -(-len(sight.kernels) // 2) if len(sight.kernels) > 4 else len(sight.kernels)
    places["image"].imshow(sight.image, cmap="gray")
    places["image"].set_title(f"a test image: {sight.label}", fontsize=11)
    limit = float(abs(sight.kernels).max())
    places["filters"].imshow(plots.tile(sight.kernels, columns), cmap="PuOr_r", vmin=-limit, vmax=limit)
    places["filters"].set_title("the filters that the best network has learned", fontsize=11)
    lowest, highest = sight.maps.min((1, 2), keepdims=True), sight.maps.max((1, 2), keepdims=True)
    maps = (sight.maps - lowest) / (highest - lowest).clip(1e-9)  # each on a scale of its own
    places["maps"].imshow(plots.tile(maps, columns, gap=2), cmap="inferno")
    places["maps"].set_title("what they make of the image", fontsize=11)
    for name in ("image", "filters", "maps"):
        places[name].axis("off")
    _draw_answer(places["answer"], sight.probabilities, class_names)
    return figure


def _draw_left(axes: Axes, board: Board, metric: str) -> None:
    groups = board.groups[:NUM_GROUPS]
    draw_curves(axes, groups, metric)
    for rank, group in enumerate(groups):
        estimate = group.estimates[metric]
        spread = "" if estimate.sd is None else f" ± {estimate.sd:.3f}"
        label = f"{plots.wrapped(group.label, 3, 10)}\n{estimate.mean:.3f}{spread}, n = {estimate.n}"
        axes.plot([], [], label=label, **style(rank))
    axes.legend(loc="lower right", fontsize=10)
    axes.set_title("mean over the seeds, from the lowest to the highest", fontsize=11)


def _draw_answer(axes: Axes, probabilities: plots.Array, class_names: tuple[str, ...]) -> None:
    likeliest = np.argsort(-probabilities)[:NUM_CLASSES]
    bars: Any = axes.barh(range(len(likeliest)), probabilities[likeliest], color=plots.BLUE, height=0.6)
    texts = [f"{class_names[number]} {probabilities[number]:.0%}" for number in likeliest]
    axes.bar_label(bars, texts, padding=4)
    axes.set(xlim=(0, 1.9), yticks=[], ylim=(len(likeliest) - 0.4, -0.6))
    axes.set_title("what it is taken for", fontsize=11)
    axes.xaxis.set_major_locator(matplotlib.ticker.NullLocator())
    axes.spines[:].set_visible(False)
