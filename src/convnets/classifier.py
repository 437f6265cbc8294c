"""The LightningModule: any network, with a loss, an optimizer and a schedule."""

from collections.abc import Callable
from typing import Any, Self

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from convnets.data import Batch
from convnets.networks import head_of

VIEWS: dict[str, Callable[[Tensor], list[Tensor]]] = {  # of images (N, C, H, W), for test-time augmentation
    "none": lambda images: [images],
    "mirror": lambda images: [images, images.flip(-1)],
    "mirror_shift": lambda images: [view for shifted in _shifted(images) for view in VIEWS["mirror"](shifted)],
}


def _shifted(images: Tensor) -> list[Tensor]:
    """The images, and shifted by one pixel up and left, and down and right; the border is repeated."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return [images, padded[:, :, 2:, 2:], padded[:, :, :height, :width]]


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
        preprocess: turns images as the data set has them, bytes (N, C, H, W), into the network's, which then may be
            called with either.
        optimizer: called with the parameters that learn, as pairs of name and parameter; where some of them have a rate
            or no decay of their own, with groups of them as torch's optimizers take these.
        loss: what training minimises: from scores (N, num_classes) and labels, (N,) or (N, num_classes), to their mean
            loss, a scalar. By default cross-entropy, which validation and test report in any case.
        freeze_backbone: all but the head (`convnets.networks.head_of`) stays as it is, the running statistics of batch
            norm too.
        backbone_lr: learning rate of all but the head.
        bias_lr: learning rate of biases, and of the scales and shifts of norms, whichever part they are of.
        decays_biases: whether the optimizer's weight decay is for these, too.
        test_time_augmentation: a name of `VIEWS`: what validation, test and prediction average the scores over.
        schedule: called with the optimizer and the trainer; returns the scheduler as Lightning takes it. None
            keeps the rate.
        channels_last: memory format of images and weights.
        compile: whether, or in which mode, torch.compile compiles the network's training steps. Validation and
            prediction are never compiled, so that every evaluation of the weights gives the same digits.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Any], Optimizer] | None = None,
        schedule: Callable[[Optimizer, lightning.Trainer], dict[str, Any]] | None = None,
        channels_last: bool = True,
        compile: bool | str = False,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        freeze_backbone: bool = False,
        backbone_lr: float | None = None,
        bias_lr: float | None = None,
        decays_biases: bool = True,
        test_time_augmentation: str = "none",
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.logged: dict[str, None] = {}  # names of what callbacks have logged since `History` last asked
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        step = self.network.forward  # the method: the module would be registered a second time, and saved twice
        mode = compile if isinstance(compile, str) else None
        self._train_forward = torch.compile(step, dynamic=False, mode=mode) if compile else step
        self.optimizer = optimizer
        self.schedule = schedule
        self.loss = loss
        self.backbone_lr = backbone_lr
        self.bias_lr = bias_lr
        self.decays_biases = decays_biases
        self.test_time_augmentation = test_time_augmentation
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            self.network.requires_grad_(False)
            head_of(self.network).requires_grad_()
            self.train()
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

    def log(
        self, name: str, value: Any, prog_bar: bool = False, logger: bool | None = True, *others: Any, **options: Any
    ) -> None:
        """Log a figure of the epoch: its mean (`on_epoch=True`), or what it was in the last step.

        It comes into the epoch's row, which `History` writes to metrics.csv and to the loggers: Lightning itself would
        write it to these a second time, at the step and not at the epoch. With `logger=False` only callbacks see it.
        """
        if logger is not False:
            self.logged[name] = None
        super().log(name, value, prog_bar, False, *others, **options)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for the batch norm of a frozen backbone: its statistics are part of what it is."""
        super().train(mode)
        if self.freeze_backbone:
            head = {*head_of(self.network).modules()}
            for layer in {*self.network.modules()} - head:
                if getattr(layer, "track_running_stats", False):
                    layer.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Score images (N, C, H, W), the network's input or bytes as the data set has them: (N, num_classes).

        Raises:
            ValueError: they are bytes, and there is no preprocessing for them.
        """
        return self.network(self._as_input(images).to(memory_format=self.memory_format))

    def _as_input(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        if self.preprocess is None:
            raise ValueError("This Classifier was made without preprocess, so it takes no bytes: give it floats.")
        return self.preprocess(images)

    def averaged_scores(self, images: Tensor) -> Tensor:
        """The means of what `forward` returns over an image's views, which `test_time_augmentation` names."""
        views = VIEWS[self.test_time_augmentation](self._as_input(images))
        return self(views[0]) if len(views) == 1 else torch.stack([self(view) for view in views]).mean(dim=0)

    def tally(self, stage: str) -> Tally:
        """The running loss and accuracy of "train", "val" or "test"."""
        return {"train": self.train_tally, "val": self.val_tally, "test": self.test_tally}[stage]

    def metrics(self, stage: str) -> dict[str, float]:
        """The stage's mean loss and accuracy over its images so far, over all ranks: {"stage/loss": ...}.

        Empty where the stage has had none, as in an epoch without validation.
        """
        tally = self.tally(stage)
        figures = tally.compute() if tally.update_called else {}
        return {f"{stage}/{name}": value for name, value in figures.items()}

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
        loss = self.loss(scores, labels)
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
        scores = self.averaged_scores(images)
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
        self.val_tally.reset()  # or an epoch without validation would have an earlier one's

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

    def build_optimizer(self) -> Optimizer:
        """Build the optimizer of all parameters that learn.

        Raises:
            ValueError: there is none to build, or it refuses its options.
        """
        if self.optimizer is None:
            raise ValueError("This Classifier was made without an optimizer: give it one to train.")
        learning = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        if self.backbone_lr is None and self.bias_lr is None and self.decays_biases:
            return self.optimizer(learning)
        backbone = {*self.network.parameters()} - {*head_of(self.network).parameters()}
        groups: dict[tuple[Any, ...], list[Any]] = {}  # by their options
        for name, parameter in learning:
            is_bias = parameter.ndim < 2  # or a norm's scale or shift
            rate = self.bias_lr if is_bias and self.bias_lr is not None else None
            if rate is None and parameter in backbone:
                rate = self.backbone_lr
            decay = 0.0 if is_bias and not self.decays_biases else None
            groups.setdefault((rate, decay), []).append((name, parameter))
        by_options = sorted(groups.items(), key=lambda group: [option is not None for option in group[0]])
        return self.optimizer(
            [
                {"params": pairs, **{k: v for k, v in {"lr": rate, "weight_decay": decay}.items() if v is not None}}
                for (rate, decay), pairs in by_options  # first that of the usual rate
            ]
        )

    def configure_optimizers(self) -> Any:
        """Build the optimizer, and its schedule over the whole training."""
        optimizer = self.build_optimizer()
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer, self.trainer)}
