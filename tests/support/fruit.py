"""A small colour data set of a user's: what is true of it alone is its colour."""

import torch
from PIL import Image, ImageDraw

from convnets.data import FashionMNISTDataModule

COLOURS = {"apple": (200, 30, 40), "banana": (240, 210, 40), "lime": (60, 190, 50)}


def picture(name, size=32, place=0):
    """A disc of the fruit's colour on white."""
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).ellipse([size // 4 + place, size // 4, size * 3 // 4 + place, size * 3 // 4], COLOURS[name])
    return image


class FruitDataModule(FashionMNISTDataModule):
    """Of 32x32 pixels, in colour."""

    name = "fruit"
    class_names = tuple(COLOURS)
    num_channels = 3
    image_size = 32

    def __init__(self, **options):
        super().__init__("unused", **options)

    def prepare_data(self):
        """Nothing to find."""

    def read_split(self, split):
        """Discs at several places."""
        num_places = 20 if split == "train" else 4
        images = [
            torch.frombuffer(bytearray(picture(name, place=place % 8 - 4).tobytes()), dtype=torch.uint8)
            for place in range(num_places)
            for name in COLOURS
        ]
        return torch.stack(images).view(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous(), torch.arange(3).repeat(
            num_places
        )
