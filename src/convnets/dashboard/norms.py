"""How large gradients, weights and steps are, layer by layer."""

from collections.abc import Iterable

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from convnets.classifier import Classifier
from convnets.dashboard.tensorboard import writer_of


def layer_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers under names for TensorBoard, such as 0_Conv2d."""
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, (_ConvNd, nn.Linear))]
    return {f"{name}_{type(layer).__name__}": layer.weight for name, layer in layers}


class Norms(Callback):
    """Scalars for TensorBoard, of each epoch's last step: the 2-norm of each layer's weights and of their gradient.

    And how far the step moves them, relative to their norm; about 1e-3 is a usual pace. "all" is over all parameters.
    The gradient is that before any clipping. One step an epoch, because copying all weights takes time and memory.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, list[Tensor]] = {}
        self._gradient_norms: list[Tensor] = []
        self._before: dict[int, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the gradients of the epoch's last step, and keep the weights as they are before it."""
        if not trainer.is_last_batch or writer_of(trainer) is None:
            return
        assert isinstance(pl_module, Classifier)
        used: list[Tensor] = [parameter for parameter in pl_module.network.parameters() if parameter.grad is not None]
        layers = {name: [weight] for name, weight in layer_weights(pl_module.network).items()}
        self._parameters = {"all": used, **layers}
        self._before = {id(parameter): parameter.detach().clone() for parameter in used}
        self._gradient_norms = [
            norm(parameter.grad for parameter in parameters if parameter.grad is not None)
            for parameters in self._parameters.values()
        ]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure what the step did, and write."""
        writer = writer_of(trainer)
        if writer is None or not self._before:
            return
        with torch.no_grad():
            weights = [norm(parameters) for parameters in self._parameters.values()]
            updates = [
                norm(
                    parameter - self._before[id(parameter)] for parameter in parameters if id(parameter) in self._before
                )
                for parameters in self._parameters.values()
            ]
        rows = torch.stack([*self._gradient_norms, *weights, *updates]).reshape(3, -1).T.tolist()  # waits once
        for name, (gradient, weight, update) in zip(self._parameters, rows, strict=True):
            writer.add_scalar(f"gradient_norm/{name}", gradient, trainer.current_epoch + 1)
            writer.add_scalar(f"weight_norm/{name}", weight, trainer.current_epoch + 1)
            writer.add_scalar(f"update_ratio/{name}", update / weight if weight else 0.0, trainer.current_epoch + 1)
        writer.flush()
        self._before, self._parameters = {}, {}


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all the numbers in the tensors; 0 where there are none."""
    norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)
