"""The leaderboard's figure: scores against cost, over the epochs, and by each swept key."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convnets import plots

# What a leaderboard can show at once: contenders in color, values beside each other, swept keys.
NUM_COLORED, NUM_VALUES, NUM_SWEPT_DRAWN = 12, 12, 6


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
        part.suptitle(plots.wrapped(title, figure.get_figwidth(), weight="bold"), fontweight="bold")
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
    number = rank % len(plots.COLORS)
    linestyle = "-" if rank < len(plots.COLORS) else "--"
    return {"color": plots.COLORS[number], "marker": "osD^vPX"[number], "linestyle": linestyle}


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
