import functools

import pytest
import torch
import torch.nn.functional as F
from support.repository import CONF
from torch import nn

from convnets import networks
from convnets.book.listings import NETWORKS
from convnets.networks import (
    VGG,
    AlexNet,
    DenseBlock,
    DenseNet,
    GoogLeNet,
    Inception,
    LeNet,
    NiN,
    RegNet,
    Residual,
    ResNet18,
    ResNeXt18,
    ResNeXtBlock,
    SpeedNet,
    head_of,
)
from convnets.training.building import NOT_NETWORKS


@pytest.mark.parametrize("book", NETWORKS, ids=lambda book: book.name)
def test_layers_are_the_books(book):
    with torch.device("meta"):
        network = book.build()
        images = torch.empty(2, 1, book.image_size, book.image_size)
        lines = []
        for layer in network:
            images = layer(images)
            lines.append(f"{type(layer).__name__} {'x'.join(map(str, images.shape[1:]))}")
    assert lines == book.layers
    assert sum(parameter.numel() for parameter in network.parameters()) == book.num_parameters


MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "timm")


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_its_own_size_and_trains_on_32_pixels_in_colour(name, compose):
    model = compose(f"model={name}").model
    options, size = {key: value for key, value in model.items() if key not in NOT_NETWORKS}, model.image_size
    build = functools.partial(getattr(networks, options.pop("_target_").rpartition(".")[2]), num_classes=10, **options)
    with torch.device("meta"):
        assert build(image_size=size)(torch.empty(2, 1, size, size)).shape == (2, 10)
    small = {key: value for key, value in {"stem": "small", "hidden": (32, 32)}.items() if key in options}
    torch.manual_seed(0)
    network = build(image_size=32, in_channels=3, **small)
    F.cross_entropy(network(torch.rand(2, 3, 32, 32)), torch.tensor([3, 7])).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    assert {key for key, value in network.named_parameters() if not value.grad.any()} == set()


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
    (ResNet18, {"padding_mode": "reflect", "stem": "small"}, 9),
    (LeNet, {"channels": (6, 16, 32)}, 32),
    (LeNet, {"channels": (6, 16, 32), "kernel_size": 3}, 20),
    (LeNet, {"padding": "none"}, 16),
    (AlexNet, {"stem": "small"}, 7),
    (NiN, {}, 67),
    (NiN, {"stem": "small"}, 7),
    (GoogLeNet, {}, 1),
    (GoogLeNet, {"padding_mode": "reflect"}, 65),
    (DenseNet, {}, 29),
    (DenseNet, {"stem": "small"}, 8),
    (RegNet, {}, 1),
    (RegNet, {"padding_mode": "circular"}, 1),
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


REFLECTED = [functools.partial(build, padding_mode="reflect") for build in (ResNet18, GoogLeNet)]


@pytest.mark.parametrize("build", [AlexNet, NiN, DenseNet, *REFLECTED])
def test_the_way_out_for_small_images_is_the_small_stem(build):
    with pytest.raises(ValueError, match=r"pixels, got 28: set data\.resize=\d\d or more, or model\.stem=small"):
        build(image_size=28)
    with torch.inference_mode():
        network = build(image_size=28, stem="small").eval()
        assert type(network[0]).__name__ == "SmallStem"
        assert network[0](torch.rand(1, 1, 28, 28)).shape[2:] == (28, 28)
        assert network(torch.rand(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("size", [67, 70, 97])
@pytest.mark.parametrize("build", [LeNet, VGG, ResNet18, AlexNet, NiN, GoogLeNet, DenseNet, RegNet])
def test_any_larger_size_channels_and_classes_fit(build, size):
    with torch.device("meta"):
        network = build(image_size=size, in_channels=3, num_classes=7)
        assert network(torch.empty(2, 3, size, size)).shape == (2, 7)


SMALL_STEM = [functools.partial(build, stem="small") for build in (ResNet18, AlexNet, NiN, GoogLeNet, DenseNet, RegNet)]


@pytest.mark.parametrize("build", [LeNet, VGG, *SMALL_STEM])
def test_padding_mode_changes_what_the_network_sees_at_the_border(build):
    scores = []
    for mode in ("zeros", "circular"):
        torch.manual_seed(0)
        network = build(image_size=32, padding_mode=mode).eval()
        with torch.inference_mode():
            scores.append(network(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))))
    assert not torch.equal(*scores)


def kinds(layers):
    return [type(layer).__name__ for layer in layers]


def test_lenets_options_are_its_layers():
    deeper = LeNet(
        28, channels=(8, 16, 32), kernel_size=3, hidden=(50,), pooling="max", activation="relu", norm="batch_after"
    )
    assert kinds(deeper) == [
        *["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d"] * 3,
        *["Flatten", "Linear", "ReLU", "BatchNorm1d", "Linear"],
    ]
    assert [layer.weight.shape for layer in deeper if isinstance(layer, nn.Conv2d)] == [
        (8, 1, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3)
    ]  # fmt: skip
    for norm, kind in (("batch_convolutions", "BatchNorm2d"), ("batch_dense", "BatchNorm1d")):
        found = kinds(LeNet(norm=norm))
        assert [name for name in found if "Norm" in name] == [kind] * 2
        assert found[found.index(kind) + 1] == "Sigmoid"


