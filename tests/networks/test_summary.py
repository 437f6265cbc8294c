import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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
    ResNet18,
    ResNeXt18,
    as_table,
    summarize,
)
from convnets.networks.summary import UNKNOWN, WHOLE_IMAGE

NETWORKS = [
    *((LeNet, 28), (VGG, 224), (ResNet18, 96), (ResNeXt18, 96), (ResNet18, 64)),
    *((AlexNet, 224), (NiN, 224), (GoogLeNet, 96), (DenseNet, 96), (RegNet, 96)),
]


@pytest.mark.parametrize(("build", "size"), NETWORKS)
def test_totals_are_the_networks(build, size):
    with torch.device("meta"):
        network = build(image_size=size)
    whole, *layers = summarize(network, size)
    assert whole.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    by_hand = 0
    called = [module for module in network.modules() if not isinstance(module, nn.ModuleList)]
    for line, module in zip([whole, *layers], called, strict=True):
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # the book's 7.4.4: outputs times what each is summed over
            assert line.multiply_adds == math.prod(line.shape) * module.weight[0].numel()
            by_hand += line.multiply_adds
    assert whole.multiply_adds == by_hand
    top = [line for line in layers if line.depth == 1]
    for total in ("num_parameters", "multiply_adds", "activation_bytes"):
        assert sum(getattr(line, total) for line in top) == getattr(whole, total)


def receptive_field(network, size):
    """Side of what one unit in the middle of the output sees, from the gradient of a linear stand-in."""
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    output = network(image)
    output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum().backward()
    seen = [image.grad[0, 0].abs().sum(axis).nonzero() for axis in (1, 0)]
    return max(int(places.max() - places.min() + 1) for places in seen)


def test_receptive_fields_are_what_gradients_reach():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 2, 5, padding=2),
        nn.AvgPool2d(2),
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.Conv2d(2, 2, 3, dilation=2, padding=2),
        nn.AvgPool2d(3, stride=2, padding=1),
    ]
    for number in range(1, len(layers) + 1):
        network = nn.Sequential(*layers[:number])
        found = [line.receptive_field for line in summarize(network, 100)][-1]
        for parameter in network.to_empty(device="cpu").parameters():
            nn.init.uniform_(parameter, 0.1, 1)
        assert found == receptive_field(network, 100)


class Functional(nn.Module):
    """A network whose operations are functions, one after the other: each of them is a row of the test."""

    def __init__(self, *functions):
        super().__init__()
        self.layers = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self.functions = functions

    def forward(self, images):
        for function in self.functions:
            images = function(images)
        return images


def conv(*args, **options):
    return nn.Conv2d(*args, **options)


def stem():
    return conv(1, 4, 7, stride=2, padding=3)


def kernel(*shape):
    return torch.ones(shape, device="meta" if torch.is_inference_mode_enabled() else "cpu")


