"""SpeedNet: a small network that learns fast, for races against the clock."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from convnets.networks.layers import ACTIVATIONS, Activation, fitted_side


class Temperature(nn.Module):
    """Divides scores by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor) -> Tensor:
        """The scores, divided."""
        return scores / self.temperature


def speed_block(
    num_convs: int, in_channels: int, out_channels: int, norm_momentum: float, activation: Activation
) -> nn.Sequential:
    """3x3 convolutions, each with batch norm and activation; the first one's output is halved by max-pooling."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False))
        layers += [] if layers[1:] else [nn.MaxPool2d(kernel_size=2, stride=2)]
        layers += [nn.BatchNorm2d(out_channels, momentum=norm_momentum), ACTIVATIONS[activation]()]
        in_channels = out_channels
    return nn.Sequential(*layers)


class SpeedNet(nn.Sequential):
    """A strided convolution, blocks that halve the image, and a head without bias that begins unsure.

    Takes images (N, in_channels, image_size, image_size) and returns scores (N, num_classes). Its convolutions begin as
    near to the identity as they can (init=default keeps that), so that the first steps find something to build on.

    Args:
        channels: of the stem, then of each block.
        depth: convolutions of each block.
        norm_momentum: of batch norm: the share of its running statistics that each batch renews. Short trainings need
            more than torch's 0.1.
        temperature: that the scores are divided by.

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
        channels: Sequence[int] = (32, 64, 128),
        depth: int = 3,
        activation: Activation = "gelu",
        norm_momentum: float = 0.4,
        temperature: float = 9.0,
    ) -> None:
        first, *_ = channels
        stem = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=4, stride=2, padding=1), ACTIVATIONS[activation]()
        )
        blocks = [
            speed_block(depth, before, after, norm_momentum, activation)
            for before, after in itertools.pairwise(channels)
        ]
        fitted_side(f"SpeedNet with {len(blocks)} blocks", [stem, *blocks], image_size)
        head = nn.Linear(channels[-1], num_classes, bias=False)
        super().__init__(stem, *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), head, Temperature(temperature))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                if layer.bias is None:  # within a block
                    nn.init.dirac_(layer.weight.data[: layer.in_channels])
        head.weight.data /= head.weight.std()
