"""Any set of byte images as a LightningDataModule: batches are chosen, augmented and resized on the device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from convnets.data.archive import DataUnavailableError
from convnets.data.augmentation import AUGMENTATIONS, MIXES, Draws
from convnets.data.own_pictures import fill_square
from convnets.data.preprocessing import channel_statistics, to_network_input
from convnets.data.sampling import Batch, BatchSampler, ImageBatches, derive_seed, stratified_split


class ImageDataModule(lightning.LightningDataModule):
    """What training, evaluation and dashboard ask of a set of images. A set is a subclass that defines `read_split`.

    Images stay bytes, in the memory of a GPU that has room, else in main memory, until their batch is on the device;
    there they are augmented, resized and scaled to [0, 1]. A training batch is a `Batch`, any other one a pair of
    images (N, num_channels, resize, resize), float32, and labels (N,), int64.

    Args:
        dir: folder of the set's files.
        resize: side of the square image in pixels.
        batch_size: images in a batch over all devices.
        device: "auto", or "cpu" to keep the images in main memory and send each batch to a GPU.
        holdout: training images kept for validation, stratified; 0 trains on all and validates on the test split.
        split_seed: which images are held out.
        folds: instead of `holdout`, into so many parts the training images are divided, of which one is held out.
        fold: which of these parts, or of the disjoint sets of `holdout` images, from 0.
        augment: "none", or of `convnets.data.augmentation.AUGMENTATIONS` one name or several, in this order; for
            training batches.
        mix: "none", or one of `convnets.data.augmentation.MIXES`: training images are mixed once they are scaled, with
            others of the same rank's share, and labels become shares of classes (N, num_classes).
        normalize: "none", or "standard" to subtract the training images' mean and divide by their standard deviation.
        seed: order, augmentation and mixing are functions of (seed, epoch, batch).
        steps_per_execution: of training batches so many come at once; see `Batch.earlier`.

    Attributes:
        name: of the set, for people.
        image_size: side of the stored images in pixels.
        digest: of the set's files, where they may change; None where their bytes are verified anyhow.
        mean: of the training images' channels, each from 0 to 1, with `normalize="standard"`; None otherwise.
        std: their standard deviations.
        splits: "train", "val" and "test", once `setup` has read them.
        split_to_predict: the split that `predict_dataloader` gives.
    """

    name: str
    class_names: tuple[str, ...]
    num_channels: int
    image_size: int
    digest: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None

    def __init__(
        self,
        dir: str | Path,
        resize: int = 28,
        batch_size: int = 128,
        device: str = "auto",
        holdout: int = 0,
        split_seed: int = 0,
        augment: str | Sequence[str] = "none",
        seed: int = 0,
        steps_per_execution: int = 1,
        mix: str = "none",
        normalize: str = "none",
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__()
        names = [augment] if isinstance(augment, str) else augment
        choices = {"none": None, **AUGMENTATIONS}
        self.augmentations = {name: change for name in names if (change := chosen("augment", name, choices))}
        self.mixing = chosen("mix", mix, {"none": None, **MIXES})
        self.is_normalized = chosen("normalize", normalize, {"none": False, "standard": True})
        self.dir = Path(dir).expanduser()
        self.resize = resize
        self.batch_size = batch_size
        self.device = device
        self.holdout = holdout
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self.seed = seed
        self.steps_per_execution = steps_per_execution
        self.splits: dict[str, ImageBatches] = {}
        self._resident: dict[str, ImageBatches] = {}  # copies on the GPU
        self.split_to_predict = "test"

    @classmethod
    def of(cls, trainer: lightning.Trainer) -> Self:
        """The datamodule that the trainer takes its batches from.

        Raises:
            TypeError: it is of another kind.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(datamodule, cls):
            raise TypeError(f"{type(datamodule).__name__} must be derived from convnets.data.ImageDataModule.")
        return datamodule

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def facts(self) -> dict[str, Any]:
        """What a run keeps of its set (data.json), to be used when the images are gone; known after `setup`."""
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "num_channels": self.num_channels,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "num_images": {split: len(dataset) for split, dataset in self.splits.items()},
            "digest": self.digest if self.splits else None,  # which may have to list files that are gone
        }

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        """Take what `facts` returned in place of the class's own; of a run without facts there is nothing to take.

        `prepare_data` and `setup`, which read the images, may replace these by what they find, but for mean and std.
        """
        if facts:
            self.class_names = tuple(facts["class_names"])
            self.num_channels, self.image_size = facts["num_channels"], facts["image_size"]
            self.mean, self.std = facts["mean"], facts["std"]

    @property
    def validates_on_test_split(self) -> bool:
        """Whether `val/...` metrics are those of the test split (the book's protocol)."""
        return self.holdout == 0 and self.folds is None

    def read_split(self, split: str) -> tuple[Tensor, Tensor]:
        """Read "train" or "test" whole: images (N, C, H, W) of bytes and labels (N,), int64."""
        raise NotImplementedError

    def read_splits(self) -> dict[str, ImageBatches]:
        """Read "train" and "test"; and "val" where the set has held-out images of its own."""
        return {split: ImageBatches(*self.read_split(split)) for split in ("train", "test")}

    def prepare_picture(self, picture: Image.Image, background: str = "auto") -> tuple[NDArray[np.uint8], str | None]:
        """Turn a person's picture into an image as the set has them, bytes (C, H, W).

        Returns:
            the image, and the background that was taken for the picture's; None where the set needs none.
        """
        return fill_square(picture, self.image_size, self.num_channels), None

    def setup(self, stage: str | None = None) -> None:
        """Read the images into memory, once, hold some out, and measure those that train if they are normalised."""
        if self.splits:
            return
        try:
            self.splits = self._split()
        except FileNotFoundError as error:
            raise DataUnavailableError(
                f"{error.filename} is not there: set data.dir to the folder that holds the files of {self.name}."
            ) from error
        if self.is_normalized and self.mean is None:
            self.mean, self.std = channel_statistics(self.splits["train"])

    def _split(self) -> dict[str, ImageBatches]:
        splits = self.read_splits()
        if self.validates_on_test_split or "val" in splits:
            return {"val": splits["test"], **splits}
        train = splits.pop("train")
        kept, held_out = stratified_split(train.labels, self._held_out(len(train)), self.split_seed)
        return {"train": train.part(kept), "val": train.part(held_out), **splits}

    def _held_out(self, num_images: int) -> range:
        """The places of the held-out images in the order in which the seed deals out the training images."""
        if self.folds and self.holdout:
            raise ValueError(f"data.folds={self.folds} takes the place of data.holdout={self.holdout}: set one.")
        asked, size, parts = f"data.holdout={self.holdout}", self.holdout, 1
        if self.folds:
            asked, size, parts = f"data.folds={self.folds}", num_images, self.folds
        held_out = range(self.fold * size // parts, (self.fold + 1) * size // parts)
        if not 0 < len(held_out) < num_images:
            most = num_images if self.folds else num_images - 1
            raise ValueError(f"{asked} leaves nothing of {num_images} training images: choose at most {most}.")
        if held_out.stop > num_images:
            raise ValueError(
                f"data.fold={self.fold} is too high: {num_images} training images have {num_images * parts // size} "
                f"folds of {asked}, and the first is 0."
            )
        return held_out

    @property
    def num_train_batches(self) -> int:
        """Training batches of an epoch, once the images are read."""
        return -(-len(self.splits["train"]) // self.batch_size)

    def steps_in(self, num_executions: int) -> int:
        """Training steps in an epoch's first executions; its last execution may have fewer than the others."""
        return min(num_executions * self.steps_per_execution, self.num_train_batches)

    def within_limit(self, num_batches: int) -> int:
        """How many of an epoch's `num_batches` training batches the trainer's limit lets through."""
        assert self.trainer is not None
        limit = self.trainer.limit_train_batches  # a share, or a number of executions
        return (
            int(limit * num_batches) if isinstance(limit, float) else min(limit * self.steps_per_execution, num_batches)
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training images in the order f(seed, epoch), from where the trainer stands in the epoch."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the held-out images, or of the test split where none are held out."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of the images of `split_to_predict`, in their order."""
        return self._loader(self.split_to_predict)

    def _loader(self, split: str, seed: int | None = None) -> DataLoader[Batch]:
        trainer = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        dataset = self._resident_on(device, split)
        sampler: Any = BatchSampler(
            len(dataset),
            self.batch_size,
            seed,
            rank=trainer.global_rank if trainer else 0,
            num_ranks=trainer.world_size if trainer else 1,
            position=self._position if seed is not None else lambda: (0, 0),
            steps_per_execution=self.steps_per_execution if seed is not None else 1,
        )
        travels = device.type == "cuda" and dataset is self.splits[split]
        # batch_size=None: the sampler's items are whole batches, and nothing is collated.
        return DataLoader(dataset, sampler=sampler, batch_size=None, pin_memory=travels)

    def _resident_on(self, device: torch.device, split: str) -> ImageBatches:
        """The split's images, on the GPU if they are wanted there and a quarter of its free memory holds them."""
        dataset = self.splits[split]
        if device.type != "cuda" or self.device == "cpu":
            return dataset
        if split not in self._resident:
            twins = [moved for name, moved in self._resident.items() if self.splits[name].stored is dataset.stored]
            if twins:
                self._resident[split] = dataset.to(device, twins[0].stored)
            elif 4 * dataset.stored.nbytes > torch.cuda.mem_get_info(device)[0]:
                return dataset
            else:
                self._resident[split] = dataset.to(device)
        return self._resident[split]

    def _position(self) -> tuple[int, int]:
        """The epoch, and the number of the batch that comes next in it."""
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, (self.trainer.fit_loop.batch_idx + 1) * self.steps_per_execution

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch that is not there; Lightning's own way costs time where it is."""
        return (
            batch.to(device)
            if isinstance(batch, Batch)
            else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a batch of bytes, on its device, into what the network takes; its `earlier` ones stay bytes."""
        if self.trainer is not None and self.trainer.training and isinstance(batch, Batch):
            return self.training_batch(batch)
        images, labels = batch
        return self.to_network_input(images), labels

    def training_batch(self, batch: Batch) -> Batch:
        """Augment, resize, scale and mix a training batch of bytes, on its device."""
        images, labels = batch
        rank, *place = batch.place
        for index, (name, augment) in enumerate(self.augmentations.items()):
            seed = derive_seed("augment", self.seed, 0, *place, *([name] if index else []))
            share = slice(rank, None, self.trainer.world_size if self.trainer else 1)
            draws = Draws(seed, batch.num_images, share, derive_seed("turns", self.seed), place[0], batch.numbers)
            images = augment(images, draws)
        images = self.to_network_input(images)
        if self.mixing is not None:
            generator = torch.Generator().manual_seed(derive_seed("mix", self.seed, *place))
            images, labels = self.mixing(images, torch.eye(self.num_classes, device=labels.device)[labels], generator)
        return Batch(images, labels, batch.num_images, batch.place, batch.earlier, batch.numbers)

    def to_network_input(self, images: Tensor) -> Tensor:
        """Turn stored images (N, C, H, W), bytes, into the network's: (N, C, resize, resize).

        In [0, 1], or normalised.
        """
        return to_network_input(images, self.resize, self.mean, self.std)


def chosen(key: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """What stands for the value of `data.KEY`.

    Raises:
        ValueError: it is none of the choices.
    """
    if value not in choices:
        *others, last = choices
        raise ValueError(f"data.{key} must be {', '.join(map(str, others))} or {last}, got {value!r}.")
    return choices[value]
