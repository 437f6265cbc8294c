"""The pictures of one epoch, from arrays to TensorBoard."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from convnets import plots
from convnets.dashboard.probe import SATURATED_WITHIN, Array, Look
from convnets.text import count

NUM_EXAMPLES = 20  # in a picture
NUM_MAP_COLUMNS = 8  # of feature maps: TensorBoard shows pictures 350 pixels wide, and their words are to be read


class Validation(NamedTuple):
    """Images (N, H, W) of bytes with their labels (N,), and the scores (N, num_classes) that they got."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]
    scores: Array

    def some(self, numbers: Any) -> "Validation":
        """Those of the numbers, in their order."""
        return Validation(*(part[numbers] for part in self))


class Shot(NamedTuple):
    """What an epoch's pictures show: the probe images, all validated ones, the first layer's kernels (n, h, w)."""

    epoch: int
    class_names: tuple[str, ...]
    probed: Validation
    seen: Look  # of the probe images
    validated: Validation
    kernels: Array | None


def draw(writer: SummaryWriter, shot: Shot) -> None:
    """Draw them and write them."""
    for name, figure in figures(shot).items():
        writer.add_image(f"pictures/{name}", plots.pixels(figure), shot.epoch, dataformats="HWC")
    writer.flush()


def figures(shot: Shot) -> dict[str, Figure]:
    """Every picture that there is something to show in."""
    names, probed, validated, seen = shot.class_names, shot.probed, shot.validated, shot.seen
    after = f"after epoch {shot.epoch}"
    found: dict[str, Figure] = {}

    examples = probed.some(slice(NUM_EXAMPLES))
    num_right = int((examples.scores.argmax(1) == examples.labels).sum())
    title = f"The same {count(len(examples.labels), 'validation image')} {after}: {num_right} right"
    found["probe"] = _examples(examples, names, title)

    wrong = np.flatnonzero(validated.scores.argmax(1) != validated.labels)
    if len(wrong):
        surest = wrong[np.argsort(-softmax(validated.scores[wrong]).max(1), kind="stable")][:NUM_EXAMPLES]
        title = f"The most confident of {count(len(wrong), 'mistake')} {after}"
        found["mistakes"] = _examples(validated.some(surest), names, title)

    matrix = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(matrix, (validated.labels, validated.scores.argmax(1)), 1)
    title = f"{np.trace(matrix) / matrix.sum():.1%} of {matrix.sum():,} validation images right {after}"
    found["confusion"] = plots.confusion_matrix(matrix, names, title)

    if shot.kernels is not None:
        found["filters"] = plots.filters(shot.kernels, f"The first layer's {len(shot.kernels)} filters {after}")
    label, guess = names[int(probed.labels[0])], names[int(probed.scores[0].argmax())]
    found["feature_maps"] = plots.feature_maps(seen.maps, names, f"{label}, taken for {guess} {after}", NUM_MAP_COLUMNS)
    probes = count(len(probed.labels), "validation image")
    near = f"share of outputs within {SATURATED_WITHIN} of 0 or 1, over {probes}"
    for name, shares, xlabel, title in (
        ("saturated_sigmoids", seen.saturated, near, "Saturated sigmoids"),
        ("dead_relus", seen.dead, f"share of units that are 0 for each of {probes}", "Dead ReLUs"),
    ):
        if shares:
            layers = [layer.replace("_", " ") for layer in shares]
            found[name] = _bars(layers, [*shares.values()], xlabel, f"{title} {after}")
    return found


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
