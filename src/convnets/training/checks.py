"""What is refused before a training starts: settings that exclude each other, and images that do not fit them."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from omegaconf import DictConfig

from convnets.classifier import Classifier
from convnets.configuration.content import TIMM, holds_out
from convnets.configuration.rules import CUDA_GRAPH_MODES, ConfigurationError
from convnets.data import ImageDataModule
from convnets.training.instantiation import refusals_explained
from convnets.training.last_batch import Sharing, check_last_batch
from convnets.training.schedule import Schedule

log = logging.getLogger(__name__)


def check_combinations(config: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Check that several steps at once, accumulated gradients and CUDA graphs exclude none of the other settings.

    Raises:
        ConfigurationError: two of the settings exclude each other.
    """
    several, limit = config.steps_per_execution, config.trainer.limit_train_batches
    accumulated = config.trainer.accumulate_grad_batches
    has_graphs = config.compile in CUDA_GRAPH_MODES  # in which gradients lie where the next batch's will be written
    whole = limit is None or (isinstance(limit, int) and limit % several == 0)
    for key, fits, way_out in (
        ("accumulate_grad_batches", accumulated == 1, "1"),
        ("precision", config.trainer.precision != "16-mixed", "bf16-mixed or 32-true"),
        ("limit_train_batches", whole, f"null or a multiple of {several}"),
    ):
        if several > 1 and not fits:
            raise ConfigurationError(
                f"steps_per_execution={several} does not go with trainer.{key}={config.trainer[key]}: set that to "
                f"{way_out}, or steps_per_execution=1."
            )
    if has_graphs and accumulated > 1:
        raise ConfigurationError(
            f"compile={config.compile} cannot accumulate gradients: set trainer.accumulate_grad_batches=1, or "
            "compile=true."
        )
    if not any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        return
    for key, value, fits, way_out in (
        ("steps_per_execution", several, several == 1, "1"),
        ("trainer.accumulate_grad_batches", accumulated, accumulated == 1, "1"),
        ("compile", config.compile, not has_graphs, "true"),
    ):
        if not fits:
            raise ConfigurationError(
                f"{key}={value} does not go with the callback GradientAccumulationScheduler: set {key}={way_out}, or "
                "leave the callback out."
            )


def check_watching(config: DictConfig, watched_by_schedule: str | None) -> None:
    """Check what schedule and stopping watch, and how often; warn where the test split decides.

    Raises:
        ConfigurationError: the last epoch is not validated, or one that is waited for; or the stopping waits for its
            metric to get worse.
    """
    epochs, every = config.trainer.max_epochs, config.trainer.get("check_val_every_n_epoch", 1)
    if epochs % every:
        raise ConfigurationError(
            f"trainer.check_val_every_n_epoch={every} leaves the last of {epochs} epochs without validation: set it to "
            f"a number that divides {epochs}."
        )
    stopping = config.get("stopping") or {}
    watched = {"schedule": watched_by_schedule, "stopping": stopping.get("monitor")}
    for key, metric in watched.items():
        if str(metric).startswith("val/") and every > 1:
            raise ConfigurationError(
                f"{key}.monitor={metric} is needed in each epoch: set trainer.check_val_every_n_epoch=1."
            )
    if watched_by_schedule is not None:
        _warn_of_test_split(watched_by_schedule, config, "The learning rate follows")
    if (metric := stopping.get("monitor")) is None:
        return
    better = "max" if metric.endswith("accuracy") else "min"
    if stopping.get("mode", "min") != better:
        raise ConfigurationError(
            f"stopping.monitor={metric} is best at its {better}imum: set stopping.mode={better}, too."
        )
    _warn_of_test_split(metric, config, "The training ends by")


def _warn_of_test_split(metric: str, config: DictConfig, what: str) -> None:
    if metric.startswith("val/") and not holds_out(config):
        log.warning(
            "%s %s, which with data.holdout=0 is that of the test split, so the result flatters: set "
            "data.holdout=5000, or another number of training images to watch.", what, metric,
        )  # fmt: skip


def _check_fine_tuning(config: DictConfig) -> None:
    freeze, backbone_lr, pretrained, weights = map(config.model.get, ("freeze", "backbone_lr", "pretrained", "weights"))
    if config.model._target_ == TIMM and pretrained and weights:
        raise ConfigurationError(f"model.pretrained=true does not go with model.weights={weights}: set one of the two.")
    if freeze and backbone_lr:
        raise ConfigurationError(
            f"model.freeze={freeze} leaves the backbone as it is, which model.backbone_lr={backbone_lr} would change: "
            "set one of the two."
        )
    if freeze and not (pretrained or weights or config.init.get("from_run")):
        log.warning(
            "The backbone is frozen as it was drawn at random: start from weights, with init.from_run=RUN, or with "
            "model=timm and model.pretrained=true."
        )


def check_parts(config: DictConfig, classifier: Classifier, num_classes: int) -> None:
    """Check how much of the network learns, build an optimizer, and compute a loss, which refuse options only then.

    Raises:
        ConfigurationError: settings of the backbone exclude each other, optimizer or loss refuse their options, or the
            loss is no single number.
    """
    _check_fine_tuning(config)
    scores, labels = torch.zeros(2, num_classes), torch.zeros(2, dtype=torch.long)
    if config.data.get("mix", "none") != "none":
        labels = F.one_hot(labels, num_classes).float()
    for key, attempt in (("optimizer", classifier.build_optimizer), ("loss", lambda: classifier.loss(scores, labels))):
        target = config.get(key, {}).get("_target_")
        try:
            result: Any = attempt()
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{key} ({target}): {error}") from error
    if getattr(result, "shape", None) != ():
        raise ConfigurationError(f"loss ({target}) must return the mean loss, a single number, got {result!r}.")


def load_and_check_images(
    config: DictConfig, datamodule: ImageDataModule, trainer: lightning.Trainer, classifier: Classifier
) -> None:
    """Read the images, and check that batches and schedule fit their number. Other ranks start later and find them.

    Raises:
        ConfigurationError: the images cannot be split or shared as the configuration says, some batch is too small for
            the network, or the schedule does not fit the length of the training.
    """
    check_parts(config, classifier, datamodule.num_classes)
    datamodule.prepare_data()
    datamodule.trainer = trainer
    with refusals_explained():
        datamodule.setup()
        train = datamodule.splits["train"]
        sharing = Sharing(
            len(train),
            config.data.batch_size,
            trainer.world_size,
            datamodule.within_limit,
            whole=config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cuda",
        )
        check_last_batch(
            classifier.network, lambda number: datamodule.to_network_input(train[torch.arange(number)][0]), sharing
        )
        if isinstance(classifier.schedule, Schedule):
            classifier.schedule.check(classifier.build_optimizer(), trainer)
        check_watching(config, classifier.schedule.monitor if isinstance(classifier.schedule, Schedule) else None)
        for split, limit in (("train", trainer.limit_train_batches), ("val", trainer.limit_val_batches)):
            num_batches = len(getattr(datamodule, f"{split}_dataloader")())
            if isinstance(limit, float) and int(limit * num_batches) == 0:
                raise ValueError(
                    f"trainer.limit_{split}_batches={limit} of {num_batches} batches is none: set it to "
                    f"{1 / num_batches:.3g} or more, or to a whole number."
                )
