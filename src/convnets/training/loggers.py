"""Where a run's figures go beside its folder: TensorBoard, a table, MLflow, Weights & Biases, Trackio."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from omegaconf import DictConfig

from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import installation
from convnets.files import locked, write_atomically
from convnets.training.instantiation import instantiate

MLFLOW_STORE = "sqlite:///outputs/mlflow.db"  # unless the configuration or $MLFLOW_TRACKING_URI names another


class Tracker(NamedTuple):
    """What is to be known of a logger that writes to a place where many runs are shown together.

    Args:
        package: which it needs, and the extra of that name.
        name: its argument for the name of a new run.
        version: its argument for what names a run that goes on.
    """

    package: str
    name: str
    version: str


TRACKERS = {
    "lightning.pytorch.loggers.MLFlowLogger": Tracker("mlflow", "run_name", "run_id"),
    "lightning.pytorch.loggers.WandbLogger": Tracker("wandb", "name", "version"),
    "convnets.dashboard.TrackioLogger": Tracker("trackio", "name", "version"),
}


def build_loggers(group: Mapping[str, Any], run_dir: Path, epochs_done: int) -> list[Logger]:
    """Build the loggers: TensorBoard's writes into the run's folder, any other into loggers/NAME or its own place.

    Raises:
        ConfigurationError: a package is missing, or a logger refuses its arguments.
    """
    loggers = []
    for name, item in group.items():
        if not item:
            continue
        if item._target_ == "lightning.pytorch.loggers.TensorBoardLogger":
            # In the first process too: TensorBoard ignores the first mark of a start that it finds in a folder.
            arguments: dict[str, Any] = {"save_dir": str(run_dir), "purge_step": epochs_done + 1}
        else:
            arguments = {"save_dir": str(run_dir / "loggers" / str(name))}
            if tracker := TRACKERS.get(item._target_):
                arguments |= _tracked(str(name), item, tracker, run_dir)
        loggers.append(instantiate(item, **arguments))
    return loggers


def _tracked(name: str, item: DictConfig, tracker: Tracker, run_dir: Path) -> dict[str, Any]:
    """The arguments of a tracker's logger that follow from the run's folder."""
    if find_spec(tracker.package) is None:
        raise ConfigurationError(f"logger={name} needs the extra `{tracker.package}`: {installation(tracker.package)}")
    arguments: dict[str, Any] = {tracker.name: item.get(tracker.name) or run_dir.resolve().name}
    if (path := _version_path(run_dir, tracker)).exists():
        arguments[tracker.version] = path.read_text()
    if tracker.package == "mlflow":
        store = item.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or MLFLOW_STORE
        arguments["tracking_uri"] = store
        if store.startswith("sqlite:///"):
            folder = Path(store.removeprefix("sqlite:///")).parent
            folder.mkdir(parents=True, exist_ok=True)
            arguments["artifact_location"] = item.get("artifact_location") or str(folder.absolute() / "mlartifacts")
    return arguments


def begin(loggers: Sequence[Logger], config: Mapping[str, Any], run_dir: Path) -> None:
    """Record the configuration with each logger but TensorBoard's, and in the folder what a resumed run goes on by."""
    for logger in loggers:
        tracker = TRACKERS.get(f"{type(logger).__module__.rpartition('.')[0]}.{type(logger).__name__}")
        goes_on = tracker is not None and _version_path(run_dir, tracker).exists()
        if isinstance(logger, TensorBoardLogger) or (goes_on and isinstance(logger, MLFlowLogger)):
            continue  # the dashboard has its own table; what MLflow has of a run cannot change
        if isinstance(logger, MLFlowLogger):
            with locked(run_dir.parent):  # two jobs of a sweep must not make the database or the experiment at once
                _ = logger.run_id
        logger.log_hyperparams(dict(config))
        if tracker and not goes_on:
            (run_dir / "loggers").mkdir(exist_ok=True)
            write_atomically(_version_path(run_dir, tracker), str(logger.version))


def end(loggers: Sequence[Logger]) -> None:
    """End the runs of those libraries that have one run in a process, so that the next training begins its own."""
    for logger in loggers:
        if (finish := getattr(getattr(logger, "experiment", None), "finish", None)) is not None:
            finish()


def _version_path(run_dir: Path, tracker: Tracker) -> Path:
    return run_dir / "loggers" / f"{tracker.package}.txt"
