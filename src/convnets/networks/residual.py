"""Residual blocks, which add a shortcut to what their convolutions give, as in Dive into Deep Learning 8.6."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convnets.networks.layers import Activation, Norm, PaddingMode, activated, normalized


class _Block(nn.Module):
    """Adds a shortcut to the residual that convolutions give: activation(residual(x) + shortcut(x)).

    Args:
        convolutions: are normalised, and activated but for the last one.
        stride: of all of them together. The shortcut is the identity, or a 1x1 convolution where the shape changes.
        normalize_shortcut: batch norm follows that convolution too.
        preactivation: batch norm and activation come before each convolution, and none after the sum.
    """

    def __init__(
        self,
        convolutions: Sequence[nn.Conv2d],
        stride: int,
        normalize_shortcut: bool,
        norm: Norm = "batch",
        activation: Activation = "relu",
        preactivation: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for convolution in convolutions:
            if preactivation:
                layers += [*activated(convolution.in_channels, norm, activation), convolution]
            elif convolution is convolutions[-1]:
                layers += [convolution, *normalized(convolution.out_channels, norm)]
            else:
                layers += [convolution, *activated(convolution.out_channels, norm, activation)]
        self.residual = nn.Sequential(*layers)
        in_channels, out_channels = convolutions[0].in_channels, convolutions[-1].out_channels
        shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride)
            if normalize_shortcut:
                shortcut = nn.Sequential(shortcut, *normalized(out_channels, norm))
        self.shortcut = shortcut
        self.after_sum = None if preactivation else getattr(torch, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        total = self.residual(images) + self.shortcut(images)
        return total if self.after_sum is None else self.after_sum(total)


class Residual(_Block):
    """Two 3x3 convolutions with batch norm, added to a shortcut: relu(residual(x) + shortcut(x)).

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)). The shortcut is the identity,
    or a 1x1 convolution (without batch norm, as in the book) where the shape changes.

    Args:
        options: `norm`, `activation` and `preactivation`; see `_Block`.

    Source: Dive into Deep Learning 8.6.2; He et al., arXiv 1512.03385 and (preactivation) 1603.05027.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding_mode: PaddingMode = "zeros",
        **options: Any,
    ) -> None:
        window = functools.partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode=padding_mode)
        convolutions = [window(in_channels, out_channels, stride=stride), window(out_channels, out_channels)]
        super().__init__(convolutions, stride, normalize_shortcut=False, **options)


class ResNeXtBlock(_Block):
    """1x1, grouped 3x3 and 1x1 convolutions with batch norm, added to a shortcut: relu(residual(x) + shortcut(x)).

    Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        num_groups: number of groups that the channels of the 3x3 convolution are split into; 1 unless said otherwise.
        group_width: channels of one group instead (the book's argument `groups`).
        bottleneck_ratio: channels of the 3x3 convolution for each output channel.
        options: `norm`, `activation` and `preactivation`; see `_Block`.

    Raises:
        ValueError: both `num_groups` and `group_width`, the channels cannot be split so, or the bottleneck has none.

    Source: Dive into Deep Learning 8.6.5; Xie et al., arXiv 1611.05431.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding_mode: PaddingMode = "zeros",
        num_groups: int | None = None,
        group_width: int | None = None,
        bottleneck_ratio: float = 1.0,
        **options: Any,
    ) -> None:
        width = round(out_channels * bottleneck_ratio)
        if width < 1:
            raise ValueError(
                f"A bottleneck of {bottleneck_ratio:g} times {out_channels} channels leaves none: set more channels."
            )
        groups = _number_of_groups(width, num_groups, group_width)
        convolutions = [
            nn.Conv2d(in_channels, width, kernel_size=1),
            nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=groups, padding_mode=padding_mode),
            nn.Conv2d(width, out_channels, kernel_size=1),
        ]
        super().__init__(convolutions, stride, normalize_shortcut=True, **options)


def _number_of_groups(width: int, num_groups: int | None, group_width: int | None) -> int:
    if num_groups is not None and group_width is not None:
        raise ValueError(
            f"ResNeXt takes one of num_groups and group_width, got num_groups={num_groups}, group_width={group_width}."
        )
    part = (1 if num_groups is None else num_groups) if group_width is None else group_width
    if part < 1 or width % part:
        key = "num_groups" if group_width is None else "group_width"
        raise ValueError(f"{width} channels cannot be split with {key}={part}: it must divide them.")
    return part if group_width is None else width // part
