"""LeNet with sigmoids and average pooling, as in Dive into Deep Learning 7.6."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from convnets.networks.padding import PaddingMode

Activation = Literal["sigmoid", "tanh", "relu"]
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class LeNet(nn.Sequential):
    """Two convolutions and three dense layers. The shapes beside the layers are those of a 28x28 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes).

    Raises:
        ValueError: the image is too small for the two pooling layers.

    Source: Dive into Deep Learning 7.6; LeCun et al., Gradient-based learning applied to document recognition (1998).
    """

    def __init__(
        self,
        image_size: int = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        activation: Activation = "sigmoid",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        if image_size < 12:
            raise ValueError(f"LeNet needs images of at least 12 pixels, got {image_size}: set data.resize=12 or more.")
        activation_layer = ACTIVATIONS[activation]
        side = (image_size // 2 - 4) // 2  # halved, shrunk by the unpadded 5x5 convolution, halved
        super().__init__(
            nn.Conv2d(in_channels, 6, kernel_size=5, padding=2, padding_mode=padding_mode),  # (N, 6, 28, 28)
            activation_layer(),
            nn.AvgPool2d(kernel_size=2, stride=2),  # (N, 6, 14, 14)
            nn.Conv2d(6, 16, kernel_size=5),  # (N, 16, 10, 10)
            activation_layer(),
            nn.AvgPool2d(kernel_size=2, stride=2),  # (N, 16, 5, 5)
            nn.Flatten(),  # (N, 400)
            nn.Linear(16 * side * side, 120),
            activation_layer(),
            nn.Linear(120, 84),
            activation_layer(),
            nn.Linear(84, num_classes),
        )
