"""Pauses: a training that is asked to ends after an epoch, and goes on to the same bits when it is started again."""

import json
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

PAUSE_FILE = "pause.json"


class Paused(Exception):  # noqa: N818 (no error: the run is saved, and to go on)
    """Ends a training that was asked to pause, once its epoch's checkpoint is written."""


def paused_after(run_dir: Path) -> int | None:
    """The epoch after which the run is asked to pause, by its pause.json: `{"after_epoch": 3}`; None: it is not."""
    try:
        return int(json.loads((run_dir / PAUSE_FILE).read_text())["after_epoch"])
    except FileNotFoundError:
        return None


class Pauses(Checkpoint):
    """Raises Paused at the end of the epoch that pause.json names, unless the training ends there anyway.

    Derived from Lightning's Checkpoint, whose hooks run after those of other callbacks, and listed after `Checkpoints`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause on all ranks, if rank 0 finds the file."""
        num_epochs = trainer.current_epoch + 1
        if trainer.should_stop or num_epochs >= (trainer.max_epochs or 0):
            return
        epoch: Any = trainer.strategy.broadcast(paused_after(self.run_dir))
        if epoch is not None and num_epochs >= epoch:
            raise Paused
