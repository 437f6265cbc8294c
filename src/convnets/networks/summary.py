"""What each layer of a network gives out and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

WHOLE_IMAGE = 0  # receptive field of what depends on every pixel


@dataclass
class Line:
    """One layer, with all that is inside it.

    Attributes:
        depth: 0 for the network, 1 for its layers, 2 for theirs.
        layer: the module's class.
        shape: of the output for one image, without the batch.
        num_parameters: weights and biases.
        multiply_adds: of convolutions and linear layers, for one image.
        receptive_field: side, in pixels of the image, of what one output unit depends on (borders aside).
        activation_bytes: of the outputs inside the layer, for one image in float32: what training keeps.
    """

    depth: int
    layer: str
    shape: tuple[int, ...] = ()
    num_parameters: int = 0
    multiply_adds: int = 0
    receptive_field: int = 1
    activation_bytes: int = 0
    outputs: list[Tensor] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class _View:
    """What a tensor's unit sees: the side of its receptive field, and the step between neighbours, in pixels."""

    size: int = 1
    step: int = 1

    def through(self, module: nn.Module) -> "_View":
        if isinstance(module, (nn.Flatten, nn.Linear, nn.AdaptiveAvgPool2d)) or self.size == WHOLE_IMAGE:
            return _View(WHOLE_IMAGE)
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, stride = _first(module.kernel_size), _first(module.stride)
            dilation = _first(getattr(module, "dilation", 1))
            return _View(self.size + (kernel - 1) * dilation * self.step, self.step * stride)
        return self


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def summarize(network: nn.Module, image_size: int, in_channels: int = 1) -> list[Line]:
    """Describe every module of the network, in the order of execution; the first line is the whole.

    Runs the network once on a fake image, where no arithmetic is done and no memory taken. A module that is called more
    than once is described by its last call, with the costs of all.
    """
    with torch.device("meta"):
        image = torch.empty(1, in_channels, image_size, image_size)
        network = network.to("meta").eval()
    views: dict[int, _View] = {id(image): _View()}
    alive: list[Tensor] = [image]  # so that no id is given twice
    running: list[Line] = []
    lines: list[Line] = []
    handles: list[RemovableHandle] = []

    def before(module: nn.Module, inputs: Any) -> None:
        line = Line(len(running), type(module).__name__)
        line.num_parameters = sum(parameter.numel() for parameter in module.parameters())
        lines.append(line)
        running.append(line)

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        line = running.pop()
        is_leaf = next(module.children(), None) is None
        line.shape = tuple(output.shape[1:])
        if not is_leaf or output.untyped_storage()._cdata != inputs[0].untyped_storage()._cdata:  # a view is free
            line.outputs.append(output)
        line.multiply_adds += multiply_adds(module, output)
        if is_leaf:
            views[id(output)] = views.get(id(inputs[0]), _View()).through(module)
        elif id(output) not in views:  # made from its layers' outputs by a function, as in a residual block
            inside = [views[id(tensor)] for tensor in line.outputs if id(tensor) in views]
            views[id(output)] = max(inside, key=lambda view: view.size or float("inf"), default=_View())
        line.receptive_field = views[id(output)].size
        alive.append(output)
        distinct = {tensor.untyped_storage()._cdata: tensor for tensor in line.outputs}
        line.activation_bytes = sum(4 * tensor.numel() for tensor in distinct.values())
        if running:
            running[-1].multiply_adds += line.multiply_adds
            running[-1].outputs += line.outputs

    for module in network.modules():
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return lines


def multiply_adds(module: nn.Module, output: Tensor) -> int:
    """Multiplications with an addition that a convolution or linear layer does for one image; else 0.

    Source: Dive into Deep Learning 7.4.4: O(h w k^2 c_in c_out), divided by the number of groups.
    """
    if isinstance(module, nn.Conv2d):
        return output[0].numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    if isinstance(module, nn.Linear):
        return output[0].numel() * module.in_features
    return 0


def as_table(lines: Sequence[Line], batch_size: int, depth: int = 1) -> str:
    """Format the lines down to `depth`, and the totals, as text."""
    header = ("layer", "output", "parameters", "multiply-adds", "sees", f"activations of {batch_size}")
    rows = [header]
    for line in lines[1:]:
        if line.depth <= depth:
            rows.append(
                (f"{'  ' * (line.depth - 1)}{line.layer}", "x".join(map(str, line.shape)), *_costs(line, batch_size))
            )
    rows.append(("total", "", *_costs(lines[0], batch_size)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    texts = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(texts[0])
    return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]])


def _costs(line: Line, batch_size: int) -> tuple[str, str, str, str]:
    sees = "all" if line.receptive_field == WHOLE_IMAGE else f"{line.receptive_field} px"
    return (
        f"{line.num_parameters:,}",
        f"{line.multiply_adds:,}",
        sees,
        f"{line.activation_bytes * batch_size / 1e6:,.1f} MB",
    )
