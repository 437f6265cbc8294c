"""From a person's picture, of any size and mode, to an image as a data set has them.

Knows no torch and nothing of this package: as a program it decodes picture files; see `picture_cache`.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MOST_PIXELS = 89_478_485  # in colour 268 MB; the number is Pillow's, above which it warns of a decompression bomb
MOST_ELONGATED = 20  # times as long as wide
NEARLY_BLACK = 0.05 * 255  # what Fashion-MNIST's makers trimmed as background


def fill_square(picture: Image.Image, size: int, num_channels: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `size` and cut out the middle: (num_channels, size, size), grey or RGB.

    A picture of that very size is taken as it is. It is turned upright as its EXIF data say; transparent parts become
    white. A JPEG of many times the size is decoded at a half, a quarter or an eighth of its own, if it was not yet.

    Raises:
        ValueError: there is no telling what other channels would hold; it is too large, or too long and narrow.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"a picture has 1 channel (grey) or 3 (RGB), and the network takes {num_channels}")
    width, height = picture.size
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(f"of {width:,} x {height:,} pixels its middle square would show less than a twentieth")
    picture.draft(None, (2 * size, 2 * size))
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"has {width:,} x {height:,} pixels, and at most {MOST_PIXELS:,} are decoded")
    is_turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = _on_ground(ImageOps.exif_transpose(picture) if is_turned else picture, 255)
    if num_channels == 1:
        upright = upright.convert("L")
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(square)).transpose(2, 0, 1).copy()


def cut_out(picture: Image.Image, size: int, background: str = "auto") -> tuple[NDArray[np.uint8], str]:
    """Make of a picture what Fashion-MNIST has: (1, size, size), grey, the object light on black, centred.

    As its makers did: trim the background, shrink the longer side to `size`, centre, make it light on black. A picture
    of that very size is taken as it is.

    Args:
        background: "black", "white" or "auto", which takes what most of the border is. Transparent parts are taken for
            background: white ones where it is "auto".

    Returns:
        the image, and the background that was assumed.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747, section 2.
    """
    upright = _on_ground(ImageOps.exif_transpose(picture), 0 if background == "black" else 255)
    grey = np.asarray(upright.convert("L"), dtype=np.float32)
    if background == "auto":
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        background = "white" if np.median(border) > 127 else "black"
    if background == "white":
        grey = 255 - grey
    if grey.shape == (size, size):
        return grey.round().astype(np.uint8)[None], background
    rows, columns = (np.flatnonzero((grey > NEARLY_BLACK).any(axis=axis)) for axis in (1, 0))
    if len(rows):
        grey = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = size / max(grey.shape)
    height, width = (max(round(side * scale), 1) for side in grey.shape)
    small = Image.fromarray(grey.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    canvas = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(small).round().clip(0, 255).astype(np.uint8)
    return canvas[None], background


def _on_ground(image: Image.Image, level: int) -> Image.Image:
    """The picture in RGB, 8 bits a channel, with transparent parts laid on a ground of that grey level."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel
        values = np.asarray(image, dtype=np.float32)
        highest = float(values.max())
        is_deep = image.mode.startswith("I;16") or highest > 255
        scaled = values * (255 / 65535) if is_deep else values * 255 if 0 < highest <= 1 else values
        image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (level,) * 3 + (255,))
        image.alpha_composite(layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(path: str, size: int, num_channels: int) -> bytes | str:
    """The bytes of `fill_square` of a picture file, or why it has none.

    Raises:
        OSError: the file cannot be read.
    """
    if Path(path).stat().st_size == 0:
        return "is empty"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return fill_square(picture, size, num_channels).tobytes()
    except UnidentifiedImageError:
        return f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    except ValueError as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder meets in a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error
        return f"is damaged: {str(error) or type(error).__name__}"


def decode_on_request(target: str, size: int, num_channels: int) -> None:
    """Decode the pictures that each line of standard input lists, as JSON of [row, path], into rows of a file.

    Each is answered with a line of JSON: null, why there is no image, or the parts of the system's error. A first line,
    null, says that the program has started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks: when it ends, so does the input
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # `fill_square` refuses by what would be decoded
    descriptor = os.open(target, os.O_WRONLY)
    print(json.dumps(None), flush=True)
    for line in sys.stdin:
        for row, path in json.loads(line):
            answer: Any = None
            try:
                image = decode(path, size, num_channels)
                if isinstance(image, str):
                    answer = image
                else:
                    os.pwrite(descriptor, image, row * len(image))
            except OSError as error:
                answer = (error.errno, error.strerror, error.filename)  # which of the file that is written is none
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    decode_on_request(sys.argv[1], *map(int, sys.argv[2:]))
