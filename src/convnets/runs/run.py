"""The run folder: its lock, its status, its result, and what can be loaded from it."""

import functools
import json
import logging
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from convnets.atomic import write_atomically
from convnets.classifier import Classifier
from convnets.configuration.composition import check_targets, shipped_targets
from convnets.configuration.content import LATER_KEYS, differences, flatten
from convnets.configuration.shell import removal, script, shown, typed
from convnets.files import FINISHED_FILES, RunFolderError, locked, now, read_json
from convnets.runs.finding import find_run
from convnets.runs.sources import changed_sources, check_code, record_code
from convnets.training.building import build_classifier, build_datamodule

log = logging.getLogger(__name__)

# What a run leaves in its folder beside the lock: if any of it is there, the folder is occupied.
STARTED_FILES = ("config.yaml", "status.json", "result.json", "metrics.csv", "checkpoints", "weights.safetensors")
MISSING = object()


class Run:
    """A folder that describes one training: see the README for its files.

    Args:
        trust: names of classes that its configuration may call beside those in conf/.
    """

    def __init__(self, path: Path, trust: Sequence[str] = ()) -> None:
        self.path = path
        self.trust = trust

    def __str__(self) -> str:
        return shown(self.path)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder; see `convnets.files.locked`."""
        return locked(self.path)

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, empty where there is none."""
        return read_json(self.path / "status.json")

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json, empty where the run has not finished."""
        path = self.path / "result.json"
        result = read_json(path)
        if result and not (isinstance(result.get("metrics"), dict) and "validated_on" in result):
            raise RunFolderError(f"{path} is damaged. To train anew: {removal(self.path)}")
        return result

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics, such as `val/accuracy`; empty where the run has not finished."""
        return self.result.get("metrics", {})

    @property
    def config(self) -> DictConfig:
        """The resolved configuration that the run was started with, safe to build from.

        Raises:
            ConfigurationError: it calls for a class that is neither in conf/ nor trusted.
        """
        config = self._stored_config()
        check_targets(config, self.trust, f"{self}/config.yaml")
        complete = OmegaConf.create(config)
        for key, value in LATER_KEYS.items():  # but for networks', which have defaults of their own
            if not key.startswith("model.") and OmegaConf.select(complete, key, default=MISSING) is MISSING:
                OmegaConf.update(complete, key, value, force_add=True)
        return complete

    def _stored_config(self) -> dict[str, Any]:
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text())
        except FileNotFoundError:
            raise RunFolderError(f"{self} is no run's folder: it has no config.yaml.") from None
        except (yaml.YAMLError, ValueError):
            config = None
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key), dict) for key in ("model", "data", "trainer")
        ):
            raise RunFolderError(f"{self}/config.yaml is damaged. To train anew: {removal(self.path)}")
        return {str(key): value for key, value in config.items()}

    @functools.cached_property
    def datamodule(self) -> Any:
        """The run's images, read into memory."""
        datamodule = build_datamodule(self.config)
        datamodule.prepare_data()
        datamodule.setup()
        return datamodule

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The trained network, in evaluation mode, on the CPU.

        Raises:
            RunFolderError: the run has no weights yet, or they are not those of its network.
        """
        path = self.path / "weights.safetensors"
        if not path.exists():
            raise RunFolderError(f"{self} has no weights: {self.standing()}.")
        if changed := changed_sources(self.path, self._stored_config()):
            log.warning("%s was trained by other code than there is now: %s.", self, ", ".join(changed))
        with torch.random.fork_rng(devices=[]):  # building draws the weights that are replaced here
            classifier = build_classifier(self.config, build_datamodule(self.config))
        try:
            classifier.network.load_state_dict(safetensors.torch.load_file(path))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise RunFolderError(f"{path} does not hold the weights of {self}/config.yaml: {error}") from error
        return classifier.eval()

    def standing(self) -> str:
        """How far the run has come, in words, with the command that goes on."""
        status = self.status
        if self.result:
            return "it is finished"
        state = {"running": "running or killed", "done": "its result.json removed"}.get(
            status.get("state", ""), status.get("state", "not started")
        )
        reason = f" ({status['error'].splitlines()[0]})" if status.get("error") else ""
        return f"it is {state} after epoch {status.get('epoch', 0)}{reason}; to go on: {self.resume_command()}"

    def resume_command(self) -> str:
        """What goes on with the run."""
        known, trust = shipped_targets(), []
        with suppress(RunFolderError):  # of a folder that has vanished
            targets = [value for key, value in flatten(self._stored_config()).items() if key.endswith("._target_")]
            trust = [word for name in targets if name not in (*known, None) for word in ("--trust", str(name))]
        return script("resume", typed(self.path), *trust)

    def is_complete(self) -> bool:
        """Whether everything is there that a finished run leaves."""
        return all((self.path / name).exists() for name in FINISHED_FILES)

    def finished_result(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The result, if this configuration has finished here; empty where it can be started.

        Raises:
            RunFolderError: the folder holds something else.
        """
        present = [name for name in STARTED_FILES if (self.path / name).exists()]
        if not present:
            return {}
        way_out = f"Set run_name=NAME for a new folder, or remove this one: {removal(self.path)}"
        if "config.yaml" not in present:
            raise RunFolderError(f"{self} holds {', '.join(present)}, but no config.yaml to say of what run. {way_out}")
        if differing := differences(self._stored_config(), config):
            lines = [f"  {key}: {theirs} there, {ours} now" for key, (theirs, ours) in differing.items()]
            raise RunFolderError("\n".join([f"{self} holds a run of another configuration:", *lines, way_out]))
        result = self.result
        if result and not self.is_complete():
            missing = [name for name in FINISHED_FILES if name not in present]
            raise RunFolderError(f"{self} was finished, but lacks {', '.join(missing)}. {way_out}")
        if result or (self.path / "checkpoints").exists():
            check_code(self.path, config)
        return result

    def start(self, config: Mapping[str, Any], epoch: int | None = None) -> None:
        """Write config.yaml, and a status that says so.

        Args:
            epoch: how many were finished in the process before, where the run goes on.
        """
        before = self.status if epoch is not None else {}
        if epoch is None:  # what an attempt left that did not reach its first checkpoint
            for path in [self.path / "metrics.csv", *self.path.glob("events.out.tfevents.*")]:
                path.unlink(missing_ok=True)
        self.save_config({**config, "ignore_code_changes": False})  # which is for this once
        record_code(self.path, config, goes_on=epoch is not None)
        status = {"state": "running", "pid": os.getpid(), "host": socket.gethostname()}
        times = {"started": before.get("started", now()), "resumed": before.get("resumed", -1) + 1 if before else 0}
        self._write_status({**status, **times, "epoch": epoch or 0})

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))

    def set_status(self, state: str, **values: Any) -> None:
        """Change status.json: running, done, failed, interrupted or out_of_memory."""
        self._write_status({**self.status, "state": state, **values})

    def _write_status(self, status: dict[str, Any]) -> None:
        status["updated"] = now()
        write_atomically(self.path / "status.json", json.dumps(status, indent=2) + "\n")

    def save_weights(self, network: nn.Module) -> None:
        """Write weights.safetensors, which can be loaded without running any code."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        write_atomically(self.path / "weights.safetensors", safetensors.torch.save(weights))

    def finish(self, result: Mapping[str, Any], keep_checkpoints: bool) -> None:
        """Write result.json, then a status that says so, then remove the checkpoints; go on where that was cut off."""
        if not self.result:
            write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        if self.status.get("state") != "done":
            self.set_status("done", metrics=result["metrics"])  # of the weights that were chosen
        if not keep_checkpoints:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def load_run(run: str | Path, trust: Sequence[str] = ()) -> Run:
    """Find a run's folder, whose config, metrics, classifier and datamodule can then be used.

    Args:
        run: a folder, a folder's name in outputs/, "latest", or "best:SWEEP" (the highest validation accuracy).
        trust: names of classes that its configuration may call beside those in conf/.

    Raises:
        RunFolderError: there is no such run.
    """
    return Run(find_run(run), trust)
