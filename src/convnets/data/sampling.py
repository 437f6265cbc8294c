"""Which images come in which batch: a function of (seed, epoch), shared by the ranks."""

import itertools
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


def derive_seed(*parts: int | str) -> int:
    """Mix the parts into a 32-bit seed.

    32 bits because CPU generators use no more; a hash because `seed + step` makes runs shifted copies of each other.
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest())


Batch = tuple[Tensor, Tensor]


class ImageBatches(Dataset[Batch]):
    """Images and labels in memory, to be indexed with the numbers (N,) of a whole batch, or of each of several."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert len(images) == len(labels)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, indices: Tensor) -> Batch: ...

    @overload
    def __getitem__(self, indices: list[Tensor]) -> list[Batch]: ...

    def __getitem__(self, indices: Tensor | list[Tensor]) -> Batch | list[Batch]:
        if isinstance(indices, list):
            return [self[numbers] for numbers in indices]
        if self.images.is_cuda:
            indices = indices.to(self.images.device, non_blocking=True)
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def to(self, device: torch.device) -> "ImageBatches":
        """The same images on the device."""
        return ImageBatches(self.images.to(device), self.labels.to(device))


class BatchSampler(Sampler[Tensor]):
    """One rank's share of each batch, as image numbers. Every image comes exactly once an epoch over all ranks.

    Iterating is lazy: `position` is asked when the first batch is, because only then a trainer has restored its
    counters. It returns the epoch, and the first batch to yield in it.

    Args:
        batch_size: images in a batch over all ranks.
        seed: shuffles by f(seed, epoch); None keeps the order.

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
    ) -> None:
        smallest = num_images % batch_size or min(batch_size, num_images)
        if seed is not None and smallest < num_ranks:
            raise ValueError(
                f"{num_images} images in batches of {batch_size} leave a batch of {smallest}, too few for "
                f"{num_ranks} devices: choose another data.batch_size or data.holdout."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.position = position

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        epoch, first_batch = self.position()
        if self.seed is None:
            order = torch.arange(self.num_images)
        else:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
            order = torch.randperm(self.num_images, generator=generator)
        for start in range(first_batch * self.batch_size, self.num_images, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.num_ranks]


class ExecutionSampler(Sampler[list[Tensor]]):
    """Several batches of a BatchSampler at once, in its order; the epoch's last ones may be fewer."""

    def __init__(self, batches: BatchSampler, steps_per_execution: int) -> None:
        self.batches = batches
        self.steps_per_execution = steps_per_execution

    def __len__(self) -> int:
        return -(-len(self.batches) // self.steps_per_execution)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = iter(self.batches)
        while several := list(itertools.islice(batches, self.steps_per_execution)):
            yield several


def stratified_split(labels: Tensor, num_held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split image numbers into (rest, held out), every class in proportion; both ascending.

    Where the classes cannot share `num_held_out` equally, the first classes give one image more.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed("holdout", seed)))
    # Deal the classes out in turns: the k-th image of its class comes before the k+1-th of any.
    shuffled = labels[order]
    turn = torch.empty(len(labels), dtype=torch.float64)
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().squeeze(1)
        turn[members] = torch.arange(len(members), dtype=torch.float64).add(0.5) / len(members)
    dealt = order[turn.argsort(stable=True)]
    return dealt[num_held_out:].sort().values, dealt[:num_held_out].sort().values


def keep_rows(values: Tensor, numbers: Tensor) -> Tensor:
    """The rows of these ascending numbers, moved to the front of `values`: no second tensor in memory."""
    start = 0
    for some in numbers.split(1_000):
        values[start : start + len(some)] = values[some]  # never further on than where they were
        start += len(some)
    return values[:start]
