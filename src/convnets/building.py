"""From a resolved configuration to a datamodule, a classifier and a trainer; the only caller of `instantiate`."""

import functools
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from convnets.callbacks import (
    CheckedCheckpointIO,
    Checkpoints,
    FiniteLoss,
    History,
    SeveralSteps,
    SharedCores,
    StepRandomness,
    WeightsFromRun,
)
from convnets.callbacks.steps import batches_of_an_epoch
from convnets.classifier import Classifier
from convnets.configuration import CUDA_GRAPH_MODES, ConfigurationError
from convnets.finding import find_run
from convnets.last_batch import Sharing, check_last_batch
from convnets.memory import keep_freed_memory
from convnets.networks import as_table, give_sizes, summarize
from convnets.schedule import Schedule

log = logging.getLogger(__name__)

STEP_HOOKS = [name for name in vars(Callback) if re.search("_batch_|_before_(backward|zero_grad|opt)|after_back", name)]


def build_datamodule(config: DictConfig) -> Any:
    """The LightningDataModule of `config.data`, its files not yet looked for."""
    several = {"steps_per_execution": config.steps_per_execution} if config.steps_per_execution > 1 else {}
    return _instantiate(config.data, **several)


def load_images(config: DictConfig, datamodule: Any, trainer: lightning.Trainer, classifier: Classifier) -> None:
    """Find the files and read them, before the other ranks start: so these find them in place.

    Raises:
        ConfigurationError: the images cannot be split or shared as the configuration says, some batch is too small for
            the network, or the schedule does not fit the length of the training.
    """
    datamodule.prepare_data()
    datamodule.trainer = trainer
    with refusals_explained():
        datamodule.setup()
        images = datamodule.splits["train"].images
        sharing = Sharing(
            len(images) + config.data.holdout,
            config.data.holdout,
            config.data.batch_size,
            trainer.world_size,
            functools.partial(batches_of_an_epoch, trainer),
            whole=config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cuda",
        )
        check_last_batch(classifier.network, lambda number: datamodule.to_network_input(images[:number]), sharing)
        if isinstance(classifier.schedule, Schedule):
            assert classifier.optimizer is not None
            classifier.schedule.check(classifier.optimizer(classifier.parameters()), trainer)
            if str(classifier.schedule.monitor).startswith("val/") and config.data.holdout == 0:
                log.warning(
                    "The learning rate follows %s, which with data.holdout=0 is that of the test split, so the result "
                    "flatters: set data.holdout=5000, or another number of training images to watch.",
                    classifier.schedule.monitor,
                )
        for split, limit in (("train", trainer.limit_train_batches), ("val", trainer.limit_val_batches)):
            num_batches = len(getattr(datamodule, f"{split}_dataloader")())
            if isinstance(limit, float) and int(limit * num_batches) == 0:
                raise ValueError(
                    f"trainer.limit_{split}_batches={limit} of {num_batches} batches is none: set it to "
                    f"{1 / num_batches:.3g} or more, or to a whole number."
                )


def build_classifier(config: DictConfig, datamodule: Any) -> Classifier:
    """The network, sized for the datamodule's images and classes, as a Classifier that can be trained.

    Raises:
        ConfigurationError: the network does not take such images or options.
    """
    torch.manual_seed(config.seed)  # biases, and weights that no callback initialises, are drawn here
    options = {key: value for key, value in config.model.items() if key not in ("name", "lr", "image_size")}
    network = _instantiate(
        OmegaConf.create(options),
        image_size=config.data.resize,
        in_channels=datamodule.num_channels,
        num_classes=datamodule.num_classes,
    )
    with refusals_explained():
        give_sizes(network, config.data.resize, datamodule.num_channels)
    if config.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ConfigurationError("compile=true needs a C++ compiler (on Debian and Ubuntu: apt install g++).")
    if config.compile in CUDA_GRAPH_MODES and config.trainer.accumulate_grad_batches > 1:
        raise ConfigurationError(  # its gradients lie where the next batch's will be written
            f"compile={config.compile} cannot accumulate gradients: set trainer.accumulate_grad_batches=1, or "
            "compile=true."
        )
    return Classifier(
        network,
        _instantiate(config.optimizer),
        _build_schedule(config, datamodule),
        channels_last=config.channels_last,
        compile=config.compile,
    )


