"""torchvision's networks as oracles: the same functions where the weights are the same."""

import pytest
import torch
import torchvision.models
from torch import nn

from convnets.networks import VGG, DenseNet, ResNet

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
RESNETS = {
    "resnet18": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "resnet34": ((3, 64), (4, 128), (6, 256), (3, 512)),
    "resnet50": ((3, 256), (4, 512), (6, 1024), (3, 2048)),
    "resnet101": ((3, 256), (4, 512), (23, 1024), (3, 2048)),
    "resnet152": ((3, 256), (8, 512), (36, 1024), (3, 2048)),
}


def layers(network, but=()):
    return [layer for name, layer in network.named_modules() if isinstance(layer, LAYERS) and not name.endswith(but)]


def with_weights_of(theirs, ours, but=()):
    """Copy the weights layer by layer; torchvision's convolutions have no biases."""
    for target, source in zip(layers(ours), layers(theirs, but), strict=True):
        state = {"bias": torch.zeros_like(target.bias), **source.state_dict()}
        target.load_state_dict(state)
    return ours


def assert_same(ours, theirs, images):
    """Compare scores and gradients."""
    scores = [network.double()(images) for network in (ours, theirs)]
    torch.testing.assert_close(*scores)
    for score in scores:
        score.square().sum().backward()
    first = [next(network.parameters()).grad for network in (ours, theirs)]
    torch.testing.assert_close(*first)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_resnets_are_torchvisions(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=10)
    ratio = 0.25 if name == "resnet50" else "none"
    # The book's block has no batch norm in its shortcut; the bottleneck is the ResNeXt block, which has.
    norm_of_shortcut = () if name == "resnet50" else ("downsample.1",)
    for each in theirs.modules():
        if norm_of_shortcut and isinstance(each, torchvision.models.resnet.BasicBlock) and each.downsample is not None:
            each.downsample[1] = nn.Identity()
    ours = with_weights_of(theirs, ResNet(RESNETS[name], in_channels=3, bottleneck_ratio=ratio), norm_of_shortcut)
    assert_same(ours.train(), theirs.train(), torch.rand(2, 3, 40, 40, dtype=torch.double))


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_parameters_are_torchvisions_and_the_biases(name, compose):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=10)
        ours = ResNet(RESNETS[name], in_channels=3, bottleneck_ratio=0.25 if int(name[6:]) >= 50 else "none")
    expected = sum(parameter.numel() for parameter in theirs.parameters())
    expected += sum(layer.out_channels for layer in layers(theirs) if isinstance(layer, nn.Conv2d))
    if name in ("resnet18", "resnet34"):
        expected -= sum(2 * each.num_features for key, each in theirs.named_modules() if key.endswith("downsample.1"))
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected
    configured = compose(f"model={name}").model.get("stages", RESNETS["resnet18"])
    assert [tuple(stage) for stage in configured] == [*RESNETS[name]]


def test_densenet_with_bottlenecks_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 3), num_init_features=64, num_classes=10)
    ours = with_weights_of(theirs, DenseNet(40, in_channels=3, num_convs=(2, 3), growth=8, bottleneck=True))
    assert_same(ours.train(), theirs.train(), torch.rand(2, 3, 40, 40, dtype=torch.double))


@pytest.mark.parametrize("depth", [13, 16, 19])
def test_vggs_are_torchvisions(depth, compose):
    blocks = compose(f"model=vgg{depth}").model.blocks
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}")(num_classes=10)
        ours = VGG(224, in_channels=3, blocks=blocks)
    shapes = [[parameter.shape for parameter in network.parameters()] for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_vggs_convolutions_with_batch_norm_are_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg13_bn().features
    ours = VGG(32, in_channels=3, blocks=((2, 64), (2, 128), (2, 256), (2, 512), (2, 512)), norm="batch")
    convolutions = nn.Sequential(*list(ours)[:5])
    assert_same(with_weights_of(theirs, convolutions), theirs, torch.rand(2, 3, 32, 32, dtype=torch.double))
