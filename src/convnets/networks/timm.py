"""Any architecture of timm (PyTorch Image Models), which the extra `timm` installs: imported where one is asked for."""

import copy
import difflib
import logging
import pickle
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def create(
    arch: str,
    image_size: int = 224,
    in_channels: int = 3,
    num_classes: int = 1000,
    pretrained: bool = False,
    weights: str | None = None,
    weights_digest: str | None = None,
) -> nn.Module:
    """Build an architecture of timm, its weights drawn as timm draws them.

    Takes images (N, in_channels, image_size, image_size) and returns scores (N, num_classes).

    Args:
        arch: its name, such as `convnext_tiny`; also with timm's name of its weights, `convnext_tiny.in12k`.
        pretrained: as the other two, for the start of a training, which takes the weights over (`pretrained_weights`):
            a trained network is built without them.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such architecture, or it does not take such images.
    """
    import timm

    name = arch.partition(".")[0]
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        raise ValueError(f"timm has no architecture {arch}.{hint} (timm.list_models() in Python lists all.)")
    if name != arch and not timm.is_model_pretrained(arch):
        raise ValueError(f"timm has no weights {arch.partition('.')[2]} of {name}: set model.arch={name}, or another.")
    try:
        network = timm.create_model(arch, num_classes=num_classes, **_input(arch, image_size, in_channels))
        with torch.no_grad():
            copy.deepcopy(network).to("meta").eval()(torch.empty(2, in_channels, image_size, image_size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        usual = timm.get_pretrained_cfg(name).input_size[-1]
        raise ValueError(
            f"{arch} does not take images of {in_channels}x{image_size}x{image_size} ({_line(error)}): data.resize="
            f"{usual} is what it was made for."
        ) from error
    return network


def pretrained_weights(arch: str, image_size: int, in_channels: int, path: Path | None = None) -> dict[str, Tensor]:
    """The pretrained tensors of an architecture: timm's own, which it fetches, or those of a file.

    timm fits them to the number of channels and to the image size; the head is that of the file.

    Raises:
        ValueError: they cannot be fetched or read, or are not of this architecture.
    """
    import timm

    for name in ("timm", "huggingface_hub"):  # what is taken over is logged by us, and what fails is an error
        logging.getLogger(name).setLevel(logging.ERROR)
    options = _input(arch, image_size, in_channels)
    try:
        if path is not None:
            stored = timm.models.load_state_dict(str(path))
            options["pretrained_cfg_overlay"] = {"state_dict": stored}
            names = timm.get_pretrained_cfg(arch.partition(".")[0]).classifier or ()
            for name in [names] if isinstance(names, str) else names:
                if f"{name}.weight" in stored:
                    options["num_classes"] = stored[f"{name}.weight"].shape[0]
                    options["pretrained_cfg_overlay"]["num_classes"] = options["num_classes"]
        return timm.create_model(arch, pretrained=True, **options).state_dict()
    except Exception as error:  # of the file's format, the network's names and the net, from four libraries
        if pickle.UnpicklingError in (type(error), type(error.__cause__)):
            raise ValueError(
                f"model.weights={path} is no file of weights: give one of safetensors, or of tensors that "
                "torch.save wrote."
            ) from error
        if path is not None:
            raise ValueError(f"model.weights={path} has no weights of {arch}: {_line(error)}") from error
        raise ValueError(
            f"The weights of {arch} cannot be fetched ({_line(error)}): fetch them where that is possible, and give "
            "the file with model.weights=FILE in place of model.pretrained=true."
        ) from error


def _input(arch: str, image_size: int, in_channels: int) -> dict[str, Any]:
    """The images, as timm's create_model takes them: a convolutional network does not ask for their size."""
    import timm

    is_fixed = timm.get_pretrained_cfg(arch.partition(".")[0]).fixed_input_size
    return {"in_chans": in_channels, **({"img_size": image_size} if is_fixed else {})}


def _line(error: Exception) -> str:
    """An error in one line of at most 200 letters."""
    return textwrap.shorten(str(error), 200, placeholder="...") or type(error).__name__
