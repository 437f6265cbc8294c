"""A table of a network's layers: output shapes, parameters, multiply-adds, receptive fields, memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # torch has no public way through nested containers
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from convnets.networks.receptive_field import View, Views

WHOLE_IMAGE = 0  # receptive field of a unit that depends on every pixel
UNKNOWN = -1  # receptive field behind an operation that `Views` does not know
FLOPS_OF_A_MULTIPLY_ADD = 2
PASSES = 3  # the backward pass costs two forward ones: a gradient for the weights, and one for the inputs


@dataclass
class Line:
    """One layer, including the layers inside it.

    Attributes:
        depth: 0 for the network, 1 for its layers, 2 for theirs.
        layer: the module's class.
        shape: of the output for one image, without the batch.
        num_parameters: weights and biases.
        multiply_adds: of convolutions and matrix products, whether modules or functions do them, for one image.
        receptive_field: side, in pixels of the image, of the part that an output unit depends on (borders aside).
        activation_bytes: of the outputs inside the layer, which training keeps, for one image in float32.
    """

    depth: int
    layer: str
    shape: tuple[int, ...] = ()
    num_parameters: int = 0
    multiply_adds: int = 0
    receptive_field: int = 1
    activation_bytes: int = 0
    outputs: list[Tensor] = field(default_factory=list, repr=False)


def summarize(network: nn.Module, image_size: int, in_channels: int = 1) -> list[Line]:
    """Describe every module of the network, in the order of execution; the first line is the whole.

    Runs the network once on a fake image, where no arithmetic is done and no memory taken. A module that is called more
    than once is described by its last call, with the costs of all.
    """
    with torch.inference_mode(), torch.device("meta"):
        image = torch.empty(1, in_channels, image_size, image_size)
        network = network.to("meta").eval()
    views, counter = Views(image), FlopCounterMode(display=False)
    running: list[tuple[Line, int]] = []  # with the operations counted before each began
    lines: list[Line] = []
    handles: list[RemovableHandle] = []

    def before(module: nn.Module, inputs: Any) -> None:
        line = Line(len(running), type(module).__name__)
        line.num_parameters = sum(parameter.numel() for parameter in module.parameters())
        lines.append(line)
        running.append((line, counter.get_total_flops()))

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        line, flops = running.pop()
        output = next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))  # of several, the first
        is_leaf = next(module.children(), None) is None
        line.shape = tuple(output.shape[1:])
        # A view of the input takes no memory.
        if not (is_leaf and inputs) or output.untyped_storage() is not inputs[0].untyped_storage():
            line.outputs.append(output)
        line.multiply_adds = (counter.get_total_flops() - flops) // FLOPS_OF_A_MULTIPLY_ADD
        line.receptive_field = _side(views[output])
        distinct = {tensor.untyped_storage(): tensor for tensor in line.outputs}
        line.activation_bytes = sum(4 * tensor.numel() for tensor in distinct.values())
        if running:
            running[-1][0].outputs += line.outputs

    for module in network.modules():
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.inference_mode(), counter, views:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return lines


def training_flops(network: nn.Module, image_size: int, in_channels: int = 1) -> int:
    """Operations of a training step for one image, in convolutions and matrix products; takes the weights away."""
    return summarize(network, image_size, in_channels)[0].multiply_adds * FLOPS_OF_A_MULTIPLY_ADD * PASSES


def _side(view: View | None) -> int:
    if view is None or math.isnan(view.side):
        return UNKNOWN
    return WHOLE_IMAGE if math.isinf(view.side) else math.ceil(view.side)


def as_table(lines: Sequence[Line], batch_size: int, depth: int = 1) -> str:
    """Format the lines down to `depth`, and the totals, as text."""
    rows = [("layer", "output", "parameters", "multiply-adds", "sees", f"activations of {batch_size}")]
    for line in lines[1:]:
        if line.depth <= depth:
            name, shape = "  " * (line.depth - 1) + line.layer, "x".join(map(str, line.shape))
            rows.append((name, shape, *_costs(line, batch_size)))
    rows.append(("total", "", *_costs(lines[0], batch_size)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body, total = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, "<<>>>>", widths, strict=True))
        for row in rows
    ]
    rule = "-" * len(head)
    return "\n".join([head, rule, *body, rule, total])


def _costs(line: Line, batch_size: int) -> tuple[str, str, str, str]:
    sees = {WHOLE_IMAGE: "all", UNKNOWN: "?"}.get(line.receptive_field, f"{line.receptive_field} px")
    memory = f"{line.activation_bytes * batch_size / 1e6:,.1f} MB"
    return f"{line.num_parameters:,}", f"{line.multiply_adds:,}", sees, memory
