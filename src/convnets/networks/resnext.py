"""ResNeXt: ResNet's stages with convolutions split into groups of channels, as in Dive into Deep Learning 8.6.5."""

from typing import Any

from convnets.networks.resnet import RESNET18_STAGES, BottleneckRatio, ResNet, Stages


class ResNeXt18(ResNet):
    """The stages of ResNet18 with ResNeXt blocks. The book names it only. Takes the options of `ResNet`.

    Args:
        num_groups: groups of every block, 32 unless said otherwise; or
        group_width: channels of a group; give one of the two.

    Source: Dive into Deep Learning 8.6.5; Xie et al., arXiv 1611.05431.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        stages: Stages = RESNET18_STAGES,
        bottleneck_ratio: BottleneckRatio = 1.0,
        **options: Any,
    ) -> None:
        if not (options.get("num_groups") or options.get("group_width")):
            options["num_groups"] = 32
        super().__init__(stages, image_size, in_channels, num_classes, bottleneck_ratio=bottleneck_ratio, **options)
