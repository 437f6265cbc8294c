"""Layers that several networks are made of, and the sizes that images have after them."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn

# What a convolution takes for pixels beyond the border of its image. Away from the border all are equivariant to
# translation; "circular" is so everywhere, at stride 1.
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Activation = Literal["sigmoid", "tanh", "relu", "gelu"]
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
Pooling = Literal["avg", "max"]
POOLINGS: Mapping[str, type[nn.AvgPool2d | nn.MaxPool2d]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
Norm = Literal["none", "batch", "batch_after"]
Stem = Literal["book", "small"]


class SmallStem(nn.Sequential):
    """The first layers of a network, when they are made for images of 28 or 32 pixels: nothing in them halves."""


def small_stem(in_channels: int, channels: int, padding_mode: PaddingMode, *after: nn.Module) -> SmallStem:
    """A 3x3 convolution that keeps the image's size, and what comes after it."""
    return SmallStem(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, padding_mode=padding_mode), *after)


def normalized(channels: int, norm: Norm) -> list[nn.Module]:
    """Batch norm of images (N, channels, H, W), unless `norm` is "none"."""
    return [] if norm == "none" else [nn.BatchNorm2d(channels)]


def activated(
    channels: int, norm: Norm = "none", activation: Activation = "relu", flat: bool = False
) -> list[nn.Module]:
    """An activation, with batch norm before it ("batch"), after it ("batch_after") or without.

    Args:
        flat: of outputs (N, channels) of dense layers, not of images (N, channels, H, W).

    Raises:
        ValueError: another `norm`.
    """
    if norm not in ("none", "batch", "batch_after"):
        raise ValueError(f"The norm of this network is none, batch or batch_after, got {norm}: set model.norm=batch.")
    layers: list[nn.Module] = [ACTIVATIONS[activation]()]
    if norm != "none":
        layers.insert(norm == "batch_after", (nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels))
    return layers


def large_stem(
    in_channels: int,
    channels: int,
    stem: Stem,
    norm: Norm,
    activation: Activation,
    padding_mode: PaddingMode,
    pools: bool = True,
) -> nn.Sequential:
    """The first layers of ResNet, DenseNet and GoogLeNet: they quarter the image; stem "small" keeps its size.

    Args:
        pools: else the layers are RegNet's, a 3x3 convolution in place of 7x7 and pooling, and halve the image.
    """
    after = activated(channels, norm, activation)
    if stem == "small":
        return small_stem(in_channels, channels, padding_mode, *after)
    size = 7 if pools else 3
    window = nn.Conv2d(in_channels, channels, size, stride=2, padding=size // 2, padding_mode=padding_mode)
    return nn.Sequential(window, *after, *([nn.MaxPool2d(kernel_size=3, stride=2, padding=1)] if pools else []))


def fitted_side(name: str, layers: Iterable[nn.Module], image_size: int, stem: Stem = "small") -> int:
    """Side of the feature maps, in units, that images of this size have after layers that follow one another.

    Layers beside one another, such as the branches of an Inception block, count as a sequence: they keep the size.

    Args:
        name: of the network, for the error.
        stem: "book" where the network has a small one too, which is then a way out beside a larger image.

    Raises:
        ValueError: the image is too small for a window or for its padding; the error names the smallest that is not.
    """
    modules = [module for layer in layers for module in layer.modules()]
    windows = [module for module in modules if isinstance(module, (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d))]
    if side := _side_after(windows, image_size):
        return side
    smallest = next(size for size in itertools.count(image_size + 1) if _side_after(windows, size))
    way_out = ", or model.stem=small" if stem == "book" else ""
    raise ValueError(
        f"{name} needs images of at least {smallest} pixels, got {image_size}: "
        f"set data.resize={smallest} or more{way_out}."
    )


def _side_after(windows: Iterable[nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d], side: int) -> int:
    """Side after convolutions and pooling, or 0 where one of them does not fit."""
    for window in windows:
        kernel, stride, padding = (
            value[0] if isinstance(value, tuple) else int(value)
            for value in (window.kernel_size, window.stride, window.padding)
        )
        # A reflection is narrower than what it reflects, and a wrap no wider; the other paddings take any size.
        widest = {"reflect": side - 1, "circular": side}.get(getattr(window, "padding_mode", "zeros"), padding)
        side = (side + 2 * padding - kernel) // stride + 1
        if side < 1 or padding > widest:
            return 0
    return side
