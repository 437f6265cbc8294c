"""How large gradients, weights and steps are, layer by layer."""

from collections.abc import Iterable

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from convnets.classifier import Classifier
from convnets.dashboard.writer import writer_of

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def layer_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers under names for TensorBoard, such as 0_Conv2d."""
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)]
    return {f"{name}_{type(layer).__name__}": layer.weight for name, layer in layers}


class Norms(Callback):
    """Scalars for TensorBoard, of each epoch's last step: the 2-norms of each layer's weights and of their gradient.

    And the 2-norm of the step relative to that of the weights; about 1e-3 is usual. "all" is over all parameters. The
    gradient is that before any clipping. One step an epoch, because copying all weights takes time and memory.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, list[Tensor]] = {}
        self._gradient_norms: list[Tensor] = []
        self._weights_before: dict[int, Tensor] = {}  # by the parameter's id

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradients of the epoch's last step, and copy the weights."""
        if not trainer.is_last_batch or writer_of(trainer) is None:
            return
        assert isinstance(pl_module, Classifier)
        used: list[Tensor] = [parameter for parameter in pl_module.network.parameters() if parameter.grad is not None]
        layers = {name: [weight] for name, weight in layer_weights(pl_module.network).items()}
        self._parameters = {"all": used, **layers}
        self._weights_before = {id(parameter): parameter.detach().clone() for parameter in used}
        self._gradient_norms = [
            norm(parameter.grad for parameter in parameters if parameter.grad is not None)
            for parameters in self._parameters.values()
        ]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what the step changed, and write the scalars."""
        writer, before = writer_of(trainer), self._weights_before
        if writer is None or not before:
            return
        with torch.no_grad():
            weights = [norm(parameters) for parameters in self._parameters.values()]
            steps = [
                norm(parameter - before[id(parameter)] for parameter in parameters if id(parameter) in before)
                for parameters in self._parameters.values()
            ]
        rows = torch.stack([*self._gradient_norms, *weights, *steps]).reshape(3, -1).T.tolist()  # waits once
        for name, (gradient, weight, step) in zip(self._parameters, rows, strict=True):
            ratio = step / weight if weight else 0.0
            scalars = {"gradient_norm": gradient, "weight_norm": weight, "update_ratio": ratio}
            for kind, value in scalars.items():
                writer.add_scalar(f"{kind}/{name}", value, trainer.current_epoch + 1)
        writer.flush()
        self._weights_before, self._parameters = {}, {}


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all the numbers in the tensors; 0 where there are none."""
    norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)
