"""How a training ends: with final weights and a result, or with an error in words and a mark in the run's folder."""

import errno
import functools
import logging
import platform
import signal
import statistics
import subprocess
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import lightning
import safetensors.torch
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from convnets.callbacks import CheckpointError, Checkpoints, History, Interrupted, MovingAverage, read_checkpoint
from convnets.callbacks.history import NOT_METRICS
from convnets.classifier import Classifier
from convnets.configuration.content import TIMM, changing_callbacks, content_hash, holds_out
from convnets.dashboard import Dashboard
from convnets.dashboard.curves import curves_title, write_curves
from convnets.data import ImageDataModule
from convnets.device import device_peak_mib
from convnets.files import RunFolderError, processor_name, removal, write_atomically
from convnets.runs.run import Run
from convnets.text import count

log = logging.getLogger(__name__)

PACKAGES_THAT_MATTER = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics")
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class OutOfMemoryError(RuntimeError):
    """The training does not fit into memory; the text says what to change."""


class UnsupportedGpuError(RuntimeError):
    """This torch was built for other GPUs; the text says for which, and what to install."""


def conclude(
    config: DictConfig, run: Run, trainer: lightning.Trainer, datamodule: ImageDataModule, classifier: Classifier
) -> dict[str, Any]:
    """Choose the final weights, save them, and return the content of result.json; empty on ranks above 0.

    With held-out images the weights are those of the best epoch, and the test split is evaluated; without, the last.

    Raises:
        CheckpointError: the weights of the best epoch are lost.
    """
    history, checkpoints = History.of(trainer), Checkpoints.of(trainer)
    rows = history.rows
    if not checkpoints.ended:  # an earlier process did the last epoch: Lightning skips the end of the training as well
        _end_callbacks(trainer, classifier)
    trainer.ckpt_path = None  # else validation and test would load the last checkpoint's weights
    chosen = rows[-1]
    # Callbacks may change the weights after the last validation, as an average does, or end the training before it.
    if changing_callbacks(config) or "val/accuracy" not in chosen:
        trainer.validate(classifier, datamodule=datamodule, verbose=False)
        chosen = {**chosen, **classifier.metrics("val"), **history.logged(trainer, classifier)}
    averages = [callback for callback in trainer.callbacks if isinstance(callback, MovingAverage)]  # type: ignore[attr-defined]
    raw: Mapping[str, torch.Tensor] = averages[0].raw if averages else {}
    test_metrics = {}
    if holds_out(config):
        best = rows[checkpoints.best_epoch - 1] if checkpoints.best_epoch else chosen
        if best is not chosen and best["val/accuracy"] >= chosen["val/accuracy"]:
            chosen = best
            state = _best_checkpoint(checkpoints, run)
            classifier.load_state_dict(state["state_dict"])
            raw = raw and {
                name.removeprefix("network."): value
                for name, value in state["current_model_state"].items()
                if name.startswith("network.")
            }
        trainer.test(classifier, datamodule=datamodule, verbose=False)
        test_metrics = history.test_metrics | history.logged(trainer, classifier)
    if not trainer.is_global_zero:
        return {}
    (run.path / "hparams.yaml").unlink(missing_ok=True)  # TensorBoardLogger's, and always empty: config.yaml has it all
    _write_weights(run.path / "weights.safetensors", classifier.network.state_dict())
    if raw:
        _write_weights(run.path / "weights_raw.safetensors", raw)
    write_curves(rows, curves_title(config.model.name, datamodule), run.path)
    plain: Any = OmegaConf.to_container(config)
    packages = [*PACKAGES_THAT_MATTER, *(["timm"] if config.model._target_ == TIMM else [])]
    result = {
        "metrics": {name: value for name, value in chosen.items() if name not in NOT_METRICS} | test_metrics,
        "weights_of_epoch": int(chosen["epoch"]),
        "epochs": len(rows),
        "ended_early": _why_ended_early(trainer, len(rows)),
        "validated_on": "test split" if datamodule.validates_on_test_split else "holdout",
        "seconds": round(history.seconds, 3),
        "train_seconds": round(sum(row["train_seconds"] for row in rows), 3),
        "checkpoint_seconds": round(checkpoints.saving_seconds, 3),
        "seconds_a_checkpoint": round(checkpoints.saving_seconds / max(checkpoints.num_saved, 1), 4),
        "images_per_second": round(statistics.median(row["images_per_second"] for row in rows), 1),
        "config_hash": content_hash(plain),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
        "device": _device_name(trainer),
        "processor": processor_name(),
        "device_peak_mib": None if (peak := device_peak_mib(trainer.strategy.root_device)) is None else round(peak, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "git_commit": _git_commit(),
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Dashboard):
            callback.finish(trainer, classifier, plain, result)
    return result


def _end_callbacks(trainer: lightning.Trainer, classifier: Classifier) -> None:
    """Call the last hook of averages and of callbacks that are not ours: an average takes the weights' place in it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MovingAverage) or not type(callback).__module__.startswith("convnets."):
            with suppress(AttributeError):  # of an average with batch norm, which is there already
                callback.on_train_end(trainer, classifier)


def _write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, safetensors.torch.save(plain))


def _best_checkpoint(checkpoints: Checkpoints, run: Run) -> Mapping[str, Any]:
    try:
        return read_checkpoint(checkpoints.best_path)
    except (CheckpointError, FileNotFoundError) as error:
        raise CheckpointError(
            f"The weights of the best epoch ({checkpoints.best_epoch}) are lost: {error}. "
            f"To train anew: {removal(run.path)}"
        ) from error


def _why_ended_early(trainer: lightning.Trainer, num_epochs: int) -> str | None:
    """Return why the training ended before its last epoch, None where it did not."""
    if num_epochs >= (trainer.max_epochs or 0):
        return None
    reasons = (getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    reason = next(filter(None, reasons), "a callback stopped it, without a reason")
    return reason.removesuffix(" Signaling Trainer to stop.")  # Lightning's way of saying so


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else count(torch.get_num_threads(), "CPU thread")
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"


@functools.cache
def _git_commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def explain_and_mark(error: BaseException, run: Run, config: DictConfig, log_file: TextIO) -> BaseException:
    """Write into the folder how the training ended, and return the error that tells the user what to do."""
    # Outside of training's steps Lightning turns Ctrl-C into exit code 1, and SIGTERM into 0.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        error = Interrupted(128 + signal.SIGINT)
    elif isinstance(error, SIGTERMException):
        error = Interrupted(128 + signal.SIGTERM)
    go_on = f"To go on: {run.resume_command()}"
    if isinstance(error, SystemExit):  # ours, or that of a cluster's handler of signals
        with suppress(OSError):
            run.set_status("interrupted")
        log.warning("Interrupted: %s keeps what there is. %s", run, go_on)
        return error
    state, explained = "failed", error
    if _is_out_of_memory(error):
        state, explained = "out_of_memory", OutOfMemoryError(_out_of_memory_advice(error, config))
    elif "no kernel image" in str(error):
        built_for = ", ".join(torch.cuda.get_arch_list())
        explained = UnsupportedGpuError(
            f"This torch ({torch.__version__}) has no code for this GPU, only for {built_for}: install one that has "
            "(https://pytorch.org), or set trainer=cpu."
        )
    elif isinstance(error, OSError) and not run.path.exists():
        explained = RunFolderError(f"{run} has vanished during the training: nothing is left to go on from.")
    elif isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        what = error.filename or run
        explained = RunFolderError(f"{what} cannot be written: {error.strerror}. The last checkpoint is whole. {go_on}")
    marked = "could not be marked so"
    with suppress(OSError):
        traceback.print_exception(error, file=log_file)
        run.set_status(state, error=f"{type(explained).__name__}: {explained}")
        marked = "is marked so"
    if run.path.exists():
        log.error("Failed: %s keeps what there is, and %s.", run, marked)
    return explained


def _is_out_of_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")  # the last: cuBLAS's
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _out_of_memory_advice(error: BaseException, config: DictConfig) -> str:
    half = max(config.data.batch_size // 2, 1)
    faster = " or trainer.precision=bf16-mixed" if config.trainer.precision == "32-true" else ""
    # CUDA's first three sentences: what was asked for, and how much of the device is free; then it goes on for long.
    reason = ". ".join(str(error).strip().partition("\n")[0].split(". ")[:3]).rstrip(".")
    accumulated = f"trainer.accumulate_grad_batches={2 * config.trainer.accumulate_grad_batches}"
    if config.steps_per_execution > 1:
        accumulated += " and steps_per_execution=1"
    return (
        f"Out of memory with batches of {config.data.batch_size} images of {config.data.resize} pixels: set "
        f"data.batch_size={half} (with {accumulated} a step still counts as many images){faster}. ({reason}.)"
    )
