"""The leaderboard as one page that needs nothing else: no network, no script, for a person who was not there."""

import base64
import io
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import torch
from matplotlib.figure import Figure

from convnets import plots
from convnets.configuration.rules import ConfigurationError
from convnets.data.archive import DataUnavailableError
from convnets.files import RunFolderError, shown, write_atomically
from convnets.results.evaluation import load_evaluation, load_predictions
from convnets.results.leaderboard import Board, Group, Leaderboard, lower_is_better
from convnets.results.report import draw, verdict
from convnets.results.trained import TrainedRun
from convnets.runs.run import Run
from convnets.text import count

FILE = "report.html"
NUM_GROUPS_SHOWN = 6  # each with curves, confusion matrix and mistakes of one of its runs
NUM_MISTAKES = 10
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; display: block; overflow-x: auto }
th { border-bottom: 2px solid #222; text-align: right }
td { border-bottom: 1px solid #ddd; text-align: right } td, th { padding: .25rem .7rem; white-space: nowrap }
td:nth-child(2), th:nth-child(2), table.plain td, table.plain th { text-align: left }
figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9rem } img { max-width: 100%; height: auto }
.note { color: #555 } .warning { background: #fff4e0; padding: .5rem 1rem }
code { background: #f3f3f3; padding: 0 .2rem }
"""


def write_page(leaderboard: Leaderboard, title: str, folder: Path) -> Path:
    """Write report.html into the folder; evaluates one run of each of the best groups where that was not done."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_atomically(path, as_page(leaderboard, title))
    return path


def as_page(leaderboard: Leaderboard, title: str) -> str:
    """The whole page."""
    made = f"{datetime.now():%Y-%m-%d %H:%M}"
    done = sum(run.state == "done" for run in leaderboard.runs)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{count(len(leaderboard.runs), "run")}, {done:,} of them finished. Made on {made}.</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in leaderboard.warnings),
    ]
    if leaderboard.boards:
        parts.append(_picture(draw(leaderboard), "What was reached, at what cost, and how it came about."))
    for board in leaderboard.boards:
        parts += _board_parts(board, leaderboard.metric)
    if leaderboard.unfinished:
        parts += ["<h2>Not finished</h2>", _unfinished_table(leaderboard.unfinished)]
    shown_groups = [group for board in leaderboard.boards for group in board.groups][:NUM_GROUPS_SHOWN]
    if shown_groups:
        parts.append("<h2>A closer look</h2>")
    for group in shown_groups:
        parts += _closer_look(group, leaderboard.metric)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _board_parts(board: Board, metric: str) -> list[str]:
    direction = "lower" if lower_is_better(metric) else "higher"
    rows = []
    for rank, group in enumerate(board.groups, start=1):
        estimate = group.estimates[metric]
        interval = "" if estimate.half_width is None else f"± {estimate.half_width:.4f}"
        test = group.estimates.get("test/accuracy")
        seconds, speed = (group.estimates.get(name) for name in ("seconds", "images_per_second"))
        rows.append([
            str(rank), group.label, str(estimate.n), f"{estimate.mean:.4f}", interval,
            "" if test is None else f"{test.mean:.4f}",
            "" if seconds is None else f"{seconds.mean:,.0f}", "" if speed is None else f"{speed.mean:,.0f}",
        ])  # fmt: skip
    header = ["#", "runs", "n", metric, "95 %", "test/accuracy", "seconds a run", "images/s"]
    best, *others = board.groups
    said = [verdict(best, other, comparison) for other, comparison in zip(others, board.comparisons, strict=True)]
    protocol = (
        "The test split validated: fit for comparing with published results of that protocol, not for choosing."
        if board.on_test_split
        else "Held-out training images validated; the test split was evaluated once, at the end of each run."
    )
    return [
        f"<h2>Validated on {escape(board.validated_on)}</h2>",
        f'<p class="note">{protocol} {escape(metric)}: the mean over n runs with different seeds, {direction} is '
        "better; its 95 % interval says how well the mean is known.</p>",
        _table(header, rows),
        *([f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in said[:10])}</ul>"] if said else []),
    ]


def _unfinished_table(runs: Sequence[Run]) -> str:
    rows = [[run.state, shown(run.path), str(run.epoch), run.error] for run in runs]
    return _table(["state", "folder", "epoch", "error"], rows, "plain")


def _closer_look(group: Group, metric: str) -> list[str]:
    record = min(group.runs, key=lambda run: run.path)
    run = TrainedRun(record.path)
    one_of = f"One of its {len(group.runs):,} runs: " if len(group.runs) > 1 else ""
    parts = [
        f"<h3>{escape(group.label)}</h3>",
        f'<p class="note">{one_of}<code>{escape(shown(record.path))}</code>, '
        f"{escape(metric)} {record.value(metric):.4f}.</p>",
    ]
    if rows := record.rows():
        parts.append(_picture(plots.training_curves(rows, group.label), "Losses and validation accuracy by the epoch."))
    try:
        return parts + _evaluated(run)
    except (RunFolderError, ConfigurationError, DataUnavailableError) as error:
        return [*parts, f'<p class="warning">Not evaluated: {escape(str(error))}</p>']


def _evaluated(run: TrainedRun) -> list[str]:
    evaluation, predictions = load_evaluation(run, "test"), load_predictions(run, "test")
    names = run.datamodule.class_names
    weakest = min(evaluation["classes"], key=lambda row: row["recall"])
    title = f"{evaluation['accuracy']:.1%} of {evaluation['num_images']:,} test images right"
    matrix = torch.tensor(evaluation["confusion_matrix"]).numpy()
    wrong = (predictions.predicted != predictions.labels).nonzero().squeeze(1)
    surest = wrong[predictions.probabilities[wrong].argsort(descending=True)][:NUM_MISTAKES]
    images = run.datamodule.splits["test"].images[surest].float().mean(dim=1).byte()  # in grey
    labels, guesses, sureness = (
        values[surest].numpy() for values in (predictions.labels, predictions.predicted, predictions.probabilities)
    )
    mistakes = plots.predictions(images.numpy(), labels, guesses, sureness, names, "The surest mistakes")
    words = f"Hardest for it: {weakest['class']}, of which it finds {weakest['recall']:.0%}."
    return [
        _picture(plots.confusion_matrix(matrix, names, title), f"What is taken for what. {words}"),
        _picture(mistakes, "What it was surest of and wrong about: what it said, how surely, and what it is."),
    ]


def _picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
