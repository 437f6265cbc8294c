"""Random numbers of a training step as a function of (seed, rank, epoch, batch)."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

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
