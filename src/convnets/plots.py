"""Figures, from numbers to matplotlib."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

Array = NDArray[np.floating]

matplotlib.rcParams["svg.hashsalt"] = "convnets"  # the same figure is the same SVG

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# What a leaderboard can show at once: contenders in color, values beside each other, swept keys.
NUM_COLORED, NUM_VALUES, NUM_SWEPT_DRAWN = 12, 12, 6


def _wrapped(text: str, inches: float, fontsize: float = 12, weight: str = "normal") -> str:
    """Break the text into lines that fit the width; a run's name between its words."""
    font = FontProperties(size=fontsize, weight=weight)
    points, _, _ = TextToPath().get_text_width_height_descent(text, font, False)
    num_characters = int(0.9 * inches * 72 * len(text) / max(points, 1))  # lines differ in how wide their letters are
    return textwrap.fill(text, max(num_characters, 10))


def _colorbar(figure: Figure, axes: Axes, drawn: Any, **options: Any) -> None:
    """Put a colour bar beside an image, as high as it is."""
    figure.colorbar(drawn, cax=axes.inset_axes((1.04, 0, 0.05, 1)), **options)


def image_and_edges(image: Array, edges: Array) -> Figure:
    """Draw an image (H, W) and its feature map (H', W') side by side, negative purple and positive orange."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[image.shape[1], edges.shape[1]])  # so that heights are the same
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    left.set_title("image (1: white)")
    drawn = right.imshow(edges, cmap="PuOr_r", vmin=-1, vmax=1)
    right.set_title("edges: kernel [1, -1]")
    _colorbar(figure, right, drawn, ticks=[-1, 0, 1])
    for axes in (left, right):
        axes.set(xlabel="column", ylabel="row")
    return figure


def learning_curve(losses: Sequence[float], title: str) -> Figure:
    """Draw a loss by the step, on a logarithmic scale."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, marker="o", markersize=4)
    axes.set(title=_wrapped(title, 5), xlabel="step", ylabel="sum of squared errors", yscale="log")
    axes.grid(alpha=0.3)
    return figure


