"""The epoch's figures, computed once and handed to all that show them."""

import csv
import os
import time
from pathlib import Path
from typing import Any, Self

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from convnets.classifier import Classifier

Row = dict[str, float]


class History(Callback):
    """Writes one row an epoch: to metrics.csv, to the loggers (whose step is the epoch), and to `rows`.

    A row holds epoch (1 is the first), loss and accuracy of training and validation, the learning rate of the epoch's
    last step, seconds of training and of the whole epoch, and training images per second. Monitoring callbacks of
    Lightning, such as EarlyStopping, find the metrics under the same names.
    """

    def __init__(self, csv_path: Path) -> None:
        self.csv_path = csv_path
        self.rows: list[Row] = []
        self.test_metrics: Row = {}
        self._epoch_started = 0.0
        self._train_seconds = 0.0
        self._num_images = 0.0
        self._learning_rate = 0.0

    @classmethod
    def of(cls, trainer: Any) -> Self:
        """The trainer's own."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, cls))

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._epoch_started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the rate of this step: at its end the schedule has moved on."""
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the epoch's last batch, wait for the device and stop the clock."""
        if trainer.is_last_batch:
            assert isinstance(pl_module, Classifier)
            self._num_images = pl_module.tally("train").num_images.item() * trainer.world_size
            self._train_seconds = time.perf_counter() - self._epoch_started

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Publish the validation metrics to monitoring callbacks."""
        assert isinstance(pl_module, Classifier)
        pl_module.log_dict(pl_module.metrics("val"), logger=False, sync_dist=True)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's row."""
        assert isinstance(pl_module, Classifier)
        training = pl_module.metrics("train")
        pl_module.log_dict(training, logger=False, sync_dist=True)
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            **training,
            **pl_module.metrics("val"),
            "learning_rate": self._learning_rate,
            "train_seconds": self._train_seconds,
            "epoch_seconds": time.perf_counter() - self._epoch_started,
            "images_per_second": self._num_images / self._train_seconds,
        }
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "epoch"}, step=int(row["epoch"]))
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # so that a dashboard shows the epoch now
        if trainer.is_global_zero:
            self._append(row)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the test metrics, which cannot be reduced over ranks once the trainer has left the device."""
        assert isinstance(pl_module, Classifier)
        self.test_metrics = pl_module.metrics("test")
        for logger in trainer.loggers:
            logger.log_metrics(self.test_metrics, step=len(self.rows))

    def _append(self, row: Row) -> None:
        is_new = not self.csv_path.exists()
        with self.csv_path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
