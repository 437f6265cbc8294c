"""Which labels of a data set look wrong to networks that never trained on them, and which images are there twice."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convnets import plots
from convnets.configuration.content import differences
from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import installation
from convnets.files import write_atomically
from convnets.results.evaluation import split_outputs
from convnets.results.trained_run import TrainedRun
from convnets.text import as_csv

log = logging.getLogger(__name__)
FILES = ("audit.csv", "audit.png", "duplicates.csv", "audit.json")
STRICT, LOOSE = "both", "confident_learning"  # of cleanlab's ways to name wrong labels: the fewest, and the most
NUM_PICTURED = 40
DUPLICATE = 0.98  # correlation of the pixels of two images that are called the same but for small changes
NUM_COMPARED = 500  # images at a time
NOT_OF_RECIPE = {"data.fold"}
Array = NDArray[Any]


def audit(runs: Sequence[TrainedRun], folder: Path) -> dict[str, Any]:
    """Judge every training image by the run that held it out, and every test image by the mean of all runs.

    Writes audit.csv (a row an image: probability of its label, and what the networks take it for), audit.png (the
    images whose labels are the least believed), duplicates.csv (pairs across the splits) and audit.json.

    Args:
        runs: of one recipe, each of another fold, which together hold out every training image.

    Returns:
        the content of audit.json: of each split, how many labels cleanlab calls wrong at least and at most, and
        between which classes; the correlation above which images are called duplicates, and how many pairs there are.

    Raises:
        ConfigurationError: the runs are not such, or cleanlab is not installed.
    """
    _check_folds(runs)
    names = runs[0].datamodule.class_names
    train = runs[0].datamodule
    num_training = sum(len(train.splits[split]) for split in ("train", "val"))
    probabilities = {"train": torch.zeros(num_training, len(names)), "test": torch.zeros(0)}
    labels = {"train": torch.full((num_training,), -1)}
    for run in runs:
        scores, _, found = split_outputs(run, "val")
        rows = run.datamodule.splits["val"].rows
        assert rows is not None
        probabilities["train"][rows] = _mean_probabilities(scores)
        labels["train"][rows] = torch.cat(found)
    tested = [split_outputs(run, "test") for run in runs]
    probabilities["test"] = torch.stack([_mean_probabilities(scores) for scores, _, _ in tested]).mean(dim=0)
    labels["test"] = torch.cat(tested[0][2])
    if (labels["train"] < 0).any():
        raise ConfigurationError(
            f"{int((labels['train'] < 0).sum()):,} training images are held out by none of these runs: "
            "each fold of data.folds must have a run."
        )
    images = {"train": train.splits["train"].stored, "test": train.splits["test"].stored}
    verdicts = {split: _judge(labels[split].numpy(), probabilities[split].numpy()) for split in labels}
    pairs = near_duplicates(images["train"], images["test"])
    summary = {
        "runs": [str(run.path) for run in runs],
        **{split: _summary(*verdicts[split], labels[split].numpy(), names) for split in verdicts},
        "duplicates": {"correlation": DUPLICATE, "pairs": len(pairs)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    header = ["split", "image", "label", "probability", "taken_for", "its_probability", "called_wrong"]
    rows_of_all = [row for split in labels for row in _rows(split, labels, probabilities, verdicts[split], names)]
    write_atomically(folder / FILES[0], as_csv(header, rows_of_all))
    picture = _picture(images["test"], labels["test"], probabilities["test"], names)
    write_atomically(folder / FILES[1], picture)
    write_atomically(folder / FILES[2], as_csv(["training_image", "test_image", "correlation"], pairs))
    write_atomically(folder / FILES[3], json.dumps(summary, indent=2) + "\n")
    return summary


def _check_folds(runs: Sequence[TrainedRun]) -> None:
    if not runs:
        raise ConfigurationError("Give the runs of a cross-validation, or their sweep.")
    for run in runs[1:]:
        if other := set(differences(run.stored_config, runs[0].stored_config)) - NOT_OF_RECIPE:
            raise ConfigurationError(
                f"{run} and {runs[0]} differ in {', '.join(sorted(other))}, not in data.fold alone."
            )
    if runs[0].validated_on_test_split():
        raise ConfigurationError(
            f"{runs[0]} held out no image: train a cross-validation, with data.folds=5 data.fold=0,1,2,3,4"
        )


def _mean_probabilities(scores: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(scores)).float().softmax(dim=1)


def _judge(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    """Which labels cleanlab calls wrong, by its strictest filter and by its loosest one.

    Source: Northcutt and others, Confident learning, arXiv 1911.00068.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise ConfigurationError(f"This needs the extra `audit`: {installation('audit')}") from error
    strict, loose = (
        np.asarray(find_label_issues(labels, probabilities, filter_by=way, n_jobs=1)) for way in (STRICT, LOOSE)
    )
    return strict, strict | loose


