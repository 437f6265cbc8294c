"""The leaderboard as one HTML page that needs no network and no script, for a person who was not there."""

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from convnets import plots
from convnets.configuration.rules import ConfigurationError
from convnets.data.archive import DataUnavailableError
from convnets.files import RunFolderError, shown, write_atomically
from convnets.results.evaluation import load_evaluation, load_predictions
from convnets.results.leaderboard import Board, Group, Leaderboard, figures, lower_is_better
from convnets.results.leaderboard_figure import draw
from convnets.results.report import NUM_SENTENCES, PAUSED, Column, cells, fixed, verdict
from convnets.results.trained_run import TrainedRun
from convnets.text import count

FILE = "report.html"
NUM_GROUPS_SHOWN = 6  # each with curves, confusion matrix and mistakes of one of its runs
NUM_MISTAKES = 10


def write_page(leaderboard: Leaderboard, title: str, folder: Path) -> Path:
    """Write report.html into the folder; evaluates one run of each of the best groups where that was not done."""
    folder.mkdir(parents=True, exist_ok=True)
    metric = leaderboard.metric
    groups = [group for board in leaderboard.boards for group in board.groups][:NUM_GROUPS_SHOWN]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = templates.get_template("page.html.j2").render(
        title=title,
        leaderboard=leaderboard,
        num_runs=count(len(leaderboard.runs), "run"),
        num_done=f"{sum(run.state == 'done' for run in leaderboard.runs):,}",
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        overview=_encoded(draw(leaderboard)) if leaderboard.boards else None,
        direction="lower" if lower_is_better(metric) else "higher",
        boards=[(board, *_table(board, metric), _verdicts(board)) for board in leaderboard.boards],
        searches=_search_pictures(leaderboard),
        told_of_paused=PAUSED,
        paused=[[shown(run.path), run.epoch, fixed(run.latest(metric))] for run in leaderboard.paused],
        unfinished=[[run.state, shown(run.path), run.epoch, run.error] for run in leaderboard.unfinished],
        closer_looks=[_closer_look(group, metric) for group in groups],
    )
    write_atomically(folder / FILE, page)
    return folder / FILE


def _search_pictures(leaderboard: Leaderboard) -> list[str]:
    """The pictures that searches left in the folders of their runs."""
    paths = sorted({run.path.parent / "search.png" for run in leaderboard.runs})
    return [base64.b64encode(path.read_bytes()).decode() for path in paths if path.is_file()]


def _table(board: Board, metric: str) -> tuple[list[str], list[list[str]]]:
    def whole(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}"

    columns: list[Column] = [
        ("#", "rank", str), ("runs", "runs", str), ("n", "n", str), (metric, "mean", fixed),
        ("95 %", "half_width_95", lambda value: "" if value is None else f"± {fixed(value)}"),
        ("test/accuracy", "test/accuracy", fixed), ("seconds a run", "seconds", whole),
        ("images/s", "images_per_second", whole),
    ]  # fmt: skip
    return cells(figures(board, metric), columns)


def _verdicts(board: Board) -> list[str]:
    best, *others = board.groups
    pairs = zip(others, board.comparisons, strict=True)
    return [verdict(best, other, comparison) for other, comparison in pairs][:NUM_SENTENCES]


def _closer_look(group: Group, metric: str) -> dict[str, Any]:
    """One run of the group: its curves, and what it gets wrong."""
    run = TrainedRun(min(run.path for run in group.runs))
    pictures, error = [], None
    if rows := run.history:
        curves = plots.training_curves(rows, group.label)
        pictures.append((_encoded(curves), "Losses and validation accuracy by the epoch."))
    try:
        pictures += _evaluated(run)
    except (RunFolderError, ConfigurationError, DataUnavailableError) as reason:
        error = str(reason)
    return {
        "label": group.label,
        "one_of": f"One of its {len(group.runs):,} runs: " if len(group.runs) > 1 else "",
        "folder": shown(run.path),
        "score": fixed(run.value(metric)),
        "pictures": pictures,
        "error": error,
    }


def _evaluated(run: TrainedRun) -> list[tuple[str, str]]:
    """The confusion matrix and the surest mistakes on the test images, each with its caption."""
    names = run.datamodule.class_names  # once the images are read, an evaluation of others is not taken
    evaluation, predictions = load_evaluation(run, "test"), load_predictions(run, "test")
    weakest = min(evaluation["classes"], key=lambda row: row["recall"])
    title = f"{evaluation['accuracy']:.1%} of {evaluation['num_images']:,} test images right"
    matrix = torch.tensor(evaluation["confusion_matrix"]).numpy()
    wrong = (predictions.predicted != predictions.labels).nonzero().squeeze(1)
    surest = wrong[predictions.probabilities[wrong].argsort(descending=True)][:NUM_MISTAKES]
    images = run.datamodule.splits["test"][surest][0]
    labels, guesses, sureness = (values[surest].numpy() for values in predictions)
    mistakes = plots.predictions(
        images.permute(0, 2, 3, 1).numpy(), labels, guesses, sureness, names, "The surest mistakes"
    )
    words = f"Hardest for it: {weakest['class']}, of which it finds {weakest['recall']:.0%}."
    return [
        (_encoded(plots.confusion_matrix(matrix, names, title)), f"What is taken for what. {words}"),
        (_encoded(mistakes), "What it was surest of and wrong about: what it said, how surely, and what it is."),
    ]


def _encoded(figure: Figure) -> str:
    """The figure as a PNG in base 64, to stand within the page."""
    return base64.b64encode(plots.as_png(figure, dpi=110)).decode()
