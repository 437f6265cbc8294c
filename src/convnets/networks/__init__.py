"""Networks as plain nn.Modules with explicit sizes, one class a file, and a summary of any network's layers."""

from convnets.networks.alexnet import AlexNet
from convnets.networks.densenet import DenseBlock, DenseNet, transition
from convnets.networks.googlenet import GoogLeNet, Inception
from convnets.networks.head import head_of
from convnets.networks.lazy import give_sizes
from convnets.networks.lenet import LeNet
from convnets.networks.nin import NiN
from convnets.networks.regnet import RegNet
from convnets.networks.residual import Residual, ResNeXtBlock
from convnets.networks.resnet import ResNet, ResNet18
from convnets.networks.resnext import ResNeXt18
from convnets.networks.speednet import SpeedNet
from convnets.networks.summary import as_table, summarize
from convnets.networks.vgg import VGG, VGG11_BLOCKS

__all__ = [
    "VGG",
    "VGG11_BLOCKS",
    "AlexNet",
    "DenseBlock",
    "DenseNet",
    "GoogLeNet",
    "Inception",
    "LeNet",
    "NiN",
    "RegNet",
    "ResNeXt18",
    "ResNeXtBlock",
    "ResNet",
    "ResNet18",
    "Residual",
    "SpeedNet",
    "as_table",
    "give_sizes",
    "head_of",
    "summarize",
    "transition",
]
