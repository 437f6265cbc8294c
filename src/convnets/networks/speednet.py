"""SpeedNet: a small network that learns fast, for races against the clock."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from convnets.networks.layers import ACTIVATIONS, Activation, fitted_side


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """The values times the factor."""
        return values * self.factor


def speed_block(in_channels: int, out_channels: int, norm_momentum: float, activation: Activation) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and activation; the first one's output is halved by max-pooling."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False))
        layers += [nn.MaxPool2d(kernel_size=2, stride=2)] if len(layers) == 1 else []
        layers += [nn.BatchNorm2d(out_channels, momentum=norm_momentum), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class SpeedNet(nn.Sequential):
    """A strided convolution, blocks that halve the image, and a head without bias that begins unsure.

    Takes images (N, in_channels, image_size, image_size) and returns scores (N, num_classes). Its convolutions begin as
    near to the identity as they can (init=default keeps that), so that the first steps find something to build on.

    Args:
        channels: of the stem, then of each block.
        norm_momentum: of batch norm: the share of its running statistics that each batch renews. Short trainings need
            more than torch's 0.1.
        scale: of the scores.

    Raises:
        ValueError: the image is too small to be halved once per block.

    Source: the ideas of Keller Jordan's airbench (arXiv 2404.00498) that a processor gains from; the stem that halves
    the image in place of whitening is for few channels and no GPU.
    """

    def __init__(
        self,
        image_size: int = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 64, 128, 128),
        activation: Activation = "gelu",
        norm_momentum: float = 0.4,
        scale: float = 1 / 9,
    ) -> None:
        first, *_ = channels
        stem = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=4, stride=2, padding=1), ACTIVATIONS[activation]()
        )
        blocks = [
            speed_block(before, after, norm_momentum, activation) for before, after in itertools.pairwise(channels)
        ]
        fitted_side(f"SpeedNet with {len(blocks)} blocks", [stem, *blocks], image_size)
        head = nn.Linear(channels[-1], num_classes, bias=False)
        super().__init__(stem, *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), head, Scale(scale))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                if layer.bias is None:  # within a block
                    nn.init.dirac_(layer.weight.data[: layer.in_channels])
        head.weight.data /= head.weight.std()
