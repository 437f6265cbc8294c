"""ResNet from residual blocks, as in Dive into Deep Learning 8.6."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from convnets.networks.layers import Activation, Norm, PaddingMode, Stem, activated, fitted_side, large_stem
from convnets.networks.residual import Residual, ResNeXtBlock

Stages = Sequence[tuple[int, int]]
Block = Callable[[int, int, int], nn.Module]  # from input channels, output channels and stride

RESNET18_STAGES: Stages = ((2, 64), (2, 128), (2, 256), (2, 512))
BOTTLENECK_RATIO = 1 / 4


def residual_stages(stages: Stages, channels: int, block: Block, halve_first: bool) -> list[nn.Sequential]:
    """Stages of (number of blocks, output channels) each; the first block of each but the first halves the image.

    Args:
        channels: that come into the first stage.
        halve_first: the first stage halves it too.
    """
    bodies = []
    for index, (num_blocks, out_channels) in enumerate(stages):
        blocks = []
        for position in range(num_blocks):
            halves = position == 0 and (index > 0 or halve_first)
            blocks.append(block(channels, out_channels, 2 if halves else 1))
            channels = out_channels
        bodies.append(nn.Sequential(*blocks))
    return bodies


def check_size(name: str, stem: nn.Module, bodies: Iterable[nn.Sequential], image_size: int) -> None:
    """Refuse images that are too small for the padding.

    Raises:
        ValueError: names the smallest size.
    """
    residuals = [block.get_submodule("residual") for block in itertools.chain(*bodies)]
    fitted_side(name, [stem, *residuals], image_size)


class ResNet(nn.Sequential):
    """A stem, stages of residual blocks, a pooled dense layer. The shapes beside the layers are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        stages: (number of blocks, channels) of each stage; every stage but the first halves the image.
        stem: "small" replaces the first convolution and its pooling by a 3x3 convolution that keeps the image's size.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions, the first two with a quarter of the channels.
        preactivation: batch norm and activation come before each convolution of a block; see `Residual`.
        block: another class of blocks, with the arguments of `Residual`.

    Raises:
        ValueError: the image is too small for the padding of the stem or of the last stage.

    Source: Dive into Deep Learning 8.6; He et al., arXiv 1512.03385.
    """

    def __init__(
        self,
        stages: Stages,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        padding_mode: PaddingMode = "zeros",
        stem: Stem = "book",
        norm: Norm = "batch",
        activation: Activation = "relu",
        bottleneck: bool = False,
        preactivation: bool = False,
        block: Callable[..., nn.Module] = Residual,
    ) -> None:
        width, last = stages[0][1], stages[-1][1]
        if bottleneck:
            block = functools.partial(ResNeXtBlock, num_groups=1, bottleneck_ratio=BOTTLENECK_RATIO)
            width = round(width * BOTTLENECK_RATIO)
        options: dict[str, Any] = {"padding_mode": padding_mode, "norm": norm, "activation": activation}
        first = large_stem(in_channels, width, stem, **options)
        made = functools.partial(block, preactivation=preactivation, **options)
        bodies = residual_stages(stages, width, made, halve_first=False)
        check_size(f"ResNet with {len(stages)} stages and padding_mode={padding_mode}", first, bodies, image_size)
        before_pooling = activated(last, norm, activation) if preactivation else []
        super().__init__(
            first,  # (N, 64, 24, 24)
            *bodies,  # (N, 64, 24, 24), (N, 128, 12, 12), (N, 256, 6, 6), (N, 512, 3, 3)
            nn.Sequential(
                *before_pooling, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes)
            ),  # (N, 10)
        )


class ResNet18(ResNet):
    """ResNet with four stages of two blocks: 11.2 million parameters. Takes the options of `ResNet`."""

    def __init__(self, image_size: int = 96, in_channels: int = 1, num_classes: int = 10, **options: Any) -> None:
        super().__init__(RESNET18_STAGES, image_size, in_channels, num_classes, **options)
