"""The figures that more than one room draws, and what all figures share."""

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

Array = NDArray[np.floating]

# Class names are a user's: in scripts that DejaVu lacks, another font serves where one is installed, else boxes.
FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Noto Sans Arabic",
)
matplotlib.rcParams["font.family"] = [
    "sans-serif",
    *(font for font in FALLBACK_FONTS if font in fontManager.get_font_names()),
]
warnings.filterwarnings("ignore", r"Glyph .* missing from font")
matplotlib.rcParams["svg.hashsalt"] = "convnets"  # the same figure is the same SVG
matplotlib.rcParams["text.parse_math"] = False  # a class may be called $5

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def wrapped(text: str, inches: float, fontsize: float = 12, weight: str = "normal") -> str:
    """Break the text into lines that fit a width in inches."""
    font = FontProperties(size=fontsize, weight=weight)
    points, _, _ = TextToPath().get_text_width_height_descent(text, font, False)
    num_characters = int(0.9 * inches * 72 * len(text) / max(points, 1))  # lines differ in how wide their letters are
    return textwrap.fill(text, max(num_characters, 10))


def colorbar(figure: Figure, axes: Axes, drawn: Any, **options: Any) -> None:
    """Put a colour bar beside an image, as high as it is."""
    figure.colorbar(drawn, cax=axes.inset_axes((1.04, 0, 0.05, 1)), **options)


