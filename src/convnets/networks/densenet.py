"""DenseNet: blocks in which each convolution sees the outputs of all before it, as in Dive into Deep Learning 8.7."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convnets.networks.layers import POOLINGS, PaddingMode, Pooling, Stem, activated, fitted_side, large_stem

BOTTLENECK_FACTOR = 4  # channels of a bottleneck for each channel of growth


class DenseBlock(nn.Module):
    """Convolutions, each with batch norm and ReLU before it, whose outputs are joined to their inputs.

    Maps (N, in_channels, H, W) to (N, in_channels + num_convs * growth, H, W).

    Args:
        growth: channels that each convolution adds.
        bottleneck: a 1x1 convolution to `4 * growth` channels comes before each 3x3 one.

    Source: Dive into Deep Learning 8.7.2; Huang et al., arXiv 1608.06993.
    """

    def __init__(
        self,
        num_convs: int,
        in_channels: int,
        growth: int,
        bottleneck: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(num_convs):
            channels, layers = in_channels + index * growth, []
            if bottleneck:
                inner = BOTTLENECK_FACTOR * growth
                layers = [*activated(channels, "batch"), nn.Conv2d(channels, inner, kernel_size=1)]
                channels = inner
            window = nn.Conv2d(channels, growth, kernel_size=3, padding=1, padding_mode=padding_mode)
            self.layers.append(nn.Sequential(*layers, *activated(channels, "batch"), window))

    def forward(self, images: Tensor) -> Tensor:
        """Join the input and each layer's output."""
        for layer in self.layers:
            images = torch.cat([images, layer(images)], dim=1)
        return images


def transition(in_channels: int, out_channels: int, pooling: Pooling = "avg") -> nn.Sequential:
    """Batch norm, ReLU, a 1x1 convolution to fewer channels, and pooling that halves the image."""
    return nn.Sequential(
        *activated(in_channels, "batch"),
        nn.Conv2d(in_channels, out_channels, kernel_size=1),
        POOLINGS[pooling](kernel_size=2, stride=2),
    )


class DenseNet(nn.Sequential):
    """A stem, dense blocks with transitions between them, a pooled dense layer. The shapes are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        num_convs: 3x3 convolutions of each dense block.
        growth: channels that each of them adds.
        bottleneck: a 1x1 convolution comes before each of them; see `DenseBlock`.
        pooling: of the transitions.
        stem: "small" replaces the first convolution and its pooling by a 3x3 convolution that keeps the image's size.

    Raises:
        ValueError: the image is too small for the transitions.

    Source: Dive into Deep Learning 8.7; Huang et al., arXiv 1608.06993.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        num_convs: Sequence[int] = (4, 4, 4, 4),
        growth: int = 32,
        bottleneck: bool = False,
        pooling: Pooling = "avg",
        padding_mode: PaddingMode = "zeros",
        stem: Stem = "book",
    ) -> None:
        channels = 64
        first = large_stem(in_channels, channels, stem, "batch", "relu", padding_mode)  # (N, 64, 24, 24)
        bodies: list[nn.Module] = []
        for index, number in enumerate(num_convs):
            if index > 0:
                bodies.append(transition(channels, channels // 2, pooling))
                channels //= 2
            bodies.append(DenseBlock(number, channels, growth, bottleneck, padding_mode))
            channels += number * growth
        fitted_side(f"DenseNet with {len(num_convs)} blocks", [first, *bodies], image_size, stem)
        super().__init__(
            first,  # (N, 64, 24, 24)
            *bodies,  # (N, 192, 24, 24), (N, 96, 12, 12), (N, 224, 12, 12), (N, 112, 6, 6), (N, 240, 6, 6),
            # (N, 120, 3, 3), (N, 248, 3, 3)
            nn.Sequential(
                *activated(channels, "batch"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
            ),  # (N, 10)
        )
