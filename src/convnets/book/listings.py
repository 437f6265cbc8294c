"""Every value that sections 7.1-7.6 and 8.1-8.8 compute or print, beside what comes out here.

Where the scanned notes contradict their own printed output, the printed output is the book's value.
"""

import functools
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import rich.box
import rich.console
import rich.table
import torch
from torch import Tensor, nn

from convnets.book.operations import (
    Conv2D,
    batch_norm,
    convolve2d,
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    learn_kernel,
    pool2d,
)
from convnets.networks import (
    VGG,
    VGG11_BLOCKS,
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
    summarize,
    transition,
)


@dataclass(frozen=True)
class Listing:
    """A value of the book, and the computation that must give it; the two are compared as they are printed."""

    section: str
    name: str
    book: Any
    compute: Callable[[], Any]

    @property
    def ours(self) -> Any:
        """The value that is computed here, in the form of the book's."""
        value = self.compute()
        return value.tolist() if isinstance(value, Tensor) else value


LISTINGS: list[Listing] = []
TABLE_WIDTH = 128  # columns for the widest value beside itself
DIFFERENT = "DIFFERENT"


def listing(section: str, name: str, book: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Enter the decorated computation, with the book's value, into `LISTINGS`."""

    def enter(compute: Callable[[], Any]) -> Callable[[], Any]:
        LISTINGS.append(Listing(section, name, book, compute))
        return compute

    return enter


def as_table(listings: Sequence[Listing], width: int) -> tuple[str, bool]:
    """Format the listings with the book's values and ours; return the text, and whether all values are the same.

    Where `width` columns are too few for both values beside each other, they stand below their listing: one that is
    the same once.
    """
    rows = []
    for listing in listings:
        ours = listing.ours
        verdict = "same" if ours == listing.book else DIFFERENT
        rows.append((listing.section, listing.name, _text(listing.book), _text(ours), verdict))
    text = _beside_each_other(rows) if width >= TABLE_WIDTH else _below_each_other(rows, width)
    num_different = sum(verdict == DIFFERENT for *_, verdict in rows)
    summary = f"{num_different} {DIFFERENT}" if num_different else "all the same"
    return f"{text}{len(listings)} values: {summary}", not num_different


def _beside_each_other(rows: Sequence[Sequence[str]]) -> str:
    listing_column = rich.table.Column("listing", width=26)  # leaves the widest matrix its rows
    table = rich.table.Table("section", listing_column, "the book", "ours", "same?", box=rich.box.SIMPLE)
    for row in rows:
        table.add_row(*row)
    console = rich.console.Console(width=TABLE_WIDTH, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _below_each_other(rows: Sequence[Sequence[str]], width: int) -> str:
    lines = []
    for section, name, book, ours, verdict in rows:
        lines.append(f"{section}  {verdict}: {name}")
        for heading, value in [([], book)] if verdict != DIFFERENT else [(["  the book:"], book), (["  ours:"], ours)]:
            lines += [*heading, *textwrap.indent(value, "     ").splitlines()]
    return "".join(textwrap.fill(line, width, subsequent_indent="       ") + "\n" for line in lines)


def _text(value: Any) -> str:
    """The value as the book prints it: a row of a matrix, or a layer, a line."""
    text = re.sub(r"\.0\b", "", str(value)).replace("'", "").replace("True", "yes").replace("False", "no")
    is_layers = isinstance(value, list) and any(" " in str(item) and isinstance(item, str) for item in value)
    return text.strip("[]").replace(", ", "\n") if is_layers else re.sub(r"(\]+), ", r"\1,\n", text)


def counting(*shape: int, start: int = 0) -> Tensor:
    """Consecutive numbers from `start`, as the book's inputs are."""
    return torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from -9 to 9: sums of products of these are exact."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


EDGE_KERNEL = torch.tensor([[1.0, -1.0]])


def edge_image() -> Tensor:
    """A black bar on a white image, 6x8."""
    image = torch.ones(6, 8)
    image[:, 2:6] = 0
    return image


# ---- 7.1 From fully connected layers to convolutions


@listing("7.1", "weights from a one-megapixel image to 1,000 hidden units", 10**9)
def _() -> int:
    return nn.Linear(1000 * 1000, 1000, device="meta").weight.numel()


@listing("7.1", "shifting the image shifts the feature map", True)
def _() -> bool:
    image, kernel = random(8, 8), random(3, 3, seed=1)
    shifted = image.roll((1, 2), dims=(0, 1))
    return torch.equal(corr2d(shifted, kernel)[1:, 2:], corr2d(image, kernel)[:-1, :-2])


@listing("7.1", "pixels that one output depends on, for a window of 2 to each side: (2*2+1)^2", 25)
def _() -> int:
    image = random(9, 9).requires_grad_()
    corr2d(image, torch.ones(5, 5))[2, 2].backward()
    assert image.grad is not None
    return int(image.grad.count_nonzero())


@listing("7.1", "strict convolution is cross-correlation with the kernel flipped on both axes", True)
def _() -> bool:
    image, kernel = random(6, 7), random(2, 3, seed=1)
    return torch.equal(convolve2d(image, kernel)[1:-1, 2:-2], corr2d(image, kernel.flip(0, 1)))


@listing("7.1", "cross-correlation does not flip it", True)
def _() -> bool:
    image, kernel = random(6, 7), random(2, 3, seed=1)
    return not torch.equal(corr2d(image, kernel), corr2d(image, kernel.flip(0, 1)))


@listing("7.1", "strict convolution is symmetric: f * g = g * f", True)
def _() -> bool:
    f, g = random(5, 4), random(3, 2, seed=1)
    return torch.equal(convolve2d(f, g), convolve2d(g, f))


@listing("7.1", "shape of a kernel bank from 3 to 8 channels: (c_out, c_in, h, w)", [8, 3, 5, 5])
def _() -> list[int]:
    return [*nn.Conv2d(3, 8, kernel_size=5).weight.shape]


def dense_matrix(kernel: Tensor, height: int, width: int) -> Tensor:
    """The dense layer, (outputs, height * width), that does what cross-correlation with the kernel does."""
    pixels = torch.eye(height * width).view(-1, height, width)
    return torch.stack([corr2d(pixel, kernel).flatten() for pixel in pixels], dim=1)


@listing("7.1", "a convolution is a dense layer: the same output", True)
def _() -> bool:
    image, kernel = random(4, 4), random(2, 2, seed=1)
    return torch.equal(dense_matrix(kernel, 4, 4) @ image.flatten(), corr2d(image, kernel).flatten())


@listing("7.1", "its weights for a 4x4 image and a 2x2 kernel: all, not zero, different", [144, 36, 4])
def _() -> list[int]:
    matrix = dense_matrix(counting(2, 2, start=1), 4, 4)
    return [matrix.numel(), int(matrix.count_nonzero()), len(matrix[matrix != 0].unique())]


# ---- 7.2 Convolutions for images


@listing("7.2", "cross-correlation of 0..8 with 0..3", [[19, 25], [37, 43]])
def _() -> Tensor:
    return corr2d(counting(3, 3), counting(2, 2))


@listing(
    "7.2", "a layer: weight of the kernel's size from [0, 1), one bias of 0, both trainable", [[2, 3], [1], True, True]
)
def _() -> list[Any]:
    layer = Conv2D((2, 3))
    in_range = bool(((layer.weight >= 0) & (layer.weight < 1)).all()) and layer.bias.item() == 0
    trainable = all(parameter.requires_grad for parameter in layer.parameters())
    return [[*layer.weight.shape], [*layer.bias.shape], in_range, trainable]


@listing("7.2", "the layer is cross-correlation plus bias", [[20, 26], [38, 44]])
def _() -> Tensor:
    layer = Conv2D((2, 2))
    with torch.no_grad():
        layer.weight.copy_(counting(2, 2))
        layer.bias.fill_(1)
    return layer(counting(3, 3))


@listing("7.2", "the edge image", [[1, 1, 0, 0, 0, 0, 1, 1]] * 6)
def _() -> Tensor:
    return edge_image()


@listing("7.2", "its edges, with the kernel [1, -1]", [[0, 1, 0, 0, 0, -1, 0]] * 6)
def _() -> Tensor:
    return corr2d(edge_image(), EDGE_KERNEL)


@listing("7.2", "the transposed image, with the same kernel", [[0] * 5] * 8)
def _() -> Tensor:
    return corr2d(edge_image().T, EDGE_KERNEL)


@listing("7.2", "learning the kernel: losses of steps 2, 4, 6, 8, 10", ["13.800", "3.481", "1.061", "0.374", "0.143"])
def _() -> list[str]:
    _, losses = learn_kernel(edge_image(), corr2d(edge_image(), EDGE_KERNEL))
    return [f"{loss:.3f}" for loss in losses[1::2]]


@listing("7.2", "the learned kernel", ["1.0225", "-0.9464"])
def _() -> list[str]:
    kernel, _ = learn_kernel(edge_image(), corr2d(edge_image(), EDGE_KERNEL))
    return [f"{weight:.4f}" for weight in kernel.flatten().tolist()]


# ---- 7.3 Padding and stride


def size_after(**options: Any) -> list[int]:
    """Size of an 8x8 image after a convolution."""
    return [*nn.Conv2d(1, 1, **options)(torch.rand(1, 1, 8, 8)).shape[2:]]


@listing("7.3", "8x8 after kernel 3, padding 1", [8, 8])
def _() -> list[int]:
    return size_after(kernel_size=3, padding=1)


@listing("7.3", "8x8 after kernel (5, 3), padding (2, 1)", [8, 8])
def _() -> list[int]:
    return size_after(kernel_size=(5, 3), padding=(2, 1))


@listing("7.3", "8x8 after kernel 3, padding 1, stride 2", [4, 4])
def _() -> list[int]:
    return size_after(kernel_size=3, padding=1, stride=2)


@listing("7.3", "8x8 after kernel (3, 5), padding (0, 1), stride (3, 4)", [2, 2])
def _() -> list[int]:
    return size_after(kernel_size=(3, 5), padding=(0, 1), stride=(3, 4))


def equivariant(padding_mode: Any, margin: int) -> bool:
    """Whether shifting a random image in a circle shifts the feature map, `margin` pixels away from the border."""
    convolution = nn.Conv2d(1, 1, kernel_size=3, padding=1, padding_mode=padding_mode, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(random(1, 1, 3, 3, seed=1))
        image = random(1, 1, 9, 9)
        difference = convolution(image.roll((1, 2), dims=(2, 3))) - convolution(image).roll((1, 2), dims=(2, 3))
    inside = difference[:, :, margin : 9 - margin, margin : 9 - margin]
    return bool((inside == 0).all())


@listing("7.3", "zero padding is equivariant: away from the border, at it", [True, False])
def _() -> list[bool]:
    return [equivariant("zeros", margin=3), equivariant("zeros", margin=0)]


@listing("7.3", "circular padding is equivariant: away from the border, at it", [True, True])
def _() -> list[bool]:
    return [equivariant("circular", margin=3), equivariant("circular", margin=0)]


# ---- 7.4 Channels


def two_channels() -> tuple[Tensor, Tensor]:
    """The book's image 0..8 and 1..9, and its kernel 0..3 and 1..4."""
    image = torch.stack([counting(3, 3), counting(3, 3, start=1)])
    kernel = torch.stack([counting(2, 2), counting(2, 2, start=1)])
    return image, kernel


@listing("7.4", "two input channels", [[56, 72], [104, 120]])
def _() -> Tensor:
    return corr2d_multi_in(*two_channels())


@listing("7.4", "the shape of the bank K, K+1, K+2", [3, 2, 2, 2])
def _() -> list[int]:
    _, kernel = two_channels()
    return [*torch.stack([kernel, kernel + 1, kernel + 2]).shape]


@listing("7.4", "three output channels", [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]])
def _() -> Tensor:
    image, kernel = two_channels()
    return corr2d_multi_in_out(image, torch.stack([kernel, kernel + 1, kernel + 2]))


@listing("7.4", "1x1 convolution as a matrix product: summed difference below 1e-6", True)
def _() -> bool:
    generator = torch.Generator().manual_seed(0)
    image, kernels = torch.randn(3, 3, 3, generator=generator), torch.randn(2, 3, 1, 1, generator=generator)
    difference = corr2d_multi_in_out_1x1(image, kernels) - corr2d_multi_in_out(image, kernels)
    return difference.abs().sum().item() < 1e-6


def multiply_adds(groups: int = 1) -> int:
    """Of a 5x5 convolution of a 256x256 image with 128 channels in and out."""
    convolution = nn.Conv2d(128, 128, kernel_size=5, padding=2, groups=groups, device="meta")
    return summarize(convolution, image_size=256, in_channels=128)[0].multiply_adds


@listing("7.4", "multiply-adds of a 5x5 convolution on 256x256, 128 to 128 channels, in thousand millions", "26.8")
def _() -> str:
    return f"{multiply_adds() / 1e9:.1f}"


@listing("7.4", "its operations, in whole thousand millions", 53)
def _() -> int:
    return 2 * multiply_adds() // 10**9


@listing("7.4", "how many times fewer with 32 groups", 32)
def _() -> float:
    return multiply_adds() / multiply_adds(groups=32)


# ---- 7.5 Pooling


@listing("7.5", "maximum of 0..8, window 2x2", [[4, 5], [7, 8]])
def _() -> Tensor:
    return pool2d(counting(3, 3), (2, 2))


@listing("7.5", "average of 0..8, window 2x2", [[2, 3], [5, 6]])
def _() -> Tensor:
    return pool2d(counting(3, 3), (2, 2), "avg")


@listing("7.5", "maximum of 0..15, window 3", [[[[10]]]])
def _() -> Tensor:
    return nn.MaxPool2d(3)(counting(1, 1, 4, 4))


@listing("7.5", "maximum of 0..15, window 3, padding 1, stride 2", [[5, 7], [13, 15]])
def _() -> Tensor:
    return pool2d(counting(4, 4), (3, 3), stride=(2, 2), padding=(1, 1))


@listing("7.5", "maximum of 0..15, window (2, 3), stride (2, 3), padding (0, 1)", [[5, 7], [13, 15]])
def _() -> Tensor:
    return pool2d(counting(4, 4), (2, 3), stride=(2, 3), padding=(0, 1))


def stacked(image: Tensor) -> Tensor:
    """The channels, and the channels plus one."""
    return torch.cat([image, image + 1], dim=1)


ROWS_FROM = {start: [[start + 4 * row + column for column in range(4)] for row in range(4)] for start in range(3)}


@listing("7.5", "the image stacked with itself + 1: two channels", [[ROWS_FROM[0], ROWS_FROM[1]]])
def _() -> Tensor:
    return stacked(counting(1, 1, 4, 4))


@listing("7.5", "stacked again: four channels", [[ROWS_FROM[0], ROWS_FROM[1], ROWS_FROM[1], ROWS_FROM[2]]])
def _() -> Tensor:
    return stacked(stacked(counting(1, 1, 4, 4)))


@listing("7.5", "maximum of two channels, window 3, padding 1, stride 2", [[[[5, 7], [13, 15]], [[6, 8], [14, 16]]]])
def _() -> Tensor:
    return nn.MaxPool2d(3, padding=1, stride=2)(stacked(counting(1, 1, 4, 4)))


@listing("7.5", "pooling is additive, as a convolution is: maximum, average", [False, True])
def _() -> list[bool]:
    a, b = random(4, 4), random(4, 4, seed=1)
    return [
        torch.equal(pool2d(a, (2, 2), mode) + pool2d(b, (2, 2), mode), pool2d(a + b, (2, 2), mode))
        for mode in ("max", "avg")
    ]


# ---- 7.6 and chapter 8: the networks, layer by layer


def layers(build: Callable[[], nn.Module], image_size: int) -> list[str]:
    """The book's summary: a layer and its output's size a line."""
    with torch.device("meta"):
        lines = [line for line in summarize(build(), image_size) if line.depth == 1]
    return [f"{line.layer} {'x'.join(map(str, line.shape))}" for line in lines]


def num_parameters(build: Callable[[], nn.Module]) -> int:
    """Weights and biases."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


@dataclass(frozen=True)
class BookNetwork:
    """A network of the book, with the layers and their outputs, and the number of parameters, that it lists."""

    section: str
    name: str
    build: Callable[[], nn.Module]
    image_size: int
    unit: str
    layers: list[str]
    num_parameters: int


DENSE_HEAD = ["Linear 4096", "ReLU 4096", "Dropout 4096", "Linear 4096", "ReLU 4096", "Dropout 4096", "Linear 10"]
NETWORKS = [
    BookNetwork(
        "7.6", "LeNet", LeNet, 28, "layer",
        [
            *("Conv2d 6x28x28", "Sigmoid 6x28x28", "AvgPool2d 6x14x14"),
            *("Conv2d 16x10x10", "Sigmoid 16x10x10", "AvgPool2d 16x5x5"),
            *("Flatten 400", "Linear 120", "Sigmoid 120", "Linear 84", "Sigmoid 84", "Linear 10"),
        ],
        61_706,
    ),
    BookNetwork(
        "8.1", "AlexNet", AlexNet, 224, "layer",
        [
            *("Conv2d 96x54x54", "ReLU 96x54x54", "MaxPool2d 96x26x26"),
            *("Conv2d 256x26x26", "ReLU 256x26x26", "MaxPool2d 256x12x12"),
            *("Conv2d 384x12x12", "ReLU 384x12x12", "Conv2d 384x12x12", "ReLU 384x12x12"),
            *("Conv2d 256x12x12", "ReLU 256x12x12", "MaxPool2d 256x5x5", "Flatten 6400", *DENSE_HEAD),
        ],
        46_764_746,
    ),
    BookNetwork(
        "8.2", "VGG-11", functools.partial(VGG, blocks=VGG11_BLOCKS), 224, "block",
        [
            *("Sequential 64x112x112", "Sequential 128x56x56", "Sequential 256x28x28"),
            *("Sequential 512x14x14", "Sequential 512x7x7", "Flatten 25088", *DENSE_HEAD),
        ],
        128_806_154,
    ),
    BookNetwork(
        "8.3", "NiN", NiN, 224, "block",
        [
            *("Sequential 96x54x54", "MaxPool2d 96x26x26", "Sequential 256x26x26", "MaxPool2d 256x12x12"),
            *("Sequential 384x12x12", "MaxPool2d 384x5x5", "Dropout 384x5x5", "Sequential 10x5x5"),
            *("AdaptiveAvgPool2d 10x1x1", "Flatten 10"),
        ],
        1_992_166,
    ),
    BookNetwork(
        "8.4", "GoogLeNet", GoogLeNet, 96, "module",
        [
            *("Sequential 64x24x24", "Sequential 192x12x12", "Sequential 480x6x6", "Sequential 832x3x3"),
            *("Sequential 1024", "Linear 10"),
        ],
        5_977_530,
    ),
    BookNetwork(
        "8.5", "LeNet with batch norm", functools.partial(LeNet, padding="none", norm="batch"), 28, "layer",
        [
            *("Conv2d 6x24x24", "BatchNorm2d 6x24x24", "Sigmoid 6x24x24", "AvgPool2d 6x12x12"),
            *("Conv2d 16x8x8", "BatchNorm2d 16x8x8", "Sigmoid 16x8x8", "AvgPool2d 16x4x4", "Flatten 256"),
            *("Linear 120", "BatchNorm1d 120", "Sigmoid 120", "Linear 84", "BatchNorm1d 84", "Sigmoid 84", "Linear 10"),
        ],
        44_878,
    ),
    BookNetwork(
        "8.6", "ResNet18", ResNet18, 96, "stage",
        [
            *("Sequential 64x24x24", "Sequential 64x24x24", "Sequential 128x12x12"),
            *("Sequential 256x6x6", "Sequential 512x3x3", "Sequential 10"),
        ],
        11_178_378,
    ),
    BookNetwork(
        "8.7", "DenseNet", DenseNet, 96, "block",
        [
            *("Sequential 64x24x24", "DenseBlock 192x24x24", "Sequential 96x12x12", "DenseBlock 224x12x12"),
            *("Sequential 112x6x6", "DenseBlock 240x6x6", "Sequential 120x3x3", "DenseBlock 248x3x3", "Sequential 10"),
        ],
        758_226,
    ),
    BookNetwork(
        "8.8", "RegNetX-32", RegNet, 96, "stage",
        ["Sequential 32x48x48", "Sequential 32x24x24", "Sequential 80x12x12", "Sequential 10"],
        179_290,
    ),
]  # fmt: skip


for each in NETWORKS:
    listing(each.section, f"{each.name}, {each.unit} by {each.unit}", each.layers)(
        functools.partial(layers, each.build, each.image_size)
    )
    listing(each.section, f"{each.name}'s parameters", each.num_parameters)(
        functools.partial(num_parameters, each.build)
    )


# ---- 8.2 to 8.7 What else the sections compute


@listing("8.2", "parameters at a quarter of the channels", 43_093_322)
def _() -> int:
    return num_parameters(VGG)


@listing("8.4", "an Inception block's channels: 64 + 128 + 32 + 32", [4, 256, 12, 12])
def _() -> list[int]:
    return [*Inception(192, (64, (96, 128), (16, 32), 32))(torch.rand(4, 192, 12, 12)).shape]


def same_as_batch_norm(is_training: bool) -> list[bool]:
    """Whether output and running statistics are those of nn.BatchNorm2d, after a first batch in training."""
    layer, running = nn.BatchNorm2d(3), torch.tensor([[0.0] * 3, [1.0] * 3])
    _, running = batch_norm(random(4, 3, 5, 5), running, is_training=True)
    layer(random(4, 3, 5, 5))
    images = random(4, 3, 5, 5, seed=1)
    ours, running = batch_norm(images, running, is_training)
    theirs = layer.train(is_training)(images)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    statistics = torch.stack([layer.running_mean, layer.running_var])
    return [torch.allclose(ours, theirs, atol=1e-5), torch.allclose(running, statistics)]


for mode in ("training", "prediction"):
    is_same = functools.partial(same_as_batch_norm, is_training=mode == "training")
    listing("8.5", f"batch norm by hand is nn.BatchNorm2d in {mode}: output, running statistics", [True] * 2)(is_same)


@listing("8.6", "a residual block of 3 channels on 4x3x6x6", [4, 3, 6, 6])
def _() -> list[int]:
    return [*Residual(3, 3)(torch.rand(4, 3, 6, 6)).shape]


@listing("8.6", "of 6 channels, 1x1 shortcut, stride 2", [4, 6, 3, 3])
def _() -> list[int]:
    return [*Residual(3, 6, stride=2)(torch.rand(4, 3, 6, 6)).shape]


@listing("8.6", "with a second batch norm of zeros it is the identity (nested function classes)", True)
def _() -> bool:
    block, images = Residual(3, 3), torch.rand(4, 3, 6, 6)
    last = block.residual[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return torch.equal(block(images), images)


@listing("8.7", "a dense block of 2 convolutions and growth 10 on 4x3x8x8", [4, 23, 8, 8])
def _() -> list[int]:
    return [*DenseBlock(2, 3, growth=10)(torch.rand(4, 3, 8, 8)).shape]


@listing("8.7", "a transition block of 10 channels on its output", [4, 10, 4, 4])
def _() -> list[int]:
    return [*transition(23, 10)(torch.rand(4, 23, 8, 8)).shape]


LISTINGS.sort(key=lambda listing: listing.section)