FUNCTIONS = {
    "relu": (stem(), torch.relu, conv(4, 2, 3)),
    "relu in place": (stem(), lambda x: x.relu_(), conv(4, 2, 3)),
    "F.relu, gelu": (stem(), F.relu, F.gelu, conv(4, 2, 3)),
    "sum": (stem(), lambda x: x + F.conv2d(x, kernel(4, 4, 5, 5), padding=2), conv(4, 2, 3)),
    "product in place": (stem(), lambda x: x.clone().mul_(F.avg_pool2d(x, 3, 1, 1)), conv(4, 2, 3)),
    "cat": (stem(), lambda x: torch.cat([x, F.conv2d(x, kernel(2, 4, 5, 5), padding=2)], 1), conv(6, 2, 1)),
    "chunks": (stem(), lambda x: torch.cat([*x.chunk(2, 1)][::-1], 1), conv(4, 2, 3)),
    "pooling": (stem(), lambda x: F.avg_pool2d(x, 3, 2), lambda x: F.avg_pool2d(x, (2, 2)), conv(4, 2, 3)),
    "dilation": (lambda x: F.conv2d(x, kernel(4, 1, 3, 3), dilation=3), conv(4, 2, 3)),
    "not square": (lambda x: F.conv2d(x, kernel(4, 1, 1, 9)), lambda x: F.conv2d(x, kernel(2, 4, 3, 1))),
    "circular": (conv(1, 4, 7, stride=2, padding=3, padding_mode="circular"), conv(4, 2, 3)),
    "reflected": (conv(1, 4, 7, stride=2, padding=3, padding_mode="reflect"), conv(4, 2, 3)),
    "padded": (stem(), lambda x: F.pad(x, (1, 1, 1, 1)), conv(4, 2, 3)),
    "batch norm": (stem(), nn.BatchNorm2d(4), conv(4, 2, 3)),
    "dropout": (stem(), lambda x: F.dropout(x, 0.5, False), conv(4, 2, 3)),
    "channels shuffled": (stem(), lambda x: x.view(1, 2, 2, 50, 50).transpose(1, 2).reshape(x.shape), conv(4, 2, 3)),
    "linear on channels": (stem(), lambda x: F.linear(x.permute(0, 2, 3, 1), kernel(3, 4)).permute(0, 3, 1, 2)),
    "layer norm on channels": (
        stem(),
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), kernel(4)).permute(0, 3, 1, 2),
        conv(4, 2, 3),
    ),
    "softmax over channels": (stem(), lambda x: x.softmax(1), conv(4, 2, 3)),
    "mean over channels": (stem(), lambda x: x.mean(1, keepdim=True), conv(1, 2, 3)),
    "every other": (stem(), lambda x: x[:, :, ::2, ::2], conv(4, 2, 3)),
    "space to channels": (stem(), lambda x: F.pixel_unshuffle(x, 1), conv(4, 2, 3)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 50), conv(1, 2, 3)),
    "flattened and back": (stem(), lambda x: x.flatten(2).unflatten(2, (50, 50)), conv(4, 2, 3)),
    "dense block": (stem(), DenseBlock(2, 4, growth=3), conv(10, 2, 3)),
    "inception": (stem(), Inception(4, (1, (2, 2), (2, 3), 1)), conv(7, 2, 3)),
    "einsum": (stem(), lambda x: torch.einsum("nchw,dc->ndhw", x, kernel(3, 4)), conv(3, 2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_followed_as_modules_are(name):
    network = Functional(*FUNCTIONS[name])
    found = summarize(copy.deepcopy(network), 100)[0].receptive_field
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    assert found == receptive_field(network.eval(), 100)


WHOLE = {
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "pooled to one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "flattened": lambda x: F.linear(x.flatten(1), torch.ones(2, 4 * 50 * 50, device=x.device)),
    "squeezed and excited": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "softmax over places": lambda x: x.flatten(2).softmax(2),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3),
    "each with each": lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
    "linear on columns": lambda x: F.linear(x, torch.ones(2, 50, device=x.device)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_depends_on_all_places_sees_the_whole_image(name):
    assert summarize(Functional(stem(), WHOLE[name]), 100)[0].receptive_field == WHOLE_IMAGE


def test_what_is_not_known_is_not_guessed():
    lines = summarize(Functional(stem(), lambda x: x.cumsum(2), conv(4, 2, 3)), 100)
    assert [line.receptive_field for line in lines] == [UNKNOWN, 7, UNKNOWN]
    assert " ? " in as_table(lines, 1)


def test_functions_arithmetic_is_counted():
    class Both(nn.Module):
        def forward(self, x):
            x = F.conv2d(x, torch.ones(6, 1, 5, 5, device=x.device))
            return F.linear(x.flatten(1), torch.ones(10, 6 * 24 * 24, device=x.device))

    assert summarize(Both(), 28)[0].multiply_adds == 6 * 24 * 24 * 25 + 10 * 6 * 24 * 24


def test_resnets_receptive_fields_follow_the_longer_branch():
    with torch.device("meta"):
        network = ResNet18()
    fields = [line.receptive_field for line in summarize(network, 96) if line.depth == 1]
    assert fields == [11, 43, 99, 211, 435, 0]


def test_lenets_activations_are_counted_by_hand():
    whole = summarize(LeNet(), 28)[0]
    assert whole.activation_bytes == 4 * (
        2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 10 * 10 + 16 * 5 * 5 + 2 * 120 + 2 * 84 + 10
    )


def test_the_table_reads_like_the_books_and_opens_blocks():
    lines = summarize(ResNet18(), 96)
    table = as_table(lines, batch_size=128).splitlines()
    assert table[0].split("  ")[0] == "layer"
    assert table[2].split()[:2] == ["Sequential", "64x24x24"]
    assert table[-1].split()[:2] == ["total", "11,178,378"]
    assert len(table) == 2 + 6 + 2
    opened = as_table(lines, batch_size=128, depth=2).splitlines()
    assert any(line.split()[:2] == ["Residual", "128x12x12"] and line.startswith("  ") for line in opened)
    assert len(opened) == 2 + 6 + 4 + 8 + 3 + 2


class TestResNeXt:
    def test_groups_are_given_by_number_or_by_width(self):
        with torch.device("meta"):
            a, b = ResNeXt18(num_groups=1), ResNeXt18()
            wide = ResNeXt18(group_width=64)  # one group in the first stage, eight in the last
        convolutions = [
            module for module in b.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        ]
        assert {module.groups for module in convolutions} == {32}
        assert {m.groups for m in a.modules() if isinstance(m, nn.Conv2d)} == {1}
        assert {m.groups for m in wide.modules() if isinstance(m, nn.Conv2d)} == {1, 2, 4, 8}

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (
                {"num_groups": 4, "group_width": 4},
                "takes one of num_groups and group_width, got num_groups=4, group_width=4",
            ),
            ({"num_groups": 3}, "64 channels cannot be split with num_groups=3: it must divide them"),
            ({"group_width": 48}, "64 channels cannot be split with group_width=48"),
            ({"bottleneck_ratio": 0.001}, "A bottleneck of 0.001 times 64 channels leaves none: set more channels"),
        ],
    )
    def test_what_cannot_be_split_is_refused(self, options, said):
        with pytest.raises(ValueError, match=said):
            ResNeXt18(**options)

    def test_shapes_are_those_of_resnet18(self):
        shapes = [[line.shape for line in summarize(build(), 96) if line.depth == 1] for build in (ResNet18, ResNeXt18)]
        assert shapes[0] == shapes[1]

    def test_grouping_divides_the_3x3_convolutions(self):
        with torch.device("meta"):
            grouped, dense = ResNeXt18(), ResNeXt18(num_groups=1)
        for small, large in zip(summarize(grouped, 96), summarize(dense, 96), strict=True):
            if small.layer == "Conv2d" and small.depth == 4 and small.multiply_adds != large.multiply_adds:
                assert large.multiply_adds == 32 * small.multiply_adds
