"""Training steps: their random numbers, a function of (seed, rank, epoch, batch), and several of them at once."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from convnets.data import derive_seed


class StepRandomness(Callback):
    """Seeds the generators that dropout draws from before each training step, so that no state need be stored.

    Only the CPU's generator and that of the step's device: `torch.manual_seed` costs half a millisecond.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step."""
        seed = derive_seed("step", self.seed, trainer.global_rank, trainer.current_epoch, batch_idx)
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.default_generators[pl_module.device.index or 0].manual_seed(seed)


class SeveralSteps(StepRandomness):
    """Takes the first steps of an execution by itself, and leaves the last one to Lightning, whose loop costs time.

    For batches that are lists of (images, labels). The steps are the same, to the last bit; but the hooks of other
    callbacks, and so checkpoints, signals and the progress bar, come once an execution.
    """

    def __init__(self, seed: int, steps_per_execution: int) -> None:
        super().__init__(seed)
        self.steps_per_execution = steps_per_execution

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the steps; the last one's batch is then what the list holds."""
        *earlier, last = batch
        first = batch_idx * self.steps_per_execution
        for number, one in enumerate(earlier, first):
            super().on_train_batch_start(trainer, pl_module, one, number)
            self._step(trainer, pl_module, one, number)
        super().on_train_batch_start(trainer, pl_module, last, first + len(earlier))
        batch[:] = last

    def _step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: tuple[Tensor, Tensor],
        number: int,
    ) -> None:
        optimizer = trainer.optimizers[0]
        loss: Any = trainer.strategy.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        if trainer.gradient_clip_val is not None:
            pl_module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        optimizer.step()
        for schedule in trainer.lr_scheduler_configs:
            pl_module.lr_scheduler_step(schedule.scheduler, metric=None)


def steps_per_execution(trainer: Any) -> int:
    """How many training steps Lightning takes for one."""
    return next((one.steps_per_execution for one in trainer.callbacks if isinstance(one, SeveralSteps)), 1)