@pytest.mark.parametrize(
    ("norm", "order"),
    [
        ("none", ["Conv2d", "Tanh", "MaxPool2d"]),
        ("batch", ["Conv2d", "BatchNorm2d", "Tanh", "MaxPool2d"]),
        ("batch_after", ["Conv2d", "Tanh", "BatchNorm2d", "MaxPool2d"]),
    ],
)
def test_batch_norm_is_before_or_after_the_activation(norm, order):
    network = VGG(32, blocks=((1, 4),), norm=norm, activation="tanh")
    assert kinds(network[0]) == order
    assert "ReLU" not in kinds(network.modules())
    names = kinds(ResNet18(norm=norm, activation="tanh").modules())
    assert ("BatchNorm2d" in names) == (norm != "none")
    assert "ReLU" not in names


def test_a_norm_of_lenets_alone_is_refused_elsewhere():
    with pytest.raises(ValueError, match=r"is none, batch or batch_after, got batch_dense: set model\.norm=batch"):
        VGG(norm="batch_dense")


@pytest.mark.parametrize("build", [ResNet18, ResNeXt18, RegNet])
def test_stages_blocks_and_groups_of_the_residual_networks_can_be_chosen(build):
    with torch.device("meta"):
        _, *stages, _ = build(32, stages=((1, 32), (2, 64)), bottleneck_ratio=0.25, num_groups=2)
    assert [len(stage) for stage in stages] == [1, 2]
    grouped = [layer for stage in stages for layer in of_kind(stage, nn.Conv2d) if layer.kernel_size == (3, 3)]
    assert [(layer.out_channels, layer.groups) for layer in grouped] == [(8, 2), (16, 2), (16, 2)]
    said = r"two 3x3 convolutions have no groups, got model\.num_groups=2: set model\.bottleneck_ratio=1"
    with pytest.raises(ValueError, match=said):
        build(32, bottleneck_ratio="none", num_groups=2)


def test_regnet_has_resnets_blocks_where_asked():
    with torch.device("meta"):
        _, *stages, _ = RegNet(bottleneck_ratio="none")
    assert {*kinds(block for stage in stages for block in stage)} == {"Residual"}


def both_gradients(ours, theirs, images):
    """Outputs of two functions of the images, and gradients of a random sum of each, in double precision."""
    found = []
    for function in (ours, theirs):
        copy = images.clone().requires_grad_()
        output = function(copy)
        weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
        found.append((output, *torch.autograd.grad((output * weights).sum(), copy)))
    return zip(*found, strict=True)


def convolved(layer, images):
    return F.conv2d(images, layer.weight, layer.bias, layer.stride, layer.padding)


def of_kind(module, kind):
    return [each for each in module.modules() if isinstance(each, kind)]


def test_an_inception_block_joins_its_four_branches():
    torch.manual_seed(0)
    block = Inception(5, (2, (3, 4), (2, 3), 1)).double()
    one, two, three, four, five, six = of_kind(block, nn.Conv2d)

    def by_hand(x):
        second = convolved(three, convolved(two, x).relu()).relu()
        third = convolved(five, convolved(four, x).relu()).relu()
        fourth = convolved(six, F.max_pool2d(x, 3, stride=1, padding=1)).relu()
        return torch.cat([convolved(one, x).relu(), second, third, fourth], 1)

    for ours, theirs in both_gradients(block, by_hand, torch.rand(2, 5, 6, 7, dtype=torch.double)):
        torch.testing.assert_close(ours, theirs)


def test_a_dense_blocks_convolutions_see_all_outputs_before_them():
    torch.manual_seed(0)
    block = DenseBlock(3, 2, growth=4).double()

    def by_hand(x):
        seen = [x]
        for norm, convolution in zip(of_kind(block, nn.BatchNorm2d), of_kind(block, nn.Conv2d), strict=True):
            joined = torch.cat(seen, 1)
            seen.append(convolved(convolution, F.batch_norm(joined, None, None, training=True, eps=norm.eps).relu()))
        return torch.cat(seen, 1)

    for ours, theirs in both_gradients(block, by_hand, torch.rand(2, 2, 5, 6, dtype=torch.double)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("build", [Residual, functools.partial(ResNeXtBlock, num_groups=2)])
def test_a_preactivated_block_normalises_before_each_convolution_and_leaves_the_sum(build):
    torch.manual_seed(0)
    block = build(4, 6, stride=2, preactivation=True).double()
    norms = of_kind(block.residual, nn.BatchNorm2d)

    def by_hand(x):
        residual = x
        for norm, layer in zip(norms, of_kind(block.residual, nn.Conv2d), strict=True):
            normal = F.batch_norm(residual, None, None, training=True, eps=norm.eps).relu()
            residual = F.conv2d(normal, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups)
        return residual + block.shortcut(x)

    images = torch.randn(2, 4, 6, 6, dtype=torch.double)
    for ours, theirs in both_gradients(block, by_hand, images):
        torch.testing.assert_close(ours, theirs)
    assert (block(images) < 0).any()


def test_speednets_blocks_begin_as_the_identity_of_what_comes_in():
    network = SpeedNet(channels=(8, 16, 24), depth=2)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.weight.shape[:2]) for layer in convolutions] == [(8, 1), (16, 8), (16, 16), (24, 16), (24, 24)]
    features = torch.rand(2, 8, 14, 14)
    assert torch.equal(convolutions[1](features)[:, :8], features)
    assert not torch.equal(convolutions[1](features)[:, 8:], features)
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(nn.Sequential(*list(network)[:-1])(images) / 9, network(images))
    assert [*head_of(network)] == [network[-2]]
