"""Stop a training that has diverged."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from convnets.classifier import Classifier


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class FiniteLoss(Callback):
    """Raises when the loss of an epoch is not finite, before its checkpoint is written.

    The epoch's running sum on the device is the flag: one NaN or infinite batch makes it so, and reading it once an
    epoch costs nothing. `Checkpoints` reads it before it saves inside an epoch.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the training loss after the epoch's last batch."""
        if trainer.is_last_batch:
            check_finite(trainer, pl_module, "train")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss: the very last step may have ruined the weights."""
        check_finite(trainer, pl_module, "val")


def check_finite(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
    """Check the stage's running loss.

    Raises:
        NonFiniteLossError: it is NaN or infinite; on all ranks at once.
    """
    assert isinstance(pl_module, Classifier)
    loss = pl_module.metrics(stage)[f"{stage}/loss"]
    if not math.isfinite(loss):
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else float("nan")
        raise NonFiniteLossError(
            f"{stage}/loss became {loss} in epoch {trainer.current_epoch + 1}: the training has diverged. "
            f"Lower model.lr (it was {rate:g}) or set trainer.gradient_clip_val=1."
        )
