"""Give sizes to layers that take theirs from their first input, such as `nn.LazyConv2d`."""

import torch
from torch import nn


def give_sizes(network: nn.Module, image_size: int, in_channels: int) -> None:
    """Run the network once on a black image, which gives lazy layers their sizes and draws their weights.

    A network without lazy layers is not run, and draws nothing. Modes and running statistics stay as they were.

    Raises:
        ValueError: the network does not take such images, or does not use one of its layers.
    """
    for images, training in ((1, False), (2, True)):  # some layers work in training only, where batch norm needs two
        if lazy := _lazy_layers(network):
            _run(network, torch.zeros(images, in_channels, image_size, image_size), training)
            for layer in lazy.values():
                if not _is_lazy(layer) and callable(reset := getattr(layer, "reset_running_stats", None)):
                    reset()  # batch norm's
    if unused := _lazy_layers(network):
        raise ValueError(
            f"{type(network).__name__} does not use its layer {next(iter(unused))}, so its size is not known: use it "
            "in forward, remove it, or give it its size."
        )


def _lazy_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers without sizes, by name."""
    return {name: layer for name, layer in network.named_modules() if _is_lazy(layer)}


def _is_lazy(layer: nn.Module) -> bool:
    values = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return any(map(nn.parameter.is_lazy, values))


def _run(network: nn.Module, images: torch.Tensor, training: bool) -> None:
    modes = {module: module.training for module in network.modules()}
    known = [buffer for buffer in network.buffers() if not nn.parameter.is_lazy(buffer)]
    contents = [buffer.clone() for buffer in known]
    network.train(training)
    try:
        with torch.no_grad():
            network(images)
    except RuntimeError as error:
        raise ValueError(
            f"{type(network).__name__} does not take images of shape {tuple(images.shape[1:])}: {error} "
            "(HYDRA_FULL_ERROR=1 before the command shows where.)"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, content in zip(known, contents, strict=True):
            buffer.copy_(content)
