"""From a person's picture, of any size and mode, to an image as a data set has them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

NEARLY_BLACK = 0.05 * 255  # what Fashion-MNIST's makers trimmed as background


def fill_square(picture: Image.Image, size: int, num_channels: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `size` and cut out the middle: (num_channels, size, size), grey or RGB.

    A picture of that very size is taken as it is. It is turned upright as its EXIF data say; transparent parts become
    white.

    Raises:
        ValueError: there is no telling what other channels would hold.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"a picture has 1 channel (grey) or 3 (RGB), and the network takes {num_channels}")
    upright = _on_ground(ImageOps.exif_transpose(picture), 255).convert("RGB" if num_channels == 3 else "L")
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
        scaled = values * (255 / 65535) if highest > 255 else values * 255 if 0 < highest <= 1 else values
        image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, (level,) * 3 + (255,))
        image.alpha_composite(layer)
    return image.convert("RGB")
