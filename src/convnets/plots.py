"""Figures, from numbers to matplotlib."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


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
