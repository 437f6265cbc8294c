"""Chapter 7 and batch norm by hand, and every value that the book's sections compute or print."""

from convnets.book.operations import (
    Conv2D,
    batch_norm,
    convolve2d,
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    learn_kernel,
    pool2d,
)

__all__ = [
    "Conv2D",
    "batch_norm",
    "convolve2d",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "corr2d_multi_in_out_1x1",
    "learn_kernel",
    "pool2d",
]