def filters(weights: Array, title: str, num_columns: int = 16) -> Figure:
    """Draw kernels (n, h, w) beside each other on one colour scale, negative purple and positive orange."""
    limit = float(abs(weights).max()) or 1.0
    tiled = tile(weights, num_columns)
    height, width = (0.9 * size / weights.shape[-1] for size in tiled.shape)
    shrunk = min(1.0, 8 / width)
    figure_width = max(shrunk * width, 4) + 1.2
    title = _wrapped(title, figure_width)
    room = 0.5 + 0.2 * (title.count("\n") + 1)
    figure = Figure(figsize=(figure_width, shrunk * height + room), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(tiled, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes.axis("off")
    _colorbar(figure, axes, drawn, label="weight", ticks=[-limit, 0, limit], format="%.2g")
    figure.suptitle(title, fontsize=12)
    return figure


def tile(panels: NDArray[Any], num_columns: int, gap: int = 1) -> NDArray[np.float64]:
    """Join pictures (n, h, w) into one, row by row, with gaps of NaN, which is drawn as nothing.

    One picture is drawn in a hundredth of the time of a hundred axes.
    """
    n, height, width = panels.shape
    num_columns = min(n, num_columns)
    num_rows = -(-n // num_columns)
    padded = np.full((num_rows * num_columns, height + gap, width + gap), np.nan)
    padded[:n, :height, :width] = panels
    grid = padded.reshape(num_rows, num_columns, height + gap, width + gap).swapaxes(1, 2)
    return grid.reshape(num_rows * (height + gap), num_columns * (width + gap))[:-gap, :-gap]


def feature_maps(
    layers: Sequence[tuple[str, Array]], class_names: Sequence[str], title: str, most_columns: int = 16
) -> Figure:
    """Draw what each layer gives out, from top to bottom: maps (channels, H, W) side by side, units (n,) as one strip.

    Each layer has its own grey scale, whose ends stand beside it. The last one are the scores of the classes.
    """
    num_columns = min(most_columns, max(len(values) for _, values in layers if values.ndim == 3))
    num_rows = [-(-len(values) // num_columns) for _, values in layers]
    heights = [0.62 * rows if values.ndim == 3 else 0.42 for (_, values), rows in zip(layers, num_rows, strict=True)]
    title = _wrapped(title, 0.62 * num_columns + 2.3, 14)
    room = 0.2 + 0.25 * (title.count("\n") + 1)  # of the title
    figure = Figure(figsize=(0.62 * num_columns + 2.3, 1.15 * sum(heights) + 0.95 + room))
    rows = figure.subplots(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.subplots_adjust(left=2.2 / figure.get_figwidth(), right=0.99, hspace=0.12)
    figure.subplots_adjust(bottom=0.95 / figure.get_figheight(), top=1 - room / figure.get_figheight())
    for axes, (name, values), places in zip(rows, layers, num_rows, strict=True):
        limits = {"cmap": "gray", "vmin": values.min(), "vmax": values.max()}
        if values.ndim == 3:
            missing = np.full((places * num_columns - len(values), *values.shape[1:]), np.nan)
            tiled = tile(np.concatenate([values, missing]), num_columns, gap=max(1, values.shape[-1] // 14))
            axes.imshow(tiled, aspect="equal", **limits)
            axes.set_anchor("W")
        else:
            axes.imshow(values[None, :], aspect="auto", interpolation_stage="data", **limits)
        axes.spines[:].set(visible=values.ndim == 1, color="gray", linewidth=0.5)
        axes.set(xticks=[], yticks=[])
        label = f"{name}\n{values.min():.2g} to {values.max():.2g}"
        axes.annotate(
            label, (0, 0.5), (12, 0), xycoords=("figure points", "axes fraction"), textcoords="offset points",
            va="center", fontsize=11,
        )  # fmt: skip
    rows[-1].set_xticks(range(len(class_names)), class_names, fontsize=11, rotation=30, ha="right")
    rows[-1].tick_params(length=0)
    figure.suptitle(title, fontsize=14)
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
    axes.set(xlabel="predicted", ylabel="true")
    names = [textwrap.shorten(name, 24, placeholder="...") for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    _colorbar(figure, axes, drawn, label="share of the true class")
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=12)
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
    axes.set_title(_wrapped(title, 5.2))
    axes.set(xlabel="epoch", ylabel="loss (nats), accuracy (share)", xlim=(0, max(epochs) * 1.02), ylim=0)
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
        part.suptitle(_wrapped(title, figure.get_figwidth(), weight="bold"), fontweight="bold")
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


def _bounds(metric: str) -> tuple[float, float]:
    """The values that the metric can have."""
    return (0, 1) if "accuracy" in metric else (0, math.inf)


def _keep_within(axes: Axes, metric: str) -> None:
    """End the vertical axis where the metric's values end, but for a hair, so that a marker there is seen whole."""
    (bottom, top), (lowest, highest) = axes.get_ylim(), _bounds(metric)
    hair = 0.02 * (min(top, highest) - max(bottom, lowest))
    axes.set_ylim(max(bottom, lowest - hair), min(top, highest + hair))


def _draw_scores(axes: Axes, positions: Sequence[float | None], contenders: Sequence[Contender], metric: str) -> None:
    """Draw each score with its interval, as far as there are such values, at its position, the best on top."""
    placed = [(r, x, c) for r, (x, c) in enumerate(zip(positions, contenders, strict=True)) if x is not None]
    others = [(x, contender.score) for rank, x, contender in placed if rank >= NUM_COLORED]
    axes.plot([x for x, _ in others], [score for _, score in others], ".", color="0.75")
    for rank, x, contender in reversed(placed):
        if rank < NUM_COLORED:
            style = {**_style(rank), "linestyle": "none"}
            ends = np.clip([contender.score - contender.error, contender.score + contender.error], *_bounds(metric))
            interval = np.abs(ends - contender.score)[:, None] if contender.error else None
            axes.errorbar(x, contender.score, yerr=interval, capsize=3, markersize=6, **style)
    scores, errors = np.array([(c.score, c.error) for c in contenders]).T
    room = max(np.ptp(scores), 1.5 * np.median(errors))  # two seeds may have an interval ten times as long as the rest
    if room > 0:
        lowest, highest = (
            max((scores - errors).min(), scores.min() - room),
            min((scores + errors).max(), scores.max() + room),
        )
        axes.set_ylim(lowest - 0.06 * (highest - lowest), highest + 0.06 * (highest - lowest))
    _keep_within(axes, metric)


def _draw_cost(axes: Axes, contenders: Sequence[Contender], metric: str) -> None:
    _draw_scores(axes, [contender.seconds for contender in contenders], contenders, metric)
    for rank, contender in enumerate(contenders[:NUM_COLORED]):
        if contender.seconds is not None:
            place = (contender.seconds, contender.score)
            color = _style(rank)["color"]
            options = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": color}
            axes.annotate(str(rank + 1), place, (7, 0), **options)  # beside it: the axis may end above it
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
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    _keep_within(axes, metric)
    axes.grid(alpha=0.3)


def _draw_swept(axes: Axes, contenders: Sequence[Contender], key: str, metric: str) -> None:
    """A column for each value, its contenders side by side; more numbers than fit so on an axis."""
    values = [contender.choices[key] for contender in contenders]
    axes.set(title=f"by {key}", ylabel=metric)
    axes.grid(alpha=0.3, axis="y")
    if len({*values}) > NUM_VALUES:
        _draw_scores(axes, values, contenders, metric)
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
    _draw_scores(axes, positions, contenders, metric)
    texts = [f"{value:,.6g}" if type(value) is float else str(value) for value in columns]
    slanted = sum(map(len, texts)) > 40
    axes.set_xticks(range(len(texts)), texts, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.5, len(texts) - 0.5)


def predictions(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    probabilities: Array,
    class_names: Sequence[str],
    title: str,
    num_columns: int = 5,
) -> Figure:
    """Draw images (n, H, W) of bytes, each over what it is taken for and how surely; over what it is, if that differs.

    Right ones in blue, wrong ones in bold orange.
    """
    num_rows = -(-len(images) // num_columns)
    title = _wrapped(title, 1.5 * num_columns, 13)
    room = 0.2 + 0.2 * (title.count("\n") + 1)  # of the title
    figure = Figure(figsize=(1.5 * num_columns, 2 * num_rows + 0.05 + room))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0, top=1 - room / figure.get_figheight())
    axes = figure.add_subplot()
    _, height, width = images.shape
    room = round(0.42 * height)  # of the text below an image
    tiled = tile(np.pad(images.astype(float), ((0, 0), (0, room), (0, 0)), constant_values=np.nan), num_columns, gap=4)
    axes.imshow(tiled, cmap="gray", vmin=0, vmax=255, aspect="equal")
    axes.axis("off")
    for place, (label, guess, probability) in enumerate(zip(labels, predicted, probabilities, strict=True)):
        row, column = divmod(place, num_columns)
        x, y = column * (width + 4) + width / 2, row * (height + room + 4) + height
        right = label == guess
        text = f"{class_names[guess]} {probability:.0%}" + ("" if right else f"\nis {class_names[label]}")
        axes.text(
            x, y, text, ha="center", va="top", fontsize=10, color=BLUE if right else ORANGE,
            fontweight="normal" if right else "bold", linespacing=1.1,
        )  # fmt: skip
    axes.set_ylim(num_rows * (height + room + 4) - 4, -0.5)
    figure.suptitle(title, fontsize=13)
    return figure


def shares(names: Sequence[str], values: Sequence[float], xlabel: str, title: str) -> Figure:
    """Draw a share from 0 to 1 for each name, as bars from the first name at the top."""
    figure = Figure(figsize=(6, 0.3 * len(names) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, values, color=BLUE)
    for place, value in zip(places, values, strict=True):
        axes.text(value + 0.01, place, f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.set(title=title, xlabel=xlabel, xlim=(0, 1.12), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def growth(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """Draw each quantity's median by the place on each curve, with lowest and highest: a column a curve.

    Args:
        curves: names to quantities to places to values.
    """
    figure = Figure(figsize=(3.2 * len(curves), 5), layout="constrained")
    for column, (name, quantities) in enumerate(curves.items()):
        for row, (quantity, values) in enumerate(quantities.items()):
            axes = figure.add_subplot(2, len(curves), row * len(curves) + column + 1)
            measured = {place: sorted(some) for place, some in values.items() if some}
            middle = [float(np.median(some)) for some in measured.values()]
            axes.plot(list(measured), middle, color=COLORS[row], marker="o")
            axes.fill_between(
                list(measured), [some[0] for some in measured.values()], [some[-1] for some in measured.values()],
                color=COLORS[row], alpha=0.2,
            )  # fmt: skip
            axes.set(xlabel=name, ylabel=quantity, ylim=(0, 1.1 * max(max(some) for some in measured.values())))
            axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
            axes.grid(alpha=0.3)
    return figure


def pixels(figure: Figure, dpi: float = 100) -> NDArray[np.uint8]:
    """Render a figure: (height, width, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
