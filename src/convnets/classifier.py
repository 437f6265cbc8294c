"""The LightningModule: any network, with cross-entropy, an optimizer and a schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from convnets.data import Batch


class Tally(Metric):
    """Loss and accuracy over images, summed on the device that computes them and over all ranks.

    `update(loss, scores, labels)` takes a batch's mean loss, scores (N, num_classes) and labels (N,).
    Labels of mixed images are shares of classes (N, num_classes); the largest one is what is right.
    """

    full_state_update = False
    loss_sum: Tensor
    num_correct: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add a batch, in place and in few operations: they cost time in each step of a small network."""
        if labels.ndim == 2:
            labels = labels.argmax(dim=1)
        self.loss_sum.add_(loss, alpha=len(labels))
        self.num_correct.add_((scores.argmax(dim=1) == labels).sum())
        self.num_images.add_(len(labels))

    def compute(self) -> dict[str, float]:
        """Mean loss (nats) and share of correct images since the last reset; waits for the device."""
        num_images = self.num_images.item()
        return {"loss": self.loss_sum.item() / num_images, "accuracy": self.num_correct.item() / num_images}


def mean_loss(losses: Tensor) -> Tensor:
    """Mean of losses (N,); 0 for an empty batch, such as a rank's share of a last batch of few images."""
    return losses.sum() / max(len(losses), 1)


class Classifier(lightning.LightningModule):
    """Trains a network that maps images (N, C, H, W) to scores (N, num_classes).

    Nothing is logged by the step: a callback reads `metrics(stage)` once an epoch.

    Args:
        optimizer: called with the parameters.
        schedule: called with the optimizer and the trainer; returns the scheduler as Lightning takes it. None
            keeps the rate.
        channels_last: memory format of images and weights.
        compile: whether, or in which mode, torch.compile compiles the network's training steps. Validation and
            prediction are never compiled, so that every evaluation of the weights gives the same digits.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        schedule: Callable[[Optimizer, lightning.Trainer], dict[str, Any]] | None = None,
        channels_last: bool = True,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        step = self.network.forward  # the method: the module would be registered a second time, and saved twice
        mode = compile if isinstance(compile, str) else None
        self._train_forward = torch.compile(step, dynamic=False, mode=mode) if compile else step
        self.optimizer = optimizer
        self.schedule = schedule
        self.taken_over: frozenset[str] = frozenset()  # names of weights that come from another run
        self.train_tally = Tally()
        self.val_tally = Tally()
        self.test_tally = Tally()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the one attribute that Lightning sets twice for each hook without nn.Module's checks.

        They take 1.4 us of 1.6, some 30 times a step: 40 us of LeNet's 500 on a CPU.
        """
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Score images (N, C, H, W) in [0, 1]: (N, num_classes)."""
        return self.network(images.to(memory_format=self.memory_format))

    def tally(self, stage: str) -> Tally:
        """The running loss and accuracy of "train", "val" or "test"."""
        return {"train": self.train_tally, "val": self.val_tally, "test": self.test_tally}[stage]

    def metrics(self, stage: str) -> dict[str, float]:
        """The stage's mean loss and accuracy over its images so far, over all ranks: {"stage/loss": ...}."""
        return {f"{stage}/{name}": value for name, value in self.tally(stage).compute().items()}

    def training_step(self, batch: Batch | tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Count a batch; return its mean loss.

        Raises:
            TypeError: several ranks train, and the batch does not say how many images they share.
            RuntimeError: nobody took the steps of the batches that come before this one.
        """
        images, labels = batch
        if isinstance(batch, Batch) and batch.earlier:
            raise RuntimeError("Several batches at once can only be trained on with the callback TrainingSteps.")
        scores = self._train_forward(images.to(memory_format=self.memory_format))
        loss = F.cross_entropy(scores, labels)
        self.train_tally.update(loss.detach(), scores.detach(), labels)
        if (num_ranks := self.trainer.world_size) > 1:
            if not isinstance(batch, Batch):
                raise TypeError("Several processes can only train on batches of an ImageDataModule.")
            # DDP averages over ranks; where they share a batch unequally, this makes it the average over images.
            loss = loss * (len(labels) * num_ranks / batch.num_images)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Count a batch of validation images; return its scores (N, num_classes) to the callbacks."""
        scores, losses, labels = self.predict_step(batch, batch_idx)
        self.val_tally.update(mean_loss(losses), scores, labels)
        return scores

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count a batch of test images."""
        scores, losses, labels = self.predict_step(batch, batch_idx)
        self.test_tally.update(mean_loss(losses), scores, labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (N, num_classes), losses (N,) and labels (N,) of a batch."""
        images, labels = batch
        scores = self(images)
        return scores, F.cross_entropy(scores, labels, reduction="none"), labels

    def configure_gradient_clipping(self, optimizer: Optimizer, *limits: Any, **named: Any) -> None:
        """Clip where a limit is set; Lightning's own way costs time also where none is."""
        if self.trainer.gradient_clip_val is not None:
            super().configure_gradient_clipping(optimizer, *limits, **named)

    def on_train_start(self) -> None:
        """Ask a GradientAccumulationScheduler, which Lightning does not where a run resumes inside an epoch."""
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):
                trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(trainer.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Count from zero; not called where a run resumes inside an epoch."""
        self.train_tally.reset()

    def on_train_epoch_end(self) -> None:
        """Step schedulers that watch a metric: before the epoch's checkpoint, so that a resumed run has their rate."""
        for schedule in self.trainer.lr_scheduler_configs:
            if schedule.monitor is not None:
                stage = schedule.monitor.partition("/")[0]
                self.lr_scheduler_step(schedule.scheduler, self.metrics(stage)[schedule.monitor])

    def on_validation_epoch_start(self) -> None:
        """Count from zero."""
        self.val_tally.reset()

    def on_test_epoch_start(self) -> None:
        """Count from zero."""
        self.test_tally.reset()

    def configure_optimizers(self) -> Any:
        """Build the optimizer, and its schedule over the whole training."""
        if self.optimizer is None:
            raise ValueError("This Classifier was made without an optimizer: give it one to train.")
        optimizer = self.optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer, self.trainer)}
