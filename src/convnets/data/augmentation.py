"""Augmentations and mixing of training batches, vectorised on the device that the batch is on.

An augmentation is a function from images (N, C, H, W) of bytes and `Draws` to other such images. To add one, write it,
put it into `AUGMENTATIONS`, and add its name to those in `convnets.configuration.rules`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class Draws:
    """Random numbers for the images of one rank's share of a batch, a function of the seed.

    They are drawn on the CPU and for the whole batch, so that an image gets the same ones on every device, and on one
    rank or several.

    Args:
        num_images: in the batch over all ranks.
        share: which of them the rank has.
        turns_seed: decides which images have their first turn in the first epoch; see `turns`.
        epoch: from 0.
        numbers: which of the training images the rank's are, (N,); by default their places in the batch.
    """

    def __init__(
        self,
        seed: int,
        num_images: int,
        share: slice = slice(None),
        turns_seed: int = 0,
        epoch: int = 0,
        numbers: Tensor | None = None,
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._num_images = num_images
        self._share = share
        self._turns_seed = turns_seed
        self._epoch = epoch
        self._numbers = numbers

    def turns(self) -> Tensor:
        """1 for each image in every second epoch, in which half of the images begin, and else 0: (N,)."""
        numbers = torch.arange(self._num_images)[self._share] if self._numbers is None else self._numbers
        # A multiplicative hash of the image's number: no state for all images, and the same on every rank.
        mixed = (numbers + self._turns_seed % 2**20) * 2654435761 % 2**32
        return ((mixed >> 16) + self._epoch) % 2

    def integers(self, num_choices: int) -> Tensor:
        """One of 0, 1, ..., num_choices - 1 for each image: (N,)."""
        return torch.randint(num_choices, (self._num_images,), generator=self._generator)[self._share]

    def uniform(self, lowest: float, highest: float, num_each: int = 1) -> Tensor:
        """Numbers between the two for each image: (N, num_each)."""
        numbers = torch.rand(self._num_images, num_each, generator=self._generator)[self._share]
        return numbers.mul_(highest - lowest).add_(lowest)


def shift_flip(images: Tensor, draws: Draws, max_shift: int = 2, alternates: bool = False) -> Tensor:
    """Shift each image by up to `max_shift` pixels each way (black comes in) and mirror half of them left to right."""
    num_images, _, height, width = images.shape
    shifts = [draws.integers(2 * max_shift + 1) for _ in range(2)]
    numbers = torch.stack([*shifts, draws.turns() if alternates else draws.integers(2)])
    down, right, mirrored = _on_device_of(images, numbers)[:, :, None]  # each (N, 1)
    rows = torch.arange(height, device=images.device) + down  # (N, H)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(0), columns) + right  # (N, W)
    padded = F.pad(images, (max_shift,) * 4)
    each = torch.arange(num_images, device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def shift_alternate(images: Tensor, draws: Draws) -> Tensor:
    """Shift as `shift_flip` does, and mirror each image in every second epoch.

    So it is never seen twice the same way in a row: worth some of the epochs of a short training.

    Source: Jordan, arXiv 2404.00498, section 3.6 ("alternating flip").
    """
    return shift_flip(images, draws, alternates=True)


def nudge_flip(images: Tensor, draws: Draws) -> Tensor:
    """Shift each image by up to a pixel each way and mirror half of them left to right: for networks of little room."""
    return shift_flip(images, draws, max_shift=1)


def crop_flip(images: Tensor, draws: Draws) -> Tensor:
    """Cut each image out of itself with 4 black pixels around, at random, and mirror half of them left to right.

    Source: He and others, arXiv 1512.03385, section 4.2 (for images of 32 pixels).
    """
    return shift_flip(images, draws, max_shift=4)


def random_resized_crop(images: Tensor, draws: Draws) -> Tensor:
    """Cut a box of 8 to 100 % of each image's area out, of sides 3:4 to 4:3, and enlarge it to the image's size.

    Within one grey level of torchvision's `resized_crop`, which enlarges bilinearly too.

    Source: Szegedy and others, arXiv 1409.4842, section 6.
    """
    height, width = images.shape[2:]
    boxes = random_boxes(draws, height, width, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
    top, left, box_height, box_width = _on_device_of(images, boxes)[:, :, None]
    rows = _positions(height, top, box_height)  # (N, H)
    columns = _positions(width, left, box_width)  # (N, W)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=-1)  # (N, H, W, 2)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=True).round_().byte()


def _positions(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Where the pixels of an enlarged box come from on an axis of the image, from -1 to 1: (N, size)."""
    pixels = torch.arange(size, device=start.device)
    inside = ((pixels + 0.5) * (length / size) - 0.5).clamp_min(0).minimum(length - 1)
    return (inside + start) * (2 / max(size - 1, 1)) - 1


