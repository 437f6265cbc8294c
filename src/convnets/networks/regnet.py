"""RegNet, as in Dive into Deep Learning 8.8."""

from typing import Any

from convnets.networks.resnet import BottleneckRatio, ResNet, Stages

REGNETX32_STAGES: Stages = ((4, 32), (6, 80))


class RegNet(ResNet):
    """ResNeXt blocks behind a stem of one convolution; every stage halves the image. The default is RegNetX-32.

    Takes the options of `ResNet`.

    Args:
        bottleneck_ratio: "none" takes ResNet's blocks, without groups, in place of ResNeXt's.
        group_width: channels of a group; 16 in ResNeXt's blocks unless said otherwise.
        stem: "small" keeps the image's size, where the book's halves it.

    Source: Dive into Deep Learning 8.8; Radosavovic et al., arXiv 2003.13678.
    """

    stem_channels = 32
    stem_pools = False

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        stages: Stages = REGNETX32_STAGES,
        bottleneck_ratio: BottleneckRatio = 1.0,
        **options: Any,
    ) -> None:
        if bottleneck_ratio != "none" and not (options.get("num_groups") or options.get("group_width")):
            options["group_width"] = 16
        super().__init__(stages, image_size, in_channels, num_classes, bottleneck_ratio=bottleneck_ratio, **options)
