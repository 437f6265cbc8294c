"""Batches: which images come in which, a function of (seed, epoch), and what a batch carries through a training."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

NUM_COPIED = 512  # images at a time, so that a mapped file's pages can be given back in between


def derive_seed(*parts: int | str) -> int:
    """Mix the parts into a 32-bit seed.

    32 bits because CPU generators use no more; a hash because `seed + step` makes runs shifted copies of each other.
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest())


class Share(NamedTuple):
    """One rank's share of a batch, as image numbers (N,); the other fields are those of `Batch`."""

    numbers: Tensor
    num_images: int
    place: tuple[int, int, int]
    earlier: list["Share"]


@dataclass(slots=True)
class Batch:
    """Images (N, C, H, W) and labels (N,) of one rank, with all that a training step needs. Unpacks into these two.

    Attributes:
        num_images: of the batch over all ranks that share it.
        place: (rank, epoch, number of the batch in the epoch), which its random numbers are derived from.
        earlier: batches, still bytes, whose training steps come before this one's; filled where several steps are
            executed at once. `TrainingSteps` takes them out.
        numbers: which of the training images these are, (N,), on the CPU.
    """

    images: Tensor
    labels: Tensor
    num_images: int
    place: tuple[int, int, int]
    earlier: list["Batch"] = field(default_factory=list)
    numbers: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return (self.images, self.labels)[index]

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device; itself where it is there already."""
        if self.images.device == device:
            return self
        return self._changed(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, which a GPU copies from without the processor; DataLoader calls it."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        earlier = [batch._changed(change) for batch in self.earlier]
        return Batch(change(self.images), change(self.labels), self.num_images, self.place, earlier, self.numbers)


class ImageBatches(Dataset[Batch]):
    """Images and their labels, to be indexed with a sampler's share of a batch, or with image numbers (N,).

    Args:
        stored: images (M, C, H, W) of bytes, in memory or in a mapped file; they may serve other `ImageBatches` too.
        labels: of all of these images, (M,); those that are meant alone are kept.
        rows: which images are meant, (N,), in their order; by default all.
        after_reading: is told how many images were read, each time.
    """

    def __init__(
        self,
        stored: Tensor,
        labels: Tensor,
        rows: Tensor | None = None,
        after_reading: Callable[[int], None] | None = None,
    ) -> None:
        assert len(stored) == len(labels)
        self.stored = stored
        self.rows = rows
        self.labels = labels if rows is None else labels[rows]
        self.after_reading = after_reading

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, wanted: Tensor) -> tuple[Tensor, Tensor]: ...

    @overload
    def __getitem__(self, wanted: Share) -> Batch: ...

    def __getitem__(self, wanted: Tensor | Share) -> tuple[Tensor, Tensor] | Batch:
        return self._read(wanted) if isinstance(wanted, Tensor) else self._batch(wanted)

    def _batch(self, share: Share) -> Batch:
        images, labels = self._read(share.numbers)
        earlier = [self._batch(one) for one in share.earlier]
        return Batch(images, labels, share.num_images, share.place, earlier, share.numbers)

    def _read(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        if self.stored.is_cuda:
            numbers = numbers.to(self.stored.device, non_blocking=True)
        rows = numbers if self.rows is None else self.rows.index_select(0, numbers)
        images = self.stored.index_select(0, rows)
        if self.after_reading is not None:
            self.after_reading(len(images))
        return images, self.labels.index_select(0, numbers)

    def part(self, numbers: Tensor) -> "ImageBatches":
        """Those of these numbers, as a set of their own that takes no further memory for images."""
        part = copy.copy(self)
        part.rows = numbers if self.rows is None else self.rows[numbers]
        part.labels = self.labels[numbers]
        return part

    def to(self, device: torch.device, stored: Tensor | None = None) -> "ImageBatches":
        """The same on the device, where what is stored may be already."""
        moved = copy.copy(self)
        moved.stored = self._copied(device) if stored is None else stored
        moved.labels, moved.rows = self.labels.to(device), None if self.rows is None else self.rows.to(device)
        moved.after_reading = None
        return moved

    def _copied(self, device: torch.device) -> Tensor:
        copy = torch.empty_like(self.stored, device=device)
        for source, target in zip(self.stored.split(NUM_COPIED), copy.split(NUM_COPIED), strict=True):
            target.copy_(source)
            if self.after_reading is not None:
                self.after_reading(len(source))
        return copy


class BatchSampler(Sampler[Share]):
    """One rank's share of each batch. Every image comes exactly once an epoch over all ranks.

    Args:
        batch_size: images in a batch over all ranks.
        seed: shuffles by f(seed, epoch); None keeps the order.
        position: returns the epoch, and the first batch to yield in it. Called when the first batch is asked for,
            because only then a trainer has restored its counters.
        steps_per_execution: of so many batches only the last is yielded, with those before it as its `earlier`; the
            epoch's last ones may be fewer.

    Raises:
        ValueError: some batch would leave a rank without an image.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        steps_per_execution: int = 1,
    ) -> None:
        smallest = num_images % batch_size or min(batch_size, num_images)
        if seed is not None and smallest < num_ranks:
            raise ValueError(
                f"{num_images} images in batches of {batch_size} leave a batch of {smallest}, too few for "
                f"{num_ranks} devices: choose another data.batch_size."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.position = position
        self.steps_per_execution = steps_per_execution

    def __len__(self) -> int:
        return -(-self.num_images // (self.batch_size * self.steps_per_execution))

    def __iter__(self) -> Iterator[Share]:
        epoch, first_batch = self.position()
        if self.seed is None:
            order = torch.arange(self.num_images)
        else:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
            order = torch.randperm(self.num_images, generator=generator)
        earlier: list[Share] = []
        for start in range(first_batch * self.batch_size, self.num_images, self.batch_size):
            numbers = order[start : start + self.batch_size]
            place = (self.rank, epoch, start // self.batch_size)
            share = Share(numbers[self.rank :: self.num_ranks], len(numbers), place, earlier)
            is_last = start + self.batch_size >= self.num_images
            if is_last or len(earlier) + 1 == self.steps_per_execution:
                yield share
                earlier = []
            else:
                earlier.append(Share(*share[:3], []))


def stratified_split(labels: Tensor, held_out: range, seed: int) -> tuple[Tensor, Tensor]:
    """Split image numbers into (rest, held out), every class in proportion; both ascending.

    Args:
        held_out: places in the order in which the seed deals out the images: disjoint ranges have no image in common.
            Where the classes cannot share a range equally, some of them give one image more.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed("holdout", seed)))
    # Take turns between the classes: the k-th image of a class comes before the k+1-th of any.
    shuffled = labels[order]
    turn = torch.empty(len(labels), dtype=torch.float64)
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().squeeze(1)
        turn[members] = torch.arange(len(members), dtype=torch.float64).add(0.5) / len(members)
    dealt = order[turn.argsort(stable=True)]
    start, end = held_out.start, held_out.stop
    return torch.cat([dealt[:start], dealt[end:]]).sort().values, dealt[start:end].sort().values
