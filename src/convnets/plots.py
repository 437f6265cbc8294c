"""Figures, from numbers to matplotlib."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.floating]

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# What a leaderboard can show at once: contenders in color, values beside each other, swept keys.
NUM_COLORED, NUM_VALUES, NUM_SWEPT_DRAWN = 12, 12, 6


def image_and_edges(image: Array, edges: Array) -> Figure:
    """Draw an image (H, W) and its feature map (H', W') side by side, negative purple and positive orange."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    left.set_title("image (1: white)")
    drawn = right.imshow(edges, cmap="PuOr_r", vmin=-1, vmax=1)
    right.set_title("edges: kernel [1, -1]")
    figure.colorbar(drawn, ax=right, ticks=[-1, 0, 1])
    for axes in (left, right):
        axes.set(xlabel="column", ylabel="row")
    return figure


def learning_curve(losses: Sequence[float], title: str) -> Figure:
    """Draw a loss by the step, on a logarithmic scale."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, marker="o", markersize=4)
    axes.set(title=title, xlabel="step", ylabel="sum of squared errors", yscale="log")
    axes.grid(alpha=0.3)
    return figure


def filters(weights: Array, title: str) -> Figure:
    """Draw kernels (n, h, w) beside each other on one colour scale, negative purple and positive orange."""
    limit = float(abs(weights).max())
    figure = Figure(figsize=(1.3 * len(weights) + 0.9, 1.9), layout="constrained")
    panels = figure.subplots(1, len(weights), squeeze=False)[0]
    for number, (axes, kernel) in enumerate(zip(panels, weights, strict=True), start=1):
        drawn = axes.imshow(kernel, cmap="PuOr_r", vmin=-limit, vmax=limit)
        axes.set(title=f"{number}", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=panels, label="weight")
    figure.suptitle(title)
    return figure


def feature_maps(layers: Sequence[tuple[str, Array]], class_names: Sequence[str], title: str) -> Figure:
    """Draw what each layer gives out, a layer a row: maps (channels, H, W) side by side, units (n,) as one strip.

    Each row has its own grey scale, whose ends stand beside it. The last row are the scores of the classes.
    """
    num_columns = max(len(values) for _, values in layers if values.ndim == 3)
    figure = Figure(figsize=(0.62 * num_columns + 2.6, 0.72 * len(layers) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(layers), num_columns + 4)
    for row, (name, values) in enumerate(layers):
        label = figure.add_subplot(grid[row, :4])
        label.axis("off")
        label.text(0, 0.5, f"{name}\n{values.min():.2g} to {values.max():.2g}", va="center", fontsize=7)
        limits = {"cmap": "gray", "vmin": values.min(), "vmax": values.max()}
        panels = values if values.ndim == 3 else [values[None, :]]
        for column, panel in enumerate(panels):
            position = grid[row, column + 4] if values.ndim == 3 else grid[row, 4:]
            axes = figure.add_subplot(position)
            axes.imshow(panel, aspect="equal" if values.ndim == 3 else "auto", **limits)
            axes.set(xticks=[], yticks=[])
    axes.set_xticks(range(len(class_names)), class_names, fontsize=7)
    figure.suptitle(title)
    return figure


def confusion_matrix(counts: NDArray[np.integer], class_names: Sequence[str], title: str) -> Figure:
    """Draw how often each class (row) was taken for each (column), shaded by the share of its row."""
    figure = Figure(figsize=(7, 6.4), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=8)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    figure.colorbar(drawn, ax=axes, label="share of the true class")
    return figure


def training_curves(rows: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Draw train loss, validation loss and validation accuracy over epochs, as the book's board does.

    Validation stands at the end of its epoch; the training loss is a mean over an epoch and stands at its middle.
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in rows]
    middles = [epoch - 0.5 for epoch in epochs]
    axes.plot(middles, [row["train/loss"] for row in rows], color=BLUE, marker="o", markersize=3, label="train loss")
    axes.plot(epochs, [row["val/loss"] for row in rows], "--", color=ORANGE, marker="s", markersize=3, label="val loss")
    axes.plot(
        epochs, [row["val/accuracy"] for row in rows], "-.", color=GREEN, marker="^", markersize=3, label="val accuracy"
    )
    axes.set(title=title, xlabel="epoch", ylabel="loss (nats), accuracy (share)", xlim=(0, max(epochs) * 1.02), ylim=0)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


class Contender(NamedTuple):
    """A group of runs as a leaderboard draws it.

    Args:
        error: half of the score's interval, 0 where there is none.
        seconds: a run; None where unknown.
        curve: epoch, then the lowest score, the mean and the highest of its runs.
        choices: the values that the group is known by.
    """

    label: str
    score: float
    error: float
    seconds: float | None
    curve: Sequence[tuple[float, float, float, float]]
    choices: Mapping[str, Any]


def leaderboard(sections: Sequence[tuple[str, Sequence[Contender]]], metric: str) -> Figure:
    """Draw each section's contenders, best first: score against cost, scores over epochs, a panel for each swept key.

    The first ones have a color and a number; the others are grey, without their intervals.
    """
    swept = [_swept(contenders) for _, contenders in sections]
    widths = [2 if len(keys) in (0, 2) else 3 for keys in swept]
    num_rows = [math.ceil((2 + len(keys)) / width) for keys, width in zip(swept, widths, strict=True)]
    lengths = [min(len(contenders), NUM_COLORED) for _, contenders in sections]
    heights = [3.5 * rows + 0.13 * length + 1 for rows, length in zip(num_rows, lengths, strict=True)]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(sections), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, contenders), keys, rows, columns in zip(parts, sections, swept, num_rows, widths, strict=True):
        part.suptitle(title, fontweight="bold")
        panels = part.subplots(rows, columns, squeeze=False).flatten()
        _draw_cost(panels[0], contenders, metric)
        _draw_curves(panels[1], contenders, metric)
        for axes, key in zip(panels[2:], keys, strict=False):
            _draw_swept(axes, contenders, key, metric)
        for axes in panels[2 + len(keys) :]:
            axes.remove()
        lines = [_line(rank, contender) for rank, contender in enumerate(contenders[:NUM_COLORED])]
        num_columns = 2 if max(len(str(line.get_label())) for line in lines) <= 75 else 1
        part.legend(handles=lines, loc="outside lower left", ncols=num_columns, fontsize=9, frameon=False)
    return figure


def _swept(contenders: Sequence[Contender]) -> list[str]:
    """The keys of which the contenders have several values, if they can be drawn beside each other or on an axis."""
    values = {key: {contender.choices.get(key) for contender in contenders} for key in contenders[0].choices}
    several = [key for key, found in values.items() if len(found) > 1]
    return [key for key in several if len(values[key]) <= NUM_VALUES or _are_numbers(values[key])][:NUM_SWEPT_DRAWN]


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _style(rank: int) -> dict[str, Any]:
    number = rank % len(COLORS)
    return {"color": COLORS[number], "marker": "osD^vPX"[number], "linestyle": "-" if rank < len(COLORS) else "--"}


def _line(rank: int, contender: Contender) -> matplotlib.lines.Line2D:
    label = contender.label if len(contender.label) <= 130 else f"{contender.label[:127]}..."
    return matplotlib.lines.Line2D([], [], markersize=5, label=f"{rank + 1}  {label}", **_style(rank))


def _draw_scores(axes: Axes, positions: Sequence[float | None], contenders: Sequence[Contender]) -> None:
    """Draw each score with its interval at its position, the best on top."""
    placed = [(r, x, c) for r, (x, c) in enumerate(zip(positions, contenders, strict=True)) if x is not None]
    others = [(x, contender.score) for rank, x, contender in placed if rank >= NUM_COLORED]
    axes.plot([x for x, _ in others], [score for _, score in others], ".", color="0.75")
    for rank, x, contender in reversed(placed):
        if rank < NUM_COLORED:
            style = {**_style(rank), "linestyle": "none"}
            axes.errorbar(x, contender.score, yerr=contender.error or None, capsize=3, markersize=6, **style)
    scores, errors = np.array([(c.score, c.error) for c in contenders]).T
    room = max(np.ptp(scores), 1.5 * np.median(errors))  # two seeds may have an interval ten times as long as the rest
    if room > 0:
        lowest, highest = (
            max((scores - errors).min(), scores.min() - room),
            min((scores + errors).max(), scores.max() + room),
        )
        axes.set_ylim(lowest - 0.06 * (highest - lowest), highest + 0.06 * (highest - lowest))


def _draw_cost(axes: Axes, contenders: Sequence[Contender], metric: str) -> None:
    _draw_scores(axes, [contender.seconds for contender in contenders], contenders)
    for rank, contender in enumerate(contenders[:NUM_COLORED]):
        if contender.seconds is not None:
            place = (contender.seconds, contender.score)
            color = _style(rank)["color"]
            axes.annotate(str(rank + 1), place, (5, 4), textcoords="offset points", fontsize=9, color=color)
    _widen(axes, [contender.seconds for contender in contenders if contender.seconds is not None])
    axes.set(title="against cost: mean, 95 % interval", xlabel="seconds a run", ylabel=metric)
    axes.grid(alpha=0.3)


def _widen(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic where the values span much, with numbers that can be read."""
    if values and min(values) > 0 and max(values) > 5 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _draw_curves(axes: Axes, contenders: Sequence[Contender], metric: str) -> None:
    for rank, contender in reversed([*enumerate(contenders[:NUM_COLORED])]):
        if contender.curve:
            epochs, lowest, means, highest = zip(*contender.curve, strict=True)
            axes.plot(epochs, means, markersize=3, markevery=max(1, len(epochs) // 10), **_style(rank))
            axes.fill_between(epochs, lowest, highest, color=_style(rank)["color"], alpha=0.15, linewidth=0)
    axes.set(title="over the epochs: mean, lowest to highest", xlabel="epoch", ylabel=metric.replace("test/", "val/"))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_swept(axes: Axes, contenders: Sequence[Contender], key: str, metric: str) -> None:
    """A column for each value, its contenders side by side; more numbers than fit so on an axis."""
    values = [contender.choices[key] for contender in contenders]
    axes.set(title=f"by {key}", ylabel=metric)
    axes.grid(alpha=0.3, axis="y")
    if len({*values}) > NUM_VALUES:
        _draw_scores(axes, values, contenders)
        _widen(axes, values)
        return
    columns = sorted({*values}) if _are_numbers(values) else sorted({*values}, key=str)
    positions = [0.0] * len(values)
    for column, value in enumerate(columns):
        members = [index for index, other in enumerate(values) if other == value]
        for place, index in enumerate(members):  # the best to the left
            positions[index] = column + 0.6 * ((place + 0.5) / len(members) - 0.5)
        if len(members) > 1:
            mean = float(np.mean([contenders[index].score for index in members]))
            axes.hlines(mean, column - 0.35, column + 0.35, color="black", linewidth=1)
    if len(columns) < len(values):
        axes.set_title(f"by {key} (line: mean)")
    _draw_scores(axes, positions, contenders)
    texts = [f"{value:,.6g}" if type(value) is float else str(value) for value in columns]
    slanted = sum(map(len, texts)) > 40
    axes.set_xticks(range(len(texts)), texts, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.5, len(texts) - 0.5)
