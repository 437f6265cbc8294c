import pytest
from torch import nn

from convnets.networks import VGG, LeNet, ResNet18, head_of


class WithClassifiers(nn.Sequential):
    def get_classifier(self):  # as timm's networks with two heads have it
        return self[1], self[2]


NIN = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3)), nn.Sequential(nn.Conv2d(4, 10, 1), nn.ReLU()), nn.Flatten())
TWO = WithClassifiers(nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("network", "head"),
    [
        (LeNet(), ["11.weight", "11.bias"]),
        (VGG(image_size=32), ["12.weight", "12.bias"]),
        (ResNet18(), ["5.2.weight", "5.2.bias"]),
        (NIN, ["1.0.weight", "1.0.bias"]),
        (TWO, ["1.weight", "1.bias", "2.weight", "2.bias"]),
    ],
)
def test_the_head_makes_the_scores(network, head):
    parameters = {*head_of(network).parameters()}
    assert [name for name, parameter in network.named_parameters() if parameter in parameters] == head


@pytest.mark.parametrize("network", [nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Sequential(nn.Flatten())])
def test_a_network_without_a_backbone_is_refused(network):
    with pytest.raises(ValueError, match=r"Sequential cannot be divided .* leave model\.freeze and"):
        head_of(network)
