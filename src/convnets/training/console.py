"""What a training prints: log lines on the terminal and in train.log, its start and its result in words."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from omegaconf import DictConfig

from convnets.classifier import Classifier
from convnets.configuration.shell import script
from convnets.data import ImageDataModule
from convnets.files import typed
from convnets.runs.run import Run
from convnets.text import count, duration, folded, terminal_width


def describe_training(config: DictConfig, datamodule: ImageDataModule, classifier: Classifier) -> str:
    """Name the network and the images that a training starts with."""
    parameters = [*classifier.network.parameters()]
    num_parameters, num_learning = (
        sum(parameter.numel() for parameter in chosen)
        for chosen in (parameters, [parameter for parameter in parameters if parameter.requires_grad])
    )
    learning = "" if num_learning == num_parameters else f", of which {num_learning:,} learn"
    sizes = {split: len(images) for split, images in datamodule.splits.items()}
    kind = "images of the test split" if datamodule.validates_on_test_split else "held-out training images"
    return (
        f"{config.model.name} ({num_parameters:,} parameters{learning}) on {datamodule.name} at "
        f"{config.data.resize} pixels: {sizes['train']:,} training images, validation on {sizes['val']:,} {kind}"
    )


def describe_result(run: Run, config: DictConfig, result: dict[str, Any]) -> str:
    """Describe the result of a finished run in several lines: its speed, its metrics, and where its files are."""
    metrics = result["metrics"]
    if result["validated_on"] == "test split":
        protocol = "the last epoch's weights, on the test split"
    else:
        protocol = f"the best epoch's weights ({result['weights_of_epoch']}), on held-out training images"
    epochs = count(result["epochs"], "epoch")
    if early := result.get("ended_early"):
        epochs = f"{result['epochs']} of {count(config.trainer.max_epochs, 'epoch')}"
    lines = [
        f"{config.model.name}: {epochs} in {duration(result['seconds'])} on {result['device']}, "
        f"{result['images_per_second']:,.0f} training images per second",
        f"  val accuracy   {metrics['val/accuracy']:.4f}  {protocol}",
    ]
    if early:
        lines.append(f"  ended early    {early}")
    if config.expected is not None:
        lowest, highest = config.expected
        lines.append(f"  published      {lowest:.3f} to {highest:.3f}  for this recipe")
    lines.append(f"  val loss       {metrics['val/loss']:.4f}")
    if "test/accuracy" in metrics:
        lines.append(
            f"  test accuracy  {metrics['test/accuracy']:.4f}  the same weights; the test split was evaluated only now"
        )
    lines.append(f"  run folder     {run}")
    if any(run.path.glob("events.out.tfevents.*")):
        lines.append(f"  dashboard      {script('dashboard', typed(run.path))}")
    return "\n".join(lines)


@contextmanager
def quieten_lightning() -> Iterator[None]:
    """Hide Lightning's tips, and those of its warnings that do not apply to this project.

    TensorBoard's writing thread prints an error of the disk and raises it in the training as well: once is enough.
    """
    loggers = [logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    excepthook = threading.excepthook
    threading.excepthook = lambda failed: None if failed.exc_type is OSError else excepthook(failed)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",  # the images are in memory
                ".*your dataloader is not resumable.*",  # its sampler starts where the checkpoint was written
                r".*module\(s\) in eval mode at the start.*",  # batch norm of a frozen backbone
                ".*LeafSpec.*deprecated.*",  # Lightning's own calls of torch
                ".*torch.distributed.nn.functional.all_gather.*deprecated.*",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        threading.excepthook = excepthook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Handler(logging.Handler):
    """Writes to a file, or to the terminal, where it folds long lines. Where writing fails, it is silent."""

    def __init__(self, file: TextIO | None) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message in a line."""
        message = self.format(record)
        with suppress(OSError, ValueError):  # a full disk, a closed pipe
            if self.file is None:  # sys.stdout now: a progress bar replaces it while it is drawn
                print(folded(message, terminal_width()), flush=True)
            else:
                print(message, file=self.file, flush=True)


@contextmanager
def logging_to(file: TextIO | None = None) -> Iterator[None]:
    """Send the package's log records to the file as well; without one, to the terminal."""
    handler = _Handler(file)
    package = logging.getLogger("convnets")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
