"""From a resolved configuration to a datamodule, a classifier and a trainer."""

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf

from convnets.callbacks import (
    CheckedCheckpointIO,
    Checkpoints,
    FiniteLoss,
    History,
    Pauses,
    SharedCores,
    TrainingSteps,
    WeightsFromRun,
    take_over,
)
from convnets.classifier import Classifier
from convnets.configuration.content import TIMM, holds_out
from convnets.configuration.rules import ConfigurationError
from convnets.data import ImageDataModule
from convnets.device import is_gpu_unused, prepare_process, why_no_gpu
from convnets.files import file_digest
from convnets.networks import give_sizes
from convnets.networks.timm import pretrained_weights
from convnets.runs.finding import find_run
from convnets.training.checks import check_combinations
from convnets.training.instantiation import instantiate, refusals_explained
from convnets.training.schedule import Schedule

log = logging.getLogger(__name__)

MEND_GPU = "install or update the GPU's driver, or install a torch for the driver there is (https://pytorch.org)"
# Keys of `model` that are no arguments of the network.
NOT_NETWORKS = ("name", "lr", "image_size", "freeze", "backbone_lr", "bias_lr", "decayed")
STEP_HOOKS = [name for name in vars(Callback) if re.search("_batch_|_before_(backward|zero_grad|opt)|after_back", name)]


def build_datamodule(config: DictConfig) -> ImageDataModule:
    """Build the datamodule of `config.data`; it does not look for its files yet."""
    several = {"steps_per_execution": config.steps_per_execution} if config.steps_per_execution > 1 else {}
    return instantiate(config.data, **several)


def build_classifier(config: DictConfig, datamodule: ImageDataModule) -> Classifier:
    """Build the network, sized for the datamodule's images and classes, as a Classifier that can be trained.

    Raises:
        ConfigurationError: the network does not take such images or options.
    """
    torch.manual_seed(config.seed)  # biases, and weights that no callback initialises, are drawn here
    options = {key: value for key, value in config.model.items() if key not in NOT_NETWORKS}
    network = instantiate(
        OmegaConf.create(options),
        image_size=config.data.resize,
        in_channels=datamodule.num_channels,
        num_classes=datamodule.num_classes,
    )
    with refusals_explained():
        give_sizes(network, config.data.resize, datamodule.num_channels)
    if config.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ConfigurationError("compile=true needs a C++ compiler (on Debian and Ubuntu: apt install g++).")
    loss = {"loss": instantiate(config.loss)} if "loss" in config else {}  # which the first runs' configurations lack
    with refusals_explained():
        return Classifier(
            network,
            instantiate(config.optimizer),
            _build_schedule(config, datamodule),
            channels_last=config.channels_last,
            compile=config.compile,
            freeze_backbone=config.model.get("freeze") is not None,
            backbone_lr=config.model.get("backbone_lr"),
            bias_lr=config.model.get("bias_lr"),
            decays_biases=config.model.get("decayed", "all") == "all",
            test_time_augmentation=config.get("test_time_augmentation", "none"),
            # An average of the weights copies the classifier: the method would be copied with all images.
            preprocess=lambda images: datamodule.to_network_input(images),
            **loss,
        )


def start_from_pretrained(config: DictConfig, classifier: Classifier, datamodule: ImageDataModule) -> None:
    """Give a network of timm the pretrained weights that the configuration asks for, if any.

    Raises:
        ConfigurationError: they cannot be fetched or read, or do not fit.
    """
    model = config.model
    if model._target_ != TIMM or not (model.pretrained or model.weights):
        return
    path = None if model.weights is None else Path(model.weights)
    with refusals_explained(), torch.random.fork_rng(devices=[]):
        if path is not None and (not path.exists() or file_digest(path) != model.weights_digest):
            raise ValueError(f"model.weights={path} is not the file that this run was named by: bring that one back.")
        source = pretrained_weights(model.arch, config.data.resize, datamodule.num_channels, path)
        take_over(source, classifier, path or f"timm's {model.arch}")


def _build_schedule(config: DictConfig, datamodule: ImageDataModule) -> Schedule | None:
    options: Any = OmegaConf.to_container(config.schedule)
    if options.get("_target_") is None:
        return None
    with refusals_explained():
        return Schedule(options, lambda: datamodule.within_limit(datamodule.num_train_batches))


