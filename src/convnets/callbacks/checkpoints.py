"""Checkpoints that are whole or not there."""

import os
from pathlib import Path
from typing import Any, Self

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from convnets.classifier import Classifier


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a killed process leaves the previous checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint to `path`, atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.incoming")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Checkpoints(Checkpoint):
    """Keeps the last epoch in last.ckpt and, if asked, the one of the highest validation accuracy in best.ckpt.

    Derived from Lightning's Checkpoint, whose hooks run after those of all other callbacks.
    """

    def __init__(self, dir: Path, keep_best: bool) -> None:
        self.last_path = dir / "last.ckpt"
        self.best_path = dir / "best.ckpt"
        self.keep_best = keep_best
        self.best_accuracy = -1.0
        self.best_epoch = 0

    @classmethod
    def of(cls, trainer: Any) -> Self:
        """The trainer's own."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, cls))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the epoch; of equally good epochs the first is the best."""
        assert isinstance(pl_module, Classifier)
        if self.keep_best and (accuracy := pl_module.metrics("val")["val/accuracy"]) > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_epoch = trainer.current_epoch + 1
            trainer.save_checkpoint(self.best_path)
        trainer.save_checkpoint(self.last_path)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know of the best epoch."""
        return {"best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best epoch over from a checkpoint."""
        self.best_accuracy = state_dict["best_accuracy"]
        self.best_epoch = state_dict["best_epoch"]
