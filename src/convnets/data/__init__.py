"""Sets of images: Fashion-MNIST and the other classic ones, folders of pictures, and what serves any set."""

from convnets.data.archive import DataUnavailableError
from convnets.data.fashion_mnist import FashionMNISTDataModule, FashionMNISTSampleDataModule
from convnets.data.image_folder import ImageFolderDataModule
from convnets.data.images import ImageDataModule
from convnets.data.sampling import Batch, derive_seed
from convnets.data.torchvision_sets import TorchvisionDataModule

__all__ = [
    "Batch",
    "DataUnavailableError",
    "FashionMNISTDataModule",
    "FashionMNISTSampleDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "TorchvisionDataModule",
    "derive_seed",
]