def filters(weights: Array, title: str, num_columns: int = 16) -> Figure:
    """Draw kernels (n, h, w) beside each other on one colour scale, negative purple and positive orange."""
    limit = float(abs(weights).max()) or 1.0
    tiled = tile(weights, num_columns)
    height, width = (0.9 * size / weights.shape[-1] for size in tiled.shape)
    shrunk = min(1.0, 8 / width)
    figure_width = max(shrunk * width, 4) + 1.2
    title = wrapped(title, figure_width)
    room = 0.5 + 0.2 * (title.count("\n") + 1)
    figure = Figure(figsize=(figure_width, shrunk * height + room), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(tiled, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes.axis("off")
    colorbar(figure, axes, drawn, label="weight", ticks=[-limit, 0, limit], format="%.2g")
    figure.suptitle(title, fontsize=12)
    return figure


def tile(panels: NDArray[Any], num_columns: int, gap: int = 1) -> NDArray[np.float64]:
    """Join pictures (n, h, w), or (n, h, w, 3), into one, row by row, with gaps of NaN, which stay blank.

    Drawing it takes a hundredth of the time that a hundred axes take.
    """
    n, height, width, *channels = panels.shape
    num_columns = min(n, num_columns)
    num_rows = -(-n // num_columns)
    padded = np.full((num_rows * num_columns, height + gap, width + gap, *channels), np.nan)
    padded[:n, :height, :width] = panels
    grid = padded.reshape(num_rows, num_columns, *padded.shape[1:]).swapaxes(1, 2)
    return grid.reshape(num_rows * (height + gap), num_columns * (width + gap), *channels)[:-gap, :-gap]


def feature_maps(
    layers: Sequence[tuple[str, Array]], class_names: Sequence[str], title: str, most_columns: int = 16
) -> Figure:
    """Draw the outputs of layers, one below the other: maps (channels, H, W) side by side, units (n,) as one strip.

    Each layer has its own grey scale, whose ends stand beside it. The last layer gives the scores of the classes.
    """
    num_columns = min(most_columns, max(len(values) for _, values in layers if values.ndim == 3))
    num_rows = [-(-len(values) // num_columns) for _, values in layers]
    heights = [0.62 * rows if values.ndim == 3 else 0.42 for (_, values), rows in zip(layers, num_rows, strict=True)]
    title = wrapped(title, 0.62 * num_columns + 2.3, 14)
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
    each = -(-len(class_names) // 25)  # of more classes, not all names have room
    rows[-1].set_xticks(range(0, len(class_names), each), class_names[::each], fontsize=11, rotation=30, ha="right")
    rows[-1].tick_params(length=0)
    figure.suptitle(title, fontsize=14)
    return figure


def confusion_matrix(counts: NDArray[np.integer], class_names: Sequence[str], title: str) -> Figure:
    """Draw how often each class (row) was predicted as each (column), shaded by the share of its row."""
    many = len(counts) > 30
    side = min(max(7, 0.18 * len(counts)), 24)
    figure = Figure(figsize=(side, side - 0.6), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column] and not many:
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    names = [textwrap.shorten(name, 24, placeholder="...") for name in class_names]
    size = 6 if many else None
    axes.set_xticks(
        range(len(names)), names, fontsize=size, rotation=90 if many else 45, ha="center" if many else "right"
    )
    axes.set_yticks(range(len(names)), names, fontsize=size)
    colorbar(figure, axes, drawn, label="share of the true class")
    figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=12)
    figure.draw_without_rendering()  # of few classes, the first pass of the layout cuts off the labels at both sides
    return figure


def training_curves(rows: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Draw training loss, validation loss and validation accuracy over epochs, as the book does.

    Validation is drawn at the end of its epoch; the training loss, a mean over the epoch, at its middle.
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in rows]
    middles = [epoch - 0.5 for epoch in epochs]
    axes.plot(middles, [row["train/loss"] for row in rows], color=BLUE, marker="o", markersize=3, label="train loss")
    for name, style, color, marker in (("loss", "--", ORANGE, "s"), ("accuracy", "-.", GREEN, "^")):
        points = [(row["epoch"], value) for row in rows if (value := row.get(f"val/{name}")) is not None]
        axes.plot(*zip(*points, strict=True), style, color=color, marker=marker, markersize=3, label=f"val {name}")
    axes.set_title(wrapped(title, 5.2))
    axes.set(xlabel="epoch", ylabel="loss (nats), accuracy (share)", xlim=(0, max(epochs) * 1.02), ylim=0)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def predictions(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    probabilities: Array,
    class_names: Sequence[str],
    title: str,
    num_columns: int = 5,
) -> Figure:
    """Draw images (n, H, W, 1 or 3) of bytes, each over its predicted class with the probability: blue if right.

    Below wrong ones, in bold orange, stands the true class too.
    """
    num_rows = -(-len(images) // num_columns)
    title = wrapped(title, 1.5 * num_columns, 13)
    room = 0.2 + 0.2 * (title.count("\n") + 1)  # of the title
    figure = Figure(figsize=(1.5 * num_columns, 2 * num_rows + 0.05 + room))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0, top=1 - room / figure.get_figheight())
    axes = figure.add_subplot()
    height, width = images.shape[1:3]
    room = round(0.42 * height)  # of the text below an image
    padded = np.pad(images / 255, ((0, 0), (0, room), (0, 0), (0, 0)), constant_values=np.nan)
    tiled = tile(padded, num_columns, gap=4)
    blank = np.isnan(tiled[..., :1])  # see-through
    axes.imshow(np.concatenate([np.broadcast_to(tiled, (*tiled.shape[:2], 3)), ~blank], axis=2), aspect="equal")
    axes.axis("off")
    names = [name if len(name) <= 12 else f"{name[:11]}\N{HORIZONTAL ELLIPSIS}" for name in class_names]
    for place, (label, guess, probability) in enumerate(zip(labels, predicted, probabilities, strict=True)):
        row, column = divmod(place, num_columns)
        x, y = column * (width + 4) + width / 2, row * (height + room + 4) + height
        right = label == guess
        text = f"{names[guess]} {probability:.0%}" + ("" if right else f"\nis {names[label]}")
        axes.text(
            x, y, text, ha="center", va="top", fontsize=10, color=BLUE if right else ORANGE,
            fontweight="normal" if right else "bold", linespacing=1.1,
        )  # fmt: skip
    axes.set_ylim(num_rows * (height + room + 4) - 4, -0.5)
    figure.suptitle(title, fontsize=13)
    return figure


def as_png(figure: Figure, dpi: float) -> bytes:
    """Render a figure as the content of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def as_svg(figure: Figure) -> str:
    """Render a figure to stand within an HTML page: as wide as there is room, black parts in the colour of the text.

    Texts stay texts, so that they are sharp at every size.
    """
    picture = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    content = picture.getvalue()
    drawn = content[content.index("<svg ") :].replace("<svg ", '<svg fill="currentColor" ', 1)
    drawn = re.sub(r' (width|height)="[\d.]+pt"', "", drawn, count=2).replace("fill: #ffffff", "fill: none")
    return re.sub(r"(stroke|fill): #000000", r"\1: currentColor", drawn)


def pixels(figure: Figure, dpi: float = 100) -> NDArray[np.uint8]:
    """Render a figure: (height, width, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
