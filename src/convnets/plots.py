"""Figures, from numbers to matplotlib."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.floating]

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


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
