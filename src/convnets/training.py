"""Train a configuration into a run folder."""

import logging
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from convnets.building import build_classifier, build_datamodule, build_trainer, load_images
from convnets.callbacks import Checkpoints, History
from convnets.callbacks.progress import count, duration
from convnets.classifier import Classifier
from convnets.configuration import content_hash
from convnets.plots import training_curves
from convnets.runs import Run

log = logging.getLogger(__name__)

PACKAGES_THAT_MATTER = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics")


def train(config: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train what the configuration says, leave everything about it in `run_dir`, and return the result.

    A folder that holds the finished run of the same configuration is reported, and not trained again.

    Args:
        config: composed and checked; its interpolations are resolved here.

    Raises:
        RunFolderError: the folder holds something else, or another process holds it.
        ConfigurationError: the parts do not fit together, such as an image too small for the network.
        DataUnavailableError: the images cannot be found.
        NonFiniteLossError: the training diverged.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    config = OmegaConf.create(plain)
    run = Run(run_dir)
    with quieten_lightning():
        if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            return _fit(config, run, *_build(config, run))  # rank 0 holds the folder, and started this process
        with _logging_to(sys.stdout), run.locked():
            if result := run.finished_result(plain):
                run.finish(result, config.checkpoint.keep)
                log.info("This configuration has been trained already: nothing was done. To repeat it: rm -r %s", run)
                log.info("%s", _report(run, config, result))
                return result
            return _start(run, config, plain)


def _start(run: Run, config: DictConfig, plain: dict[str, Any]) -> dict[str, Any]:
    trainer, datamodule, classifier = _build(config, run)
    load_images(datamodule, trainer)
    run.start(plain)  # not earlier: what is refused above must not occupy the folder
    with (run.path / "train.log").open("a") as file, _logging_to(file):
        log.info("%s", _description(config, datamodule, classifier))
        log.info("run folder: %s", run)
        try:
            result = _fit(config, run, trainer, datamodule, classifier)
        except BaseException as error:
            # Lightning turns Ctrl-C into exit code 1, and SIGTERM into 0.
            if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
                code = 128 + signal.SIGINT
            elif isinstance(error, SIGTERMException):
                code = 128 + signal.SIGTERM
            else:
                run.set_status("failed", error=f"{type(error).__name__}: {error}")
                log.error("Failed: %s keeps what there is, and is marked so.", run)
                traceback.print_exc(file=file)
                raise
            run.set_status("interrupted")
            log.warning("Interrupted: %s keeps what there is, and is marked so.", run)
            sys.exit(code)
        run.finish(result, config.checkpoint.keep)
        log.info("%s", _report(run, config, result))
    return result


def _build(config: DictConfig, run: Run) -> tuple[lightning.Trainer, Any, Classifier]:
    trainer = build_trainer(config, run.path, [_Status(run)])
    datamodule = build_datamodule(config)
    return trainer, datamodule, build_classifier(config, datamodule)


def _fit(
    config: DictConfig, run: Run, trainer: lightning.Trainer, datamodule: Any, classifier: Classifier
) -> dict[str, Any]:
    started = time.perf_counter()
    trainer.fit(classifier, datamodule=datamodule)
    rows = History.of(trainer).rows
    chosen = rows[-1]
    if config.data.holdout > 0:
        checkpoints = Checkpoints.of(trainer)
        chosen = rows[checkpoints.best_epoch - 1]
        weights = torch.load(checkpoints.best_path, map_location="cpu", weights_only=True)["state_dict"]
        classifier.load_state_dict(weights)
        trainer.test(classifier, datamodule=datamodule, verbose=False)
    seconds = time.perf_counter() - started
    metrics = {name: value for name, value in chosen.items() if "/" in name}
    if config.data.holdout > 0:
        metrics |= History.of(trainer).test_metrics
    if not trainer.is_global_zero:
        return {}
    (run.path / "hparams.yaml").unlink(missing_ok=True)  # TensorBoardLogger's, and always empty: config.yaml has it all
    run.save_weights(classifier.network)
    training_curves(rows, f"{config.model.name} on {datamodule.name}").savefig(run.path / "curves.png", dpi=120)
    return {
        "metrics": metrics,
        "weights_of_epoch": int(chosen["epoch"]),
        "epochs": len(rows),
        "validated_on": "test split" if datamodule.validates_on_test_split else "holdout",
        "seconds": round(seconds, 3),
        "train_seconds": round(sum(row["train_seconds"] for row in rows), 3),
        "images_per_second": round(statistics.median(row["images_per_second"] for row in rows), 1),
        "config_hash": content_hash(OmegaConf.to_container(config)),  # type: ignore[arg-type]
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _device_name(trainer),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES_THAT_MATTER}},
        "git_commit": _git_commit(),
    }


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
    validation = "the test split" if datamodule.validates_on_test_split else "held-out training images"
    return (
        f"{config.model.name} ({num_parameters:,} parameters) on {datamodule.name} at {config.data.resize} pixels: "
        f"{sizes['train']:,} training images, validation on {sizes['val']:,} of {validation}"
    )


def _report(run: Run, config: DictConfig, result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    if result["validated_on"] == "test split":
        protocol = "the last epoch's weights, on the test split"
    else:
        protocol = f"the best epoch's weights ({result['weights_of_epoch']}), on held-out training images"
    epochs = count(result["epochs"], "epoch")
    lines = [
        f"{config.model.name}: {epochs} in {duration(result['seconds'])} on {result['device']}, "
        f"{result['images_per_second']:,.0f} training images per second",
        f"  val accuracy   {metrics['val/accuracy']:.4f}  {protocol}",
    ]
    if config.expected is not None:
        lowest, highest = config.expected
        lines.append(f"  published      {lowest:.3f} to {highest:.3f}  for this recipe")
    lines.append(f"  val loss       {metrics['val/loss']:.4f}")
    if "test/accuracy" in metrics:
        lines.append(
            f"  test accuracy  {metrics['test/accuracy']:.4f}  the same weights; the test split was evaluated only now"
        )
    return "\n".join([*lines, f"  run folder     {run}", f"  dashboard      {_tensorboard()} --logdir outputs"])


def _tensorboard() -> str:
    """How to call TensorBoard from the shell that this was called from."""
    if shutil.which("tensorboard"):
        return "tensorboard"
    program = Path(sys.executable).with_name("tensorboard")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"


def _git_commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def quieten_lightning() -> Iterator[None]:
    """Leave out what Lightning tells everybody (absent devices, tips), and warnings of what is not so here."""
    loggers = [logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The images are in memory, and torch's tree API has moved on from Lightning's use of it.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*deprecated.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _TerminalHandler(logging.StreamHandler[Any]):
    """Writes to what sys.stdout is now: a progress bar replaces it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


@contextmanager
def _logging_to(stream: TextIO) -> Iterator[None]:
    """Send the package's log records to the stream as well."""
    handler = _TerminalHandler() if stream is sys.stdout else logging.StreamHandler(stream)
    package = logging.getLogger("convnets")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
