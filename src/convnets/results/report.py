"""The leaderboard in words and tables."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convnets import text
from convnets.files import shown, write_atomically
from convnets.plots import as_png
from convnets.results.leaderboard import Board, Comparison, Group, Leaderboard, as_text, figures, label, lower_is_better
from convnets.results.leaderboard_figure import draw
from convnets.runs.run import Run

FILES = ("leaderboard.md", "leaderboard.csv", "runs.csv", "leaderboard.png")
PAUSED = (
    "A search stopped these, since others were ahead after the same epoch. They are not ranked: it chose among the "
    "finished."
)
NUM_SENTENCES = 10  # about differences, a table
Column = tuple[str, str, Callable[[Any], str]]  # its name, the key of its figures, and how one is written


def write_report(leaderboard: Leaderboard, title: str, folder: Path) -> None:
    """Write leaderboard.md, leaderboard.csv (a row a group), runs.csv (a row a run) and leaderboard.png."""
    folder.mkdir(parents=True, exist_ok=True)
    image = f"\n![The leaderboard, drawn]({FILES[3]})\n" if leaderboard.boards else ""
    write_atomically(folder / FILES[0], f"{as_markdown(leaderboard, title)}\n{image}")
    write_atomically(folder / FILES[1], groups_as_csv(leaderboard))
    write_atomically(folder / FILES[2], runs_as_csv(leaderboard))
    if leaderboard.boards:
        write_atomically(folder / FILES[3], as_png(draw(leaderboard), dpi=110))
    else:
        (folder / FILES[3]).unlink(missing_ok=True)  # of runs that are gone


def as_markdown(leaderboard: Leaderboard, title: str, most_rows: int | None = None) -> str:
    """The leaderboard for a terminal or a file: tables, then what the differences are worth, then what is unfinished.

    Args:
        most_rows: of each table; the rest is counted.
    """
    states = Counter(run.state for run in leaderboard.runs)
    total = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    lines = [f"# {title}", "", f"{text.count(len(leaderboard.runs), 'run')}: {total}."]
    for board in leaderboard.boards:
        lines += ["", *_board_lines(board, leaderboard, most_rows)]
    if leaderboard.warnings:
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in leaderboard.warnings)]
    if leaderboard.paused:
        lines += ["", "## Paused", "", PAUSED, "", *_unfinished_lines(leaderboard.paused, leaderboard, most_rows)]
    if leaderboard.unfinished:
        lines += ["", "## Not finished", "", *_unfinished_lines(leaderboard.unfinished, leaderboard, most_rows)]
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
    rows = figures(board, metric)
    has_test = metric != "test/accuracy" and any(row["test/accuracy"] is not None for row in rows)
    columns: list[Column] = [
        ("#", "rank", str), ("runs", "runs", str), ("n", "n", str), (metric, "mean", fixed),
        ("± 95 %", "half_width_95", fixed), ("sd", "sd", fixed),
        *([("test/accuracy", "test/accuracy", fixed)] if has_test else []),
        ("behind", "behind_best", fixed), ("p", "p_corrected", _p),
        ("seconds", "seconds", _cost), ("images/s", "images_per_second", _cost),
    ]  # fmt: skip
    return [*lines, *_table(*cells(rows, columns), {1}, most_rows), *_verdict_lines(board, leaderboard.pooled)]


def cells(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table as text."""
    return [name for name, _, _ in columns], [[form(row[key]) for _, key, form in columns] for row in rows]


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
    distance, p_value = fixed(abs(comparison.lead)), comparison.corrected
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


def _unfinished_lines(runs: Sequence[Run], leaderboard: Leaderboard, most_rows: int | None) -> list[str]:
    metric = leaderboard.metric
    header = ["state", "runs", "seed", "epoch", metric, "folder", "error"]
    rows = []
    for run in sorted(runs, key=lambda run: (run.state, str(run.path))):
        name = label(run, leaderboard.keys) if run.settings else ""
        epoch = f"{run.epoch}/{num_epochs}" if (num_epochs := run.values.get("trainer.max_epochs")) else str(run.epoch)
        latest = fixed(run.latest(metric))
        rows.append([run.state, name, str(run.values.get("seed", "")), epoch, latest, shown(run.path), run.error])
    return _table(header, rows, {0, 1, 5, 6}, most_rows)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int], most_rows: int | None
) -> list[str]:
    shown_rows = rows[:most_rows]
    more = [f"and {len(rows) - len(shown_rows):,} more, in {FILES[0]}"] if len(shown_rows) < len(rows) else []
    return [*text.as_markdown(header, shown_rows, left), *more]


def fixed(value: float | None) -> str:
    """Four digits after the point; nothing for None."""
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _cost(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def groups_as_csv(leaderboard: Leaderboard) -> str:
    """A row a group, with every figure in full."""
    columns = [
        *("validated_on", "rank", "runs", *leaderboard.keys, "metric", "n", "mean", "sd", "half_width_95"),
        *("behind_best", "lead_tested", "pairs", "p", "p_corrected", "test/accuracy", "seconds", "images_per_second"),
    ]
    rows = [row for board in leaderboard.boards for row in figures(board, leaderboard.metric)]
    return text.as_csv(columns, [[row[name] for name in columns] for row in rows])


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
    return text.as_csv(columns, rows)


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [None if value is None else as_text(value) for value in values]
