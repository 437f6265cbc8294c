"""Weight initialisation as callbacks."""

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from convnets.classifier import Classifier
from convnets.files import file_digest

log = logging.getLogger(__name__)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INITIALIZED = (nn.Linear, *CONVOLUTIONS)


class NothingInitializedError(ValueError):
    """The network has nothing that the initialisation is for."""


class WeightsFromRun(Callback):
    """Starts a training from the weights of another run, where the names and shapes of the network's are the same.

    Args:
        run_dir: the other run's folder.
        digest: of its weights file when this training was named, to find out whether the file has changed since.

    Raises:
        ValueError: the other run has no weights.
        NothingInitializedError: none of its weights fits.
    """

    def __init__(self, run_dir: Path, digest: str | None = None) -> None:
        self.digest = digest
        self.path = run_dir / "weights.safetensors"
        if not self.path.is_file():
            raise ValueError(f"init.from_run={run_dir} has no {self.path.name}: give the folder of a finished run.")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights, unless the training resumes; log which tensors stay new, such as the head's."""
        if stage != "fit" or trainer.ckpt_path is not None:
            return
        assert isinstance(pl_module, Classifier)
        if self.digest is not None and file_digest(self.path) != self.digest:
            raise ValueError(f"init.from_run: {self.path} holds other weights than when this run was started from it.")
        take_over(safetensors.torch.load_file(self.path), pl_module, self.path)


def take_over(source: Mapping[str, Tensor], classifier: Classifier, place: Path | str) -> None:
    """Copy tensors into the network where names and shapes are the same; log which stay new, such as the head's.

    Args:
        place: where they come from, for messages.

    Raises:
        NothingInitializedError: none of them fits.
    """
    target = classifier.network.state_dict()
    fitting = {name: value for name, value in source.items() if name in target and target[name].shape == value.shape}
    if not any(value.is_floating_point() for value in fitting.values()):
        raise NothingInitializedError(f"None of the weights in {place} fits this network.")
    classifier.network.load_state_dict(fitting, strict=False)
    classifier.taken_over = frozenset(f"network.{name}" for name in fitting)
    log.info("%d of %d tensors are those of %s", len(fitting), len(target), place)
    for name in [name for name in {**source, **target} if name not in fitting]:
        there, here = (str(tuple(d[name].shape)) if name in d else "absent" for d in (source, target))
        log.info("  %s is %s there and %s here: %s", name, there, here, "new" if name in target else "left out")


class _WeightInit(Callback):
    """Initialises the weights of convolutions and linear layers before the optimizer is built; biases stay.

    Weights that were taken over from another run stay as well.

    This happens in `setup` because Lightning restores checkpoints after it, and only in a fit that does not resume.
    """

    initialize: Callable[[Tensor], Any]  # sets one layer's weight in place

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Initialise, unless the training resumes."""
        if stage != "fit" or trainer.ckpt_path is not None:
            return
        assert isinstance(pl_module, Classifier)
        layers = {name: layer for name, layer in pl_module.named_modules() if isinstance(layer, INITIALIZED)}
        name = type(self).__name__
        if not layers:
            raise NothingInitializedError(
                f"{name} found no convolution or linear layer to initialise: set init=default."
            )
        fresh = [layer for name, layer in layers.items() if f"{name}.weight" not in pl_module.taken_over]
        with torch.no_grad():
            for layer in fresh:
                self.initialize(layer.weight)
        log.info("%s: weights of %d layers", name, len(fresh))


class XavierInit(_WeightInit):
    """Xavier-uniform weights: variance 2 / (fan_in + fan_out).

    Source: Dive into Deep Learning 7.6.1; Glorot and Bengio, Understanding the difficulty of training deep feedforward
    neural networks (2010).
    """

    initialize = staticmethod(nn.init.xavier_uniform_)


class KaimingInit(_WeightInit):
    """Kaiming-uniform weights for ReLU: variance 2 / fan_in.

    Source: He et al., arXiv 1502.01852.
    """

    initialize = staticmethod(functools.partial(nn.init.kaiming_uniform_, nonlinearity="relu"))
