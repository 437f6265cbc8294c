"""What the recipes of conf/experiment reached over seeds on the test split, with what a reader needs to trust it."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnets.configuration.content import NOT_RECIPE, differences
from convnets.configuration.shell import CONFIG_DIR
from convnets.files import shown, write_atomically
from convnets.runs.run import Run
from convnets.text import as_markdown, count, duration
from convnets.training.command import compose

FOLDERS = ("modern", "speedrun")  # of conf/experiment
FEWEST_SEEDS = 5
# Others' figures on Fashion-MNIST, and what is known of how they were made.
PUBLISHED = (
    ("LeNet-sized networks, several authors", ".908 to .925", "mostly one seed, or the number of seeds not said"),
    ("VGG-like, 7.3 million parameters", ".9547", "credible; one figure"),
    ("ResNet-20, crop, flip, erasing (arXiv 1708.04896)", ".9555 ± .0004", "credible; 300 epochs"),
    ("WideResNet 28-10 (arXiv 1605.07146), two entries", ".9599, .9635",
     "files of before 31 August 2017, with test images among the training images, or the best test epoch"),
    ("WideResNet 40-4", ".967", "the same doubts"),
    ("DARTS, fine-tuned", ".9691", "credible; found by a search"),
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """The finished runs of one experiment."""

    experiment: str
    command: str
    runs: Sequence[Run]
    accuracies: Sequence[float]  # on the test split, a run each
    doubts: Sequence[str]  # why it is no record

    def median(self, key: str) -> float | None:
        """The median of a number in the runs' results."""
        values = [value for run in self.runs if (value := run.value(key)) is not None]
        return statistics.median(values) if values else None


def write_records(runs: Sequence[Run], folder: Path) -> str:
    """Write records.md into the folder, and return its text."""
    page = as_page(find_records(runs))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "records.md", page + "\n")
    return f"{page}\n\nin {shown(folder)}: records.md"


def find_records(runs: Sequence[Run]) -> list[Record]:
    """The experiments of conf/experiment/modern and conf/experiment/speedrun that any of the finished runs is of.

    A run is of an experiment if it differs from it in its seed and its devices alone.
    """
    done = [run for run in runs if run.state == "done"]
    found = []
    for path in sorted(path for folder in FOLDERS for path in (CONFIG_DIR / "experiment" / folder).glob("*.yaml")):
        experiment = f"{path.parent.name}/{path.stem}"
        published: Any = compose([f"experiment={experiment}"])[0]
        own = [run for run in done if set(differences(run.stored_config, published)) <= NOT_RECIPE]
        if own:
            found.append(_record(experiment, path.read_text(), own))
    return found


def _record(experiment: str, text: str, runs: Sequence[Run]) -> Record:
    one_each = list({run.seeds: run for run in runs}.values())
    command = re.search(r"^#   (python .*)$", text, re.MULTILINE)
    return Record(
        experiment,
        command[1] if command else f"python scripts/train.py experiment={experiment}",
        one_each,
        [value for run in one_each if (value := run.value(_metric(run))) is not None],
        _doubts(one_each),
    )


def _metric(run: Run) -> str:
    """The name of the accuracy on the test split."""
    return "val/accuracy" if run.validated_on_test_split() else "test/accuracy"


def _doubts(runs: Sequence[Run]) -> list[str]:
    doubts = []
    if any(chosen_by_test_split(run) for run in runs):
        doubts.append("the test split chose the epoch")
    if len(runs) < FEWEST_SEEDS:
        doubts.append(f"{count(len(runs), 'seed')} of {FEWEST_SEEDS}")
    return doubts


def chosen_by_test_split(run: Run) -> bool:
    """Whether the test split had a say in which weights are reported: by a rate or an end that follow its metrics."""
    if not run.validated_on_test_split():
        return False
    watched = [value for key, value in run.values.items() if key.endswith(".monitor")]
    watched += ["val/loss"] if str(run.values.get("schedule._target_")).endswith("ReduceLROnPlateau") else []
    is_not_last = run.value("weights_of_epoch") not in (None, run.value("epochs"))
    return is_not_last or any(str(metric).startswith("val/") for metric in watched)


def as_page(records: Sequence[Record]) -> str:
    """The records, and others' figures, as Markdown."""
    header = ("experiment", "parameters", "epochs", "seconds", "test accuracy", "n", "trained on", "hardware")
    rows = [(*_cells(record),) for record in records]
    lines = ["# Records on Fashion-MNIST", ""]
    lines += as_markdown(header, rows, {0, 6, 7}) if rows else ["No run in outputs/ is of a recipe that holds one."]
    lines += [
        "",
        "Mean and standard deviation over n seeds of the last epoch's weights; seconds of training, the median.",
    ]
    lines += ["No figure was chosen by the test split, unless it says so."]
    if records:
        lines += ["", "```", *(record.command for record in records), "```"]
    lines += ["", "Others' figures:", ""]
    return "\n".join([*lines, *as_markdown(("network", "accuracy", "how it was made"), PUBLISHED, {0, 1, 2})])


def _cells(record: Record) -> Sequence[str]:
    values, first = record.accuracies, record.runs[0]
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    doubts = f" (no record: {', '.join(record.doubts)})" if record.doubts else ""
    parameters, seconds = record.median("num_parameters"), record.median("train_seconds")
    devices = sorted({f"{run.result.get('device')}, {run.result.get('processor')}" for run in record.runs})
    folds, num_held_out = first.values.get("data.folds"), int(first.values.get("data.holdout") or 0)
    held_out = f"one of {folds} folds" if folds else num_held_out and f"{num_held_out:,}"
    return (
        record.experiment,
        "?" if parameters is None else f"{int(parameters):,}",
        f"{first.epoch}",
        "?" if seconds is None else duration(seconds),
        f"{statistics.fmean(values):.4f}{spread}{doubts}",
        str(len(values)),
        f"all but {held_out}" if held_out else "all images",
        ", ".join(devices),
    )
