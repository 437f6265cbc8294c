"""Train a configuration into a run folder, or go on with what is in it."""

import errno
import logging
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from convnets.building import build_classifier, build_datamodule, build_trainer, load_images
from convnets.callbacks import (
    CheckpointError,
    Checkpoints,
    Dashboard,
    History,
    Interrupted,
    NonFiniteLossError,
    check_fits,
    curves_title,
    newest_checkpoint,
    read_checkpoint,
    write_curves,
)
from convnets.callbacks.progress import count, duration, folded, terminal_width
from convnets.classifier import Classifier
from convnets.commands import override, removal, script, typed
from convnets.configuration import (
    RULES,
    SWITCHES,
    ConfigurationError,
    unknown_key,
)
from convnets.content import changing_callbacks, content, content_hash, flatten, to_compose_again
from convnets.memory import device_peak_mib, reset_device_peak
from convnets.runs import Run, RunFolderError
from convnets.schedule import plans_steps
from convnets.sources import check_code

log = logging.getLogger(__name__)

PACKAGES_THAT_MATTER = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics")
GROWING = ("lightning.pytorch.callbacks.EarlyStopping",)  # callbacks that do the same whatever the number of epochs
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class OutOfMemoryError(RuntimeError):
    """The training does not fit into memory; the text says what to change."""


