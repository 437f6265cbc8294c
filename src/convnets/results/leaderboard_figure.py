"""The leaderboard's figure: scores against cost, over the epochs, and by each swept key."""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convnets import plots
from convnets.results.leaderboard import Group, Leaderboard, as_text

# What the figure can show at once: groups in colour, values beside each other, swept keys.
NUM_COLORED, NUM_VALUES, NUM_SWEPT_DRAWN = 12, 12, 6
NUM_BOARDS_DRAWN = 4


def draw(board: Leaderboard) -> Figure:
    """Draw the four boards with the most groups."""
    largest = sorted(board.boards, key=lambda each: -len(each.groups))[:NUM_BOARDS_DRAWN]
    sections = [(f"Validated on {each.validated_on}", each.groups) for each in board.boards if each in largest]
    return leaderboard(sections, board.metric)


def leaderboard(sections: Sequence[tuple[str, Sequence[Group]]], metric: str) -> Figure:
    """Draw each section's groups, best first: score against cost, scores over epochs, a panel for each swept key.

    The first twelve have a colour and a number; the others are grey, without their intervals.
    """
    drawn = [panels(groups, metric) for _, groups in sections]
    widths = [2 if len(several) in (2, 4) else 3 for several in drawn]
    num_rows = [math.ceil(len(several) / width) for several, width in zip(drawn, widths, strict=True)]
    lengths = [min(len(groups), NUM_COLORED) for _, groups in sections]
    heights = [3.5 * rows + 0.13 * length + 1 for rows, length in zip(num_rows, lengths, strict=True)]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(sections), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, groups), several, rows, columns in zip(parts, sections, drawn, num_rows, widths, strict=True):
        part.suptitle(plots.wrapped(title, figure.get_figwidth(), weight="bold"), fontweight="bold")
        places = part.subplots(rows, columns, squeeze=False).flatten()
        for axes, draw_panel in zip(places, several, strict=False):
            draw_panel(axes)
        for axes in places[len(several) :]:
            axes.remove()
        lines = [_line(rank, group) for rank, group in enumerate(groups[:NUM_COLORED])]
        num_columns = 2 if max(len(str(line.get_label())) for line in lines) <= 75 else 1
        part.legend(handles=lines, loc="outside lower left", ncols=num_columns, fontsize=9, frameon=False)
    return figure


def panels(groups: Sequence[Group], metric: str) -> list[Callable[[Axes], None]]:
    """What draws each panel of a section: score against cost, over the epochs, by each swept key."""
    swept = [functools.partial(_draw_swept, key=key) for key in _swept(groups)]
    several: list[Callable[..., None]] = [_draw_cost, draw_curves, *swept]
    return [functools.partial(each, groups=groups, metric=metric) for each in several]


def _swept(groups: Sequence[Group]) -> list[str]:
    """The keys with several values, if these can be drawn beside each other or on an axis."""
    values = {key: {_choice(group, key) for group in groups} for key in groups[0].choices}
    several = [key for key, found in values.items() if len(found) > 1]
    return [key for key in several if len(values[key]) <= NUM_VALUES or _are_numbers(values[key])][:NUM_SWEPT_DRAWN]


def _choice(group: Group, key: str) -> Any:
    value = group.choices.get(key)
    return value if _are_numbers([value]) else as_text(value)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def style(rank: int) -> dict[str, Any]:
    """The colour, marker and line of the group at this place, 0 the best."""
    number = rank % len(plots.COLORS)
    linestyle = "-" if rank < len(plots.COLORS) else "--"
    return {"color": plots.COLORS[number], "marker": "osD^vPX"[number], "linestyle": linestyle}


def _line(rank: int, group: Group) -> matplotlib.lines.Line2D:
    label = group.label if len(group.label) <= 130 else f"{group.label[:127]}..."
    return matplotlib.lines.Line2D([], [], markersize=5, label=f"{rank + 1}  {label}", **style(rank))


def _bounds(metric: str) -> tuple[float, float]:
    """The values that the metric can have."""
    return (0, 1) if "accuracy" in metric else (0, math.inf)


def _keep_within(axes: Axes, metric: str) -> None:
    """End the vertical axis a little beyond the metric's range, so that a marker at its end is seen whole."""
    (bottom, top), (lowest, highest) = axes.get_ylim(), _bounds(metric)
    hair = 0.02 * (min(top, highest) - max(bottom, lowest))
    axes.set_ylim(max(bottom, lowest - hair), min(top, highest + hair))


