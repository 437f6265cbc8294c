"""Train a configuration in a run's folder, or continue the training that is there."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from convnets.callbacks import (
    PAUSE_FILE,
    History,
    NonFiniteLossError,
    Paused,
    check_fits,
    newest_checkpoint,
    paused_after,
)
from convnets.callbacks.history import Row
from convnets.classifier import Classifier
from convnets.configuration.content import holds_out
from convnets.data import DataUnavailableError, ImageDataModule
from convnets.device import reset_device_peak
from convnets.files import removal
from convnets.runs.images import check_images, record_images
from convnets.runs.run import Run
from convnets.training.building import build_classifier, build_datamodule, build_trainer, start_from_pretrained
from convnets.training.checks import load_and_check_images
from convnets.training.console import describe_result, describe_training, logging_to, quieten_lightning
from convnets.training.ending import conclude, explain_and_mark

log = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: Path, extra_callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train what the configuration says, leave everything about it in `run_dir`, and return the result.

    A finished run of the same configuration is reported and not trained again; an unfinished one resumes from its last
    checkpoint, to the same bits as if it had not been interrupted. Where the folder's pause.json names an epoch, the
    run pauses at its end: the metrics so far are returned, and the next call goes on.

    Args:
        config: composed and checked; its interpolations are resolved here.
        extra_callbacks: they must not change the training.

    Raises:
        RunFolderError: the folder holds something else or a run on images that have changed, another process holds it,
            or it cannot be written.
        ConfigurationError: the parts do not fit together, such as an image too small for the network.
        CheckpointError: the run cannot resume from its checkpoint.
        DataUnavailableError: the images cannot be found.
        NonFiniteLossError: the training diverged.
        OutOfMemoryError: the batch is too large.
        SystemExit: a signal asked to leave, and the state is saved; the code is 128 + signal.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    config = OmegaConf.create(plain)
    run = Run(run_dir)
    with quieten_lightning():
        if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            return _train_beside(config, run, extra_callbacks)
        with logging_to(), run.locked():
            if result := run.finished_result(plain):
                with suppress(DataUnavailableError):  # a finished run needs no images
                    datamodule = build_datamodule(config)
                    if datamodule.digest is not None:  # which the names and times of files tell
                        now = {"class_names": datamodule.class_names, "digest": datamodule.digest}
                        check_images(run.path, {**run.facts, **now})
                run.finish(result, config.checkpoint.keep)
                log.info(
                    "This configuration has been trained already: nothing was done. To repeat it: %s", removal(run.path)
                )
                log.info("%s", describe_result(run, config, result))
                return result
            return _start_or_resume(run, config, plain, extra_callbacks)


def _start_or_resume(
    run: Run, config: DictConfig, plain: dict[str, Any], extra_callbacks: Sequence[Callback]
) -> dict[str, Any]:
    path, checkpoint = newest_checkpoint(run.path / "checkpoints") or (None, None)
    rows = None if checkpoint is None else checkpoint["callbacks"]["History"]["rows"]
    epochs_done = None if rows is None else len(rows)
    if rows and _pauses_here(run, config, checkpoint):
        return _paused(run, config, rows)
    trainer, datamodule, classifier = _build(config, run, epochs_done, checkpoint is not None, extra_callbacks)
    load_and_check_images(config, datamodule, trainer, classifier)
    if path is not None and checkpoint is not None:
        check_images(run.path, datamodule.facts())
        check_fits(checkpoint, classifier, trainer.world_size, path)
        trainer.ckpt_path = path
    else:
        start_from_pretrained(config, classifier, datamodule)
    run.start(plain, epochs_done)  # not earlier: a training that is refused above must not occupy the folder
    record_images(run.path, datamodule.facts())
    _wait_for_new_second(run)
    with (run.path / "train.log").open("a") as file, logging_to(file):
        log.info("%s", describe_training(config, datamodule, classifier))
        if checkpoint is not None:
            unit = "step" if config.steps_per_execution == 1 else "execution"
            log.info("going on after epoch %d, at %s %d", epochs_done, unit, checkpoint["global_step"])
        log.info("run folder: %s", run)
        del checkpoint  # its memory is needed
        reset_device_peak(trainer.strategy.root_device)
        try:
            trainer.fit(classifier, datamodule=datamodule)
            result = conclude(config, run, trainer, datamodule, classifier)
            (run.path / PAUSE_FILE).unlink(missing_ok=True)  # which tells a search that this was no pause
            run.finish(result, config.checkpoint.keep)
        except Paused:
            return _paused(run, config, History.of(trainer).rows)
        except BaseException as error:
            explained = explain_and_mark(error, run, config, file)
            raise explained from (None if explained is error else error)
        log.info("%s", describe_result(run, config, result))
    return result


def _pauses_here(run: Run, config: DictConfig, checkpoint: dict[str, Any] | None) -> bool:
    """Whether the checkpoint is at the end of the epoch after which to pause, or beyond, and not at the run's end."""
    epoch = paused_after(run.path)
    if epoch is None or checkpoint is None or checkpoint["convnets"].get("should_stop"):
        return False
    return epoch <= len(checkpoint["callbacks"]["History"]["rows"]) < config.trainer.max_epochs


def _paused(run: Run, config: DictConfig, rows: Sequence[Row]) -> dict[str, Any]:
    """Mark the run as paused, and return the figures that it would end with now."""
    best = max(rows, key=lambda row: row.get("val/accuracy", -1.0)) if holds_out(config) else rows[-1]
    run.set_status("paused", epoch=len(rows), num_epochs=config.trainer.max_epochs, metrics=best)
    log.info("Paused after epoch %d, as %s asks. To go on: %s", len(rows), PAUSE_FILE, run.resume_command())
    return {"metrics": best}


def _wait_for_new_second(run: Run) -> None:
    """Wait until no event file of the run was made in the present second.

    TensorBoard reads event files in the order of their names, which begin with the second; within a second that order
    is not that of time, and the points of an interrupted training would replace those after its resume.
    """
    while any(run.path.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)


def _train_beside(config: DictConfig, run: Run, extra_callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Train as a rank above 0. Rank 0 holds the folder, has checked everything, and usually started this process.

    A cluster starts all ranks at once, even for a run that is finished: then there is nothing to do.
    """
    if run.result:
        return {}
    found = newest_checkpoint(run.path / "checkpoints")
    trainer, datamodule, classifier = _build(config, run, None, found is not None, extra_callbacks)
    trainer.ckpt_path = found and found[0]
    try:
        trainer.fit(classifier, datamodule=datamodule)
        return conclude(config, run, trainer, datamodule, classifier)
    except Paused:
        return {}
    except NonFiniteLossError:
        return {}  # rank 0 raises it as well; Lightning would kill rank 0 if this one ended with an error


def _build(
    config: DictConfig, run: Run, epochs_done: int | None, resumes: bool, extra_callbacks: Sequence[Callback]
) -> tuple[lightning.Trainer, ImageDataModule, Classifier]:
    trainer = build_trainer(config, run.path, [_Status(run), *extra_callbacks], epochs_done or 0)
    datamodule = build_datamodule(config)
    if resumes:
        datamodule.take_facts(run.facts)
    return trainer, datamodule, build_classifier(config, datamodule)


class _Status(Callback):
    """Keeps status.json true while the trainer runs."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @rank_zero_only
    def on_epoch_row(self, trainer: lightning.Trainer, classifier: Classifier, row: dict[str, float]) -> None:
        """Write the epoch and its figures."""
        self.run.set_status("running", epoch=trainer.current_epoch + 1, num_epochs=trainer.max_epochs, metrics=row)
