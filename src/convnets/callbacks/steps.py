"""Training steps: their random numbers, a function of (seed, rank, epoch, batch), and several of them at once."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from convnets.data import derive_seed


def begin_step(trainer: lightning.Trainer, pl_module: Any, seed: int, number: int) -> None:
    """Seed the generators that a training step draws from, the epoch's `number`-th on this rank.

    Only the CPU's generator and that of the step's device: `torch.manual_seed` costs half a millisecond. Where several
    ranks share the batch, the module is told its size, which no rank need ask the others for.
    """
    if trainer.world_size > 1:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        pl_module.num_images_in_step = datamodule.num_images_in_batch(number)
    device = pl_module.device
    mixed = derive_seed("step", seed, trainer.global_rank, trainer.current_epoch, number)
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(mixed)


class StepRandomness(Callback):
    """Seeds the generators that dropout draws from before each training step, so that no state need be stored."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step."""
        begin_step(trainer, pl_module, self.seed, batch_idx)


class SeveralSteps(Callback):
    """Takes all steps of an execution but the last by itself, without Lightning's loop, which costs time.

    For a datamodule whose training batches are lists, which its `training_batch` makes ready one by one; for one
    optimizer. The steps are the same to the last bit, and seeded as `StepRandomness` does. But the step hooks of other
    callbacks, and so checkpoints, signals and the progress bar, come once an execution.
    """

    def __init__(self, seed: int, steps_per_execution: int) -> None:
        self.seed = seed
        self.steps_per_execution = steps_per_execution

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the steps; then the list holds the images and labels of the last one, which Lightning takes."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        first = batch_idx * self.steps_per_execution
        for number, one in enumerate(batch[:-1], first):
            ready = datamodule.training_batch(one, number)
            begin_step(trainer, pl_module, self.seed, number)
            self._step(trainer, pl_module, ready, number)
        number = first + len(batch) - 1
        batch[:] = datamodule.training_batch(batch[-1], number)
        begin_step(trainer, pl_module, self.seed, number)

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
        pl_module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        optimizer.step()
        for schedule in trainer.lr_scheduler_configs:
            if schedule.interval == "step":
                pl_module.lr_scheduler_step(schedule.scheduler, metric=None)


def steps_per_execution(trainer: Any) -> int:
    """How many training steps Lightning takes for one."""
    return next((one.steps_per_execution for one in trainer.callbacks if isinstance(one, SeveralSteps)), 1)


def batches_of_an_epoch(trainer: Any, num_batches: int) -> int:
    """How many of an epoch's training batches are trained on, if there are so many."""
    limit = trainer.limit_train_batches  # in executions
    if isinstance(limit, float):
        return int(limit * num_batches)
    return min(limit * steps_per_execution(trainer), num_batches)


def steps_in(trainer: Any, num_executions: int) -> int:
    """The steps in so many of an epoch's first executions; its last one may have fewer than the others."""
    several = steps_per_execution(trainer)
    return num_executions if several == 1 else min(num_executions * several, trainer.datamodule.num_train_batches)
