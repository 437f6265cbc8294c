"""Evaluates a trained run on a split of its images, and compares two runs."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_precision,
    multiclass_recall,
)

from convnets import plots
from convnets.classifier import VIEWS, Tally
from convnets.configuration.content import differences
from convnets.configuration.rules import ConfigurationError
from convnets.files import write_atomically
from convnets.results.significance import mcnemar
from convnets.results.trained_run import TrainedRun
from convnets.text import aligned, as_csv
from convnets.training.building import build_trainer
from convnets.training.console import quieten_lightning

VIEWS_IN_WORDS = {
    "mirror": "and its mirror image",
    "mirror_shift": "and its mirror image, as they are and shifted by a pixel two ways",
}
SPLITS = ("test", "val", "train")
NUM_CALIBRATION_BINS = 15
ROUNDING = 1e-5  # relative difference of the loss: float32 sums over some thousand images differ by so much


class Predictions(NamedTuple):
    """The labels of a split's images and a run's predictions, in the order of the images."""

    labels: Tensor  # (N,)
    predicted: Tensor  # (N,)
    probabilities: Tensor  # (N,), of the predicted class


def evaluate(run: TrainedRun, split: str = "test", views: str | None = None) -> dict[str, Any]:
    """Run the network over a split; write evaluation-SPLIT.json, predictions-SPLIT.csv and confusion-SPLIT.png.

    Args:
        views: which views of each image the scores are averaged over, by another name of `convnets.classifier.VIEWS`
            than the run's own `test_time_augmentation`; the files are then evaluation-SPLIT-VIEWS.json and so on.

    Device, precision and batch size are those of the training, so that its own figures come out again. A run of a GPU
    is evaluated on the CPU where there is no GPU.

    Returns:
        split, test_time_augmentation, num_images, accuracy, loss (nats), calibration_error (expected, 15 bins), a row a
        class with precision and recall, confusion_matrix[true][predicted], what the run reported, and the checksums of
        weights and images.

    Raises:
        RunFolderError: the run has no weights.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"The split must be one of {', '.join(SPLITS)}, got {split!r}.")
    usual = run.config.get("test_time_augmentation", "none")
    views = views or usual
    if views not in VIEWS:
        raise ConfigurationError(f"Scores can be averaged over {', '.join(VIEWS)}, got {views!r}.")
    run.classifier.test_time_augmentation = views
    scores, losses, labels = split_outputs(run, split)
    run.classifier.test_time_augmentation = usual
    tally = Tally()
    for batch_losses, *batch in zip(losses, scores, labels, strict=True):
        tally.update(batch_losses.mean(), *batch)
    figures = tally.compute()
    all_labels = torch.cat(labels)
    probabilities = torch.cat(scores).float().softmax(dim=1)
    predicted = torch.cat([batch.argmax(dim=1) for batch in scores])
    names = run.datamodule.class_names
    options: dict[str, Any] = {"num_classes": len(names)}
    matrix = multiclass_confusion_matrix(predicted, all_labels, **options)
    precisions = multiclass_precision(predicted, all_labels, average="none", **options).tolist()
    recalls = multiclass_recall(predicted, all_labels, average="none", **options).tolist()
    calibration = multiclass_calibration_error(probabilities, all_labels, n_bins=NUM_CALIBRATION_BINS, **options)
    evaluation = {
        "split": split,
        "test_time_augmentation": views,
        "num_images": len(all_labels),
        **figures,
        "calibration_error": calibration.item(),
        "classes": [
            {"class": name, "precision": precision, "recall": recall, "images": int(row.sum())}
            for name, precision, recall, row in zip(names, precisions, recalls, matrix, strict=True)
        ],
        "confusion_matrix": matrix.tolist(),
        "reported": _reported(run, split),
        "weights_sha256": _weights_sha256(run),
        "images_digest": run.datamodule.digest,
    }
    numbers, table, picture_file = (run.path / name for name in files_of(run, evaluation))
    predictions = Predictions(all_labels, predicted, probabilities.max(dim=1).values)
    write_atomically(table, _predictions_as_csv(predictions, names))
    title = f"{run.path.name}, {split} split: {figures['accuracy']:.4f} of {len(all_labels):,} right"
    picture = plots.as_png(plots.confusion_matrix(matrix.numpy(), names, title), dpi=120)
    write_atomically(picture_file, picture)
    write_atomically(numbers, json.dumps(evaluation, indent=2) + "\n")
    return evaluation


