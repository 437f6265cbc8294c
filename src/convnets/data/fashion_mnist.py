"""Fashion-MNIST as a LightningDataModule."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from convnets.data.archive import SPLIT_FILES, ensure_files, read_idx
from convnets.data.pictures import cut_out, fill_square
from convnets.data.preprocessing import shift_flip, to_network_input
from convnets.data.sampling import (
    Batch,
    BatchSampler,
    ExecutionSampler,
    ImageBatches,
    derive_seed,
    keep_rows,
    stratified_split,
)

log = logging.getLogger(__name__)

SAMPLE_DIR = Path(__file__).parent / "sample"


class FashionMNISTDataModule(lightning.LightningDataModule):
    """70,000 images of clothes, 28x28 grey levels, in ten classes.

    Images stay bytes, in the memory of a GPU that has room (55 MB), else in main memory, until their batch is on the
    device; there they are augmented, resized and scaled to [0, 1]. A batch is (images, labels) of shapes
    (N, 1, resize, resize), float32, and (N,), int64.

    Args:
        dir: folder of the four files; filled from the first source that has them.
        resize: side of the square image in pixels.
        batch_size: images in a batch over all devices.
        device: "auto", or "cpu" to keep the images in main memory and send each batch to a GPU.
        holdout: training images kept for validation, stratified; 0 trains on all and validates on the test split.
        split_seed: which images are held out.
        augment: "none", or "shift_flip" for training batches.
        seed: order and augmentation are functions of (seed, epoch, batch).
        steps_per_execution: of training batches so many come at once, as a list; 1 makes each come alone.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
    """

    name = "Fashion-MNIST"
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    num_channels = 1
    image_size = 28

    def __init__(
        self,
        dir: str | Path = "~/.cache/convnets/fashion-mnist",
        resize: int = 28,
        batch_size: int = 128,
        device: str = "auto",
        holdout: int = 0,
        split_seed: int = 0,
        augment: str = "none",
        seed: int = 0,
        steps_per_execution: int = 1,
    ) -> None:
        super().__init__()
        if augment not in ("none", "shift_flip"):
            raise ValueError(f"data.augment must be none or shift_flip, got {augment!r}.")
        self.dir = Path(dir).expanduser()
        self.resize = resize
        self.batch_size = batch_size
        self.device = device
        self.holdout = holdout
        self.split_seed = split_seed
        self.augment = augment
        self.seed = seed
        self.steps_per_execution = steps_per_execution
        self.splits: dict[str, ImageBatches] = {}
        self._resident: dict[str, ImageBatches] = {}  # copies on the GPU
        self.split_to_predict = "test"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def validates_on_test_split(self) -> bool:
        """Whether `val/...` metrics are those of the test split (the book's protocol)."""
        return self.holdout == 0

    def prepare_data(self) -> None:
        """Find or download the files; on one process of each machine."""
        ensure_files(self.dir)

    def read_split(self, split: str) -> Batch:
        """Read "train" or "test" whole: images (N, C, H, W) of bytes and labels (N,), int64."""
        images, labels = (read_idx(self.dir / name) for name in SPLIT_FILES[split])
        return images.unsqueeze(1), labels.long()

    def setup(self, stage: str | None = None) -> None:
        """Read the images into memory, once, and hold some out."""
        if self.splits:
            return
        images, labels = self.read_split("train")
        test = ImageBatches(*self.read_split("test"))
        if self.holdout == 0:
            self.splits = {"train": ImageBatches(images, labels), "val": test, "test": test}
            return
        if self.holdout >= len(labels):
            raise ValueError(
                f"data.holdout={self.holdout} leaves nothing of {len(labels)} training images: choose a smaller one."
            )
        kept, held_out = stratified_split(labels, self.holdout, self.split_seed)
        val = ImageBatches(images[held_out], labels[held_out])
        self.splits = {"train": ImageBatches(keep_rows(images, kept), labels[kept]), "val": val, "test": test}

    @property
    def num_train_batches(self) -> int:
        """Training batches of an epoch, once the images are read."""
        return -(-len(self.splits["train"]) // self.batch_size)

    def num_images_in_batch(self, number: int) -> int:
        """Images in the epoch's `number`-th training batch, over all devices."""
        return min(self.batch_size, len(self.splits["train"]) - number * self.batch_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training images in the order f(seed, epoch), `steps_per_execution` at once."""
        return self._loader("train", self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the held-out images, or of the test split where none are held out."""
        return self._loader("val", seed=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split."""
        return self._loader("test", seed=None)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of the images of `split_to_predict`, in their order."""
        return self._loader(self.split_to_predict, seed=None)

    def _loader(self, split: str, seed: int | None) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        dataset = self._resident_on(device, split)
        sampler = BatchSampler(
            len(dataset),
            self.batch_size,
            seed=seed,
            rank=trainer.global_rank if trainer else 0,
            num_ranks=trainer.world_size if trainer else 1,
            position=self._position if seed is not None else lambda: (0, 0),
        )
        travels = device.type == "cuda" and dataset is self.splits[split]
        several = seed is not None and self.steps_per_execution > 1
        items: Any = ExecutionSampler(sampler, self.steps_per_execution) if several else sampler
        # batch_size=None: the sampler's items are whole batches, and nothing is collated.
        return DataLoader(dataset, sampler=items, batch_size=None, pin_memory=travels)

    def _resident_on(self, device: torch.device, split: str) -> ImageBatches:
        """The split's images, on the GPU if they are wanted there and a quarter of its free memory holds them."""
        dataset = self.splits[split]
        if device.type != "cuda" or self.device == "cpu":
            return dataset
        if split not in self._resident:
            if 4 * dataset.images.nbytes > torch.cuda.mem_get_info(device)[0]:
                return dataset
            self._resident[split] = dataset.to(device)
        return self._resident[split]

    def _position(self) -> tuple[int, int]:
        """The epoch, and the number of the batch that comes next in it."""
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, (self.trainer.fit_loop.batch_idx + 1) * self.steps_per_execution

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch that is not there; Lightning's own costs time where it is."""
        images = batch[0][0] if isinstance(batch[0], (tuple, list)) else batch[0]
        return batch if images.device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training), resize and scale a batch of bytes, on its device; several at once stay bytes."""
        if self.trainer is not None and self.trainer.training:
            return batch if self.steps_per_execution > 1 else self.training_batch(batch, self._position()[1])
        images, labels = batch
        return self.to_network_input(images), labels

    def training_batch(self, batch: Batch, number: int) -> Batch:
        """Augment, resize and scale the epoch's `number`-th training batch of bytes, on its device."""
        images, labels = batch
        trainer: Any = self.trainer
        if self.augment == "shift_flip":
            step_seed = derive_seed("augment", self.seed, trainer.global_rank, trainer.current_epoch, number)
            images = shift_flip(images, torch.Generator().manual_seed(step_seed))
        return self.to_network_input(images), labels

    def to_network_input(self, images: Tensor) -> Tensor:
        """Make of bytes (N, 1, 28, 28) what the network takes: (N, 1, resize, resize) in [0, 1]."""
        return to_network_input(images, self.resize)

    def prepare_picture(self, picture: Image.Image, background: str = "auto") -> tuple[Any, str | None]:
        """Make of a person's picture an image as the set has them: bytes (C, H, W); and say what background it had.

        Fashion-MNIST's objects are cut out, light on black. A subclass with other classes is another set, whose
        pictures stay as they are: then there is no background to say.
        """
        if self.class_names == FashionMNISTDataModule.class_names:
            return cut_out(picture, self.image_size, background)
        return fill_square(picture, self.image_size, self.num_channels), None


class FashionMNISTSampleDataModule(FashionMNISTDataModule):
    """1,000 training and 200 test images of Fashion-MNIST that come with the package: no files, no network.

    Takes the arguments of FashionMNISTDataModule but for `dir`.
    """

    name = "a sample of Fashion-MNIST"

    def __init__(self, **options: Any) -> None:
        super().__init__(SAMPLE_DIR, **options)

    def prepare_data(self) -> None:
        """Nothing to find: the images are in the package."""
