import pytest
import torch

from convnets.networks import VGG, VGG11_BLOCKS, LeNet, Residual, ResNet18

# (line of the book's summary, shape) for one image
LENET = [
    ("Conv2d", (1, 6, 28, 28)),
    ("Sigmoid", (1, 6, 28, 28)),
    ("AvgPool2d", (1, 6, 14, 14)),
    ("Conv2d", (1, 16, 10, 10)),
    ("Sigmoid", (1, 16, 10, 10)),
    ("AvgPool2d", (1, 16, 5, 5)),
    ("Flatten", (1, 400)),
    ("Linear", (1, 120)),
    ("Sigmoid", (1, 120)),
    ("Linear", (1, 84)),
    ("Sigmoid", (1, 84)),
    ("Linear", (1, 10)),
]
VGG11 = [
    ("Sequential", (1, 64, 112, 112)),
    ("Sequential", (1, 128, 56, 56)),
    ("Sequential", (1, 256, 28, 28)),
    ("Sequential", (1, 512, 14, 14)),
    ("Sequential", (1, 512, 7, 7)),
    ("Flatten", (1, 25088)),
    ("Linear", (1, 4096)),
    ("ReLU", (1, 4096)),
    ("Dropout", (1, 4096)),
    ("Linear", (1, 4096)),
    ("ReLU", (1, 4096)),
    ("Dropout", (1, 4096)),
    ("Linear", (1, 10)),
]
RESNET18 = [
    ("Sequential", (1, 64, 24, 24)),
    ("Sequential", (1, 64, 24, 24)),
    ("Sequential", (1, 128, 12, 12)),
    ("Sequential", (1, 256, 6, 6)),
    ("Sequential", (1, 512, 3, 3)),
    ("Sequential", (1, 10)),
]


@pytest.mark.parametrize(
    ("build", "size", "book", "num_parameters"),
    [
        (LeNet, 28, LENET, 61_706),
        (lambda: VGG(blocks=VGG11_BLOCKS), 224, VGG11, 128_806_154),
        (ResNet18, 96, RESNET18, 11_178_378),
    ],
    ids=["lenet", "vgg11", "resnet18"],
)
def test_layers_are_the_books(build, size, book, num_parameters):
    with torch.device("meta"):
        network = build()
        images = torch.empty(1, 1, size, size)
        lines = []
        for layer in network:
            images = layer(images)
            lines.append((type(layer).__name__, tuple(images.shape)))
    assert lines == book
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters


def test_vgg_is_the_quarter_width_one_by_default():
    with torch.device("meta"):
        network = VGG(image_size=224)
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_093_322


def test_residual_block_keeps_or_halves_as_in_the_book():
    images = torch.rand(4, 3, 6, 6)
    assert Residual(3, 3)(images).shape == (4, 3, 6, 6)
    assert Residual(3, 6, stride=2)(images).shape == (4, 6, 3, 3)
    assert isinstance(Residual(3, 3).shortcut, torch.nn.Identity)
    assert isinstance(Residual(3, 6, stride=2).shortcut, torch.nn.Conv2d)


SMALLEST = [
    (LeNet, {}, 12),
    (VGG, {}, 32),
    (VGG, {"blocks": [[1, 4], [1, 4]]}, 4),
    (VGG, {"padding_mode": "reflect"}, 32),
    (ResNet18, {}, 1),
    (ResNet18, {"padding_mode": "replicate"}, 1),
    (ResNet18, {"padding_mode": "circular"}, 3),
    (ResNet18, {"padding_mode": "reflect"}, 33),
]


@pytest.mark.parametrize(("build", "options", "smallest"), SMALLEST)
def test_smallest_image_works_and_a_smaller_one_is_refused(build, options, smallest):
    with torch.inference_mode():
        assert build(image_size=smallest, **options).eval()(torch.rand(2, 1, smallest, smallest)).shape == (2, 10)
    if smallest > 1:
        with pytest.raises(
            ValueError, match=rf"at least {smallest} pixels, got {smallest - 1}: set data.resize={smallest}"
        ):
            build(image_size=smallest - 1, **options)


@pytest.mark.parametrize("size", [28, 29, 31, 45])
@pytest.mark.parametrize("build", [LeNet, VGG, ResNet18])
def test_any_larger_size_channels_and_classes_fit(build, size):
    size = max(size, 32) if build is VGG else size
    with torch.device("meta"):
        network = build(image_size=size, in_channels=3, num_classes=7)
        assert network(torch.empty(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("build", [LeNet, VGG, ResNet18])
def test_padding_mode_changes_what_the_network_sees_at_the_border(build):
    scores = []
    for mode in ("zeros", "circular"):
        torch.manual_seed(0)
        network = build(image_size=32, padding_mode=mode).eval()
        with torch.inference_mode():
            scores.append(network(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))))
    assert not torch.equal(*scores)
