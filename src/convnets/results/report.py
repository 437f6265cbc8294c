"""The leaderboard as text, tables and a figure."""

import csv
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convnets.files import shown, write_atomically
from convnets.results import figure
from convnets.results.leaderboard import Board, Comparison, Group, Leaderboard, as_text, label, lower_is_better
from convnets.runs.run import Run
from convnets.text import count

FILES = ("leaderboard.md", "leaderboard.csv", "runs.csv", "leaderboard.png")
NUM_SENTENCES = 10  # about differences, a table
NUM_BOARDS_DRAWN = 4


def write_report(leaderboard: Leaderboard, title: str, folder: Path) -> None:
    """Write leaderboard.md, leaderboard.csv (a row a group), runs.csv (a row a run) and leaderboard.png."""
    folder.mkdir(parents=True, exist_ok=True)
    image = f"\n![The leaderboard, drawn]({FILES[3]})\n" if leaderboard.boards else ""
    write_atomically(folder / FILES[0], f"{as_markdown(leaderboard, title)}\n{image}")
    write_atomically(folder / FILES[1], groups_as_csv(leaderboard))
    write_atomically(folder / FILES[2], runs_as_csv(leaderboard))
    if leaderboard.boards:
        picture = io.BytesIO()
        draw(leaderboard).savefig(picture, dpi=110)
        write_atomically(folder / FILES[3], picture.getvalue())
    else:
        (folder / FILES[3]).unlink(missing_ok=True)  # of runs that are gone


def as_markdown(leaderboard: Leaderboard, title: str, most_rows: int | None = None) -> str:
    """The leaderboard for a terminal or a file: tables, then what the differences are worth, then what is unfinished.

    Args:
        most_rows: of each table; the rest is counted.
    """
    states = Counter(run.state for run in leaderboard.runs)
    total = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    lines = [f"# {title}", "", f"{count(len(leaderboard.runs), 'run')}: {total}."]
    for board in leaderboard.boards:
        lines += ["", *_board_lines(board, leaderboard, most_rows)]
    if leaderboard.warnings:
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in leaderboard.warnings)]
    if leaderboard.unfinished:
        lines += ["", "## Not finished", "", *_unfinished_lines(leaderboard, most_rows)]
    return "\n".join(lines)


def _board_lines(board: Board, leaderboard: Leaderboard, most_rows: int | None) -> list[str]:
    metric = leaderboard.metric
    direction = "lower" if lower_is_better(metric) else "higher"
    lines = [f"## Validated on {board.validated_on}", ""]
    if board.on_test_split:
        lines += [
            "Fit for comparing with the book. To choose by, validate on held-out training images: data.holdout=5000.",
            "",
        ]
    lines += [
        f"By {metric}, {direction} is better: the mean over n runs, its 95 % interval, their standard deviation.",
        "",
    ]
    has_test = metric != "test/accuracy" and any("test/accuracy" in group.estimates for group in board.groups)
    header = ["#", "runs", "n", metric, "± 95 %", "sd", "behind", "p", "seconds", "images/s"]
    rows = []
    for rank, (group, comparison) in enumerate(zip(board.groups, [None, *board.comparisons], strict=True), start=1):
        estimate = group.estimates[metric]
        row = [str(rank), group.label, str(estimate.n)]
        row += [_fixed(value) for value in (estimate.mean, estimate.half_width, estimate.sd)]
        row += ["", ""] if comparison is None else [_fixed(comparison.behind), _p(comparison.corrected)]
        row += [_cost(group, "seconds"), _cost(group, "images_per_second")]
        if has_test:
            row.insert(6, _fixed(group.estimates["test/accuracy"].mean) if "test/accuracy" in group.estimates else "")
        rows.append(row)
    if has_test:
        header.insert(6, "test/accuracy")
    return [*lines, *_table(header, rows, {1}, most_rows), *_verdict_lines(board, leaderboard.pooled)]


