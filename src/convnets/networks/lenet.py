"""LeNet, as in Dive into Deep Learning 7.6, and its variants: with batch norm (8.5), wider, deeper, other pooling."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from convnets.networks.layers import POOLINGS, Activation, Norm, PaddingMode, Pooling, activated, fitted_side

LeNetNorm = Norm | Literal["batch_convolutions", "batch_dense"]
NORMS: Mapping[str, tuple[Norm, Norm]] = {  # of the convolutions, and of the dense layers
    "none": ("none", "none"),
    "batch": ("batch", "batch"),
    "batch_after": ("batch_after", "batch_after"),
    "batch_convolutions": ("batch", "none"),
    "batch_dense": ("none", "batch"),
}


class LeNet(nn.Sequential):
    """Convolutions, each with pooling, then dense layers. The shapes are the default's of a 28x28 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes).

    Args:
        channels: of each convolution.
        padding: of the first convolution: "half" its kernel, rounded down, or "none". The others have none.
        hidden: units of each dense layer but the last.
        norm: batch norm before every activation ("batch"), after it ("batch_after"), or before those of one kind of
            layers alone ("batch_convolutions", "batch_dense").

    Raises:
        ValueError: the image is too small for the convolutions and pooling layers.

    Source: Dive into Deep Learning 7.6 and 8.5; LeCun et al., Gradient-based learning applied to document recognition
    (1998).
    """

    def __init__(
        self,
        image_size: int = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        activation: Activation = "sigmoid",
        padding_mode: PaddingMode = "zeros",
        channels: Sequence[int] = (6, 16),
        kernel_size: int = 5,
        padding: Literal["half", "none"] = "half",
        hidden: Sequence[int] = (120, 84),
        pooling: Pooling = "avg",
        norm: LeNetNorm = "none",
    ) -> None:
        of_convolutions, of_dense = NORMS[norm]
        pixels = kernel_size // 2 if padding == "half" else 0
        layers: list[nn.Module] = []
        for width in channels:
            layers += [
                nn.Conv2d(in_channels, width, kernel_size, padding=pixels, padding_mode=padding_mode),
                *activated(width, of_convolutions, activation),  # (N, 6, 28, 28), then (N, 16, 10, 10)
                POOLINGS[pooling](kernel_size=2, stride=2),  # (N, 6, 14, 14), then (N, 16, 5, 5)
            ]
            in_channels, pixels = width, 0
        name = f"LeNet with {len(channels)} convolutions of {kernel_size}x{kernel_size}"
        size = in_channels * fitted_side(name, layers, image_size) ** 2
        layers.append(nn.Flatten())  # (N, 400)
        for width in hidden:
            layers += [nn.Linear(size, width), *activated(width, of_dense, activation, flat=True)]  # (N, 120), (N, 84)
            size = width
        super().__init__(*layers, nn.Linear(size, num_classes))  # (N, 10)
