"""The writer of TensorBoard's event files."""

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """The writer of the run's events; None where the trainer has no TensorBoardLogger, and on ranks above 0."""
    if not trainer.is_global_zero:
        return None
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers else None