def _verdict_lines(board: Board, pooled: Sequence[str]) -> list[str]:
    """Whether the best is ahead of each other group by more than seeds do."""
    if not board.comparisons:
        return []
    best, *others = board.groups
    unit = "runs alike in all else" if pooled else "seeds"
    pairs = list(zip(others, board.comparisons, strict=True))
    lines = ["", *(f"- {verdict(best, other, comparison, unit)}" for other, comparison in pairs[:NUM_SENTENCES])]
    if len(pairs) > NUM_SENTENCES:
        beyond = sum(comparison.is_beyond_the_spread and comparison.lead > 0 for comparison in board.comparisons)
        lines.append(f"- In all, {best.label} is ahead beyond the spread of {beyond:,} of the {len(pairs):,} others.")
    if len(pairs) > 1:
        lines += [
            "",
            f"p is corrected for {len(pairs):,} comparisons (Holm). The best of {len(board.groups):,} was picked by "
            "these figures, so its own flatters.",
        ]
    return lines


def verdict(best: Group, other: Group, comparison: Comparison, pairs: str = "seeds") -> str:
    """One sentence on the difference between two groups.

    Args:
        pairs: what the runs that were compared one by one have in common.
    """
    distance, p_value = _fixed(abs(comparison.lead)), comparison.corrected
    if p_value is None and not comparison.lead:
        return f"{best.label} and {other.label} reached the same."
    if p_value is None:
        return f"{best.label} is ahead of {other.label} by {distance}: too few runs to say whether beyond the spread."
    kind = f"paired over {comparison.num_pairs} {pairs}" if comparison.num_pairs else "Welch's test"
    evidence = f"{distance} ({kind}, p {_p(p_value) if p_value < 0.001 else f'= {_p(p_value)}'})"
    if not comparison.is_beyond_the_spread:
        return f"No difference beyond the spread between {best.label} and {other.label}: {evidence}."
    ahead, behind = (best, other) if comparison.lead > 0 else (other, best)  # over the seeds that both have
    return f"{ahead.label} is ahead of {behind.label} by {evidence}."


def _unfinished_lines(leaderboard: Leaderboard, most_rows: int | None) -> list[str]:
    metric = leaderboard.metric
    header = ["state", "runs", "seed", "epoch", metric, "folder", "error"]
    rows = []
    for run in sorted(leaderboard.unfinished, key=lambda run: (run.state, str(run.path))):
        name = label(run, leaderboard.keys) if run.settings else ""
        epoch = "/".join(map(str, filter(None, [run.epoch, run.values.get("trainer.max_epochs")])))
        latest = _fixed(run.latest(metric))
        rows.append([run.state, name, str(run.values.get("seed", "")), epoch, latest, shown(run.path), run.error])
    return _table(header, rows, {0, 1, 5, 6}, most_rows)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Iterable[int], most_rows: int | None
) -> list[str]:
    """Markdown that reads as well in a terminal, its columns aligned: those in `left` to the left."""
    drawn = [[cell.replace("|", "\\|") for cell in row] for row in rows[:most_rows]]
    widths = [max(map(len, column)) for column in zip(header, *drawn, strict=True)]
    sides = ["<" if index in set(left) else ">" for index in range(len(header))]
    lines = [
        "| " + " | ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) + " |"
        for row in (header, *drawn)
    ]
    rule = "|".join(
        f"{'-' * (width + 1)}{'-' if side == '<' else ':'}" for side, width in zip(sides, widths, strict=True)
    )
    more = [f"and {len(rows) - len(drawn):,} more, in {FILES[0]}"] if len(drawn) < len(rows) else []
    return [lines[0], f"|{rule}|", *lines[1:], *more]


