"""Weight initialisation as callbacks."""

import logging
from abc import abstractmethod

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

log = logging.getLogger(__name__)


class NothingInitializedError(ValueError):
    """The network has no layer that the initialisation is for."""


class _WeightInit(Callback):
    """Initialises the weights of convolutions and linear layers before the optimizer is built; biases stay.

    In `setup` of a fresh fit, because Lightning restores checkpoints after it: resumed and tested weights stay too.
    """

    @abstractmethod
    def initialize(self, weight: Tensor) -> None:
        """Set one layer's weight in place."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Initialise, in a fit that starts from nothing."""
        if stage != "fit" or trainer.ckpt_path is not None:
            return
        layers = [module for module in pl_module.modules() if isinstance(module, (_ConvNd, nn.Linear))]
        name = type(self).__name__
        if not layers:
            raise NothingInitializedError(
                f"{name} found no convolution or linear layer to initialise: set init=default."
            )
        with torch.no_grad():
            for layer in layers:
                self.initialize(layer.weight)
        log.info("%s: weights of %d layers", name, len(layers))


class XavierInit(_WeightInit):
    """Xavier-uniform weights: variance 2 / (fan_in + fan_out).

    Source: Dive into Deep Learning 7.6.1; Glorot and Bengio, Understanding the difficulty of training deep feedforward
    neural networks (2010).
    """

    def initialize(self, weight: Tensor) -> None:
        """Set one layer's weight in place."""
        nn.init.xavier_uniform_(weight)


class KaimingInit(_WeightInit):
    """Kaiming-uniform weights for ReLU: variance 2 / fan_in.

    Source: He et al., arXiv 1502.01852.
    """

    def initialize(self, weight: Tensor) -> None:
        """Set one layer's weight in place."""
        nn.init.kaiming_uniform_(weight, nonlinearity="relu")
