"""Sets of images: Fashion-MNIST from wherever it can be had, and the datamodule that serves any set."""

from convnets.data.archive import DataUnavailableError
from convnets.data.fashion_mnist import FashionMNISTDataModule, FashionMNISTSampleDataModule
from convnets.data.images import ImageDataModule
from convnets.data.sampling import Batch, derive_seed

__all__ = [
    "Batch",
    "DataUnavailableError",
    "FashionMNISTDataModule",
    "FashionMNISTSampleDataModule",
    "ImageDataModule",
    "derive_seed",
]