def train(config: DictConfig, run_dir: Path, extra_callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train what the configuration says, leave everything about it in `run_dir`, and return the result.

    In a folder of the same configuration, a finished run is reported and not trained again, and an unfinished one goes
    on from its last checkpoint, to the same bits as if it had not been interrupted.

    Args:
        config: composed and checked; its interpolations are resolved here.
        extra_callbacks: which must not change the training.

    Raises:
        RunFolderError: the folder holds something else, another process holds it, or it cannot be written.
        ConfigurationError: the parts do not fit together, such as an image too small for the network.
        CheckpointError: the run cannot go on from its checkpoint.
        DataUnavailableError: the images cannot be found.
        NonFiniteLossError: the training diverged.
        OutOfMemoryError: the batch is too large.
        SystemExit: a signal asked to leave, and what there was is saved; the code is 128 + signal.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    config = OmegaConf.create(plain)
    run = Run(run_dir)
    with quieten_lightning():
        if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            return _train_beside(config, run, extra_callbacks)
        with _logging_to(sys.stdout), run.locked():
            if result := run.finished_result(plain):
                run.finish(result, config.checkpoint.keep)
                log.info(
                    "This configuration has been trained already: nothing was done. To repeat it: %s", removal(run.path)
                )
                log.info("%s", _report(run, config, result))
                return result
            return _start(run, config, plain, extra_callbacks)


def extend(run: Run, changes: Sequence[str]) -> DictConfig:
    """The run's configuration with changes (KEY=VALUE) to what does not decide its result, or with more epochs.

    A finished run is made an unfinished one, that has these epochs still to go.

    Raises:
        ConfigurationError: a change would make another run of it.
        RunFolderError: the run is finished, and its checkpoints were removed.
    """
    config = run.config
    before = content(config)
    words = [override(key, value) for key, value in to_compose_again(config).items()]
    from_weights = script("train", *words, override("init.from_run", str(run)))
    not_followed = {key: OmegaConf.select(config, key) for key in ("model.lr", "init.from_run")}  # since it began
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise ConfigurationError(f"{change!r} is no KEY=VALUE.")
        if (current := OmegaConf.select(config, key, default=_Status)) is _Status:
            raise ConfigurationError(unknown_key(key, flatten(OmegaConf.to_container(config))))
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigurationError(f"{key} cannot be set to {value!r}: it is no value.") from None
        if OmegaConf.is_dict(current) and not (key.startswith(SWITCHES) and parsed in (None, False)):
            raise ConfigurationError(f"{key} holds several keys, got {parsed!r}: set one of them.")
        if key in RULES and not RULES[key].allows(parsed):
            raise ConfigurationError(f"{key} must be {RULES[key].wording}, got {parsed!r}.")
        OmegaConf.update(config, key, parsed)
    after = content(config)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    changed += [key for key, value in not_followed.items() if OmegaConf.select(config, key) != value]
    if other := [key for key in changed if key != "trainer.max_epochs"]:
        why = "is what its checkpoints count in" if other[0] == "steps_per_execution" else "decides what is learned"
        raise ConfigurationError(
            f"{other[0]} {why}, so {run} cannot go on with another. To start a new run from its "
            f"weights: {from_weights} {override(other[0], OmegaConf.select(config, other[0]))}"
        )
    if not changed:
        return config
    epochs, more = before["trainer.max_epochs"], after["trainer.max_epochs"]
    if more < epochs:
        raise ConfigurationError(
            f"trainer.max_epochs={more} is less than the {epochs} of {run}: only more can be added."
        )
    if plans_steps(config.schedule):
        raise ConfigurationError(
            f"The learning rate of {run} was planned for {epochs} epochs ({before['schedule._target_']}), and there is "
            f"none for more. To start a new run from its weights: {from_weights}"
        )
    if averaging := [name for name, item in changing_callbacks(config).items() if item["_target_"] not in GROWING]:
        raise ConfigurationError(
            f"The callback {averaging[0]} of {run} may have been planned for {epochs} epochs, so none can be added. To "
            f"start a new run from its weights: {from_weights}"
        )
    with run.locked():
        check_code(run.path, config)
        if run.result and not (run.path / "checkpoints" / "last.ckpt").exists():
            raise RunFolderError(
                f"{run} is finished, and its checkpoints were removed: it would have to be trained with "
                f"checkpoint.keep=true to be extended. To start a new run from its weights: "
                f"{from_weights}"
            )
        config.expected = None  # of the recipe that this is no longer
        config["changes"] = sorted({*config.get("changes", []), "trainer.max_epochs"})
        (run.path / "result.json").unlink(missing_ok=True)
        run.set_status("interrupted")
        run.save_config(config)
    return config


def _train_beside(config: DictConfig, run: Run, extra_callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Be one of the ranks above 0: rank 0 holds the folder, has checked all, and started this process.

    Or a cluster started all of them, and the first finds that there is nothing to do.
    """
    if run.result:
        return {}
    found = newest_checkpoint(run.path / "checkpoints")
    trainer, datamodule, classifier = _build(config, run, None, extra_callbacks)
    trainer.ckpt_path = found and found[0]
    try:
        return _fit(config, run, trainer, datamodule, classifier)
    except NonFiniteLossError:
        return {}  # all ranks know, and rank 0 says it; Lightning would kill it where another ended with an error


def _start(run: Run, config: DictConfig, plain: dict[str, Any], extra_callbacks: Sequence[Callback]) -> dict[str, Any]:
    found = newest_checkpoint(run.path / "checkpoints")
    epochs_done = None if found is None else len(found[1]["callbacks"]["History"]["rows"])
    _keep_events_in_order(run)
    trainer, datamodule, classifier = _build(config, run, epochs_done, extra_callbacks)
    load_images(config, datamodule, trainer, classifier)
    if found is not None:
        check_fits(found[1], classifier, trainer.world_size, found[0])
        trainer.ckpt_path = found[0]
    run.start(plain, epochs_done)  # not earlier: what is refused above must not occupy the folder
    with (run.path / "train.log").open("a") as file, _logging_to(file):
        log.info("%s", _description(config, datamodule, classifier))
        if found is not None:
            unit = "step" if config.steps_per_execution == 1 else "execution"
            log.info("going on after epoch %d, at %s %d", epochs_done, unit, found[1]["global_step"])
        log.info("run folder: %s", run)
        del found
        try:
            result = _fit(config, run, trainer, datamodule, classifier)
            run.finish(result, config.checkpoint.keep)
        except BaseException as error:
            told = _marked(error, run, config, file)
            raise told from (None if told is error else error)
        log.info("%s", _report(run, config, result))
    return result


def _keep_events_in_order(run: Run) -> None:
    """TensorBoard reads a folder's files in the order of the seconds in their names: make the new file's the last."""
    paths = sorted(run.path.glob("events.out.tfevents.*"))
    now = int(time.time())
    if not paths or (newest := int(paths[-1].name.split(".")[3])) < now:
        return
    if newest > now:
        log.warning("The clock was moved back by %s since this run began: its event files get earlier names, so that "
                    "TensorBoard keeps their order.", duration(newest - now))  # fmt: skip
    for seconds_ago, path in enumerate(reversed(paths), start=1):
        words = path.name.split(".")
        path.rename(path.with_name(".".join([*words[:3], f"{now - seconds_ago:010d}", *words[4:]])))


def _marked(error: BaseException, run: Run, config: DictConfig, log_file: TextIO) -> BaseException:
    """Leave in the folder how the training ended; return what to raise."""
    go_on = f"To go on: {run.resume_command()}"
    # Outside of training's steps Lightning turns Ctrl-C into exit code 1, and SIGTERM into 0.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        error = Interrupted(128 + signal.SIGINT)
    elif isinstance(error, SIGTERMException):
        error = Interrupted(128 + signal.SIGTERM)
    told: BaseException = error
    state = "failed"
    if isinstance(error, SystemExit):  # ours, or that of a cluster's handler of signals
        state = "interrupted"
    elif _is_out_of_memory(error):
        state, told = "out_of_memory", OutOfMemoryError(_out_of_memory_advice(error, config))
    elif isinstance(error, OSError) and not run.path.exists():
        told = RunFolderError(f"{run} has vanished during the training: nothing is left to go on from.")
    elif isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        what = error.filename or run
        told = RunFolderError(f"{what} cannot be written: {error.strerror}. The last checkpoint is whole. {go_on}")
    marked = "could not be marked so"
    with suppress(OSError):
        if state != "interrupted":
            traceback.print_exception(error, file=log_file)
        run.set_status(state, **({} if state == "interrupted" else {"error": f"{type(told).__name__}: {told}"}))
        marked = "is marked so"
    if state == "interrupted":
        log.warning("Interrupted: %s keeps what there is. %s", run, go_on)
    elif run.path.exists():
        log.error("Failed: %s keeps what there is, and %s.", run, marked)
    return told


def _is_out_of_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _out_of_memory_advice(error: BaseException, config: DictConfig) -> str:
    half = max(config.data.batch_size // 2, 1)
    faster = " or trainer.precision=bf16-mixed" if config.trainer.precision == "32-true" else ""
    reason = str(error).strip().partition("\n")[0]
    accumulated = f"trainer.accumulate_grad_batches={2 * config.trainer.accumulate_grad_batches}"
    if config.steps_per_execution > 1:
        accumulated += " and steps_per_execution=1"
    return (
        f"Out of memory with batches of {config.data.batch_size} images of {config.data.resize} pixels: set "
        f"data.batch_size={half} (with {accumulated} a step still counts as many images){faster}. ({reason})"
    )


def _build(
    config: DictConfig, run: Run, epochs_done: int | None, extra_callbacks: Sequence[Callback]
) -> tuple[lightning.Trainer, Any, Classifier]:
    trainer = build_trainer(config, run.path, [_Status(run), *extra_callbacks], epochs_done or 0)
    datamodule = build_datamodule(config)
    return trainer, datamodule, build_classifier(config, datamodule)


def _fit(
    config: DictConfig, run: Run, trainer: lightning.Trainer, datamodule: Any, classifier: Classifier
) -> dict[str, Any]:
    device = trainer.strategy.root_device
    reset_device_peak(device)
    trainer.fit(classifier, datamodule=datamodule)
    history, checkpoints = History.of(trainer), Checkpoints.of(trainer)
    rows = history.rows
    if not checkpoints.ended:  # the last epoch was done before, and Lightning passes over the end as well
        _end_users_callbacks(trainer, classifier)
    final = _with_final_weights(config, trainer, classifier, datamodule, rows[-1])
    chosen = final
    trainer.ckpt_path = None  # or the test would take the last weights from there
    if config.data.holdout > 0:
        best = rows[checkpoints.best_epoch - 1]
        if best["val/accuracy"] >= final["val/accuracy"]:
            chosen = best
            classifier.load_state_dict(_best_weights(checkpoints, run))
        trainer.test(classifier, datamodule=datamodule, verbose=False)
    metrics = {name: value for name, value in chosen.items() if "/" in name}
    if config.data.holdout > 0:
        metrics |= history.test_metrics
    if not trainer.is_global_zero:
        return {}
    (run.path / "hparams.yaml").unlink(missing_ok=True)  # TensorBoardLogger's, and always empty: config.yaml has it all
    run.save_weights(classifier.network)
    write_curves(rows, curves_title(config.model.name, datamodule), run.path)
    result = {
        "metrics": metrics,
        "weights_of_epoch": int(chosen["epoch"]),
        "epochs": len(rows),
        "ended_early": _why_ended_early(trainer, len(rows)),
        "validated_on": "test split" if datamodule.validates_on_test_split else "holdout",
        "seconds": round(history.seconds, 3),
        "train_seconds": round(sum(row["train_seconds"] for row in rows), 3),
        "checkpoint_seconds": round(checkpoints.saving_seconds, 3),
        "seconds_a_checkpoint": round(checkpoints.saving_seconds / max(checkpoints.num_saved, 1), 4),
        "images_per_second": round(statistics.median(row["images_per_second"] for row in rows), 1),
        "config_hash": content_hash(OmegaConf.to_container(config)),  # type: ignore[arg-type]
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _device_name(trainer),
        "device_peak_mib": None if (peak := device_peak_mib(device)) is None else round(peak, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES_THAT_MATTER}},
        "git_commit": _git_commit(),
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Dashboard):
            callback.finish(trainer, classifier, OmegaConf.to_container(config), result)  # type: ignore[arg-type]
    return result


def _end_users_callbacks(trainer: lightning.Trainer, classifier: Classifier) -> None:
    """Call the last hook of callbacks that are not ours, in which an average of the weights takes their place."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not type(callback).__module__.startswith("convnets."):
            with suppress(AttributeError):  # of an average with batch norm, which is there already
                callback.on_train_end(trainer, classifier)


def _with_final_weights(
    config: DictConfig, trainer: lightning.Trainer, classifier: Classifier, datamodule: Any, last_row: dict[str, float]
) -> dict[str, float]:
    """The last epoch's row, with the validation of the weights that are there now.

    A callback that does more than watch may change them after the last validation, as an average over epochs does.
    """
    if not changing_callbacks(config):
        return last_row
    trainer.ckpt_path = None
    trainer.validate(classifier, datamodule=datamodule, verbose=False)
    return {**last_row, **classifier.metrics("val")}


def _why_ended_early(trainer: lightning.Trainer, num_epochs: int) -> str | None:
    """Why the training ended before its last epoch, None where it did not."""
    if num_epochs >= (trainer.max_epochs or 0):
        return None
    reasons = (getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    reason = next(filter(None, reasons), "a callback stopped it, without a reason")
    return reason.removesuffix(" Signaling Trainer to stop.")  # Lightning's way of saying so


def _best_weights(checkpoints: Checkpoints, run: Run) -> dict[str, torch.Tensor]:
    try:
        return read_checkpoint(checkpoints.best_path)["state_dict"]
    except (CheckpointError, FileNotFoundError) as error:
        raise CheckpointError(
            f"The weights of the best epoch ({checkpoints.best_epoch}) are lost: {error}. "
            f"To train anew: {removal(run.path)}"
        ) from error


class _Status(Callback):
    """Keeps status.json true while the trainer runs."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @rank_zero_only
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch and its figures."""
        row = History.of(trainer).rows[-1]
        self.run.set_status("running", epoch=trainer.current_epoch + 1, num_epochs=trainer.max_epochs, metrics=row)


def _description(config: DictConfig, datamodule: Any, classifier: Classifier) -> str:
    num_parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    sizes = {split: len(images) for split, images in datamodule.splits.items()}
    kind = "images of the test split" if datamodule.validates_on_test_split else "held-out training images"
    return (
        f"{config.model.name} ({num_parameters:,} parameters) on {datamodule.name} at {config.data.resize} pixels: "
        f"{sizes['train']:,} training images, validation on {sizes['val']:,} {kind}"
    )


def _report(run: Run, config: DictConfig, result: dict[str, Any]) -> str:
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


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else count(torch.get_num_threads(), "CPU thread")
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"


def _git_commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def quieten_lightning() -> Iterator[None]:
    """Leave out what Lightning tells everybody (absent devices, tips), and warnings of what is not so here.

    TensorBoard's writing thread prints an error that it hands to the next caller as well: once is enough.
    """
    loggers = [logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    excepthook = threading.excepthook
    threading.excepthook = lambda failed: None if failed.exc_type is OSError else excepthook(failed)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The images are in memory, their sampler starts where a checkpoint was written, and torch's tree API has
            # moved on from Lightning's use of it.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")
            # Lightning's own way to gather from several ranks.
            warnings.filterwarnings("ignore", ".*torch.distributed.nn.functional.all_gather.*deprecated.*")
            yield
    finally:
        threading.excepthook = excepthook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Handler(logging.StreamHandler[Any]):
    """Writes to a stream; what cannot be said (a closed pipe, a full disk) is no reason for more noise."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


class _TerminalHandler(_Handler):
    """Writes to what sys.stdout is now: a progress bar replaces it while it is drawn. Long lines are folded."""

    def format(self, record: logging.LogRecord) -> str:
        """Fold the message into the terminal's columns."""
        return folded(super().format(record), terminal_width())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stdout
        super().emit(record)


@contextmanager
def _logging_to(stream: TextIO) -> Iterator[None]:
    """Send the package's log records to the stream as well."""
    handler = _TerminalHandler() if stream is sys.stdout else _Handler(stream)
    package = logging.getLogger("convnets")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
