"""Batches of bytes to a network's input, on the device that the batch is on: resize, scale, normalise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from convnets.data.sampling import ImageBatches

CHUNK = 2**24  # bytes that are counted at once


def to_network_input(
    images: Tensor, size: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Resize images (N, C, H, W) of bytes to `size` x `size`, scale them to [0, 1], and normalise them.

    Before the last step they are equal, to within one grey level, to what PIL's bilinear resize and ToTensor give
    (exactly so on a CPU).

    Args:
        mean, std: of each channel on the scale from 0 to 1; None does not normalise.
    """
    if images.shape[-2:] != (size, size):
        images = resize(images, [size, size], antialias=True)
    scaled = images.div(255)
    if mean is None or std is None:
        return scaled
    centre, spread = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return scaled.sub_(centre.to(images.device, non_blocking=True)).div_(spread.to(images.device, non_blocking=True))


def channel_statistics(dataset: ImageBatches) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, on the scale from 0 to 1.

    They come from how often each byte occurs, so they are exact, and the set need not fit into memory.

    Raises:
        ValueError: some channel has the same value everywhere.
    """
    _, num_channels, height, width = dataset.stored.shape
    counts = torch.zeros(num_channels, 256, dtype=torch.int64)
    for numbers in torch.arange(len(dataset)).split(max(CHUNK // (num_channels * height * width), 1)):
        images, _ = dataset[numbers]
        for channel, total in enumerate(counts):
            total += torch.bincount(images[:, channel].flatten(), minlength=256).cpu()
    mean, std = [], []
    for channel, count in enumerate(counts.tolist()):
        num_pixels = sum(count)
        first, second = (sum(times * value**power for value, times in enumerate(count)) for power in (1, 2))
        variance = (num_pixels * second - first**2) / num_pixels**2
        if variance == 0:
            raise ValueError(
                f"data.normalize=standard: channel {channel} of the training images is {first // num_pixels} "
                "everywhere, so there is no spread to divide by. Set data.normalize=none."
            )
        mean.append(first / num_pixels / 255)
        std.append(math.sqrt(variance) / 255)
    return mean, std
