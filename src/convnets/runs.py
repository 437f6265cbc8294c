"""The run folder: its lock, its status, its result."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from convnets.configuration import differences

# What a run leaves in its folder beside the lock: if any of it is there, the folder is occupied.
STARTED_FILES = ("config.yaml", "status.json", "result.json", "metrics.csv", "checkpoints", "weights.safetensors")
FINISHED_FILES = ("config.yaml", "result.json", "metrics.csv", "weights.safetensors")


class RunFolderError(RuntimeError):
    """The folder cannot be used for this run; the text says what is in it and what to do."""


class Run:
    """A folder that describes one training: see the README for its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        try:
            return str(self.path.relative_to(Path.cwd()))
        except ValueError:
            return str(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The lock is the kernel's, so a dead holder holds nothing.

        Raises:
            RunFolderError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self.path / ".lock"
            file = lock.open("w")
        except OSError as error:
            raise RunFolderError(
                f"{self} cannot be written: {error.strerror}. Choose another with hydra.run.dir."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    raise BlockingIOError  # who held it has removed the folder since
            except (BlockingIOError, FileNotFoundError):
                raise RunFolderError(
                    f"{self} is in use by {self._holder()}: wait for it, or set run_name=NAME."
                ) from None
            try:
                yield
            finally:
                if [*self.path.iterdir()] == [self.path / ".lock"]:  # refused before it began
                    shutil.rmtree(self.path)

    def _holder(self) -> str:
        status = self.status()
        if not status:
            return "another process"
        return f"process {status['pid']} on {status['host']} since {status['started']}"

    def status(self) -> dict[str, Any]:
        """The content of status.json, empty where there is none."""
        return _read_json(self.path / "status.json")

    def result(self) -> dict[str, Any]:
        """The content of result.json, empty where the run has not finished."""
        return _read_json(self.path / "result.json")

    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run was started with."""
        try:
            config = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        except (yaml.YAMLError, ValueError):
            config = None
        if not isinstance(config, dict) or not config:
            raise RunFolderError(f"{self}/config.yaml is damaged. To train anew: rm -r {self}")
        return {str(key): value for key, value in config.items()}

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
        way_out = f"Set run_name=NAME for a new folder, or remove this one: rm -r {self}"
        if "config.yaml" not in present:
            raise RunFolderError(f"{self} holds {', '.join(present)}, but no config.yaml to say of what run. {way_out}")
        if differing := differences(self.config(), config):
            lines = [f"  {key}: {theirs} there, {ours} now" for key, (theirs, ours) in differing.items()]
            raise RunFolderError("\n".join([f"{self} holds a run of another configuration:", *lines, way_out]))
        result, status = self.result(), self.status()
        if result and not self.is_complete():
            missing = [name for name in FINISHED_FILES if name not in present]
            raise RunFolderError(f"{self} was finished, but lacks {', '.join(missing)}. {way_out}")
        if result or not {"metrics.csv", "checkpoints"} & {*present}:
            return result  # where not even an epoch was finished, nothing is lost by starting anew
        raise RunFolderError(
            f"{self} holds an unfinished run of this configuration (started {status.get('started', 'once')}, "
            f"{_state(status)} after epoch {status.get('epoch', 0)}; going on with it is not supported yet). {way_out}"
        )

    def start(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, and a status that says so."""
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        host = socket.gethostname()
        self._write_status({"state": "running", "pid": os.getpid(), "host": host, "started": now, "epoch": 0})

    def set_status(self, state: str, **values: Any) -> None:
        """Change status.json: running, done, failed or interrupted."""
        self._write_status({**self.status(), "state": state, **values})

    def _write_status(self, status: dict[str, Any]) -> None:
        status["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomically(self.path / "status.json", json.dumps(status, indent=2) + "\n")

    def save_weights(self, network: nn.Module) -> None:
        """Write weights.safetensors, which can be loaded without running any code."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        write_atomically(self.path / "weights.safetensors", safetensors.torch.save(weights))

    def finish(self, result: Mapping[str, Any], keep_checkpoints: bool) -> None:
        """Write result.json, then a status that says so, then remove the checkpoints; go on where that was cut off."""
        if not self.result():
            write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        if self.status().get("state") != "done":
            self.set_status("done")
        if not keep_checkpoints:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _state(status: Mapping[str, Any]) -> str:
    # Nobody holds the lock, so who was running has died; what is done has a result.
    states = {"running": "killed", "done": "its result.json removed"}
    return states.get(str(status.get("state")), str(status.get("state", "broken off")))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged. To train anew: rm -r {path.parent}")
    return content


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file whole: a reader or a crash meets the old content or the new one."""
    temporary = path.with_name(f".{path.name}.incoming")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
