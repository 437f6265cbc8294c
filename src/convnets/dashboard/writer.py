"""What takes the points and the pictures of a run."""

from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

Album = Callable[[str, Any, int], None]  # takes a picture's name, its pixels (H, W, 3) as bytes, and the epoch


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """The writer of the run's events; None where the trainer has no TensorBoardLogger, and on ranks above 0."""
    if not trainer.is_global_zero:
        return None
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers else None


def albums_of(trainer: Trainer) -> list[Album]:
    """What takes the run's pictures: every logger that can; none on ranks above 0."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [album for logger in loggers if (album := _album_of(logger)) is not None]


def _album_of(logger: Any) -> Album | None:
    if isinstance(logger, TensorBoardLogger):
        return lambda name, pixels, epoch: _add(logger.experiment, name, pixels, epoch)
    if isinstance(logger, MLFlowLogger):
        return lambda name, pixels, epoch: logger.experiment.log_image(logger.run_id, pixels, key=name, step=epoch)
    if hasattr(logger, "log_image"):  # Lightning's of Weights & Biases, and ours of Trackio
        return lambda name, pixels, epoch: logger.log_image(name, [pixels], epoch)
    return None


def _add(writer: SummaryWriter, name: str, pixels: Any, epoch: int) -> None:
    writer.add_image(name, pixels, epoch, dataformats="HWC")
    writer.flush()
