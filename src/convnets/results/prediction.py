"""Classifies a person's own pictures with a trained run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from convnets.configuration.rules import ConfigurationError
from convnets.results.trained_run import TrainedRun
from convnets.text import aligned

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
NUM_TOP = 3


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a picture, best first.

    Args:
        background: black or white, as it was assumed; None for a data set that takes pictures as they are.
    """

    path: Path
    background: str | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Refusal:
    """A file that is no picture, and why."""

    path: Path
    reason: str


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files among the paths, and the pictures in the folders among them, in order.

    A folder without such files is returned itself; `predict` refuses it.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
        found += inside or [path]
    return found


def predict(run: TrainedRun, paths: Sequence[Path], background: str = "auto") -> Iterator[Prediction | Refusal]:
    """Classify each picture; a file that is no picture gets a refusal, and the others go on.

    The data set turns each picture into an image of its kind; see `ImageDataModule.prepare_picture`.

    Raises:
        ConfigurationError: a background is named, for a data set that does not ask for one.
    """
    classifier, datamodule = run.classifier, run.build_datamodule()
    for path in paths:
        try:
            with Image.open(path) as picture:
                image, assumed = datamodule.prepare_picture(picture, background)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            yield Refusal(path, _reason(path, error))
            continue
        if assumed is None and background != "auto":
            raise ConfigurationError(
                f"--background={background} is for Fashion-MNIST, whose pictures are made light on black. Those of "
                f"{run.config.data._target_} are taken as they are: leave --background out."
            )
        with torch.inference_mode():
            probabilities = classifier(datamodule.to_network_input(torch.from_numpy(image)[None]))[0].softmax(dim=0)
        best = probabilities.topk(min(NUM_TOP, len(probabilities)))
        names = [datamodule.class_names[index] for index in best.indices]
        yield Prediction(path, assumed, tuple(zip(names, best.values.tolist(), strict=True)))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "there is no picture in it"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that can be read"
    return str(error).rstrip(".")


def as_table(answers: Sequence[Prediction | Refusal]) -> str:
    """The predictions as a table for a terminal, a picture a line; refusals are left out."""
    predictions = [answer for answer in answers if isinstance(answer, Prediction)]
    if not predictions:
        return ""
    longest = max(len(name) for answer in predictions for name, _ in answer.top)
    rows: list[tuple[str, ...]] = [("file", "background", "likeliest classes")]
    for answer in predictions:
        top = "  ".join(f"{name:{longest}} {probability:.3f}" for name, probability in answer.top)
        rows.append((str(answer.path), answer.background or "", top))
    if not any(answer.background for answer in predictions):
        rows = [(row[0], row[2]) for row in rows]
    return "\n".join(line.rstrip() for line in aligned(rows, left=range(3)))


def as_records(answers: Sequence[Prediction | Refusal]) -> list[dict[str, Any]]:
    """The answers for JSON; a refused file has an error instead of classes."""
    return [
        {"file": str(answer.path), "error": answer.reason}
        if isinstance(answer, Refusal)
        else {
            "file": str(answer.path),
            **({"assumed_background": answer.background} if answer.background else {}),
            "top": [{"class": name, "probability": probability} for name, probability in answer.top],
        }
        for answer in answers
    ]
