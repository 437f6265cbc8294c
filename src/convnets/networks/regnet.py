"""RegNet, as in Dive into Deep Learning 8.8."""

import functools
from typing import Any

from torch import nn

from convnets.networks.layers import PaddingMode, SmallStem, Stem, activated
from convnets.networks.residual import Residual, ResNeXtBlock
from convnets.networks.resnet import Stages, check_size, residual_stages

REGNETX32_STAGES: Stages = ((4, 32), (6, 80))
STEM_CHANNELS = 32


class RegNet(nn.Sequential):
    """A stem, stages of ResNeXt blocks, a pooled dense layer. The shapes beside the layers are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked. The default is the book's RegNetX-32.

    Args:
        stages: (number of blocks, channels) of each stage; every stage halves the image.
        group_width: channels of a group; None takes ResNet's blocks, without groups, in place of ResNeXt's.
        bottleneck_ratio: channels of a ResNeXt block's 3x3 convolution for each output channel.
        stem: "small" keeps the image's size, where the book's halves it.

    Raises:
        ValueError: the channels cannot be split into such groups, or the image is too small for the padding.

    Source: Dive into Deep Learning 8.8; Radosavovic et al., arXiv 2003.13678.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        stages: Stages = REGNETX32_STAGES,
        group_width: int | None = 16,
        bottleneck_ratio: float = 1.0,
        padding_mode: PaddingMode = "zeros",
        stem: Stem = "book",
    ) -> None:
        padded: dict[str, Any] = {"padding_mode": padding_mode}
        window = functools.partial(nn.Conv2d, in_channels, STEM_CHANNELS, kernel_size=3, padding=1, **padded)
        after = activated(STEM_CHANNELS, "batch")
        first = SmallStem(window(), *after) if stem == "small" else nn.Sequential(window(stride=2), *after)
        grouped = functools.partial(ResNeXtBlock, group_width=group_width, bottleneck_ratio=bottleneck_ratio)
        block = functools.partial(Residual if group_width is None else grouped, **padded)
        bodies = residual_stages(stages, STEM_CHANNELS, block, halve_first=True)
        check_size(f"RegNet with {len(stages)} stages and padding_mode={padding_mode}", first, bodies, image_size)
        super().__init__(
            first,  # (N, 32, 48, 48)
            *bodies,  # (N, 32, 24, 24), (N, 80, 12, 12)
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(stages[-1][1], num_classes)),  # (N, 10)
        )
