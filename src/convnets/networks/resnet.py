"""ResNet from residual blocks, as in Dive into Deep Learning 8.6."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from convnets.networks.layers import Activation, Norm, PaddingMode, Stem, activated, fitted_side, large_stem
from convnets.networks.residual import Residual, ResNeXtBlock

Stages = Sequence[tuple[int, int]]
BottleneckRatio = float | Literal["none"]

RESNET18_STAGES: Stages = ((2, 64), (2, 128), (2, 256), (2, 512))


class ResNet(nn.Sequential):
    """A stem, stages of residual blocks, a pooled dense layer. The shapes beside the layers are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        stages: (number of blocks, channels) of each stage; every stage but the first halves the image.
        stem: "small" replaces the first convolution and its pooling by a 3x3 convolution that keeps the image's size.
        preactivation: batch norm and activation come before each convolution of a block.
        bottleneck_ratio: blocks of 1x1, 3x3 and 1x1 convolutions, the first two with this share of the channels
            (`ResNeXtBlock`), in place of two 3x3 convolutions ("none", `Residual`).
        num_groups: groups that the channels of those 3x3 convolutions are split into; or
        group_width: channels of a group.

    Raises:
        ValueError: the image is too small for the padding, groups without a bottleneck, or what `ResNeXtBlock` refuses.

    Source: Dive into Deep Learning 8.6; He et al., arXiv 1512.03385.
    """

    stem_channels: ClassVar[int] = 64
    stem_pools: ClassVar[bool] = True  # else the first stage halves the image in the pooling's place

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
        preactivation: bool = False,
        bottleneck_ratio: BottleneckRatio = "none",
        num_groups: int | None = None,
        group_width: int | None = None,
    ) -> None:
        channels = self.stem_channels
        options: dict[str, Any] = {"padding_mode": padding_mode, "norm": norm, "activation": activation}
        first = large_stem(in_channels, channels, stem, pools=self.stem_pools, **options)
        options["preactivation"] = preactivation
        groups = {"num_groups": num_groups, "group_width": group_width}
        make_block: Callable[..., Residual | ResNeXtBlock] = Residual
        if bottleneck_ratio != "none":
            make_block, options = ResNeXtBlock, {**options, **groups, "bottleneck_ratio": bottleneck_ratio}
        elif given := [f"model.{key}={value}" for key, value in groups.items() if value is not None]:
            raise ValueError(
                f"Blocks of two 3x3 convolutions have no groups, got {given[0]}: set model.bottleneck_ratio=1."
            )
        make_block = functools.partial(make_block, **options)
        bodies: list[nn.Sequential] = []
        residuals: list[nn.Module] = []
        for index, (num_blocks, out_channels) in enumerate(stages):
            stride = 1 if index == 0 and self.stem_pools else 2
            blocks = [make_block(channels, out_channels, stride)]
            blocks += [make_block(out_channels, out_channels) for _ in range(num_blocks - 1)]
            bodies.append(nn.Sequential(*blocks))
            residuals += [block.residual for block in blocks]
            channels = out_channels
        name = f"{type(self).__name__} with {len(stages)} stages and padding_mode={padding_mode}"
        fitted_side(name, [first, *residuals], image_size, stem)
        before_pooling = activated(channels, norm, activation) if preactivation else []
        super().__init__(
            first,  # (N, 64, 24, 24)
            *bodies,  # (N, 64, 24, 24), (N, 128, 12, 12), (N, 256, 6, 6), (N, 512, 3, 3)
            nn.Sequential(
                *before_pooling, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
            ),  # (N, 10)
        )


class ResNet18(ResNet):
    """ResNet with four stages of two blocks: 11.2 million parameters. Takes the options of `ResNet`."""

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        stages: Stages = RESNET18_STAGES,
        **options: Any,
    ) -> None:
        super().__init__(stages, image_size, in_channels, num_classes, **options)
