"""VGG: blocks of 3x3 convolutions, then dense layers, as in Dive into Deep Learning 8.2."""

from collections.abc import Sequence

from torch import nn

from convnets.networks.layers import ACTIVATIONS, Activation, Norm, PaddingMode, activated, fitted_side

Blocks = Sequence[tuple[int, int]]

QUARTER_WIDTH_BLOCKS: Blocks = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
VGG11_BLOCKS: Blocks = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))


def vgg_block(
    num_convs: int,
    in_channels: int,
    out_channels: int,
    padding_mode: PaddingMode = "zeros",
    norm: Norm = "none",
    activation: Activation = "relu",
) -> nn.Sequential:
    """`num_convs` 3x3 convolutions that keep the size, each activated, then 2x2 max-pooling that halves it."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, padding_mode=padding_mode))
        layers += activated(out_channels, norm, activation)
        in_channels = out_channels
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, stride=2))


class VGG(nn.Sequential):
    """VGG; the default is the quarter-width VGG-11 that the book trains, `VGG11_BLOCKS` the full-width one it lists.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes).

    Args:
        blocks: (number of convolutions, output channels) of each block; each block halves the image.
        dropout: probability of zeroing a unit after each hidden dense layer.
        norm: batch norm of the convolutions, before ("batch") or after ("batch_after") the activation.
        hidden: units of each dense layer but the last.

    Raises:
        ValueError: the image is too small to be halved once per block.

    Source: Dive into Deep Learning 8.2; Simonyan and Zisserman, arXiv 1409.1556 (configuration A).
    """

    def __init__(
        self,
        image_size: int = 224,
        in_channels: int = 1,
        num_classes: int = 10,
        blocks: Blocks = QUARTER_WIDTH_BLOCKS,
        dropout: float = 0.5,
        padding_mode: PaddingMode = "zeros",
        norm: Norm = "none",
        activation: Activation = "relu",
        hidden: Sequence[int] = (4096, 4096),
    ) -> None:
        convolutions = []
        for num_convs, out_channels in blocks:
            convolutions.append(vgg_block(num_convs, in_channels, out_channels, padding_mode, norm, activation))
            in_channels = out_channels
        side = fitted_side(f"VGG with {len(blocks)} pooling blocks", convolutions, image_size)
        dense: list[nn.Module] = []
        size = in_channels * side * side
        for width in hidden:
            dense += [nn.Linear(size, width), ACTIVATIONS[activation](), nn.Dropout(dropout)]
            size = width
        super().__init__(
            *convolutions, nn.Flatten(), *dense, nn.Linear(size, num_classes)
        )  # of 224x224: (N, 128, 7, 7)