def describe_network(config: DictConfig, depth: int = 1) -> str:
    """The layer summary of the configuration's network, down to `depth`; of a grouped one, with what grouping saves.

    Raises:
        ConfigurationError: the network does not take such images or options.
    """
    datamodule = build_datamodule(config)
    with torch.device("meta"):
        network = build_classifier(config, datamodule).network
    lines = summarize(network, config.data.resize, datamodule.num_channels)
    heading = f"{config.model.name}, {datamodule.num_channels}x{config.data.resize}x{config.data.resize} images"
    text = f"{heading}\n{as_table(lines, config.data.batch_size, depth)}"
    if "num_groups" not in config.model or config.model.num_groups == 1:
        return text
    ungrouped = OmegaConf.merge(config, {"model": {"num_groups": 1, "group_width": None}})
    assert isinstance(ungrouped, DictConfig)
    with torch.device("meta"):
        dense = summarize(build_classifier(ungrouped, datamodule).network, config.data.resize, datamodule.num_channels)
    saved = [
        f"{what} {before:,} -> {after:,} ({before / after:.1f} times fewer)"
        for what, before, after in (
            ("parameters", dense[0].num_parameters, lines[0].num_parameters),
            ("multiply-adds", dense[0].multiply_adds, lines[0].multiply_adds),
        )
    ]
    return "\n".join([text, "", "what grouping saves beside the same network with one group:", *saved])


def _build_schedule(config: DictConfig, datamodule: Any) -> Schedule | None:
    description: Any = OmegaConf.to_container(config.schedule)
    if description.get("_target_") is None:
        return None
    with refusals_explained():
        return Schedule(
            description,
            lambda options: _instantiate(OmegaConf.create(options)),
            lambda trainer: batches_of_an_epoch(trainer, datamodule.num_train_batches),
        )


def build_trainer(
    config: DictConfig, run_dir: Path, extra_callbacks: Sequence[Callback] = (), epochs_done: int = 0
) -> lightning.Trainer:
    """The Trainer of `config.trainer`, writing into `run_dir`, with the callbacks that no run goes without.

    Args:
        epochs_done: for a training that goes on: what TensorBoard shows after them is dropped.

    Raises:
        ConfigurationError: the machine has not the devices asked for.
    """
    options: dict[str, Any] = dict(config.trainer)
    on_gpu = _uses_gpu(options["accelerator"])
    if options["devices"] == "auto" and not on_gpu:
        options["devices"] = 2 if options["strategy"] == "ddp" else 1
    prepare_process(on_gpu, options.pop("matmul_precision"), options["deterministic"])
    options["limit_train_batches"] = _limit_of_executions(config)
    options["sync_batchnorm"] = options["sync_batchnorm"] and on_gpu  # torch has it for GPUs only
    if options["precision"] == "16-mixed" and not on_gpu:
        raise ConfigurationError("trainer.precision=16-mixed needs a GPU: set bf16-mixed or 32-true.")
    with refusals_explained():
        weights = (
            []
            if config.init.from_run is None
            else [WeightsFromRun(find_run(config.init.from_run), config.init.get("weights"))]
        )
    method = OmegaConf.create({key: value for key, value in config.init.items() if key not in ("from_run", "weights")})
    callbacks = [
        *weights,
        *([] if method._target_ is None else [_instantiate(method)]),
        FiniteLoss(),
        History(run_dir / "metrics.csv"),
        SharedCores(),
        *extra_callbacks,
        *_build_switchable(config.callbacks),
        _build_step(config),
        Checkpoints(
            run_dir / "checkpoints",
            keep_best=config.data.holdout > 0,
            every_seconds=config.checkpoint.every_seconds,
        ),
    ]
    _check_accumulation(config, callbacks)
    build = functools.partial(
        lightning.Trainer,
        **options,
        callbacks=[_without_idle_hooks(callback) for callback in callbacks],
        logger=_build_loggers(config.logger, run_dir, epochs_done),
        plugins=[CheckedCheckpointIO(), *_cluster_environment()],
        default_root_dir=str(run_dir),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        log_every_n_steps=0,  # History logs, by the epoch
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours shards the batches itself
    )
    with refusals_explained():
        trainer = build()
    # Before each step of several ranks Lightning asks whether the first has had SIGTERM, and waits for the device to
    # read the answer. `Checkpoints` agrees on signals, about once a second.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def prepare_process(on_gpu: bool, matmul_precision: str, deterministic: bool) -> None:
    """Make the settings of the whole process that training is faster with."""
    torch.backends.cudnn.benchmark = on_gpu and not deterministic  # cuDNN tries its algorithms out
    if on_gpu:
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"  # convolutions have a switch of their own
    else:
        keep_freed_memory()


def _build_step(config: DictConfig) -> Callback:
    """What comes last before Lightning's step."""
    if config.steps_per_execution == 1:
        return StepRandomness(config.seed)
    return SeveralSteps(config.seed, config.steps_per_execution)


