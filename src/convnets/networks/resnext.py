"""ResNeXt: residual blocks whose convolution is split into groups of channels, as in Dive into Deep Learning 8.6.5."""

import functools

import torch.nn.functional as F
from torch import Tensor, nn

from convnets.networks.padding import PaddingMode
from convnets.networks.resnet import RESNET18_STAGES, ResNet


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with batch norm, added to a shortcut: relu(residual(x) + shortcut(x)).

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        num_groups: number of groups that the channels of the 3x3 convolution are split into.
        group_width: channels of one group instead (the book's argument `groups`); give one of the two.
        bottleneck_ratio: channels of the 3x3 convolution for each output channel.

    Raises:
        ValueError: both or none of `num_groups` and `group_width`, or the channels cannot be split so.

    Source: Dive into Deep Learning 8.6.5; Xie et al., arXiv 1611.05431.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding_mode: PaddingMode = "zeros",
        num_groups: int | None = None,
        group_width: int | None = None,
        bottleneck_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        width = round(out_channels * bottleneck_ratio)
        groups = _number_of_groups(width, num_groups, group_width)
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=groups, padding_mode=padding_mode),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out_channels, kernel_size=1),
            nn.BatchNorm2d(out_channels),
        )
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity()
            if same_shape
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        return F.relu(self.residual(images) + self.shortcut(images))


def _number_of_groups(width: int, num_groups: int | None, group_width: int | None) -> int:
    if (num_groups is None) == (group_width is None):
        raise ValueError(
            f"ResNeXt takes one of num_groups and group_width, got num_groups={num_groups}, group_width={group_width}."
        )
    part = num_groups or group_width or 0
    if part < 1 or width % part:
        key = "num_groups" if group_width is None else "group_width"
        raise ValueError(f"{width} channels cannot be split with {key}={part}: it must divide them.")
    return part if group_width is None else width // part


class ResNeXt18(ResNet):
    """The stages of ResNet18 with ResNeXt blocks, in 32 groups unless said otherwise. The book names it only.

    Args:
        num_groups: groups of every block; or
        group_width: channels of a group; give one of the two.

    Source: Dive into Deep Learning 8.6.5; Xie et al., arXiv 1611.05431.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        padding_mode: PaddingMode = "zeros",
        num_groups: int | None = None,
        group_width: int | None = None,
        bottleneck_ratio: float = 1.0,
    ) -> None:
        if num_groups is None and group_width is None:
            num_groups = 32
        block = functools.partial(
            ResNeXtBlock, num_groups=num_groups, group_width=group_width, bottleneck_ratio=bottleneck_ratio
        )
        super().__init__(RESNET18_STAGES, image_size, in_channels, num_classes, padding_mode, block)
