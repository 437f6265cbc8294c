"""Looks into a network while some images run through it, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from convnets.classifier import Classifier
from convnets.networks import Residual, ResNeXtBlock

RELUS = (nn.ReLU, Residual, ResNeXtBlock)  # a residual block ends in a ReLU that is no module
NOT_DRAWN = (nn.Flatten, nn.Dropout, nn.Identity)
SATURATED_WITHIN = 0.05  # of 0 or 1: there a sigmoid's slope is less than a fifth of its steepest
MOST_MAPS = 16
MOST_MAP_PIXELS = 56  # of a side
MOST_VALUES = 100_000  # in a histogram

Array = NDArray[np.float32]


@dataclass
class Observation:
    """What `look` saw, copied into arrays. Layers stand in the order in which they ran.

    Attributes:
        scores: (N, num_classes).
        maps: outputs of each top layer for the first image: its first channels (channels, H, W), or units (n,).
        activations: up to 100,000 outputs of each activation function, over all images.
        saturated: share of each sigmoid's outputs that are within 0.05 of 0 or 1.
        dead: share of each ReLU's units (of convolutions: channels) that are 0 for every image.
    """

    scores: Array
    maps: list[tuple[str, Array]] = field(default_factory=list)
    activations: dict[str, Array] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)


def probe_numbers(labels: Tensor, num_images: int) -> Tensor:
    """Numbers of the first images of each class, the classes in turn: the same at every call."""
    turn = torch.zeros_like(labels)
    for label in labels.unique():
        members = labels == label
        turn[members] = torch.arange(int(members.sum()))
    return (turn * (labels.max() + 1) + labels).argsort()[:num_images]


def look(trainer: Trainer, classifier: Classifier, images: Tensor) -> Observation:
    """Run images (N, C, H, W) through the network, as in validation, and note what its layers give out."""
    seen = Observation(np.empty((0, 0), dtype=np.float32))
    tops = {id(layer): name for name, layer in classifier.network.named_children()}

    def note(name: str, layer: nn.Module, outputs: Any) -> None:
        if not isinstance(outputs, Tensor):
            return
        if id(layer) in tops and not isinstance(layer, NOT_DRAWN):
            title = f"{name} {'block' if isinstance(layer, nn.Sequential) else type(layer).__name__}"
            if outputs.ndim == 4 and outputs.shape[1] > MOST_MAPS:
                title += f", {MOST_MAPS} of {outputs.shape[1]}"
            seen.maps.append((title, _reduced(outputs[0])))
        tag = f"{name}_{type(layer).__name__}"
        if isinstance(layer, nn.Sigmoid):
            near = (outputs < SATURATED_WITHIN) | (outputs > 1 - SATURATED_WITHIN)
            seen.saturated[tag] = near.float().mean().item()
        if isinstance(layer, RELUS):
            units = outputs.transpose(0, 1).flatten(1)  # (units, images and places)
            seen.dead[tag] = (units.amax(dim=1) <= 0).float().mean().item()
        if isinstance(layer, (nn.Sigmoid, *RELUS)):
            seen.activations[tag] = sampled(outputs)

    handles = [
        layer.register_forward_hook(lambda layer, _, outputs, name=name: note(name, layer, outputs))
        for name, layer in classifier.network.named_modules()
        if name
    ]
    try:
        with watching(trainer, classifier):
            scores = classifier(images.to(classifier.device))
    finally:
        for handle in handles:
            handle.remove()
    seen.scores = as_array(scores)
    num_classes = seen.scores.shape[1]
    seen.maps = [("image", _reduced(images[0])), *(m for m in seen.maps if m[1].shape != (num_classes,))]
    seen.maps.append(("scores", seen.scores[0]))
    seen.activations["scores"] = seen.scores.flatten()
    return seen


@contextmanager
def watching(trainer: Trainer, classifier: Classifier) -> Iterator[None]:
    """Evaluation mode, in the training's precision; puts modes and random numbers back as they were."""
    modes = {module: module.training for module in classifier.modules()}
    on_gpu = classifier.device.type == "cuda"
    classifier.eval()
    try:
        with (
            torch.random.fork_rng(devices=[classifier.device] if on_gpu else []),
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def as_array(tensor: Tensor) -> Array:
    """A copy in main memory, float32, that the training does not change."""
    return tensor.detach().float().cpu().numpy().copy()


def sampled(tensor: Tensor) -> Array:
    """Up to 100,000 of a tensor's numbers, evenly spaced."""
    flat = tensor.detach().reshape(-1)
    return as_array(flat[:: max(1, -(-len(flat) // MOST_VALUES))])


def _reduced(outputs: Tensor) -> Array:
    if outputs.ndim < 3:
        return as_array(outputs.flatten())
    step = -(-outputs.shape[-1] // MOST_MAP_PIXELS)
    return as_array(outputs[:MOST_MAPS, ::step, ::step])
