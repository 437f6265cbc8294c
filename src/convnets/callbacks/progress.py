"""Progress of a training at the terminal: a bar, a line an epoch, and an estimate of the time."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from convnets.callbacks.history import Row
from convnets.classifier import Classifier
from convnets.data import ImageDataModule
from convnets.text import duration

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.2


class Progress(ProgressBar):
    """A bar over the whole training where there is a terminal, and a line an epoch everywhere.

    Drawn by the clock, not by the step: a redraw costs more than a LeNet step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichProgress | None = None
        self._drawn = 0.0

    def disable(self) -> None:
        """Draw nothing; Lightning calls it on all ranks but the first."""
        self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar."""
        console = Console(soft_wrap=True)  # lines above the bar are folded already, and a path stays whole
        if not (console.is_terminal and trainer.is_global_zero):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = RichProgress(*columns, console=console, transient=True, auto_refresh=False)
        self._bar.start()
        self._steps_per_epoch = ImageDataModule.of(trainer).steps_in(int(trainer.num_training_batches))
        self._task = self._bar.add_task("", total=self._steps_per_epoch * (trainer.max_epochs or 1))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, a few times a second."""
        if self._bar is None or ((now := time.monotonic()) - self._drawn < REFRESH_SECONDS):
            return
        self._drawn = now
        done = trainer.current_epoch * self._steps_per_epoch + ImageDataModule.of(trainer).steps_in(batch_idx + 1)
        self._draw(done, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, steps")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that the epoch is being validated."""
        if self._bar is not None:
            done = (trainer.current_epoch + 1) * self._steps_per_epoch
            self._draw(done, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, validating")

    def _draw(self, completed: int, description: str) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=completed, description=description)
        self._bar.refresh()

    def on_epoch_row(self, trainer: Trainer, classifier: Classifier, row: Row) -> None:
        """Log a line about the epoch."""
        if trainer.is_global_zero:
            loss, accuracy = (_with_validation(row, name) for name in ("loss", "accuracy"))
            place = f"epoch {row['epoch']:2d}/{trainer.max_epochs}"
            log.info("%s  loss %s  accuracy %s  %s", place, loss, accuracy, duration(row["epoch_seconds"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the error can be read."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _with_validation(row: Row, name: str) -> str:
    training, validation = f"{row[f'train/{name}']:.3f}", row.get(f"val/{name}")
    return training if validation is None else f"{training} (val {validation:.3f})"


class TimeEstimate(Callback):
    """Logs, some steps into a long training, how long it will take and, on a CPU, what makes it shorter."""

    def __init__(self, after_steps: int = 20, long_seconds: float = 300) -> None:
        self.after_steps = after_steps
        self.long_seconds = long_seconds
        self._started = 0.0
        self._num_executions = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the steps between the 3rd, by when caches are warm, and the `after_steps`-th."""
        self._num_executions += 1
        datamodule = ImageDataModule.of(trainer)
        several = datamodule.steps_per_execution
        first = math.ceil(3 / several)
        last = max(math.ceil(self.after_steps / several), first + 1)
        if self._num_executions not in (first, last) or not trainer.is_global_zero:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        if self._num_executions == first:
            self._started = time.perf_counter()
            return
        seconds_per_step = (time.perf_counter() - self._started) / (last - first) / several
        # A validation step has no backward pass: about a third of the work.
        validation_steps = sum(int(batches) for batches in trainer.num_val_batches) / 3
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        steps = (datamodule.steps_in(int(trainer.num_training_batches)) + validation_steps) * epochs
        if (seconds := steps * seconds_per_step) > self.long_seconds:
            advice = _advice(trainer, pl_module)
            log.info("At this pace the training takes about %s.%s", duration(seconds), advice)


def _advice(trainer: Trainer, pl_module: LightningModule) -> str:
    if pl_module.device.type != "cpu":
        return ""
    advice = ["a GPU"]
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 has none
    in_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # of x86, and of Arm
    if trainer.precision == "32-true" and in_bf16:
        advice.append("trainer.precision=bf16-mixed (this processor computes in bf16)")
    advice += ["a smaller data.resize", "fewer trainer.max_epochs"]
    return f" What makes it shorter: {', '.join(advice[:-1])}, {advice[-1]}."
