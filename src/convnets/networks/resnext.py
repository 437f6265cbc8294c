"""ResNeXt: ResNet's stages with convolutions split into groups of channels, as in Dive into Deep Learning 8.6.5."""

import functools
from typing import Any

from convnets.networks.residual import ResNeXtBlock
from convnets.networks.resnet import RESNET18_STAGES, ResNet


class ResNeXt18(ResNet):
    """The stages of ResNet18 with ResNeXt blocks, in 32 groups unless said otherwise. The book names it only.

    Args:
        num_groups: groups of every block; or
        group_width: channels of a group; give one of the two.
        options: of `ResNet`.

    Source: Dive into Deep Learning 8.6.5; Xie et al., arXiv 1611.05431.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        num_groups: int | None = None,
        group_width: int | None = None,
        bottleneck_ratio: float = 1.0,
        **options: Any,
    ) -> None:
        if num_groups is None and group_width is None:
            num_groups = 32
        block = functools.partial(
            ResNeXtBlock, num_groups=num_groups, group_width=group_width, bottleneck_ratio=bottleneck_ratio
        )
        super().__init__(RESNET18_STAGES, image_size, in_channels, num_classes, block=block, **options)
