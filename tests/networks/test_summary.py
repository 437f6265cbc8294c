import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnets.networks import VGG, LeNet, ResNet18, ResNeXt18, as_table, summarize

NETWORKS = [(LeNet, 28), (VGG, 224), (ResNet18, 96), (ResNeXt18, 96), (ResNet18, 64)]


@pytest.mark.parametrize(("build", "size"), NETWORKS)
def test_totals_are_the_networks(build, size):
    with torch.device("meta"):
        network = build(image_size=size)
    whole, *layers = summarize(network, size)
    assert whole.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, size, size, device="meta"))
    assert whole.multiply_adds == counter.get_total_flops() // 2
    top = [line for line in layers if line.depth == 1]
    for total in ("num_parameters", "multiply_adds", "activation_bytes"):
        assert sum(getattr(line, total) for line in top) == getattr(whole, total)


def receptive_field(network, size):
    """Side of what one unit in the middle of the output sees, from the gradient of a linear stand-in."""
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    output = network(image)
    output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum().backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    return int(rows.max() - rows.min() + 1)


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