def _limit_of_executions(config: DictConfig) -> int | float | None:
    """The limit of an epoch's training batches, in what Lightning takes for one.

    Raises:
        ConfigurationError: something else of the configuration needs each step to be Lightning's.
    """
    several, limit = config.steps_per_execution, config.trainer.limit_train_batches
    if several == 1:
        return limit
    whole = limit is None or (isinstance(limit, int) and limit % several == 0)
    for key, fits, way_out in (
        ("accumulate_grad_batches", config.trainer.accumulate_grad_batches == 1, "1"),
        ("precision", config.trainer.precision != "16-mixed", "bf16-mixed or 32-true"),
        ("limit_train_batches", whole, f"null or a multiple of {several}"),
    ):
        if not fits:
            raise ConfigurationError(
                f"steps_per_execution={several} does not go with trainer.{key}={config.trainer[key]}: set that to "
                f"{way_out}, or steps_per_execution=1."
            )
    return limit and limit // several


def _check_accumulation(config: DictConfig, callbacks: Sequence[Callback]) -> None:
    """Refuse a GradientAccumulationScheduler beside what it does not go with."""
    if not any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        return
    accumulated = config.trainer.accumulate_grad_batches
    for setting, fits, way_out in (
        (f"steps_per_execution={config.steps_per_execution}", config.steps_per_execution == 1, "1"),
        (f"trainer.accumulate_grad_batches={accumulated}", accumulated == 1, "1"),
        (f"compile={config.compile}", config.compile not in CUDA_GRAPH_MODES, "true"),
    ):
        if not fits:
            key = setting.partition("=")[0]
            raise ConfigurationError(
                f"{setting} does not go with the callback GradientAccumulationScheduler: set {key}={way_out}, or leave "
                "the callback out."
            )


def _without_idle_hooks(callback: Callback) -> Callback:
    """Have Lightning pass over the hooks of each step that the callback does nothing in.

    It calls every hook of every callback within a profiling context, eighty times a step.
    """
    for name in STEP_HOOKS:
        if getattr(type(callback), name) is getattr(Callback, name):
            setattr(callback, name, None)
    return callback


def _cluster_environment() -> list[SLURMEnvironment]:
    """SLURM's, where srun started this process, without Lightning's own requeueing.

    SIGTERM is `Checkpoints`', and at a time limit submitit requeues its job on SIGUSR2. Lightning would do so too, on
    SIGUSR1, from a checkpoint of its own that no run goes on from.

    Raises:
        ConfigurationError: the tasks were asked for in a way that Lightning does not take.
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
        raise ConfigurationError(f"trainer.accelerator={accelerator}, but torch finds no GPU here: set trainer=cpu.")
    return has_gpu and accelerator != "cpu"


def _build_switchable(group: Mapping[str, Any]) -> list[Any]:
    return [_instantiate(item) for item in group.values() if item]


def _build_loggers(group: Mapping[str, Any], run_dir: Path, epochs_done: int) -> list[Any]:
    # From the first start on: TensorBoard takes the first mark of a start in a folder for that of no restart.
    purge = {"lightning.pytorch.loggers.TensorBoardLogger": {"purge_step": epochs_done + 1}}
    return [
        _instantiate(item, save_dir=str(run_dir), **purge[item._target_])
        if item._target_ in purge
        else _instantiate(item, save_dir=str(run_dir / "loggers" / str(name)))  # its files are never the run's own
        for name, item in group.items()
        if item
    ]


def _instantiate(node: DictConfig, **arguments: Any) -> Any:
    """Call the node's target; null where it names none. What its checks refuse is an error of the configuration."""
    if node.get("_target_") is None:
        return None
    with refusals_explained():
        return instantiate(node, **arguments, _convert_="all")


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turn what a part refuses about its arguments, or lacks, into a ConfigurationError with the same text.

    Any other error of a part is raised as it is: its traceback says where in the part's code it comes from.
    """
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or str(error).startswith("Error locating target"):
            reason = str(cause or error).splitlines()[0].rstrip(":.")
            raise ConfigurationError(
                f"{reason}: a _target_ is the full name of a class that can be imported."
            ) from error
        if isinstance(cause, (ValueError, TypeError, ImportError, OSError)):
            where = "" if not isinstance(cause, TypeError) else " (Compare the file in conf/ with the class.)"
            raise ConfigurationError(f"{cause}{where}") from error
        error.__cause__ = error.__context__ = None  # or each of the two would be the other's
        raise cause from None
    except (ValueError, MisconfigurationException) as error:
        raise ConfigurationError(str(error)) from error
