"""ResNet from residual blocks, as in Dive into Deep Learning 8.6."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from convnets.networks.padding import PaddingMode

Stages = Sequence[tuple[int, int]]

RESNET18_STAGES: Stages = ((2, 64), (2, 128), (2, 256), (2, 512))


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut: relu(residual(x) + shortcut(x)).

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)). The shortcut is the identity,
    or a 1x1 convolution (without batch norm, as in the book) where the shape changes.

    Source: Dive into Deep Learning 8.6.2; He et al., arXiv 1512.03385.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, padding_mode: PaddingMode = "zeros"
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, padding_mode=padding_mode),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, padding_mode=padding_mode),
            nn.BatchNorm2d(out_channels),
        )
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        return F.relu(self.residual(images) + self.shortcut(images))


class ResNet(nn.Sequential):
    """A stem, stages of residual blocks, a pooled dense layer. The shapes beside the layers are those of a 96x96 image.

    Takes images (N, in_channels, image_size, image_size) in [0, 1] and returns scores (N, num_classes). The weights do
    not depend on `image_size`; it is there to be checked.

    Args:
        stages: (number of blocks, channels) of each stage; every stage but the first halves the image.
        block: makes a residual block from (input channels, output channels, stride, padding mode).

    Raises:
        ValueError: the image is too small for the padding of the stem or of the last stage.

    Source: Dive into Deep Learning 8.6; He et al., arXiv 1512.03385.
    """

    def __init__(
        self,
        stages: Stages,
        image_size: int = 96,
        in_channels: int = 1,
        num_classes: int = 10,
        padding_mode: PaddingMode = "zeros",
        block: Callable[[int, int, int, PaddingMode], nn.Module] = Residual,
    ) -> None:
        # A reflection is narrower than what it reflects, and a wrap no wider; the other paddings take any size.
        smallest = {"reflect": 2 ** (len(stages) + 1) + 1, "circular": 3}.get(padding_mode, 1)
        if image_size < smallest:
            raise ValueError(
                f"ResNet with {len(stages)} stages and padding_mode={padding_mode} needs images of at least {smallest} "
                f"pixels, got {image_size}: set data.resize={smallest} or more."
            )
        channels = stages[0][1]
        stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, padding_mode=padding_mode),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        bodies = []
        for index, (num_blocks, out_channels) in enumerate(stages):
            blocks = []
            for position in range(num_blocks):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, out_channels, stride, padding_mode))
                channels = out_channels
            bodies.append(nn.Sequential(*blocks))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
        super().__init__(
            stem,  # (N, 64, 24, 24)
            *bodies,  # (N, 64, 24, 24), (N, 128, 12, 12), (N, 256, 6, 6), (N, 512, 3, 3)
            head,  # (N, 10)
        )


class ResNet18(ResNet):
    """ResNet with four stages of two blocks: 11.2 million parameters."""

    def __init__(
        self, image_size: int = 96, in_channels: int = 1, num_classes: int = 10, padding_mode: PaddingMode = "zeros"
    ) -> None:
        super().__init__(RESNET18_STAGES, image_size, in_channels, num_classes, padding_mode)