def _fixed(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _cost(group: Group, name: str) -> str:
    if name not in group.estimates:
        return ""
    mean = group.estimates[name].mean
    return f"{mean:,.1f}" if mean < 100 else f"{mean:,.0f}"


def groups_as_csv(leaderboard: Leaderboard) -> str:
    """A row a group, with every figure in full."""
    columns = ["validated_on", "rank", "runs", *leaderboard.keys, "metric", "n", "mean", "sd", "half_width_95"]
    columns += [
        "behind_best",
        "lead_tested",
        "pairs",
        "p",
        "p_corrected",
        "test/accuracy",
        "seconds",
        "images_per_second",
    ]
    rows = []
    for board in leaderboard.boards:
        for rank, (group, comparison) in enumerate(zip(board.groups, [None, *board.comparisons], strict=True), 1):
            estimate, others = group.estimates[leaderboard.metric], group.estimates
            row: list[Any] = [board.validated_on, rank, group.label, *_texts(group.choices.values())]
            row += [leaderboard.metric, estimate.n, estimate.mean, estimate.sd, estimate.half_width]
            if comparison is None:
                row += [None] * 5
            else:
                row += [comparison.behind, comparison.lead, comparison.num_pairs]
                row += [comparison.p_value, comparison.corrected]
            names = ("test/accuracy", "seconds", "images_per_second")
            rows.append([*row, *(others[name].mean if name in others else None for name in names)])
    return _as_csv(columns, rows)


def runs_as_csv(leaderboard: Leaderboard) -> str:
    """A row a run, finished or not."""
    metrics = sorted({name for run in leaderboard.runs for name in run.result.get("metrics", {})})
    numbers = [*metrics, "seconds", "train_seconds", "images_per_second"]
    versions = sorted({name for run in leaderboard.runs for name in run.result.get("versions", {})})
    columns = ["folder", "state", *leaderboard.keys, *leaderboard.pooled, "seed", "epochs", *numbers]
    columns += ["validated_on", "finished", "device", "git_commit", *versions, "ended_early", "error"]
    rows = []
    for run in leaderboard.runs:
        settings = _texts(run.setting(key) for key in [*leaderboard.keys, *leaderboard.pooled])
        told = [run.result.get(name) for name in ("validated_on", "finished", "device", "git_commit")]
        told += [run.result.get("versions", {}).get(name) for name in versions] + [run.result.get("ended_early") or ""]
        row = [shown(run.path), run.state, *settings, run.values.get("seed"), run.epoch]
        rows.append([*row, *(run.value(name) for name in numbers), *told, run.error])
    return _as_csv(columns, rows)


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [None if value is None else as_text(value) for value in values]


def _as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def draw(leaderboard: Leaderboard) -> Any:
    """The figure of `figure.leaderboard`, of the boards with the most groups."""
    metric = leaderboard.metric
    largest = sorted(leaderboard.boards, key=lambda board: -len(board.groups))[:NUM_BOARDS_DRAWN]
    sections = [
        (
            f"Validated on {board.validated_on}",
            [_contender(rank, group, metric) for rank, group in enumerate(board.groups)],
        )
        for board in leaderboard.boards
        if board in largest
    ]
    return figure.leaderboard(sections, metric)


def _contender(rank: int, group: Group, metric: str) -> figure.Contender:
    estimate = group.estimates[metric]
    seconds = group.estimates["seconds"].mean if "seconds" in group.estimates else None
    curve = _mean_curve(group.runs, metric) if rank < figure.NUM_COLORED else []
    choices = {key: value if type(value) in (int, float) else as_text(value) for key, value in group.choices.items()}
    return figure.Contender(group.label, estimate.mean, estimate.half_width or 0.0, seconds, curve, choices)


def _mean_curve(runs: Sequence[Run], metric: str) -> list[tuple[float, float, float, float]]:
    """Epoch, and the lowest value, mean and highest of the runs that came so far."""
    stage, _, quantity = metric.partition("/")
    name = f"val/{quantity}" if stage == "test" else metric
    by_epoch = defaultdict(list)
    for run in runs:
        for row in run.rows():
            if name in row:
                by_epoch[row["epoch"]].append(row[name])
    return [(e, min(values), statistics.fmean(values), max(values)) for e, values in sorted(by_epoch.items())]
