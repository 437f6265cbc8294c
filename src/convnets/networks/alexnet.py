"""AlexNet, as in Dive into Deep Learning 8.1."""

from torch import nn

from convnets.networks.layers import PaddingMode, Stem, fitted_side, small_stem


class AlexNet(nn.Sequential):
    """Five convolutions and three dense layers. The shapes beside the layers are those of a 224x224 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes).

    Args:
        dropout: probability of zeroing a unit after each of the two hidden dense layers.
        stem: "small" replaces the first convolution and its pooling by a 3x3 convolution that keeps the image's size.

    Raises:
        ValueError: the image is too small for the pooling layers.

    Source: Dive into Deep Learning 8.1; Krizhevsky et al., ImageNet classification with deep convolutional neural
    networks (2012).
    """

    def __init__(
        self,
        image_size: int = 224,
        in_channels: int = 1,
        num_classes: int = 10,
        dropout: float = 0.5,
        padding_mode: PaddingMode = "zeros",
        stem: Stem = "book",
    ) -> None:
        first: tuple[nn.Module, ...] = (
            nn.Conv2d(
                in_channels, 96, kernel_size=11, stride=4, padding=1, padding_mode=padding_mode
            ),  # (N, 96, 54, 54)
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 96, 26, 26)
        )
        if stem == "small":
            first = (small_stem(in_channels, 96, padding_mode, nn.ReLU()),)
        convolutions = (
            *first,
            nn.Conv2d(96, 256, kernel_size=5, padding=2, padding_mode=padding_mode),  # (N, 256, 26, 26)
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 12, 12)
            nn.Conv2d(256, 384, kernel_size=3, padding=1, padding_mode=padding_mode),  # (N, 384, 12, 12)
            nn.ReLU(),
            nn.Conv2d(384, 384, kernel_size=3, padding=1, padding_mode=padding_mode),  # (N, 384, 12, 12)
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1, padding_mode=padding_mode),  # (N, 256, 12, 12)
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 5, 5)
        )
        side = fitted_side("AlexNet", convolutions, image_size, stem)
        super().__init__(
            *convolutions,
            nn.Flatten(),  # (N, 6400)
            nn.Linear(256 * side * side, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
