"""The epoch's figures: computed once, written, and handed to every callback that asks for them."""

import time
from pathlib import Path
from typing import Any, Self

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer

from convnets.classifier import Classifier
from convnets.files import write_atomically
from convnets.text import as_csv

Row = dict[str, float]


# What a row holds beside metrics.
TIMES = ("train_seconds", "epoch_seconds", "images_per_second")
NOT_METRICS = ("epoch", "learning_rate", *TIMES)


class History(Callback):
    """Writes one row an epoch: to metrics.csv, to the loggers (whose step is the epoch), and to `rows`.

    A row holds epoch (1 is the first), loss and accuracy of training and validation, the learning rate of the epoch's
    last step, seconds of training and of the whole epoch, training images per second, and what callbacks logged in the
    epoch by `self.log` or `pl_module.log`. Monitoring callbacks of Lightning, such as EarlyStopping, find the metrics
    under the same names.

    Any callback may define `on_epoch_row(trainer, classifier, row)`. It is called on every rank, wherever the callback
    stands in the trainer's list, once the row is in metrics.csv and before the epoch's checkpoint is written.

    The rows are in the checkpoint: a resumed run writes metrics.csv anew, without the rows after its checkpoint.
    """

    def __init__(self, csv_path: Path) -> None:
        self.csv_path = csv_path
        self.rows: list[Row] = []
        self.test_metrics: Row = {}
        self._started = self._epoch_started = 0.0
        self._seconds_before = self._epoch_seconds_before = 0.0  # in earlier processes
        self._train_seconds = 0.0
        self._num_images = 0.0
        self._learning_rate = 0.0

    @classmethod
    def of(cls, trainer: Any) -> Self:
        """The trainer's own."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, cls))

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without the time between its processes."""
        return self._seconds_before + time.perf_counter() - self._started

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the run's clock."""
        if stage == "fit":
            self._started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed inside, for which `on_train_epoch_start` is not called."""
        self._epoch_started = time.perf_counter() - self._epoch_seconds_before
        if trainer.is_global_zero and trainer.ckpt_path is not None:
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the rate of this step: at its end the schedule has moved on."""
        self._learning_rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the epoch's last batch, wait for the device and stop the clock."""
        if trainer.is_last_batch:
            assert isinstance(pl_module, Classifier)
            self._num_images = pl_module.tally("train").num_images.item() * trainer.world_size
            self._train_seconds = time.perf_counter() - self._epoch_started

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the validation metrics to monitoring callbacks."""
        assert isinstance(pl_module, Classifier)
        pl_module.log_dict(pl_module.metrics("val"), logger=False, sync_dist=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the training metrics to monitoring callbacks."""
        assert isinstance(pl_module, Classifier)
        pl_module.log_dict(pl_module.metrics("train"), logger=False, sync_dist=True)

    def logged(self, trainer: Trainer, classifier: Classifier) -> Row:
        """What callbacks have logged since this was last asked, in the order of the names."""
        names, classifier.logged = classifier.logged, {}
        found = trainer.callback_metrics
        return {name: float(found[name]) for name in sorted(names) if name in found}

    def end_epoch(self, trainer: Trainer, classifier: Classifier) -> None:
        """Write the epoch's row, then hand it on. `Checkpoints` calls this once all other callbacks have logged.

        Raises:
            ValueError: a callback has logged under a name that the row has.
        """
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            **classifier.metrics("train"),
            **classifier.metrics("val"),
            "learning_rate": self._learning_rate,
            "train_seconds": self._train_seconds,
            "epoch_seconds": time.perf_counter() - self._epoch_started,
            "images_per_second": self._num_images / self._train_seconds,
        }
        logged = self.logged(trainer, classifier)
        if taken := sorted(row.keys() & logged.keys()):
            raise ValueError(
                f"A callback has logged {taken[0]}, which metrics.csv has already: log it by another name."
            )
        row.update(logged)
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "epoch"}, step=int(row["epoch"]))
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()  # so that a dashboard shows the epoch now
        if trainer.is_global_zero:
            self._write()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if (on_epoch_row := getattr(callback, "on_epoch_row", None)) is not None:
                on_epoch_row(trainer, classifier, row)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the test metrics, which cannot be reduced over ranks once the trainer has left the device."""
        assert isinstance(pl_module, Classifier)
        self.test_metrics = pl_module.metrics("test")
        for logger in trainer.loggers:
            # A step of its own: a run that is resumed here drops the points after its last epoch, and draws them again.
            logger.log_metrics(self.test_metrics, step=len(self.rows) + 1)

    def _write(self) -> None:
        if not self.rows:
            self.csv_path.unlink(missing_ok=True)
            return
        columns = [*dict.fromkeys(name for row in self.rows for name in row)]
        write_atomically(self.csv_path, as_csv(columns, [[row.get(name) for name in columns] for row in self.rows]))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the time they took."""
        epoch_seconds = time.perf_counter() - self._epoch_started
        return {"rows": self.rows, "seconds": self.seconds, "epoch_seconds": epoch_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over from a checkpoint."""
        self.rows = state_dict["rows"]
        self._seconds_before = state_dict["seconds"]
        self._epoch_seconds_before = state_dict["epoch_seconds"]
