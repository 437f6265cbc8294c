"""Fashion-MNIST, whole or a sample of it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from convnets.data.archive import SPLIT_FILES, ensure_files, read_idx
from convnets.data.images import ImageDataModule
from convnets.data.own_pictures import cut_out

SAMPLE_DIR = Path(__file__).parent / "sample"
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class FashionMNISTDataModule(ImageDataModule):
    """70,000 images of clothes, 28x28 grey levels, in ten classes: 55 MB.

    `dir` is filled from the first source that has the four files. For the other arguments see `ImageDataModule`.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
    """

    name = "Fashion-MNIST"
    class_names = CLASS_NAMES
    num_channels = 1
    image_size = 28

    def __init__(self, dir: str | Path = "~/.cache/convnets/fashion-mnist", *arguments: Any, **options: Any) -> None:
        super().__init__(dir, *arguments, **options)

    def prepare_data(self) -> None:
        """Find or download the files; on one process of each machine."""
        ensure_files(self.dir)

    def read_split(self, split: str) -> tuple[Tensor, Tensor]:
        """Read "train" or "test" whole: images (N, 1, 28, 28) of bytes and labels (N,), int64."""
        images, labels = (read_idx(self.dir / name) for name in SPLIT_FILES[split])
        return images.unsqueeze(1), labels.long()

    def prepare_picture(self, picture: Image.Image, background: str = "auto") -> tuple[NDArray[np.uint8], str | None]:
        """Cut the object out, light on black, as the set has them; a subclass with other classes is another set."""
        if self.class_names == CLASS_NAMES:
            return cut_out(picture, self.image_size, background)
        return super().prepare_picture(picture, background)


class FashionMNISTSampleDataModule(FashionMNISTDataModule):
    """1,000 training and 200 test images of Fashion-MNIST that come with the package: no files, no network.

    Takes the arguments of FashionMNISTDataModule but for `dir`.
    """

    name = "a sample of Fashion-MNIST"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(SAMPLE_DIR, *arguments, **options)

    def prepare_data(self) -> None:
        """Nothing to find: the images are in the package."""
