"""Batches of bytes to a network's input, on the device that the batch is on: augment, resize, scale."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize


def to_network_input(images: Tensor, size: int) -> Tensor:
    """Resize images (N, C, H, W) of bytes to `size` x `size` and scale them to [0, 1].

    Equal, to within one grey level, to what PIL's bilinear resize and ToTensor give (exactly so on a CPU).
    """
    if images.shape[-2:] != (size, size):
        images = resize(images, [size, size], antialias=True)
    return images.div(255)


def shift_flip(images: Tensor, generator: torch.Generator, max_shift: int = 2) -> Tensor:
    """Shift each image by up to `max_shift` pixels each way (black comes in) and mirror half of them left to right.

    Takes and returns (N, C, H, W) of any dtype. The numbers are drawn on the generator's device, so that a CPU
    generator gives the same images on every device.
    """
    num_images, _, height, width = images.shape
    down, right, mirrored = (
        torch.randint(0, choices, (num_images, 1), generator=generator, device=generator.device)
        for choices in (2 * max_shift + 1, 2 * max_shift + 1, 2)
    )
    # Without waiting for the device.
    down, right, mirrored = (drawn.to(images.device, non_blocking=True) for drawn in (down, right, mirrored))
    rows = torch.arange(height, device=images.device) + down  # (N, H)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(0), columns) + right  # (N, W)
    padded = F.pad(images, (max_shift,) * 4)
    each = torch.arange(num_images, device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
