"""Draws the pictures of one epoch."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convnets import plots
from convnets.dashboard.probe import SATURATED_WITHIN, Array, Observation
from convnets.dashboard.writer import Album
from convnets.text import count

NUM_EXAMPLES = 20  # in a picture
NUM_MAP_COLUMNS = 8  # of feature maps: in the 350 pixels that TensorBoard gives a picture, words stay readable


class Validation(NamedTuple):
    """Images (N, H, W, 1 or 3) of bytes with their labels (N,), and the scores (N, num_classes) that they got."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]
    scores: Array


class Snapshot(NamedTuple):
    """What an epoch's pictures show: probe images, the surest mistakes, and the first layer's kernels (n, h, w)."""

    epoch: int
    class_names: tuple[str, ...]
    probed: Validation
    seen: Observation  # of the probe images
    mistakes: Validation
    confusion: NDArray[np.integer]  # of all validated images
    kernels: Array | None


def draw(albums: Sequence[Album], snapshot: Snapshot) -> None:
    """Draw an epoch's pictures and hand them to every album."""
    for name, figure in figures(snapshot).items():
        pixels = plots.pixels(figure)
        for add in albums:
            add(f"pictures/{name}", pixels, snapshot.epoch)


def figures(snapshot: Snapshot) -> dict[str, Figure]:
    """Every picture for which the epoch has something to show, under its name."""
    names, probed, seen = snapshot.class_names, snapshot.probed, snapshot.seen
    after = f"after epoch {snapshot.epoch}"
    drawn: dict[str, Figure] = {}

    first = slice(NUM_EXAMPLES)
    examples = Validation(probed.images[first], probed.labels[first], probed.scores[first])
    num_right = int((examples.scores.argmax(1) == examples.labels).sum())
    title = f"The same {count(len(examples.labels), 'validation image')} {after}: {num_right} right"
    drawn["probe"] = _examples(examples, names, title)

    matrix = snapshot.confusion
    if num_wrong := matrix.sum() - np.trace(matrix):
        title = f"The most confident of {count(num_wrong, 'mistake')} {after}"
        drawn["mistakes"] = _examples(snapshot.mistakes, names, title)

    title = f"{np.trace(matrix) / matrix.sum():.1%} of {matrix.sum():,} validation images right {after}"
    drawn["confusion"] = plots.confusion_matrix(matrix, names, title)

    if snapshot.kernels is not None:
        drawn["filters"] = plots.filters(snapshot.kernels, f"The first layer's {len(snapshot.kernels)} filters {after}")
    label, guess = names[int(probed.labels[0])], names[int(probed.scores[0].argmax())]
    drawn["feature_maps"] = plots.feature_maps(seen.maps, names, f"{label}, taken for {guess} {after}", NUM_MAP_COLUMNS)
    probes = count(len(probed.labels), "validation image")
    near = f"share of outputs within {SATURATED_WITHIN} of 0 or 1, over {probes}"
    for name, shares, xlabel, title in (
        ("saturated_sigmoids", seen.saturated, near, "Saturated sigmoids"),
        ("dead_relus", seen.dead, f"share of units that are 0 for each of {probes}", "Dead ReLUs"),
    ):
        if shares:
            layers = [layer.replace("_", " ") for layer in shares]
            drawn[name] = _bars(layers, [*shares.values()], xlabel, f"{title} {after}")
    return drawn


def surest_mistakes(labels: NDArray[np.integer], scores: Array) -> NDArray[np.integer]:
    """The numbers of up to 20 images that were taken for others, the surest first."""
    wrong = np.flatnonzero(scores.argmax(1) != labels)
    return wrong[np.argsort(-softmax(scores[wrong]).max(1), kind="stable")][:NUM_EXAMPLES]


def _examples(some: Validation, class_names: tuple[str, ...], title: str) -> Figure:
    shares = softmax(some.scores)
    return plots.predictions(some.images, some.labels, shares.argmax(1), shares.max(1), class_names, title)


def softmax(scores: Array) -> Array:
    """Probabilities (N, num_classes)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _bars(names: Sequence[str], values: Sequence[float], xlabel: str, title: str) -> Figure:
    """Draw a share from 0 to 1 for each name, as bars from the first name at the top."""
    figure = Figure(figsize=(6, 0.3 * len(names) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, values, color=plots.BLUE)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.set(title=title, xlabel=xlabel, xlim=(0, 1.12), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
