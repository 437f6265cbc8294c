"""The classic sets that torchvision brings: MNIST and its kin, CIFAR, SVHN."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import datasets

from convnets.data.archive import (
    SPLIT_FILES,
    DataUnavailableError,
    SourceError,
    download_with_torchvision,
    incoming_folder,
    read_idx,
)
from convnets.data.images import ImageDataModule, chosen
from convnets.data.sampling import ImageBatches
from convnets.files import locked, typed

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""


class ClassicSet(NamedTuple):
    """A set as torchvision has it.

    Attributes:
        kind: torchvision's class, which downloads the files and verifies them.
        options: its arguments for a split, beside the folder.
        folder: of the files, below data.dir.
        files: what has to be there.
    """

    name: str
    kind: Any
    class_names: tuple[str, ...]
    num_channels: int
    image_size: int
    folder: str
    files: tuple[str, ...]
    options: Callable[[str], dict[str, Any]] = lambda split: {"train": split == "train"}


def _of_mnist(name: str, kind: Any, class_names: tuple[str, ...], prefix: str = "", **options: Any) -> ClassicSet:
    """A set of 28x28 grey levels in IDX files, as MNIST's."""
    files = tuple(prefix + file for split in SPLIT_FILES.values() for file in split)
    if prefix:  # EMNIST says test, where the others say t10k
        files = tuple(file.replace("t10k", "test") for file in files)
    folder = f"{kind.__name__}/raw"
    return ClassicSet(
        name, kind, class_names, 1, 28, folder, files, lambda split: {"train": split == "train", **options}
    )


def _of_cifar(name: str, kind: Any, class_names: tuple[str, ...]) -> ClassicSet:
    files = (*(name for name, _ in [*kind.train_list, *kind.test_list]), kind.meta["filename"])
    return ClassicSet(name, kind, class_names, 3, 32, kind.base_folder, files)


def _emnist(split: str) -> ClassicSet:
    names = tuple(name for name in datasets.EMNIST.classes_split_dict[split] if name != "N/A")
    return _of_mnist(f"EMNIST {split}", datasets.EMNIST, names, f"emnist-{split}-", split=split)


EMNIST = {split: _emnist(split) for split in datasets.EMNIST.splits}
SETS = {
    "mnist": _of_mnist("MNIST", datasets.MNIST, DIGITS),
    "kmnist": _of_mnist("Kuzushiji-MNIST", datasets.KMNIST, tuple(datasets.KMNIST.classes)),
    "emnist": EMNIST,
    "cifar10": _of_cifar("CIFAR-10", datasets.CIFAR10, CIFAR10),
    "cifar100": _of_cifar("CIFAR-100", datasets.CIFAR100, tuple(CIFAR100.split())),
    "svhn": ClassicSet(
        "SVHN", datasets.SVHN, DIGITS, 3, 32, "", ("train_32x32.mat", "test_32x32.mat"), lambda split: {"split": split}
    ),
}


class TorchvisionDataModule(ImageDataModule):
    """One of the sets that torchvision's own classes download and verify.

    Files that are in `dir` are used: in torchvision's layout, or those of MNIST's format (raw or .gz) directly in it.

    Args:
        set: one of `SETS`.
        dir: folder of the files; what is missing is downloaded into it.
        split: of EMNIST, one of torchvision's.
        options: see `ImageDataModule`.
    """

    def __init__(self, set: str, dir: str | Path, split: str | None = None, **options: Any) -> None:
        super().__init__(dir, **options)
        source = chosen("set", set, SETS)
        self.source: ClassicSet = chosen("split", split, EMNIST) if source is EMNIST else source
        self.name = self.source.name
        self.class_names = self.source.class_names
        self.num_channels = self.source.num_channels
        self.image_size = self.source.image_size

    @property
    def _files_dir(self) -> Path | None:
        """The folder that holds all files, MNIST's raw or as .gz; None where none does."""
        for folder in (self.dir / self.source.folder, *([self.dir] if self.num_channels == 1 else [])):
            if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in self.source.files):
                return folder
        return None

    def prepare_data(self) -> None:
        """Download what is not there; on one process of each machine.

        Raises:
            DataUnavailableError: it is out of reach, or the folder cannot be written.
        """
        if self.source.kind is datasets.SVHN and find_spec("scipy") is None:
            python = typed(Path(sys.executable))
            raise DataUnavailableError(f"data=svhn needs the extra `svhn`: {python} -m pip install scipy")
        if self._files_dir is not None:
            return
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            with locked(self.dir):
                if self._files_dir is None:
                    self._download()
        except (OSError, SourceError) as error:
            raise DataUnavailableError(
                f"{self.name} is not in {self.dir}, and could not be downloaded: {error}\nPut its files "
                f"({', '.join(self.source.files)}) into {self.dir / self.source.folder}, or name the folder that has "
                "them with data.dir=FOLDER."
            ) from error

    def _download(self) -> None:
        """Bring what is missing, by a folder beside; what is there stays, and CIFAR's archive is used."""
        kind, files_dir = self.source.kind, self.dir / self.source.folder
        with incoming_folder(self.dir) as incoming:
            if (archive := self.dir / getattr(kind, "filename", "")).is_file():
                shutil.copy(archive, incoming)
            download_with_torchvision(kind.__name__, map(self.source.options, SPLIT_FILES), incoming)
            files_dir.mkdir(parents=True, exist_ok=True)
            for path in (incoming / self.source.folder).iterdir():
                if not (files_dir / path.name).exists():
                    path.rename(files_dir / path.name)

    def read_splits(self) -> dict[str, ImageBatches]:
        """Read both splits; the files of MNIST's format, which nobody verifies once they are unpacked, get a digest."""
        splits = super().read_splits()
        if self.num_channels == 1:
            digest = hashlib.sha256()
            for part in splits.values():
                digest.update(part.stored.numpy().data)
                digest.update(part.labels.numpy().data)
            self.digest = digest.hexdigest()[:16]
        return splits

    def read_split(self, split: str) -> tuple[Tensor, Tensor]:
        """Read "train" or "test" whole: images (N, C, H, W) of bytes and labels (N,), int64.

        Raises:
            ValueError: a file is damaged, or a package that reads it is missing.
        """
        folder, source = self._files_dir, self.source
        assert folder is not None, "prepare_data brings the files"
        if source.num_channels == 1:
            images, labels = (read_idx(folder / name) for name in source.files[2 * (split == "test") :][:2])
            images, labels = images.unsqueeze(1), labels.long()
            if source.kind is datasets.EMNIST:
                images = images.transpose(2, 3).contiguous()  # its makers stored columns as rows
            if source.name == "EMNIST letters":
                labels -= 1  # they count from 1
        else:
            try:
                dataset = source.kind(self.dir, **source.options(split))
            except RuntimeError as error:
                raise ValueError(f"The files of {self.name} in {folder} are not torchvision's: {error}") from error
            if source.kind is datasets.SVHN:
                images, labels = torch.from_numpy(dataset.data).contiguous(), torch.from_numpy(dataset.labels)
            else:
                images, labels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2), torch.tensor(dataset.targets)
        shape = (len(labels), self.num_channels, self.image_size, self.image_size)
        lowest, highest = (int(label) for label in labels.aminmax())
        if images.shape != shape or not 0 <= lowest <= highest < self.num_classes:
            raise ValueError(
                f"The files in {folder} are not those of {self.name}: they hold images {(*images.shape,)} and labels "
                f"from {lowest} to {highest}."
            )
        return images, labels
