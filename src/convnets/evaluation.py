"""What a trained run gets right and wrong, and whether another is better."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
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
from convnets.atomic import write_atomically
from convnets.building import build_trainer
from convnets.classifier import Tally
from convnets.configuration import ConfigurationError
from convnets.content import differences
from convnets.runs import Run
from convnets.training import quieten_lightning

SPLITS = ("test", "val", "train")
NUM_CALIBRATION_BINS = 15
ROUNDING = 1e-5  # of the loss: what float32 sums of some thousand images differ by


class Predictions(NamedTuple):
    """What a run makes of a split's images, in their order."""

    labels: Tensor  # (N,)
    predicted: Tensor  # (N,)
    probabilities: Tensor  # (N,), of the predicted class


def evaluate(run: Run, split: str = "test") -> dict[str, Any]:
    """Run the network over a split; write evaluation-SPLIT.json, predictions-SPLIT.csv and confusion-SPLIT.png.

    On the device, in the precision and with the batch size of the training, so that its own figures come out again;
    of a run that was trained on a GPU where there is none, on the CPU.

    Returns:
        split, num_images, accuracy, loss (nats), calibration_error (expected, 15 bins), a row a class with precision
        and recall, confusion_matrix[true][predicted], what the run reported, and the checksum of its weights.

    Raises:
        RunFolderError: the run has no weights.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"The split must be one of {', '.join(SPLITS)}, got {split!r}.")
    scores, losses, labels = _outputs(run, split)
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
    }
    predictions = Predictions(all_labels, predicted, probabilities.max(dim=1).values)
    write_atomically(run.path / f"predictions-{split}.csv", _as_csv(predictions, names))
    title = f"{run.path.name}, {split} split: {figures['accuracy']:.4f} of {len(all_labels):,} right"
    image = io.BytesIO()
    plots.confusion_matrix(matrix.numpy(), names, title).savefig(image, dpi=120)
    write_atomically(run.path / f"confusion-{split}.png", image.getvalue())
    write_atomically(run.path / f"evaluation-{split}.json", json.dumps(evaluation, indent=2) + "\n")
    return evaluation


def _outputs(run: Run, split: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Scores, losses and labels, a batch an item."""
    alone: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
    if not torch.cuda.is_available():  # a run of a GPU's can be evaluated without one
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
    return ([part.cpu() for part in parts] for parts in (scores, losses, labels))  # type: ignore[return-value]


def _reported(run: Run, split: str) -> dict[str, float]:
    """The accuracy and loss of these images that the training ended with, if it looked at them."""
    stages = {"val": "val", "test": "val" if run.result.get("validated_on") == "test split" else "test"}
    prefix = f"{stages.get(split)}/"
    return {name.removeprefix(prefix): value for name, value in run.metrics.items() if name.startswith(prefix)}


def _weights_sha256(run: Run) -> str:
    return hashlib.sha256((run.path / "weights.safetensors").read_bytes()).hexdigest()


def _as_csv(predictions: Predictions, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "predicted", "probability", "class", "predicted_class"])
    rows = zip(*(column.tolist() for column in predictions), strict=True)
    for image, (label, predicted, probability) in enumerate(rows):
        writer.writerow([image, label, predicted, f"{probability:.6f}", names[label], names[predicted]])
    return text.getvalue()


def as_table(evaluation: Mapping[str, Any]) -> str:
    """The evaluation for a terminal."""
    classes = evaluation["classes"]
    width = max(len(row["class"]) for row in classes)
    matrix = evaluation["confusion_matrix"]
    digits = max(len(str(count)) for row in matrix for count in row)
    images = f"{evaluation['num_images']:,} {evaluation['split']} images"
    lines = [
        f"accuracy           {evaluation['accuracy']:.4f}  of {images}",
        f"loss               {evaluation['loss']:.4f}  nats",
        f"calibration error  {evaluation['calibration_error']:.4f}  expected, {NUM_CALIBRATION_BINS} bins",
    ]
    if reported := evaluation["reported"]:
        lines.append(f"as reported        {reported['accuracy']:.4f}  {_verdict(evaluation, reported)}")
    lines += ["", f"{'class':{width}}  precision  recall   taken for, in the order of the classes"]
    for row, counts in zip(classes, matrix, strict=True):
        numbers = " ".join(f"{count or '.':>{digits}}" for count in counts)
        lines.append(f"{row['class']:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}   {numbers}")
    return "\n".join(lines)


def _verdict(evaluation: Mapping[str, Any], reported: Mapping[str, float]) -> str:
    """Whether the figures are those that the training ended with, and else by how much they are others.

    Another number of threads, processor or precision sums in another order: that is rounding, and said as such.
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


def load_evaluation(run: Run, split: str) -> dict[str, Any]:
    """What `evaluate` found, which is called where that was not done with these weights."""
    try:
        evaluation = json.loads((run.path / f"evaluation-{split}.json").read_text())
        if evaluation["weights_sha256"] == _weights_sha256(run):
            return evaluation
    except (OSError, ValueError, KeyError):
        pass
    return evaluate(run, split)


def load_predictions(run: Run, split: str) -> Predictions:
    """The predictions beside `load_evaluation`."""
    load_evaluation(run, split)
    with (run.path / f"predictions-{split}.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels, predicted = (torch.tensor([int(row[key]) for row in rows]) for key in ("label", "predicted"))
    return Predictions(labels, predicted, torch.tensor([float(row["probability"]) for row in rows]))


def compare(a: Run, b: Run) -> dict[str, Any]:
    """Where two runs differ: configuration, final metrics, and the test images that only one gets right.

    Raises:
        ConfigurationError: they were not trained on the same data set.
    """
    both = [load_predictions(run, "test") for run in (a, b)]
    if a.config.data._target_ != b.config.data._target_ or not torch.equal(both[0].labels, both[1].labels):
        raise ConfigurationError(f"{a} and {b} have not the same test images, so they cannot be compared by them.")
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


def mcnemar(only_a: int, only_b: int) -> float:
    """Probability of a split at least as uneven if each of these images were as likely to fall to either side.

    McNemar's test, exact and two-sided.
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def comparison_as_table(a: Run, b: Run, comparison: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    lines = [f"A  {a}", f"B  {b}", "", "configuration"]
    width = max(map(len, [*comparison["configuration"], *comparison["metrics"]]), default=0)
    lines += [f"  {key:{width}}  {x} | {y}" for key, (x, y) in comparison["configuration"].items()] or ["  the same"]
    lines += ["", "final metrics"]
    other_images = {"data.holdout", "data.split_seed"} & comparison["configuration"].keys()
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