def _summary(strict: Array, loose: Array, labels: Array, names: Sequence[str]) -> dict[str, Any]:
    by_class = Counter(names[label] for label in labels[loose])
    return {
        "images": len(labels),
        "called_wrong": [int(strict.sum()), int(loose.sum())],
        "classes": dict(by_class.most_common()),
    }


def _rows(split: str, labels: dict[str, Tensor], probabilities: dict[str, Tensor], verdict: Any, names: Any) -> Any:
    strict, loose = verdict
    found, given = probabilities[split], labels[split]
    guesses = found.argmax(dim=1)
    for number, (label, guess) in enumerate(zip(given.tolist(), guesses.tolist(), strict=True)):
        called = "by both" if strict[number] else "by one" if loose[number] else ""
        own, other = found[number, label].item(), found[number, guess].item()
        yield split, number, names[label], f"{own:.6f}", names[guess], f"{other:.6f}", called


def _picture(images: Tensor, labels: Tensor, probabilities: Tensor, names: Sequence[str]) -> bytes:
    """The test images whose labels are the least believed."""
    believed = probabilities[torch.arange(len(labels)), labels]
    numbers = believed.argsort()[:NUM_PICTURED]
    drawn = images[numbers].permute(0, 2, 3, 1).numpy()
    sure, guesses = probabilities[numbers].max(dim=1)
    title = f"The {len(numbers)} test images whose labels are least believed"
    shown = (labels[numbers].numpy(), guesses.numpy(), sure.numpy())
    return plots.as_png(plots.predictions(drawn, *shown, names, title, num_columns=8), dpi=100)


def near_duplicates(training: Tensor, test: Tensor, least: float = DUPLICATE) -> list[tuple[int, int, str]]:
    """Pairs of a training and a test image whose pixels correlate so much, each with its correlation.

    Args:
        training: images of bytes (N, C, H, W).
        test: images of bytes (M, C, H, W).
    """
    theirs = _standardized(training)
    pairs = []
    for start in range(0, len(test), NUM_COMPARED):
        correlations = _standardized(test[start : start + NUM_COMPARED]) @ theirs.T
        for row, column in (correlations >= least).nonzero().tolist():
            pairs.append((column, start + row, f"{correlations[row, column].item():.4f}"))
    return pairs


def _standardized(images: Tensor) -> Tensor:
    """Each image as a vector of mean 0 and length 1; 0 where all of its pixels are the same."""
    vectors = images.flatten(1).float()
    vectors -= vectors.mean(dim=1, keepdim=True)
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)


def in_words(summary: dict[str, Any]) -> str:
    """Three sentences: how many labels are wrong, of which classes, and what accuracy that leaves."""
    lines = []
    for split in ("train", "test"):
        part = summary[split]
        low, high = (f"{number:,} ({number / part['images']:.1%})" for number in part["called_wrong"])
        lines.append(f"Of {part['images']:,} {split} labels, {low} to {high} look wrong.")
    if of_classes := list(summary["test"]["classes"].items())[:2]:
        most = " and ".join(f"{name} ({number:,})" for name, number in of_classes)
        lines.append(f"Of the test labels they are mostly those of {most}.")
    low, high = (1 - number / summary["test"]["images"] for number in reversed(summary["test"]["called_wrong"]))
    lines.append(
        f"A network that is right wherever the label is would therefore reach {low:.1%} to {high:.1%} on the test "
        "split: the range is that between cleanlab's strictest and loosest filter, and hard images with right labels "
        "are among those called wrong, so it is a lower bound."
    )
    pairs = summary["duplicates"]
    lines.append(
        f"{pairs['pairs']:,} pairs of a training and a test image correlate by {pairs['correlation']} or more."
    )
    return "\n".join(lines)