def build_trainer(
    config: DictConfig, run_dir: Path, extra_callbacks: Sequence[Callback] = (), epochs_done: int = 0
) -> lightning.Trainer:
    """Build the Trainer of `config.trainer`, writing into `run_dir`, with the callbacks that every training needs.

    Args:
        epochs_done: of a training that is resumed; points that TensorBoard has after them are dropped.

    Raises:
        ConfigurationError: settings exclude each other, or the machine lacks the devices.
    """
    callbacks = _build_callbacks(config, run_dir, extra_callbacks)
    check_combinations(config, callbacks)
    options: dict[str, Any] = dict(config.trainer)
    on_gpu = _uses_gpu(options["accelerator"])
    if options["devices"] == "auto" and not on_gpu:
        options["devices"] = 2 if options["strategy"] == "ddp" else 1
    prepare_process(on_gpu, options.pop("matmul_precision"), options["deterministic"])
    if config.steps_per_execution > 1 and options["limit_train_batches"] is not None:
        options["limit_train_batches"] //= config.steps_per_execution  # Lightning takes an execution for a batch
    options["sync_batchnorm"] = options["sync_batchnorm"] and on_gpu  # torch has it for GPUs only
    if options["precision"] == "16-mixed" and not on_gpu:
        raise ConfigurationError("trainer.precision=16-mixed needs a GPU: set bf16-mixed or 32-true.")
    loggers = _build_loggers(config.logger, run_dir, epochs_done)
    environment: list[Any] = _cluster_environment()
    with refusals_explained():
        trainer = lightning.Trainer(
            **options,
            callbacks=[_without_idle_hooks(callback) for callback in callbacks],
            logger=loggers,
            plugins=[CheckedCheckpointIO(), *environment],
            default_root_dir=str(run_dir),
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            log_every_n_steps=0,  # History logs, once an epoch
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # ours shards the batches itself
        )
    # With several ranks, Lightning broadcasts before each step whether rank 0 has received SIGTERM, and waits for the
    # device to read the answer. `Checkpoints` agrees on signals instead, about once a second. Lightning has no switch
    # for it; tests/training/test_mechanisms.py counts what the ranks exchange.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _build_callbacks(config: DictConfig, run_dir: Path, extra_callbacks: Sequence[Callback]) -> list[Callback]:
    """Build the callbacks in the order in which Lightning calls them; the last two stay so."""
    init = dict(config.init)
    source, digest = init.pop("from_run", None), init.pop("weights", None)
    with refusals_explained():
        weights = [] if source is None else [WeightsFromRun(find_run(source), digest)]
    method = instantiate(OmegaConf.create(init))
    return [
        *weights,
        *([] if method is None else [method]),
        FiniteLoss(),
        History(run_dir / "metrics.csv"),
        SharedCores(),
        *extra_callbacks,
        # The first runs' configurations have no averaging and no stopping.
        *(part for name in ("averaging", "stopping") if (part := instantiate(config.get(name, {}))) is not None),
        *(instantiate(item) for item in config.callbacks.values() if item),
        TrainingSteps(config.seed),  # right before Lightning's step
        Checkpoints(
            run_dir / "checkpoints",
            keep_best=holds_out(config),
            every_seconds=config.checkpoint.every_seconds,
        ),
        Pauses(run_dir),
    ]


def _without_idle_hooks(callback: Callback) -> Callback:
    """Have Lightning skip those hooks of a step in which the callback does nothing.

    Lightning calls every hook of every callback within a profiling context, eighty times a step, and has no switch for
    it. It skips what is not callable; if it stopped to, every training would end with a TypeError.
    """
    for name in STEP_HOOKS:
        if getattr(type(callback), name) is getattr(Callback, name):
            setattr(callback, name, None)
    return callback


def _cluster_environment() -> list[SLURMEnvironment]:
    """Return SLURM's environment where srun started this process, without Lightning's own requeueing.

    SIGTERM is handled by `Checkpoints`, and at a time limit submitit requeues its job on SIGUSR2. Lightning would
    requeue too, on SIGUSR1, from a checkpoint of its own that no run resumes from.

    Raises:
        ConfigurationError: the tasks were requested in a way that Lightning does not accept.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise ConfigurationError(str(error)) from error


def _uses_gpu(accelerator: str) -> bool:
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda", "mps") and not has_gpu:
        raise ConfigurationError(
            f"trainer.accelerator={accelerator}, but torch finds no GPU here ({why_no_gpu()}): {MEND_GPU}, or set "
            "trainer=cpu."
        )
    if accelerator == "auto" and is_gpu_unused():
        log.warning(
            "This trains on the CPU. The machine has an NVIDIA GPU, which torch cannot use (%s): %s, or set "
            "trainer=cpu to train without it.", why_no_gpu(), MEND_GPU,
        )  # fmt: skip
    return has_gpu and accelerator != "cpu"


def _build_loggers(group: Mapping[str, Any], run_dir: Path, epochs_done: int) -> list[Any]:
    """Build the loggers: TensorBoard's writes into the run's folder, any other into loggers/NAME."""
    loggers = []
    for name, item in group.items():
        if item and item._target_ == "lightning.pytorch.loggers.TensorBoardLogger":
            # In the first process too: TensorBoard ignores the first mark of a start that it finds in a folder.
            loggers.append(instantiate(item, save_dir=str(run_dir), purge_step=epochs_done + 1))
        elif item:
            loggers.append(instantiate(item, save_dir=str(run_dir / "loggers" / str(name))))
    return loggers
