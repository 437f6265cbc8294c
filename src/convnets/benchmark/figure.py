"""The figure of how speed and memory grow."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from convnets.plots import COLORS


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