def files_of(run: TrainedRun, evaluation: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names of the files that hold the evaluation, its predictions and the confusion matrix."""
    split, views = evaluation["split"], evaluation["test_time_augmentation"]
    stem = split if views == run.config.get("test_time_augmentation", "none") else f"{split}-{views}"
    return f"evaluation-{stem}.json", f"predictions-{stem}.csv", f"confusion-{stem}.png"


def split_outputs(run: TrainedRun, split: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Scores (N, num_classes), losses (N,) and labels (N,) of each batch."""
    alone: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
    if not torch.cuda.is_available():  # a run that was trained on a GPU can be evaluated without one
        alone["accelerator"] = "auto"
        alone["precision"] = {"16-mixed": "32-true"}.get(run.config.trainer.precision, run.config.trainer.precision)
    config = OmegaConf.merge(run.config, {"trainer": alone})
    OmegaConf.update(config, "callbacks", {}, merge=False)
    OmegaConf.update(config, "logger", {}, merge=False)
    OmegaConf.update(config, "init.from_run", None)
    classifier, datamodule = run.classifier, run.datamodule
    datamodule.split_to_predict = split
    with quieten_lightning():
        trainer: lightning.Trainer = build_trainer(config, run.path)  # type: ignore[arg-type]
        batches: Any = trainer.predict(classifier, datamodule=datamodule)
    scores, losses, labels = zip(*batches, strict=True)
    return tuple([part.cpu() for part in parts] for parts in (scores, losses, labels))  # type: ignore[return-value]


def _reported(run: TrainedRun, split: str) -> dict[str, float]:
    """The final accuracy and loss on these images, if the training evaluated them."""
    stages = {"val": "val", "test": "val" if run.result.get("validated_on") == "test split" else "test"}
    prefix = f"{stages.get(split)}/"
    return {name.removeprefix(prefix): value for name, value in run.metrics.items() if name.startswith(prefix)}


def _weights_sha256(run: TrainedRun) -> str:
    return hashlib.sha256((run.path / "weights.safetensors").read_bytes()).hexdigest()


def _predictions_as_csv(predictions: Predictions, names: Sequence[str]) -> str:
    header = ["image", "label", "predicted", "probability", "class", "predicted_class"]
    rows = enumerate(zip(*(column.tolist() for column in predictions), strict=True))
    return as_csv(header, ((n, y, guess, f"{p:.6f}", names[y], names[guess]) for n, (y, guess, p) in rows))


def as_table(evaluation: Mapping[str, Any]) -> str:
    """The evaluation as a table for a terminal."""
    images = f"{evaluation['num_images']:,} {evaluation['split']} images"
    lines = [
        f"accuracy           {evaluation['accuracy']:.4f}  of {images}",
        f"loss               {evaluation['loss']:.4f}  nats",
        f"calibration error  {evaluation['calibration_error']:.4f}  expected, {NUM_CALIBRATION_BINS} bins",
    ]
    if views := VIEWS_IN_WORDS.get(evaluation.get("test_time_augmentation", "none")):
        lines.append(f"scores             averaged over each image {views}")
    if reported := evaluation["reported"]:
        lines.append(f"as reported        {reported['accuracy']:.4f}  {_verdict(evaluation, reported)}")
    matrix = evaluation["confusion_matrix"]
    digits = max(len(str(count)) for row in matrix for count in row)
    names = [row["class"] for row in evaluation["classes"]]
    many = len(names) > 25
    heading = "  most often taken for" if many else " taken for, in the order of the classes"
    rows = [("class", "precision", "recall", heading)]
    for row, counts in zip(evaluation["classes"], matrix, strict=True):
        numbers = "".join(f" {count or '.':>{digits}}" for count in counts)
        if many:
            others = sorted((-number, name) for number, name in zip(counts, names, strict=True) if name != row["class"])
            numbers = "  " + ", ".join(f"{name} {-number}" for number, name in others[:3] if number)
        rows.append((row["class"], f"{row['precision']:.4f}", f"{row['recall']:.4f}", numbers))
    return "\n".join([*lines, "", *(line.rstrip() for line in aligned(rows, left=(0, 3)))])


def _verdict(evaluation: Mapping[str, Any], reported: Mapping[str, float]) -> str:
    """Whether the figures are those that the training ended with, and otherwise how they differ.

    With another number of threads, processor or precision, sums are made in another order: that is called rounding.
    """
    num_right = round((evaluation["accuracy"] - reported["accuracy"]) * evaluation["num_images"])
    more_loss = evaluation["loss"] - reported["loss"]
    if num_right == 0 and more_loss == 0:
        return "the same to the last digit"
    if num_right == 0 and abs(more_loss) <= ROUNDING * abs(reported["loss"]):
        return f"the same but for rounding: the loss is {abs(more_loss):.1e} {'higher' if more_loss > 0 else 'lower'}"
    parts = [f"here {abs(num_right):,} more images are {'right' if num_right > 0 else 'wrong'}"] if num_right else []
    if more_loss:
        parts.append(f"the loss is {abs(more_loss):.2g} {'higher' if more_loss > 0 else 'lower'}")
    return f"differs: {', and '.join(parts)}"


def load_evaluation(run: TrainedRun, split: str) -> dict[str, Any]:
    """Load the stored evaluation, or evaluate if there is none of these weights and images."""
    try:
        evaluation = json.loads((run.path / f"evaluation-{split}.json").read_text())
        images_digest = run.images_digest() or evaluation.get("images_digest")
        if (evaluation["weights_sha256"], evaluation.get("images_digest")) == (_weights_sha256(run), images_digest):
            return evaluation
    except (OSError, ValueError, KeyError):
        pass
    return evaluate(run, split)


def load_predictions(run: TrainedRun, split: str) -> Predictions:
    """Load the stored predictions, or evaluate if there are none of these weights and images."""
    load_evaluation(run, split)
    with (run.path / f"predictions-{split}.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels, predicted = (torch.tensor([int(row[key]) for row in rows]) for key in ("label", "predicted"))
    return Predictions(labels, predicted, torch.tensor([float(row["probability"]) for row in rows]))


def compare(a: TrainedRun, b: TrainedRun) -> dict[str, Any]:
    """How two runs differ: configuration, final metrics, and the test images that only one of them gets right.

    Raises:
        ConfigurationError: they do not have the same test images.
    """
    both = [load_predictions(run, "test") for run in (a, b)]
    ours, theirs = a.test_images, b.test_images
    if ours != theirs or not torch.equal(both[0].labels, both[1].labels):
        differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        lines = "".join(f"\n  {key}: {ours.get(key)} | {theirs.get(key)}" for key in differing)
        raise ConfigurationError(f"{a} and {b} do not have the same test images, so they cannot be compared.{lines}")
    right = [predictions.predicted == predictions.labels for predictions in both]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    return {
        "configuration": differences(a.config, b.config),
        "metrics": {name: (a.metrics.get(name), b.metrics.get(name)) for name in sorted({**a.metrics, **b.metrics})},
        "num_images": len(both[0].labels),
        "both_right": int((right[0] & right[1]).sum()),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "p_value": mcnemar(only_a, only_b),
    }


def comparison_as_table(a: TrainedRun, b: TrainedRun, comparison: Mapping[str, Any]) -> str:
    """The comparison as text for a terminal."""
    lines = [f"A  {a}", f"B  {b}", "", "configuration"]
    width = max(map(len, [*comparison["configuration"], *comparison["metrics"]]), default=0)
    lines += [f"  {key:{width}}  {x} | {y}" for key, (x, y) in comparison["configuration"].items()] or ["  the same"]
    lines += ["", "final metrics"]
    other_images = {"data.holdout", "data.folds", "data.fold", "data.split_seed"} & comparison["configuration"].keys()
    for name, (x, y) in comparison["metrics"].items():
        difference = f"   B - A {y - x:+.4f}" if None not in (x, y) else ""
        if other_images and name.startswith("val/"):
            difference = "   on other images"
        lines.append(f"  {name:{width}}  {_number(x)} | {_number(y)}{difference}")
    only_a, only_b = comparison["only_a_right"], comparison["only_b_right"]
    neither = comparison["num_images"] - comparison["both_right"] - only_a - only_b
    p_value = comparison["p_value"]
    lines += [
        "",
        f"the same {comparison['num_images']:,} test images",
        f"  both right {comparison['both_right']:,}, only A {only_a:,}, only B {only_b:,}, neither {neither:,}",
        f"  p = {p_value:.2g}: were they equally good, so uneven a split of {only_a + only_b:,} images would come up "
        f"{'in ' + format(p_value, '.1%') + ' of cases' if p_value > 0.0005 else 'hardly ever'} (McNemar, exact, "
        "two-sided; it says nothing of other seeds)",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:.4f}"
