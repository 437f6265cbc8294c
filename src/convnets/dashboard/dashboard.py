"""Fills TensorBoard with pictures and histograms while a network learns, and with a summary at the end."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.classification import multiclass_confusion_matrix

from convnets.classifier import Classifier
from convnets.dashboard.drawing import Drawings
from convnets.dashboard.norms import layer_weights
from convnets.dashboard.pictures import Snapshot, Validation, draw, surest_mistakes
from convnets.dashboard.probe import Array, as_array, look, probe_numbers, sampled
from convnets.dashboard.run_summary import write_summary
from convnets.dashboard.writer import Album, albums_of, writer_of
from convnets.data import ImageDataModule
from convnets.text import count, duration

log = logging.getLogger(__name__)

NUM_PROBED = 100
NUM_BINS = 64  # of a histogram
CHARTS = {
    "training": {
        "loss (nats)": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "accuracy": ["Multiline", ["^train/accuracy$", "^val/accuracy$"]],
    }
}


class Dashboard(Callback):
    """Writes pictures, histograms and a summary to TensorBoard. Their step is the epoch; the summary's, one more.

    Pictures go to every other logger that takes them, too.

    By default the 1st, 2nd, 4th, 8th epoch and so on are pictured, and the last. The pictures show the same 20
    validation images each time with the predicted classes; the most confident mistakes; the confusion matrix; the first
    layer's filters; the output of each layer for one image; the share of saturated sigmoids and of dead ReLUs. The
    summary is written once the run has its final weights.

    Training gives the same bits with and without it. A thread draws the pictures from copies; a log message at the end
    says how long that took, and how long the training waited. A killed process loses the pictures that were not drawn
    yet. With several ranks, the first one shows its share of the validation images.

    Args:
        images: draw pictures.
        histograms: of activations, and of the gradients of the epoch's last step, in the pictured epochs.
        summary: write it; see `write_summary`.
        every: picture the first epoch, every so many epochs, and the last.
    """

    def __init__(
        self, images: bool = True, histograms: bool = True, summary: bool = True, every: int | None = None
    ) -> None:
        self.images = images
        self.histograms = histograms
        self.summary = summary
        self.every = every
        self._writer: SummaryWriter | None = None  # while training
        self._albums: list[Album] = []
        self._drawings = Drawings()
        self._waited_seconds = 0.0
        self._num_pictured = 0
        self._validated: list[tuple[Tensor, Tensor]] = []  # scores and labels of each batch
        self._gradients: dict[str, Array] = {}

    def is_pictured(self, epoch: int, num_epochs: int | None) -> bool:
        """Whether the epoch is one of those; the first is number 1."""
        due = epoch & (epoch - 1) == 0 if self.every is None else epoch == 1 or epoch % self.every == 0
        return due or epoch == num_epochs

    def _is_due(self, trainer: Trainer) -> bool:
        wanted = (self._albums and self.images) or (self._writer is not None and self.histograms)
        return bool(wanted) and self.is_pictured(trainer.current_epoch + 1, trainer.max_epochs)

    @contextmanager
    def _training_waits(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._waited_seconds += time.perf_counter() - started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Define the charts that hold two curves each; a resumed run has them already."""
        self._writer, self._albums = writer_of(trainer), albums_of(trainer)
        if self._writer is not None and trainer.ckpt_path is None:
            self._writer.add_custom_scalars(CHARTS)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Copy the gradients of the epoch's last step."""
        if trainer.is_last_batch and self.histograms and self._is_due(trainer):
            assert isinstance(pl_module, Classifier)
            with self._training_waits():
                weights = layer_weights(pl_module.network)
                self._gradients = {name: sampled(w.grad) for name, w in weights.items() if w.grad is not None}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the scores of an earlier epoch."""
        self._validated = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch's scores and labels."""
        if self.images and self._is_due(trainer):
            self._validated.append((outputs, batch[1]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the probe images through the network, and hand what the pictures need to the drawing thread."""
        if self._is_due(trainer):
            assert isinstance(pl_module, Classifier)
            self._num_pictured += 1
            with self._training_waits():
                self._picture(trainer, pl_module)
            self._validated = []

    def _picture(self, trainer: Trainer, classifier: Classifier) -> None:
        epoch = trainer.current_epoch + 1
        datamodule = ImageDataModule.of(trainer)
        dataset = datamodule.splits["val"]
        images, labels = dataset[probe_numbers(dataset.labels, min(NUM_PROBED, datamodule.batch_size))]
        seen = look(trainer, classifier, datamodule.to_network_input(images.to(classifier.device)))
        if self._writer is not None:
            for kind, shares in (("saturated_sigmoids", seen.saturated), ("dead_relus", seen.dead)):
                for name, share in shares.items():
                    self._writer.add_scalar(f"{kind}/{name}", share, epoch)
            self._writer.flush()
        if self.histograms and self._writer is not None:
            values = {f"activations/{name}": array for name, array in seen.activations.items()}
            values |= {f"gradients/{name}": array for name, array in self._gradients.items()}
            self._drawings.add(_write_histograms, self._writer, epoch, values)
        if self.images and self._validated:  # none in an epoch without validation
            probed = Validation(_drawable(images), labels.numpy(), seen.scores)
            scores = as_array(torch.cat([scores for scores, _ in self._validated]))
            loader: Any = trainer.val_dataloaders
            order = torch.cat([share.numbers for share in loader.sampler])[: len(scores)]
            true = dataset.labels[order]
            matrix = multiclass_confusion_matrix(torch.from_numpy(scores), true, num_classes=scores.shape[1]).numpy()
            wrong = surest_mistakes(true.numpy(), scores)
            mistakes = Validation(_drawable(dataset[order[wrong]][0]), true[wrong].numpy(), scores[wrong])
            convolution = next((weight for weight in classifier.network.parameters() if weight.ndim == 4), None)
            kernels = None if convolution is None else as_array(convolution.mean(dim=1))
            snapshot = Snapshot(epoch, datamodule.class_names, probed, seen, mistakes, matrix, kernels)
            self._drawings.add(draw, self._albums, snapshot)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the drawing thread, and log what the pictures cost."""
        with self._training_waits():
            self._drawings.wait()
        self._writer = None
        if self._num_pictured:
            log.info(
                "dashboard: %s pictured in %s beside the training, which waited %s",
                count(self._num_pictured, "epoch"), duration(self._drawings.seconds), duration(self._waited_seconds),
            )  # fmt: skip

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Wait for the drawing thread: a resumed run does not draw these epochs again."""
        self._drawings.wait()
        self._writer = None

    def finish(
        self, trainer: Trainer, classifier: Classifier, config: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Write the summary of a run that has its final weights and metrics; see `write_summary`."""
        if self.summary and (writer := writer_of(trainer)) is not None:
            write_summary(writer, trainer, classifier, config, result)
            writer.close()


def _write_histograms(writer: SummaryWriter, epoch: int, values: Mapping[str, Array]) -> None:
    for tag, array in values.items():
        writer.add_histogram(tag, array, epoch, bins=NUM_BINS)


def _drawable(images: Tensor) -> Any:
    """Images (N, H, W, C) of images (N, C, H, W) of bytes."""
    return images.permute(0, 2, 3, 1).numpy()
