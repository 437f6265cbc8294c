"""GoogLeNet from Inception blocks, as in Dive into Deep Learning 8.4."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convnets.networks.layers import Norm, PaddingMode, Stem, activated, fitted_side, large_stem

Widths = tuple[int, tuple[int, int], tuple[int, int], int]

BLOCKS: Sequence[Widths] = (
    (64, (96, 128), (16, 32), 32),
    (128, (128, 192), (32, 96), 64),
    (192, (96, 208), (16, 48), 64),
    (160, (112, 224), (24, 64), 64),
    (128, (128, 256), (24, 64), 64),
    (112, (144, 288), (32, 64), 64),
    (256, (160, 320), (32, 128), 128),
    (256, (160, 320), (32, 128), 128),
    (384, (192, 384), (48, 128), 128),
)


def convolution(in_channels: int, out_channels: int, norm: Norm, **options: Any) -> list[nn.Module]:
    """A convolution with ReLU, and with batch norm where `norm` says so."""
    return [nn.Conv2d(in_channels, out_channels, **options), *activated(out_channels, norm)]


class Inception(nn.Module):
    """Four branches beside one another, whose channels are joined: windows of 1x1, 3x3 and 5x5, and a maximum of 3x3.

    Maps (N, in_channels, H, W) to (N, sum of the branches' widths, H, W).

    Args:
        widths: channels of each branch; the second and third narrow the image with a 1x1 convolution first.

    Source: Dive into Deep Learning 8.4.1; Szegedy et al., arXiv 1409.4842.
    """

    def __init__(
        self, in_channels: int, widths: Widths, padding_mode: PaddingMode = "zeros", norm: Norm = "none"
    ) -> None:
        super().__init__()
        c1, (c2a, c2b), (c3a, c3b), c4 = widths
        padded: dict[str, Any] = {"padding_mode": padding_mode}
        self.branches = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                convolution(in_channels, c1, norm, kernel_size=1),
                [
                    *convolution(in_channels, c2a, norm, kernel_size=1),
                    *convolution(c2a, c2b, norm, kernel_size=3, padding=1, **padded),
                ],
                [
                    *convolution(in_channels, c3a, norm, kernel_size=1),
                    *convolution(c3a, c3b, norm, kernel_size=5, padding=2, **padded),
                ],
                [
                    nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
                    *convolution(in_channels, c4, norm, kernel_size=1),
                ],
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Join what the branches make of the images."""
        return torch.cat([branch(images) for branch in self.branches], dim=1)


class GoogLeNet(nn.Sequential):
    """Nine Inception blocks in three groups, after three convolutions. The shapes are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        stem: "small" replaces the first convolution and its pooling by a 3x3 convolution that keeps the image's size.

    Raises:
        ValueError: the image is too small for the padding.

    Source: Dive into Deep Learning 8.4; Szegedy et al., arXiv 1409.4842.
    """

    def __init__(
        self,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        padding_mode: PaddingMode = "zeros",
        norm: Norm = "none",
        stem: Stem = "book",
    ) -> None:
        def inceptions(in_channels: int, blocks: Sequence[Widths]) -> list[nn.Module]:
            inputs = [in_channels, *(c1 + c2[1] + c3[1] + c4 for c1, c2, c3, c4 in blocks)]
            return [Inception(c, widths, padding_mode, norm) for c, widths in zip(inputs, blocks, strict=False)]

        halved = functools.partial(nn.MaxPool2d, kernel_size=3, stride=2, padding=1)
        layers = (
            large_stem(in_channels, 64, stem, norm, "relu", padding_mode),  # (N, 64, 24, 24)
            nn.Sequential(
                *convolution(64, 64, norm, kernel_size=1),
                *convolution(64, 192, norm, kernel_size=3, padding=1, padding_mode=padding_mode),
                halved(),
            ),  # (N, 192, 12, 12)
            nn.Sequential(*inceptions(192, BLOCKS[:2]), halved()),  # (N, 480, 6, 6)
            nn.Sequential(*inceptions(480, BLOCKS[2:7]), halved()),  # (N, 832, 3, 3)
            nn.Sequential(*inceptions(832, BLOCKS[7:]), nn.AdaptiveAvgPool2d(1), nn.Flatten()),  # (N, 1024)
        )
        fitted_side(f"GoogLeNet with padding_mode={padding_mode}", layers, image_size, stem)
        super().__init__(*layers, nn.Linear(1024, num_classes))  # (N, 10)
