"""A run in TensorBoard for each group of runs that differ only in their seed: their mean, and a band around it."""

import re
import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from convnets.configuration.shell import script
from convnets.files import shown, typed
from convnets.results.leaderboard import Group, Leaderboard
from convnets.text import count

FOLDER = "seed_means"  # in the report's folder
BAND = "seed_band"  # the tags of a band's edges begin with it
ENDS = ("lowest", "highest")
MOST_BYTES = 200  # of a folder's name


def write_seed_means(leaderboard: Leaderboard, folder: Path) -> list[Path]:
    """Write FOLDER/seed_means anew, with a folder of events for each group of two or more runs; return these folders.

    A run has its group's mean of each metric of metrics.csv under the metric's own tag, so that TensorBoard draws it in
    one chart with the runs. The lowest and highest values have tags of their own, from which the page Custom Scalars
    draws a band around the mean: no other page of TensorBoard has bands.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    groups = [group for board in leaderboard.boards for group in board.groups]
    paths = {folder / FOLDER / _name(rank, group): group for rank, group in enumerate(groups, 1) if len(group.runs) > 1}
    for path, group in paths.items():
        metrics = sorted({name for run in group.runs for row in run.history for name in row if "/" in name})
        with SummaryWriter(str(path)) as writer:
            writer.add_custom_scalars(_charts(metrics))
            for metric in metrics:
                for epoch, values in group.curve(metric):
                    writer.add_scalar(metric, statistics.fmean(values), epoch)
                    for end, value in zip(ENDS, (min(values), max(values)), strict=True):
                        writer.add_scalar(_edge(metric, end), value, epoch)
    return list(paths)


def in_words(written: Sequence[Path], beside: Iterable[Path]) -> str:
    """Where the means are, and the command that shows them.

    Args:
        beside: folders that TensorBoard is to show; none for all of outputs/.
    """
    if not written:
        return "for TensorBoard: nothing, as no two runs differ in their seed alone."
    folders = dict.fromkeys(typed(path) for path in beside)
    return (
        f"for TensorBoard, in {shown(written[0].parent)}: the means of {count(len(written), 'group')} (their bands are "
        f"in its page Custom Scalars). To see them: {script('dashboard', *folders)}"
    )


def _name(rank: int, group: Group) -> str:
    """A folder's name: the place in the leaderboard, which keeps long names apart, the label, the number of runs."""
    label = re.sub(r"[/\\\0]", "_", group.label).encode()[:MOST_BYTES].decode(errors="ignore")
    return f"{rank} {label} (n={len(group.runs)})"


def _charts(metrics: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """A chart for each metric: the tags of its curve and of its band's edges."""
    bands = {metric: ["Margin", [metric, *(_edge(metric, end) for end in ENDS)]] for metric in metrics}
    return {"mean over seeds, lowest to highest": bands}


def _edge(metric: str, end: str) -> str:
    return f"{BAND}/{metric}/{end}"
