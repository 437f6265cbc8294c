"""Classifies a person's own pictures with a trained network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from convnets.classifier import Classifier
from convnets.configuration.rules import ConfigurationError
from convnets.data import ImageDataModule
from convnets.data.own_pictures import FORMATS
from convnets.text import aligned

BACKGROUNDS = ("auto", "black", "white")
NUM_TOP = 3
CHUNK = 100  # images that are prepared and scored at a time
# What the axes of an array may be. A channel is none of more than 4, and a side of no fewer than 5 pixels.
LAYOUTS = {2: ("HW",), 3: ("NHW", "CHW", "HWC"), 4: ("NCHW", "NHWC")}
CHANNELS = {"CHW": (3, 4)}  # of one channel, it is NHW
SMALLEST_SIDE = 5

Images = str | Path | Image.Image | NDArray[np.uint8] | Tensor  # or an iterable of them


@dataclass(frozen=True, repr=False)
class Prediction:
    """What an image is taken for.

    Args:
        probabilities: of all classes, the likeliest first.
        path: the image's file, if it came from one.
        background: black or white, as it was assumed; None for a data set that takes pictures as they are.
    """

    probabilities: dict[str, float]
    path: Path | None = None
    background: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class."""
        return next(iter(self.probabilities))

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.probabilities[self.label]

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """The three likeliest classes, with their probabilities."""
        return tuple(self.probabilities.items())[:NUM_TOP]

    def __repr__(self) -> str:
        """The likeliest classes."""
        return f"<{', '.join(f'{name} {probability:.3f}' for name, probability in self.top)}>"


@dataclass(frozen=True)
class Refusal:
    """A file that is no picture, and why."""

    path: Path | None
    reason: str


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files among the paths, and the pictures in the folders among them, in order.

    A folder without such files is returned itself; `predict` refuses it.
    """
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes) if path.is_dir() else []
        found += inside or [path]
    return found


def predict(
    classifier: Classifier, datamodule: ImageDataModule, images: Images | Iterable[Images], background: str = "auto"
) -> list[Prediction | Refusal]:
    """Classify each image; a file that is no picture gets a refusal, and the others go on.

    Arrays of bytes are (H, W), (H, W, C), (N, H, W), (N, H, W, C) or (N, C, H, W). Images in them that have the size
    and channels of the data set are taken for images of the set. The data set turns any other, and each picture and
    file, into an image of its kind; see `ImageDataModule.prepare_picture`.

    Raises:
        ValueError: an array holds no bytes, or there is no telling what its axes are.
        ConfigurationError: a background is named, for a data set that does not ask for one.
    """
    if background not in BACKGROUNDS:
        raise ConfigurationError(f"background must be one of {', '.join(BACKGROUNDS)}, got {background!r}.")
    shape = datamodule.num_channels, datamodule.image_size, datamodule.image_size
    separate = _separate(images, shape)
    answers: list[Prediction | Refusal] = []
    while some := [*islice(separate, CHUNK)]:
        answers += _predict(classifier, datamodule, some, shape, background)
    return answers


def _predict(
    classifier: Classifier,
    datamodule: ImageDataModule,
    images: Sequence[Path | Image.Image | NDArray[np.uint8]],
    shape: tuple[int, int, int],
    background: str,
) -> list[Prediction | Refusal]:
    """Classify so many images as are scored at a time."""
    answers: list[Any] = []
    prepared = []
    for image in images:
        path = image if isinstance(image, Path) else None
        try:
            pixels, assumed = _prepare(image, shape, datamodule, background)
        except Exception as error:  # whatever a decoder meets in a damaged file
            answers.append(Refusal(path, _reason(error)))
            continue
        if assumed is None and background != "auto":
            raise ConfigurationError(
                f"background={background} is for Fashion-MNIST, whose pictures are made light on black. Those for "
                f"{datamodule.name} are taken as they are: leave it out."
            )
        answers.append((path, assumed))
        prepared.append(torch.from_numpy(pixels))
    if not prepared:
        return answers
    with torch.inference_mode():
        scores = classifier.averaged_scores(torch.stack(prepared).to(classifier.device))
    probabilities = iter(scores.float().softmax(dim=1).tolist())
    for place, answer in enumerate(answers):
        if not isinstance(answer, Refusal):
            named = zip(datamodule.class_names, next(probabilities), strict=True)
            answers[place] = Prediction(dict(sorted(named, key=lambda item: -item[1])), *answer)
    return answers


def _separate(images: Any, shape: tuple[int, int, int]) -> Iterator[Path | Image.Image | NDArray[np.uint8]]:
    """The images one by one, arrays as (C, H, W); see `predict` for what may be given."""
    if isinstance(images, (str, Path)):
        yield from find_pictures([Path(images).expanduser()])
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, (np.ndarray, Tensor)):
        yield from _of_array(images.detach().cpu().numpy() if isinstance(images, Tensor) else images, shape)
    elif isinstance(images, Iterable):
        for image in images:
            yield from _separate(image, shape)
    else:
        raise ValueError(f"An image must be a path, a PIL image, an array or a tensor, got {images!r}.")


def _of_array(array: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The images of an array as (N, C, H, W)."""
    if array.dtype != np.uint8:
        raise ValueError(
            f"Images in an array must be bytes (uint8, 0 to 255), got {array.dtype}: of numbers from 0 to 1, "
            "(255 * array).round().astype('uint8') makes them."
        )
    fitting = {}
    for layout in LAYOUTS.get(array.ndim, ()):
        sizes = dict(zip(layout, array.shape, strict=True))
        num_channels, sides = sizes.get("C", 1), (sizes["H"], sizes["W"])
        if num_channels in CHANNELS.get(layout, (1, 3, 4)) and min(sides) >= SMALLEST_SIDE:
            fitting[layout] = (num_channels, *sides)
    own = [layout for layout in fitting if fitting[layout] == shape]
    if not fitting:
        raise ValueError(
            "Images in an array must be of shape (H, W), (H, W, C), (N, H, W), (N, H, W, C) or (N, C, H, W), with 1, 3 "
            f"or 4 channels and sides of {SMALLEST_SIDE} pixels or more, got {array.shape}."
        )
    if len(fitting) > 1 and len(own) != 1:
        raise ValueError(
            f"An array of shape {array.shape} may be {len(array)} grey images or one image of {len(array)} channels: "
            "array[:, None] says the first, array[None] the second."
        )
    layout = (own or [*fitting])[0]
    missing = [axis for axis in "NC" if axis not in layout]
    array = np.expand_dims(array, tuple(range(len(missing))))
    return array.transpose(["".join([*missing, layout]).index(axis) for axis in "NCHW"])


def _prepare(
    image: Path | Image.Image | NDArray[np.uint8], shape: tuple[int, int, int], datamodule: ImageDataModule, ground: str
) -> tuple[NDArray[np.uint8], str | None]:
    """The image as the data set has them, bytes (C, H, W), and the background that was taken for a picture's."""
    if isinstance(image, Path):
        with Image.open(image, formats=FORMATS) as picture:
            return _prepare(picture, shape, datamodule, ground)
    if isinstance(image, np.ndarray):
        if image.shape == shape and ground == "auto":
            return image.copy(), None  # which may be written, as torch wishes
        image = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
    return datamodule.prepare_picture(image, ground)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "there is no picture in it"
    if isinstance(error, UnidentifiedImageError):
        return f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    if isinstance(error, (ValueError, Image.DecompressionBombError)) or getattr(error, "errno", None):
        return str(error).rstrip(".")
    return f"is damaged: {str(error) or type(error).__name__}"


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
