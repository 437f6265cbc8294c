"""Whether a network can be trained on the smallest batch that an epoch has."""

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_TRIED = 32  # images; a batch that is larger is not small


@dataclass(frozen=True)
class Sharing:
    """How an epoch's training images are divided into batches, and each batch among devices.

    Attributes:
        num_images: of the training split together with those held out.
        count_batches: how many of so many batches are trained on.
        whole: whether a layer that computes over a batch sees all of it, not only its device's share.
    """

    num_images: int
    holdout: int
    batch_size: int
    num_devices: int
    count_batches: Callable[[int], int]
    whole: bool = False

    @property
    def num_trained_on(self) -> int:
        """Images that are not held out."""
        return self.num_images - self.holdout

    @property
    def last_batch(self) -> int:
        """Images in an epoch's last batch."""
        return self.num_trained_on % self.batch_size or min(self.batch_size, self.num_trained_on)

    @property
    def smallest_share(self) -> int:
        """Images of the last batch that the device with the fewest gets."""
        return self.last_batch // self.num_devices

    def sizes(self) -> set[int]:
        """Numbers of images that the network is trained on at a time."""
        num_batches = -(-self.num_trained_on // self.batch_size)
        whole = {min(self.batch_size, self.num_trained_on)}
        batches = whole | ({self.last_batch} if self.count_batches(num_batches) == num_batches else set())
        if self.whole:
            return batches
        return {-(-size // self.num_devices) for size in batches} | {size // self.num_devices for size in batches}

    def near(self) -> Iterator["Sharing"]:
        """The same with other batch sizes, the nearest first."""
        for distance in range(1, max(self.batch_size, self.num_trained_on)):
            for size in (self.batch_size - distance, self.batch_size + distance):
                if 0 < size <= max(self.batch_size, self.num_trained_on):
                    yield replace(self, batch_size=size)

    def near_holdout(self) -> Iterator["Sharing"]:
        """The same with other numbers of images held out: a few more or fewer, or some where there were none."""
        start = self.holdout or max(self.num_images // 12, 1)
        for distance in range(self.num_images):
            for holdout in dict.fromkeys((start + distance, start - distance)):
                if 0 < holdout < self.num_images and holdout != self.holdout:
                    yield replace(self, holdout=holdout)


def check_last_batch(network: nn.Module, make_images: Callable[[int], Tensor], sharing: Sharing) -> None:
    """Run a copy of the network in training mode on as many images as the smallest batch has, where that is small.

    A network that fails on larger batches as well is left to the training, whose traceback shows where.

    Args:
        make_images: returns so many images as the network takes them.

    Raises:
        ValueError: a device gets no image of the last batch, or the network cannot be trained on so few.
    """

    @functools.cache
    def failure(size: int) -> str | None:
        return None if size > LARGEST_TRIED else _failure(network, make_images(size))

    def works(other: Sharing) -> bool:
        return other.smallest_share > 0 and not any(map(failure, other.sizes()))

    begin = (
        f"{sharing.num_trained_on:,} training images in batches of {sharing.batch_size} leave a last batch of "
        f"{sharing.last_batch}, "
    )
    if sharing.smallest_share == 0:
        raise ValueError(f"{begin}too few for {sharing.num_devices} devices. {_way_out(sharing, works)}")
    failed = {size: reason for size in sorted(sharing.sizes()) if (reason := failure(size)) is not None}
    if not failed or failure(min(LARGEST_TRIED, sharing.num_trained_on)) is not None:
        return
    size, reason = next(iter(failed.items()))
    if sharing.last_batch == min(sharing.batch_size, sharing.num_trained_on):
        begin = f"Batches of {sharing.last_batch} are too small for {type(network).__name__}"
    else:
        begin += f"too few for {type(network).__name__}"
    share = "" if size in (sharing.last_batch, sharing.batch_size) else f" on one of {sharing.num_devices} devices"
    images = "one image" if size == 1 else f"{size} images"
    raise ValueError(f"{begin}, which cannot be trained on {images}{share} ({reason}). {_way_out(sharing, works)}")


def _way_out(sharing: Sharing, works: Callable[[Sharing], bool]) -> str:
    found = [
        f"data.{key}={getattr(other, key)}"
        for key, others in (("batch_size", sharing.near()), ("holdout", sharing.near_holdout()))
        if (other := next(filter(works, others), None)) is not None
    ]
    return f"Set {' or '.join(found)}." if found else "There are too few training images."


def _failure(network: nn.Module, images: Tensor) -> str | None:
    """Why the network cannot be trained on the images; None where it can. Nothing of it is changed."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the numbers is seen in them
        try:
            network = copy.deepcopy(network)
            scores = network(images)
            F.cross_entropy(scores, torch.zeros(len(images), dtype=torch.long)).backward()
        except Exception as error:  # whatever the network's author raises
            return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    results = [scores, *(value.grad for value in network.parameters() if value.grad is not None)]
    return None if all(result.isfinite().all() for result in results) else "its scores or gradients are not finite"
