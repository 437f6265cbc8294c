"""Training steps: their random numbers, a function of (seed, rank, epoch, batch), and several of them at once."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from convnets.data import Batch, ImageDataModule, derive_seed


class TrainingSteps(Callback):
    """Seeds the generators that dropout draws from before each training step, so that no state need be stored.

    Where a batch has `earlier` ones, it takes their steps first, without Lightning's loop, which costs time; for one
    optimizer. The steps are the same to the last bit. But the step hooks of other callbacks, and so checkpoints,
    signals and the progress bar, come once for all of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the steps of the earlier batches, and seed the step that Lightning takes."""
        if not isinstance(batch, Batch):  # a pair, of a user's own loader
            self._seed(pl_module.device, (trainer.global_rank, trainer.current_epoch, batch_idx))
            return
        while batch.earlier:
            ready = ImageDataModule.of(trainer).training_batch(batch.earlier.pop(0))
            self._seed(pl_module.device, ready.place)
            self._step(trainer, pl_module, ready)
        self._seed(pl_module.device, batch.place)

    def _seed(self, device: torch.device, place: tuple[int, int, int]) -> None:
        """Seed the CPU's generator and that of the device; `torch.manual_seed` costs half a millisecond."""
        mixed = derive_seed("step", self.seed, *place)
        torch.default_generator.manual_seed(mixed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(mixed)

    def _step(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> None:
        optimizer = trainer.optimizers[0]
        loss: Any = trainer.strategy.training_step(batch, batch.place[-1])
        optimizer.zero_grad()
        loss.backward()
        pl_module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        optimizer.step()
        for schedule in trainer.lr_scheduler_configs:
            if schedule.interval == "step":
                pl_module.lr_scheduler_step(schedule.scheduler, metric=None)
