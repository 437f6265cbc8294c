"""Refuse a batch that is too small for the network, such as a single image for batch norm."""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_TRIED = 32  # images; a larger batch is taken to be large enough


@dataclass(frozen=True)
class Sharing:
    """How an epoch's training images are divided into batches, and each batch among devices.

    Attributes:
        num_images: training images, without those held out.
        count_batches: from the number of batches, how many of them an epoch trains on.
        whole: whether layers that compute over a batch, such as batch norm, see all of it, not one device's share.
    """

    num_images: int
    batch_size: int
    num_devices: int
    count_batches: Callable[[int], int]
    whole: bool = False

    @property
    def last_batch(self) -> int:
        """Images in an epoch's last batch."""
        return self.num_images % self.batch_size or min(self.batch_size, self.num_images)

    @property
    def smallest_share(self) -> int:
        """Images of the last batch on the device that gets the fewest."""
        return self.last_batch // self.num_devices

    def sizes(self) -> set[int]:
        """Return the numbers of images on which the network computes at a time."""
        num_batches = -(-self.num_images // self.batch_size)
        whole = {min(self.batch_size, self.num_images)}
        batches = whole | ({self.last_batch} if self.count_batches(num_batches) == num_batches else set())
        if self.whole:
            return batches
        return {-(-size // self.num_devices) for size in batches} | {size // self.num_devices for size in batches}


def check_last_batch(network: nn.Module, make_images: Callable[[int], Tensor], sharing: Sharing) -> None:
    """Try a training step of a copy of the network on as many images as the smallest batch has.

    A network that fails on larger batches as well is not refused: the training's traceback shows where it fails.

    Args:
        make_images: returns that number of images, (N, C, H, W), as the network takes them.

    Raises:
        ValueError: a device gets no image of the last batch, or the network cannot be trained on so few.
    """

    @functools.cache
    def failure(size: int) -> str | None:
        return None if size > LARGEST_TRIED else _failure(network, make_images(size))

    def works(other: Sharing) -> bool:
        return other.smallest_share > 0 and not any(map(failure, other.sizes()))

    begin = (
        f"{sharing.num_images:,} training images in batches of {sharing.batch_size} leave a last batch of "
        f"{sharing.last_batch}, "
    )
    if sharing.smallest_share == 0:
        raise ValueError(f"{begin}too few for {sharing.num_devices} devices. {_way_out(sharing, works)}")
    failed = {size: reason for size in sorted(sharing.sizes()) if (reason := failure(size)) is not None}
    if not failed or failure(min(LARGEST_TRIED, sharing.num_images)) is not None:
        return
    size, reason = next(iter(failed.items()))
    if sharing.last_batch == min(sharing.batch_size, sharing.num_images):
        begin = f"Batches of {sharing.last_batch} are too small for {type(network).__name__}"
    else:
        begin += f"too few for {type(network).__name__}"
    share = "" if size in (sharing.last_batch, sharing.batch_size) else f" on one of {sharing.num_devices} devices"
    images = "one image" if size == 1 else f"{size} images"
    raise ValueError(f"{begin}, which cannot be trained on {images}{share} ({reason}). {_way_out(sharing, works)}")


def _way_out(sharing: Sharing, works: Callable[[Sharing], bool]) -> str:
    """Name the nearest batch size that works."""
    sizes = sorted(range(1, sharing.num_images + 1), key=lambda size: abs(size - sharing.batch_size))
    found = next((size for size in sizes if works(replace(sharing, batch_size=size))), None)
    return f"Set data.batch_size={found}." if found else "There are too few training images."


def _failure(network: nn.Module, images: Tensor) -> str | None:
    """Return why the network cannot be trained on the images, None where it can. The network stays as it is."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that are not finite are found below
        try:
            network = copy.deepcopy(network)
            scores = network(images)
            F.cross_entropy(scores, torch.zeros(len(images), dtype=torch.long)).backward()
        except Exception as error:  # whatever the network's author raises
            return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    results = [scores, *(value.grad for value in network.parameters() if value.grad is not None)]
    return None if all(result.isfinite().all() for result in results) else "its scores or gradients are not finite"
