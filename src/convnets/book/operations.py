"""The operations of Dive into Deep Learning, chapter 7, written as loops to be read; and batch norm (8.5).

`torch.nn.functional` has all of them, faster; the tests hold the two equal.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The only start, on a grid of 0.0001, from which all seven numbers that the book prints come out.
BOOK_START = ((0.0025, 0.7060),)


def corr2d(image: Float[Tensor, "H W"], kernel: Float[Tensor, "h w"]) -> Float[Tensor, "H-h+1 W-w+1"]:
    """Slide the kernel over the image and sum the products (cross-correlation).

    Raises:
        ValueError: not two dimensions each, or the kernel is larger than the image.

    Source: Dive into Deep Learning 7.2.1.
    """
    _need_dimensions("the image", image, 2, "(height, width)")
    _need_dimensions("the kernel", kernel, 2, "(height, width)")
    (height, width), (h, w) = image.shape, kernel.shape
    if h > height or w > width or kernel.numel() == 0:
        raise ValueError(f"The kernel ({h}x{w}) must hold something and fit into the image ({height}x{width}).")
    rows = []
    for i in range(height - h + 1):
        row = []
        for j in range(width - w + 1):
            window = image[i : i + h, j : j + w]
            row.append((window * kernel).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def convolve2d(image: Float[Tensor, "H W"], kernel: Float[Tensor, "h w"]) -> Float[Tensor, "H+h-1 W+w-1"]:
    """Convolve in the strict sense: the kernel is flipped on both axes, and slides over every overlap.

    Symmetric: `convolve2d(f, g)` equals `convolve2d(g, f)`.

    Raises:
        ValueError: not two dimensions each.

    Source: Dive into Deep Learning 7.1.3 and exercise 7.1.6.
    """
    _need_dimensions("the image", image, 2, "(height, width)")
    _need_dimensions("the kernel", kernel, 2, "(height, width)")
    h, w = kernel.shape
    surrounded = nn.functional.pad(image, (w - 1, w - 1, h - 1, h - 1))
    return corr2d(surrounded, kernel.flip(0, 1))


def corr2d_multi_in(image: Float[Tensor, "C H W"], kernel: Float[Tensor, "C h w"]) -> Float[Tensor, "H-h+1 W-w+1"]:
    """Cross-correlate each channel with its own kernel, and add them up.

    Raises:
        ValueError: not three dimensions each, or different numbers of channels.

    Source: Dive into Deep Learning 7.4.1.
    """
    _need_dimensions("the image", image, 3, "(channels, height, width)")
    _need_dimensions("the kernel", kernel, 3, "(channels, height, width)")
    if len(image) != len(kernel) or len(image) == 0:
        raise ValueError(
            f"The image has {len(image)} channels and the kernel {len(kernel)}: they must be as many, and at least one."
        )
    total = corr2d(image[0], kernel[0])
    for channel, its_kernel in zip(image[1:], kernel[1:], strict=True):
        total = total + corr2d(channel, its_kernel)
    return total


def corr2d_multi_in_out(
    image: Float[Tensor, "C H W"], kernels: Float[Tensor, "O C h w"]
) -> Float[Tensor, "O H-h+1 W-w+1"]:
    """Cross-correlate the image with each kernel of the bank: one output channel for each.

    Raises:
        ValueError: the bank has not four dimensions, or the channels differ.

    Source: Dive into Deep Learning 7.4.2.
    """
    _need_dimensions("the kernel bank", kernels, 4, "(output channels, input channels, height, width)")
    return torch.stack([corr2d_multi_in(image, kernel) for kernel in kernels])


def corr2d_multi_in_out_1x1(image: Float[Tensor, "C H W"], kernels: Float[Tensor, "O C 1 1"]) -> Float[Tensor, "O H W"]:
    """Cross-correlate with 1x1 kernels, as the matrix product over channels that it is.

    Raises:
        ValueError: the kernels are not 1x1, or the channels differ.

    Source: Dive into Deep Learning 7.4.3.
    """
    _need_dimensions("the image", image, 3, "(channels, height, width)")
    _need_dimensions("the kernel bank", kernels, 4, "(output channels, input channels, 1, 1)")
    if kernels.shape[1:] != (len(image), 1, 1):
        raise ValueError(f"The kernels must be {len(image)}x1x1 each for this image, got a bank of {_size(kernels)}.")
    channels, height, width = image.shape
    pixels = image.reshape(channels, height * width)
    weights = kernels.reshape(len(kernels), channels)
    return (weights @ pixels).reshape(len(kernels), height, width)


def pool2d(
    image: Float[Tensor, "H W"],
    window: tuple[int, int],
    mode: Literal["max", "avg"] = "max",
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Float[Tensor, "H_out W_out"]:
    """Take the maximum or the average of each window; H_out is (H + 2 padding - window) // stride + 1.

    As in PyTorch, padding never wins a maximum, and counts as zeros in an average.

    Raises:
        ValueError: not two dimensions, an unknown mode, or a window that does not fit.

    Source: Dive into Deep Learning 7.5.1 and 7.5.2.
    """
    _need_dimensions("the image", image, 2, "(height, width)")
    if mode not in ("max", "avg"):
        raise ValueError(f"The mode must be max or avg, got {mode!r}.")
    (h, w), (down, right) = window, padding
    if not (0 <= down <= h // 2 and 0 <= right <= w // 2):
        raise ValueError(f"The padding must be from 0 to half of the {h}x{w} window, got {padding}.")
    outside = float("-inf") if mode == "max" else 0.0
    padded = nn.functional.pad(image, (right, right, down, down), value=outside)
    if min(h, w, *stride) < 1 or h > padded.shape[0] or w > padded.shape[1]:
        raise ValueError(f"A {h}x{w} window with stride {stride} does not fit the padded image ({_size(padded)}).")
    rows = []
    for i in range(0, padded.shape[0] - h + 1, stride[0]):
        row = []
        for j in range(0, padded.shape[1] - w + 1, stride[1]):
            values = padded[i : i + h, j : j + w]
            row.append(values.max() if mode == "max" else values.mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def batch_norm(images: Tensor, running: Tensor, is_training: bool) -> tuple[Tensor, Tensor]:
    """Batch norm of images (N, C, H, W) without scale and shift, with momentum 0.1 and epsilon 1e-5.

    Args:
        running: mean and variance (2, C) of the batches so far; they are what normalises in prediction.

    Returns:
        The normalised images, and the running mean and variance after them.

    Source: Dive into Deep Learning 8.5.3, but with PyTorch's running variance, which is the unbiased one.
    """
    statistics = running
    if is_training:
        statistics = torch.stack([images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)])
        num_values = images[:, 0].numel()
        unbiased = statistics * torch.tensor([[1], [num_values / (num_values - 1)]])
        running = 0.9 * running + 0.1 * unbiased
    mean, variance = statistics.view(2, -1, 1, 1)
    return (images - mean) / (variance + 1e-5).sqrt(), running


class Conv2D(nn.Module):
    """A convolutional layer with one kernel, drawn uniformly from [0, 1), and one bias, 0 at first.

    Maps an image (H, W) to (H-h+1, W-w+1).

    Source: Dive into Deep Learning 7.2.2.
    """

    def __init__(self, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(kernel_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: Float[Tensor, "H W"]) -> Float[Tensor, "H-h+1 W-w+1"]:
        """Cross-correlate, and add the bias."""
        return corr2d(image, self.weight) + self.bias


def learn_kernel(
    image: Float[Tensor, "H W"],
    target: Float[Tensor, "H W-1"],
    start: tuple[tuple[float, ...], ...] | None = BOOK_START,
    num_steps: int = 10,
    lr: float = 0.03,
) -> tuple[Float[Tensor, "h w"], list[float]]:
    """Find the kernel that turns the image into the target, by gradient descent on the sum of squared errors.

    Args:
        start: the kernel to start from; None draws a 1x2 kernel uniformly from [0, 1).

    Returns:
        The kernel, and the loss before each step.

    Raises:
        ValueError: not two dimensions each, or the target has not the size that such a kernel gives.

    Source: Dive into Deep Learning 7.2.4.
    """
    kernel = torch.rand(1, 2) if start is None else torch.tensor(start)
    _need_dimensions("the image", image, 2, "(height, width)")
    _need_dimensions("the kernel to start from", kernel, 2, "(height, width)")
    expected = (image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1)
    if target.shape != expected:
        raise ValueError(
            f"The target must be {expected[0]}x{expected[1]} for this image and kernel, got {_size(target)}."
        )
    losses = []
    for _ in range(num_steps):
        kernel.requires_grad_(True)
        loss = ((corr2d(image, kernel) - target) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, kernel)
        kernel = kernel.detach() - lr * gradient
        losses.append(loss.item())
    return kernel, losses


def _need_dimensions(what: str, tensor: Tensor, number: int, names: str) -> None:
    if tensor.dim() != number:
        raise ValueError(f"{what[0].upper()}{what[1:]} must have {number} dimensions {names}, got {_size(tensor)}.")


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
