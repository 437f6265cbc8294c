"""An average of the weights as what a run is validated on and leaves."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from convnets.classifier import Classifier


class MovingAverage(WeightAveraging):
    """An exponential moving average of the weights, and of batch norm's statistics, after each step of the optimizer.

    With step n (1 is the first) the average becomes d * average + (1 - d) * weights, d being the smaller of `decay` and
    (n - 1) / (n + 8), so that the random weights of the start are soon forgotten. It takes the weights' place for each
    validation, and at the end of the training. Several steps at once change nothing of it: Lightning's own
    EMAWeightAveraging would average once for all of them.

    Attributes:
        raw: the network's weights of the last step, once the average has taken their place.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.raw: dict[str, Tensor] = {}

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Not when Lightning asks, but after each step."""
        return False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average after each step of the optimizer, whoever asks it to step; nothing waits for a GPU."""
        average = self._average_model
        assert isinstance(average, AveragedModel)
        num_averaged = int(average.n_averaged)
        average.to(pl_module.device)  # Lightning makes the average before it moves the weights to a GPU
        tensors = [[*part.parameters(), *part.buffers()] for part in (average.module, pl_module)]
        averages, weights = ([each.detach() for each in part if each.is_floating_point()] for part in tensors)
        counts, new_counts = ([each for each in part if not each.is_floating_point()] for part in tensors)

        def update(*_: Any) -> None:
            nonlocal num_averaged
            torch._foreach_lerp_(averages, weights, 1 - min(self.decay, num_averaged / (num_averaged + 9)))
            for count, new in zip(counts, new_counts, strict=True):  # of the batches that batch norm has seen
                count.copy_(new)
            num_averaged += 1
            average.n_averaged += 1  # which the checkpoint keeps

        trainer.optimizers[0].register_step_post_hook(update)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the weights' place, once."""
        assert isinstance(pl_module, Classifier)
        if not self.raw:
            self.raw = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
            super().on_train_end(trainer, pl_module)