def _draw_scores(axes: Axes, positions: Sequence[float | None], groups: Sequence[Group], metric: str) -> None:
    """Draw each score with its interval at its position, the best on top; none where the position is None."""
    estimates = [group.estimates[metric] for group in groups]
    scores = np.array([estimate.mean for estimate in estimates])
    errors = np.array([estimate.half_width or 0.0 for estimate in estimates])
    placed = [(rank, x) for rank, x in enumerate(positions) if x is not None]
    others = [(x, scores[rank]) for rank, x in placed if rank >= NUM_COLORED]
    axes.plot([x for x, _ in others], [score for _, score in others], ".", color="0.75")
    for rank, x in reversed(placed):
        if rank < NUM_COLORED:
            score, error = scores[rank], errors[rank]
            ends = np.clip([score - error, score + error], *_bounds(metric))
            interval = np.abs(ends - score)[:, None] if error else None
            marker = {**style(rank), "linestyle": "none"}
            axes.errorbar(x, score, yerr=interval, capsize=3, markersize=6, **marker)
    room = max(np.ptp(scores), 1.5 * np.median(errors))  # two seeds may have an interval ten times as long as the rest
    if room > 0:
        lowest = max((scores - errors).min(), scores.min() - room)
        highest = min((scores + errors).max(), scores.max() + room)
        axes.set_ylim(lowest - 0.06 * (highest - lowest), highest + 0.06 * (highest - lowest))
    _keep_within(axes, metric)


def _draw_cost(axes: Axes, groups: Sequence[Group], metric: str) -> None:
    seconds = [group.mean("seconds") for group in groups]
    _draw_scores(axes, seconds, groups, metric)
    for rank, (x, group) in enumerate(zip(seconds[:NUM_COLORED], groups, strict=False)):
        if x is not None:
            options = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": style(rank)["color"]}
            place = (x, group.estimates[metric].mean)
            axes.annotate(str(rank + 1), place, (7, 0), **options)  # beside it: the axis may end above it
    _widen(axes, [x for x in seconds if x is not None])
    axes.set(title="against cost: mean, 95 % interval", xlabel="seconds a run", ylabel=metric)
    axes.grid(alpha=0.3)


def _widen(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic where the values span much, with numbers that can be read."""
    if values and min(values) > 0 and max(values) > 5 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def draw_curves(axes: Axes, groups: Sequence[Group], metric: str) -> None:
    """Draw each group's mean over the epochs, in a band from its lowest to its highest run."""
    name = metric.replace("test/", "val/")
    for rank, group in reversed([*enumerate(groups[:NUM_COLORED])]):
        if curve := group.curve(name):
            epochs, values = zip(*curve, strict=True)
            means = [statistics.fmean(some) for some in values]
            axes.plot(epochs, means, markersize=3, markevery=max(1, len(epochs) // 10), **style(rank))
            lowest, highest = [min(some) for some in values], [max(some) for some in values]
            axes.fill_between(epochs, lowest, highest, color=style(rank)["color"], alpha=0.15, linewidth=0)
    axes.set(title="over the epochs: mean, lowest to highest", xlabel="epoch", ylabel=name)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    _keep_within(axes, metric)
    axes.grid(alpha=0.3)


def _draw_swept(axes: Axes, groups: Sequence[Group], key: str, metric: str) -> None:
    """Draw a column for each value, its groups side by side; more than 12 numbers along an axis."""
    values = [_choice(group, key) for group in groups]
    axes.set(title=f"by {key}", ylabel=metric)
    axes.grid(alpha=0.3, axis="y")
    if len({*values}) > NUM_VALUES:
        _draw_scores(axes, values, groups, metric)
        _widen(axes, values)
        return
    columns = sorted({*values}) if _are_numbers(values) else sorted({*values}, key=str)
    positions = [0.0] * len(values)
    for column, value in enumerate(columns):
        members = [index for index, other in enumerate(values) if other == value]
        for place, index in enumerate(members):  # the best to the left
            positions[index] = column + 0.6 * ((place + 0.5) / len(members) - 0.5)
        if len(members) > 1:
            mean = float(np.mean([groups[index].estimates[metric].mean for index in members]))
            axes.hlines(mean, column - 0.35, column + 0.35, color="black", linewidth=1)
    if len(columns) < len(values):
        axes.set_title(f"by {key} (line: mean)")
    _draw_scores(axes, positions, groups, metric)
    texts = [f"{value:,.6g}" if type(value) is float else str(value) for value in columns]
    slanted = sum(map(len, texts)) > 40
    axes.set_xticks(range(len(texts)), texts, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.5, len(texts) - 0.5)
