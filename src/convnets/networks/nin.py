"""Network in network: 1x1 convolutions in place of dense layers, as in Dive into Deep Learning 8.3."""

from typing import Any

from torch import nn

from convnets.networks.layers import PaddingMode, SmallStem, Stem, fitted_side


def nin_block(in_channels: int, out_channels: int, num_pointwise: int, **window: Any) -> nn.Sequential:
    """A convolution, then `num_pointwise` 1x1 convolutions, each with ReLU; `window` is the first one's kernel."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, **window), nn.ReLU()]
    for _ in range(num_pointwise):
        layers += [nn.Conv2d(out_channels, out_channels, kernel_size=1), nn.ReLU()]
    return nn.Sequential(*layers)


class NiN(nn.Sequential):
    """Four blocks, the last of them with a channel for each class. The shapes are those of a 224x224 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        num_pointwise: 1x1 convolutions in each block.
        dropout: probability of zeroing a unit before the last block.
        stem: "small" gives the first block a 3x3 window that keeps the image's size, and no pooling.

    Raises:
        ValueError: the image is too small for the pooling layers.

    Source: Dive into Deep Learning 8.3; Lin et al., arXiv 1312.4400.
    """

    def __init__(
        self,
        image_size: int = 224,
        in_channels: int = 1,
        num_classes: int = 10,
        num_pointwise: int = 2,
        dropout: float = 0.5,
        padding_mode: PaddingMode = "zeros",
        stem: Stem = "book",
    ) -> None:
        def block(in_channels: int, out_channels: int, **options: Any) -> nn.Sequential:
            return nin_block(in_channels, out_channels, num_pointwise, padding_mode=padding_mode, **options)

        first: tuple[nn.Module, ...] = (
            block(in_channels, 96, kernel_size=11, stride=4),  # (N, 96, 54, 54)
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 96, 26, 26)
        )
        if stem == "small":
            first = (SmallStem(*block(in_channels, 96, kernel_size=3, padding=1)),)
        layers = (
            *first,
            block(96, 256, kernel_size=5, padding=2),  # (N, 256, 26, 26)
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 12, 12)
            block(256, 384, kernel_size=3, padding=1),  # (N, 384, 12, 12)
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 384, 5, 5)
            nn.Dropout(dropout),
            block(384, num_classes, kernel_size=3, padding=1),  # (N, 10, 5, 5)
        )
        fitted_side("NiN", layers, image_size, stem)
        super().__init__(
            *layers,
            nn.AdaptiveAvgPool2d(1),  # (N, 10, 1, 1)
            nn.Flatten(),  # (N, 10)
        )
