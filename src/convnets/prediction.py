"""What a trained run sees in a person's own pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from convnets.building import build_datamodule
from convnets.runs import Run

SUFFIXES = (".png", ".jpg", ".jpeg")
NUM_TOP = 3
NEARLY_BLACK = 0.05 * 255  # what Fashion-MNIST's makers trimmed as background


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a picture, best first, and the background that was assumed: black or white."""

    path: Path
    background: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Refusal:
    """A file that is no picture, and why."""

    path: Path
    reason: str


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files among the paths, and the PNG and JPEG files in the folders among them, in order.

    A folder without any stays itself, to be refused.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
        found += inside or [path]
    return found


def predict(run: Run, paths: Sequence[Path], background: str = "auto") -> Iterator[Prediction | Refusal]:
    """Classify each picture; what is none is refused, and the others go on."""
    classifier, datamodule = run.classifier, build_datamodule(run.config)
    for path in paths:
        try:
            image, assumed = read_picture(path, datamodule.image_size, background)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            yield Refusal(path, _reason(path, error))
            continue
        batch = torch.from_numpy(image)[None, None].expand(1, datamodule.num_channels, -1, -1)
        with torch.inference_mode():
            probabilities = classifier(datamodule.to_network_input(batch))[0].softmax(dim=0)
        best = probabilities.topk(min(NUM_TOP, len(probabilities)))
        names = [datamodule.class_names[index] for index in best.indices]
        yield Prediction(path, assumed, tuple(zip(names, best.values.tolist(), strict=True)))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "there is no PNG or JPEG file in it"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that can be read"
    return str(error).rstrip(".")


def read_picture(path: Path, size: int, background: str = "auto") -> tuple[NDArray[np.uint8], str]:
    """Read a picture of any size and mode as Fashion-MNIST has them: (size, size), grey, light on black, centred.

    As its makers did: trim the background, shrink the longer side to `size`, centre, make it light on black. A picture
    of that very size is taken as it is.

    Args:
        background: "black", "white" or "auto", which takes what most of the border is. Transparent parts are taken for
            background: white ones where it is "auto".

    Returns:
        the picture, and the background that was assumed.

    Raises:
        OSError, ValueError: it cannot be read.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747, section 2.
    """
    with Image.open(path) as opened:
        grey = _grey(ImageOps.exif_transpose(opened), 0 if background == "black" else 255)
    if background == "auto":
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        background = "white" if np.median(border) > 127 else "black"
    if background == "white":
        grey = 255 - grey
    if grey.shape == (size, size):
        return grey.round().astype(np.uint8), background
    rows, columns = (np.flatnonzero((grey > NEARLY_BLACK).any(axis=axis)) for axis in (1, 0))
    if len(rows):
        grey = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = size / max(grey.shape)
    height, width = (max(round(side * scale), 1) for side in grey.shape)
    small = Image.fromarray(grey.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    canvas = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(small).round().clip(0, 255).astype(np.uint8)
    return canvas, background


def _grey(image: Image.Image, under_transparent: int) -> NDArray[np.float32]:
    """Grey levels from 0 to 255, with transparent parts laid on the given one."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel
        values = np.asarray(image, dtype=np.float32)
        highest = float(values.max())
        return values * (255 / 65535) if highest > 255 else values * 255 if 0 < highest <= 1 else values
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (under_transparent,) * 3 + (255,))
        image.alpha_composite(layer)
    return np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)


def as_table(answers: Sequence[Prediction | Refusal]) -> str:
    """What was predicted, a picture a line."""
    predictions = [answer for answer in answers if isinstance(answer, Prediction)]
    width = max((len(str(answer.path)) for answer in predictions), default=0)
    names = max((len(name) for answer in predictions for name, _ in answer.top), default=0)
    lines = [f"{'file':{width}}  background  likeliest classes"] if predictions else []
    for answer in predictions:
        top = "  ".join(f"{name:{names}} {probability:.3f}" for name, probability in answer.top)
        lines.append(f"{answer.path!s:{width}}  {answer.background:10}  {top}")
    return "\n".join(lines)


def as_records(answers: Sequence[Prediction | Refusal]) -> list[dict[str, Any]]:
    """The same for JSON; a refused file has an error instead."""
    return [
        {"file": str(answer.path), "error": answer.reason}
        if isinstance(answer, Refusal)
        else {
            "file": str(answer.path),
            "assumed_background": answer.background,
            "top": [{"class": name, "probability": probability} for name, probability in answer.top],
        }
        for answer in answers
    ]
