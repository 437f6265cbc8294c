"""Fashion-MNIST from wherever it can be had, in memory as bytes, in an order that is a function of (seed, epoch)."""

from convnets.data.archive import DataUnavailableError
from convnets.data.fashion_mnist import FashionMNISTDataModule, FashionMNISTSampleDataModule
from convnets.data.sampling import derive_seed

__all__ = ["DataUnavailableError", "FashionMNISTDataModule", "FashionMNISTSampleDataModule", "derive_seed"]