def erase(images: Tensor, draws: Draws) -> Tensor:
    """Blacken a box in half of the images: 2 to 33 % of the area, of sides 3:10 to 33:10.

    Source: Zhong and others, arXiv 1708.04896, with torchvision's numbers.
    """
    height, width = images.shape[2:]
    boxes = random_boxes(draws, height, width, scale=(0.02, 0.33), ratio=(0.3, 3.3))
    numbers = torch.cat([boxes, draws.integers(2)[None]])
    top, left, box_height, box_width, chosen = _on_device_of(images, numbers)[:, :, None]
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    across = (rows >= top) & (rows < top + box_height) & (chosen == 1)  # (N, H)
    along = (columns >= left) & (columns < left + box_width)  # (N, W)
    return images.masked_fill((across[:, :, None] & along[:, None, :])[:, None], 0)


def random_boxes(
    draws: Draws, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], num_tries: int = 10
) -> Tensor:
    """A box within each image, with its share of the area and its height to its width drawn as torchvision does.

    Of ten tries the first counts that fits into the image; where none does, the first is made smaller.

    Returns:
        top, left, height and width: (4, N), whole numbers.
    """
    area = draws.uniform(*scale, num_tries) * (height * width)
    ratios = draws.uniform(math.log(ratio[0]), math.log(ratio[1]), num_tries).exp_()
    heights, widths = (area * ratios).sqrt_().round_(), (area / ratios).sqrt_().round_()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.byte().argmax(dim=1, keepdim=True)
    box_height, box_width = heights.gather(1, first).clamp_(1, height), widths.gather(1, first).clamp_(1, width)
    top = (draws.uniform(0, 1) * (height - box_height + 1)).floor_().minimum(height - box_height)
    left = (draws.uniform(0, 1) * (width - box_width + 1)).floor_().minimum(width - box_width)
    return torch.cat([top, left, box_height, box_width], dim=1).long().T


def color(images: Tensor, draws: Draws) -> Tensor:
    """Multiply brightness, contrast and, of images with three channels, saturation by 0.6 to 1.4 each, in this order.

    As torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation` do; its ColorJitter draws the order,
    too, and may change the hue.
    """
    factors = torch.cat([draws.uniform(0.6, 1.4) for _ in range(3)], dim=1)
    brightness, contrast, saturation = _on_device_of(images, factors).T[:, :, None, None, None]
    changed = _whole(images * brightness)
    mean = _grey(changed).mean(dim=(1, 2, 3), keepdim=True)
    changed = _whole(changed.mul_(contrast).add_(mean * (1 - contrast)))
    if images.shape[1] == 3:
        grey = _grey(changed)
        changed = _whole(changed.mul_(saturation).add_(grey * (1 - saturation)))
    return changed.byte()


def _grey(images: Tensor) -> Tensor:
    """Grey levels (N, 1, H, W) of red, green and blue; an image of other channels is returned as it is."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _whole(values: Tensor) -> Tensor:
    """The values as a byte has them, still floating-point numbers; in place."""
    return values.clamp_(0, 255).floor_()


def _on_device_of(images: Tensor, numbers: Tensor) -> Tensor:
    """Move without waiting for the device."""
    return numbers.to(images.device, non_blocking=True)


AUGMENTATIONS: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "shift_flip": shift_flip,
    "shift_alternate": shift_alternate,
    "nudge_flip": nudge_flip,
    "crop_flip": crop_flip,
    "random_resized_crop": random_resized_crop,
    "erase": erase,
    "color": color,
}


def mixup(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace each image and label by a weighted mean of itself and the one before; one weight for the batch.

    The weight is uniform from 0 to 1: Beta(1, 1), as the paper has it for small images, and torchvision's default.

    Args:
        images: (N, C, H, W), floating-point.
        labels: (N, num_classes), the share of each class.

    Source: Zhang and others, arXiv 1710.09412.
    """
    kept = torch.rand(1, generator=generator).item()
    return _weighted(images, kept), _weighted(labels, kept)


def cutmix(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of the image before into each one, the same box in the whole batch; labels follow its area.

    The box's share of the area is uniform from 0 to 1 (Beta(1, 1), as in the paper) before what juts out is cut off.
    Takes and returns what `mixup` does.

    Source: Yun and others, arXiv 1905.04899.
    """
    height, width = images.shape[2:]
    half = 0.5 * math.sqrt(1 - torch.rand(1, generator=generator).item())
    x, y = (int(torch.randint(size, (1,), generator=generator)) for size in (width, height))
    left, right = max(x - int(half * width), 0), min(x + int(half * width), width)
    top, bottom = max(y - int(half * height), 0), min(y + int(half * height), height)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, _weighted(labels, 1 - (right - left) * (bottom - top) / (width * height))


def _weighted(values: Tensor, kept: float) -> Tensor:
    return values.roll(1, 0).mul_(1 - kept).add_(values, alpha=kept)


MIXES: dict[str, Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}
